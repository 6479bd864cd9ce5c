//! A folder of a test's own, which goes away with whatever still writes there: when it is dropped, and when the test was
//! killed in the middle and could clean up nothing.
//!
//! Queens, hives and engines are made to outlive whoever started them, so a test that is cut off would leave them behind. All
//! of them write their output to a file below the folder of their test, and that is what they are known by.
//!
//! The key decision: a small shell in a process group of its own waits for the end of a pipe that only the test holds. The
//! kernel closes that pipe however the test ends.
//!
//! It is for tests only: it ends processes by where they write, whoever started them.

use std::{
    io,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

/// Says who writes into `$1`, where the kernel shows in `/proc` what a process has open.
const BY_PROC: &str = r#"
  find /proc/[0-9]*/fd -maxdepth 1 '(' -name 1 -o -name 2 ')' -lname "$1/*" 2>/dev/null | cut -d / -f 3
"#;

/// The same everywhere else. macOS comes with `lsof`.
const BY_LSOF: &str = r#"lsof -t -a -d 1,2 +D "$1" 2>/dev/null"#;

/// `$1` is the folder, and `$2` the command that says who writes there.
const SCRIPT: &str = r#"
cat >/dev/null
round=0
while [ "$round" -lt 100 ]; do
  found=$(eval "$2")
  [ -n "$found" ] || break
  for pid in $found; do kill -KILL "$pid" 2>/dev/null; done
  round=$((round + 1))
  sleep 0.02
done
rm -rf -- "$1"
"#;

/// A new folder below the system's temporary one.
#[derive(Debug)]
pub struct Ward {
    path: PathBuf,
    warden: Child,
}

impl Ward {
    /// Makes the folder, and has it looked after.
    ///
    /// # Errors
    /// When it cannot be made, or no shell can be started.
    pub fn new() -> io::Result<Self> {
        Self::looking(if Path::new("/proc/self/fd").exists() { BY_PROC } else { BY_LSOF })
    }

    fn looking(how: &str) -> io::Result<Self> {
        let dir = tempfile::Builder::new().prefix("ward").tempdir()?;
        let path = dir.path().canonicalize()?;
        let mut shell = Command::new("sh");
        shell.args(["-c", SCRIPT, "warden"]).arg(&path).arg(how).current_dir("/");
        // A test is ended together with its group.
        shell.process_group(0).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let warden = shell.spawn()?;
        // From here on it is the warden's to remove.
        drop(dir.keep());
        Ok(Self { path, warden })
    }

    /// Where it is, without symbolic links.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Ward {
    fn drop(&mut self) {
        drop(self.warden.stdin.take());
        // It bounds itself, and what it could not end was said to nobody anyway.
        let _ = self.warden.wait();
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fs::File,
        io::{BufRead as _, BufReader, Write as _},
        time::{Duration, Instant},
    };

    use super::*;

    /// Whether a process runs; one that has ended and was not waited for does not.
    fn alive(pid: u32) -> bool {
        process::of(pid).expect("a readable process").is_some_and(|identity| process::is_alive(&identity))
    }

    /// Somebody who writes into the folder and is nobody's to wait for.
    fn writer(ward: &Ward) -> u32 {
        let log = File::create(ward.path().join("log")).expect("a file");
        let mut sleep = Command::new("sleep");
        sleep.arg("600").stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).process_group(0);
        sleep.spawn().expect("sleep").id()
    }

    fn until(what: &str, mut is_so: impl FnMut() -> bool) {
        let began = Instant::now();
        while !is_so() {
            assert!(began.elapsed() < Duration::from_secs(20), "never happened: {what}");
            std::thread::yield_now();
        }
    }

    fn ends_what_writes_into_it(how: &str) {
        let new = || Ward::looking(how).expect("a folder");
        let (ward, other) = (new(), new());
        let (ours, theirs, path) = (writer(&ward), writer(&other), ward.path().to_owned());
        drop(ward);
        until("the writer ends", || !alive(ours));
        assert!(!path.exists());
        assert!(alive(theirs) && other.path().exists(), "another test's is left alone");
        drop(other);
        until("the other one ends", || !alive(theirs));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn what_writes_into_a_folder_ends_with_it() {
        ends_what_writes_into_it(BY_PROC);
    }

    /// Those that need the system's `lsof`.
    mod with_lsof {
        #[test]
        fn what_writes_into_a_folder_ends_with_it() {
            super::ends_what_writes_into_it(super::BY_LSOF);
        }
    }

    /// Does nothing in the test run; called by the next one it says what it started, and waits to be killed.
    #[test]
    fn a_test_that_is_killed() {
        if std::env::var_os("WARD_IS_KILLED").is_none() {
            return;
        }
        let ward = Ward::new().expect("a folder");
        let line = format!("\nward {} {}\n", writer(&ward), ward.path().display());
        std::io::stdout().write_all(line.as_bytes()).expect("somebody reads");
        loop {
            std::thread::park();
        }
    }

    #[test]
    fn what_a_killed_test_left_behind_ends() {
        let us = std::env::current_exe().expect("this program");
        let mut test = Command::new(us);
        test.args(["--exact", "tests::a_test_that_is_killed", "--nocapture"]).env("WARD_IS_KILLED", "1");
        let mut test = test.stdout(Stdio::piped()).spawn().expect("this program");
        let lines = BufReader::new(test.stdout.take().expect("piped")).lines();
        let said = lines.map_while(Result::ok).find_map(|line| line.strip_prefix("ward ").map(str::to_owned));
        let said = said.expect("it says what it started");
        let (pid, path) = said.split_once(' ').expect("two words");
        let pid = pid.parse().expect("a pid");
        assert!(alive(pid));
        test.kill().expect("it runs");
        test.wait().expect("it ends");
        until("what it left behind ends", || !alive(pid) && !Path::new(path).exists());
    }
}
