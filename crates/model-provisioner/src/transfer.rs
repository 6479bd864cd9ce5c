//! Following one transfer at its hive.

use std::time::Duration;

use fleet::{Digest, DownloadRecord, DownloadState, HiveId, ModelRef};
use futures_util::StreamExt;
use hive_api::{
    DownloadRequest, ErrorCode,
    client::{ClientError, HiveClient},
};
use tokio::{
    sync::watch,
    time::{Instant, timeout_at},
};

use crate::{Progress, ProvisionError};

/// When bytes last moved, and where they stood.
pub(crate) struct Moved {
    pub(crate) bytes: u64,
    pub(crate) at: Instant,
    /// Whether the hive has told anything of the transfer at all.
    pub(crate) begun: bool,
}

impl Moved {
    pub(crate) fn now(bytes: u64) -> Self {
        Self { bytes, at: Instant::now(), begun: false }
    }
}

/// Why a transfer is not followed any more.
pub(crate) enum Left {
    /// For good.
    Ended(ProvisionError),
    /// The hive may still be at it.
    Broke(String),
}

impl Left {
    /// A hive that was started anew knows nothing of a transfer, and is asked again; any other refusal is final.
    fn of(error: &ClientError, hive_id: &HiveId, model: &ModelRef, forgotten: bool) -> Self {
        match error.refused().map(|detail| detail.code) {
            Some(ErrorCode::StaleLaunch) => Self::Broke(error.kind.to_string()),
            Some(ErrorCode::NotFound) if forgotten => Self::Broke(error.kind.to_string()),
            Some(_) => Self::Ended(ProvisionError::of(error, hive_id, model)),
            None => Self::Broke(error.kind.to_string()),
        }
    }
}

/// Asks for the transfer and tells its progress, and which file it waits for, until it ends or the hive is lost sight of.
pub(crate) async fn follow(
    client: &HiveClient,
    request: DownloadRequest,
    last: &mut Moved,
    stall: Duration,
    (progress, awaits): (&watch::Sender<Progress>, &watch::Sender<Option<Digest>>),
) -> Result<DownloadRecord, Left> {
    let hive_id = &client.endpoint().hive_id;
    let model = &request.model_ref;
    let reply = client.download(&request).await.map_err(|e| Left::of(&e, hive_id, model, false))?;
    let mut records =
        client.download_progress(&reply.download_id).await.map_err(|e| Left::of(&e, hive_id, model, true))?;
    loop {
        let record = match timeout_at(last.at + stall, records.next()).await {
            Err(_) => return Err(Left::Ended(stalled(model, hive_id, stall, last.bytes))),
            // Without a final record the stream did not end, it broke.
            Ok(None) => return Err(Left::Broke("the progress stream ended early".to_owned())),
            Ok(Some(Err(error))) => return Err(Left::of(&error, hive_id, model, true)),
            Ok(Some(Ok(record))) => record,
        };
        if record.bytes != last.bytes || matches!(record.state, DownloadState::Verifying) {
            *last = Moved::now(record.bytes);
        }
        last.begun = true;
        awaits.send_if_modified(|before| std::mem::replace(before, record.awaits) != record.awaits);
        if let Some(outcome) = told(&record, model, hive_id, progress) {
            return outcome.map(|()| record).map_err(Left::Ended);
        }
    }
}

fn stalled(model: &ModelRef, hive_id: &HiveId, idle: Duration, bytes: u64) -> ProvisionError {
    ProvisionError::Stalled { hive_id: hive_id.clone(), model: model.clone(), idle, bytes }
}

/// Tells those who wait what a record says; its outcome if it is the last one.
fn told(
    record: &DownloadRecord,
    model: &ModelRef,
    hive_id: &HiveId,
    progress: &watch::Sender<Progress>,
) -> Option<Result<(), ProvisionError>> {
    match &record.state {
        DownloadState::Queued => None,
        DownloadState::Downloading => {
            let (bytes, total, rate) = (record.bytes, record.total, record.rate);
            progress.send_replace(Progress::Transferring { bytes, total, rate });
            None
        }
        DownloadState::Verifying => {
            progress.send_replace(Progress::Verifying);
            None
        }
        DownloadState::Complete => Some(Ok(())),
        DownloadState::Failed { code, message } => Some(Err(ProvisionError::Failed {
            hive_id: hive_id.clone(),
            model: model.clone(),
            code: code.clone(),
            message: message.clone(),
        })),
    }
}
