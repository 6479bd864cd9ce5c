//! `~/.ssh/config`, as `ssh` itself understands it.
//!
//! `ssh -G HOST` prints what would be used, with every `Host`, `Match` and `Include` resolved. Where there is no `ssh`, there is
//! no such file that matters either, and its defaults are taken.

use std::{
    env,
    ffi::OsString,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use fleet::Hostname;

use crate::{Destination, RemoteUser, Settings, SshError, known_hosts};

/// `ssh -G` reads a few files; a `Match exec` in them may take longer.
const READ: Duration = Duration::from_secs(5);

/// Options that would have to be followed, and cannot be.
const UNSUPPORTED: &[&str] = &["proxyjump", "proxycommand", "revokedhostkeys", "knownhostscommand"];

/// A destination with nothing left open.
#[derive(Debug, Clone)]
pub(crate) struct Resolved {
    /// As it was named.
    pub(crate) host: Hostname,
    /// What is connected to.
    pub(crate) address: Hostname,
    pub(crate) port: u16,
    pub(crate) user: RemoteUser,
    /// What known_hosts calls it.
    pub(crate) lookup_name: String,
    pub(crate) known_hosts: Vec<PathBuf>,
    /// Keys to try, in order, and whether that one was asked for.
    pub(crate) keys: Keys,
    /// Whether an agent may be asked for further keys.
    pub(crate) agent: Option<AgentAt>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Keys {
    /// This one and no other.
    Only(PathBuf),
    /// Those of these that are there.
    Usual(Vec<PathBuf>),
}

/// Where an agent listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum AgentAt {
    /// As `SSH_AUTH_SOCK` says.
    Environment,
    Socket(PathBuf),
}

pub(crate) async fn resolve(destination: &Destination, settings: &Settings) -> Result<Resolved, SshError> {
    let options = match ask_ssh(destination, settings).await? {
        Some(text) => Options(text),
        None => Options(String::new()),
    };
    resolved(destination, settings, &options)
}

/// What `ssh -G` printed; `None` where there is no `ssh`.
async fn ask_ssh(destination: &Destination, settings: &Settings) -> Result<Option<String>, SshError> {
    let host = &destination.host;
    let failed = |reason: String| SshError::Config { host: host.clone(), reason };
    let mut command = tokio::process::Command::new("ssh");
    command.arg("-G");
    if let Some(file) = &settings.ssh_config {
        command.arg("-F").arg(file);
    }
    if let Some(port) = destination.port {
        command.arg("-p").arg(port.to_string());
    }
    if let Some(user) = &destination.user {
        command.arg("-l").arg(user.as_str());
    }
    command.arg("--").arg(host.as_str());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let output = match tokio::time::timeout(READ, command.output()).await {
        Err(_) => return Err(failed(format!("`ssh -G {host}` did not end within {READ:?}"))),
        Ok(Err(error)) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Ok(Err(error)) => return Err(failed(format!("`ssh -G {host}` could not be run: {error}"))),
        Ok(Ok(output)) => output,
    };
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr);
        return Err(failed(text.lines().last().unwrap_or("`ssh -G` said nothing").trim().to_owned()));
    }
    Ok(Some(String::from_utf8_lossy(&output.stdout).into_owned()))
}

/// Lines of a word and its value.
struct Options(String);

impl Options {
    fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        let lines = self.0.lines().filter_map(|line| line.trim().split_once(' '));
        lines.filter(move |(word, _)| word.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
    }

    /// The value, unless there is none or it says so.
    fn one<'a>(&'a self, name: &'a str) -> Option<&'a str> {
        self.all(name).next().filter(|value| !value.is_empty() && !value.eq_ignore_ascii_case("none"))
    }
}

fn resolved(destination: &Destination, settings: &Settings, options: &Options) -> Result<Resolved, SshError> {
    let host = destination.host.clone();
    for option in UNSUPPORTED {
        if let Some(value) = options.one(option) {
            return Err(SshError::Unsupported { host, option, value: value.to_owned() });
        }
    }
    let wrong = |reason: String| SshError::Config { host: host.clone(), reason };
    let address = match options.one("hostname") {
        // A zone of IPv6 (`fe80::1%eth0`) has no place in a host name here.
        Some(name) => name.parse().map_err(|error: fleet::HostnameError| wrong(error.to_string()))?,
        None => host.clone(),
    };
    let user = match &destination.user {
        Some(user) => user.clone(),
        None => {
            let local = || env::var("USER").or_else(|_| env::var("LOGNAME")).ok();
            let name = options.one("user").map(str::to_owned).or_else(local);
            let name = name.ok_or_else(|| wrong("no user is named, and USER is not set".to_owned()))?;
            name.parse().map_err(|error: crate::RemoteUserError| wrong(error.to_string()))?
        }
    };
    let port = destination.port.or_else(|| options.one("port")?.parse().ok()).unwrap_or(22);
    let tokens = Tokens { home: env::home_dir(), host: &host, address: &address, port, user: &user };
    let known_hosts = settings.known_hosts.clone().unwrap_or_else(|| known_hosts_files(options, &tokens));
    let lookup_name = match options.one("hostkeyalias") {
        Some(alias) => alias.to_ascii_lowercase(),
        None => known_hosts::lookup_name(address.as_str(), port),
    };
    let keys = match &destination.key_path {
        Some(path) => Keys::Only(tokens.path(&path.to_string_lossy())),
        None => Keys::Usual(key_files(options, &tokens)),
    };
    let agent = agent(options, &tokens).filter(|_| settings.agent);
    Ok(Resolved { lookup_name, known_hosts, keys, agent, host: host.clone(), address, port, user })
}

fn known_hosts_files(options: &Options, tokens: &Tokens<'_>) -> Vec<PathBuf> {
    let named = ["userknownhostsfile", "globalknownhostsfile"].map(|name| options.one(name));
    let usual = ["~/.ssh/known_hosts", "/etc/ssh/ssh_known_hosts"];
    let lists = named.into_iter().zip(usual).map(|(named, usual)| named.unwrap_or(usual));
    lists.flat_map(str::split_ascii_whitespace).map(|file| tokens.path(file)).collect()
}

fn key_files(options: &Options, tokens: &Tokens<'_>) -> Vec<PathBuf> {
    let mut named: Vec<&str> = options.all("identityfile").collect();
    if named.is_empty() {
        named = vec!["~/.ssh/id_ed25519", "~/.ssh/id_ecdsa", "~/.ssh/id_rsa"];
    }
    named.into_iter().filter(|file| *file != "none").map(|file| tokens.path(file)).collect()
}

fn agent(options: &Options, tokens: &Tokens<'_>) -> Option<AgentAt> {
    match options.all("identityagent").next() {
        Some(value) if value.eq_ignore_ascii_case("none") => None,
        None | Some("SSH_AUTH_SOCK") => env::var_os("SSH_AUTH_SOCK").map(|_| AgentAt::Environment),
        Some(value) => match value.strip_prefix('$') {
            Some(variable) => env::var_os(variable).map(|socket| AgentAt::Socket(socket.into())),
            None => Some(AgentAt::Socket(tokens.path(value))),
        },
    }
}

/// What `%` and `~` stand for in file names (ssh_config(5), TOKENS).
struct Tokens<'a> {
    home: Option<PathBuf>,
    host: &'a Hostname,
    address: &'a Hostname,
    port: u16,
    user: &'a RemoteUser,
}

impl Tokens<'_> {
    fn path(&self, text: &str) -> PathBuf {
        let text = text.strip_prefix('"').and_then(|text| text.strip_suffix('"')).unwrap_or(text);
        let mut path = String::new();
        let mut rest = text.chars();
        while let Some(c) = rest.next() {
            if c != '%' {
                path.push(c);
                continue;
            }
            match rest.next() {
                Some('%') | None => path.push('%'),
                Some('h') => path.push_str(self.address.as_str()),
                Some('n') => path.push_str(self.host.as_str()),
                Some('p') => path.push_str(&self.port.to_string()),
                Some('r') => path.push_str(self.user.as_str()),
                Some('d') => path.push_str(&self.home.as_deref().unwrap_or(Path::new("~")).to_string_lossy()),
                Some('u') => path.push_str(&env::var("USER").unwrap_or_default()),
                Some(other) => path.extend(['%', other]),
            }
        }
        match (path.strip_prefix("~/"), &self.home) {
            (Some(below), Some(home)) => home.join(below),
            _ => PathBuf::from(OsString::from(path)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str, destination: &str) -> Result<Resolved, SshError> {
        resolved(
            &destination.parse().expect("a destination"),
            &Settings::default(),
            &Options(text.to_owned()),
        )
    }

    #[test]
    fn what_ssh_says_is_used_and_what_was_given_wins() {
        let text = "user ann\nhostname 10.0.0.5\nport 2222\nidentityfile ~/.ssh/%h.key\nidentityfile /k/%r@%n\n\
                    userknownhostsfile /a /b\nglobalknownhostsfile /c\nhostkeyalias none\nproxyjump none\n";
        let found = read(text, "box").expect("a destination");
        assert_eq!((found.address.as_str(), found.port, found.user.as_str()), ("10.0.0.5", 2222, "ann"));
        assert_eq!(found.lookup_name, "[10.0.0.5]:2222");
        assert_eq!(found.known_hosts, ["/a", "/b", "/c"].map(PathBuf::from));
        let home = env::home_dir().expect("a home");
        assert_eq!(found.keys, Keys::Usual(vec![home.join(".ssh/10.0.0.5.key"), "/k/ann@box".into()]));
        let found = read(text, "bob@box:22").expect("a destination");
        assert_eq!((found.port, found.user.as_str(), found.lookup_name.as_str()), (22, "bob", "10.0.0.5"));
    }

    #[test]
    fn ways_that_cannot_be_gone_are_refused_by_name() {
        for (line, option) in [
            ("proxyjump ann@gate", "proxyjump"),
            ("proxycommand nc %h %p", "proxycommand"),
            ("revokedhostkeys /etc/ssh/krl", "revokedhostkeys"),
        ] {
            let refused = read(&format!("user ann\n{line}\n"), "box").expect_err(line);
            assert!(
                matches!(refused, SshError::Unsupported { option: named, .. } if named == option),
                "{refused}"
            );
        }
        assert!(matches!(read("user a;id", "box"), Err(SshError::Config { .. })));
        assert!(matches!(read("user a\nhostname -oX", "box"), Err(SshError::Config { .. })));
    }

    #[tokio::test]
    async fn a_configuration_file_is_read_by_ssh_itself() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("config");
        std::fs::write(
            &file,
            "Match host box\n  User ann\nHost box other\n  HostName 10.1.1.1\n  Port 2200\n",
        )
        .expect("a file");
        let settings = Settings { ssh_config: Some(file.clone()), ..Settings::default() };
        let found = resolve(&"box".parse().expect("a host"), &settings).await.expect("a destination");
        assert_eq!((found.address.as_str(), found.port, found.user.as_str()), ("10.1.1.1", 2200, "ann"));
        std::fs::write(&file, "Nonsense yes\n").expect("a file");
        let refused = resolve(&"box".parse().expect("a host"), &settings).await.expect_err("no such option");
        assert!(matches!(refused, SshError::Config { .. }), "{refused}");
    }
}
