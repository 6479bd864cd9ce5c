//! The question that ssh asks once about a host that nobody knows.
//!
//! The queen refuses an unknown host key and cannot ask anybody. Where it runs on this machine, as this user, both read
//! the same known_hosts, so a person who says yes here says it for the queen.

use std::io::{IsTerminal, Write, stderr, stdin};

use ssh_lifecycle::{Destination, HostKey, Settings, SshError, Verdict, remember_host_key};

use crate::{failure::Failure, screen::Screen, words};

/// Makes sure that the host's key is known, if a person says so. Nothing but its key is asked of the host.
pub(crate) async fn settle(
    destination: &Destination,
    settings: &Settings,
    screen: &Screen,
) -> Result<(), Failure> {
    screen.progress(&format!("asking {} for its host key", destination.host));
    let (key, verdict) = ssh_lifecycle::host_key(destination, settings).await.map_err(|e| told(&e))?;
    let (host, port) = (destination.host.clone(), destination.port.unwrap_or(22));
    match verdict {
        Verdict::Known { .. } => Ok(()),
        Verdict::Changed { at } => Err(told(&SshError::HostKeyChanged { host, port, key, at })),
        Verdict::Revoked { at } => Err(told(&SshError::HostKeyRevoked { host, port, key, at })),
        Verdict::Unknown { other_kinds } => {
            if screen.is_json() || !stdin().is_terminal() || !stderr().is_terminal() {
                return Err(Failure::Told(format!(
                    "the host key of {host} is not known; it shows {} ({}). Compare it with what the machine says of itself, \
                     and call this again in a terminal, which asks once; nothing was registered",
                    key.fingerprint(),
                    key.kind()
                )));
            }
            let other =
                other_kinds.first().map(|kind| format!(" (it is known by a key of another kind, {kind})"));
            let question = format!(
                "{host} shows {} ({}), and nobody here knows it{}. Is it the right one? [y/N] ",
                key.fingerprint(),
                key.kind(),
                other.unwrap_or_default()
            );
            if !is_yes(&ask(&question).await?, &key) {
                return Err(Failure::Told(format!(
                    "the host key of {host} was not accepted; nothing was registered"
                )));
            }
            let file = remember_host_key(destination, settings, &key).await.map_err(|e| told(&e))?;
            screen.step(&format!("the host key is known from now on, in {}", file.display()));
            Ok(())
        }
    }
}

/// An error of ssh with its causes.
pub(crate) fn told(error: &SshError) -> Failure {
    Failure::Told(causes::with_causes(error))
}

async fn ask(question: &str) -> Result<String, Failure> {
    let question = words::printable(question);
    let asking = tokio::task::spawn_blocking(move || {
        let mut out = stderr().lock();
        out.write_all(format!("\r\x1b[K{question}").as_bytes())?;
        out.flush()?;
        let mut answer = String::new();
        stdin().read_line(&mut answer).map(|_| answer)
    });
    let asked = asking.await.map_err(|error| Failure::Told(error.to_string()))?;
    Ok(asked?)
}

/// As ssh takes it: a yes, or the very fingerprint that was expected.
fn is_yes(answer: &str, key: &HostKey) -> bool {
    let answer = answer.trim();
    ["y", "yes"].iter().any(|yes| answer.eq_ignore_ascii_case(yes)) || answer == key.fingerprint()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_yes_or_the_fingerprint_accepts_a_key() {
        let line = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIBpgJ54DXJbBQ4MGhZvmmFYCzbLv3Wv3Dqq3W0Qk6YyT";
        let key: HostKey = line.parse().unwrap();
        for yes in ["y\n", "YES", " yes \n", &key.fingerprint()] {
            assert!(is_yes(yes, &key), "{yes:?}");
        }
        for no in ["", "\n", "n", "no", "yesterday", "SHA256:AAAA"] {
            assert!(!is_yes(no, &key), "{no:?}");
        }
    }
}
