//! What the hives were asked, from their own journals.

use std::{collections::BTreeMap, time::Duration};

use super::ATTEMPTS;
use crate::cluster::{fleet::Cluster, hive::Call};

/// What an answer that nobody reads may still take until its worker has noticed.
const NOTICED: Duration = Duration::from_secs(3);

/// The journal of every hive that could be asked.
pub(super) struct Journals(BTreeMap<String, Vec<Call>>);

impl Journals {
    pub(super) async fn read(cluster: &Cluster) -> Self {
        let mut journals = Self(BTreeMap::new());
        journals.read_again(cluster).await;
        journals
    }

    /// Those that can still be asked, with what came since.
    pub(super) async fn read_again(&mut self, cluster: &Cluster) {
        for hive in cluster.hives.iter().filter(|hive| hive.running.is_alive() && !hive.is_frozen()) {
            if let Ok(calls) = hive.journal().await {
                self.0.insert(hive.id.clone(), calls);
            }
        }
    }

    /// I8: no client is left, so nothing is generated.
    pub(super) async fn still_generating(&mut self, cluster: &Cluster) -> Vec<String> {
        let open = |journals: &Self| -> Vec<String> {
            let proxied = journals.calls().filter(|(_, call)| call.call == "proxy" && call.outcome == "open");
            proxied.map(|(hive, call)| format!("hive {hive} still answers {:?}", call.request_id)).collect()
        };
        let deadline = tokio::time::Instant::now() + NOTICED;
        while !open(self).is_empty() && tokio::time::Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(20)).await;
            self.read_again(cluster).await;
        }
        open(self)
    }

    fn calls(&self) -> impl Iterator<Item = (&str, &Call)> {
        self.0.iter().flat_map(|(hive, calls)| calls.iter().map(move |call| (hive.as_str(), call)))
    }

    pub(super) fn violations(&self, cluster: &Cluster) -> Vec<String> {
        let mut violations = self.attempts();
        violations.extend(self.calls().filter_map(|(hive, call)| stale(hive, call)));
        violations.extend(self.told_to_end(cluster));
        violations
    }

    /// I7: no request was sent to workers more than twice.
    fn attempts(&self) -> Vec<String> {
        let mut sent: BTreeMap<&str, usize> = BTreeMap::new();
        let completions = |call: &Call| call.call == "proxy" && call.path.contains("completions");
        for (_, call) in self.calls().filter(|(_, call)| completions(call) && call.status != Some(409)) {
            if let Some(id) = &call.request_id {
                *sent.entry(id).or_default() += 1;
            }
        }
        let over = sent.into_iter().filter(|(_, times)| *times > ATTEMPTS);
        over.map(|(id, times)| format!("request {id} was sent to workers {times} times")).collect()
    }

    /// I10: a hive that the queen did not start is not told to end.
    fn told_to_end<'a>(&'a self, cluster: &'a Cluster) -> impl Iterator<Item = String> + 'a {
        let attached = |id: &str| cluster.hives.iter().any(|hive| hive.id == id && hive.is_attached());
        let told = self.calls().filter(move |(hive, call)| call.call == "shutdown" && attached(hive));
        told.map(|(hive, _)| format!("hive {hive} was attached and was told to end"))
    }
}

/// I2: a request that names another launch, or none, is not heeded. Health and a file that was granted want none.
fn stale(hive: &str, call: &Call) -> Option<String> {
    let wants_none = ["health", "read_blob"].contains(&call.call.as_str());
    let heeded = call.status.is_some_and(|status| status < 400);
    let stale = !wants_none && heeded && call.launch != "right";
    stale.then(|| format!("hive {hive} heeded {} {}, whose launch was {}", call.call, call.path, call.launch))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn call(call: &str, launch: &str, status: u16) -> Call {
        let call = json!({
            "call": call, "path": "/v1/workers/w-1/proxy/v1/completions", "request_id": "r", "status": status,
            "outcome": "completed", "launch": launch,
        });
        serde_json::from_value(call).unwrap()
    }

    #[test]
    fn a_request_of_another_launch_that_was_heeded_is_noticed() {
        assert_eq!(stale("a", &call("proxy", "right", 200)), None);
        assert_eq!(stale("a", &call("proxy", "wrong", 409)), None);
        assert_eq!(stale("a", &call("health", "missing", 200)), None);
        assert!(stale("a", &call("proxy", "wrong", 200)).is_some());
        assert!(stale("a", &call("spawn", "missing", 202)).is_some());
    }

    #[test]
    fn a_request_that_was_sent_three_times_is_noticed() {
        let journals = |count| {
            let calls = (0..count).map(|_| call("proxy", "right", 502)).collect();
            Journals([("a".to_owned(), calls)].into())
        };
        assert_eq!(journals(2).attempts(), [""; 0]);
        assert_eq!(journals(3).attempts().len(), 1);
    }
}
