//! Carrying a file between two hives that cannot reach each other, part by part.

use std::time::Duration;

use bytes::Bytes;
use hive_api::{
    BODY_MAX, ErrorCode,
    client::{ClientError, Connections, HiveClient},
};
use tokio::time::sleep;

use crate::sources::Holder;

/// How often is looked whether the target waits for a file.
const LOOK: Duration = Duration::from_secs(1);

/// One part; the queen holds one at a time for each transfer.
const PART: u64 = BODY_MAX as u64;

/// Brings the target what it waits for, from whoever has it. Never ends: the transfer itself tells when it is over. The
/// target checks the digest before it uses anything.
pub(crate) async fn relay(connections: &Connections, target: &HiveClient, holders: &[Holder]) {
    loop {
        sleep(LOOK).await;
        for holder in holders {
            // An empty part at the start moves nothing; the answer tells whether the file is waited for, and from where on.
            let have = match target.write_blob(&holder.digest, 0, Bytes::new()).await {
                Ok(have) => have,
                Err(error) => match has(&error) {
                    Some(have) => have,
                    None => continue,
                },
            };
            let (from, to) = (&holder.endpoint.hive_id, &target.endpoint().hive_id);
            tracing::info!(%from, %to, have, "relaying a model");
            if let Err(error) = carry(connections, target, holder, have).await {
                tracing::warn!(%from, %to, %error, "relaying broke off");
            }
        }
    }
}

async fn carry(
    connections: &Connections,
    target: &HiveClient,
    holder: &Holder,
    mut have: u64,
) -> Result<(), ClientError> {
    let source = connections.client(holder.endpoint.clone());
    let total = source.grant_blob(&holder.digest).await?.bytes;
    while have < total {
        let part = source.read_blob(&holder.digest, have..total.min(have + PART)).await?;
        match target.write_blob(&holder.digest, have, part).await {
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
