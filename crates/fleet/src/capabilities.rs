//! What a machine can do: its devices, memory, disk and engines.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::StoreId;

/// What a hive reports of its machine. Sizes are bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capabilities {
    /// Compute devices; a CPU is always there, and always last.
    pub devices: Vec<Device>,
    /// Installed main memory.
    pub ram_total: u64,
    /// Main memory that a new process could use now (`MemAvailable` on Linux).
    pub ram_free: u64,
    /// Free space of the file system that holds the model directory.
    pub disk_free: u64,
    /// Identity of the model directory; the same on two hives that share it.
    pub store_id: StoreId,
    /// Inference engines, preferred first.
    pub engines: Vec<Engine>,
    /// What the owner should know, such as a GPU that no engine drives.
    #[serde(default)]
    pub notices: Vec<Notice>,
}

/// One compute device. Sizes are bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// What drives it.
    pub kind: DeviceKind,
    /// Position among the devices of this kind, from 0.
    pub index: u32,
    /// The vendor's name, such as "NVIDIA GeForce RTX 3090".
    pub name: String,
    /// Memory of the device; main memory for a CPU.
    pub memory_total: u64,
    /// Memory that a new process could use now.
    pub memory_free: u64,
}

impl Device {
    /// The name by which a spawn request chooses this device.
    #[must_use]
    pub const fn selector(&self) -> DeviceSelector {
        DeviceSelector { kind: self.kind, index: self.index }
    }
}

/// What drives a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DeviceKind {
    /// NVIDIA CUDA.
    Cuda,
    /// Apple Metal.
    Metal,
    /// AMD ROCm.
    Rocm,
    /// Vulkan, on a card of any vendor.
    Vulkan,
    /// The processor itself.
    Cpu,
}

impl DeviceKind {
    const ALL: [Self; 5] = [Self::Cuda, Self::Metal, Self::Rocm, Self::Vulkan, Self::Cpu];

    /// The kind as it stands in requests and records.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Cuda => "cuda",
            Self::Metal => "metal",
            Self::Rocm => "rocm",
            Self::Vulkan => "vulkan",
            Self::Cpu => "cpu",
        }
    }
}

/// A device by kind and index: `cuda:1`, `cpu:0`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct DeviceSelector {
    /// What drives it.
    pub kind: DeviceKind,
    /// Position among the devices of this kind, from 0.
    pub index: u32,
}

impl fmt::Display for DeviceSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.kind.as_str(), self.index)
    }
}

/// Not of the form `kind:index`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no device; write it as cuda:0, metal:0, rocm:0, vulkan:0 or cpu:0")]
pub struct DeviceSelectorError(String);

impl FromStr for DeviceSelector {
    type Err = DeviceSelectorError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let refused = || DeviceSelectorError(text.chars().take(64).collect());
        let (kind, index) = text.split_once(':').unwrap_or((text, "0"));
        let kind = DeviceKind::ALL.into_iter().find(|k| k.as_str() == kind).ok_or_else(refused)?;
        Ok(Self { kind, index: index.parse().map_err(|_| refused())? })
    }
}

impl TryFrom<String> for DeviceSelector {
    type Error = DeviceSelectorError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<DeviceSelector> for String {
    fn from(device: DeviceSelector) -> Self {
        device.to_string()
    }
}

/// An inference engine that a hive can start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Engine {
    /// Its name: `llama-server`, `llm-worker-rbee`, or as configured.
    pub name: String,
    /// What it said of its version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Kinds of device it can use, preferred first.
    pub devices: Vec<DeviceKind>,
    /// The request option that makes each streamed frame carry a running token count, as a path from the request's root
    /// (`stream_options.continuous_usage_stats`, `timings_per_token`). Without one an answer cannot be continued elsewhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub running_usage: Option<String>,
    /// How it is made to go on with the last message of a chat, which is the assistant's, instead of answering it: the request
    /// option for that (`continue_final_message`), or `assistant_message` if it does so unasked. Without one an answer to a
    /// chat cannot be continued elsewhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chat_prefill: Option<String>,
}

/// A standing remark of a hive about its machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Notice {
    /// Machine-readable, such as `gpu_unused`.
    pub code: String,
    /// What it means and what to do.
    pub message: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_without_an_index_is_the_first_of_its_kind() {
        assert_eq!("cpu".parse(), Ok(DeviceSelector { kind: DeviceKind::Cpu, index: 0 }));
        assert_eq!("cuda:1".parse(), Ok(DeviceSelector { kind: DeviceKind::Cuda, index: 1 }));
        for text in ["", "gpu", "cuda:", "cuda:-1", "cuda:x", "CUDA:0"] {
            assert!(text.parse::<DeviceSelector>().is_err(), "{text:?} was accepted");
        }
    }
}
