//! JSON merge patch (RFC 7386) over a typed value.

use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

/// A script, or a part of one, that cannot be.
#[derive(Debug, thiserror::Error)]
#[error("not a script")]
pub struct ScriptError(#[from] serde_json::Error);

pub(super) fn merged<T: Serialize + DeserializeOwned>(value: &T, patch: &Value) -> Result<T, ScriptError> {
    let mut target = serde_json::to_value(value)?;
    merge(&mut target, patch);
    Ok(serde_json::from_value(target)?)
}

fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        target.clone_from(patch);
        return;
    };
    // What belongs to one kind of answer means nothing to another, so a kind replaces the whole object.
    if !target.is_object() || patch.contains_key("kind") {
        *target = Value::Object(serde_json::Map::new());
    }
    if let Value::Object(target) = target {
        for (key, value) in patch {
            if value.is_null() {
                target.remove(key);
            } else {
                merge(target.entry(key.clone()).or_insert(Value::Null), value);
            }
        }
    }
}
