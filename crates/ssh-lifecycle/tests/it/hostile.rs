//! Names, hosts, ports, keys and paths that would rather be commands.

use std::path::Path;

use fleet::{Hostname, SshTarget};
use ssh_lifecycle::{Destination, KeyFault, RemoteDir, Settings, SshError, SshLauncher};

/// Ways to have a command run by whoever puts such a text into a line of a shell, or into the arguments of `ssh`.
const WRAPPINGS: &[&str] = &[
    "; T",
    "& T",
    "&& T",
    "| T",
    "$(T)",
    "`T`",
    "\nT\n",
    "\rT",
    "' ; T ; '",
    "\" ; T ; \"",
    "${IFS}T",
    "#\nT",
    "<(T)",
    "\\'; T",
    "}; T; {",
    ")\nT\n(",
    "-oProxyCommand=T",
    "-oPermitLocalCommand=yes -oLocalCommand=T",
    "-F/dev/null -oProxyCommand=T",
    "-- T",
    "box -oProxyCommand=T",
    "box\tT",
    "box%0aT",
    "box\u{1b}[2JT",
    "box\u{2028}T",
    "\u{202e}T",
    "//T",
    "../../T",
    "[::1];T",
    "[T",
    "T]",
    "ü!T",
    "*?T",
    "a..b T",
];

fn all(canary: &Path) -> Vec<String> {
    let command = format!("touch {}", canary.display());
    let mut all: Vec<String> = WRAPPINGS.iter().map(|text| text.replace('T', &command)).collect();
    all.push("a".repeat(10_000) + "; x");
    all
}

/// A text for people: it is there, it fits a screen, and it moves no cursor.
fn is_clear(said: &str) -> bool {
    !said.trim().is_empty()
        && said.chars().count() < 600
        && !said.chars().any(|c| c.is_control() && c != '\n')
}

fn short(text: &str) -> String {
    text.chars().take(80).collect()
}

#[tokio::test]
async fn every_hostile_host_account_port_key_and_directory_is_refused_with_a_clear_error() {
    let dir = tempfile::tempdir().unwrap();
    let canary = dir.path().join("canary");
    let config = dir.path().join("config");
    std::fs::write(&config, "").unwrap();
    let settings = Settings { ssh_config: Some(config), agent: false, ..Settings::default() };
    let launcher = SshLauncher::new(settings).unwrap();
    let here: Hostname = "127.0.0.1".parse().unwrap();
    let registered = |user: Option<&str>, host_key: Option<&str>| {
        let (user, host_key) = (user.map(str::to_owned), host_key.map(str::to_owned));
        Destination::of(&here, &SshTarget { user, host_key, ..SshTarget::default() })
    };
    let mut tried = 0;
    for text in all(&canary) {
        let mut said = vec![
            text.parse::<Destination>().map(drop).unwrap_err().to_string(),
            format!("ann@{text}").parse::<Destination>().map(drop).unwrap_err().to_string(),
            format!("{text}@box").parse::<Destination>().map(drop).unwrap_err().to_string(),
            format!("box:{text}").parse::<Destination>().map(drop).unwrap_err().to_string(),
            registered(Some(&text), None).map(drop).unwrap_err().to_string(),
            registered(None, Some(&text)).map(drop).unwrap_err().to_string(),
            registered(None, Some(&format!("ssh-ed25519 {text}"))).map(drop).unwrap_err().to_string(),
        ];
        // A directory may be called like this; then it travels as a quoted word, which the tests with a server see to.
        said.extend(text.parse::<RemoteDir>().err().map(|error| error.to_string()));
        let to = Destination { key_path: Some(dir.path().join(&text)), ..Destination::new(here.clone()) };
        let refused = launcher.probe(&to).await.unwrap_err();
        let fault =
            matches!(&refused, SshError::Key { fault: KeyFault::Missing | KeyFault::Unreadable(_), .. });
        assert!(fault, "{:?}: {refused}", short(&text));
        said.push(refused.to_string());
        for said in said {
            assert!(is_clear(&said), "{:?} is refused with {said:?}", short(&text));
            tried += 1;
        }
        assert!(!canary.exists(), "{:?} was run", short(&text));
    }
    assert!(tried >= 100, "{tried}");
    println!(
        "figure: 0 of {tried} hostile hosts, accounts, ports, keys and paths were run, each was refused with an error"
    );
}
