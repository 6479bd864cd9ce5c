//! Stopping: take nothing new, let what runs finish, then hives and workers, all to one deadline.

use std::time::Duration;

use fleet::EventKind;
use hive_manager::OnStop;
use http_api::StopOrder;
use queen_api::HivesOnStop;
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::mpsc,
    task::JoinHandle,
    time::{Instant, sleep_until, timeout},
};

use crate::{compose::Running, failure::Failure};

/// Least time that hives get to stop by themselves, however little of the grace is left.
const LEAST: Duration = Duration::from_secs(1);

/// How long the last answers may take to tell their clients that the queen stops.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// The signals that ask the queen to stop.
pub(crate) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    pub(crate) fn listen() -> Result<Self, Failure> {
        let on = |kind| signal(kind).map_err(Failure::Runtime);
        Ok(Self {
            terminate: on(SignalKind::terminate())?,
            interrupt: on(SignalKind::interrupt())?,
            // A terminal that is closed must not leave hives behind.
            hangup: on(SignalKind::hangup())?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
            _ = self.hangup.recv() => {}
        }
    }
}

/// Waits until somebody wants the queen to stop. A signal does not say what becomes of the hives; `on_signal` does.
pub(crate) async fn wanted(
    signals: &mut Signals,
    mut orders: mpsc::Receiver<StopOrder>,
    on_signal: HivesOnStop,
) -> StopOrder {
    tokio::select! {
        () = signals.next() => StopOrder { hives: on_signal },
        Some(order) = orders.recv() => order,
    }
}

/// Stops everything within the grace; a further signal cuts the grace short.
pub(crate) async fn cascade(
    order: StopOrder,
    signals: &mut Signals,
    running: Running,
    served: JoinHandle<usize>,
    grace: Duration,
) {
    tracing::info!(hives = ?order.hives, "stopping");
    let deadline = Instant::now() + grace;
    running.journal.record(EventKind::QueenStopping);
    running.api.stopping();
    running.router.close();
    running.placement.cancel();
    running.shutdown.drain();
    let mut hurried = false;
    let mut served = served;
    let finished = tokio::select! {
        cut = &mut served => Some(cut),
        () = sleep_until(deadline) => None,
        () = signals.next() => {
            hurried = true;
            None
        }
    };
    let cut = match finished {
        Some(cut) => cut,
        None => {
            // Who still waits is told so before the connections go.
            running.router.cut();
            let told = timeout(LAST_WORDS, &mut served).await;
            running.shutdown.now();
            match told {
                Ok(cut) => cut,
                Err(_) => served.await,
            }
        }
    };
    match cut {
        Ok(0) => {}
        Ok(cut) => tracing::warn!(cut, "connections were cut at the end of the grace"),
        Err(error) => tracing::error!(%error, "the accept loop failed"),
    }
    let kept = order.hives == HivesOnStop::Keep;
    let attached = if kept { Vec::new() } else { running.attached().await };
    running.placement.close(|hive| attached.contains(hive)).await;
    running.provisioner.close().await;
    let hives = match order.hives {
        HivesOnStop::Keep => OnStop::Keep,
        HivesOnStop::Stop if planted::bug("orphan-on-ctrl-c") => OnStop::Keep,
        HivesOnStop::Stop if hurried => OnStop::Stop(Duration::ZERO),
        HivesOnStop::Stop => OnStop::Stop(deadline.saturating_duration_since(Instant::now()).max(LEAST)),
    };
    tokio::select! {
        () = running.manager.close(hives) => {}
        () = signals.next() => running.manager.close(OnStop::Stop(Duration::ZERO)).await,
    }
    tracing::info!("stopped");
}
