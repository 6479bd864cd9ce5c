//! When a queen was last heard of.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

/// Remembers the last authenticated call, and which ones are still open.
#[derive(Debug, Clone)]
pub(crate) struct Contact {
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    last: Instant,
    open: u32,
}

/// An open call. As long as it lives the queen is there.
#[derive(Debug)]
pub(crate) struct OpenCall(Contact);

impl Contact {
    pub(crate) fn new() -> Self {
        Self { state: Arc::new(Mutex::new(State { last: Instant::now(), open: 0 })) }
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut state);
        state.last = Instant::now();
    }

    /// A call came.
    pub(crate) fn heard(&self) {
        self.change(|_| {});
    }

    /// A call came that goes on.
    pub(crate) fn open(&self) -> OpenCall {
        self.change(|state| state.open += 1);
        OpenCall(self.clone())
    }

    fn silent_since(&self) -> Option<Instant> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        (state.open == 0).then_some(state.last)
    }

    /// Ends when nothing was heard for `lease`, and no call is open.
    pub(crate) async fn lost(&self, lease: Duration) {
        loop {
            let due = self.silent_since().map_or_else(|| Instant::now() + lease, |since| since + lease);
            if due <= Instant::now() {
                return;
            }
            tokio::time::sleep_until(due).await;
        }
    }
}

impl Drop for OpenCall {
    fn drop(&mut self) {
        self.0.change(|state| state.open -= 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEASE: Duration = Duration::from_secs(600);

    #[tokio::test(start_paused = true)]
    async fn the_lease_runs_from_the_end_of_the_last_call() {
        let contact = Contact::new();
        let begun = Instant::now();
        let watch = contact.open();
        tokio::join!(contact.lost(LEASE), async {
            tokio::time::sleep(LEASE * 5).await;
            drop(watch);
        });
        assert_eq!(begun.elapsed().as_secs(), (LEASE * 6).as_secs());
    }

    #[tokio::test(start_paused = true)]
    async fn every_call_renews_the_lease() {
        let contact = Contact::new();
        let begun = Instant::now();
        tokio::join!(contact.lost(LEASE), async {
            for _ in 0..10 {
                tokio::time::sleep(LEASE / 2).await;
                contact.heard();
            }
        });
        assert_eq!(begun.elapsed().as_secs(), (LEASE * 6).as_secs());
    }
}
