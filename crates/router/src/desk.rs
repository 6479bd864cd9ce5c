//! Where requests of one model get their workers: `scheduler`'s dispatch with a clock, the registry's workers, and those who
//! wait.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use fleet::ModelRef;
use registry_ram::{FleetView, Lease, WorkerRegistry, WorkerView};
use scheduler::{Assigned, Decision, Dispatch, Finished, Offer, Request, Speed, Ticket, WorkerKey};
use tokio::{
    sync::{Mutex as Turn, MutexGuard as TurnGuard, oneshot},
    time::Instant,
};

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
    line: HashMap<Ticket, oneshot::Sender<Given>>,
    /// The view that the dispatch's workers are of.
    seen: Weak<FleetView>,
    workers: HashMap<Arc<WorkerKey>, Arc<WorkerView>>,
}

/// A worker with a slot of it.
#[derive(Debug)]
pub(crate) struct Given {
    pub(crate) worker: Arc<WorkerView>,
    pub(crate) slot: Slot,
    pub(crate) decision: Decision,
}

/// Where a request stands in the line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    /// Behind all others, of whom at most so many may wait.
    Last(u32),
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

    /// A request comes; it may have got its worker when this returns. Refused with the number of those who wait.
    pub(crate) fn enter(self: &Arc<Self>, request: Request, order: Order) -> Result<Place, u32> {
        let (sender, given) = oneshot::channel();
        let now = self.now();
        let mut inner = self.inner();
        inner.look_around(self);
        let ticket = match order {
            Order::Last(_) => inner.dispatch.enter(request, now),
            Order::First => inner.dispatch.enter_again(request, now),
        };
        inner.line.insert(ticket, sender);
        let (served, _) = inner.assign(self, now);
        let ahead = inner.dispatch.ahead(ticket).unwrap_or(0);
        let ahead = u32::try_from(ahead).unwrap_or(u32::MAX);
        let full = matches!(order, Order::Last(bound) if ahead >= bound) && inner.line.contains_key(&ticket);
        if full {
            inner.leave(ticket);
        }
        drop(inner);
        deliver(served);
        if full { Err(ahead) } else { Ok(Place { desk: Arc::clone(self), ticket, given, ahead }) }
    }

    /// Gives workers to those who wait. Says when to look again if nothing happens until then.
    pub(crate) fn look(self: &Arc<Self>) -> Option<Instant> {
        let now = self.now();
        let mut inner = self.inner();
        // A slot that was taken by somebody else may be free again.
        inner.seen = Weak::new();
        inner.look_around(self);
        let (served, again) = inner.assign(self, now);
        drop(inner);
        deliver(served);
        again.map(|again| self.begun + again)
    }

    /// Waits until it is this one's turn to look out for all.
    pub(crate) async fn turn(&self) -> TurnGuard<'_, ()> {
        self.turn.lock().await
    }

    /// A worker failed a request: who is suspect is read anew.
    pub(crate) fn suspicion(&self) {
        self.inner().seen = Weak::new();
    }

    fn finish(&self, ticket: Ticket, how: Finished) {
        let now = self.now();
        self.inner().dispatch.finish(ticket, how, now);
    }
}

/// Outside of the desk's lock: a worker whose receiver has left is given back here.
fn deliver(served: Vec<(oneshot::Sender<Given>, Given)>) {
    for (sender, given) in served {
        drop(sender.send(given));
    }
}

impl Inner {
    /// Takes over the workers that there are, unless nothing has changed.
    fn look_around(&mut self, desk: &Desk) {
        let view = desk.registry.view();
        let seen = Arc::downgrade(&view);
        if Weak::ptr_eq(&seen, &self.seen) {
            return;
        }
        self.seen = seen;
        self.workers.clear();
        for worker in view.serving(&desk.model) {
            let key = WorkerKey {
                hive_id: worker.hive_id.clone(),
                launch_id: worker.record.launch_id.clone(),
                worker_id: worker.record.worker_id.clone(),
            };
            self.workers.insert(Arc::new(key), Arc::clone(worker));
        }
        self.dispatch.workers(self.workers.iter().map(|(key, worker)| offer(key, worker, &view)));
    }

    fn assign(
        &mut self,
        desk: &Arc<Desk>,
        now: Duration,
    ) -> (Vec<(oneshot::Sender<Given>, Given)>, Option<Duration>) {
        let mut served = Vec::new();
        loop {
            let (assigned, again) = self.dispatch.assign(now);
            let mut refused = false;
            for Assigned { ticket, worker, decision } in assigned {
                let worker = self.workers.get(&worker);
                let Some((worker, lease)) = worker.and_then(|worker| Some((worker, worker.lease()?))) else {
                    self.dispatch.refused(ticket);
                    refused = true;
                    continue;
                };
                let (worker, desk) = (Arc::clone(worker), Arc::clone(desk));
                let slot = Slot { desk, ticket, how: Finished::default(), lease };
                match self.line.remove(&ticket) {
                    Some(sender) => served.push((sender, Given { worker, slot, decision })),
                    None => unreachable!("whoever leaves the line leaves the dispatch"),
                }
            }
            if !refused {
                return (served, again);
            }
        }
    }

    fn leave(&mut self, ticket: Ticket) {
        self.dispatch.withdraw(ticket);
        self.line.remove(&ticket);
    }
}

fn offer(key: &Arc<WorkerKey>, worker: &WorkerView, view: &FleetView) -> Offer {
    let record = &worker.record;
    let hive = view.hive(&worker.hive_id);
    let machine = hive.and_then(|hive| hive.capabilities.as_ref());
    let device = machine.and_then(|machine| machine.devices.iter().find(|d| d.selector() == record.device));
    let bytes = hive.and_then(|hive| hive.models.get(&record.resolved)).map(|model| model.bytes);
    let name = device.map_or("", |device| device.name.as_str());
    Offer {
        worker: Arc::clone(key),
        slots: record.slots,
        memory_tokens: u64::from(record.context) * u64::from(record.slots),
        suspect: worker.is_suspect(),
        region: None,
        round_trip: Duration::ZERO,
        guess: Speed::guess(record.device.kind, name, bytes.unwrap_or(record.memory_bytes)),
    }
}

/// A place in the line; dropping it is leaving.
#[derive(Debug)]
pub(crate) struct Place {
    desk: Arc<Desk>,
    ticket: Ticket,
    given: oneshot::Receiver<Given>,
    /// How many came before and wait too.
    pub(crate) ahead: u32,
}

impl Place {
    /// The worker, if there is one already.
    pub(crate) fn now(&mut self) -> Option<Given> {
        self.given.try_recv().ok()
    }

    /// The worker, when there is one. Cancel-safe.
    pub(crate) async fn given(&mut self) -> Given {
        match (&mut self.given).await {
            Ok(given) => given,
            // Nobody else takes a sender out of the line.
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
    /// The first piece of an event stream came.
    pub(crate) fn first_piece(&self) {
        let now = self.desk.now();
        self.desk.inner().dispatch.first_token(self.ticket, now);
    }

    /// An event stream is complete; it had so many events, which are tokens with nearly all engines.
    pub(crate) const fn complete(&mut self, events: u64) {
        self.how = Finished { prompt_tokens: None, output_tokens: Some(events), complete: true };
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.desk.finish(self.ticket, self.how);
    }
}
