//! Following the ring.

use std::{fmt, pin::pin, sync::Arc};

use fleet::Event;
use futures_util::{Stream, stream};

use crate::ring::{Found, Ring};

/// A reader fell behind: events were forgotten before it asked for them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{missed} events were forgotten before they were read")]
pub struct Lagged {
    /// How many are missing between the event before and the one after.
    pub missed: u64,
}

/// One reader's place in the journal. Dropping it is all there is to unsubscribing.
pub struct Subscription {
    ring: Arc<Ring>,
    next: u64,
}

impl Subscription {
    pub(crate) fn new(ring: Arc<Ring>, next: u64) -> Self {
        Self { ring, next }
    }

    /// The next event, as soon as there is one. Cancel-safe: an event is passed over only by being returned.
    ///
    /// # Errors
    /// [`Lagged`] once for each gap; the call after it goes on with the oldest event that is left.
    pub async fn next(&mut self) -> Result<Arc<Event>, Lagged> {
        loop {
            let ring = Arc::clone(&self.ring);
            let mut recorded = pin!(ring.recorded.notified());
            // From here on an event wakes this call, so that none can come between looking and waiting.
            recorded.as_mut().enable();
            match self.ring.find(self.next) {
                Found::Event(event) => {
                    self.next += 1;
                    return Ok(event);
                }
                Found::Gone(oldest) => {
                    let missed = oldest - self.next;
                    self.next = oldest;
                    return Err(Lagged { missed });
                }
                Found::NotYet => recorded.await,
            }
        }
    }

    /// The same as a stream that never ends.
    pub fn into_stream(self) -> impl Stream<Item = Result<Arc<Event>, Lagged>> + Send + 'static {
        stream::unfold(self, |mut this| async move { Some((this.next().await, this)) })
    }
}

impl fmt::Debug for Subscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subscription").field("next", &self.next).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use fleet::EventKind;
    use futures_util::{FutureExt, StreamExt};

    use super::*;
    use crate::Journal;

    fn record(journal: &Journal, count: u64) {
        for _ in 0..count {
            journal.record(EventKind::QueenStopping);
        }
    }

    #[tokio::test]
    async fn a_reader_starts_where_it_asked_to() {
        let journal = Journal::new(10);
        record(&journal, 5);
        let mut all = journal.subscribe(Some(0));
        let mut rest = journal.subscribe(Some(3));
        let mut new = journal.subscribe(None);
        let mut of_an_earlier_run = journal.subscribe(Some(900));
        assert!(new.next().now_or_never().is_none(), "nothing has happened since");
        record(&journal, 1);
        for (subscription, first) in
            [(&mut all, 1), (&mut rest, 4), (&mut new, 6), (&mut of_an_earlier_run, 1)]
        {
            assert_eq!(subscription.next().await.map(|event| event.seq), Ok(first));
        }
    }

    #[tokio::test]
    async fn a_reader_that_fell_behind_is_told_once_and_goes_on() {
        let journal = Journal::new(4);
        let mut reader = journal.subscribe(None);
        record(&journal, 10);
        assert_eq!(reader.next().await, Err(Lagged { missed: 6 }));
        let mut seen = Vec::new();
        while let Some(event) = reader.next().now_or_never() {
            seen.push(event.expect("no further gap").seq);
        }
        assert_eq!(seen, [7, 8, 9, 10]);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_waiting_reader_sees_every_event_of_many_writers_in_order() {
        let journal = Journal::new(100_000);
        let reader = journal.subscribe(None);
        let writers: Vec<_> = (0..4)
            .map(|_| {
                let journal = journal.clone();
                std::thread::spawn(move || record(&journal, 5_000))
            })
            .collect();
        let read =
            reader.into_stream().take(20_000).map(|event| event.expect("no gap").seq).collect::<Vec<_>>();
        let seen = tokio::time::timeout(Duration::from_secs(60), read).await.expect("no wake-up was lost");
        assert!(seen.into_iter().eq(1..=20_000));
        for writer in writers {
            writer.join().expect("it wrote");
        }
    }

    #[tokio::test]
    async fn a_reader_that_is_left_standing_does_not_hold_writers_up() {
        let journal = Journal::new(8);
        let mut reader = journal.subscribe(None);
        record(&journal, 1_000_000);
        assert_eq!(reader.next().await, Err(Lagged { missed: 999_992 }));
    }
}
