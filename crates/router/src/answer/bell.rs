//! Looking again only where something happened.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Wake, Waker},
};

use futures_util::task::AtomicWaker;

/// A waker that remembers that it was called. A server asks an answer for its next piece more often than there is news of it;
/// whoever hands this waker to what it waits for knows without asking there that nothing has changed.
#[derive(Debug)]
pub(super) struct Bell {
    rope: Arc<Rope>,
    waker: Waker,
}

#[derive(Debug)]
struct Rope {
    rang: AtomicBool,
    task: AtomicWaker,
}

impl Bell {
    /// Rings at once: nothing was looked at yet.
    pub(super) fn new() -> Self {
        let rope = Arc::new(Rope { rang: AtomicBool::new(true), task: AtomicWaker::new() });
        Self { waker: Waker::from(Arc::clone(&rope)), rope }
    }

    /// Whether it rang since it was asked last. From here on it wakes the task of `cx`.
    pub(super) fn rang(&self, cx: &Context<'_>) -> bool {
        self.rope.task.register(cx.waker());
        self.rope.rang.swap(false, Ordering::AcqRel)
    }

    /// What is to be called.
    pub(super) const fn waker(&self) -> &Waker {
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
        let bell = Bell::new();
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
