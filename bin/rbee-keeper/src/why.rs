//! Why a request went where it went.

use fleet::{DecisionKind, ExpectedTime, RequestDecisions, RequestId, RequestOutcome};

use crate::{failure::Failure, place::Place, screen::Screen, table::Table, words::printable};

pub(crate) async fn run(place: &Place, id: &RequestId, screen: &Screen) -> Result<(), Failure> {
    let decisions = place.client.decisions(id).await?;
    screen.show(|| render(&decisions), &decisions)
}

fn render(decisions: &RequestDecisions) -> String {
    let RequestDecisions { request_id, model, prompt_bytes, max_tokens, region, steps, .. } = decisions;
    let most = max_tokens.map(|most| format!(", at most {most} tokens")).unwrap_or_default();
    let within = region.as_ref().map(|region| format!(", in {} only", printable(region))).unwrap_or_default();
    let mut text = format!("{request_id} asked {model}: {prompt_bytes} bytes of prompt{most}{within}\n");
    for step in steps {
        let told = match &step.kind {
            DecisionKind::Queued { ahead, expected_wait_s } => {
                let wait = expected_wait_s.map(|s| format!(", expected to take {}", seconds(s)));
                format!("queued, {ahead} before it{}\n", wait.unwrap_or_default())
            }
            DecisionKind::ColdStart => "no worker served the model: one was started\n".to_owned(),
            DecisionKind::Sent { hive_id, worker_id, expected, compared, others } => {
                let head = format!("given to {worker_id} on {hive_id}, the best of {compared}\n");
                let mut table =
                    Table::new(["", "WORKER", "HIVE", "TOTAL", "WAIT", "READ", "WRITE", "WAY", "KNOWN"]);
                let mut row = |mark: &str, worker: String, hive: String, expected: &ExpectedTime| {
                    table.row(cells(mark, worker, hive, expected));
                };
                row("*", worker_id.to_string(), hive_id.to_string(), expected);
                for other in others {
                    let mark = if other.suspect { "failed before" } else { "" };
                    row(mark, other.worker_id.to_string(), other.hive_id.to_string(), &other.expected);
                }
                let rows = table.render();
                head + &rows.lines().map(|line| format!("          {line}\n")).collect::<String>()
            }
            DecisionKind::Failed { hive_id, worker_id, reason } => {
                format!("{worker_id} on {hive_id} failed: {}\n", printable(reason))
            }
            DecisionKind::NotAgain { reason } => format!("not sent again: {}\n", printable(reason)),
        };
        text += &format!("{:>8}  {told}", after(step.after_ms));
    }
    text + &ended(decisions)
}

fn cells(mark: &str, worker: String, hive: String, expected: &ExpectedTime) -> [String; 9] {
    let ExpectedTime { wait_s, prefill_s, decode_s, round_trip_s, prompt_tokens, cached_tokens } = expected;
    let known = if *cached_tokens == 0 { String::new() } else { format!("{cached_tokens}/{prompt_tokens}") };
    let total = wait_s + prefill_s + decode_s + round_trip_s;
    let [total, wait, read, write, way] = [total, *wait_s, *prefill_s, *decode_s, *round_trip_s].map(seconds);
    [mark.to_owned(), worker, hive, total, wait, read, write, way, known]
}

fn ended(decisions: &RequestDecisions) -> String {
    let RequestDecisions { outcome, code, attempts, .. } = decisions;
    let how = match outcome {
        None => return "it has not ended yet".to_owned(),
        Some(RequestOutcome::Completed) => "completed".to_owned(),
        Some(RequestOutcome::Cancelled) => "its client left".to_owned(),
        Some(RequestOutcome::Failed) => {
            format!(
                "failed{}",
                code.as_ref().map(|code| format!(": {}", printable(code))).unwrap_or_default()
            )
        }
    };
    let times = if *attempts == 1 { "one worker was".to_owned() } else { format!("{attempts} workers were") };
    format!("{how}; {times} sent it")
}

fn seconds(seconds: f64) -> String {
    match seconds {
        s if s < 0.000_05 => "0".to_owned(),
        s if s < 0.1 => format!("{:.1} ms", s * 1e3),
        s if s < 10.0 => format!("{s:.2} s"),
        s => format!("{s:.0} s"),
    }
}

fn after(ms: u64) -> String {
    if ms < 10_000 { format!("+{ms} ms") } else { format!("+{} s", ms / 1000) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_that_was_moved_is_told_step_by_step() {
        let decisions = serde_json::json!({
            "request_id": "r-1", "model": "hf:a/b", "at": 0, "prompt_bytes": 4000, "max_tokens": 100,
            "steps": [
                { "after_ms": 0, "type": "queued", "ahead": 3, "expected_wait_s": 1.5 },
                { "after_ms": 1480, "type": "sent", "hive_id": "attic", "worker_id": "w-1", "compared": 2,
                  "expected": { "wait_s": 0.0, "prefill_s": 0.25, "decode_s": 12.0, "round_trip_s": 0.001,
                                "prompt_tokens": 1000, "cached_tokens": 900 },
                  "others": [{ "hive_id": "cellar", "worker_id": "w-2", "suspect": true,
                               "expected": { "wait_s": 2.0, "prefill_s": 0.05, "decode_s": 30.0, "round_trip_s": 0.0,
                                             "prompt_tokens": 1000, "cached_tokens": 0 } }] },
                { "after_ms": 1500, "type": "failed", "hive_id": "attic", "worker_id": "w-1", "reason": "it answered 500" },
                { "after_ms": 12_000, "type": "not_again", "reason": "two workers were sent it" },
            ],
            "outcome": "failed", "code": "worker_failed", "attempts": 2,
        });
        insta::assert_snapshot!(render(&serde_json::from_value(decisions).unwrap()));
    }
}
