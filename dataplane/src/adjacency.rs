//! The next hop of a GRE tunnel on Ethernet: everything in front of the label, ready to be sent past the kernel's IP
//! stack, which takes half as long as through a raw socket.
//!
//! ```text
//!  0            10               24                    44 (64)   48      52 (72)
//!  | virtio-net | to, from, type | IPv4 or IPv6 header | GRE    | label | inner packet …
//! ```
//! The virtio-net header says that all of the packet is header: so the kernel puts it in one piece of memory, which is
//! half the cost, and half the room in the queues that it passes.
//!
//! Who knows the way is the kernel: routes, neighbours and links are its own, and are [followed](follow). Only where the
//! way out is plain Ethernet and the neighbour is known does a tunnel have an adjacency. Otherwise, and whenever in
//! doubt, the raw socket sends, and the kernel resolves as ever.

use std::net::IpAddr;

use dataplane_core::checksum;
use dataplane_core::vnet::VNET_HEADER_LEN;

use crate::gre;
use crate::sys::IfIndex;

pub(crate) mod follow;
mod wire;

const ETHERNET: usize = 14;
/// Where the IP header begins.
const IP: usize = VNET_HEADER_LEN + ETHERNET;
/// Where in a virtio-net header the length of headers stands.
const HEADERS: std::ops::Range<usize> = 2..4;
const IPV4: usize = 20;
const IPV6: usize = 40;
const DONT_FRAGMENT: u8 = 0x40;
const TTL: u8 = 64;
const GRE_PROTOCOL: u8 = 47;
/// The longest of all headers, GRE included.
pub(crate) const MAX_HEADER: usize = IP + IPV6 + gre::HEADER.len();

/// A way to a far end by its link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Adjacency {
    /// The interface to send by.
    pub(crate) link: IfIndex,
    /// The longest outer packet that the route takes.
    pub(crate) mtu: u16,
    header: [u8; MAX_HEADER],
    len: usize,
    v6: bool,
    /// The sum of the IPv4 header without length and TOS.
    sum: u32,
}

impl Adjacency {
    /// From `source` to `remote`, both of one family, by the neighbour of this address on the link.
    pub(crate) fn new(
        link: IfIndex,
        mtu: u16,
        [to, from]: [[u8; 6]; 2],
        source: IpAddr,
        remote: IpAddr,
    ) -> Option<Adjacency> {
        let mut header = [0; MAX_HEADER];
        let (ethernet, ip) = header[VNET_HEADER_LEN..].split_at_mut(ETHERNET);
        ethernet[..6].copy_from_slice(&to);
        ethernet[6..12].copy_from_slice(&from);
        let mut sum = 0;
        let (v6, len) = match (source, remote) {
            (IpAddr::V4(source), IpAddr::V4(remote)) => {
                // What cannot be fragmented needs no identification (RFC 6864 §4.1).
                ip[..10].copy_from_slice(&[0x45, 0, 0, 0, 0, 0, DONT_FRAGMENT, 0, TTL, GRE_PROTOCOL]);
                ip[12..16].copy_from_slice(&source.octets());
                ip[16..20].copy_from_slice(&remote.octets());
                sum = checksum::sum(&ip[..IPV4]);
                (false, IPV4)
            }
            (IpAddr::V6(source), IpAddr::V6(remote)) => {
                ip[..8].copy_from_slice(&[0x60, 0, 0, 0, 0, 0, GRE_PROTOCOL, TTL]);
                ip[8..24].copy_from_slice(&source.octets());
                ip[24..40].copy_from_slice(&remote.octets());
                (true, IPV6)
            }
            _ => return None,
        };
        ip[len..len + gre::HEADER.len()].copy_from_slice(&gre::HEADER);
        ethernet[12..].copy_from_slice(if v6 { &[0x86, 0xdd] } else { &[8, 0] });
        Some(Adjacency { link, mtu, header, len: IP + len + gre::HEADER.len(), v6, sum })
    }

    /// What stands in front of the label, but for what [`Adjacency::finish`] writes.
    pub(crate) fn header(&self) -> &[u8] {
        self.header.get(..self.len).unwrap_or_default()
    }

    /// Writes what differs from packet to packet into a header that begins with [`Adjacency::header`]: `len` octets
    /// from the virtio-net header to the packet's end.
    pub(crate) fn finish(&self, header: &mut [u8], len: usize, tos: u8) {
        let Some((vnet, ip)) = header.get_mut(..self.len).and_then(|all| all.split_at_mut_checked(IP)) else {
            return;
        };
        let frame = u16::try_from(len.saturating_sub(VNET_HEADER_LEN)).unwrap_or(u16::MAX);
        vnet[HEADERS].copy_from_slice(&frame.to_ne_bytes());
        let len = len.saturating_sub(IP);
        if self.v6 {
            let payload = u16::try_from(len.saturating_sub(IPV6)).unwrap_or(u16::MAX);
            ip[0] = 0x60 | tos >> 4;
            ip[1] = tos << 4;
            ip[4..6].copy_from_slice(&payload.to_be_bytes());
        } else {
            let len = u16::try_from(len).unwrap_or(u16::MAX);
            let sum = checksum::fold(self.sum + u32::from(len) + u32::from(tos));
            ip[1] = tos;
            ip[2..4].copy_from_slice(&len.to_be_bytes());
            ip[10..12].copy_from_slice(&(!sum).to_be_bytes());
        }
    }
}

/// Octets in front of the label on the way to this address.
pub(crate) fn header_len(remote: IpAddr) -> usize {
    IP + if remote.is_ipv6() { IPV6 } else { IPV4 } + gre::HEADER.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MACS: [[u8; 6]; 2] = [[1; 6], [2; 6]];

    fn adjacency(source: &str, remote: &str) -> Option<Adjacency> {
        Adjacency::new(7, 1500, MACS, source.parse().unwrap(), remote.parse().unwrap())
    }

    #[test]
    fn an_ipv4_header_verifies_whatever_its_length_and_traffic_class() {
        let adjacency = adjacency("192.0.2.1", "198.51.100.9").unwrap();
        for (len, tos) in [(52, 0), (1524, 3), (1524, 0xb8), (710, 0xff)] {
            let mut header = adjacency.header().to_vec();
            adjacency.finish(&mut header, len, tos);
            let ip = &header[IP..IP + IPV4];
            assert_eq!(checksum::checksum(ip), 0, "{len} {tos}");
            assert_eq!((usize::from(ip[2]) << 8 | usize::from(ip[3]), ip[1]), (len - IP, tos));
            assert_eq!(usize::from(u16::from_ne_bytes([header[2], header[3]])), len - VNET_HEADER_LEN);
            assert_eq!(header[10..24], [1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 8, 0]);
            assert_eq!(header[44..], gre::HEADER);
        }
    }

    #[test]
    fn an_ipv6_header_has_length_and_traffic_class() {
        let adjacency = adjacency("2001:db8::1", "2001:db8::2").unwrap();
        let mut header = adjacency.header().to_vec();
        adjacency.finish(&mut header, IP + IPV6 + 8, 0xb9);
        assert_eq!(header[22..32], [0x86, 0xdd, 0x6b, 0x90, 0, 0, 0, 8, GRE_PROTOCOL, TTL]);
        assert_eq!(header.len(), MAX_HEADER);
    }

    #[test]
    fn families_do_not_mix_and_a_short_header_is_left_alone() {
        assert_eq!(adjacency("192.0.2.1", "2001:db8::2"), None);
        let adjacency = adjacency("192.0.2.1", "198.51.100.9").unwrap();
        for len in 0..adjacency.header().len() {
            let mut header = vec![0; len];
            adjacency.finish(&mut header, 1514, 1);
            assert!(header.iter().all(|octet| *octet == 0));
        }
    }
}
