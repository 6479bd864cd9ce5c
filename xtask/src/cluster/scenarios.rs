//! The scenarios.

mod answers;
mod clients;
mod cold;
mod edge;
mod hives;
mod launched;
mod life;
mod load;
mod machines;
mod models;
mod network;
mod real;
mod steps;
mod storage;
mod strangers;
mod warm;
mod workers;

use super::{
    other_machine::Kind,
    scenario::{Hives, Need, Scenario, scenario},
};

/// All of them, in the order in which they are run.
pub(crate) fn all() -> Vec<Scenario> {
    let mut all = requests();
    all.extend(failures());
    all.extend(loads());
    all.extend(lives());
    all.extend(oddities());
    all.extend(surroundings());
    all.extend(deaths());
    all
}

fn requests() -> Vec<Scenario> {
    vec![
        scenario!(warm::infer, "a ready worker answers, streamed and whole"),
        scenario!(warm::chat_is_forwarded, "a chat goes to the worker as it is, but for the model's name"),
        scenario!(warm::two_at_once, "two clients at once take two slots and leave both"),
        scenario!(warm::fifty_clients, "fifty clients of two slots are all served, in turn"),
        scenario!(cold::infer, "a model that runs nowhere is fetched and started, and the client is told"),
        scenario!(cold::herd, "fifty clients of one cold model cause one transfer and one worker"),
        scenario!(cold::two_models, "two cold models start beside each other"),
        scenario!(cold::leader_leaves, "the first client leaves, the others are served"),
        scenario!(models::one_from_the_hub, "hives that want one model at once cause one transfer from the hub",
            hives: Hives::Fake(3)),
        scenario!(models::shards, "every file of a model in shards comes from the hub once for the whole fleet",
            hives: Hives::Fake(3)),
        scenario!(models::carried, "what hives cannot get from each other the queen carries, before the hub is asked",
            hives: Hives::Fake(2)),
        scenario!(models::branch_moves, "a branch that moves at the hub never makes two hives differ",
            hives: Hives::Fake(2)),
        scenario!(models::removed, "a model is removed by the name that it is listed by, and not while it is used",
            hives: Hives::Fake(2)),
        scenario!(models::regions, "a worker starts in the region that is asked for, and rather in the queen's own",
            hives: Hives::Fake(4), config: &["region = \"attic\""]),
        scenario!(models::replicas, "a queue that lasts brings a second worker on another hive", hives: Hives::Fake(2)),
        scenario!(models::replicas_of_a_region, "a queue for a region brings a second worker there, whatever is idle elsewhere",
            hives: Hives::Fake(4), config: &["region = \"attic\""]),
        scenario!(models::pinned, "a pinned model is loaded unasked, and elsewhere when its hive is paused",
            hives: Hives::Fake(2), config: &["model = [{ ref = \"fake/alpha\", pinned = true }]"]),
        scenario!(cold::worker_fails_while_loading, "a worker's last words are in the error"),
        scenario!(cold::download_fails_on_one, "a transfer that fails on one hive is made on another"),
        scenario!(cold::spawn_answer_is_lost, "a spawn whose answer is lost starts one worker"),
        scenario!(cold::hive_dies_in_the_transfer, "a hive that dies in a transfer is replaced"),
        scenario!(cold::queen_is_killed, "whenever the queen is killed in a cold start, it is made once"),
        scenario!(cold::nobody_has_room, "a model that fits nowhere is refused"),
        scenario!(edge::bad_bodies, "bodies that are no request get a typed error"),
        scenario!(edge::bad_models, "models that cannot be are refused, unknown ones are not found"),
        scenario!(edge::no_token, "without the token nothing is told and nothing happens"),
        scenario!(edge::unknown_paths, "paths and methods that are not there have typed errors"),
        scenario!(clients::leaves, "a client that leaves frees its slot within a second"),
        scenario!(clients::leaves_while_queued, "a client that leaves the queue is served no more"),
    ]
}

/// What a request is owed when there are many of them.
fn loads() -> Vec<Scenario> {
    vec![
        scenario!(load::cold_crowd, "a crowd on a cold model causes one transfer and one worker, also when the first leaves",
            config: &["queue.length = 1000"]),
        scenario!(
            load::leaders_leave,
            "whenever the first client of a cold model leaves, the others are served"
        ),
        scenario!(load::one_of_two_killed, "a worker that is killed under load loses no request and doubles none",
            hives: Hives::Fake(2)),
        scenario!(load::one_of_two_hung, "a hung worker is felt by no more requests than it has slots, then by none",
            hives: Hives::Fake(2), config: &["timeouts.first_byte = \"2s\"", "timeouts.inter_token = \"2s\""]),
        scenario!(load::slow_is_not_dead, "neither a long prefill nor a long answer is taken for a failure",
            hives: Hives::Fake(1), config: &["timeouts.first_byte = \"1200ms\"", "timeouts.inter_token = \"1s\""]),
        scenario!(load::all_fail, "when every worker fails all are told soon, and served again once one is sound",
            hives: Hives::Fake(2)),
        scenario!(load::half_fails, "where many requests fail few are sent again, and the others are served",
            hives: Hives::Fake(2)),
        scenario!(load::sent_again, "where many first workers fail a fifth is sent again, and nothing is refused unsent",
            hives: Hives::Fake(2)),
        scenario!(load::ten_times_too_much, "under ten times what can be done as much is done, and the rest is refused at once",
            hives: Hives::Fake(2), config: &["queue.length = 16", "queue.wait = \"5s\""]),
    ]
}

fn failures() -> Vec<Scenario> {
    vec![
        scenario!(workers::dies_before_the_first_byte, "another worker answers and the client sees nothing of it",
            hives: Hives::Fake(2)),
        scenario!(workers::dies_in_the_middle, "the client is told, and is not told that it is done"),
        scenario!(workers::is_continued, "another worker goes on exactly behind what was delivered",
            hives: Hives::Fake(2)),
        scenario!(workers::chat_is_continued, "so it is with a stream of OpenAI's, and its counts are whole",
            hives: Hives::Fake(2)),
        scenario!(workers::ends_without_terminator, "an answer that just ends is an error"),
        scenario!(workers::kills_two, "a request that ends its workers is not given a third",
            hives: Hives::Fake(3)),
        scenario!(workers::too_busy, "a worker that says 503 costs a turn, not the request",
            hives: Hives::Fake(2)),
        scenario!(workers::garbage, "a worker that answers garbage is passed over", hives: Hives::Fake(2),
            config: &["timeouts.first_byte = \"2s\""]),
        scenario!(workers::hangs_before_the_first_byte, "a worker that says nothing is given up in time",
            hives: Hives::Fake(2), config: &["timeouts.first_byte = \"2s\""]),
        scenario!(workers::frozen, "a worker that is stopped in its tracks costs time, not the request",
            hives: Hives::Fake(2), config: &["timeouts.first_byte = \"2s\""]),
        scenario!(workers::hangs_in_the_middle, "a stream that goes silent ends in an error",
            config: &["timeouts.inter_token = \"2s\""]),
        scenario!(workers::long_prefill, "a long prefill that makes progress is waited for",
            config: &["timeouts.first_byte = \"2s\""]),
        scenario!(workers::refuses, "a worker's 4xx goes to the client and is not held against it"),
        scenario!(workers::all_die_under_load, "after the death of all workers one is started, and all clients hear of it",
            hives: Hives::Fake(2)),
        scenario!(hives::frozen, "a hive that is stopped in its tracks is unreachable, and comes back"),
        scenario!(hives::silent, "silence on the stream with a live health is no death"),
        scenario!(hives::lies_about_workers, "a worker that is only claimed costs a turn, not the request"),
        scenario!(hives::lies_about_models, "a model that is only claimed is fetched"),
        scenario!(hives::endless_lists, "50,000 workers of one hive harm nobody"),
        scenario!(hives::flaps, "a hive that flaps costs no request that had not begun to be answered",
            hives: Hives::Fake(2)),
        scenario!(hives::skips_a_revision, "a gap in the reports leads to a new snapshot"),
        scenario!(hives::garbage, "a hive that answers garbage harms nobody else"),
        scenario!(hives::killed, "a hive that was killed is unreachable and the others serve"),
        scenario!(hives::restarted, "a hive that came back in another launch is served by anew"),
        scenario!(hives::another_launch, "no request reaches a worker of another launch", hives: Hives::Fake(1)),
        scenario!(hives::conflicts, "registering twice is idempotent, registering otherwise is a conflict"),
        scenario!(hives::someone_else_answers, "a port at which no hive listens is an error, not a hive"),
    ]
}

fn lives() -> Vec<Scenario> {
    vec![
        scenario!(life::second_queen, "a second queen on the same data names the first and ends"),
        scenario!(life::port_in_use, "a port in use is refused with who uses it"),
        scenario!(life::foreign_database, "a file that is not ours is refused and left as it is"),
        scenario!(life::stop_with_open_streams, "the grace ends, whatever streams are open"),
        scenario!(life::stop_lets_streams_finish, "an answer that ends within the grace is whole"),
        scenario!(life::stop_in_a_cold_start, "Ctrl-C in a cold start leaves no worker"),
        scenario!(life::second_signal, "a second signal cuts the grace short"),
        scenario!(life::paused, "a queen that was asleep gives its hives a fresh grace"),
        scenario!(life::stop_over_http, "the queen can be asked to stop"),
        scenario!(life::killed_and_restarted, "after kill -9 the next queen serves by the same workers"),
        scenario!(real::cold_then_warm, "a real worker recites, and again without loading", hives: Hives::Real),
        scenario!(real::killed_and_restarted, "the next queen adopts hive and worker", hives: Hives::Real),
        scenario!(real::stop_in_a_cold_start, "Ctrl-C in a cold start ends hive and worker", hives: Hives::Real),
        scenario!(real::worker_frozen, "a worker that is stopped in its tracks is given up, and serves when it goes on",
            hives: Hives::Real, config: &["timeouts.first_byte = \"2s\"", "timeouts.inter_token = \"2s\""]),
        scenario!(real::worker_killed, "a worker that was killed is replaced", hives: Hives::Real),
        scenario!(real::hive_frozen, "a hive that is stopped in its tracks is unreachable, and comes back as it was",
            hives: Hives::Real),
        scenario!(real::in_the_cache, "a model of the Hugging Face cache is served without a hub, and stays when it is removed",
            hives: Hives::Real, config: &["models.hub_url = \"http://127.0.0.1:1\""]),
        scenario!(real::not_a_model, "a file that is no model is refused by name", hives: Hives::Real),
        scenario!(real::hive_killed, "a hive that was killed is started again and serves", hives: Hives::Real),
    ]
}

fn oddities() -> Vec<Scenario> {
    vec![
        scenario!(answers::endless, "an answer without end costs no memory and ends in an error"),
        scenario!(answers::slow, "an answer that trickles is whole in the end, and holds up nobody"),
        scenario!(answers::errors, "a worker that answers 5xx or 429 is passed over", hives: Hives::Fake(2)),
        scenario!(answers::all_too_busy, "where all are too busy the client is told when to come back",
            hives: Hives::Fake(2)),
        scenario!(answers::of_another_worker, "an answer in another worker's name goes to nobody",
            hives: Hives::Fake(2)),
        scenario!(answers::load_stalls, "a load that stands still is given up and stopped",
            config: &["timeouts.load_stall = \"1s\""]),
        scenario!(cold::download_stalls, "a transfer that stands still is given up, and made on another hive",
            config: &["timeouts.download_stall = \"1s\""]),
        scenario!(cold::download_reports_nonsense, "progress that goes back or too far misleads nobody"),
        scenario!(
            cold::model_is_damaged,
            "a model whose file is damaged is an error that says where and why"
        ),
        scenario!(strangers::calls_itself_otherwise, "a hive of another name is an error, not a hive"),
        scenario!(strangers::of_another_version, "a hive of another version is an error that says so"),
        scenario!(strangers::claims_anothers_worker, "a hive that claims another's worker changes nothing",
            hives: Hives::Fake(2)),
        scenario!(strangers::clock_is_off, "a hive's clock decides nothing"),
        scenario!(strangers::redirects, "the queen goes nowhere a hive sends her"),
        scenario!(strangers::trickles, "a hive that trickles its answers is given up in time"),
    ]
}

fn surroundings() -> Vec<Scenario> {
    vec![
        scenario!(launched::stopped, "Ctrl-C ends the queen and the hives that it started", hives: Hives::Launched(2)),
        scenario!(launched::ignores_being_stopped, "a hive that does not stop is ended by force, in time",
            hives: Hives::Launched(2)),
        scenario!(launched::second_signal, "a second signal cuts the time of hives that do not stop short",
            hives: Hives::Launched(2), config: &["timeouts.stop_grace = \"100s\"", "timeouts.drain = \"100s\""]),
        scenario!(launched::stopped_at_any_moment, "whenever the queen is stopped, nothing is left of it",
            hives: Hives::Launched(2)),
        scenario!(launched::killed, "hives that were killed are started again", hives: Hives::Launched(2)),
        scenario!(launched::queen_killed, "the next queen adopts hives and workers", hives: Hives::Launched(2)),
        scenario!(launched::queen_killed_while_starting, "whenever the queen is killed, each hive has one process",
            hives: Hives::Launched(2)),
        scenario!(launched::port_taken, "a hive whose port is taken says so, and the others serve",
            hives: Hives::Launched(2)),
        scenario!(launched::ends_at_once, "a hive that ends at its start is an error with its exit code",
            hives: Hives::Launched(2)),
        scenario!(machines::frozen, "a hive of another machine that hangs is unreachable in time, and comes back as it was",
            hives: Hives::Network(Kind::Real), needs: &[Need::Sshd]),
        scenario!(machines::cut_off, "a hive of another machine behind a cut cable is unreachable in time and comes back as it was",
            hives: Hives::Network(Kind::Apart), needs: &[Need::Sshd, Need::Namespaces]),
        scenario!(machines::answers_are_lost, "the same where only its answers are lost",
            hives: Hives::Network(Kind::Apart), needs: &[Need::Sshd, Need::Namespaces]),
        scenario!(machines::requests_are_lost, "the same where only what the queen sends is lost",
            hives: Hives::Network(Kind::Apart), needs: &[Need::Sshd, Need::Namespaces]),
        scenario!(machines::rebooted, "the hive of a machine that was off is online soon after its SSH server answers, and its pinned model loads",
            hives: Hives::Network(Kind::Fake), needs: &[Need::Sshd],
            config: &["model = [{ ref = \"fake/alpha\", pinned = true }]"]),
        scenario!(machines::busy, "on a machine that is busy beyond its limits nobody is taken for dead",
            hives: Hives::Launched(2)),
        scenario!(machines::clock_jumps, "a wall clock that jumps changes nothing",
            hives: Hives::Fake(2), needs: &[Need::Faketime]),
        scenario!(
            storage::killed_while_registering,
            "what was acknowledged survives kill -9, and the fleet serves on"
        ),
        scenario!(storage::slow_disk, "an acknowledgement waits for the disk, a request does not",
            needs: &[Need::Strace]),
        scenario!(storage::failing_disk, "a disk that fails costs writes, not requests", needs: &[Need::Strace]),
        scenario!(storage::full_disk, "a full disk costs writes, not requests, and heals by itself",
            needs: &[Need::Namespaces], disk: Some("1m")),
        scenario!(network::partition, "a hive behind a cut cable is lost in time and comes back as it was",
            hives: Hives::Apart(2), needs: &[Need::Namespaces]),
        scenario!(network::answers_are_lost, "the same where only its answers are lost",
            hives: Hives::Apart(2), needs: &[Need::Namespaces]),
        scenario!(network::lost_in_a_cold_start, "a hive that is lost while it loads is replaced",
            hives: Hives::Apart(2), needs: &[Need::Namespaces]),
        scenario!(network::all_but_one, "the one hive that is left serves", hives: Hives::Apart(4),
            needs: &[Need::Namespaces]),
    ]
}

/// The queen dies on order.
fn deaths() -> Vec<Scenario> {
    vec![
        scenario!(steps::of_a_launch, "a queen that dies at any step of a launch is succeeded as if it had not",
            hives: Hives::Launched(2), needs: &[Need::Planted]),
        scenario!(steps::of_a_cold_start, "the same at any step of a cold start",
            hives: Hives::Launched(1), needs: &[Need::Planted]),
        scenario!(steps::of_a_stop, "the same at any step of a hive's stop",
            hives: Hives::Launched(1), needs: &[Need::Planted]),
        scenario!(steps::of_a_drain, "the same at any step of what has a hive take no more work, or again take some",
            hives: Hives::Launched(2), needs: &[Need::Planted]),
        scenario!(steps::of_a_pause, "the same at any step of emptying a hive for its owner",
            hives: Hives::Launched(2), needs: &[Need::Planted]),
        scenario!(steps::of_an_entry, "the same at any step of taking over an entry of the configuration",
            hives: Hives::Launched(2), needs: &[Need::Planted]),
        scenario!(steps::of_an_upload, "the same at any step of an upload", hives: Hives::Network(Kind::Real),
            needs: &[Need::Sshd, Need::Planted]),
        scenario!(steps::of_a_network_launch, "the same at any step of a start over SSH", hives: Hives::Network(Kind::Real),
            needs: &[Need::Sshd, Need::Planted]),
        scenario!(steps::of_a_lost_reply, "the same where a hive was started over SSH and the reply is lost",
            hives: Hives::Network(Kind::Fake), needs: &[Need::Sshd, Need::Planted]),
        scenario!(steps::of_a_network_stop, "the same at any step of a stop over a network",
            hives: Hives::Network(Kind::Real), needs: &[Need::Sshd, Need::Planted]),
        scenario!(steps::of_a_removal, "the same at any step of a hive's removal, of the configuration too",
            hives: Hives::Launched(2), needs: &[Need::Planted]),
        scenario!(steps::of_a_migration, "the same at any step of bringing an older database up to date",
            hives: Hives::Launched(1), needs: &[Need::Planted]),
        scenario!(steps::of_a_recovery, "a queen that dies while she takes over from one that was killed changes nothing",
            hives: Hives::Launched(2), needs: &[Need::Planted]),
        scenario!(steps::of_a_second_launch, "the same where the first one died at a step of a launch",
            hives: Hives::Launched(1), needs: &[Need::Planted]),
        scenario!(steps::of_a_second_stop, "the same where she died at a step of a stop or of a removal",
            hives: Hives::Launched(2), needs: &[Need::Planted]),
        scenario!(steps::of_a_network_recovery, "the same with a hive of another machine",
            hives: Hives::Network(Kind::Fake), needs: &[Need::Sshd, Need::Planted]),
    ]
}
