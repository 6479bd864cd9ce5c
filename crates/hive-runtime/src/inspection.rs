//! A model's header as the contract tells it.

use gguf::{ModelInfo, PerLayer};
use hive_api::{Attention, AttentionKind, ErrorCode, ErrorDetail, InspectedFile, Inspection};
use model_store::{Header, HeaderFile};

fn number(value: Option<u64>) -> u32 {
    value.map_or(0, |value| u32::try_from(value).unwrap_or(u32::MAX))
}

/// The contract's view of a header.
///
/// # Errors
/// When it lacks what the need for memory is computed from, as in a later shard, a projector or an adapter.
pub(crate) fn of_header(header: Header) -> Result<Inspection, ErrorDetail> {
    let Header { resolved, files, bytes, info } = header;
    if info.block_count.is_none() || info.head_count_kv.is_none() {
        let message =
            format!("{resolved} describes no language model (architecture {:?})", info.architecture);
        return Err(ErrorDetail::new(ErrorCode::ModelInvalid, message));
    }
    Ok(Inspection {
        resolved,
        files: files.into_iter().map(file).collect(),
        bytes,
        layers: number(info.block_count),
        kv_heads: number(info.head_count_kv.as_ref().map(PerLayer::largest)),
        head_dim: number(info.key_length.max(info.value_length)),
        attention: attention(&info),
        vocab: number(info.vocab_size),
        context_max: number(info.context_length),
        quant: info.quant.unwrap_or("unknown").to_owned(),
        arch: info.architecture,
    })
}

fn file(file: HeaderFile) -> InspectedFile {
    let HeaderFile { path, bytes, digest } = file;
    InspectedFile { path, bytes, digest }
}

fn attention(info: &ModelInfo) -> Attention {
    let kind = match (&info.latent, info.sliding_window) {
        (Some(_), _) => AttentionKind::Latent,
        (None, Some(window)) if window > 0 => AttentionKind::SlidingWindow,
        (None, _) => AttentionKind::Full,
    };
    let per_layer = match &info.head_count_kv {
        Some(PerLayer::Each(heads)) => Some(heads.iter().map(|&heads| number(Some(heads))).collect()),
        _ => None,
    };
    Attention {
        kind,
        window: info.sliding_window.filter(|&window| window > 0).map(|window| number(Some(window))),
        kv_heads_per_layer: per_layer,
        kv_latent_rank: info.latent.map(|latent| number(Some(latent.kv_rank))),
        // What is cached beside the compressed vector is the rotary part of one key: its full length less the latent's.
        rope_dim: info.latent.and_then(|latent| {
            let rope = info.key_length?.checked_sub(latent.kv_rank)?;
            Some(number(Some(rope)))
        }),
    }
}
