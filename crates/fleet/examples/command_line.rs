//! Builds the command line by which a hive is started, and reads it back as the hive does.

use std::{error::Error, io::Write};

use fleet::{HiveCommand, Invocation, SecretSource};

fn main() -> Result<(), Box<dyn Error>> {
    let command = HiveCommand {
        port: 0,
        data_dir: Some("/var/lib/rbee-hive".into()),
        hive_id: Some("old-server".parse()?),
        launch_id: Some("l-1".parse()?),
        secret: SecretSource::Stdin,
        ..HiveCommand::by_hand()
    };
    let args = command.to_args();
    let mut out = std::io::stdout();
    writeln!(out, "rbee-hive {}", args.join(" "))?;
    match Invocation::parse(&args)? {
        Invocation::Run(read) => writeln!(out, "read back the same: {}", read == command)?,
        other => writeln!(out, "read as something else: {other:?}")?,
    }
    match Invocation::parse(&["--port".to_owned(), "70000".to_owned()]) {
        Ok(_) => writeln!(out, "a port beyond 65535 was accepted")?,
        Err(error) => writeln!(out, "refused: {error}")?,
    }
    Ok(())
}
