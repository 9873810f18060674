//! The link header in front of what goes to a workload: Ethernet from the gateway, with the tag of a sub-port.

use dataplane_core::Port;

use crate::snapshot::Snapshot;
use crate::vlan::{self, TAG};

const ETHERNET: usize = 14;
/// Where the Ethernet type is, or a tag in front of it.
const TYPE_AT: usize = 12;

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

/// Writes a frame with a tag, or without, into room for both.
pub(super) fn put_tagged(room: &mut [u8], frame: &[u8], tag: &[u8]) {
    let (addresses, behind) = frame.split_at(if tag.is_empty() { 0 } else { TYPE_AT.min(frame.len()) });
    let (front, rest) = room.split_at_mut(addresses.len());
    let (middle, rest) = rest.split_at_mut(tag.len());
    front.copy_from_slice(addresses);
    middle.copy_from_slice(tag);
    rest.copy_from_slice(behind);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_stands_between_the_addresses_and_the_type() {
        let frame: Vec<u8> = (0..20).collect();
        let mut room = [0xee; 24];
        put_tagged(&mut room, &frame, &[1, 2, 3, 4]);
        assert_eq!(room[..], [&frame[..12], &[1, 2, 3, 4], &frame[12..]].concat());
        put_tagged(&mut room[..20], &frame, &[]);
        assert_eq!(room[..20], frame);
    }
}
