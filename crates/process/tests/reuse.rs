//! A pid that the kernel really gave to somebody else, which takes a pid namespace of its own.
//!
//! The test starts itself once more inside such a namespace, where it may say which pid comes next.

#![cfg(target_os = "linux")]

use std::{
    fs,
    io::Write,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use process::{Environment, LogFile, Process, Program, Signal};

/// How many pids are used again; many with `cargo xtask test --full`.
const ROUNDS: (u32, u32) = (25, 1000);

const INSIDE: &str = "PROCESS_REUSE_INSIDE";
const NAME: &str = "strangers_with_a_reused_pid_are_never_signalled";

#[test]
#[expect(clippy::print_stdout, reason = "`cargo xtask test` shows figures that tests print")]
fn strangers_with_a_reused_pid_are_never_signalled() {
    if std::env::var_os(INSIDE).is_some() {
        return inside();
    }
    let us = std::env::current_exe().expect("this program lies somewhere");
    // As root a user namespace is not needed, and where it is forbidden it is not missed.
    let is_root = rustix::process::geteuid().is_root();
    let flags: &[&str] = if is_root {
        &["--pid", "--fork", "--mount-proc"]
    } else {
        &["-Ur", "--pid", "--fork", "--mount-proc"]
    };
    let output = Command::new("unshare")
        .args(flags)
        .arg(us)
        .args([NAME, "--exact", "--nocapture"])
        .env(INSIDE, "1")
        .stdin(Stdio::null())
        .output()
        .expect("unshare, of util-linux, is there");
    let text = String::from_utf8_lossy(&output.stdout);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "needs root or user namespaces.\n{text}\n{said}");
    let lived = text.lines().find(|line| line.contains("strangers lived"));
    println!("figure: 0 of the processes with a reused pid were signalled: {}", lived.expect(&said));
}

fn inside() {
    let full = std::env::var_os("RBEE_TESTS").is_some_and(|which| which == "full");
    let rounds = if full { ROUNDS.1 } else { ROUNDS.0 };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let reused = runtime.block_on(async {
        let mut reused = 0;
        for _ in 0..rounds {
            reused += u32::from(round().await);
        }
        reused
    });
    assert!(reused * 2 > rounds, "only {reused} of {rounds} pids were used again");
    // Kept away from the test runner's own capture: whoever started us reads it.
    std::io::stdout()
        .write_all(format!("{reused} strangers lived in {rounds} rounds\n").as_bytes())
        .expect("a reader");
}

fn sleeper(log: &std::path::Path) -> Program {
    Program {
        path: "/bin/sleep".into(),
        args: vec!["1000".into()],
        environment: Environment::inherited(),
        log: LogFile::new(log),
    }
}

/// One process that ends, and a stranger who gets its pid. True if he got it.
async fn round() -> bool {
    let directory = tempfile::tempdir().expect("a directory");
    let log = directory.path().join("log");
    let mut ours = sleeper(&log).spawn().expect("started");
    let old = ours.identity().clone();
    let held = Process::open(&old).expect("identified").expect("it lives");
    ours.stop(Duration::ZERO).await.expect("stopped");
    // Start times are counted in hundredths of a second; whoever starts in the next one is another.
    let began = Instant::now();
    while began.elapsed() < Duration::from_millis(11) {
        std::thread::yield_now();
    }
    fs::write("/proc/sys/kernel/ns_last_pid", (old.pid - 1).to_string()).expect("the namespace is ours");
    let mut stranger = sleeper(&log).spawn().expect("started");
    let reused = stranger.identity().pid == old.pid;
    assert!(!process::is_alive(&old));
    assert!(Process::open(&old).expect("identified").is_none(), "the stranger was taken for the one before");
    held.signal(Signal::KILL).expect("signalling what is gone is no error");
    held.signal_group(Signal::KILL).expect("signalling what is gone is no error");
    held.kill().await.expect("killing what is gone is no error");
    assert!(process::is_alive(stranger.identity()), "the stranger was signalled");
    stranger.stop(Duration::ZERO).await.expect("stopped");
    reused
}
