//! What must be so after every scenario, whatever it did.

mod connections;
mod events;
mod journals;

use std::{collections::BTreeSet, time::Duration};

use fleet::HiveRegistry as _;
use process::Signal;
use queen_api::ErrorCode;
use registry_sqlite::SqliteStore;
use serde_json::json;

use self::journals::Journals;
use super::{
    answer::{End, Outcome},
    fleet::Cluster,
    secrets,
};
use crate::strays;

/// Most workers that one request may be sent to.
const ATTEMPTS: usize = 2;

/// Beyond the grace, how long the queen's end may take on a machine that does other things as well.
const STOP: Duration = Duration::from_secs(3 + 2 + 3);

/// What was seen while a cluster was ended.
#[derive(Debug, Default)]
pub(crate) struct Verdict {
    pub(crate) violations: Vec<String>,
    pub(crate) requests: usize,
    pub(crate) faults: usize,
    /// What was measured.
    pub(crate) figures: Vec<String>,
}

/// Checks a cluster whose scenario is over, ends it, and checks what is left.
pub(crate) async fn end(cluster: &mut Cluster) -> Verdict {
    let mut violations = Vec::new();
    let tokens = tokens(cluster);
    let processes = strays::below(&cluster.folder);
    let queens = cluster.queen.server.token.clone().unwrap_or_default();
    violations.extend(secrets::exposed(&processes, &cluster.mark, &tokens, &queens));
    if cluster.queen.running.is_alive() {
        violations.extend(slots(cluster).await);
        violations.extend(registrations(cluster).await);
        violations.extend(connections::elsewhere(cluster));
        violations.extend(told_secrets(cluster, &tokens).await);
    }
    let mut journals = Journals::read(cluster).await;
    violations.extend(journals.still_generating(cluster).await);
    if cluster.queen.running.is_alive() {
        let attached = attached(cluster);
        violations.extend(stop_queen(cluster).await);
        violations.extend(ended_by_the_queen(cluster, &attached));
    }
    violations.extend(stored(cluster).await);
    if let Err(error) = cluster.queen.events_read().await {
        violations.push(error.to_string());
    }
    journals.read_again(cluster).await;
    violations.extend(journals.violations(cluster));
    for hive in &mut cluster.hives {
        if let Err(error) = hive.stop().await {
            violations.push(format!("hive {} could not be ended: {error:#}", hive.id));
        }
    }
    if let Err(error) = cluster.end_other().await {
        violations.push(format!("the other machine's network could not be ended: {error:#}"));
    }
    violations.extend(left_behind(cluster).await);
    let outcomes = cluster.ledger.outcomes();
    violations.extend(outcomes.iter().filter_map(wrong_text));
    violations.extend(outcomes.iter().filter_map(unexplained));
    violations.extend(events::violations(cluster, &outcomes));
    violations.extend(secrets::leaks(&cluster.folder, &cluster.mark, &tokens));
    let faults = cluster.faults + cluster.hives.iter().map(|hive| hive.faults).sum::<usize>();
    let figures = std::mem::take(&mut cluster.figures);
    Verdict { violations, requests: outcomes.len(), faults, figures }
}

/// Ends everything of a cluster that could not be started or whose scenario was given up, without asking.
pub(crate) async fn sweep(folder: &std::path::Path) -> Vec<String> {
    let found = strays::below(folder);
    strays::end(found).await.iter().map(|stray| format!("still runs: {stray}")).collect()
}

fn tokens(cluster: &Cluster) -> Vec<String> {
    let hives = cluster.hives.iter().map(|hive| hive.token.clone());
    hives.chain(cluster.queen.server.token.clone()).collect()
}

/// I6: nobody asks any more, so no slot is taken.
async fn slots(cluster: &Cluster) -> Option<String> {
    let free = cluster.wait_until("every slot is free again", Duration::from_secs(3), async || {
        Ok(cluster.workers_list().await?.iter().all(|worker| worker["in_flight"] == 0))
    });
    free.await.err().map(|error| format!("{error:#}"))
}

/// I1: whatever was acknowledged is listed.
async fn registrations(cluster: &Cluster) -> Vec<String> {
    let listed = match cluster.hives_list().await {
        Ok(listed) => listed,
        Err(error) => return vec![format!("the hives cannot be listed: {error:#}")],
    };
    lost(&cluster.registered(), &listed)
}

/// I1, of what she leaves behind, however she ended.
async fn stored(cluster: &Cluster) -> Vec<String> {
    let registered = cluster.registered();
    if registered.is_empty() {
        return Vec::new();
    }
    let rows = match SqliteStore::open(&cluster.folder.join("queen")) {
        Ok(store) => store.list().await.map_err(anyhow::Error::from),
        Err(error) => Err(error.into()),
    };
    match rows {
        Ok(rows) => {
            let ids: Vec<_> =
                rows.iter().flatten().map(|row| json!({ "id": row.spec.id.as_str() })).collect();
            lost(&registered, &ids)
        }
        Err(error) => vec![format!("the queen's database cannot be read: {error:#}")],
    }
}

fn lost(registered: &BTreeSet<String>, listed: &[serde_json::Value]) -> Vec<String> {
    let lost = registered.iter().filter(|id| !listed.iter().any(|hive| hive["id"] == id.as_str()));
    lost.map(|id| format!("the registration of {id} was acknowledged and is lost")).collect()
}

/// I12, of what the queen says over HTTP.
async fn told_secrets(cluster: &Cluster, tokens: &[String]) -> Vec<String> {
    let mut found = Vec::new();
    for path in ["/v1/hives/list", "/v1/workers/list", "/metrics"] {
        let Ok(reply) = cluster.get(path).await else { continue };
        if secrets::holds_any(&reply.body, &cluster.mark, tokens) {
            found.push(format!("a secret stands in the answer to {path}"));
        }
    }
    let events = serde_json::to_vec(&cluster.queen.events.all()).unwrap_or_default();
    if secrets::holds_any(&events, &cluster.mark, tokens) {
        found.push("a secret stands in the events".to_owned());
    }
    found
}

/// The attached hives that live.
fn attached(cluster: &Cluster) -> Vec<String> {
    let hives = cluster.hives.iter().filter(|hive| hive.is_attached() && hive.running.is_alive());
    hives.map(|hive| hive.id.clone()).collect()
}

/// I10: the queen ends nothing that it did not start.
fn ended_by_the_queen(cluster: &Cluster, lived: &[String]) -> Vec<String> {
    let ended = cluster.hives.iter().filter(|hive| lived.contains(&hive.id) && !hive.running.is_alive());
    ended.map(|hive| format!("hive {} was attached and ended with the queen", hive.id)).collect()
}

/// The stop that Ctrl-C asks for: in time, and with success.
async fn stop_queen(cluster: &mut Cluster) -> Option<String> {
    match cluster.queen.stop(STOP).await {
        Ok(exit) if exit.code == Some(0) => None,
        Ok(exit) => Some(format!("the queen stopped with {exit:?}:\n{}", cluster.queen.running.tail())),
        Err(error) => {
            let _ = cluster.queen.running.signal(Signal::KILL);
            let _ = cluster.queen.running.ended(Duration::from_secs(5)).await;
            Some(format!("{error:#}"))
        }
    }
}

/// No orphan: the queen and its hives took everything with them.
async fn left_behind(cluster: &Cluster) -> Vec<String> {
    let mut strays = strays::below(&cluster.folder);
    let deadline = tokio::time::Instant::now() + Duration::from_secs(2);
    while !strays.is_empty() && tokio::time::Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(20)).await;
        strays = strays::below(&cluster.folder);
    }
    let found = strays.iter().map(|stray| format!("left behind: {stray}")).collect();
    strays::end(strays).await;
    found
}

/// I4, I5: every answer is a piece of the recital, and whole if it says so.
fn wrong_text(outcome: &Outcome) -> Option<String> {
    let slip = tiny_model::check_continuation(&outcome.prompt, &outcome.text).err();
    let slip = slip.map(|slip| slip.to_string()).or_else(|| outcome.gap());
    slip.map(|slip| format!("the answer to {} is wrong: {slip}", outcome.id))
}

/// I13: whatever had to be waited for in vain has an error of its own. That the waits are bounded shows in the scenarios'
/// time limits.
fn unexplained(outcome: &Outcome) -> Option<String> {
    let End::Error { code, message, .. } = &outcome.end else { return None };
    let mut known = ErrorCode::ALL.iter().filter(|known| **known != ErrorCode::Internal);
    let is_told = known.any(|known| known.as_str() == code) && !message.is_empty();
    (!is_told)
        .then(|| format!("the client of {} was not told what went wrong: {code}, {message:?}", outcome.id))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_that_says_nothing_is_noticed() {
        let failed = |code: &str, message: &str| Outcome {
            id: "r-1".to_owned(),
            prompt: String::new(),
            status: 500,
            events: Vec::new(),
            text: String::new(),
            end: End::Error { code: code.to_owned(), message: message.to_owned(), details: json!(null) },
            asked: 1,
            said: None,
            took: Duration::ZERO,
        };
        assert_eq!(unexplained(&failed("worker_timeout", "it sent nothing")), None);
        for (code, message) in [("internal", "oh"), ("something", "oh"), ("worker_timeout", "")] {
            assert!(unexplained(&failed(code, message)).is_some(), "{code}");
        }
    }

    #[test]
    fn a_registration_that_is_not_listed_is_noticed() {
        let registered = ["a", "b"].map(str::to_owned).into();
        assert_eq!(lost(&registered, &[json!({ "id": "b" }), json!({ "id": "a" })]), [""; 0]);
        assert_eq!(lost(&registered, &[json!({ "id": "a" })]).len(), 1);
    }
}
