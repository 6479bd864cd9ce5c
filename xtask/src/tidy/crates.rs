//! Rules about packages.

use std::path::{Component, Path};

use super::{Finding, tree::Tree};

/// Crates that are meant to be used alone, and so explain themselves.
const REUSABLE: &[&str] = &["fleet", "hive-api", "registry-sqlite", "queen-client", "ssh-lifecycle"];

/// Folder names that say nothing of what is in them.
const BANNED: &[&str] = &["common", "utils", "util", "shared", "helpers", "helper", "misc"];

const ARCHITECTURE: &str = "docs/ARCHITECTURE.md";
const LICENCES: [&str; 2] = ["LICENSE-APACHE", "LICENSE-MIT"];

pub(super) fn check(tree: &Tree) -> Vec<Finding> {
    let mut findings: Vec<_> = tree.packages().flat_map(|folder| package(tree, folder)).collect();
    findings.extend(folders(tree));
    for licence in LICENCES {
        if tree.text(licence).is_none_or(str::is_empty) {
            findings.push(Finding::of(licence, "the licence file is missing"));
        }
    }
    findings
}

fn package(tree: &Tree, folder: &Path) -> Vec<Finding> {
    let name = folder.file_name().unwrap_or_default().to_string_lossy();
    let manifest = folder.join("Cargo.toml");
    let text = tree.text(&manifest).unwrap_or_default();
    let mut findings = Vec::new();
    if !inherits_lints(text) {
        findings.push(Finding::of(&manifest, "add `[lints]` with `workspace = true`"));
    }
    if !text.lines().any(|line| line.trim() == format!("name = \"{name}\"")) {
        findings.push(Finding::of(&manifest, format!("the package should be called {name}, as its folder")));
    }
    let roots = ["src/lib.rs", "src/main.rs"].map(|root| folder.join(root));
    for root in roots.iter().filter(|root| tree.files.contains_key(*root)) {
        if !tree.text(root).unwrap_or_default().starts_with("//!") {
            findings.push(Finding::of(root, "begin with a `//!` that says what this crate is"));
        }
    }
    if tree.text(ARCHITECTURE).is_none_or(|text| !text.contains(&format!("`{name}`"))) {
        findings.push(Finding::of(ARCHITECTURE, format!("give `{name}` a line in the codemap")));
    }
    if REUSABLE.contains(&&*name) {
        findings.extend(explained(tree, folder));
    }
    findings
}

fn inherits_lints(manifest: &str) -> bool {
    let mut after = manifest.lines().map(str::trim).skip_while(|line| *line != "[lints]").skip(1);
    after.find(|line| !line.is_empty()) == Some("workspace = true")
}

fn explained(tree: &Tree, folder: &Path) -> Vec<Finding> {
    let readme = folder.join("README.md");
    let examples = folder.join("examples");
    let mut findings = Vec::new();
    if tree.text(&readme).is_none_or(str::is_empty) {
        findings.push(Finding::of(&readme, "this crate is used alone too: say how"));
    }
    if !tree.files.keys().any(|path| path.starts_with(&examples)) {
        findings.push(Finding::of(&examples, "this crate is used alone too: add an example that does so"));
    }
    findings
}

fn folders(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for path in tree.files.keys() {
        if path.file_name().is_some_and(|name| name == "mod.rs") {
            findings.push(Finding::of(path, "call it after its module, beside the folder"));
        }
        let folder = path.parent().unwrap_or(Path::new(""));
        let banned = folder.components().any(|part| match part {
            Component::Normal(name) => BANNED.iter().any(|banned| name == *banned),
            _ => false,
        });
        if banned {
            findings.push(Finding::of(path, "name the folder after what it holds"));
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    const MANIFEST: &str = "[package]\nname = \"bees\"\n\n[lints]\nworkspace = true\n";
    const MAP: (&str, &str) = ("docs/ARCHITECTURE.md", "- `bees` keeps bees, `fleet` sails\n");
    const APACHE: (&str, &str) = ("LICENSE-APACHE", "text");
    const MIT: (&str, &str) = ("LICENSE-MIT", "text");

    fn advice(tree: Tree) -> Vec<String> {
        check(&tree).into_iter().map(|finding| finding.to_string()).collect()
    }

    #[test]
    fn a_package_as_it_should_be_is_left_alone() {
        let tree =
            [("crates/bees/Cargo.toml", MANIFEST), ("crates/bees/src/lib.rs", "//! Bees."), MAP, APACHE, MIT];
        assert_eq!(advice(tree.into()), [""; 0]);
    }

    #[test]
    fn every_rule_about_packages_bites() {
        let tree = [
            ("crates/fleet/Cargo.toml", "[package]\nname = \"flet\"\n[lints]\n"),
            ("crates/fleet/src/lib.rs", "mod a;"),
            ("crates/fleet/src/a/mod.rs", ""),
            ("crates/fleet/src/utils/b.rs", ""),
            ("docs/ARCHITECTURE.md", "fleet"),
            MIT,
        ];
        assert_eq!(
            advice(tree.into()),
            [
                "crates/fleet/Cargo.toml: add `[lints]` with `workspace = true`",
                "crates/fleet/Cargo.toml: the package should be called fleet, as its folder",
                "crates/fleet/src/lib.rs: begin with a `//!` that says what this crate is",
                "docs/ARCHITECTURE.md: give `fleet` a line in the codemap",
                "crates/fleet/README.md: this crate is used alone too: say how",
                "crates/fleet/examples: this crate is used alone too: add an example that does so",
                "crates/fleet/src/a/mod.rs: call it after its module, beside the folder",
                "crates/fleet/src/utils/b.rs: name the folder after what it holds",
                "LICENSE-APACHE: the licence file is missing",
            ]
        );
    }
}
