//! What must not get out: prompts and tokens that are recognised wherever they turn up.

use std::{os::unix::fs::PermissionsExt as _, path::Path};

use crate::strays::Stray;

/// Files that are there to hold a secret: keys, tokens, the database, and the configuration of a fake, which is the test's.
const STORES: &[&str] = &["token", "admin.key", "queen.key", "queen.db", "queen.db-wal", "queen.db-shm"];

/// The start of every prompt of this harness, followed by the run's own letters.
pub(crate) const CANARY: &str = "canary-";

/// Where a secret was found, once for each place.
pub(crate) fn leaks(folder: &Path, prompt_mark: &str, tokens: &[String]) -> Vec<String> {
    let mut found = Vec::new();
    walk(folder, &mut |path| {
        // A program holds what it was built with, and a hive of another machine is one of many megabytes.
        let is_program = path.metadata().is_ok_and(|meta| meta.permissions().mode() & 0o111 != 0);
        let Some(bytes) = std::fs::read(path).ok().filter(|_| !is_program) else { return };
        let is_store = path.file_name().is_some_and(|name| STORES.iter().any(|store| name == *store));
        if holds(&bytes, prompt_mark) {
            found.push(format!("a prompt stands in {}", path.display()));
        }
        if !is_store && tokens.iter().any(|token| holds(&bytes, token)) {
            found.push(format!("a token stands in {}", path.display()));
        }
    });
    found
}

/// The same for command lines and environments of running processes. The queen is told its own token by its environment.
pub(crate) fn exposed(
    processes: &[Stray],
    prompt_mark: &str,
    tokens: &[String],
    queens: &str,
) -> Vec<String> {
    let mut found = Vec::new();
    for process in processes {
        let pid = process.identity.pid;
        let is_queen =
            process.command.split(' ').next().is_some_and(|program| program.ends_with("queen-rbee"));
        for part in ["cmdline", "environ"] {
            let Ok(bytes) = std::fs::read(format!("/proc/{pid}/{part}")) else { continue };
            let told = |token: &&String| !(is_queen && part == "environ" && token.as_str() == queens);
            let token = tokens.iter().filter(told).any(|token| holds(&bytes, token));
            if token || holds(&bytes, prompt_mark) {
                found.push(format!("a secret stands in the {part} of {process}"));
            }
        }
    }
    found
}

/// Whether a text holds any of them.
pub(crate) fn holds_any(bytes: &[u8], prompt_mark: &str, tokens: &[String]) -> bool {
    holds(bytes, prompt_mark) || tokens.iter().any(|token| holds(bytes, token))
}

fn holds(bytes: &[u8], text: &str) -> bool {
    !text.is_empty() && bytes.windows(text.len()).any(|window| window == text.as_bytes())
}

fn walk(folder: &Path, visit: &mut impl FnMut(&Path)) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => walk(&path, visit),
            Ok(kind) if kind.is_file() => visit(&path),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_found_outside_of_its_store() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("logs")).unwrap();
        std::fs::write(folder.path().join("token"), "s3cret").unwrap();
        let tokens = ["s3cret".to_owned()];
        assert_eq!(leaks(folder.path(), "canary-1", &tokens), [""; 0]);
        std::fs::write(folder.path().join("logs/queen.log"), "bearer s3cret").unwrap();
        std::fs::write(folder.path().join("queen.db"), "canary-1").unwrap();
        assert_eq!(leaks(folder.path(), "canary-1", &tokens).len(), 2);
    }
}
