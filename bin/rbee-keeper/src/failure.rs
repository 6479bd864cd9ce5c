//! Why a command did not do what it was asked, in words and as an exit code.

use std::{fmt, io, process::ExitCode};

use queen_api::ErrorCode;
use queen_client::{AddressError, ClientError, ClientErrorKind};
use queen_config::Faults;
use serde_json::{Value, json};

/// Why a command did not do what it was asked.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The command line, or a file that it names, is wrong.
    Usage(String),
    /// The queen's configuration is wrong.
    Configuration(Faults),
    /// The queen said no, or nobody answers.
    Queen(ClientError),
    /// Something else, as a sentence.
    Told(String),
    /// A queen or a hive did not start or stop; with the last lines of its log.
    Process { told: String, log: Vec<String> },
    /// Nobody reads the output any more.
    Pipe,
    /// The output could not be written.
    Output(io::Error),
    /// Somebody pressed Ctrl-C.
    Interrupted,
}

impl Failure {
    /// As in `sysexits.h`; what a signal ended has 128 and its number, as in a shell.
    pub(crate) fn exit_code(&self) -> ExitCode {
        ExitCode::from(match self {
            Self::Usage(_) => 64,
            Self::Queen(ClientError { kind: ClientErrorKind::NotRunning { .. }, .. }) => 69,
            Self::Output(_) => 74,
            Self::Configuration(_) => 78,
            Self::Interrupted => 130,
            Self::Pipe => 141,
            Self::Queen(_) | Self::Told(_) | Self::Process { .. } => 1,
        })
    }

    /// The same for programs.
    pub(crate) fn json(&self) -> Value {
        let (code, details) = match self {
            Self::Queen(error) => match &error.kind {
                ClientErrorKind::Refused(detail) => (detail.code.as_str(), detail.details.clone()),
                ClientErrorKind::NotRunning { .. } => ("not_running", None),
                ClientErrorKind::NotAQueen { .. } => ("not_a_queen", None),
                ClientErrorKind::Timeout { .. } => ("timeout", None),
                ClientErrorKind::Broke { .. } | ClientErrorKind::Truncated => ("truncated", None),
            },
            Self::Usage(_) => ("usage", None),
            Self::Configuration(_) => ("configuration", None),
            Self::Process { log, .. } => ("failed", Some(json!({ "log_tail": log }))),
            Self::Told(_) | Self::Output(_) => ("failed", None),
            Self::Pipe | Self::Interrupted => ("interrupted", None),
        };
        let message = match self {
            Self::Process { told, .. } => told.clone(),
            other => other.to_string(),
        };
        let mut error = json!({ "code": code, "message": message });
        if let Some(details) = details {
            error["details"] = details;
        }
        json!({ "error": error })
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Usage(told) | Self::Told(told) => f.write_str(told),
            Self::Configuration(faults) => write!(f, "{faults}"),
            Self::Queen(error) => queen(f, error),
            Self::Process { told, log } => {
                f.write_str(told)?;
                log.iter().try_for_each(|line| write!(f, "\n    {line}"))
            }
            Self::Pipe => f.write_str("nobody reads the output any more"),
            Self::Output(error) => write!(f, "could not write the output: {error}"),
            Self::Interrupted => f.write_str("interrupted"),
        }
    }
}

/// The client speaks to anybody; here it is known what its caller can do.
fn queen(f: &mut fmt::Formatter<'_>, error: &ClientError) -> fmt::Result {
    let action = error.action;
    match &error.kind {
        ClientErrorKind::NotRunning { address, reason } => write!(
            f,
            "could not {action}: no queen answers at {address} ({reason}); start one with `rbee up`, or name the one that \
             runs with --queen or RBEE_QUEEN"
        ),
        ClientErrorKind::Refused(detail) if detail.code == ErrorCode::Unauthorized => write!(
            f,
            "could not {action}: the queen wants its token, or another one than was sent; set QUEEN_RBEE_TOKEN, or name the \
             file that holds it with --token-file"
        ),
        _ => write!(f, "{error}"),
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        Self::Queen(error)
    }
}

impl From<AddressError> for Failure {
    fn from(error: AddressError) -> Self {
        Self::Usage(error.to_string())
    }
}

impl From<Faults> for Failure {
    fn from(faults: Faults) -> Self {
        Self::Configuration(faults)
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe { Self::Pipe } else { Self::Output(error) }
    }
}

#[cfg(test)]
mod tests {
    use queen_api::ErrorDetail;

    use super::*;

    fn refused(code: ErrorCode, message: &str) -> Failure {
        let kind = ClientErrorKind::Refused(ErrorDetail::new(code, message));
        Failure::Queen(ClientError { action: "list the hives", kind })
    }

    #[test]
    fn every_failure_says_what_was_tried_why_and_what_to_do() {
        let not_running = ClientErrorKind::NotRunning {
            address: "http://127.0.0.1:7833".to_owned(),
            reason: "Connection refused (os error 111)".to_owned(),
        };
        let failures = [
            Failure::Queen(ClientError { action: "list the hives", kind: not_running }),
            refused(ErrorCode::Unauthorized, "send the queen's token as `Authorization: Bearer …`"),
            refused(ErrorCode::HiveNotFound, "no hive box is registered"),
            Failure::Process {
                told: "hive box is in error: its process ended".to_owned(),
                log: vec!["address in use".to_owned()],
            },
            Failure::Interrupted,
        ];
        let told: Vec<_> = failures.iter().map(|f| format!("{f}\n{}", f.json())).collect();
        insta::assert_snapshot!(told.join("\n\n"));
    }
}
