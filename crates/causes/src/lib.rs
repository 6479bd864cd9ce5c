//! An error with its causes, in one line for people.
//!
//! Errors here say what was attempted and keep why it failed as their source, which their own text does not repeat. Whoever tells
//! a person joins the two. Libraries of others sometimes repeat the cause all the same, so what was said already is left out.

use std::error::Error;

/// What the error says and what each of its causes adds, outermost first, with colons between.
#[must_use]
pub fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.contains(&next) {
            text.push_str(": ");
            text.push_str(&next);
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{text}")]
    struct Layer {
        text: &'static str,
        source: Option<Box<Layer>>,
    }

    fn error(layers: &[&'static str]) -> Option<Box<Layer>> {
        let (text, below) = layers.split_first()?;
        Some(Box::new(Layer { text, source: error(below) }))
    }

    #[test]
    fn each_cause_is_told_once() {
        for (layers, told) in [
            (&["could not open x"][..], "could not open x"),
            (&["could not open x", "no such file"], "could not open x: no such file"),
            (&["a", "a", "b"], "a: b"),
            (
                &["it failed: reset by peer", "reset by peer", "os error 104"],
                "it failed: reset by peer: os error 104",
            ),
        ] {
            assert_eq!(with_causes(&*error(layers).unwrap()), told);
        }
    }
}
