//! OpenAI's own Python client against a queen with a real hive and a real worker.

use std::time::Duration;

use super::{Counts, needs};
use crate::{command::Command, stop::Stop, up};

/// What is asked of it: it prints one line for each check that passed.
const SCRIPT: &str = include_str!("client.py");

/// Starts a queen and runs the client's checks.
pub(super) async fn run(stop: &Stop) -> anyhow::Result<Counts> {
    up::build(stop).await?;
    let mut passed = 0;
    let served = up::with_queen("test-client", stop, async |queen: &up::Queen| {
        let checks = Command::new(needs::python())
            .args(["-c", SCRIPT])
            .env("OPENAI_BASE_URL", format!("{}/v1", queen.url))
            .env("OPENAI_API_KEY", "none-needed")
            .env("MODEL", &queen.model)
            .env("TEXT", tiny_model::TEXT);
        let output = checks.within(Duration::from_secs(300)).output(stop).await?;
        passed = output.lines().filter(|line| line.starts_with("ok ")).count();
        print!("{output}");
        Ok(())
    });
    served.await?;
    Ok(Counts::passed(passed))
}
