//! Numbered slots that are used again in turn.

use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

/// Slots that become memory at once.
const CHUNK: usize = 256;

/// What was put last under numbers that grow by one. What is kept lies one behind the other, so that whoever writes it and, a
/// round later, drops it walks through memory in one direction, which is a multiple faster than to follow pointers to where
/// nobody has been for so long.
pub(crate) struct Slots<T> {
    chunks: Box<[OnceLock<Chunk<T>>]>,
    count: usize,
}

type Chunk<T> = Box<[Mutex<Option<T>>]>;

impl<T> Slots<T> {
    /// So many slots, at least one.
    pub(crate) fn new(count: usize) -> Self {
        let count = count.max(1);
        Self { chunks: (0..count.div_ceil(CHUNK)).map(|_| OnceLock::new()).collect(), count }
    }

    pub(crate) const fn count(&self) -> u64 {
        self.count as u64
    }

    /// The slot of the number n is n modulo their count, and holds what another number put there until it is replaced.
    pub(crate) fn of(&self, number: u64) -> MutexGuard<'_, Option<T>> {
        let at = usize::try_from(number % self.count()).unwrap_or_default();
        let chunk = self.chunks[at / CHUNK].get_or_init(|| (0..CHUNK).map(|_| Mutex::default()).collect());
        chunk[at % CHUNK].lock().unwrap_or_else(PoisonError::into_inner)
    }
}
