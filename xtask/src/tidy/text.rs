//! Rules about what stands in files.

use std::path::Path;

use super::{Finding, tree::Tree};

/// Lines of code from which on a file has to say why it is not split.
const LONG: usize = 500;

/// How a file says so, in a comment, with the reason behind it.
const LONG_REASON: &str = "tidy: long because";

/// The one source of packages that a lock file may name, as everybody's cargo writes it.
const CRATES: &str = "\"registry+https://github.com/rust-lang/crates.io-index\"";

/// Files by which a machine tells its package managers where to go; they are the machine's business.
const OF_A_MACHINE: &[&str] = &["pip.conf", ".npmrc", ".pypirc", "credentials.toml"];

pub(super) fn check(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (path, text) in tree.rust() {
        findings.extend(length(path, text));
        findings.extend(ignored(path, text));
    }
    for (path, text) in &tree.files {
        findings.extend(machine(path, text));
        findings.extend(registries(path, text));
    }
    findings
}

/// Lines that are neither blank nor comment, up to the tests that stand at the end.
fn code_lines(text: &str) -> usize {
    let code = text.split("\n#[cfg(test)]\nmod tests {").next().unwrap_or_default();
    code.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with("//")).count()
}

fn length(path: &Path, text: &str) -> Option<Finding> {
    let lines = code_lines(text);
    let has_reason = text
        .lines()
        .filter_map(|line| line.trim().strip_prefix("//"))
        .any(|comment| comment.split_once(LONG_REASON).is_some_and(|(_, reason)| !reason.trim().is_empty()));
    (lines > LONG && !has_reason).then(|| {
        let advice = format!("{lines} lines of code: split it, or say `// {LONG_REASON} …`");
        Finding::of(path, advice)
    })
}

fn ignored(path: &Path, text: &str) -> Vec<Finding> {
    let attribute = concat!("#[", "ignore");
    let hits = text.lines().enumerate().filter(|(_, line)| line.trim().starts_with(attribute));
    hits.map(|(at, _)| Finding::at(path, at + 1, "a test that does not run is no test")).collect()
}

/// Paths that exist on one machine only.
fn machine(path: &Path, text: &str) -> Vec<Finding> {
    let homes = [concat!("/ro", "ot/"), concat!("/wo", "rk/"), concat!("/Us", "ers/")];
    let hits = text.lines().enumerate().filter_map(|(at, line)| {
        let home = homes.into_iter().find(|home| {
            // A path begins here: what stands before it is no part of a longer one.
            let begins =
                |at: usize| !line[..at].ends_with(|c: char| c.is_ascii_alphanumeric() || "._-~}".contains(c));
            line.match_indices(home).any(|(at, _)| begins(at))
        })?;
        Some(Finding::at(path, at + 1, format!("{home}… is a path of one machine")))
    });
    hits.collect()
}

/// Places to get packages from, other than the default ones.
fn registries(path: &Path, text: &str) -> Vec<Finding> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    if OF_A_MACHINE.contains(&&*name) {
        return vec![Finding::of(path, "where packages come from is the machine's business")];
    }
    let is_foreign: fn(&str) -> bool = if name == "Cargo.lock" {
        |line| line.strip_prefix("source = ").is_some_and(|source| source != CRATES)
    } else if path.starts_with(".cargo") {
        |line| line.starts_with("[source") || line.starts_with("[registr") || line.contains("registry")
    } else {
        let flag = concat!("--index", "-url");
        if text.contains(flag) {
            return vec![Finding::of(path, format!("{flag} is the machine's business"))];
        }
        return Vec::new();
    };
    let hits = text.lines().enumerate().filter(|(_, line)| is_foreign(line));
    hits.map(|(at, _)| Finding::at(path, at + 1, "packages come from crates.io only")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings(path: &str, text: &str) -> Vec<String> {
        let tree = Tree::from([(path, text)]);
        check(&tree).into_iter().map(|finding| finding.to_string()).collect()
    }

    #[test]
    fn a_long_file_needs_a_reason_and_tests_do_not_count() {
        let long = "let a = 1;\n".repeat(501);
        assert_eq!(findings("a.rs", &long).len(), 1);
        assert_eq!(findings("a.rs", &format!("// {LONG_REASON} it is a table.\n{long}")), [""; 0]);
        assert_eq!(findings("a.rs", &format!("// {LONG_REASON}\n{long}")).len(), 1);
        let tested = format!("let a = 1;\n#[cfg(test)]\nmod tests {{\n{long}}}\n");
        assert_eq!(findings("a.rs", &tested), [""; 0]);
        assert_eq!(code_lines("// a\n\nlet a; // b\n    // c\n"), 1);
    }

    #[test]
    fn ignored_tests_are_found_where_they_stand() {
        let text = format!("#[test]\n    {}[ignore = \"slow\"]\nfn a() {{}}", '#');
        assert_eq!(findings("a.rs", &text), ["a.rs:2: a test that does not run is no test"]);
    }

    #[test]
    fn paths_of_one_machine_are_found_and_parts_of_others_are_not() {
        for home in ["/wo", "/ro"] {
            let rest = if home == "/wo" { "rk/x" } else { "ot/x" };
            assert_eq!(findings("a.md", &format!("see {home}{rest}")).len(), 1, "{home}");
            assert_eq!(
                findings("a.md", &format!("see net{home}{rest} and a.b{home}{rest}")),
                [""; 0],
                "{home}"
            );
        }
    }

    #[test]
    fn only_the_default_registry_passes() {
        let lock = format!("source = {CRATES}\n");
        assert_eq!(findings("Cargo.lock", &lock), [""; 0]);
        assert_eq!(findings("Cargo.lock", "source = \"sparse+https://mirror.example/\"\n").len(), 1);
        assert_eq!(findings(".cargo/config.toml", "[source.crates-io]\n").len(), 1);
        assert_eq!(findings(".cargo/config.toml", "[alias]\n"), [""; 0]);
        assert_eq!(findings("x/.npmrc", "").len(), 1);
    }
}
