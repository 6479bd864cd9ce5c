//! How long a machine that was added takes to its first token, by asking it.
//!
//! Only a model that lies there already is asked: nobody who adds a machine wants a download that they did not ask for. Its first
//! request loads it, the second one is timed, as any client sees it from then on.

use std::time::Duration;

use fleet::{HiveId, ModelRef};
use futures_util::StreamExt;
use queen_api::{CatalogHiveState, CatalogModel, InferEvent, InferRequest};
use queen_client::QueenClient;
use serde::Serialize;
use tokio::time::{Instant, timeout_at};

use crate::{screen::Screen, words};

/// For loading the model and both answers.
const WITHIN: Duration = Duration::from_secs(600);

/// What came of asking.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub(crate) enum FirstToken {
    /// It answered.
    Measured {
        /// The model.
        model: String,
        /// From the request to the first token.
        seconds: f64,
    },
    /// Nothing there could be asked.
    NoModel,
    /// Another machine answered, or none.
    NotMeasured {
        /// The model.
        model: String,
        /// Why.
        reason: String,
    },
}

impl FirstToken {
    /// As the last part of the line about a machine.
    pub(crate) fn told(&self) -> String {
        match self {
            Self::Measured { seconds, .. } if *seconds < 0.1 => format!("first token {seconds:.2} s"),
            Self::Measured { seconds, .. } => format!("first token {seconds:.1} s"),
            Self::NoModel => "no model there yet: `rbee run owner/name \"prompt\"` brings one".to_owned(),
            Self::NotMeasured { model, reason } => format!("{model} was not asked there: {reason}"),
        }
    }
}

/// Asks the hive for a token.
pub(crate) async fn measure(queen: &QueenClient, hive: &HiveId, screen: &Screen) -> FirstToken {
    let catalog = match queen.catalog().await {
        Ok(catalog) => catalog,
        Err(error) => {
            let (model, reason) = ("a model".to_owned(), error.to_string());
            return FirstToken::NotMeasured { model, reason };
        }
    };
    let Some(model) = choose(&catalog, hive) else { return FirstToken::NoModel };
    let deadline = Instant::now() + WITHIN;
    for timed in [false, true] {
        let asked = timeout_at(deadline, ask(queen, model, screen)).await;
        let late = || Err(format!("no answer within {} s", WITHIN.as_secs()));
        let reason = match asked.unwrap_or_else(|_| late()) {
            Ok((by, _)) if by != *hive => format!("{by} serves it already, and answered"),
            Ok((_, first)) if timed => {
                return FirstToken::Measured { model: model.to_string(), seconds: first.as_secs_f64() };
            }
            Ok(_) => continue,
            Err(reason) => reason,
        };
        return FirstToken::NotMeasured { model: model.to_string(), reason };
    }
    FirstToken::NoModel
}

/// The smallest model of the hive; one that nobody else serves, if there is one.
fn choose<'a>(catalog: &'a [CatalogModel], hive: &HiveId) -> Option<&'a ModelRef> {
    let lies_there = |model: &&CatalogModel| {
        model.hives.iter().any(|at| at.hive_id == *hive && at.state == CatalogHiveState::Complete)
    };
    let served_elsewhere =
        |model: &CatalogModel| model.hives.iter().any(|at| at.hive_id != *hive && at.workers > 0);
    let smallest = catalog
        .iter()
        .filter(lies_there)
        .min_by_key(|model| (served_elsewhere(model), model.bytes.unwrap_or(u64::MAX)));
    smallest.map(|model| &model.model_ref)
}

/// Who answered, and how long the first token took.
async fn ask(queen: &QueenClient, model: &ModelRef, screen: &Screen) -> Result<(HiveId, Duration), String> {
    let request = InferRequest {
        model: model.to_string(),
        prompt: "Hello".to_owned(),
        max_tokens: 1,
        temperature: Some(0.0),
        top_p: None,
        top_k: None,
        seed: None,
        stop: None,
        stream: true,
    };
    let began = Instant::now();
    let mut answer = queen.infer(&request).await.map_err(|error| error.to_string())?;
    let mut by = None;
    while let Some(event) = answer.next().await {
        let event = event.map_err(|error| error.to_string())?;
        if let Some(line) = words::waiting(&event) {
            screen.progress(&words::printable(&line));
        }
        match event {
            InferEvent::Started { hive_id, .. } => by = Some(hive_id),
            // An answer may be empty: then its end is the first that comes.
            InferEvent::Token { .. } | InferEvent::End { .. } => {
                let first = began.elapsed();
                return by.map(|by| (by, first)).ok_or_else(|| "nobody said who answers".to_owned());
            }
            InferEvent::Queued { .. } | InferEvent::Loading { .. } | InferEvent::Error { .. } => {}
        }
    }
    Err("the answer ended before its first token".to_owned())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn catalog(models: serde_json::Value) -> Vec<CatalogModel> {
        serde_json::from_value(models).unwrap()
    }

    #[test]
    fn the_smallest_model_that_lies_there_is_asked() {
        let at = |hive: &str, state: &str, workers: u32| json!({ "hive_id": hive, "state": state, "workers": workers });
        let model = |name: &str, bytes: u64, hives: Vec<serde_json::Value>| json!({ "model_ref": name, "pinned": false, "bytes": bytes, "hives": hives });
        let box_ = "box".parse().unwrap();
        let chosen = |models: serde_json::Value| choose(&catalog(models), &box_).map(ToString::to_string);
        assert_eq!(chosen(json!([])), None);
        assert_eq!(
            chosen(json!([
                model("hf:a/elsewhere", 1, vec![at("mac", "complete", 0)]),
                model("hf:a/coming", 2, vec![at("box", "downloading", 0)]),
            ])),
            None
        );
        let models = json!([
            model("hf:a/served", 1, vec![at("box", "complete", 0), at("mac", "complete", 1)]),
            model("hf:a/large", 9, vec![at("box", "complete", 0)]),
            model("hf:a/small", 3, vec![at("box", "complete", 0), at("mac", "complete", 0)]),
        ]);
        assert_eq!(chosen(models).as_deref(), Some("hf:a/small"));
        let served =
            json!([model("hf:a/served", 1, vec![at("box", "complete", 0), at("mac", "complete", 1)])]);
        assert_eq!(chosen(served).as_deref(), Some("hf:a/served"), "better than none");
    }

    #[test]
    fn a_machine_is_told_in_a_few_words() {
        let model = "hf:a/b".to_owned();
        for (first, told) in [
            (FirstToken::Measured { model: model.clone(), seconds: 0.4321 }, "first token 0.4 s"),
            (FirstToken::Measured { model: model.clone(), seconds: 0.0321 }, "first token 0.03 s"),
            (FirstToken::NoModel, "no model there yet: `rbee run owner/name \"prompt\"` brings one"),
            (
                FirstToken::NotMeasured { model, reason: "mac serves it already, and answered".to_owned() },
                "hf:a/b was not asked there: mac serves it already, and answered",
            ),
        ] {
            assert_eq!(first.told(), told);
        }
    }
}
