//! What machine it is, and whether a hive runs there.

use std::{fmt, time::Duration};

use fleet::{DeviceKind, Hostname, Target};
use hive_api::HiveFile;

use crate::{
    Disk, Settings, SshError,
    remote::Remote,
    script::{Answer, Script},
};

/// What a look at a machine found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Machine {
    /// Its kind, if hives run on it.
    pub target: Option<Target>,
    /// Its operating system, as `uname -s` says.
    pub system: String,
    /// Its processor, as `uname -m` says.
    pub arch: String,
    /// Its C library with the version, if that was found: `gnu 2.36`, `musl`.
    pub libc: Option<String>,
    /// The account that was logged in to.
    pub user: String,
    /// Its home directory.
    pub home: String,
    /// The hive's directory, as an absolute path.
    pub dir: String,
    /// Signs of devices that compute, one line each. The hive probes them itself; this is for people.
    pub gpus: Vec<String>,
    /// Free bytes where the directory is, or would be.
    pub free_bytes: Option<u64>,
    /// What speaks against the directory.
    pub disk: Option<Disk>,
    /// Whether the machine ends everything that was started in a session when that session ends.
    pub kills_sessions: bool,
    /// The hive that runs there.
    pub running: Option<HiveFile>,
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.target {
            Some(target) => write!(f, "{target}")?,
            None => write!(f, "{} on {}", self.system, self.arch)?,
        }
        if let Some(libc) = &self.libc {
            write!(f, ", {libc}")?;
        }
        self.gpus.iter().try_for_each(|gpu| write!(f, ", {gpu}"))?;
        if let Some(free) = self.free_bytes {
            write!(f, ", {} GB free", free / 1_000_000_000)?;
        }
        if self.kills_sessions {
            write!(
                f,
                "; it ends everything at logout (KillUserProcesses=yes in logind.conf), the hive too: add {} to \
                 KillExcludeUsers there",
                self.user
            )?;
        }
        Ok(())
    }
}

/// What stands before every script that knows the hive's directory.
const BASE: &str = include_str!("scripts/base.sh");

/// A script about the hive's directory.
pub(crate) fn about(dir: &str, text: &'static str) -> Script {
    Script::new(BASE).with("dir", dir).then(text)
}

/// A script that looks whether a hive runs. It waits for the end of a start that is under way.
pub(crate) fn looking(settings: &Settings, text: &'static str) -> Script {
    let patience = if planted::bug("looks-too-early") { Duration::ZERO } else { settings.patience.listen };
    about(settings.dir.as_str(), text).with("listen", patience.as_secs().to_string())
}

/// The hive that `hive.json` names, if it lives.
pub(crate) fn living(
    host: &Hostname,
    doing: &'static str,
    answer: &Answer,
) -> Result<Option<HiveFile>, SshError> {
    let Some(text) = answer.get("hive") else { return Ok(None) };
    let Some(alive) = answer.number("alive") else { return Ok(None) };
    let wrong = || SshError::Answer { host: host.clone(), doing, field: "hive" };
    let file = HiveFile::parse(text).map_err(|_| wrong())?;
    // The script read the same file with simpler means; what it looked at must be what the file means.
    if u64::from(file.process.pid) == alive { Ok(Some(file)) } else { Err(wrong()) }
}

const LOOKING: &str = "look at the machine";

impl Machine {
    /// Kinds of device that there are signs of.
    #[must_use]
    pub fn devices(&self) -> Vec<DeviceKind> {
        let kinds = [DeviceKind::Cuda, DeviceKind::Metal, DeviceKind::Rocm, DeviceKind::Vulkan];
        let is_there =
            |kind: &DeviceKind| self.gpus.iter().any(|gpu| gpu.ends_with(&format!("({})", kind.as_str())));
        kinds.into_iter().filter(is_there).collect()
    }

    pub(crate) async fn probe(remote: &Remote, settings: &Settings) -> Result<Self, SshError> {
        let script = looking(settings, include_str!("scripts/probe.sh"));
        let answer = remote.ask(LOOKING, settings.patience.look(), script).await?;
        Self::read(&remote.to.host, &answer)
    }

    fn read(host: &Hostname, answer: &Answer) -> Result<Self, SshError> {
        let wanted = |field: &'static str| {
            let value = answer.get(field).map(str::to_owned).filter(|value| !value.is_empty());
            value.ok_or_else(|| SshError::Answer { host: host.clone(), doing: LOOKING, field })
        };
        let (system, arch) = (wanted("system")?, wanted("machine")?);
        let has =
            |option: &str| answer.get("mount").is_some_and(|all| all.split(',').any(|one| one == option));
        let disk = [
            (has("ro"), Disk::ReadOnly),
            (has("noexec"), Disk::NoExec),
            (answer.get("denied").is_some(), Disk::Denied),
        ];
        Ok(Self {
            target: Target::of(&system, &arch),
            libc: answer.get("libc").map(str::to_owned),
            user: wanted("user")?,
            home: wanted("home")?,
            dir: wanted("dir")?,
            gpus: answer.all("gpu").map(str::to_owned).collect(),
            free_bytes: answer.number("free_kb").map(|kb| kb.saturating_mul(1024)),
            disk: disk.into_iter().find_map(|(is_so, disk)| is_so.then_some(disk)),
            kills_sessions: answer.get("kills").is_some(),
            running: living(host, LOOKING, answer)?,
            system,
            arch,
        })
    }
}
