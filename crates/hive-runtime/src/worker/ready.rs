//! When an engine takes requests.

use std::time::Duration;

use serde::Deserialize;
use tokio::time::Instant;

use super::{JournalEntry, Loopback};

/// At first the engine is asked this often: a small model loads within milliseconds, and what a person waits for is
/// loading time plus this.
const EAGER: Duration = Duration::from_millis(15);

/// How long that lasts.
const EAGER_FOR: Duration = Duration::from_secs(5);

/// And this often later.
const PATIENT: Duration = Duration::from_millis(50);

/// Longest wait for one answer: an engine that loads in its server's thread answers late.
const BOUND: Duration = Duration::from_secs(2);

/// How often a loading process is looked at for signs of progress.
const LOOK: Duration = Duration::from_secs(1);

/// Ends when the engine has answered its health path with 200 and, where it was told the model's name, lists it: on a
/// port that something else took in between, another model would answer.
pub(crate) async fn until_ready(http: &Loopback, entry: &JournalEntry) {
    let begun = Instant::now();
    loop {
        if is_ready(http, entry).await {
            return;
        }
        tokio::time::sleep(if begun.elapsed() < EAGER_FOR { EAGER } else { PATIENT }).await;
    }
}

async fn is_ready(http: &Loopback, entry: &JournalEntry) -> bool {
    let healthy = http.get(entry.port, &entry.health, BOUND).await;
    if !healthy.is_ok_and(|(status, _)| status.is_success()) {
        return false;
    }
    !entry.told_the_name || serves(http, entry).await
}

async fn serves(http: &Loopback, entry: &JournalEntry) -> bool {
    #[derive(Deserialize)]
    struct Models {
        data: Vec<Model>,
    }
    #[derive(Deserialize)]
    struct Model {
        id: String,
    }
    let Ok((status, body)) = http.get(entry.port, "/v1/models", BOUND).await else { return false };
    if !status.is_success() {
        // Not every engine lists its models.
        return true;
    }
    let wanted = entry.model_ref.to_string();
    let Ok(models) = serde_json::from_slice::<Models>(&body) else { return true };
    let is_listed = models.data.iter().any(|model| model.id == wanted);
    if !is_listed {
        tracing::warn!(worker_id = %entry.worker_id, port = entry.port, "another model answers on the worker's port");
    }
    is_listed
}

/// Ends when the process has shown no sign of progress for `stall`: its log did not grow and it took no more memory.
pub(crate) async fn until_stalled(entry: &JournalEntry, pid: u32, stall: Duration) {
    let mut seen = (0, 0);
    let mut since = Instant::now();
    loop {
        tokio::time::sleep(LOOK.min(stall)).await;
        let log = entry.log.clone();
        let looking = tokio::task::spawn_blocking(move || {
            let log = std::fs::metadata(&log).map_or(0, |metadata| metadata.len());
            (log, process::memory_of_group(pid) / (1024 * 1024))
        });
        let now = looking.await.unwrap_or(seen);
        if now != seen {
            (seen, since) = (now, Instant::now());
        } else if since.elapsed() >= stall {
            return;
        }
    }
}
