//! How long a context is where nobody says so: the largest that fits, with room left for others.

use fleet::{Capabilities, DeviceKind, DeviceSelector, ModelRef};
use model_memory::ModelShape;
use model_store::Header;

use crate::{inspection, runtime::Runtime};

/// Of a model whose header does not tell what it needs, in tokens.
const USUAL: u32 = 8192;

impl Runtime {
    /// The context of each slot of a worker that is to be started on a device.
    pub(crate) async fn largest_context(
        &self,
        header: Header,
        slots: u32,
        machine: &Capabilities,
        device: DeviceSelector,
    ) -> u32 {
        let Some(shape) = shape(header) else { return USUAL };
        let is_shared = device.kind == DeviceKind::Cpu;
        let free = match machine.devices.iter().find(|known| known.selector() == device) {
            _ if is_shared => machine.ram_free,
            found => found.map_or(0, |device| device.memory_free),
        };
        let free = free.saturating_sub(self.promised(device).await);
        shape.largest_context(slots, share(&shape, slots, free, is_shared))
    }

    /// Memory that workers which load on the device now have not taken yet.
    async fn promised(&self, device: DeviceSelector) -> u64 {
        let (_, workers) = self.board.workers();
        let mut promised = 0_u64;
        for worker in workers.iter().filter(|worker| worker.device == device && worker.state.is_coming()) {
            let header = self.store.header(&ModelRef::from(&worker.resolved)).await;
            let need =
                header.ok().and_then(shape).map(|shape| shape.need(worker.context, worker.slots).total());
            promised = promised.saturating_add(need.unwrap_or(0).saturating_sub(worker.memory_bytes));
        }
        promised
    }
}

fn shape(header: Header) -> Option<ModelShape> {
    inspection::of_header(header).ok()?.shape()
}

/// What a worker may take of the memory that is free. Where another model of its size fits beside it, and in main memory, which
/// all programs share, half of what it could do without is left for others; else an eighth.
fn share(shape: &ModelShape, slots: u32, free: u64, is_shared: bool) -> u64 {
    let least = shape.need(1, slots).total();
    let rest = free.saturating_sub(least);
    let left = if is_shared || rest >= least { rest / 2 } else { rest / 8 };
    free - left
}

#[cfg(test)]
mod tests {
    use model_memory::AttentionMemory;

    use super::*;

    const GIB: u64 = 1 << 30;

    fn of(gib: u64) -> ModelShape {
        ModelShape {
            bytes: gib * GIB,
            kv_heads: vec![8; 32],
            head_dim: 128,
            memory: AttentionMemory::Full,
            vocab: 128_256,
            context_max: 131_072,
        }
    }

    #[test]
    fn a_worker_leaves_room_for_another_model_of_its_size() {
        let context = |gib, slots, free, is_shared| {
            let shape = of(gib);
            shape.largest_context(slots, share(&shape, slots, free * GIB, is_shared))
        };
        // A gibibyte for each 8k: 5 of 24 are the model, and 9 of the rest are for its context.
        assert_eq!(context(5, 1, 24, false), 65_536);
        assert_eq!(context(5, 4, 24, false), 16_384);
        // What is left beside a model that fills the card is of no use to another one.
        assert_eq!(context(19, 1, 24, false), 16_384);
        assert_eq!(context(5, 1, 24, true), 65_536);
        assert_eq!(context(19, 1, 22, true), 8192);
        assert_eq!(context(19, 1, 4, false), 8192, "no room is the queen's to see");
    }
}
