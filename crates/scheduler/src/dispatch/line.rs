//! Who waits, and in which order.
//!
//! Higher classes come before lower ones. Within a class the callers take turns: each request of a caller is one round
//! behind the one before it, and a caller that comes anew begins with the round that is being served (start-time fair
//! queueing: Goyal, Vin and Cheng, 1996). So one that sends a thousand requests waits behind itself only.

use std::collections::{HashMap, VecDeque};

use super::{Priority, Ticket, Waiting};
use crate::Folding;

/// A place's class. Whoever was sent before and failed comes before all others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Class {
    Again,
    Of(Priority),
}

/// By class, then by round.
pub(super) type Rank = (Class, u64);

/// Those who wait, in the order in which they are served.
#[derive(Debug, Default)]
pub(super) struct Line {
    waiting: VecDeque<Waiting>,
    /// The last round of each caller that has one ahead.
    rounds: HashMap<(Priority, u64), u64, Folding>,
    /// The round that is being served, by class.
    served: [u64; 3],
}

impl Line {
    /// The rank of a caller's next request.
    pub(super) fn rank(&mut self, priority: Priority, caller: u64) -> Rank {
        if self.waiting.is_empty() {
            self.rounds.clear();
            self.served = [0; 3];
        }
        let served = self.served[priority as usize];
        let round = self.rounds.entry((priority, caller)).or_insert(0);
        *round = (*round + 1).max(served + 1);
        (Class::Of(priority), *round)
    }

    /// Behind all of its rank.
    pub(super) fn push(&mut self, waiting: Waiting) {
        let at = self.waiting.partition_point(|other| other.rank <= waiting.rank);
        self.waiting.insert(at, waiting);
    }

    /// Before all others.
    pub(super) fn push_front(&mut self, waiting: Waiting) {
        self.waiting.push_front(Waiting { rank: (Class::Again, 0), ..waiting });
    }

    /// Takes out whoever is served.
    pub(super) fn serve(&mut self, place: usize) -> Option<Waiting> {
        let waiting = self.waiting.remove(place)?;
        if let (Class::Of(priority), round) = waiting.rank {
            let served = &mut self.served[priority as usize];
            *served = (*served).max(round);
        }
        Some(waiting)
    }

    /// Takes out whoever leaves.
    pub(super) fn remove(&mut self, ticket: Ticket) -> bool {
        let Some(at) = self.position(ticket) else { return false };
        let Some(gone) = self.waiting.remove(at) else { return false };
        // Who leaves gives its round back, or leaving and coming again would put a caller behind all others.
        if let Class::Of(priority) = gone.rank.0
            && let Some(round) = self.rounds.get_mut(&(priority, gone.request.caller))
        {
            *round = round.saturating_sub(1);
        }
        true
    }

    /// Everybody leaves.
    pub(super) fn clear(&mut self) -> Vec<Ticket> {
        self.rounds.clear();
        self.served = [0; 3];
        self.waiting.drain(..).map(|waiting| waiting.ticket).collect()
    }

    pub(super) fn position(&self, ticket: Ticket) -> Option<usize> {
        self.waiting.iter().position(|waiting| waiting.ticket == ticket)
    }

    /// Whoever is served last. One that was sent before does not count: it has been waited for already.
    pub(super) fn last(&self) -> Option<Ticket> {
        self.waiting.back().filter(|last| last.rank.0 != Class::Again).map(|last| last.ticket)
    }

    pub(super) fn get(&self, place: usize) -> Option<&Waiting> {
        self.waiting.get(place)
    }

    pub(super) fn get_mut(&mut self, place: usize) -> Option<&mut Waiting> {
        self.waiting.get_mut(place)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Waiting> {
        self.waiting.iter()
    }

    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }
}
