//! Telling the service manager how the queen stands: sd_notify(3).

use std::{
    env,
    ffi::OsStr,
    io,
    os::unix::{ffi::OsStrExt, net::UnixDatagram},
};

/// Names the socket, in the environment of a service that should notify.
const SOCKET: &str = "NOTIFY_SOCKET";

/// What the service manager is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Notice {
    /// Requests are taken.
    Ready,
    /// The queen stops. It may take its time.
    Stopping,
}

impl Notice {
    const fn message(self) -> &'static str {
        match self {
            Self::Ready => "READY=1",
            Self::Stopping => "STOPPING=1",
        }
    }
}

/// Tells whoever started this process and wants to be told; false if nobody does.
///
/// # Errors
/// What the system said of the socket.
pub fn notify(notice: Notice) -> io::Result<bool> {
    match env::var_os(SOCKET).filter(|socket| !socket.is_empty()) {
        Some(socket) => notify_at(&socket, notice).map(|()| true),
        None => Ok(false),
    }
}

/// Tells whoever listens on this socket: a path, or behind an `@` a name in the abstract namespace.
///
/// # Errors
/// What the system said of the socket.
pub fn notify_at(socket: &OsStr, notice: Notice) -> io::Result<()> {
    let datagram = UnixDatagram::unbound()?;
    // The manager reads at its leisure; a full queue must not hold the queen up.
    datagram.set_nonblocking(true)?;
    let message = notice.message().as_bytes();
    let sent = match socket.as_bytes().strip_prefix(b"@") {
        Some(name) => send_abstract(&datagram, name, message)?,
        None => datagram.send_to(message, socket)?,
    };
    if sent == message.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
}

#[cfg(target_os = "linux")]
fn send_abstract(datagram: &UnixDatagram, name: &[u8], message: &[u8]) -> io::Result<usize> {
    use std::os::{linux::net::SocketAddrExt, unix::net::SocketAddr};
    datagram.send_to_addr(message, &SocketAddr::from_abstract_name(name)?)
}

#[cfg(not(target_os = "linux"))]
fn send_abstract(_: &UnixDatagram, _: &[u8], _: &[u8]) -> io::Result<usize> {
    Err(io::ErrorKind::Unsupported.into())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn told(socket: &UnixDatagram) -> String {
        socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let mut message = [0; 64];
        let length = socket.recv(&mut message).unwrap();
        String::from_utf8_lossy(&message[..length]).into_owned()
    }

    #[test]
    fn notices_reach_a_socket_with_a_path() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        for (notice, message) in [(Notice::Ready, "READY=1"), (Notice::Stopping, "STOPPING=1")] {
            notify_at(path.as_os_str(), notice).unwrap();
            assert_eq!(told(&socket), message);
        }
        let nobody = folder.path().join("nobody");
        assert!(notify_at(nobody.as_os_str(), Notice::Ready).is_err());
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn notices_reach_an_abstract_socket() {
        use std::os::{linux::net::SocketAddrExt, unix::net::SocketAddr};
        let name = format!("queen-rbee-test-{}", std::process::id());
        let socket = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        notify_at(OsStr::new(&format!("@{name}")), Notice::Ready).unwrap();
        assert_eq!(told(&socket), "READY=1");
    }
}
