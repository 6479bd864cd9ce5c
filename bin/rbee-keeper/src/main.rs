//! `rbee`: the person's command line. It starts and stops a queen on this machine, adds hives, asks models, and shows how
//! everything stands.
//!
//! It holds no state and decides nothing: what it shows is what the queen said, what it changes the queen changes. What it
//! knows by itself is where this user's queen is, which it reads from the queen's own configuration, and how to start one.
//!
//! Answers go to standard output and everything about them to standard error, so that a pipe gets answers only. With
//! `--json` standard output has JSON, errors too.

mod args;
mod down;
mod enrol;
mod failure;
mod first_token;
mod follow;
mod hives;
mod host_key;
mod models;
mod place;
mod run;
mod screen;
mod status;
mod table;
mod up;
mod why;
mod words;

use std::process::ExitCode;

use args::{Args, Command, HiveCommand, Invocation};
use failure::Failure;
use place::Place;
use screen::Screen;
use tokio::signal::unix::{SignalKind, signal};

fn main() -> ExitCode {
    let args = match args::read() {
        Invocation::Run(args) => args,
        Invocation::Print { text, failure } => return screen::print_usage(&text, failure),
    };
    let Args { place, json, command: wanted } = *args;
    let screen = Screen::new(json);
    let outcome = match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() {
        Ok(runtime) => {
            let shown = screen.clone();
            let work = runtime.spawn(async move { command(wanted, place, &shown).await });
            let outcome = runtime.block_on(async {
                tokio::select! {
                    outcome = work => outcome.unwrap_or_else(|error| Err(Failure::Told(error.to_string()))),
                    () = interrupted() => Err(Failure::Interrupted),
                }
            });
            // Whatever still writes into a pipe that nobody reads is not waited for: leaving is cancelling.
            runtime.shutdown_background();
            outcome
        }
        Err(error) => Err(Failure::Told(format!("the system did not give what a program needs: {error}"))),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            screen.failure(&failure);
            failure.exit_code()
        }
    }
}

async fn command(command: Command, place: place::Wishes, screen: &Screen) -> Result<(), Failure> {
    let place = Place::find(place)?;
    match command {
        Command::Up => up::run(&place, screen).await,
        Command::Down => down::run(&place, screen).await,
        Command::Status => status::run(&place, screen).await,
        Command::Hive(HiveCommand::Add(wishes)) => enrol::run(&place, *wishes, screen).await,
        Command::Hive(HiveCommand::List) => hives::list(&place, screen).await,
        Command::Hive(HiveCommand::Logs { id, worker, lines }) => {
            hives::logs(&place, id, worker, lines, screen).await
        }
        Command::Hive(HiveCommand::Desire { id, desired, wait }) => {
            hives::desire(&place, &id, desired, wait, screen).await
        }
        Command::Hive(HiveCommand::Remove { id, purge }) => hives::remove(&place, &id, purge, screen).await,
        Command::Run(question) => run::run(&place, question, screen).await,
        Command::Workers => models::workers(&place, screen).await,
        Command::Models => models::models(&place, screen).await,
        Command::Why(id) => why::run(&place, &id, screen).await,
        Command::Pull { model, hive } => models::pull(&place, model, hive, screen).await,
        Command::RemoveModel { model, hive } => models::remove(&place, &model, hive.as_ref(), screen).await,
    }
}

/// Ends when somebody wants this program to end.
async fn interrupted() {
    let (interrupt, terminate) = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()));
    let (Ok(mut interrupt), Ok(mut terminate)) = (interrupt, terminate) else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
}
