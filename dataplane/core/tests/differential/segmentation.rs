//! What leaves for a tunnel, octet by octet.

use dataplane_core::segment::{Headers, MAX_HEADER, SegmentError, Step, label_entry, segment};
use dataplane_core::{Frame, Gso, VnetHeader};
use proptest::prelude::*;
use vrouter_types::Label;

use crate::generate::packets;
use crate::reference::{Fields, RST, SYN, URG};

/// The packets that we make of a frame, each behind its label.
pub(crate) fn ours(
    bytes: &[u8],
    vnet: VnetHeader,
    max: usize,
    fragment: bool,
    headers: usize,
) -> Result<Vec<Vec<u8>>, SegmentError> {
    let label = label_entry(Label::new(77).unwrap(), 0, 63);
    let mut bytes = bytes.to_vec();
    let mut slices = segment(&mut Frame::new(&mut bytes, vnet), &label, max, fragment)?;
    // Room for few headers at a time, as at the end of a full arena.
    let mut memory = vec![0; headers.max(MAX_HEADER)];
    let (mut used, mut out) = (0, Vec::new());
    loop {
        let mut room = Headers::new(&mut memory, used);
        match slices.next(&bytes, &mut room) {
            Step::Slice(slice) => {
                used = room.used();
                let packet = [&memory[slice.header], &bytes[slice.payload]].concat();
                assert_eq!(packet[..4], label);
                out.push(packet[4..].to_vec());
            }
            Step::Full => used = 0,
            Step::Done => return Ok(out),
        }
    }
}

/// Puts IPv4 fragments together (RFC 791 §3.2), in whatever order: the packet as it was before, by its fields.
fn reassemble(fragments: &[Vec<u8>]) -> Vec<u8> {
    let mut parts: Vec<(usize, bool, &[u8], &[u8])> = fragments
        .iter()
        .map(|bytes| {
            let header = usize::from(bytes[0] & 15) * 4;
            assert_eq!(crate::reference::sum(&[&bytes[..header]]), 0xffff, "header checksum");
            assert_eq!(usize::from(u16::from_be_bytes([bytes[2], bytes[3]])), bytes.len());
            let field = u16::from_be_bytes([bytes[6], bytes[7]]);
            (usize::from(field & 0x1fff) * 8, field & 0x2000 != 0, &bytes[..header], &bytes[header..])
        })
        .collect();
    parts.sort();
    let mut data = Vec::new();
    for (index, (at, more, _, part)) in parts.iter().enumerate() {
        assert_eq!(*at, data.len(), "no hole and no overlap");
        assert_eq!(*more, index + 1 < parts.len());
        data.extend(*part);
    }
    let mut header = parts[0].2.to_vec();
    let len = u16::try_from(header.len() + data.len()).unwrap();
    header[2..4].copy_from_slice(&len.to_be_bytes());
    header[6..8].fill(0);
    header[10..12].fill(0);
    let sum = !crate::reference::sum(&[&header]);
    header[10..12].copy_from_slice(&sum.to_be_bytes());
    [header, data].concat()
}

proptest! {
    #[test]
    fn a_superframe_leaves_as_the_packets_that_the_rfcs_describe(
        fields in packets(2..6000), size in 1u16..2000, narrower in 0usize..400, memory in 0usize..4000,
    ) {
        let size = size.min(u16::try_from(fields.payload.len()).unwrap());
        let (bytes, vnet) = fields.write_superframe(size);
        let header = usize::from(vnet.hdr_len);
        // A TCP stream may be cut smaller than its sender asked; a datagram may not.
        let room = if fields.tcp.is_some() { usize::from(size).saturating_sub(narrower).max(1) } else { size.into() };
        prop_assume!(fields.payload.len() / room < 1500);
        let got = ours(&bytes, vnet, header + room, false, memory).unwrap();
        let want: Vec<Vec<u8>> = fields.cut(room).iter().map(Fields::write).collect();
        prop_assert_eq!(got, want);
    }

    #[test]
    fn a_single_packet_leaves_with_its_checksum_completed_and_otherwise_as_it_came(fields in packets(0..1500)) {
        let (bytes, vnet) = fields.write_superframe(1);
        let vnet = VnetHeader { gso: Gso::None, gso_size: 0, ecn: false, ..vnet };
        prop_assert_eq!(ours(&bytes, vnet, 65_535, false, 0).unwrap(), vec![fields.write()]);
        // Complete already, right or wrong: not our business.
        let mut complete = fields.write();
        let last = complete.len() - 1;
        complete[last] ^= 0x40;
        prop_assert_eq!(ours(&complete, VnetHeader::NONE, 65_535, false, 0).unwrap(), vec![complete]);
    }

    #[test]
    fn a_segment_that_a_narrower_path_does_not_take_is_cut_as_its_sender_would_have(
        fields in packets(2..1500), room in 1usize..1400, broken in prop::bool::weighted(0.2),
    ) {
        let mut bytes = fields.write();
        let (header, payload) = (bytes.len() - fields.payload.len(), fields.payload.len());
        let room = room.min(payload - 1);
        if broken {
            *bytes.last_mut().unwrap() ^= 4;
        }
        let got = ours(&bytes, VnetHeader::NONE, header + room, false, 0);
        // What is no plain part of a stream, or wrong already, is not ours to make right.
        match &fields.tcp {
            Some(tcp) if tcp.flags & (SYN | RST | URG) == 0 && !broken => {
                let want: Vec<Vec<u8>> = fields.cut(room).iter().map(Fields::write).collect();
                prop_assert_eq!(got.unwrap(), want);
            }
            _ => prop_assert_eq!(got.err(), Some(SegmentError::TooBig)),
        }
    }

    #[test]
    fn what_is_fragmented_comes_together_as_it_was(mut fields in packets(100..3000), max in 68usize..1500) {
        fields.df = false;
        let fragmented = fields.write().len() > max;
        let got = ours(&fields.write(), VnetHeader::NONE, max, true, 0);
        if fields.v6 {
            // Routers do not fragment IPv6 (RFC 8200 §5).
            prop_assert_eq!(got.err(), fragmented.then_some(SegmentError::TooBig));
        } else {
            let got = got.unwrap();
            prop_assert!(got.iter().all(|packet| packet.len() <= max));
            prop_assert_eq!(got.len() > 1, fragmented);
            prop_assert_eq!(reassemble(&got), fields.write());
        }
    }
}
