//! The order to stop, and how much time it leaves.

use std::time::Duration;

use tokio::{sync::watch, time::Instant};

/// When the hive has to be over. An order is only ever brought forward.
#[derive(Debug, Clone)]
pub(crate) struct Stopping {
    deadline: watch::Sender<Option<Instant>>,
}

impl Stopping {
    pub(crate) fn new() -> Self {
        Self { deadline: watch::Sender::new(None) }
    }

    /// Running requests may take `grace` from now on.
    pub(crate) fn order(&self, grace: Duration) {
        let wanted = Instant::now() + grace;
        self.deadline.send_if_modified(|deadline| {
            let is_sooner = deadline.is_none_or(|known| wanted < known);
            if is_sooner {
                *deadline = Some(wanted);
            }
            is_sooner
        });
    }

    pub(crate) fn is_ordered(&self) -> bool {
        self.deadline.borrow().is_some()
    }

    /// Follows the orders, from the first one on.
    pub(crate) fn orders(&self) -> watch::Receiver<Option<Instant>> {
        self.deadline.subscribe()
    }
}
