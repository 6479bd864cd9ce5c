//! Decisions as they are kept for people.

use std::time::SystemTime;

use fleet::{Alternative, DecisionKind, ExpectedTime, RequestDecisions};
use registry_ram::WorkerView;
use scheduler::{Decision, Expected};

use crate::Job;

/// The beginning of what is kept of a request.
pub(super) fn request(job: &Job) -> RequestDecisions {
    RequestDecisions {
        request_id: job.request_id.clone(),
        model: job.model.clone(),
        at: SystemTime::now().into(),
        prompt_bytes: job.prompt.bytes().into(),
        max_tokens: job.max_tokens,
        region: job.terms.region.as_deref().map(str::to_owned),
        steps: Vec::new(),
        outcome: None,
        code: None,
        attempts: 0,
    }
}

/// Why this worker.
pub(super) fn sent(worker: &WorkerView, decision: &Decision) -> DecisionKind {
    let others = decision.others.iter().map(|other| Alternative {
        hive_id: other.worker.hive_id.clone(),
        worker_id: other.worker.worker_id.clone(),
        expected: expected(&other.expected),
        suspect: other.suspect,
    });
    DecisionKind::Sent {
        hive_id: worker.hive_id.clone(),
        worker_id: worker.record.worker_id.clone(),
        expected: expected(&decision.expected),
        compared: u32::try_from(decision.compared).unwrap_or(u32::MAX),
        others: others.collect(),
    }
}

fn expected(of: &Expected) -> ExpectedTime {
    ExpectedTime {
        wait_s: of.wait_s,
        prefill_s: of.prefill_s,
        decode_s: of.decode_s,
        round_trip_s: of.round_trip_s,
        prompt_tokens: whole(of.prompt_tokens),
        cached_tokens: whole(of.cached_tokens),
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "counts of tokens")]
fn whole(tokens: f64) -> u64 {
    tokens.max(0.0).round() as u64
}
