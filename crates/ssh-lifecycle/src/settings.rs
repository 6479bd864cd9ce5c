//! What a queen or a command line sets.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use engine_store::EngineStore;
use fleet::{EngineSpec, Hostname, Target};

use crate::RemoteDir;

/// Bounds of what is done. Each is of one step, so that what a peer can cost is their sum at most.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// To find the host's address, connect, and agree on keys.
    pub connect: Duration,
    /// To log in, all keys together.
    pub login: Duration,
    /// For the login shell, whatever its start-up files do, until it runs what it is told to.
    pub shell: Duration,
    /// For a short command there: until it says the next thing.
    pub command: Duration,
    /// For an upload, without a byte more of it taken.
    pub stall: Duration,
    /// For a hive, until it listens.
    pub listen: Duration,
    /// For a hive that listens, until it answers here.
    pub reach: Duration,
}

impl Patience {
    /// For a look whether a hive runs there, which waits for one that is being started.
    pub(crate) fn look(&self) -> Duration {
        self.listen + self.command
    }
}

impl Default for Patience {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self {
            connect: seconds(10),
            login: seconds(10),
            shell: seconds(10),
            command: seconds(20),
            stall: seconds(30),
            listen: seconds(20),
            reach: seconds(6),
        }
    }
}

/// How machines are logged in to, and what is brought there.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Directories with hives for other machines: `hives/<os>-<arch>/rbee-hive` or `<os>-<arch>/rbee-hive` below each. The
    /// directory of this program is always looked at too, and counts for machines like this one.
    pub bundle_dirs: Vec<PathBuf>,
    /// The hive's program for a kind of machine; then no other place is looked at for that kind.
    pub binaries: BTreeMap<Target, PathBuf>,
    /// Engines that come along, preferred first.
    pub engines: Vec<EngineSpec>,
    /// Where those are kept that are fetched; without it, none is.
    pub engine_store: Option<EngineStore>,
    /// The one directory of the remote account that everything is kept below.
    pub dir: RemoteDir,
    /// The address that hives listen on.
    pub listen: Hostname,
    /// Settings of the hives that the queen's owner chose, such as `RBEE_HIVE_HUB_URL`. They win over their `hive.toml`.
    pub environment: Vec<(&'static str, String)>,
    /// Instead of `~/.ssh/config`.
    pub ssh_config: Option<PathBuf>,
    /// Instead of the known_hosts files that ssh's configuration names.
    pub known_hosts: Option<Vec<PathBuf>>,
    /// A file of mode 0600 whose first line opens encrypted keys.
    pub passphrase_file: Option<PathBuf>,
    /// Whether keys of a running `ssh-agent` are tried.
    pub agent: bool,
    /// Bounds.
    pub patience: Patience,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            bundle_dirs: Vec::new(),
            binaries: BTreeMap::new(),
            engines: Vec::new(),
            engine_store: None,
            dir: RemoteDir::default(),
            listen: "0.0.0.0".parse().unwrap_or_else(|_| unreachable!("a literal address")),
            environment: Vec::new(),
            ssh_config: None,
            known_hosts: None,
            passphrase_file: None,
            agent: true,
            patience: Patience::default(),
        }
    }
}
