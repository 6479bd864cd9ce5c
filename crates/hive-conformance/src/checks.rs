//! All checks, in the order in which they build on each other.

mod answers;
mod ending;
mod identity;
mod inputs;
mod models;
mod watching;
mod workers;

use std::{future::Future, time::Duration};

use crate::{
    CheckResult, Target,
    probe::Probe,
    verdict::{Check, Fault},
};

/// For a check that waits neither for a model nor for a process.
const QUICK: Duration = Duration::from_secs(30);

async fn bounded(bound: Duration, check: impl Future<Output = Check>) -> Check {
    let late = |_| Err(Fault::Failed(format!("it was not done after {bound:?}")));
    tokio::time::timeout(bound, check).await.unwrap_or_else(late)
}

macro_rules! checks {
    ($probe:expr; $($module:ident within $bound:expr => $($name:ident),+;)+) => {
        // Boxed, since all their states side by side would be too large for a thread's stack.
        vec![$($(
            CheckResult::of(stringify!($name), Box::pin(bounded($bound, $module::$name($probe))).await)
        ),+),+]
    };
}

/// Checks a hive. It is left running, without the worker that the checks started; the model stays in its store.
pub async fn run(target: &Target) -> Vec<CheckResult> {
    let probe = match Probe::new(target).await {
        Ok(probe) => probe,
        Err(fault) => return vec![CheckResult::of("health_identifies_the_hive", Err(fault))],
    };
    let (quick, patience) = (QUICK.min(target.patience), target.patience);
    checks! { &probe;
        identity within quick => health_identifies_the_hive, health_takes_no_other_method, the_launch_is_checked_first,
            the_token_is_checked_everywhere, no_answer_shows_the_token;
        inputs within quick => unknown_paths_and_methods_have_codes, parameters_of_the_wrong_form_are_refused,
            bodies_of_the_wrong_form_are_refused, a_body_beyond_the_bound_is_refused,
            unknown_workers_are_not_found, unknown_downloads_and_files_are_not_found,
            unknown_models_are_not_found, unknown_engines_are_unavailable;
        watching within quick => capabilities_describe_a_machine, the_watch_begins_with_a_snapshot,
            beats_come_within_two_seconds, revisions_grow_by_one, two_watchers_see_the_same,
            lists_agree_with_the_snapshot, logs_and_metrics_answer;
        models within patience => the_model_is_inspected, the_model_is_fetched_once, a_pinned_model_is_that_model,
            a_finished_download_tells_its_outcome,
            the_model_is_listed, a_grant_opens_exactly_its_file, ranges_are_exact;
        workers within patience => a_worker_becomes_ready, the_same_key_gives_the_same_worker, a_model_in_use_stays,
            a_workers_log_can_be_read;
        answers within quick => an_answer_names_its_worker, another_launch_never_reaches_a_worker,
            a_stream_ends_with_its_terminator, counters_grow, a_caller_that_leaves_frees_the_slot,
            a_request_that_the_engine_refuses_is_the_engines_answer;
        ending within patience => a_worker_is_stopped, stopping_again_changes_nothing, a_stopped_worker_takes_no_requests;
    }
}

/// Checks that the hive ends when it is asked to. Nothing can be asked of it afterwards.
pub async fn end(target: &Target) -> Vec<CheckResult> {
    let probe = match Probe::new(target).await {
        Ok(probe) => probe,
        Err(fault) => return vec![CheckResult::of("the_hive_ends_as_asked", Err(fault))],
    };
    checks! { &probe; ending within target.patience => the_hive_ends_as_asked; }
}
