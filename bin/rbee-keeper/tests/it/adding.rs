//! `rbee hive add` for another machine, over a real SSH server, and `rbee hive rm --purge`.

use std::{
    fs::File,
    io::{Read, Write},
    os::{fd::OwnedFd, unix::fs::PermissionsExt},
    path::PathBuf,
    process::{Child, Stdio},
    sync::mpsc,
    time::Instant,
};

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use throwaway_sshd::Sshd;

use crate::{
    engine,
    town::{PATIENCE, Town, free_port, remote_dir},
};

/// A queen without hives, and a machine that nobody knows yet. What was left running there ends with it.
struct Stage {
    town: Town,
    sshd: Sshd,
}

impl Stage {
    async fn set(hive_toml: &str) -> Self {
        let sshd = Sshd::start(&[]).unwrap();
        let town = Town::network(&sshd, hive_toml);
        town.configure(|toml| {
            let (common, _) = toml.split_once("[hive.box]").unwrap();
            format!("hive = []\n{common}")
        });
        let path = format!("{}:{}", town.folder().join("bin").display(), std::env::var("PATH").unwrap());
        let stage = Self { town: town.with("PATH", &path), sshd };
        stage.isolate_ssh();
        stage.town.rbee(&["up"]).await.done();
        stage
    }

    fn known_hosts(&self) -> PathBuf {
        self.town.folder().join("known_hosts")
    }

    /// ssh reads the files of the account, whatever HOME says; here it is told others.
    fn isolate_ssh(&self) {
        let path = std::env::var_os("PATH").unwrap();
        let real = std::env::split_paths(&path).map(|dir| dir.join("ssh")).find(|ssh| ssh.is_file()).unwrap();
        let config = self.town.folder().join("ssh_config");
        std::fs::write(&config, format!("UserKnownHostsFile {}\n", self.known_hosts().display())).unwrap();
        let bin = self.town.folder().join("bin");
        std::fs::create_dir_all(&bin).unwrap();
        let ssh = bin.join("ssh");
        std::fs::write(&ssh, format!("#!/bin/sh\nexec {real:?} -F {config:?} \"$@\"\n")).unwrap();
        std::fs::set_permissions(&ssh, std::fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn know_it(&self) {
        let line = format!("[127.0.0.1]:{} {}\n", self.sshd.port(), self.sshd.host_key().unwrap());
        std::fs::write(self.known_hosts(), line).unwrap();
    }

    fn add(&self) -> Vec<String> {
        let (machine, port) = (format!("127.0.0.1:{}", self.sshd.port()), free_port().to_string());
        let key = self.sshd.client_key().display().to_string();
        ["hive", "add", &machine, "--mode", "network", "--id", "box", "--port", &port, "--key", &key]
            .map(str::to_owned)
            .into()
    }

    async fn rbee(&self, args: &[String]) -> crate::keeper::Said {
        self.town.rbee(&args.iter().map(String::as_str).collect::<Vec<_>>()).await
    }
}

#[tokio::test]
async fn a_machine_is_added_asked_for_a_token_and_purged() {
    let stage = Stage::set(&engine::hive_toml()).await;
    stage.know_it();
    let said = stage.rbee(&stage.add()).await;
    // The steps of a model that loads at once may be over before anybody asks.
    for step in ["box registered", "looking at the machine", "starting the hive", "online", " on box answers"]
    {
        assert!(said.err.contains(step), "{step}: {}", said.err);
    }
    let copying = said.err.lines().filter(|line| line.contains("copying files")).count();
    assert!(copying < 10, "not a line for each piece: {}", said.err);
    let last = said.done();
    assert!(last.starts_with("box: ") && last.contains(" · scripted cuda · first token "), "{last}");
    assert!(last.trim_end().ends_with(" s") && last.lines().count() == 1, "{last}");
    let again = stage.rbee(&[stage.add(), vec!["--json".to_owned()]].concat()).await;
    assert_eq!(again.code, Some(1), "another port is another connection: {}", again.out);

    let there = remote_dir(&stage.sshd);
    assert!(there.join("bin/current").exists() && there.join("models/tiny.gguf").exists());
    let removed = stage.town.rbee(&["hive", "rm", "box", "--purge"]).await.done();
    assert!(removed.contains("nothing of it is left on its machine"), "{removed}");
    assert!(!there.exists(), "not a byte is left");
    assert_eq!(there.parent().unwrap().read_dir().unwrap().count(), 0, "nor beside it");
    assert!(!stage.town.rbee(&["hive", "list"]).await.done().contains("box"));
}

#[tokio::test]
async fn a_machine_without_a_model_says_how_it_gets_one() {
    let stage = Stage::set(&engine::hive_toml()).await;
    stage.know_it();
    std::fs::remove_file(remote_dir(&stage.sshd).join("models/tiny.gguf")).unwrap();
    let said = stage.rbee(&[stage.add(), vec!["--json".to_owned()]].concat()).await.done();
    let hive: serde_json::Value = serde_json::from_str(&said).unwrap();
    assert_eq!((&hive["id"], &hive["first_token"]), (&"box".into(), &serde_json::Value::Null), "{said}");
    stage.town.rbee(&["hive", "rm", "box"]).await.done();
    let last = stage.rbee(&stage.add()).await.done();
    assert!(last.contains("no model there yet") && last.contains("rbee run"), "{last}");
    assert!(remote_dir(&stage.sshd).exists(), "what is not purged stays");
}

/// `rbee` on a terminal.
struct Terminal {
    child: Child,
    keyboard: File,
    seen: mpsc::Receiver<Vec<u8>>,
    text: String,
}

impl Terminal {
    fn start(town: &Town, args: &[String]) -> Self {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let name = ptsname(&master, Vec::new()).unwrap().into_string().unwrap();
        let side = || Stdio::from(OwnedFd::from(File::options().read(true).write(true).open(&name).unwrap()));
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_rbee"));
        command.args(args).env_clear().envs(town.environment()).env("TERM", "vt100");
        let child = command.stdin(side()).stdout(side()).stderr(side()).spawn().unwrap();
        drop(command);
        let keyboard = File::from(master);
        let mut screen = keyboard.try_clone().unwrap();
        let (shows, seen) = mpsc::channel();
        std::thread::spawn(move || {
            let mut piece = [0; 4096];
            // The terminal ends with an error once the last program that wrote to it has.
            while let Ok(count @ 1..) = screen.read(&mut piece) {
                if shows.send(piece[..count].to_vec()).is_err() {
                    return;
                }
            }
        });
        Self { child, keyboard, seen, text: String::new() }
    }

    /// Waits until this stands on the screen.
    fn shows(&mut self, text: &str) {
        let until = Instant::now() + PATIENCE;
        while !self.text.contains(text) {
            let piece = self.seen.recv_timeout(until.saturating_duration_since(Instant::now()));
            let piece = piece.unwrap_or_else(|_| panic!("{text:?} is never shown: {}", self.text));
            self.text.push_str(&String::from_utf8_lossy(&piece));
        }
    }

    fn types(&mut self, line: &str) {
        self.keyboard.write_all(format!("{line}\n").as_bytes()).unwrap();
    }

    /// All that stood on the screen, and whether it went well.
    fn ends(mut self) -> (bool, String) {
        let status = self.child.wait().unwrap();
        while let Ok(piece) = self.seen.recv_timeout(PATIENCE) {
            self.text.push_str(&String::from_utf8_lossy(&piece));
        }
        (status.success(), self.text)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_host_key_is_asked_about_once_on_a_terminal() {
    let stage = Stage::set(&engine::hive_toml()).await;
    let add = stage.add();
    let mut terminal = Terminal::start(&stage.town, &add);
    terminal.shows("Is it the right one? [y/N]");
    assert!(terminal.text.contains("127.0.0.1 shows SHA256:"), "{}", terminal.text);
    terminal.types("no");
    let (is_well, text) = terminal.ends();
    assert!(!is_well && text.contains("was not accepted; nothing was registered"), "{text}");
    assert!(!stage.known_hosts().exists());
    assert!(!stage.town.rbee(&["hive", "list"]).await.done().contains("box"));

    let mut terminal = Terminal::start(&stage.town, &add);
    terminal.shows("Is it the right one? [y/N]");
    terminal.types("yes");
    let (is_well, text) = terminal.ends();
    assert!(is_well && text.contains("the host key is known from now on"), "{text}");
    assert!(text.contains("first token "), "{text}");
    let known = std::fs::read_to_string(stage.known_hosts()).unwrap();
    assert!(known.contains(stage.sshd.host_key().unwrap().trim()), "{known}");

    stage.town.rbee(&["hive", "rm", "box"]).await.done();
    let terminal = Terminal::start(&stage.town, &add);
    let (is_well, text) = terminal.ends();
    assert!(is_well && !text.contains("[y/N]"), "it asks once: {text}");
}
