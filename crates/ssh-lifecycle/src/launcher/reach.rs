//! Whether a hive that listens can be reached from here.

use std::{net::IpAddr, time::Duration};

use hive_api::HiveFile;
use tokio::time::Instant;

use super::SshLauncher;
use crate::{SshError, machine::about, remote::Remote};

/// How often a hive that listens is asked whether it can be reached.
const LOOK: Duration = Duration::from_millis(200);

impl SshLauncher {
    /// Waits until the hive answers here for its launch.
    pub(super) async fn reach(&self, remote: &Remote, file: &HiveFile) -> Result<(), SshError> {
        let deadline = Instant::now() + self.settings.patience.reach;
        let host = &remote.to.address;
        let reason = loop {
            let reason = match self.connections.health(host, file.port, file.tls_fingerprint).await {
                Ok(health) if (&health.hive_id, &health.launch_id) == (&file.hive_id, &file.launch_id) => {
                    return Ok(());
                }
                Ok(health) => format!("hive {} of launch {} answers there", health.hive_id, health.launch_id),
                Err(error) => causes::with_causes(&error),
            };
            if Instant::now() + LOOK >= deadline {
                break reason;
            }
            tokio::time::sleep(LOOK).await;
        };
        let hint = self.hint(remote, file.port).await;
        Err(SshError::Unreachable { host: host.clone(), port: file.port, reason, hint })
    }

    /// What would help a machine whose hive cannot be reached.
    async fn hint(&self, remote: &Remote, port: u16) -> Option<String> {
        let script = about(self.settings.dir.as_str(), include_str!("../scripts/firewall.sh"));
        let answer = remote.ask("look at the firewall", self.settings.patience.command, script).await.ok()?;
        let from = answer.get("client").filter(|from| from.parse::<IpAddr>().is_ok());
        open_port(answer.get("firewall")?, port, from)
    }
}

/// The command that lets this machine through a firewall of that kind.
fn open_port(firewall: &str, port: u16, from: Option<&str>) -> Option<String> {
    let command = match (firewall, from) {
        ("ufw", Some(from)) => format!("sudo ufw allow from {from} to any port {port} proto tcp"),
        ("ufw", None) => format!("sudo ufw allow {port}/tcp"),
        ("firewalld", _) => {
            format!("sudo firewall-cmd --permanent --add-port={port}/tcp && sudo firewall-cmd --reload")
        }
        ("nft", _) => format!("sudo nft insert rule inet filter input tcp dport {port} accept"),
        ("iptables", _) => format!("sudo iptables -I INPUT -p tcp --dport {port} -j ACCEPT"),
        ("macos", _) => {
            return Some(
                "allow incoming connections for rbee-hive in System Settings, Network, Firewall".to_owned(),
            );
        }
        _ => return None,
    };
    Some(format!("If a firewall there is in the way, this lets it through:\n  {command}"))
}
