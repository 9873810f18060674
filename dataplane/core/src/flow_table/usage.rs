//! What operators may see of the table.

use std::sync::atomic::Ordering::Relaxed;

use super::{Begun, FlowTable, FlowTuple, Translation};

/// How full the table is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FlowUse {
    /// Flows that are alive.
    pub flows: usize,
    /// Slots in use: flows, what others see of them, datagrams in fragments, and what is over but not yet freed.
    pub slots: usize,
    /// Slots in all.
    pub capacity: usize,
    /// Flows with the node's address.
    pub node_ports: u32,
    /// Flows that were refused for want of room or of a port.
    pub refused: u64,
    /// Octets of memory, for however many flows.
    pub octets: usize,
}

/// A flow as operators see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FlowView {
    /// Its ends.
    pub tuple: FlowTuple,
    /// Who began it.
    pub begun: Begun,
    /// What others see.
    pub translation: Translation,
    /// How far it has come, in a word.
    pub state: &'static str,
    /// Milliseconds since its last packet.
    pub quiet_ms: u64,
    /// Milliseconds until it is over if no packet comes.
    pub left_ms: u64,
}

impl FlowTable {
    /// How full the table is. Looks at every slot.
    pub fn usage(&self, now_ms: u64) -> FlowUse {
        let refused = self.refused.load(Relaxed);
        let Some(store) = self.store.get() else {
            return FlowUse {
                capacity: super::buckets(self.limits.flows) * super::BUCKET,
                refused,
                ..FlowUse::default()
            };
        };
        FlowUse {
            flows: store.flows(now_ms).count(),
            slots: store.used() as usize,
            capacity: super::buckets(self.limits.flows) * super::BUCKET,
            node_ports: store.node_ports(),
            refused,
            octets: store.octets(),
        }
    }

    /// The flows that are alive, in no order. Those that come or go meanwhile may be missing.
    pub fn flows(&self, now_ms: u64) -> impl Iterator<Item = FlowView> {
        let store = self.store.get().into_iter();
        store.flat_map(move |store| store.flows(now_ms)).map(|(flow, quiet_ms, left_ms)| FlowView {
            tuple: flow.tuple,
            begun: flow.begun,
            translation: flow.translation,
            state: flow.state.name(flow.tuple.protocol),
            quiet_ms,
            left_ms,
        })
    }
}
