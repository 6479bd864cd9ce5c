//! Figures and states as people read them.

use fleet::{Capabilities, DeviceKind, LaunchProgress, LaunchStage, Timestamp};
use queen_api::{InferEvent, LoadingStage};

/// Text that does nothing to a terminal but stand on it. Much of what is shown comes from other machines and logs.
pub(crate) fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\n' && c != '\t' { '?' } else { c }).collect()
}

/// A size in the unit that makes it short. As on a graphics card, a GB has 1024³ bytes.
pub(crate) fn size(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["KB", "MB", "GB", "TB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let power = (bytes.ilog2() / 10).clamp(1, 4);
    #[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
    let amount = bytes as f64 / 1024_f64.powi(power.cast_signed());
    let unit = UNITS[power as usize - 1];
    let whole = amount >= 99.95 || (amount - amount.round()).abs() < 0.05;
    if whole { format!("{amount:.0} {unit}") } else { format!("{amount:.1} {unit}") }
}

/// How long ago something was, roughly.
pub(crate) fn ago(then: Timestamp, now: Timestamp) -> String {
    let seconds = (now.as_millis() - then.as_millis()).max(0) / 1000;
    match seconds {
        0..=89 => format!("{seconds} s ago"),
        90..=5399 => format!("{} min ago", (seconds + 30) / 60),
        5400..=172_799 => format!("{} h ago", (seconds + 1800) / 3600),
        _ => format!("{} days ago", (seconds + 43_200) / 86_400),
    }
}

/// What a machine computes with: its accelerators, else its processor.
pub(crate) fn devices(capabilities: &Capabilities) -> String {
    let accelerators = capabilities.devices.iter().filter(|device| device.kind != DeviceKind::Cpu);
    let named: Vec<_> = accelerators
        .map(|device| {
            let name = device.name.trim_start_matches("NVIDIA ").trim_start_matches("GeForce ");
            format!("{name} {}", size(device.memory_total))
        })
        .collect();
    if named.is_empty() { format!("cpu {}", size(capabilities.ram_total)) } else { named.join(", ") }
}

/// The engine that a machine prefers, and what it runs on there.
pub(crate) fn engine(capabilities: &Capabilities) -> String {
    match capabilities.engines.first() {
        Some(engine) => {
            let device = engine.devices.first().map_or("", |kind| kind.as_str());
            format!("{} {device}", engine.name).trim_end().to_owned()
        }
        None => "no engine".to_owned(),
    }
}

/// A machine in one line.
pub(crate) fn machine(capabilities: &Capabilities) -> String {
    format!("{} · {}", devices(capabilities), engine(capabilities))
}

fn part(part: f32) -> String {
    format!("{:.0} %", f64::from(part.clamp(0.0, 1.0)) * 100.0)
}

/// What happens to a request before its answer begins; nothing for what is the answer.
pub(crate) fn waiting(event: &InferEvent) -> Option<String> {
    match event {
        InferEvent::Queued { ahead: 0 } => Some("waiting for a free slot".to_owned()),
        InferEvent::Queued { ahead } => Some(format!("waiting for a free slot, {ahead} ahead")),
        InferEvent::Loading { stage, progress } => {
            let doing = match stage {
                LoadingStage::Choosing => "choosing a hive",
                LoadingStage::Downloading => "downloading the model",
                LoadingStage::Verifying => "verifying the model",
                LoadingStage::Starting => "starting a worker",
                LoadingStage::Loading => "loading the model",
            };
            Some(progress.map_or_else(|| doing.to_owned(), |done| format!("{doing}, {}", part(done))))
        }
        InferEvent::Started { worker_id, hive_id, .. } => {
            Some(format!("worker {worker_id} on {hive_id} answers"))
        }
        InferEvent::Token { .. } | InferEvent::End { .. } | InferEvent::Error { .. } => None,
    }
}

/// A step of a hive's start.
pub(crate) fn launching(progress: &LaunchProgress) -> String {
    let doing = match progress.stage {
        LaunchStage::Connect => "connecting",
        LaunchStage::Authenticate => "logging in",
        LaunchStage::Probe => "looking at the machine",
        LaunchStage::Fetch => "fetching an engine",
        LaunchStage::Upload => "copying files",
        LaunchStage::Start => "starting the hive",
        LaunchStage::Reach => "reaching the hive",
    };
    let detail = progress.detail.as_ref().map(|detail| format!(": {detail}")).unwrap_or_default();
    let amount = match (progress.bytes, progress.total) {
        (Some(bytes), Some(total)) => format!(", {} of {}", size(bytes), size(total)),
        (Some(bytes), None) => format!(", {}", size(bytes)),
        (None, _) => String::new(),
    };
    format!("{doing}{detail}{amount}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_short() {
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1 KB"),
            (1536, "1.5 KB"),
            (25_769_803_776, "24 GB"),
            (6_912_345_088, "6.4 GB"),
            (68_719_476_736, "64 GB"),
            (u64::MAX, "16777216 TB"),
        ] {
            assert_eq!(size(bytes), text);
        }
    }

    #[test]
    fn times_are_rough() {
        let now = Timestamp::from_millis(1_000_000_000_000);
        let before = |seconds: i64| ago(Timestamp::from_millis(now.as_millis() - seconds * 1000), now);
        let told: Vec<_> = [-5, 3, 100, 7200, 300_000].map(before).into();
        assert_eq!(told, ["0 s ago", "3 s ago", "2 min ago", "2 h ago", "3 days ago"]);
    }

    #[test]
    fn steps_are_said_in_words() {
        let progress = |stage, detail: Option<&str>, bytes| LaunchProgress {
            stage,
            detail: detail.map(str::to_owned),
            bytes,
            total: bytes.map(|_| 25_769_803_776),
        };
        assert_eq!(launching(&progress(LaunchStage::Connect, None, None)), "connecting");
        assert_eq!(
            launching(&progress(LaunchStage::Upload, Some("rbee-hive"), Some(1_288_490_188))),
            "copying files: rbee-hive, 1.2 GB of 24 GB"
        );
        let event = InferEvent::Loading { stage: LoadingStage::Downloading, progress: Some(0.254) };
        assert_eq!(waiting(&event).as_deref(), Some("downloading the model, 25 %"));
    }
}
