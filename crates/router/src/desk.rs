//! Where requests of one model get their workers: `scheduler`'s dispatch with a clock, the registry's workers, and those who
//! wait.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use fleet::ModelRef;
use registry_ram::{FleetView, HiveView, Lease, WorkerRegistry, WorkerView};
use scheduler::{
    Assigned, Decision, Dispatch, Finished, Folding, Offer, Outcome, Request, Speed, Ticket, WorkerKey,
};
use tokio::{
    sync::{Mutex as Turn, MutexGuard as TurnGuard, oneshot},
    time::Instant,
};

use crate::backend::{Backend, key};

/// Desks that are kept though nothing is to be remembered there.
const IDLE_DESKS: usize = 64;

/// The desks of all models that are asked for.
#[derive(Debug)]
pub(crate) struct Desks {
    registry: Arc<WorkerRegistry>,
    begun: Instant,
    by_model: Mutex<HashMap<ModelRef, Arc<Desk>>>,
}

impl Desks {
    pub(crate) fn new(registry: Arc<WorkerRegistry>) -> Self {
        Self { registry, begun: Instant::now(), by_model: Mutex::default() }
    }

    /// The desk of one model.
    pub(crate) fn of(&self, model: &ModelRef) -> Arc<Desk> {
        let mut desks = self.by_model.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(desk) = desks.get(model) {
            return Arc::clone(desk);
        }
        if desks.len() >= IDLE_DESKS {
            desks.retain(|_, desk| Arc::strong_count(desk) > 1 || !desk.is_idle());
        }
        let desk = Arc::new(Desk {
            model: model.clone(),
            registry: Arc::clone(&self.registry),
            begun: self.begun,
            inner: Mutex::default(),
            turn: Turn::default(),
        });
        desks.insert(model.clone(), Arc::clone(&desk));
        desk
    }
}

/// How long those who wait are kept while no worker is given requests because all failed too often.
const PATIENCE: Duration = Duration::from_secs(3);

/// What somebody who waits is told.
type Reply = Result<Given, Away>;

/// Why somebody who waits is sent away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Away {
    /// Somebody else has the place in the line.
    Displaced,
    /// All workers have failed too often; the next request that one of them is given comes after this time.
    Failing(Duration),
}

/// The desk of one model.
#[derive(Debug)]
pub(crate) struct Desk {
    model: ModelRef,
    registry: Arc<WorkerRegistry>,
    begun: Instant,
    inner: Mutex<Inner>,
    /// One of those who wait looks out for all.
    turn: Turn<()>,
}

#[derive(Debug, Default)]
struct Inner {
    dispatch: Dispatch,
    line: HashMap<Ticket, oneshot::Sender<Reply>, Folding>,
    /// The view that the dispatch's workers are of.
    seen: Weak<FleetView>,
    /// Whether a slot was taken by somebody else: the dispatch has to be told when it is free again.
    is_outdated: bool,
    workers: HashMap<Arc<WorkerKey>, Arc<Backend>, Folding>,
}

/// A worker with a slot of it.
#[derive(Debug)]
pub(crate) struct Given {
    pub(crate) backend: Arc<Backend>,
    pub(crate) slot: Slot,
    pub(crate) decision: Box<Decision>,
}

/// What somebody finds who comes into a line.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Crowd {
    /// How many wait.
    pub(crate) waiting: u32,
    /// How many of them are served before.
    pub(crate) ahead: u32,
    /// How long it will take until then, if that is known.
    pub(crate) expected: Option<Duration>,
}

/// How many may wait, and how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Bounds {
    pub(crate) length: u32,
    pub(crate) wait: Duration,
}

/// Where a request stands in the line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    /// Where its class and its caller's turn put it, within bounds.
    Last(Bounds),
    /// Before all others: it was sent to a worker before.
    First,
}

impl Desk {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> Duration {
        self.begun.elapsed()
    }

    fn is_idle(&self) -> bool {
        self.inner().dispatch.is_idle() || self.registry.view().serving(&self.model).is_empty()
    }

    /// A request comes, and gets a worker or a place in the line. If there are too many then, whoever is served last has to
    /// leave: a caller that fills the line does not keep others out of it.
    pub(crate) fn enter(self: &Arc<Self>, request: Request, order: Order) -> Result<Entered, Refused> {
        let now = self.now();
        let mut inner = self.inner();
        inner.look_around(self);
        let ticket = match order {
            Order::Last(_) => inner.dispatch.enter(request, now),
            Order::First => inner.dispatch.enter_again(request, now),
        };
        let mut served = inner.assign(self, now).0;
        if let Some(at) = served.iter().position(|(served, _)| *served == ticket) {
            let (_, reply) = served.swap_remove(at);
            let served = inner.replies(served);
            drop(inner);
            deliver(served);
            return reply.map(Entered::Served).map_err(Refused::Away);
        }
        let (sender, given) = oneshot::channel();
        inner.line.insert(ticket, sender);
        let crowd = inner.crowd(ticket, now);
        let bounds = match order {
            Order::Last(bounds) => crowd.zip(Some(bounds)),
            Order::First => None,
        };
        let refused = bounds.and_then(|(crowd, bounds)| inner.make_room(ticket, crowd, bounds));
        let served = inner.replies(served);
        drop(inner);
        deliver(served);
        if let Some(crowd) = refused {
            return Err(Refused::Crowd(crowd));
        }
        let Crowd { ahead, expected, .. } = crowd.unwrap_or_default();
        Ok(Entered::Waits(Place { desk: Arc::clone(self), ticket, given, ahead, expected }))
    }

    /// Gives workers to those who wait. Says when to look again if nothing happens until then.
    pub(crate) fn look(self: &Arc<Self>) -> Option<Instant> {
        let now = self.now();
        let mut inner = self.inner();
        inner.look_around(self);
        let (served, again) = inner.assign(self, now);
        let served = inner.replies(served);
        drop(inner);
        deliver(served);
        again.map(|again| self.begun + again)
    }

    /// Waits until it is this one's turn to look out for all.
    pub(crate) async fn turn(&self) -> TurnGuard<'_, ()> {
        self.turn.lock().await
    }

    fn finish(&self, ticket: Ticket, how: Finished) {
        let now = self.now();
        self.inner().dispatch.finish(ticket, how, now);
    }
}

/// Outside of the desk's lock: a worker whose receiver has left is given back here.
fn deliver(replies: Vec<(oneshot::Sender<Reply>, Reply)>) {
    for (sender, reply) in replies {
        drop(sender.send(reply));
    }
}

impl Inner {
    /// Takes over the workers that there are, unless nothing has changed.
    fn look_around(&mut self, desk: &Desk) {
        let view = desk.registry.view();
        let seen = Arc::downgrade(&view);
        if Weak::ptr_eq(&seen, &self.seen) && !self.is_outdated {
            return;
        }
        (self.seen, self.is_outdated) = (seen, false);
        let mut before = std::mem::take(&mut self.workers);
        let mut offers = Vec::new();
        for worker in view.serving(&desk.model) {
            let Some(hive) = view.hive(&worker.hive_id) else { continue };
            let key = key(worker);
            let (key, known) = match before.remove_entry(&key) {
                Some((key, known)) => (key, Some(known)),
                None => (Arc::new(key), None),
            };
            offers.push(offer(&key, worker, hive));
            let backend = Backend::new(worker, hive, known.as_deref());
            self.workers.insert(key, Arc::new(backend));
        }
        self.dispatch.workers(offers);
    }

    /// Who is given what, and when to look again.
    fn assign(&mut self, desk: &Arc<Desk>, now: Duration) -> (Vec<(Ticket, Reply)>, Option<Duration>) {
        let mut served = Vec::new();
        loop {
            let (assigned, again) = self.dispatch.assign(now);
            let mut refused = false;
            for Assigned { ticket, worker, decision } in assigned {
                let backend = self.workers.get(&worker);
                let leased = backend.and_then(|backend| Some((backend, backend.worker.lease()?)));
                let Some((backend, lease)) = leased else {
                    self.dispatch.refused(ticket);
                    (refused, self.is_outdated) = (true, true);
                    continue;
                };
                let (backend, desk) = (Arc::clone(backend), Arc::clone(desk));
                let slot = Slot { desk, ticket, how: Finished::default(), lease };
                served.push((ticket, Ok(Given { backend, slot, decision })));
            }
            if refused {
                continue;
            }
            for ticket in self.dispatch.hopeless(now) {
                self.dispatch.withdraw(ticket);
                served.push((ticket, Err(Away::Failing(Duration::ZERO))));
            }
            if let Some(pause) = self.dispatch.all_failing(now).filter(|pause| *pause > PATIENCE) {
                for ticket in self.dispatch.withdraw_all() {
                    served.push((ticket, Err(Away::Failing(pause))));
                }
            }
            return (served, again);
        }
    }

    /// Takes those who were served out of the line.
    fn replies(&mut self, served: Vec<(Ticket, Reply)>) -> Vec<(oneshot::Sender<Reply>, Reply)> {
        let sender = |(ticket, reply)| Some((self.line.remove(&ticket)?, reply));
        served.into_iter().filter_map(sender).collect()
    }

    /// What a request that waits has before it.
    fn crowd(&self, ticket: Ticket, now: Duration) -> Option<Crowd> {
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let ahead = count(self.dispatch.ahead(ticket)?);
        let expected = self.dispatch.expected_wait(ticket, now);
        // Without the one that came.
        let waiting = count(self.dispatch.waiting().saturating_sub(1));
        Some(Crowd { waiting, ahead, expected })
    }

    /// Sends away whoever is one too many. If that is the one who came, or it would wait too long, it is told why.
    fn make_room(&mut self, came: Ticket, crowd: Crowd, bounds: Bounds) -> Option<Crowd> {
        if planted::bug("unbounded-queue") {
            return None;
        }
        if crowd.expected.is_some_and(|wait| wait > bounds.wait) {
            self.leave(came);
            return Some(crowd);
        }
        if crowd.waiting < bounds.length {
            return None;
        }
        let last = self.dispatch.last()?;
        self.dispatch.withdraw(last);
        if let Some(sender) = self.line.remove(&last) {
            // Nothing of a worker is in it, so it may be dropped here if nobody listens.
            drop(sender.send(Err(Away::Displaced)));
        }
        (last == came).then_some(Crowd { expected: None, ..crowd })
    }

    fn leave(&mut self, ticket: Ticket) {
        self.dispatch.withdraw(ticket);
        self.line.remove(&ticket);
    }
}

fn offer(key: &Arc<WorkerKey>, worker: &WorkerView, hive: &HiveView) -> Offer {
    let record = &worker.record;
    let machine = hive.capabilities.as_ref();
    let device = machine.and_then(|machine| machine.devices.iter().find(|d| d.selector() == record.device));
    let bytes = hive.models.get(&record.resolved).map(|model| model.bytes);
    let name = device.map_or("", |device| device.name.as_str());
    Offer {
        worker: Arc::clone(key),
        slots: record.slots,
        memory_tokens: u64::from(record.context) * u64::from(record.slots),
        handled: record.prompt_tokens_total.saturating_add(record.output_tokens_total),
        region: hive.region.clone(),
        round_trip: hive.round_trip,
        guess: Speed::guess(record.device.kind, name, bytes.unwrap_or(record.memory_bytes)),
    }
}

/// What comes of entering.
#[derive(Debug)]
pub(crate) enum Entered {
    /// A worker at once.
    Served(Given),
    /// A place in the line.
    Waits(Place),
}

/// Why somebody cannot even wait.
#[derive(Debug)]
pub(crate) enum Refused {
    /// Too many wait, or it would take too long.
    Crowd(Crowd),
    /// There is nothing to wait for.
    Away(Away),
}

/// A place in the line; dropping it is leaving.
#[derive(Debug)]
pub(crate) struct Place {
    desk: Arc<Desk>,
    ticket: Ticket,
    given: oneshot::Receiver<Reply>,
    /// How many are served before.
    pub(crate) ahead: u32,
    /// How long it will take until then, if that is known.
    pub(crate) expected: Option<Duration>,
}

impl Place {
    /// The worker, if there is one already.
    pub(crate) fn now(&mut self) -> Result<Option<Given>, Away> {
        self.given.try_recv().ok().transpose()
    }

    /// The worker, when there is one. Cancel-safe.
    pub(crate) async fn given(&mut self) -> Reply {
        match (&mut self.given).await {
            Ok(reply) => reply,
            // Whoever takes a sender out of the line sends something.
            Err(_) => std::future::pending().await,
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.desk.inner().leave(self.ticket);
    }
}

/// A worker's slot, and what is seen of how it is used.
#[derive(Debug)]
pub(crate) struct Slot {
    desk: Arc<Desk>,
    ticket: Ticket,
    how: Finished,
    /// Released behind the desk's own bookkeeping: whoever is woken by it finds the slot free there.
    #[expect(dead_code, reason = "a guard: what matters is when it is dropped")]
    lease: Lease,
}

impl Slot {
    /// The worker answers.
    pub(crate) fn answered(&self) {
        self.desk.inner().dispatch.answered(self.ticket);
    }

    /// The first piece of an event stream came.
    pub(crate) fn first_piece(&self) {
        let now = self.desk.now();
        self.desk.inner().dispatch.first_token(self.ticket, now);
    }

    /// The answer is complete. An event stream has as many tokens as events, with nearly all engines.
    pub(crate) const fn complete(&mut self, prompt_tokens: Option<u64>, output_tokens: Option<u64>) {
        self.how = Finished { prompt_tokens, output_tokens, how: Outcome::Complete };
    }

    /// The worker failed.
    pub(crate) const fn failed(&mut self) {
        self.how.how = Outcome::Failed;
    }

    /// The worker sent nothing for as long as anybody waits.
    pub(crate) const fn silent(&mut self) {
        self.how.how = Outcome::Silent;
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.desk.finish(self.ticket, self.how);
    }
}
