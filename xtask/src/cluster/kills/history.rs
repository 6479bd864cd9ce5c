//! What was asked of a queen, and what she acknowledged.

use std::collections::BTreeMap;

use anyhow::ensure;
use serde_json::{Value, json};

use super::super::api::Server;

/// Hives of one writer; a few, so that each is registered and removed again and again.
const HIVES: usize = 5;

/// Whether a hive has to be there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Due {
    Present,
    Absent,
    /// The last change was not acknowledged, so that either is right.
    Either,
}

/// The changes of one writer to hives of its own.
#[derive(Debug)]
pub(super) struct History {
    writer: usize,
    due: BTreeMap<String, Due>,
    changes: usize,
    acknowledged: usize,
}

impl History {
    pub(super) const fn of(writer: usize) -> Self {
        Self { writer, due: BTreeMap::new(), changes: 0, acknowledged: 0 }
    }

    pub(super) const fn acknowledged(&self) -> usize {
        self.acknowledged
    }

    fn next(&mut self) -> (String, bool) {
        let id = format!("w{}-h{}", self.writer, self.changes % HIVES);
        let register = (self.changes / HIVES).is_multiple_of(2);
        self.changes += 1;
        (id, register)
    }
}

/// Fails for the first hive that is not as it has to be.
pub(super) fn compare(histories: &[History], listed: &[Value]) -> anyhow::Result<()> {
    let is_listed = |id: &str| listed.iter().any(|hive| hive["id"] == id);
    let known: BTreeMap<&String, Due> =
        histories.iter().flat_map(|h| &h.due).map(|(id, due)| (id, *due)).collect();
    for (id, due) in &known {
        match due {
            Due::Present => ensure!(is_listed(id), "hive {id} was acknowledged and is lost"),
            Due::Absent => ensure!(!is_listed(id), "hive {id} was removed, acknowledged, and is back"),
            Due::Either => {}
        }
    }
    for hive in listed {
        let id = hive["id"].as_str().unwrap_or_default();
        ensure!(known.keys().any(|known| *known == id), "hive {id:?} was never registered");
        ensure!(hive["hostname"] == "127.0.0.1" && hive["port"] == 9, "hive {id} is not whole: {hive}");
    }
    Ok(())
}

/// Changes hives, one after the other.
pub(super) struct Writer<'a> {
    server: &'a Server,
    history: &'a mut History,
}

impl<'a> Writer<'a> {
    pub(super) const fn new(server: &'a Server, history: &'a mut History) -> Self {
        Self { server, history }
    }

    /// One change. False if no answer came, or none that acknowledges it.
    pub(super) async fn change(&mut self) -> bool {
        let (id, register) = self.history.next();
        self.history.due.insert(id.clone(), Due::Either);
        let reply = if register {
            // Nobody listens on the port of discard, so the queen has nothing to do with such a hive.
            let body =
                json!({ "id": id, "hostname": "127.0.0.1", "port": 9, "token": "0123456789abcdef0123" });
            self.server.post("/v1/hives/register", &body).await
        } else {
            self.server.delete(&format!("/v1/hives/{id}")).await
        };
        // A removal that was not acknowledged may have happened, and is not found when it is repeated.
        let acknowledged =
            reply.is_ok_and(|reply| reply.status.is_success() || (!register && reply.status.as_u16() == 404));
        if acknowledged {
            self.history.acknowledged += 1;
            self.history.due.insert(id, if register { Due::Present } else { Due::Absent });
        }
        acknowledged
    }

    /// Changes until one fails.
    pub(super) async fn until_refused(mut self) {
        while self.change().await {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn history(due: Due) -> [History; 1] {
        let mut history = History::of(0);
        history.due.insert("w0-h0".to_owned(), due);
        [history]
    }

    #[test]
    fn lost_and_returned_and_half_hives_are_seen() {
        let hive = json!({ "id": "w0-h0", "hostname": "127.0.0.1", "port": 9 });
        let there = std::slice::from_ref(&hive);
        for (due, listed, right) in [
            (Due::Present, there, true),
            (Due::Present, &[][..], false),
            (Due::Absent, &[][..], true),
            (Due::Absent, there, false),
            (Due::Either, there, true),
            (Due::Either, &[][..], true),
        ] {
            assert_eq!(compare(&history(due), listed).is_ok(), right, "{due:?} {listed:?}");
        }
        let half = [json!({ "id": "w0-h0", "hostname": "127.0.0.1", "port": 0 })];
        assert!(compare(&history(Due::Present), &half).is_err());
        assert!(compare(&[History::of(0)], there).is_err(), "a hive that nobody registered");
    }
}
