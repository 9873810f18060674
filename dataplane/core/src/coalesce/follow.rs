//! The short way for segments that one message of a tunnel brought: those behind the first differ from it, as the far
//! end's segmentation made them, only where segments of one flow do. Then they share its decision and join its group,
//! and the pipeline need not look at them.
//!
//! ```text
//!  message   │ label │ IP │ TCP │ payload 0 │ label │ IP │ TCP │ payload 1 │ label │ IP │ TCP │ payload 2 │
//!              ╰── the pipeline decides ──╯   ╰─ equal but for length, id, sequence, checksums ─╯
//! ```
//! What is equal: the label with its TTL, and every octet of the headers but IPv4's length, identification and checksum,
//! and TCP's sequence number, PSH and checksum. These are checked as the pipeline and [`Coalescer::push`] would. A
//! segment that differs anywhere else takes the long way.

use std::ops::Range;

use super::candidate::{Candidate, Join};
use super::{Coalescer, MAX_DATAGRAMS, MAX_HEADER, MAX_SEGMENTS, Piece};
use crate::checksum;
use crate::frame::MAX_PACKET;
use crate::segment::ip;

const LABEL: usize = 4;
const PSH: u8 = 0x08;

/// The headers of a message's first packet as they came, and where it went.
#[derive(Debug)]
pub(super) struct Leader {
    octets: [u8; LABEL + MAX_HEADER],
    /// The group that it started or joined, while it may be followed.
    pub(super) group: Option<usize>,
}

impl Leader {
    pub(super) fn none() -> Leader {
        Leader { octets: [0; LABEL + MAX_HEADER], group: None }
    }
}

impl Coalescer {
    /// Told of a tunnel's packet from its label on, before the pipeline changes it: the next packet pushed is this one.
    pub fn lead(&mut self, packet: &[u8]) {
        let len = packet.len().min(self.leader.octets.len());
        self.leader.octets[..len].copy_from_slice(&packet[..len]);
        self.leader.group = None;
    }

    /// Nothing follows the packet that was pushed last.
    pub fn end_lead(&mut self) {
        self.leader.group = None;
    }

    /// Joins the packet at `range` of `memory`, which begins at its label, to the packet told by [`Coalescer::lead`]
    /// if the same decision holds for both and segmentation would have made one of the other. Otherwise nothing
    /// changes, and it is for the pipeline.
    ///
    /// The caller vouches that the leader's decision depended on nothing but its headers and its length.
    pub fn follow(&mut self, memory: &[u8], range: &Range<usize>) -> bool {
        let Some(index) = self.leader.group.filter(|_| !self.is_full()) else { return false };
        let Some(group) = self.groups.get_mut(index).filter(|group| group.open && !group.push) else {
            return false;
        };
        let Some(bytes) = memory.get(range.clone()) else { return false };
        let first = &group.first;
        let header = LABEL + first.header;
        let (Some(ours), Some(leader)) = (bytes.get(..header), self.leader.octets.get(..header)) else {
            return false;
        };
        let payload = bytes.len() - header;
        let fits = payload > 0
            && payload <= first.payload
            && group.octets + payload <= MAX_PACKET
            && same_network(first, leader, ours, bytes.len() - LABEL)
            && (!first.v4 || first.counts_on(group.packets, memory, ip::word(ours, LABEL + 4)));
        if !fits {
            return false;
        }
        let l4 = LABEL + first.l4;
        let push = match first.join {
            Join::Tcp => {
                let Some(push) = same_segment(&leader[l4..], &ours[l4..], group.next_seq) else {
                    return false;
                };
                if group.packets >= MAX_SEGMENTS {
                    return false;
                }
                push
            }
            Join::Udp if group.packets < MAX_DATAGRAMS && same_datagram(leader, ours, l4, payload) => false,
            _ => return false,
        };
        if !first.covers(&bytes[LABEL..]) || (!group.verified && !first.verifies(memory)) {
            return false;
        }
        group.verified = true;
        let piece = Piece { start: range.start + header, end: range.end, next: super::NONE };
        self.join(index, payload, push, piece);
        true
    }
}

/// Whether label and IP header are the leader's but for length, identification and checksum, and right.
fn same_network(first: &Candidate, leader: &[u8], ours: &[u8], len: usize) -> bool {
    if first.v4 {
        let (Some(a), Some(b)) = (leader.first_chunk::<24>(), ours.first_chunk::<24>()) else { return false };
        // Label, version, TOS; flags, TTL, protocol; addresses.
        a[..6] == b[..6]
            && a[10..14] == b[10..14]
            && a[16..] == b[16..]
            && usize::from(ip::word(b, LABEL + 2)) == len
            && checksum::checksum(&b[LABEL..]) == 0
    } else {
        let (Some(a), Some(b)) = (leader.first_chunk::<44>(), ours.first_chunk::<44>()) else { return false };
        // Label, version, traffic class, flow label; next header, hop limit, addresses.
        a[..8] == b[..8] && a[10..] == b[10..] && ip::V6_HEADER + usize::from(ip::word(b, LABEL + 4)) == len
    }
}

/// Whether a TCP header is the leader's but for sequence number, PSH and checksum, and which PSH it has.
fn same_segment(leader: &[u8], ours: &[u8], next_seq: u32) -> Option<bool> {
    let (a, b) = (leader.first_chunk::<20>()?, ours.first_chunk::<20>()?);
    let seq = u32::from_be_bytes([b[4], b[5], b[6], b[7]]);
    // Ports; acknowledgement, data offset; window. The leader's only flags are ACK and PSH.
    let same = a[..4] == b[..4]
        && a[8..13] == b[8..13]
        && (a[13] ^ b[13]) & !PSH == 0
        && a[14..16] == b[14..16]
        && leader[20..] == ours[20..];
    (same && seq == next_seq).then_some(b[13] & PSH != 0)
}

/// Whether a UDP header is the leader's but for length and checksum; it must have one, as the leader has.
fn same_datagram(leader: &[u8], ours: &[u8], l4: usize, payload: usize) -> bool {
    leader[l4..l4 + 4] == ours[l4..l4 + 4]
        && usize::from(ip::word(ours, l4 + 4)) == 8 + payload
        && ip::word(ours, l4 + 6) != 0
}
