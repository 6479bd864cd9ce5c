//! Looking at hives, and steering them.

use std::time::SystemTime;

use fleet::{Desired, HiveId, HiveMode, Timestamp, WorkerId};
use queen_api::{HiveInfo, HivesReply, LogSource, LogsReply};
use serde_json::json;

use crate::{
    failure::Failure,
    follow::{self, Goal},
    place::Place,
    screen::Screen,
    table::Table,
    words,
};

pub(crate) async fn list(place: &Place, screen: &Screen) -> Result<(), Failure> {
    let hives = place.client.hives().await?;
    screen.show(|| render(&hives, SystemTime::now().into()), &HivesReply { hives: hives.clone() })
}

/// All hives, each with the reason where it is not as it should be.
pub(crate) fn render(hives: &[HiveInfo], now: Timestamp) -> String {
    if hives.is_empty() {
        return "no hive is registered; add a machine with `rbee hive add user@host`".to_owned();
    }
    let mut table = Table::new(["HIVE", "STATE", "WHERE", "MACHINE", "SEEN", "LABELS"]);
    for hive in hives {
        table.row([
            hive.id.to_string(),
            hive.phase.as_str().to_owned(),
            whereabouts(hive),
            hive.capabilities.as_ref().map(words::machine).unwrap_or_default(),
            hive.last_seen.map(|then| words::ago(then, now)).unwrap_or_default(),
            hive.region.iter().chain(&hive.labels).cloned().collect::<Vec<_>>().join(" "),
        ]);
        if let Some(reason) = &hive.reason {
            table.remark(reason);
        }
        for notice in hive.capabilities.iter().flat_map(|capabilities| &capabilities.notices) {
            table.remark(&format!("{}: {}", notice.code, notice.message));
        }
    }
    table.render()
}

fn whereabouts(hive: &HiveInfo) -> String {
    let host = match hive.mode {
        HiveMode::Local => format!("here:{}", hive.port),
        HiveMode::Network => hive.hostname.with_port(hive.port),
    };
    if hive.attached { format!("{host} (attached)") } else { host }
}

pub(crate) async fn logs(
    place: &Place,
    hive: HiveId,
    worker: Option<WorkerId>,
    lines: usize,
    screen: &Screen,
) -> Result<(), Failure> {
    let source = match worker {
        Some(worker) => LogSource::Worker(hive, worker),
        None => LogSource::Hive(hive),
    };
    let lines = place.client.logs(&source, lines).await?;
    screen.show(|| words::printable(&lines.join("\n")), &LogsReply { lines: lines.clone() })
}

pub(crate) async fn desire(
    place: &Place,
    id: &HiveId,
    desired: Desired,
    wait: bool,
    screen: &Screen,
) -> Result<(), Failure> {
    let queen = &place.client;
    let events = queen.events(None).await?;
    let mut hive = queen.desire(id, desired).await?;
    if wait {
        let goal = match desired {
            Desired::Running => Goal::ONLINE,
            Desired::Drained => Goal::DRAINING,
            Desired::Stopped => Goal::OFFLINE,
        };
        hive = follow::until(queen, events, id, goal, screen).await?;
    }
    screen.show(|| format!("{id} is {}", hive.phase.as_str()), &hive)
}

pub(crate) async fn remove(place: &Place, id: &HiveId, screen: &Screen) -> Result<(), Failure> {
    screen.progress(&format!("removing {id}; its workers finish what they have"));
    place.client.remove_hive(id).await?;
    screen.show(|| format!("{id} is removed"), &json!({ "removed": id }))
}
