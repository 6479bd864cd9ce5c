//! Accounts whose shells say more, or do less, than they are asked to.

use super::*;

/// A server whose commands are run by `how`, with a home of its own. `$SSH_ORIGINAL_COMMAND` is what was asked for.
fn forced(how: &str) -> (Sshd, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let script = format!("HOME={}; export HOME\n{how}", dir.path().display());
    let forced = program(&dir.path().join("forced"), &script);
    let banner = dir.path().join("banner");
    fs::write(&banner, "All use is watched.\nrbee end=0\n").unwrap();
    let config = [format!("ForceCommand {}", forced.display()), format!("Banner {}", banner.display())];
    (Sshd::start(&config).unwrap(), dir)
}

async fn outcome(sshd: &Sshd) -> Result<ssh_lifecycle::Machine, SshError> {
    let mut settings = settings(sshd);
    settings.patience.command = Duration::from_secs(30);
    probe(&destination(sshd), &settings).await
}

#[tokio::test]
async fn noise_of_every_kind_of_shell_is_passed_over() {
    let run = "-c \"$SSH_ORIGINAL_COMMAND\"";
    for (name, how) in [
        ("plain", format!("exec sh {run}")),
        ("csh", format!("exec csh -f {run}")),
        ("bash", format!("exec bash {run}")),
        (
            "a message",
            format!("echo 'Welcome!'; echo 'pid=1'; printf 'no line feed'; echo oops >&2; exec sh {run}"),
        ),
        ("a traced shell", format!("exec sh -x {run}")),
        ("a traced environment", format!("SHELLOPTS=xtrace:verbose; export SHELLOPTS; exec bash {run}")),
        (
            "binary noise",
            format!("head -c 100000 /dev/urandom; head -c 100000 /dev/urandom >&2; exec sh {run}"),
        ),
        ("a flood on one stream", format!("head -c 6000000 /dev/zero >&2; exec sh {run}")),
        ("a shell that talks afterwards", format!("sh {run}; echo rbee end=1; echo logout")),
        ("aliases and options", format!("set -eu; alias echo=false; exec sh -u {run}")),
    ] {
        let (sshd, home) = forced(&how);
        let machine = outcome(&sshd).await.unwrap_or_else(|error| unreachable!("{name}: {error}"));
        assert_eq!(machine.home, home.path().display().to_string(), "{name}");
    }
}

#[tokio::test]
async fn a_noisy_bashrc_is_passed_over_and_one_that_ends_is_named() {
    let (sshd, home) = forced("unset SHLVL; exec bash -c \"$SSH_ORIGINAL_COMMAND\"");
    fs::write(home.path().join(".bashrc"), "echo 'you have mail'; set -x\n").unwrap();
    outcome(&sshd).await.unwrap();
    fs::write(home.path().join(".bashrc"), "echo 'not today'; exit 0\n").unwrap();
    let refused = outcome(&sshd).await.unwrap_err();
    assert!(matches!(&refused, SshError::Shell { said, .. } if said.contains("not today")), "{refused}");
    assert!(!refused.is_worth_a_retry());
}

#[tokio::test]
async fn a_start_up_file_that_takes_part_of_the_input_has_nothing_else_run_in_its_place() {
    let (sshd, home) = forced("unset SHLVL; exec bash -c \"$SSH_ORIGINAL_COMMAND\"");
    let mut settings = settings(&sshd);
    settings.binaries = [(Target::own(), program(&sshd.dir().join("hive"), "echo rbee-hive 0"))].into();
    for taken in
        ["read -r answer", "read -r one; read -r two", "dd bs=1 count=30 of=/dev/null", "cat >/dev/null"]
    {
        fs::write(home.path().join(".bashrc"), format!("{taken} 2>/dev/null\n")).unwrap();
        let launcher = SshLauncher::new(settings.clone()).unwrap();
        let (stage, retry, error) =
            reason(launch(&launcher, spec(sshd.port(), sshd.client_key()), |_| {}).await);
        assert!(matches!(error, SshError::Shell { .. }), "{taken}: {error}");
        assert_eq!((stage, retry), (LaunchStage::Probe, false), "{taken}");
    }
}

#[tokio::test]
async fn half_an_answer_is_no_answer_whatever_the_exit_status() {
    for how in [
        "sh -c \"$SSH_ORIGINAL_COMMAND\" | head -n 4; exit 0",
        "sh -c \"$SSH_ORIGINAL_COMMAND\" | head -n 4; kill -9 $$",
    ] {
        let (sshd, _home) = forced(how);
        let lost = outcome(&sshd).await.unwrap_err();
        assert!(matches!(lost, SshError::Lost { .. }) && lost.is_worth_a_retry(), "{how}: {lost}");
    }
    for how in ["exit 0", "kill -9 $$", "echo This account is not available.; exit 1", "exec cat"] {
        let (sshd, _home) = forced(how);
        let refused = outcome(&sshd).await.unwrap_err();
        assert!(matches!(refused, SshError::Shell { .. }), "{how}: {refused}");
    }
}

#[tokio::test]
async fn a_shell_that_never_ends_costs_its_own_bound() {
    for how in ["exec sleep 1000", "exec cat /dev/zero", "while :; do echo more >&2; done"] {
        let (sshd, _home) = forced(how);
        let mut settings = settings(&sshd);
        settings.patience.shell = Duration::from_millis(500);
        let launcher = SshLauncher::new(settings).unwrap();
        let hangs = launcher.probe(&destination(&sshd)).await.unwrap_err();
        assert!(hangs.is_worth_a_retry(), "{how}: {hangs}");
        until("its thread ends", || launcher.living_sessions() == 0).await;
    }
}

#[tokio::test]
async fn a_start_up_file_that_hangs_costs_the_shells_bound_and_a_slow_one_only_its_time() {
    let (sshd, home) = forced("unset SHLVL; exec bash -c \"$SSH_ORIGINAL_COMMAND\"");
    let launcher = |shell: Duration| {
        let mut settings = settings(&sshd);
        settings.patience.shell = shell;
        SshLauncher::new(settings).unwrap()
    };
    let bashrc = |text: &str| fs::write(home.path().join(".bashrc"), text).unwrap();
    let to = destination(&sshd);
    for hangs in ["sleep 1000\n", "read -r answer </dev/tty || sleep 1000\n"] {
        bashrc(hangs);
        let launcher = launcher(Duration::from_millis(700));
        // Everything but the shell may take a minute, and a look more than that.
        let error = launcher.probe(&to).await.unwrap_err();
        assert!(matches!(error, SshError::ShellHangs { .. }), "{hangs}: {error}");
        until("its thread ends", || launcher.living_sessions() == 0).await;
    }
    bashrc("echo 'one moment'; sleep 1; echo 'you have mail'\n");
    launcher(Duration::from_secs(60)).probe(&to).await.unwrap();
}

#[tokio::test]
async fn hostile_directories_run_nothing_and_are_made_as_they_are_named() {
    let (sshd, home) = forced("cd; exec sh -c \"$SSH_ORIGINAL_COMMAND\"");
    let names = [
        "$(T)`T`${IFS}T",
        "; T; & T & | T",
        "a' ; T ; '$(T)'",
        "\"; T; \"$(T)\"",
        "-rf * ? [a] {T,T}",
        "a\\b\\'; T;",
        "ä ö !T #T % T",
        ")\u{2028}T( <(T)",
    ];
    for name in names {
        let dir = sshd.dir().join("hostile").join(name.replace('T', "touch canary"));
        let mut settings = settings(&sshd);
        settings.dir = dir.display().to_string().parse().unwrap();
        let hive = program(&sshd.dir().join("hive"), "echo rbee-hive 0");
        settings.binaries = [(Target::own(), hive)].into();
        let launcher = SshLauncher::new(settings).unwrap();
        let launched = launch(&launcher, spec(sshd.port(), sshd.client_key()), |_| {}).await;
        // It says its version and ends, which is all that it can.
        assert!(matches!(launched, Err(LaunchError::Exited { .. })), "{name}: {launched:?}");
        assert!(dir.join("bin/current/rbee-hive").is_file(), "{name}");
        let canaries = [home.path(), &dir, sshd.dir()].map(|place| place.join("canary"));
        assert!(!canaries.iter().any(|canary| canary.exists()), "{name} was run");
        launcher.purge(&destination(&sshd)).await.unwrap();
        assert!(!dir.exists(), "{name}");
    }
}
