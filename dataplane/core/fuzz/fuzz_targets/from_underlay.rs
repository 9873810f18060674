//! Tunnel packets from a provider edge that is known.
#![no_main]

use dataplane_core::{Frame, Outer, VnetHeader, from_underlay};
use dataplane_core_fuzz::{Node, PE, check, fix_checksum, state};
use libfuzzer_sys::fuzz_target;
use vrouter_types::Encap;

fuzz_target!(|input: (Node, u8, bool, &[u8])| {
    let (node, tos, labelled, bytes) = input;
    let (fib, mut state) = (node.fib(), state());
    let mut bytes = if labelled { [&[0, 1, 1][..], bytes].concat() } else { bytes.to_vec() };
    fix_checksum(bytes.get_mut(4..).unwrap_or_default());
    let mut frame = Frame::new(&mut bytes, VnetHeader::NONE);
    let outer = Outer { src: PE.into(), encap: Encap::MplsOverUdp, tos };
    let verdict = from_underlay(&fib, &mut state, outer, &mut frame);
    check(verdict, &state, &frame);
});
