//! Ports of this machine.

use std::{
    collections::VecDeque,
    io,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    sync::{Mutex, PoisonError},
};

use anyhow::{Context as _, bail};

/// Makes sure that somebody who is started now can listen there.
pub(crate) fn must_be_free(address: SocketAddr) -> anyhow::Result<()> {
    match TcpListener::bind(address) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            let holder = holder(address.port()).unwrap_or_else(|| "another process".to_owned());
            bail!("{address} is in use by {holder}; stop it, or choose another address with --listen")
        }
        Err(error) => Err(error).with_context(|| format!("could not listen on {address}")),
    }
}

/// Ports that were given lately. Nobody may listen there yet, so the system could give one of them again.
static GIVEN: Mutex<VecDeque<u16>> = Mutex::new(VecDeque::new());

/// How many are remembered: more than one fleet has, and far fewer than the system has to give.
const REMEMBERED: usize = 512;

/// A port that nobody uses now, and that was not given to anybody here a moment ago.
pub(crate) fn free() -> anyhow::Result<u16> {
    let mut given = GIVEN.lock().unwrap_or_else(PoisonError::into_inner);
    for _ in 0..2 * REMEMBERED {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("could not find a free port")?;
        let port = listener.local_addr()?.port();
        if !given.contains(&port) {
            given.push_back(port);
            if given.len() > REMEMBERED {
                given.pop_front();
            }
            return Ok(port);
        }
    }
    bail!("could not find a free port that is not promised to somebody already")
}

/// Pid and name of the process that listens on a port, where the system lets us see it.
#[cfg(target_os = "linux")]
fn holder(port: u16) -> Option<String> {
    use std::fs;
    let wanted = format!(":{port:04X}");
    // Fields of proc_pid_net(5): the local address is number 1, the state (0A listens) number 3, the inode number 9.
    let inode = |line: &str| {
        let fields: Vec<_> = line.split_ascii_whitespace().collect();
        let listens = fields.get(1)?.ends_with(&wanted) && *fields.get(3)? == "0A";
        listens.then(|| fields.get(9).map(|inode| format!("socket:[{inode}]")))?
    };
    let tables =
        ["/proc/net/tcp", "/proc/net/tcp6"].map(|table| fs::read_to_string(table).unwrap_or_default());
    let sockets: Vec<_> = tables.iter().flat_map(|table| table.lines().filter_map(inode)).collect();
    let holds = |pid: &u32| {
        let open = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        let mut links = open.filter_map(|fd| fs::read_link(fd.path()).ok());
        links.any(|link| sockets.iter().any(|socket| link.as_os_str() == socket.as_str()))
    };
    let entries = fs::read_dir("/proc").ok()?.flatten();
    let pid = entries.filter_map(|e| e.file_name().to_str()?.parse::<u32>().ok()).find(holds)?;
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    Some(format!("process {pid} ({})", name.trim()))
}

#[cfg(not(target_os = "linux"))]
fn holder(_port: u16) -> Option<String> {
    None
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn no_port_is_given_twice_in_a_row() {
        let ports: std::collections::BTreeSet<u16> = (0..200).map(|_| free().unwrap()).collect();
        assert_eq!(ports.len(), 200);
    }

    #[test]
    fn a_port_in_use_is_refused_with_who_uses_it() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let error = must_be_free(address).unwrap_err().to_string();
        assert!(error.contains(&format!("in use by process {}", std::process::id())), "{error}");
        drop(listener);
        must_be_free(address).unwrap();
    }
}
