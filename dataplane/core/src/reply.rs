//! Packets of our own making: answers to ARP, neighbour discovery and DHCP, router advertisements, echo replies, ICMP
//! errors.
//!
//! They are written into [`ReplyBuffer`](crate::ReplyBuffer), never into the frame that they answer.

pub(crate) mod arp;
pub(crate) mod dhcp4;
pub(crate) mod dhcp6;
pub(crate) mod icmp;
pub(crate) mod nd;
pub(crate) mod router;
pub(crate) mod write;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use vrouter_types::MacAddr;

use crate::checksum;
use crate::packet::{ICMP, ICMPV6, IPV6_HEADER};

pub(crate) const ETHERNET_HEADER: usize = 14;
pub(crate) const ETHERTYPE_IPV4: u16 = 0x0800;
pub(crate) const ETHERTYPE_ARP: u16 = 0x0806;
pub(crate) const ETHERTYPE_IPV6: u16 = 0x86dd;
const IPV4_HEADER: usize = 20;
/// What we send with, where nothing says otherwise.
pub(crate) const REPLY_TTL: u8 = 64;

/// Writes an Ethernet header into the front of `bytes`.
fn put_ethernet(bytes: &mut [u8], dst: MacAddr, src: MacAddr, ethertype: u16) {
    if let Some(header) = bytes.first_chunk_mut::<ETHERNET_HEADER>() {
        header[..6].copy_from_slice(&dst.0);
        header[6..12].copy_from_slice(&src.0);
        header[12..].copy_from_slice(&ethertype.to_be_bytes());
    }
}

/// The addresses of a reply, of one family.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Ends {
    V4 { src: Ipv4Addr, dst: Ipv4Addr },
    V6 { src: Ipv6Addr, dst: Ipv6Addr },
}

impl Ends {
    /// `None` where the families differ.
    pub(crate) fn new(src: IpAddr, dst: IpAddr) -> Option<Ends> {
        match (src, dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => Some(Ends::V4 { src, dst }),
            (IpAddr::V6(src), IpAddr::V6(dst)) => Some(Ends::V6 { src, dst }),
            _ => None,
        }
    }

    fn header_len(self) -> usize {
        match self {
            Ends::V4 { .. } => IPV4_HEADER,
            Ends::V6 { .. } => IPV6_HEADER,
        }
    }

    fn ethertype(self) -> u16 {
        match self {
            Ends::V4 { .. } => ETHERTYPE_IPV4,
            Ends::V6 { .. } => ETHERTYPE_IPV6,
        }
    }
}

/// Completes an ICMP or ICMPv6 packet whose message is written behind room for the IP header: writes that header,
/// and the message's checksum.
fn put_ip_around_icmp(bytes: &mut [u8], ends: Ends, tos: u8, ttl: u8) {
    let Some((header, message)) = bytes.split_at_mut_checked(ends.header_len()) else { return };
    let pseudo = match ends {
        Ends::V4 { src, dst } => {
            header[0] = 0x45;
            header[1] = tos;
            header[2..4].copy_from_slice(&length(IPV4_HEADER + message.len()));
            // Not to be fragmented, so the identification may stay zero (RFC 6864 §4.1).
            header[6] = 0x40;
            header[8] = ttl;
            header[9] = ICMP;
            header[12..16].copy_from_slice(&src.octets());
            header[16..20].copy_from_slice(&dst.octets());
            let sum = checksum::checksum(header);
            header[10..12].copy_from_slice(&sum.to_be_bytes());
            0
        }
        Ends::V6 { src, dst } => {
            header[0] = 0x60 | tos >> 4;
            header[1] = tos << 4;
            header[4..6].copy_from_slice(&length(message.len()));
            header[6] = ICMPV6;
            header[7] = ttl;
            header[8..24].copy_from_slice(&src.octets());
            header[24..40].copy_from_slice(&dst.octets());
            checksum::pseudo_header(src.into(), dst.into(), ICMPV6, message.len())
        }
    };
    if message.len() >= 4 {
        message[2..4].fill(0);
        let sum = !checksum::fold(checksum::sum(message) + pseudo);
        message[2..4].copy_from_slice(&sum.to_be_bytes());
    }
}

/// A length field. Replies answer packets that fitted sixteen bits, with headers no longer than theirs.
fn length(octets: usize) -> [u8; 2] {
    u16::try_from(octets).unwrap_or(u16::MAX).to_be_bytes()
}

/// Whether the checksum of a received ICMPv6 or ICMP message is right.
pub(crate) fn icmp_checksum_is_right(ends: Ends, message: &[u8]) -> bool {
    let pseudo = match ends {
        Ends::V4 { .. } => 0,
        Ends::V6 { src, dst } => checksum::pseudo_header(src.into(), dst.into(), ICMPV6, message.len()),
    };
    checksum::fold(checksum::sum(message) + pseudo) == 0xffff
}
