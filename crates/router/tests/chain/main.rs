//! The whole request path over scripted hives: registry, provisioner, placement and router together.

mod breaker;
mod cold_start;
mod continuation;
mod endings;
mod failover;
mod fleet_of_fakes;
mod leaving;
mod openai_streams;
mod queue;
mod stopping;
mod why;

use fake_hive::Script;

fn script(patch: serde_json::Value) -> Script {
    Script::default().with(&patch).expect("a script")
}

/// Workers that meet one fault.
fn fault(at: serde_json::Value, act: serde_json::Value) -> Script {
    script(serde_json::json!({ "worker": { "faults": [{ "at": at, "act": act }] } }))
}
