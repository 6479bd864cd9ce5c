//! Hives that somebody else started.

use std::{sync::Arc, time::Duration};

use fake_hive::{Act, CallName};
use fleet::{Desired, DesiredBy, EventKind, HiveKind, HivePhase, MockHiveLauncher};
use hive_manager::OnStop;
use registry_sqlite::memory::MemoryStore;
use serde_json::json;

use crate::rig::{Rig, attached, calls, eventually, script, soon};

/// A manager whose launcher must not be asked for anything.
async fn rig() -> Rig {
    Rig::start(Arc::new(MemoryStore::new()), Arc::new(MockHiveLauncher::new())).await
}

#[tokio::test]
async fn an_attached_hive_is_used_and_neither_started_nor_ended() {
    let rig = rig().await;
    let fake = rig.attach("box", script(json!({}))).await;
    rig.until("box", HivePhase::Online).await;
    let id = "box".parse().unwrap();
    rig.manager.desire(&id, Desired::Stopped, DesiredBy::Person).await.unwrap();
    rig.until("box", HivePhase::Offline).await;
    rig.manager.desire(&id, Desired::Running, DesiredBy::Person).await.unwrap();
    rig.until("box", HivePhase::Online).await;
    rig.manager.close(OnStop::Stop(Duration::ZERO)).await;
    assert_eq!(calls(&fake, CallName::Shutdown), 0);
}

#[tokio::test]
async fn a_hive_that_was_started_by_hand_again_is_let_in_with_its_new_token() {
    let rig = rig().await;
    let fake = rig.attach("box", script(json!({}))).await;
    rig.until("box", HivePhase::Online).await;
    let mut spec = attached(&fake);
    spec.kind = HiveKind::Attached { token: Some("the-token-of-tomorrow".parse().unwrap()), pin: None };
    assert!(!rig.manager.register(spec).await.unwrap(), "the same hive");
    rig.until("box", HivePhase::Error).await;
    assert!(!rig.manager.register(attached(&fake)).await.unwrap());
    rig.until("box", HivePhase::Online).await;
    assert_eq!(calls(&fake, CallName::Shutdown), 0);
}

#[tokio::test]
async fn a_missed_event_is_made_good_by_a_snapshot() {
    let rig = rig().await;
    let fake = rig.attach("box", script(json!({}))).await;
    rig.until("box", HivePhase::Online).await;
    let lost = rig.view("box").unwrap().lost.clone();
    fake.act(Act::RevGap { by: 3 }).await.unwrap();
    fake.act(Act::ReportDevices).await.unwrap();
    eventually("it is asked anew", || calls(&fake, CallName::Watch) == 2).await;
    eventually("the snapshot is in", || rig.view("box").unwrap().rev.is_some_and(|rev| rev > 3)).await;
    assert!(!lost.is_cancelled(), "nobody who waits for it was disturbed");
    assert_eq!(rig.view("box").unwrap().phase, HivePhase::Online);
}

#[tokio::test]
async fn a_silent_stream_of_a_hive_that_answers_probes_is_opened_anew() {
    let rig = rig().await;
    let fake = rig.attach("box", script(json!({}))).await;
    rig.until("box", HivePhase::Online).await;
    let lost = rig.view("box").unwrap().lost.clone();
    fake.patch(&json!({ "watch": { "silent": true } })).unwrap();
    eventually("it is asked anew, twice", || calls(&fake, CallName::Watch) >= 3).await;
    assert!(calls(&fake, CallName::Health) >= 3, "it was probed");
    assert!(!lost.is_cancelled());
    assert_eq!(rig.view("box").unwrap().phase, HivePhase::Online);
}

#[tokio::test]
async fn a_hive_that_nobody_finds_is_unreachable_and_comes_back() {
    let rig = rig().await;
    let fake = rig.attach("box", script(json!({}))).await;
    rig.until("box", HivePhase::Online).await;
    let lost = rig.view("box").unwrap().lost.clone();
    let launch = rig.view("box").unwrap().launch_id().cloned();
    fake.patch(&json!({ "wire": { "from_hive": { "swallow": true } } })).unwrap();
    let reason = rig.until("box", HivePhase::Unreachable).await.unwrap();
    assert!(reason.contains("no answer to a probe"), "{reason}");
    assert!(lost.is_cancelled());
    fake.patch(&json!({ "wire": null })).unwrap();
    fake.act(Act::CutAll { how: Default::default() }).await.unwrap();
    rig.until("box", HivePhase::Online).await;
    assert_eq!(rig.view("box").unwrap().launch_id().cloned(), launch);
    fake.act(Act::Down).await.unwrap();
    rig.until("box", HivePhase::Unreachable).await;
    fake.act(Act::Up).await.unwrap();
    rig.until("box", HivePhase::Online).await;
}

#[tokio::test]
async fn a_hive_that_was_started_again_is_another_launch() {
    let rig = rig().await;
    let fake = rig.attach("box", script(json!({}))).await;
    rig.until("box", HivePhase::Online).await;
    let first = rig.view("box").unwrap().launch_id().cloned();
    fake.act(Act::Restart { launch_id: None, keep_workers: false }).await.unwrap();
    eventually("the new launch is followed", || {
        let hive = rig.view("box").unwrap();
        hive.phase == HivePhase::Online && hive.launch_id().cloned() != first
    })
    .await;
}

#[tokio::test]
async fn another_hives_name_is_an_error_and_says_so_once() {
    let rig = rig().await;
    let fake = rig.attach("box", script(json!({ "claims": { "hive_id": "other" } }))).await;
    let reason = rig.until("box", HivePhase::Error).await.unwrap();
    assert_eq!(reason, "the hive there calls itself other, not box");
    eventually("it is asked again", || calls(&fake, CallName::Health) >= 4).await;
    let phases = rig.events(|e| matches!(e, EventKind::HivePhase { .. }));
    assert!(phases.len() <= 2, "{phases:?}");
    fake.patch(&json!({ "claims": { "hive_id": null } })).unwrap();
    rig.until("box", HivePhase::Online).await;
}

#[tokio::test]
async fn what_is_no_hive_is_an_error_and_harms_nobody() {
    let rig = rig().await;
    let _healthy = rig.attach("healthy", script(json!({}))).await;
    rig.until("healthy", HivePhase::Online).await;
    let redirect = json!({ "kind": "status", "status": 302, "location": "http://169.254.169.254/" });
    let garbage = |which: &str| json!({ "kind": "garbage", "which": which });
    let faults = [
        ("redirect", json!({ "health": { "answer": redirect } })),
        ("html", json!({ "health": { "answer": garbage("html") } })),
        ("deep", json!({ "health": { "answer": garbage("deep_json") } })),
        ("gzip", json!({ "health": { "answer": garbage("gzip_bomb") } })),
        ("watch-html", json!({ "watch": { "answer": garbage("html") } })),
        ("watch-line", json!({ "watch": { "answer": garbage("endless_line") } })),
        ("watch-redirect", json!({ "watch": { "answer": redirect } })),
    ];
    let mut fakes = Vec::new();
    for (name, calls) in faults {
        fakes.push((name, rig.attach(name, script(json!({ "calls": calls }))).await));
    }
    let huge = json!({ "claims": { "bogus_workers": 10_000 } });
    fakes.push(("huge", rig.attach("huge", script(huge)).await));
    for (name, _) in &fakes {
        assert!(rig.until(name, HivePhase::Error).await.is_some(), "{name}");
    }
    // Whether the bound of size or of time is met first depends on the machine.
    let endless = json!({ "calls": { "health": { "answer": garbage("endless_json") } } });
    let _endless = rig.attach("endless", script(endless)).await;
    eventually("the endless answer is given up", || rig.view("endless").unwrap().reason.is_some()).await;
    let of_the_healthy =
        |e: &EventKind| matches!(e, EventKind::HivePhase { hive_id, .. } if hive_id.as_str() == "healthy");
    let phases = rig.events(of_the_healthy);
    assert_eq!(phases.len(), 1, "online, and nothing else: {phases:?}");
}

#[tokio::test]
async fn a_stream_that_always_breaks_is_not_opened_without_pause() {
    let rig = rig().await;
    let fake = rig.attach("box", script(json!({ "watch": { "end_after_ms": 1 } }))).await;
    eventually("it is asked again", || calls(&fake, CallName::Watch) >= 3).await;
    let journal = fake.journal();
    let opened: Vec<u64> = journal.iter().filter(|c| c.call == CallName::Watch).map(|c| c.at_ms).collect();
    assert!(opened.windows(2).all(|pair| pair[1] - pair[0] >= 150), "{opened:?}");
}

#[tokio::test]
async fn a_row_follows_what_was_seen() {
    use fleet::{HiveRegistry, HiveStatus};
    let rig = rig().await;
    let fake = rig.attach("box", script(json!({}))).await;
    rig.until("box", HivePhase::Online).await;
    let id = "box".parse().unwrap();
    let row = || rig.store.get(&id);
    soon("the row", async {
        loop {
            let row = row().await.unwrap().unwrap();
            if row.status == HiveStatus::Online && row.last_seen.is_some() && row.capabilities.is_some() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    fake.act(Act::Down).await.unwrap();
    rig.until("box", HivePhase::Unreachable).await;
    soon("the row", async {
        while row().await.unwrap().unwrap().status != HiveStatus::Error {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    assert!(row().await.unwrap().unwrap().capabilities.is_some(), "what it has is remembered");
}

#[tokio::test]
async fn where_a_hive_stands_and_how_far_away_it_is_are_known() {
    let rig = rig().await;
    let fake = rig.attach("box", script(json!({ "calls": { "workers": { "delay_ms": 200 } } }))).await;
    let far = Duration::from_millis(200);
    eventually("the way was measured", || rig.view("box").is_some_and(|hive| hive.round_trip >= far)).await;
    assert_eq!(rig.view("box").unwrap().region, None);
    let mut spec = attached(&fake);
    spec.region = Some("attic".to_owned());
    assert!(!rig.manager.register(spec).await.unwrap(), "the same hive");
    assert_eq!(rig.view("box").unwrap().region.as_deref(), Some("attic"));
    assert_eq!(rig.view("box").unwrap().phase, HivePhase::Online);
}
