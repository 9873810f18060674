//! The link header in front of what goes to a workload: Ethernet from the gateway, with the tag of a sub-port.

use dataplane_core::Port;

use crate::snapshot::Snapshot;
use crate::vlan::{self, TAG};

const ETHERNET: usize = 14;
/// Where the Ethernet type is, or a tag in front of it.
pub(super) const TYPE_AT: usize = 12;

/// A link header.
#[derive(Debug, Clone, Copy)]
pub(super) struct Link {
    octets: [u8; Link::MOST],
    len: usize,
}

impl Link {
    /// With a tag.
    pub(super) const MOST: usize = ETHERNET + TAG;

    /// From the gateway to the workload.
    pub(super) fn new(snapshot: &Snapshot, port: &Port, v6: bool) -> Link {
        let mut octets = [0; Link::MOST];
        octets[..6].copy_from_slice(&port.mac.0);
        octets[6..TYPE_AT].copy_from_slice(&snapshot.fib.gateway.mac.0);
        let mut len = TYPE_AT;
        if let Some(number) = port.vlan {
            octets[TYPE_AT..TYPE_AT + TAG].copy_from_slice(&vlan::tag(number));
            len += TAG;
        }
        octets[len..len + 2].copy_from_slice(if v6 { &[0x86, 0xdd] } else { &[0x08, 0x00] });
        Link { octets, len: len + 2 }
    }

    pub(super) fn octets(&self) -> &[u8] {
        self.octets.get(..self.len).unwrap_or(&self.octets)
    }
}
