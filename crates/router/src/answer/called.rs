//! Noticing with each piece of an answer whether it is over, without queueing up for the news each time.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll, Waker},
};

use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

/// A token that is asked again and again by the same task.
pub(crate) struct Called {
    token: CancellationToken,
    /// Once something had to be waited for: what wakes the task, and whom it wakes.
    waiting: Option<(Pin<Box<WaitForCancellationFutureOwned>>, Waker)>,
}

impl Called {
    pub(crate) const fn new(token: CancellationToken) -> Self {
        Self { token, waiting: None }
    }

    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match &mut self.waiting {
            Some((_, waker)) if waker.will_wake(cx.waker()) => {
                if self.token.is_cancelled() {
                    Poll::Ready(())
                } else {
                    Poll::Pending
                }
            }
            Some((waiting, waker)) => {
                waker.clone_from(cx.waker());
                waiting.as_mut().poll(cx)
            }
            None => {
                let waiting = Box::pin(self.token.clone().cancelled_owned());
                let (waiting, _) = self.waiting.insert((waiting, cx.waker().clone()));
                waiting.as_mut().poll(cx)
            }
        }
    }
}
