//! Another machine with nothing but an SSH server: this one, with a directory of its own for what is brought there.

use std::path::{Path, PathBuf};

use fleet::ProcessIdentity;
use throwaway_sshd::Sshd;

use crate::{ports, strays};

/// What the queen calls the hive there.
pub(crate) const BOX: &str = "box";

/// The machine. Its hive is found and ended as all that lies below the fleet's folder.
pub(crate) struct OtherMachine {
    pub(crate) sshd: Sshd,
    /// All that the queen brings there.
    pub(crate) dir: PathBuf,
}

impl OtherMachine {
    pub(crate) fn start(folder: &Path) -> anyhow::Result<Self> {
        Ok(Self { sshd: Sshd::start(&[])?, dir: folder.join("box/rbee-hive") })
    }

    /// Its part of the queen's configuration.
    pub(crate) fn entry(&self) -> anyhow::Result<String> {
        Ok(format!(
            "[ssh]\ndir = {:?}\n[[hive]]\nid = \"{BOX}\"\nhostname = \"127.0.0.1\"\nmode = \"network\"\nport = {}\n\
             ssh_port = {}\nssh_key = {:?}\nhost_key = {:?}",
            self.dir,
            ports::free()?,
            self.sshd.port(),
            self.sshd.client_key(),
            self.sshd.host_key()?.trim(),
        ))
    }

    /// Every hive that runs there, whoever knows of it.
    pub(crate) fn hives(&self) -> Vec<ProcessIdentity> {
        let running = strays::below(&self.dir).into_iter();
        running.filter(|s| s.command.contains("--data-dir")).map(|s| s.identity).collect()
    }

    /// Files that were begun and are not whole.
    pub(crate) fn partial(&self) -> Vec<PathBuf> {
        let entries = ["files", "bin"].map(|place| std::fs::read_dir(self.dir.join(place)));
        let paths = entries.into_iter().flatten().flatten().flatten().map(|entry| entry.path());
        paths.filter(|path| path.extension().is_some_and(|extension| extension == "tmp")).collect()
    }
}
