//! known_hosts, read line by line as sshd(8) describes it.
//!
//! libssh2 has a reader of its own; it is not used. One line that it does not understand voids the whole file, it knows neither
//! wildcards nor `@revoked`, and it takes a host that is known by another kind of key for one whose key has changed.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use hmac::{Hmac, KeyInit, Mac};
use sha1::Sha1;

use crate::HostKey;

/// A line of a file, or the key that was pinned for this hive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// A line of a known_hosts file.
    Line {
        /// The file.
        file: PathBuf,
        /// The line, counted from 1.
        line: usize,
    },
    /// The key that the hive was registered with.
    Pinned,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Line { file, line } => write!(f, "{}:{line}", file.display()),
            Self::Pinned => f.write_str("the host key of the hive's registration"),
        }
    }
}

/// What is known of the key that a host showed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It is the host's.
    Known {
        /// Where that stands.
        at: Place,
    },
    /// Nothing is known of this host, or only keys of other kinds.
    Unknown {
        /// Kinds of key that are known of it.
        other_kinds: Vec<String>,
    },
    /// The host is known by another key of the same kind.
    Changed {
        /// Where that one stands.
        at: Place,
    },
    /// The key was declared stolen.
    Revoked {
        /// Where.
        at: Place,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Marker {
    Host,
    Revoked,
    /// Vouches for host certificates, which are not asked for.
    Authority,
}

#[derive(Debug, Clone)]
struct Entry {
    marker: Marker,
    names: String,
    key: HostKey,
    place: Place,
}

/// All that is known of hosts.
#[derive(Debug, Clone, Default)]
pub struct KnownHosts {
    entries: Vec<Entry>,
    pinned: Option<HostKey>,
}

/// Lines beyond these many bytes are of no file that a person keeps.
const LARGEST_FILE: u64 = 16 * 1024 * 1024;

impl KnownHosts {
    /// Reads the files that are there. What cannot be read or understood is passed over: it then makes nobody known.
    #[must_use]
    pub fn read(files: &[PathBuf]) -> Self {
        let mut known = Self::default();
        for file in files {
            let small = file.metadata().is_ok_and(|metadata| metadata.len() <= LARGEST_FILE);
            if let (true, Ok(bytes)) = (small, std::fs::read(file)) {
                known.add(file, &String::from_utf8_lossy(&bytes));
            }
        }
        known
    }

    /// Adds the text of one file.
    pub fn add(&mut self, file: &Path, text: &str) {
        for (index, line) in text.lines().enumerate() {
            let place = Place::Line { file: file.to_owned(), line: index + 1 };
            self.entries.extend(entry(line, place));
        }
    }

    /// Makes this the only key that is accepted.
    #[must_use]
    pub fn pinned_to(mut self, key: Option<HostKey>) -> Self {
        self.pinned = key;
        self
    }

    fn of<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Entry> {
        self.entries.iter().filter(move |entry| names(&entry.names, name))
    }

    /// Kinds of key that the host is known by; these are asked for first, so that a host that has several shows one of them.
    #[must_use]
    pub fn kinds(&self, name: &str) -> Vec<String> {
        let mut kinds = Vec::new();
        let hosts = self.of(name).filter(|entry| entry.marker == Marker::Host).map(|entry| &entry.key);
        for key in self.pinned.as_ref().map_or_else(|| hosts.collect(), |pinned| vec![pinned]) {
            if !kinds.iter().any(|kind| kind == key.kind()) {
                kinds.push(key.kind().to_owned());
            }
        }
        kinds
    }

    /// Judges the key that a host showed. `name` is spelled as such files do: `[host]:port`, but for port 22 the host alone.
    #[must_use]
    pub fn judge(&self, name: &str, key: &HostKey) -> Verdict {
        let revoked = self.of(name).find(|entry| entry.marker == Marker::Revoked && entry.key == *key);
        if let Some(entry) = revoked {
            return Verdict::Revoked { at: entry.place.clone() };
        }
        let pinned = self.pinned.iter().map(|pinned| (pinned, &Place::Pinned));
        let hosts = self.of(name).filter(|entry| entry.marker == Marker::Host);
        let candidates: Vec<(&HostKey, &Place)> = match self.pinned {
            Some(_) => pinned.collect(),
            None => hosts.map(|entry| (&entry.key, &entry.place)).collect(),
        };
        if let Some((_, at)) = candidates.iter().find(|(known, _)| *known == key) {
            return Verdict::Known { at: (*at).clone() };
        }
        match candidates.iter().find(|(known, _)| known.kind() == key.kind()) {
            Some((_, at)) => Verdict::Changed { at: (*at).clone() },
            None => Verdict::Unknown { other_kinds: self.kinds(name) },
        }
    }
}

/// The name that a host stands under: itself at the usual port, else `[host]:port`.
pub(crate) fn lookup_name(host: &str, port: u16) -> String {
    let host = host.to_ascii_lowercase();
    if port == 22 { host } else { format!("[{host}]:{port}") }
}

fn entry(line: &str, place: Place) -> Option<Entry> {
    let line = line.trim_start();
    if line.starts_with('#') {
        return None;
    }
    let (first, rest) = line.split_once(|c: char| c.is_ascii_whitespace())?;
    let (marker, names, key) = match first {
        "@revoked" | "@cert-authority" => {
            let (names, key) = rest.trim_start().split_once(|c: char| c.is_ascii_whitespace())?;
            let marker = if first == "@revoked" { Marker::Revoked } else { Marker::Authority };
            (marker, names, key)
        }
        _ if first.starts_with('@') => return None,
        _ => (Marker::Host, first, rest),
    };
    Some(Entry { marker, names: names.to_owned(), key: key.parse().ok()?, place })
}

/// Whether a list of patterns, or a hashed name, means this host.
fn names(list: &str, name: &str) -> bool {
    if let Some(hashed) = list.strip_prefix("|1|") {
        return is_hash_of(hashed, name).unwrap_or(false);
    }
    let mut is_named = false;
    for pattern in list.split(',') {
        match pattern.strip_prefix('!') {
            Some(pattern) if fits(pattern, name) => return false,
            Some(_) => {}
            None => is_named |= fits(pattern, name),
        }
    }
    is_named
}

fn is_hash_of(hashed: &str, name: &str) -> Option<bool> {
    let (salt, hash) = hashed.split_once('|')?;
    let mut mac = Hmac::<Sha1>::new_from_slice(&STANDARD.decode(salt).ok()?).ok()?;
    mac.update(name.as_bytes());
    Some(mac.verify_slice(&STANDARD.decode(hash).ok()?).is_ok())
}

/// `*` and `?`, without regard to case.
fn fits(pattern: &str, name: &str) -> bool {
    let (pattern, name) = (pattern.as_bytes(), name.as_bytes());
    let (mut p, mut n) = (0, 0);
    let mut retry = None;
    while n < name.len() {
        match pattern.get(p) {
            Some(b'*') => {
                retry = Some((p, n));
                p += 1;
            }
            Some(b'?') => (p, n) = (p + 1, n + 1),
            Some(byte) if byte.eq_ignore_ascii_case(&name[n]) => (p, n) = (p + 1, n + 1),
            _ => match retry {
                Some((star, taken)) => {
                    retry = Some((star, taken + 1));
                    (p, n) = (star + 1, taken + 1);
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|&byte| byte == b'*')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::host_key::tests::ED25519;

    fn key(kind: &str, seed: u8) -> HostKey {
        let mut blob = u32::try_from(kind.len()).expect("short").to_be_bytes().to_vec();
        blob.extend(kind.as_bytes());
        blob.extend([0, 0, 0, 1, seed]);
        HostKey::from_blob(&blob).expect("a key")
    }

    fn known(text: &str) -> KnownHosts {
        let mut known = KnownHosts::default();
        known.add(Path::new("known_hosts"), text);
        known
    }

    fn line(number: usize) -> Place {
        Place::Line { file: "known_hosts".into(), line: number }
    }

    #[test]
    fn a_host_is_known_by_its_key_and_not_by_another() {
        let (old, new) = (key("ssh-ed25519", 1), key("ssh-ed25519", 2));
        let file = known(&format!("box,10.0.0.5 {} ann@box\n", old.line()));
        assert_eq!(file.judge("box", &old), Verdict::Known { at: line(1) });
        assert_eq!(file.judge("10.0.0.5", &old), Verdict::Known { at: line(1) });
        assert_eq!(file.judge("box", &new), Verdict::Changed { at: line(1) });
        assert_eq!(file.judge("other", &old), Verdict::Unknown { other_kinds: vec![] });
        assert_eq!(file.judge("[box]:2222", &old), Verdict::Unknown { other_kinds: vec![] });
    }

    #[test]
    fn another_kind_of_key_is_unknown_and_not_changed() {
        let file = known(&format!("box {}\n", key("ssh-rsa", 1).line()));
        let verdict = file.judge("box", &key("ssh-ed25519", 1));
        assert_eq!(verdict, Verdict::Unknown { other_kinds: vec!["ssh-rsa".into()] });
        assert_eq!(file.kinds("box"), ["ssh-rsa"]);
    }

    #[test]
    fn a_revoked_key_is_refused_wherever_else_it_stands() {
        let stolen = key("ssh-ed25519", 1);
        let text = format!("box {0}\n@revoked * {0}\n@cert-authority box {1}\n", stolen.line(), ED25519);
        assert_eq!(known(&text).judge("box", &stolen), Verdict::Revoked { at: line(2) });
        let pinned = known(&text).pinned_to(Some(stolen.clone()));
        assert_eq!(pinned.judge("box", &stolen), Verdict::Revoked { at: line(2) });
        let authority: HostKey = ED25519.parse().expect("a key");
        assert!(matches!(known(&text).judge("box", &authority), Verdict::Changed { .. }), "no host key");
    }

    #[test]
    fn junk_lines_do_not_void_the_others() {
        let good = key("ssh-ed25519", 1);
        let junk = "garbage\n|1|x\n@weird box ssh-rsa AAAA\nbox ssh-ed25519 %%%\nbox\n# box\n\n\0\u{fffd}\n";
        let file = known(&format!("{junk}box {}\n{junk}", good.line()));
        assert!(matches!(file.judge("box", &good), Verdict::Known { .. }));
        assert_eq!(file.entries.len(), 1);
    }

    #[test]
    fn hashed_names_wildcards_and_exceptions_are_understood() {
        // `ssh-keygen -H` of a file with `[127.0.0.1]:2222`.
        let mut mac = Hmac::<Sha1>::new_from_slice(b"01234567890123456789").expect("any length");
        mac.update(b"[127.0.0.1]:2222");
        let hash = STANDARD.encode(mac.finalize().into_bytes());
        let good = key("ssh-ed25519", 1);
        let hashed = known(&format!("|1|{}|{hash} {}", STANDARD.encode("01234567890123456789"), good.line()));
        assert!(matches!(hashed.judge("[127.0.0.1]:2222", &good), Verdict::Known { .. }));
        assert!(matches!(hashed.judge("127.0.0.1", &good), Verdict::Unknown { .. }));
        let wild = known(&format!("*.lan,!bad.lan,b?x {}", good.line()));
        for (name, is_known) in
            [("a.lan", true), ("bad.lan", false), ("BOX", true), ("bx", false), ("lan", false)]
        {
            assert_eq!(matches!(wild.judge(name, &good), Verdict::Known { .. }), is_known, "{name}");
        }
    }

    #[test]
    fn a_pinned_key_stands_above_the_files() {
        let (pinned, other) = (key("ssh-ed25519", 1), key("ssh-ed25519", 2));
        let file = known(&format!("box {}\n", other.line())).pinned_to(Some(pinned.clone()));
        assert_eq!(file.judge("box", &pinned), Verdict::Known { at: Place::Pinned });
        assert_eq!(file.judge("box", &other), Verdict::Changed { at: Place::Pinned });
        let another_kind = file.judge("box", &key("ssh-rsa", 2));
        assert_eq!(another_kind, Verdict::Unknown { other_kinds: vec!["ssh-ed25519".into()] });
    }

    proptest! {
        #[test]
        fn no_text_makes_the_reader_panic(text in ".{0,300}", name in ".{0,20}") {
            let _ = known(&text).judge(&name, &key("ssh-rsa", 1));
        }

        #[test]
        fn a_pattern_without_wildcards_fits_itself_only(a in "[a-z.]{1,12}", b in "[a-z.]{1,12}") {
            prop_assert_eq!(fits(&a, &b), a == b);
        }
    }
}
