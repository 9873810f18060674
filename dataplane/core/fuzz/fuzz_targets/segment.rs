//! Frames to be cut: no slice longer than allowed, none lost, and the payload is the frame's.
#![no_main]

use dataplane_core::segment::{Headers, MAX_HEADER, Step, segment};
use dataplane_core::{Frame, Gso};
use dataplane_core_fuzz::Vnet;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (Vnet, u16, bool, u8, &[u8])| {
    let (vnet, max, fragment, prefix, bytes) = input;
    let (mut bytes, prefix) = (bytes.to_vec(), vec![0xaa; usize::from(prefix % 24)]);
    let mut frame = Frame::new(&mut bytes, vnet.header());
    let gso = frame.vnet().gso;
    let Ok(mut slices) = segment(&mut frame, &prefix, max.into(), fragment) else { return };
    let (mut memory, mut used, mut payload, mut full) = ([0; MAX_HEADER], 0, 0, false);
    loop {
        let mut headers = Headers::new(&mut memory, used);
        match slices.next(&bytes, &mut headers) {
            Step::Slice(slice) => {
                used = headers.used();
                full = false;
                let len = slice.header.len() - prefix.len() + slice.payload.len();
                assert!(len <= usize::from(max), "{len} octets");
                assert!(gso == Gso::None || payload == 0 || slice.payload.len() <= bytes.len() - payload);
                payload += slice.payload.len();
            }
            Step::Full => {
                assert!(!std::mem::replace(&mut full, true), "a slice's headers do not fit an empty buffer");
                used = 0;
            }
            Step::Done => break,
        }
    }
    assert!(payload <= bytes.len());
});
