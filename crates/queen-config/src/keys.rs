//! Every key there is.

use std::fmt::Write;

/// One key of the configuration.
pub(crate) struct Key {
    /// Its dotted name.
    pub(crate) name: &'static str,
    /// What it has unless it is given.
    pub(crate) default: Fallback,
    /// What it is for, with its unit.
    pub(crate) about: &'static str,
}

/// What a key has unless it is given.
pub(crate) enum Fallback {
    /// This value, as it would be given in a variable.
    Value(&'static str),
    /// Nothing, or something that depends on the machine, in words.
    Words(&'static str),
}

use Fallback::{Value, Words};

const fn key(name: &'static str, default: Fallback, about: &'static str) -> Key {
    Key { name, default, about }
}

/// Every key outside of hives.
pub(crate) const KEYS: &[Key] = &[
    key("listen", Value("127.0.0.1:7833"), "address and port of the HTTP API"),
    key(
        "data_dir",
        Words("`$XDG_DATA_HOME/queen-rbee`, else `~/.local/share/queen-rbee`"),
        "directory of the database, keys and logs; absolute",
    ),
    key(
        "token_file",
        Words("none"),
        "file that holds the token which clients send, as `QUEEN_RBEE_TOKEN` does itself; absolute. An address that \
         other machines reach needs one of the two",
    ),
    key("auth.token_file", Words("none"), "the same as `token_file`"),
    key(
        "region",
        Words("that of the first local hive"),
        "where the queen's machine stands, as you call it: workers rather start on hives of the same region",
    ),
    key(
        "hive_binary",
        Words("`rbee-hive` beside `queen-rbee`, else on the `PATH`"),
        "the hive's program on this machine; absolute",
    ),
    key(
        "timeouts.suspect",
        Value("3s"),
        "silence of a hive, which beats every second, before it is probed; at least 2s",
    ),
    key("timeouts.probe", Value("1s"), "bound of one probe; two that fail make a hive unreachable"),
    key("timeouts.connect", Value("2s"), "to open a connection to a hive"),
    key("timeouts.control", Value("5s"), "for a control call to a hive"),
    key(
        "timeouts.first_byte",
        Value("120s"),
        "to the first byte of an answer; four times the expected prefill where that is longer",
    ),
    key("timeouts.inter_token", Value("60s"), "between two tokens of an answer"),
    key(
        "timeouts.download_stall",
        Value("150s"),
        "a transfer to a hive, without a new byte; the hive itself resumes three times before",
    ),
    key("timeouts.load_stall", Value("300s"), "a model that loads, without progress"),
    key(
        "timeouts.worker_idle",
        Value("15m"),
        "from the end of a worker's last request until it is stopped; 0 never",
    ),
    key(
        "timeouts.hive_idle",
        Value("30m"),
        "without a worker, before a hive that is started on demand is stopped; 0 never",
    ),
    key("timeouts.drain", Value("30s"), "for a hive's workers to finish what they have"),
    key("timeouts.stop_grace", Value("30s"), "for requests to finish when the queen stops"),
    key(
        "timeouts.orphan_lease_local",
        Words("the hive's own, 10m"),
        "without a queen, before a local hive ends itself; 0 never",
    ),
    key("queue.length", Value("512"), "requests of one model that may wait for a slot"),
    key(
        "queue.wait",
        Value("60s"),
        "longest wait for a slot; stands still while a cold start makes progress",
    ),
    key("limits.body", Value("32MiB"), "longest request body; bytes, or with KiB, MiB, GiB"),
    key("limits.sse_line", Value("1MiB"), "longest line of a worker's stream"),
    key("limits.header", Value("64KiB"), "longest request head; at least 8KiB"),
    key(
        "models.allow",
        Words("any model"),
        "patterns of the models that may be introduced, with `*` and `?`",
    ),
    key("models.aliases", Words("none"), "table of short names and the models they stand for"),
    key(
        "models.hub_url",
        Words("the hive's own, https://huggingface.co"),
        "where a local hive gets `hf:` models from",
    ),
    key(
        "ssh.dir",
        Words("`.local/share/rbee-hive`"),
        "directory of hives on other machines, from the remote home; everything there lies below it",
    ),
    key(
        "ssh.bundles",
        Words("beside `queen-rbee`"),
        "directory with hives for other kinds of machine, as `<os>-<arch>/rbee-hive`; absolute",
    ),
    key(
        "ssh.passphrase_file",
        Words("none"),
        "file of mode 0600 whose first line opens encrypted SSH keys; absolute",
    ),
    key("log.filter", Value("info"), "what is logged, such as `info,router=debug`"),
    key("log.format", Value("text"), "`text` or `json`"),
];

/// Every key of a hive.
pub(crate) const HIVE_KEYS: &[Key] = &[
    key("id", Words("the table's name, else `local` or the hostname"), "the hive's name"),
    key(
        "hostname",
        Words("`localhost`; for `mode = \"network\"` the table's name"),
        "its machine: a name or an address",
    ),
    key("port", Value("7835"), "the port that it listens on"),
    key(
        "mode",
        Words("`local` for no hostname, `localhost`, `127.0.0.0/8` and `::1`, else `network`"),
        "`local` or `network`; wins over the hostname both ways",
    ),
    key(
        "ssh_key",
        Words("`~/.ssh/config`, the agent, the usual files"),
        "private key file for SSH; absolute or below `~/`",
    ),
    key("ssh_user", Words("`~/.ssh/config`, else the current user"), "remote account"),
    key("ssh_port", Words("`~/.ssh/config`, else 22"), "port of the SSH server"),
    key("host_key", Words("known_hosts"), "the machine's host key, as in known_hosts: `ssh-ed25519 AAAA…`"),
    key("region", Words("none"), "where the machine stands, as you call it"),
    key("labels", Words("none"), "free words, for choosing hives"),
    key(
        "start",
        Value("always"),
        "`always`: it runs as long as the queen; `on_demand`: when a request needs it, until it was idle for \
         `timeouts.hive_idle`",
    ),
];

/// Every key of a model.
pub(crate) const MODEL_KEYS: &[Key] = &[
    key("ref", Words("must be given"), "the model, as requests name it"),
    key("pinned", Value("false"), "`true` loads it when the queen starts and keeps it loaded"),
    key(
        "idle",
        Words("`timeouts.worker_idle`"),
        "from the end of a worker's last request until it is stopped; 0 never",
    ),
    key("replicas_min", Value("0"), "workers that there always are, each on a hive of its own"),
    key("replicas_max", Words("no bound"), "workers that a lasting queue may lead to"),
    key(
        "context",
        Words("the hive's own, else the largest of 8k to 128k that fits"),
        "context of each slot, in tokens",
    ),
    key("slots", Words("the hive's own"), "requests that a worker serves at once"),
];

/// Every key of an engine.
pub(crate) const ENGINE_KEYS: &[Key] = &[
    key("name", Value("llama-server"), "its program, which speaks `llama-server`'s command line"),
    key("os", Words("required"), "`linux` or `macos`: the machines that it runs on"),
    key("arch", Words("required"), "`x86_64` or `aarch64`"),
    key(
        "backend",
        Words("required"),
        "`cuda`, `rocm`, `vulkan`, `metal` or `cpu`: it is brought to machines that have such a device",
    ),
    key(
        "path",
        Words("none"),
        "the program on this machine, or a directory with it and the libraries that it wants beside it; absolute or below `~/`",
    ),
    key(
        "url",
        Words("none"),
        "instead of `path`: where it is fetched once, over https; the program, or a `.tar.gz` that holds it",
    ),
    key(
        "sha256",
        Words("none; required with `url`"),
        "SHA-256 of what is fetched, or of the program at `path`",
    ),
];

/// The key of a name, if there is one.
pub(crate) fn find(keys: &'static [Key], name: &str) -> Option<&'static Key> {
    keys.iter().find(|key| key.name == name)
}

/// The name of a key that is meant by one that is none, if there is one near enough.
pub(crate) fn nearest(keys: &'static [Key], name: &str) -> Option<&'static str> {
    closest(keys.iter().map(|key| key.name), name)
}

/// The table that is meant by one that is none.
pub(crate) fn nearest_table(name: &str) -> Option<&'static str> {
    closest(
        KEYS.iter().filter_map(|key| Some(key.name.split_once('.')?.0)).chain(["hive", "model", "engine"]),
        name,
    )
}

fn closest(names: impl Iterator<Item = &'static str>, name: &str) -> Option<&'static str> {
    let last = |name: &str| name.rsplit('.').next().unwrap_or_default().to_owned();
    let distance = |known: &str| {
        let whole = strsim::damerau_levenshtein(known, name);
        // A key that stands in the wrong table is near too, and so is the beginning of a longer one.
        let elsewhere = strsim::damerau_levenshtein(&last(known), &last(name)) + 1;
        let begun = if name.len() >= 4 && known.starts_with(name) { 1 } else { usize::MAX };
        whole.min(elsewhere).min(begun)
    };
    let (distance, known) =
        names.map(|known| (distance(known), known)).min_by_key(|(distance, _)| *distance)?;
    (distance <= (name.len() / 3).max(1)).then_some(known)
}

/// All keys with their defaults, as tables in Markdown.
#[must_use]
pub fn reference() -> String {
    let mut text = String::new();
    for (title, keys) in [
        ("Keys", KEYS),
        ("Keys of a `[[hive]]` entry or a `[hive.NAME]` table", HIVE_KEYS),
        ("Keys of a `[[model]]` entry", MODEL_KEYS),
        ("Keys of an `[[engine]]` entry", ENGINE_KEYS),
    ] {
        let rows = keys.iter().map(|key| {
            let default = match key.default {
                Value(text) => format!("`{text}`"),
                Words(text) => text.to_owned(),
            };
            format!("| `{}` | {default} | {} |\n", key.name, key.about)
        });
        let rows = rows.collect::<String>();
        // Writing to a string cannot fail.
        let _written = write!(text, "### {title}\n\n| key | default | what |\n| --- | --- | --- |\n{rows}\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_on_configuration_lists_exactly_the_keys_that_are_read() {
        let page = include_str!("../../../docs/configuration.md");
        assert!(
            page.contains(reference().trim_end()),
            "put this into docs/configuration.md:\n{}",
            reference()
        );
    }

    #[test]
    fn a_misspelt_key_is_recognised_and_a_foreign_one_is_not() {
        for (wrong, right) in [
            ("listn", "listen"),
            ("datadir", "data_dir"),
            ("timeout.connect", "timeouts.connect"),
            ("connect", "timeouts.connect"),
            ("log.fromat", "log.format"),
        ] {
            assert_eq!(nearest(KEYS, wrong), Some(right), "{wrong}");
        }
        assert_eq!(nearest(HIVE_KEYS, "host"), Some("hostname"));
        assert_eq!(nearest(HIVE_KEYS, "name"), None);
        assert_eq!(nearest_table("timeout"), Some("timeouts"));
        assert_eq!(nearest_table("hives"), Some("hive"));
        assert_eq!(nearest(KEYS, "kubernetes.namespace"), None);
    }

    #[test]
    fn the_reference_names_every_key() {
        insta::assert_snapshot!(reference());
    }
}
