//! The store itself.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use fleet::{Digest, ModelRef, Resolved, StoreId, StoredModel};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    Download, Header, StoreError, StoreSettings,
    blob::Grants,
    digest,
    downloads::Downloads,
    header,
    hf_cache::{self, HfCache},
    hub::{Hub, Resolution, is_projector},
    index::{Entry, FileEntry, Index},
    local,
    remote::Resolutions,
    taking_up::Proofs,
    web::Web,
};

/// Something that changed, for the one listener.
#[derive(Debug, Clone, PartialEq)]
pub enum StoreChange {
    /// A model came, or its digest became known.
    Model(StoredModel),
    /// A model left.
    ModelRemoved(StoredModel),
    /// A transfer is new or got further; at most four times a second.
    Download(Download),
}

/// A model and the file that an engine opens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Located {
    /// The model.
    pub model: StoredModel,
    /// Its first file.
    pub path: PathBuf,
    /// What projects images or sounds for it, if it came with that.
    pub projector: Option<PathBuf>,
}

type Listener = Arc<dyn Fn(StoreChange) + Send + Sync>;

/// The models of one machine. Cheap to clone; all clones are the same store.
#[derive(Clone)]
pub struct ModelStore {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) settings: StoreSettings,
    id: StoreId,
    index: Index,
    entries: Mutex<BTreeMap<Resolved, Entry>>,
    /// Whose digests are being computed.
    hashing: Mutex<BTreeSet<Resolved>>,
    pub(crate) cache: Option<HfCache>,
    proofs: Mutex<Proofs>,
    /// Models of which the cache lacks a part.
    partial: Mutex<BTreeSet<Resolved>>,
    listener: Listener,
    pub(crate) web: Web,
    pub(crate) hub: Hub,
    pub(crate) resolutions: Resolutions,
    pub(crate) downloads: Downloads,
    pub(crate) grants: Grants,
    pub(crate) tasks: TaskTracker,
    pub(crate) closing: CancellationToken,
}

impl std::fmt::Debug for ModelStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ModelStore").field("dir", &self.inner.settings.dir).finish_non_exhaustive()
    }
}

impl ModelStore {
    /// Opens the store in its directory, which is made if it is not there, and drops from the index what is no longer on
    /// disk. Must run within a tokio runtime.
    ///
    /// # Errors
    /// When the directory cannot be read or written.
    pub async fn open(
        settings: StoreSettings,
        listener: impl Fn(StoreChange) + Send + Sync + 'static,
    ) -> Result<Self, StoreError> {
        let opened = tokio::task::spawn_blocking(move || open(settings, Arc::new(listener)));
        opened.await.map_err(|_| StoreError::Closing)?
    }

    /// Identity of the directory, the same for all hives that share it.
    #[must_use]
    pub fn id(&self) -> &StoreId {
        &self.inner.id
    }

    /// The store's directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.inner.settings.dir
    }

    /// Everything that is complete, by resolution.
    #[must_use]
    pub fn models(&self) -> Vec<StoredModel> {
        self.inner.entries().values().map(Entry::stored).collect()
    }

    /// The model that a reference stands for, if it is here. A `file:` model is taken up on first sight.
    ///
    /// # Errors
    /// When it is not here, may not be read, or is no model.
    pub async fn locate(&self, model: &ModelRef) -> Result<Located, StoreError> {
        let (inner, model) = (Arc::clone(&self.inner), model.clone());
        let entry = self.blocking(move || inner.find(&model)).await?;
        self.complete_digests(&entry);
        Ok(self.located(&entry))
    }

    /// The header of a model that is here.
    ///
    /// # Errors
    /// As [`ModelStore::locate`].
    pub async fn header(&self, model: &ModelRef) -> Result<Header, StoreError> {
        let (inner, model) = (Arc::clone(&self.inner), model.clone());
        let entry = self.blocking(move || inner.find(&model)).await?;
        self.complete_digests(&entry);
        let Located { model, path, .. } = self.located(&entry);
        let (info, _) = self.blocking(move || header::read(&path)).await?;
        let StoredModel { resolved, bytes, .. } = model;
        Ok(Header { resolved, files: entry.sources(), bytes, info })
    }

    /// Removes a model and its files; one of `file:` is only forgotten.
    ///
    /// # Errors
    /// When it is not here, when `in_use` says so, when it lies in the Hugging Face cache, or when a file cannot be removed.
    pub async fn delete(
        &self,
        model: &ModelRef,
        in_use: impl Fn(&Resolved) -> bool + Send + 'static,
    ) -> Result<(), StoreError> {
        let (inner, model) = (Arc::clone(&self.inner), model.clone());
        self.blocking(move || inner.delete(&model, in_use)).await
    }

    /// Ends what runs in the background and waits for it.
    pub async fn close(&self) {
        self.inner.closing.cancel();
        self.inner.tasks.close();
        self.inner.tasks.wait().await;
    }

    fn located(&self, entry: &Entry) -> Located {
        let first = entry.files.first().map(|file| file.path.clone()).unwrap_or_default();
        let projects =
            |file: &&FileEntry| file.path.file_name().is_some_and(|n| is_projector(&n.to_string_lossy()));
        let projector = entry.files.iter().skip(1).find(projects);
        Located {
            model: entry.stored(),
            path: self.inner.settings.dir.join(first),
            projector: projector.map(|file| self.inner.settings.dir.join(&file.path)),
        }
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        // It fails only when the work panicked or the runtime ends.
        self.inner.tasks.spawn_blocking(work).await.map_err(|_| StoreError::Closing)?
    }

    /// Computes what digests are missing, in the background.
    fn complete_digests(&self, entry: &Entry) {
        if entry.files.iter().all(|file| file.sha256.is_some()) {
            return;
        }
        let (inner, resolved) = (Arc::clone(&self.inner), entry.resolved.clone());
        let is_first = inner.hashing().insert(resolved.clone());
        if !is_first {
            return;
        }
        self.inner.tasks.spawn_blocking(move || {
            if let Err(error) = inner.complete_digests(&resolved) {
                tracing::warn!(model = %resolved, %error, "could not compute a model's digest");
            }
            inner.hashing().remove(&resolved);
        });
    }
}

fn open(settings: StoreSettings, listener: Listener) -> Result<ModelStore, StoreError> {
    let dir = &settings.dir;
    durable_file::create_private_directory(dir).map_err(StoreError::io("create", dir))?;
    let id = store_id(&dir.join("store-id"))?;
    let index = Index::open(dir.join("index"))?;
    let cache = settings.hf_cache.clone().map(HfCache::new);
    let is_ours = |entry: &Entry| {
        let root = cache.as_ref().map(HfCache::root);
        let mut cached = entry.files.iter().filter(|file| file.cached.is_some());
        cached.all(|file| root.is_some_and(|root| file.path.starts_with(root)))
    };
    let (current, gone): (Vec<_>, Vec<_>) =
        index.load()?.into_iter().partition(|entry| is_ours(entry) && local::is_current(entry, dir));
    for entry in gone {
        index.remove(&entry.resolved)?;
    }
    let mut entries: BTreeMap<_, _> =
        current.into_iter().map(|entry| (entry.resolved.clone(), entry)).collect();
    for path in local::scan(dir) {
        // A name that no reference can spell could never be asked for.
        let Ok(ModelRef::File(text)) = format!("file:{}", path.display()).parse() else { continue };
        match local::describe(Path::new(&*text), std::slice::from_ref(dir)) {
            Ok(entry) => {
                entries.entry(entry.resolved.clone()).or_insert(entry);
            }
            Err(error) => tracing::warn!(path = &*text, %error, "a file in the model store is not used"),
        }
    }
    let web = Web::new(settings.stall);
    let told = Arc::clone(&listener);
    let inner = Inner {
        id,
        index,
        entries: Mutex::new(entries),
        hashing: Mutex::default(),
        cache,
        proofs: Mutex::default(),
        partial: Mutex::default(),
        listener,
        hub: Hub::new(&settings.hub_url, settings.hub_token.clone(), web.clone()),
        web,
        resolutions: Resolutions::default(),
        downloads: Downloads::new(Arc::new(move |download| told(StoreChange::Download(download.clone())))),
        grants: Grants::default(),
        tasks: TaskTracker::new(),
        closing: CancellationToken::new(),
        settings,
    };
    Ok(ModelStore { inner: Arc::new(inner) })
}

/// Reads the directory's identity, or gives it one.
fn store_id(path: &Path) -> Result<StoreId, StoreError> {
    let read = || std::fs::read_to_string(path).ok()?.trim().parse::<StoreId>().ok();
    if let Some(id) = read() {
        return Ok(id);
    }
    let number =
        getrandom::u64().map_err(|error| StoreError::io("name", path)(std::io::Error::other(error)))?;
    let text = format!("s-{number:016x}");
    durable_file::replace(path, text.as_bytes()).map_err(StoreError::io("write", path))?;
    // Of two hives that open a shared directory at once, both take what the last one wrote.
    read().ok_or_else(|| StoreError::io("read", path)(std::io::ErrorKind::InvalidData.into()))
}

fn not_ours(model: &ModelRef, resolved: &Resolved, path: &Path) -> StoreError {
    let repository = match ModelRef::from(resolved) {
        ModelRef::Hub { owner, name, .. } => format!("{owner}/{name}"),
        ModelRef::File(path) => path.to_string(),
    };
    let dir = hf_cache::repository_of(path).unwrap_or(path).to_owned();
    StoreError::NotOurs { model: model.clone(), repository, dir }
}

impl Inner {
    pub(crate) fn entries(&self) -> MutexGuard<'_, BTreeMap<Resolved, Entry>> {
        // The map is changed by single inserts and removals, so it is whole even if a holder panicked.
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn hashing(&self) -> MutexGuard<'_, BTreeSet<Resolved>> {
        self.hashing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn proofs(&self) -> MutexGuard<'_, Proofs> {
        self.proofs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn partial(&self) -> MutexGuard<'_, BTreeSet<Resolved>> {
        self.partial.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The file of a digest, and its size. What the Hugging Face cache has no more, or has anew, is nobody's.
    pub(crate) fn file_of(&self, digest: &Digest) -> Option<(PathBuf, u64)> {
        let entries = self.entries();
        let mut files = entries.values().flat_map(|entry| &entry.files);
        let is_there = |file: &FileEntry| file.cached.is_none() || local::is_same(file, &self.settings.dir);
        let file = files.find(|file| file.sha256 == Some(*digest) && is_there(file))?;
        Some((self.settings.dir.join(&file.path), file.bytes))
    }

    /// Remembers another name of a model that is here, and tells its size; none if it is not here.
    pub(crate) async fn also_named(
        self: &Arc<Self>,
        model: &ModelRef,
        resolution: &Resolution,
    ) -> Result<Option<u64>, StoreError> {
        let entry = self.entries().get(&resolution.resolved).cloned();
        let Some(mut entry) = entry else { return Ok(None) };
        let (inner, model) = (Arc::clone(self), model.clone());
        let naming = self.tasks.spawn_blocking(move || {
            if !local::is_current(&entry, &inner.settings.dir) {
                inner.forget(&entry)?;
                return Ok(None);
            }
            if !entry.is_named(&model) {
                entry.refs.push(model);
                inner.keep(entry.clone())?;
            }
            Ok(Some(entry.stored().bytes))
        });
        naming.await.map_err(|_| StoreError::Closing)?
    }

    fn find(&self, model: &ModelRef) -> Result<Entry, StoreError> {
        let known = self.entries().values().find(|entry| entry.is_named(model)).cloned();
        if let Some(entry) = known {
            if local::is_current(&entry, &self.settings.dir) {
                return Ok(entry);
            }
            self.forget(&entry)?;
        }
        match model {
            ModelRef::File(path) => {
                let entry = local::describe(Path::new(&**path), &self.readable())?;
                self.keep(entry.clone())?;
                Ok(entry)
            }
            ModelRef::Hub { .. } => {
                Err(StoreError::NotStored { model: model.clone(), store: self.settings.dir.clone() })
            }
        }
    }

    fn readable(&self) -> Vec<PathBuf> {
        let mut dirs = vec![self.settings.dir.clone()];
        dirs.extend(self.settings.file_dirs.iter().cloned());
        dirs
    }

    /// Lets go of models of which a file is not there any more, or is another one; blocks.
    pub(crate) fn forget_gone(&self) -> Result<(), StoreError> {
        let entries: Vec<Entry> =
            self.entries().values().filter(|entry| entry.is_cached()).cloned().collect();
        let gone = entries.iter().filter(|entry| !local::is_current(entry, &self.settings.dir));
        for entry in gone {
            tracing::info!(model = %entry.resolved, "the Hugging Face cache has the model no more");
            self.forget(entry)?;
        }
        Ok(())
    }

    /// Takes up an entry. A name stands for one model, so others that had one of its names lose it.
    pub(crate) fn keep(&self, entry: Entry) -> Result<(), StoreError> {
        self.index.save(&entry)?;
        let stored = entry.stored();
        let renamed: Vec<Entry> = {
            let mut entries = self.entries();
            let others = entries.values_mut().filter(|other| other.resolved != entry.resolved);
            let renamed = others.filter_map(|other| other.lose(&entry.refs).then(|| other.clone())).collect();
            entries.insert(entry.resolved.clone(), entry);
            renamed
        };
        for other in &renamed {
            self.index.save(other)?;
        }
        (self.listener)(StoreChange::Model(stored));
        Ok(())
    }

    pub(crate) fn forget(&self, entry: &Entry) -> Result<(), StoreError> {
        self.index.remove(&entry.resolved)?;
        if self.entries().remove(&entry.resolved).is_some() {
            (self.listener)(StoreChange::ModelRemoved(entry.stored()));
        }
        Ok(())
    }

    fn delete(&self, model: &ModelRef, in_use: impl Fn(&Resolved) -> bool) -> Result<(), StoreError> {
        let entry = self.entries().values().find(|entry| entry.is_named(model)).cloned();
        let entry = entry.ok_or_else(|| StoreError::NotStored {
            model: model.clone(),
            store: self.settings.dir.clone(),
        })?;
        if in_use(&entry.resolved) {
            return Err(StoreError::InUse { model: model.clone() });
        }
        if self.downloads.is_under_way(&entry.resolved) {
            return Err(StoreError::BeingDownloaded { model: model.clone() });
        }
        let cached = entry.files.iter().find(|file| file.cached.is_some());
        if let Some(file) = cached
            && local::is_current(&entry, &self.settings.dir)
        {
            return Err(not_ours(model, &entry.resolved, &file.path));
        }
        self.forget(&entry)?;
        for file in entry.files.iter().filter(|file| file.path.is_relative()) {
            let path = self.settings.dir.join(&file.path);
            durable_file::remove(&path).map_err(StoreError::io("remove", &path))?;
        }
        Ok(())
    }

    fn complete_digests(&self, resolved: &Resolved) -> Result<(), StoreError> {
        let Some(mut entry) = self.entries().get(resolved).cloned() else { return Ok(()) };
        for file in &mut entry.files {
            if file.sha256.is_none() {
                let digest: Digest =
                    digest::of_file(&self.settings.dir.join(&file.path), &self.closing, |_| ())?;
                file.sha256 = Some(digest);
            }
        }
        // The file may have been replaced while it was read; then the digest is nobody's.
        if local::is_current(&entry, &self.settings.dir) { self.keep(entry) } else { Ok(()) }
    }
}
