//! Files on their way there.

use throwaway_sshd::Relay;

use super::*;

/// Takes the long form where `cargo xtask test --full` asks for it.
fn rounds(short: u64, long: u64) -> u64 {
    if std::env::var_os("RBEE_TESTS").is_some_and(|which| which == "full") { long } else { short }
}

/// A program of some megabytes that leaves a trace whenever any beginning of it is run.
fn traced(sshd: &Sshd) -> (PathBuf, PathBuf) {
    let canary = sshd.dir().join("canary");
    let padding = format!("# {}\n", "x".repeat(98)).repeat(20_000);
    let script = format!("echo ran >>{}\necho rbee-hive 0\nexit 0\n{padding}", canary.display());
    (program(&sshd.dir().join("hive"), &script), canary)
}

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten();
    entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect()
}

#[tokio::test]
async fn an_interrupted_upload_is_never_run_and_never_taken_for_whole() {
    let sshd = sshd();
    let (hive, canary) = traced(&sshd);
    let mut settings = settings(&sshd);
    settings.binaries = [(Target::own(), hive.clone())].into();
    let known = fs::read_to_string(sshd.known_hosts()).unwrap();
    let dir = PathBuf::from(settings.dir.as_str());
    let launcher = SshLauncher::new(settings).unwrap();
    let size = fs::metadata(&hive).unwrap().len();
    let rounds = rounds(8, 100);
    for round in 0..rounds {
        let relay = Relay::start(sshd.port(), Duration::ZERO).unwrap();
        let key = known.replace(&sshd.port().to_string(), &relay.port().to_string());
        fs::write(sshd.known_hosts(), format!("{known}{key}")).unwrap();
        // From before the first byte of the file to just before its last.
        relay.cut_after(8_000 + size * round / rounds);
        let cut = launch(&launcher, spec(relay.port(), sshd.client_key()), |_| {}).await;
        let (stage, retry, error) = reason(cut);
        assert!(retry, "{error}");
        assert!(matches!(error, SshError::Lost { .. } | SshError::Handshake { .. }), "{stage:?}: {error}");
        assert!(!canary.exists(), "round {round}: something was run");
        until("what came is taken away", || names(&dir.join("files")).is_empty()).await;
        assert_eq!(names(&dir.join("bin")), [""; 0]);
    }
    let launched = launch(&launcher, spec(sshd.port(), sshd.client_key()), |_| {}).await;
    assert!(matches!(launched, Err(LaunchError::Exited { .. })), "{launched:?}");
    assert!(canary.exists(), "what is whole is run");
    println!("figure: 0 of {rounds} interrupted uploads were executed");
}

#[tokio::test]
async fn what_an_interruption_left_is_taken_away_and_what_is_whole_is_not_sent_again() {
    let sshd = sshd();
    let (hive, _) = traced(&sshd);
    let mut settings = settings(&sshd);
    settings.binaries = [(Target::own(), hive.clone())].into();
    let dir = PathBuf::from(settings.dir.as_str());
    let launcher = SshLauncher::new(settings).unwrap();
    for (place, name) in [("files", "abc.1.tmp"), ("bin", "def.2.tmp")] {
        fs::create_dir_all(dir.join(place).join(name)).unwrap();
    }
    let sent = Arc::new(Mutex::new(0));
    let bytes = Arc::clone(&sent);
    let count = move |progress: &LaunchProgress| *bytes.lock().unwrap() += progress.bytes.unwrap_or(0);
    let _ = launch(&launcher, spec(sshd.port(), sshd.client_key()), count.clone()).await;
    assert!(std::mem::take(&mut *sent.lock().unwrap()) > 0);
    let [file] = &names(&dir.join("files"))[..] else { unreachable!("one file") };
    assert!(!names(&dir.join("bin")).iter().any(|name| name.ends_with("tmp")));
    let _ = launch(&launcher, spec(sshd.port(), sshd.client_key()), count.clone()).await;
    assert_eq!(*sent.lock().unwrap(), 0, "it was sent again");
    // Of the right length and name, and not what was sent.
    let stored = dir.join("files").join(file);
    let mut damaged = fs::read(&stored).unwrap();
    *damaged.last_mut().unwrap() ^= 1;
    fs::write(&stored, damaged).unwrap();
    let _ = launch(&launcher, spec(sshd.port(), sshd.client_key()), count).await;
    assert!(*sent.lock().unwrap() > 0, "a damaged file was kept");
    assert_eq!(fs::read(&stored).unwrap(), fs::read(&hive).unwrap());
    assert_eq!(fs::read(dir.join("bin/current/rbee-hive")).unwrap(), fs::read(&hive).unwrap());
}

/// A server on a machine where some commands are others.
fn with_command(name: &str, script: &str) -> (Sshd, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("bin")).unwrap();
    program(&dir.path().join("bin").join(name), script);
    let bin = dir.path().join("bin");
    let how = format!("PATH={}:$PATH; export PATH\nexec sh -c \"$SSH_ORIGINAL_COMMAND\"", bin.display());
    let forced = program(&dir.path().join("forced"), &how);
    (Sshd::start(&[format!("ForceCommand {}", forced.display())]).unwrap(), dir)
}

#[tokio::test]
async fn what_lies_there_is_read_once_in_each_life_of_its_machine() {
    let (sshd, machine) = with_command("sha256sum", "echo read >>\"$0.log\"\nexec /usr/bin/sha256sum \"$@\"");
    let reads = || {
        let log = fs::read_to_string(machine.path().join("bin/sha256sum.log")).unwrap_or_default();
        log.lines().count()
    };
    let (hive, _) = traced(&sshd);
    let mut settings = settings(&sshd);
    settings.binaries = [(Target::own(), hive)].into();
    let dir = PathBuf::from(settings.dir.as_str());
    let launcher = SshLauncher::new(settings).unwrap();
    let mut read = Vec::new();
    for _ in 0..4 {
        let _ = launch(&launcher, spec(sshd.port(), sshd.client_key()), |_| {}).await;
        read.push(reads());
    }
    // When it came, and before it was run where it lay.
    assert_eq!(read, [1, 2, 2, 2]);
    let [file] = &names(&dir.join("files"))[..] else { unreachable!("one file") };
    let seen = dir.join("verified").join(file);
    // What was seen before the machine was started again counts no more.
    fs::write(&seen, "another life\n").unwrap();
    let _ = launch(&launcher, spec(sshd.port(), sshd.client_key()), |_| {}).await;
    assert_eq!(reads(), 3);
}

#[tokio::test]
async fn a_disk_that_refuses_is_named_for_its_reason() {
    for (name, script, retries, part) in [
        (
            "cat",
            "[ -t 0 ] || [ $# -gt 0 ] && exec /bin/cat \"$@\"; echo 'cat: write error: No space left on device' >&2; exit 1",
            true,
            "the disk is full",
        ),
        (
            "cat",
            "[ $# -gt 0 ] && exec /bin/cat \"$@\"; echo 'cat: write error: Disk quota exceeded' >&2; exit 1",
            true,
            "quota",
        ),
        (
            "mkdir",
            "echo 'mkdir: cannot create directory: Read-only file system' >&2; exit 1",
            false,
            "read-only",
        ),
        (
            "mkdir",
            "echo 'mkdir: cannot create directory: Permission denied' >&2; exit 1",
            false,
            "may not write",
        ),
        ("df", "echo 'tmpfs 100 99 1 99% /'", true, "has 0 MB free"),
    ] {
        let (sshd, _bin) = with_command(name, script);
        let (hive, canary) = traced(&sshd);
        let mut settings = settings(&sshd);
        settings.binaries = [(Target::own(), hive)].into();
        let dir = PathBuf::from(settings.dir.as_str());
        let launcher = SshLauncher::new(settings).unwrap();
        let (stage, retry, error) =
            reason(launch(&launcher, spec(sshd.port(), sshd.client_key()), |_| {}).await);
        assert!(error.to_string().contains(part), "{error}");
        assert_eq!((stage, retry), (LaunchStage::Upload, retries), "{error}");
        assert!(names(&dir.join("files")).is_empty() && !canary.exists(), "{name}: something was left");
    }
}

#[tokio::test]
async fn what_arrives_changed_is_not_kept() {
    let (sshd, _bin) = with_command("cat", "[ $# -gt 0 ] && exec /bin/cat \"$@\"; exec tr x y");
    let (hive, canary) = traced(&sshd);
    let mut settings = settings(&sshd);
    settings.binaries = [(Target::own(), hive)].into();
    let dir = PathBuf::from(settings.dir.as_str());
    let launcher = SshLauncher::new(settings).unwrap();
    let (_, retry, error) = reason(launch(&launcher, spec(sshd.port(), sshd.client_key()), |_| {}).await);
    assert!(matches!(error, SshError::Damaged { .. }) && retry, "{error}");
    assert!(names(&dir.join("files")).is_empty() && !canary.exists());
}

#[tokio::test]
async fn a_program_that_does_not_run_there_is_never_made_current() {
    for (script, part) in [
        ("echo 'not found: libc.musl-x86_64.so.1' >&2; exit 127", "libc.musl"),
        ("echo something else", "something else"),
        ("kill -SEGV $$", "rbee-hive --version"),
    ] {
        let sshd = sshd();
        let mut settings = settings(&sshd);
        settings.binaries = [(Target::own(), program(&sshd.dir().join("hive"), script))].into();
        let dir = PathBuf::from(settings.dir.as_str());
        let launcher = SshLauncher::new(settings).unwrap();
        let (stage, retry, error) =
            reason(launch(&launcher, spec(sshd.port(), sshd.client_key()), |_| {}).await);
        assert!(matches!(error, SshError::Smoke { .. }) && error.to_string().contains(part), "{error}");
        assert_eq!((stage, retry), (LaunchStage::Upload, false));
        assert!(!dir.join("bin/current").exists());
    }
}
