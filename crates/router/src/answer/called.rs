//! A token that ends an answer, waited for only once something has to be.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

/// What waits for a token. Most answers come whole and wait for nothing.
#[derive(Default)]
pub(crate) struct Called(Option<Pin<Box<WaitForCancellationFutureOwned>>>);

impl Called {
    /// Ready once the token is cancelled, which is the same one each time.
    pub(crate) fn poll(&mut self, token: &CancellationToken, cx: &mut Context<'_>) -> Poll<()> {
        self.0.get_or_insert_with(|| Box::pin(token.clone().cancelled_owned())).as_mut().poll(cx)
    }
}
