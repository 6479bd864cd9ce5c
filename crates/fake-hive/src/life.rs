//! Beginning and end of a launch.

use std::{io, sync::Arc, time::Duration};

use axum::body::Body;
use fleet::{Digest, WorkerId};
use futures_util::StreamExt;
use hive_api::{ErrorCode, HiveFile, ShutdownRequest, StopWorkerRequest, server::HiveResult};
use http_serve::Identity;
use tokio::time::{Instant, sleep};

use crate::{
    journal::Call,
    net::NetOrder,
    state::{Core, refused},
    wire::lock,
};

/// Workers get this long after their grace, then the hive ends all the same.
const STOP_SLACK: Duration = Duration::from_secs(2);

/// The answer to a shutdown leaves within this time.
const LAST_WORDS: Duration = Duration::from_millis(50);

impl Core {
    /// Starts what runs throughout a launch.
    pub(crate) fn begin_launch(self: &Arc<Self>) {
        self.fill_store();
        if let Err(error) = self.write_hive_file() {
            tracing::warn!(%error, "could not write hive.json");
        }
        let launch_id = self.state().launch_id.clone();
        self.state().say(format!("launch {launch_id} listens on port {}", self.port));
        let core = Arc::clone(self);
        self.in_launch(core.report_counters());
        self.resume_workers();
    }

    pub(crate) fn write_hive_file(&self) -> io::Result<()> {
        let Some(dir) = &self.data_dir else { return Ok(()) };
        let file = HiveFile {
            hive_id: self.hive_id.clone(),
            launch_id: self.state().launch_id.clone(),
            process: process::own().map_err(io::Error::other)?,
            port: self.port,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            tls_fingerprint: self.identity.as_ref().map(Identity::fingerprint),
        };
        durable_file::replace(&dir.join(HiveFile::NAME), file.to_json().as_bytes())
    }

    /// Notes something of the call that the running handler answers.
    pub(crate) fn note_call(&self, note: impl FnOnce(&mut Call)) {
        let wire = self.wires.current();
        let call = wire.and_then(|wire| lock(&wire.call).clone());
        if let Some(call) = call {
            call.note(note);
        }
    }

    /// A task that ends with the hive.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let stop = self.stop.clone();
        self.tasks.spawn(async move {
            stop.run_until_cancelled(task).await;
        });
    }

    /// Ends as asked: no new work, workers, `hive.json`, port.
    pub(crate) fn begin_shutdown(self: &Arc<Self>, request: &ShutdownRequest) {
        if self.script().stop.ignore_shutdown {
            return;
        }
        if std::mem::replace(&mut self.state().draining, true) {
            return;
        }
        let grace = Duration::from_millis(request.grace_ms.unwrap_or(30_000));
        let core = Arc::clone(self);
        self.spawn(async move { core.end(grace).await });
    }

    async fn end(self: &Arc<Self>, grace: Duration) {
        let workers: Vec<WorkerId> = self.state().workers.keys().cloned().collect();
        let grace_ms = u64::try_from(grace.as_millis()).ok();
        for worker in &workers {
            // One that is gone already needs no stop.
            let _ = self.stop_worker_now(worker, &StopWorkerRequest { grace_ms });
        }
        let deadline = Instant::now() + grace + STOP_SLACK;
        while Instant::now() < deadline && self.state().workers.values().any(|w| !w.record.state.is_over()) {
            sleep(Duration::from_millis(10)).await;
        }
        sleep(LAST_WORDS).await;
        self.leave().await;
    }

    /// The first signal means a shutdown, a second one that there is no time for it.
    pub(crate) fn shut_down_by_signal(self: &Arc<Self>) {
        if self.state().draining {
            let core = Arc::clone(self);
            self.spawn(async move { core.leave().await });
        } else {
            self.begin_shutdown(&ShutdownRequest::default());
        }
    }

    async fn leave(&self) {
        if let Some(dir) = &self.data_dir
            && let Err(error) = std::fs::remove_file(dir.join(HiveFile::NAME))
        {
            tracing::warn!(%error, "could not remove hive.json");
        }
        // A port that is gone already is as good.
        let _ = self.net_order(NetOrder::Down).await;
        self.exit.send_replace(Some(0));
    }

    /// Takes a part of a file that a transfer waits for.
    pub(crate) async fn write_incoming(&self, digest: &Digest, offset: u64, body: Body) -> HiveResult<u64> {
        let gone = || refused(ErrorCode::NotFound, format!("no transfer waits for {digest}"));
        let have = self.state().incoming.get(digest).map(|bytes| bytes.len() as u64).ok_or_else(gone)?;
        if have != offset {
            let error = refused(ErrorCode::RangeNotSatisfiable, format!("the file has {have} bytes so far"));
            return Err(error.with_details(serde_json::json!({ "bytes": have })));
        }
        let mut pieces = body.into_data_stream();
        let mut have = have;
        while let Some(Ok(piece)) = pieces.next().await {
            let mut state = self.state();
            let bytes = state.incoming.get_mut(digest).ok_or_else(gone)?;
            bytes.extend_from_slice(&piece);
            have = bytes.len() as u64;
        }
        self.brought.notify_one();
        Ok(have)
    }
}
