//! A unit for systemd: systemd.service(5), systemd.exec(5), systemd.kill(5).

use crate::{
    Scope, Service, ServiceError,
    service::{NAME, STOP_SECONDS},
};

/// The text of the unit. That of a user goes to `~/.config/systemd/user/`, that of the machine to `/etc/systemd/system/`.
///
/// # Errors
/// A path or an argument that a unit cannot hold.
pub fn unit(service: &Service) -> Result<String, ServiceError> {
    // The program's own path is the one word in which variables are not expanded.
    let dollars = std::iter::once(Dollar::Plain).chain(std::iter::repeat(Dollar::Doubled));
    let command: Vec<String> =
        service.command()?.iter().zip(dollars).map(|(word, dollar)| quoted(word, dollar)).collect();
    let path = quoted(&format!("PATH={}", service.search_path()?), Dollar::Plain);
    let (network, account, target) = match service.account()? {
        None => (String::new(), String::new(), "default.target"),
        Some(account) => (
            "Wants=network-online.target\nAfter=network-online.target\n".to_owned(),
            format!("User={account}\n"),
            "multi-user.target",
        ),
    };
    let sandbox = match service.scope {
        Scope::User => USER_SANDBOX,
        Scope::System { .. } => SYSTEM_SANDBOX,
    };
    Ok(format!(
        "# Written by `{NAME} install-service`.\n\
         [Unit]\n\
         Description={NAME}: one inference service over several machines\n\
         {network}\
         StartLimitIntervalSec=300\n\
         StartLimitBurst=10\n\
         \n\
         [Service]\n\
         Type=notify\n\
         ExecStart={}\n\
         {account}\
         Environment={path}\n\
         TimeoutStartSec=90\n\
         TimeoutStopSec={STOP_SECONDS}\n\
         Restart=on-failure\n\
         RestartSec=2\n\
         # Wrong command line, foreign database, wrong configuration: another try makes no sense.\n\
         RestartPreventExitStatus=64 65 78\n\
         LimitNOFILE=65536\n\
         \n\
         # Hives and their workers live in this unit's control group and outlive the queen: the next one takes them over.\n\
         # `rbee down` stops all of it.\n\
         KillMode=process\n\
         # A worker that runs out of memory ends alone.\n\
         OOMPolicy=continue\n\
         \n\
         {sandbox}\
         \n\
         [Install]\n\
         WantedBy={target}\n",
        command.join(" "),
    ))
}

/// What needs no namespace of its own. Those of a user's service come with a user namespace, and a queen in a new one could
/// not look at the processes of the last one's hives (`/proc`, ptrace(2)).
const USER_SANDBOX: &str = "\
# Hives inherit this. No set-uid program gains rights here, so a graphics driver that is loaded at its first use
# (nvidia-modprobe) has to be loaded at boot.
NoNewPrivileges=yes
RestrictSUIDSGID=yes
RestrictRealtime=yes
LockPersonality=yes
SystemCallArchitectures=native
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK
UMask=0077
";

/// The same, and what only the machine's manager can do. Models lie in the account's home and graphics cards in `/dev`, so
/// both stay open; a private `/tmp` would go away with the queen while hives use it.
const SYSTEM_SANDBOX: &str = "\
# Hives inherit this. No set-uid program gains rights here, so a graphics driver that is loaded at its first use
# (nvidia-modprobe) has to be loaded at boot.
NoNewPrivileges=yes
RestrictSUIDSGID=yes
RestrictRealtime=yes
LockPersonality=yes
SystemCallArchitectures=native
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK
UMask=0077
CapabilityBoundingSet=
# /usr, /boot and /etc are read-only; data and models lie elsewhere.
ProtectSystem=full
ProtectKernelTunables=yes
ProtectKernelModules=yes
ProtectKernelLogs=yes
ProtectControlGroups=yes
";

/// Whether a `$` would be expanded.
#[derive(Clone, Copy)]
enum Dollar {
    Doubled,
    Plain,
}

/// One word as systemd reads it back (systemd.syntax(7), "Quoting"; specifiers start with `%`).
fn quoted(word: &str, dollar: Dollar) -> String {
    let mut text = String::from("\"");
    for c in word.chars() {
        match (c, dollar) {
            ('"' | '\\', _) => text.extend(['\\', c]),
            ('%', _) | ('$', Dollar::Doubled) => text.extend([c, c]),
            _ => text.push(c),
        }
    }
    text.push('"');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(scope: Scope) -> Service {
        Service {
            program: "/opt/$bees & \"co\"/queen-rbee".into(),
            arguments: ["--keep-hives", "--data-dir", "/srv/100% $HOME\\x"].map(Into::into).to_vec(),
            search_path: "/usr/local/bin:/home/me/a b:/usr/bin".into(),
            scope,
        }
    }

    #[test]
    fn a_users_unit_and_the_machines_are_as_shown() {
        insta::assert_snapshot!("unit_of_a_user", unit(&service(Scope::User)).unwrap());
        let system = Scope::System { account: "bees".to_owned() };
        insta::assert_snapshot!("unit_of_the_machine", unit(&service(system)).unwrap());
    }

    #[test]
    fn nothing_becomes_a_setting_of_its_own() {
        let mut hostile = service(Scope::User);
        hostile.arguments.push("x\nExecStartPre=/bin/evil".into());
        let refused = unit(&hostile).unwrap_err().to_string();
        assert!(refused.contains("it holds a control character"), "{refused}");
        let mut relative = service(Scope::User);
        relative.program = "queen-rbee".into();
        assert!(unit(&relative).is_err());
        for account in ["", "-x", "a b", "root\nUser=root", "%u"] {
            assert!(unit(&service(Scope::System { account: account.to_owned() })).is_err(), "{account:?}");
        }
        use std::os::unix::ffi::OsStringExt;
        let mut foreign = service(Scope::User);
        foreign.search_path = std::ffi::OsString::from_vec(vec![b'/', 0xff]);
        assert!(unit(&foreign).is_err());
    }
}
