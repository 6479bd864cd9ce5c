//! A home directory with a queen's configuration in it, and the real programs. Whatever was started for it has ended when
//! it is dropped.

use std::{
    net::TcpListener,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use fleet::ProcessIdentity;
use process::{Child, Environment, LogFile, Program};
use throwaway_sshd::Sshd;
use warden::Ward;

/// How long anything in these tests may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// What the fake hive of [`Town::of_fakes`] serves.
pub(crate) const MODEL: &str = "hf:fake/alpha";

pub(crate) struct Town {
    folder: Ward,
    pub(crate) url: String,
    variables: Vec<(String, String)>,
}

/// A port that nobody uses now.
pub(crate) fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// A program of the workspace. A test of the whole workspace builds all of them first; a test of one package takes those of
/// the others as they were built last, and builds them if they never were.
pub(crate) fn program(name: &str) -> PathBuf {
    let folder = std::env::current_exe().unwrap().ancestors().nth(2).unwrap().to_owned();
    let path = folder.join(name);
    if !path.exists() {
        let profile = match folder.file_name().unwrap().to_str().unwrap() {
            "debug" => "dev",
            other => other,
        };
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let packages = ["queen-rbee", "rbee-hive", "fake-hive"].iter().flat_map(|name| ["--package", name]);
        let mut build = Command::new(cargo);
        build.args(["build", "--quiet", "--profile", profile]).args(packages);
        assert!(build.status().unwrap().success(), "{name} could not be built");
    }
    path
}

impl Town {
    /// The hive of this machine is the program of that name.
    fn new(hive: &str) -> Self {
        let folder = Ward::new().unwrap();
        let config = folder.path().join("config/queen-rbee");
        std::fs::create_dir_all(&config).unwrap();
        let listen = format!("127.0.0.1:{}", free_port());
        let toml = format!(
            "listen = {listen:?}\nhive_binary = {:?}\n[timeouts]\ndrain = \"2s\"\nstop_grace = \"5s\"\n\
             [hive.local]\nport = {}\n",
            program(hive),
            free_port()
        );
        std::fs::write(config.join("queen.toml"), toml).unwrap();
        std::fs::create_dir_all(folder.path().join("data/queen-rbee/hives/local/models")).unwrap();
        Self { folder, url: format!("http://{listen}"), variables: Vec::new() }
    }

    /// A town whose hive is a scripted one.
    pub(crate) fn of_fakes(worker: &serde_json::Value) -> Self {
        let town = Self::new("fake-hive");
        let script = serde_json::json!({
            "models": { "known": [{ "model_ref": MODEL, "stored": true }] }, "worker": worker
        });
        std::fs::write(town.hive_dir().join("script.json"), script.to_string()).unwrap();
        town
    }

    /// A town with a real hive, whose engine is `hive_toml`'s and whose store has the reciting model.
    pub(crate) fn real(hive_toml: &str) -> Self {
        let town = Self::new("rbee-hive");
        std::fs::write(town.hive_dir().join("hive.toml"), hive_toml).unwrap();
        tiny_model::write(&town.hive_dir().join("models/tiny.gguf")).unwrap();
        town
    }

    /// A town whose one hive is brought to another machine over SSH: this one, by way of a server of its own.
    pub(crate) fn network(sshd: &Sshd, hive_toml: &str) -> Self {
        let town = Self::new("rbee-hive");
        let remote = remote_dir(sshd);
        std::fs::create_dir_all(remote.join("models")).unwrap();
        std::fs::write(remote.join("hive.toml"), hive_toml).unwrap();
        tiny_model::write(&remote.join("models/tiny.gguf")).unwrap();
        let path = town.folder().join("config/queen-rbee/queen.toml");
        let toml = std::fs::read_to_string(&path).unwrap();
        let (common, _) = toml.split_once("[hive.local]").unwrap();
        let hive = format!(
            "{common}[ssh]\ndir = {remote:?}\n[hive.box]\nhostname = \"127.0.0.1\"\nmode = \"network\"\nport = {}\n\
             ssh_port = {}\nssh_key = {:?}\nhost_key = {:?}\n",
            free_port(),
            sshd.port(),
            sshd.client_key(),
            sshd.host_key().unwrap().trim(),
        );
        std::fs::write(path, hive).unwrap();
        town
    }

    pub(crate) fn with(mut self, name: &str, value: &str) -> Self {
        self.variables.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Has programs that are started from now on find this script where they look for a program of that name.
    pub(crate) fn before_the_others(&mut self, name: &str, script: &str) {
        let folder = self.folder().join("first");
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join(name), format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(folder.join(name), PermissionsExt::from_mode(0o755)).unwrap();
        let path = format!("{}:{}", folder.display(), std::env::var("PATH").unwrap_or_default());
        self.variables.push(("PATH".to_owned(), path));
    }

    /// Rewrites the configuration.
    pub(crate) fn configure(&self, change: impl FnOnce(&str) -> String) {
        let path = self.folder().join("config/queen-rbee/queen.toml");
        let toml = std::fs::read_to_string(&path).unwrap();
        std::fs::write(path, change(&toml)).unwrap();
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn data_dir(&self) -> PathBuf {
        self.folder().join("data/queen-rbee")
    }

    pub(crate) fn hive_dir(&self) -> PathBuf {
        self.data_dir().join("hives/local")
    }

    /// The reciting model of a real hive.
    pub(crate) fn model(&self) -> String {
        format!("file:{}", self.hive_dir().join("models/tiny.gguf").canonicalize().unwrap().display())
    }

    /// All of the environment of a program that runs here.
    pub(crate) fn environment(&self) -> Vec<(String, String)> {
        let path = |folder: &str| self.folder().join(folder).display().to_string();
        let own = [
            ("HOME".to_owned(), self.folder().display().to_string()),
            ("PATH".to_owned(), std::env::var("PATH").unwrap_or_default()),
            ("XDG_CONFIG_HOME".to_owned(), path("config")),
            ("XDG_DATA_HOME".to_owned(), path("data")),
        ];
        own.into_iter().chain(self.variables.clone()).collect()
    }

    /// Starts a program in a session of its own.
    pub(crate) fn start(&self, name: &str, args: &[&str]) -> Child {
        let environment = self.environment().into_iter();
        let environment =
            environment.fold(Environment::inherited(), |all, (name, value)| all.with(name, value));
        let program = Program {
            path: program(name),
            args: args.iter().map(Into::into).collect(),
            environment,
            log: LogFile::new(self.folder().join(format!("{name}.log"))),
        };
        program.spawn().unwrap()
    }

    /// What lives of all that was started here, but for the processes of those that still look after them.
    pub(crate) fn living(&self) -> Vec<ProcessIdentity> {
        process::find_marked("HOME", &self.folder().display().to_string())
    }
}

/// A program of the system, where it is.
pub(crate) fn found(name: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap();
    std::env::split_paths(&path).map(|folder| folder.join(name)).find(|path| path.exists()).unwrap()
}

/// Where the hives that come over SSH are kept.
pub(crate) fn remote_dir(sshd: &Sshd) -> PathBuf {
    sshd.dir().join("remote/rbee-hive")
}

/// The result, which must come in time.
pub(crate) async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("never happened: {what}"))
}

/// Looks until there is something to see.
pub(crate) async fn eventually<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    within(what, async {
        loop {
            if let Some(seen) = look().await {
                return seen;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await
}
