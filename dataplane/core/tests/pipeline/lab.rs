//! A small node: two tenants with the same addresses, tunnels of both kinds, and pnet as second opinion.
//!
//! ```text
//!  VRF 0 city  (host closed): port 1 = 10.20.11.2, port 2 = 10.20.11.3 (MTU 1400)      label 16, 17
//!  VRF 1 power (host open):   port 3 = 10.20.11.2 and 10.20.21.4 (MTU 9000)            label 18
//!  the host knows 10.20.11.2 as port 1, and port 3 by its other address
//!  remote: 10.20.12.0/24 by tunnel 0 (UDP), 10.20.13.0/24 by tunnel 1 (GRE), 10.20.14.0/24 by both
//! ```
//! Each address has an IPv6 twin: fd00:20:11::2 and so on.

use std::net::IpAddr;
use std::sync::Arc;

use dataplane_core::{
    DropReason, Fib, Frame, Hop, HostFlows, Outer, Port, Route, State, Tunnel, TunnelId, Verdict, VnetHeader,
    Vrf, from_host, from_port, from_underlay,
};
use pnet::packet::icmp::IcmpPacket;
use pnet::packet::icmpv6::Icmpv6Packet;
use pnet::packet::ipv4::Ipv4Packet;
use pnet::packet::ipv6::Ipv6Packet;
use pnet::packet::tcp::TcpPacket;
use pnet::packet::udp::UdpPacket;
use pnet::packet::{Packet, icmp, icmpv6, ipv4, tcp, udp};
use vrouter_types::{Encap, Label, MacAddr, PortId, VrfId};

use crate::packets::{self, ethernet};

pub(crate) const GATEWAY: [u8; 6] = [0x00, 0x00, 0x5e, 0x00, 0x01, 0x00];
pub(crate) const CITY: PortId = PortId(1);
pub(crate) const CITY_2: PortId = PortId(2);
pub(crate) const POWER: PortId = PortId(3);
pub(crate) const PE: &str = "192.0.2.1";

pub(crate) fn mac(port: PortId) -> [u8; 6] {
    [2, 0, 0, 0, 0, u8::try_from(port.0).unwrap()]
}

pub(crate) fn hop(tunnel: u32, label: u32) -> Hop {
    Hop { tunnel: TunnelId(tunnel), label: Label::new(label).unwrap() }
}

pub(crate) fn fib() -> Fib {
    let mut fib = Fib::new();
    port(&mut fib, CITY, 0, &["10.20.11.2", "fd00:20:11::2"], 1468);
    port(&mut fib, CITY_2, 0, &["10.20.11.3", "fd00:20:11::3"], 1400);
    port(&mut fib, POWER, 1, &["10.20.11.2", "fd00:20:11::2", "10.20.21.4", "fd00:20:21::4"], 9000);
    for (index, (remote, encap, mtu)) in
        [(PE, Encap::MplsOverUdp, 1468), ("192.0.2.9", Encap::MplsOverGre, 1300)].into_iter().enumerate()
    {
        let tunnel = Tunnel { remote: remote.parse().unwrap(), encap, mtu };
        fib.insert_tunnel(TunnelId(u32::try_from(index).unwrap()), tunnel);
        fib.sources.insert(tunnel.remote);
    }
    fib.sources.insert_prefix("198.51.100.0/24".parse().unwrap());
    for (label, port) in [(16, CITY), (17, CITY_2), (18, POWER), (19, PortId(77))] {
        assert!(fib.ilm.insert(Label::new(label).unwrap(), port));
    }
    vrf(&mut fib, 0, "city", false, &city_routes());
    vrf(&mut fib, 1, "power", true, &power_routes());
    for (addr, port) in [
        ("10.20.11.2", CITY),
        ("10.20.11.3", CITY_2),
        ("10.20.21.4", POWER),
        ("fd00:20:11::2", CITY),
        ("fd00:20:11::3", CITY_2),
        ("fd00:20:21::4", POWER),
    ] {
        fib.host.insert(addr.parse().unwrap(), port);
    }
    fib
}

fn city_routes() -> Vec<(&'static str, Route)> {
    let tunnel = |hops: &[Hop]| Route::Tunnel(hops.into());
    vec![
        ("10.20.11.2/32", Route::Port(CITY)),
        ("10.20.11.3/32", Route::Port(CITY_2)),
        ("10.20.12.0/24", tunnel(&[hop(0, 100)])),
        ("10.20.13.0/24", tunnel(&[hop(1, 101)])),
        ("10.20.14.0/24", tunnel(&[hop(0, 102), hop(1, 103)])),
        ("10.20.15.0/24", tunnel(&[hop(9, 104)])),
        ("10.20.98.0/24", Route::Port(PortId(77))),
        ("10.20.99.0/24", Route::Discard),
        ("192.0.2.11/32", Route::Host),
        ("fd00:20:11::2/128", Route::Port(CITY)),
        ("fd00:20:11::3/128", Route::Port(CITY_2)),
        ("fd00:20:12::/64", tunnel(&[hop(0, 100)])),
        ("fd00:20:13::/64", tunnel(&[hop(1, 101)])),
        ("fd00:20:99::/64", Route::Discard),
    ]
}

fn power_routes() -> Vec<(&'static str, Route)> {
    vec![
        ("10.20.11.2/32", Route::Port(POWER)),
        ("0.0.0.0/0", Route::Tunnel([hop(0, 200)].into())),
        ("192.0.2.11/32", Route::Host),
    ]
}

fn port(fib: &mut Fib, id: PortId, vrf: u32, addresses: &[&str], mtu: u16) {
    let addresses = addresses.iter().map(|addr| addr.parse().unwrap()).collect();
    let mac = MacAddr(mac(id));
    fib.insert_port(Arc::new(Port { addresses, mtu, ..Port::new(id, VrfId(vrf), mac) }));
}

fn vrf(fib: &mut Fib, id: u32, name: &str, host_open: bool, routes: &[(&str, Route)]) {
    let mut vrf = Vrf { host_open, ..Vrf::new(VrfId(id), name) };
    for (prefix, route) in routes {
        vrf.routes.insert(prefix.parse().unwrap(), route.clone());
    }
    fib.insert_vrf(Arc::new(vrf));
}

/// The node, and a worker's state.
pub(crate) struct Lab {
    pub(crate) fib: Fib,
    pub(crate) state: State,
}

/// What came out: the verdict, the frame as it is then, its virtio-net header.
#[derive(Debug)]
pub(crate) struct Out {
    pub(crate) verdict: Verdict,
    pub(crate) bytes: Vec<u8>,
    pub(crate) vnet: VnetHeader,
}

impl Lab {
    pub(crate) fn new() -> Lab {
        let flows = HostFlows::new(1024, [0x5eed_5eed_5eed_5eed, 0xf00d_f00d_f00d_f00d]);
        Lab { fib: fib(), state: State::new(Arc::new(flows)) }
    }

    /// An Ethernet frame from a port.
    pub(crate) fn frame(&mut self, port: PortId, bytes: &[u8], vnet: VnetHeader) -> Out {
        let mut bytes = bytes.to_vec();
        let mut frame = Frame::new(&mut bytes, vnet);
        let verdict = from_port(&self.fib, &mut self.state, port, &mut frame);
        Out { verdict, vnet: *frame.vnet(), bytes: frame.bytes().to_vec() }
    }

    /// An IP packet from a port to the gateway's MAC.
    pub(crate) fn port(&mut self, port: PortId, packet: &[u8]) -> Out {
        self.frame(port, &ethernet(GATEWAY, mac(port), packet), VnetHeader::NONE)
    }

    /// A tunnel packet from the first provider edge, Not-ECT.
    pub(crate) fn underlay(&mut self, bytes: &[u8]) -> Out {
        self.underlay_from(outer(PE, 0), bytes)
    }

    pub(crate) fn underlay_from(&mut self, outer: Outer, bytes: &[u8]) -> Out {
        let mut bytes = bytes.to_vec();
        let mut frame = Frame::new(&mut bytes, VnetHeader::NONE);
        let verdict = from_underlay(&self.fib, &mut self.state, outer, &mut frame);
        Out { verdict, vnet: *frame.vnet(), bytes: frame.bytes().to_vec() }
    }

    /// An IP packet from the host.
    pub(crate) fn host(&mut self, packet: &[u8]) -> Out {
        self.host_offloaded(packet, VnetHeader::NONE)
    }

    pub(crate) fn host_offloaded(&mut self, packet: &[u8], vnet: VnetHeader) -> Out {
        let mut bytes = packet.to_vec();
        let mut frame = Frame::new(&mut bytes, vnet);
        let verdict = from_host(&self.fib, &mut self.state, &mut frame);
        Out { verdict, vnet: *frame.vnet(), bytes: frame.bytes().to_vec() }
    }

    /// The reply in hand, checked by pnet from the IP header on.
    pub(crate) fn reply(&self) -> &[u8] {
        let bytes = self.state.reply.bytes();
        assert!(!bytes.is_empty());
        bytes
    }
}

pub(crate) fn outer(src: &str, tos: u8) -> Outer {
    Outer { src: src.parse().unwrap(), encap: Encap::MplsOverUdp, tos }
}

#[track_caller]
pub(crate) fn assert_drop(out: &Out, reason: DropReason) {
    assert_eq!(out.verdict, Verdict::Drop(reason));
}

/// Every checksum and length of an IP packet, as pnet computes them.
#[track_caller]
pub(crate) fn assert_sound(bytes: &[u8]) {
    match bytes[0] >> 4 {
        4 => {
            let ip = Ipv4Packet::new(bytes).unwrap();
            assert_eq!(usize::from(ip.get_total_length()), bytes.len(), "total length");
            assert_eq!(ip.get_checksum(), ipv4::checksum(&ip), "header checksum");
            let protocol = ip.get_next_level_protocol().0;
            assert_transport(protocol, ip.payload(), ip.get_source().into(), ip.get_destination().into());
        }
        6 => {
            let ip = Ipv6Packet::new(bytes).unwrap();
            assert_eq!(usize::from(ip.get_payload_length()) + 40, bytes.len(), "payload length");
            let protocol = ip.get_next_header().0;
            assert_transport(protocol, ip.payload(), ip.get_source().into(), ip.get_destination().into());
        }
        other => panic!("version {other}"),
    }
}

#[track_caller]
fn assert_transport(protocol: u8, segment: &[u8], src: IpAddr, dst: IpAddr) {
    match (protocol, src, dst) {
        (packets::TCP, IpAddr::V4(src), IpAddr::V4(dst)) => {
            let segment = TcpPacket::new(segment).unwrap();
            assert_eq!(segment.get_checksum(), tcp::ipv4_checksum(&segment, &src, &dst));
        }
        (packets::TCP, IpAddr::V6(src), IpAddr::V6(dst)) => {
            let segment = TcpPacket::new(segment).unwrap();
            assert_eq!(segment.get_checksum(), tcp::ipv6_checksum(&segment, &src, &dst));
        }
        (packets::UDP, IpAddr::V4(src), IpAddr::V4(dst)) => {
            let segment = UdpPacket::new(segment).unwrap();
            assert_eq!(segment.get_checksum(), udp::ipv4_checksum(&segment, &src, &dst));
        }
        (packets::UDP, IpAddr::V6(src), IpAddr::V6(dst)) => {
            let segment = UdpPacket::new(segment).unwrap();
            assert_eq!(segment.get_checksum(), udp::ipv6_checksum(&segment, &src, &dst));
        }
        (packets::ICMP, ..) => {
            let message = IcmpPacket::new(segment).unwrap();
            assert_eq!(message.get_checksum(), icmp::checksum(&message));
        }
        (packets::ICMPV6, IpAddr::V6(src), IpAddr::V6(dst)) => {
            let message = Icmpv6Packet::new(segment).unwrap();
            assert_eq!(message.get_checksum(), icmpv6::checksum(&message, &src, &dst));
        }
        other => panic!("no second opinion on {other:?}"),
    }
}
