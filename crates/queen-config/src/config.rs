//! The resolved configuration.

use std::{collections::BTreeMap, fmt, net::SocketAddr, path::PathBuf, time::Duration};

use fleet::{EngineSpec, HiveSpec, ModelRef, Token};

/// Everything that the queen is told, whole and checked. `Debug` shows no secret.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Address and port of the HTTP API. A loopback one unless there is a token.
    pub listen: SocketAddr,
    /// Directory of the database, keys and logs; absolute, and not made yet.
    pub data_dir: PathBuf,
    /// What clients send.
    pub token: Option<Token>,
    /// Where the queen's machine stands, as its owner calls it.
    pub region: Option<String>,
    /// The configured hives, in the order of the file; the implicit local one if the configuration does not speak of
    /// hives. All are managed and of source `config`.
    pub hives: Vec<HiveSpec>,
    /// Whether [`Self::hives`] is the implicit local hive: it comes only where the registry has no row either, stays when others
    /// join it, and takes the next free port if its own is taken.
    pub implicit_local: bool,
    /// Engines that come along to other machines, preferred first.
    pub engines: Vec<EngineSpec>,
    /// The hive's program on this machine, if it was named.
    pub hive_binary: Option<PathBuf>,
    /// How long things may take.
    pub timeouts: Timeouts,
    /// Requests that wait.
    pub queue: Queue,
    /// How big things may be.
    pub limits: Limits,
    /// Which models there may be.
    pub models: Models,
    /// What is wanted of some of them.
    pub model_settings: BTreeMap<ModelRef, ModelSettings>,
    /// How hives of other machines are started.
    pub ssh: Ssh,
    /// What is logged.
    pub log: Log,
}

/// What is wanted of one model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ModelSettings {
    /// Whether it is loaded whenever the queen runs.
    pub pinned: bool,
    /// From the end of a worker's last request until it is stopped; zero means never, and nothing is as for all others.
    pub idle: Option<Duration>,
    /// Workers that there always are.
    pub replicas_min: u32,
    /// Workers that there are at most; at least as many as always.
    pub replicas_max: Option<u32>,
    /// Context of each slot, in tokens; nothing is the hive's own.
    pub context: Option<u32>,
    /// Slots of each worker; nothing is the hive's own.
    pub slots: Option<u32>,
}

/// How hives of other machines are started.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ssh {
    /// The directory there, from the remote home; nothing is the usual one.
    pub dir: Option<String>,
    /// Directory with hives for other kinds of machine.
    pub bundles: Option<PathBuf>,
    /// File with what opens encrypted keys.
    pub passphrase_file: Option<PathBuf>,
}

/// How long things may take. None is zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// Silence of a hive, which beats every second, before it is probed.
    pub suspect: Duration,
    /// Bound of one probe.
    pub probe: Duration,
    /// To open a connection to a hive.
    pub connect: Duration,
    /// For a control call to a hive.
    pub control: Duration,
    /// To the first byte of an answer, unless four times the expected prefill is longer.
    pub first_byte: Duration,
    /// Between two tokens of an answer.
    pub inter_token: Duration,
    /// For a transfer to a hive, without a new byte.
    pub download_stall: Duration,
    /// A model that loads, without progress.
    pub load_stall: Duration,
    /// From the end of a worker's last request until it is stopped; zero means never.
    pub worker_idle: Duration,
    /// Without a worker, before a hive that is started on demand is stopped; zero means never.
    pub hive_idle: Duration,
    /// For a hive's workers to finish what they have.
    pub drain: Duration,
    /// For requests to finish when the queen stops.
    pub stop_grace: Duration,
    /// Without a queen, before a local hive ends itself; zero means never, and nothing is the hive's own default.
    pub orphan_lease_local: Option<Duration>,
}

/// Requests that wait for a slot of one model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Queue {
    /// How many may.
    pub length: usize,
    /// For how long; a cold start that makes progress does not count.
    pub wait: Duration,
}

/// How big things may be, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// A request's body.
    pub body: usize,
    /// A line of a worker's stream.
    pub sse_line: usize,
    /// A request's head.
    pub header: usize,
}

/// Which models there may be, and where they come from.
#[derive(Debug, Clone, PartialEq)]
pub struct Models {
    /// Patterns of the models that may be introduced; absent leaves it to who asks.
    pub allow: Option<Vec<Pattern>>,
    /// Short names.
    pub aliases: BTreeMap<String, ModelRef>,
    /// Where a local hive gets `hf:` models from, without a slash at its end; nothing is the hive's own default.
    pub hub_url: Option<String>,
}

impl Models {
    /// Whether a pattern allows the model; nothing if the configuration leaves it to who asks.
    #[must_use]
    pub fn allows(&self, model: &ModelRef) -> Option<bool> {
        let patterns = self.allow.as_ref()?;
        let text = model.to_string();
        Some(patterns.iter().any(|pattern| pattern.matches(&text)))
    }
}

/// A pattern of model references: `*` stands for any text, `?` for one character.
#[derive(Clone, PartialEq, Eq)]
pub struct Pattern(String);

impl Pattern {
    /// The pattern of a text. A hub's models may be written without `hf:`, as in a reference.
    pub(crate) fn new(text: &str) -> Self {
        let whole = text.starts_with("hf:") || text.starts_with("file:") || text.starts_with('*');
        Self(if whole { text.to_owned() } else { format!("hf:{text}") })
    }

    /// Whether the whole of a canonical reference (`hf:…` or `file:…`) fits.
    #[must_use]
    pub fn matches(&self, reference: &str) -> bool {
        let (pattern, text) = (self.0.as_bytes(), reference.as_bytes());
        let (mut p, mut t) = (0, 0);
        // The last `*` and the text it was tried at: a mismatch lets that star take one byte more.
        let mut star: Option<(usize, usize)> = None;
        while t < text.len() {
            match pattern.get(p) {
                Some(b'*') => {
                    star = Some((p, t));
                    p += 1;
                }
                Some(&expected) if expected == b'?' || expected == text[t] => {
                    p += 1;
                    t += 1;
                }
                _ => {
                    let Some((at, taken)) = star else { return false };
                    star = Some((at, taken + 1));
                    p = at + 1;
                    t = taken + 1;
                }
            }
        }
        pattern[p..].iter().all(|&rest| rest == b'*')
    }
}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What is logged, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Log {
    /// Directives of `tracing-subscriber`'s `EnvFilter`.
    pub filter: String,
    /// How a line looks.
    pub format: LogFormat,
}

/// How a log line looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// For programs.
    Json,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn patterns_match_whole_references() {
        for (pattern, fits, fails) in [
            (
                "Qwen/*",
                vec!["hf:Qwen/Qwen3-0.6B", "hf:Qwen/x@main:Q4_K_M"],
                vec!["hf:Qwen2/x", "file:/Qwen/x"],
            ),
            ("hf:a/b", vec!["hf:a/b"], vec!["hf:a/bc", "hf:a/b:Q4"]),
            ("*", vec!["hf:a/b", "file:/m.gguf"], vec![]),
            ("*-GGUF*", vec!["hf:a/b-GGUF", "hf:a/b-GGUF:Q4"], vec!["hf:a/b-gguf"]),
            ("hf:a/b?", vec!["hf:a/b1"], vec!["hf:a/b", "hf:a/b12"]),
            ("hf:*a*a*b", vec!["hf:aaaab"], vec!["hf:aaaa", "hf:b"]),
        ] {
            for text in fits {
                assert!(Pattern::new(pattern).matches(text), "{pattern} should match {text}");
            }
            for text in fails {
                assert!(!Pattern::new(pattern).matches(text), "{pattern} should not match {text}");
            }
        }
    }

    proptest! {
        #[test]
        fn a_pattern_matches_what_it_was_made_from(text in "[a-c]{0,6}", at in 0_usize..7, cut in 0_usize..7) {
            let from = at.min(text.len());
            let to = (from + cut).min(text.len());
            let pattern = format!("*{}*{}", &text[..from], &text[to..]);
            prop_assert!(Pattern(pattern.clone()).matches(&text), "{} should match {}", pattern, text);
        }
    }
}
