//! Requests that wait for a slot, in the order they came.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
};

use fleet::ModelRef;
use tokio::sync::{Mutex as Turn, OwnedMutexGuard};

/// The queue of one model. Its lock is fair, so whoever waits longest for the turn gets it.
#[derive(Debug, Default)]
struct Queue {
    waiting: AtomicU32,
    turn: Arc<Turn<()>>,
}

/// The queues of all models that have one.
#[derive(Debug, Default)]
pub(crate) struct Queues {
    by_model: Mutex<HashMap<ModelRef, Arc<Queue>>>,
}

/// A place in a queue; dropping it is leaving.
#[derive(Debug)]
pub(crate) struct Place {
    queue: Arc<Queue>,
    /// How many came before and wait too.
    pub(crate) ahead: u32,
}

impl Queues {
    /// Whether nobody waits, so that a newcomer overtakes no one.
    pub(crate) fn is_empty(&self, model: &ModelRef) -> bool {
        let queues = self.by_model.lock().unwrap_or_else(PoisonError::into_inner);
        queues.get(model).is_none_or(|queue| queue.waiting.load(Ordering::Relaxed) == 0)
    }

    /// Takes a place, unless `bound` wait already; then how many do.
    pub(crate) fn enter(&self, model: &ModelRef, bound: u32) -> Result<Place, u32> {
        let mut queues = self.by_model.lock().unwrap_or_else(PoisonError::into_inner);
        // A queue that nobody holds is empty; dropping those keeps the map as small as the set of busy models.
        queues.retain(|_, queue| Arc::strong_count(queue) > 1);
        let queue = Arc::clone(queues.entry(model.clone()).or_default());
        let ahead = queue.waiting.load(Ordering::Relaxed);
        if ahead >= bound {
            return Err(ahead);
        }
        queue.waiting.fetch_add(1, Ordering::Relaxed);
        Ok(Place { queue, ahead })
    }
}

impl Place {
    /// The turn, if nobody has it or waits for it.
    pub(crate) fn try_turn(&self) -> Option<OwnedMutexGuard<()>> {
        Arc::clone(&self.queue.turn).try_lock_owned().ok()
    }

    /// Waits until all who came before have a slot or left. Whoever holds the turn is the only one who looks for a slot.
    pub(crate) async fn turn(&self) -> OwnedMutexGuard<()> {
        Arc::clone(&self.queue.turn).lock_owned().await
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.queue.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn places_are_bounded_and_given_back() {
        let queues = Queues::default();
        let model: ModelRef = "a/b".parse().unwrap();
        let first = queues.enter(&model, 2).unwrap();
        let second = queues.enter(&model, 2).unwrap();
        assert_eq!((first.ahead, second.ahead), (0, 1));
        assert_eq!(queues.enter(&model, 2).unwrap_err(), 2);
        let turn = first.turn().await;
        drop(first);
        assert!(!queues.is_empty(&model));
        drop((turn, second));
        assert!(queues.is_empty(&model));
    }
}
