//! What must be so after every scenario, whatever it did.

use std::{collections::BTreeMap, time::Duration};

use fleet::{EventKind, RequestOutcome};
use process::Signal;

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
        violations.extend(stop_queen(cluster).await);
    }
    if let Err(error) = cluster.queen.events_read().await {
        violations.push(error.to_string());
    }
    violations.extend(attempts_in_journals(cluster).await);
    for hive in &mut cluster.hives {
        if let Err(error) = hive.stop().await {
            violations.push(format!("hive {} could not be ended: {error:#}", hive.id));
        }
    }
    violations.extend(left_behind(cluster).await);
    let outcomes = cluster.ledger.outcomes();
    violations.extend(outcomes.iter().filter_map(wrong_text));
    violations.extend(events(cluster, &outcomes));
    violations.extend(secrets::leaks(&cluster.folder, &cluster.mark, &tokens));
    let faults = cluster.faults + cluster.hives.iter().map(|hive| hive.faults).sum::<usize>();
    Verdict { violations, requests: outcomes.len(), faults }
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

/// I7, from the side of the hives: no request was sent to workers more than twice.
async fn attempts_in_journals(cluster: &Cluster) -> Vec<String> {
    let mut sent: BTreeMap<String, usize> = BTreeMap::new();
    for hive in cluster.hives.iter().filter(|hive| hive.running.is_alive()) {
        let Ok(calls) = hive.journal().await else { continue };
        let proxied =
            calls.into_iter().filter(|call| call.call == "proxy" && call.path.contains("completions"));
        for id in proxied.filter_map(|call| call.request_id) {
            *sent.entry(id).or_default() += 1;
        }
    }
    let over = sent.into_iter().filter(|(_, times)| *times > ATTEMPTS);
    over.map(|(id, times)| format!("request {id} was sent to workers {times} times")).collect()
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
    slip.map(|slip| format!("the answer to {} is wrong: {slip}", outcome.id))
}

/// What the queen says happened, against what its clients saw.
fn events(cluster: &Cluster, outcomes: &[Outcome]) -> Vec<String> {
    let mut violations = cluster.queen.events.faults();
    let (mut attempts, mut ends) =
        (BTreeMap::<String, usize>::new(), BTreeMap::<String, Vec<RequestOutcome>>::new());
    for event in cluster.queen.events.all() {
        match event.kind {
            EventKind::Attempt { request_id, .. } => {
                *attempts.entry(request_id.to_string()).or_default() += 1
            }
            EventKind::RequestEnded { request_id, outcome, attempts: told, .. } => {
                if told as usize > ATTEMPTS {
                    violations.push(format!("request {request_id} had {told} attempts"));
                }
                ends.entry(request_id.to_string()).or_default().push(outcome);
            }
            _ => {}
        }
    }
    for (id, ends) in ends.iter().filter(|(_, ends)| ends.len() > 1) {
        violations.push(format!("request {id} ended {} times: {ends:?}", ends.len()));
    }
    let unended = attempts.keys().filter(|id| !ends.contains_key(*id) && !cluster.queen.was_killed);
    violations.extend(unended.map(|id| format!("request {id} was sent to a worker and never ended")));
    for outcome in outcomes {
        let told = ends.get(&outcome.id).and_then(|ends| ends.first());
        if let Some(told) = told
            && !agree(&outcome.end, *told)
        {
            violations
                .push(format!("the client of {} saw {:?}, the queen says {told:?}", outcome.id, outcome.end));
        }
    }
    violations
}

/// Whether both sides tell the same of an end. A client that leaves does so at a moment of its own.
fn agree(seen: &End, told: RequestOutcome) -> bool {
    match seen {
        End::Complete => told == RequestOutcome::Completed,
        End::Error { .. } => told == RequestOutcome::Failed,
        End::Truncated | End::Left => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_that_only_the_queen_thinks_complete_is_noticed() {
        let error =
            End::Error { code: String::new(), message: String::new(), details: serde_json::Value::Null };
        assert!(agree(&End::Complete, RequestOutcome::Completed));
        assert!(!agree(&End::Complete, RequestOutcome::Cancelled));
        assert!(!agree(&error, RequestOutcome::Completed));
        assert!(agree(&End::Left, RequestOutcome::Completed));
    }
}
