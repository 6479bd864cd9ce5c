//! `fake-hive`: a scripted hive with the command line of a real one. See the library for what it does.

use std::process::ExitCode;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    fake_hive::run(&args)
}
