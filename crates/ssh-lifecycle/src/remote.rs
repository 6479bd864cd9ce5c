//! A machine that is logged in to, and the running of scripts there.

use std::{
    io::{self, Read, Write},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use rustix::{
    event::{PollFd, PollFlags, poll},
    fs::Timespec,
};
use ssh2::{BlockDirections, Channel};

use crate::{
    Destination, Settings, SshError, auth, config,
    config::Resolved,
    connect, scan,
    script::{self, Answer, Script},
    session::{Beat, Peer, Session, Threads, Trouble},
};

/// No answer is longer, noise and all.
const LONGEST_ANSWER: usize = 4 * 1024 * 1024;

/// So many bytes of standard error are kept, the last ones.
const KEPT: usize = 64 * 1024;

/// So much of what was said last is kept for errors.
const SAID: usize = 400;

/// How long the socket is waited for at once.
const POLL: Timespec = Timespec { tv_sec: 0, tv_nsec: 500_000_000 };

/// libssh2's code for what would block.
const EAGAIN: i32 = -37;

/// Told how many bytes of the input were taken.
pub(crate) type Sent = Arc<dyn Fn(u64) + Send + Sync>;

/// A machine that is logged in to.
pub(crate) struct Remote {
    session: Session,
    pub(crate) to: Resolved,
    pub(crate) login: auth::Login,
    /// How long the login shell may take until it runs what it is told to.
    shell: Duration,
}

/// What the thread of the session is told to run.
struct Task {
    doing: &'static str,
    line: String,
    /// What is read first once the login shell ran it.
    begins: String,
    /// Between signs of life from then on.
    patience: Duration,
    /// Whether it is the login shell that is waited for.
    in_shell: Arc<AtomicBool>,
}

/// Steps on the way in, for whoever shows them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    Connected,
}

impl Remote {
    /// Connects, checks who it is, and logs in.
    pub(crate) async fn open(
        destination: &Destination,
        settings: &Settings,
        threads: &Threads,
        on_the_way: impl FnOnce(Way),
    ) -> Result<Self, SshError> {
        let to = config::resolve(destination, settings).await?;
        let plan = auth::plan(&to, settings)?;
        let known = scan::known_hosts(&to, destination);
        let (session, key, verdict) = connect::greet(&to, known, settings.patience.connect, threads).await?;
        scan::accept(&to, key, verdict)?;
        on_the_way(Way::Connected);
        let login = {
            let to = to.clone();
            let log_in = move |peer: &mut Peer, _: &Beat| plan.log_in(peer, &to);
            session.run("log in", settings.patience.login, log_in).await?
        };
        Ok(Self { session, to, login, shell: settings.patience.shell })
    }

    /// Runs a script and returns its answer, whatever its status.
    pub(crate) async fn run(
        &self,
        doing: &'static str,
        patience: Duration,
        script: Script,
        sent: Option<Sent>,
    ) -> Result<(Answer, i32, String), SshError> {
        let host = &self.to.host;
        let nonce = nonce();
        let text = script.render(&nonce).ok_or_else(|| SshError::Parameter { host: host.clone(), doing })?;
        let (line, lead) = (script::command_line(text.len()), text.len() as u64);
        let mut input = script.input.after(text);
        let sent: Sent = match sent {
            Some(sent) => Arc::new(move |bytes: u64| sent(bytes.saturating_sub(lead))),
            None => Arc::new(|_| {}),
        };
        let in_shell = Arc::new(AtomicBool::new(false));
        let task =
            Task { doing, line, begins: script::begins(&nonce), patience, in_shell: Arc::clone(&in_shell) };
        let job = move |peer: &mut Peer, beat: &Beat| execute(peer, &task, &mut *input, beat, &*sent);
        let output = self.session.run(doing, self.shell, job).await.map_err(|error| match error {
            SshError::Stalled { host, doing, within } if in_shell.load(Ordering::Relaxed) => {
                SshError::ShellHangs { host, user: self.to.user.clone(), doing, within }
            }
            other => other,
        })?;
        let answer = Answer::read(&output.stdout, &nonce);
        let said = output.said();
        match (answer.began, answer.status) {
            (true, Some(status)) => Ok((answer, status, said)),
            (true, None) => {
                let reason = output.signal.map_or_else(
                    || "the command there ended in the middle".to_owned(),
                    |signal| format!("the command there was ended by SIG{signal}"),
                );
                Err(SshError::Lost { host: host.clone(), doing, reason })
            }
            (false, _) => {
                let said = if said.is_empty() { tail(&output.stdout) } else { said };
                Err(SshError::Shell { host: host.clone(), user: self.to.user.clone(), doing, said })
            }
        }
    }

    /// Runs a script that has to end with status 0.
    pub(crate) async fn ask(
        &self,
        doing: &'static str,
        patience: Duration,
        script: Script,
    ) -> Result<Answer, SshError> {
        match self.run(doing, patience, script, None).await? {
            (answer, 0, _) => Ok(answer),
            (_, status, said) => Err(SshError::Failed { host: self.to.host.clone(), doing, status, said }),
        }
    }
}

/// What marks our lines. Nobody can know it beforehand, and noise does not hold it.
fn nonce() -> String {
    let mut bytes = [0; 12];
    // Without randomness it still tells our lines from noise.
    let _ = getrandom::fill(&mut bytes);
    bytes.iter().fold("rbee".to_owned(), |text, byte| format!("{text}{byte:02x}"))
}

struct Output {
    stdout: Vec<u8>,
    stderr: Vec<u8>,
    signal: Option<String>,
}

impl Output {
    /// The end of what was said on standard error.
    fn said(&self) -> String {
        tail(&self.stderr)
    }
}

fn tail(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let text = text.trim();
    let from = text.char_indices().rev().take(SAID).last().map_or(0, |(index, _)| index);
    text[from..].to_owned()
}

/// Runs a command to its end. What is read and written is interleaved: a command that is waited for on one stream may itself wait
/// for another.
fn execute(
    peer: &mut Peer,
    task: &Task,
    input: &mut (dyn Read + Send),
    beat: &Beat,
    sent: &(dyn Fn(u64) + Send + Sync),
) -> Result<Output, Trouble> {
    let mut channel = peer.ssh.channel_session()?;
    channel.exec(&task.line)?;
    beat.beat();
    task.in_shell.store(true, Ordering::Relaxed);
    peer.ssh.set_blocking(false);
    let exchanged = exchange(peer, task, &mut channel, input, beat, sent);
    // A channel that is dropped while nothing may block is never freed.
    peer.ssh.set_blocking(true);
    let mut output = exchanged?;
    channel.close()?;
    channel.wait_close()?;
    output.signal = channel.exit_signal()?.exit_signal;
    Ok(output)
}

fn exchange(
    peer: &Peer,
    task: &Task,
    channel: &mut Channel,
    input: &mut (dyn Read + Send),
    beat: &Beat,
    sent: &(dyn Fn(u64) + Send + Sync),
) -> Result<Output, Trouble> {
    let mut output = Output { stdout: Vec::new(), stderr: Vec::new(), signal: None };
    let mut writer =
        Writer { input, buffer: vec![0; 128 * 1024], filled: 0, written: 0, total: 0, state: State::Open };
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let taken = writer.push(channel)?;
        if taken {
            // Only this counts as getting on: whoever talks without an end gets no time for it.
            beat.beat();
            sent(writer.total);
            if writer.state == State::Ended {
                // All of it is on its way, and of the answer nothing was read.
                planted::step(task.doing);
            }
        }
        let known = output.stdout.len();
        let answered = drain(channel, &mut buffer, &mut output.stdout)?;
        if answered
            && task.in_shell.load(Ordering::Relaxed)
            && comes_after(&output.stdout, known, &task.begins)
        {
            task.in_shell.store(false, Ordering::Relaxed);
            beat.wait_up_to(task.patience);
        }
        if output.stdout.len() > LONGEST_ANSWER {
            return Err(Trouble::Lost(format!("it answers more than {LONGEST_ANSWER} bytes")));
        }
        let complained = drain(&mut channel.stderr(), &mut buffer, &mut output.stderr)?;
        if output.stderr.len() > 2 * KEPT {
            output.stderr.drain(..output.stderr.len() - KEPT);
        }
        if taken || answered || complained {
            continue;
        }
        if channel.eof() {
            return Ok(output);
        }
        let wanted = match peer.ssh.block_directions() {
            BlockDirections::Outbound | BlockDirections::Both => PollFlags::IN | PollFlags::OUT,
            BlockDirections::Inbound | BlockDirections::None => PollFlags::IN,
        };
        match poll(&mut [PollFd::from_borrowed_fd(peer.socket(), wanted)], Some(&POLL)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(Trouble::Lost(error.to_string())),
        }
    }
}

/// Whether a text that was not there in the first `known` bytes is there now.
fn comes_after(bytes: &[u8], known: usize, text: &str) -> bool {
    let from = known.saturating_sub(text.len());
    bytes[from..].windows(text.len()).any(|window| window == text.as_bytes())
}

/// Reads what is there; tells whether anything was.
fn drain(from: &mut impl Read, buffer: &mut [u8], into: &mut Vec<u8>) -> Result<bool, Trouble> {
    match from.read(buffer) {
        Ok(count) => {
            into.extend_from_slice(&buffer[..count]);
            Ok(count > 0)
        }
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// What goes to standard input, as far as the other side takes it.
struct Writer<'a> {
    input: &'a mut (dyn Read + Send),
    buffer: Vec<u8>,
    filled: usize,
    written: usize,
    total: u64,
    state: State,
}

#[derive(PartialEq, Eq)]
enum State {
    Open,
    /// All of it was written; the end is to be told.
    Ending,
    Ended,
}

impl Writer<'_> {
    /// Writes what is taken now; tells whether anything was.
    fn push(&mut self, channel: &mut Channel) -> Result<bool, Trouble> {
        let mut moved = false;
        while self.state == State::Open {
            if self.written == self.filled {
                self.filled = self.input.read(&mut self.buffer)?;
                self.written = 0;
                if self.filled == 0 {
                    self.state = State::Ending;
                    break;
                }
            }
            match channel.write(&self.buffer[self.written..self.filled]) {
                Ok(0) => return Ok(moved),
                Ok(count) => {
                    self.written += count;
                    self.total += count as u64;
                    moved = true;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(moved),
                // The command ended without reading to the end; its answer says why.
                Err(_) if channel.eof() => self.state = State::Ended,
                Err(error) => return Err(error.into()),
            }
            if moved {
                break;
            }
        }
        if self.state == State::Ending {
            match channel.send_eof() {
                Ok(()) => {
                    self.state = State::Ended;
                    moved = true;
                }
                Err(error) if error.code() == ssh2::ErrorCode::Session(EAGAIN) => {}
                Err(_) if channel.eof() => self.state = State::Ended,
                Err(_) => return Err(Trouble::Lost("it closed the command's input".to_owned())),
            }
        }
        Ok(moved)
    }
}
