//! `docs/queen-api.md` is what people write clients by, so what it shows must be what is spoken.

use std::collections::BTreeSet;

use fleet::Event;
use queen_api::{
    ATTEMPTS_HEADER, EnsureEvent, ErrorCode, HIVE_HEADER, InferEvent, PRIORITY_HEADER, QUEUED_HEADER,
    REGION_HEADER, REQUEST_ID_HEADER, WORKER_HEADER,
};

use crate::samples;

const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/queen-api.md");

fn page() -> String {
    std::fs::read_to_string(PAGE).unwrap()
}

/// The fenced blocks of a language, by the name behind it.
fn blocks(page: &str, language: &str) -> Vec<(String, String)> {
    let fence = format!("\n```{language} ");
    let cut = |block: &str| {
        let (name, rest) = block.split_once('\n').unwrap();
        let (text, _) = rest.split_once("\n```").unwrap();
        (name.to_owned(), text.to_owned())
    };
    page.split(&fence).skip(1).map(cut).collect()
}

/// The data of the events of a stream, one line each.
fn data(stream: &str) -> impl Iterator<Item = &str> {
    stream.lines().filter_map(|line| line.strip_prefix("data: "))
}

#[test]
fn its_examples_parse_as_the_types_and_are_the_pinned_ones() {
    let samples = samples::all();
    let mut shown = BTreeSet::new();
    for (name, text) in blocks(&page(), "json") {
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
fn its_streams_hold_what_their_readers_know() {
    let page = page();
    let streams = blocks(&page, "sse");
    let of = |name: &str| &streams.iter().find(|(found, _)| found == name).expect("it is shown").1;
    for (name, ends) in [("infer", true), ("infer_failed", false)] {
        let lines: Vec<&str> = data(of(name)).collect();
        assert_eq!(lines.last() == Some(&"[DONE]"), ends, "{name}");
        for line in lines.into_iter().filter(|line| *line != "[DONE]") {
            let event: InferEvent = serde_json::from_str(line).unwrap();
            assert_eq!(serde_json::to_string(&event).unwrap(), line, "{name}");
        }
    }
    let ensure: Vec<&str> = data(of("ensure")).collect();
    assert_eq!(ensure.last(), Some(&"[DONE]"));
    for line in &ensure[..ensure.len() - 1] {
        let event: EnsureEvent = serde_json::from_str(line).unwrap();
        assert_eq!(serde_json::to_string(&event).unwrap(), *line);
    }
    for line in data(of("events")).filter(|line| !line.contains("\"lagged\"")) {
        let event: Event = serde_json::from_str(line).unwrap();
        assert_eq!(serde_json::to_string(&event).unwrap(), line);
    }
    assert_eq!(streams.len(), 4);
}

#[test]
fn it_lists_every_error_code_with_its_status_and_no_other() {
    let page = page();
    let row = |line: &str| {
        // Endpoints stand in a table of the same form, with a method before their path.
        let mut cells = line.strip_prefix("| `")?.split(" | ");
        let code = cells.next()?.strip_suffix('`').filter(|code| !code.contains(' '))?.to_owned();
        Some((code, cells.next()?.parse::<u16>().ok()?))
    };
    let listed: Vec<_> = page.lines().filter_map(row).collect();
    let all: Vec<_> = ErrorCode::ALL.iter().map(|code| (code.as_str().to_owned(), code.status())).collect();
    assert_eq!(listed, all);
}

#[test]
fn it_names_every_header() {
    let page = page();
    let answered =
        [REQUEST_ID_HEADER, WORKER_HEADER, HIVE_HEADER, ATTEMPTS_HEADER, QUEUED_HEADER, "retry-after"];
    for header in answered.into_iter().chain([REGION_HEADER, PRIORITY_HEADER]) {
        assert!(page.contains(&format!("`{header}`")), "the page lacks {header}");
    }
}
