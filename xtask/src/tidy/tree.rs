//! The files of the workspace.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use anyhow::Context as _;

/// Folders that are not source.
const SKIPPED: &[&str] = &["target", ".git", "node_modules"];

/// Every file below the root, by its path from there. Files that are not text are empty here.
#[derive(Debug, Default)]
pub(super) struct Tree {
    pub(super) files: BTreeMap<PathBuf, String>,
}

impl Tree {
    pub(super) fn read(root: &Path) -> anyhow::Result<Self> {
        let mut tree = Self::default();
        tree.read_folder(root, Path::new(""))?;
        Ok(tree)
    }

    fn read_folder(&mut self, root: &Path, folder: &Path) -> anyhow::Result<()> {
        let whole = root.join(folder);
        let entries = fs::read_dir(&whole).with_context(|| format!("could not list {}", whole.display()))?;
        for entry in entries {
            let entry = entry?;
            let (name, path) = (entry.file_name(), folder.join(entry.file_name()));
            let kind = entry.file_type()?;
            if SKIPPED.iter().any(|skipped| name == *skipped) {
                continue;
            }
            if kind.is_dir() {
                self.read_folder(root, &path)?;
            } else if kind.is_file() {
                // A file may vanish while somebody edits it.
                let bytes = fs::read(root.join(&path)).unwrap_or_default();
                self.files.insert(path, String::from_utf8(bytes).unwrap_or_default());
            }
        }
        Ok(())
    }

    pub(super) fn text(&self, path: impl AsRef<Path>) -> Option<&str> {
        self.files.get(path.as_ref()).map(String::as_str)
    }

    /// The folders of the packages: those below the root that hold a manifest.
    pub(super) fn packages(&self) -> impl Iterator<Item = &Path> {
        let manifests = self.files.keys().filter(|path| path.file_name().is_some_and(|n| n == "Cargo.toml"));
        manifests.filter_map(|path| path.parent()).filter(|folder| !folder.as_os_str().is_empty())
    }

    pub(super) fn rust(&self) -> impl Iterator<Item = (&Path, &str)> {
        let rust = self.files.iter().filter(|(path, _)| path.extension().is_some_and(|e| e == "rs"));
        rust.map(|(path, text)| (path.as_path(), text.as_str()))
    }
}

#[cfg(test)]
impl<const N: usize> From<[(&str, &str); N]> for Tree {
    fn from(files: [(&str, &str); N]) -> Self {
        Self { files: files.into_iter().map(|(path, text)| (path.into(), text.to_owned())).collect() }
    }
}
