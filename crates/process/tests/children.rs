//! What real children of this process do.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use process::{Environment, LogFile, Process, Program, Signal};

fn shell(directory: &Path, script: &str) -> Program {
    Program {
        path: "sh".into(),
        args: vec!["-c".into(), script.into()],
        environment: Environment::inherited(),
        log: LogFile::new(directory.join("log")),
    }
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !holds() {
        assert!(Instant::now() < deadline, "never happened: {what}");
        tokio::task::yield_now().await;
    }
}

fn log_has(program: &Program, text: &str) -> bool {
    process::tail(&program.log.path, 1000).iter().any(|line| line == text)
}

fn pid_in_log(program: &Program) -> u32 {
    process::tail(&program.log.path, 1).first().and_then(|line| line.trim().parse().ok()).unwrap_or(0)
}

#[tokio::test]
async fn a_child_leads_a_session_of_its_own_and_its_exit_is_told() {
    let directory = tempfile::tempdir().unwrap();
    let program = shell(directory.path(), "echo $$; cut -d' ' -f6 /proc/$$/stat; echo err >&2; exit 7");
    let mut child = program.spawn().unwrap();
    let exit = child.wait().await.unwrap();
    assert_eq!((exit.code, exit.signal), (Some(7), None));
    let pid = child.identity().pid.to_string();
    assert_eq!(process::tail(&program.log.path, 10), [&pid, &pid, "err"], "pid, session, standard error");
    assert!(!Path::new(&format!("/proc/{}", child.identity().pid)).exists(), "no zombie is left");
}

#[tokio::test]
async fn what_the_parent_has_open_stays_closed_in_the_child() {
    let directory = tempfile::tempdir().unwrap();
    let inherited = std::fs::File::open("/dev/null").unwrap();
    rustix::io::fcntl_setfd(&inherited, rustix::io::FdFlags::empty()).unwrap();
    let mut program = shell(directory.path(), "");
    (program.path, program.args) = ("sleep".into(), vec!["1000".into()]);
    let mut child = program.spawn().unwrap();
    let open = std::fs::read_dir(format!("/proc/{}/fd", child.identity().pid)).unwrap();
    let mut open: Vec<_> = open.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    open.sort();
    child.stop(Duration::ZERO).await.unwrap();
    assert_eq!(open, ["0", "1", "2"]);
}

#[tokio::test]
async fn a_child_that_ignores_the_request_is_ended_with_its_whole_group() {
    let directory = tempfile::tempdir().unwrap();
    let program = shell(directory.path(), "trap '' TERM; sh -c 'trap \"\" TERM; sleep 1000' & echo $!; wait");
    let mut child = program.spawn().unwrap();
    until("the grandchild is started", || pid_in_log(&program) != 0).await;
    let grandchild = process::of(pid_in_log(&program)).unwrap().expect("the grandchild lives");
    let exit = child.stop(Duration::from_millis(100)).await.unwrap();
    assert_eq!(exit.signal, Some(9));
    until("the grandchild is dead", || !process::is_alive(&grandchild)).await;
}

#[tokio::test]
async fn what_a_crashed_leader_leaves_behind_is_ended() {
    let directory = tempfile::tempdir().unwrap();
    let program = shell(directory.path(), "sleep 1000 & echo $!; exit 3");
    let mut child = program.spawn().unwrap();
    assert_eq!(child.wait().await.unwrap().code, Some(3));
    let pid = pid_in_log(&program);
    until("the grandchild is dead", || process::of(pid).unwrap().is_none()).await;
}

#[tokio::test]
async fn a_stopped_child_still_hears_the_request_to_end() {
    let directory = tempfile::tempdir().unwrap();
    let program = shell(directory.path(), "trap 'exit 5' TERM; echo ready; while :; do sleep 0.01; done");
    let mut child = program.spawn().unwrap();
    until("the trap is set", || log_has(&program, "ready")).await;
    child.process().signal_group(Signal::STOP).unwrap();
    assert_eq!(child.stop(Duration::from_secs(10)).await.unwrap().code, Some(5));
}

#[tokio::test]
async fn an_identity_finds_the_process_again_and_no_other() {
    let directory = tempfile::tempdir().unwrap();
    let mut child = shell(directory.path(), "exec sleep 1000").spawn().unwrap();
    let identity = child.identity().clone();
    let stranger = fleet::ProcessIdentity { start_time: identity.start_time + 1, ..identity.clone() };
    assert!(Process::open(&stranger).unwrap().is_none());
    let found = Process::open(&identity).unwrap().expect("it lives");
    let waiting = async {
        found.exited().await;
        Instant::now()
    };
    let killing = async {
        let at = Instant::now();
        found.signal(Signal::KILL).unwrap();
        child.wait().await.unwrap();
        at
    };
    let (seen, killed) =
        tokio::time::timeout(Duration::from_secs(10), async { tokio::join!(waiting, killing) })
            .await
            .expect("its end is seen");
    assert!(seen.saturating_duration_since(killed) < Duration::from_millis(100));
    assert!(Process::open(&identity).unwrap().is_none());
    found.signal_group(Signal::KILL).expect("signalling what is gone is no error");
}

#[tokio::test]
async fn a_signal_never_reaches_a_process_that_got_the_pid_later() {
    let directory = tempfile::tempdir().unwrap();
    let mut child = shell(directory.path(), "exec sleep 1000").spawn().unwrap();
    let mut old = child.identity().clone();
    old.start_time -= 1;
    // What a handle is worth after its pid was given to somebody else: made by hand, since a real reuse takes a namespace.
    let alive_before = process::is_alive(child.identity());
    assert!(Process::open(&old).unwrap().is_none());
    assert!(alive_before && process::is_alive(child.identity()));
    child.stop(Duration::ZERO).await.unwrap();
}

#[tokio::test]
async fn a_flood_of_output_neither_blocks_the_child_nor_fills_the_disk() {
    let directory = tempfile::tempdir().unwrap();
    let mut program = shell(directory.path(), "yes 0123456789abcdef | head -c 200000000; exit 7");
    program.log.cap = 1024 * 1024;
    let mut child = program.spawn().unwrap();
    let exit =
        tokio::time::timeout(Duration::from_secs(60), child.wait()).await.expect("is not blocked").unwrap();
    assert_eq!(exit.code, Some(7), "it wrote everything");
    assert!(log_has(&program, "0123456789abcdef"));
    assert!(std::fs::metadata(&program.log.path).unwrap().len() <= program.log.cap);
}

#[tokio::test]
async fn a_secret_on_standard_input_arrives_and_input_ends() {
    let directory = tempfile::tempdir().unwrap();
    let program = shell(directory.path(), "cat; echo end");
    let mut child = program.spawn_with_input(b"the line\n").await.unwrap();
    child.wait().await.unwrap();
    assert_eq!(process::tail(&program.log.path, 10), ["the line", "end"]);
}

#[tokio::test]
async fn a_child_sees_what_it_was_given_and_nothing_else() {
    assert!(std::env::var_os("CARGO_MANIFEST_DIR").is_some(), "this process has something to hide");
    let directory = tempfile::tempdir().unwrap();
    let mut program = shell(directory.path(), "env");
    program.environment = program.environment.with("GIVEN", "1");
    program.spawn().unwrap().wait().await.unwrap();
    let seen = process::tail(&program.log.path, 1000);
    assert!(seen.contains(&"GIVEN=1".to_owned()), "{seen:?}");
    assert!(!seen.iter().any(|line| line.starts_with("CARGO")), "{seen:?}");
}

#[tokio::test]
async fn a_missing_program_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let program = Program { path: "/nowhere/rbee-hive".into(), ..shell(directory.path(), "") };
    assert_eq!(program.spawn().unwrap_err().to_string(), "could not start /nowhere/rbee-hive");
}

#[tokio::test]
async fn a_marked_process_is_found_by_its_mark() {
    let directory = tempfile::tempdir().unwrap();
    let mut program = shell(directory.path(), "exec sleep 1000");
    let mark = format!("mark-{}", std::process::id());
    program.environment = program.environment.with("RBEE_TEST_MARK", &mark);
    let mut child = program.spawn().unwrap();
    assert_eq!(process::find_marked("RBEE_TEST_MARK", &mark), [child.identity().clone()]);
    assert_eq!(process::find_marked("RBEE_TEST_MARK", "another"), []);
    child.stop(Duration::ZERO).await.unwrap();
}

#[tokio::test]
async fn hundreds_of_children_leave_no_zombie() {
    let directory = tempfile::tempdir().unwrap();
    let program = shell(directory.path(), "exit 0");
    let mut pids = Vec::new();
    for _ in 0..100 {
        let mut child = program.spawn().unwrap();
        child.wait().await.unwrap();
        pids.push(child.identity().pid);
    }
    assert!(pids.iter().all(|pid| process::of(*pid).unwrap().is_none()));
}
