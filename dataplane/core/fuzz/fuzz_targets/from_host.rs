//! Packets from the host, then what a workload makes of its turn.
#![no_main]

use dataplane_core::{Frame, VnetHeader, from_host, from_port};
use dataplane_core_fuzz::{Node, PORT, Vnet, check, fix_checksum, state};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (Node, Vnet, Vec<u8>, Vec<u8>)| {
    let (node, vnet, mut packet, mut answer) = input;
    let (fib, mut state) = (node.fib(), state());
    fix_checksum(&mut packet);
    let mut frame = Frame::new(&mut packet, vnet.header());
    let verdict = from_host(&fib, &mut state, &mut frame);
    check(verdict, &state, &frame);
    answer.splice(0..0, [0, 0, 0x5e, 0, 1, 0, 2, 0, 0, 0, 0, 2]);
    fix_checksum(answer.get_mut(14..).unwrap_or_default());
    let mut frame = Frame::new(&mut answer, VnetHeader::NONE);
    let verdict = from_port(&fib, &mut state, PORT, &mut frame);
    check(verdict, &state, &frame);
});
