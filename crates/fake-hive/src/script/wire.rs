//! Faults of the bytes, below HTTP.

use serde::{Deserialize, Serialize};

/// Both directions of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct WireScript {
    /// What callers send.
    pub to_hive: Direction,
    /// What the hive sends.
    pub from_hive: Direction,
}

/// One direction. The default passes every byte at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Direction {
    /// How much later each byte arrives.
    pub delay_ms: u64,
    /// How many bytes pass in a second.
    pub bytes_per_s: Option<u64>,
    /// The connection ends behind this byte.
    pub cut: Option<CutAfter>,
    /// Bytes vanish and nothing else happens, not even an end.
    pub swallow: bool,
    /// The byte at this offset has one bit flipped.
    pub corrupt_at: Option<u64>,
}

/// Where and how a connection ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CutAfter {
    /// How many bytes pass before, from the start of the connection, or of the call if the script is one call's.
    pub bytes: u64,
    /// How it ends.
    #[serde(default)]
    pub how: Cut,
}

/// How a connection ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cut {
    /// With a reset.
    #[default]
    Rst,
    /// As if all had been said.
    Fin,
}
