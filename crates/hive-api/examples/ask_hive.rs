//! Talks to a hive that is named by its address and its token file: `ask http://127.0.0.1:7835 DATA_DIR/token`. Of one with
//! https the fingerprint of its certificate is wanted, too.
//!
//! It needs nothing else of queen-rbee: it asks the hive who it is, looks at the machine, and follows the watch for some
//! events.

use std::io::Write as _;

use anyhow::Context as _;
use fleet::{HiveEndpoint, Hostname, TlsFingerprint};
use futures_util::StreamExt as _;
use hive_api::{
    WatchEvent,
    client::{Connections, Timeouts},
};

/// How many events are shown.
const EVENTS: usize = 5;

fn address(url: &str) -> anyhow::Result<(Hostname, u16)> {
    let rest = url.strip_prefix("http://").or_else(|| url.strip_prefix("https://"));
    let rest = rest.context("write the address as http://host:port or https://host:port")?;
    let (host, port) = rest.trim_end_matches('/').rsplit_once(':').context("the address has no port")?;
    Ok((host.trim_matches(['[', ']']).parse()?, port.parse()?))
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let (url, token_file, fingerprint) = match args.as_slice() {
        [url, token_file] if !url.starts_with("https:") => (url, token_file, None),
        [url, token_file, fingerprint] => (url, token_file, Some(fingerprint)),
        _ => anyhow::bail!(
            "usage: ask http://host:port TOKEN_FILE | ask https://host:port TOKEN_FILE FINGERPRINT"
        ),
    };
    let pin = fingerprint.map(|text| text.parse::<TlsFingerprint>()).transpose()?;
    let (host, port) = address(url)?;
    let token =
        std::fs::read_to_string(token_file).with_context(|| format!("could not read {token_file}"))?;
    let connections = Connections::new(Timeouts::default())?;
    let mut out = std::io::stdout().lock();

    let health = connections.health(&host, port, pin).await?;
    writeln!(out, "hive {}, launch {}, version {}", health.hive_id, health.launch_id, health.version)?;
    let hive = connections.client(HiveEndpoint {
        hive_id: health.hive_id,
        launch_id: health.launch_id,
        host,
        port,
        token: token.trim().parse()?,
        pin,
    });

    for device in hive.capabilities().await?.capabilities.devices {
        writeln!(
            out,
            "{} {}: {} of {} bytes free",
            device.selector(),
            device.name,
            device.memory_free,
            device.memory_total
        )?;
    }
    let mut watch = hive.watch().await?.take(EVENTS);
    while let Some(event) = watch.next().await {
        match event? {
            WatchEvent::Snapshot(all) => {
                writeln!(out, "{}: {} workers, {} models", all.rev, all.workers.len(), all.models.len())?;
            }
            event => writeln!(out, "{}: {}", event.rev(), event.name())?,
        }
    }
    Ok(())
}
