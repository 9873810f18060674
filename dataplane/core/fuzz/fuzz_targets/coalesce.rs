//! Batches to be joined.
#![no_main]

use dataplane_core::VnetHeader;
use dataplane_core_fuzz::{Vnet, fix_checksum, harness};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (Vec<(u8, Option<Vnet>, Vec<u8>)>, bool)| {
    let (packets, repair) = input;
    let packets = packets.into_iter().map(|(port, vnet, mut bytes)| {
        if repair {
            fix_checksum(&mut bytes);
        }
        (port, vnet.map_or(VnetHeader::NONE, |vnet| vnet.header()), bytes)
    });
    harness::coalesce(packets.collect());
});
