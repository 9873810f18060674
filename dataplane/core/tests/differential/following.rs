//! The short way of segments that came as one message, beside the long way through the pipeline: whatever came, a port
//! gets the same.

use std::ops::Range;
use std::sync::Arc;

use dataplane_core::coalesce::{Coalescer, MAX_HEADER};
use dataplane_core::{Fib, Frame, HostFlows, Outer, Port, State, Verdict, VnetHeader, from_underlay};
use proptest::prelude::*;
use vrouter_types::{Encap, Label, MacAddr, PortId, VrfId};

use crate::coalescing::{plain, scripts};

const LABEL: [u8; 4] = [0, 1, 1, 64];

fn fib() -> Fib {
    let mut port = Port::new(PortId(0), VrfId(0), MacAddr([2; 6]));
    port.addresses = vec!["11.11.11.11".parse().unwrap(), "b0b:b0b:b0b:b0b:b0b:b0b:b0b:b0b".parse().unwrap()];
    port.mtu = 9000;
    let mut fib = Fib::new();
    fib.insert_port(Arc::new(port));
    assert!(fib.ilm.insert(Label::new(16).unwrap(), PortId(0)));
    fib.sources.insert("192.0.2.1".parse().unwrap());
    fib
}

/// What a port gets of one message that holds these packets: per group how many, octets, virtio-net header; and how
/// many packets took the short way.
fn received(packets: &[Vec<u8>], short: bool) -> (Vec<(u16, Vec<u8>, VnetHeader)>, usize) {
    let (fib, mut state) = (fib(), State::new(Arc::new(HostFlows::new(64, [1, 2]))));
    let outer = Outer { src: "192.0.2.1".parse().unwrap(), encap: Encap::MplsOverUdp, tos: 0 };
    let mut memory = Vec::new();
    let pieces: Vec<Range<usize>> = packets
        .iter()
        .map(|packet| {
            let start = memory.len();
            memory.extend(packet);
            start..memory.len()
        })
        .collect();
    let mut coalescer = Coalescer::new(packets.len() + 1);
    let mut followed = 0;
    for piece in pieces {
        if short && coalescer.follow(&memory, &piece) {
            followed += 1;
            continue;
        }
        coalescer.lead(&memory[piece.clone()]);
        let mut frame = Frame::new(&mut memory[piece.clone()], VnetHeader::NONE);
        if from_underlay(&fib, &mut state, outer, &mut frame) == Verdict::ToPort(PortId(0)) {
            let start = piece.start + LABEL.len();
            let range = start..start + frame.bytes().len();
            coalescer.push(&memory, 0, range, &VnetHeader::NONE);
        }
    }
    let groups = coalescer.groups().iter().map(|group| {
        let mut out = vec![0; MAX_HEADER];
        let (len, vnet) = coalescer.write_header(group, &memory, &mut out).unwrap();
        out.truncate(len);
        coalescer.payload(group).for_each(|piece| out.extend(&memory[piece]));
        (group.packets, out, vnet)
    });
    (groups.collect(), followed)
}

fn labelled(packets: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
    packets.into_iter().map(|packet| [&LABEL[..], &packet].concat()).collect()
}

proptest! {
    #[test]
    fn a_port_gets_the_same_by_both_ways(
        script in scripts(any::<[bool; 4]>()), flips in prop::collection::vec((any::<prop::sample::Index>(), 0usize..64, 0u8..8), 0..6),
    ) {
        let mut packets = labelled(script.packets(0));
        // Anything in the label and the headers may be wrong.
        for (which, at, bit) in flips {
            if packets.is_empty() {
                break;
            }
            let which = which.index(packets.len());
            if let Some(octet) = packets[which].get_mut(at) {
                *octet ^= 1 << bit;
            }
        }
        prop_assert_eq!(received(&packets, true).0, received(&packets, false).0);
    }
}

#[test]
fn a_plain_message_takes_the_short_way_but_for_its_first_packet() {
    for (v6, tcp) in [(false, false), (false, true), (true, false), (true, true)] {
        let packets = labelled(plain(v6, tcp, 40).packets(0));
        let (groups, followed) = received(&packets, true);
        assert_eq!((groups.len(), followed), (1, 39), "IPv6 {v6}, TCP {tcp}");
        assert_eq!(received(&packets, false), (groups, 0));
    }
}
