//! Fragments that lie: what one of them must never become on its way through us.

use std::sync::Arc;

use dataplane_core::policy::{Policy, Remote, Rule, Service};
use dataplane_core::segment::{Headers, SegmentError, Step, segment};
use dataplane_core::{DropReason, Frame, Port, Verdict, VnetHeader};
use proptest::prelude::*;

use crate::lab::{CITY, CITY_2, Lab, assert_drop};
use crate::packets::{TCP, fix_v4, flags, ip, labelled, udp, udp_ports};

/// What an IPv4 datagram may have behind a header without options (RFC 791 §3.1).
const MOST: usize = 65_515;

/// A later fragment of a datagram that reaches exactly so far, with this much payload.
fn ending_at(src: &str, dst: &str, end: usize, payload: usize, more: bool) -> Vec<u8> {
    let field = u16::try_from((end - payload) / 8).unwrap() | if more { 0x2000 } else { 0 };
    assert_eq!((end - payload) % 8, 0);
    flags(ip(src, dst, TCP, vec![0xee; payload], 16), field)
}

#[test]
fn a_fragment_that_runs_over_the_longest_datagram_is_refused_at_every_entry() {
    for (end, payload, fits) in [
        (MOST, 27, true),
        (MOST, 1363, true),
        (MOST + 1, 28, false),
        (MOST + 21, 1376, false),
        (0x1fff * 8 + 1400, 1400, false),
    ] {
        for more in [false, true] {
            let mut lab = Lab::new();
            let outs = [
                lab.port(CITY, &ending_at("10.20.11.2", "10.20.12.7", end, payload, more)),
                lab.port(CITY, &ending_at("10.20.11.2", "10.20.11.3", end, payload, more)),
                lab.underlay(&labelled(
                    17,
                    true,
                    64,
                    &ending_at("10.20.12.7", "10.20.11.3", end, payload, more),
                )),
                lab.host(&ending_at("169.254.1.1", "10.20.11.3", end, payload, more)),
            ];
            for out in outs {
                let refused = out.verdict == Verdict::Drop(DropReason::BadIpLength);
                assert_eq!(refused, !fits, "{end} {payload} {:?}", out.verdict);
            }
        }
    }
    // Options take their share of the 65,535.
    let mut with_options = ending_at("10.20.11.2", "10.20.12.7", MOST, 1363, false);
    with_options[0] = 0x46;
    with_options.splice(20..20, [1; 4]);
    let len = u16::try_from(with_options.len()).unwrap();
    with_options[2..4].copy_from_slice(&len.to_be_bytes());
    fix_v4(&mut with_options);
    assert_drop(&Lab::new().port(CITY, &with_options), DropReason::BadIpLength);
}

/// Who may come in to port 80 must not get to port 22 by a fragment which, cut for a small MTU, begins a datagram.
#[test]
fn no_later_fragment_becomes_a_packet_of_its_own_behind_the_rules() {
    let mut lab = behind_a_rule(1380);
    let first = flags(crate::packets::tcp("10.20.12.7", "10.20.11.3", 0x10, &[], 60), 0x2000);
    assert_eq!(lab.underlay(&labelled(17, true, 64, &first)).verdict, Verdict::ToPort(CITY_2));
    // 1360 octets fit: the second piece would lie at 8192 times eight octets, which the field cannot tell from zero.
    let later = flags(ip("10.20.12.7", "10.20.11.3", TCP, vec![0xee; 1400], 16), 8192 - 170);
    let out = lab.underlay(&labelled(17, true, 64, &later));
    assert_drop(&out, DropReason::BadIpLength);
    // And what cuts does not rely on that.
    let mut bytes = later.clone();
    let mut frame = Frame::new(&mut bytes, VnetHeader::NONE);
    assert_eq!(segment(&mut frame, &[], 1380, true).err(), Some(SegmentError::Malformed));
}

/// The second workload with a rule for port 80, and an MTU that packets from afar do not all fit.
fn behind_a_rule(mtu: u16) -> Lab {
    let mut lab = Lab::new();
    let mut port = Port::clone(lab.fib.port(CITY_2).unwrap());
    let web = Rule { v4: true, protocol: Some(TCP), service: Service::Ports(80..=80), remote: Remote::Any };
    port.policy = Some(Arc::new(Policy { generation: 1, ingress: [web].into(), egress: Box::default() }));
    port.mtu = mtu;
    lab.fib.insert_port(Arc::new(port));
    lab
}

/// What leaves for a port of this MTU, as the worker cuts it.
fn cut(packet: &[u8], mtu: u16) -> Vec<Vec<u8>> {
    if packet.len() <= usize::from(mtu) {
        return vec![packet.to_vec()];
    }
    let mut bytes = packet.to_vec();
    let mut slices = segment(&mut Frame::new(&mut bytes, VnetHeader::NONE), &[], mtu.into(), true).unwrap();
    let mut memory = vec![0; 1 << 16];
    let (mut headers, mut found) = (Headers::new(&mut memory, 0), Vec::new());
    while let Step::Slice(slice) = slices.next(packet, &mut headers) {
        found.push(slice);
    }
    found
        .iter()
        .map(|slice| [&memory[slice.header.clone()], &packet[slice.payload.clone()]].concat())
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    /// Whatever fragments come, a packet that begins at its transport header goes to where the rule leads.
    #[test]
    fn what_begins_behind_a_rule_begins_as_the_rule_says(
        fragments in proptest::collection::vec(
            (prop_oneof![Just(0u16), 0u16..3, 8000u16..0x2000], any::<bool>(), 20usize..1500, 0u8..3, any::<bool>()),
            1..12,
        ),
        mtu in 68u16..1500,
    ) {
        let mut lab = behind_a_rule(mtu);
        for (offset, more, payload, id, web) in fragments {
            let header = [0x9c, 0x40, 0, if web { 80 } else { 22 }, 0, 0, 0, 1];
            // Again and again: wherever it is cut, something like a header begins.
            let content = header.into_iter().cycle().take(payload).collect();
            let mut packet = ip("10.20.12.7", "10.20.11.3", TCP, content, 16);
            packet[5] = id;
            let packet = flags(packet, offset | if more { 0x2000 } else { 0 });
            let out = lab.underlay(&labelled(17, true, 64, &packet));
            if out.verdict != Verdict::ToPort(CITY_2) {
                continue;
            }
            for piece in cut(&out.bytes, mtu) {
                let offset = u16::from_be_bytes([piece[6], piece[7]]) & 0x1fff;
                prop_assert!(usize::from(offset) * 8 + piece.len() <= 65_535);
                prop_assert!(offset != 0 || piece[22..24] == [0, 80], "{:?}", piece);
            }
        }
    }
}

/// The first fragment of this IPv6 packet with a destination options header inside, and a later one of the same.
fn v6_fragments(src: &str, dst: &str, (from, to): (u16, u16)) -> [Vec<u8>; 2] {
    let whole = udp_ports(src, dst, (from, to), 40);
    let make = |field: u16, inside: &[u8]| {
        let mut packet = whole[..40].to_vec();
        packet[6] = 44;
        packet.extend([60, 0]);
        packet.extend(field.to_be_bytes());
        packet.extend([0, 0, 0, 9]);
        packet.extend(inside);
        let len = u16::try_from(packet.len() - 40).unwrap();
        packet[4..6].copy_from_slice(&len.to_be_bytes());
        packet
    };
    let options = [17, 0, 1, 4, 0, 0, 0, 0];
    [make(1, &[&options, &whole[40..]].concat()), make(7 << 3, &[0x55; 24])]
}

#[test]
fn later_ipv6_fragments_answer_the_host_as_their_first_does_whatever_headers_it_has() {
    let mut lab = Lab::new();
    let [first, later] = v6_fragments("fd00:20:11::2", "fe80::1", (9, 40000));
    assert_drop(&lab.port(CITY, &later), DropReason::HostFragment);
    assert_eq!(lab.host(&udp("fe80::1", "fd00:20:11::2", 3)).verdict, Verdict::ToPort(CITY));
    assert_eq!(lab.port(CITY, &first).verdict, Verdict::ToHost);
    assert_eq!(lab.port(CITY, &later).verdict, Verdict::ToHost);
}
