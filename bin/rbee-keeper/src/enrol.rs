//! Making a machine part of the fleet: the queen is told of it, and followed until its hive is online.

use std::{path::PathBuf, str::FromStr};

use fleet::{HiveId, HiveMode, Hostname, Token};
use queen_api::RegisterRequest;

use crate::{
    failure::Failure,
    follow::{self, Goal},
    place::{self, Place},
    screen::Screen,
    words,
};

/// A machine as `ssh` takes it: `user@host`, or `host`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Machine {
    pub(crate) user: Option<String>,
    pub(crate) host: Hostname,
}

impl FromStr for Machine {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (user, host) = match text.rsplit_once('@') {
            Some((user, host)) => (Some(user), host),
            None => (None, text),
        };
        // What useradd(8) lets through, and no more: the name ends up in other programs.
        let legal = |user: &str| {
            let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
            (1..=64).contains(&user.len()) && !user.starts_with('-') && user.chars().all(plain)
        };
        if let Some(user) = user.filter(|user| !legal(user)) {
            return Err(format!("{user:?} is no user name (letters, digits, `.`, `-` and `_`)"));
        }
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let host = host.parse::<Hostname>().map_err(|error| error.to_string())?;
        Ok(Self { user: user.map(str::to_owned), host })
    }
}

/// What the command line says of the machine.
#[derive(Debug, Clone)]
pub(crate) struct Wishes {
    pub(crate) machine: Machine,
    pub(crate) id: Option<HiveId>,
    pub(crate) port: Option<u16>,
    pub(crate) ssh_port: Option<u16>,
    pub(crate) key: Option<PathBuf>,
    pub(crate) mode: Option<HiveMode>,
    pub(crate) region: Option<String>,
    pub(crate) labels: Vec<String>,
    /// Where the token of a hive stands that runs already.
    pub(crate) hive_token_file: Option<PathBuf>,
    pub(crate) wait: bool,
}

impl Wishes {
    fn request(self, token: Option<&Token>) -> Result<RegisterRequest, Failure> {
        let mut request = serde_json::from_str::<RegisterRequest>("{}")
            .map_err(|error| Failure::Told(format!("an empty request is none: {error}")))?;
        request.id = self.id;
        request.hostname = Some(self.machine.host);
        request.port = self.port;
        request.mode = self.mode;
        request.token = token.map(|token| token.reveal().to_owned());
        request.ssh_user = self.machine.user;
        request.ssh_port = self.ssh_port;
        request.ssh_key_path = self.key.map(absolute).transpose()?;
        request.region = self.region;
        request.labels = self.labels;
        Ok(request)
    }
}

/// The queen has another working directory.
fn absolute(path: PathBuf) -> Result<PathBuf, Failure> {
    std::path::absolute(&path).map_err(|error| Failure::Usage(format!("{}: {error}", path.display())))
}

pub(crate) async fn run(place: &Place, wishes: Wishes, screen: &Screen) -> Result<(), Failure> {
    let token = wishes.hive_token_file.as_deref().map(place::read_token).transpose()?;
    let wait = wishes.wait;
    let request = wishes.request(token.as_ref())?;
    let queen = &place.client;
    let events = queen.events(None).await?;
    let reply = queen.register(&request).await?;
    let id = reply.hive.id.clone();
    screen.step(&if reply.created {
        format!("{id} registered")
    } else {
        format!("{id} was registered already")
    });
    if !wait {
        return screen.show(|| format!("{id}: {}", reply.hive.phase.as_str()), &reply.hive);
    }
    let hive = follow::until(queen, events, &id, Goal::ONLINE, screen).await?;
    let machine = || hive.capabilities.as_ref().map_or_else(|| "online".to_owned(), words::machine);
    screen.show(|| format!("{id}: {}", words::printable(&machine())), &hive)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_is_written_as_ssh_takes_it() {
        let read = |text: &str| text.parse::<Machine>().map(|m| (m.user, m.host.to_string()));
        assert_eq!(read("box"), Ok((None, "box".to_owned())));
        assert_eq!(read("me@192.168.1.100"), Ok((Some("me".to_owned()), "192.168.1.100".to_owned())));
        assert_eq!(read("me@[::1]"), Ok((Some("me".to_owned()), "::1".to_owned())));
        for wrong in
            ["", "@box", "me@", "-oProxyCommand=x@box", "a b@box", "me@box:22", "me@$(id)", "-box", "a@b@c"]
        {
            assert!(read(wrong).is_err(), "{wrong} was taken");
        }
    }
}
