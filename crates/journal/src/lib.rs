//! What happened in the fleet, as long as it fits: a ring of [`fleet::Event`]s in memory, and beside it the [`Decisions`] of
//! the last requests.
//!
//! It is not an audit log. Nothing is written to a disk, a restart begins at 1 again, and the oldest event goes when the
//! newest comes. Decisions are not made from it; it is for people, for `/v1/events` and for tests that check what
//! happened.
//!
//! The key decision: the ring as a whole has no lock. A writer takes the next number and puts its event into the slot of that
//! number, whose own lock nobody holds for longer than an event takes to copy; a reader walks the slots and sees by the
//! numbers in them whether it is too early (the event is still being written: it waits) or too late (a newer one has the
//! slot: it is told how many it missed). So writers on the request path never wait for a reader that is slow, nor for one
//! that copies the whole ring.
//!
//! Invariants:
//! - numbers grow by one from 1, and no two events have the same;
//! - a subscription yields events in the order of their numbers, each once, and says when some are missing.

mod decisions;
mod ring;
mod slots;
mod subscription;

pub use decisions::{Decisions, Record};
pub use ring::Journal;
pub use subscription::{Lagged, Subscription};
