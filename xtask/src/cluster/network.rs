//! A hive's own network: a namespace with two cables to the queen's, one of which can be cut.
//!
//! The harness itself runs in a namespace of its own by then (see `isolation`), so that no address, interface or route of
//! the machine is touched. The second cable carries what the harness says to the fake and is never cut.

use std::{
    net::Ipv4Addr,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use anyhow::{Context as _, bail};
use tokio::process::Command;

use super::program::Running;

/// The networks of all hives of this run lie below this one.
const BASE: u32 = 0x0a40_0000;

/// How long a started program may take to be in its namespace.
const APART: Duration = Duration::from_secs(5);

/// The cables of one hive.
#[derive(Debug, Clone)]
pub(crate) struct Link {
    number: u32,
}

impl Link {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        Self { number: NEXT.fetch_add(1, Ordering::Relaxed) }
    }

    /// Four addresses of each cable: its network, the queen's end, the hive's end, its broadcast.
    fn address(&self, at: u32) -> Ipv4Addr {
        Ipv4Addr::from(BASE + self.number * 8 + at)
    }

    fn queen(&self) -> Ipv4Addr {
        self.address(1)
    }

    /// Where the queen finds the hive.
    pub(crate) fn hive(&self) -> Ipv4Addr {
        self.address(2)
    }

    /// Where the harness finds the fake.
    pub(crate) fn control(&self) -> Ipv4Addr {
        self.address(6)
    }

    /// Connects the namespace of a process that has just been started.
    pub(crate) async fn plug_in(&self, running: &Running) -> anyhow::Result<()> {
        let pid = running.identity().pid;
        let namespace = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/net"));
        let ours = namespace("self")?;
        let apart = async {
            while namespace(&pid.to_string()).is_ok_and(|theirs| theirs == ours) {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        let apart = tokio::time::timeout(APART, apart).await;
        apart.with_context(|| format!("no namespace of its own: {}", running.tail()))?;
        for (cable, at) in [("q", 1), ("c", 5)] {
            let (here, there) = (format!("{cable}{}", self.number), format!("h{cable}{}", self.number));
            let end = |at| format!("{}/30", self.address(at));
            ip(&format!("link add {here} type veth peer name {there} netns {pid}")).await?;
            ip(&format!("address add {} dev {here}", end(at))).await?;
            ip(&format!("link set {here} up")).await?;
            self.inside(running, &format!("address add {} dev {there}", end(at + 1))).await?;
            self.inside(running, &format!("link set {there} up")).await?;
        }
        Ok(())
    }

    /// Nothing passes in either direction, and nobody is told.
    pub(crate) async fn cut(&self, running: &Running) -> anyhow::Result<()> {
        self.inside(running, &format!("link set hq{} down", self.number)).await
    }

    /// The cable is whole again.
    pub(crate) async fn mend(&self, running: &Running) -> anyhow::Result<()> {
        self.inside(running, &format!("link set hq{} up", self.number)).await
    }

    /// What the queen sends arrives; what the hive answers does not.
    pub(crate) async fn lose_answers(&self, running: &Running) -> anyhow::Result<()> {
        self.inside(running, &format!("route add blackhole {}/32", self.queen())).await
    }

    /// Answers arrive again.
    pub(crate) async fn return_answers(&self, running: &Running) -> anyhow::Result<()> {
        self.inside(running, &format!("route del blackhole {}/32", self.queen())).await
    }

    /// What the hive sends arrives; what the queen sends does not, as if it were for somebody else.
    pub(crate) async fn lose_requests(&self) -> anyhow::Result<()> {
        let (hive, number) = (self.hive(), self.number);
        ip(&format!("neigh replace {hive} lladdr 02:00:00:00:00:01 nud permanent dev q{number}")).await
    }

    /// What the queen sends arrives again.
    pub(crate) async fn return_requests(&self) -> anyhow::Result<()> {
        ip(&format!("neigh del {} dev q{}", self.hive(), self.number)).await
    }

    async fn inside(&self, running: &Running, what: &str) -> anyhow::Result<()> {
        run("nsenter", &format!("--net --target {} ip {what}", running.identity().pid)).await
    }
}

async fn ip(what: &str) -> anyhow::Result<()> {
    run("ip", what).await
}

async fn run(program: &str, args: &str) -> anyhow::Result<()> {
    let output = Command::new(program).args(args.split(' ')).kill_on_drop(true).output().await;
    let output = output.with_context(|| format!("could not start {program}"))?;
    if !output.status.success() {
        bail!("`{program} {args}`: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}
