//! A hive from start to end.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::Path,
    sync::{Arc, OnceLock},
    time::Duration,
};

use fleet::{DownloadRecord, HiveCommand, Hostname, LaunchId, TlsFingerprint};
use hive_api::HiveFile;
use http_serve::{Identity, Limits, Server, Shutdown};
use model_store::{Download, ModelStore, StoreChange, StoreSettings};
use process::LogFile;
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    time::Instant,
};
use tokio_util::task::TaskTracker;

use crate::{
    board::Board,
    contact::Contact,
    engine,
    launch::{DataDir, Launch, LaunchedBy, StartError},
    machine, port_owner,
    proxy::Proxy,
    runtime::Runtime,
    settings::{Reach, Settings},
    stopping::Stopping,
    worker::{Journal, Loopback, Tools},
    workers::Workers,
};

/// How long answers may take to go out once the last worker has ended.
const LAST_ANSWERS: Duration = Duration::from_millis(500);

/// What a second signal leaves to running requests.
const SHORTENED: Duration = Duration::ZERO;

/// Runs a hive until it is told to stop.
///
/// # Errors
/// When it cannot start; once it listens, it ends well.
pub async fn run(command: HiveCommand) -> Result<(), StartError> {
    let path = match &command.data_dir {
        Some(path) => path.clone(),
        None => crate::default_data_dir()?,
    };
    let dir = DataDir::lock(&path)?;
    let ip = ip(&command.host)?;
    let settings = Settings::read(dir.path(), Reach::of(ip))?;
    let launch = Launch::accept(&command, &dir)?;
    let (listener, address) = listen(SocketAddr::new(ip, command.port))?;
    let identity = identity(&launch, Reach::of(ip), command.plain_http)?;
    let tls_fingerprint = identity.as_ref().map(Identity::fingerprint);
    let scheme = if identity.is_some() { "https" } else { "http" };
    let runtime = assemble(settings, launch, &dir, format!("{scheme}://{address}")).await?;
    dir.announce(&HiveFile {
        hive_id: runtime.launch.hive_id.clone(),
        launch_id: runtime.launch.launch_id.clone(),
        process: process::own()?,
        port: address.port(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        tls_fingerprint,
    })?;
    say_listening(&runtime.launch, address, tls_fingerprint, &dir);
    serve(runtime, listener, identity).await?;
    dir.withdraw()
}

fn say_listening(launch: &Launch, address: SocketAddr, pin: Option<TlsFingerprint>, dir: &DataDir) {
    let Launch { hive_id, launch_id, by, .. } = launch;
    let tls_fingerprint = pin.map(tracing::field::display);
    tracing::info!(%hive_id, %launch_id, %address, tls_fingerprint, "listening");
    if *by == LaunchedBy::Queen {
        return;
    }
    let token = dir.path().join("token");
    match pin {
        Some(pin) => tracing::info!(
            "to let a queen use this hive, register it with the token in {} and tls_fingerprint {pin}",
            token.display()
        ),
        None => {
            tracing::info!("to let a queen use this hive, register it with the token in {}", token.display())
        }
    }
}

/// What other machines see is encrypted, unless the owner of this one wants it otherwise.
fn identity(launch: &Launch, reach: Reach, plain_http: bool) -> Result<Option<Identity>, StartError> {
    match (reach, plain_http) {
        (Reach::Machine, _) => Ok(None),
        (Reach::Network, true) => {
            tracing::warn!(
                "--plain-http: this hive speaks unencrypted HTTP to other machines. Whoever can see the network reads its \
                 token, every prompt and every answer, and can use the hive. Without the flag it serves TLS."
            );
            Ok(None)
        }
        (Reach::Network, false) => Ok(Some(Identity::make(launch.hive_id.as_str())?)),
    }
}

fn ip(host: &Hostname) -> Result<IpAddr, StartError> {
    match host.as_str().parse::<IpAddr>() {
        Ok(ip) => Ok(ip),
        Err(_) if host.is_loopback() => Ok(IpAddr::V4(Ipv4Addr::LOCALHOST)),
        Err(_) => Err(StartError::Address {
            host: host.to_string(),
            reason: "give an address of this machine, not a name; 0.0.0.0 is every one it has",
        }),
    }
}

fn listen(wanted: SocketAddr) -> Result<(TcpListener, SocketAddr), StartError> {
    let failed = |source: std::io::Error| {
        if source.kind() == std::io::ErrorKind::AddrInUse {
            StartError::PortInUse { address: wanted, by: port_owner::of(wanted.port()) }
        } else {
            StartError::Listen { address: wanted, source }
        }
    };
    let listener = http_serve::bind(wanted).map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    Ok((listener, address))
}

async fn assemble(
    settings: Settings,
    launch: Launch,
    dir: &DataDir,
    base_url: String,
) -> Result<Arc<Runtime>, StartError> {
    let shown: Arc<OnceLock<Arc<Board>>> = Arc::default();
    let listener = Arc::clone(&shown);
    let store_settings = StoreSettings {
        file_dirs: settings.file_dirs.clone(),
        hf_cache: settings.hf_cache.clone(),
        hub_url: settings.hub_url.clone(),
        hub_token: settings.hub_token.clone(),
        ..StoreSettings::new(settings.models_dir.clone())
    };
    let launch_id = launch.launch_id.clone();
    let store = ModelStore::open(store_settings, move |change| {
        // What changes before there is a board stands on it from the start.
        let Some(board) = listener.get() else { return };
        match change {
            StoreChange::Model(model) => board.put_model(model),
            StoreChange::ModelRemoved(model) => board.remove_model(model),
            StoreChange::Download(download) => board.put_download(record(download, &launch_id)),
        }
    })
    .await?;
    let mut machine = device_probe::probe().await;
    let engines = engine::find(&settings.engines, &mut machine.devices).await;
    let capabilities = machine::capabilities(machine, &engines, store.id().clone(), store.dir());
    let board =
        Arc::new(Board::new(launch.hive_id.clone(), launch.launch_id.clone(), capabilities, store.models()));
    let board = Arc::clone(shown.get_or_init(|| board));
    let journal = open_journal(dir.path()).await?;
    let tools = Tools {
        board: Arc::clone(&board),
        journal,
        http: Loopback::new(),
        load_stall: settings.load_stall,
        log_cap: settings.log_cap,
    };
    let logs = dir.path().join("logs");
    let adopted = Workers::adopt(tools, base_url, logs.clone()).await;
    let workers =
        adopted.map_err(|source| StartError::Io { action: "adopt the workers of", path: logs, source })?;
    Ok(Arc::new(Runtime {
        log: dir.path().join(crate::LOG_FILE),
        board,
        store,
        engines,
        workers,
        proxy: Proxy::new(),
        contact: Contact::new(),
        stopping: Stopping::new(),
        started: Instant::now(),
        launch,
        settings,
    }))
}

/// A transfer as the contract tells it; the board gives it its revision.
fn record(download: Download, launch_id: &LaunchId) -> DownloadRecord {
    let Download { id, model_ref, resolved, bytes, total, rate, awaits, state } = download;
    DownloadRecord {
        download_id: id,
        launch_id: launch_id.clone(),
        rev: 0,
        model_ref,
        resolved: Some(resolved),
        bytes,
        total,
        rate,
        awaits,
        state,
    }
}

async fn open_journal(dir: &Path) -> Result<Journal, StartError> {
    let path = dir.to_owned();
    let opening = tokio::task::spawn_blocking(move || Journal::open(&path));
    opening.await.map_err(|error| StartError::Io {
        action: "read the journal of",
        path: dir.to_owned(),
        source: std::io::Error::other(error),
    })?
}

async fn serve(
    runtime: Arc<Runtime>,
    listener: TcpListener,
    identity: Option<Identity>,
) -> Result<(), StartError> {
    let shutdown = Shutdown::default();
    let router = hive_api::server::router(Arc::clone(&runtime));
    let server =
        Server::new(listener, router, Limits::default()).with_shutdown(shutdown.clone(), LAST_ANSWERS);
    let tasks = TaskTracker::new();
    let serving = match identity {
        None => tasks.spawn(server.run()),
        Some(identity) => tasks.spawn(server.transport(move |stream| {
            let identity = identity.clone();
            async move { identity.accept(stream).await }
        })),
    };
    tokio::select! {
        () = ordered_end(&runtime) => {}
        () = machine::keep_free(&runtime.board, runtime.settings.models_dir.clone()) => {}
        () = keep_log(&runtime) => {}
        () = runtime.store.keep_up() => {}
        ended = end_on_signal(&runtime) => ended?,
        () = end_when_forgotten(&runtime) => {}
    }
    runtime.board.close();
    shutdown.drain();
    runtime.store.close().await;
    if let Ok(cut) = serving.await
        && cut > 0
    {
        tracing::info!(cut, "connections were cut at the end");
    }
    tracing::info!("stopped");
    Ok(())
}

/// Ends when an order to stop was carried out: no worker is left.
async fn ordered_end(runtime: &Runtime) {
    let mut orders = runtime.stopping.orders();
    loop {
        let order = *orders.borrow_and_update();
        let Some(deadline) = order else {
            // The sender lives in the runtime, so this is a change and no end.
            let _ = orders.changed().await;
            continue;
        };
        runtime.workers.stop_all(deadline.saturating_duration_since(Instant::now()));
        tokio::select! {
            () = runtime.workers.ended() => return,
            _ = orders.changed() => {}
        }
    }
}

/// The hive's own log belongs to whoever started it, but a queen that is gone cuts nothing.
async fn keep_log(runtime: &Runtime) {
    LogFile { path: runtime.log.clone(), cap: runtime.settings.log_cap }.keep_below_cap().await;
}

/// Turns signals into orders: the first one leaves the usual time, every further one none. Never ends well.
async fn end_on_signal(runtime: &Runtime) -> Result<(), StartError> {
    let failed =
        |source| StartError::Io { action: "listen for signals of", path: "this process".into(), source };
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    loop {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        let grace = if runtime.stopping.is_ordered() { SHORTENED } else { runtime.settings.drain };
        tracing::info!(
            grace_ms = u64::try_from(grace.as_millis()).unwrap_or(u64::MAX),
            "a signal asks to stop"
        );
        runtime.stopping.order(grace);
    }
}

/// A hive that a queen started and then forgot ends itself. Never ends by itself: the order to stop does that.
async fn end_when_forgotten(runtime: &Runtime) {
    match runtime.settings.orphan_lease {
        Some(lease) if runtime.launch.by == LaunchedBy::Queen => {
            runtime.contact.lost(lease).await;
            tracing::warn!(?lease, "no word from a queen; stopping");
            runtime.stopping.order(Duration::ZERO);
        }
        _ => {}
    }
    std::future::pending().await
}
