//! From a tunnel: labels, inner packets, TTL and ECN.

use dataplane_core::{DropReason, Verdict};

use crate::lab::{CITY, CITY_2, Lab, POWER, assert_drop, assert_sound, outer};
use crate::packets::{ICMP, SYN, df, echo, flags, ip, labelled, tcp, tos, ttl, udp};

#[test]
fn a_label_leads_to_its_port() {
    let mut lab = Lab::new();
    for (label, dst, port) in
        [(16, "10.20.11.2", CITY), (17, "10.20.11.3", CITY_2), (18, "10.20.11.2", POWER)]
    {
        let packet = udp("10.20.12.7", dst, 20);
        let out = lab.underlay(&labelled(label, true, 64, &packet));
        assert_eq!(out.verdict, Verdict::ToPort(port));
        assert_eq!(out.bytes, ttl(packet, 63));
        assert_sound(&out.bytes);
    }
    let packet = udp("fd00:20:12::7", "fd00:20:11::2", 20);
    let out = lab.underlay(&labelled(16, true, 64, &packet));
    assert_eq!((out.verdict, out.bytes), (Verdict::ToPort(CITY), ttl(packet, 63)));
}

#[test]
fn what_is_wrong_with_a_tunnel_packet_is_named() {
    use DropReason::*;
    let good = udp("10.20.12.7", "10.20.11.2", 20);
    let with = |at: usize, value: u8| {
        let mut bytes = labelled(16, true, 64, &good);
        bytes[at] = value;
        bytes
    };
    let inner = |packet: &[u8]| labelled(16, true, 64, packet);
    let cases = [
        ("nothing", vec![], TruncatedLabel),
        ("three octets", vec![0, 1, 1], TruncatedLabel),
        ("a label and nothing else", inner(&[]), TruncatedIp),
        ("not the bottom", labelled(16, false, 64, &good), LabelStack),
        ("a stack", labelled(16, false, 64, &labelled(17, true, 64, &good)), LabelStack),
        ("IPv4 explicit null", labelled(0, true, 64, &good), ReservedLabel),
        ("router alert", labelled(1, true, 64, &good), ReservedLabel),
        ("IPv6 explicit null", labelled(2, true, 64, &good), ReservedLabel),
        ("implicit null", labelled(3, true, 64, &good), ReservedLabel),
        ("entropy label indicator", labelled(7, true, 64, &good), ReservedLabel),
        ("extension label", labelled(15, true, 64, &good), ReservedLabel),
        ("explicit null above a label", labelled(0, false, 64, &labelled(16, true, 64, &good)), LabelStack),
        ("a label of nobody", labelled(20, true, 64, &good), UnknownLabel),
        ("the last label", labelled(0xf_ffff, true, 64, &good), UnknownLabel),
        ("a label of a port that is gone", labelled(19, true, 64, &good), UnknownPort),
        ("label TTL zero", labelled(16, true, 0, &good), LabelTtl),
        ("Ethernet inside", inner(&[0, 0, 0x5e, 0, 1, 0, 2, 0, 0, 0, 0, 1, 8, 0]), BadIpVersion),
        ("a control word inside", inner(&[0, 0, 0, 0]), BadIpVersion),
        ("half a header inside", inner(&good[..12]), TruncatedIp),
        ("total length too large", with(4 + 3, 200), BadIpLength),
        ("total length of nothing", with(4 + 3, 0), BadIpLength),
        ("wrong header checksum", with(4 + 8, 9), BadIpChecksum),
        ("for another port", inner(&udp("10.20.12.7", "10.20.11.3", 1)), WrongDestination),
        (
            "of a family that the port has not",
            inner(&udp("fd00:20:12::7", "fd00:20:11::9", 1)),
            WrongDestination,
        ),
        ("multicast inside", inner(&udp("10.20.12.7", "224.0.0.1", 1)), WrongDestination),
        ("from nobody", inner(&udp("0.0.0.0", "10.20.11.2", 1)), MartianSource),
        ("from loopback", inner(&udp("127.0.0.1", "10.20.11.2", 1)), MartianSource),
        ("from a group", inner(&udp("224.0.0.1", "10.20.11.2", 1)), MartianSource),
        ("from everybody", inner(&udp("255.255.255.255", "10.20.11.2", 1)), MartianSource),
        ("from an IPv6 group", inner(&udp("ff02::1", "fd00:20:11::2", 1)), MartianSource),
        ("from IPv4 in IPv6", inner(&udp("::ffff:10.20.12.7", "fd00:20:11::2", 1)), MartianSource),
        ("from a link-local neighbour", inner(&udp("fe80::9", "fd00:20:11::2", 1)), LinkLocal),
    ];
    let mut lab = Lab::new();
    for (name, bytes, reason) in cases {
        assert_eq!(lab.underlay(&bytes).verdict, Verdict::Drop(reason), "{name}");
    }
    let mut six = udp("fd00:20:12::7", "fd00:20:11::2", 20);
    six[5] += 1;
    assert_drop(&lab.underlay(&labelled(16, true, 64, &six)), BadIpLength);
}

#[test]
fn a_link_local_source_comes_from_afar_with_errors_only() {
    // The router at the far end reports errors as 169.254.1.1, as we do; nobody there speaks as the router here.
    let mut lab = Lab::new();
    let from = |packet: Vec<u8>| labelled(16, true, 64, &packet);
    for src in ["169.254.1.1", "169.254.169.254", "169.254.64.2"] {
        for packet in [
            udp(src, "10.20.11.2", 20),
            tcp(src, "10.20.11.2", SYN, &[], 0),
            echo(src, "10.20.11.2", 8, 1),
            echo(src, "10.20.11.2", 0, 1),
            flags(udp(src, "10.20.11.2", 20), 0x2000),
            flags(ip(src, "10.20.11.2", ICMP, vec![3; 24], 2), 0x0001),
        ] {
            assert_drop(&lab.underlay(&from(packet)), DropReason::LinkLocal);
        }
    }
    for kind in [3, 11, 12] {
        let quoted = udp("10.20.11.2", "10.20.12.7", 20);
        let message = [&[kind, 0, 0, 0, 0, 0, 0, 0][..], &quoted].concat();
        let out = lab.underlay(&from(ip("169.254.1.1", "10.20.11.2", ICMP, message, 2)));
        assert_eq!(out.verdict, Verdict::ToPort(CITY), "{kind}");
    }
}

#[test]
fn who_has_any_address_has_none_that_is_no_hosts() {
    use DropReason::*;
    let mut lab = Lab::new();
    let mut port = lab.fib.port(CITY).unwrap().clone();
    port.prefixes = vec!["0.0.0.0/0".parse().unwrap(), "::/0".parse().unwrap()];
    lab.fib.insert_port(port.into());
    let mut arrive = |dst: &str| {
        let src = if dst.contains(':') { "fd00:20:12::7" } else { "10.20.12.7" };
        lab.underlay(&labelled(16, true, 64, &udp(src, dst, 1)))
    };
    for dst in ["198.18.0.1", "fd00:99::1"] {
        assert_eq!(arrive(dst).verdict, Verdict::ToPort(CITY));
    }
    for (dst, reason) in [
        ("224.0.0.9", Multicast),
        ("239.255.255.250", Multicast),
        ("ff02::1", Multicast),
        ("ff0e::1", Multicast),
        ("255.255.255.255", Broadcast),
        ("127.0.0.1", MartianDestination),
        ("0.0.0.0", MartianDestination),
        ("250.1.1.1", MartianDestination),
        ("::1", MartianDestination),
        ("::", MartianDestination),
        ("::ffff:10.20.11.2", MartianDestination),
        ("169.254.169.254", LinkLocal),
        ("169.254.1.1", LinkLocal),
        ("fe80::1", LinkLocal),
    ] {
        assert_drop(&arrive(dst), reason);
    }
}

#[test]
fn only_known_provider_edges_are_heard() {
    let mut lab = Lab::new();
    let bytes = labelled(16, true, 64, &udp("10.20.12.7", "10.20.11.2", 20));
    for (src, known) in [
        ("192.0.2.1", true),
        ("192.0.2.9", true),
        ("198.51.100.200", true),
        ("192.0.2.2", false),
        ("198.51.101.1", false),
        ("::ffff:192.0.2.1", false),
        ("2001:db8::1", false),
    ] {
        let want = if known { Verdict::ToPort(CITY) } else { Verdict::Drop(DropReason::UnknownSource) };
        assert_eq!(lab.underlay_from(outer(src, 0), &bytes).verdict, want, "{src}");
    }
}

#[test]
fn padding_behind_the_inner_packet_is_cut() {
    let mut lab = Lab::new();
    for packet in [udp("10.20.12.7", "10.20.11.2", 1), udp("fd00:20:12::7", "fd00:20:11::2", 1)] {
        let mut bytes = labelled(16, true, 64, &packet);
        bytes.extend([0xee; 9]);
        assert_eq!(lab.underlay(&bytes).bytes, ttl(packet, 63));
    }
}

#[test]
fn the_smaller_of_label_and_inner_ttl_counts() {
    let mut lab = Lab::new();
    for (label_ttl, inner_ttl, want) in [(255, 64, 63), (64, 64, 63), (10, 64, 9), (64, 2, 1), (2, 64, 1)] {
        let packet = ttl(udp("10.20.12.7", "10.20.11.2", 20), inner_ttl);
        let out = lab.underlay(&labelled(16, true, label_ttl, &packet));
        assert_eq!(out.bytes, ttl(packet, want));
    }
}

#[test]
fn congestion_marks_are_combined_as_rfc_6040_says() {
    const NOT: u8 = 0b00;
    const ECT1: u8 = 0b01;
    const ECT0: u8 = 0b10;
    const CE: u8 = 0b11;
    // RFC 6040 §4.2, figure 4: rows by the inner field, columns by the outer one.
    let table = [
        (NOT, [Some(NOT), Some(NOT), Some(NOT), None]),
        (ECT0, [Some(ECT0), Some(ECT0), Some(ECT1), Some(CE)]),
        (ECT1, [Some(ECT1), Some(ECT1), Some(ECT1), Some(CE)]),
        (CE, [Some(CE), Some(CE), Some(CE), Some(CE)]),
    ];
    let mut lab = Lab::new();
    for (inner, row) in table {
        for (arriving, want) in [NOT, ECT0, ECT1, CE].into_iter().zip(row) {
            for packet in [udp("10.20.12.7", "10.20.11.2", 9), udp("fd00:20:12::7", "fd00:20:11::2", 9)] {
                let bytes = labelled(16, true, 64, &tos(packet.clone(), 0xa0 | inner));
                // The outer DSCP is the underlay's own business.
                let out = lab.underlay_from(outer("192.0.2.1", 0x14 | arriving), &bytes);
                match want {
                    Some(ecn) => {
                        assert_eq!(out.bytes, ttl(tos(packet, 0xa0 | ecn), 63), "{inner} {arriving}")
                    }
                    None => assert_drop(&out, DropReason::EcnNotCapable),
                }
            }
        }
    }
}

#[test]
fn the_mss_of_a_syn_from_afar_is_lowered_to_what_the_way_back_takes() {
    let mut lab = Lab::new();
    let options = [2, 4, 0x23, 0x28]; // 9000
    for (label, src, dst, port, at, want) in [
        (16, "10.20.12.7", "10.20.11.2", CITY, 42, 1428),   // tunnel 0
        (16, "10.20.13.7", "10.20.11.2", CITY, 42, 1260),   // tunnel 1
        (17, "10.20.12.7", "10.20.11.3", CITY_2, 42, 1360), // the port's own MTU
        (18, "10.20.12.7", "10.20.11.2", POWER, 42, 1428),  // a VM with MTU 9000
        (16, "fd00:20:12::7", "fd00:20:11::2", CITY, 62, 1408),
    ] {
        let out = lab.underlay(&labelled(label, true, 64, &tcp(src, dst, SYN, &options, 0)));
        assert_eq!(out.verdict, Verdict::ToPort(port));
        assert_eq!(u16::from_be_bytes([out.bytes[at], out.bytes[at + 1]]), want, "{src}");
        assert_sound(&out.bytes);
    }
}

#[test]
fn a_packet_larger_than_the_ports_mtu_is_answered_or_left_to_fragmentation() {
    let mut lab = Lab::new();
    let large = udp("10.20.12.7", "10.20.11.3", 1401 - 28);
    assert_eq!(lab.underlay(&labelled(17, true, 64, &large)).verdict, Verdict::ToPort(CITY_2));
    assert!(matches!(lab.underlay(&labelled(17, true, 64, &df(large))).verdict, Verdict::Reply(_)));
    assert_eq!(lab.state.reply.reason(), Some(DropReason::TooBig));
}
