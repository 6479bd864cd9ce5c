//! Starting a process of our own.

use std::{
    ffi::OsString,
    io,
    path::PathBuf,
    process::{ExitStatus, Stdio},
    time::Duration,
};

use fleet::ProcessIdentity;
use process_wrap::tokio::{ChildWrapper, CommandWrap, ProcessSession};
use tokio::io::AsyncWriteExt;

use crate::{Environment, LogFile, Process, ProcessError, Signal, identity};

/// How long a child that was given a line on standard input may take to read it. A line is far below what a pipe holds,
/// so only a broken system makes this matter.
const STDIN_BOUND: Duration = Duration::from_secs(5);

/// What to start, and where its output goes.
#[derive(Debug, Clone)]
pub struct Program {
    /// The executable; a bare name is looked up in `PATH`.
    pub path: PathBuf,
    /// Its arguments. Other users of the machine can read them, so no secret stands here.
    pub args: Vec<OsString>,
    /// All of its environment.
    pub environment: Environment,
    /// Where it writes standard output and standard error.
    pub log: LogFile,
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exit {
    /// Exit code, unless a signal ended it.
    pub code: Option<i32>,
    /// The signal that ended it.
    pub signal: Option<i32>,
}

impl From<ExitStatus> for Exit {
    fn from(status: ExitStatus) -> Self {
        use std::os::unix::process::ExitStatusExt;
        Self { code: status.code(), signal: status.signal() }
    }
}

/// A process that this one started, and has to wait for: dropped without that, it lives on, as it does when this process
/// ends.
#[derive(Debug)]
pub struct Child {
    inner: Box<dyn ChildWrapper>,
    process: Process,
    log: LogFile,
}

impl Program {
    /// Starts it in a session of its own, out of reach of the terminal's signals, with standard input closed.
    ///
    /// # Errors
    /// When the log cannot be opened or the program cannot be executed.
    pub fn spawn(&self) -> Result<Child, ProcessError> {
        self.start(Stdio::null())
    }

    /// The same with a text on standard input, which then ends. This is how a secret is handed over. Dropping the future
    /// does not undo the start.
    ///
    /// # Errors
    /// As [`Program::spawn`], or when the process did not take the text; it is ended then.
    pub async fn spawn_with_input(&self, input: &[u8]) -> Result<Child, ProcessError> {
        let mut child = self.start(Stdio::piped())?;
        let Some(mut stdin) = child.inner.stdin().take() else { return Ok(child) };
        let writing = async {
            stdin.write_all(input).await?;
            stdin.shutdown().await
        };
        let written = tokio::time::timeout(STDIN_BOUND, writing).await;
        match written.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
            // It ended before it read: how it ended says more than that the pipe broke.
            Ok(()) => Ok(child),
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(child),
            Err(source) => {
                child.stop(Duration::ZERO).await?;
                Err(ProcessError::Stdin { program: self.path.clone(), source })
            }
        }
    }

    fn start(&self, stdin: Stdio) -> Result<Child, ProcessError> {
        let failed = |source| ProcessError::Spawn { program: self.path.clone(), source };
        let out = self.log.open()?;
        let err = out.try_clone().map_err(failed)?;
        // What this process opened closes on exec anyway; what *it* inherited, from a shell or a service manager, must
        // not be held open by a child that may live for weeks.
        close_fds::set_fds_cloexec_threadsafe(3, &[]);
        let mut command = CommandWrap::with_new(&self.path, |command| {
            command.args(&self.args).env_clear().envs(self.environment.iter());
            command.stdin(stdin).stdout(out).stderr(err);
        });
        let inner = command.wrap(ProcessSession).spawn().map_err(failed)?;
        let pid = inner.id().unwrap_or_default();
        let gone = || ProcessError::Identify { pid, source: io::ErrorKind::NotFound.into() };
        // Nobody waited for it yet, so its pid is its own even if it has ended already.
        let (identity, _) = identity::of_any(pid)?.ok_or_else(gone)?;
        let process = Process::pin(&identity)?.ok_or_else(gone)?;
        Ok(Child { inner, process, log: self.log.clone() })
    }
}

impl Child {
    /// Which process this is.
    #[must_use]
    pub const fn identity(&self) -> &ProcessIdentity {
        self.process.identity()
    }

    /// A handle that can signal it and see its end, and is no duty to wait for it.
    #[must_use]
    pub const fn process(&self) -> &Process {
        &self.process
    }

    /// Waits for its end, ends what is left of its group, and leaves no zombie. Meanwhile keeps its log below the cap.
    /// May be dropped and called again.
    ///
    /// # Errors
    /// When the system does not tell how it ended.
    pub async fn wait(&mut self) -> Result<Exit, ProcessError> {
        self.process.exited_with_log(&self.log).await;
        self.log.cut_and_report();
        // While the leader is a zombie the group's number is certainly still its own.
        self.process.signal_group(Signal::KILL)?;
        let pid = self.identity().pid;
        let status = self.inner.wait().await.map_err(|source| ProcessError::Wait { pid, source })?;
        Ok(status.into())
    }

    /// Asks the group to end, ends it by force after `grace`, and waits for it.
    ///
    /// # Errors
    /// When the system refuses a signal or does not tell how it ended.
    pub async fn stop(&mut self, grace: Duration) -> Result<Exit, ProcessError> {
        self.process.stop(grace).await?;
        self.wait().await
    }
}
