//! Tests of this module are named as not run where there is no `sshd`.

mod many;

use std::{
    fs,
    path::PathBuf,
    process::Command,
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use fleet::{
    HiveLauncher, HiveMode, HiveSpec, LaunchError, LaunchId, LaunchObserver, LaunchOrder, LaunchProgress,
    LaunchStage, ProcessIdentity, RunningHive, SshTarget, StoreError, Target,
};
use ssh_lifecycle::{Destination, Patience, Settings, SshLauncher};
use throwaway_sshd::Sshd;

#[derive(Default)]
struct Observer {
    told: Mutex<Vec<LaunchProgress>>,
    spawned: Mutex<Vec<ProcessIdentity>>,
}

#[async_trait]
impl LaunchObserver for Observer {
    fn progress(&self, _: &LaunchId, progress: LaunchProgress) {
        self.told.lock().unwrap().push(progress);
    }

    async fn spawned(&self, _: &LaunchId, process: &ProcessIdentity) -> Result<(), StoreError> {
        self.spawned.lock().unwrap().push(process.clone());
        Ok(())
    }
}

/// A machine that can be logged in to, and whoever starts a hive there.
struct Machine {
    sshd: Sshd,
    settings: Settings,
    launcher: SshLauncher,
}

/// The hive without what only a debugger reads: it is sent over and over.
fn hive(sshd: &Sshd) -> PathBuf {
    let own = PathBuf::from(env!("CARGO_BIN_EXE_rbee-hive"));
    let stripped = sshd.dir().join("rbee-hive");
    let strip = Command::new("strip").arg("-o").arg(&stripped).arg(&own).status();
    if strip.is_ok_and(|status| status.success()) { stripped } else { own }
}

impl Machine {
    fn new() -> Self {
        let sshd = Sshd::start(&[]).unwrap();
        let config = sshd.dir().join("ssh_config");
        fs::write(&config, "").unwrap();
        let long = Duration::from_secs(60);
        let settings = Settings {
            binaries: [(Target::own(), hive(&sshd))].into(),
            dir: sshd.dir().join("remote dir").display().to_string().parse().unwrap(),
            ssh_config: Some(config),
            known_hosts: Some(vec![sshd.known_hosts()]),
            agent: false,
            patience: Patience {
                connect: long,
                login: long,
                shell: long,
                command: long,
                stall: long,
                listen: long,
                reach: long,
            },
            ..Settings::default()
        };
        let launcher = SshLauncher::new(settings.clone()).unwrap();
        Self { sshd, settings, launcher }
    }

    fn dir(&self) -> PathBuf {
        self.settings.dir.as_str().into()
    }

    fn spec(&self) -> HiveSpec {
        let ssh = SshTarget {
            port: Some(self.sshd.port()),
            key_path: Some(self.sshd.client_key()),
            ..SshTarget::default()
        };
        let local = HiveSpec::local("box".parse().unwrap(), "127.0.0.1".parse().unwrap(), 0);
        HiveSpec { mode: HiveMode::Network, ssh, ..local }
    }

    fn destination(&self) -> Destination {
        let spec = self.spec();
        Destination::of(&spec.hostname, &spec.ssh).unwrap()
    }

    async fn launch(&self, launch_id: &str) -> (Result<RunningHive, LaunchError>, Arc<Observer>) {
        let order = LaunchOrder {
            spec: self.spec(),
            launch_id: launch_id.parse().unwrap(),
            token: "0123456789abcdef".parse().unwrap(),
        };
        let observer = Arc::new(Observer::default());
        let launched = self.launcher.launch(&order, Arc::<Observer>::clone(&observer)).await;
        (launched, observer)
    }
}

fn uploaded(observer: &Observer) -> Vec<u64> {
    let told = observer.told.lock().unwrap();
    told.iter().filter(|told| told.stage == LaunchStage::Upload).filter_map(|told| told.bytes).collect()
}

#[tokio::test]
async fn a_hive_is_brought_started_found_ended_and_removed() {
    let machine = Machine::new();
    assert_eq!(machine.launcher.discover(&machine.spec()).await.unwrap(), None);
    let (launched, observer) = machine.launch("l-1").await;
    let running = launched.unwrap();
    assert!(process::is_alive(&running.process));
    assert!(running.tls_fingerprint.is_some(), "what other machines reach is encrypted");
    assert_eq!(*observer.spawned.lock().unwrap(), std::slice::from_ref(&running.process));
    let size = fs::metadata(hive(&machine.sshd)).unwrap().len();
    let sent = uploaded(&observer);
    assert!(sent.is_sorted() && sent.last() == Some(&size), "{sent:?}");
    assert_eq!(machine.launcher.discover(&machine.spec()).await.unwrap(), Some(running.clone()));
    let stages: Vec<LaunchStage> = observer.told.lock().unwrap().iter().map(|told| told.stage).collect();
    assert!(stages.first() == Some(&LaunchStage::Connect) && stages.last() == Some(&LaunchStage::Reach));

    // The same launch again: the answer was lost, the hive was not.
    let (again, observer) = machine.launch("l-1").await;
    assert_eq!((again.unwrap(), uploaded(&observer)), (running.clone(), vec![]));
    // Another launch does not take its place. Whoever looks again finds that it is the hive that was wanted.
    let (refused, _) = machine.launch("l-2").await;
    let Err(LaunchError::Remote { stage, retry, source, .. }) = refused else { unreachable!("it is taken") };
    assert_eq!((stage, retry), (LaunchStage::Probe, true));
    assert!(source.to_string().contains("in use by hive box (launch l-1)"), "{source}");
    assert!(process::is_alive(&running.process));

    let log = machine.launcher.log_tail(&machine.spec(), 5).await;
    assert!(log.iter().any(|line| line.contains("listening")), "{log:?}");
    let refused = machine.launcher.purge(&machine.destination()).await.unwrap_err();
    assert!(refused.to_string().contains("still runs"), "{refused}");
    assert_eq!(machine.launcher.kill(&machine.spec(), &running).await.unwrap(), 1);
    assert!(!process::is_alive(&running.process));
    assert_eq!(machine.launcher.kill(&machine.spec(), &running).await.unwrap(), 0);

    // What lies there already is not sent again.
    let (launched, observer) = machine.launch("l-3").await;
    let running = launched.unwrap();
    assert_eq!(uploaded(&observer), [0; 0]);
    machine.launcher.kill(&machine.spec(), &running).await.unwrap();
    machine.launcher.purge(&machine.destination()).await.unwrap();
    assert!(!machine.dir().exists());
}

#[tokio::test]
async fn no_secret_is_in_an_argument_list_or_left_in_a_file() {
    let machine = Machine::new();
    let running = machine.launch("l-1").await.0.unwrap();
    let pid = running.process.pid;
    for place in ["cmdline", "environ"] {
        let text = fs::read(format!("/proc/{pid}/{place}")).unwrap();
        assert!(!String::from_utf8_lossy(&text).contains("0123456789abcdef"), "{place}");
    }
    assert!(!machine.dir().join("secret-l-1").exists(), "the hive takes it away");
    assert!(!machine.sshd.log().contains("0123456789abcdef"));
    let mode = std::os::unix::fs::PermissionsExt::mode(&fs::metadata(machine.dir()).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o700);
    machine.launcher.kill(&machine.spec(), &running).await.unwrap();
}

#[tokio::test]
async fn a_hive_of_somebody_else_is_left_alone_and_not_taken_for_ours() {
    let machine = Machine::new();
    let running = machine.launch("l-1").await.0.unwrap();
    let mut theirs = machine.spec();
    theirs.id = "attic".parse().unwrap();
    assert_eq!(machine.launcher.discover(&theirs).await.unwrap(), None, "it is another hive's");
    let order = LaunchOrder {
        spec: theirs,
        launch_id: "l-9".parse().unwrap(),
        token: "fedcba9876543210".parse().unwrap(),
    };
    let refused = machine.launcher.launch(&order, Arc::new(Observer::default())).await;
    let Err(LaunchError::Remote { retry: false, source, .. }) = refused else { unreachable!("it is taken") };
    assert!(source.to_string().contains("in use by hive box"), "{source}");
    assert!(process::is_alive(&running.process));
    machine.launcher.kill(&machine.spec(), &running).await.unwrap();
}

#[tokio::test]
async fn only_the_very_process_that_is_meant_is_ended() {
    let machine = Machine::new();
    let running = machine.launch("l-1").await.0.unwrap();
    let own = running.process.clone();
    let strangers = [
        ProcessIdentity { start_time: own.start_time + 1, ..own.clone() },
        ProcessIdentity { start_time: 0, ..own.clone() },
        ProcessIdentity { boot_id: "another".into(), ..own.clone() },
        ProcessIdentity { boot_id: String::new(), ..own.clone() },
    ];
    for process in strangers {
        let stranger = RunningHive { process, ..running.clone() };
        // The directory is held by a hive that lives, so there is nothing to reap either.
        assert_eq!(machine.launcher.kill(&machine.spec(), &stranger).await.unwrap(), 0);
        assert!(process::is_alive(&own));
    }
    // One that is stopped ends too.
    let stopped = Command::new("kill").arg("-STOP").arg(own.pid.to_string()).status().unwrap();
    assert!(stopped.success());
    assert_eq!(machine.launcher.kill(&machine.spec(), &running).await.unwrap(), 1);
    assert!(!process::is_alive(&own));
}

#[tokio::test]
async fn a_hive_that_cannot_be_reached_is_kept_and_the_reason_told() {
    let mut machine = Machine::new();
    machine.settings.patience.reach = Duration::from_millis(100);
    // Another address of this machine, where it does not listen.
    machine.settings.listen = "127.0.0.2".parse().unwrap();
    machine.launcher = SshLauncher::new(machine.settings.clone()).unwrap();
    let (launched, observer) = machine.launch("l-1").await;
    let Err(LaunchError::Remote { stage, retry, source, .. }) = launched else {
        unreachable!("it is elsewhere")
    };
    assert_eq!((stage, retry), (LaunchStage::Reach, true));
    assert!(source.to_string().contains("keeps running"), "{source}");
    let found = machine.launcher.discover(&machine.spec()).await.unwrap().unwrap();
    assert_eq!(*observer.spawned.lock().unwrap(), std::slice::from_ref(&found.process));
    machine.launcher.kill(&machine.spec(), &found).await.unwrap();
}

#[tokio::test]
async fn a_hive_outlives_its_session_and_a_cut_one_is_found_again() {
    let machine = Machine::new();
    // The connection goes away at the very moment at which the hive is being started.
    let sshd = Arc::new(machine.sshd.port());
    let relay = throwaway_sshd::Relay::start(*sshd, Duration::ZERO).unwrap();
    let known = fs::read_to_string(machine.sshd.known_hosts()).unwrap();
    let through = known.replace(&sshd.to_string(), &relay.port().to_string());
    fs::write(machine.sshd.known_hosts(), format!("{known}{through}")).unwrap();
    let mut spec = machine.spec();
    spec.ssh.port = Some(relay.port());
    let order =
        LaunchOrder { spec, launch_id: "l-1".parse().unwrap(), token: "0123456789abcdef".parse().unwrap() };
    let (first, observer) = (machine.launch("l-0").await.0.unwrap(), Arc::new(Observer::default()));
    machine.launcher.kill(&machine.spec(), &first).await.unwrap();
    let before = relay.passed();
    let launching = machine.launcher.launch(&order, Arc::<Observer>::clone(&observer));
    let cut = async {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
        let announced =
            || fs::read_to_string(machine.dir().join("hive.json")).is_ok_and(|t| t.contains("l-1"));
        while !announced() {
            assert!(tokio::time::Instant::now() < deadline, "it does not start");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        relay.cut_now();
    };
    let (launched, ()) = tokio::join!(launching, cut);
    assert!(relay.passed() > before);
    // Whether or not the answer was faster than the cut, the hive is there, and the next look finds it.
    let found = machine.launcher.discover(&machine.spec()).await.unwrap().unwrap();
    assert_eq!(found.launch_id.as_str(), "l-1");
    let (again, _) = machine.launch("l-1").await;
    assert_eq!(again.unwrap().process, found.process, "first: {launched:?}");
    machine.launcher.kill(&machine.spec(), &found).await.unwrap();
}

#[tokio::test]
async fn an_engine_that_came_along_is_the_one_that_the_hive_offers() {
    let mut machine = Machine::new();
    let engine = machine.sshd.dir().join("llama-server");
    fs::write(&engine, "#!/bin/sh\necho 'version: 4242 (abc)' >&2\n").unwrap();
    fs::set_permissions(&engine, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    machine.settings.engines = vec![fleet::EngineSpec {
        name: "llama-server".parse().unwrap(),
        target: Target::own(),
        backend: fleet::DeviceKind::Cpu,
        origin: fleet::EngineOrigin::Path { path: engine, sha256: None },
    }];
    machine.launcher = SshLauncher::new(machine.settings.clone()).unwrap();
    let running = machine.launch("l-1").await.0.unwrap();
    let environment = fs::read(format!("/proc/{}/environ", running.process.pid)).unwrap();
    let environment = String::from_utf8_lossy(&environment).into_owned();
    let path = environment.split('\0').find_map(|variable| variable.strip_prefix("PATH=")).unwrap();
    let first = PathBuf::from(path.split(':').next().unwrap());
    assert!(first.join("llama-server").is_file() && first.starts_with(machine.dir()), "{path}");
    assert!(environment.contains("RBEE_HIVE_ORPHAN_LEASE_S=0"));
    machine.launcher.kill(&machine.spec(), &running).await.unwrap();
}
