//! The queen and the service manager.

use std::{os::unix::net::UnixDatagram, process::Output};

use process::Signal;
use tokio::process::Command;

use crate::town::{PATIENCE, Town, program, within};

#[tokio::test]
async fn the_service_manager_is_told_when_requests_are_taken_and_when_the_queen_stops() {
    let town = Town::of_fakes(&serde_json::json!({}));
    let path = town.folder().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let town = town.with("NOTIFY_SOCKET", path.to_str().unwrap());
    let mut queen = town.start("queen-rbee", &[]);
    let told = |socket: UnixDatagram| async move {
        let reading = tokio::task::spawn_blocking(move || {
            let mut message = [0; 64];
            let length = socket.recv(&mut message).unwrap();
            String::from_utf8_lossy(&message[..length]).into_owned()
        });
        within("a notice", reading).await.unwrap()
    };
    assert_eq!(told(socket.try_clone().unwrap()).await, "READY=1");
    let client = queen_client::QueenClient::new(&town.url, None).unwrap();
    client.ready().await.unwrap();
    queen.process().signal(Signal::TERM).unwrap();
    assert_eq!(told(socket).await, "STOPPING=1");
    within("the queen's end", queen.wait()).await.unwrap();
}

#[tokio::test]
async fn what_was_asked_for_is_printed_and_what_is_wrong_is_an_error() {
    for (arg, code, printed, told) in [
        ("--version", 0, concat!("queen-rbee ", env!("CARGO_PKG_VERSION"), "\n"), ""),
        ("--help", 0, "Usage: queen-rbee", ""),
        ("--no-such-thing", 64, "", "--no-such-thing"),
    ] {
        let output = within(arg, Command::new(program("queen-rbee")).arg(arg).output()).await.unwrap();
        assert_eq!(output.status.code(), Some(code), "{arg}");
        let (out, err) = (String::from_utf8_lossy(&output.stdout), said(&output));
        assert!(out.contains(printed) && out.is_empty() == printed.is_empty(), "{arg} prints {out:?}");
        assert!(err.contains(told) && err.is_empty() == told.is_empty(), "{arg} tells {err:?}");
    }
}

async fn install(town: &Town, args: &[&str]) -> Output {
    let mut command = Command::new(program("queen-rbee"));
    command.arg("install-service").args(args).env_clear().envs(town.environment());
    within("the installation", command.output()).await.unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_unit_is_written_that_systemd_takes_and_another_is_never_replaced_unasked() {
    let town = Town::of_fakes(&serde_json::json!({})).with("QUEEN_RBEE_TOKEN", "0123456789abcdef");
    let unit = town.folder().join("config/systemd/user/queen-rbee.service");
    let data_dir = town.folder().join("da ta");
    let args = ["--data-dir", data_dir.to_str().unwrap()];
    let first = install(&town, &args).await;
    assert!(first.status.success(), "{}", said(&first));
    assert!(said(&first).contains("systemctl --user enable --now queen-rbee"), "{}", said(&first));
    assert!(said(&first).contains("QUEEN_RBEE_TOKEN"), "what the service does not see is told");
    let text = std::fs::read_to_string(&unit).unwrap();
    assert!(text.contains(&format!("\"--keep-hives\" \"--data-dir\" {data_dir:?}")), "{text}");
    assert!(!text.contains("0123456789abcdef"), "no secret in a file that all may read");

    assert!(said(&install(&town, &args).await).contains("there already"));
    let other = install(&town, &[]).await;
    assert_eq!(other.status.code(), Some(73), "{}", said(&other));
    assert_eq!(std::fs::read_to_string(&unit).unwrap(), text);
    assert!(install(&town, &["--force"]).await.status.success());
    let forced = std::fs::read_to_string(&unit).unwrap();
    assert_ne!(forced, text);
    let printed = install(&town, &["--print"]).await;
    assert_eq!(String::from_utf8_lossy(&printed.stdout), forced);

    // Where systemd is installed, its own judgement counts too; what is asserted above holds everywhere.
    let mut verify = Command::new("systemd-analyze");
    verify.args(["verify", "--user"]).arg(&unit).env("XDG_RUNTIME_DIR", town.folder());
    if let Ok(verified) = verify.output().await {
        assert!(verified.status.success(), "{}", said(&verified));
        assert!(!said(&verified).contains("queen-rbee.service"), "{}", said(&verified));
    }
}

#[tokio::test]
async fn a_service_with_a_faulty_configuration_is_not_installed() {
    let town = Town::of_fakes(&serde_json::json!({}));
    let refused = install(&town, &["--listen", "nowhere"]).await;
    assert_eq!(refused.status.code(), Some(78), "{}", said(&refused));
    assert!(!town.folder().join("config/systemd").exists());
}
