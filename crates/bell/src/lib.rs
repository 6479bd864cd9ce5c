//! A waker that remembers that it was called, so that nothing is asked in vain.
//!
//! A task that waits for several things is woken by any of them and asks all. Where one thing has news all the time, such as the
//! pieces of a stream, and the others hardly ever, such as the end of the program, asking those costs more than the news. So
//! they are handed a [`Bell`]'s waker, and asked once it rang.
//!
//! It carries nothing and waits for nothing: what happened is learnt by asking, and whose waker rang is not told apart. For one
//! task at a time.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Wake, Waker},
};

use futures_util::task::AtomicWaker;

/// Wakes a task, and remembers that it did until it is asked.
#[derive(Debug)]
pub struct Bell {
    rope: Arc<Rope>,
    waker: Waker,
}

#[derive(Debug)]
struct Rope {
    rang: AtomicBool,
    task: AtomicWaker,
}

impl Default for Bell {
    /// Has rung: nothing was asked yet.
    fn default() -> Self {
        let rope = Arc::new(Rope { rang: AtomicBool::new(true), task: AtomicWaker::new() });
        Self { waker: Waker::from(Arc::clone(&rope)), rope }
    }
}

impl Bell {
    /// Whether it rang since it was asked last. From here on it wakes the task of `cx`. Whatever has the waker must be asked
    /// after this, until it has nothing more to say: news that come meanwhile ring again.
    #[must_use]
    pub fn rang(&self, cx: &Context<'_>) -> bool {
        self.rope.task.register(cx.waker());
        self.rope.rang.swap(false, Ordering::AcqRel)
    }

    /// For whoever is waited for.
    #[must_use]
    pub const fn waker(&self) -> &Waker {
        &self.waker
    }
}

impl Wake for Rope {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.rang.store(true, Ordering::Release);
        self.task.wake();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_wakes_whoever_asked_last_and_says_once_that_it_rang() {
        let (first, second) = (Arc::new(Count::default()), Arc::new(Count::default()));
        let bell = Bell::default();
        let ask = |count: &Arc<Count>| bell.rang(&Context::from_waker(&Waker::from(Arc::clone(count))));
        assert_eq!([ask(&first), ask(&first), ask(&second)], [true, false, false]);
        bell.waker().wake_by_ref();
        assert_eq!([&first, &second].map(|count| count.0.load(Ordering::Acquire)), [false, true]);
        assert_eq!([ask(&first), ask(&first)], [true, false]);
    }

    #[derive(Default)]
    struct Count(AtomicBool);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.store(true, Ordering::Release);
        }
    }
}
