//! `workers.json`: which processes are this hive's, for whoever comes after it.
//!
//! A worker is written down before its engine is started, under a mark that the engine then carries in its environment,
//! and again once its process is known. A hive that dies between the two leaves a process that its successor finds by the
//! mark; one that dies before leaves an entry without a process, which means nothing.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use fleet::{DeviceSelector, Digest, ModelRef, ProcessIdentity, Resolved, WorkerId};
use process::Process;
use serde::{Deserialize, Serialize};

use crate::{StartError, engine::Dialect};

/// The environment variable that carries the mark.
pub(crate) const MARK: &str = "RBEE_WORKER_MARK";

/// What a successor needs to know of a worker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct JournalEntry {
    pub(crate) worker_id: WorkerId,
    /// Unique for ever.
    pub(crate) mark: String,
    /// Absent until it was started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) process: Option<ProcessIdentity>,
    pub(crate) port: u16,
    pub(crate) log: PathBuf,
    pub(crate) model_ref: ModelRef,
    pub(crate) resolved: Resolved,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) digest: Option<Digest>,
    pub(crate) engine: String,
    pub(crate) dialect: Dialect,
    pub(crate) health: String,
    /// Whether its list of models has to name the model.
    pub(crate) told_the_name: bool,
    pub(crate) device: DeviceSelector,
    pub(crate) context: u32,
    pub(crate) slots: u32,
}

impl JournalEntry {
    /// Its process, if that lives.
    pub(crate) fn find(&self) -> Option<Process> {
        let open = |identity: &ProcessIdentity| Process::open(identity).ok().flatten();
        match &self.process {
            Some(identity) => open(identity),
            None => process::find_marked(MARK, &self.mark).first().and_then(open),
        }
    }
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct File {
    workers: Vec<JournalEntry>,
}

/// The journal of a data directory. Clones write to the same file.
#[derive(Debug, Clone)]
pub(crate) struct Journal {
    path: PathBuf,
    entries: Arc<Mutex<BTreeMap<WorkerId, JournalEntry>>>,
}

impl Journal {
    /// Reads what a predecessor left; blocks. A journal that cannot be read is an error: to go on without it would leave
    /// its workers to nobody.
    pub(crate) fn open(data_dir: &Path) -> Result<Self, StartError> {
        let path = data_dir.join("workers.json");
        let failed = |source| StartError::Io { action: "read", path: path.clone(), source };
        let file: File = match std::fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text).map_err(|error| failed(error.into()))?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => File::default(),
            Err(error) => return Err(failed(error)),
        };
        let entries = file.workers.into_iter().map(|entry| (entry.worker_id.clone(), entry)).collect();
        Ok(Self { path, entries: Arc::new(Mutex::new(entries)) })
    }

    pub(crate) fn entries(&self) -> Vec<JournalEntry> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// Writes an entry, over the one of the same worker. Durable when it returns.
    pub(crate) async fn put(&self, entry: JournalEntry) -> std::io::Result<()> {
        self.change(move |entries| {
            entries.insert(entry.worker_id.clone(), entry);
        })
        .await
    }

    pub(crate) async fn remove(&self, worker: WorkerId) -> std::io::Result<()> {
        self.change(move |entries| {
            entries.remove(&worker);
        })
        .await
    }

    async fn change(
        &self,
        change: impl FnOnce(&mut BTreeMap<WorkerId, JournalEntry>) + Send + 'static,
    ) -> std::io::Result<()> {
        let journal = self.clone();
        let writing = tokio::task::spawn_blocking(move || {
            // Held over the write, so that files come in the order of changes.
            let mut entries = journal.entries.lock().unwrap_or_else(PoisonError::into_inner);
            change(&mut entries);
            let file = File { workers: entries.values().cloned().collect() };
            durable_file::replace(&journal.path, &serde_json::to_vec_pretty(&file)?)
        });
        writing.await.map_err(std::io::Error::other)?
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(crate) fn entry(id: &str) -> JournalEntry {
        JournalEntry {
            worker_id: id.parse().unwrap(),
            mark: format!("l-1.{id}"),
            process: None,
            port: 1,
            log: "/log".into(),
            model_ref: "file:/m.gguf".parse().unwrap(),
            resolved: "file:/m.gguf".parse().unwrap(),
            digest: None,
            engine: "e".into(),
            dialect: Dialect::Plain,
            health: "/health".into(),
            told_the_name: false,
            device: "cpu:0".parse().unwrap(),
            context: 1,
            slots: 1,
        }
    }

    #[tokio::test]
    async fn a_successor_reads_what_was_written() {
        let dir = tempfile::tempdir().unwrap();
        let journal = Journal::open(dir.path()).unwrap();
        journal.put(entry("w-1")).await.unwrap();
        let started = JournalEntry { process: Some(process::own().unwrap()), ..entry("w-2") };
        journal.put(started.clone()).await.unwrap();
        journal.remove("w-1".parse().unwrap()).await.unwrap();
        let successor = Journal::open(dir.path()).unwrap();
        assert_eq!(successor.entries(), [started]);
        assert!(successor.entries()[0].find().is_some());
    }

    #[test]
    fn an_unreadable_journal_is_no_empty_one() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("workers.json"), "{").unwrap();
        assert!(Journal::open(dir.path()).is_err());
    }

    #[test]
    fn an_entry_without_a_process_and_without_a_mark_means_nothing() {
        assert!(entry("w-1").find().is_none());
    }
}
