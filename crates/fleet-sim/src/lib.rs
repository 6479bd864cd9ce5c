//! Simulated machines under a load that is the same each time, to judge who sends what where.
//!
//! A [`Machine`] is what is published of a real one; its engine reads one prompt after another, writes all answers together,
//! more slowly each the more there are, and remembers a bounded number of prompt tokens. A [`Trace`] is made by seeded code. A
//! [`Policy`] decides; what it is told is what a router sees: arrivals, first pieces, ends with their token counts. How
//! long an answer will be is known to the simulated machine alone. [`lower_bound`] is a time that no schedule can beat.
//!
//! It is not a model of any engine in detail, and its figures are no promise for real machines: they compare policies.
//!
//! Invariants: the same trace, machines and policy give the same outcome; every request of a trace is answered.

mod bound;
mod engine;
mod machine;
mod policy;
mod random;
mod simulation;
mod trace;

pub use bound::lower_bound;
pub use machine::{Machine, home, rack, two_regions};
pub use policy::{Expected, Policy, Sent, everyone};
pub use simulation::{Outcome, simulate};
pub use trace::{Asked, Trace, agent, batch, bursts, chat, night, saturation};
