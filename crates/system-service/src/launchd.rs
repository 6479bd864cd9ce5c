//! A property list for launchd: launchd.plist(5).

use std::{fmt::Write, path::Path};

use crate::{
    Service, ServiceError,
    service::{NAME, STOP_SECONDS},
};

/// The text of the property list. That of a user goes to `~/Library/LaunchAgents/`, that of the machine to
/// `/Library/LaunchDaemons/`. What the queen says goes into the file `log`.
///
/// # Errors
/// A path or an argument that it cannot hold.
pub fn property_list(service: &Service, log: &Path) -> Result<String, ServiceError> {
    let mut arguments = String::new();
    for word in service.command()? {
        let _ = writeln!(arguments, "        <string>{}</string>", escaped(&word));
    }
    let account = service.account()?.map_or_else(String::new, |account| {
        format!("    <key>UserName</key>\n    <string>{account}</string>\n")
    });
    let (path, log) = (escaped(&service.search_path()?), escaped(&log.to_string_lossy()));
    // Without AbandonProcessGroup launchd ends what the job leaves behind; restarts follow failures only, as a queen that
    // was asked to stop should stay away.
    Ok(format!(
        r#"<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE plist PUBLIC "-//Apple//DTD PLIST 1.0//EN" "http://www.apple.com/DTDs/PropertyList-1.0.dtd">
<plist version="1.0">
<dict>
    <key>Label</key>
    <string>{NAME}</string>
    <key>ProgramArguments</key>
    <array>
{arguments}    </array>
{account}    <key>EnvironmentVariables</key>
    <dict>
        <key>PATH</key>
        <string>{path}</string>
    </dict>
    <key>RunAtLoad</key>
    <true/>
    <key>KeepAlive</key>
    <dict>
        <key>SuccessfulExit</key>
        <false/>
    </dict>
    <key>AbandonProcessGroup</key>
    <true/>
    <key>ExitTimeOut</key>
    <integer>{STOP_SECONDS}</integer>
    <key>ProcessType</key>
    <string>Interactive</string>
    <key>Umask</key>
    <integer>63</integer>
    <key>StandardErrorPath</key>
    <string>{log}</string>
</dict>
</plist>
"#
    ))
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Scope;

    #[test]
    fn a_property_list_is_as_shown() {
        let service = Service {
            program: "/opt/bees & <co>/queen-rbee".into(),
            arguments: ["--keep-hives", "--listen", "127.0.0.1:7833"].map(Into::into).to_vec(),
            search_path: "/opt/homebrew/bin:/usr/bin".into(),
            scope: Scope::System { account: "bees".to_owned() },
        };
        let log = Path::new("/var/bees/queen.log");
        insta::assert_snapshot!(property_list(&service, log).unwrap());
        let user = property_list(&Service { scope: Scope::User, ..service }, log).unwrap();
        assert!(!user.contains("UserName"));
    }
}
