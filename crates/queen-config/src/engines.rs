//! The engines that come along to other machines.

use std::path::{Path, PathBuf};

use figment::value::Value;
use fleet::{Arch, DeviceKind, Digest, EngineOrigin, EngineSpec, EngineUrl, EngineUrlError, Os, Target};

use crate::{
    keys::{self, ENGINE_KEYS},
    read::{Reader, Table},
    source::{Part, Trail},
    value::{Read, Wrong, parsed, path, text, word, wrong},
};

const SYSTEMS: &[(&str, Os)] = &[("linux", Os::Linux), ("macos", Os::Macos)];

const PROCESSORS: &[(&str, Arch)] = &[("x86_64", Arch::X86_64), ("aarch64", Arch::Aarch64)];

const BACKENDS: &[(&str, DeviceKind)] = &[
    ("cuda", DeviceKind::Cuda),
    ("rocm", DeviceKind::Rocm),
    ("vulkan", DeviceKind::Vulkan),
    ("metal", DeviceKind::Metal),
    ("cpu", DeviceKind::Cpu),
];

/// The engines, in the order of the file.
pub(crate) fn read(reader: &mut Reader, home: Option<&Path>) -> Vec<EngineSpec> {
    let root = Trail::of("engine");
    let items = match reader.value("engine") {
        None => return Vec::new(),
        Some(Value::Array(_, items)) => items,
        Some(other) => {
            reader.fault_at(&other, &root, Part::Key, no_engine());
            return Vec::new();
        }
    };
    let mut engines: Vec<EngineSpec> = Vec::new();
    for (at, item) in items.iter().enumerate() {
        let trail = root.index(at);
        let Some(engine) = entry(reader, &trail, item, home) else { continue };
        let same = |other: &EngineSpec| {
            (&other.name, other.target, other.backend) == (&engine.name, engine.target, engine.backend)
        };
        if let Some(other) = engines.iter().position(same) {
            let problem = format!(
                "engine[{}] is the same program for the same backend of {} already",
                other + 1,
                engine.target
            );
            let advice = "remove one of the two".to_owned();
            reader.fault_at(item, &trail, Part::Key, Wrong { problem, advice });
        }
        engines.push(engine);
    }
    engines
}

fn no_engine() -> Wrong {
    let advice = "write each engine as [[engine]] with its keys below".to_owned();
    Wrong { problem: "is not an engine".to_owned(), advice }
}

fn entry(reader: &mut Reader, trail: &Trail, item: &Value, home: Option<&Path>) -> Option<EngineSpec> {
    let Value::Dict(_, dict) = item else {
        reader.fault_at(item, trail, Part::Key, no_engine());
        return None;
    };
    let table = Table { dict, trail };
    for (name, value) in dict {
        if keys::find(ENGINE_KEYS, name).is_none() {
            reader.unknown(ENGINE_KEYS, value, &trail.key(name), name);
        }
    }
    let before = reader.faults.len();
    const NAME: &str = "write it as \"llama-server\"";
    let name = reader.of_entry_or_default(ENGINE_KEYS, table, "name", parsed(NAME));
    let os = required(reader, table, item, "os", word(SYSTEMS), "os = \"linux\"");
    let arch = required(reader, table, item, "arch", word(PROCESSORS), "arch = \"x86_64\"");
    let backend = required(reader, table, item, "backend", word(BACKENDS), "backend = \"vulkan\"");
    let origin = origin(reader, table, item, home);
    let target = Target { os: os?, arch: arch? };
    (reader.faults.len() == before).then_some(EngineSpec { name, target, backend: backend?, origin: origin? })
}

/// A key without which nothing can be made of the entry.
fn required<T>(
    reader: &mut Reader,
    table: Table<'_>,
    item: &Value,
    name: &'static str,
    read: impl Fn(&Value) -> Read<T>,
    example: &str,
) -> Option<T> {
    let given = reader.of_entry(table, name, read);
    if !table.dict.contains_key(name) {
        let wrong = Wrong { problem: format!("has no {name}"), advice: format!("write {example} below it") };
        reader.fault_at(item, table.trail, Part::Key, wrong);
    }
    given
}

fn origin(reader: &mut Reader, table: Table<'_>, item: &Value, home: Option<&Path>) -> Option<EngineOrigin> {
    let mut lacks = |problem: &str, advice: &str| {
        let wrong = Wrong { problem: problem.to_owned(), advice: advice.to_owned() };
        reader.fault_at(item, table.trail, Part::Key, wrong);
    };
    match (table.dict.contains_key("path"), table.dict.contains_key("url")) {
        (true, true) => lacks("has a path and a url", "keep one of the two"),
        (false, false) => lacks("has neither path nor url", "say where the program is"),
        (false, true) if !table.dict.contains_key("sha256") => lacks(
            "has a url and no sha256",
            "write the SHA-256 of that file, as its release page or `sha256sum FILE` shows it",
        ),
        _ => {}
    }
    const DIGEST: &str = "write the 64 hexadecimal digits that `sha256sum FILE` shows";
    let sha256: Option<Digest> = reader.of_entry(table, "sha256", parsed(DIGEST));
    let path: Option<PathBuf> = reader.of_entry(table, "path", path(home));
    match reader.of_entry(table, "url", url) {
        Some(url) => sha256.map(|sha256| EngineOrigin::Url { url, sha256 }),
        None => path.map(|path| EngineOrigin::Path { path, sha256 }),
    }
}

/// A fault of a URL does not repeat it: its query may hold a right to read.
fn url(value: &Value) -> Read<EngineUrl> {
    text(value)?.parse().or_else(|error: EngineUrlError| {
        let advice = match error {
            EngineUrlError::Malformed => "write it as \"https://example.org/llama-server.tar.gz\"",
            EngineUrlError::Plain => "give an https URL, or fetch it yourself and name it as path",
            EngineUrlError::User => "fetch it yourself and name it as path",
            EngineUrlError::Archive => "take a .tar.gz, or unpack it yourself and name the directory as path",
        };
        wrong(error.to_string(), advice)
    })
}
