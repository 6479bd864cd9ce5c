//! Putting the crates together.

use std::{sync::Arc, time::Duration};

use engine_store::EngineStore;
use fleet::{DesiredBy, HiveId, HiveKind, HiveMode, HiveRegistry, ModelRef, Target};
use hive_api::client::{Connections, Timeouts};
use hive_manager::{HiveManager, QueenKey};
use http_api::{Api, Limits, StopOrder};
use http_serve::{Server, Shutdown};
use journal::Journal;
use local_lifecycle::LocalLauncher;
use model_provisioner::ModelProvisioner;
use placement::Placement;
use queen_config::{Config, LogFormat};
use registry_ram::WorkerRegistry;
use registry_sqlite::SqliteStore;
use router::Router;
use ssh_lifecycle::SshLauncher;
use tokio::{net::TcpListener, sync::mpsc, task::JoinHandle};

use crate::{failure::Failure, hives};

/// Events that are remembered for `/v1/events`.
const EVENTS: usize = 10_000;

/// What has to be stopped, in the order in which it is.
pub(crate) struct Running {
    pub(crate) api: Arc<Api>,
    pub(crate) router: Arc<Router>,
    pub(crate) placement: Arc<Placement>,
    pub(crate) provisioner: Arc<ModelProvisioner>,
    pub(crate) manager: Arc<HiveManager>,
    pub(crate) journal: Journal,
    pub(crate) shutdown: Shutdown,
}

/// A queen that runs and is not served yet.
pub(crate) struct Queen {
    pub(crate) running: Running,
    pub(crate) stop_orders: mpsc::Receiver<StopOrder>,
    limits: http_serve::Limits,
    grace: Duration,
}

impl Queen {
    pub(crate) async fn open(config: &Config) -> Result<Self, Failure> {
        let store = Arc::new(SqliteStore::open(&config.data_dir)?);
        let key = QueenKey::load_or_create(&config.data_dir)?;
        let launcher = Arc::new(launcher(config)?);
        let rows = |source| Failure::Hives(hive_manager::ManagerError::Rows(source));
        hives::sync(config, &*store, &*launcher).await.map_err(rows)?;

        let journal = Journal::new(EVENTS);
        let registry = Arc::new(WorkerRegistry::default());
        let connections =
            Connections::new(timeouts(config)).map_err(|e| Failure::Connections(e.to_string()))?;
        let manager = HiveManager::start(hive_manager::Parts {
            store: Arc::clone(&store) as Arc<dyn HiveRegistry>,
            launches: Arc::clone(&store) as _,
            local: launcher,
            network: Some(Arc::new(ssh_launcher(config)?)),
            registry: Arc::clone(&registry),
            journal: journal.clone(),
            connections: connections.clone(),
            key,
            settings: manager_settings(config),
        })
        .await?;
        let provisioner = ModelProvisioner::new(model_provisioner::Parts {
            catalog: Arc::clone(&store) as _,
            registry: Arc::clone(&registry),
            connections: connections.clone(),
            journal: journal.clone(),
            settings: provisioner_settings(config),
        });
        let placement = Placement::new(placement::Parts {
            registry: Arc::clone(&registry),
            provisioner: Arc::clone(&provisioner),
            connections,
            journal: journal.clone(),
            observations: Arc::clone(&store) as _,
            switch: switch(&manager),
            models: wanted(config),
            region: region(config),
            settings: placement_settings(config),
        });
        placement.look_after();
        let router = Arc::new(Router::new(router::Parts {
            registry: Arc::clone(&registry),
            placement: Arc::clone(&placement),
            journal: journal.clone(),
            settings: router_settings(config),
        }));
        let (stop, stop_orders) = mpsc::channel(1);
        let api = Api::new(http_api::Parts {
            manager: Arc::clone(&manager),
            registry,
            router: Arc::clone(&router),
            placement: Arc::clone(&placement),
            provisioner: Arc::clone(&provisioner),
            journal: journal.clone(),
            token: config.token.clone(),
            aliases: config.models.aliases.clone(),
            may_introduce: may_introduce(config),
            limits: Limits { body: config.limits.body, ..Limits::default() },
            process: process::own().ok(),
            stop,
        });
        let shutdown = Shutdown::default();
        Ok(Self {
            running: Running { api, router, placement, provisioner, manager, journal, shutdown },
            stop_orders,
            limits: http_serve::Limits { head_bytes: config.limits.header, ..Default::default() },
            // The cascade ends the answers at the grace's end; the accept loop's own deadline only backs it up.
            grace: config.timeouts.stop_grace + Duration::from_secs(1),
        })
    }

    /// Takes requests from now on. The task ends when the accept loop has been shut down.
    pub(crate) fn serve(&self, listener: TcpListener) -> JoinHandle<usize> {
        let surface = Arc::clone(&self.running.api).surface();
        let server = Server::with_service(listener, surface, self.limits)
            .with_shutdown(self.running.shutdown.clone(), self.grace);
        tokio::runtime::Handle::current().spawn(server.run())
    }
}

impl Running {
    /// The hives that outlive this queen, because it did not start them.
    pub(crate) async fn attached(&self) -> Vec<HiveId> {
        let rows = self.manager.rows().await.unwrap_or_default();
        let attached = rows.into_iter().filter(|row| matches!(row.spec.kind, HiveKind::Attached { .. }));
        attached.map(|row| row.spec.id).collect()
    }
}

pub(crate) fn log_settings(config: &Config) -> telemetry::Settings {
    let format = match config.log.format {
        LogFormat::Text => telemetry::Format::Text,
        LogFormat::Json => telemetry::Format::Json,
    };
    telemetry::Settings { filter: config.log.filter.clone(), format }
}

fn launcher(config: &Config) -> Result<LocalLauncher, Failure> {
    let mut settings = local_lifecycle::Settings::new(&config.data_dir);
    settings.binary.clone_from(&config.hive_binary);
    // What the owner did not say stays the hive's own affair, so that its `hive.toml` counts.
    if let Some(url) = &config.models.hub_url {
        settings.environment.push(("RBEE_HIVE_HUB_URL", url.clone()));
    }
    if let Some(lease) = config.timeouts.orphan_lease_local {
        settings.environment.push(("RBEE_HIVE_ORPHAN_LEASE_S", lease.as_secs().to_string()));
    }
    LocalLauncher::new(settings).map_err(|error| Failure::Connections(error.to_string()))
}

fn ssh_launcher(config: &Config) -> Result<SshLauncher, Failure> {
    let engines = EngineStore::new(config.data_dir.join("engines"), engine_store::Bounds::default());
    let engines = engines.map_err(|error| Failure::Connections(error.to_string()))?;
    let mut settings = ssh_lifecycle::Settings {
        engines: config.engines.clone(),
        engine_store: Some(engines),
        bundle_dirs: config.ssh.bundles.iter().cloned().chain([config.data_dir.join("bundles")]).collect(),
        passphrase_file: config.ssh.passphrase_file.clone(),
        ..ssh_lifecycle::Settings::default()
    };
    if let Some(dir) = &config.ssh.dir {
        settings.dir = dir.parse().map_err(|error| Failure::Ssh(format!("ssh.dir: {error}")))?;
    }
    if let Some(binary) = &config.hive_binary {
        settings.binaries.insert(Target::own(), binary.clone());
    }
    if let Some(url) = &config.models.hub_url {
        settings.environment.push(("RBEE_HIVE_HUB_URL", url.clone()));
    }
    SshLauncher::new(settings).map_err(|error| Failure::Connections(error.to_string()))
}

fn timeouts(config: &Config) -> Timeouts {
    Timeouts { connect: config.timeouts.connect, call: config.timeouts.control, ..Timeouts::default() }
}

/// Without `models.allow`, whoever may ask at all may ask for any model.
fn may_introduce(config: &Config) -> Box<dyn Fn(&ModelRef) -> bool + Send + Sync> {
    let models = config.models.clone();
    Box::new(move |model| models.allows(model).unwrap_or(true))
}

fn manager_settings(config: &Config) -> hive_manager::Settings {
    let (suspect, probe) = if planted::bug("hasty") {
        // Whoever beats a little late is dead, and nobody looks again.
        (Duration::from_secs(1), Duration::ZERO)
    } else {
        (config.timeouts.suspect, config.timeouts.probe)
    };
    hive_manager::Settings {
        suspect,
        probe,
        grace: config.timeouts.drain,
        ..hive_manager::Settings::default()
    }
}

fn provisioner_settings(config: &Config) -> model_provisioner::Settings {
    let stall = config.timeouts.download_stall;
    model_provisioner::Settings { stall, ..model_provisioner::Settings::default() }
}

fn placement_settings(config: &Config) -> placement::Settings {
    let timeouts = &config.timeouts;
    placement::Settings {
        load_stall: timeouts.load_stall,
        worker_idle: timeouts.worker_idle,
        hive_idle: timeouts.hive_idle,
        ..Default::default()
    }
}

/// Where this machine stands: as said, or where its own hive does.
fn region(config: &Config) -> Option<Arc<str>> {
    let local = config.hives.iter().find(|hive| hive.mode == HiveMode::Local);
    let region = config.region.as_deref().or_else(|| local?.region.as_deref());
    region.map(Arc::from)
}

/// How demand starts and stops hives.
fn switch(manager: &Arc<HiveManager>) -> placement::Switch {
    let manager = Arc::clone(manager);
    Box::new(move |hive, desired| {
        let manager = Arc::clone(&manager);
        Box::pin(async move {
            let decided = manager.desire(&hive, desired, DesiredBy::Placement).await;
            decided.map(drop).map_err(|error| error.to_string())
        })
    })
}

/// What the owner wants of models.
fn wanted(config: &Config) -> placement::Models {
    let settings = |wanted: &queen_config::ModelSettings| placement::ModelSettings {
        policy: scheduler::ModelPolicy {
            pinned: wanted.pinned,
            idle: wanted.idle.unwrap_or(config.timeouts.worker_idle),
            least: wanted.replicas_min,
            most: wanted.replicas_max.unwrap_or(u32::MAX),
        },
        context: wanted.context,
        slots: wanted.slots,
    };
    let named = config.model_settings.iter().map(|(model, wanted)| (model.clone(), settings(wanted)));
    placement::Models { named: named.collect() }
}

fn router_settings(config: &Config) -> router::Settings {
    router::Settings {
        connect: config.timeouts.connect,
        first_byte: config.timeouts.first_byte,
        inter_token: config.timeouts.inter_token,
        event_max: config.limits.sse_line,
        queue_length: u32::try_from(config.queue.length).unwrap_or(u32::MAX),
        queue_wait: config.queue.wait,
        ..router::Settings::default()
    }
}
