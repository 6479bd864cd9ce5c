//! The hive's command line, built by launchers and parsed by the hive with the same type, so that they cannot disagree.

use std::path::PathBuf;

use crate::{HiveId, Hostname, LaunchId};

/// How a hive is told its token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SecretSource {
    /// Started by hand: the hive makes a token itself and writes it to `<data-dir>/token`.
    OwnToken,
    /// One JSON line on standard input. The end of input afterwards means nothing.
    Stdin,
    /// One JSON line in a file that only its owner can read; the hive removes it once read.
    File(PathBuf),
}

/// The order to run a hive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HiveCommand {
    /// Port to listen on; 0 takes any free one.
    pub port: u16,
    /// Address to listen on.
    pub host: Hostname,
    /// Where the hive keeps its state and, unless configured otherwise, its models; the hive's default if absent.
    pub data_dir: Option<PathBuf>,
    /// The hive's id; a hive started by hand calls itself after its machine.
    pub hive_id: Option<HiveId>,
    /// The launch to answer for; a hive started by hand makes one.
    pub launch_id: Option<LaunchId>,
    /// How it is told its token.
    pub secret: SecretSource,
    /// Whether it speaks plain HTTP where it would speak TLS: beyond this machine. Only for a hive that is started by hand.
    pub plain_http: bool,
}

/// What a hive binary was called for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Invocation {
    /// Run a hive.
    Run(HiveCommand),
    /// End exactly the processes that the journal of this data directory names and that still are the same ones.
    Reap {
        /// The data directory of the hive that is gone.
        data_dir: Option<PathBuf>,
    },
    /// Print the usage.
    Help,
    /// Print the version.
    Version,
}

/// Why an argument list means nothing to a hive.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    /// An argument that the hive does not know.
    #[error("unknown argument {0:?}; see --help")]
    Unknown(String),
    /// A flag at the end of the line, without its value.
    #[error("{0} wants a value")]
    NoValue(&'static str),
    /// A flag that was given twice.
    #[error("{0} was given twice")]
    Twice(&'static str),
    /// A value that does not fit its flag.
    #[error("{flag} {value:?}: {reason}")]
    Value {
        /// The flag.
        flag: &'static str,
        /// What was given.
        value: String,
        /// What it should have been.
        reason: String,
    },
    /// Flags of which one needs or excludes the other.
    #[error("{0}")]
    Combination(&'static str),
}

impl HiveCommand {
    /// The port that a hive listens on unless told otherwise.
    pub const DEFAULT_PORT: u16 = 7835;

    /// What `--help` prints.
    pub const USAGE: &'static str = "\
Manages the workers and model files of one machine.

usage: rbee-hive [--port N] [--host H] [--data-dir DIR] [--plain-http]
                 [--hive-id ID --launch-id ID (--secret-stdin | --secret-file FILE)]
       rbee-hive reap [--data-dir DIR]

  --port N            port to listen on (default 7835; 0 takes any free one)
  --host H            address to listen on (default 127.0.0.1); on any that is no
                      loopback address it serves TLS with a certificate of its own
  --plain-http        no TLS there either: whoever sees the network reads the token,
                      prompts and answers, and can use this hive
  --data-dir DIR      state, logs and models (default ~/.local/share/rbee-hive)
  --hive-id ID        name of this hive (default: the machine's name)
  --launch-id ID      the start that a queen asked for
  --secret-stdin      read one JSON line with the token from standard input
  --secret-file FILE  read it from a file of mode 0600, and remove the file
  reap                end the workers that a hive which is gone left behind
  --version, --help

Started by hand, without --launch-id, it writes its token to DIR/token and the fingerprint
of its certificate to DIR/hive.json; register it with both to let a queen use it.
";

    /// A hive as a person would start it: on this machine, at the default port.
    #[must_use]
    pub fn by_hand() -> Self {
        Self {
            port: Self::DEFAULT_PORT,
            host: "127.0.0.1".parse().unwrap_or_else(|_| unreachable!("a literal address")),
            data_dir: None,
            hive_id: None,
            launch_id: None,
            secret: SecretSource::OwnToken,
            plain_http: false,
        }
    }

    /// The argument list, without the program's name. Holds no secret.
    #[must_use]
    pub fn to_args(&self) -> Vec<String> {
        let mut args =
            vec!["--port".to_owned(), self.port.to_string(), "--host".to_owned(), self.host.to_string()];
        let mut push = |flag: &str, value: String| args.extend([flag.to_owned(), value]);
        if let Some(dir) = &self.data_dir {
            push("--data-dir", dir.display().to_string());
        }
        if let Some(id) = &self.hive_id {
            push("--hive-id", id.to_string());
        }
        if let Some(id) = &self.launch_id {
            push("--launch-id", id.to_string());
        }
        match &self.secret {
            SecretSource::OwnToken => {}
            SecretSource::Stdin => args.push("--secret-stdin".to_owned()),
            SecretSource::File(path) => args.extend(["--secret-file".to_owned(), path.display().to_string()]),
        }
        if self.plain_http {
            args.push("--plain-http".to_owned());
        }
        args
    }
}

/// Flags as they stand on the line, each at most once.
#[derive(Default)]
struct Flags {
    port: Option<String>,
    host: Option<String>,
    data_dir: Option<String>,
    hive_id: Option<String>,
    launch_id: Option<String>,
    secret_file: Option<String>,
    secret_stdin: bool,
    plain_http: bool,
}

impl Flags {
    fn read(args: &[String]) -> Result<Self, CommandError> {
        let mut flags = Self::default();
        let mut rest = args.iter();
        while let Some(arg) = rest.next() {
            let (flag, slot): (&'static str, _) = match arg.as_str() {
                "--secret-stdin" if flags.secret_stdin => return Err(CommandError::Twice("--secret-stdin")),
                "--secret-stdin" => {
                    flags.secret_stdin = true;
                    continue;
                }
                "--plain-http" if flags.plain_http => return Err(CommandError::Twice("--plain-http")),
                "--plain-http" => {
                    flags.plain_http = true;
                    continue;
                }
                "--port" => ("--port", &mut flags.port),
                "--host" => ("--host", &mut flags.host),
                "--data-dir" => ("--data-dir", &mut flags.data_dir),
                "--hive-id" => ("--hive-id", &mut flags.hive_id),
                "--launch-id" => ("--launch-id", &mut flags.launch_id),
                "--secret-file" => ("--secret-file", &mut flags.secret_file),
                _ => return Err(CommandError::Unknown(arg.clone())),
            };
            let value = rest.next().ok_or(CommandError::NoValue(flag))?;
            if slot.replace(value.clone()).is_some() {
                return Err(CommandError::Twice(flag));
            }
        }
        Ok(flags)
    }

    fn secret(&mut self) -> Result<SecretSource, CommandError> {
        let secret = match (self.secret_stdin, self.secret_file.take()) {
            (true, Some(_)) => {
                return Err(CommandError::Combination("--secret-stdin and --secret-file exclude each other"));
            }
            (true, None) => SecretSource::Stdin,
            (false, Some(path)) => SecretSource::File(path.into()),
            (false, None) => SecretSource::OwnToken,
        };
        let launched = secret != SecretSource::OwnToken;
        if launched && (self.hive_id.is_none() || self.launch_id.is_none()) {
            return Err(CommandError::Combination(
                "--secret-stdin and --secret-file need --hive-id and --launch-id",
            ));
        }
        if launched && self.plain_http {
            return Err(CommandError::Combination("--plain-http is only for a hive that is started by hand"));
        }
        if !launched && self.launch_id.is_some() {
            return Err(CommandError::Combination("--launch-id needs --secret-stdin or --secret-file"));
        }
        Ok(secret)
    }
}

fn value<T: std::str::FromStr<Err: std::fmt::Display>>(
    flag: &'static str,
    text: String,
) -> Result<T, CommandError> {
    text.parse().map_err(|error: T::Err| CommandError::Value { flag, reason: error.to_string(), value: text })
}

impl Invocation {
    /// Reads an argument list, without the program's name.
    ///
    /// # Errors
    /// Names the first argument that is unknown, twice there, without its value or of the wrong form, or the flags that
    /// do not go together.
    pub fn parse(args: &[String]) -> Result<Self, CommandError> {
        if args.iter().any(|a| a == "--help" || a == "-h") {
            return Ok(Self::Help);
        }
        if args.iter().any(|a| a == "--version" || a == "-V") {
            return Ok(Self::Version);
        }
        if let [first, rest @ ..] = args
            && first == "reap"
        {
            return match rest {
                [] => Ok(Self::Reap { data_dir: None }),
                [flag, dir] if flag == "--data-dir" => Ok(Self::Reap { data_dir: Some(dir.into()) }),
                [flag] if flag == "--data-dir" => Err(CommandError::NoValue("--data-dir")),
                [other, ..] => Err(CommandError::Unknown(other.clone())),
            };
        }
        let mut flags = Flags::read(args)?;
        let secret = flags.secret()?;
        let by_hand = HiveCommand::by_hand();
        Ok(Self::Run(HiveCommand {
            port: flags.port.map_or(Ok(by_hand.port), |p| value("--port", p))?,
            host: flags.host.map_or(Ok(by_hand.host), |h| value("--host", h))?,
            data_dir: flags.data_dir.map(PathBuf::from),
            hive_id: flags.hive_id.map(|id| value::<HiveId>("--hive-id", id)).transpose()?,
            launch_id: flags.launch_id.map(|id| value::<LaunchId>("--launch-id", id)).transpose()?,
            secret,
            plain_http: flags.plain_http,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Invocation, CommandError> {
        Invocation::parse(&line.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn what_a_launcher_builds_is_what_the_hive_reads() {
        let command = HiveCommand {
            port: 0,
            host: "::1".parse().expect("an address"),
            data_dir: Some("/var/lib/hive one".into()),
            hive_id: Some("box".parse().expect("an id")),
            launch_id: Some("l-1".parse().expect("an id")),
            secret: SecretSource::File("/run/secret".into()),
            plain_http: false,
        };
        assert_eq!(Invocation::parse(&command.to_args()), Ok(Invocation::Run(command)));
        let by_hand = HiveCommand { plain_http: true, ..HiveCommand::by_hand() };
        assert_eq!(Invocation::parse(&by_hand.to_args()), Ok(Invocation::Run(by_hand)));
    }

    #[test]
    fn a_launch_without_its_secret_is_refused() {
        for line in [
            "--launch-id l-1",
            "--secret-stdin",
            "--secret-stdin --hive-id box",
            "--secret-stdin --secret-file x --hive-id box --launch-id l-1",
            "--secret-stdin --hive-id box --launch-id l-1 --plain-http",
        ] {
            assert!(matches!(parse(line), Err(CommandError::Combination(_))), "{line}");
        }
    }

    #[test]
    fn wrong_arguments_are_named() {
        assert_eq!(parse("--prot 1"), Err(CommandError::Unknown("--prot".into())));
        assert_eq!(parse("--port"), Err(CommandError::NoValue("--port")));
        assert_eq!(parse("--port 1 --port 2"), Err(CommandError::Twice("--port")));
        assert!(matches!(parse("--port 70000"), Err(CommandError::Value { flag: "--port", .. })));
        assert!(matches!(parse("--host -x"), Err(CommandError::Value { flag: "--host", .. })));
        assert_eq!(parse("reap --data-dir /x"), Ok(Invocation::Reap { data_dir: Some("/x".into()) }));
    }
}
