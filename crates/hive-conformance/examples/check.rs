//! Checks a running hive: `check http://host:port TOKEN_FILE [MODEL]`, and with `--pin FINGERPRINT` one that serves TLS. Ends
//! with 1 if a check fails.

use std::{io::Write as _, process::ExitCode};

use anyhow::Context as _;
use hive_conformance::{Outcome, Target, run};

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    let mut args: Vec<String> = std::env::args().skip(1).collect();
    let pin = args
        .iter()
        .position(|arg| arg == "--pin")
        .map(|at| args.drain(at..(at + 2).min(args.len())).next_back());
    let [url, token_file, model @ ..] = args.as_slice() else {
        anyhow::bail!("usage: check http[s]://host:port TOKEN_FILE [--pin FINGERPRINT] [MODEL]");
    };
    let token = std::fs::read_to_string(token_file).with_context(|| token_file.clone())?;
    let token = token.trim().parse().with_context(|| format!("{token_file} holds no token of a hive"))?;
    let mut target = Target::at(url, token)?;
    if let Some(pin) = pin.flatten() {
        target = target.with_pin(pin.parse()?);
    }
    if let Some(model) = model.first() {
        target = target.with_model(model.parse()?);
    }
    let results = run(&target).await;
    let mut out = std::io::stdout().lock();
    for result in &results {
        writeln!(out, "{result}")?;
    }
    let failed = results.iter().any(|result| result.outcome == Outcome::Failed);
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}
