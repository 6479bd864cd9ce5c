//! The hives, in either of their two forms.

use std::{collections::HashMap, net::SocketAddr, path::Path};

use figment::value::Value;
use fleet::{HiveId, HiveKind, HiveMode, HiveSource, HiveSpec, Hostname, SshTarget, StartPolicy};

use crate::{
    fault::Origin,
    keys::{self, HIVE_KEYS},
    read::{Reader, Table},
    source::{Part, Trail, mixed},
    value::{Read, Wrong, list, parsed, path, port, text, word, wrong},
};

/// A hive, and where it stands.
struct Entry {
    spec: HiveSpec,
    trail: Trail,
    origin: Origin,
}

/// The hives, and whether they are the implicit one. An empty list (`hive = []`) is what somebody writes who wants none.
pub(crate) fn read(reader: &mut Reader, home: Option<&Path>, listen: SocketAddr) -> (Vec<HiveSpec>, bool) {
    let root = Trail::of("hive");
    let Some(value) = reader.value("hive") else { return (vec![implicit()], true) };
    let entries: Vec<(Option<String>, Trail, Value)> = match &value {
        Value::Array(_, items) => {
            items.iter().enumerate().map(|(at, item)| (None, root.index(at), item.clone())).collect()
        }
        Value::Dict(_, tables) => {
            tables.iter().map(|(name, item)| (Some(name.clone()), root.key(name), item.clone())).collect()
        }
        _ => {
            reader.fault_at(&value, &root, Part::Key, nameless());
            return (Vec::new(), false);
        }
    };
    if let Value::Dict(_, tables) = &value
        && let Some((name, item)) = tables.iter().find(|(_, item)| !matches!(item, Value::Dict(..)))
        && tables.values().all(|item| !matches!(item, Value::Dict(..)))
    {
        reader.fault_at(item, &root.key(name), Part::Key, nameless());
        return (Vec::new(), false);
    }
    let entries: Vec<Entry> = entries
        .into_iter()
        .filter_map(|(name, trail, item)| entry(reader, name, trail, &item, home))
        .collect();
    refuse_collisions(reader, &entries, listen);
    (entries.into_iter().map(|entry| entry.spec).collect(), false)
}

fn implicit() -> HiveSpec {
    let legal = "are legal";
    let (id, hostname) = ("local".parse().expect(legal), "localhost".parse().expect(legal));
    HiveSpec::local(id, hostname, fleet::HiveCommand::DEFAULT_PORT)
}

fn nameless() -> Wrong {
    Wrong {
        problem: "is not a hive".to_owned(),
        advice: "write each hive as [[hive]], or as [hive.NAME]".to_owned(),
    }
}

fn entry(
    reader: &mut Reader,
    name: Option<String>,
    trail: Trail,
    item: &Value,
    home: Option<&Path>,
) -> Option<Entry> {
    let Value::Dict(_, dict) = item else {
        reader.fault_at(item, &trail, Part::Key, nameless());
        return None;
    };
    let origin = reader.layers.origin(item, &trail, Part::Key);
    let table = Table { dict, trail: &trail };
    refuse_unknown(reader, table, name.is_none());
    let before = reader.faults.len();
    let mode = reader.of_entry(table, "mode", word(MODES));
    let hostname = hostname(reader, table, name.as_deref(), mode, &origin)?;
    let mode = mode.unwrap_or_else(|| HiveMode::detect(&hostname));
    let id = id(reader, table, name.as_deref(), mode, &hostname, &origin)?;
    let spec = HiveSpec {
        id,
        hostname,
        port: reader.of_entry_or_default(HIVE_KEYS, table, "port", port),
        mode,
        ssh: ssh(reader, table, home),
        region: reader.of_entry(table, "region", text),
        labels: reader.of_entry(table, "labels", list(text)).unwrap_or_default(),
        source: HiveSource::Config,
        kind: HiveKind::Managed,
        start: reader.of_entry_or_default(HIVE_KEYS, table, "start", word(STARTS)),
    };
    // An entry with faults of its own would only seem to collide with others.
    (reader.faults.len() == before).then_some(Entry { spec, trail, origin })
}

const MODES: &[(&str, HiveMode)] = &[("local", HiveMode::Local), ("network", HiveMode::Network)];

const STARTS: &[(&str, StartPolicy)] =
    &[("always", StartPolicy::Always), ("on_demand", StartPolicy::OnDemand)];

/// A table within an entry of a list is what a parser makes of `[hive.NAME]` after `[[hive]]`.
fn refuse_unknown(reader: &mut Reader, table: Table<'_>, listed: bool) {
    for (name, value) in table.dict {
        let trail = table.trail.key(name);
        if listed && matches!(value, Value::Dict(..)) && keys::find(HIVE_KEYS, name).is_none() {
            let origin = reader.layers.origin(value, &trail, Part::Key);
            reader.faults.push(mixed(origin));
        } else if keys::find(HIVE_KEYS, name).is_none() {
            reader.unknown(HIVE_KEYS, value, &trail, name);
        }
    }
}

fn hostname(
    reader: &mut Reader,
    table: Table<'_>,
    name: Option<&str>,
    mode: Option<HiveMode>,
    origin: &Origin,
) -> Option<Hostname> {
    const ADVICE: &str = "write it as hostname = \"192.168.1.100\"";
    if table.dict.contains_key("hostname") {
        return reader.of_entry(table, "hostname", parsed(ADVICE));
    }
    let text = match (mode, name) {
        (Some(HiveMode::Network), Some(name)) => name,
        (Some(HiveMode::Network), None) => {
            let problem = "a network hive needs a hostname".to_owned();
            reader.fault(origin.clone(), table.trail, Wrong { problem, advice: ADVICE.to_owned() });
            return None;
        }
        (Some(HiveMode::Local) | None, _) => "localhost",
    };
    text.parse()
        .map_err(|error: fleet::HostnameError| {
            let wrong = Wrong { problem: error.to_string(), advice: ADVICE.to_owned() };
            reader.fault(origin.clone(), table.trail, wrong);
        })
        .ok()
}

fn id(
    reader: &mut Reader,
    table: Table<'_>,
    name: Option<&str>,
    mode: HiveMode,
    hostname: &Hostname,
    origin: &Origin,
) -> Option<HiveId> {
    const ADVICE: &str = "write it as id = \"box-1\"";
    if table.dict.contains_key("id") {
        return reader.of_entry(table, "id", parsed(ADVICE));
    }
    #[cfg(test)]
    reader.read.insert("id");
    let text = match (name, mode) {
        (Some(name), _) => name,
        (None, HiveMode::Local) => "local",
        (None, HiveMode::Network) => hostname.as_str(),
    };
    text.parse()
        .map_err(|error: fleet::IdError| {
            let wrong = Wrong { problem: error.to_string(), advice: ADVICE.to_owned() };
            reader.fault(origin.clone(), table.trail, wrong);
        })
        .ok()
}

fn ssh(reader: &mut Reader, table: Table<'_>, home: Option<&Path>) -> SshTarget {
    SshTarget {
        user: reader.of_entry(table, "ssh_user", account),
        port: reader.of_entry(table, "ssh_port", port),
        key_path: reader.of_entry(table, "ssh_key", path(home)),
        host_key: reader.of_entry(table, "host_key", host_key),
    }
}

/// An account name that no program can take for an option or a second word.
fn account(value: &Value) -> Read<String> {
    let text = text(value)?;
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '@' | '\\');
    if text.len() <= 64 && !text.starts_with('-') && text.chars().all(legal) {
        return Ok(text);
    }
    wrong(format!("{text:?} is not an account name"), "write it as ssh_user = \"rbee\"")
}

fn host_key(value: &Value) -> Read<String> {
    let text = text(value)?;
    let words: Vec<&str> = text.split_whitespace().collect();
    let base64 = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '/' | '=');
    match words[..] {
        [kind, key, ..] if kind.contains('-') && key.len() >= 32 && key.chars().all(base64) => {
            Ok(format!("{kind} {key}"))
        }
        _ => wrong(
            format!("{:?} is not a host key", text.chars().take(40).collect::<String>()),
            "write type and key as in known_hosts: \"ssh-ed25519 AAAA…\"",
        ),
    }
}

/// Two hives may share neither an id nor a port of a machine, and a hive not the queen's port.
fn refuse_collisions(reader: &mut Reader, entries: &[Entry], listen: SocketAddr) {
    let mut ids: HashMap<&HiveId, &Entry> = HashMap::new();
    let mut places: HashMap<(String, u16), &Entry> = HashMap::new();
    for entry in entries {
        let spec = &entry.spec;
        if let Some(other) = ids.insert(&spec.id, entry) {
            let problem = format!("{} is the id of {} too", spec.id, other.trail.dotted());
            let advice = "give one of them another id".to_owned();
            reader.fault(entry.origin.clone(), &entry.trail, Wrong { problem, advice });
        }
        let here = machine(spec);
        if here.is_empty() && spec.port == listen.port() {
            let problem = format!("port {} is the queen's own", spec.port);
            let advice = "give the hive another port".to_owned();
            reader.fault(entry.origin.clone(), &entry.trail, Wrong { problem, advice });
        }
        if let Some(other) = places.insert((here, spec.port), entry) {
            let problem = format!("{} uses port {} of this machine too", other.trail.dotted(), spec.port);
            let advice = "give one of them another port".to_owned();
            reader.fault(entry.origin.clone(), &entry.trail, Wrong { problem, advice });
        }
    }
}

/// The machine of a hive, as far as its name tells.
fn machine(spec: &HiveSpec) -> String {
    if spec.mode == HiveMode::Local || spec.hostname.is_loopback() {
        return String::new();
    }
    spec.hostname.as_str().trim_end_matches('.').to_ascii_lowercase()
}
