//! `docs/hive-api.md` is enough to write a hive by, so what it shows must be what is spoken.

use std::collections::BTreeSet;

use hive_api::ErrorCode;

use crate::samples;

const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/hive-api.md");

fn page() -> String {
    std::fs::read_to_string(PAGE).unwrap()
}

/// The examples of the page: name and text. They are written as fenced blocks of language `json` with their name behind
/// it.
fn examples(page: &str) -> Vec<(String, String)> {
    let blocks = page.split("\n```json ").skip(1);
    let cut = |block: &str| {
        let (name, rest) = block.split_once('\n').unwrap();
        let (text, _) = rest.split_once("\n```").unwrap();
        (name.to_owned(), text.to_owned())
    };
    blocks.map(cut).collect()
}

#[test]
fn its_examples_parse_as_the_types_and_are_the_pinned_ones() {
    let samples = samples::all();
    let page = page();
    let mut shown = BTreeSet::new();
    for (name, text) in examples(&page) {
        let sample = samples.iter().find(|s| s.name == name);
        let sample = sample.unwrap_or_else(|| panic!("the page shows {name}, which is not pinned"));
        assert_eq!((sample.again)(&text).unwrap(), text, "{name}");
        assert_eq!(text, sample.json, "{name}");
        shown.insert(name);
    }
    let missing: Vec<_> = samples.iter().map(|s| s.name).filter(|name| !shown.contains(*name)).collect();
    assert!(missing.is_empty(), "the page does not show {missing:?}");
}

#[test]
fn it_lists_every_error_code_with_its_status() {
    let page = page();
    for code in ErrorCode::ALL {
        let row = format!("| `{}` | {} |", code.text(), code.status());
        assert!(page.contains(&row), "the page lacks {row}");
    }
}

#[test]
fn it_names_every_endpoint_header_and_state() {
    let page = page();
    for word in [
        "`GET /v1/health`",
        "`GET /v1/capabilities`",
        "`GET /v1/watch`",
        "`GET /v1/workers/list`",
        "`POST /v1/workers/spawn`",
        "`POST /v1/workers/{id}/stop`",
        "`GET /v1/models/list`",
        "`GET /v1/models/inspect?ref=`",
        "`POST /v1/models/download`",
        "`GET /v1/models/download/progress?id=`",
        "`GET /v1/models/blob/{digest}`",
        "`PUT /v1/models/blob/{digest}?offset=`",
        "`POST /v1/models/blob/{digest}/grant`",
        "`DELETE /v1/models?ref=`",
        "`GET /v1/logs?source=&lines=`",
        "`POST /v1/shutdown`",
        "`GET /metrics`",
        "/v1/workers/{id}/proxy/",
        hive_api::LAUNCH_HEADER,
        hive_api::WORKER_HEADER,
        "spawn_failed",
        "model_unreadable",
        "model_invalid",
        "out_of_memory",
        "exited_while_loading",
        "crashed",
        "load_timeout",
        "sliding_window",
        "latent",
    ] {
        assert!(page.contains(word), "the page lacks {word}");
    }
}
