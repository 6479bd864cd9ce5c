//! What workers were seen to hold, kept so that the next estimate is not below it.

use std::{collections::HashMap, sync::Arc, time::Duration};

use fleet::{LaunchId, ModelRef, Observation, Resolved, WorkerId};
use model_memory::Need;
use registry_ram::{FleetView, WorkerView};

use crate::{Placement, flights::Started};

/// A peak is written again once it grew by this part.
const GROWN: u64 = 64;

/// What is known of the workers that were started here.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    workers: HashMap<(LaunchId, WorkerId), Figures>,
}

#[derive(Debug, Clone, Copy)]
struct Figures {
    load: Duration,
    /// The largest memory that was written.
    written: u64,
}

impl Seen {
    /// A worker became ready so long after it was ordered.
    pub(crate) fn loaded(&mut self, worker: &Started, load: Duration) {
        let key = (worker.launch_id.clone(), worker.worker_id.clone());
        self.workers.insert(key, Figures { load, written: 0 });
    }

    /// The workers that hold notably more than what was written of them; from now on that counts as written.
    fn grown(&mut self, view: &FleetView) -> Vec<(Arc<WorkerView>, Duration)> {
        let mut alive = HashMap::new();
        let mut grown = Vec::new();
        for worker in view.workers().filter(|worker| worker.record.state.is_ready()) {
            let key = (worker.record.launch_id.clone(), worker.record.worker_id.clone());
            let Some(mut figures) = self.workers.remove(&key) else { continue };
            if worker.record.memory_bytes > figures.written.saturating_add(figures.written / GROWN) {
                figures.written = worker.record.memory_bytes;
                grown.push((Arc::clone(worker), figures.load));
            }
            alive.insert(key, figures);
        }
        self.workers = alive;
        grown
    }
}

impl Placement {
    /// Writes down what workers hold now, where that is more than before.
    pub(crate) fn note_peaks(self: &Arc<Self>, view: &FleetView) {
        for (worker, load) in self.flights().seen.grown(view) {
            let record = &worker.record;
            let observation = Observation {
                resolved: record.resolved.clone(),
                hive_id: worker.hive_id.clone(),
                engine: record.engine.clone(),
                device: record.device,
                context: record.context,
                slots: record.slots,
                peak_memory: record.memory_bytes,
                load_s: load.as_secs_f64(),
                prefill_tok_s: None,
                decode_tok_s: None,
            };
            let this = Arc::clone(self);
            self.tracker.spawn(async move {
                if let Err(error) = this.parts.observations.record(observation).await {
                    tracing::warn!(%error, "a worker's memory could not be written down");
                }
            });
        }
    }

    /// The estimate, raised to what a worker of the same model, context and slots was seen to hold.
    pub(crate) async fn corrected(&self, model: &ModelRef, resolved: &Resolved, need: Need) -> Need {
        let seen = match self.parts.observations.of_model(resolved).await {
            Ok(seen) => seen,
            Err(error) => {
                tracing::debug!(%model, %error, "what was observed of it cannot be read");
                return need;
            }
        };
        let same = seen.iter().filter(|o| (o.context, o.slots) == (need.context, need.slots));
        same.map(|o| o.peak_memory).max().map_or(need, |peak| need.corrected(peak))
    }
}
