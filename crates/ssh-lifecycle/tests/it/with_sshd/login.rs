//! Keys, passphrases and agents.

use std::process::{Child, Command, Stdio};

use ssh_lifecycle::{KeyFault, SshError};

use super::*;

fn keygen(sshd: &Sshd, name: &str, args: &[&str]) -> PathBuf {
    let path = sshd.dir().join(name);
    let made = Command::new("ssh-keygen").args(["-q", "-f"]).arg(&path).args(args).status().unwrap();
    assert!(made.success());
    path
}

fn with_key(sshd: &Sshd, key: PathBuf) -> Destination {
    Destination { key_path: Some(key), ..destination(sshd) }
}

#[tokio::test]
async fn keys_of_every_usual_kind_open_the_door() {
    let sshd = sshd();
    let kinds: [(&str, &[&str]); 4] = [
        ("ed25519", &["-t", "ed25519", "-N", ""]),
        ("ecdsa", &["-t", "ecdsa", "-N", ""]),
        ("rsa", &["-t", "rsa", "-b", "3072", "-N", ""]),
        ("rsa_pem", &["-t", "rsa", "-b", "2048", "-m", "PEM", "-N", ""]),
    ];
    for (name, args) in kinds {
        let key = keygen(&sshd, name, args);
        sshd.let_in(&key.with_extension("pub")).unwrap();
        let found = probe(&with_key(&sshd, key), &settings(&sshd)).await;
        assert!(found.is_ok(), "{name}: {}", found.unwrap_err());
    }
}

#[tokio::test]
async fn a_passphrase_comes_from_a_file_and_faults_of_it_are_told_apart() {
    let sshd = sshd();
    let key = keygen(&sshd, "locked", &["-t", "ed25519", "-N", "open sesame"]);
    sshd.let_in(&key.with_extension("pub")).unwrap();
    let to = with_key(&sshd, key);
    let fault = |error: SshError| match error {
        SshError::Key { fault, .. } => fault,
        other => unreachable!("{other}"),
    };
    let mut settings = settings(&sshd);
    let missing = probe(&to, &settings).await.unwrap_err();
    assert_eq!(fault(missing), KeyFault::PassphraseMissing);
    assert_eq!(sshd.taken(), 0, "nothing was connected for that");
    let file = sshd.dir().join("passphrase");
    fs::write(&file, "wrong\n").unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    settings.passphrase_file = Some(file.clone());
    let wrong = probe(&to, &settings).await.unwrap_err();
    assert!(!wrong.to_string().contains("wrong\n") && !wrong.is_worth_a_retry(), "{wrong}");
    assert_eq!(fault(wrong), KeyFault::PassphraseWrong(file.clone()));
    fs::write(&file, "open sesame\n").unwrap();
    probe(&to, &settings).await.unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    assert!(matches!(fault(probe(&to, &settings).await.unwrap_err()), KeyFault::TooOpen { .. }));
}

#[tokio::test]
async fn a_key_that_cannot_be_used_is_named_before_anything_is_connected() {
    let sshd = sshd();
    let open = keygen(&sshd, "open", &["-t", "ed25519", "-N", ""]);
    fs::set_permissions(&open, fs::Permissions::from_mode(0o644)).unwrap();
    for (path, part) in [
        (sshd.dir().join("none"), "there is no such file"),
        (open.clone(), "chmod 600"),
        (open.with_extension("pub"), "public half"),
        (sshd.known_hosts(), "no private key"),
    ] {
        let refused = probe(&with_key(&sshd, path), &settings(&sshd)).await.unwrap_err();
        assert!(refused.to_string().contains(part) && !refused.is_worth_a_retry(), "{refused}");
    }
    assert_eq!(sshd.taken(), 0);
}

#[tokio::test]
async fn a_key_that_the_server_does_not_know_is_refused_with_what_would_help() {
    let sshd = sshd();
    let stranger = keygen(&sshd, "stranger", &["-t", "ed25519", "-N", ""]);
    let refused = probe(&with_key(&sshd, stranger), &settings(&sshd)).await.unwrap_err();
    assert!(matches!(refused, SshError::Refused { .. }), "{refused}");
    assert!(refused.to_string().contains("ssh-copy-id") && !refused.is_worth_a_retry(), "{refused}");
    let no_key = Destination { key_path: None, ..destination(&sshd) };
    let mut settings = settings(&sshd);
    let config = format!("IdentityFile {}\n", sshd.dir().join("none").display());
    fs::write(settings.ssh_config.as_ref().unwrap(), config).unwrap();
    let refused = probe(&no_key, &settings).await.unwrap_err();
    assert!(matches!(refused, SshError::NoKey { .. }), "{refused}");
    let config = format!("Host 127.0.0.1\n  IdentityFile {}\n", sshd.client_key().display());
    fs::write(settings.ssh_config.as_ref().unwrap(), config).unwrap();
    probe(&no_key, &settings).await.unwrap();
    settings.agent = true;
    probe(&no_key, &settings).await.unwrap();
}

struct Agent {
    child: Child,
    socket: PathBuf,
}

impl Agent {
    fn start(dir: &Path) -> Self {
        let socket = dir.join("agent.sock");
        let child =
            Command::new("ssh-agent").arg("-D").arg("-a").arg(&socket).stdout(Stdio::null()).spawn().unwrap();
        Self { child, socket }
    }

    async fn add(&self, key: &Path) {
        until("the agent listens", || self.socket.exists()).await;
        let added =
            Command::new("ssh-add").arg("-q").arg(key).env("SSH_AUTH_SOCK", &self.socket).status().unwrap();
        assert!(added.success());
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test]
async fn every_key_of_an_agent_is_tried_and_a_locked_file_is_found_in_it() {
    let sshd = sshd();
    let agent = Agent::start(sshd.dir());
    for name in ["first", "second"] {
        agent.add(&keygen(&sshd, name, &["-t", "ed25519", "-N", ""])).await;
    }
    let mut settings = settings(&sshd);
    settings.agent = true;
    let config = format!("IdentityAgent {}\nIdentityFile none\n", agent.socket.display());
    fs::write(settings.ssh_config.as_ref().unwrap(), config).unwrap();
    let any = Destination { key_path: None, ..destination(&sshd) };
    let refused = probe(&any, &settings).await.unwrap_err();
    assert!(matches!(&refused, SshError::Refused { tried, .. } if tried.len() == 2), "{refused}");
    agent.add(&sshd.client_key()).await;
    probe(&any, &settings).await.unwrap();
    // A file with a passphrase that is nowhere, but the agent holds that very key.
    let locked = sshd.dir().join("locked");
    fs::copy(sshd.client_key(), &locked).unwrap();
    let args = ["-q", "-p", "-P", "", "-N", "secret", "-f"];
    assert!(
        Command::new("ssh-keygen").args(args).arg(&locked).stdout(Stdio::null()).status().unwrap().success()
    );
    probe(&with_key(&sshd, locked), &settings).await.unwrap();
}
