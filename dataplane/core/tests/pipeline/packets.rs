//! Packets for tests, written field by field, with a checksum of their own: nothing here is the crate's.
#![allow(dead_code, reason = "each of the two users takes what it needs")]

use std::net::IpAddr;

pub(crate) const ICMP: u8 = 1;
pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;
pub(crate) const ICMPV6: u8 = 58;
pub(crate) const SYN: u8 = 0x02;
pub(crate) const ACK: u8 = 0x10;

/// RFC 1071, word by word.
pub(crate) fn checksum(chunks: &[&[u8]]) -> u16 {
    let mut sum = 0u32;
    for chunk in chunks {
        for pair in chunk.chunks(2) {
            sum += u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]));
            sum = (sum & 0xffff) + (sum >> 16);
        }
    }
    !u16::try_from(sum).unwrap()
}

fn octets(addr: IpAddr) -> Vec<u8> {
    match addr {
        IpAddr::V4(addr) => addr.octets().to_vec(),
        IpAddr::V6(addr) => addr.octets().to_vec(),
    }
}

/// A transport segment inside an IP header of the addresses' family, TTL 64, no DF. `sum_at` is where the transport
/// has its checksum.
pub(crate) fn ip(src: &str, dst: &str, protocol: u8, mut segment: Vec<u8>, sum_at: usize) -> Vec<u8> {
    let (src, dst): (IpAddr, IpAddr) = (src.parse().unwrap(), dst.parse().unwrap());
    assert_eq!(src.is_ipv4(), dst.is_ipv4(), "two families");
    let len = u16::try_from(segment.len()).unwrap();
    segment[sum_at..sum_at + 2].fill(0);
    let [hi, lo] = len.to_be_bytes();
    let pseudo = [octets(src), octets(dst), vec![0, protocol, hi, lo]].concat();
    let sum = checksum(&[if protocol == ICMP { &[] } else { &pseudo }, &segment]);
    segment[sum_at..sum_at + 2].copy_from_slice(&sum.to_be_bytes());
    let mut packet = if src.is_ipv4() {
        let [hi, lo] = (len + 20).to_be_bytes();
        vec![0x45, 0, hi, lo, 0x12, 0x34, 0, 0, 64, protocol, 0, 0]
    } else {
        vec![0x60, 0, 0, 0, hi, lo, protocol, 64]
    };
    packet.extend(octets(src));
    packet.extend(octets(dst));
    packet.extend(segment);
    fix_v4(&mut packet);
    packet
}

/// Corrects the IPv4 header checksum after a field was changed.
pub(crate) fn fix_v4(packet: &mut [u8]) {
    if packet[0] >> 4 == 4 {
        packet[10..12].fill(0);
        let sum = checksum(&[&packet[..usize::from(packet[0] & 15) * 4]]);
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
    }
}

/// The same packet with its TTL or hop limit set.
pub(crate) fn ttl(mut packet: Vec<u8>, ttl: u8) -> Vec<u8> {
    let at = if packet[0] >> 4 == 4 { 8 } else { 7 };
    packet[at] = ttl;
    fix_v4(&mut packet);
    packet
}

/// The same packet with its TOS or traffic class set.
pub(crate) fn tos(mut packet: Vec<u8>, tos: u8) -> Vec<u8> {
    if packet[0] >> 4 == 4 {
        packet[1] = tos;
    } else {
        packet[0] = 0x60 | tos >> 4;
        packet[1] = packet[1] & 0x0f | tos << 4;
    }
    fix_v4(&mut packet);
    packet
}

/// The same IPv4 packet with its flags and fragment offset set.
pub(crate) fn flags(mut packet: Vec<u8>, field: u16) -> Vec<u8> {
    packet[6..8].copy_from_slice(&field.to_be_bytes());
    fix_v4(&mut packet);
    packet
}

/// The same IPv4 packet, not to be fragmented.
pub(crate) fn df(packet: Vec<u8>) -> Vec<u8> {
    flags(packet, 0x4000)
}

/// Port 40000 to port 9, with this much payload.
pub(crate) fn udp(src: &str, dst: &str, payload: usize) -> Vec<u8> {
    udp_ports(src, dst, (40000, 9), payload)
}

/// The same with ports.
pub(crate) fn udp_ports(src: &str, dst: &str, (from, to): (u16, u16), payload: usize) -> Vec<u8> {
    let len = u16::try_from(8 + payload).unwrap();
    let mut segment = [from, to, len, 0].map(u16::to_be_bytes).concat();
    segment.extend((0..payload).map(|n| u8::try_from(n % 251).unwrap()));
    ip(src, dst, UDP, segment, 6)
}

/// Port 40000 to port 80, with these flags and options (whole words), and payload.
pub(crate) fn tcp(src: &str, dst: &str, flags: u8, options: &[u8], payload: usize) -> Vec<u8> {
    assert_eq!(options.len() % 4, 0);
    let offset = u8::try_from((20 + options.len()) / 4).unwrap() << 4;
    let mut segment = vec![0x9c, 0x40, 0, 80, 0, 0, 0, 1, 0, 0, 0, 2, offset, flags, 0xff, 0xff, 0, 0, 0, 0];
    segment.extend(options);
    segment.extend(vec![0x61; payload]);
    ip(src, dst, TCP, segment, 16)
}

/// An ICMP or ICMPv6 message of this type, code 0, with an identifier.
pub(crate) fn echo(src: &str, dst: &str, kind: u8, id: u16) -> Vec<u8> {
    let id = id.to_be_bytes();
    let protocol = if src.contains(':') { ICMPV6 } else { ICMP };
    ip(src, dst, protocol, vec![kind, 0, 0, 0, id[0], id[1], 0, 1], 2)
}

/// A neighbour solicitation for `target`, with its link-layer address option, hop limit 255.
pub(crate) fn solicitation(src: &str, dst: &str, target: &str, mac: [u8; 6]) -> Vec<u8> {
    let mut message = vec![135, 0, 0, 0, 0, 0, 0, 0];
    message.extend(octets(target.parse().unwrap()));
    message.extend([1, 1]);
    message.extend(mac);
    ttl(ip(src, dst, ICMPV6, message, 2), 255)
}

/// An ARP packet behind its Ethernet header, to everybody.
pub(crate) fn arp(operation: u8, mac: [u8; 6], sender: &str, target: &str) -> Vec<u8> {
    let mut frame = [&[0xff; 6][..], &mac, &[0x08, 0x06]].concat();
    frame.extend([0, 1, 8, 0, 6, 4, 0, operation]);
    frame.extend(mac);
    frame.extend(octets(sender.parse().unwrap()));
    frame.extend([0; 6]);
    frame.extend(octets(target.parse().unwrap()));
    frame
}

/// An Ethernet header in front of an IP packet.
pub(crate) fn ethernet(dst: [u8; 6], src: [u8; 6], packet: &[u8]) -> Vec<u8> {
    let ethertype: [u8; 2] = if packet[0] >> 4 == 4 { [0x08, 0x00] } else { [0x86, 0xdd] };
    [&dst[..], &src, &ethertype, packet].concat()
}

/// A label stack entry in front of an inner packet.
pub(crate) fn labelled(label: u32, bottom: bool, ttl: u8, packet: &[u8]) -> Vec<u8> {
    let entry = label << 12 | u32::from(bottom) << 8 | u32::from(ttl);
    [&entry.to_be_bytes()[..], packet].concat()
}
