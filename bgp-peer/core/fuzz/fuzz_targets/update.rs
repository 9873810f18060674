//! Any UPDATE bodies under any session, into a RIB and out of it again.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| bgp_core_fuzz::update(input));
