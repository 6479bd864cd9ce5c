//! Where the queen is, and what it wants to see.

use std::{
    env, fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::PathBuf,
};

use fleet::Token;
use queen_client::QueenClient;
use queen_config::{Config, Flags};
use ssh_lifecycle::Settings;

use crate::failure::Failure;

/// Names the queen, as `--queen` does.
const QUEEN: &str = "RBEE_QUEEN";

/// Holds the queen's token.
const TOKEN: &str = "QUEEN_RBEE_TOKEN";

/// What the command line says of it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Wishes {
    pub(crate) queen: Option<String>,
    pub(crate) token_file: Option<PathBuf>,
    pub(crate) config: Option<PathBuf>,
    pub(crate) data_dir: Option<PathBuf>,
}

/// Where the queen is.
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) client: QueenClient,
    wishes: Wishes,
    /// Whether somebody named the queen, instead of letting it be found.
    named: bool,
}

impl Place {
    /// The queen that was named, else the one of this user's configuration. The token of that configuration goes to that
    /// queen only, never to one that was named.
    pub(crate) fn find(mut wishes: Wishes) -> Result<Self, Failure> {
        wishes.queen = wishes.queen.or_else(|| variable(QUEEN));
        let named = wishes.queen.is_some();
        let given = given_token(&wishes)?;
        let (address, token) = match &wishes.queen {
            Some(queen) => (queen.clone(), given),
            None => {
                let config = configuration(&wishes, None)?;
                (format!("http://{}", reachable(config.listen)), given.or(config.token))
            }
        };
        let client = QueenClient::new(&address, token)?;
        Ok(Self { client, wishes, named })
    }

    /// The queen's address and port, if it would run on this machine.
    pub(crate) fn here(&self) -> Option<SocketAddr> {
        let authority = self.client.address().strip_prefix("http://")?;
        if let Ok(address) = authority.parse::<SocketAddr>() {
            return address.ip().to_canonical().is_loopback().then_some(address);
        }
        let (host, port) = authority.rsplit_once(':').unwrap_or((authority, "80"));
        let loopback = host == "localhost" || host.parse::<Ipv4Addr>().is_ok_and(|ip| ip.is_loopback());
        loopback.then(|| Some(SocketAddr::from((Ipv4Addr::LOCALHOST, port.parse().ok()?))))?
    }

    /// The configuration that a queen started here has.
    pub(crate) fn configuration(&self) -> Result<Config, Failure> {
        configuration(&self.wishes, self.listen())
    }

    /// How a queen with that configuration logs in to other machines, and where it keeps things there.
    pub(crate) fn ssh(&self) -> Result<Settings, Failure> {
        let config = self.configuration()?;
        let mut settings =
            Settings { passphrase_file: config.ssh.passphrase_file.clone(), ..Settings::default() };
        if let Some(dir) = &config.ssh.dir {
            settings.dir = dir.parse().map_err(|error| Failure::Usage(format!("ssh.dir: {error}")))?;
        }
        Ok(settings)
    }

    /// The arguments that give a queen that configuration.
    pub(crate) fn arguments(&self) -> Vec<std::ffi::OsString> {
        let mut arguments = Vec::new();
        let mut add = |flag: &str, value: std::ffi::OsString| arguments.extend([flag.into(), value]);
        if let Some(config) = &self.wishes.config {
            add("--config", config.into());
        }
        if let Some(data_dir) = &self.wishes.data_dir {
            add("--data-dir", data_dir.into());
        }
        if let Some(listen) = self.listen() {
            add("--listen", listen.into());
        }
        arguments
    }

    fn listen(&self) -> Option<String> {
        self.here().filter(|_| self.named).map(|address| address.to_string())
    }
}

fn configuration(wishes: &Wishes, listen: Option<String>) -> Result<Config, Failure> {
    let Wishes { config, data_dir, .. } = wishes.clone();
    Ok(queen_config::load(&Flags { config, data_dir, listen, ..Flags::default() })?)
}

fn variable(name: &str) -> Option<String> {
    env::var(name).ok().filter(|text| !text.is_empty())
}

fn given_token(wishes: &Wishes) -> Result<Option<Token>, Failure> {
    match (&wishes.token_file, variable(TOKEN)) {
        (Some(file), _) => read_token(file).map(Some),
        (None, Some(text)) => {
            text.trim().parse().map(Some).map_err(|error| Failure::Usage(format!("{TOKEN}: {error}")))
        }
        (None, None) => Ok(None),
    }
}

/// The token that stands in a file, alone. No error shows a part of it.
pub(crate) fn read_token(file: &std::path::Path) -> Result<Token, Failure> {
    let told =
        |error: &dyn std::fmt::Display| Failure::Usage(format!("token file {}: {error}", file.display()));
    let text = fs::read_to_string(file).map_err(|error| told(&error))?;
    text.trim().parse().map_err(|error| told(&error))
}

/// Where a queen of this machine is reached that listens there.
fn reachable(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, listen.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn here(queen: &str) -> Option<String> {
        let client = QueenClient::new(queen, None).unwrap();
        Place { client, wishes: Wishes::default(), named: true }.here().map(|address| address.to_string())
    }

    #[test]
    fn a_queen_is_started_at_loopback_addresses_only() {
        for (queen, address) in [
            ("127.0.0.1:7833", Some("127.0.0.1:7833")),
            ("http://localhost:9000", Some("127.0.0.1:9000")),
            ("[::1]:7833", Some("[::1]:7833")),
            ("box:7833", None),
            ("192.168.1.2:7833", None),
            ("localhost.example:7833", None),
        ] {
            assert_eq!(here(queen).as_deref(), address, "{queen}");
        }
    }

    #[test]
    fn a_queen_that_listens_everywhere_is_reached_at_loopback() {
        for (listen, address) in [
            ("0.0.0.0:7833", "127.0.0.1:7833"),
            ("[::]:7833", "[::1]:7833"),
            ("192.168.1.2:80", "192.168.1.2:80"),
        ] {
            assert_eq!(reachable(listen.parse().unwrap()).to_string(), address);
        }
    }
}
