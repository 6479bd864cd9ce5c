//! A real OpenSSH server for tests: `sshd` of the system on a loopback port, with keys, accounts file and configuration of its own
//! in a directory that goes away with it, and with whatever was started by way of it and writes below that directory, even if
//! the test is killed. It logs in to the account that runs the test.
//!
//! The key decision: the port is ours, and each connection is given to an `sshd -i` of its own. So there is no port to find
//! twice, and a test can drop a connection before the greeting, keep one waiting, or freeze the server behind one, without
//! touching any other process.
//!
//! It is no server for anything but tests: it trusts a key that it made itself.

mod relay;

use std::{
    collections::BTreeMap,
    env, fs, io,
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    os::{
        fd::OwnedFd,
        unix::{fs::PermissionsExt, process::CommandExt},
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
        mpsc::sync_channel,
    },
    thread::JoinHandle,
};

use rustix::process::{Pid, Signal, kill_process_group};
use warden::Ward;

pub use relay::Relay;

/// What a server does with the connections that come in next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Greeting {
    /// It serves them.
    Serve,
    /// It takes them and never says anything.
    Silence,
    /// It hangs up on so many of them, as one that is told to take few at once (`MaxStartups`), and serves the rest.
    Drop(usize),
}

/// A running server.
#[derive(Debug)]
pub struct Sshd {
    dir: Ward,
    address: SocketAddr,
    inside: Arc<Inside>,
    accepting: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Inside {
    program: PathBuf,
    config: PathBuf,
    log: PathBuf,
    greeting: Mutex<Greeting>,
    served: Mutex<BTreeMap<u32, Child>>,
    silent: Mutex<Vec<TcpStream>>,
    taken: Mutex<usize>,
    ends: AtomicBool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Where `sshd` is, if this machine has one.
#[must_use]
pub fn program() -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let dirs = env::split_paths(&path).chain(["/usr/sbin".into(), "/usr/local/sbin".into()]);
    dirs.map(|dir| dir.join("sshd")).find(|program| program.is_file())
}

impl Sshd {
    /// Starts one. `config` is added to its configuration, line by line.
    ///
    /// # Errors
    /// When this machine has no `sshd` or `ssh-keygen`, or no room.
    pub fn start(config: &[String]) -> io::Result<Self> {
        Self::start_at(config, || TcpListener::bind((Ipv4Addr::LOCALHOST, 0)), Ipv4Addr::LOCALHOST)
    }

    /// Starts one in another network namespace, at all addresses there. Whatever is started by way of it runs in there too.
    /// `namespace` is what `/proc/PID/ns/net` is, and `way` an address at which this process reaches it whatever a test does.
    ///
    /// # Errors
    /// As [`Sshd::start`], and when the namespace cannot be entered.
    #[cfg(target_os = "linux")]
    pub fn start_apart(config: &[String], namespace: fs::File, way: Ipv4Addr) -> io::Result<Self> {
        use std::os::fd::AsFd as _;

        use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
        // It is the calling thread that goes there, and what it binds and starts belongs there.
        let listen = move || {
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
            TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0))
        };
        Self::start_at(config, listen, way)
    }

    /// `listen` is called by the thread that accepts.
    fn start_at(
        config: &[String],
        listen: impl FnOnce() -> io::Result<TcpListener> + Send + 'static,
        way: Ipv4Addr,
    ) -> io::Result<Self> {
        let missing =
            "there is no sshd here; `cargo xtask test --install` gets it (openssh-server in Debian)";
        let program = program().ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, missing))?;
        let dir = Ward::new()?;
        let at = |name: &str| dir.path().join(name);
        for name in ["host_ed25519", "client"] {
            keygen(&at(name), "ed25519")?;
        }
        fs::copy(at("client.pub"), at("authorized_keys"))?;
        // The server looks for this one when root runs it, and every package makes it at boot only.
        let _ = fs::create_dir("/run/sshd");
        let shown = |name: &str| at(name).display().to_string();
        let text = format!(
            "HostKey {}\nAuthorizedKeysFile {}\nUsePAM no\nStrictModes no\nPidFile none\nLogLevel VERBOSE\n\
             PasswordAuthentication no\nKbdInteractiveAuthentication no\nPermitRootLogin yes\nPrintMotd no\n{}\n",
            shown("host_ed25519"),
            shown("authorized_keys"),
            config.join("\n"),
        );
        fs::write(at("config"), text)?;
        fs::write(at("log"), "")?;
        let inside = Arc::new(Inside {
            program,
            config: at("config"),
            log: at("log"),
            greeting: Mutex::new(Greeting::Serve),
            served: Mutex::default(),
            silent: Mutex::default(),
            taken: Mutex::default(),
            ends: AtomicBool::new(false),
        });
        let (found, port) = sync_channel(1);
        let accepts = Arc::clone(&inside);
        let accept = move || match listen().and_then(|listener| Ok((listener.local_addr()?.port(), listener)))
        {
            Ok((port, listener)) => {
                // Whoever started this waits for it.
                let _ = found.send(Ok(port));
                accepts.accept(&listener);
            }
            Err(error) => {
                let _ = found.send(Err(error));
            }
        };
        let accepting = std::thread::Builder::new().name("sshd".to_owned()).spawn(accept)?;
        let port = port.recv().map_err(io::Error::other)??;
        let sshd = Self { dir, address: (way, port).into(), inside, accepting: Some(accepting) };
        sshd.trust(&sshd.host_key()?)?;
        Ok(sshd)
    }

    /// Its port, on 127.0.0.1 unless it was started apart.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.address.port()
    }

    /// A directory of the test's own, which goes away with the server.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The private key that it lets in.
    #[must_use]
    pub fn client_key(&self) -> PathBuf {
        self.dir().join("client")
    }

    /// A known_hosts file that holds what [`Sshd::trust`] put there: at first, its own key.
    #[must_use]
    pub fn known_hosts(&self) -> PathBuf {
        self.dir().join("known_hosts")
    }

    /// Its host key, as in known_hosts.
    ///
    /// # Errors
    /// When the file is gone.
    pub fn host_key(&self) -> io::Result<String> {
        let text = fs::read_to_string(self.dir().join("host_ed25519.pub"))?;
        Ok(text.split_ascii_whitespace().take(2).collect::<Vec<_>>().join(" "))
    }

    /// Makes `known_hosts` say that this is its key, and nothing else.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn trust(&self, key: &str) -> io::Result<()> {
        fs::write(self.known_hosts(), format!("[127.0.0.1]:{} {key}\n", self.port()))
    }

    /// Lets in the key with this public half too.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn let_in(&self, public: &Path) -> io::Result<()> {
        let path = self.dir().join("authorized_keys");
        let both = fs::read_to_string(&path)? + &fs::read_to_string(public)?;
        fs::write(path, both)
    }

    /// What it wrote to its log.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(&self.inside.log).unwrap_or_default()
    }

    /// How many connections came in so far.
    #[must_use]
    pub fn taken(&self) -> usize {
        *lock(&self.inside.taken)
    }

    /// What it does with the next connections.
    pub fn greet(&self, greeting: Greeting) {
        *lock(&self.inside.greeting) = greeting;
    }

    /// Freezes the servers of all open connections; the kernel goes on to take what is sent to them.
    pub fn freeze(&self) {
        self.signal(Signal::STOP);
    }

    /// Lets them go on.
    pub fn thaw(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        for pid in lock(&self.inside.served).keys() {
            if let Some(group) = i32::try_from(*pid).ok().and_then(Pid::from_raw) {
                // It has ended when this fails.
                let _ = kill_process_group(group, signal);
            }
        }
    }
}

/// Makes a key of a kind, without a passphrase.
///
/// # Errors
/// When there is no `ssh-keygen`, or it fails.
pub fn keygen(path: &Path, kind: &str) -> io::Result<()> {
    let output = Command::new("ssh-keygen").args(["-q", "-N", "", "-t", kind, "-f"]).arg(path).output()?;
    if !output.status.success() {
        return Err(io::Error::other(String::from_utf8_lossy(&output.stderr).into_owned()));
    }
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))
}

impl Inside {
    fn accept(&self, listener: &TcpListener) {
        for stream in listener.incoming() {
            if self.ends.load(Ordering::Relaxed) {
                return;
            }
            let Ok(stream) = stream else { continue };
            *lock(&self.taken) += 1;
            let mut greeting = lock(&self.greeting);
            match *greeting {
                Greeting::Serve | Greeting::Drop(0) => {
                    drop(greeting);
                    // A connection that cannot be served is dropped, which is what a test then sees.
                    let _ = self.serve(stream);
                }
                Greeting::Silence => lock(&self.silent).push(stream),
                Greeting::Drop(more) => *greeting = Greeting::Drop(more - 1),
            }
        }
    }

    fn serve(&self, stream: TcpStream) -> io::Result<()> {
        let input = OwnedFd::from(stream.try_clone()?);
        let output = OwnedFd::from(stream);
        let log = fs::OpenOptions::new().append(true).open(&self.log)?;
        let mut served = lock(&self.served);
        served.retain(|_, child| matches!(child.try_wait(), Ok(None)));
        let child = Command::new(&self.program)
            .args(["-i", "-e", "-f"])
            .arg(&self.config)
            .stdin(Stdio::from(input))
            .stdout(Stdio::from(output))
            .stderr(log)
            .process_group(0)
            .spawn()?;
        served.insert(child.id(), child);
        Ok(())
    }
}

impl Drop for Sshd {
    fn drop(&mut self) {
        self.inside.ends.store(true, Ordering::Relaxed);
        // Wakes the thread that accepts.
        let _ = TcpStream::connect(self.address);
        if let Some(accepting) = self.accepting.take() {
            let _ = accepting.join();
        }
        self.signal(Signal::KILL);
        for mut child in std::mem::take(&mut *lock(&self.inside.served)).into_values() {
            let _ = child.wait();
        }
    }
}
