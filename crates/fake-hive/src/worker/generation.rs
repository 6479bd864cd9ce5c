//! One answer on its way: prefill, tokens, end, and the fault that may befall each.

use std::{io, sync::Arc, time::Duration};

use axum::response::Response;
use bytes::Bytes;
use fleet::WorkerId;
use hive_api::server::HiveResult;
use tokio::{sync::watch, time::sleep};

use super::{
    answer::{Slot, broke_off, json},
    openai::{self, Asked, Usage},
};
use crate::{
    garbage,
    journal::{OpenCall, Outcome},
    script::{AnswerText, Cut, Moment, WorkerAct, WorkerFault, WorkerScript},
    state::Core,
    wire::Wire,
};

/// How often a long prefill reports progress.
const PREFILL_TICK: Duration = Duration::from_millis(100);

/// Most tokens of one answer.
const TOKENS_MAX: u32 = 100_000;

/// One answer. Dropped early, its slot is free again and nothing further is counted.
pub(super) struct Generation {
    core: Arc<Core>,
    worker: WorkerId,
    script: WorkerScript,
    pub(super) asked: Asked,
    fault: Option<WorkerFault>,
    call: Option<OpenCall>,
    wire: Option<Arc<Wire>>,
    death: watch::Receiver<Option<Cut>>,
    frozen: watch::Receiver<bool>,
    _slot: Slot,
    id: String,
    pieces: Vec<String>,
    finish: &'static str,
    prompt_tokens: u32,
    sent: u32,
    stage: Stage,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Head,
    Prefill,
    Tokens,
    Finish,
    Usage,
    Done,
    Over,
    /// Bytes without end, from a fault.
    Endless(&'static str),
}

/// The pieces of an answer, and why it ends.
fn plan(
    tokens: impl Iterator<Item = String>,
    max_tokens: u32,
    stops: &[String],
) -> (Vec<String>, &'static str) {
    let mut text = String::new();
    let mut pieces = Vec::new();
    for token in tokens.take(max_tokens as usize) {
        text.push_str(&token);
        pieces.push(token);
        let found = stops.iter().filter(|s| !s.is_empty()).filter_map(|s| text.find(s.as_str())).min();
        if let Some(mut left) = found {
            for piece in &mut pieces {
                piece.truncate(left.min(piece.len()));
                left -= piece.len();
            }
            pieces.retain(|piece| !piece.is_empty());
            return (pieces, "stop");
        }
    }
    (pieces, "length")
}

fn tokens_of(text: AnswerText, prompt: &str) -> Box<dyn Iterator<Item = String> + Send> {
    match text {
        AnswerText::Recital => Box::new(tiny_model::recital_from(prompt)),
        AnswerText::Echo => {
            let words: Vec<_> = prompt.split_whitespace().map(|word| format!(" {word}")).collect();
            Box::new(words.into_iter().cycle())
        }
    }
}

type Piece = io::Result<Bytes>;

impl Generation {
    /// None if the worker is gone.
    pub(super) fn new(
        core: &Arc<Core>,
        worker: &WorkerId,
        script: &WorkerScript,
        asked: Asked,
        fault: Option<WorkerFault>,
        call: Option<OpenCall>,
        slot: Slot,
    ) -> Option<Self> {
        let max_tokens = asked.max_tokens.unwrap_or(script.default_max_tokens).min(TOKENS_MAX);
        let (pieces, finish) = plan(tokens_of(script.text, &asked.prompt), max_tokens, &asked.stop);
        let number = {
            let mut state = core.state();
            state.next_id()
        };
        let state = core.state();
        let living = state.workers.get(worker)?;
        Some(Self {
            core: Arc::clone(core),
            worker: worker.clone(),
            script: script.clone(),
            prompt_tokens: u32::try_from(asked.prompt.split_whitespace().count()).unwrap_or(u32::MAX).max(1),
            id: format!("{}-{number}", if asked.chat { "chatcmpl" } else { "cmpl" }),
            asked,
            fault,
            call,
            wire: core.wires.current(),
            death: living.death.subscribe(),
            frozen: living.frozen.subscribe(),
            _slot: slot,
            pieces,
            finish,
            sent: 0,
            stage: Stage::Head,
        })
    }

    pub(super) const fn worker(&self) -> &WorkerId {
        &self.worker
    }

    /// Waits, as long as the worker lives and moves.
    ///
    /// # Errors
    /// How its connections end, once it is dead.
    async fn pause(&mut self, duration: Duration) -> Result<(), Cut> {
        let (death, frozen) = (&mut self.death, &mut self.frozen);
        let waiting = async {
            if !duration.is_zero() {
                sleep(duration).await;
            }
            let _ = frozen.wait_for(|frozen| !frozen).await;
        };
        tokio::select! {
            biased;
            how = death.wait_for(Option::is_some) => Err(how.ok().and_then(|how| *how).unwrap_or_default()),
            () = waiting => Ok(()),
        }
    }

    async fn prefill(&mut self) -> Result<(), Cut> {
        let per_token = u64::from(self.prompt_tokens).saturating_mul(self.script.prefill_ms_per_token);
        let total = Duration::from_millis(self.script.prefill_ms.saturating_add(per_token));
        let ticks = u32::try_from(total.div_duration_f64(PREFILL_TICK) as u64).unwrap_or(u32::MAX).max(1);
        let mut reported = 0;
        for tick in 1..=ticks {
            self.pause(total / ticks).await?;
            if self.script.prefill_progress || tick == ticks {
                let done = u64::from(self.prompt_tokens) * u64::from(tick) / u64::from(ticks);
                self.core.count(&self.worker, |record| record.prompt_tokens_total += done - reported);
                reported = done;
            }
        }
        Ok(())
    }

    async fn token(&mut self) -> Result<(), Cut> {
        let wait = if self.sent == 0 { Duration::ZERO } else { Duration::from_millis(self.script.token_ms) };
        self.pause(wait).await?;
        self.sent += 1;
        self.core.count(&self.worker, |record| record.output_tokens_total += 1);
        Ok(())
    }

    const fn usage(&self) -> Usage {
        Usage { prompt: self.prompt_tokens, output: self.sent }
    }

    /// The answer in one piece.
    pub(super) async fn whole(&mut self) -> HiveResult<Response> {
        let generated = async {
            self.prefill().await?;
            while (self.sent as usize) < self.pieces.len() {
                self.token().await?;
            }
            Ok::<_, Cut>(())
        };
        if generated.await.is_err() {
            return Err(broke_off(&self.worker));
        }
        let usage = self.script.usage.then(|| self.usage());
        Ok(json(200, self.asked.whole(&self.id, &self.pieces.concat(), self.finish, usage)))
    }

    /// The next bytes of the stream.
    pub(super) async fn next(&mut self) -> Option<Piece> {
        loop {
            let at = match self.stage {
                Stage::Head => Some(Moment::Head),
                Stage::Tokens => Some(Moment::Tokens(self.sent)),
                _ => None,
            };
            if let Some(fault) = self.fault.take_if(|fault| Some(fault.at) == at)
                && let Some(piece) = self.act(fault.act).await
            {
                return piece;
            }
            match self.step().await {
                Ok(Some(piece)) => return Some(Ok(piece)),
                Ok(None) if self.stage == Stage::Over => return None,
                Ok(None) => {}
                Err(how) => return Some(self.broken(how).await),
            }
        }
    }

    /// One step; none if it has nothing to send.
    async fn step(&mut self) -> Result<Option<Bytes>, Cut> {
        let running = self.script.usage && self.asked.include_usage && self.asked.running_usage;
        Ok(match self.stage {
            Stage::Head => {
                self.stage = Stage::Prefill;
                None
            }
            Stage::Prefill => {
                self.prefill().await?;
                self.stage = Stage::Tokens;
                self.asked.chat.then(|| sse::data(&self.asked.role_frame(&self.id)))
            }
            Stage::Tokens => match self.pieces.get(self.sent as usize).cloned() {
                Some(text) => {
                    self.token().await?;
                    Some(sse::data(&self.asked.frame(&self.id, &text, None, running.then(|| self.usage()))))
                }
                None => {
                    self.stage = Stage::Finish;
                    None
                }
            },
            Stage::Finish => {
                self.pause(Duration::ZERO).await?;
                self.stage = Stage::Usage;
                let usage = running.then(|| self.usage());
                Some(sse::data(&self.asked.frame(&self.id, "", Some(self.finish), usage)))
            }
            Stage::Usage => {
                self.stage = Stage::Done;
                let wanted = self.script.usage && self.asked.include_usage;
                wanted.then(|| sse::data(&self.asked.usage_frame(&self.id, self.usage())))
            }
            Stage::Done => {
                self.stage = Stage::Over;
                Some(sse::data("[DONE]"))
            }
            Stage::Over => None,
            Stage::Endless(bytes) => {
                self.pause(Duration::ZERO).await?;
                Some(Bytes::from_static(bytes.as_bytes()))
            }
        })
    }

    /// A fault within the stream; none when it goes on all the same.
    async fn act(&mut self, act: WorkerAct) -> Option<Option<Piece>> {
        if let Some(call) = &self.call
            && !matches!(act, WorkerAct::Hang | WorkerAct::Slow { .. })
        {
            call.end(Outcome::Killed);
        }
        match act {
            WorkerAct::Die { reported, how } => {
                self.core.kill_worker(&self.worker, reported, how);
                Some(Some(self.broken(how).await))
            }
            WorkerAct::Break { how } => Some(Some(self.broken(how).await)),
            WorkerAct::Hang => {
                let died = self.death.wait_for(Option::is_some).await;
                let how = died.ok().and_then(|how| *how).unwrap_or_default();
                Some(Some(self.broken(how).await))
            }
            WorkerAct::End => {
                self.stage = Stage::Over;
                Some(None)
            }
            WorkerAct::Error { status, message, .. } => {
                self.stage = Stage::Over;
                Some(Some(Ok(sse::data(&openai::error(status, &message)))))
            }
            WorkerAct::Garbage { which } => {
                let (piece, endless) = garbage::within_a_stream(which);
                self.stage = endless.map_or(Stage::Over, Stage::Endless);
                Some(Some(Ok(Bytes::from_static(piece))))
            }
            WorkerAct::Slow { bytes_per_s } => {
                if let Some(wire) = &self.wire {
                    wire.suffer(garbage::slow(bytes_per_s));
                }
                None
            }
        }
    }

    /// Ends the connection behind what was sent.
    async fn broken(&mut self, how: Cut) -> Piece {
        self.stage = Stage::Over;
        if let Some(call) = &self.call {
            call.end(Outcome::Killed);
        }
        if let Some(wire) = &self.wire {
            wire.cut_behind(how).await;
        }
        Err(io::ErrorKind::ConnectionReset.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn planned(max_tokens: u32, stops: &[&str]) -> (String, &'static str) {
        let tokens = ["one ", "two ", "three ", "four"].into_iter().map(str::to_owned);
        let stops: Vec<_> = stops.iter().map(|s| (*s).to_owned()).collect();
        let (pieces, finish) = plan(tokens, max_tokens, &stops);
        assert!(pieces.iter().all(|piece| !piece.is_empty()));
        (pieces.concat(), finish)
    }

    #[test]
    fn an_answer_ends_at_its_bound_or_before_its_stop_string() {
        assert_eq!(planned(2, &[]), ("one two ".to_owned(), "length"));
        assert_eq!(planned(4, &["three"]), ("one two ".to_owned(), "stop"));
        assert_eq!(planned(4, &["o t", "four"]), ("one tw".to_owned(), "stop"));
        assert_eq!(planned(2, &["three"]), ("one two ".to_owned(), "length"));
        assert_eq!(planned(4, &["one"]), (String::new(), "stop"));
    }
}
