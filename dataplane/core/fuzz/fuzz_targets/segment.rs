//! Frames to be cut, into packets and into shorter superframes.
#![no_main]

use dataplane_core_fuzz::{Vnet, harness};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (Vnet, u16, bool, u8, Option<u32>, &[u8])| {
    let (vnet, max, fragment, prefix, len, bytes) = input;
    let mut bytes = bytes.to_vec();
    harness::stretch(&mut bytes, 0, len.unwrap_or(0) as usize);
    harness::split(vnet.header(), prefix, bytes.clone());
    harness::segment(vnet.header(), max, fragment, prefix, bytes);
});
