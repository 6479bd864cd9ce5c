//! Parts of sentences.

use std::time::Duration;

use fleet::HiveExit;

pub(super) fn list(items: &[String], none: &str) -> String {
    if items.is_empty() { none.to_owned() } else { items.join(", ") }
}

pub(super) fn only(kinds: &[String]) -> String {
    if kinds.is_empty() { String::new() } else { format!(" (only one of the kind {})", kinds.join(", ")) }
}

pub(super) fn offered(offers: &str) -> String {
    match offers {
        "" | "publickey" => String::new(),
        other => format!(" (it offers {other})"),
    }
}

pub(super) fn seconds(within: &Duration) -> String {
    format!("{} s", within.as_secs_f64())
}

pub(super) fn quoted(said: &str) -> String {
    if said.is_empty() { "said nothing".to_owned() } else { format!("said {said:?}") }
}

pub(super) fn ending(exit: &HiveExit) -> String {
    match (exit.code, exit.signal) {
        (Some(code), _) => format!(" with exit code {code}"),
        (None, Some(signal)) => format!(" by signal {signal}"),
        (None, None) => String::new(),
    }
}

pub(super) fn help(hint: Option<&str>) -> String {
    hint.map(|hint| format!(". {hint}")).unwrap_or_default()
}
