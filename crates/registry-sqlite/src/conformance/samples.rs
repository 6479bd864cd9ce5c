//! Legal values to store.

use std::fmt::Debug;

use fleet::{
    Capabilities, Device, DeviceKind, Engine, HiveKind, HiveMode, HiveSource, HiveSpec, Notice, SshTarget,
    StartPolicy,
};

/// Parses a literal of the suite.
pub(super) fn legal<T: std::str::FromStr<Err: Debug>>(text: &str) -> T {
    text.parse().expect("a legal literal")
}

/// A local hive, registered over the API.
///
/// # Panics
/// When `id` is no hive id.
#[must_use]
pub fn local(id: &str) -> HiveSpec {
    HiveSpec { source: HiveSource::Api, ..HiveSpec::local(legal(id), legal("localhost"), 7835) }
}

/// A network hive with everything that can be said of one, registered over the API.
///
/// # Panics
/// When `id` is no hive id.
#[must_use]
pub fn network(id: &str) -> HiveSpec {
    HiveSpec {
        id: legal(id),
        hostname: legal("192.168.1.100"),
        port: 8080,
        mode: HiveMode::Network,
        ssh: SshTarget {
            user: Some("rbee".to_owned()),
            port: Some(2222),
            key_path: Some("/home/user/.ssh/id_ed25519".into()),
            host_key: Some("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIA".to_owned()),
        },
        region: Some("cellar".to_owned()),
        labels: vec!["gpu".to_owned(), "loud, and \"quoted\"".to_owned()],
        source: HiveSource::Api,
        kind: HiveKind::Managed,
        start: StartPolicy::OnDemand,
    }
}

/// A hive that somebody else started, with its token.
///
/// # Panics
/// When `id` is no hive id.
#[must_use]
pub fn attached(id: &str) -> HiveSpec {
    HiveSpec {
        kind: HiveKind::Attached {
            token: Some(legal("0123456789abcdef-token")),
            pin: Some(fleet::TlsFingerprint::new([0x5a; 32])),
        },
        ..local(id)
    }
}

/// What a machine with one GPU reports.
///
/// # Panics
/// Never; its literals are legal.
#[must_use]
pub fn capabilities() -> Capabilities {
    let device = |kind, name: &str, memory_total| Device {
        kind,
        index: 0,
        name: name.to_owned(),
        memory_total,
        memory_free: memory_total / 2,
    };
    Capabilities {
        devices: vec![
            device(DeviceKind::Cuda, "NVIDIA GeForce RTX 3090", 24 << 30),
            device(DeviceKind::Cpu, "AMD Ryzen 9", 64 << 30),
        ],
        ram_total: 64 << 30,
        ram_free: 48 << 30,
        disk_free: 500 << 30,
        store_id: legal("store-1"),
        engines: vec![Engine {
            name: "llama-server".to_owned(),
            version: Some("b4000".to_owned()),
            devices: vec![DeviceKind::Cuda, DeviceKind::Cpu],
            running_usage: Some("timings_per_token".to_owned()),
            chat_prefill: None,
        }],
        notices: vec![Notice { code: "gpu_unused".to_owned(), message: "install a driver".to_owned() }],
    }
}
