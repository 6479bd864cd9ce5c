//! Who answers there, if anybody does.

use std::time::Duration;

use ssh_lifecycle::{SshError, Verdict, host_key, remember_host_key};
use throwaway_sshd::{Greeting, keygen};

use super::*;

/// A key of a kind that the server does not have.
fn other_key(sshd: &Sshd, kind: &str) -> String {
    let path = sshd.dir().join(format!("other_{kind}"));
    keygen(&path, kind).unwrap();
    let text = fs::read_to_string(path.with_extension("pub")).unwrap();
    text.split_ascii_whitespace().take(2).collect::<Vec<_>>().join(" ")
}

#[tokio::test]
async fn a_machine_is_looked_at_without_changing_anything_there() {
    let sshd = sshd();
    let machine = probe(&destination(&sshd), &settings(&sshd)).await.unwrap();
    assert_eq!(machine.target, Some(fleet::Target::own()), "{machine:?}");
    assert_eq!(machine.dir, sshd.dir().join("remote/rbee-hive").display().to_string());
    assert!(machine.free_bytes.is_some_and(|free| free > 0) && machine.libc.is_some(), "{machine:?}");
    assert_eq!((machine.disk, machine.running), (None, None));
    assert!(!sshd.dir().join("remote").exists());
}

#[tokio::test]
async fn an_unknown_host_is_refused_until_the_command_that_is_named_was_run() {
    let sshd = sshd();
    fs::write(sshd.known_hosts(), "junk line\n").unwrap();
    let refused = probe(&destination(&sshd), &settings(&sshd)).await.unwrap_err();
    let SshError::HostKeyUnknown { key, accept, .. } = &refused else { unreachable!("{refused}") };
    assert_eq!(key.line(), sshd.host_key().unwrap());
    assert!(refused.to_string().contains(&key.fingerprint()) && !refused.is_worth_a_retry(), "{refused}");
    assert!(!sshd.log().contains("Accepted"), "nobody logged in");
    let accepted = std::process::Command::new("sh").arg("-c").arg(accept).status().unwrap();
    assert!(accepted.success());
    probe(&destination(&sshd), &settings(&sshd)).await.unwrap();
}

#[tokio::test]
async fn a_key_that_a_person_accepted_is_remembered_as_ssh_does() {
    let sshd = sshd();
    fs::write(sshd.known_hosts(), "no line feed at the end").unwrap();
    let (key, verdict) = host_key(&destination(&sshd), &settings(&sshd)).await.unwrap();
    assert_eq!(verdict, Verdict::Unknown { other_kinds: vec![] });
    let file = remember_host_key(&destination(&sshd), &settings(&sshd), &key).await.unwrap();
    assert_eq!(file, sshd.known_hosts());
    let (_, verdict) = host_key(&destination(&sshd), &settings(&sshd)).await.unwrap();
    assert!(matches!(verdict, Verdict::Known { .. }), "{verdict:?}");
}

#[tokio::test]
async fn a_changed_or_revoked_key_is_refused_before_anybody_logs_in() {
    let sshd = sshd();
    let (own, other) = (sshd.host_key().unwrap(), other_key(&sshd, "ed25519"));
    sshd.trust(&other).unwrap();
    let refused = probe(&destination(&sshd), &settings(&sshd)).await.unwrap_err();
    assert!(matches!(refused, SshError::HostKeyChanged { .. }), "{refused}");
    fs::write(sshd.known_hosts(), format!("[127.0.0.1]:{} {own}\n@revoked * {own}\n", sshd.port())).unwrap();
    let refused = probe(&destination(&sshd), &settings(&sshd)).await.unwrap_err();
    assert!(matches!(refused, SshError::HostKeyRevoked { .. }), "{refused}");
    let pinned = Destination { host_key: Some(other.parse().unwrap()), ..destination(&sshd) };
    sshd.trust(&own).unwrap();
    let refused = probe(&pinned, &settings(&sshd)).await.unwrap_err();
    assert!(
        matches!(refused, SshError::HostKeyChanged { .. }),
        "the pinned key stands above the file: {refused}"
    );
    assert!(!sshd.log().contains("Accepted") && !sshd.log().contains("publickey"), "{}", sshd.log());
    let pinned = Destination { host_key: Some(own.parse().unwrap()), ..destination(&sshd) };
    fs::write(sshd.known_hosts(), "").unwrap();
    probe(&pinned, &settings(&sshd)).await.unwrap();
}

#[tokio::test]
async fn a_host_with_several_keys_shows_the_one_that_is_known() {
    let dir = tempfile::tempdir().unwrap();
    let ecdsa = dir.path().join("host_ecdsa");
    keygen(&ecdsa, "ecdsa").unwrap();
    let sshd = Sshd::start(&[format!("HostKey {}", ecdsa.display())]).unwrap();
    let key = fs::read_to_string(ecdsa.with_extension("pub")).unwrap();
    sshd.trust(&key).unwrap();
    probe(&destination(&sshd), &settings(&sshd)).await.unwrap();
    // Known by a kind that it has not: unknown, and not changed.
    sshd.trust(&other_key(&sshd, "rsa")).unwrap();
    let refused = probe(&destination(&sshd), &settings(&sshd)).await.unwrap_err();
    assert!(
        matches!(&refused, SshError::HostKeyUnknown { other_kinds, .. } if other_kinds == &["ssh-rsa"]),
        "{refused}"
    );
}

#[tokio::test]
async fn a_server_that_never_greets_costs_its_own_bound() {
    let sshd = sshd();
    sshd.greet(Greeting::Silence);
    let mut settings = settings(&sshd);
    settings.patience.connect = Duration::from_millis(400);
    let launcher = SshLauncher::new(settings).unwrap();
    let refused = launcher.probe(&destination(&sshd)).await.unwrap_err();
    assert!(matches!(refused, SshError::Handshake { .. }) && refused.is_worth_a_retry(), "{refused}");
    until("its thread ends", || launcher.living_sessions() == 0).await;
}

#[tokio::test]
async fn a_server_that_drops_some_before_it_greets_is_tried_again() {
    let sshd = sshd();
    sshd.greet(Greeting::Drop(3));
    probe(&destination(&sshd), &settings(&sshd)).await.unwrap();
    assert_eq!(sshd.taken(), 4);
    sshd.greet(Greeting::Drop(usize::MAX));
    let refused = probe(&destination(&sshd), &settings(&sshd)).await.unwrap_err();
    assert!(matches!(refused, SshError::Handshake { .. }), "{refused}");
}

#[tokio::test]
async fn what_is_no_ssh_server_or_not_there_is_named_as_such() {
    let sshd = sshd();
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let nowhere = Destination { port: Some(closed), ..destination(&sshd) };
    let refused = probe(&nowhere, &settings(&sshd)).await.unwrap_err();
    assert!(matches!(refused, SshError::Connect { .. }) && refused.is_worth_a_retry(), "{refused}");
    let nobody = Destination { host: "no-such-host.invalid".parse().unwrap(), ..destination(&sshd) };
    let refused = probe(&nobody, &settings(&sshd)).await.unwrap_err();
    assert!(matches!(refused, SshError::Resolve { .. }), "{refused}");
    let http = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = http.local_addr().unwrap().port();
    let answering = std::thread::spawn(move || {
        use std::io::Write;
        for stream in http.incoming().take(1) {
            let _ = stream.unwrap().write_all(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n");
        }
    });
    let web = Destination { port: Some(port), ..destination(&sshd) };
    let mut settings = settings(&sshd);
    settings.patience.connect = Duration::from_secs(2);
    let refused = probe(&web, &settings).await.unwrap_err();
    assert!(matches!(refused, SshError::Handshake { .. } | SshError::Connect { .. }), "{refused}");
    answering.join().unwrap();
}
