//! Making a machine part of the fleet: the queen is told of it, and followed until its hive is online.

use std::path::PathBuf;

use fleet::{Desired, HiveId, HiveMode, StartPolicy, TlsFingerprint, Token};
use queen_api::{HiveInfo, RegisterRequest};
use serde::Serialize;
use ssh_lifecycle::Destination;

use crate::{
    failure::Failure,
    first_token::{self, FirstToken},
    follow::{self, Goal},
    hives, host_key,
    place::{self, Place},
    screen::Screen,
    words,
};

/// What lets the queen in to a hive that somebody started by hand.
#[derive(Debug, Clone)]
pub(crate) struct Attach {
    /// Where its token stands.
    pub(crate) token_file: PathBuf,
    /// Its certificate's fingerprint.
    pub(crate) pin: Option<TlsFingerprint>,
}

/// What the command line says of the machine.
#[derive(Debug, Clone)]
pub(crate) struct Wishes {
    /// The machine, and what of its SSH server and login was said with it.
    pub(crate) machine: Destination,
    pub(crate) id: Option<HiveId>,
    pub(crate) port: Option<u16>,
    pub(crate) mode: Option<HiveMode>,
    pub(crate) region: Option<String>,
    pub(crate) labels: Vec<String>,
    pub(crate) start: StartPolicy,
    /// A hive that runs there already.
    pub(crate) attach: Option<Attach>,
    pub(crate) wait: bool,
}

impl Wishes {
    /// Whether the queen logs in to another machine.
    fn is_remote(&self) -> bool {
        let mode = self.mode.unwrap_or_else(|| HiveMode::detect(&self.machine.host));
        mode == HiveMode::Network && self.attach.is_none()
    }

    fn request(self, token: Option<&Token>) -> Result<RegisterRequest, Failure> {
        let mut request = serde_json::from_str::<RegisterRequest>("{}")
            .map_err(|error| Failure::Told(format!("an empty request is none: {error}")))?;
        request.id = self.id;
        request.hostname = Some(self.machine.host);
        request.port = self.port;
        request.mode = self.mode;
        request.token = token.map(|token| token.reveal().to_owned());
        request.tls_fingerprint = self.attach.and_then(|attach| attach.pin);
        request.ssh_user = self.machine.user.map(|user| user.to_string());
        request.ssh_port = self.machine.port;
        request.ssh_key_path = self.machine.key_path.map(absolute).transpose()?;
        request.region = self.region;
        request.labels = self.labels;
        request.start = (self.start != StartPolicy::Always).then_some(self.start);
        Ok(request)
    }
}

/// The queen has another working directory.
fn absolute(path: PathBuf) -> Result<PathBuf, Failure> {
    std::path::absolute(&path).map_err(|error| Failure::Usage(format!("{}: {error}", path.display())))
}

/// A hive that was added, and how fast it is.
#[derive(Serialize)]
struct Added<'a> {
    #[serde(flatten)]
    hive: &'a HiveInfo,
    first_token: &'a FirstToken,
}

pub(crate) async fn run(place: &Place, wishes: Wishes, screen: &Screen) -> Result<(), Failure> {
    let queen = &place.client;
    // Before anything is asked of the machine: without a queen nothing comes of it.
    let events = queen.events(None).await?;
    let token = wishes.attach.as_ref().map(|attach| place::read_token(&attach.token_file)).transpose()?;
    // Nothing comes of waiting for one that waits itself.
    let wait = wishes.wait && wishes.start == StartPolicy::Always;
    if wishes.is_remote() && place.here().is_some() {
        host_key::settle(&wishes.machine, &place.ssh()?, screen).await?;
    }
    let request = wishes.request(token.as_ref())?;
    let reply = queen.register(&request).await?;
    let id = reply.hive.id.clone();
    screen.step(&if reply.created {
        format!("{id} registered")
    } else {
        format!("{id} was registered already")
    });
    if !wait {
        let stands = match reply.hive.start {
            StartPolicy::Always => reply.hive.phase.as_str(),
            StartPolicy::OnDemand => "is started when a request needs it",
        };
        return screen.show(|| format!("{id}: {stands}"), &reply.hive);
    }
    if reply.hive.desired != Desired::Running {
        // It does not come online by itself, however long one waits.
        let stands = hives::stands(&reply.hive);
        let told =
            format!("{id} is {stands}, as it was told to be; `rbee hive start {id}` takes it back to work");
        return screen.show(|| told, &reply.hive);
    }
    let hive = follow::until(queen, events, &id, Goal::ONLINE, screen).await?;
    let first_token = first_token::measure(queen, &id, screen).await;
    let machine = hive.capabilities.as_ref().map_or_else(|| "online".to_owned(), words::machine);
    let line = format!("{id}: {machine} · {}", first_token.told());
    screen.show(|| words::printable(&line), &Added { hive: &hive, first_token: &first_token })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_said_of_a_machine_is_what_the_queen_is_told() {
        let mut machine: Destination = "ann@box:2222".parse().unwrap();
        machine.key_path = Some("/keys/box".into());
        let wishes = Wishes {
            machine,
            id: Some("gpu-1".parse().unwrap()),
            port: Some(7900),
            mode: None,
            region: Some("home".to_owned()),
            labels: vec!["gpu".to_owned()],
            start: StartPolicy::OnDemand,
            attach: None,
            wait: true,
        };
        assert!(wishes.is_remote());
        let request = wishes.clone().request(None).unwrap();
        insta::assert_snapshot!("another_machine", serde_json::to_string_pretty(&request).unwrap());
        let pin = Some(TlsFingerprint::new([7; 32]));
        let attach = Some(Attach { token_file: "/nowhere".into(), pin });
        let machine = "192.168.1.100".parse().unwrap();
        let attached = Wishes { machine, start: StartPolicy::Always, attach, ..wishes };
        assert!(!attached.is_remote(), "nobody logs in there");
        let token = "0123456789abcdef".parse().unwrap();
        let request = attached.request(Some(&token)).unwrap();
        insta::assert_snapshot!("attached", serde_json::to_string_pretty(&request).unwrap());
    }
}
