//! Workers, and the models that can be asked.

use queen_api::{ModelCard, ModelsReply, WorkerInfo, WorkersReply};

use crate::{failure::Failure, place::Place, screen::Screen, table::Table, words};

pub(crate) async fn workers(place: &Place, screen: &Screen) -> Result<(), Failure> {
    let workers = place.client.workers().await?;
    screen.show(|| render_workers(&workers), &WorkersReply { workers: workers.clone() })
}

pub(crate) fn render_workers(workers: &[WorkerInfo]) -> String {
    use fleet::WorkerState as S;
    if workers.is_empty() {
        return "no worker runs; asking a model starts one: rbee run MODEL \"prompt\"".to_owned();
    }
    let mut table =
        Table::new(["MODEL", "WORKER", "HIVE", "DEVICE", "STATE", "SLOTS", "IN FLIGHT", "MEMORY"]);
    for WorkerInfo { hive_id, reachable, in_flight, record } in workers {
        let state = match &record.state {
            _ if !reachable => "unreachable".to_owned(),
            S::Loading { progress: Some(part) } => format!("loading {:.0} %", f64::from(*part) * 100.0),
            state => state.name().as_str().to_owned(),
        };
        table.row([
            record.model_ref.to_string(),
            record.worker_id.to_string(),
            hive_id.to_string(),
            record.device.to_string(),
            state,
            format!("{}/{}", record.slots_busy, record.slots),
            in_flight.to_string(),
            words::size(record.memory_bytes),
        ]);
        if let S::Failed { code, log_tail } = &record.state {
            table.remark(&format!("{}: {}", code.as_str(), log_tail.last().map_or("", String::as_str)));
        }
    }
    table.render()
}

pub(crate) async fn models(place: &Place, screen: &Screen) -> Result<(), Failure> {
    let (models, workers) = (place.client.models().await?, place.client.workers().await?);
    let reply = ModelsReply { object: "list".to_owned(), data: models };
    screen.show(|| render_models(&reply.data, &workers), &reply)
}

/// All models that are known, and how many workers serve each.
pub(crate) fn render_models(models: &[ModelCard], workers: &[WorkerInfo]) -> String {
    if models.is_empty() {
        return "no model is known yet; ask for one: rbee run hf:owner/name \"prompt\"".to_owned();
    }
    let mut table = Table::new(["MODEL", "SERVED BY"]);
    for model in models {
        let serves = |worker: &&WorkerInfo| {
            worker.reachable
                && worker.record.state.is_ready()
                && worker.record.model_ref.to_string() == model.id
        };
        let mut hives: Vec<_> =
            workers.iter().filter(serves).map(|worker| worker.hive_id.to_string()).collect();
        hives.dedup();
        table.row([model.id.clone(), hives.join(" ")]);
    }
    table.render()
}
