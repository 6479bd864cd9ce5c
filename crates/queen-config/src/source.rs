//! The text of the file, and where in it a key stands.

use std::{
    ops::Range,
    path::{Path, PathBuf},
};

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use crate::fault::{Fault, Origin};

/// One step from the root to a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    /// Into a table.
    Key(String),
    /// Into a list.
    Index(usize),
}

/// The path of a value.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Trail(pub(crate) Vec<Step>);

impl Trail {
    /// The path of a dotted name.
    pub(crate) fn of(name: &str) -> Self {
        Self(name.split('.').map(|part| Step::Key(part.to_owned())).collect())
    }

    /// One step further.
    pub(crate) fn key(&self, name: &str) -> Self {
        self.with(Step::Key(name.to_owned()))
    }

    /// One step further.
    pub(crate) fn index(&self, at: usize) -> Self {
        self.with(Step::Index(at))
    }

    fn with(&self, step: Step) -> Self {
        Self(self.0.iter().cloned().chain([step]).collect())
    }

    /// The dotted form, entries of a list counted from 1: `hive[2].port`.
    pub(crate) fn dotted(&self) -> String {
        let mut text = String::new();
        for step in &self.0 {
            match step {
                Step::Index(at) => text.push_str(&format!("[{}]", at + 1)),
                Step::Key(name) => {
                    if !text.is_empty() {
                        text.push('.');
                    }
                    text.push_str(name);
                }
            }
        }
        text
    }

    /// The name of the variable that sets it.
    pub(crate) fn variable(&self) -> String {
        let parts = self.0.iter().map(|step| match step {
            Step::Key(name) => name.to_uppercase(),
            Step::Index(at) => at.to_string(),
        });
        format!("{}{}", super::layers::PREFIX, parts.collect::<Vec<_>>().join("__"))
    }
}

/// The configuration file.
#[derive(Debug, Clone)]
pub(crate) struct Source {
    pub(crate) path: PathBuf,
    pub(crate) text: String,
}

/// Which part of an entry a fault is about.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Part {
    /// Its name.
    Key,
    /// What it is set to.
    Value,
}

impl Source {
    /// Reads a file. One that is there and cannot be read is a fault.
    pub(crate) fn read(path: &Path) -> Result<Self, Fault> {
        let fault = |error: &dyn std::fmt::Display| Fault {
            origin: Origin::File { path: path.to_owned(), position: None },
            key: String::new(),
            problem: format!("cannot be read: {error}"),
            advice: "give the path of a readable file with --config, or remove the flag".to_owned(),
        };
        let text = std::fs::read_to_string(path).map_err(|error| fault(&error))?;
        let source = Self { path: path.to_owned(), text };
        source.check().map(|()| source)
    }

    /// Whether the text is TOML.
    fn check(&self) -> Result<(), Fault> {
        let Err(error) = DeTable::parse(&self.text) else { return Ok(()) };
        let position = error.span().map(|span| self.position(span.start));
        let origin = Origin::File { path: self.path.clone(), position };
        if self.mixes_both_forms() {
            return Err(mixed(origin));
        }
        let problem = format!("is not TOML: {}", error.message().replace('\n', ", "));
        Err(Fault { origin, key: String::new(), problem, advice: "correct this line".to_owned() })
    }

    /// Whether tables of both forms stand in the text. A parser calls one order of them a duplicate key and reads the
    /// other as a table inside of an entry, and neither says what the matter is.
    fn mixes_both_forms(&self) -> bool {
        let has = |start: &str| self.text.lines().any(|line| line.trim_start().starts_with(start));
        has("[[hive]]") && has("[hive.")
    }

    /// Where a path of the file stands.
    pub(crate) fn origin(&self, trail: &Trail, part: Part) -> Origin {
        let span = self.span(trail, part);
        Origin::File { path: self.path.clone(), position: span.map(|span| self.position(span.start)) }
    }

    fn span(&self, trail: &Trail, part: Part) -> Option<Range<usize>> {
        let table = DeTable::parse(&self.text).ok()?;
        let mut span = table.span();
        let root = DeValue::Table(table.into_inner());
        let mut value = &root;
        for (depth, step) in trail.0.iter().enumerate() {
            let last = depth + 1 == trail.0.len();
            let found: &Spanned<DeValue<'_>> = match step {
                Step::Index(at) => value.as_array()?.get(*at)?,
                Step::Key(name) => {
                    let (key, found) = value.as_table()?.iter().find(|(key, _)| key.get_ref() == name)?;
                    if last && matches!(part, Part::Key) {
                        return Some(key.span());
                    }
                    found
                }
            };
            span = found.span();
            value = found.get_ref();
        }
        Some(span)
    }

    /// Line and column of a byte, both from 1; a column is a character.
    fn position(&self, at: usize) -> (usize, usize) {
        let before = self.text.get(..at).unwrap_or(&self.text);
        let line = before.rsplit('\n').next().unwrap_or_default();
        (before.matches('\n').count() + 1, line.chars().count() + 1)
    }
}

/// The fault of a configuration that uses both forms.
pub(crate) fn mixed(origin: Origin) -> Fault {
    Fault {
        origin,
        key: "hive".to_owned(),
        problem: "[[hive]] entries and [hive.NAME] tables are mixed".to_owned(),
        advice: "write all hives in one of the two forms".to_owned(),
    }
}
