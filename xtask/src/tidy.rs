//! `cargo xtask tidy`: the rules of the house that neither the compiler nor clippy knows.
//!
//! The tree is read once into memory and every rule is a function over it, so that each can be shown to bite on a tree
//! that a test makes up.

mod crates;
mod text;
mod tree;

use std::{fmt, path::PathBuf};

use anyhow::bail;

use crate::workspace;
use tree::Tree;

/// Something that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Finding {
    path: PathBuf,
    /// From 1; 0 for the file as a whole.
    line: usize,
    advice: String,
}

impl Finding {
    fn of(path: impl Into<PathBuf>, advice: impl Into<String>) -> Self {
        Self { path: path.into(), line: 0, advice: advice.into() }
    }

    fn at(path: impl Into<PathBuf>, line: usize, advice: impl Into<String>) -> Self {
        Self { path: path.into(), line, advice: advice.into() }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.path.display())?;
        if self.line > 0 {
            write!(f, ":{}", self.line)?;
        }
        write!(f, ": {}", self.advice)
    }
}

/// Checks the workspace. All findings are printed.
pub(crate) fn run() -> anyhow::Result<()> {
    let tree = Tree::read(&workspace::root())?;
    let findings = check(&tree);
    for finding in &findings {
        println!("{finding}");
    }
    if findings.is_empty() {
        println!("tidy: {} files, nothing to say", tree.files.len());
        return Ok(());
    }
    bail!("tidy found {} in {} files", plural(findings.len(), "fault"), tree.files.len())
}

fn plural(count: usize, noun: &str) -> String {
    if count == 1 { format!("1 {noun}") } else { format!("{count} {noun}s") }
}

fn check(tree: &Tree) -> Vec<Finding> {
    let mut findings = crates::check(tree);
    findings.extend(text::check(tree));
    findings.sort();
    findings
}
