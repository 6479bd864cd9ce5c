//! Starting a fake hive inside a test, and what the test does with it.

use std::{io, net::SocketAddr, path::PathBuf, sync::Arc};

use axum::{Router, middleware};
use fleet::{HiveEndpoint, HiveId, LaunchId, Token, WorkerRecord};
use http_serve::Identity;
use tokio::sync::mpsc;

use crate::{
    act::{Act, ActError},
    front::front,
    hive::Served,
    journal::Call,
    net::{Net, Port},
    script::{Script, ScriptError},
    secret::{random_launch, random_token},
    state::{Core, Parts},
    wire::lock,
};

/// Who a fake hive is and where it listens.
#[derive(Debug, Clone)]
pub struct Options {
    /// Its id.
    pub hive_id: HiveId,
    /// Its launch; a random one if absent.
    pub launch_id: Option<LaunchId>,
    /// Its token; a random one if absent.
    pub token: Option<Token>,
    /// Where it listens. Port 0 takes any free one.
    pub listen: SocketAddr,
    /// Whether it serves TLS, with a certificate of its own.
    pub tls: bool,
    /// Where `hive.json` is written before it listens.
    pub data_dir: Option<PathBuf>,
}

impl Options {
    /// A hive of this name on a free port of this machine.
    ///
    /// # Errors
    /// A name that is no hive id.
    pub fn named(hive_id: &str) -> Result<Self, fleet::IdError> {
        Ok(Self { hive_id: hive_id.parse()?, ..Self::default() })
    }
}

impl Default for Options {
    fn default() -> Self {
        Self {
            hive_id: "fake".parse().unwrap_or_else(|_| unreachable!("letters only")),
            launch_id: None,
            token: None,
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            tls: false,
            data_dir: None,
        }
    }
}

/// A running fake hive. Dropped, it is gone at once, like a killed process.
pub struct FakeHive {
    core: Arc<Core>,
}

impl std::fmt::Debug for FakeHive {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FakeHive").field("id", &self.core.hive_id).field("port", &self.core.port).finish()
    }
}

impl FakeHive {
    /// Starts one. It listens when this returns.
    ///
    /// # Errors
    /// A script that cannot be, or what the system said of the port or the data directory.
    pub async fn start(script: Script, options: Options) -> io::Result<Self> {
        let script = script.checked().map_err(|e| io::Error::new(io::ErrorKind::InvalidInput, e))?;
        let port = Port::hold(options.listen)?;
        let address = port.address();
        let (net, orders) = mpsc::channel(8);
        let core = Core::new(Parts {
            hive_id: options.hive_id,
            launch_id: options.launch_id.map_or_else(random_launch, Ok)?,
            token: options.token.map_or_else(random_token, Ok)?,
            identity: options
                .tls
                .then(|| Identity::make("fake-hive"))
                .transpose()
                .map_err(io::Error::other)?,
            host: address.ip().to_string().parse().map_err(io::Error::other)?,
            port: address.port(),
            data_dir: options.data_dir,
            script,
            net,
        });
        // A bound socket that does not listen yet: whoever finds the file early is refused, and tries again.
        core.write_hive_file()?;
        core.fill_store();
        let listener = port.listen()?;
        let router = served(&core);
        let run = Net {
            port,
            router,
            identity: core.identity.clone(),
            wires: Arc::clone(&core.wires),
            tasks: core.tasks.clone(),
        };
        core.tasks.spawn(run.run(listener, orders, core.stop.clone()));
        core.begin_launch();
        Ok(Self { core })
    }

    /// How a queen reaches it now.
    #[must_use]
    pub fn endpoint(&self) -> HiveEndpoint {
        HiveEndpoint {
            hive_id: self.core.hive_id.clone(),
            launch_id: self.core.state().launch_id.clone(),
            host: self.core.host.clone(),
            port: self.core.port,
            token: self.core.token.clone(),
            pin: self.core.identity.as_ref().map(Identity::fingerprint),
        }
    }

    /// The script in force.
    #[must_use]
    pub fn current_script(&self) -> Script {
        self.core.script().as_ref().clone()
    }

    /// Puts another script in force, for open connections too. Limited faults count from now on.
    ///
    /// # Errors
    /// A script that cannot be.
    pub fn script(&self, script: Script) -> Result<(), ScriptError> {
        self.core.set_script(script.checked()?);
        Ok(())
    }

    /// Merges a part of a script over the one in force, as [`Script::with`] does.
    ///
    /// # Errors
    /// A part that no script has.
    pub fn patch(&self, patch: &serde_json::Value) -> Result<(), ScriptError> {
        self.core.set_script(self.core.script().with(patch)?);
        Ok(())
    }

    /// Does something now.
    ///
    /// # Errors
    /// When there is nothing to do it to.
    pub async fn act(&self, act: Act) -> Result<(), ActError> {
        self.core.act(act).await
    }

    /// The calls that were received, oldest first.
    #[must_use]
    pub fn journal(&self) -> Vec<Call> {
        self.core.journal.calls()
    }

    /// The workers as they really are, whatever the script claims.
    #[must_use]
    pub fn workers(&self) -> Vec<WorkerRecord> {
        self.core.state().workers.values().map(|w| w.record.clone()).collect()
    }

    /// URLs of the other hives that transfers really were read from, in order.
    #[must_use]
    pub fn sources_used(&self) -> Vec<String> {
        lock(&self.core.served_by).clone()
    }

    /// Waits until it ended as asked over the contract, or by [`Act::Exit`], whose code this returns.
    pub async fn ended(&self) -> u8 {
        let mut exit = self.core.exit.subscribe();
        let code = exit.wait_for(Option::is_some).await;
        code.ok().and_then(|code| *code).unwrap_or(0)
    }

    /// Ends its workers, then itself, and waits for it.
    pub async fn shut_down(&self) {
        self.core.begin_shutdown(&hive_api::ShutdownRequest { grace_ms: Some(0) });
        self.ended().await;
    }

    /// Ends it at once and waits until nothing of it is left. `hive.json` stays, as after a kill.
    pub async fn stop(self) {
        self.core.stop.cancel();
        self.core.tasks.close();
        self.core.tasks.wait().await;
    }

    pub(crate) const fn core(&self) -> &Arc<Core> {
        &self.core
    }
}

impl Drop for FakeHive {
    fn drop(&mut self) {
        self.core.stop.cancel();
    }
}

fn served(core: &Arc<Core>) -> Router {
    hive_api::server::router(Arc::new(Served(Arc::clone(core))))
        .layer(middleware::from_fn_with_state(Arc::clone(core), front))
}
