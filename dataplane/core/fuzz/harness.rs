//! What cutting and joining promise, whatever they are given: for libFuzzer, and briefly for every run of the tests.

use dataplane_core::coalesce::{self, Coalescer};
use dataplane_core::frame::MAX_PACKET;
use dataplane_core::segment::{Headers, MAX_HEADER, Step, segment as plan, split as plan_split};
use dataplane_core::{Frame, Gso, VnetHeader};

/// Packets of a batch at most.
pub const PACKETS: usize = 16;
/// The longest frame that a worker has room for.
pub const LONGEST: usize = 262_272;

/// Makes a frame as long as superframes may be, which fuzzers do not get to on their own: the IP header at `at` tells no
/// length then. Shorter than it is, it stays as it is.
pub fn stretch(bytes: &mut Vec<u8>, at: usize, len: usize) {
    let len = len % (LONGEST + 1);
    if len <= bytes.len() {
        return;
    }
    bytes.resize(len, 0x61);
    if let Some(header) = bytes.get_mut(at..).and_then(|packet| packet.first_chunk_mut::<6>()) {
        let field = if header[0] >> 4 == 4 { 2..4 } else { 4..6 };
        header[field].fill(0);
    }
}

/// Superframes to be made into several: none longer than a packet can be, each saying how long it is, none lost. Answers
/// how many.
pub fn split(vnet: VnetHeader, prefix: u8, mut bytes: Vec<u8>) -> usize {
    let prefix = vec![0xaa; usize::from(prefix % 24)];
    let Ok(mut slices) = plan_split(&Frame::new(&mut bytes, vnet), &prefix) else { return 0 };
    let (mut memory, mut next, mut count) = ([0; MAX_HEADER], None, 0);
    while let Step::Slice(slice) = slices.next(&bytes, &mut Headers::new(&mut memory, 0)) {
        let header = &memory[slice.header][prefix.len()..];
        let len = header.len() + slice.payload.len();
        let told = usize::from(u16::from_be_bytes(if header[0] >> 4 == 4 {
            [header[2], header[3]]
        } else {
            [header[4], header[5]]
        }));
        assert!(
            len <= MAX_PACKET && told + if header[0] >> 4 == 4 { 0 } else { 40 } == len,
            "{len} octets, {told}"
        );
        assert_eq!(slice.payload.start, next.unwrap_or(header.len()));
        next = Some(slice.payload.end);
        count += 1;
    }
    assert_eq!(next, Some(bytes.len()));
    count
}

/// Frames to be cut: no slice longer than allowed, none lost, and the payload is the frame's. Answers the slices.
pub fn segment(vnet: VnetHeader, max: u16, fragment: bool, prefix: u8, mut bytes: Vec<u8>) -> usize {
    let prefix = vec![0xaa; usize::from(prefix % 24)];
    let mut frame = Frame::new(&mut bytes, vnet);
    let gso = frame.vnet().gso;
    let Ok(mut slices) = plan(&mut frame, &prefix, max.into(), fragment) else { return 0 };
    let (mut memory, mut used, mut payload, mut full) = ([0; MAX_HEADER], 0, 0, false);
    let mut count = 0;
    loop {
        let mut headers = Headers::new(&mut memory, used);
        match slices.next(&bytes, &mut headers) {
            Step::Slice(slice) => {
                (used, full) = (headers.used(), false);
                let len = slice.header.len() - prefix.len() + slice.payload.len();
                assert!(len <= usize::from(max), "{len} octets");
                assert!(gso == Gso::None || payload == 0 || slice.payload.len() <= bytes.len() - payload);
                payload += slice.payload.len();
                count += 1;
            }
            Step::Full => {
                assert!(!std::mem::replace(&mut full, true), "a slice's headers do not fit an empty buffer");
                used = 0;
            }
            Step::Done => break,
        }
    }
    assert!(payload <= bytes.len());
    count
}

/// Batches to be joined: every octet of payload leaves once, groups are described truly, and lone packets are untouched.
/// Answers the groups.
pub fn coalesce(packets: Vec<(u8, VnetHeader, Vec<u8>)>) -> usize {
    let (mut memory, mut ranges) = (Vec::new(), Vec::new());
    for (port, vnet, bytes) in packets.into_iter().take(PACKETS) {
        let at = memory.len();
        memory.extend(&bytes);
        ranges.push((port % 2, vnet, at..memory.len()));
    }
    let mut coalescer = Coalescer::new(PACKETS);
    for (port, vnet, range) in &ranges {
        assert!(!coalescer.is_full());
        coalescer.push(&memory, u32::from(*port), range.clone(), vnet);
    }
    let mut packets = 0;
    for group in coalescer.groups() {
        let mut header = [0; coalesce::MAX_HEADER];
        let (len, vnet) = coalescer.write_header(group, &memory, &mut header).expect("room for any header");
        let pieces: Vec<u8> = coalescer.payload(group).flat_map(|piece| memory[piece].to_vec()).collect();
        packets += usize::from(group.packets);
        if group.packets > 1 {
            assert!(vnet.gso != Gso::None && vnet.gso_size > 0 && len + pieces.len() <= 65_535);
            assert_eq!(pieces.len().div_ceil(vnet.gso_size.into()), group.packets.into());
        } else {
            let whole = [&header[..len], &pieces].concat();
            assert!(ranges.iter().any(|(_, v, range)| memory[range.clone()] == whole[..] && *v == vnet));
        }
    }
    assert_eq!(packets, ranges.len());
    coalescer.groups().len()
}
