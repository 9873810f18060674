//! Batches to be joined: every octet of payload leaves once, groups are described truly, and lone packets are untouched.
#![no_main]

use dataplane_core::coalesce::{Coalescer, MAX_HEADER};
use dataplane_core::{Gso, VnetHeader};
use dataplane_core_fuzz::{Vnet, fix_checksum};
use libfuzzer_sys::fuzz_target;

const PACKETS: usize = 16;

fuzz_target!(|input: (Vec<(u8, Option<Vnet>, Vec<u8>)>, bool)| {
    let (packets, repair) = input;
    let (mut memory, mut ranges) = (Vec::new(), Vec::new());
    for (port, vnet, mut bytes) in packets.into_iter().take(PACKETS) {
        if repair {
            fix_checksum(&mut bytes);
        }
        let at = memory.len();
        memory.extend(&bytes);
        ranges.push((port % 2, vnet.map_or(VnetHeader::NONE, |vnet| vnet.header()), at..memory.len()));
    }
    let mut coalescer = Coalescer::new(PACKETS);
    for (port, vnet, range) in &ranges {
        assert!(!coalescer.is_full());
        coalescer.push(&memory, u32::from(*port), range.clone(), vnet);
    }
    let mut packets = 0;
    for group in coalescer.groups() {
        let mut header = [0; MAX_HEADER];
        let (len, vnet) = coalescer.write_header(group, &memory, &mut header).expect("room for any header");
        let payload: usize = coalescer.payload(group).map(|piece| memory[piece].len()).sum();
        packets += usize::from(group.packets);
        if group.packets > 1 {
            assert!(vnet.gso != Gso::None && vnet.gso_size > 0 && len + payload <= 65_535);
            assert_eq!(payload.div_ceil(vnet.gso_size.into()), group.packets.into());
        } else {
            let whole: Vec<u8> =
                header[..len].iter().copied().chain(coalescer.payload(group).flat_map(|p| memory[p].to_vec())).collect();
            assert!(ranges.iter().any(|(_, v, range)| memory[range.clone()] == whole[..] && *v == vnet));
        }
    }
    assert_eq!(packets, ranges.len());
});
