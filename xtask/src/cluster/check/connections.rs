//! I11: where the queen has connections.

use std::fs;

use crate::cluster::fleet::Cluster;

/// Connections of hers to where no hive is registered. Looked at once, so this sees what lasts.
pub(super) fn elsewhere(cluster: &Cluster) -> Vec<String> {
    let own: Option<u16> = cluster.queen.server.base.rsplit(':').next().and_then(|port| port.parse().ok());
    let mut allowed = cluster.ports();
    // Her clients' connections have her own port at this end; a scenario may also register her as a hive.
    allowed.extend(own);
    // Real hives are launched at ports that are not the harness's to know, unless it says so in the configuration.
    if cluster.plan.real_hives > 0 || cluster.plan.network.is_some() {
        return Vec::new();
    }
    let pid = cluster.queen.running.identity().pid;
    let sockets = sockets(pid);
    let tables = ["tcp", "tcp6"].map(|table| fs::read_to_string(format!("/proc/{pid}/net/{table}")));
    let open = tables.iter().flatten().flat_map(|table| table.lines().filter_map(Connection::of));
    let hers = open.filter(|open| sockets.contains(&open.inode) && Some(open.local_port) != own);
    hers.filter(|open| !allowed.contains(&open.remote_port))
        .map(|open| format!("the queen has a connection to port {} and no hive is there", open.remote_port))
        .collect()
}

/// A line of `/proc/net/tcp`, as proc_pid_net(5) has it.
#[derive(Debug, PartialEq, Eq)]
struct Connection {
    local_port: u16,
    remote_port: u16,
    inode: String,
}

impl Connection {
    /// None for a listener, and for what is no connection.
    fn of(line: &str) -> Option<Self> {
        let fields: Vec<_> = line.split_ascii_whitespace().collect();
        let port = |at: usize| u16::from_str_radix(fields.get(at)?.rsplit(':').next()?, 16).ok();
        let (local_port, remote_port) = (port(1)?, port(2)?);
        let inode = (*fields.get(9)?).to_owned();
        (remote_port != 0).then_some(Self { local_port, remote_port, inode })
    }
}

/// The inodes of a process's sockets.
fn sockets(pid: u32) -> Vec<String> {
    let open = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    let links = open.filter_map(|fd| fs::read_link(fd.path()).ok());
    links
        .filter_map(|link| {
            let link = link.to_string_lossy();
            Some(link.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned())
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_are_told_from_listeners() {
        let open = "  1: 0100007F:A2B4 0100007F:1E9B 01 00000000:00000000 00:00000000 00000000  0 0 4711 1 0 20 4 30 10 -1";
        let listens = "  0: 0100007F:1E9A 00000000:0000 0A 00000000:00000000 00:00000000 00000000  0 0 42 1 0 100 0 0 10 0";
        let connection = Connection { local_port: 0xa2b4, remote_port: 0x1e9b, inode: "4711".to_owned() };
        assert_eq!(Connection::of(open), Some(connection));
        assert_eq!(Connection::of(listens), None);
        assert_eq!(Connection::of("sl  local_address rem_address   st"), None);
    }
}
