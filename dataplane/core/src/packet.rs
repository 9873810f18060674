//! The IP header of a packet, read once: IPv4 (RFC 791) or IPv6 with its extension headers (RFC 8200 §4).
//!
//! Refused here: lengths that lie, fragments that run over the longest datagram, wrong IPv4 header checksums, jumbograms.
//! Extension headers that cannot be followed are no reason to refuse: such a packet is forwarded by its addresses and has
//! no transport that we can see.

use std::net::IpAddr;

use etherparse::err::{ipv4, ipv6};
use etherparse::{Ipv4HeaderSlice, Ipv6HeaderSlice};

use crate::checksum;
use crate::frame::MAX_PACKET;
use crate::verdict::DropReason;

pub(crate) const ICMP: u8 = 1;
pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;
pub(crate) const ICMPV6: u8 = 58;
pub(crate) const IPV6_HEADER: usize = 40;

pub(crate) const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const NO_NEXT_HEADER: u8 = 59;
const DESTINATION_OPTIONS: u8 = 60;
/// More than any real packet has; it bounds the walk.
const MAX_EXTENSIONS: usize = 8;

/// What the pipeline needs to know of a packet. Offsets count from the first octet of the IP header.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Packet {
    pub(crate) src: IpAddr,
    pub(crate) dst: IpAddr,
    /// TOS or traffic class: DSCP and ECN.
    pub(crate) tos: u8,
    /// TTL or hop limit.
    pub(crate) ttl: u8,
    /// Octets of the whole packet, as its header says.
    pub(crate) len: usize,
    /// The transport protocol, or the first header that could not be followed.
    pub(crate) protocol: u8,
    /// Where it begins; not beyond `len`.
    pub(crate) l4: usize,
    pub(crate) fragment: Fragment,
    /// IPv4's flag; always set for IPv6, which routers do not fragment.
    pub(crate) dont_fragment: bool,
}

/// Whether a packet is part of a larger one, and of which (its identification).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fragment {
    Whole,
    First(u32),
    Later(u32),
}

impl Packet {
    /// Reads and checks the header of a packet that is to be forwarded.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Packet, DropReason> {
        let packet = Packet::read(bytes)?;
        // Jumbograms are not carried, but a superframe of TCP whose option was taken off.
        let untold = bytes.get(4..6) == Some(&[0, 0]) && packet.len > IPV6_HEADER;
        let jumbo = !packet.is_v4() && untold && bytes.get(6) != Some(&TCP);
        if packet.len > bytes.len() || jumbo {
            return Err(DropReason::BadIpLength);
        }
        // RFC 1812 §5.2.2 (2). The sum over a correct header, its checksum included, is all ones.
        if packet.is_v4() && checksum::checksum(bytes.get(..packet.v4_header(bytes)).unwrap_or(&[])) != 0 {
            return Err(DropReason::BadIpChecksum);
        }
        Ok(packet)
    }

    /// Reads a header whose packet may be cut short and whose checksum may be stale, as an ICMP error quotes it.
    pub(crate) fn read(bytes: &[u8]) -> Result<Packet, DropReason> {
        match bytes.first().map(|first| first >> 4) {
            None => Err(DropReason::TruncatedIp),
            Some(4) => Packet::read_v4(bytes),
            Some(6) => Packet::read_v6(bytes),
            Some(_) => Err(DropReason::BadIpVersion),
        }
    }

    pub(crate) fn is_v4(&self) -> bool {
        self.src.is_ipv4()
    }

    /// Whether it is of the ICMP of its family.
    pub(crate) fn is_icmp(&self) -> bool {
        self.protocol == if self.is_v4() { ICMP } else { ICMPV6 }
    }

    /// The ports, where the protocol has ports and this packet carries them.
    pub(crate) fn ports(&self, bytes: &[u8]) -> Option<(u16, u16)> {
        const WITH_PORTS: [u8; 5] = [TCP, UDP, 33, 132, 136];
        if matches!(self.fragment, Fragment::Later(_)) || !WITH_PORTS.contains(&self.protocol) {
            return None;
        }
        let &[s0, s1, d0, d1] = self.transport(bytes).first_chunk()?;
        Some((u16::from_be_bytes([s0, s1]), u16::from_be_bytes([d0, d1])))
    }

    /// What lies behind the IP header, padding excluded; empty where this packet carries no transport header.
    pub(crate) fn transport<'b>(&self, bytes: &'b [u8]) -> &'b [u8] {
        if matches!(self.fragment, Fragment::Later(_)) {
            return &[];
        }
        bytes.get(self.l4..self.len.min(bytes.len())).unwrap_or(&[])
    }

    /// The ICMP or ICMPv6 message, where the packet carries the start of one.
    pub(crate) fn icmp<'b>(&self, bytes: &'b [u8]) -> Option<&'b [u8]> {
        let protocol = if self.is_v4() { ICMP } else { ICMPV6 };
        let message = self.transport(bytes);
        (self.protocol == protocol && message.len() >= 8).then_some(message)
    }

    fn read_v4(bytes: &[u8]) -> Result<Packet, DropReason> {
        let header = Ipv4HeaderSlice::from_slice(bytes).map_err(|error| match error {
            ipv4::HeaderSliceError::Len(_) => DropReason::TruncatedIp,
            ipv4::HeaderSliceError::Content(_) => DropReason::BadIpHeader,
        })?;
        let l4 = header.slice().len();
        let len = match header.total_len() {
            // A superframe that is longer than the field can tell, as Linux writes it. Others of that length are
            // refused with their virtio-net header.
            0 if bytes.len() > MAX_PACKET => bytes.len(),
            len => usize::from(len),
        };
        // Cut for a smaller MTU, a fragment that runs over the longest datagram would begin another one: its offset goes
        // round, past every rule that was asked about the first.
        let offset = usize::from(header.fragments_offset().value()) * 8;
        if len < l4 || (offset > 0 && offset + len > MAX_PACKET) {
            return Err(DropReason::BadIpLength);
        }
        let id = u32::from(header.identification());
        Ok(Packet {
            src: header.source_addr().into(),
            dst: header.destination_addr().into(),
            tos: header.dcp().value() << 2 | header.ecn().value(),
            ttl: header.ttl(),
            len,
            protocol: header.protocol().0,
            l4,
            fragment: match (offset, header.more_fragments()) {
                (0, false) => Fragment::Whole,
                (0, true) => Fragment::First(id),
                _ => Fragment::Later(id),
            },
            dont_fragment: header.dont_fragment(),
        })
    }

    fn read_v6(bytes: &[u8]) -> Result<Packet, DropReason> {
        let header = Ipv6HeaderSlice::from_slice(bytes).map_err(|error| match error {
            ipv6::HeaderSliceError::Len(_) => DropReason::TruncatedIp,
            ipv6::HeaderSliceError::Content(_) => DropReason::BadIpHeader,
        })?;
        let payload = usize::from(header.payload_length());
        let len = match (payload, header.next_header().0) {
            (0, NO_NEXT_HEADER) => IPV6_HEADER,
            // A superframe, as with IPv4, or a jumbogram (RFC 2675 §3).
            (0, _) if bytes.len() > MAX_PACKET => bytes.len(),
            (0, _) => return Err(DropReason::BadIpLength),
            _ => IPV6_HEADER + payload,
        };
        let (protocol, l4, fragment) = extensions(bytes.get(..len).unwrap_or(bytes), header.next_header().0);
        Ok(Packet {
            src: header.source_addr().into(),
            dst: header.destination_addr().into(),
            tos: header.traffic_class(),
            ttl: header.hop_limit(),
            len,
            protocol,
            l4,
            fragment,
            dont_fragment: true,
        })
    }

    fn v4_header(&self, bytes: &[u8]) -> usize {
        bytes.first().map_or(0, |first| usize::from(first & 0x0f) * 4)
    }
}

/// Follows extension headers to the transport: its protocol and where it begins.
fn extensions(bytes: &[u8], first: u8) -> (u8, usize, Fragment) {
    let (mut protocol, mut at, mut fragment) = (first, IPV6_HEADER, Fragment::Whole);
    for _ in 0..MAX_EXTENSIONS {
        let Some(&[next, len, offset, more, a, b, c, d]) =
            bytes.get(at..).and_then(|rest| rest.first_chunk())
        else {
            break;
        };
        let octets = match protocol {
            HOP_BY_HOP | ROUTING | DESTINATION_OPTIONS => (usize::from(len) + 1) * 8,
            AUTHENTICATION => (usize::from(len) + 2) * 4,
            FRAGMENT => {
                let id = u32::from_be_bytes([a, b, c, d]);
                let field = u16::from_be_bytes([offset, more]);
                fragment = match (field >> 3, field & 1) {
                    (0, 0) => fragment,
                    (0, _) => Fragment::First(id),
                    _ => Fragment::Later(id),
                };
                8
            }
            _ => break,
        };
        if at + octets > bytes.len() {
            break;
        }
        (protocol, at) = (next, at + octets);
        if matches!(fragment, Fragment::Later(_)) {
            break;
        }
    }
    (protocol, at, fragment)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::udp;

    #[test]
    fn ipv4_is_read() {
        let bytes = udp("10.0.0.1", "10.0.0.2", 7);
        let packet = Packet::parse(&bytes).unwrap();
        assert_eq!((packet.src, packet.dst), ("10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap()));
        assert_eq!((packet.ttl, packet.len, packet.l4, packet.protocol), (64, 35, 20, UDP));
        assert_eq!(packet.ports(&bytes), Some((40000, 9)));
        assert_eq!(packet.fragment, Fragment::Whole);
    }

    #[test]
    fn lying_lengths_are_refused() {
        let good = udp("10.0.0.1", "10.0.0.2", 7);
        for (at, value, reason) in [
            (3, 36, DropReason::BadIpLength),   // one octet more than there is
            (3, 19, DropReason::BadIpLength),   // less than the header
            (0, 0x44, DropReason::BadIpHeader), // header of four words
            (0, 0x4f, DropReason::BadIpLength), // options longer than the packet
            (0, 0x55, DropReason::BadIpVersion),
            (8, 9, DropReason::BadIpChecksum),
        ] {
            let mut bytes = good.clone();
            bytes[at] = value;
            let got = Packet::parse(&bytes).unwrap_err();
            // Sixty octets of header do not fit thirty-five: either name is true.
            assert!(
                got == reason || (value == 0x4f && got == DropReason::TruncatedIp),
                "{at} {value}: {got}"
            );
        }
        for len in 0..20 {
            assert_eq!(Packet::parse(&good[..len]).unwrap_err(), DropReason::TruncatedIp, "{len}");
        }
        let mut six = udp("fd00::1", "fd00::2", 7);
        for len in 0..40 {
            assert_eq!(Packet::parse(&six[..len]).unwrap_err(), DropReason::TruncatedIp, "{len}");
        }
        six[5] += 1;
        assert_eq!(Packet::parse(&six).unwrap_err(), DropReason::BadIpLength);
        six[4..6].fill(0);
        assert_eq!(Packet::parse(&six).unwrap_err(), DropReason::BadIpLength, "jumbogram");
    }

    #[test]
    fn padding_is_not_part_of_the_packet() {
        let mut bytes = udp("10.0.0.1", "10.0.0.2", 0);
        bytes.resize(46, 0xee);
        assert_eq!(Packet::parse(&bytes).unwrap().len, 28);
    }

    #[test]
    fn ipv6_extension_headers_are_followed() {
        let inner = udp("fd00::1", "fd00::2", 3);
        let mut bytes = inner[..40].to_vec();
        bytes[6] = HOP_BY_HOP;
        bytes.extend([DESTINATION_OPTIONS, 0, 1, 4, 0, 0, 0, 0]); // hop-by-hop: eight octets
        bytes.extend([FRAGMENT, 1, 1, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]); // destination options: sixteen
        bytes.extend([UDP, 0, 0, 1, 0xde, 0xad, 0xbe, 0xef]); // first fragment, more to come
        bytes.extend(&inner[40..]);
        bytes[5] = u8::try_from(bytes.len() - 40).unwrap();
        let packet = Packet::parse(&bytes).unwrap();
        assert_eq!((packet.protocol, packet.l4), (UDP, 72));
        assert_eq!(packet.fragment, Fragment::First(0xdead_beef));
        assert_eq!(packet.ports(&bytes), Some((40000, 9)));
        bytes[67] = 9; // offset 1
        let packet = Packet::parse(&bytes).unwrap();
        assert_eq!(packet.fragment, Fragment::Later(0xdead_beef));
        assert_eq!(packet.ports(&bytes), None);
    }

    #[test]
    fn an_extension_header_that_runs_out_hides_the_transport_only() {
        let mut bytes = udp("fd00::1", "fd00::2", 3);
        bytes[6] = ROUTING;
        bytes[41] = 200;
        let packet = Packet::parse(&bytes).unwrap();
        assert_eq!((packet.protocol, packet.l4), (ROUTING, 40));
        assert_eq!(packet.ports(&bytes), None);
    }
}
