//! Silence on a virtual clock.

use std::sync::Arc;

use fleet::{MockHiveLauncher, MockHiveRegistry, MockLaunchJournal};
use futures_util::{FutureExt, stream};
use hive_api::client::{Connections, Timeouts};
use journal::Journal;
use registry_ram::WorkerRegistry;
use tokio::time::advance;

use super::*;
use crate::{QueenKey, context::Launchers, doubt::Doubt};

const SECOND: Duration = Duration::from_secs(1);

fn context() -> Context {
    let folder = tempfile::tempdir().unwrap();
    Context {
        store: Arc::new(MockHiveRegistry::new()),
        launches: Arc::new(MockLaunchJournal::new()),
        launchers: Launchers { local: Arc::new(MockHiveLauncher::new()), network: None },
        registry: Arc::new(WorkerRegistry::default()),
        journal: Journal::new(1),
        connections: Connections::new(Timeouts::default()).unwrap(),
        key: QueenKey::load_or_create(folder.path()).unwrap(),
        settings: Settings::default(),
        changing: tokio::sync::Semaphore::new(1),
        doubt: Doubt::default(),
    }
}

/// One behind which nobody is.
fn endpoint(context: &Context) -> HiveEndpoint {
    let launch_id = "l-1".parse().unwrap();
    let token = context.key.token(&launch_id);
    let (hive_id, host) = ("box".parse().unwrap(), "127.0.0.1".parse().unwrap());
    HiveEndpoint { hive_id, launch_id, host, port: 1, token, pin: None }
}

/// How long a stream that says nothing is followed, by a queen that is away for so long in the middle of it.
async fn followed(away: Duration) -> Duration {
    let context = context();
    let endpoint = endpoint(&context);
    let writer = context.registry.writer(endpoint.hive_id.clone());
    let client = context.connections.client(endpoint);
    let (mut heard, mut far) = (Moment::now(), None);
    let mut tell = |_| None;
    let began = Instant::now();
    let mut reading =
        Box::pin(read(&context, &writer, &client, stream::pending(), (&mut heard, &mut far), &mut tell));
    assert!(reading.as_mut().now_or_never().is_none());
    advance(SECOND).await;
    assert!(reading.as_mut().now_or_never().is_none());
    advance(away).await;
    assert!(matches!(reading.await, Left::Silent(_)));
    began.elapsed()
}

#[tokio::test(start_paused = true)]
async fn three_seconds_of_silence_are_judged_and_time_in_which_the_queen_was_away_is_not() {
    let judged_after = |away| async move { followed(away).await.as_secs() };
    assert_eq!(judged_after(Duration::ZERO).await, 3);
    assert_eq!(judged_after(SECOND).await, 3, "a pause within the silence");
    assert_eq!(judged_after(SECOND * 60).await, 1 + 60 + 3, "all of it anew");
}

#[tokio::test(start_paused = true)]
async fn a_queen_that_was_away_probes_for_longer() {
    let context = context();
    let endpoint = endpoint(&context);
    for (was_away, seconds) in [(false, 2), (true, 3)] {
        let began = Instant::now();
        assert!(matches!(probe(&context, &endpoint, was_away).await, Err(Probed::Nobody(_))));
        assert_eq!(began.elapsed().as_secs(), seconds);
    }
}

#[tokio::test(start_paused = true)]
async fn a_probe_during_which_the_queen_was_away_does_not_count() {
    let context = context();
    let endpoint = endpoint(&context);
    let began = Instant::now();
    let mut probing = Box::pin(probe(&context, &endpoint, false));
    assert!(probing.as_mut().now_or_never().is_none());
    advance(SECOND * 60).await;
    assert!(probing.await.is_err());
    assert!(began.elapsed() >= SECOND * 63, "{:?}", began.elapsed());
}
