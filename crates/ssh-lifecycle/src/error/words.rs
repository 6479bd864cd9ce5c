//! Parts of sentences.

use std::{path::Path, time::Duration};

use fleet::HiveExit;

/// So much of a path is shown, the end of it.
const SHOWN: usize = 200;

/// A path as it is shown: of a size that fits a screen, with nothing in it that moves a cursor or turns the text around.
pub(super) fn file(path: &Path) -> String {
    let is_text =
        |c: char| !c.is_control() && !matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    let show = |c: char| if is_text(c) { c.to_string() } else { c.escape_default().to_string() };
    let path = path.display().to_string();
    let hidden = path.chars().count().saturating_sub(SHOWN);
    let dots = if hidden > 0 { "…" } else { "" };
    format!("{dots}{}", path.chars().skip(hidden).map(show).collect::<String>())
}

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
