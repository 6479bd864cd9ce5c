//! Models: which exist, what they are called, and the bytes that are invented for them.

use fleet::{Digest, ModelRef, Resolved, StoredModel};
use hive_api::{Attention, AttentionKind, ErrorCode, ErrorDetail, Inspection};
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
    match file {
        Some(file) if file.ends_with(".gguf") => file.to_owned(),
        Some(quant) => format!("{name}-{quant}.gguf"),
        None => format!("{name}-{}.gguf", model.quant),
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
            let pinned = |r: &String| r.len() == 40 && r.bytes().all(|b| b.is_ascii_hexdigit());
            let revision = revision.clone().filter(pinned).unwrap_or_else(|| commit[..40].to_owned());
            ModelRef::Hub {
                owner: owner.clone(),
                name: name.clone(),
                revision: Some(revision),
                file: Some(file_of(model, name, file.as_deref())),
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

/// Invented bytes of a model's file.
pub(crate) fn content(resolved: &Resolved, start: u64, end: u64) -> Vec<u8> {
    let block = sha256(resolved.as_str().as_bytes());
    let byte = |at: u64| {
        let within = block[usize::try_from(at % BLOCK as u64).unwrap_or(0)];
        within ^ (at / BLOCK as u64).to_le_bytes()[0] ^ (at >> 13).to_le_bytes()[0]
    };
    (start..end).map(byte).collect()
}

impl Core {
    /// The model of this name, if it exists anywhere.
    pub(crate) fn find_model(&self, model_ref: &ModelRef) -> Result<ModelScript, ErrorDetail> {
        let script = self.script();
        let text = model_ref.to_string();
        let named = |m: &&ModelScript| m.model_ref == *model_ref || resolve(m).as_str() == text;
        if let Some(model) = script.models.known.iter().find(named) {
            return Ok(model.clone());
        }
        let stored = self.state().store.values().find(|s| s.record.resolved.as_str() == text).cloned();
        if let Some(stored) = stored {
            return Ok(stored.model);
        }
        match model_ref {
            ModelRef::Hub { owner, .. } if script.models.any && owner != "missing" => {
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

    pub(crate) fn find_blob(&self, digest: &Digest) -> Result<Stored, ErrorDetail> {
        let found = self.state().store.values().find(|s| s.record.digest.as_ref() == Some(digest)).cloned();
        found.ok_or_else(|| {
            refused(ErrorCode::NotFound, format!("no file of digest {digest} is in the store"))
        })
    }

    /// The digest that is reported for a model.
    pub(crate) fn digest_of(&self, model: &ModelScript) -> Digest {
        if let Some(digest) = model.digest {
            return digest;
        }
        let resolved = resolve(model);
        let key = (resolved.clone(), model.bytes);
        if let Some(digest) = lock(&self.digests).get(&key) {
            return *digest;
        }
        let digest = Digest::from_bytes(if model.bytes <= HASHED_MAX {
            sha256(&content(&resolved, 0, model.bytes))
        } else {
            sha256(resolved.as_str().as_bytes())
        });
        lock(&self.digests).insert(key, digest);
        digest
    }

    pub(crate) fn stored_record(&self, model: &ModelScript) -> StoredModel {
        let resolved = resolve(model);
        StoredModel {
            digest: Some(self.digest_of(model)),
            bytes: model.bytes,
            files: vec![file_name(&resolved)],
            resolved,
        }
    }

    pub(crate) fn inspection(&self, model: &ModelScript) -> Inspection {
        let resolved = resolve(model);
        Inspection {
            files: vec![file_name(&resolved)],
            resolved,
            bytes: model.bytes,
            digest: Some(self.digest_of(model)),
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
        let resolved = "file:/m/x.gguf".parse().unwrap();
        let whole = content(&resolved, 0, 20_000);
        let parts = [content(&resolved, 0, 9_999), content(&resolved, 9_999, 20_000)].concat();
        assert_eq!(whole, parts);
        assert_ne!(whole, content(&"file:/m/y.gguf".parse().unwrap(), 0, 20_000));
    }
}
