//! Secrets that cannot be printed by accident.

use std::{fmt, str::FromStr};

/// A bearer token: of a hive's launch, of the queen, or of a person.
///
/// `Debug` shows nothing of it; [`Token::reveal`] is the only way to the text, so that every place that sends or writes
/// one can be found.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Token(std::sync::Arc<str>);

/// Why a string is no token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Fewer than 16 or more than 512 characters.
    #[error("a token has 16 to 512 characters, this one has {0}")]
    Length(usize),
    /// Something that may not stand in an `Authorization` header (RFC 6750, `b64token`, and `!`–`~` beyond it).
    #[error("a token holds printable ASCII without spaces only")]
    Character,
}

impl Token {
    /// The secret itself. Never for a log, an error or an argument list.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl FromStr for Token {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, TokenError> {
        if !(16..=512).contains(&text.len()) {
            return Err(TokenError::Length(text.len()));
        }
        if !text.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(TokenError::Character);
        }
        Ok(Self(text.into()))
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_never_shows_itself() {
        let token: Token = "0123456789abcdef".parse().expect("a legal token");
        assert_eq!(format!("{token:?}"), "Token(…)");
        assert_eq!(token.reveal(), "0123456789abcdef");
    }

    #[test]
    fn tokens_that_would_break_a_header_are_refused() {
        assert_eq!("short".parse::<Token>(), Err(TokenError::Length(5)));
        assert_eq!("0123456789abcdef\r\nx: y".parse::<Token>(), Err(TokenError::Character));
    }
}
