//! The checks against fake hives: a sound one passes them all, and each fault is found by the check that is for it.

#![expect(clippy::unwrap_used, reason = "a failed step is a failed test")]

use std::time::Duration;

use fake_hive::{Act, FakeHive, Options, Script};
use hive_conformance::{CheckResult, Outcome, Target, end, run};
use serde_json::{Value, json};

async fn fake(patch: &Value) -> (FakeHive, Target) {
    let quick = json!({"watch": {"beat_ms": 200, "report_ms": 50}, "worker": {"token_ms": 5}});
    let script = Script::default().with(&quick).unwrap().with(patch).unwrap();
    let fake = FakeHive::start(script, Options::default()).await.unwrap();
    let endpoint = fake.endpoint();
    let target = Target::at(&endpoint.base_url(), endpoint.token).unwrap().with_model("a/b".parse().unwrap());
    (fake, Target { patience: Duration::from_secs(20), ..target })
}

fn with(results: &[CheckResult], outcome: Outcome) -> Vec<String> {
    results.iter().filter(|r| r.outcome == outcome).map(ToString::to_string).collect()
}

#[tokio::test]
async fn a_sound_hive_passes_every_check_twice() {
    let (fake, target) = fake(&json!({})).await;
    for _ in 0..2 {
        let results = run(&target).await;
        assert_eq!(with(&results, Outcome::Failed), [""; 0]);
        assert_eq!(with(&results, Outcome::NotRun), [""; 0]);
        assert!(results.len() > 35);
    }
    let results = end(&target).await;
    assert_eq!(with(&results, Outcome::Failed), [""; 0]);
    fake.stop().await;
}

#[tokio::test]
async fn without_a_model_what_needs_one_is_not_run() {
    let (fake, target) = fake(&json!({})).await;
    let results = run(&Target { model: None, ..target }).await;
    assert_eq!(with(&results, Outcome::Failed), [""; 0]);
    assert!(with(&results, Outcome::NotRun).len() > 10);
    fake.stop().await;
}

#[tokio::test]
async fn each_fault_is_found_by_its_check() {
    let internal = |call: &str| json!({"calls": {call: {"answer": {"kind": "error", "code": "internal"}}}});
    let garbage = |call: &str| json!({"calls": {call: {"answer": {"kind": "garbage", "which": "html"}}}});
    let fault = |at: Value, act: Value| json!({"worker": {"faults": [{"at": at, "act": act}]}});
    let cases = [
        ("health_identifies_the_hive", garbage("health")),
        ("health_identifies_the_hive", json!({"claims": {"api_version": 99}})),
        ("the_launch_is_checked_first", garbage("spawn")),
        ("capabilities_describe_a_machine", json!({"claims": {"health_launch_id": "l-0"}})),
        ("unknown_workers_are_not_found", internal("stop_worker")),
        ("the_watch_begins_with_a_snapshot", json!({"claims": {"event_launch_id": "l-0"}})),
        ("the_watch_begins_with_a_snapshot", json!({"claims": {"snapshot_hive_id": "other"}})),
        ("beats_come_within_two_seconds", json!({"watch": {"beat_ms": 2500}})),
        ("lists_agree_with_the_snapshot", internal("models")),
        ("logs_and_metrics_answer", internal("logs")),
        ("the_model_is_inspected", internal("inspect")),
        ("the_model_is_fetched_once", json!({"download": {"corrupt": true}})),
        ("a_grant_opens_exactly_its_file", internal("grant_blob")),
        ("ranges_are_exact", json!({"download": {"corrupt_unnoticed": true}})),
        ("a_worker_becomes_ready", json!({"worker": {"load": {"kind": "fails", "code": "out_of_memory"}}})),
        ("a_worker_becomes_ready", internal("spawn")),
        ("an_answer_names_its_worker", json!({"worker": {"claims_worker_id": "w-99"}})),
        ("an_answer_names_its_worker", json!({"worker": {"answers_after_ms": 60_000}})),
        ("a_stream_ends_with_its_terminator", fault(json!({"tokens": 2}), json!({"kind": "end"}))),
        ("a_stream_ends_with_its_terminator", fault(json!({"tokens": 2}), json!({"kind": "break"}))),
        ("a_worker_is_stopped", json!({"stop": {"ignore_worker_stop": true}})),
    ];
    let runs = cases.map(async |(check, patch)| {
        let (fake, target) = fake(&patch).await;
        let results = run(&Target { patience: Duration::from_secs(8), ..target }).await;
        let found = results.iter().any(|r| r.name == check && r.outcome == Outcome::Failed);
        fake.stop().await;
        (!found).then(|| format!("{check} did not find {patch}: {:?}", with(&results, Outcome::Failed)))
    });
    let missed: Vec<_> = futures_util::future::join_all(runs).await.into_iter().flatten().collect();
    assert!(missed.is_empty(), "{}", missed.join("\n"));
}

#[tokio::test]
async fn a_gap_in_the_revisions_is_found() {
    let (fake, target) = fake(&json!({})).await;
    let gaps = async {
        loop {
            fake.act(Act::RevGap { by: 1 }).await.unwrap();
            fake.act(Act::ReportDevices).await.unwrap();
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let target = Target { model: None, ..target };
    let results = tokio::select! {
        results = run(&target) => results,
        () = gaps => unreachable!("it makes gaps for ever"),
    };
    let found = results.iter().find(|r| r.name == "revisions_grow_by_one").unwrap();
    assert_eq!(found.outcome, Outcome::Failed);
    fake.stop().await;
}

#[tokio::test]
async fn a_hive_that_ignores_its_end_is_found() {
    let (fake, target) = fake(&json!({"stop": {"ignore_shutdown": true}})).await;
    assert_eq!(end(&target).await[0].outcome, Outcome::Failed);
    fake.stop().await;
}
