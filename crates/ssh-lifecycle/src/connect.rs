//! From a host's name to a session with the right host.

use std::{
    collections::hash_map::RandomState,
    hash::{BuildHasher, Hasher},
    net::{SocketAddr, TcpStream, ToSocketAddrs},
    time::Duration,
};

use socket2::{SockRef, TcpKeepalive};
use tokio::{
    io::AsyncReadExt,
    time::{Instant, timeout, timeout_at},
};

use crate::{
    Destination, HostKey, KnownHosts, Settings, SshError, Verdict,
    config::{self, Resolved},
    session::{Peer, Session, Threads, Trouble},
};

/// Kinds of host key, and the algorithms that use them, in our order. `ssh-rsa` with SHA-1 is not among them, as in ssh.
const ALGORITHMS: &[(&str, &str)] = &[
    ("ssh-ed25519", "ssh-ed25519"),
    ("ecdsa-sha2-nistp256", "ecdsa-sha2-nistp256"),
    ("ecdsa-sha2-nistp384", "ecdsa-sha2-nistp384"),
    ("ecdsa-sha2-nistp521", "ecdsa-sha2-nistp521"),
    ("ssh-rsa", "rsa-sha2-512,rsa-sha2-256"),
];

/// Sessions that a busy server drops before it greets (`MaxStartups`) are tried again this often.
const ATTEMPTS: u32 = 4;

/// A dead link shows within these, also while nothing is sent.
const KEEPALIVE_AFTER: Duration = Duration::from_secs(10);
const KEEPALIVE_EVERY: Duration = Duration::from_secs(5);
#[cfg(target_os = "linux")]
const UNACKNOWLEDGED: Duration = Duration::from_secs(20);

/// Connects, agrees on keys, and says what is known of the key that the host showed. Nothing of ours was sent yet.
pub(crate) async fn greet(
    to: &Resolved,
    known: KnownHosts,
    within: Duration,
    threads: &Threads,
) -> Result<(Session, HostKey, Verdict), SshError> {
    let deadline = Instant::now() + within;
    let addresses = addresses(to, deadline).await?;
    let mut attempt = 1;
    loop {
        let stream = connect(to, &addresses, deadline).await?;
        let session = Session::start(to.host.clone(), stream, threads)?;
        let left = deadline.saturating_duration_since(Instant::now());
        let (name, known) = (to.lookup_name.clone(), known.clone());
        let (host, port) = (to.host.clone(), to.port);
        let greeted = session
            .run("agree on keys", left, move |peer, _| {
                let key = handshake(peer, &known.kinds(&name))?;
                let verdict = known.judge(&name, &key);
                Ok((key, verdict))
            })
            .await;
        match greeted {
            Ok((key, verdict)) => return Ok((session, key, verdict)),
            Err(SshError::Lost { reason, .. }) => {
                let pause = backoff(attempt);
                if attempt >= ATTEMPTS || !was_dropped(&reason) || Instant::now() + pause >= deadline {
                    return Err(SshError::Handshake { host, port, reason });
                }
                attempt += 1;
                tokio::time::sleep(pause).await;
            }
            Err(SshError::Stalled { .. }) => {
                let reason = format!("it did not greet and agree within {} s", within.as_secs_f64());
                return Err(SshError::Handshake { host, port, reason });
            }
            Err(error) => return Err(error),
        }
    }
}

/// Whether an SSH server answers there. Nothing is said to it.
pub(crate) async fn says_hello(destination: &Destination, settings: &Settings) -> bool {
    let Ok(to) = config::resolve(destination, settings).await else { return false };
    let Ok(mut stream) = tokio::net::TcpStream::connect((to.address.as_str(), to.port)).await else {
        return false;
    };
    let mut greeting = [0; 4];
    stream.read_exact(&mut greeting).await.is_ok() && &greeting == b"SSH-"
}

/// Whether the server hung up before it said anything, which it may not do the next time.
fn was_dropped(reason: &str) -> bool {
    ["banner", "disconnect", "socket"].iter().any(|word| reason.to_ascii_lowercase().contains(word))
}

/// Doubles, with up to half of it more by chance, so that many do not come back at once.
fn backoff(attempt: u32) -> Duration {
    let base = Duration::from_millis(150) * 2_u32.pow(attempt - 1);
    let chance = RandomState::new().build_hasher().finish() % 1000;
    base + base.mul_f64(chance as f64 / 2000.0)
}

fn handshake(peer: &mut Peer, known_kinds: &[String]) -> Result<HostKey, Trouble> {
    let is_known = |kind: &str| known_kinds.iter().any(|known| known == kind);
    let known = ALGORITHMS.iter().filter(|(kind, _)| is_known(kind));
    let others = ALGORITHMS.iter().filter(|(kind, _)| !is_known(kind));
    let algorithms: Vec<&str> = known.chain(others).map(|(_, algorithms)| *algorithms).collect();
    peer.ssh.method_pref(ssh2::MethodType::HostKey, &algorithms.join(","))?;
    peer.ssh.handshake()?;
    let blob = peer.ssh.host_key().map(|(blob, _)| HostKey::from_blob(blob));
    blob.and_then(Result::ok)
        .ok_or_else(|| Trouble::Lost("it showed no host key that can be read".to_owned()))
}

/// The host's addresses. The system's resolver cannot be interrupted, so a thread waits for it that nobody waits for.
async fn addresses(to: &Resolved, deadline: Instant) -> Result<Vec<SocketAddr>, SshError> {
    let failed = |reason: String| SshError::Resolve { host: to.host.clone(), reason };
    let (sender, found) = tokio::sync::oneshot::channel();
    let asked = (to.address.as_str().to_owned(), to.port);
    let ask = move || {
        let found = asked.to_socket_addrs().map(|found| found.collect::<Vec<_>>());
        // Nobody waits any more when it took too long.
        let _ = sender.send(found);
    };
    let thread = std::thread::Builder::new().name("ssh resolve".to_owned()).spawn(ask);
    thread.map_err(|error| failed(error.to_string()))?;
    match timeout_at(deadline, found).await {
        Err(_) => Err(failed("the name service does not answer".to_owned())),
        Ok(Err(_)) => Err(failed("the name service failed".to_owned())),
        Ok(Ok(Err(error))) => Err(failed(error.to_string())),
        Ok(Ok(Ok(found))) if found.is_empty() => Err(failed("the name service knows none".to_owned())),
        Ok(Ok(Ok(found))) => Ok(found),
    }
}

async fn connect(to: &Resolved, addresses: &[SocketAddr], deadline: Instant) -> Result<TcpStream, SshError> {
    let failed = |reason: String| SshError::Connect { host: to.host.clone(), port: to.port, reason };
    let mut reason = "no time was left".to_owned();
    for (index, address) in addresses.iter().enumerate() {
        let left = deadline.saturating_duration_since(Instant::now());
        // One dead address may not take the time of those after it.
        let share = left / u32::try_from(addresses.len() - index).unwrap_or(1);
        match timeout(share, tokio::net::TcpStream::connect(address)).await {
            Ok(Ok(stream)) => {
                let stream = stream.into_std().and_then(|stream| {
                    stream.set_nonblocking(false)?;
                    keep_alive(&stream)?;
                    Ok(stream)
                });
                return stream.map_err(|error| failed(error.to_string()));
            }
            Ok(Err(error)) => reason = error.to_string(),
            Err(_) => reason = format!("no answer within {} s", share.as_secs_f64()),
        }
    }
    Err(failed(reason))
}

fn keep_alive(stream: &TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    socket
        .set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEPALIVE_AFTER).with_interval(KEEPALIVE_EVERY))?;
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(UNACKNOWLEDGED))?;
    Ok(())
}
