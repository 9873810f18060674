//! Where flows go, remembered per worker, in front of the routes.
//!
//! ```text
//!  (generation, VRF, destination, flow hash) ──▶ port, host or tunnel and label      one entry per place; the later wins
//! ```
//! The way of a packet follows from just these four: the route from VRF and destination, the choice among ways of equal
//! cost from the flow's hash. So an entry is exact even where two flows share a hash. A new snapshot has a new
//! generation, which makes every entry stale at once. Snapshots of generation zero were never published and are not
//! remembered. Refusals are not remembered either: they are rare, or should cost their sender something.

use std::net::IpAddr;

use vrouter_types::{PortId, VrfId};

use crate::fib::Hop;
use crate::flow::FlowHash;

/// Fits a core's second-level cache beside the frames.
const ENTRIES: usize = 4096;

/// Where a route leads for one flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// To a port of this node.
    Port(PortId),
    /// Through a tunnel.
    Tunnel(Hop),
    /// To the host.
    Host,
}

/// What a flow's way depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Key {
    pub(crate) generation: u64,
    pub(crate) vrf: VrfId,
    pub(crate) dst: IpAddr,
    pub(crate) flow: FlowHash,
}

/// A fixed table of flows; it never grows.
#[derive(Debug)]
pub(crate) struct FlowCache {
    entries: Box<[(Key, Place)]>,
}

impl FlowCache {
    pub(crate) fn new() -> FlowCache {
        // Generation zero is never asked for.
        let dst = IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED);
        let empty = Key { generation: 0, vrf: VrfId(0), dst, flow: FlowHash(0) };
        FlowCache { entries: vec![(empty, Place::Host); ENTRIES].into() }
    }

    pub(crate) fn get(&self, key: &Key) -> Option<Place> {
        let (known, place) = self.entries.get(index(key))?;
        (known == key && key.generation != 0).then_some(*place)
    }

    pub(crate) fn insert(&mut self, key: Key, place: Place) {
        if let Some(entry) = self.entries.get_mut(index(&key)) {
            *entry = (key, place);
        }
    }
}

/// The hash's upper bits are the tunnel's entropy; these are the lower ones.
fn index(key: &Key) -> usize {
    usize::try_from(key.flow.0 & 0xffff).unwrap_or_default() % ENTRIES
}
