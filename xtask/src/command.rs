//! Programs that are run to their end: cargo, package managers, checks.

use std::{
    ffi::OsStr,
    path::Path,
    process::{ExitStatus, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::{Child, Command as Process},
    time::timeout,
};

use crate::{
    stop::{Stop, Stopped},
    workspace,
};

/// How long a program that was asked to end may take.
const GRACE: Duration = Duration::from_secs(10);

/// A program with its arguments. It runs in the workspace's root, without input.
pub(crate) struct Command {
    process: Process,
    name: String,
    bound: Duration,
}

impl Command {
    /// A program by path or name; the bound is half an hour until it is set.
    pub(crate) fn new(program: impl AsRef<OsStr>) -> Self {
        let name = Path::new(program.as_ref()).file_name().unwrap_or_default().to_string_lossy().into_owned();
        let mut process = Process::new(program);
        // A group of its own: Ctrl-C in the terminal reaches it through us only, and so do its own children.
        process.current_dir(workspace::root()).stdin(Stdio::null()).process_group(0);
        Self { process, name, bound: Duration::from_secs(1800) }
    }

    /// The cargo that runs us.
    ///
    /// What cargo told this program of its own package is taken away: build scripts heed such variables, and would be run
    /// again, with all that depends on them, each time somebody calls cargo by hand in between.
    pub(crate) fn cargo() -> Self {
        let mut cargo = Self::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        for (name, _) in std::env::vars_os().filter(|(name, _)| is_of_our_package(name)) {
            cargo.process.env_remove(name);
        }
        cargo
    }

    pub(crate) fn args<S: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.process.args(args);
        self
    }

    pub(crate) fn arg(self, arg: impl AsRef<OsStr>) -> Self {
        self.args([arg])
    }

    pub(crate) fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.process.env(name, value);
        self
    }

    /// How long it may take.
    pub(crate) fn within(mut self, bound: Duration) -> Self {
        self.bound = bound;
        self
    }

    /// The line to type for it.
    pub(crate) fn shown(&self) -> String {
        let args = self.process.as_std().get_args().map(|arg| arg.to_string_lossy());
        args.fold(self.name.clone(), |line, arg| format!("{line} {arg}"))
    }

    /// Runs it with its output where ours goes. Anything but success is an error.
    pub(crate) async fn run(self, stop: &Stop) -> anyhow::Result<()> {
        let shown = self.shown();
        let status = self.lines(stop, None::<fn(&str)>).await?;
        if !status.success() {
            bail!("`{shown}` failed: {status}");
        }
        Ok(())
    }

    /// Runs it and hands over each line of its standard output, if somebody wants them.
    pub(crate) async fn lines(
        mut self,
        stop: &Stop,
        on_line: Option<impl FnMut(&str)>,
    ) -> anyhow::Result<ExitStatus> {
        let began = Instant::now();
        if on_line.is_some() {
            self.process.stdout(Stdio::piped());
        }
        let child = self.process.spawn().with_context(|| format!("could not start `{}`", self.shown()))?;
        let mut group = Group::new(child);
        // Held open until it has ended, also when nobody listens any more: a terminal does not go away either.
        let mut output = group.child.stdout.take().map(|output| BufReader::new(output).lines());
        let work = async {
            if let (Some(lines), Some(mut on_line)) = (&mut output, on_line) {
                while let Some(line) = lines.next_line().await? {
                    on_line(&line);
                }
            }
            group.child.wait().await
        };
        let ended = tokio::select! {
            ended = timeout(self.bound, work) => ended,
            () = stop.asked() => {
                group.end(stop).await;
                return Err(Stopped.into());
            }
        };
        match ended {
            Ok(status) => Ok(status.with_context(|| format!("could not wait for `{}`", self.name))?),
            Err(_) => {
                group.end(stop).await;
                bail!("`{}` did not end within {} s and was ended", self.shown(), began.elapsed().as_secs())
            }
        }
    }

    /// Runs it without a word, and tells whether it succeeded.
    pub(crate) async fn silently(mut self, stop: &Stop) -> bool {
        self.process.stdout(Stdio::null()).stderr(Stdio::null());
        self.lines(stop, None::<fn(&str)>).await.is_ok_and(|status| status.success())
    }

    /// Runs it and returns what it wrote to standard output, if it succeeds.
    pub(crate) async fn output(self, stop: &Stop) -> anyhow::Result<String> {
        let shown = self.shown();
        let mut text = String::new();
        let status = self
            .lines(
                stop,
                Some(|line: &str| {
                    text.push_str(line);
                    text.push('\n');
                }),
            )
            .await?;
        if !status.success() {
            bail!("`{shown}` failed: {status}\n{text}");
        }
        Ok(text)
    }
}

/// Whether cargo sets a variable for the program that it runs, to tell of its package.
fn is_of_our_package(name: &OsStr) -> bool {
    let name = name.to_string_lossy();
    name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_") || name == "CARGO_CRATE_NAME"
}

/// A running program and everything that it started in its group. Dropped, it is gone.
struct Group {
    child: Child,
    pid: Option<Pid>,
}

impl Group {
    fn new(child: Child) -> Self {
        let pid = child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
        Self { child, pid }
    }

    fn signal(&self, signal: Signal) {
        // The leader was not waited for yet, so the group's number is still its own.
        if let (Some(pid), Some(_)) = (self.pid, self.child.id()) {
            let _ = kill_process_group(pid, signal);
        }
    }

    async fn end(&mut self, stop: &Stop) {
        self.signal(Signal::TERM);
        tokio::select! {
            _ = timeout(GRACE, self.child.wait()) => {}
            () = stop.insisted() => {}
        }
        self.signal(Signal::KILL);
        let _ = timeout(GRACE, self.child.wait()).await;
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.signal(Signal::KILL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str) -> Command {
        Command::new("sh").args(["-c", script])
    }

    #[tokio::test]
    async fn lines_arrive_and_a_failure_names_the_command() {
        let stop = Stop::default();
        assert_eq!(sh("echo one; echo two").output(&stop).await.unwrap(), "one\ntwo\n");
        let error = sh("exit 3").run(&stop).await.unwrap_err().to_string();
        assert!(error.contains("sh -c exit 3") && error.contains('3'), "{error}");
    }

    #[test]
    fn cargo_is_not_told_of_our_package() {
        let cargo = Command::cargo();
        let removed = |wanted: &str| {
            cargo.process.as_std().get_envs().any(|(name, value)| name == wanted && value.is_none())
        };
        assert!(removed("CARGO_PKG_NAME") && removed("CARGO_MANIFEST_DIR"));
        assert!(!removed("CARGO_TARGET_DIR") && !removed("PATH"));
    }

    #[tokio::test]
    async fn what_takes_too_long_is_ended_with_its_children() {
        let stop = Stop::default();
        let mut inner = None;
        let status = sh("sleep 600 & echo $!; wait")
            .within(Duration::from_millis(200))
            .lines(&stop, Some(|line: &str| inner = line.parse::<u32>().ok()))
            .await;
        assert!(status.unwrap_err().to_string().contains("did not end"), "it ended?");
        let inner = inner.unwrap();
        let gone = async {
            while process::of(inner).unwrap().is_some() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(Duration::from_secs(5), gone).await.unwrap();
    }
}
