//! The sources, one over the other.

use std::{
    collections::BTreeMap,
    env, io,
    path::{Path, PathBuf},
};

use figment::{
    Error, Figment, Metadata, Profile, Provider,
    providers::{Format, Toml},
    value::{Dict, Map, Value},
};

use crate::{
    fault::{Fault, Origin},
    source::{Part, Source, Trail, mixed},
};

/// What variables of the queen begin with.
pub(crate) const PREFIX: &str = "QUEEN_RBEE_";

/// The variable of the token, which is read apart from all else: it is text whatever it looks like, and it goes nowhere
/// but into the [`fleet::Token`].
pub(crate) const TOKEN: &str = "QUEEN_RBEE_TOKEN";

const VARIABLES: &str = "variables";
const FLAGS: &str = "flags";

/// What was given on the command line. Texts are read here, so that their faults stand beside the others.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Flags {
    /// `--config`: the file to read instead of the usual one. It must be there.
    pub config: Option<PathBuf>,
    /// `--listen`.
    pub listen: Option<String>,
    /// `--data-dir`; a relative path starts at the current directory.
    pub data_dir: Option<PathBuf>,
    /// `--hive-binary`; a relative path starts at the current directory.
    pub hive_binary: Option<PathBuf>,
    /// `--log-filter`.
    pub log_filter: Option<String>,
    /// `--log-format`.
    pub log_format: Option<String>,
}

impl Flags {
    /// The keys that were given, with the flag of each.
    fn given(&self) -> Vec<(&'static str, &'static str, String)> {
        let path = |path: &PathBuf| std::path::absolute(path).unwrap_or(path.clone()).display().to_string();
        [
            ("listen", "--listen", self.listen.clone()),
            ("data_dir", "--data-dir", self.data_dir.as_ref().map(path)),
            ("hive_binary", "--hive-binary", self.hive_binary.as_ref().map(path)),
            ("log.filter", "--log-filter", self.log_filter.clone()),
            ("log.format", "--log-format", self.log_format.clone()),
        ]
        .into_iter()
        .filter_map(|(key, flag, value)| Some((key, flag, value?)))
        .collect()
    }
}

/// What the configuration takes from the process it runs in.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Surroundings {
    /// The environment.
    pub variables: BTreeMap<String, String>,
}

impl Surroundings {
    /// Those of this process. A variable that is not Unicode has replacement characters, which fit no key.
    #[must_use]
    pub fn of_process() -> Self {
        let text = |text: std::ffi::OsString| text.to_string_lossy().into_owned();
        Self { variables: env::vars_os().map(|(name, value)| (text(name), text(value))).collect() }
    }

    fn directory(&self, variable: &str) -> Option<PathBuf> {
        self.variables.get(variable).map(PathBuf::from).filter(|path| path.is_absolute())
    }

    /// The home directory.
    pub(crate) fn home(&self) -> Option<PathBuf> {
        self.directory("HOME")
    }

    /// Where this user's programs keep their data.
    pub(crate) fn data_home(&self) -> Option<PathBuf> {
        self.directory("XDG_DATA_HOME").or_else(|| Some(self.home()?.join(".local/share")))
    }

    fn config_home(&self) -> Option<PathBuf> {
        self.directory("XDG_CONFIG_HOME").or_else(|| Some(self.home()?.join(".config")))
    }
}

impl std::fmt::Debug for Surroundings {
    /// Names only; values may be secrets.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.variables.keys()).finish()
    }
}

/// The sources, merged, and what is needed to say where a value came from.
pub(crate) struct Layers {
    source: Option<Source>,
    merged: Figment,
    flags: Vec<(&'static str, &'static str, String)>,
    /// All values together.
    pub(crate) root: Dict,
}

impl Layers {
    /// Reads the sources. A file that is no TOML leaves nothing to look at, so it is a fault of its own.
    pub(crate) fn read(flags: &Flags, surroundings: &Surroundings) -> Result<Self, Fault> {
        let source = file(flags, surroundings)?;
        let flags = flags.given();
        let text = source.as_ref().map(|source| source.text.as_str()).unwrap_or_default();
        let variables = Layer { name: VARIABLES, data: nested(variables(surroundings)) };
        let given = flags
            .iter()
            .map(|(key, _, value)| (key.split('.').map(str::to_owned).collect(), Value::from(value.clone())));
        let merged = Figment::new()
            .merge(Toml::string(text))
            .merge(variables.clone())
            .merge(Layer { name: FLAGS, data: nested(given) });
        let origin = || match &source {
            Some(source) => Origin::File { path: source.path.clone(), position: None },
            None => Origin::Default,
        };
        if Toml::string(text).data().is_ok_and(|data| is_list(&data)) && variables.data.contains_key("hive") {
            return Err(mixed(origin()));
        }
        let root = merged.find_value("").map_err(|error| Fault {
            origin: origin(),
            key: String::new(),
            problem: format!("cannot be read: {error}"),
            advice: "correct it".to_owned(),
        })?;
        let root = root.into_dict().unwrap_or_default();
        Ok(Self { source, merged, flags, root })
    }

    /// Where a value, or its key, stands.
    pub(crate) fn origin(&self, value: &Value, trail: &Trail, part: Part) -> Origin {
        // A table is a mixture of sources; it stands where the first thing in it does.
        if let Value::Dict(_, dict) = value
            && let Some((name, inner)) = dict.iter().next()
            && self.layer(value).is_none()
        {
            return self.origin(inner, &trail.key(name), Part::Key);
        }
        match (self.layer(value), &self.source) {
            (Some(VARIABLES), _) => Origin::Variable(trail.variable()),
            (Some(FLAGS), _) => {
                let name = trail.dotted();
                let flag = self.flags.iter().find(|(key, ..)| *key == name);
                flag.map_or(Origin::Default, |(_, flag, _)| Origin::Flag(flag))
            }
            (Some(_), Some(source)) => source.origin(trail, part),
            _ => Origin::Default,
        }
    }

    fn layer(&self, value: &Value) -> Option<&str> {
        Some(self.merged.get_metadata(value.tag())?.name.as_ref())
    }
}

fn file(flags: &Flags, surroundings: &Surroundings) -> Result<Option<Source>, Fault> {
    if let Some(path) = &flags.config {
        return Source::read(path).map(Some);
    }
    let Some(directory) = surroundings.config_home() else { return Ok(None) };
    let path = directory.join("queen-rbee/queen.toml");
    match std::fs::metadata(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(_) | Ok(_) => Source::read(&path).map(Some),
    }
}

fn variables(surroundings: &Surroundings) -> impl Iterator<Item = (Vec<String>, Value)> {
    let given = surroundings.variables.iter().filter(|(name, _)| *name != TOKEN);
    given.filter_map(|(name, text)| {
        let path = name.strip_prefix(PREFIX)?.to_lowercase();
        let value = text.parse().unwrap_or_else(|_| Value::from(text.clone()));
        Some((path.split("__").map(str::to_owned).collect(), value))
    })
}

/// Tables within tables from paths.
fn nested(values: impl Iterator<Item = (Vec<String>, Value)>) -> Dict {
    let mut root = Dict::new();
    for (path, value) in values {
        let [tables @ .., name] = &path[..] else { continue };
        let mut table = &mut root;
        for step in tables {
            let inner = table.entry(step.clone()).or_insert_with(|| Value::from(Dict::new()));
            if !matches!(inner, Value::Dict(..)) {
                *inner = Value::from(Dict::new());
            }
            let Value::Dict(_, inner) = inner else { unreachable!("it was just made a table") };
            table = inner;
        }
        table.insert(name.clone(), value);
    }
    root
}

fn is_list(data: &Map<Profile, Dict>) -> bool {
    data.values().any(|dict| matches!(dict.get("hive"), Some(Value::Array(..))))
}

/// A source that is not a file.
#[derive(Clone)]
struct Layer {
    name: &'static str,
    data: Dict,
}

impl Provider for Layer {
    fn metadata(&self) -> Metadata {
        Metadata::named(self.name)
    }

    fn data(&self) -> Result<Map<Profile, Dict>, Error> {
        Ok(Map::from([(Profile::Default, self.data.clone())]))
    }
}

/// Whether a path is absolute once `~/` is taken for the home directory.
pub(crate) fn expand(text: &str, home: Option<&Path>) -> Option<PathBuf> {
    let path = match (text.strip_prefix("~/"), home) {
        (Some(rest), Some(home)) => home.join(rest),
        _ => PathBuf::from(text),
    };
    path.is_absolute().then_some(path)
}
