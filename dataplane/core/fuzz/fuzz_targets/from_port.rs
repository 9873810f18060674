//! Frames from a workload: two in a row, since state lives between them.
#![no_main]

use dataplane_core::{Frame, from_port};
use dataplane_core_fuzz::{Node, PORT, Vnet, check, fix_checksum, harness, state};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (Node, [(Vnet, bool, Option<u32>, &[u8]); 2])| {
    let (node, frames) = input;
    let (fib, mut state) = (node.fib(), state());
    for (vnet, framed, len, bytes) in frames {
        // With the MAC addresses right, the fuzzer spends its time behind them.
        let mut bytes = if framed {
            [&[0, 0, 0x5e, 0, 1, 0, 2, 0, 0, 0, 0, 2][..], bytes].concat()
        } else {
            bytes.to_vec()
        };
        harness::stretch(&mut bytes, 14, len.unwrap_or(0) as usize);
        fix_checksum(bytes.get_mut(14..).unwrap_or_default());
        let mut frame = Frame::new(&mut bytes, vnet.header());
        let verdict = from_port(&fib, &mut state, PORT, &mut frame);
        check(verdict, &state, &frame);
        state.now_ms += 1;
    }
});
