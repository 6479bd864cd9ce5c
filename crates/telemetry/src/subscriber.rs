//! Setting it up.

use std::io;

use tracing_subscriber::{EnvFilter, filter::ParseError, layer::SubscriberExt, util::SubscriberInitExt};

use crate::output::Output;

/// How a line looks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Format {
    /// For people: time, level, target, message and fields. Without colours, so that nothing in a line is an escape
    /// sequence.
    #[default]
    Text,
    /// For programs: one JSON object per line.
    Json,
}

/// What is logged, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Directives of `tracing-subscriber`'s `EnvFilter`, such as `info` or `info,router=debug`.
    pub filter: String,
    /// How a line looks.
    pub format: Format,
}

impl Default for Settings {
    fn default() -> Self {
        Self { filter: "info".to_owned(), format: Format::Text }
    }
}

/// Why logging could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    /// The filter is not one.
    #[error("log filter {filter:?} is not valid; write it as info or info,router=debug")]
    Filter {
        /// What was given.
        filter: String,
        /// What is wrong with it.
        #[source]
        source: ParseError,
    },
    /// The thread that writes could not be started.
    #[error("could not start the thread that writes log lines")]
    Thread(#[source] io::Error),
    /// Something else in this program logs already.
    #[error("logging was set up already")]
    Twice,
}

/// Keeps the log alive; dropping it writes what is still in the queue.
#[must_use = "dropping the guard ends the log"]
pub struct Guard(Output);

impl Guard {
    /// How many lines were dropped since the start, because standard error was slow or closed.
    #[must_use]
    pub fn dropped_lines(&self) -> u64 {
        self.0.lost()
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.flush();
    }
}

impl std::fmt::Debug for Guard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Guard").field("dropped_lines", &self.dropped_lines()).finish()
    }
}

/// Sends what this program logs to standard error, from now until the guard is dropped. Once per process.
///
/// # Errors
/// When the filter is not valid, a thread cannot be started, or logging was set up before.
pub fn init(settings: &Settings) -> Result<Guard, InitError> {
    let filter = EnvFilter::builder()
        .parse(&settings.filter)
        .map_err(|source| InitError::Filter { filter: settings.filter.clone(), source })?;
    let output = Output::start(io::stderr()).map_err(InitError::Thread)?;
    let lines = tracing_subscriber::fmt::layer().with_writer(output.clone()).with_ansi(false);
    let registry = tracing_subscriber::registry().with(filter);
    match settings.format {
        Format::Text => registry.with(lines).try_init(),
        Format::Json => registry.with(lines.json().flatten_event(true)).try_init(),
    }
    .map_err(|_| InitError::Twice)?;
    Ok(Guard(output))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_filter_is_refused_and_quoted() {
        let settings = Settings { filter: "info,router=loud".to_owned(), ..Settings::default() };
        let error = init(&settings).expect_err("no such level");
        assert_eq!(
            error.to_string(),
            "log filter \"info,router=loud\" is not valid; write it as info or info,router=debug"
        );
    }
}
