//! Workers, and the models that can be asked.

use fleet::HiveId;
use futures_util::StreamExt;
use queen_api::{
    CatalogHiveState, CatalogModel, CatalogReply, EnsureEvent, EnsureRequest, WorkerInfo, WorkersReply,
};

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
    let reply = CatalogReply { models: place.client.catalog().await? };
    screen.show(|| render_models(&reply.models), &reply)
}

/// All models that are known, where their files are, and who serves them.
pub(crate) fn render_models(models: &[CatalogModel]) -> String {
    if models.is_empty() {
        return "no model is known yet; ask for one: rbee run hf:owner/name \"prompt\"".to_owned();
    }
    let mut table = Table::new(["MODEL", "SIZE", "ON DISK", "SERVED BY", "ALSO"]);
    for model in models {
        let on = |holds: &dyn Fn(&queen_api::CatalogHive) -> bool| {
            let hives = model.hives.iter().filter(|hive| holds(hive)).map(|hive| hive.hive_id.to_string());
            hives.collect::<Vec<_>>().join(" ")
        };
        let pinned = model.pinned.then(|| "pinned".to_owned());
        table.row([
            model.model_ref.to_string(),
            model.bytes.map(words::size).unwrap_or_default(),
            on(&|hive| hive.state == CatalogHiveState::Complete),
            on(&|hive| hive.workers > 0),
            pinned.into_iter().chain(model.aliases.iter().cloned()).collect::<Vec<_>>().join(" "),
        ]);
        for hive in &model.hives {
            match (hive.state, &hive.reason) {
                (CatalogHiveState::Downloading, _) => {
                    table.remark(&format!("on its way to {}", hive.hive_id));
                }
                (CatalogHiveState::Missing, _) => table.remark(&format!("gone from {}", hive.hive_id)),
                (CatalogHiveState::Failed, Some(reason)) => table.remark(reason),
                (CatalogHiveState::Failed | CatalogHiveState::Complete, _) => {}
            }
        }
    }
    table.render()
}

/// Brings a model to a hive, and shows how far it is.
pub(crate) async fn pull(
    place: &Place,
    model: String,
    hive: Option<HiveId>,
    screen: &Screen,
) -> Result<(), Failure> {
    let mut steps = place.client.ensure(&EnsureRequest { model: model.clone(), hive }).await?;
    while let Some(step) = steps.next().await {
        let step = step?;
        if screen.is_json() {
            screen.json_line(&step)?;
            continue;
        }
        match step {
            EnsureEvent::Choosing | EnsureEvent::Error(_) => screen.progress("choosing a hive"),
            EnsureEvent::Downloading { hive_id, bytes, total, rate } => {
                let of = total.map(|total| format!(" of {}", words::size(total))).unwrap_or_default();
                let (bytes, rate) = (words::size(bytes), words::size(rate));
                screen.progress(&format!("to {hive_id}: {bytes}{of}, {rate} per second"));
            }
            EnsureEvent::Verifying { hive_id } => screen.progress(&format!("to {hive_id}: checking")),
            EnsureEvent::Complete { hive_id, .. } => screen.write(&format!("{model} is on {hive_id}\n"))?,
        }
    }
    Ok(())
}

/// Removes a model's files.
pub(crate) async fn remove(
    place: &Place,
    model: &str,
    hive: Option<&HiveId>,
    screen: &Screen,
) -> Result<(), Failure> {
    let removed = place.client.remove_model(model, hive).await?;
    let text = || {
        if removed.removed_from.is_empty() {
            return format!("no hive has {model}");
        }
        let hives: Vec<_> = removed.removed_from.iter().map(ToString::to_string).collect();
        let failed = removed.failed.iter().map(|reason| format!("\n{reason}"));
        format!("{model} is removed from {}{}", hives.join(", "), failed.collect::<String>())
    };
    screen.show(text, &removed)
}
