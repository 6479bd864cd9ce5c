//! Watch, restarts and the port.

use std::time::Duration;

use fake_hive::Act;
use hive_api::{ErrorCode, WatchEvent, client::ClientErrorKind};
use serde_json::json;

use crate::rig::{Rig, client_of, eventually, soon};

#[tokio::test]
async fn a_restart_is_another_launch_at_the_same_port() {
    let (rig, _) = Rig::with_worker(json!({})).await;
    let mut watch = rig.watch().await;
    let before = rig.fake.endpoint();
    rig.fake.act(Act::Restart { launch_id: None, keep_workers: false }).await.unwrap();
    soon("the watch's end", async { while watch.0.as_mut().next_ok().await {} }).await;
    let after = rig.fake.endpoint();
    assert_eq!(before.port, after.port);
    assert_ne!(before.launch_id, after.launch_id);
    let error = rig.client.workers().await.unwrap_err();
    assert_eq!(error.refused().unwrap().code, ErrorCode::StaleLaunch);
    let client = client_of(&rig.fake);
    assert!(client.workers().await.unwrap().workers.is_empty());
    assert_eq!(client.models().await.unwrap().models.len(), 1, "the store stays");
    rig.fake.stop().await;
}

#[tokio::test]
async fn a_restart_can_adopt_its_workers() {
    let (rig, worker) = Rig::with_worker(json!({})).await;
    rig.fake.act(Act::Restart { launch_id: Some("l-2".parse().unwrap()), keep_workers: true }).await.unwrap();
    let record = rig.fake.workers().remove(0);
    assert_eq!((record.launch_id.as_str(), &record.worker_id), ("l-2", &worker));
    assert_eq!(rig.completion(&worker, json!({"prompt": ""})).await.unwrap().status(), 200);
    rig.fake.stop().await;
}

#[tokio::test]
async fn a_port_that_is_down_refuses_and_comes_back() {
    let rig = Rig::start(json!({})).await;
    rig.fake.act(Act::Down).await.unwrap();
    let error = rig.client.workers().await.unwrap_err();
    assert!(matches!(error.kind, ClientErrorKind::Unreachable { .. }), "{error}");
    rig.fake.act(Act::Up).await.unwrap();
    rig.client.workers().await.unwrap();
    rig.fake.act(Act::Flap { up_ms: 30, down_ms: 30, cycles: 3 }).await.unwrap();
    let (mut ups, mut downs, mut last) = (0, 0, None);
    let counting = async {
        while ups < 3 || downs < 3 {
            let is_up = rig.client.workers().await.is_ok();
            if last.replace(is_up) != Some(is_up) {
                if is_up { ups += 1 } else { downs += 1 }
            }
        }
    };
    soon("three times up and down", counting).await;
    rig.fake.stop().await;
}

#[tokio::test]
async fn a_silent_watch_lives_beside_a_healthy_hive_and_catches_up() {
    let rig = Rig::start(json!({"watch": {"beat_ms": 20}})).await;
    let mut watch = rig.watch().await;
    watch.next().await.unwrap().unwrap();
    rig.patch(json!({"watch": {"silent": true}}));
    rig.download().await;
    let silence = async { while watch.0.as_mut().next_ok().await {} };
    assert!(
        tokio::time::timeout(Duration::from_millis(200), silence).await.is_err(),
        "it neither talks nor ends"
    );
    rig.client.workers().await.unwrap();
    rig.patch(json!({"watch": {"silent": false}}));
    watch.until(|event| matches!(event, WatchEvent::Model(_)).then_some(())).await;
    rig.fake.stop().await;
}

#[tokio::test]
async fn a_muted_watch_beats_and_tells_no_change() {
    let rig = Rig::start(json!({"watch": {"beat_ms": 20, "mute_changes": true}})).await;
    let mut watch = rig.watch().await;
    let first = watch.next().await.unwrap().unwrap().rev();
    rig.download().await;
    for _ in 0..3 {
        let event = watch.next().await.unwrap().unwrap();
        assert!(matches!(&event, WatchEvent::Beat(beat) if beat.rev == first), "{event:?}");
    }
    rig.patch(json!({"watch": {"mute_changes": false}}));
    let next = watch.until(|event| (!matches!(event, WatchEvent::Beat(_))).then(|| event.rev())).await;
    assert_eq!(next, first + 1, "nothing was lost");
    rig.fake.stop().await;
}

#[tokio::test]
async fn a_gap_in_the_revisions_shows_with_the_next_change() {
    let rig = Rig::start(json!({})).await;
    let mut watch = rig.watch().await;
    let first = watch.next().await.unwrap().unwrap().rev();
    rig.fake.act(Act::RevGap { by: 5 }).await.unwrap();
    rig.fake.act(Act::ReportDevices).await.unwrap();
    let next = watch.until(|event| matches!(event, WatchEvent::Device(_)).then(|| event.rev())).await;
    assert_eq!(next, first + 6);
    rig.fake.stop().await;
}

#[tokio::test]
async fn a_reader_that_falls_behind_is_cut() {
    let rig = Rig::start(json!({"watch": {"backlog": 4, "silent": true}})).await;
    let mut watch = rig.watch().await;
    for _ in 0..20 {
        rig.fake.act(Act::ReportDevices).await.unwrap();
    }
    rig.patch(json!({"watch": {"silent": false}}));
    let end = async { while watch.0.as_mut().next_ok().await {} };
    soon("the end", end).await;
    rig.fake.stop().await;
}

#[tokio::test]
async fn a_shutdown_ends_workers_first_unless_it_is_ignored() {
    let (rig, worker) = Rig::with_worker(json!({"stop": {"ignore_shutdown": true}})).await;
    rig.client.shutdown(&hive_api::ShutdownRequest::default()).await.unwrap();
    assert_eq!(rig.client.workers().await.unwrap().workers[0].worker_id, worker);
    rig.patch(json!({"stop": null}));
    rig.client.shutdown(&hive_api::ShutdownRequest { grace_ms: Some(0) }).await.unwrap();
    assert_eq!(soon("the end", rig.fake.ended()).await, 0);
    eventually("refusal", || rig.fake.workers()[0].state.is_over().then_some(())).await;
    assert!(rig.client.workers().await.is_err());
    rig.fake.stop().await;
}

/// Whether a stream gave another good item.
trait NextOk {
    async fn next_ok(self) -> bool;
}

impl<S, T, E> NextOk for std::pin::Pin<&mut S>
where
    S: futures_util::Stream<Item = Result<T, E>> + ?Sized,
{
    async fn next_ok(mut self) -> bool {
        matches!(futures_util::StreamExt::next(&mut self).await, Some(Ok(_)))
    }
}
