//! One model on its way to one store, as those who wait for it see it.

use fleet::Resolved;
use tokio::sync::watch;

use crate::ProvisionError;

/// Where a flight stands.
#[derive(Debug, Clone)]
pub enum Progress {
    /// The hive is being asked.
    Asking,
    /// Bytes arrive.
    Transferring {
        /// On disk so far.
        bytes: u64,
        /// When complete, once known.
        total: Option<u64>,
        /// Bytes per second.
        rate: u64,
    },
    /// All bytes are there and are being checked.
    Verifying,
    /// The model is in the store.
    Done(Resolved),
    /// It is not, and why.
    Failed(ProvisionError),
}

/// A flight to follow. Dropping it changes nothing for the flight or for others who follow it.
#[derive(Debug, Clone)]
pub struct Flight {
    pub(crate) progress: watch::Receiver<Progress>,
}

impl Flight {
    pub(crate) fn landed(resolved: Resolved) -> Self {
        Self { progress: watch::channel(Progress::Done(resolved)).1 }
    }

    /// Where it stands now.
    #[must_use]
    pub fn now(&self) -> Progress {
        self.progress.borrow().clone()
    }

    /// Waits until it stands elsewhere than when last looked at. False once it has ended.
    pub async fn moved(&mut self) -> bool {
        self.progress.changed().await.is_ok()
    }

    /// Waits for its end, telling each step on the way.
    ///
    /// # Errors
    /// Why the model did not arrive.
    pub async fn landed_or(mut self, mut on_step: impl FnMut(&Progress)) -> Result<Resolved, ProvisionError> {
        loop {
            let now = self.progress.borrow_and_update().clone();
            on_step(&now);
            match now {
                Progress::Done(resolved) => return Ok(resolved),
                Progress::Failed(error) => return Err(error),
                Progress::Asking | Progress::Transferring { .. } | Progress::Verifying => {
                    // The task that flies always reports its end before it lets go of the channel, however it ends.
                    if self.progress.changed().await.is_err() {
                        std::future::pending::<()>().await;
                    }
                }
            }
        }
    }
}
