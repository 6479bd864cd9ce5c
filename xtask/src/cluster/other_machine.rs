//! Another machine with nothing but an SSH server: this one, with a directory of its own for what is brought there, and
//! where a scenario cuts its cable, a network of its own.

use std::{
    fs::File,
    net::Ipv4Addr,
    path::{Path, PathBuf},
};

use fleet::ProcessIdentity;
use serde_json::Value;
use throwaway_sshd::Sshd;

use super::{
    hive::FakeHive,
    network::Link,
    program::{Running, Start},
};
use crate::{ports, programs::Profile, strays};

/// What the queen calls the hive there.
pub(crate) const BOX: &str = "box";

/// Which machine it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A real hive comes there.
    Real,
    /// A fake one does, whose workers recite.
    Fake,
    /// The same, and there is a cable between.
    Apart,
}

/// The machine. Its hive is found and ended as all that lies below the fleet's folder.
pub(crate) struct OtherMachine {
    pub(crate) sshd: Sshd,
    /// All that the queen brings there.
    pub(crate) dir: PathBuf,
    kind: Kind,
    /// The cable, and what holds the network at its other end while nobody is logged in there.
    wire: Option<(Link, Running)>,
}

impl OtherMachine {
    /// Starts its SSH server. What a fake hive does there is in `script` from its start.
    pub(crate) async fn start(folder: &Path, kind: Kind, script: &Value) -> anyhow::Result<Self> {
        let dir = folder.join("box/rbee-hive");
        if kind != Kind::Real {
            std::fs::create_dir_all(&dir)?;
            std::fs::write(dir.join("script.json"), script.to_string())?;
        }
        if kind != Kind::Apart {
            return Ok(Self { sshd: Sshd::start(&[])?, dir, kind, wire: None });
        }
        let holder = Start::new("unshare", folder.join("logs/box.log")).args(["--net", "sleep", "infinity"]);
        let (link, holder) = (Link::new(), holder.spawn()?);
        link.plug_in(&holder).await?;
        let namespace = File::open(format!("/proc/{}/ns/net", holder.identity().pid))?;
        let config = ["SetEnv FAKE_HIVE_CONTROL_HOST=0.0.0.0".to_owned()];
        let sshd = Sshd::start_apart(&config, namespace, link.control())?;
        Ok(Self { sshd, dir, kind, wire: Some((link, holder)) })
    }

    /// The program that the queen has to bring there.
    pub(crate) fn program(&self, profile: Profile) -> PathBuf {
        profile.program(if self.kind == Kind::Real { "rbee-hive" } else { "fake-hive" })
    }

    /// The fake hive there, once it listens.
    pub(crate) async fn fake(&self) -> anyhow::Result<Option<FakeHive>> {
        if self.kind == Kind::Real {
            return Ok(None);
        }
        let link = self.wire.as_ref().map(|(link, _)| link.clone());
        FakeHive::launched_behind(BOX, &self.dir, link).await.map(Some)
    }

    /// Takes its network away. Whatever runs there goes on.
    pub(crate) async fn end(&mut self) -> anyhow::Result<()> {
        if let Some((_, mut holder)) = self.wire.take() {
            holder.kill().await?;
        }
        Ok(())
    }

    /// Its part of the queen's configuration.
    pub(crate) fn entry(&self) -> anyhow::Result<String> {
        Ok(format!(
            "[ssh]\ndir = {:?}\n[[hive]]\nid = \"{BOX}\"\nhostname = \"{}\"\nmode = \"network\"\nport = {}\n\
             ssh_port = {}\nssh_key = {:?}\nhost_key = {:?}",
            self.dir,
            self.wire.as_ref().map_or(Ipv4Addr::LOCALHOST, |(link, _)| link.hive()),
            ports::free()?,
            self.sshd.port(),
            self.sshd.client_key(),
            self.sshd.host_key()?.trim(),
        ))
    }

    /// Every hive that runs there, whoever knows of it.
    pub(crate) fn hives(&self) -> Vec<ProcessIdentity> {
        let running = strays::below(&self.dir).into_iter();
        running.filter(|s| s.command.contains("--data-dir")).map(|s| s.identity).collect()
    }

    /// Files that were begun and are not whole.
    pub(crate) fn partial(&self) -> Vec<PathBuf> {
        let entries = ["files", "bin"].map(|place| std::fs::read_dir(self.dir.join(place)));
        let paths = entries.into_iter().flatten().flatten().flatten().map(|entry| entry.path());
        paths.filter(|path| path.extension().is_some_and(|extension| extension == "tmp")).collect()
    }
}
