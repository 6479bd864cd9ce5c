//! What logging does to a program whose standard error is read, closed or full. The test starts itself as that program.

use std::{
    env,
    io::{Read, Write},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use telemetry::{Format, Settings, init};

const FORMAT: &str = "TELEMETRY_TEST_FORMAT";

/// Logs, and says on standard output that it came to its end.
fn log_much(format: &str) {
    let format = if format == "json" { Format::Json } else { Format::Text };
    let guard = init(&Settings { format, ..Settings::default() }).expect("set up");
    init(&Settings::default()).expect_err("set up already");
    tracing::debug!("not at this level");
    for n in 0..20_000 {
        tracing::info!(n, peer = %"evil\n\u{1b}[31m", "a line");
    }
    let dropped = guard.dropped_lines();
    drop(guard);
    writeln!(std::io::stdout(), "done, dropped {}", dropped > 0).expect("standard output is read");
}

fn start(test: &str, format: &str, stderr: Stdio) -> std::process::Child {
    Command::new(env::current_exe().expect("this program"))
        .args(["--exact", test, "--nocapture"])
        .env(FORMAT, format)
        .stdout(Stdio::piped())
        .stderr(stderr)
        .spawn()
        .expect("it starts")
}

fn finish(mut child: std::process::Child) -> (bool, String) {
    let mut out = String::new();
    child.stdout.take().expect("piped").read_to_string(&mut out).expect("text");
    (child.wait().expect("it ends").success(), out)
}

#[test]
fn lines_reach_a_reader_whole_and_safe() {
    if let Ok(format) = env::var(FORMAT) {
        return log_much(&format);
    }
    for format in ["text", "json"] {
        let mut child = start("lines_reach_a_reader_whole_and_safe", format, Stdio::piped());
        let mut lines = String::new();
        child.stderr.take().expect("piped").read_to_string(&mut lines).expect("text");
        let (success, out) = finish(child);
        assert!(success && out.contains("done"), "{out}");
        assert!(!lines.contains('\u{1b}'), "an escape sequence passed");
        assert!(!lines.contains("not at this level"));
        let first = lines.lines().next().expect("a line");
        if format == "json" {
            assert!(first.starts_with('{') && first.ends_with('}'), "{first}");
            assert!(first.contains("\"message\":\"a line\"") && first.contains("\"n\":0"), "{first}");
        } else {
            assert!(first.contains(" INFO ") && first.contains("a line n=0"), "{first}");
        }
        assert!(lines.lines().all(|line| line.contains("a line") || line.contains("log lines dropped")));
    }
}

#[test]
fn a_closed_standard_error_does_not_end_the_program() {
    if let Ok(format) = env::var(FORMAT) {
        return log_much(&format);
    }
    let mut child = start("a_closed_standard_error_does_not_end_the_program", "text", Stdio::piped());
    drop(child.stderr.take());
    let (success, out) = finish(child);
    assert!(success && out.contains("done"), "{out}");
}

#[test]
fn a_standard_error_that_nobody_reads_delays_the_program_by_a_second_at_most() {
    if let Ok(format) = env::var(FORMAT) {
        return log_much(&format);
    }
    let started = Instant::now();
    let mut child = start(
        "a_standard_error_that_nobody_reads_delays_the_program_by_a_second_at_most",
        "text",
        Stdio::piped(),
    );
    let unread = child.stderr.take();
    let (success, out) = finish(child);
    assert!(success && out.contains("done, dropped true"), "{out}");
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
    drop(unread);
}
