//! What stands on the terminal, or goes into a pipe.

use std::{
    io::{IsTerminal, Write, stderr, stdout},
    process::ExitCode,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use serde::Serialize;

use crate::failure::Failure;

/// How often an amount is told where lines stay.
const AMOUNT_EVERY: Duration = Duration::from_secs(5);

/// Where output goes, and in which form. Nothing is coloured, so `NO_COLOR` has nothing to switch off.
#[derive(Debug, Clone)]
pub(crate) struct Screen {
    json: bool,
    progress: Arc<Progress>,
}

/// Remarks on standard error: one line that changes on a terminal, lines elsewhere.
#[derive(Debug)]
struct Progress {
    began: Instant,
    rewrites: bool,
    shown: Mutex<Shown>,
    /// When an amount was told last.
    amount: Mutex<Option<Instant>>,
}

#[derive(Debug, Default)]
struct Shown {
    last: String,
    /// Whether the cursor stands behind a line that may be written over.
    open: bool,
}

impl Screen {
    pub(crate) fn new(json: bool) -> Self {
        let dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
        let rewrites = stderr().is_terminal() && !dumb;
        let progress =
            Progress { began: Instant::now(), rewrites, shown: Mutex::default(), amount: Mutex::default() };
        Self { json, progress: Arc::new(progress) }
    }

    pub(crate) const fn is_json(&self) -> bool {
        self.json
    }

    /// Text for people, or the same as JSON.
    pub(crate) fn show(&self, text: impl FnOnce() -> String, value: &impl Serialize) -> Result<(), Failure> {
        if self.json {
            return self.json_line(value);
        }
        let mut text = text();
        if !text.is_empty() && !text.ends_with('\n') {
            text.push('\n');
        }
        self.write(&text)
    }

    /// One line of JSON.
    pub(crate) fn json_line(&self, value: &impl Serialize) -> Result<(), Failure> {
        let json = serde_json::to_string(value).map_err(|error| Failure::Told(error.to_string()))?;
        self.write(&format!("{json}\n"))
    }

    /// Text to standard output as it is, at once.
    pub(crate) fn write(&self, text: &str) -> Result<(), Failure> {
        self.end_of_progress();
        let mut out = stdout().lock();
        out.write_all(text.as_bytes())?;
        Ok(out.flush()?)
    }

    /// What is being done, with the seconds since the start. A remark that follows takes its place on a terminal.
    pub(crate) fn progress(&self, line: &str) {
        self.remark(line, true);
    }

    /// How far something is that goes on for a while. Where lines stay, not each of them is worth one.
    pub(crate) fn amount(&self, line: &str) {
        {
            let mut told = self.progress.amount.lock().unwrap_or_else(PoisonError::into_inner);
            if !self.progress.rewrites && told.is_some_and(|at| at.elapsed() < AMOUNT_EVERY) {
                return;
            }
            *told = Some(Instant::now());
        }
        self.remark(line, true);
    }

    /// What was done, with the seconds since the start.
    pub(crate) fn step(&self, line: &str) {
        self.remark(line, false);
    }

    fn remark(&self, line: &str, open: bool) {
        let mut shown = self.progress.shown.lock().unwrap_or_else(PoisonError::into_inner);
        if self.json || shown.last == line {
            return;
        }
        let seconds = self.progress.began.elapsed().as_secs_f64();
        let mut out = stderr().lock();
        let start = if shown.open { "\r\x1b[K" } else { "" };
        let open = open && self.progress.rewrites;
        let end = if open { "" } else { "\n" };
        // A terminal that is gone is no reason to stop.
        let _ = write!(out, "{start}{seconds:6.1} s  {line}{end}").and_then(|()| out.flush());
        *shown = Shown { last: line.to_owned(), open };
    }

    /// Takes an unfinished remark off the terminal.
    fn end_of_progress(&self) {
        let mut shown = self.progress.shown.lock().unwrap_or_else(PoisonError::into_inner);
        if shown.open {
            let _ = write!(stderr(), "\r\x1b[K");
            *shown = Shown::default();
        }
    }

    /// The failure that ends the program.
    pub(crate) fn failure(&self, failure: &Failure) {
        self.end_of_progress();
        if matches!(failure, Failure::Pipe) {
            return;
        }
        if self.json {
            let _ = writeln!(stdout(), "{}", failure.json());
        } else {
            let _ = writeln!(stderr(), "rbee: {}", crate::words::printable(&failure.to_string()));
        }
    }
}

/// Help that was asked for, or what is wrong with the command line.
pub(crate) fn print_usage(text: &str, failure: bool) -> ExitCode {
    let text = format!("{}\n", text.trim_end());
    if failure {
        let _ = stderr().write_all(text.as_bytes());
        return Failure::Usage(String::new()).exit_code();
    }
    let _ = stdout().write_all(text.as_bytes());
    ExitCode::SUCCESS
}
