//! What the owner of a machine can set: `hive.toml`, then `RBEE_HIVE_*`, read once into one resolved form.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use figment::{
    Figment,
    providers::{Env, Format, Serialized, Toml},
};
use fleet::{DeviceKind, Token};
use serde::{Deserialize, Serialize};

use crate::hf_cache;

/// Environment variables that are settings. Others of the prefix, such as `RBEE_HIVE_LOG`, are not looked at.
const ENVIRONMENT: &[&str] = &[
    "models_dir",
    "hf_cache",
    "hub_url",
    "context",
    "slots",
    "drain_s",
    "load_stall_s",
    "orphan_lease_s",
    "log_cap_mb",
];

/// As written. Every field has a default, an unknown one is a fault.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    models_dir: Option<PathBuf>,
    file_dirs: Option<Vec<PathBuf>>,
    hf_cache: Option<PathBuf>,
    hub_url: String,
    context: Option<u32>,
    slots: u32,
    drain_s: u64,
    load_stall_s: u64,
    orphan_lease_s: Option<u64>,
    log_cap_mb: u64,
    #[serde(default)]
    engine: Vec<RawEngine>,
}

impl Default for Raw {
    fn default() -> Self {
        Self {
            models_dir: None,
            file_dirs: None,
            hf_cache: None,
            hub_url: "https://huggingface.co".to_owned(),
            context: None,
            slots: 1,
            drain_s: 30,
            load_stall_s: 300,
            orphan_lease_s: None,
            log_cap_mb: 16,
            engine: Vec::new(),
        }
    }
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawEngine {
    name: String,
    command: Vec<String>,
    #[serde(default = "health_path")]
    health: String,
    #[serde(default = "any_device")]
    devices: Vec<DeviceKind>,
    #[serde(default)]
    running_usage: Option<String>,
    #[serde(default)]
    chat_prefill: Option<String>,
    #[serde(default)]
    env: BTreeMap<String, String>,
}

fn health_path() -> String {
    "/health".to_owned()
}

fn any_device() -> Vec<DeviceKind> {
    vec![DeviceKind::Cuda, DeviceKind::Metal, DeviceKind::Rocm, DeviceKind::Vulkan, DeviceKind::Cpu]
}

/// What a hive goes by.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where model files are kept.
    pub models_dir: PathBuf,
    /// Directories besides it that `file:` references may point into.
    pub file_dirs: Vec<PathBuf>,
    /// The Hugging Face cache whose models are used where they lie; `None` is not to look for one.
    pub hf_cache: Option<PathBuf>,
    /// Where `hf:` references are resolved.
    pub hub_url: String,
    /// `HF_TOKEN` of the environment, for private and gated repositories.
    pub hub_token: Option<Token>,
    /// Context of one slot when a spawn names none, in tokens; never more than the model was trained for. Without it, the largest that
    /// fits into the memory that is free.
    pub context: Option<u32>,
    /// Slots when a spawn names none.
    pub slots: u32,
    /// How long running requests may take to finish when something is stopped.
    pub drain: Duration,
    /// How long a loading engine may show no sign of progress.
    pub load_stall: Duration,
    /// After how long without a word from a queen the hive ends itself; `None` is never.
    pub orphan_lease: Option<Duration>,
    /// Size from which on a log file is cut, in bytes.
    pub log_cap: u64,
    /// Engines of the owner, preferred in this order over those that are found.
    pub engines: Vec<EngineSetting>,
}

/// One `[[engine]]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EngineSetting {
    /// How requests name it.
    pub name: String,
    /// Program and arguments, with placeholders.
    pub command: Vec<String>,
    /// Path that answers 200 once it takes requests.
    pub health: String,
    /// Kinds of device that it can use, preferred first.
    pub devices: Vec<DeviceKind>,
    /// The request option for running token counts.
    pub running_usage: Option<String>,
    /// How it is made to go on with a message of the assistant.
    pub chat_prefill: Option<String>,
    /// Variables added to its environment.
    pub env: BTreeMap<String, String>,
}

/// Every fault of the configuration at once, one per line.
#[derive(Debug, thiserror::Error)]
#[error("{}", .0.join("\n"))]
pub struct SettingsError(pub Vec<String>);

/// Who can reach the hive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// Processes of its own machine.
    Machine,
    /// Other machines, too.
    Network,
}

impl Reach {
    pub(crate) fn of(ip: IpAddr) -> Self {
        if ip.to_canonical().is_loopback() { Self::Machine } else { Self::Network }
    }

    /// Default of `orphan_lease_s`. A queen of the same machine that does not come back was ended for good; one elsewhere may
    /// be cut off for a day, and finds its hives again.
    const fn orphan_lease(self) -> Option<Duration> {
        match self {
            Self::Machine => Some(Duration::from_secs(600)),
            Self::Network => None,
        }
    }
}

impl Settings {
    /// Name of the file in the data directory.
    pub const FILE: &'static str = "hive.toml";

    /// Reads `<data_dir>/hive.toml`, if it is there, and the environment.
    ///
    /// # Errors
    /// All faults at once.
    pub fn read(data_dir: &Path, reach: Reach) -> Result<Self, SettingsError> {
        let figment = Figment::from(Serialized::defaults(Raw::default()))
            .merge(Toml::file_exact_if_there(&data_dir.join(Self::FILE)))
            .merge(Env::prefixed("RBEE_HIVE_").only(ENVIRONMENT));
        let raw: Raw = figment
            .extract()
            .map_err(|errors| SettingsError(errors.into_iter().map(|error| error.to_string()).collect()))?;
        Self::resolve(raw, data_dir, reach)
    }

    fn resolve(raw: Raw, data_dir: &Path, reach: Reach) -> Result<Self, SettingsError> {
        let mut faults = Vec::new();
        let mut at_least_one = |name: &str, value: u64| {
            if value == 0 {
                faults.push(format!("{name} must be at least 1"));
            }
        };
        at_least_one("context", raw.context.map_or(1, u64::from));
        at_least_one("slots", raw.slots.into());
        at_least_one("load_stall_s", raw.load_stall_s);
        at_least_one("log_cap_mb", raw.log_cap_mb);
        if !raw.hub_url.starts_with("https://") && !raw.hub_url.starts_with("http://") {
            faults.push(format!("hub_url {:?} must start with https:// or http://", raw.hub_url));
        }
        let home = std::env::var_os("HOME").map(PathBuf::from);
        let file_dirs = raw.file_dirs.unwrap_or_else(|| home.into_iter().collect());
        let hf_cache = match raw.hf_cache {
            Some(off) if off == Path::new("off") => None,
            Some(dir) => Some(dir),
            None => hf_cache::of_environment(|name| std::env::var_os(name)),
        };
        let relative =
            raw.models_dir.iter().chain(&file_dirs).chain(&hf_cache).filter(|dir| !dir.is_absolute());
        faults.extend(relative.map(|dir| format!("{} must be an absolute path", dir.display())));
        let engines = engines(raw.engine, &mut faults);
        let hub_token = std::env::var("HF_TOKEN").ok().filter(|text| !text.is_empty()).and_then(|text| {
            let token =
                text.parse().map_err(|error: fleet::TokenError| faults.push(format!("HF_TOKEN: {error}")));
            token.ok()
        });
        if !faults.is_empty() {
            return Err(SettingsError(faults));
        }
        Ok(Self {
            models_dir: raw.models_dir.unwrap_or_else(|| data_dir.join("models")),
            file_dirs,
            hf_cache,
            hub_url: raw.hub_url.trim_end_matches('/').to_owned(),
            hub_token,
            context: raw.context,
            slots: raw.slots,
            drain: Duration::from_secs(raw.drain_s),
            load_stall: Duration::from_secs(raw.load_stall_s),
            orphan_lease: match raw.orphan_lease_s {
                None => reach.orphan_lease(),
                Some(0) => None,
                Some(seconds) => Some(Duration::from_secs(seconds)),
            },
            log_cap: raw.log_cap_mb.saturating_mul(1024 * 1024),
            engines,
        })
    }
}

fn engines(raw: Vec<RawEngine>, faults: &mut Vec<String>) -> Vec<EngineSetting> {
    let mut names = std::collections::BTreeSet::new();
    for engine in &raw {
        let name = &engine.name;
        if name.is_empty()
            || !name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
        {
            faults.push(format!("engine name {name:?} may hold letters, digits, `.`, `_` and `-`"));
        }
        if !names.insert(name.clone()) {
            faults.push(format!("engine {name:?} is there twice"));
        }
        if engine.command.is_empty() {
            faults.push(format!("engine {name:?} has an empty command"));
        }
        if !engine.command.iter().chain(engine.env.values()).any(|word| word.contains("{port}")) {
            faults.push(format!("engine {name:?}: neither its command nor its env says {{port}}"));
        }
        if !engine.health.starts_with('/') {
            faults.push(format!("engine {name:?}: health must be a path"));
        }
        if engine.devices.is_empty() {
            faults.push(format!("engine {name:?} has no devices"));
        }
    }
    let setting = |engine: RawEngine| EngineSetting {
        name: engine.name,
        command: engine.command,
        health: engine.health,
        devices: engine.devices,
        running_usage: engine.running_usage,
        chat_prefill: engine.chat_prefill,
        env: engine.env,
    };
    raw.into_iter().map(setting).collect()
}

/// A missing file is fine, one that cannot be read is not: figment's own `file` takes both for an empty one.
trait FileIfThere {
    fn file_exact_if_there(path: &Path) -> figment::providers::Data<Toml>;
}

impl FileIfThere for Toml {
    fn file_exact_if_there(path: &Path) -> figment::providers::Data<Toml> {
        if path.exists() { Toml::file_exact(path) } else { Toml::string("") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Settings, SettingsError> {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(Settings::FILE), text).unwrap();
        Settings::read(dir.path(), Reach::Machine)
    }

    #[test]
    fn a_missing_file_means_the_defaults() {
        let dir = tempfile::tempdir().unwrap();
        let settings = Settings::read(dir.path(), Reach::Machine).unwrap();
        assert_eq!(settings.models_dir, dir.path().join("models"));
        assert_eq!(settings.drain, Duration::from_secs(30));
        assert_eq!(settings.orphan_lease, Some(Duration::from_secs(600)));
        assert_eq!(Settings::read(dir.path(), Reach::Network).unwrap().orphan_lease, None);
    }

    #[test]
    fn all_faults_are_told_at_once() {
        let text = "context = 0\nhub_url = \"ftp://x\"\n[[engine]]\nname = \"v v\"\ncommand = [\"vllm\"]\ndevices = []\n";
        let SettingsError(faults) = read(text).unwrap_err();
        assert_eq!(faults.len(), 5, "{faults:?}");
    }

    #[test]
    fn the_hugging_face_cache_is_chosen_or_turned_off() {
        assert_eq!(read("hf_cache = \"off\"\n").unwrap().hf_cache, None);
        let chosen = read("hf_cache = \"/data/hub\"\n").unwrap().hf_cache;
        assert_eq!(chosen, Some("/data/hub".into()));
        let error = read("hf_cache = \"hub\"\n").unwrap_err().to_string();
        assert_eq!(error, "hub must be an absolute path");
    }

    #[test]
    fn an_unknown_key_is_named() {
        let error = read("modelsdir = \"/x\"\n").unwrap_err().to_string();
        assert!(error.contains("modelsdir"), "{error}");
    }

    #[test]
    fn an_engine_needs_no_more_than_a_name_and_a_command() {
        let settings = read("[[engine]]\nname = \"vllm\"\ncommand = [\"vllm\", \"serve\", \"{model}\", \"--port\", \"{port}\"]\n")
            .unwrap();
        assert_eq!(settings.engines[0].health, "/health");
        assert_eq!(settings.engines[0].devices[0], DeviceKind::Cuda);
    }
}
