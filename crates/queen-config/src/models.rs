//! The models that the owner says something about.

use std::{collections::BTreeMap, time::Duration};

use figment::value::Value;
use fleet::ModelRef;

use crate::{
    config::ModelSettings,
    fault::Origin,
    keys::{self, MODEL_KEYS},
    read::{Reader, Table},
    source::{Part, Trail},
    value::{Read, Wrong, duration, number, parsed, wrong},
};

const ADVICE: &str = "write it as \"owner/name\", \"owner/name:Q4_K_M\" or \"file:/path.gguf\"";

/// The `[[model]]` entries, by what they name.
pub(crate) fn read(reader: &mut Reader) -> BTreeMap<ModelRef, ModelSettings> {
    let root = Trail::of("model");
    let mut models = BTreeMap::new();
    let items = match reader.value("model") {
        None => return models,
        Some(Value::Array(_, items)) => items,
        Some(other) => {
            reader.fault_at(&other, &root, Part::Key, no_model());
            return models;
        }
    };
    for (at, item) in items.iter().enumerate() {
        let trail = root.index(at);
        let Some((model, settings, origin)) = entry(reader, &trail, item) else { continue };
        if models.insert(model.clone(), settings).is_some() {
            let problem = format!("{model} has an entry already");
            let advice = "put both into one entry".to_owned();
            reader.fault(origin, &trail, Wrong { problem, advice });
        }
    }
    models
}

fn no_model() -> Wrong {
    let problem = "is not a list of models".to_owned();
    Wrong { problem, advice: "write each model as [[model]] with ref = \"owner/name\"".to_owned() }
}

fn entry(reader: &mut Reader, trail: &Trail, item: &Value) -> Option<(ModelRef, ModelSettings, Origin)> {
    let Value::Dict(_, dict) = item else {
        reader.fault_at(item, trail, Part::Key, no_model());
        return None;
    };
    let origin = reader.layers.origin(item, trail, Part::Key);
    for (name, value) in dict.iter().filter(|(name, _)| keys::find(MODEL_KEYS, name).is_none()) {
        reader.unknown(MODEL_KEYS, value, &trail.key(name), name);
    }
    let table = Table { dict, trail };
    let settings = ModelSettings {
        pinned: reader.of_entry_or_default(MODEL_KEYS, table, "pinned", flag),
        idle: reader.of_entry(table, "idle", duration(Duration::ZERO)),
        replicas_min: reader.of_entry_or_default(MODEL_KEYS, table, "replicas_min", count(0, 1000)),
        replicas_max: reader.of_entry(table, "replicas_max", count(1, 1000)),
        context: reader.of_entry(table, "context", count(1, 1 << 30)),
        slots: reader.of_entry(table, "slots", count(1, 1 << 16)),
    };
    if settings.replicas_max.is_some_and(|most| most < settings.replicas_min) {
        let problem = "replicas_max is less than replicas_min".to_owned();
        let advice = "leave one of the two out, or swap them".to_owned();
        reader.fault(origin.clone(), trail, Wrong { problem, advice });
    }
    if !dict.contains_key("ref") {
        let problem = "does not say which model it is about".to_owned();
        reader.fault(origin.clone(), trail, Wrong { problem, advice: ADVICE.to_owned() });
    }
    let model = reader.of_entry(table, "ref", parsed(ADVICE))?;
    Some((model, settings, origin))
}

fn count(least: u32, most: u32) -> impl Fn(&Value) -> Read<u32> {
    let read = number(least as usize, most as usize);
    move |value| read(value).map(|count| u32::try_from(count).unwrap_or(most))
}

fn flag(value: &Value) -> Read<bool> {
    match value {
        Value::Bool(_, flag) => Ok(*flag),
        _ => wrong("is neither true nor false", "write true or false, without quotes"),
    }
}
