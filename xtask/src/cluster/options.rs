//! What `test-cluster` is asked to do.

use std::{path::PathBuf, time::Duration};

use clap::Args;
use serde::{Deserialize, Serialize};

use super::program::Kit;

/// Which scenarios, on which fleet, how often.
#[derive(Debug, Clone, Args, Serialize, Deserialize)]
pub(crate) struct Options {
    /// Fake hives of a scenario that does not need a certain number
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=100))]
    pub(crate) hives: u16,
    /// Also run the scenarios that need real hives, with that many of them
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) real_hives: u16,
    /// Most workers that a hive has room for
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub(crate) workers_per_hive: u16,
    /// What prompts, names and choices are drawn from
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) seed: u64,
    /// Only scenarios whose name fits, with `*` for any text
    #[arg(long, value_name = "GLOB", default_value = "*")]
    pub(crate) scenario: String,
    /// Name the scenarios and end
    #[arg(long)]
    pub(crate) list: bool,
    /// Run each that often
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) repeat: u32,
    /// Begin again until that many seconds have passed
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    pub(crate) duration: Option<Duration>,
    /// Scenarios at a time
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=16))]
    pub(crate) jobs: u16,
    /// Also write the outcome as JUnit XML
    #[arg(long, value_name = "FILE")]
    pub(crate) junit: Option<PathBuf>,
    /// Check any hive against the contract instead, ours or not: its address, such as http://host:7835
    #[arg(long, value_name = "URL", requires = "token_file")]
    pub(crate) hive: Option<String>,
    /// The file that holds that hive's token
    #[arg(long, value_name = "FILE", requires = "hive")]
    pub(crate) token_file: Option<PathBuf>,
    /// A model of that hive's to start a worker on
    #[arg(long, value_name = "REF", requires = "hive")]
    pub(crate) model: Option<String>,
    /// Keep data and logs of scenarios that passed, too
    #[arg(long)]
    pub(crate) keep: bool,
    /// Which programs are judged.
    #[arg(skip)]
    pub(crate) kit: Kit,
    /// Run scenarios that have a long form in that
    #[arg(long)]
    pub(crate) long: bool,
    /// Whether nothing is printed.
    #[arg(skip)]
    pub(crate) quiet: bool,
}

impl Options {
    /// What is run when nobody asks for anything in particular.
    pub(crate) fn short() -> Self {
        Self {
            hives: 3,
            real_hives: 0,
            workers_per_hive: 4,
            seed: 1,
            scenario: "*".to_owned(),
            list: false,
            repeat: 1,
            duration: None,
            jobs: 3,
            junit: None,
            hive: None,
            token_file: None,
            model: None,
            keep: false,
            kit: Kit::default(),
            long: false,
            quiet: false,
        }
    }

    /// The line that plays one scenario again.
    pub(crate) fn again(&self, scenario: &str, real: bool, seed: u64) -> String {
        let short = Self::short();
        let mut line = format!("cargo xtask test-cluster --scenario '{scenario}' --seed {seed}");
        if real {
            line += &format!(" --real-hives {}", self.real_hives);
        }
        for (flag, value, usual) in [
            ("--hives", self.hives, short.hives),
            ("--workers-per-hive", self.workers_per_hive, short.workers_per_hive),
        ] {
            if value != usual {
                line += &format!(" {flag} {value}");
            }
        }
        line
    }
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: u64 = text.trim_end_matches('s').parse().map_err(|_| "a number of seconds".to_owned())?;
    Ok(Duration::from_secs(seconds))
}

/// Whether a name fits a pattern in which `*` stands for any text.
pub(crate) fn fits(pattern: &str, name: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == name,
        Some((start, rest)) => name.strip_prefix(start).is_some_and(|name| {
            name.char_indices().map(|(at, _)| at).chain([name.len()]).any(|at| fits(rest, &name[at..]))
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_that_plays_again_has_what_is_not_usual() {
        let options = Options { hives: 50, ..Options::short() };
        assert_eq!(
            options.again("cold/herd", false, 7),
            "cargo xtask test-cluster --scenario 'cold/herd' --seed 7 --hives 50"
        );
    }

    #[test]
    fn patterns_name_scenarios() {
        for (pattern, name, fitting) in [
            ("*", "cold-herd", true),
            ("cold-*", "cold-herd", true),
            ("*herd", "cold-herd", true),
            ("c*-*d", "cold-herd", true),
            ("cold", "cold-herd", false),
            ("warm*", "cold-herd", false),
            ("", "cold-herd", false),
        ] {
            assert_eq!(fits(pattern, name), fitting, "{pattern} {name}");
        }
    }
}
