//! What people read.

use std::{error::Error as _, fmt::Write as _, time::Duration};

use fleet::{HiveExit, Hostname, Target};
use ssh_lifecycle::{BundleError, Destination, Disk, HostKey, KeyFault, Place, SshError};

fn key() -> HostKey {
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f".parse().unwrap()
}

fn of_reaching() -> Vec<SshError> {
    let host: Hostname = "box".parse().unwrap();
    let (port, at) = (22, Place::Line { file: "/home/ann/.ssh/known_hosts".into(), line: 7 });
    let source = "a;id@box".parse::<Destination>().unwrap_err();
    let accept = format!("echo 'box {}' >> '/home/ann/.ssh/known_hosts'", key().line());
    let refused = |reason: &str| reason.to_owned();
    vec![
        SshError::Destination { host: host.clone(), source },
        SshError::Config {
            host: host.clone(),
            reason: refused("line 3: Bad configuration option: nonsense"),
        },
        SshError::Unsupported { host: host.clone(), option: "proxyjump", value: "ann@gate".into() },
        SshError::Resolve { host: host.clone(), reason: refused("Name or service not known") },
        SshError::Connect { host: host.clone(), port, reason: refused("Connection refused") },
        SshError::Handshake {
            host: host.clone(),
            port: 2222,
            reason: refused("it did not greet and agree within 10 s"),
        },
        SshError::HostKeyUnknown {
            host: host.clone(),
            port,
            key: key(),
            other_kinds: vec!["ssh-rsa".into()],
            accept,
        },
        SshError::HostKeyChanged { host: host.clone(), port, key: key(), at: at.clone() },
        SshError::HostKeyRevoked { host: host.clone(), port, key: key(), at },
        SshError::Stalled { host: host.clone(), doing: "log in", within: Duration::from_secs(10) },
        SshError::Lost {
            host: host.clone(),
            doing: "bring a file",
            reason: refused("Connection reset by peer"),
        },
        SshError::Own { host, reason: refused("Resource temporarily unavailable") },
    ]
}

fn of_logging_in() -> Vec<SshError> {
    let (host, user): (Hostname, ssh_lifecycle::RemoteUser) =
        ("box".parse().unwrap(), "ann".parse().unwrap());
    let path = std::path::PathBuf::from("/home/ann/.ssh/id");
    let faults = [
        KeyFault::Missing,
        KeyFault::Unreadable("Permission denied (os error 13)".into()),
        KeyFault::TooOpen { path: path.clone(), mode: 0o644 },
        KeyFault::PublicHalf,
        KeyFault::Putty,
        KeyFault::SecurityKey("sk-ssh-ed25519@openssh.com".into()),
        KeyFault::Kind("ssh-dss".into()),
        KeyFault::Cipher("aes256-gcm@openssh.com".into()),
        KeyFault::NotAKey,
        KeyFault::PassphraseMissing,
        KeyFault::PassphraseWrong("/etc/queen/passphrase".into()),
    ];
    let of_key = |fault| SshError::Key { host: host.clone(), path: path.clone(), fault };
    let mut errors: Vec<SshError> = faults.into_iter().map(of_key).collect();
    errors.extend([
        SshError::NoKey { host: host.clone(), user: user.clone(), looked: vec![] },
        SshError::Refused {
            host: host.clone(),
            user: user.clone(),
            tried: vec!["the key /home/ann/.ssh/id".into()],
            offers: "publickey,password".into(),
        },
        SshError::ShellHangs {
            host: host.clone(),
            user: user.clone(),
            doing: "look at the machine",
            within: Duration::from_secs(10),
        },
        SshError::Shell {
            host,
            user,
            doing: "look at the machine",
            said: "This account is not available.".into(),
        },
    ]);
    errors
}

fn of_bringing() -> Vec<SshError> {
    let host: Hostname = "box".parse().unwrap();
    let dir = "/home/ann/.local/share/rbee-hive".to_owned();
    let target: Target = "linux-aarch64".parse().unwrap();
    let missing = BundleError::Missing { target, tried: vec!["/opt/hives/linux-aarch64/rbee-hive".into()] };
    let own = Some("linux-x86_64".parse().unwrap());
    let foreign = BundleError::Foreign { path: "/opt/rbee-hive".into(), target, built: own };
    vec![
        SshError::Machine { host: host.clone(), system: "FreeBSD".into(), arch: "amd64".into() },
        SshError::Bundle { host: host.clone(), source: missing },
        SshError::Bundle { host: host.clone(), source: foreign },
        SshError::Disk { host: host.clone(), dir: dir.clone(), disk: Disk::Full },
        SshError::Disk { host: host.clone(), dir: dir.clone(), disk: Disk::NoExec },
        SshError::Room { host: host.clone(), dir, free: 12, need: 98 },
        SshError::Damaged {
            host: host.clone(),
            file: "rbee-hive".into(),
            bytes: "7".into(),
            sha256: "00ff".into(),
        },
        SshError::Smoke {
            host: host.clone(),
            system: "linux-aarch64, musl".into(),
            said: "not found".into(),
        },
        SshError::Failed {
            host: host.clone(),
            doing: "make the hive ready",
            status: 1,
            said: "mv: no".into(),
        },
        SshError::Answer { host: host.clone(), doing: "look at the machine", field: "dir" },
        SshError::Parameter { host, doing: "start the hive" },
    ]
}

fn of_starting() -> Vec<SshError> {
    let host: Hostname = "box".parse().unwrap();
    let (dir, by) = ("/home/ann/hive".to_owned(), "attic".parse().unwrap());
    let (launch, wanted) = ("l-7".to_owned(), "box".parse().unwrap());
    let exit = HiveExit { code: Some(73), signal: None, log_tail: vec!["another hive holds it".into()] };
    let hint =
        Some("If a firewall there is in the way, this lets it through:\n  sudo ufw allow 7835/tcp".into());
    vec![
        SshError::Occupied { host: host.clone(), dir: dir.clone(), by, launch, wanted },
        SshError::StillRuns { host: host.clone(), by: "box".parse().unwrap() },
        SshError::NotOurs { host: host.clone(), dir },
        SshError::Exited { host: host.clone(), exit },
        SshError::NotListening { host: host.clone(), within: Duration::from_secs(20), log_tail: vec![] },
        SshError::Unreachable { host, port: 7835, reason: "no answer within 2 s".into(), hint },
    ]
}

fn shown(errors: Vec<SshError>) -> String {
    let mut text = String::new();
    for error in errors {
        write!(text, "{}{error}", if error.is_worth_a_retry() { "[again] " } else { "" }).unwrap();
        let mut cause = error.source();
        while let Some(error) = cause {
            write!(text, ": {error}").unwrap();
            cause = error.source();
        }
        text.push('\n');
    }
    text
}

#[test]
fn every_error_says_what_happened_where_and_what_to_do() {
    insta::assert_snapshot!("reaching", shown(of_reaching()));
    insta::assert_snapshot!("logging_in", shown(of_logging_in()));
    insta::assert_snapshot!("bringing", shown(of_bringing()));
    insta::assert_snapshot!("starting", shown(of_starting()));
}
