//! Tokens and launch ids that nobody can guess or repeat.

use std::io;

use fleet::{LaunchId, Token};

fn hex(bytes: usize) -> io::Result<String> {
    let mut random = vec![0; bytes];
    getrandom::fill(&mut random).map_err(io::Error::other)?;
    Ok(random.iter().map(|byte| format!("{byte:02x}")).collect())
}

pub(crate) fn random_token() -> io::Result<Token> {
    hex(32)?.parse().map_err(io::Error::other)
}

pub(crate) fn random_launch() -> io::Result<LaunchId> {
    format!("l-{}", hex(8)?).parse().map_err(io::Error::other)
}
