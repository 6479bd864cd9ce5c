//! Machines that stop in the middle.

use throwaway_sshd::Relay;

use super::*;

/// A program that is no good hive, but whole.
fn quitter(sshd: &Sshd) -> PathBuf {
    program(&sshd.dir().join("hive"), "echo rbee-hive 0")
}

#[tokio::test]
async fn a_machine_that_freezes_at_any_step_costs_its_own_bound() {
    for step in [LaunchStage::Authenticate, LaunchStage::Probe, LaunchStage::Upload, LaunchStage::Start] {
        let sshd = Arc::new(sshd());
        let mut settings = settings(&sshd);
        settings.binaries = [(Target::own(), quitter(&sshd))].into();
        let bound = Duration::from_millis(700);
        settings.patience = Patience {
            login: bound,
            shell: bound,
            command: bound,
            stall: bound,
            listen: bound,
            ..patience()
        };
        let launcher = SshLauncher::new(settings).unwrap();
        let frozen = Arc::clone(&sshd);
        let freeze = move |progress: &LaunchProgress| {
            if progress.stage == step && progress.detail.is_none() {
                frozen.freeze();
            }
        };
        let (stage, retry, error) =
            reason(launch(&launcher, spec(sshd.port(), sshd.client_key()), freeze).await);
        assert!(matches!(error, SshError::Stalled { .. }), "{step:?}: {error}");
        assert_eq!((stage, retry), (step, true));
        until("its thread ends", || launcher.living_sessions() == 0).await;
        sshd.thaw();
    }
}

#[tokio::test]
async fn a_frozen_machine_among_several_delays_none_of_the_others() {
    let machines: Vec<Sshd> = (0..5).map(|_| sshd()).collect();
    let known: String = machines.iter().map(|sshd| fs::read_to_string(sshd.known_hosts()).unwrap()).collect();
    machines[2].greet(throwaway_sshd::Greeting::Silence);
    let mut settings = settings(&machines[0]);
    fs::write(machines[0].known_hosts(), known).unwrap();
    // Far longer than the others may take.
    settings.patience.connect = Duration::from_secs(3600);
    let launcher = SshLauncher::new(settings).unwrap();
    let mut probes = Vec::new();
    let mut tasks = tokio::task::JoinSet::new();
    for sshd in &machines {
        let (launcher, destination) = (launcher.clone(), destination(sshd));
        probes.push(tasks.spawn(async move { launcher.probe(&destination).await.map(drop) }));
    }
    let frozen = probes.remove(2);
    for _ in probes {
        let probed = tokio::time::timeout(Duration::from_secs(60), tasks.join_next()).await;
        probed.unwrap().unwrap().unwrap().unwrap();
    }
    assert!(!frozen.is_finished(), "the frozen one still waits");
    frozen.abort();
    until("the threads end, that of the caller who left too", || launcher.living_sessions() == 0).await;
}

#[tokio::test]
async fn a_caller_who_leaves_frees_the_connection() {
    let sshd = sshd();
    let launcher = SshLauncher::new(settings(&sshd)).unwrap();
    sshd.greet(throwaway_sshd::Greeting::Silence);
    let to = destination(&sshd);
    let left = tokio::time::timeout(Duration::from_millis(300), launcher.probe(&to)).await;
    assert!(left.is_err());
    until("its thread ends", || launcher.living_sessions() == 0).await;
}

#[tokio::test]
async fn a_slow_wire_is_no_frozen_machine() {
    let sshd = sshd();
    let relay = Relay::start(sshd.port(), Duration::from_millis(50)).unwrap();
    let known = fs::read_to_string(sshd.known_hosts()).unwrap();
    fs::write(sshd.known_hosts(), known.replace(&sshd.port().to_string(), &relay.port().to_string()))
        .unwrap();
    let mut settings = settings(&sshd);
    settings.binaries = [(Target::own(), quitter(&sshd))].into();
    let launcher = SshLauncher::new(settings).unwrap();
    let launched = launch(&launcher, spec(relay.port(), sshd.client_key()), |_| {}).await;
    let Err(LaunchError::Exited { exit, .. }) = launched else { unreachable!("{launched:?}") };
    assert_eq!((exit.code, exit.log_tail), (Some(0), vec!["rbee-hive 0".to_owned()]));
}

#[tokio::test]
async fn a_hive_that_never_listens_is_given_up_and_ended() {
    let sshd = sshd();
    let mut settings = settings(&sshd);
    let pid = sshd.dir().join("pid");
    let script = format!(
        "[ \"$1\" != --version ] || {{ echo rbee-hive 0; exit 0; }}; echo $$ >{}; trap '' TERM; echo waiting; sleep 1000 & wait",
        pid.display()
    );
    settings.binaries = [(Target::own(), program(&sshd.dir().join("hive"), &script))].into();
    settings.patience.listen = Duration::from_secs(1);
    let dir = PathBuf::from(settings.dir.as_str());
    let launcher = SshLauncher::new(settings).unwrap();
    let launched = launch(&launcher, spec(sshd.port(), sshd.client_key()), |_| {}).await;
    let Err(LaunchError::NotListening { log_tail, .. }) = launched else { unreachable!("{launched:?}") };
    assert_eq!(log_tail, ["waiting"]);
    let pid = fs::read_to_string(pid).unwrap();
    until("it is ended", || !Path::new("/proc").join(pid.trim()).exists()).await;
    assert!(!dir.join("secret-l-1").exists());
}

#[tokio::test]
async fn nothing_that_is_not_a_hives_is_removed() {
    let sshd = sshd();
    let settings = settings(&sshd);
    let dir = PathBuf::from(settings.dir.as_str());
    let launcher = SshLauncher::new(settings).unwrap();
    launcher.purge(&destination(&sshd)).await.unwrap();
    fs::create_dir_all(&dir).unwrap();
    fs::write(dir.join("photos"), "precious").unwrap();
    let refused = launcher.purge(&destination(&sshd)).await.unwrap_err();
    assert!(matches!(refused, SshError::NotOurs { .. }), "{refused}");
    assert!(dir.join("photos").exists());
}
