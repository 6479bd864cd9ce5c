//! One question to a model, and its answer as it comes.

use std::{
    io::{IsTerminal, Read, stdin},
    time::Instant,
};

use futures_util::StreamExt;
use queen_api::{InferEvent, InferRequest};

use crate::{failure::Failure, place::Place, screen::Screen, words};

/// What is asked.
#[derive(Debug, Clone)]
pub(crate) struct Question {
    pub(crate) model: String,
    /// Standard input if absent, or `-`.
    pub(crate) prompt: Option<String>,
    pub(crate) max_tokens: u32,
    pub(crate) temperature: Option<f32>,
    pub(crate) top_p: Option<f32>,
    pub(crate) top_k: Option<u32>,
    pub(crate) seed: Option<u64>,
    pub(crate) quiet: bool,
}

pub(crate) async fn run(place: &Place, question: Question, screen: &Screen) -> Result<(), Failure> {
    let Question { model, prompt, max_tokens, temperature, top_p, top_k, seed, quiet } = question;
    let prompt = match prompt.filter(|prompt| prompt != "-") {
        Some(prompt) => prompt,
        None => piped().await?,
    };
    let request =
        InferRequest { model, prompt, max_tokens, temperature, top_p, top_k, seed, stop: None, stream: true };
    let began = Instant::now();
    let mut answer = place.client.infer(&request).await?;
    let mut first = None;
    let mut ends_line = true;
    let mut name = None;
    while let Some(event) = answer.next().await {
        let event = match event {
            Ok(event) => event,
            Err(error) => {
                if !ends_line && !screen.is_json() {
                    screen.write("\n")?;
                }
                return Err(error.into());
            }
        };
        if screen.is_json() {
            screen.json_line(&event)?;
            continue;
        }
        if let Some(line) = words::waiting(&event).filter(|_| !quiet) {
            screen.progress(&words::printable(&line));
        }
        match event {
            InferEvent::Token { t, .. } => {
                first.get_or_insert_with(|| began.elapsed());
                ends_line = t.ends_with('\n');
                screen.write(&t)?;
            }
            InferEvent::End { tokens_out, decode_time_ms, .. } => {
                if !ends_line {
                    screen.write("\n")?;
                }
                if !quiet {
                    let first = first.unwrap_or_default().as_secs_f64();
                    let why =
                        name.take().map(|name| format!("; why there: rbee why {name}")).unwrap_or_default();
                    screen.step(&format!(
                        "{tokens_out} tokens, the first after {first:.1} s, the rest in {:.1} s{why}",
                        f64::from(u32::try_from(decode_time_ms).unwrap_or(u32::MAX)) / 1000.0
                    ));
                }
            }
            InferEvent::Started { request_id, .. } => name = Some(request_id),
            InferEvent::Queued { .. } | InferEvent::Loading { .. } | InferEvent::Error { .. } => {}
        }
    }
    Ok(())
}

async fn piped() -> Result<String, Failure> {
    if stdin().is_terminal() {
        let told = "no prompt: give one behind the model, or pipe a text in";
        return Err(Failure::Usage(told.to_owned()));
    }
    let reading = tokio::task::spawn_blocking(|| {
        let mut text = String::new();
        stdin().read_to_string(&mut text).map(|_| text)
    });
    let read = reading.await.map_err(|error| Failure::Told(error.to_string()))?;
    read.map_err(|error| Failure::Usage(format!("the prompt could not be read: {error}")))
}
