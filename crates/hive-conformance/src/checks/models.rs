//! Models: what is known of one, how it comes, and who may read it.

use fleet::{DownloadRecord, DownloadState, ModelRef, Resolved, StoredModel};
use futures_util::StreamExt;
use hive_api::{DownloadRequest, ErrorCode};
use reqwest::{Method, StatusCode};
use sha2::{Digest as _, Sha256};

use crate::{
    probe::{Probe, body_of, error_of},
    verdict::{Check, Fault, ensure, same},
};

/// Files up to this size are read whole and hashed.
const HASHED_MAX: u64 = 16 << 20;

fn order(probe: &Probe) -> Result<DownloadRequest, Fault> {
    Ok(DownloadRequest {
        model_ref: probe.model()?.clone(),
        pinned: None,
        sources: Vec::new(),
        relayed: false,
    })
}

async fn resolved(probe: &Probe) -> Result<Resolved, Fault> {
    Ok(probe.client.inspect(probe.model()?).await?.resolved)
}

async fn stored(probe: &Probe) -> Result<Option<StoredModel>, Fault> {
    let resolved = resolved(probe).await?;
    Ok(probe.client.models().await?.models.into_iter().find(|m| m.resolved == resolved))
}

pub(super) async fn is_stored(probe: &Probe) -> Result<bool, Fault> {
    Ok(stored(probe).await?.is_some())
}

/// The model's record with its digest.
async fn hashed(probe: &Probe) -> Result<(StoredModel, fleet::Digest), Fault> {
    let stored =
        stored(probe).await?.ok_or_else(|| Fault::NotRun("the model is not in the store".to_owned()))?;
    let digest = stored.digest.ok_or_else(|| Fault::NotRun("the model has no digest yet".to_owned()))?;
    Ok((stored, digest))
}

pub(super) async fn the_model_is_inspected(probe: &Probe) -> Check {
    let inspection = probe.client.inspect(probe.model()?).await?;
    for (name, figure) in [
        ("bytes", inspection.bytes),
        ("layers", inspection.layers.into()),
        ("kv_heads", inspection.kv_heads.into()),
        ("head_dim", inspection.head_dim.into()),
        ("vocab", inspection.vocab.into()),
        ("context_max", inspection.context_max.into()),
    ] {
        ensure(figure > 0, || format!("{name} is 0"))?;
    }
    ensure(!inspection.files.is_empty(), || "it has no file".to_owned())?;
    if let ModelRef::Hub { file: Some(first), .. } = ModelRef::from(&inspection.resolved) {
        ensure(inspection.pinned().is_some(), || "a file of a hub has no size or no digest".to_owned())?;
        same("the first file", &inspection.files[0].path, &first.to_string())?;
    }
    let pinned = inspection.resolved.as_str().parse().map_err(|e| Fault::Failed(format!("resolved: {e}")))?;
    let again = probe.client.inspect(&pinned).await?;
    same("what the resolution stands for", &again.resolved, &inspection.resolved)
}

async fn followed(probe: &Probe, id: &fleet::DownloadId) -> Result<Vec<DownloadRecord>, Fault> {
    let records: Vec<_> = probe.client.download_progress(id).await?.collect().await;
    let records: Result<Vec<_>, _> = records.into_iter().collect();
    let records = records?;
    let last = records.last().ok_or_else(|| Fault::failed("the progress ended without a record"))?;
    ensure(last.state.is_final(), || format!("the progress ended with {:?}", last.state))?;
    let before = &records[..records.len() - 1];
    ensure(before.iter().all(|r| !r.state.is_final()), || "records follow the final one".to_owned())?;
    Ok(records)
}

pub(super) async fn the_model_is_fetched_once(probe: &Probe) -> Check {
    let request = order(probe)?;
    let first = probe.client.download(&request).await?;
    let second = probe.client.download(&request).await?;
    same("launch_id", &first.launch_id, &probe.health.launch_id)?;
    // A transfer that is over need not be found again; one under way must.
    if !first.state.is_final() && !second.state.is_final() {
        same("the second download_id", &second.download_id, &first.download_id)?;
    }
    for id in [&first.download_id, &second.download_id] {
        let records = followed(probe, id).await?;
        let last = records.last().map(|r| r.state.clone());
        same("the outcome", &last, &Some(DownloadState::Complete))?;
        let rising = records.windows(2).all(|pair| pair[0].rev < pair[1].rev);
        ensure(rising, || "the records' revisions do not grow".to_owned())?;
    }
    Ok(())
}

pub(super) async fn a_finished_download_tells_its_outcome(probe: &Probe) -> Check {
    let request = order(probe)?;
    let id = probe.client.download(&request).await?.download_id;
    followed(probe, &id).await?;
    let records = followed(probe, &id).await?;
    same("the number of records", &records.len(), &1)
}

pub(super) async fn a_pinned_model_is_that_model(probe: &Probe) -> Check {
    let inspection = probe.client.inspect(probe.model()?).await?;
    let pinned = inspection.pinned();
    let Some(pinned) =
        pinned.filter(|pinned| matches!(ModelRef::from(&pinned.resolved), ModelRef::Hub { .. }))
    else {
        return Err(Fault::NotRun("the model is of no hub".to_owned()));
    };
    let request = DownloadRequest { pinned: Some(pinned), ..order(probe)? };
    let id = probe.client.download(&request).await?.download_id;
    let last = followed(probe, &id).await?.pop();
    same("what was fetched", &last.and_then(|record| record.resolved), &Some(inspection.resolved))
}

pub(super) async fn the_model_is_listed(probe: &Probe) -> Check {
    let inspection = probe.client.inspect(probe.model()?).await?;
    let stored = stored(probe).await?.ok_or_else(|| Fault::failed("the model is not in the list"))?;
    same("bytes", &stored.bytes, &inspection.bytes)?;
    ensure(!stored.files.is_empty(), || "it has no file".to_owned())
}

pub(super) async fn a_grant_opens_exactly_its_file(probe: &Probe) -> Check {
    let (_, digest) = hashed(probe).await?;
    let grant = probe.client.grant_blob(&digest).await?;
    let path = format!("/v1/models/blob/{digest}");
    let granted = |method: Method, path: &str| probe.bare(method, path).bearer_auth(grant.token.reveal());
    let answer = granted(Method::GET, &path).header("range", "bytes=0-0").send().await?;
    same("the status of a granted read", &answer.status(), &StatusCode::PARTIAL_CONTENT)?;
    let other = format!("/v1/models/blob/{}", "0".repeat(64));
    error_of(granted(Method::GET, &other), &[ErrorCode::Unauthorized]).await?;
    error_of(granted(Method::GET, "/v1/models/list"), &[ErrorCode::StaleLaunch]).await?;
    let write = granted(Method::PUT, &format!("{path}?offset=0")).body("x");
    error_of(write, &[ErrorCode::StaleLaunch]).await?;
    ensure(grant.token != probe.target.token, || "the grant is the hive's own token".to_owned())
}

pub(super) async fn ranges_are_exact(probe: &Probe) -> Check {
    let (_, digest) = hashed(probe).await?;
    let total = probe.client.grant_blob(&digest).await?.bytes;
    let path = format!("/v1/models/blob/{digest}");
    let middle = total / 2;
    let end = (middle + 1000).min(total);
    let part = probe.client.read_blob(&digest, middle..end).await?;
    let beyond = probe.ask(Method::GET, &path).header("range", format!("bytes={total}-"));
    error_of(beyond, &[ErrorCode::RangeNotSatisfiable]).await?;
    if total > HASHED_MAX {
        return Ok(());
    }
    let whole = body_of(probe.ask(Method::GET, &path).send().await?).await?;
    same("the length", &(whole.len() as u64), &total)?;
    let range = usize::try_from(middle).unwrap_or(0)..usize::try_from(end).unwrap_or(0);
    ensure(whole.get(range) == Some(&part[..]), || {
        "a range differs from the same part of the whole".to_owned()
    })?;
    let sum: [u8; 32] = Sha256::digest(&whole).into();
    same("the digest of what was read", &fleet::Digest::from_bytes(sum), &digest)
}
