//! The one function between what was given and what it means.

use std::{collections::BTreeMap, fs, net::SocketAddr, path::Path, time::Duration};

use figment::value::{Dict, Value};
use fleet::{ModelRef, Token};
use tracing_subscriber::EnvFilter;

use crate::{
    config::{Config, Limits, Log, LogFormat, Models, Pattern, Queue, Ssh, Timeouts},
    engines,
    fault::{Faults, Origin},
    hives,
    keys::{self, KEYS},
    layers::{Flags, Layers, Surroundings, TOKEN},
    read::Reader,
    source::{Part, Trail},
    value::{Read, Wrong, duration, list, number, parsed, path, secret_path, size, text, word, wrong},
};

/// Reads the configuration of this process.
///
/// # Errors
/// All faults at once.
pub fn load(flags: &Flags) -> Result<Config, Faults> {
    load_from(flags, &Surroundings::of_process())
}

/// Reads the configuration of a process with these surroundings.
///
/// # Errors
/// All faults at once.
pub fn load_from(flags: &Flags, surroundings: &Surroundings) -> Result<Config, Faults> {
    let reader = Layers::read(flags, surroundings).map(Reader::new);
    let (config, faults) = match reader {
        Err(fault) => (None, vec![fault]),
        Ok(mut reader) => {
            let config = resolve(&mut reader, surroundings);
            (config, reader.faults)
        }
    };
    match (config, Faults::of(faults)) {
        (Some(config), None) => Ok(config),
        (_, Some(faults)) => Err(faults),
        (None, None) => unreachable!("a configuration that is missing has a fault"),
    }
}

fn resolve(reader: &mut Reader, surroundings: &Surroundings) -> Option<Config> {
    let home = surroundings.home();
    let home = home.as_deref();
    refuse_unknown(reader);
    let listen = reader.value_or_default("listen", address);
    let token = token(reader, surroundings, home);
    if matches!(token, Ok(None)) {
        refuse_open(reader, listen);
    }
    let (hives, implicit_local) = hives::read(reader, home, listen);
    let engines = engines::read(reader, home);
    let data_dir = reader.given("data_dir", path(home));
    let data_dir = data_dir.or_else(|| Some(surroundings.data_home()?.join("queen-rbee")));
    if data_dir.is_none() {
        let problem = "there is no home directory to put it in".to_owned();
        let advice = "set data_dir, or HOME to an absolute path".to_owned();
        reader.fault(Origin::Default, &Trail::of("data_dir"), Wrong { problem, advice });
    }
    Some(Config {
        listen,
        token: token.ok().flatten(),
        region: reader.given("region", text),
        hives,
        implicit_local,
        engines,
        hive_binary: reader.given("hive_binary", path(home)),
        timeouts: timeouts(reader),
        queue: Queue {
            length: reader.value_or_default("queue.length", number(1, 1_000_000)),
            wait: reader.value_or_default("queue.wait", duration(SHORTEST)),
        },
        limits: Limits {
            body: reader.value_or_default("limits.body", size(1 << 10)),
            sse_line: reader.value_or_default("limits.sse_line", size(1 << 10)),
            header: reader.value_or_default("limits.header", size(8 << 10)),
        },
        models: models(reader),
        model_settings: crate::models::read(reader),
        ssh: Ssh {
            dir: reader.given("ssh.dir", text),
            bundles: reader.given("ssh.bundles", path(home)),
            passphrase_file: reader.given("ssh.passphrase_file", path(home)),
        },
        log: Log {
            filter: reader.value_or_default("log.filter", filter),
            format: reader.value_or_default(
                "log.format",
                word(&[("text", LogFormat::Text), ("json", LogFormat::Json)]),
            ),
        },
        data_dir: data_dir?,
    })
}

/// A bound of nothing would refuse everything.
const SHORTEST: Duration = Duration::from_millis(1);

fn timeouts(reader: &mut Reader) -> Timeouts {
    let mut time = |name| reader.value_or_default(name, duration(SHORTEST));
    Timeouts {
        probe: time("timeouts.probe"),
        connect: time("timeouts.connect"),
        control: time("timeouts.control"),
        first_byte: time("timeouts.first_byte"),
        inter_token: time("timeouts.inter_token"),
        download_stall: time("timeouts.download_stall"),
        load_stall: time("timeouts.load_stall"),
        drain: time("timeouts.drain"),
        stop_grace: time("timeouts.stop_grace"),
        // A hive beats once a second, so less than two would suspect every hive that is a little late.
        suspect: reader.value_or_default("timeouts.suspect", duration(Duration::from_secs(2))),
        worker_idle: reader.value_or_default("timeouts.worker_idle", duration(Duration::ZERO)),
        hive_idle: reader.value_or_default("timeouts.hive_idle", duration(Duration::ZERO)),
        orphan_lease_local: reader.given("timeouts.orphan_lease_local", duration(Duration::ZERO)),
    }
}

fn models(reader: &mut Reader) -> Models {
    let pattern = |value: &Value| text(value).map(|text| Pattern::new(&text));
    Models {
        allow: reader.given("models.allow", list(pattern)),
        aliases: aliases(reader),
        hub_url: reader.given("models.hub_url", hub_url),
    }
}

fn aliases(reader: &mut Reader) -> BTreeMap<String, ModelRef> {
    #[cfg(test)]
    reader.read.insert("models.aliases");
    let trail = Trail::of("models.aliases");
    let given = match reader.value("models.aliases") {
        None => return BTreeMap::new(),
        Some(Value::Dict(_, given)) => given,
        Some(other) => {
            let problem = "is not a table".to_owned();
            let advice =
                "write it as [models.aliases] with lines of the form small = \"owner/name\"".to_owned();
            reader.fault_at(&other, &trail, Part::Value, Wrong { problem, advice });
            return BTreeMap::new();
        }
    };
    let mut aliases = BTreeMap::new();
    for (name, value) in &given {
        let trail = trail.key(name);
        let printable = !name.is_empty() && name.len() <= 128 && name.bytes().all(|b| b.is_ascii_graphic());
        if !printable {
            let problem = "is no name that a request can carry".to_owned();
            let advice = "use 1 to 128 printable ASCII characters without spaces".to_owned();
            reader.fault_at(value, &trail, Part::Key, Wrong { problem, advice });
        }
        match parsed("write it as \"owner/name\", \"owner/name:Q4_K_M\" or \"file:/path.gguf\"")(value) {
            Ok(model) => drop(aliases.insert(name.clone(), model)),
            Err(wrong) => reader.fault_at(value, &trail, Part::Value, wrong),
        }
    }
    aliases
}

/// An address and a port. A name would have to be looked up, and may have several; `localhost` is what people write.
fn address(value: &Value) -> Read<SocketAddr> {
    let text = text(value)?;
    let numeric =
        text.strip_prefix("localhost:").map_or_else(|| text.clone(), |port| format!("127.0.0.1:{port}"));
    numeric.parse().or_else(|_| {
        wrong(format!("{text:?} is not an address with a port"), "write it as \"127.0.0.1:7833\"")
    })
}

fn hub_url(value: &Value) -> Read<String> {
    const ADVICE: &str = "write it as \"https://huggingface.co\"";
    let text = text(value)?;
    let base = text.trim_end_matches('/');
    let Ok(uri) = base.parse::<http::Uri>() else {
        return wrong(format!("{text:?} is not a URL"), ADVICE);
    };
    let secure = matches!(uri.scheme_str(), Some("http" | "https"));
    let plain = uri.query().is_none() && uri.authority().is_some_and(|a| !a.as_str().contains('@'));
    if secure && plain {
        Ok(base.to_owned())
    } else {
        wrong("is not the URL of a hub without user and query", ADVICE)
    }
}

fn filter(value: &Value) -> Read<String> {
    let text = text(value)?;
    match EnvFilter::builder().parse(&text) {
        Ok(_) => Ok(text),
        Err(error) => wrong(format!("{text:?}: {error}"), "write it as \"info\" or \"info,router=debug\""),
    }
}

/// Keys that there are not, wherever they stand. Hives and aliases have names of their own and are looked at apart.
fn refuse_unknown(reader: &mut Reader) {
    let root = reader.layers.root.clone();
    walk(reader, &root, "");
}

fn walk(reader: &mut Reader, dict: &Dict, prefix: &str) {
    for (name, value) in dict {
        let dotted = format!("{prefix}{name}");
        let trail = Trail::of(&dotted);
        if matches!(dotted.as_str(), "hive" | "model" | "engine") || keys::find(KEYS, &dotted).is_some() {
            continue;
        }
        let is_table = KEYS.iter().any(|key| key.name.starts_with(&format!("{dotted}.")));
        match value {
            Value::Dict(_, inner) if is_table => walk(reader, inner, &format!("{dotted}.")),
            _ if is_table => {
                let problem = "is a table, not a value".to_owned();
                let advice = format!("write [{dotted}] and its keys below");
                reader.fault_at(value, &trail, Part::Key, Wrong { problem, advice });
            }
            _ if matches!(dotted.as_str(), "token" | "auth.token" | "api_key") => {
                let problem = "a secret does not belong into the configuration".to_owned();
                let advice = format!("put it in a file and name that as token_file, or set {TOKEN}");
                reader.fault_at(value, &trail, Part::Key, Wrong { problem, advice });
            }
            _ => reader.unknown(KEYS, value, &trail, &dotted),
        }
    }
}

/// A token was given and does not do; what is wrong with it is noted.
struct Refused;

fn token(
    reader: &mut Reader,
    surroundings: &Surroundings,
    home: Option<&Path>,
) -> Result<Option<Token>, Refused> {
    let before = reader.faults.len();
    let files = ["token_file", "auth.token_file"]
        .map(|name| reader.given(name, secret_path(home)).map(|path| (name, path)));
    if let [Some(_), Some((name, _))] = &files {
        let problem = "token_file is given too".to_owned();
        let wrong = Wrong { problem, advice: "keep one of the two".to_owned() };
        reader.fault(reader.origin_of(name), &Trail::of(name), wrong);
    }
    if let Some(text) = surroundings.variables.get(TOKEN) {
        return text.parse().map(Some).map_err(|error: fleet::TokenError| {
            let advice = "make one with: openssl rand -hex 32".to_owned();
            let wrong = Wrong { problem: error.to_string(), advice };
            reader.fault(Origin::Variable(TOKEN.to_owned()), &Trail::of("token"), wrong);
            Refused
        });
    }
    if let Some((name, path)) = files.into_iter().flatten().next() {
        return token_in(&path).map(Some).map_err(|problem| {
            let advice = "put a token of 16 to 512 characters into the file, alone".to_owned();
            reader.fault(reader.origin_of(name), &Trail::of(name), Wrong { problem, advice });
            Refused
        });
    }
    if reader.faults.len() == before { Ok(None) } else { Err(Refused) }
}

/// The token of a file, or what is wrong, without a word of what stands in it.
fn token_in(path: &Path) -> Result<Token, String> {
    let shown = path.display();
    let text = fs::read_to_string(path).map_err(|error| format!("{shown} cannot be read: {error}"))?;
    text.trim().parse().map_err(|error| format!("{shown}: {error}"))
}

/// A queen that other machines reach lets nobody in without a token.
fn refuse_open(reader: &mut Reader, listen: SocketAddr) {
    if listen.ip().to_canonical().is_loopback() {
        return;
    }
    let problem = format!("other machines reach {listen}, and there is no token");
    let advice = format!("set {TOKEN} or token_file, or listen on 127.0.0.1");
    reader.fault(reader.origin_of("listen"), &Trail::of("listen"), Wrong { problem, advice });
}

#[cfg(test)]
mod tests;
