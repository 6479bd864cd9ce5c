//! A model hub: what a reference stands for there, and where its files are.
//!
//! Two requests of the hub's API are used, both plain GETs: the list of a revision's files with their digests, and the
//! files themselves. Anything that answers these two is a hub, so a mirror in the local network or a test needs no more.

mod choose;

pub(crate) use choose::{NoChoice, all_models, choose, is_projector};

use std::collections::BTreeMap;

use fleet::{Digest, ModelFile, ModelRef, Pinned, Resolved, Token};
use http::{StatusCode, Uri};
use serde::Deserialize;

use crate::{
    HeaderFile, StoreError,
    web::{Answer, Ask, Web, Whom},
};

/// Longest list of files that is read, in bytes. Repositories of thousands of files stay below a few megabytes.
const LIST_MAX: usize = 16 * 1024 * 1024;

/// What a reference stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Resolution {
    pub(crate) resolved: Resolved,
    /// Owner, repository and commit, as a path below the store's directory of hub models.
    pub(crate) dir: String,
    pub(crate) files: Vec<RemoteFile>,
}

impl Resolution {
    /// Size of all files together, if all are known.
    pub(crate) fn bytes(&self) -> Option<u64> {
        self.files.iter().try_fold(0_u64, |sum, file| sum.checked_add(file.bytes?))
    }
}

/// One file of a model at its source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RemoteFile {
    /// Its path in the repository.
    pub(crate) path: String,
    pub(crate) sha256: Digest,
    /// Its URL at the hub.
    pub(crate) url: Uri,
    pub(crate) bytes: Option<u64>,
}

impl RemoteFile {
    pub(crate) fn described(&self) -> HeaderFile {
        HeaderFile { path: self.path.clone(), bytes: self.bytes, digest: Some(self.sha256) }
    }
}

#[derive(Debug, Deserialize)]
struct Revision {
    sha: String,
    #[serde(default)]
    siblings: Vec<Sibling>,
}

#[derive(Debug, Deserialize)]
struct Sibling {
    rfilename: String,
    #[serde(default)]
    size: Option<u64>,
    #[serde(default)]
    lfs: Option<Lfs>,
}

#[derive(Debug, Deserialize)]
struct Lfs {
    sha256: String,
    #[serde(default)]
    size: Option<u64>,
}

pub(crate) fn is_commit(text: &str) -> bool {
    text.len() >= 7 && text.bytes().all(|b| b.is_ascii_hexdigit())
}

/// One hub.
#[derive(Debug, Clone)]
pub(crate) struct Hub {
    /// Without a slash at its end.
    base: String,
    token: Option<Token>,
    web: Web,
}

impl Hub {
    pub(crate) fn new(base: &str, token: Option<Token>, web: Web) -> Self {
        Self { base: base.trim_end_matches('/').to_owned(), token, web }
    }

    /// Asks the hub what a reference stands for now.
    pub(crate) async fn resolve(&self, model: &ModelRef) -> Result<Resolution, StoreError> {
        let ModelRef::Hub { owner, name, revision, file } = model else {
            return Err(StoreError::NotFound {
                model: model.clone(),
                reason: "it is no model of a hub".into(),
            });
        };
        let revision = revision.as_deref().unwrap_or("main").replace('/', "%2F");
        let answer =
            self.get(model, &format!("/api/models/{owner}/{name}/revision/{revision}?blobs=true")).await?;
        let text = answer.collect(LIST_MAX).await.map_err(|reason| self.unusable(reason))?;
        let revision: Revision = serde_json::from_slice(&text)
            .map_err(|error| self.unusable(format!("its list of files cannot be read: {error}")))?;
        if !is_commit(&revision.sha) {
            return Err(self.unusable("it names no commit".to_owned()));
        }
        let names: Vec<&str> = revision.siblings.iter().map(|sibling| sibling.rfilename.as_str()).collect();
        let chosen = choose(&names, file.as_deref()).map_err(|error| match error {
            NoChoice::None => {
                StoreError::NotFound { model: model.clone(), reason: "it has no such GGUF file".into() }
            }
            NoChoice::Ambiguous(choices) => StoreError::Ambiguous { model: model.clone(), choices },
        })?;
        let first = chosen.first().cloned().unwrap_or_default();
        let siblings: BTreeMap<&str, &Sibling> =
            revision.siblings.iter().map(|sibling| (sibling.rfilename.as_str(), sibling)).collect();
        let dir = format!("{owner}/{name}/{}", revision.sha);
        let file = |path: String| {
            self.remote_file(&format!("{owner}/{name}"), &revision.sha, siblings.get(path.as_str()), path)
        };
        let files = chosen.into_iter().map(file).collect::<Result<_, _>>()?;
        let resolved = format!("hf:{owner}/{name}@{}:{first}", revision.sha).parse();
        let resolved =
            resolved.map_err(|error| self.unusable(format!("{first:?} cannot be named: {error}")))?;
        Ok(Resolution { resolved, dir, files })
    }

    /// What was decided elsewhere, without asking the hub: it only tells where the files are.
    pub(crate) fn pinned(&self, pinned: &Pinned) -> Result<Resolution, StoreError> {
        let illegal = |reason: String| StoreError::Pin { resolved: pinned.resolved.clone(), reason };
        let ModelRef::Hub { owner, name, revision: Some(commit), file: Some(first) } =
            ModelRef::from(&pinned.resolved)
        else {
            return Err(illegal("it names no revision and file of a hub".to_owned()));
        };
        if !is_commit(&commit) {
            return Err(illegal(format!("{commit:?} is no commit")));
        }
        if pinned.files.first().is_none_or(|file| *file.path != *first) {
            return Err(illegal(format!("its first file is not {first}")));
        }
        let file = |file: &ModelFile| {
            // What may stand in a reference leads nowhere but below the repository.
            let reference = format!("hf:{owner}/{name}@{commit}:{}", file.path);
            reference.parse::<ModelRef>().map_err(|error| illegal(format!("{:?}: {error}", file.path)))?;
            let url = self.url(&format!("{owner}/{name}"), &commit, &file.path)?;
            let path = file.path.clone();
            Ok(RemoteFile { path, sha256: file.digest, url, bytes: Some(file.bytes) })
        };
        Ok(Resolution {
            resolved: pinned.resolved.clone(),
            dir: format!("{owner}/{name}/{commit}"),
            files: pinned.files.iter().map(file).collect::<Result<_, StoreError>>()?,
        })
    }

    fn url(&self, repository: &str, commit: &str, path: &str) -> Result<Uri, StoreError> {
        let url = format!("{}/{repository}/resolve/{commit}/{path}", self.base).parse();
        url.map_err(|_| self.unusable(format!("{path:?} cannot stand in a URL")))
    }

    fn remote_file(
        &self,
        repository: &str,
        commit: &str,
        sibling: Option<&&Sibling>,
        path: String,
    ) -> Result<RemoteFile, StoreError> {
        let lfs = sibling.and_then(|sibling| sibling.lfs.as_ref());
        let sha256 = lfs.and_then(|lfs| lfs.sha256.parse().ok());
        // Without one a damaged file could not be told from a whole one.
        let sha256 = sha256.ok_or_else(|| self.unusable(format!("it gives no SHA-256 of {path}")))?;
        let url = self.url(repository, commit, &path)?;
        let bytes = lfs.and_then(|lfs| lfs.size).or_else(|| sibling.and_then(|sibling| sibling.size));
        Ok(RemoteFile { sha256, url, bytes, path })
    }

    async fn get(&self, model: &ModelRef, path: &str) -> Result<Answer, StoreError> {
        let url: Uri = format!("{}{path}", self.base).parse().map_err(|_| StoreError::NotFound {
            model: model.clone(),
            reason: "its name makes no URL".into(),
        })?;
        let ask = Ask { bearer: self.token.as_ref(), from: None, to: None, whom: Whom::Hub };
        let answer = self.web.get(&url, ask).await.map_err(|reason| self.unusable(reason))?;
        match answer.status {
            status if status.is_success() => Ok(answer),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::NOT_FOUND => {
                let hint =
                    if self.token.is_some() { "" } else { "; if it is private or gated, set HF_TOKEN" };
                let reason = format!("{} answered {}{hint}", self.base, answer.status);
                Err(StoreError::NotFound { model: model.clone(), reason })
            }
            status => Err(self.unusable(format!("it answered {status}"))),
        }
    }

    /// The hub's own token goes along with requests to it.
    pub(crate) const fn token(&self) -> Option<&Token> {
        self.token.as_ref()
    }

    fn unusable(&self, reason: String) -> StoreError {
        StoreError::Source { source_name: self.base.clone(), reason }
    }
}
