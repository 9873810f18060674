//! From a workload's port: forwarding, refusals, rewriting.

use std::collections::BTreeSet;

use dataplane_core::{DropReason, Gso, Push, TunnelId, Verdict, VnetHeader};
use vrouter_types::{Label, PortId};

use crate::lab::{CITY, CITY_2, GATEWAY, Lab, POWER, assert_drop, assert_sound, mac};
use crate::packets::{SYN, arp, checksum, df, echo, ethernet, flags, ip, tcp, tos, ttl, udp, udp_ports};

fn push(verdict: Verdict) -> Push {
    match verdict {
        Verdict::ToUnderlay(push) => push,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_packet_for_a_remote_prefix_gets_that_prefixs_label_and_tunnel() {
    let mut lab = Lab::new();
    for (src, dst) in [("10.20.11.2", "10.20.12.7"), ("fd00:20:11::2", "fd00:20:12::7")] {
        let out = lab.port(CITY, &tos(udp(src, dst, 100), 0xb9));
        let push = push(out.verdict);
        assert_eq!((push.tunnel, push.label), (TunnelId(0), Label::new(100).unwrap()));
        assert_eq!((push.ttl, push.tos, push.mtu, push.fragment), (63, 0xb9, 1468, !src.contains(':')));
        assert_sound(&out.bytes);
        // The Ethernet header is gone, one hop is counted, nothing else has changed.
        assert_eq!(out.bytes, ttl(tos(udp(src, dst, 100), 0xb9), 63));
    }
}

#[test]
fn a_vrf_may_set_the_dscp_of_its_tunnel_packets_and_never_the_inner_one() {
    let mut lab = Lab::new();
    let mut vrf = lab.fib.vrfs[0].as_deref().unwrap().clone();
    for (dscp, inner, outer) in [
        (None, 0b1011_1010, 0b1011_1010),
        (Some(0), 0b1011_1010, 0b0000_0010),
        (Some(46), 0b0000_0001, 0b1011_1001),
        (Some(63), 0b0000_0011, 0b1111_1111),
    ] {
        vrf.dscp = dscp;
        lab.fib.insert_vrf(vrf.clone().into());
        for (src, dst) in [("10.20.11.2", "10.20.12.7"), ("fd00:20:11::2", "fd00:20:12::7")] {
            let packet = tos(udp(src, dst, 9), inner);
            let out = lab.port(CITY, &packet);
            assert_eq!((push(out.verdict).tos, out.bytes), (outer, ttl(packet, 63)), "{dscp:?}");
        }
    }
}

#[test]
fn a_packet_for_a_local_port_goes_there() {
    let mut lab = Lab::new();
    for (src, dst) in [("10.20.11.2", "10.20.11.3"), ("fd00:20:11::2", "fd00:20:11::3")] {
        let out = lab.port(CITY, &udp(src, dst, 10));
        assert_eq!(out.verdict, Verdict::ToPort(CITY_2));
        assert_eq!(out.bytes, ttl(udp(src, dst, 10), 63));
        assert_sound(&out.bytes);
    }
}

#[test]
fn two_tenants_with_the_same_addresses_never_meet() {
    let mut lab = Lab::new();
    let city = push(lab.port(CITY, &udp("10.20.11.2", "10.20.12.7", 1)).verdict);
    let power = push(lab.port(POWER, &udp("10.20.11.2", "10.20.12.7", 1)).verdict);
    assert_eq!((city.label.value(), power.label.value()), (100, 200));
    // The neighbour of the one is not the neighbour of the other, and to itself each is itself.
    assert_eq!(lab.port(CITY, &udp("10.20.11.2", "10.20.11.3", 1)).verdict, Verdict::ToPort(CITY_2));
    assert_eq!(push(lab.port(POWER, &udp("10.20.11.2", "10.20.11.3", 1)).verdict).label.value(), 200);
    assert_eq!(lab.port(CITY_2, &udp("10.20.11.3", "10.20.11.2", 1)).verdict, Verdict::ToPort(CITY));
}

#[test]
fn padding_behind_a_short_packet_is_cut() {
    let mut lab = Lab::new();
    let packet = udp("10.20.11.2", "10.20.12.7", 1);
    let mut frame = ethernet(GATEWAY, mac(CITY), &packet);
    frame.resize(60, 0xee);
    let out = lab.frame(CITY, &frame, VnetHeader::NONE);
    assert_eq!(out.bytes.len(), packet.len());
    assert!(matches!(out.verdict, Verdict::ToUnderlay(_)));
}

#[test]
fn what_is_wrong_with_a_frame_is_named() {
    use DropReason::*;
    let good = udp("10.20.11.2", "10.20.12.7", 8);
    let frame = |packet: &[u8]| ethernet(GATEWAY, mac(CITY), packet);
    let with = |at: usize, value: u8| {
        let mut bytes = frame(&good);
        bytes[at] = value;
        bytes
    };
    let group = |packet: &[u8]| ethernet([0x33, 0x33, 0, 0, 0, 2], mac(CITY), packet);
    let cases = [
        ("no octets", vec![], TruncatedEthernet),
        ("thirteen octets", frame(&good)[..13].to_vec(), TruncatedEthernet),
        ("another's MAC", ethernet(GATEWAY, mac(CITY_2), &good), SpoofedMac),
        ("for somebody else", ethernet([2; 6], mac(CITY), &good), NotToGateway),
        ("broadcast MAC, unicast address", ethernet([0xff; 6], mac(CITY), &good), Broadcast),
        ("VLAN tag", with(12, 0x81), Vlan),
        ("service tag", [&with(12, 0x88)[..13], &[0xa8], &good].concat(), Vlan),
        ("LLDP", [&with(12, 0x88)[..13], &[0xcc], &good].concat(), UnknownEthertype),
        ("nothing behind Ethernet", frame(&good)[..14].to_vec(), TruncatedIp),
        ("half a header", frame(&good)[..24].to_vec(), TruncatedIp),
        ("IPv6 type around IPv4", [&frame(&good)[..12], &[0x86, 0xdd], &good].concat(), BadIpVersion),
        ("version 5", with(14, 0x55), BadIpVersion),
        ("header of four words", with(14, 0x44), BadIpHeader),
        ("longer than the frame", with(17, 200), BadIpLength),
        ("wrong checksum", with(14 + 10, 0), BadIpChecksum),
        ("another's address", frame(&udp("10.20.11.3", "10.20.12.7", 1)), SpoofedSource),
        ("another's IPv6 address", frame(&udp("fd00:20:11::3", "fd00:20:12::1", 1)), SpoofedSource),
        ("link-local IPv4 source", frame(&udp("169.254.7.7", "10.20.12.7", 1)), SpoofedSource),
        ("the gateway's own address", frame(&udp("169.254.1.1", "10.20.12.7", 1)), SpoofedSource),
        ("loopback source", frame(&udp("127.0.0.1", "10.20.12.7", 1)), SpoofedSource),
        ("to all hosts", frame(&udp("10.20.11.2", "224.0.0.1", 1)), Multicast),
        ("IPv6 multicast", group(&udp("fd00:20:11::2", "ff02::fb", 1)), Multicast),
        ("limited broadcast", frame(&udp("10.20.11.2", "255.255.255.255", 1)), Broadcast),
        ("to loopback", frame(&udp("10.20.11.2", "127.0.0.1", 1)), MartianDestination),
        ("to nobody", frame(&udp("10.20.11.2", "0.0.0.0", 1)), MartianDestination),
        ("to class E", frame(&udp("10.20.11.2", "250.1.1.1", 1)), MartianDestination),
        ("to IPv6 loopback", frame(&udp("fd00:20:11::2", "::1", 1)), MartianDestination),
        ("to IPv4 in IPv6", frame(&udp("fd00:20:11::2", "::ffff:10.20.12.7", 1)), MartianDestination),
        ("to a link-local neighbour", frame(&udp("fd00:20:11::2", "fe80::7", 1)), LinkLocal),
        ("from a link-local address", frame(&udp("fe80::7", "fd00:20:12::1", 1)), LinkLocal),
        ("DHCP", ethernet([0xff; 6], mac(CITY), &udp_ports("0.0.0.0", "255.255.255.255", (68, 67), 8)), Dhcp),
        ("DHCPv6", group(&udp_ports("fe80::7", "ff02::1:2", (546, 547), 8)), Dhcp),
        ("listener report", group(&ttl(echo("fe80::7", "ff02::16", 143, 0), 1)), Multicast),
        ("discard route", frame(&udp("10.20.11.2", "10.20.99.1", 1)), DiscardRoute),
        ("discard route, IPv6", frame(&udp("fd00:20:11::2", "fd00:20:99::1", 1)), DiscardRoute),
        ("a tunnel that is gone", frame(&udp("10.20.11.2", "10.20.15.1", 1)), NoTunnel),
        ("a port that is gone", frame(&udp("10.20.11.2", "10.20.98.1", 1)), UnknownPort),
    ];
    let mut lab = Lab::new();
    for (name, bytes, reason) in cases {
        assert_eq!(lab.frame(CITY, &bytes, VnetHeader::NONE).verdict, Verdict::Drop(reason), "{name}");
    }
    assert_drop(&lab.port(PortId(0), &good), UnknownPort);
    assert_drop(&lab.port(PortId(77), &good), UnknownPort);
    lab.fib.vrfs.clear();
    assert_drop(&lab.port(CITY, &good), UnknownVrf);
}

#[test]
fn a_port_may_use_its_prefixes() {
    let mut lab = Lab::new();
    let mut port = lab.fib.port(CITY).unwrap().clone();
    port.prefixes.push("10.99.0.0/16".parse().unwrap());
    lab.fib.insert_port(port.into());
    assert!(matches!(lab.port(CITY, &udp("10.99.4.4", "10.20.12.7", 1)).verdict, Verdict::ToUnderlay(_)));
    assert_drop(&lab.port(CITY, &udp("10.98.4.4", "10.20.12.7", 1)), DropReason::SpoofedSource);
}

#[test]
fn who_may_use_any_address_may_not_use_what_no_host_has() {
    let mut lab = Lab::new();
    let mut port = lab.fib.port(CITY).unwrap().clone();
    port.prefixes.push("0.0.0.0/0".parse().unwrap());
    port.allowed.push(("::/0".parse().unwrap(), None));
    lab.fib.insert_port(port.into());
    assert!(matches!(lab.port(CITY, &udp("198.18.0.1", "10.20.12.7", 1)).verdict, Verdict::ToUnderlay(_)));
    for src in ["0.0.0.0", "0.1.2.3", "127.0.0.1", "224.0.0.9", "240.0.0.1", "255.255.255.255"] {
        for dst in ["10.20.12.7", "10.20.11.3", "192.0.2.11", "169.254.1.1"] {
            assert_drop(&lab.port(CITY, &udp(src, dst, 1)), DropReason::MartianSource);
        }
        assert_drop(&lab.port(CITY, &echo(src, "169.254.1.1", 8, 1)), DropReason::MartianSource);
    }
    for src in ["::", "::1", "ff02::1", "::ffff:10.20.11.2"] {
        for dst in ["fd00:20:12::7", "fd00:20:11::3", "fe80::1"] {
            assert_drop(&lab.port(CITY, &udp(src, dst, 1)), DropReason::MartianSource);
        }
    }
    // Nor the gateway's, or another link-local one.
    assert_drop(&lab.port(CITY, &udp("169.254.1.1", "10.20.11.3", 1)), DropReason::LinkLocal);
}

#[test]
fn the_default_route_does_not_take_link_local_addresses_along() {
    let mut lab = Lab::new();
    assert_drop(&lab.port(POWER, &udp("10.20.11.2", "169.254.169.254", 1)), DropReason::LinkLocal);
}

#[test]
fn a_flow_keeps_its_way_and_flows_use_both() {
    let mut lab = Lab::new();
    let mut seen = BTreeSet::new();
    for port in 1000..1100 {
        let packet = udp_ports("10.20.11.2", "10.20.14.7", (port, 9), 1);
        let first = push(lab.port(CITY, &packet).verdict);
        assert_eq!(push(lab.port(CITY, &packet).verdict), first);
        seen.insert((first.tunnel.0, first.label.value()));
    }
    assert_eq!(seen, BTreeSet::from([(0, 102), (1, 103)]));
}

#[test]
fn a_packet_without_df_may_be_fragmented() {
    let mut lab = Lab::new();
    for payload in [10, 1300 - 28, 1301 - 28, 9000] {
        let out = push(lab.port(CITY, &udp("10.20.11.2", "10.20.13.7", payload)).verdict);
        assert_eq!((out.fragment, out.mtu), (true, 1300), "{payload}");
    }
    assert!(!push(lab.port(CITY, &df(udp("10.20.11.2", "10.20.13.7", 10))).verdict).fragment);
    assert!(!push(lab.port(CITY, &udp("fd00:20:11::2", "fd00:20:13::7", 10)).verdict).fragment);
    // To a port the verdict has no room for it: the port's MTU says so.
    let out = lab.port(CITY, &udp("10.20.11.2", "10.20.11.3", 1401 - 28));
    assert_eq!(out.verdict, Verdict::ToPort(CITY_2));
}

fn superframe(src: &str, dst: &str, payload: usize, gso: Gso, gso_size: u16) -> (Vec<u8>, VnetHeader) {
    let packet = if gso == Gso::UdpL4 { udp(src, dst, payload) } else { tcp(src, dst, 0x10, &[], payload) };
    let header: u16 = if src.contains(':') { 40 } else { 20 };
    let vnet = VnetHeader {
        needs_csum: true,
        gso,
        gso_size,
        hdr_len: 14 + header + 20,
        csum_start: 14 + header,
        csum_offset: if gso == Gso::UdpL4 { 6 } else { 16 },
        ..VnetHeader::NONE
    };
    (ethernet(GATEWAY, mac(CITY), &packet), vnet)
}

#[test]
fn a_tcp_superframe_passes_as_one() {
    let mut lab = Lab::new();
    for (src, dst, gso) in
        [("10.20.11.2", "10.20.12.7", Gso::TcpV4), ("fd00:20:11::2", "fd00:20:12::7", Gso::TcpV6)]
    {
        // Its segments would not fit the tunnel: they are cut anew to Push.mtu.
        let (frame, vnet) = superframe(src, dst, 60_000, gso, 8_000);
        let out = lab.frame(CITY, &frame, vnet);
        assert!(!push(out.verdict).fragment);
        assert_eq!(push(out.verdict).mtu, 1468);
        assert_eq!(out.vnet.csum_start, vnet.csum_start - 14);
        assert_eq!(out.bytes.len(), frame.len() - 14);
    }
}

#[test]
fn a_tcp_superframe_to_a_port_is_cut_to_its_mtu() {
    let mut lab = Lab::new();
    for (src, dst, gso, headers) in
        [("10.20.11.2", "10.20.11.3", Gso::TcpV4, 40), ("fd00:20:11::2", "fd00:20:11::3", Gso::TcpV6, 60)]
    {
        let (frame, vnet) = superframe(src, dst, 60_000, gso, 1468 - headers);
        let out = lab.frame(CITY, &frame, vnet);
        assert_eq!((out.verdict, out.vnet.gso_size), (Verdict::ToPort(CITY_2), 1400 - headers));
        let (frame, vnet) = superframe(src, dst, 60_000, gso, 1000);
        assert_eq!(lab.frame(CITY, &frame, vnet).vnet.gso_size, 1000);
    }
}

#[test]
fn a_udp_superframe_passes_while_its_datagrams_fit() {
    let mut lab = Lab::new();
    let (frame, vnet) = superframe("10.20.11.2", "10.20.12.7", 14_400, Gso::UdpL4, 1440);
    assert!(matches!(lab.frame(CITY, &frame, vnet).verdict, Verdict::ToUnderlay(_)));
    // Larger ones are cut into fragments each, where that is allowed: a tunnel's verdict says so, a port's MTU for it.
    for (src, dst, dont, fragmented) in [
        ("10.20.11.2", "10.20.12.7", false, true),
        ("10.20.11.2", "10.20.12.7", true, false),
        ("fd00:20:11::2", "fd00:20:12::7", false, false),
        ("10.20.11.2", "10.20.11.3", false, true),
        ("10.20.11.2", "10.20.11.3", true, false),
        ("fd00:20:11::2", "fd00:20:11::3", false, false),
    ] {
        let (mut frame, vnet) = superframe(src, dst, 14_410, Gso::UdpL4, 1441);
        if dont {
            frame = ethernet(GATEWAY, mac(CITY), &df(frame[14..].to_vec()));
        }
        match lab.frame(CITY, &frame, vnet).verdict {
            Verdict::ToUnderlay(push) => assert!(push.fragment && fragmented, "{dst}"),
            Verdict::ToPort(CITY_2) => assert!(fragmented, "{dst}"),
            Verdict::Reply(_) => {
                assert!(!fragmented, "{dst}");
                assert_eq!(lab.state.reply.reason(), Some(DropReason::TooBig));
            }
            other => panic!("{dst}: {other:?}"),
        }
    }
}

#[test]
fn a_superframe_of_one_short_datagram_is_as_long_as_that() {
    let mut lab = Lab::new();
    for (src, dst) in [("fd00:20:11::2", "fd00:20:12::7"), ("fd00:20:11::2", "fd00:20:11::3")] {
        for (payload, fits) in [(100, true), (1400 - 48, true), (1468 - 47, false)] {
            let (frame, vnet) = superframe(src, dst, payload, Gso::UdpL4, 9000);
            let out = lab.frame(CITY, &frame, vnet);
            assert_eq!(!matches!(out.verdict, Verdict::Reply(_)), fits, "{dst} {payload}");
        }
    }
}

#[test]
fn an_offload_that_does_not_suit_its_packet_is_refused() {
    let mut lab = Lab::new();
    let (tcp, good) = superframe("10.20.11.2", "10.20.12.7", 3000, Gso::TcpV4, 1000);
    let udp = ethernet(GATEWAY, mac(CITY), &udp("10.20.11.2", "10.20.12.7", 3000));
    let fragment = ethernet(GATEWAY, mac(CITY), &flags(tcp[14..].to_vec(), 0x2000));
    let len = u16::try_from(tcp.len()).unwrap();
    for (name, frame, vnet) in [
        ("segments of nothing", &tcp, VnetHeader { gso_size: 0, ..good }),
        ("the other family", &tcp, VnetHeader { gso: Gso::TcpV6, ..good }),
        ("the other protocol", &tcp, VnetHeader { gso: Gso::UdpL4, ..good }),
        ("TCP cut of UDP", &udp, good),
        ("a fragment", &fragment, good),
        ("thousands of segments", &tcp, VnetHeader { gso_size: 1, ..good }),
        ("checksum from inside the IP header", &tcp, VnetHeader { csum_start: 20, ..good }),
        ("checksum from inside Ethernet", &tcp, VnetHeader { csum_start: 3, ..good }),
        ("checksum behind the end", &tcp, VnetHeader { csum_start: len - 17, ..good }),
        ("checksum far behind the end", &tcp, VnetHeader { csum_start: 0xffff, csum_offset: 0xffff, ..good }),
    ] {
        let out = lab.frame(CITY, frame, vnet);
        assert_eq!(out.verdict, Verdict::Drop(DropReason::BadOffload), "{name}");
    }
    // A data offset that points behind the segment.
    let mut short =
        ethernet(GATEWAY, mac(CITY), &crate::packets::tcp("10.20.11.2", "10.20.12.7", 0x10, &[], 0));
    short[14 + 20 + 12] = 0xf0;
    let vnet = VnetHeader { needs_csum: false, ..good };
    assert_drop(&lab.frame(CITY, &short, vnet), DropReason::BadOffload);
}

/// MSS 1460, and behind it what a Linux SYN carries.
const MSS_1460: [u8; 8] = [2, 4, 0x05, 0xb4, 1, 3, 3, 7];

fn mss(packet: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([packet[at], packet[at + 1]])
}

#[test]
fn the_mss_of_a_syn_is_lowered_to_what_the_tunnel_takes() {
    let mut lab = Lab::new();
    for (src, dst, header, want) in [
        ("10.20.11.2", "10.20.12.7", 20, 1428),
        ("10.20.11.2", "10.20.13.7", 20, 1260),
        ("10.20.11.2", "10.20.11.3", 20, 1360),
        ("fd00:20:11::2", "fd00:20:12::7", 40, 1408),
        ("fd00:20:11::2", "fd00:20:13::7", 40, 1240),
    ] {
        for bits in [SYN, SYN | 0x10] {
            let out = lab.port(CITY, &tcp(src, dst, bits, &MSS_1460, 0));
            assert_eq!(mss(&out.bytes, header + 22), want, "{dst}");
            assert_sound(&out.bytes);
        }
    }
}

#[test]
fn the_mss_of_a_syn_is_lowered_to_what_its_own_port_takes() {
    // What a workload offers is what it would be sent: it may know no better, behind a narrower port.
    let mut lab = Lab::new();
    for (src, dst, header, want) in
        [("10.20.11.3", "10.20.12.7", 20, 1360), ("fd00:20:11::3", "fd00:20:12::7", 40, 1340)]
    {
        let out = lab.port(CITY_2, &tcp(src, dst, SYN, &MSS_1460, 0));
        assert_eq!(mss(&out.bytes, header + 22), want, "{dst}");
        assert_sound(&out.bytes);
    }
}

#[test]
fn an_mss_is_never_raised_and_only_that_of_a_syn_is_touched() {
    let mut lab = Lab::new();
    let small = tcp("10.20.11.2", "10.20.12.7", SYN, &[2, 4, 0x02, 0x00], 0);
    assert_eq!(lab.port(CITY, &small).bytes, ttl(small, 63));
    let not_syn = tcp("10.20.11.2", "10.20.12.7", 0x10, &MSS_1460, 0);
    assert_eq!(lab.port(CITY, &not_syn).bytes, ttl(not_syn, 63));
    // Options that end early, lie about their length, or run out: left as they are.
    for options in [
        [0, 2, 4, 0x05, 0xb4, 0, 0, 0],
        [2, 3, 0x05, 0xb4, 0, 0, 0, 0],
        [9, 0, 2, 4, 0x05, 0xb4, 0, 0],
        [1, 1, 1, 1, 1, 2, 4, 0x05],
        [9, 200, 2, 4, 0x05, 0xb4, 0, 0],
    ] {
        let odd = tcp("10.20.11.2", "10.20.12.7", SYN, &options, 0);
        assert_eq!(lab.port(CITY, &odd).bytes, ttl(odd, 63), "{options:?}");
    }
}

#[test]
fn an_mss_at_an_odd_offset_keeps_the_checksum_right() {
    let mut lab = Lab::new();
    let packet = tcp("10.20.11.2", "10.20.12.7", SYN, &[1, 2, 4, 0x05, 0xb4, 1, 1, 0], 0);
    let out = lab.port(CITY, &packet);
    assert_eq!(mss(&out.bytes, 20 + 23), 1428);
    assert_sound(&out.bytes);
}

#[test]
fn a_partial_checksum_stays_partial_when_the_mss_is_lowered() {
    let mut lab = Lab::new();
    let mut packet = tcp("10.20.11.2", "10.20.12.7", SYN, &MSS_1460, 0);
    packet[36..38].copy_from_slice(&[0xab, 0xcd]); // stands for the pseudo header's sum
    let vnet = VnetHeader { needs_csum: true, csum_start: 34, csum_offset: 16, ..VnetHeader::NONE };
    let out = lab.frame(CITY, &ethernet(GATEWAY, mac(CITY), &packet), vnet);
    assert_eq!(mss(&out.bytes, 42), 1428);
    assert_eq!(out.bytes[36..38], [0xab, 0xcd]);
}

#[test]
fn workloads_open_flows_to_the_host_only_where_the_vrf_is_open() {
    let mut lab = Lab::new();
    for dst in ["169.254.1.1", "192.0.2.11"] {
        assert_drop(&lab.port(CITY, &tcp("10.20.11.2", dst, SYN, &[], 0)), DropReason::HostClosed);
        let packet = tcp("10.20.21.4", dst, SYN, &[], 0);
        let out = lab.port(POWER, &packet);
        assert_eq!(out.verdict, Verdict::ToHost);
        assert_eq!(out.bytes, packet, "unchanged, its TTL too");
    }
    assert_drop(&lab.port(CITY, &udp("fd00:20:11::2", "fe80::1", 1)), DropReason::HostClosed);
    assert_eq!(lab.port(POWER, &udp("fd00:20:21::4", "fe80::1", 1)).verdict, Verdict::ToHost);
}

#[test]
fn the_hosts_answer_cannot_reach_another_tenant_of_the_same_address() {
    // To the host, 10.20.11.2 is the city's: what it answered the power tenant would go there.
    let mut lab = Lab::new();
    for (src, dst) in
        [("10.20.11.2", "169.254.1.1"), ("10.20.11.2", "192.0.2.11"), ("fd00:20:11::2", "fe80::1")]
    {
        let packet = tcp(src, dst, SYN, &[], 0);
        assert_drop(&lab.port(POWER, &packet), DropReason::HostAddressTaken);
    }
}

#[test]
fn nobody_goes_to_the_host_as_an_address_that_stands_for_a_port() {
    let mut lab = Lab::new();
    let own = "fd76:7274::9";
    let mut port = lab.fib.port(POWER).unwrap().clone();
    port.addresses.push(own.parse().unwrap());
    lab.fib.insert_port(port.into());
    lab.fib.host.insert(own.parse().unwrap(), POWER);
    assert_drop(&lab.port(POWER, &tcp(own, "fe80::1", SYN, &[], 0)), DropReason::HostAddressTaken);
}

#[test]
fn a_fragment_of_a_ping_to_the_gateway_is_named() {
    let mut lab = Lab::new();
    let first = flags(echo("10.20.11.2", "169.254.1.1", 8, 1), 0x2000);
    assert_drop(&lab.port(CITY, &first), DropReason::GatewayFragment);
    let later = flags(echo("10.20.11.2", "169.254.1.1", 8, 1), 0x0001);
    assert_drop(&lab.port(CITY, &later), DropReason::GatewayFragment);
}

#[test]
fn fragments_are_forwarded_by_their_addresses() {
    let mut lab = Lab::new();
    let first = push(lab.port(CITY, &flags(udp("10.20.11.2", "10.20.14.7", 64), 0x2000)).verdict);
    let mut later = udp("10.20.11.2", "10.20.14.7", 64);
    later[20..28].fill(0x77);
    let later = push(lab.port(CITY, &flags(later, 0x0008)).verdict);
    assert_eq!((first.tunnel, first.label, first.entropy), (later.tunnel, later.label, later.entropy));
}

#[test]
fn any_protocol_is_forwarded() {
    let mut lab = Lab::new();
    for protocol in [2, 47, 50, 89, 132, 253] {
        let packet = df(ip("10.20.11.2", "10.20.12.7", protocol, vec![0; 2], 0));
        assert!(matches!(lab.port(CITY, &packet).verdict, Verdict::ToUnderlay(_)), "{protocol}");
    }
}

#[test]
fn arp_frames_need_no_ip() {
    // The ARP path is taken before anything looks for an IP header.
    let mut lab = Lab::new();
    let out = lab.frame(CITY, &arp(1, mac(CITY), "10.20.11.2", "169.254.1.1"), VnetHeader::NONE);
    assert!(matches!(out.verdict, Verdict::Reply(_)));
    assert_eq!(checksum(&[&[0xff, 0xff]]), 0, "and our own checksum in tests is right");
}
