//! Workers that nobody asks any more are stopped, so that their memory is free.

use std::{sync::Arc, time::Duration};

use tokio::time::sleep;

use crate::Placement;

/// How often is looked, at the most and at the least.
const OFTEN: Duration = Duration::from_millis(50);
const RARELY: Duration = Duration::from_secs(10);

impl Placement {
    /// Stops workers whose last request ended [`Settings::worker_idle`](crate::Settings::worker_idle) ago, from now until the
    /// queen stops.
    pub fn watch_idle(self: &Arc<Self>) {
        let bound = self.parts.settings.worker_idle;
        if bound.is_zero() {
            return;
        }
        let this = Arc::clone(self);
        self.tracker.spawn(async move {
            let rounds = async {
                loop {
                    sleep((bound / 8).clamp(OFTEN, RARELY)).await;
                    this.stop_idle(bound).await;
                }
            };
            tokio::select! {
                () = rounds => {}
                () = this.stopping.cancelled() => {}
            }
        });
    }

    async fn stop_idle(&self, bound: Duration) {
        let view = self.parts.registry.view();
        let unused = |worker: &&Arc<registry_ram::WorkerView>| {
            let idle = worker.idle().is_some_and(|idle| idle >= bound);
            idle && worker.record.state.is_ready() && worker.record.slots_busy == 0
        };
        for worker in view.workers().filter(unused) {
            let (hive_id, worker_id) = (&worker.hive_id, &worker.record.worker_id);
            tracing::info!(%hive_id, %worker_id, idle_s = bound.as_secs(), "nobody asks this worker: it is stopped");
            self.retire(worker).await;
        }
    }
}
