//! The suite of [`ObservationStore`].

use std::sync::Arc;

use fleet::{Observation, ObservationStore};

use super::samples::legal;

type Store = Arc<dyn ObservationStore>;

/// Checks an observation store. `fresh` makes an empty one.
///
/// # Panics
/// With the claim that does not hold.
pub async fn observation_store<S: ObservationStore + 'static>(fresh: impl Fn() -> Arc<S>) {
    shapes_are_kept_apart(fresh()).await;
    the_newest_measurement_counts_and_the_peak_never_shrinks(fresh()).await;
    a_rate_that_was_not_measured_this_time_is_kept(fresh()).await;
    what_is_no_number_is_refused(fresh()).await;
}

fn seen() -> Observation {
    Observation {
        resolved: legal("hf:a/b@0123456789:m.gguf"),
        hive_id: legal("h1"),
        engine: "llama-server".to_owned(),
        device: legal("cuda:0"),
        context: 8192,
        slots: 4,
        peak_memory: 6 << 30,
        load_s: 3.25,
        prefill_tok_s: Some(812.5),
        decode_tok_s: None,
    }
}

async fn record(store: &Store, observation: Observation) {
    store.record(observation).await.expect("written");
}

async fn of_model(store: &Store) -> Vec<Observation> {
    store.of_model(&seen().resolved).await.expect("measurements")
}

async fn shapes_are_kept_apart(store: Store) {
    let shapes = [
        seen(),
        Observation { slots: 5, ..seen() },
        Observation { context: 16_384, ..seen() },
        Observation { device: legal("cuda:1"), ..seen() },
        Observation { engine: "vllm".to_owned(), ..seen() },
        Observation { hive_id: legal("h2"), ..seen() },
    ];
    for shape in shapes.iter().rev() {
        record(&store, shape.clone()).await;
    }
    record(&store, Observation { resolved: legal("hf:c/d@1"), ..seen() }).await;
    assert_eq!(of_model(&store).await, shapes);
}

async fn the_newest_measurement_counts_and_the_peak_never_shrinks(store: Store) {
    record(&store, seen()).await;
    let next = Observation { peak_memory: 1, load_s: 9.5, prefill_tok_s: Some(1.0), ..seen() };
    record(&store, next.clone()).await;
    assert_eq!(of_model(&store).await, [Observation { peak_memory: 6 << 30, ..next.clone() }]);
    record(&store, Observation { peak_memory: 7 << 30, ..next.clone() }).await;
    assert_eq!(of_model(&store).await, [Observation { peak_memory: 7 << 30, ..next }]);
}

async fn a_rate_that_was_not_measured_this_time_is_kept(store: Store) {
    record(&store, seen()).await;
    record(&store, Observation { prefill_tok_s: None, decode_tok_s: Some(40.0), ..seen() }).await;
    assert_eq!(of_model(&store).await, [Observation { decode_tok_s: Some(40.0), ..seen() }]);
}

async fn what_is_no_number_is_refused(store: Store) {
    let wrong = [
        Observation { load_s: f64::NAN, ..seen() },
        Observation { prefill_tok_s: Some(f64::INFINITY), ..seen() },
        Observation { decode_tok_s: Some(f64::NAN), ..seen() },
    ];
    for observation in wrong {
        store.record(observation).await.expect_err("not a number");
    }
    assert_eq!(of_model(&store).await, []);
}
