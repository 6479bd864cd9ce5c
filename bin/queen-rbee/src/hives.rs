//! The hives that the configuration asks for, as rows.

use std::net::{Ipv4Addr, SocketAddr};

use fleet::{HiveId, HiveLauncher, HiveMode, HiveRegistry, HiveSpec, StoreError};
use queen_config::Config;

/// Ports that are tried for the implicit local hive.
const TRIES: u16 = 64;

/// Makes the registry's rows of source `config` those of the configuration. Where neither speaks of a hive, there is one
/// local one, and it stays when others join it. Hives whose entry is gone leave.
pub(crate) async fn sync(
    config: &Config,
    store: &dyn HiveRegistry,
    launcher: &dyn HiveLauncher,
) -> Result<(), StoreError> {
    let mut specs = config.hives.clone();
    if config.implicit_local {
        let rows: Vec<_> = store.list().await?.into_iter().flatten().map(|row| row.spec.id).collect();
        specs.retain(|spec| is_implied(spec, &rows));
        for spec in &mut specs {
            spec.port = free_port(spec, launcher).await;
        }
    }
    let own = own_name();
    for spec in specs.iter().filter(|spec| spec.mode == HiveMode::Network) {
        if spec.hostname.as_str().eq_ignore_ascii_case(&own) {
            tracing::warn!(
                hive_id = %spec.id,
                "{} is this machine's own name, and is reached over SSH all the same; mode = \"local\" starts the hive as a \
                 process of this queen",
                spec.hostname
            );
        }
    }
    planted::step("hives-not-configured");
    for row in store.sync_config(specs).await? {
        tracing::info!(hive_id = %row.spec.id, "the configuration has this hive no more; it is stopped");
    }
    planted::step("hives-configured");
    Ok(())
}

fn own_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// The hive's port, or the next free one if somebody else has it.
async fn free_port(spec: &HiveSpec, launcher: &dyn HiveLauncher) -> u16 {
    if let Ok(Some(running)) = launcher.discover(spec).await {
        return running.port;
    }
    let free =
        |port: &u16| std::net::TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, *port))).is_ok();
    (spec.port..spec.port.saturating_add(TRIES)).find(free).unwrap_or(spec.port)
}

/// Whether the hive that no configuration speaks of is there: where nobody registered one before it came.
fn is_implied(spec: &HiveSpec, rows: &[HiveId]) -> bool {
    rows.is_empty() || rows.contains(&spec.id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_implicit_hive_stays_when_others_join_it_and_comes_to_no_others() {
        let id = |name: &str| name.parse::<HiveId>().expect("an id");
        let local = HiveSpec::local(id("local"), "localhost".parse().expect("a host"), 7835);
        assert!(is_implied(&local, &[]));
        assert!(is_implied(&local, &[id("box"), id("local")]));
        assert!(!is_implied(&local, &[id("box")]), "somebody wanted none");
    }
}
