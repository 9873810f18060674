//! Any life of a neighbor: connections, octets in any pieces, time, orders.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| bgp_core_fuzz::neighbor(input));
