//! One transfer as others see it: its record, and the place where relayed bytes come in.

use std::{
    collections::VecDeque,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use fleet::{Digest, DownloadId, DownloadState, ModelRef, Resolved};
use tokio::{sync::watch, time::Instant};

/// How often progress is told.
const TELL: Duration = Duration::from_millis(250);

/// Over how many tellings the rate is taken.
const RATE_OVER: usize = 16;

/// One transfer of a model into the store.
#[derive(Debug, Clone, PartialEq)]
pub struct Download {
    /// Its name.
    pub id: DownloadId,
    /// The reference it was asked for by.
    pub model_ref: ModelRef,
    /// What that stands for.
    pub resolved: Resolved,
    /// Bytes on disk so far.
    pub bytes: u64,
    /// Bytes when complete, once known.
    pub total: Option<u64>,
    /// Bytes per second over the last few seconds.
    pub rate: u64,
    /// The file that the queen is waited for.
    pub awaits: Option<Digest>,
    /// Where it stands.
    pub state: DownloadState,
}

/// A file that waits for bytes from the queen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Awaited {
    pub(crate) digest: Digest,
    pub(crate) part: PathBuf,
    pub(crate) have: u64,
    pub(crate) total: Option<u64>,
    /// Somebody writes it now; there is never a second one.
    pub(crate) writing: bool,
}

type Listener = Arc<dyn Fn(&Download) + Send + Sync>;

pub(crate) struct Flight {
    view: watch::Sender<Download>,
    listener: Listener,
    /// Bytes of files that are through, and of the one under way.
    through: AtomicU64,
    current: AtomicU64,
    pub(crate) awaited: watch::Sender<Option<Awaited>>,
}

impl Flight {
    pub(crate) fn new(first: Download, listener: Listener) -> Arc<Self> {
        listener(&first);
        Arc::new(Self {
            view: watch::Sender::new(first),
            listener,
            through: AtomicU64::new(0),
            current: AtomicU64::new(0),
            awaited: watch::Sender::new(None),
        })
    }

    pub(crate) fn view(&self) -> Download {
        self.view.borrow().clone()
    }

    pub(crate) fn follow(&self) -> watch::Receiver<Download> {
        self.view.subscribe()
    }

    /// The listener first: whoever follows the record finds it told already.
    fn put(&self, next: Download) {
        if *self.view.borrow() != next {
            (self.listener)(&next);
            self.view.send_replace(next);
        }
    }

    pub(crate) fn go(&self, state: DownloadState) {
        let bytes = self.bytes();
        let is_whole = matches!(state, DownloadState::Complete);
        let mut next = Download { bytes, state, ..self.view() };
        if next.state.is_final() {
            next.rate = 0;
        }
        if is_whole {
            next.total = Some(bytes);
        }
        self.put(next);
    }

    /// Tells which file the queen is waited for.
    pub(crate) fn set_awaits(&self, awaits: Option<Digest>) {
        self.put(Download { awaits, ..self.view() });
    }

    pub(crate) fn set_total(&self, total: u64) {
        self.put(Download { total: Some(total), ..self.view() });
    }

    pub(crate) fn set_current(&self, bytes: u64) {
        self.current.store(bytes, Ordering::Relaxed);
    }

    /// The file under way is through.
    pub(crate) fn pass(&self, bytes: u64) {
        self.through.fetch_add(bytes, Ordering::Relaxed);
        self.set_current(0);
    }

    fn bytes(&self) -> u64 {
        self.through.load(Ordering::Relaxed) + self.current.load(Ordering::Relaxed)
    }

    /// Tells progress. Never ends.
    pub(crate) async fn tell(&self) {
        let mut past: VecDeque<(Instant, u64)> = VecDeque::new();
        loop {
            let (now, bytes) = (Instant::now(), self.bytes());
            past.push_back((now, bytes));
            if past.len() > RATE_OVER {
                past.pop_front();
            }
            let rate =
                past.front().map_or(0, |&(then, before)| rate(bytes.saturating_sub(before), now - then));
            self.put(Download { bytes, rate, ..self.view() });
            tokio::time::sleep(TELL).await;
        }
    }
}

fn rate(bytes: u64, over: Duration) -> u64 {
    let millis = u64::try_from(over.as_millis()).unwrap_or(u64::MAX);
    bytes.saturating_mul(1000).checked_div(millis).unwrap_or(0)
}
