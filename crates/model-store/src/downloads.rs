//! All transfers: one for each resolved model, whoever asks.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use fleet::{Digest, DownloadId, DownloadState, ModelRef, Resolved};
use tokio::sync::{Semaphore, watch};

use crate::{
    StoreError,
    flight::{Download, Flight},
};

/// Transfers at once; further ones are queued. One usually fills the line already.
const AT_ONCE: usize = 2;

/// How many transfers that are over can still be asked for.
const OVER_KEPT: usize = 100;

pub(crate) struct Downloads {
    table: Mutex<Table>,
    pub(crate) places: Semaphore,
    listener: Arc<dyn Fn(&Download) + Send + Sync>,
}

#[derive(Default)]
struct Table {
    flights: BTreeMap<DownloadId, Arc<Flight>>,
    under_way: BTreeMap<Resolved, DownloadId>,
    over: Vec<DownloadId>,
}

/// What asking for a transfer gave.
pub(crate) enum Asked {
    /// There is one already.
    Found(Box<Download>),
    /// This one has to be flown.
    New(Arc<Flight>),
}

impl Downloads {
    pub(crate) fn new(listener: Arc<dyn Fn(&Download) + Send + Sync>) -> Self {
        Self { table: Mutex::default(), places: Semaphore::new(AT_ONCE), listener }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        // Changed by single inserts and removals, so it is whole even if a holder panicked.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The transfer of a resolved model that is under way, or a new one.
    pub(crate) fn ask(
        &self,
        model_ref: ModelRef,
        resolved: &Resolved,
        total: Option<u64>,
    ) -> Result<Asked, StoreError> {
        let mut table = self.table();
        let found = table.under_way.get(resolved).and_then(|id| table.flights.get(id));
        if let Some(flight) = found {
            return Ok(Asked::Found(Box::new(flight.view())));
        }
        let first = Download {
            id: new_id()?,
            model_ref,
            resolved: resolved.clone(),
            bytes: 0,
            total,
            rate: 0,
            awaits: None,
            state: DownloadState::Queued,
        };
        let id = first.id.clone();
        let flight = Flight::new(first, Arc::clone(&self.listener));
        table.flights.insert(id.clone(), Arc::clone(&flight));
        table.under_way.insert(resolved.clone(), id);
        Ok(Asked::New(flight))
    }

    /// Records a model that was there already as a transfer that is through.
    pub(crate) fn found(
        &self,
        model_ref: ModelRef,
        resolved: &Resolved,
        bytes: u64,
    ) -> Result<Download, StoreError> {
        match self.ask(model_ref, resolved, Some(bytes))? {
            Asked::Found(download) => Ok(*download),
            Asked::New(flight) => {
                flight.pass(bytes);
                self.end(&flight, DownloadState::Complete);
                Ok(flight.view())
            }
        }
    }

    /// Ends a transfer. It is no longer found by its model, so that a failed one can be asked for again.
    pub(crate) fn end(&self, flight: &Flight, state: DownloadState) {
        let Download { id, resolved, .. } = flight.view();
        {
            let mut table = self.table();
            table.under_way.remove(&resolved);
            table.over.push(id);
            if table.over.len() > OVER_KEPT {
                let oldest = table.over.remove(0);
                table.flights.remove(&oldest);
            }
        }
        flight.go(state);
    }

    pub(crate) fn follow(&self, id: &DownloadId) -> Option<watch::Receiver<Download>> {
        self.table().flights.get(id).map(|flight| flight.follow())
    }

    pub(crate) fn is_under_way(&self, resolved: &Resolved) -> bool {
        self.table().under_way.contains_key(resolved)
    }

    /// The transfer that waits for this file.
    pub(crate) fn awaiting(&self, digest: &Digest) -> Option<Arc<Flight>> {
        let table = self.table();
        let awaits = |flight: &&Arc<Flight>| {
            flight.awaited.borrow().as_ref().is_some_and(|awaited| awaited.digest == *digest)
        };
        table.under_way.values().filter_map(|id| table.flights.get(id)).find(awaits).cloned()
    }
}

fn new_id() -> Result<DownloadId, StoreError> {
    let failed = |error: String| StoreError::io("name", "a download")(std::io::Error::other(error));
    let number = getrandom::u32().map_err(|error| failed(error.to_string()))?;
    format!("d-{number:08x}").parse().map_err(|error: fleet::IdError| failed(error.to_string()))
}
