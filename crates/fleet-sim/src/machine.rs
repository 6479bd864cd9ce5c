//! Machines, by what is published of them.

use fleet::DeviceKind;

/// Size of the model that all of them serve, a Llama of 7 to 8 billion weights in four bits.
pub(crate) const MODEL_BYTES: u64 = 3_830_000_000;

/// One machine with one worker.
#[derive(Debug, Clone)]
pub struct Machine {
    /// Its name.
    pub name: &'static str,
    /// What drives it.
    pub kind: DeviceKind,
    /// The vendor's name of its device.
    pub device: &'static str,
    /// Requests that it answers at once.
    pub slots: u32,
    /// Prompt tokens per second.
    pub prefill_tok_s: f64,
    /// Generated tokens per second of one stream alone.
    pub decode_tok_s: f64,
    /// Tokens that its worker remembers.
    pub memory_tokens: u64,
    /// Where it stands.
    pub region: &'static str,
    /// To it and back, in seconds.
    pub round_trip_s: f64,
}

impl Machine {
    /// Seconds between two tokens of each of `streams` streams. All read the weights once together; what is added for each
    /// is taken as three times what one token of a prompt costs, for small batches compute less well than large ones.
    #[must_use]
    pub fn token_s(&self, streams: f64) -> f64 {
        let stream_s = 3.0 / self.prefill_tok_s;
        (streams - 1.0).mul_add(stream_s, self.decode_tok_s.recip())
    }

    /// Tokens per second that it writes at most.
    #[must_use]
    pub fn decode_most(&self) -> f64 {
        let slots = f64::from(self.slots);
        slots / self.token_s(slots)
    }

    const fn in_region(mut self, region: &'static str, round_trip_s: f64) -> Self {
        self.region = region;
        self.round_trip_s = round_trip_s;
        self
    }
}

const fn machine(
    name: &'static str,
    kind: DeviceKind,
    device: &'static str,
    (prefill_tok_s, decode_tok_s): (f64, f64),
    (slots, memory_tokens): (u32, u64),
) -> Machine {
    let (region, round_trip_s) = ("home", 0.001);
    Machine { name, kind, device, slots, prefill_tok_s, decode_tok_s, memory_tokens, region, round_trip_s }
}

// Rates of llama-bench's pp512 and tg128, rounded. The first and the third are from the collections of results for Llama 2
// 7B Q4_0 in llama.cpp's discussions 15013 (CUDA) and 4167 (Apple), as is the 3060; the 3090 is from llama.cpp's pull request
// 4766; the processor is llama.cpp's column in ik_llama.cpp's pull request 54 (Llama 3.1 8B Q4_0, Ryzen 7950X).
const RTX_5090: Machine =
    machine("5090", DeviceKind::Cuda, "NVIDIA GeForce RTX 5090", (14_000.0, 290.0), (8, 131_072));
const RTX_3060: Machine =
    machine("3060", DeviceKind::Cuda, "NVIDIA GeForce RTX 3060", (2_100.0, 76.0), (4, 32_768));
const M4_MAX: Machine = machine("m4-max", DeviceKind::Metal, "Apple M4 Max", (886.0, 83.0), (4, 65_536));
const RTX_3090: Machine =
    machine("3090", DeviceKind::Cuda, "NVIDIA GeForce RTX 3090", (3_400.0, 121.0), (8, 98_304));
const RYZEN: Machine = machine("cpu", DeviceKind::Cpu, "AMD Ryzen 9 7950X", (123.0, 11.3), (2, 32_768));

/// A gaming PC, an older one, a Mac and an old server without a card.
#[must_use]
pub fn home() -> Vec<Machine> {
    vec![RTX_5090, RTX_3060, M4_MAX, RYZEN]
}

/// Equal cards beside a small one.
#[must_use]
pub fn rack() -> Vec<Machine> {
    let named = |name| Machine { name, ..RTX_3090 };
    vec![named("3090-a"), named("3090-b"), named("3090-c"), RTX_3060]
}

/// The fast machine is far away.
#[must_use]
pub fn two_regions() -> Vec<Machine> {
    vec![RTX_5090.in_region("away", 0.12), RTX_3090.in_region("away", 0.12), RTX_3060, M4_MAX, RYZEN]
}
