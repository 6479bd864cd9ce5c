//! `queen-rbee install-service`: becoming a service of the system.

use std::{
    env,
    io::{self, Write},
    path::{Path, PathBuf},
};

use queen_config::Config;
use system_service::{Installed, Scope, Service};

use crate::{
    args::{self, Install},
    failure::Failure,
};

/// Writes the service's file, or prints it, and says what comes next.
pub(crate) fn install(install: &Install) -> Result<String, Failure> {
    let config = queen_config::load(&install.flags)?;
    let scope = scope(install)?;
    let service = Service {
        program: env::current_exe().map_err(Failure::Runtime)?,
        arguments: args::as_a_service(&install.flags),
        search_path: env::var_os("PATH").unwrap_or_default(),
        scope,
    };
    let text = text(&service, &config)?;
    if install.print {
        // A closed standard output is nobody's loss.
        let _ = io::stdout().write_all(text.as_bytes());
        return Ok(String::new());
    }
    let path = path(&service.scope)?;
    let installed = system_service::install(&path, &text, install.force).map_err(|e| Failure::service(&e))?;
    let did = match installed {
        Installed::Written => "written",
        Installed::Unchanged => "there already, as it should be",
    };
    let unseen = unseen_variables();
    Ok(format!("{} is {did}{unseen}\n\n{}", path.display(), next(&service.scope, &path)))
}

fn scope(install: &Install) -> Result<Scope, Failure> {
    if !install.system {
        return Ok(Scope::User);
    }
    let name = |variable| env::var(variable).ok().filter(|name| !name.is_empty() && name != "root");
    let account = install.account.clone().or_else(|| name("SUDO_USER")).or_else(|| name("USER"));
    account.map(|account| Scope::System { account }).ok_or_else(|| {
        Failure::Service(
            "as which account should it run? say so with --account; root is more than it needs".to_owned(),
        )
    })
}

fn text(service: &Service, config: &Config) -> Result<String, Failure> {
    let text = if cfg!(target_os = "macos") {
        system_service::property_list(service, &config.data_dir.join("queen.log"))
    } else {
        system_service::unit(service)
    };
    text.map_err(|error| Failure::service(&error))
}

/// Where the service manager looks.
fn path(scope: &Scope) -> Result<PathBuf, Failure> {
    let absolute = |variable| env::var_os(variable).map(PathBuf::from).filter(|path| path.is_absolute());
    let home = || absolute("HOME").ok_or_else(|| Failure::Service("set HOME to an absolute path".to_owned()));
    Ok(match (scope, cfg!(target_os = "macos")) {
        (Scope::User, true) => home()?.join("Library/LaunchAgents/queen-rbee.plist"),
        (Scope::System { .. }, true) => "/Library/LaunchDaemons/queen-rbee.plist".into(),
        (Scope::User, false) => {
            let config =
                absolute("XDG_CONFIG_HOME").map_or_else(|| Ok(home()?.join(".config")), Ok::<_, Failure>)?;
            config.join("systemd/user/queen-rbee.service")
        }
        (Scope::System { .. }, false) => "/etc/systemd/system/queen-rbee.service".into(),
    })
}

/// A service has an environment of its own, and its file is no place for a secret.
fn unseen_variables() -> String {
    let ours = env::vars_os().filter_map(|(name, _)| name.into_string().ok());
    let mut ours: Vec<_> =
        ours.filter(|name| name.starts_with("QUEEN_RBEE_") || name.starts_with("RBEE_HIVE_")).collect();
    ours.sort();
    if ours.is_empty() {
        return String::new();
    }
    format!(
        "\nthe service does not see {}; write what they say into queen.toml and hive.toml, and a token into a token_file",
        ours.join(", ")
    )
}

fn next(scope: &Scope, path: &Path) -> String {
    let path = path.display();
    let commands = match (scope, cfg!(target_os = "macos")) {
        (Scope::User, true) => format!("launchctl bootstrap gui/$(id -u) '{path}'"),
        (Scope::System { .. }, true) => format!("sudo launchctl bootstrap system '{path}'"),
        (Scope::User, false) => "systemctl --user daemon-reload\n\
             systemctl --user enable --now queen-rbee\n\
             loginctl enable-linger       # so that it runs while nobody is logged in\n\
             journalctl --user -u queen-rbee"
            .to_owned(),
        (Scope::System { .. }, false) => "sudo systemctl daemon-reload\n\
             sudo systemctl enable --now queen-rbee\n\
             journalctl -u queen-rbee"
            .to_owned(),
    };
    format!(
        "next:\n{commands}\n\n\
         Stopping or restarting the service leaves hives and workers running for the next queen; `rbee down` stops all of it."
    )
}
