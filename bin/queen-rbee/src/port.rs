//! The queen's own port, and who has it if it is taken.

use std::{fs, io, net::SocketAddr, path::Path, time::Duration};

use tokio::{
    net::TcpListener,
    time::{Instant, sleep},
};

use crate::failure::Failure;

/// How long a port that is in use is tried. A queen that was killed in the course of starting a program leaves her sockets to
/// that program's process until it has become the program.
const PATIENCE: Duration = Duration::from_millis(500);

/// Listens, or says who does.
pub(crate) async fn listen(address: SocketAddr) -> Result<TcpListener, Failure> {
    let began = Instant::now();
    loop {
        match http_serve::bind(address) {
            Err(source) if source.kind() != io::ErrorKind::AddrInUse => {
                return Err(Failure::Port { address, holder: None, source });
            }
            Err(source) if began.elapsed() >= PATIENCE => {
                return Err(Failure::Port { address, holder: holder(address.port()), source });
            }
            Err(_) => sleep(PATIENCE / 20).await,
            Ok(listener) => return Ok(listener),
        }
    }
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
        let first = listen("127.0.0.1:0".parse().expect("an address")).await.expect("a free port");
        let address = first.local_addr().expect("an address");
        let refused = listen(address).await.expect_err("taken").to_string();
        assert!(refused.contains(&format!("pid {}", std::process::id())), "{refused}");
    }

    #[tokio::test]
    async fn a_port_that_becomes_free_at_once_is_taken() {
        let first = listen("127.0.0.1:0".parse().expect("an address")).await.expect("a free port");
        let address = first.local_addr().expect("an address");
        // The first try is made before the other side is polled.
        let freed = async { drop(first) };
        let (second, ()) = tokio::join!(biased; listen(address), freed);
        assert_eq!(second.expect("free").local_addr().expect("an address"), address);
    }
}
