//! One question, and its answer on the terminal as it comes.

use std::{
    collections::VecDeque,
    io::{IsTerminal as _, Write as _},
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use queen_api::{ErrorBody, InferEvent, LoadingStage};

/// Longest event that is read.
const EVENT: usize = 1 << 20;

/// How long nothing at all may come; the queen sends a comment every 10 s while it works.
const SILENCE: Duration = Duration::from_secs(60);

/// Asks, and prints progress to standard error and the answer's text to standard output.
pub(super) async fn ask(
    url: &str,
    token: Option<&str>,
    model: &str,
    prompt: &str,
    max_tokens: u32,
) -> anyhow::Result<()> {
    let client = http_client::builder(http_client::Trust::Nobody).build()?;
    let body = serde_json::json!({ "model": model, "prompt": prompt, "max_tokens": max_tokens });
    let mut request = client.post(format!("{url}/v1/infer")).body(body.to_string());
    if let Some(token) = token {
        request = request.bearer_auth(token);
    }
    let mut response = request.send().await.context("the queen does not answer")?;
    if !response.status().is_success() {
        let status = response.status();
        let text = response.text().await.unwrap_or_default();
        let error: Result<ErrorBody, _> = serde_json::from_str(&text);
        bail!("{}", error.map_or_else(|_| format!("{status}: {text}"), |body| body.error.message));
    }
    let (mut decoder, mut events) = (sse::Decoder::new(EVENT), VecDeque::new());
    let mut shown = Shown::new();
    loop {
        let piece = tokio::time::timeout(SILENCE, response.chunk()).await;
        let piece = piece.with_context(|| format!("nothing came from the queen for {SILENCE:?}"))?;
        let Some(piece) = piece.context("the answer broke off")? else {
            bail!("the answer ended without its terminator");
        };
        decoder.push(&piece, &mut events)?;
        for event in events.drain(..) {
            if event.data == "[DONE]" {
                ensure!(shown.tokens > 0, "the answer is empty");
                return Ok(());
            }
            let event = serde_json::from_slice(&event.data).context("the queen sent what is no event")?;
            shown.show(&event)?;
        }
    }
}

/// What is on the terminal.
struct Shown {
    began: Instant,
    first_token: Option<Instant>,
    tokens: u64,
    progress: String,
    rewrites: bool,
}

impl Shown {
    fn new() -> Self {
        Self {
            began: Instant::now(),
            first_token: None,
            tokens: 0,
            progress: String::new(),
            rewrites: std::io::stderr().is_terminal(),
        }
    }

    fn show(&mut self, event: &InferEvent) -> anyhow::Result<()> {
        match event {
            InferEvent::Queued { ahead } => self.progress(format!("waiting, {ahead} ahead")),
            InferEvent::Loading { stage, progress } => self.progress(loading(*stage, *progress)),
            InferEvent::Started { worker_id, hive_id, .. } => {
                self.progress(format!("worker {worker_id} on hive {hive_id} answers"));
                self.end_of_progress();
            }
            InferEvent::Token { t, .. } => {
                self.first_token.get_or_insert_with(Instant::now);
                self.tokens += 1;
                let mut out = std::io::stdout().lock();
                out.write_all(t.as_bytes())?;
                out.flush()?;
            }
            InferEvent::End { tokens_out, decode_time_ms, .. } => {
                writeln!(std::io::stdout())?;
                let first = self.first_token.map_or(0.0, |first| (first - self.began).as_secs_f64());
                eprintln!(
                    "   {tokens_out} tokens, the first after {first:.2} s, decoded in {decode_time_ms} ms"
                );
            }
            InferEvent::Error { message, .. } => {
                self.end_of_progress();
                bail!("{message}");
            }
        }
        Ok(())
    }

    /// One line that changes on a terminal, lines where it goes to a file.
    fn progress(&mut self, line: String) {
        if line == self.progress {
            return;
        }
        let seconds = self.began.elapsed().as_secs_f64();
        if self.rewrites {
            eprint!("\r\x1b[K   {seconds:6.1} s  {line}");
        } else {
            eprintln!("   {seconds:6.1} s  {line}");
        }
        self.progress = line;
    }

    fn end_of_progress(&self) {
        if self.rewrites && !self.progress.is_empty() {
            eprintln!();
        }
    }
}

fn loading(stage: LoadingStage, progress: Option<f32>) -> String {
    let doing = match stage {
        LoadingStage::Choosing => "choosing a hive",
        LoadingStage::Downloading => "downloading the model",
        LoadingStage::Verifying => "verifying the model",
        LoadingStage::Starting => "starting a worker",
        LoadingStage::Loading => "loading the model",
    };
    match progress {
        Some(part) => format!("{doing}, {:.0} %", f64::from(part) * 100.0),
        None => doing.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_is_said_in_words() {
        assert_eq!(loading(LoadingStage::Downloading, Some(0.254)), "downloading the model, 25 %");
        assert_eq!(loading(LoadingStage::Starting, None), "starting a worker");
    }
}
