//! What is there, and who waits for what is not.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use fleet::{Digest, EngineName, EngineUrl};
use tokio::sync::watch;
use tokio_util::task::TaskTracker;

use crate::{EngineError, fetch::Flight};

/// How long things may take, and how often they are tried.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// To open a connection.
    pub connect: Duration,
    /// Until the server answers, and between two pieces of what it sends.
    pub stall: Duration,
    /// How often a transfer that was cut goes on where it ended.
    pub resumes: u32,
    /// Pause before the first of these; each one after it is twice as long.
    pub pause: Duration,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(10),
            stall: Duration::from_secs(30),
            resumes: 5,
            pause: Duration::from_millis(500),
        }
    }
}

/// How far a transfer is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Progress {
    /// Bytes that are there.
    pub bytes: u64,
    /// Bytes of all of it, as soon as the server said so.
    pub total: Option<u64>,
}

#[derive(Debug, Clone)]
enum State {
    Moving(Progress),
    Ended(Result<PathBuf, Arc<EngineError>>),
}

/// Engines that were fetched. Cheap to clone.
#[derive(Debug, Clone)]
pub struct EngineStore {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    dir: PathBuf,
    bounds: Bounds,
    http: reqwest::Client,
    flights: Mutex<BTreeMap<Digest, watch::Receiver<State>>>,
    tracker: TaskTracker,
}

impl EngineStore {
    /// A store in this directory, which is made when something comes into it. Connects to nothing yet.
    ///
    /// # Errors
    /// When no HTTP client can be set up.
    pub fn new(dir: PathBuf, bounds: Bounds) -> Result<Self, reqwest::Error> {
        let http = http_client::builder(http_client::Trust::Public)
            .connect_timeout(bounds.connect)
            .user_agent(concat!("queen-rbee/", env!("CARGO_PKG_VERSION")))
            .build()?;
        let (flights, tracker) = (Mutex::default(), TaskTracker::new());
        Ok(Self { inner: Arc::new(Inner { dir, bounds, http, flights, tracker }) })
    }

    /// The directory with the engine's program, fetched unless it is there. Whoever asks for the same digest at the same time
    /// waits for the same transfer, and each is told how far it is.
    ///
    /// # Errors
    /// When it cannot be had; what came is kept, so that the next try goes on there.
    pub async fn get(
        &self,
        url: &EngineUrl,
        sha256: Digest,
        program: &EngineName,
        tell: impl Fn(Progress),
    ) -> Result<PathBuf, Arc<EngineError>> {
        let mut flight = self.flight(url, sha256, program);
        loop {
            let state = flight.borrow_and_update().clone();
            match state {
                State::Moving(progress) => tell(progress),
                State::Ended(Err(error)) => return Err(error),
                // Another entry may have called the same file by another name.
                State::Ended(Ok(folder)) if !folder.join(program.as_str()).is_file() => {
                    let (url, program) = (url.clone(), program.clone());
                    return Err(Arc::new(EngineError::NoProgram { url, program }));
                }
                State::Ended(Ok(folder)) => return Ok(folder),
            }
            if flight.changed().await.is_err() {
                return Err(Arc::new(EngineError::Lost { url: url.clone() }));
            }
        }
    }

    fn flight(&self, url: &EngineUrl, sha256: Digest, program: &EngineName) -> watch::Receiver<State> {
        let inner = &self.inner;
        let mut flights = inner.flights.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(flight) = flights.get(&sha256)
            && flight.has_changed().is_ok()
            && matches!(*flight.borrow(), State::Moving(_))
        {
            return flight.clone();
        }
        let (state, receiver) = watch::channel(State::Moving(Progress::default()));
        flights.insert(sha256, receiver.clone());
        let (dir, http, bounds) = (inner.dir.clone(), inner.http.clone(), inner.bounds);
        let flight = Flight { dir, http, bounds, url: url.clone(), sha256, program: program.clone() };
        inner.tracker.spawn(async move {
            let ended = flight.run(|progress| drop(state.send_replace(State::Moving(progress)))).await;
            state.send_replace(State::Ended(ended.map_err(Arc::new)));
        });
        receiver
    }
}
