//! Any octets as messages of any kind.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| bgp_core_fuzz::message(input));
