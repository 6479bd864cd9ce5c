//! What a worker is doing: busy slots, tokens so far, memory.

use std::{sync::Arc, time::Duration};

use fleet::{DeviceKind, WorkerRecord};
use serde::Deserialize;
use tokio::time::{MissedTickBehavior, interval};

use super::{JournalEntry, Loopback, Traffic};
use crate::{board::Board, engine::Dialect};

/// How often slots are counted.
const COUNT: Duration = Duration::from_millis(250);

/// Every how many counts a busy engine is asked for its tokens.
const ASK_EVERY: u32 = 4;

/// Every how many counts memory is looked at.
const MEMORY_EVERY: u32 = 20;

/// Longest wait for an engine's answer.
const BOUND: Duration = Duration::from_secs(1);

/// Memory below this is not told apart, in bytes: each change costs every watcher an event.
const MEMORY_STEP: u64 = 4 * 1024 * 1024;

/// Tokens since the engine started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Tokens {
    prompt: u64,
    output: u64,
}

/// Keeps a worker's figures on the board. Never ends.
pub(crate) async fn keep(
    board: &Board,
    http: &Loopback,
    entry: &JournalEntry,
    pid: u32,
    traffic: &Arc<Traffic>,
) {
    let mut ticks = interval(COUNT);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut asked_at = 0;
    for count in 0_u32.. {
        ticks.tick().await;
        let (busy, ended) = (traffic.busy(), traffic.ended());
        // Also after the last request, for the totals that engines only add up at its end.
        let asks = count % ASK_EVERY == 0 && (busy > 0 || ended != asked_at);
        let tokens = if asks { tokens(http, entry).await } else { None };
        if asks {
            asked_at = ended;
        }
        let memory = if count % MEMORY_EVERY == 0 { memory(pid, entry.device.kind).await } else { None };
        board.update_worker(&entry.worker_id, |record: &mut WorkerRecord| {
            record.slots_busy = busy.min(record.slots);
            if let Some(Tokens { prompt, output }) = tokens {
                // An engine that takes a number back is not followed: growth is a sign of life.
                record.prompt_tokens_total = record.prompt_tokens_total.max(prompt);
                record.output_tokens_total = record.output_tokens_total.max(output);
            }
            if let Some(memory) = memory {
                record.memory_bytes = memory;
            }
        });
    }
}

/// Main memory of the engine's processes, and what they hold on a GPU.
async fn memory(pid: u32, kind: DeviceKind) -> Option<u64> {
    let looking =
        tokio::task::spawn_blocking(move || (process::memory_of_group(pid), process::members_of_group(pid)));
    let (main, members) = looking.await.ok()?;
    let on_gpu: u64 = if kind == DeviceKind::Cuda {
        let all = device_probe::gpu_memory_of_processes().await;
        all.iter().filter(|process| members.contains(&process.pid)).map(|process| process.bytes).sum()
    } else {
        0
    };
    Some(main.saturating_add(on_gpu) / MEMORY_STEP * MEMORY_STEP)
}

async fn tokens(http: &Loopback, entry: &JournalEntry) -> Option<Tokens> {
    let ask = async |path| match http.get(entry.port, path, BOUND).await {
        Ok((status, body)) if status.is_success() => Some(body),
        _ => None,
    };
    match entry.dialect {
        Dialect::Plain => None,
        Dialect::Builtin => {
            #[derive(Deserialize)]
            struct Status {
                prompt_tokens_total: u64,
                output_tokens_total: u64,
            }
            let status: Status = serde_json::from_slice(&ask("/rbee/status").await?).ok()?;
            Some(Tokens { prompt: status.prompt_tokens_total, output: status.output_tokens_total })
        }
        Dialect::LlamaServer => {
            let ended = ask("/metrics").await.map_or_else(Tokens::default, |text| of_metrics(&text));
            let running = ask("/slots").await.map_or_else(Tokens::default, |text| of_slots(&text));
            Some(Tokens { prompt: ended.prompt + running.prompt, output: ended.output + running.output })
        }
    }
}

/// Totals of ended requests in llama-server's Prometheus text.
fn of_metrics(text: &[u8]) -> Tokens {
    let text = String::from_utf8_lossy(text);
    let value = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "the cast saturates, and a count of tokens is far below where a double loses whole numbers"
        )]
        line.and_then(|text| text.trim().parse::<f64>().ok()).map_or(0, |number| number as u64)
    };
    Tokens { prompt: value("llamacpp:prompt_tokens_total"), output: value("llamacpp:tokens_predicted_total") }
}

/// What the requests under way have done, in llama-server's list of slots. Its shape differs between versions, so what is
/// not there counts as nothing.
fn of_slots(text: &[u8]) -> Tokens {
    let slots: Vec<serde_json::Value> = serde_json::from_slice(text).unwrap_or_default();
    let number = |value: &serde_json::Value, key: &str| value.get(key).and_then(serde_json::Value::as_u64);
    let mut tokens = Tokens::default();
    for slot in slots.iter().filter(|slot| slot["is_processing"].as_bool().unwrap_or(false)) {
        tokens.prompt +=
            number(slot, "n_prompt_tokens_processed").or_else(|| number(slot, "n_past")).unwrap_or(0);
        let next = &slot["next_token"];
        tokens.output += number(next, "n_decoded").or_else(|| number(&next[0], "n_decoded")).unwrap_or(0);
    }
    tokens
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn llama_servers_totals_are_read_from_its_metrics() {
        let text = "# HELP llamacpp:prompt_tokens_total Number of prompt tokens processed.\n# TYPE x counter\n\
                    llamacpp:prompt_tokens_total 128\nllamacpp:prompt_tokens_seconds 5\n\
                    llamacpp:tokens_predicted_total 7\n";
        assert_eq!(of_metrics(text.as_bytes()), Tokens { prompt: 128, output: 7 });
        assert_eq!(of_metrics(b"\xff"), Tokens::default());
    }

    #[test]
    fn running_requests_count_in_every_shape_of_the_list() {
        let old = br#"[{"is_processing":true,"n_past":5,"next_token":{"n_decoded":2}},{"is_processing":false,"n_past":9}]"#;
        assert_eq!(of_slots(old), Tokens { prompt: 5, output: 2 });
        let new = br#"[{"is_processing":true,"n_prompt_tokens_processed":4,"next_token":[{"n_decoded":3}]}]"#;
        assert_eq!(of_slots(new), Tokens { prompt: 4, output: 3 });
        assert_eq!(of_slots(b"{}"), Tokens::default());
    }
}
