//! Looking at hives, and steering them.

use std::{path::PathBuf, time::SystemTime};

use fleet::{Desired, HiveId, HiveMode, HivePhase, HiveStatus, SshTarget, Timestamp, WorkerId};
use queen_api::{HiveInfo, HivesReply, LogSource, LogsReply};
use serde_json::json;
use ssh_lifecycle::{Destination, Settings, SshLauncher};

use crate::{
    failure::Failure,
    follow::{self, Goal},
    host_key,
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
            stands(hive).to_owned(),
            whereabouts(hive),
            hive.capabilities.as_ref().map(words::machine).unwrap_or_default(),
            seen(hive, now),
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

/// Where a hive stands, as its owner calls it.
pub(crate) fn stands(hive: &HiveInfo) -> &'static str {
    match (hive.phase, hive.desired) {
        (HivePhase::Draining, Desired::Paused) => "paused",
        (phase, _) => phase.as_str(),
    }
}

/// The queen writes `last_seen` once a minute; a hive that answers she heard a moment ago.
fn seen(hive: &HiveInfo, now: Timestamp) -> String {
    match (hive.status, hive.last_seen) {
        (HiveStatus::Online, _) => "now".to_owned(),
        (_, then) => then.map(|then| words::ago(then, now)).unwrap_or_default(),
    }
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
            Desired::Drained | Desired::Paused => Goal::DRAINING,
            Desired::Stopped => Goal::OFFLINE,
        };
        hive = follow::until(queen, events, id, goal, screen).await?;
    }
    screen.show(|| format!("{id} is {}", stands(&hive)), &hive)
}

pub(crate) async fn remove(place: &Place, id: &HiveId, purge: bool, screen: &Screen) -> Result<(), Failure> {
    let rest = if purge { Some(Rest::of(place, &place.client.hive(id).await?)?) } else { None };
    screen.progress(&format!("removing {id}; its workers finish what they have"));
    place.client.remove_hive(id).await?;
    let mut did = format!("{id} is removed");
    if let Some(rest) = rest {
        screen.progress(&format!("removing what is left of {id}"));
        rest.remove().await?;
        did.push_str(", and nothing of it is left on its machine");
    }
    screen.show(|| did, &json!({ "removed": id, "purged": purge }))
}

/// What stays on a machine when its hive is removed: programs, models, logs.
enum Rest {
    Here(PathBuf),
    There(Destination, Box<Settings>),
}

impl Rest {
    /// Refuses before anything is removed.
    fn of(place: &Place, hive: &HiveInfo) -> Result<Self, Failure> {
        let id = &hive.id;
        if hive.attached {
            let told = "it was started by hand, so what is on its machine is not the queen's to remove";
            return Err(Failure::Told(format!("hive {id} cannot be purged: {told}; leave out --purge")));
        }
        if place.here().is_none() {
            let told = "only where the queen runs can its machines be reached as it does; call this there";
            return Err(Failure::Told(format!("hive {id} cannot be purged from here: {told}")));
        }
        match hive.mode {
            HiveMode::Local => {
                let data_dir = place.configuration()?.data_dir;
                Ok(Self::Here(data_dir.join("hives").join(id.as_str())))
            }
            HiveMode::Network => {
                let ssh = SshTarget {
                    user: hive.ssh_user.clone(),
                    port: hive.ssh_port,
                    key_path: hive.ssh_key_path.clone(),
                    host_key: None,
                };
                let destination = Destination::of(&hive.hostname, &ssh);
                let destination =
                    destination.map_err(|error| Failure::Told(format!("hive {id}: {error}")))?;
                Ok(Self::There(destination, Box::new(place.ssh()?)))
            }
        }
    }

    async fn remove(self) -> Result<(), Failure> {
        match self {
            Self::Here(folder) => {
                let removing = folder.clone();
                let removed = tokio::task::spawn_blocking(move || std::fs::remove_dir_all(removing)).await;
                let removed = removed.map_err(|error| Failure::Told(error.to_string()))?;
                match removed {
                    Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                        Err(Failure::Told(format!("could not remove {}: {error}", folder.display())))
                    }
                    _ => Ok(()),
                }
            }
            Self::There(destination, settings) => {
                let launcher = SshLauncher::new(*settings);
                let launcher = launcher.map_err(|error| Failure::Told(error.to_string()))?;
                launcher.purge(&destination).await.map_err(|error| host_key::told(&error))
            }
        }
    }
}
