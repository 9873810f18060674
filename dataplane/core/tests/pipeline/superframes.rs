//! TCP superframes that are longer than the header can tell: they go the way of shorter ones, and whatever
//! else is so long goes nowhere.

use std::sync::Arc;

use dataplane_core::frame::{MAX_PACKET, MAX_SUPERFRAME};
use dataplane_core::policy::{Policy, Remote, Rule, Service};
use dataplane_core::{DropReason, Gso, Port, Snat, Verdict, VnetHeader, Vrf};
use vrouter_types::PortId;

use crate::lab::{CITY, CITY_2, GATEWAY, Lab, Out, POWER, assert_drop, mac};
use crate::packets::{self, ACK, SYN, checksum, df, ethernet, fix_v4, tcp, ttl};

const HEADERS: usize = 40;

/// A TCP superframe from 10.20.11.2, this long from its IP header on. Its partial checksum stands for one.
fn superframe(dst: &str, len: usize) -> Vec<u8> {
    let mut packet = df(tcp("10.20.11.2", dst, ACK, &[], 0));
    packet[36..38].copy_from_slice(&[0xab, 0xcd]);
    packet.resize(len, 0x61);
    packet[2..4].copy_from_slice(&u16::try_from(len).unwrap_or(0).to_be_bytes());
    fix_v4(&mut packet);
    packet
}

/// The virtio-net header of a superframe behind Ethernet, with segments of this many octets.
fn offload(gso_size: u16) -> VnetHeader {
    VnetHeader {
        needs_csum: true,
        gso: Gso::TcpV4,
        gso_size,
        hdr_len: 54,
        csum_start: 34,
        csum_offset: 16,
        ..VnetHeader::NONE
    }
}

fn from(lab: &mut Lab, port: PortId, packet: &[u8], vnet: VnetHeader) -> Out {
    lab.frame(port, &ethernet(GATEWAY, mac(port), packet), vnet)
}

/// Sends the same superframe short and long, each through a lab of its own, and answers what became of the long one,
/// which is the same. `lab` makes the labs and the flow.
fn as_a_shorter_one(port: PortId, packet: &dyn Fn(usize) -> Vec<u8>, lab: &dyn Fn() -> Lab) -> Out {
    let vnet = offload(1428);
    let short = from(&mut lab(), port, &packet(60_000), vnet);
    for len in [MAX_PACKET + 1, 100_001, MAX_SUPERFRAME] {
        let long = from(&mut lab(), port, &packet(len), vnet);
        assert_eq!((long.verdict, long.vnet), (short.verdict, short.vnet), "{len} octets");
        assert_eq!((long.bytes.len(), &long.bytes[2..4]), (len, &[0, 0][..]));
        assert_eq!(checksum(&[&long.bytes[..20]]), 0, "header checksum of {len} octets");
        // Everything but length and header checksum.
        for same in [0..2, 4..10, 12..HEADERS] {
            assert_eq!(long.bytes[same.clone()], short.bytes[same], "{len} octets");
        }
        assert!(long.bytes[HEADERS..].iter().all(|octet| *octet == 0x61), "payload of {len} octets");
    }
    from(&mut lab(), port, &packet(MAX_SUPERFRAME), vnet)
}

#[test]
fn it_goes_into_a_tunnel_as_a_shorter_one_would() {
    for dst in ["10.20.12.7", "10.20.13.7", "10.20.14.7"] {
        let out = as_a_shorter_one(CITY, &|len| superframe(dst, len), &Lab::new);
        assert!(matches!(out.verdict, Verdict::ToUnderlay(push) if push.ttl == 63 && !push.fragment));
        assert_eq!((out.bytes[8], out.vnet.gso_size, out.vnet.csum_start), (63, 1428, 20));
    }
}

#[test]
fn it_goes_to_a_port_as_a_shorter_one_would() {
    let out = as_a_shorter_one(CITY, &|len| superframe("10.20.11.3", len), &Lab::new);
    assert_eq!((out.verdict, out.bytes[8]), (Verdict::ToPort(CITY_2), 63));
    assert_eq!(out.vnet.gso_size, 1360, "its segments fit the port's MTU");
}

#[test]
fn it_goes_to_the_host_as_a_shorter_one_would() {
    // Where the VRF is open.
    let open = |len| {
        let mut packet = superframe("169.254.1.1", len);
        packet[12..16].copy_from_slice(&[10, 20, 21, 4]);
        fix_v4(&mut packet);
        packet
    };
    let out = as_a_shorter_one(POWER, &open, &Lab::new);
    assert_eq!((out.verdict, out.bytes[8]), (Verdict::ToHost, 64));
    // As the answer to a flow that the host began.
    let asked = || {
        let mut lab = Lab::new();
        let mut question = tcp("169.254.1.1", "10.20.11.2", SYN, &[], 0);
        question[20..24].copy_from_slice(&[0, 80, 0x9c, 0x40]);
        assert_eq!(lab.host(&question).verdict, Verdict::ToPort(CITY));
        lab
    };
    let out = as_a_shorter_one(CITY, &|len| superframe("169.254.1.1", len), &asked);
    assert_eq!(out.verdict, Verdict::ToHost);
    assert_drop(
        &from(&mut Lab::new(), CITY, &superframe("169.254.1.1", 70_000), offload(1428)),
        DropReason::HostClosed,
    );
}

#[test]
fn it_leaves_with_the_nodes_address_as_a_shorter_one_would() {
    let snat = || {
        let mut lab = Lab::new();
        let mut vrf = Vrf::clone(lab.fib.vrfs[0].as_ref().unwrap());
        vrf.snat = Some(Snat::BOTH);
        lab.fib.vrfs[0] = Some(Arc::new(vrf));
        let begun = lab.port(CITY, &tcp("10.20.11.2", "203.0.113.9", SYN, &[], 0));
        assert_eq!(begun.verdict, Verdict::ToHost);
        lab
    };
    let out = as_a_shorter_one(CITY, &|len| superframe("203.0.113.9", len), &snat);
    assert_eq!((out.verdict, &out.bytes[12..14]), (Verdict::ToHost, &[169, 254][..]));
    // Its partial checksum follows the addresses, not the payload: 10.20.11.2 becomes 169.254.64.x.
    let fold = |sum: u32| u16::try_from((sum & 0xffff) + (sum >> 16)).unwrap();
    let word = |at: usize| u32::from(u16::from_be_bytes([out.bytes[at], out.bytes[at + 1]]));
    let old = u32::from(!fold(0x0a14 + 0x0b02));
    assert_eq!(fold(u32::from(fold(0xabcd + old)) + u32::from(fold(word(12) + word(14)))), fold(word(36)));
}

#[test]
fn a_tracked_flow_counts_it() {
    let any = || [Rule { v4: true, protocol: None, service: Service::Any, remote: Remote::Any }];
    let tracked = || {
        let mut lab = Lab::new();
        let mut port = Port::clone(lab.fib.port(CITY).unwrap());
        let policy = Policy { generation: 1, ingress: [].into(), egress: any().into() };
        port.policy = Some(Arc::new(policy));
        lab.fib.insert_port(Arc::new(port));
        lab
    };
    for dst in ["10.20.12.7", "10.20.11.3"] {
        as_a_shorter_one(CITY, &|len| superframe(dst, len), &tracked);
        let mut lab = tracked();
        from(&mut lab, CITY, &superframe(dst, MAX_SUPERFRAME), offload(1428));
        assert_eq!(lab.state.flow_table.flows(0).count(), 1, "{dst}");
    }
    // And what the rules do not allow is refused by their name, however long it is.
    let mut lab = tracked();
    let mut port = Port::clone(lab.fib.port(CITY).unwrap());
    port.policy = Some(Arc::new(Policy { generation: 2, ingress: [].into(), egress: [].into() }));
    lab.fib.insert_port(Arc::new(port));
    let out = from(&mut lab, CITY, &superframe("10.20.12.7", MAX_SUPERFRAME), offload(1428));
    assert_drop(&out, DropReason::PolicyEgress);
}

#[test]
fn its_sender_hears_of_a_ttl_that_is_over() {
    let mut lab = Lab::new();
    let packet = ttl(superframe("10.20.12.7", MAX_SUPERFRAME), 1);
    assert!(matches!(from(&mut lab, CITY, &packet, offload(1428)).verdict, Verdict::Reply(_)));
    assert_eq!(lab.state.reply.reason(), Some(DropReason::TtlExceeded));
    assert!(lab.reply().len() < 700, "it is quoted in part");
}

#[test]
fn whatever_else_is_so_long_is_refused_by_name() {
    let mut lab = Lab::new();
    let good = offload(1428);
    let long = superframe("10.20.12.7", MAX_SUPERFRAME);
    let with = |at: usize, value: u8| {
        let mut packet = long.clone();
        packet[at] = value;
        fix_v4(&mut packet);
        packet
    };
    let last = u16::MAX;
    for (name, packet, vnet) in [
        ("one packet", &long, VnetHeader::NONE),
        ("one packet, its checksum partial", &long, VnetHeader { gso: Gso::None, gso_size: 0, ..good }),
        ("datagrams", &long, VnetHeader { gso: Gso::UdpL4, ..good }),
        ("the other family", &long, VnetHeader { gso: Gso::TcpV6, ..good }),
        ("its checksum complete", &long, VnetHeader { needs_csum: false, ..good }),
        ("checksum of another header", &long, VnetHeader { csum_start: 38, ..good }),
        ("checksum far behind", &long, VnetHeader { csum_start: last, csum_offset: last, ..good }),
        ("checksum in the window", &long, VnetHeader { csum_offset: 14, ..good }),
        ("segments of nothing", &long, VnetHeader { gso_size: 0, ..good }),
        ("thousands of segments", &long, VnetHeader { gso_size: 100, ..good }),
        ("a fragment", &with(6, 0x20), good),
        ("UDP", &with(9, 17), good),
        ("UDP in datagrams", &with(9, 17), VnetHeader { gso: Gso::UdpL4, csum_offset: 6, ..good }),
        ("a ping", &with(9, 1), VnetHeader::NONE),
        ("half a TCP header", &with(32, 0x40), good),
    ] {
        let out = from(&mut lab, CITY, packet, vnet);
        assert_eq!(out.verdict, Verdict::Drop(DropReason::BadOffload), "{name}");
    }
    assert!(matches!(from(&mut lab, CITY, &long, good).verdict, Verdict::ToUnderlay(_)));
}

#[test]
fn a_length_of_zero_is_one_only_where_no_other_could_stand() {
    let mut lab = Lab::new();
    let at = |len: usize| {
        let mut packet = superframe("10.20.12.7", len);
        packet[2..4].fill(0);
        fix_v4(&mut packet);
        packet
    };
    for len in [HEADERS, 1500, 60_000, MAX_PACKET] {
        for vnet in [offload(1428), VnetHeader::NONE] {
            assert_drop(&from(&mut lab, CITY, &at(len), vnet), DropReason::BadIpLength);
        }
    }
    let out = from(&mut lab, CITY, &at(MAX_PACKET + 1), offload(1428));
    assert!(matches!(out.verdict, Verdict::ToUnderlay(_)));
    // A length that is told is believed: what lies behind is padding.
    let mut told = superframe("10.20.12.7", 70_000);
    told[2..4].copy_from_slice(&4000u16.to_be_bytes());
    fix_v4(&mut told);
    assert_eq!(from(&mut lab, CITY, &told, offload(1428)).bytes.len(), 4000);
    // With a checksum that is wrong it is no packet at all.
    let mut wrong = superframe("10.20.12.7", MAX_SUPERFRAME);
    wrong[10] ^= 1;
    assert_drop(&from(&mut lab, CITY, &wrong, offload(1428)), DropReason::BadIpChecksum);
}

#[test]
fn ipv6_superframes_go_their_way_with_the_option_of_older_kernels_and_without() {
    let mut lab = Lab::new();
    let mut plain = packets::tcp("fd00:20:11::2", "fd00:20:12::7", ACK, &[], 0);
    plain.resize(70_000, 0x61);
    plain[4..6].fill(0);
    let vnet = VnetHeader { gso: Gso::TcpV6, csum_start: 54, hdr_len: 74, ..offload(1408) };
    let out = from(&mut lab, CITY, &plain, vnet);
    assert!(matches!(out.verdict, Verdict::ToUnderlay(_)), "{:?}", out.verdict);
    assert_eq!((out.bytes.len(), out.bytes[7]), (70_000, plain[7] - 1));

    // The jumbo payload option (RFC 2675), which a superframe has until it is cut.
    let option = [&[6, 0, 0xc2, 4][..], &(70_000u32 - 40 + 8).to_be_bytes()].concat();
    let mut optional = [&plain[..40], &option, &plain[40..]].concat();
    optional[6] = 0;
    let with_option = VnetHeader { csum_start: 62, hdr_len: 82, ..vnet };
    let same = from(&mut lab, CITY, &optional, with_option);
    assert_eq!((same.verdict, same.vnet, &same.bytes), (out.verdict, out.vnet, &out.bytes));

    // Jumbograms that are no superframe of TCP are not carried, and an option that lies is none.
    for (at, octet) in [(47, 0), (41, 1), (40, 17)] {
        let mut wrong = optional.clone();
        wrong[at] = octet;
        assert_drop(&from(&mut lab, CITY, &wrong, with_option), DropReason::BadIpLength);
    }
    plain[6] = 17;
    assert_drop(&from(&mut lab, CITY, &plain, vnet), DropReason::BadIpLength);
}
