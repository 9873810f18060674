//! Frames to be cut.
#![no_main]

use dataplane_core_fuzz::{Vnet, harness};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (Vnet, u16, bool, u8, &[u8])| {
    let (vnet, max, fragment, prefix, bytes) = input;
    harness::segment(vnet.header(), max, fragment, prefix, bytes.to_vec());
});
