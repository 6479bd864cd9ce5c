//! Asks a model and prints the answer as it comes.
//!
//!     cargo run -p queen-client --example ask -- "Once upon a time" hf:owner/name http://127.0.0.1:7833
//!
//! The queen's token is read from `QUEEN_RBEE_TOKEN`, if it has one.

use std::io::{Write, stderr, stdout};

use anyhow::Context;
use queen_api::{InferEvent, InferRequest};
use queen_client::{DEFAULT_ADDRESS, QueenClient, collect};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut args = std::env::args().skip(1);
    let prompt = args.next().context("usage: ask PROMPT MODEL [ADDRESS]")?;
    let model = args.next().context("usage: ask PROMPT MODEL [ADDRESS]")?;
    let address = args.next().unwrap_or_else(|| DEFAULT_ADDRESS.to_owned());
    let token = std::env::var("QUEEN_RBEE_TOKEN").ok().map(|token| token.parse()).transpose()?;
    let queen = QueenClient::new(&address, token)?;

    let request = InferRequest {
        model,
        prompt,
        max_tokens: 64,
        temperature: None,
        top_p: None,
        top_k: None,
        seed: None,
        stop: None,
        stream: true,
    };
    let shown = |event: &InferEvent| {
        // A terminal that is gone is no reason to stop reading.
        let _ = match event {
            InferEvent::Token { t, .. } => write!(stdout(), "{t}").and_then(|()| stdout().flush()),
            InferEvent::Queued { ahead } => writeln!(stderr(), "waiting behind {ahead}"),
            InferEvent::Loading { stage, .. } => writeln!(stderr(), "{stage:?}"),
            InferEvent::Started { worker_id, hive_id, .. } => writeln!(stderr(), "{worker_id} on {hive_id}"),
            InferEvent::End { .. } | InferEvent::Error { .. } => writeln!(stdout()),
        };
    };
    let reply = collect(queen.infer(&request).await?, shown).await?;
    writeln!(stderr(), "{} tokens in {} ms", reply.tokens_out, reply.decode_time_ms)?;
    Ok(())
}
