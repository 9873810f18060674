//! Packets made by hand, octet by octet: what no sane peer sends, and what a peer that we script answers with.
//!
//! ```text
//!  inner:  IPv4 or IPv6 + UDP + payload
//!  label:  label(20) TC(3) S(1) TTL(8)                 RFC 3032 §2.1
//!  outer:  UDP to port 6635, or GRE 0x0000 0x8847      RFC 7510, RFC 4023
//! ```

use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use vrouter_types::MacAddr;

use crate::netns::Namespace;
use crate::sys;

/// The UDP port of MPLS (RFC 7510 §3).
pub const MPLS_PORT: u16 = 6635;

/// The internet checksum of some octets, on top of a partial sum.
pub fn checksum(octets: &[u8], partial: u32) -> u16 {
    let mut sum = partial;
    for pair in octets.chunks(2) {
        let low = pair.get(1).copied().unwrap_or(0);
        sum += u32::from(u16::from_be_bytes([pair[0], low]));
    }
    while sum >> 16 != 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or(0)
}

/// An IP packet with a UDP datagram, both families, checksums right.
///
/// # Panics
/// When the addresses are of different families or the payload does not fit.
pub fn udp_packet(from: SocketAddr, to: SocketAddr, ttl: u8, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(8 + payload.len()).expect("a payload that fits a datagram");
    let mut udp = Vec::new();
    udp.extend(from.port().to_be_bytes());
    udp.extend(to.port().to_be_bytes());
    udp.extend(length.to_be_bytes());
    udp.extend([0, 0]);
    udp.extend(payload);
    let mut pseudo = octets(from.ip());
    pseudo.extend(octets(to.ip()));
    pseudo.extend([0, 17]);
    pseudo.extend(length.to_be_bytes());
    let partial = u32::from(!checksum(&pseudo, 0));
    let sum = checksum(&udp, partial).to_be_bytes();
    udp[6..8].copy_from_slice(&sum);
    ip_packet(from.ip(), to.ip(), 17, ttl, &udp)
}

/// An IP packet with any payload.
///
/// # Panics
/// When the addresses are of different families or the payload does not fit.
pub fn ip_packet(from: IpAddr, to: IpAddr, protocol: u8, ttl: u8, payload: &[u8]) -> Vec<u8> {
    assert_eq!(from.is_ipv4(), to.is_ipv4(), "one family");
    let mut packet = if from.is_ipv4() {
        let total = u16::try_from(20 + payload.len()).expect("a payload that fits a packet").to_be_bytes();
        let mut header = vec![0x45, 0, total[0], total[1], 0, 1, 0x40, 0, ttl, protocol, 0, 0];
        header.extend(octets(from));
        header.extend(octets(to));
        let sum = checksum(&header, 0).to_be_bytes();
        header[10..12].copy_from_slice(&sum);
        header
    } else {
        let length = u16::try_from(payload.len()).expect("a payload that fits a packet").to_be_bytes();
        let mut header = vec![0x60, 0, 0, 0, length[0], length[1], protocol, ttl];
        header.extend(octets(from));
        header.extend(octets(to));
        header
    };
    packet.extend(payload);
    packet
}

/// A packet behind one label, bottom of stack.
pub fn labelled(label: u32, ttl: u8, packet: &[u8]) -> Vec<u8> {
    let mut out = stack_entry(label, true, ttl).to_vec();
    out.extend(packet);
    out
}

/// One label stack entry (RFC 3032 §2.1).
pub fn stack_entry(label: u32, bottom: bool, ttl: u8) -> [u8; 4] {
    (label << 12 | u32::from(bottom) << 8 | u32::from(ttl)).to_be_bytes()
}

/// The four-octet GRE header for MPLS (RFC 4023 §3), in front of a labelled packet.
pub fn gre(labelled: &[u8]) -> Vec<u8> {
    [&[0, 0, 0x88, 0x47], labelled].concat()
}

/// An Ethernet frame.
pub fn ethernet(to: MacAddr, from: MacAddr, kind: u16, payload: &[u8]) -> Vec<u8> {
    [&to.0[..], &from.0, &kind.to_be_bytes(), payload].concat()
}

/// An ARP request of a host for an IPv4 address (RFC 826).
pub fn arp_request(mac: MacAddr, from: Ipv4Addr, target: Ipv4Addr) -> Vec<u8> {
    let mut packet = vec![0, 1, 8, 0, 6, 4, 0, 1];
    packet.extend(mac.0);
    packet.extend(from.octets());
    packet.extend([0; 6]);
    packet.extend(target.octets());
    packet
}

/// A neighbour solicitation of a host for an IPv6 address, as an IPv6 packet to the target's solicited-node group
/// (RFC 4861 §4.3).
///
/// # Panics
/// Never: the message has a fixed length.
pub fn neighbour_solicitation(mac: MacAddr, from: Ipv6Addr, target: Ipv6Addr) -> Vec<u8> {
    let octets = target.octets();
    let group =
        Ipv6Addr::from([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, octets[13], octets[14], octets[15]]);
    let mut message = vec![135, 0, 0, 0, 0, 0, 0, 0];
    message.extend(octets);
    message.extend([1, 1]);
    message.extend(mac.0);
    let mut pseudo = [from.octets(), group.octets()].concat();
    pseudo.extend([0, 0, 0, 32, 0, 0, 0, 58]);
    let sum = checksum(&message, u32::from(!checksum(&pseudo, 0))).to_be_bytes();
    message[2..4].copy_from_slice(&sum);
    ip_packet(from.into(), group.into(), 58, 255, &message)
}

/// Sends a frame from an interface of a namespace, as it is.
///
/// # Errors
/// When the kernel refuses.
pub fn send_frame(from: &Namespace, interface: &str, frame: &[u8]) -> io::Result<()> {
    let index = from.netlink(|netlink| netlink.link(interface)).index;
    let mut socket = from.run(|| sys::packet_socket(index, Duration::from_secs(1)))?;
    socket.write_all(frame)
}

/// Sends octets as a UDP datagram to the MPLS port of another provider edge.
///
/// # Errors
/// When the kernel refuses.
pub fn send_mpls_over_udp(from: &Namespace, to: IpAddr, octets: &[u8]) -> io::Result<()> {
    let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = from.run(|| UdpSocket::bind(any))?;
    socket.send_to(octets, (to, MPLS_PORT)).map(drop)
}

/// Sends octets as the payload of an IP packet of protocol 47 (GRE) to another provider edge.
///
/// # Errors
/// When the kernel refuses.
pub fn send_gre(from: &Namespace, to: IpAddr, octets: &[u8]) -> io::Result<()> {
    let domain = if to.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 };
    let socket = from.run(|| Socket::new(domain, Type::RAW, Some(Protocol::from(47))))?;
    socket.send_to(octets, &SocketAddr::new(to, 0).into()).map(drop)
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_as_the_rfcs_draw_them() {
        let packet = udp_packet("10.0.0.1:1".parse().unwrap(), "10.0.0.2:2".parse().unwrap(), 9, b"hi!");
        let want = [
            0x45, 0x00, 0x00, 0x1f, // version, header length, total length 31
            0x00, 0x01, 0x40, 0x00, // identification, don't fragment
            0x09, 0x11, 0x1d, 0xcd, // TTL 9, UDP, checksum
            0x0a, 0x00, 0x00, 0x01, 0x0a, 0x00, 0x00, 0x02, // addresses
            0x00, 0x01, 0x00, 0x02, 0x00, 0x0b, 0x61, 0x58, // ports, length 11, checksum
            b'h', b'i', b'!',
        ];
        assert_eq!(checksum(&packet[..20], 0), 0, "the header's own checksum verifies");
        assert_eq!(packet[..10], want[..10]);
        assert_eq!(packet[12..26], want[12..26]);
        assert_eq!(labelled(16, 64, &[0x45]), [0x00, 0x01, 0x01, 0x40, 0x45]);
        assert_eq!(gre(&[1]), [0x00, 0x00, 0x88, 0x47, 1]);
    }
}
