//! Who sends what where: the scheduler, and what others do.

use crate::{Asked, Machine};

mod expected;
mod others;

pub use expected::Expected;
use others::others;

/// What a policy does when something happened.
#[derive(Debug, Clone, Default)]
pub struct Sent {
    /// Requests, and the machines they are sent to, by position.
    pub to: Vec<(usize, usize)>,
    /// When it wants to be asked again, in seconds.
    pub wake_at: Option<f64>,
}

impl Sent {
    fn one(request: usize, machine: usize) -> Self {
        Self { to: vec![(request, machine)], wake_at: None }
    }
}

/// Decides, and is told what a router sees. Times are seconds from the beginning.
pub trait Policy {
    /// Its name.
    fn name(&self) -> &'static str;

    /// A request comes. Of it may be read what a router can read: not how long its answer will be.
    fn arrives(&mut self, request: usize, asked: &Asked, now: f64) -> Sent;

    /// The first token of an answer came.
    fn first(&mut self, request: usize, now: f64) -> Sent;

    /// An answer is complete; now its length may be read.
    fn ends(&mut self, request: usize, asked: &Asked, now: f64) -> Sent;

    /// The time that it asked for has come.
    fn wakes(&mut self, now: f64) -> Sent;
}

/// The scheduler first, then all that it is compared with.
#[must_use]
pub fn everyone(machines: &[Machine]) -> Vec<Box<dyn Policy>> {
    let mut all: Vec<Box<dyn Policy>> = vec![Box::new(Expected::new(machines))];
    all.extend(others(machines));
    all
}
