//! The queen's disk, and what it promised.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, TcpListener},
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use futures_util::future;
use serde_json::json;

use crate::cluster::{
    fleet::{Cluster, SOON},
    trace::Trace,
};

const MODEL: &str = "hf:fake/alpha";

/// What the names of hives begin with that are only registered: nobody listens where they should be.
const EXTRA: &str = "extra-";

/// What is known of a registration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Known {
    /// It was acknowledged, in this region.
    There(u64),
    /// Its removal was acknowledged.
    Gone,
    /// Whatever was asked last, nobody has answered.
    Open,
}

/// Registers and removes hives, as many as can be, and kills the queen in the middle of it. What was acknowledged must be
/// so afterwards; what was not may be either. And the fleet serves as before. The thousand kills, and those at each system
/// call, are `cluster/kills`.
pub(super) async fn killed_while_registering(c: &mut Cluster) -> anyhow::Result<()> {
    // Who is registered here takes connections and never answers, so that nothing else is written meanwhile.
    let silent = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let port = silent.local_addr()?.port();
    let mut known = BTreeMap::new();
    for turn in 0..6 {
        let moment = c.moment(turn, Duration::from_millis(150));
        let kill = || c.queen.running.signal(process::Signal::KILL);
        let told = if turn % 2 == 0 {
            let clients =
                future::join_all((0..3).map(|client| registering(c, port, turn * 3 + client, u64::MAX)));
            let killer = async {
                tokio::time::sleep(Duration::from_millis(100) + moment).await;
                kill()
            };
            let (told, killed) = future::join(clients, killer).await;
            killed?;
            told
        } else {
            // With the last answer, and before anything else can be written.
            let told = registering(c, port, turn * 3, 3 + u64::from(moment.subsec_millis()) / 10).await;
            kill()?;
            vec![told]
        };
        known.extend(told.into_iter().flatten());
        c.queen.kill().await?;
        c.faults += 1;
        c.queen.restart().await?;
        compare(c, &known).await.with_context(|| format!("after kill {}", turn + 1))?;
    }
    ensure!(known.values().any(|k| matches!(k, Known::There(_))), "nothing was ever acknowledged");
    c.until_online().await?;
    c.infer(&c.ask(MODEL)).await?.complete().map(drop)
}

/// One client that registers so many hives one after the other, and removes every third, or until nobody answers it.
async fn registering(c: &Cluster, port: u16, client: u64, most: u64) -> Vec<(String, Known)> {
    let mut told = Vec::new();
    for number in 0..most {
        let id = format!("{EXTRA}{client}-{number}");
        let (token, region) = ("0123456789abcdef0123", number.to_string());
        let body =
            json!({ "id": id, "hostname": "127.0.0.1", "port": port, "token": token, "region": region });
        match c.register(&body).await {
            Ok(reply) if reply.status.is_success() => told.push((id.clone(), Known::There(number))),
            _ => {
                told.push((id, Known::Open));
                return told;
            }
        }
        if number % 3 == 2 {
            let gone = c.remove(&id).await;
            let now =
                if gone.is_ok_and(|reply| reply.status.is_success()) { Known::Gone } else { Known::Open };
            told.push((id, now));
            if now == Known::Open {
                return told;
            }
        }
    }
    told
}

async fn compare(c: &Cluster, known: &BTreeMap<String, Known>) -> anyhow::Result<()> {
    let listed = c.hives_list().await?;
    let listed: BTreeMap<_, _> = listed
        .iter()
        .filter_map(|hive| Some((hive["id"].as_str()?.to_owned(), hive["region"].as_str()?.to_owned())))
        .collect();
    for (id, known) in known {
        let found = listed.get(id);
        match known {
            Known::There(number) => {
                let due = number.to_string();
                ensure!(found == Some(&due), "{id} was acknowledged in region {due} and is {found:?}");
            }
            Known::Gone => ensure!(found.is_none(), "the removal of {id} was acknowledged and it is there"),
            Known::Open => {}
        }
    }
    for id in listed.keys().filter(|id| id.starts_with(EXTRA)) {
        ensure!(known.contains_key(id), "{id} is listed and nobody registered it");
    }
    Ok(())
}

/// The files whose system calls are of the registry.
fn database(c: &Cluster) -> Vec<std::path::PathBuf> {
    ["queen.db", "queen.db-wal"].map(|name| c.queen.data_dir.join(name)).to_vec()
}

async fn trace(c: &mut Cluster, fault: &str) -> anyhow::Result<Trace> {
    c.faults += 1;
    let logs = c.folder.join("logs");
    Trace::inject(&c.queen.running, &database(c), "fsync,fdatasync", fault, &logs).await
}

fn extra(number: usize) -> serde_json::Value {
    json!({ "id": format!("{EXTRA}{number}"), "hostname": "127.0.0.1", "port": 9, "token": "0123456789abcdef0123" })
}

pub(super) async fn slow_disk(c: &mut Cluster) -> anyhow::Result<()> {
    const SLOW: Duration = Duration::from_millis(700);
    c.warm(MODEL).await?;
    let trace = trace(c, "delay_enter=700000").await?;
    let began = Instant::now();
    let registered = async {
        let reply = c.register(&extra(0)).await?.expect(201);
        anyhow::Ok((reply, began.elapsed()))
    };
    let asks: Vec<_> = (0..10).map(|_| c.ask(MODEL).tokens(4)).collect();
    let served = async { anyhow::Ok((c.infer_all(&asks).await?, began.elapsed())) };
    let (registered, served) = future::try_join(registered, served).await?;
    trace.end().await?;
    registered.0?;
    ensure!(registered.1 >= SLOW, "acknowledged after {:?}, before the disk had it", registered.1);
    for outcome in served.0 {
        outcome.complete()?;
    }
    Ok(())
}

pub(super) async fn failing_disk(c: &mut Cluster) -> anyhow::Result<()> {
    c.warm(MODEL).await?;
    c.register(&extra(0)).await?.expect(201)?;
    let trace = trace(c, "error=EIO").await?;
    for number in 1..4 {
        let reply = c.register(&extra(number)).await?;
        ensure!(
            reply.status.is_server_error(),
            "a write that failed was answered {}: {}",
            reply.status,
            reply.text()
        );
        ensure!(!reply.message().is_empty(), "no reason is given: {}", reply.text());
        c.infer(&c.ask(MODEL).tokens(4)).await?.complete()?;
        c.hives_list().await?;
    }
    trace.end().await?;
    c.wait_until("the queen writes again by itself", SOON, async || {
        Ok(c.register(&extra(9)).await?.status.is_success())
    })
    .await?;
    c.queen.kill().await?;
    c.queen.restart().await?;
    let listed = c.hives_list().await?;
    for due in [0, 9] {
        let id = format!("{EXTRA}{due}");
        ensure!(listed.iter().any(|hive| hive["id"] == id), "{id} was acknowledged and is lost");
    }
    Ok(())
}

pub(super) async fn full_disk(c: &mut Cluster) -> anyhow::Result<()> {
    c.warm(MODEL).await?;
    let ballast = c.queen.data_dir.join("ballast");
    fill(&ballast)?;
    c.faults += 1;
    let mut refused = None;
    for number in 0..200 {
        let reply = c.register(&extra(number)).await?;
        if !reply.status.is_success() {
            refused = Some((number, reply));
            break;
        }
    }
    let (number, reply) = refused.context("200 registrations found room on a full disk")?;
    reply.expect_error(507, "storage_full")?;
    for _ in 0..3 {
        c.infer(&c.ask(MODEL).tokens(4)).await?.complete()?;
    }
    let listed = c.hives_list().await?.len();
    ensure!(listed == c.hives.len() + number, "{listed} hives are listed, {number} more were acknowledged");
    std::fs::remove_file(&ballast)?;
    c.wait_until("the queen writes again by itself", SOON, async || {
        Ok(c.register(&extra(number)).await?.status.is_success())
    })
    .await?;
    c.queen.kill().await?;
    c.queen.restart().await?;
    let listed = c.hives_list().await?.len();
    ensure!(listed == c.hives.len() + number + 1, "{listed} hives are listed after the restart");
    Ok(())
}

/// Writes until nothing more fits.
fn fill(file: &std::path::Path) -> anyhow::Result<()> {
    use std::io::Write as _;
    let mut file = std::fs::File::create(file)?;
    let full = loop {
        if let Err(error) = file.write_all(&[0; 4096]) {
            break error;
        }
    };
    ensure!(full.kind() == std::io::ErrorKind::StorageFull, "the disk did not get full: {full}");
    Ok(())
}
