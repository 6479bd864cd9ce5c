//! What a machine has to run models with: compute devices, main memory, free disk.
//!
//! It asks the tools and files that every driver brings (`nvidia-smi`, `/sys`, `/proc`, `sysctl`) and links no vendor
//! library, so the same binary runs with and without a GPU. It does not know engines: whether one can drive a device is
//! the caller's question.
//!
//! The key decision: a probe always succeeds. A driver that is missing, broken or hangs costs its devices and becomes a
//! [`fleet::Notice`] for the owner; the processor is there in any case, and last.
//!
//! Invariants: no tool is waited for longer than 5 s, nor read beyond 64 KiB; no output of any tool makes it panic.

mod amd;
mod disk;
mod memory;
mod nvidia;
mod probe;
mod tool;

pub use disk::disk_free;
pub use memory::Memory;
pub use nvidia::{GpuMemoryOfProcess, gpu_memory_of_processes};
pub use probe::{Machine, probe};
pub use tool::{Answer, ask};
