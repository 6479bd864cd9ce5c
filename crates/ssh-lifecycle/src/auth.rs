//! Logging in with a key. Nothing is ever asked: what a person would have to type is looked for beforehand, or refused.

use std::path::{Path, PathBuf};

use ssh2::ErrorCode;

use crate::{
    HostKey, KeyFault, PrivateKey, Settings, SshError,
    config::{AgentAt, Keys, Resolved},
    key_file::Passphrase,
    session::{Peer, Trouble},
};

/// A server hangs up after so many failures (`MaxAuthTries` is 6 by default).
const MOST_ATTEMPTS: usize = 5;

/// libssh2's code for a key file that it could not open.
const ERROR_FILE: i32 = -16;

/// What will be tried, in order.
#[derive(Debug)]
pub(crate) struct Plan {
    files: Vec<(PrivateKey, Option<Passphrase>)>,
    agent: Option<AgentAt>,
    /// The only key of the agent's that is meant.
    only: Option<HostKey>,
    /// What cannot be tried, with its reason.
    looked: Vec<String>,
}

/// How the login went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Login {
    /// What opened the door, for people.
    pub(crate) with: String,
    /// Whether it was an agent's key, which is gone when nobody is logged in here.
    pub(crate) by_agent: bool,
}

/// Looks at the key files, before anything is connected.
pub(crate) fn plan(to: &Resolved, settings: &Settings) -> Result<Plan, SshError> {
    let key_error =
        |path: &Path, fault: KeyFault| SshError::Key { host: to.host.clone(), path: path.to_owned(), fault };
    let mut plan = Plan { files: Vec::new(), agent: to.agent.clone(), only: None, looked: Vec::new() };
    match &to.keys {
        Keys::Only(path) => {
            let key = PrivateKey::look(path).map_err(|fault| key_error(path, fault))?;
            plan.only.clone_from(&key.public);
            match (key.is_encrypted, passphrase(settings)) {
                (false, _) => plan.files.push((key, None)),
                (true, Some(passphrase)) => {
                    plan.files.push((key, Some(passphrase.map_err(|fault| key_error(path, fault))?)));
                }
                (true, None) if plan.agent.is_some() && plan.only.is_some() => {}
                (true, None) => return Err(key_error(path, KeyFault::PassphraseMissing)),
            }
            if !plan.files.is_empty() {
                plan.agent = None;
            }
        }
        Keys::Usual(paths) => paths.iter().for_each(|path| plan.consider(path, settings)),
    }
    if plan.files.is_empty() && plan.agent.is_none() {
        return Err(SshError::NoKey { host: to.host.clone(), user: to.user.clone(), looked: plan.looked });
    }
    Ok(plan)
}

fn passphrase(settings: &Settings) -> Option<Result<Passphrase, KeyFault>> {
    settings.passphrase_file.as_deref().map(Passphrase::read)
}

impl Plan {
    fn consider(&mut self, path: &Path, settings: &Settings) {
        let usable = PrivateKey::look(path).and_then(|key| match (key.is_encrypted, passphrase(settings)) {
            (false, _) => Ok((key, None)),
            (true, Some(passphrase)) => Ok((key, Some(passphrase?))),
            (true, None) => Err(KeyFault::PassphraseMissing),
        });
        match usable {
            Ok(file) => self.files.push(file),
            Err(KeyFault::Missing) => {}
            Err(fault) => self.looked.push(format!("{}: {fault}", path.display())),
        }
    }

    /// Tries it all.
    pub(crate) fn log_in(self, peer: &mut Peer, to: &Resolved) -> Result<Login, Trouble> {
        let user = to.user.as_str();
        // Also the request that some servers grant: then nothing more is needed.
        let offers = match peer.ssh.auth_methods(user) {
            Ok(offers) => offers.to_owned(),
            Err(_) if peer.ssh.authenticated() => {
                return Ok(Login { with: "no key".to_owned(), by_agent: false });
            }
            Err(error) => return Err(error.into()),
        };
        let mut tried = Vec::new();
        let mut hung_up = !offers.split(',').any(|offer| offer == "publickey");
        for (key, passphrase) in &self.files {
            if hung_up || tried.len() == MOST_ATTEMPTS {
                break;
            }
            let opens = passphrase.as_ref().map(|passphrase| passphrase.text.as_str());
            let result = peer.ssh.userauth_pubkey_file(user, None, &key.path, opens);
            let with = format!("the key {}", key.path.display());
            match result {
                Ok(()) if peer.ssh.authenticated() => return Ok(Login { with, by_agent: false }),
                Err(error) if error.code() == ErrorCode::Session(ERROR_FILE) => {
                    let fault = match passphrase {
                        Some(passphrase) => KeyFault::PassphraseWrong(passphrase.file.clone()),
                        None => KeyFault::NotAKey,
                    };
                    if let Keys::Only(path) = &to.keys {
                        return Err(SshError::Key { host: to.host.clone(), path: path.clone(), fault }.into());
                    }
                    tried.push(format!("{with} ({fault})"));
                }
                Ok(()) => tried.push(format!("{with} (it wants more than a key)")),
                Err(error) => {
                    hung_up = is_gone(&error);
                    tried.push(with);
                }
            }
        }
        if !hung_up
            && let Some(agent) = &self.agent
            && let Some(login) = self.ask_agent(agent, peer, to, &mut tried)?
        {
            return Ok(login);
        }
        tried.extend(self.looked);
        Err(SshError::Refused { host: to.host.clone(), user: to.user.clone(), tried, offers }.into())
    }

    fn ask_agent(
        &self,
        at: &AgentAt,
        peer: &mut Peer,
        to: &Resolved,
        tried: &mut Vec<String>,
    ) -> Result<Option<Login>, Trouble> {
        let mut agent = peer.ssh.agent()?;
        if let AgentAt::Socket(path) = at {
            agent.set_identity_path(path)?;
        }
        if let Err(error) = agent.connect().and_then(|()| agent.list_identities()) {
            tried.push(format!("the agent (it does not answer: {})", error.message()));
            return Ok(None);
        }
        let identities = agent.identities()?;
        let mut found = 0;
        for identity in identities
            .iter()
            .filter(|identity| self.only.as_ref().is_none_or(|only| only.blob() == identity.blob()))
        {
            if tried.len() >= MOST_ATTEMPTS {
                break;
            }
            found += 1;
            let with = format!("the agent's key {:?}", identity.comment());
            match agent.userauth(to.user.as_str(), identity) {
                Ok(()) if peer.ssh.authenticated() => return Ok(Some(Login { with, by_agent: true })),
                Err(error) if is_gone(&error) => return Err(error.into()),
                Ok(()) | Err(_) => tried.push(with),
            }
        }
        if found == 0 {
            tried.push(match &to.keys {
                Keys::Only(path) => format!(
                    "the agent (it does not hold {}, which wants a passphrase)",
                    PathBuf::from(path).display()
                ),
                Keys::Usual(_) => "the agent (it holds no key)".to_owned(),
            });
        }
        Ok(None)
    }
}

/// Whether the server hung up, as it does after too many failures.
fn is_gone(error: &ssh2::Error) -> bool {
    // Socket send, disconnect and receive.
    matches!(error.code(), ErrorCode::Session(-7 | -13 | -43))
}
