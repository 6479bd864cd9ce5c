//! From a value as it is written to what it means, or what is wrong with it and what to write instead.

use std::{path::Path, path::PathBuf, time::Duration};

use figment::value::Value;

use crate::layers::expand;

/// Why a value does not do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wrong {
    pub(crate) problem: String,
    pub(crate) advice: String,
}

pub(crate) type Read<T> = Result<T, Wrong>;

/// A value does not do.
pub(crate) fn wrong<T>(problem: impl Into<String>, advice: impl Into<String>) -> Read<T> {
    Err(Wrong { problem: problem.into(), advice: advice.into() })
}

/// The longest time that can be set; a year is as good as for ever, and clocks can be added to it.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 3600);

/// A value in a message.
fn shown(value: &Value) -> String {
    match value {
        Value::String(_, text) => format!("{:?}", text.chars().take(80).collect::<String>()),
        Value::Char(_, c) => format!("{:?}", c.to_string()),
        Value::Bool(_, b) => b.to_string(),
        Value::Num(_, number) => match (number.to_i128(), number.to_u128(), number.to_f64()) {
            (Some(n), ..) => n.to_string(),
            (_, Some(n), _) => n.to_string(),
            (.., Some(n)) => n.to_string(),
            _ => "a number".to_owned(),
        },
        Value::Dict(..) => "a table".to_owned(),
        Value::Array(..) => "a list".to_owned(),
        Value::Empty(..) => "nothing".to_owned(),
    }
}

/// A text.
pub(crate) fn text(value: &Value) -> Read<String> {
    match value {
        Value::String(_, text) if text.is_empty() => {
            wrong("is empty", "give it a value or leave the key out")
        }
        Value::String(_, text) => Ok(text.clone()),
        Value::Char(_, c) => Ok(c.to_string()),
        other => wrong(format!("{} is not a text", shown(other)), "put it in quotes"),
    }
}

/// Something that parses from a text.
pub(crate) fn parsed<T: std::str::FromStr<Err: std::fmt::Display>>(
    advice: &'static str,
) -> impl Fn(&Value) -> Read<T> {
    move |value| text(value)?.parse().or_else(|error: T::Err| wrong(error.to_string(), advice))
}

/// One of some words.
pub(crate) fn word<T: Copy>(words: &'static [(&'static str, T)]) -> impl Fn(&Value) -> Read<T> {
    move |value| {
        let known = words.iter().map(|(word, _)| format!("{word:?}")).collect::<Vec<_>>().join(" or ");
        let found = text(value).ok().and_then(|text| words.iter().find(|(word, _)| *word == text));
        found.map_or_else(
            || wrong(format!("{} is none of its values", shown(value)), format!("write {known}")),
            |(_, meaning)| Ok(*meaning),
        )
    }
}

/// A time: seconds, or a number with a unit.
fn any_duration(value: &Value) -> Read<Duration> {
    let time = match value {
        Value::Num(_, number) => {
            let seconds = number.to_u128().and_then(|seconds| u64::try_from(seconds).ok());
            let seconds = seconds.or_else(|| number.to_i128().and_then(|n| u64::try_from(n).ok()));
            seconds.map(Duration::from_secs)
        }
        Value::String(_, text) => humantime::parse_duration(text).ok(),
        _ => None,
    };
    match time {
        Some(time) if time > LONGEST => wrong(format!("{} is more than a year", shown(value)), "write less"),
        Some(time) => Ok(time),
        None => wrong(
            format!("{} is not a time", shown(value)),
            "write it as \"500ms\", \"30s\", \"15m\" or whole seconds",
        ),
    }
}

/// A time of at least `least`.
pub(crate) fn duration(least: Duration) -> impl Fn(&Value) -> Read<Duration> {
    move |value| {
        let time = any_duration(value)?;
        if time >= least {
            return Ok(time);
        }
        let least = humantime::format_duration(least);
        wrong(format!("{} is too short", shown(value)), format!("write at least \"{least}\""))
    }
}

/// A whole number of a range.
pub(crate) fn number(least: usize, most: usize) -> impl Fn(&Value) -> Read<usize> {
    move |value| {
        let number = match value {
            Value::Num(_, number) => number.to_i128().or_else(|| i128::try_from(number.to_u128()?).ok()),
            _ => None,
        };
        let inside = number.and_then(|n| usize::try_from(n).ok()).filter(|n| (least..=most).contains(n));
        inside.map_or_else(
            || {
                let range = format!("write a whole number from {least} to {most}");
                wrong(format!("{} is not such a number", shown(value)), range)
            },
            Ok,
        )
    }
}

/// A port that can be connected to.
pub(crate) fn port(value: &Value) -> Read<u16> {
    number(1, usize::from(u16::MAX))(value).map(|port| u16::try_from(port).unwrap_or(u16::MAX))
}

/// A size: bytes, or a number with a unit.
pub(crate) fn size(least: usize) -> impl Fn(&Value) -> Read<usize> {
    move |value| {
        let bytes = match value {
            Value::Num(..) => number(0, usize::MAX)(value).ok(),
            Value::String(_, text) => with_unit(text),
            _ => None,
        };
        match bytes {
            Some(bytes) if bytes >= least => Ok(bytes),
            Some(_) => wrong(format!("{} is too small", shown(value)), format!("write at least {least}")),
            None => wrong(
                format!("{} is not a size", shown(value)),
                "write bytes, or a whole number with KiB, MiB or GiB, such as \"32MiB\"",
            ),
        }
    }
}

fn with_unit(text: &str) -> Option<usize> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let shift = match unit.trim_start() {
        "" | "B" => 0,
        "KiB" => 10,
        "MiB" => 20,
        "GiB" => 30,
        _ => return None,
    };
    number.parse::<usize>().ok()?.checked_mul(1 << shift)
}

/// An absolute path, or one below `~/`. Relative ones are refused: a service starts in `/`, a person anywhere, and the same
/// file would mean two places.
pub(crate) fn path(home: Option<&Path>) -> impl Fn(&Value) -> Read<PathBuf> {
    move |value| {
        let text = text(value)?;
        expand(&text, home)
            .map_or_else(|| wrong(format!("{text:?} is not an absolute path"), "begin it with / or ~/"), Ok)
    }
}

/// The path of a secret. It is not repeated in a message: who mistakes the key writes the secret itself here.
pub(crate) fn secret_path(home: Option<&Path>) -> impl Fn(&Value) -> Read<PathBuf> {
    move |value| {
        let text = text(value)
            .or_else(|_| wrong("is not a path", "write the path of a file that holds the token"))?;
        expand(&text, home).map_or_else(
            || {
                wrong(
                    "is not an absolute path",
                    "write the path of a file that holds the token, begun with / or ~/",
                )
            },
            Ok,
        )
    }
}

/// A list of something.
pub(crate) fn list<T>(item: impl Fn(&Value) -> Read<T>) -> impl Fn(&Value) -> Read<Vec<T>> {
    move |value| match value {
        Value::Array(_, items) => items.iter().map(&item).collect(),
        other => wrong(format!("{} is not a list", shown(other)), "put it in [ ]"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(text: &str) -> Value {
        text.parse().expect("figment reads anything")
    }

    #[test]
    fn times_are_seconds_or_have_a_unit() {
        let read = |text| duration(Duration::ZERO)(&given(text));
        for (text, millis) in
            [("30s", 30_000), ("500ms", 500), ("15m", 900_000), ("1h 30m", 5_400_000), ("7", 7_000), ("0", 0)]
        {
            assert_eq!(read(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for text in ["-1", "1.5", "soon", "30 bananas", "2years", "true", "[1]", "\"30\""] {
            assert!(read(text).is_err(), "{text}");
        }
        assert!(duration(Duration::from_secs(2))(&given("1s")).is_err());
    }

    #[test]
    fn sizes_are_bytes_or_have_a_binary_unit() {
        let read = |text| size(1)(&given(text));
        for (text, bytes) in [("1", 1), ("64KiB", 65_536), ("32 MiB", 32 << 20), ("2GiB", 2 << 30), ("5B", 5)]
        {
            assert_eq!(read(text), Ok(bytes), "{text}");
        }
        for text in ["0", "-1", "1.5MiB", "32MB", "KiB", "99999999999GiB", "x"] {
            assert!(read(text).is_err(), "{text}");
        }
    }
}
