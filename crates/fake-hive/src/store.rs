//! Models: which exist, what they are called, and the bytes that are invented for them.

use fleet::{Digest, ModelFile, ModelRef, Pinned, Resolved, StoredModel};
use hive_api::{Attention, AttentionKind, ErrorCode, ErrorDetail, InspectedFile, Inspection};
use sha2::{Digest as _, Sha256};

use crate::{
    script::ModelScript,
    state::{Core, Stored, refused},
    wire::lock,
};

/// Files up to this size have their true digest; hashing the invented bytes of larger ones would take too long.
pub(crate) const HASHED_MAX: u64 = 4 << 20;

/// Period of the invented bytes.
const BLOCK: usize = 32;

fn sha256(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

/// The file name of a model whose reference names none.
fn file_of(model: &ModelScript, name: &str, file: Option<&str>) -> String {
    let stem = match file {
        Some(file) if file.ends_with(".gguf") => return file.to_owned(),
        Some(quant) => format!("{name}-{quant}"),
        None => format!("{name}-{}", model.quant),
    };
    if model.shards > 1 { shard_name(&stem, 1, model.shards) } else { format!("{stem}.gguf") }
}

fn shard_name(stem: &str, number: u32, count: u32) -> String {
    format!("{stem}-{number:05}-of-{count:05}.gguf")
}

/// One file of a model, with what its bytes are invented from.
#[derive(Debug, Clone)]
pub(crate) struct ShardFile {
    pub(crate) file: ModelFile,
    pub(crate) seed: String,
}

/// The model as somebody pinned it.
pub(crate) fn as_pinned(model: ModelScript, pinned: &Pinned) -> ModelScript {
    ModelScript {
        resolved: Some(pinned.resolved.clone()),
        bytes: pinned.bytes(),
        shards: u32::try_from(pinned.files.len()).unwrap_or(1),
        digest: pinned.files.first().map(|file| file.digest),
        ..model
    }
}

/// What a model's reference stands for: a hub's commit and file, which are invented but always the same.
pub(crate) fn resolve(model: &ModelScript) -> Resolved {
    if let Some(resolved) = &model.resolved {
        return resolved.clone();
    }
    let pinned = match &model.model_ref {
        ModelRef::File(path) => ModelRef::File(path.clone()),
        ModelRef::Hub { owner, name, revision, file } => {
            let of = format!("{owner}/{name}@{}", revision.as_deref().unwrap_or("main"));
            let commit = Digest::from_bytes(sha256(of.as_bytes())).to_string();
            let pinned = |r: &std::sync::Arc<str>| r.len() == 40 && r.bytes().all(|b| b.is_ascii_hexdigit());
            let revision = revision.clone().filter(pinned).unwrap_or_else(|| commit[..40].into());
            ModelRef::Hub {
                owner: owner.clone(),
                name: name.clone(),
                revision: Some(revision),
                file: Some(file_of(model, name, file.as_deref()).into()),
            }
        }
    };
    Resolved::from(&pinned)
}

/// The file name of a resolution.
fn file_name(resolved: &Resolved) -> String {
    let text = resolved.as_str();
    match text.strip_prefix("file:") {
        Some(path) => path.to_owned(),
        None => text.rsplit([':', '/']).next().unwrap_or(text).to_owned(),
    }
}

/// Invented bytes of a file.
pub(crate) fn content(seed: &str, start: u64, end: u64) -> Vec<u8> {
    let block = sha256(seed.as_bytes());
    let byte = |at: u64| {
        let within = block[usize::try_from(at % BLOCK as u64).unwrap_or(0)];
        within ^ (at / BLOCK as u64).to_le_bytes()[0] ^ (at >> 13).to_le_bytes()[0]
    };
    (start..end).map(byte).collect()
}

impl Core {
    /// The model of this name, if it exists anywhere.
    pub(crate) fn find_model(&self, model_ref: &ModelRef) -> Result<ModelScript, ErrorDetail> {
        let text = model_ref.to_string();
        let named = {
            let state = self.state();
            state.names.get(model_ref).and_then(|resolved| state.store.get(resolved)).cloned()
        };
        if let Some(stored) = named {
            return Ok(stored.model);
        }
        let script = self.script();
        let named = |m: &&ModelScript| m.model_ref == *model_ref || resolve(m).as_str() == text;
        if let Some(model) = script.models.known.iter().find(named) {
            return Ok(model.clone());
        }
        let stored = self.state().store.values().find(|s| s.record.resolved.as_str() == text).cloned();
        if let Some(stored) = stored {
            return Ok(stored.model);
        }
        match model_ref {
            ModelRef::Hub { owner, .. } if script.models.any && **owner != *"missing" => {
                Ok(ModelScript::of(model_ref.clone()))
            }
            _ => Err(refused(
                ErrorCode::ModelNotFound,
                format!("{model_ref} is neither in the store nor at the hub"),
            )),
        }
    }

    /// The model, if it is in the store.
    pub(crate) fn find_stored(&self, model_ref: &ModelRef) -> Result<Stored, ErrorDetail> {
        let resolved = resolve(&self.find_model(model_ref)?);
        self.state().store.get(&resolved).cloned().ok_or_else(|| {
            refused(ErrorCode::ModelNotFound, format!("{model_ref} is not in the store of this hive"))
        })
    }

    pub(crate) fn find_blob(&self, digest: &Digest) -> Result<(Stored, ShardFile), ErrorDetail> {
        let all: Vec<Stored> = self.state().store.values().cloned().collect();
        let files =
            |stored: Stored| self.files_of(&stored.model).into_iter().map(move |f| (stored.clone(), f));
        let found = all.into_iter().flat_map(files).find(|(_, shard)| shard.file.digest == *digest);
        found.ok_or_else(|| {
            refused(ErrorCode::NotFound, format!("no file of digest {digest} is in the store"))
        })
    }

    /// The files of a model, in order.
    pub(crate) fn files_of(&self, model: &ModelScript) -> Vec<ShardFile> {
        let resolved = resolve(model);
        let first = file_name(&resolved);
        let count = model.shards.max(1);
        let each = model.bytes / u64::from(count);
        let file = |at: u32| {
            // The first one has what does not divide.
            let bytes = if at == 0 { model.bytes - each * u64::from(count - 1) } else { each };
            let seed = if at == 0 { resolved.to_string() } else { format!("{resolved}#{at}") };
            let path = match first.rsplit_once("-00001-of-") {
                Some((stem, _)) if at > 0 => shard_name(stem, at + 1, count),
                _ => first.clone(),
            };
            let digest = match model.digest {
                Some(claimed) if at == 0 => claimed,
                _ => self.digest_of_content(&seed, bytes),
            };
            ShardFile { file: ModelFile { path, bytes, digest }, seed }
        };
        (0..count).map(file).collect()
    }

    fn digest_of_content(&self, seed: &str, bytes: u64) -> Digest {
        let key = (seed.to_owned(), bytes);
        if let Some(digest) = lock(&self.digests).get(&key) {
            return *digest;
        }
        let digest = Digest::from_bytes(if bytes <= HASHED_MAX {
            sha256(&content(seed, 0, bytes))
        } else {
            sha256(seed.as_bytes())
        });
        lock(&self.digests).insert(key, digest);
        digest
    }

    pub(crate) fn stored_record(&self, model: &ModelScript) -> StoredModel {
        let files = self.files_of(model);
        StoredModel {
            resolved: resolve(model),
            digest: files.first().map(|shard| shard.file.digest),
            bytes: model.bytes,
            files: files.into_iter().map(|shard| shard.file.path).collect(),
        }
    }

    pub(crate) fn inspection(&self, model: &ModelScript) -> Inspection {
        let described = |ShardFile { file, .. }: ShardFile| InspectedFile {
            path: file.path,
            bytes: Some(file.bytes),
            digest: Some(file.digest),
        };
        Inspection {
            resolved: resolve(model),
            files: self.files_of(model).into_iter().map(described).collect(),
            bytes: model.bytes,
            arch: "llama".to_owned(),
            layers: model.layers,
            kv_heads: model.kv_heads,
            head_dim: model.head_dim,
            attention: Attention {
                kind: AttentionKind::Full,
                window: None,
                kv_heads_per_layer: None,
                kv_latent_rank: None,
                rope_dim: None,
            },
            vocab: 32_000,
            context_max: model.context_max,
            quant: model.quant.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolved(text: &str) -> String {
        resolve(&ModelScript::of(text.parse().unwrap())).to_string()
    }

    #[test]
    fn a_resolution_resolves_to_itself() {
        for text in ["a/b", "a/b:Q8_0", "a/b@main:x.gguf", "file:/m/x.gguf"] {
            let once = resolved(text);
            assert_eq!(resolved(&once), once, "{text}");
        }
        assert_eq!(resolved("a/b"), resolved("a/b@main:Q4_K_M"));
        assert_ne!(resolved("a/b"), resolved("a/b:Q8_0"));
    }

    #[test]
    fn invented_bytes_do_not_depend_on_how_they_are_cut() {
        let whole = content("x", 0, 20_000);
        let parts = [content("x", 0, 9_999), content("x", 9_999, 20_000)].concat();
        assert_eq!(whole, parts);
        assert_ne!(whole, content("y", 0, 20_000));
    }
}
