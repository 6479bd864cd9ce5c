//! Carrying a file between two hives that cannot reach each other, part by part.

use std::{future::pending, time::Duration};

use bytes::Bytes;
use fleet::Digest;
use hive_api::{
    BODY_MAX, ErrorCode,
    client::{ClientError, Connections, HiveClient},
};
use tokio::{sync::watch, time::sleep};

use crate::sources::Holder;

/// Pause before a file that no hive could give is tried again.
const AGAIN: Duration = Duration::from_secs(1);

/// One part; the queen holds one at a time for each transfer.
const PART: u64 = BODY_MAX as u64;

/// Brings the target each file that it waits for, from whoever has it. Never ends: the transfer itself tells when it is over.
/// The target checks the digest before it uses anything.
pub(crate) async fn relay(
    connections: &Connections,
    target: &HiveClient,
    holders: &[Holder],
    mut awaited: watch::Receiver<Option<Digest>>,
) {
    loop {
        let digest = *awaited.borrow_and_update();
        let bringing = async {
            match digest {
                Some(digest) => bring(connections, target, holders, &digest).await,
                None => pending().await,
            }
        };
        tokio::select! {
            () = bringing => {
                // What was brought is not waited for any more, which comes with the next record.
                if awaited.changed().await.is_err() {
                    pending::<()>().await;
                }
            }
            changed = awaited.changed() => {
                if changed.is_err() {
                    pending::<()>().await;
                }
            }
        }
    }
}

async fn bring(connections: &Connections, target: &HiveClient, holders: &[Holder], digest: &Digest) {
    loop {
        for holder in holders {
            let (from, to) = (&holder.endpoint.hive_id, &target.endpoint().hive_id);
            tracing::info!(%from, %to, %digest, "relaying a file of a model");
            match carry(connections, target, holder, digest).await {
                Ok(()) => return,
                Err(error) => tracing::warn!(%from, %to, %error, "relaying broke off"),
            }
        }
        sleep(AGAIN).await;
    }
}

async fn carry(
    connections: &Connections,
    target: &HiveClient,
    holder: &Holder,
    digest: &Digest,
) -> Result<(), ClientError> {
    let source = connections.client(holder.endpoint.clone());
    let total = source.grant_blob(digest).await?.bytes;
    // An empty part at the start moves nothing; the answer tells from where on the file is waited for.
    let mut have = match target.write_blob(digest, 0, Bytes::new()).await {
        Ok(have) => have,
        Err(error) => has(&error).ok_or(error)?,
    };
    while have < total {
        let part = source.read_blob(digest, have..total.min(have + PART)).await?;
        match target.write_blob(digest, have, part).await {
            Ok(now) => have = now,
            Err(error) => match has(&error) {
                Some(now) if now != have => have = now,
                _ => return Err(error),
            },
        }
    }
    Ok(())
}

/// How much the target has of a file that it waits for, from its refusal of a part that begins elsewhere.
fn has(error: &ClientError) -> Option<u64> {
    let detail = error.refused().filter(|detail| detail.code == ErrorCode::RangeNotSatisfiable)?;
    detail.details.as_ref()?.get("bytes")?.as_u64()
}
