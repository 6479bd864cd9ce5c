//! Several machines at once.

use throwaway_sshd::{Greeting, Relay};
use tokio::{task::JoinSet, time::Instant};
use warden::Ward;

use super::*;

/// What one way takes on the wire: a round trip is twice that.
const ONE_WAY: Duration = Duration::from_millis(50);

/// A machine behind a slow wire, with a home of its own.
struct Far {
    sshd: Sshd,
    relay: Relay,
    _home: Ward,
    spec: HiveSpec,
}

fn far(number: usize, bashrc: &str) -> Far {
    let home = Ward::new().unwrap();
    fs::write(home.path().join(".bashrc"), bashrc).unwrap();
    // What the account that runs the test has its shell do first is no part of a machine.
    let sshd = Sshd::start(&[format!("SetEnv HOME={}", home.path().display())]).unwrap();
    let relay = Relay::start(sshd.port(), ONE_WAY).unwrap();
    let ssh = SshTarget {
        port: Some(relay.port()),
        key_path: Some(sshd.client_key()),
        host_key: Some(sshd.host_key().unwrap()),
        ..SshTarget::default()
    };
    let id = format!("box-{number}").parse().unwrap();
    let local = HiveSpec::local(id, "127.0.0.1".parse().unwrap(), 0);
    Far { spec: HiveSpec { mode: HiveMode::Network, ssh, ..local }, sshd, relay, _home: home }
}

fn order(far: &Far, launch: &str) -> LaunchOrder {
    let token = "0123456789abcdef".parse().unwrap();
    LaunchOrder { spec: far.spec.clone(), launch_id: launch.parse().unwrap(), token }
}

/// Starts one on each, all at once, and tells how long that took.
async fn all(launcher: &SshLauncher, machines: &[Far], launch: &str) -> (Duration, Vec<RunningHive>) {
    let began = Instant::now();
    let mut launches = JoinSet::new();
    for far in machines {
        let (launcher, order) = (launcher.clone(), order(far, launch));
        launches.spawn(async move { launcher.launch(&order, Arc::new(Observer::default())).await });
    }
    let mut running = Vec::new();
    while let Some(launched) = launches.join_next().await {
        running.push(launched.unwrap().unwrap());
    }
    (began.elapsed(), running)
}

fn turn_to(machines: &mut [Far], ports: &[u16]) {
    for (far, port) in machines.iter_mut().zip(ports) {
        far.spec.ssh.port = Some(*port);
    }
}

async fn end(launcher: &SshLauncher, machines: &[Far]) {
    for far in machines {
        let running = launcher.discover(&far.spec).await.unwrap().unwrap();
        assert_eq!(launcher.kill(&far.spec, &running).await.unwrap(), 1);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_machines_come_up_together_and_a_frozen_one_delays_none() {
    together("").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_machines_with_slow_and_noisy_shells_come_up_together() {
    together("echo 'one moment'; sleep 0.2; echo 'you have mail' >&2\n").await;
}

/// Has a fleet come up whose accounts have this start-up file.
async fn together(bashrc: &str) {
    let is_full = std::env::var_os("RBEE_TESTS").is_some_and(|which| which == "full");
    let mut machines: Vec<Far> =
        (0..if is_full { 20 } else { 4 }).map(|number| far(number, bashrc)).collect();
    let near = Machine::new();
    let settings = Settings { dir: ssh_lifecycle::RemoteDir::default(), ..near.settings.clone() };
    let launcher = SshLauncher::new(settings).unwrap();
    // Brings the files, the short way.
    let (mut near_ways, mut far_ways) = (Vec::new(), Vec::new());
    for far in &machines {
        near_ways.push(far.sshd.port());
        far_ways.push(far.relay.port());
    }
    turn_to(&mut machines, &near_ways);
    all(&launcher, &machines, "l-0").await;
    end(&launcher, &machines).await;
    turn_to(&mut machines, &far_ways);
    let (one, _) = all(&launcher, &machines[..1], "l-1").await;
    end(&launcher, &machines[..1]).await;

    // Takes the connection, and says nothing for as long as it is given.
    near.sshd.greet(Greeting::Silence);
    let patient = Patience { connect: Duration::from_secs(3600), ..near.settings.patience };
    let settings =
        Settings { dir: ssh_lifecycle::RemoteDir::default(), patience: patient, ..near.settings.clone() };
    let launcher = SshLauncher::new(settings).unwrap();
    let mut frozen = JoinSet::new();
    let (spec, waiting) = (near.spec(), launcher.clone());
    frozen.spawn(async move { waiting.discover(&spec).await });
    let (together, running) = all(&launcher, &machines, "l-2").await;
    let times = together.as_secs_f64() / one.as_secs_f64();
    let count = running.len();
    println!(
        "figure: {count} machines, binaries there, start-up file {bashrc:?}: {together:?} together, {one:?} for one, {times:.2} times that"
    );
    assert_eq!(running.len(), machines.len());
    assert!(frozen.try_join_next().is_none(), "the frozen one still waits");
    frozen.shutdown().await;
    end(&launcher, &machines).await;
    assert!(machines.iter().all(|far| far.relay.passed() > 0));
}
