//! Bytes that the queen brings because this machine reaches no source itself.

use std::path::Path;

use bytes::Bytes;
use fleet::Digest;
use futures_util::{Stream, StreamExt};
use tokio::{io::AsyncWriteExt, time::Instant};

use super::{
    Failed, Transfer,
    file::{length, open},
};
use crate::{
    StoreError,
    flight::{Awaited, Flight},
    hub::RemoteFile,
};

impl Transfer<'_> {
    /// Waits until the file was brought; none if nothing came for as long as a source may stall.
    pub(super) async fn relayed(&self, file: &RemoteFile, part: &Path) -> Result<Option<u64>, Failed> {
        let have = length(part).await;
        let awaited =
            Awaited { digest: file.sha256, part: part.to_owned(), have, total: file.bytes, writing: false };
        self.flight.awaited.send_replace(Some(awaited));
        self.flight.set_awaits(Some(file.sha256));
        let brought = self.wait(part).await;
        self.flight.set_awaits(None);
        self.flight.awaited.send_replace(None);
        brought
    }

    async fn wait(&self, part: &Path) -> Result<Option<u64>, Failed> {
        let patience = self.settings.stall;
        let mut awaited = self.flight.awaited.subscribe();
        let mut last = 0;
        let mut since = Instant::now();
        loop {
            let now = awaited.borrow_and_update().clone();
            let Some(now) = now else { return Ok(None) };
            if now.have != last {
                (last, since) = (now.have, Instant::now());
                self.flight.set_current(now.have);
            }
            if !now.writing && is_whole(&now, part).await {
                return Ok(Some(now.have));
            }
            tokio::select! {
                _ = awaited.changed() => {}
                () = tokio::time::sleep_until(since + patience) => return Ok(None),
                () = self.closing.cancelled() => return Err(Failed::closing()),
            }
        }
    }
}

/// Whether everything is here. Without a size known, the model's own header tells where its tensors end.
async fn is_whole(awaited: &Awaited, part: &Path) -> bool {
    match awaited.total {
        Some(total) => awaited.have == total,
        None => {
            let part = part.to_owned();
            let reading = tokio::task::spawn_blocking(move || gguf::read_file(&part).is_ok());
            awaited.have > 0 && reading.await.unwrap_or(false)
        }
    }
}

/// Takes the writer's place back when it is done or gives up, whichever way.
struct Writing<'a> {
    flight: &'a Flight,
}

impl Drop for Writing<'_> {
    fn drop(&mut self) {
        self.flight.awaited.send_if_modified(|awaited| {
            let Some(awaited) = awaited else { return false };
            awaited.writing = false;
            true
        });
    }
}

/// Writes what the queen sends at `offset`, which must be where the file ends now; answers how much is here then.
pub(crate) async fn write<E: std::fmt::Display>(
    flight: &Flight,
    digest: &Digest,
    offset: u64,
    pieces: impl Stream<Item = Result<Bytes, E>>,
) -> Result<u64, StoreError> {
    let mut begun = None;
    flight.awaited.send_if_modified(|awaited| match awaited {
        Some(awaited) if awaited.digest == *digest && !awaited.writing => {
            awaited.writing = awaited.have == offset;
            begun = Some(awaited.clone());
            awaited.writing
        }
        _ => false,
    });
    let awaited = begun.ok_or(StoreError::NotAwaited { digest: *digest })?;
    if !awaited.writing {
        return Err(StoreError::Offset { digest: *digest, have: awaited.have, offset });
    }
    let _writing = Writing { flight };
    let failed = || StoreError::io("write", &awaited.part);
    let mut to = open(&awaited.part, offset).await.map_err(failed())?;
    let mut have = offset;
    let mut pieces = std::pin::pin!(pieces);
    while let Some(piece) = pieces.next().await {
        // The queen will ask how much came and go on from there.
        let Ok(piece) = piece else { break };
        have += piece.len() as u64;
        if awaited.total.is_some_and(|total| have > total) {
            return Err(StoreError::Offset { digest: *digest, have: offset, offset: have });
        }
        to.write_all(&piece).await.map_err(failed())?;
        to.flush().await.map_err(failed())?;
        flight.awaited.send_if_modified(|awaited| {
            let Some(awaited) = awaited else { return false };
            awaited.have = have;
            true
        });
    }
    Ok(have)
}
