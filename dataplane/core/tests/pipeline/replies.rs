//! ARP, neighbour discovery, echo replies and ICMP errors, with pnet as second opinion.

use std::net::{Ipv4Addr, Ipv6Addr};

use dataplane_core::{DropReason, Frame, Learned, ReplyTo, TunnelId, Verdict, VnetHeader, too_big};
use pnet::packet::Packet;
use pnet::packet::arp::{ArpOperations, ArpPacket};
use pnet::packet::ethernet::{EtherTypes, EthernetPacket};
use pnet::packet::icmpv6::ndp::{NdpOptionTypes, NeighborAdvertPacket};
use pnet::packet::ipv4::Ipv4Packet;
use pnet::packet::ipv6::Ipv6Packet;
use vrouter_types::{MacAddr, PortId};

use crate::lab::{CITY, CITY_2, GATEWAY, Lab, assert_drop, assert_sound, mac};
use crate::packets::{arp, df, echo, ethernet, flags, ip, labelled, solicitation, tcp, tos, ttl, udp};

const TO_CITY: Verdict = Verdict::Reply(ReplyTo::Port(CITY));
const GATEWAY_V6: &str = "fe80::1";

fn v4(text: &str) -> Ipv4Addr {
    text.parse().unwrap()
}

fn v6(text: &str) -> Ipv6Addr {
    text.parse().unwrap()
}

/// The IP packet inside an Ethernet frame for a port.
#[track_caller]
fn inside(frame: &[u8], port: PortId) -> &[u8] {
    let ethernet = EthernetPacket::new(frame).unwrap();
    assert_eq!(ethernet.get_destination().octets(), mac(port));
    assert_eq!(ethernet.get_source().octets(), GATEWAY);
    let ethertype = if frame[14] >> 4 == 4 { EtherTypes::Ipv4 } else { EtherTypes::Ipv6 };
    assert_eq!(ethernet.get_ethertype(), ethertype);
    assert_sound(&frame[14..]);
    &frame[14..]
}

#[test]
fn arp_for_anything_is_answered_with_the_gateways_mac() {
    let mut lab = Lab::new();
    for target in ["169.254.1.1", "10.20.11.3", "10.20.12.7", "192.0.2.200"] {
        let out = lab.frame(CITY, &arp(1, mac(CITY), "10.20.11.2", target), VnetHeader::NONE);
        assert_eq!(out.verdict, TO_CITY);
        let ethernet = EthernetPacket::new(lab.reply()).unwrap();
        assert_eq!(ethernet.get_destination().octets(), mac(CITY));
        assert_eq!(ethernet.get_source().octets(), GATEWAY);
        assert_eq!(ethernet.get_ethertype(), EtherTypes::Arp);
        let answer = ArpPacket::new(ethernet.payload()).unwrap();
        assert_eq!(answer.get_operation(), ArpOperations::Reply);
        assert_eq!(answer.get_sender_hw_addr().octets(), GATEWAY);
        assert_eq!(answer.get_sender_proto_addr(), v4(target));
        assert_eq!(answer.get_target_hw_addr().octets(), mac(CITY));
        assert_eq!(answer.get_target_proto_addr(), v4("10.20.11.2"));
        assert_eq!((answer.get_hw_addr_len(), answer.get_proto_addr_len()), (6, 4));
        assert_eq!(lab.state.reply.reason(), None, "nothing was lost");
    }
}

#[test]
fn arp_that_wants_no_answer_gets_none() {
    use DropReason::*;
    let good = arp(1, mac(CITY), "10.20.11.2", "169.254.1.1");
    let with = |at: usize, value: u8| {
        let mut frame = good.clone();
        frame[at] = value;
        frame
    };
    let mut lab = Lab::new();
    for (name, frame, reason) in [
        ("a probe", arp(1, mac(CITY), "0.0.0.0", "10.20.11.2"), DuplicateAddressProbe),
        ("a probe for another's address", arp(1, mac(CITY), "0.0.0.0", "10.20.11.3"), DuplicateAddressProbe),
        ("an announcement", arp(1, mac(CITY), "10.20.11.2", "10.20.11.2"), NeighborAnnounced),
        ("an announcement as a reply", arp(2, mac(CITY), "10.20.11.2", "10.20.11.2"), NeighborAnnounced),
        ("an announcement in another's name", arp(1, mac(CITY), "10.20.11.3", "10.20.11.3"), SpoofedSource),
        ("a reply in another's name", arp(2, mac(CITY), "10.20.11.3", "10.20.11.3"), SpoofedSource),
        ("a reply", arp(2, mac(CITY), "10.20.11.2", "169.254.1.1"), ArpIgnored),
        ("for nobody", arp(1, mac(CITY), "10.20.11.2", "0.0.0.0"), ArpIgnored),
        ("in another's name", arp(1, mac(CITY), "10.20.11.3", "169.254.1.1"), SpoofedSource),
        ("with another's MAC inside", with(14 + 13, 9), SpoofedMac),
        ("a reverse request", arp(3, mac(CITY), "10.20.11.2", "169.254.1.1"), MalformedArp),
        ("of token ring", with(14 + 1, 6), MalformedArp),
        ("of another protocol", with(14 + 2, 0x86), MalformedArp),
        ("with long addresses", with(14 + 5, 16), MalformedArp),
        ("cut short", good[..41].to_vec(), MalformedArp),
    ] {
        assert_eq!(lab.frame(CITY, &frame, VnetHeader::NONE).verdict, Verdict::Drop(reason), "{name}");
    }
}

#[test]
fn a_neighbor_solicitation_is_answered_with_the_gateways_mac() {
    let mut lab = Lab::new();
    for (src, dst, target, router) in [
        ("fd00:20:11::2", "ff02::1:ff00:1", GATEWAY_V6, true),
        ("fe80::ff:fe00:1", "fe80::1", GATEWAY_V6, true),
        ("fd00:20:11::2", "ff02::1:ff00:7", "fd00:20:12::7", false),
    ] {
        let packet = solicitation(src, dst, target, mac(CITY));
        let frame = ethernet([0x33, 0x33, 0xff, 0, 0, 1], mac(CITY), &packet);
        assert_eq!(lab.frame(CITY, &frame, VnetHeader::NONE).verdict, TO_CITY, "{src}");
        let packet = Ipv6Packet::new(inside(lab.reply(), CITY)).unwrap();
        assert_eq!((packet.get_source(), packet.get_destination()), (v6(GATEWAY_V6), v6(src)));
        assert_eq!(packet.get_hop_limit(), 255);
        let advert = NeighborAdvertPacket::new(packet.payload()).unwrap();
        assert_eq!((advert.get_icmpv6_type().0, advert.get_icmpv6_code().0), (136, 0));
        assert_eq!(advert.get_target_addr(), v6(target));
        // Solicited always; router and override for the gateway's own address only.
        assert_eq!(advert.get_flags(), if router { 0xe0 } else { 0x40 });
        let options = advert.get_options();
        assert_eq!(options.len(), 1);
        assert_eq!((options[0].option_type, options[0].length), (NdpOptionTypes::TargetLLAddr, 1));
        assert_eq!(options[0].data, GATEWAY);
    }
}

#[test]
fn discovery_that_wants_no_answer_gets_none() {
    use DropReason::*;
    let ask = |src, dst, target| solicitation(src, dst, target, mac(CITY));
    let good = ask("fd00:20:11::2", "ff02::1:ff00:1", GATEWAY_V6);
    let message = |bytes: &[u8]| ttl(ip("fd00:20:11::2", "fe80::1", 58, bytes.to_vec(), 2), 255);
    let advert = |target: &str, options: &[u8]| {
        message(&[&[136, 0, 0, 0, 0x20, 0, 0, 0][..], &v6(target).octets(), options].concat())
    };
    let own = [&[2, 1][..], &mac(CITY)].concat();
    let mut long_option = good[40..].to_vec();
    long_option[25] = 2;
    let mut empty_option = good[40..].to_vec();
    empty_option[25] = 0;
    let mut code = good[40..].to_vec();
    code[1] = 1;
    let mut checksum = good.clone();
    checksum[42] ^= 1;
    let mut lab = Lab::new();
    for (name, packet, reason) in [
        ("a link-layer address of nobody", ask("::", "ff02::1:ff00:2", "fd00:20:11::2"), MalformedNd),
        ("the asker's own address", ask("fd00:20:11::2", "ff02::1:ff00:2", "fd00:20:11::2"), NdIgnored),
        ("the asker's link-local address", ask("fe80::9", "ff02::1:ff00:9", "fe80::9"), NdIgnored),
        ("in another's name", ask("fd00:20:11::3", "ff02::1:ff00:1", GATEWAY_V6), SpoofedSource),
        ("for a group", ask("fd00:20:11::2", "ff02::1:ff00:1", "ff02::1"), MalformedNd),
        ("from afar", ttl(good.clone(), 254), MalformedNd),
        ("wrong checksum", checksum, MalformedNd),
        ("wrong code", message(&code), MalformedNd),
        ("an option longer than the message", message(&long_option), MalformedNd),
        ("an option of no length", message(&empty_option), MalformedNd),
        ("cut short", message(&good[40..60]), MalformedNd),
        ("router solicitation", message(&[133, 0, 0, 0, 0, 0, 0, 0]), RouterSolicitation),
        ("router advertisement", message(&[134, 0, 0, 0, 0, 0, 0, 0]), NdIgnored),
        ("an announcement", advert("fd00:20:11::2", &[]), NeighborAnnounced),
        ("an announcement with its MAC", advert("fd00:20:11::2", &own), NeighborAnnounced),
        ("an announcement of a link-local address", advert("fe80::77", &own), NeighborAnnounced),
        (
            "an announcement with another's MAC",
            advert("fd00:20:11::2", &[2, 1, 2, 0, 0, 0, 0, 9]),
            SpoofedMac,
        ),
        ("an announcement in another's name", advert("fd00:20:11::3", &own), SpoofedSource),
        ("an announcement of nothing", advert("::", &[]), SpoofedSource),
        ("an announcement for a group", advert("ff02::1", &[]), MalformedNd),
        ("an announcement cut short", message(&[136, 0, 0, 0, 0, 0, 0, 0]), MalformedNd),
        ("redirect", message(&[137, 0, 0, 0, 0, 0, 0, 0]), NdIgnored),
    ] {
        assert_eq!(lab.port(CITY, &packet).verdict, Verdict::Drop(reason), "{name}");
    }
}

/// The lab whose first port may also send from the MAC address of VRRP group 7 (RFC 5798 §7.3).
fn with_vrrp() -> (Lab, [u8; 6]) {
    let (mut lab, vrrp) = (Lab::new(), [0, 0, 0x5e, 0, 1, 7]);
    let mut port = lab.fib.port(CITY).unwrap().clone();
    port.macs.push(MacAddr(vrrp));
    lab.fib.insert_port(port.into());
    (lab, vrrp)
}

#[test]
fn an_address_may_move_between_a_workloads_own_macs() {
    let (mut lab, vrrp) = with_vrrp();
    let announced = Verdict::Drop(DropReason::NeighborAnnounced);
    // Taken over, given back: announced by either MAC, as requests and as replies.
    for mac in [vrrp, mac(CITY), vrrp] {
        for operation in [1, 2] {
            let frame = arp(operation, mac, "10.20.11.2", "10.20.11.2");
            assert_eq!(lab.frame(CITY, &frame, VnetHeader::NONE).verdict, announced);
        }
        // And its traffic passes from either.
        let packet = udp("10.20.11.2", "10.20.12.7", 9);
        let out = lab.frame(CITY, &ethernet(GATEWAY, mac, &packet), VnetHeader::NONE);
        assert!(matches!(out.verdict, Verdict::ToUnderlay(_)), "{:?}", out.verdict);
    }
    // Another port of the same VRF gains nothing by it.
    let frame = arp(1, vrrp, "10.20.11.3", "10.20.11.3");
    assert_drop(&lab.frame(CITY_2, &frame, VnetHeader::NONE), DropReason::SpoofedMac);
}

#[test]
fn who_asks_from_a_further_mac_is_answered_there() {
    let (mut lab, vrrp) = with_vrrp();
    let question = arp(1, vrrp, "10.20.11.2", "169.254.1.1");
    assert_eq!(lab.frame(CITY, &question, VnetHeader::NONE).verdict, TO_CITY);
    assert_eq!((&lab.reply()[..6], &lab.reply()[32..38]), (&vrrp[..], &vrrp[..]));
    let question = solicitation("fd00:20:11::2", "ff02::1:ff00:1", GATEWAY_V6, vrrp);
    let frame = ethernet([0x33, 0x33, 0xff, 0, 0, 1], vrrp, &question);
    assert_eq!(lab.frame(CITY, &frame, VnetHeader::NONE).verdict, TO_CITY);
    assert_eq!(lab.reply()[..6], vrrp);
}

#[test]
fn the_gateway_answers_a_ping() {
    let mut lab = Lab::new();
    for (src, gateway, request, reply) in [
        ("10.20.11.2", "169.254.1.1", 8, 0),
        ("fd00:20:11::2", GATEWAY_V6, 128, 129),
        ("fe80::77", GATEWAY_V6, 128, 129),
    ] {
        let mut message = vec![request, 0, 0, 0, 0x12, 0x34, 0, 9];
        message.extend(b"a payload of odd length");
        let protocol = if src.contains(':') { 58 } else { 1 };
        let packet = tos(ip(src, gateway, protocol, message.clone(), 2), 0xb8);
        assert_eq!(lab.port(CITY, &packet).verdict, TO_CITY);
        let answer = inside(lab.reply(), CITY);
        let header = answer.len() - message.len();
        assert_eq!((answer[header], answer[header + 1]), (reply, 0));
        assert_eq!(answer[header + 4..], message[4..]);
        if protocol == 1 {
            let ip = Ipv4Packet::new(answer).unwrap();
            assert_eq!((ip.get_source(), ip.get_destination()), (v4(gateway), v4(src)));
            assert_eq!(ip.get_ttl(), 64);
        } else {
            let ip = Ipv6Packet::new(answer).unwrap();
            assert_eq!((ip.get_source(), ip.get_destination()), (v6(gateway), v6(src)));
        }
    }
    let mut wrong = echo("10.20.11.2", "169.254.1.1", 8, 1);
    wrong[22] ^= 1;
    assert_drop(&lab.port(CITY, &wrong), DropReason::BadIcmpChecksum);
}

/// What an ICMP error says: type, code, MTU, and the packet that it is about.
struct Said<'r> {
    src: String,
    dst: String,
    kind: (u8, u8),
    mtu: u32,
    about: &'r [u8],
}

#[track_caller]
fn said(packet: &[u8]) -> Said<'_> {
    assert_sound(packet);
    let (src, dst, at) = match Ipv4Packet::new(packet).filter(|ip| ip.get_version() == 4) {
        Some(ip) => {
            assert!(packet.len() <= 576);
            assert_eq!((ip.get_ttl(), packet[1], packet[6]), (64, 0xc0, 0x40), "TTL, precedence, DF");
            (ip.get_source().to_string(), ip.get_destination().to_string(), 20)
        }
        None => {
            assert!(packet.len() <= 1280);
            let ip = Ipv6Packet::new(packet).unwrap();
            (ip.get_source().to_string(), ip.get_destination().to_string(), 40)
        }
    };
    let mtu = u32::from_be_bytes(packet[at + 4..at + 8].try_into().unwrap());
    Said { src, dst, kind: (packet[at], packet[at + 1]), mtu, about: &packet[at + 8..] }
}

#[test]
fn errors_name_their_cause_and_quote_the_packet() {
    use DropReason::*;
    let cases = [
        (ttl(udp("10.20.11.2", "10.20.12.7", 9), 1), TtlExceeded, (11, 0), 0),
        (ttl(udp("10.20.11.2", "10.20.12.7", 9), 0), TtlExceeded, (11, 0), 0),
        (ttl(udp("10.20.11.2", "10.20.11.3", 9), 1), TtlExceeded, (11, 0), 0),
        (ttl(udp("fd00:20:11::2", "fd00:20:12::7", 9), 1), TtlExceeded, (3, 0), 0),
        (udp("10.20.11.2", "203.0.113.9", 9), NoRoute, (3, 0), 0),
        (udp("fd00:20:11::2", "2001:db8::9", 9), NoRoute, (1, 0), 0),
        (df(udp("10.20.11.2", "10.20.12.7", 1469 - 28)), TooBig, (3, 4), 1468),
        (df(udp("10.20.11.2", "10.20.13.7", 1400 - 28)), TooBig, (3, 4), 1300),
        (df(tcp("10.20.11.2", "10.20.13.7", 0x10, &[], 1400 - 40)), TooBig, (3, 4), 1300),
        (df(udp("10.20.11.2", "10.20.11.3", 1401 - 28)), TooBig, (3, 4), 1400),
        (udp("fd00:20:11::2", "fd00:20:12::7", 1469 - 48), TooBig, (2, 0), 1468),
        (udp("fd00:20:11::2", "fd00:20:11::3", 1401 - 48), TooBig, (2, 0), 1400),
        (flags(udp("10.20.11.2", "203.0.113.9", 8), 0x2000), NoRoute, (3, 0), 0),
        (echo("10.20.11.2", "203.0.113.9", 8, 1), NoRoute, (3, 0), 0),
        (echo("fd00:20:11::2", "2001:db8::9", 128, 1), NoRoute, (1, 0), 0),
    ];
    for (packet, reason, kind, mtu) in cases {
        let mut lab = Lab::new();
        let out = lab.port(CITY, &packet);
        assert_eq!(out.verdict, TO_CITY, "{reason}");
        assert_eq!(lab.state.reply.reason(), Some(reason));
        let said = said(inside(lab.reply(), CITY));
        assert_eq!((said.kind, said.mtu), (kind, mtu), "{reason}");
        let (pod, gateway) =
            if packet[0] >> 4 == 4 { ("10.20.11.2", "169.254.1.1") } else { ("fd00:20:11::2", "fe80::1") };
        assert_eq!((said.src.as_str(), said.dst.as_str()), (gateway, pod));
        // As it was received, TTL included, as much as fits.
        let most = if packet[0] >> 4 == 4 { 576 - 28 } else { 1280 - 48 };
        assert_eq!(said.about, &packet[..packet.len().min(most)], "{reason}");
    }
}

#[test]
fn a_path_that_turns_out_narrower_is_answered_too() {
    for (src, dst, mtu, kind) in
        [("10.20.11.2", "10.20.12.7", 1000, (3, 4)), ("fd00:20:11::2", "fd00:20:12::7", 1300, (2, 0))]
    {
        let mut lab = Lab::new();
        let mut bytes = df_if_v4(udp(src, dst, 1320));
        let mut frame = Frame::new(&mut bytes, VnetHeader::NONE);
        let verdict = too_big(&lab.fib, &mut lab.state, CITY, &frame, mtu);
        assert_eq!(verdict, TO_CITY);
        assert_eq!(lab.state.reply.reason(), Some(DropReason::TooBig));
        let said = said(inside(lab.reply(), CITY));
        assert_eq!((said.kind, said.mtu), (kind, u32::from(mtu)));
        frame.truncate(9);
        let verdict = too_big(&lab.fib, &mut lab.state, CITY, &frame, mtu);
        assert_eq!(verdict, Verdict::Drop(DropReason::TruncatedIp));
    }
}

fn df_if_v4(packet: Vec<u8>) -> Vec<u8> {
    if packet[0] >> 4 == 4 { df(packet) } else { packet }
}

#[test]
fn an_ipv6_path_below_1280_is_never_promised() {
    let mut lab = Lab::new();
    let mut tunnel = *lab.fib.tunnel(TunnelId(0)).unwrap();
    tunnel.mtu = 1200;
    lab.fib.insert_tunnel(TunnelId(0), tunnel);
    let out = lab.port(CITY, &udp("fd00:20:11::2", "fd00:20:12::7", 1280 - 48));
    assert!(matches!(out.verdict, Verdict::ToUnderlay(push) if push.mtu == 1280));
    assert_eq!(lab.port(CITY, &udp("fd00:20:11::2", "fd00:20:12::7", 1281 - 48)).verdict, TO_CITY);
    assert_eq!(said(inside(lab.reply(), CITY)).mtu, 1280);
}

#[test]
fn no_error_is_sent_about_what_rfc_1812_and_4443_exempt() {
    let mut lab = Lab::new();
    for (name, packet) in [
        ("an unreachable", echo("10.20.11.2", "203.0.113.9", 3, 0)),
        ("a source quench", echo("10.20.11.2", "203.0.113.9", 4, 0)),
        ("a redirect", echo("10.20.11.2", "203.0.113.9", 5, 0)),
        ("a time exceeded", echo("10.20.11.2", "203.0.113.9", 11, 0)),
        ("a parameter problem", echo("10.20.11.2", "203.0.113.9", 12, 0)),
        ("an IPv6 unreachable", echo("fd00:20:11::2", "2001:db8::9", 1, 0)),
        ("an IPv6 error of the future", echo("fd00:20:11::2", "2001:db8::9", 127, 0)),
        ("a later fragment", flags(udp("10.20.11.2", "203.0.113.9", 8), 0x0010)),
        ("an ICMP message cut short", ip("10.20.11.2", "203.0.113.9", 1, vec![8, 0, 0, 0], 2)),
    ] {
        assert_eq!(lab.port(CITY, &packet).verdict, Verdict::Drop(DropReason::NoRoute), "{name}");
    }
    let expired = ttl(echo("10.20.11.2", "10.20.12.7", 11, 0), 1);
    assert_drop(&lab.port(CITY, &expired), DropReason::TtlExceeded);
}

#[test]
fn errors_about_packets_from_a_tunnel_go_back_through_it() {
    let mut lab = Lab::new();
    for (packet, kind, mtu, src) in [
        (ttl(udp("10.20.12.7", "10.20.11.3", 9), 1), (11, 0), 0, "169.254.1.1"),
        (df(udp("10.20.12.7", "10.20.11.3", 1401 - 28)), (3, 4), 1400, "169.254.1.1"),
        // A link-local source would not get through: the error comes from the address that was asked for.
        (udp("fd00:20:12::7", "fd00:20:11::3", 1401 - 48), (2, 0), 1400, "fd00:20:11::3"),
    ] {
        let out = lab.underlay(&labelled(17, true, 64, &packet));
        let Verdict::Reply(ReplyTo::Underlay(push)) = out.verdict else { panic!("{:?}", out.verdict) };
        assert_eq!((push.tunnel, push.label.value(), push.ttl), (TunnelId(0), 100, 64));
        let said = said(lab.reply());
        assert_eq!((said.kind, said.mtu, said.src.as_str()), (kind, mtu, src));
        assert!(said.dst == "10.20.12.7" || said.dst == "fd00:20:12::7");
        assert!(packet.starts_with(said.about));
    }
    // The label's TTL runs out like the packet's own.
    let out = lab.underlay(&labelled(17, true, 1, &udp("10.20.12.7", "10.20.11.3", 9)));
    assert!(matches!(out.verdict, Verdict::Reply(ReplyTo::Underlay(_))));
    // Nor does the host hear of what others send in its name: it would shorten its path to whoever has that address.
    for (label, name) in [(17, "10.20.11.3"), (18, "10.20.11.2")] {
        let over = labelled(label, true, 1, &udp("192.0.2.11", name, 9));
        assert_drop(&lab.underlay(&over), DropReason::TtlExceeded);
    }
    let large = labelled(17, true, 64, &df(udp("192.0.2.11", "10.20.11.3", 1401 - 28)));
    assert_drop(&lab.underlay(&large), DropReason::TooBig);
    // A sender that the VRF does not know hears nothing.
    let out = lab.underlay(&labelled(17, true, 1, &udp("203.0.113.9", "10.20.11.3", 9)));
    assert_drop(&out, DropReason::TtlExceeded);
}

#[test]
fn replies_are_limited_and_recover() {
    let mut lab = Lab::new();
    lab.state.now_ms = 1_000_000;
    let unroutable = udp("10.20.11.2", "203.0.113.9", 1);
    let ping = echo("10.20.11.2", "169.254.1.1", 8, 1);
    let question = arp(1, mac(CITY), "10.20.11.2", "169.254.1.1");
    let discovery = solicitation("fd00:20:11::2", "ff02::1:ff00:1", GATEWAY_V6, mac(CITY));
    let limited = Verdict::Drop(DropReason::ReplyLimited);
    let send = |lab: &mut Lab, kind: usize| match kind {
        0 => lab.port(CITY, &unroutable).verdict,
        1 => lab.port(CITY, &ping).verdict,
        2 => lab.frame(CITY, &question, VnetHeader::NONE).verdict,
        _ => lab.port(CITY, &discovery).verdict,
    };
    for kind in 0..3 {
        let answered = (0..2000).filter(|_| send(&mut lab, kind) == TO_CITY).count();
        assert!((50..1000).contains(&answered), "{answered}");
        assert_eq!(send(&mut lab, kind), limited);
    }
    assert_eq!(send(&mut lab, 3), limited, "ARP and ND share a bucket");
    // Another port is not made to wait.
    let other = udp("10.20.11.3", "203.0.113.9", 1);
    assert_eq!(lab.port(CITY_2, &other).verdict, Verdict::Reply(ReplyTo::Port(CITY_2)));
    lab.state.now_ms += 100;
    for kind in 0..4 {
        assert_eq!(send(&mut lab, kind), TO_CITY);
    }
}

/// The lab whose first port may use one address of each family with another MAC address only, and that MAC.
fn with_pairs() -> (Lab, [u8; 6]) {
    let mut lab = Lab::new();
    let pair = [0, 0, 0x5e, 0, 1, 9];
    let mut port = lab.fib.port(CITY).unwrap().clone();
    port.allowed = ["10.20.30.1/32", "fd00:20:30::1/128"]
        .map(|prefix| (prefix.parse().unwrap(), Some(MacAddr(pair))))
        .to_vec();
    lab.fib.insert_port(port.into());
    (lab, pair)
}

#[test]
fn an_address_is_asked_for_and_announced_with_the_mac_that_it_was_allowed_with() {
    use DropReason::*;
    let (mut lab, pair) = with_pairs();
    let own = mac(CITY);
    let advert = |address: &str, option: [u8; 6]| {
        let message = [&[136, 0, 0, 0, 0x20, 0, 0, 0][..], &v6(address).octets(), &[2, 1], &option].concat();
        ttl(ip(address, "ff02::1", 58, message, 2), 255)
    };
    let group = |mac, packet: &[u8]| ethernet([0x33, 0x33, 0, 0, 0, 1], mac, packet);
    let far = |address, option| group(own, &solicitation(address, "ff02::1:ff00:1", GATEWAY_V6, option));
    for (name, frame, want) in [
        ("its question", arp(1, pair, "10.20.30.1", "169.254.1.1"), None),
        ("its announcement", arp(1, pair, "10.20.30.1", "10.20.30.1"), Some(NeighborAnnounced)),
        ("the own MAC asks", arp(1, own, "10.20.30.1", "169.254.1.1"), Some(SpoofedSource)),
        ("the own MAC announces", arp(1, own, "10.20.30.1", "10.20.30.1"), Some(SpoofedSource)),
        ("the own MAC replies", arp(2, own, "10.20.30.1", "169.254.1.1"), Some(SpoofedSource)),
        ("the own address of it", arp(1, pair, "10.20.11.2", "10.20.11.2"), Some(SpoofedSource)),
        ("its advertisement", group(pair, &advert("fd00:20:30::1", pair)), Some(NeighborAnnounced)),
        ("with the own MAC inside", group(pair, &advert("fd00:20:30::1", own)), Some(SpoofedSource)),
        ("advertised by the own MAC", group(own, &advert("fd00:20:30::1", own)), Some(SpoofedSource)),
        ("its question, IPv6", far("fd00:20:30::1", own), Some(SpoofedSource)),
        ("the own address, IPv6", far("fd00:20:11::2", own), None),
    ] {
        let want = want.map_or(TO_CITY, Verdict::Drop);
        assert_eq!(lab.frame(CITY, &frame, VnetHeader::NONE).verdict, want, "{name}");
    }
    let heard: Vec<_> = lab.state.learned.drain().map(|learned| (learned.address, learned.mac.0)).collect();
    assert_eq!(heard, ["10.20.30.1", "fd00:20:30::1"].map(|address| (address.parse().unwrap(), pair)));
}

#[test]
fn a_link_layer_address_counts_wherever_among_the_options_it_is() {
    use DropReason::*;
    let mut lab = Lab::new();
    let nonce = [14, 1, 1, 2, 3, 4, 5, 6];
    let with = |options: &[&[u8]]| {
        let head = [&[136, 0, 0, 0, 0x20, 0, 0, 0][..], &v6("fd00:20:11::2").octets()].concat();
        let message = [&head[..], &options.concat()].concat();
        ttl(ip("fd00:20:11::2", "ff02::1", 58, message, 2), 255)
    };
    let others = [2, 1, 2, 0, 0, 0, 0, 9];
    let own = [&[2, 1][..], &mac(CITY)].concat();
    for (packet, reason) in [
        (with(&[&nonce, &own]), NeighborAnnounced),
        (with(&[&nonce, &others]), SpoofedMac),
        (with(&[&own, &others]), SpoofedMac),
    ] {
        assert_drop(&lab.port(CITY, &packet), reason);
    }
}

#[test]
fn duplicate_address_detection_goes_to_the_solicited_node_and_names_no_link_layer_address() {
    // RFC 4861 §7.1.1. Either way nobody is answered; it is only called what it is.
    let mut lab = Lab::new();
    let target = v6("fd00:20:11::2").octets();
    let probe = |dst: &str, options: &[u8]| {
        let message = [&[135, 0, 0, 0, 0, 0, 0, 0][..], &target, options].concat();
        ttl(ip("::", dst, 58, message, 2), 255)
    };
    let nonce = [14, 1, 1, 2, 3, 4, 5, 6];
    let source = [1, 1, 2, 0, 0, 0, 0, 1];
    for (dst, options, reason) in [
        ("ff02::1:ff00:2", vec![], DropReason::DuplicateAddressProbe),
        ("ff02::1:ff00:2", nonce.to_vec(), DropReason::DuplicateAddressProbe),
        ("ff02::1:ff00:2", source.to_vec(), DropReason::MalformedNd),
        ("ff02::1:ff00:2", [nonce, source].concat(), DropReason::MalformedNd),
        ("ff02::1", vec![], DropReason::MalformedNd),
        ("fe80::1", vec![], DropReason::MalformedNd),
    ] {
        assert_drop(&lab.port(CITY, &probe(dst, &options)), reason);
    }
}

#[test]
fn what_others_provoke_does_not_use_up_a_workloads_own_errors() {
    let mut lab = Lab::new();
    let from_afar = labelled(16, true, 64, &ttl(udp("10.20.12.7", "10.20.11.2", 1), 1));
    let answered = |verdict| matches!(verdict, Verdict::Reply(ReplyTo::Underlay(_)));
    let errors = (0..1000).filter(|_| answered(lab.underlay(&from_afar).verdict)).count();
    assert!((50..500).contains(&errors), "{errors}");
    assert_drop(&lab.underlay(&from_afar), DropReason::ReplyLimited);
    let large = df(udp("10.20.11.2", "10.20.13.7", 1400));
    assert_eq!(lab.port(CITY, &large).verdict, TO_CITY, "it must hear how much fits");
}

#[test]
fn control_hears_of_addresses_that_a_workload_shows_and_of_no_others() {
    let mut lab = Lab::new();
    let heard = |lab: &mut Lab, frame: &[u8]| {
        let _ = lab.frame(CITY, frame, VnetHeader::NONE);
        lab.state.learned.drain().collect::<Vec<_>>()
    };
    let own =
        |address: &str| Learned { port: CITY, address: address.parse().unwrap(), mac: MacAddr(mac(CITY)) };
    lab.state.now_ms = 10_000;
    for (name, frame, told) in [
        ("an announcement", arp(1, mac(CITY), "10.20.11.2", "10.20.11.2"), vec![own("10.20.11.2")]),
        ("the same within a second", arp(2, mac(CITY), "10.20.11.2", "10.20.11.2"), vec![]),
        ("an announcement in another's name", arp(1, mac(CITY), "10.20.11.3", "10.20.11.3"), vec![]),
        ("an announcement with another's MAC", arp(1, mac(CITY_2), "10.20.11.2", "10.20.11.2"), vec![]),
        ("a probe", arp(1, mac(CITY), "0.0.0.0", "10.20.11.2"), vec![]),
        ("a question", arp(1, mac(CITY), "10.20.11.2", "169.254.1.1"), vec![]),
    ] {
        assert_eq!(heard(&mut lab, &frame), told, "{name}");
    }
    lab.state.now_ms += 1000;
    let reply = arp(2, mac(CITY), "10.20.11.2", "169.254.1.1");
    assert_eq!(heard(&mut lab, &reply), [own("10.20.11.2")], "an answer to somebody's question");
    lab.state.now_ms += 1000;
    let mut rarp = arp(3, mac(CITY), "0.0.0.0", "0.0.0.0");
    rarp[..6].fill(0xff);
    rarp[12..14].copy_from_slice(&[0x80, 0x35]);
    assert_eq!(heard(&mut lab, &rarp), [], "it asks about another machine");
    rarp[32..38].copy_from_slice(&mac(CITY));
    assert_eq!(heard(&mut lab, &rarp), ["10.20.11.2", "fd00:20:11::2"].map(own), "a machine that has moved");
    for len in 0..rarp.len() - 4 {
        lab.state.now_ms += 1000;
        assert!(heard(&mut lab, &rarp[..len.min(37)]).is_empty(), "{len}");
    }
    assert_eq!(lab.state.learned.lost(), 0);
}
