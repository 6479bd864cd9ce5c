//! Giving up a client that sends no head.
//!
//! hyper would do it, with a timer that it makes and unmakes for each request. Here a connection has one timer, which is set anew
//! when it fires.

use std::{
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
};

use http_body::{Body, Frame, SizeHint};
use tokio::time::Instant;

/// Since when the next head of a connection is awaited; none while a request is under way.
#[derive(Debug, Clone)]
pub(crate) struct Awaited(Arc<Mutex<Option<Instant>>>);

impl Awaited {
    /// From now on.
    pub(crate) fn new() -> Self {
        Self(Arc::new(Mutex::new(Some(Instant::now()))))
    }

    fn set(&self, since: Option<Instant>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = since;
    }

    /// Since when.
    pub(crate) fn since(&self) -> Option<Instant> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A head came. The next one is awaited once what is returned was dropped.
    pub(crate) fn came(&self) -> UnderWay {
        self.set(None);
        UnderWay(self.clone())
    }
}

/// A request that was not answered to the end.
#[derive(Debug)]
pub(crate) struct UnderWay(Awaited);

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.set(Some(Instant::now()));
    }
}

/// The body of an answer, and what is dropped with it.
#[derive(Debug)]
pub(crate) struct Answered<B> {
    pub(crate) body: B,
    #[expect(dead_code, reason = "a guard: what matters is when it is dropped")]
    pub(crate) under_way: UnderWay,
}

impl<B: Body + Unpin> Body for Answered<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
