//! One worker: the task that starts its engine, sees it become ready, watches it, and ends it.
//!
//! ```text
//!  start ─▶ loading ─health 200─▶ ready ─stop─▶ draining ─idle or deadline─▶ stopping ─▶ stopped
//!    │         │ exit, stall        │ exit          │ exit
//!    └─────────┴──── failed ◀───────┴───────────────┘
//! ```
//! The task owns every transition of its record. It is adopted from a predecessor's journal in the state "loading": the
//! first answer to the health probe makes it ready.

mod failure;
mod figures;
mod http;
mod journal;
mod ready;
mod running;
mod supervisor;
mod traffic;

pub(crate) use http::Loopback;
pub(crate) use journal::{Journal, JournalEntry, MARK};
pub(crate) use running::Running;
pub(crate) use supervisor::{Supervisor, Tools};
pub(crate) use traffic::{Admission, Traffic};
