//! Asking a program, within bounds.

use std::{path::Path, process::Stdio, time::Duration};

use tokio::{
    io::{AsyncRead, AsyncReadExt},
    process::Command,
};

/// Longest wait for a tool. `nvidia-smi` takes seconds where the driver first has to wake the card.
const BOUND: Duration = Duration::from_secs(5);

/// Most that is read of a tool, in bytes.
const OUTPUT_MAX: u64 = 64 * 1024;

/// What a tool said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// There is no such program.
    Missing,
    /// It ended well: its standard output, then its standard error.
    Output(String),
    /// It failed, hung or could not be run; the text is for people.
    Failed(String),
}

/// Runs a program and reads what it says, within 5 s and 64 KiB.
pub async fn ask(program: &Path, args: &[&str]) -> Answer {
    match tokio::time::timeout(BOUND, run(program, args)).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(error)) if error.kind() == std::io::ErrorKind::NotFound => Answer::Missing,
        Ok(Err(error)) => Answer::Failed(format!("{}: {error}", program.display())),
        Err(_) => Answer::Failed(format!("{} did not answer within {BOUND:?}", program.display())),
    }
}

async fn read(output: Option<impl AsyncRead + Unpin>) -> std::io::Result<Vec<u8>> {
    let mut text = Vec::new();
    if let Some(output) = output {
        output.take(OUTPUT_MAX).read_to_end(&mut text).await?;
    }
    Ok(text)
}

async fn run(program: &Path, args: &[&str]) -> std::io::Result<Answer> {
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn()?;
    // Both at once: a tool that fills the one while the other is read would never end.
    let (mut text, err) = tokio::try_join!(read(child.stdout.take()), read(child.stderr.take()))?;
    let status = child.wait().await?;
    text.extend(err);
    let text = String::from_utf8_lossy(&text).into_owned();
    Ok(if status.success() { Answer::Output(text) } else { Answer::Failed(text.trim().to_owned()) })
}
