//! The queen's own port, and who has it if it is taken.

use std::{fs, io, net::SocketAddr, path::Path};

use tokio::net::TcpListener;

use crate::failure::Failure;

/// Listens, or says who does.
pub(crate) fn listen(address: SocketAddr) -> Result<TcpListener, Failure> {
    http_serve::bind(address).map_err(|source| {
        let holder = (source.kind() == io::ErrorKind::AddrInUse).then(|| holder(address.port())).flatten();
        Failure::Port { address, holder, source }
    })
}

/// The process that listens on a port of this machine, as `name (pid N)`. Linux only, and only what this user may see.
pub(crate) fn holder(port: u16) -> Option<String> {
    let sockets: Vec<String> = ["/proc/net/tcp", "/proc/net/tcp6"]
        .iter()
        .filter_map(|table| fs::read_to_string(table).ok())
        .flat_map(|table| listening(&table, port))
        .map(|inode| format!("socket:[{inode}]"))
        .collect();
    let processes = fs::read_dir("/proc").ok()?.filter_map(Result::ok);
    let holder =
        processes.filter(|entry| entry.file_name().to_string_lossy().bytes().all(|b| b.is_ascii_digit()));
    holder.map(|entry| entry.path()).find(|process| holds(process, &sockets)).map(|process| {
        let name = fs::read_to_string(process.join("comm")).unwrap_or_default();
        let pid = process.file_name().unwrap_or_default().to_string_lossy().into_owned();
        format!("{} (pid {pid})", name.trim())
    })
}

fn holds(process: &Path, sockets: &[String]) -> bool {
    let Ok(descriptors) = fs::read_dir(process.join("fd")) else { return false };
    let mut targets = descriptors.filter_map(Result::ok).filter_map(|fd| fs::read_link(fd.path()).ok());
    targets.any(|target| sockets.iter().any(|socket| target.as_os_str() == socket.as_str()))
}

/// Inodes of the sockets in a `/proc/net/tcp` table that listen on a port.
fn listening(table: &str, port: u16) -> Vec<String> {
    let row = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let local = fields.get(1)?.rsplit_once(':')?.1;
        // State 0A is LISTEN.
        let matches = u16::from_str_radix(local, 16).ok()? == port && *fields.get(3)? == "0A";
        matches.then(|| fields.get(9).map(|inode| (*inode).to_owned()))?
    };
    table.lines().skip(1).filter_map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_taken_port_names_its_holder() {
        let first = listen("127.0.0.1:0".parse().expect("an address")).expect("a free port");
        let address = first.local_addr().expect("an address");
        let refused = listen(address).expect_err("taken").to_string();
        assert!(refused.contains(&format!("pid {}", std::process::id())), "{refused}");
    }
}
