//! Starting the hive that was brought.

use fleet::{HiveCommand, HiveExit, LaunchOrder, SecretSource};
use hive_api::{HiveFile, SecretLine};

use super::SshLauncher;
use crate::{
    Machine, SshError,
    bundle::Bundle,
    machine::{about, living},
    remote::Remote,
    script::Input,
};

impl SshLauncher {
    /// Starts it detached, and reads who it is.
    pub(super) async fn start(
        &self,
        remote: &Remote,
        machine: &Machine,
        bundle: &Bundle,
        order: &LaunchOrder,
    ) -> Result<HiveFile, SshError> {
        let doing = "start the hive";
        let host = remote.to.host.clone();
        let listen = self.settings.patience.listen;
        let command = HiveCommand {
            port: order.spec.port,
            host: self.settings.listen.clone(),
            data_dir: Some(machine.dir.clone().into()),
            hive_id: Some(order.spec.id.clone()),
            launch_id: Some(order.launch_id.clone()),
            secret: SecretSource::File(format!("{}/secret-{}", machine.dir, order.launch_id).into()),
            plain_http: false,
        };
        let quoted: Option<Vec<String>> = command.to_args().iter().map(|arg| crate::quote(arg)).collect();
        let arguments = quoted.ok_or_else(|| SshError::Parameter { host: host.clone(), doing })?.join(" ");
        // A queen that is gone may come back from a network that was down for days: only people end such a hive.
        let environment = [("RBEE_HIVE_ORPHAN_LEASE_S", "0".to_owned())];
        let environment: Vec<_> = environment.into_iter().chain(self.settings.environment.clone()).collect();
        let names: Vec<&str> = environment.iter().map(|(name, _)| *name).collect();
        let mut script = about(&machine.dir, include_str!("../scripts/start.sh"))
            .with("bundle", &bundle.id)
            .with("launch", order.launch_id.as_str())
            .with("listen", listen.as_secs().max(1).to_string())
            .with("exports", names.join(" "))
            .with("arguments", arguments)
            .reading(Input::Text(SecretLine { token: order.token.clone() }.to_line()));
        for (name, value) in environment {
            script = script.with(name, value);
        }
        let answer = remote.ask(doing, listen + self.settings.patience.command, script).await?;
        let log_tail: Vec<String> = answer.all("log").map(str::to_owned).collect();
        match answer.get("state") {
            Some("listening") => living(&host, doing, &answer)?.ok_or_else(|| {
                let exit = HiveExit { code: None, signal: None, log_tail };
                SshError::Exited { host, exit }
            }),
            Some("ended") => {
                let status = answer.number("code").and_then(|code| i32::try_from(code).ok());
                let signal = status.filter(|status| *status > 128).map(|status| status - 128);
                let code = status.filter(|_| signal.is_none());
                Err(SshError::Exited { host, exit: HiveExit { code, signal, log_tail } })
            }
            Some("late") => Err(SshError::NotListening { host, within: listen, log_tail }),
            _ => Err(SshError::Answer { host, doing, field: "state" }),
        }
    }
}
