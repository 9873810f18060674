//! Packets for the tests of this crate, written field by field.

use std::net::IpAddr;

use crate::checksum;
use crate::packet::{ICMP, ICMPV6, TCP, UDP};

/// A transport segment inside an IP header of the addresses' family, TTL 64, no DF. `sum_at` is where the transport
/// has its checksum.
pub(crate) fn ip(src: &str, dst: &str, protocol: u8, mut segment: Vec<u8>, sum_at: usize) -> Vec<u8> {
    let (src, dst): (IpAddr, IpAddr) = (src.parse().unwrap(), dst.parse().unwrap());
    let pseudo = match protocol {
        ICMP => 0,
        _ => checksum::pseudo_header(src, dst, protocol, segment.len()),
    };
    segment[sum_at..sum_at + 2].fill(0);
    let sum = !checksum::fold(checksum::sum(&segment) + pseudo);
    segment[sum_at..sum_at + 2].copy_from_slice(&sum.to_be_bytes());
    let mut packet = match (src, dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            let len = u16::try_from(20 + segment.len()).unwrap().to_be_bytes();
            let mut header = vec![0x45, 0, len[0], len[1], 0x12, 0x34, 0, 0, 64, protocol, 0, 0];
            header.extend(src.octets().into_iter().chain(dst.octets()));
            let sum = checksum::checksum(&header);
            header[10..12].copy_from_slice(&sum.to_be_bytes());
            header
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            let len = u16::try_from(segment.len()).unwrap().to_be_bytes();
            let mut header = vec![0x60, 0, 0, 0, len[0], len[1], protocol, 64];
            header.extend(src.octets().into_iter().chain(dst.octets()));
            header
        }
        _ => panic!("two families"),
    };
    packet.extend(segment);
    packet
}

/// Port 40000 to port 9, with this much payload.
pub(crate) fn udp(src: &str, dst: &str, payload: usize) -> Vec<u8> {
    let len = u16::try_from(8 + payload).unwrap().to_be_bytes();
    let mut segment = vec![0x9c, 0x40, 0, 9, len[0], len[1], 0, 0];
    segment.extend((0..payload).map(|n| u8::try_from(n % 251).unwrap()));
    ip(src, dst, UDP, segment, 6)
}

pub(crate) fn udp4(src: &str, dst: &str, payload: usize) -> Vec<u8> {
    udp(src, dst, payload)
}

pub(crate) fn udp6(src: &str, dst: &str, payload: usize) -> Vec<u8> {
    udp(src, dst, payload)
}

/// Port 40000 to port 80, with these flags and options (whole words) and no payload.
pub(crate) fn tcp4(src: &str, dst: &str, flags: u8, options: &[u8]) -> Vec<u8> {
    tcp(src, dst, flags, options, 0)
}

/// The same with payload.
pub(crate) fn tcp(src: &str, dst: &str, flags: u8, options: &[u8], payload: usize) -> Vec<u8> {
    assert_eq!(options.len() % 4, 0);
    let offset = u8::try_from((20 + options.len()) / 4).unwrap() << 4;
    let mut segment = vec![0x9c, 0x40, 0, 80, 0, 0, 0, 1, 0, 0, 0, 2, offset, flags, 0xff, 0xff, 0, 0, 0, 0];
    segment.extend(options);
    segment.extend(vec![0x61; payload]);
    ip(src, dst, TCP, segment, 16)
}

/// An ICMP message of this type and code 0 with an identifier.
pub(crate) fn echo4(src: &str, dst: &str, kind: u8, id: u16) -> Vec<u8> {
    let id = id.to_be_bytes();
    ip(src, dst, ICMP, vec![kind, 0, 0, 0, id[0], id[1], 0, 1], 2)
}

/// The same of ICMPv6.
pub(crate) fn echo6(src: &str, dst: &str, kind: u8, id: u16) -> Vec<u8> {
    let id = id.to_be_bytes();
    ip(src, dst, ICMPV6, vec![kind, 0, 0, 0, id[0], id[1], 0, 1], 2)
}
