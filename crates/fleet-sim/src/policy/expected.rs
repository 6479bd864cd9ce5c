//! The scheduler itself, as the router drives it.

use std::{collections::HashMap, sync::Arc, time::Duration};

use fleet::{HiveId, LaunchId, WorkerId};
use scheduler::{Dispatch, Finished, Offer, Outcome, Request, Speed, Ticket, WorkerKey};

use crate::{Asked, Machine, Policy, Sent, machine::MODEL_BYTES};

/// `scheduler`'s dispatch: least expected time, one line.
#[derive(Debug, Default)]
pub struct Expected {
    dispatch: Dispatch,
    machines: HashMap<Arc<WorkerKey>, usize>,
    requests: HashMap<Ticket, usize>,
    tickets: HashMap<usize, Ticket>,
    /// When it will be asked again.
    wakes_at: f64,
}

impl Expected {
    /// Knows of the machines what a hive reports: the device's kind and name, slots, and how far away it is.
    #[must_use]
    pub fn new(machines: &[Machine]) -> Self {
        let mut this = Self::default();
        let mut offers = Vec::new();
        for (at, machine) in machines.iter().enumerate() {
            let Some(worker) = key(machine.name) else { continue };
            let worker = Arc::new(worker);
            this.machines.insert(Arc::clone(&worker), at);
            offers.push(Offer {
                worker,
                slots: machine.slots,
                memory_tokens: machine.memory_tokens,
                handled: 0,
                region: Some(machine.region.into()),
                round_trip: Duration::from_secs_f64(machine.round_trip_s),
                guess: Speed::guess(machine.kind, machine.device, MODEL_BYTES),
            });
        }
        this.dispatch.workers(offers);
        this
    }

    fn assign(&mut self, now: Duration) -> Sent {
        let (assigned, look_again) = self.dispatch.assign(now);
        let to = assigned.iter().filter_map(|assigned| {
            let request = self.requests.get(&assigned.ticket)?;
            Some((*request, *self.machines.get(&assigned.worker)?))
        });
        let to = to.collect();
        // One alarm at a time.
        let wake_at = look_again.map(|at| at.as_secs_f64()).filter(|_| self.wakes_at <= now.as_secs_f64());
        self.wakes_at = wake_at.unwrap_or(self.wakes_at);
        Sent { to, wake_at }
    }
}

fn key(name: &str) -> Option<WorkerKey> {
    Some(WorkerKey {
        hive_id: name.parse::<HiveId>().ok()?,
        launch_id: name.parse::<LaunchId>().ok()?,
        worker_id: name.parse::<WorkerId>().ok()?,
    })
}

impl Policy for Expected {
    fn name(&self) -> &'static str {
        "expected time"
    }

    fn arrives(&mut self, request: usize, asked: &Asked, now: f64) -> Sent {
        let now = Duration::from_secs_f64(now);
        let wants = Request {
            prompt: asked.prompt.clone(),
            max_tokens: Some(asked.max_tokens),
            region: asked.region.map(Into::into),
            ..Request::default()
        };
        let ticket = self.dispatch.enter(wants, now);
        self.requests.insert(ticket, request);
        self.tickets.insert(request, ticket);
        self.assign(now)
    }

    fn first(&mut self, request: usize, now: f64) -> Sent {
        let now = Duration::from_secs_f64(now);
        if let Some(ticket) = self.tickets.get(&request) {
            self.dispatch.first_token(*ticket, now);
        }
        self.assign(now)
    }

    fn ends(&mut self, request: usize, asked: &Asked, now: f64) -> Sent {
        let now = Duration::from_secs_f64(now);
        if let Some(ticket) = self.tickets.remove(&request) {
            self.requests.remove(&ticket);
            let how = Finished {
                prompt_tokens: Some(asked.prompt_tokens.into()),
                output_tokens: Some(asked.output_tokens.into()),
                how: Outcome::Complete,
            };
            self.dispatch.finish(ticket, how, now);
        }
        self.assign(now)
    }

    fn wakes(&mut self, now: f64) -> Sent {
        self.assign(Duration::from_secs_f64(now))
    }
}
