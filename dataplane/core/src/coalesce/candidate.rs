//! One packet as coalescing sees it: offsets, sequence, and whether it may join another.

use crate::checksum;
use crate::segment::ip;
use crate::vnet::{Gso, VnetHeader};

const ACK: u8 = 0x10;
const PSH: u8 = 0x08;
const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const DESTINATION: u8 = 60;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Join {
    /// A segment or datagram that may join its flow's.
    Tcp,
    Udp,
    /// It belongs to a flow, and nothing of the flow may join across it.
    Never,
    /// It may belong to any flow between its addresses.
    Barrier,
    /// Neither TCP nor UDP.
    Alone,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Candidate {
    pub(super) join: Join,
    pub(super) v4: bool,
    /// Where in the arena the packet begins; its headers and payload count from there.
    pub(super) at: usize,
    pub(super) l4: usize,
    pub(super) header: usize,
    pub(super) payload: usize,
    pub(super) seq: u32,
    pub(super) flags: u8,
    /// The checksum is partial: the kernel of this host vouches for the payload.
    pub(super) trusted: bool,
    protocol: u8,
    flow: u32,
}

impl Candidate {
    pub(super) fn read(bytes: &[u8], at: usize, vnet: &VnetHeader) -> Candidate {
        let alone = Candidate {
            join: Join::Alone,
            v4: true,
            at,
            l4: 0,
            header: 0,
            payload: 0,
            seq: 0,
            flags: 0,
            trusted: vnet.needs_csum,
            protocol: 0,
            flow: 0,
        };
        let barrier = Candidate { join: Join::Barrier, ..alone };
        let (v4, l4, protocol) = match bytes.first().map(|first| first >> 4) {
            Some(4) if bytes.len() >= ip::V4_HEADER => (true, ip::V4_HEADER, bytes[9]),
            Some(6) if bytes.len() >= ip::V6_HEADER => (false, ip::V6_HEADER, bytes[6]),
            _ => return alone,
        };
        if !v4 && matches!(protocol, HOP_BY_HOP | ROUTING | FRAGMENT | DESTINATION) {
            return barrier;
        }
        if !matches!(protocol, ip::TCP | ip::UDP) {
            return alone;
        }
        let plain = if v4 { bytes[0] == 0x45 && ip::word(bytes, 6) & !ip::DONT_FRAGMENT == 0 } else { true };
        let len = if v4 { 0 } else { ip::V6_HEADER } + usize::from(ip::word(bytes, if v4 { 2 } else { 4 }));
        if !plain || len != bytes.len() || bytes.len() < l4 + 8 {
            return barrier;
        }
        let candidate = Candidate { v4, l4, protocol, join: Join::Never, ..alone };
        let candidate = Candidate { flow: candidate.flow_hash(bytes), ..candidate };
        if vnet.gso != Gso::None || (vnet.needs_csum && usize::from(vnet.csum_start) != l4) {
            return candidate;
        }
        if protocol == ip::TCP { candidate.tcp(bytes) } else { candidate.udp(bytes) }
    }

    fn tcp(self, bytes: &[u8]) -> Candidate {
        let Some(fixed) = bytes.get(self.l4..self.l4 + 20) else { return self };
        let header = self.l4 + usize::from(fixed[12] >> 4) * 4;
        let (flags, reserved) = (fixed[13], fixed[12] & 0x0f);
        if header < self.l4 + 20 || header >= bytes.len() || flags & !PSH != ACK || reserved != 0 {
            return self;
        }
        let seq = u32::from_be_bytes([fixed[4], fixed[5], fixed[6], fixed[7]]);
        Candidate { join: Join::Tcp, header, payload: bytes.len() - header, seq, flags, ..self }
    }

    fn udp(self, bytes: &[u8]) -> Candidate {
        let header = self.l4 + 8;
        let len = usize::from(ip::word(bytes, self.l4 + 4));
        // A datagram without checksum would get one by being joined (RFC 768).
        if len != bytes.len() - self.l4 || bytes.len() == header || ip::word(bytes, self.l4 + 6) == 0 {
            return self;
        }
        Candidate { join: Join::Udp, header, payload: bytes.len() - header, ..self }
    }

    pub(super) fn payload_u32(&self) -> u32 {
        u32::try_from(self.payload).unwrap_or(0)
    }

    /// Addresses and ports lie side by side, as in any packet of this shape.
    fn tuple<'m>(&self, packet: &'m [u8]) -> &'m [u8] {
        packet.get(if self.v4 { 12 } else { 8 }..self.l4 + 4).unwrap_or_default()
    }

    fn flow_hash(&self, packet: &[u8]) -> u32 {
        let mut hash = u32::from(self.protocol);
        for word in self.tuple(packet).chunks_exact(4) {
            let mut octets = [0; 4];
            octets.copy_from_slice(word);
            hash = (hash.rotate_left(5) ^ u32::from_ne_bytes(octets)).wrapping_mul(0x9e37_79b1);
        }
        hash
    }

    /// The upper bits are the good ones.
    pub(super) fn hash(&self, port: u32) -> u32 {
        (self.flow ^ port).wrapping_mul(0x85eb_ca6b)
    }

    pub(super) fn same_flow(&self, other: &Candidate, memory: &[u8]) -> bool {
        let (ours, theirs) = (self.packet(memory), other.packet(memory));
        self.v4 == other.v4 && self.protocol == other.protocol && self.tuple(ours) == other.tuple(theirs)
    }

    /// Whether `next`, of the same flow, differs only where segmentation would make it differ; `packets` packets lie
    /// before it. What counts is what the kernel's own coalescing compares.
    pub(super) fn same_headers(&self, next: &Candidate, packets: u16, memory: &[u8]) -> bool {
        let (a, b) = (self.packet(memory), next.packet(memory));
        if self.header != next.header || a.len() < self.header || b.len() < self.header {
            return false;
        }
        let ip = if self.v4 {
            // TOS; flags; TTL.
            a[1] == b[1] && a[6..9] == b[6..9] && self.counts_on(packets, memory, ip::word(b, 4))
        } else {
            // Version, traffic class, flow label; hop limit.
            a[..4] == b[..4] && a[7] == b[7]
        };
        let (a, b) = (&a[self.l4..self.header], &b[self.l4..self.header]);
        // Acknowledgement, data offset; window; options. The flags were judged one by one.
        ip && (self.join != Join::Tcp
            || (a[8..13] == b[8..13] && a[14..16] == b[14..16] && a[20..] == b[20..]))
    }

    /// Whether an IPv4 identification is that of the packet which `packets` packets lie before. Under DF it means
    /// nothing (RFC 6864 §4.1), and many leave it be.
    pub(super) fn counts_on(&self, packets: u16, memory: &[u8], id: u16) -> bool {
        let packet = self.packet(memory);
        let (first, fixed) = (ip::word(packet, 4), ip::word(packet, 6) & ip::DONT_FRAGMENT != 0);
        id == first.wrapping_add(packets) || (fixed && id == first)
    }

    /// Whether the transport checksum is right.
    pub(super) fn verifies(&self, memory: &[u8]) -> bool {
        let packet = self.packet(memory).get(..self.header + self.payload);
        packet.is_some_and(|packet| self.covers(packet))
    }

    /// Whether the transport checksum of a packet of this shape is right.
    pub(super) fn covers(&self, packet: &[u8]) -> bool {
        let (Some(addresses), Some(covered)) =
            (packet.get(if self.v4 { 12 } else { 8 }..self.l4), packet.get(self.l4..))
        else {
            return false;
        };
        let pseudo = checksum::sum(addresses) + u32::from(self.protocol);
        let len = u32::try_from(covered.len()).unwrap_or(0);
        checksum::fold(pseudo + len + checksum::sum(covered)) == 0xffff
    }

    fn packet<'m>(&self, memory: &'m [u8]) -> &'m [u8] {
        memory.get(self.at..).unwrap_or_default()
    }
}
