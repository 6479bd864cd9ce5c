//! A token that ends an answer, waited for only once something has to be.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

/// A token, and what waits for it. Most answers come whole and wait for nothing.
pub(crate) struct Called {
    token: CancellationToken,
    waiting: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
}

impl Called {
    pub(crate) const fn new(token: CancellationToken) -> Self {
        Self { token, waiting: None }
    }

    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let token = &self.token;
        self.waiting.get_or_insert_with(|| Box::pin(token.clone().cancelled_owned())).as_mut().poll(cx)
    }
}
