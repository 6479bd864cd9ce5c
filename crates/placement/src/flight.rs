//! A cold start as those who wait for it see it.

use tokio::sync::watch;
use tokio_util::sync::DropGuard;

use crate::PlacementError;

/// Where a cold start stands.
#[derive(Debug, Clone)]
pub enum Stage {
    /// A hive is being chosen.
    Choosing,
    /// The model is on its way to the hive; the part done, 0 to 1, once known.
    Downloading(Option<f32>),
    /// The model's files are being checked.
    Verifying,
    /// The hive was told to start the worker.
    Starting,
    /// The engine reads the model; the part done, 0 to 1, where it tells.
    Loading(Option<f32>),
    /// The worker takes requests.
    Ready,
    /// There is none, and why.
    Failed(PlacementError),
}

/// A place in a flight. Dropping it is leaving; the flight goes on for the others.
#[derive(Debug)]
pub struct Waiter {
    pub(crate) stage: watch::Receiver<Stage>,
    /// Only where `leader-cancel-kills-flight` is planted.
    pub(crate) _leader: Option<DropGuard>,
}

impl Waiter {
    pub(crate) const fn of(stage: watch::Receiver<Stage>) -> Self {
        Self { stage, _leader: None }
    }

    /// Where it stands now. What is seen here is not told by [`Waiter::moved`] again.
    pub fn now(&mut self) -> Stage {
        self.stage.borrow_and_update().clone()
    }

    /// Waits until it stands elsewhere. A flight that ended does not move any more.
    pub async fn moved(&mut self) {
        if self.stage.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}
