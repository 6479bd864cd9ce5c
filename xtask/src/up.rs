//! `cargo xtask up`: everything, from nothing to tokens, with one command.
//!
//! It builds what is needed, starts a queen with a local hive, asks a model something, prints the answer as it comes and
//! how to go on, and serves until it is asked to stop.
//!
//! Invariant: however it ends, at whatever moment, no process that it started is left.

mod ask;
mod serve;

use std::{
    io::Write as _,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, bail, ensure};
use clap::Args;

use crate::{
    ports,
    programs::{self, Profile},
    stop::Stop,
    strays::{self, Stray},
    workspace,
};
use serve::Serving;

/// Starts a queen with a local hive, asks a model something, and serves until Ctrl-C.
#[derive(Debug, Clone, Args)]
pub(crate) struct Options {
    /// End after the first answer
    #[arg(long)]
    once: bool,
    /// The model, such as `hf:owner/name` [default: a tiny one that recites a text]
    #[arg(long, value_name = "REF")]
    model: Option<String>,
    /// What to ask it
    #[arg(long, value_name = "TEXT", default_value = "Tell me a story about bees.")]
    prompt: String,
    /// Longest answer, in tokens
    #[arg(long, value_name = "N", default_value_t = 180)]
    max_tokens: u32,
    /// Where the queen keeps its data [default: in the target folder]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Where the queen listens
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:7833")]
    listen: SocketAddr,
}

/// Does it.
pub(crate) async fn run(options: &Options, stop: &Stop) -> anyhow::Result<()> {
    // Before the long steps: nobody wants to hear this after a quarter of an hour.
    ports::must_be_free(options.listen)?;
    let home = workspace::target().join("up");
    let models = home.join("models");
    let data_dir = options.data_dir.clone().unwrap_or_else(|| home.join("data"));
    for folder in [&models, &data_dir] {
        std::fs::create_dir_all(folder).with_context(|| format!("could not make {}", folder.display()))?;
    }
    let data_dir = data_dir.canonicalize()?;
    must_be_unused(&data_dir, &strays::below(&data_dir))?;
    build(stop).await?;
    let model = match &options.model {
        Some(model) => model.clone(),
        None => tiny(&models)?,
    };

    eprintln!("── starting the queen on {}", options.listen);
    ports::must_be_free(options.listen)?;
    let before = strays::below(&data_dir);
    must_be_unused(&data_dir, &before)?;
    let mut serving = Serving::start(options.listen, &data_dir, &models)?;
    let outcome = stop.unless(session(options, &mut serving, &model)).await;
    eprintln!("── stopping");
    let stopped = serving.stop(stop).await;
    let left = left_behind(&data_dir, &before).await;
    outcome?;
    stopped?;
    left
}

async fn session(options: &Options, serving: &mut Serving, model: &str) -> anyhow::Result<()> {
    serving.until_ready().await?;
    eprintln!("── asking {model}");
    eprintln!("   {}", options.prompt);
    let (url, token) = (serving.url().to_owned(), serving.token().map(str::to_owned));
    let answer = ask::ask(&url, token.as_deref(), model, &options.prompt, options.max_tokens);
    tokio::select! {
        answered = answer => answered?,
        ended = serving.ended() => return Err(ended),
    }
    instructions(serving, model).context("could not print how to go on")?;
    if options.once {
        return Ok(());
    }
    Err(serving.ended().await)
}

/// A queen that runs for something else.
pub(crate) struct Queen {
    pub(crate) url: String,
    /// The reciting model, as its hive knows it.
    pub(crate) model: String,
    pub(crate) data_dir: PathBuf,
    pub(crate) pid: u32,
    /// From its start until it took requests.
    pub(crate) ready_after: Duration,
}

/// Starts a queen with a local hive for something else, with data of its own in the target folder, which is given to the
/// work together with the queen's URL and the reciting model. The programs are built already.
pub(crate) async fn with_queen(
    name: &str,
    stop: &Stop,
    work: impl AsyncFnOnce(&Queen) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let data_dir = workspace::target().join(name);
    let _ = std::fs::remove_dir_all(&data_dir);
    let models = data_dir.join("models");
    std::fs::create_dir_all(&models)?;
    let model = tiny(&models)?;
    let listen = SocketAddr::from(([127, 0, 0, 1], ports::free()?));
    let mut serving = Serving::start(listen, &data_dir.canonicalize()?, &models)?;
    let outcome = async {
        stop.unless(serving.until_ready()).await?;
        let queen = Queen {
            url: serving.url().to_owned(),
            model,
            data_dir: data_dir.clone(),
            pid: serving.pid(),
            ready_after: serving.ready_after(),
        };
        stop.unless(work(&queen)).await
    };
    let outcome = outcome.await;
    let stopped = serving.stop(stop).await;
    let left = left_behind(&data_dir, &[]).await;
    outcome?;
    stopped?;
    left?;
    let _ = std::fs::remove_dir_all(&data_dir);
    Ok(())
}

/// Builds queen and hive, and an engine where the machine has none.
pub(crate) async fn build(stop: &Stop) -> anyhow::Result<()> {
    eprintln!("── building the queen and the hive (the first time, about 5 minutes on 2 cores)");
    programs::build(Profile::Release, &["queen-rbee", "rbee-hive"], stop).await?;
    match workspace::on_path("llama-server") {
        Some(engine) => eprintln!("── the engine is {}", engine.display()),
        None => {
            eprintln!("── no llama-server is on the PATH, so the built-in engine it is");
            programs::build_engine(stop).await?;
        }
    }
    Ok(())
}

fn tiny(models: &Path) -> anyhow::Result<String> {
    let file = models.join("tiny.gguf");
    tiny_model::write(&file).with_context(|| format!("could not write {}", file.display()))?;
    Ok(format!("file:{}", file.canonicalize()?.display()))
}

/// Whoever reads may have left, as `head` does: that is an error, so that what was started is stopped.
fn instructions(serving: &Serving, model: &str) -> std::io::Result<()> {
    let url = serving.url();
    let key = serving.token().unwrap_or("none-needed");
    let auth =
        serving.token().map(|token| format!(" -H 'authorization: Bearer {token}'")).unwrap_or_default();
    let body = serde_json::json!({ "model": model, "prompt": "Tell me a story.", "max_tokens": 40 });
    let mut out = std::io::stdout().lock();
    writeln!(out, "\nThe queen serves on {url}\n")?;
    writeln!(out, "  curl -N {url}/v1/infer{auth} -d '{body}'\n")?;
    writeln!(out, "An OpenAI client takes:")?;
    writeln!(out, "  base_url = {url}/v1")?;
    writeln!(out, "  api_key  = {key}")?;
    writeln!(out, "  model    = {model}\n")?;
    out.flush()
}

/// A queen that serves there already is somebody else's, and so is all that belongs to her.
fn must_be_unused(data_dir: &Path, running: &[Stray]) -> anyhow::Result<()> {
    let queen = running.iter().find(|stray| stray.runs("queen-rbee"));
    match queen {
        Some(queen) => bail!(
            "a queen with its data in {} runs already (pid {}); stop it, or choose another folder with --data-dir",
            data_dir.display(),
            queen.identity.pid
        ),
        None => Ok(()),
    }
}

/// The promise of this command, checked: nothing of it runs any more. What ran before it is none of it.
async fn left_behind(data_dir: &Path, before: &[Stray]) -> anyhow::Result<()> {
    let ours = || {
        let mut found = strays::below(data_dir);
        found.retain(|stray| !before.contains(stray));
        found
    };
    let deadline = tokio::time::Instant::now() + Duration::from_secs(2);
    while !ours().is_empty() && tokio::time::Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let found = ours();
    let names: Vec<_> = found.iter().map(ToString::to_string).collect();
    let left = strays::end(found).await;
    ensure!(left.is_empty(), "these processes could not be ended: {left:?}");
    ensure!(names.is_empty(), "the queen left processes behind, which were ended: {}", names.join("; "));
    Ok(())
}

#[cfg(test)]
mod tests {
    use fleet::ProcessIdentity;

    use super::*;

    #[test]
    fn a_folder_where_a_queen_serves_is_left_to_her() {
        let us = process::of(std::process::id()).unwrap().unwrap();
        let stray =
            |command: &str| Stray { identity: ProcessIdentity::clone(&us), command: command.to_owned() };
        let hive = stray("/a/rbee-hive --data-dir /data/hives/local");
        assert!(
            must_be_unused(Path::new("/data"), std::slice::from_ref(&hive)).is_ok(),
            "a hive is taken over"
        );
        let queen = stray("/a/queen-rbee --data-dir /data");
        let refused = must_be_unused(Path::new("/data"), &[hive, queen]).unwrap_err().to_string();
        assert!(refused.contains("/data") && refused.contains(&us.pid.to_string()), "{refused}");
    }
}
