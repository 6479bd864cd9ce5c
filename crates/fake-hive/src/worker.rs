//! Scripted workers: their life from spawn to end.

mod answer;
mod generation;
mod life;
mod openai;

use std::{sync::Arc, time::Instant};

use fleet::{DeviceKind, DeviceSelector, WorkerId, WorkerRecord, WorkerState};
use hive_api::{ErrorCode, SpawnReply, SpawnRequest, server::HiveResult};
use tokio::sync::{Semaphore, watch};

use crate::{
    script::{Cut, WorkerScript},
    state::{Core, State, Stored, refused},
};

pub(crate) use self::answer::ClaimedWorkerId;

/// One worker.
pub(crate) struct Worker {
    pub(crate) record: WorkerRecord,
    pub(crate) slots: Arc<Semaphore>,
    /// Set once its process is gone, with the way in which its connections end.
    pub(crate) death: watch::Sender<Option<Cut>>,
    /// Whether its process is stopped in its tracks.
    pub(crate) frozen: watch::Sender<bool>,
    /// From when it answers.
    pub(crate) answers_from: Option<Instant>,
    /// Counters changed since the last report.
    pub(crate) dirty: bool,
    /// Something already waits for its end.
    stopping: bool,
}

impl Worker {
    /// Ends its process and with it every answer that it gives.
    pub(crate) fn die(&self, how: Cut) {
        self.death.send_replace(Some(how));
    }
}

/// The device of a machine whose script has none.
pub(crate) const fn cpu() -> DeviceSelector {
    DeviceSelector { kind: DeviceKind::Cpu, index: 0 }
}

impl State {
    /// Takes a worker to another state and reports it; refuses what no worker does.
    pub(crate) fn move_worker(&mut self, id: &WorkerId, next: WorkerState) -> bool {
        let Some(worker) = self.workers.get_mut(id) else { return false };
        if !worker.record.state.may_become(&next) {
            return false;
        }
        if next.is_over() {
            worker.record.slots_busy = 0;
            worker.record.pid = None;
        }
        self.say(format!("worker {id} is {}", next.name().as_str()));
        if let Some(worker) = self.workers.get_mut(id) {
            worker.record.state = next;
        }
        self.report_worker(id);
        true
    }

    fn reply(&self, worker: &Worker) -> SpawnReply {
        SpawnReply {
            launch_id: self.launch_id.clone(),
            rev: self.rev,
            worker_id: worker.record.worker_id.clone(),
            url: worker.record.url.clone(),
            state: worker.record.state.clone(),
        }
    }
}

impl Core {
    pub(crate) fn worker_url(&self, id: &WorkerId) -> String {
        format!("http://{}/v1/workers/{id}/proxy", self.host.with_port(self.port))
    }

    /// Starts a worker, or finds the one of the same key.
    pub(crate) fn spawn_worker(self: &Arc<Self>, request: SpawnRequest) -> HiveResult<SpawnReply> {
        {
            let state = self.state();
            if let Some(worker) =
                state.keys.get(&request.idempotency_key).and_then(|id| state.workers.get(id))
            {
                return Ok(state.reply(worker));
            }
            if state.draining {
                return Err(refused(ErrorCode::Draining, "the hive is stopping and starts no worker"));
            }
        }
        let which =
            request.resolved.as_ref().map_or_else(|| request.model_ref.clone(), fleet::ModelRef::from);
        let stored = self.find_stored(&which)?;
        let (engine, device) = self.place(&request, &stored)?;
        let (id, reply) = self.add_worker(&request, &stored, engine, device);
        self.report_devices();
        let core = Arc::clone(self);
        self.in_launch(async move { core.load(&id, stored.corrupt).await });
        Ok(reply)
    }

    /// The engine and the device of a new worker.
    fn place(&self, request: &SpawnRequest, stored: &Stored) -> HiveResult<(String, DeviceSelector)> {
        let machine = self.machine();
        let engine = match &request.engine {
            None => machine.engines.first(),
            Some(name) => machine.engines.iter().find(|e| e.name == *name),
        };
        let engine = engine.ok_or_else(|| {
            refused(
                ErrorCode::EngineUnavailable,
                "this machine has no engine of that name; see its capabilities",
            )
        })?;
        let usable = machine.devices.iter().filter(|d| engine.devices.contains(&d.kind));
        let device = match request.device {
            None => usable.max_by_key(|d| (d.kind != DeviceKind::Cpu, d.memory_free)),
            Some(wanted) => usable.into_iter().find(|d| d.selector() == wanted),
        };
        let device = device.ok_or_else(|| {
            refused(
                ErrorCode::EngineUnavailable,
                format!("engine {} drives no such device here", engine.name),
            )
        })?;
        let free = if device.kind == DeviceKind::Cpu { machine.ram_free } else { device.memory_free };
        let needed = stored.model.memory_bytes;
        if needed > free {
            let message =
                format!("{} needs {needed} bytes, {} has {free} free", request.model_ref, device.name);
            let details = serde_json::json!({ "needed": needed, "free": free, "device": device.selector() });
            return Err(refused(ErrorCode::InsufficientMemory, message).with_details(details));
        }
        Ok((engine.name.clone(), device.selector()))
    }

    fn add_worker(
        &self,
        request: &SpawnRequest,
        stored: &Stored,
        engine: String,
        device: DeviceSelector,
    ) -> (WorkerId, SpawnReply) {
        let script = self.script();
        let mut state = self.state();
        let number = state.next_id();
        let id: WorkerId =
            format!("w-{number}").parse().unwrap_or_else(|_| unreachable!("letters, digits and a dash"));
        let own = script.of_worker(&id, &request.model_ref);
        let slots = own.slots.or(request.slots).unwrap_or(script.machine.default_slots);
        let context = request.context.unwrap_or(script.machine.default_context).min(stored.model.context_max);
        let record = WorkerRecord {
            worker_id: id.clone(),
            launch_id: state.launch_id.clone(),
            rev: 0,
            model_ref: request.model_ref.clone(),
            resolved: stored.record.resolved.clone(),
            digest: stored.record.digest,
            engine,
            device,
            context,
            slots,
            slots_busy: 0,
            prompt_tokens_total: 0,
            output_tokens_total: 0,
            memory_bytes: stored.model.memory_bytes,
            pid: u32::try_from(40_000 + number).ok(),
            url: self.worker_url(&id),
            state: WorkerState::Starting,
        };
        let worker = Worker {
            record,
            slots: Arc::new(Semaphore::new(slots as usize)),
            death: watch::Sender::new(None),
            frozen: watch::Sender::new(false),
            answers_from: None,
            dirty: false,
            stopping: false,
        };
        state.keys.insert(request.idempotency_key.clone(), id.clone());
        state.workers.insert(id.clone(), worker);
        state.report_worker(&id);
        let reply = state.workers.get(&id).map(|worker| state.reply(worker));
        (id, reply.unwrap_or_else(|| unreachable!("inserted above, under the same lock")))
    }

    /// The script of one worker.
    pub(crate) fn script_of(&self, id: &WorkerId) -> WorkerScript {
        let script = self.script();
        let state = self.state();
        match state.workers.get(id) {
            Some(worker) => script.of_worker(id, &worker.record.model_ref),
            None => script.worker.clone(),
        }
    }
}
