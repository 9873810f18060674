use proptest::prelude::*;

use super::*;
use crate::segment::tests::{Shape, cut, shapes};

/// Packets side by side, as a receive buffer holds them, each behind four octets that are not its own.
struct Batch {
    memory: Vec<u8>,
    packets: Vec<Range<usize>>,
}

impl Batch {
    fn new(packets: &[Vec<u8>]) -> Batch {
        let mut batch = Batch { memory: Vec::new(), packets: Vec::new() };
        for packet in packets {
            batch.memory.extend([0xee; 4]);
            let start = batch.memory.len();
            batch.memory.extend(packet);
            batch.packets.push(start..batch.memory.len());
        }
        batch
    }

    /// What leaves: port, packets joined, bytes, virtio-net header.
    fn run(&self, ports: impl Fn(usize) -> u32) -> Vec<(u32, u16, Vec<u8>, VnetHeader)> {
        let mut coalescer = Coalescer::new(self.packets.len());
        for (index, range) in self.packets.iter().enumerate() {
            assert!(!coalescer.is_full());
            coalescer.push(&self.memory, ports(index), range.clone(), &VnetHeader::NONE);
        }
        let groups = coalescer.groups().iter().map(|group| {
            let mut header = [0; MAX_HEADER];
            let (len, vnet) = coalescer.write_header(group, &self.memory, &mut header).unwrap();
            let mut bytes = header[..len].to_vec();
            coalescer.payload(group).for_each(|piece| bytes.extend(&self.memory[piece]));
            (group.port, group.packets, bytes, vnet)
        });
        groups.collect()
    }

    fn joined(&self) -> Vec<u16> {
        self.run(|_| 0).into_iter().map(|(_, packets, ..)| packets).collect()
    }
}

fn shape(tcp: bool, payload: usize, size: u16) -> Shape {
    let payload = vec![0x5a; payload];
    Shape { v6: false, tcp, options: 3, flags: 0x10, seq: 1000, id: 1, payload, size }
}

/// The packets of a superframe, label taken off.
fn packets(shape: &Shape) -> Vec<Vec<u8>> {
    let (bytes, vnet) = shape.build();
    cut(&bytes, vnet, 65_535, false).unwrap().into_iter().map(|packet| packet[4..].to_vec()).collect()
}

/// Changes a packet and makes its checksums right again.
fn altered(packet: &[u8], change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut packet = packet.to_vec();
    change(&mut packet);
    packet[10..12].fill(0);
    let sum = checksum::checksum(&packet[..20]);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    let offset = if packet[9] == 6 { 36 } else { 26 };
    packet[offset..offset + 2].fill(0);
    let len = u32::try_from(packet.len() - 20).unwrap();
    let sum = checksum::sum(&packet[12..20]) + u32::from(packet[9]) + len + checksum::sum(&packet[20..]);
    packet[offset..offset + 2].copy_from_slice(&(!checksum::fold(sum)).to_be_bytes());
    packet
}

#[test]
fn a_change_in_any_header_field_that_matters_ends_the_group() {
    type Change = fn(&mut Vec<u8>);
    let tcp: [(&str, Change); 9] = [
        ("tos", |p| p[1] = 1),
        ("ttl", |p| p[8] = 9),
        ("don't fragment", |p| p[6] = 0),
        ("identification", |p| p[5] = 77),
        ("port", |p| p[21] = 9),
        ("sequence", |p| p[27] ^= 1),
        ("acknowledgement", |p| p[31] ^= 1),
        ("window", |p| p[34] ^= 1),
        ("options", |p| p[40] = 0),
    ];
    let all = packets(&shape(true, 300, 100));
    assert_eq!(Batch::new(&all).joined(), [3]);
    for (what, change) in tcp {
        let batch = [all[0].clone(), altered(&all[1], change), all[2].clone()];
        assert!(Batch::new(&batch).joined().len() > 1, "{what}");
    }
}

#[test]
fn flags_beyond_ack_and_psh_pass_alone_and_in_order() {
    let all = packets(&shape(true, 400, 100));
    for flag in [0x01, 0x02, 0x04, 0x20, 0x40, 0x80] {
        let odd = altered(&all[2], |packet| packet[33] |= flag);
        let batch = Batch::new(&[all[0].clone(), all[1].clone(), odd.clone(), all[3].clone()]);
        let out = batch.run(|_| 0);
        assert_eq!(out.iter().map(|(_, packets, ..)| *packets).collect::<Vec<_>>(), [2, 1, 1], "{flag:#x}");
        assert_eq!(out[1].2, odd);
    }
}

#[test]
fn psh_ends_a_group_and_is_kept() {
    let all = packets(&shape(true, 400, 100));
    let pushed = altered(&all[1], |packet| packet[33] |= 0x08);
    let batch = Batch::new(&[all[0].clone(), pushed, all[2].clone(), all[3].clone()]);
    let out = batch.run(|_| 0);
    assert_eq!(out.iter().map(|(_, packets, ..)| *packets).collect::<Vec<_>>(), [2, 2]);
    assert_eq!(out[0].2[33] & 0x08, 0x08);
}

#[test]
fn a_wrong_checksum_is_never_made_right() {
    for tcp in [true, false] {
        for broken in 0..3 {
            let mut all = packets(&shape(tcp, 300, 100));
            let last = all[broken].len() - 1;
            all[broken][last] ^= 1;
            let batch = Batch::new(&all);
            let whole = batch.run(|_| 0);
            let alone = whole.iter().filter(|(_, packets, ..)| *packets == 1).map(|(_, _, bytes, _)| bytes);
            assert!(alone.clone().any(|bytes| *bytes == all[broken]), "{tcp} {broken}");
        }
    }
}

#[test]
fn datagrams_join_while_equally_long_and_a_shorter_one_is_the_last() {
    let mut all = packets(&shape(false, 350, 100));
    assert_eq!(Batch::new(&all).joined(), [4]);
    all.swap(2, 3);
    // The identification counts on under "don't fragment" only if it does not stand still.
    let all: Vec<_> = all.iter().map(|packet| altered(packet, |packet| packet[5] = 1)).collect();
    assert_eq!(Batch::new(&all).joined(), [3, 1]);
}

#[test]
fn a_datagram_without_checksum_stays_without() {
    let mut all = packets(&shape(false, 300, 100));
    all[1][26..28].fill(0);
    let out = Batch::new(&all).run(|_| 0);
    assert_eq!(out.len(), 3);
    assert_eq!(out[1].2, all[1]);
}

#[test]
fn datagrams_pass_alone_where_the_kernel_takes_no_superframes_of_them() {
    let batch = Batch::new(&packets(&shape(false, 300, 100)));
    let mut coalescer = Coalescer::new(3);
    coalescer.join_datagrams(false);
    batch.packets.iter().for_each(|range| coalescer.push(&batch.memory, 0, range.clone(), &VnetHeader::NONE));
    assert_eq!(coalescer.groups().len(), 3);
}

#[test]
fn ports_are_kept_apart() {
    let all = packets(&shape(true, 400, 100));
    let out = Batch::new(&all).run(|index| u32::from(index >= 2));
    assert_eq!(out.iter().map(|(port, packets, ..)| (*port, *packets)).collect::<Vec<_>>(), [(0, 2), (1, 2)]);
}

#[test]
fn interleaved_flows_are_joined_each() {
    let one = packets(&shape(true, 400, 100));
    let two: Vec<_> = one.iter().map(|packet| altered(packet, |packet| packet[20] = 9)).collect();
    let mixed: Vec<_> = one.iter().zip(&two).flat_map(|(a, b)| [a.clone(), b.clone()]).collect();
    assert_eq!(Batch::new(&mixed).joined(), [4, 4]);
}

#[test]
fn nothing_joins_across_a_fragment_or_options() {
    let all = packets(&shape(false, 400, 100));
    let fragment = altered(&all[1], |packet| packet[6] = 0x20);
    let mut optioned = all[1].clone();
    optioned[0] = 0x46;
    for odd in [fragment, optioned] {
        let out = Batch::new(&[all[0].clone(), odd.clone(), all[1].clone(), all[2].clone()]).run(|_| 0);
        assert_eq!(out.iter().map(|(_, packets, ..)| *packets).collect::<Vec<_>>(), [1, 1, 2]);
        assert_eq!(out[1].2, odd);
    }
}

#[test]
fn other_protocols_pass_between() {
    let all = packets(&shape(true, 300, 100));
    let mut ping = all[1].clone();
    ping[9] = 1;
    let out = Batch::new(&[all[0].clone(), ping.clone(), all[1].clone(), all[2].clone()]).run(|_| 0);
    assert_eq!(out.iter().map(|(_, packets, ..)| *packets).collect::<Vec<_>>(), [3, 1]);
    assert_eq!(out[1].2, ping);
}

#[test]
fn a_group_is_no_longer_than_a_packet_can_be() {
    let big = packets(&shape(true, 60_000, 1400));
    let more = Shape { seq: 61_000, id: 44, ..shape(true, 60_000, 1400) };
    // 60,000 is no multiple of 1400, so make the first stream end in a full segment.
    let all: Vec<_> =
        big[..42].iter().cloned().chain(packets(&Shape { seq: 1000 + 42 * 1400, id: 43, ..more })).collect();
    let out = Batch::new(&all).run(|_| 0);
    assert!(out.len() > 1);
    assert!(
        out.iter()
            .all(|(_, _, bytes, _)| bytes.len() <= 65_535 && usize::from(ip::word(bytes, 2)) == bytes.len())
    );
    assert_eq!(out.iter().map(|(_, packets, ..)| usize::from(*packets)).sum::<usize>(), all.len());
}

#[test]
fn a_full_coalescer_says_so_and_clears() {
    let all = packets(&shape(true, 300, 100));
    let batch = Batch::new(&all);
    let mut coalescer = Coalescer::new(2);
    coalescer.push(&batch.memory, 0, batch.packets[0].clone(), &VnetHeader::NONE);
    coalescer.push(&batch.memory, 0, batch.packets[1].clone(), &VnetHeader::NONE);
    assert!(coalescer.is_full());
    coalescer.clear();
    assert!(!coalescer.is_full() && coalescer.groups().is_empty());
    coalescer.push(&batch.memory, 0, batch.packets[2].clone(), &VnetHeader::NONE);
    assert_eq!(coalescer.groups().len(), 1, "nothing joins across batches");
}

#[test]
fn superframes_pass_as_they_are_and_end_their_flows_group() {
    let shape = shape(true, 300, 100);
    let (bytes, vnet) = shape.build();
    let all = packets(&shape);
    let batch = Batch::new(&[all[0].clone(), bytes.clone(), all[1].clone()]);
    let mut coalescer = Coalescer::new(3);
    for (range, vnet) in batch.packets.iter().zip([VnetHeader::NONE, vnet, VnetHeader::NONE]) {
        coalescer.push(&batch.memory, 0, range.clone(), &vnet);
    }
    assert_eq!(coalescer.groups().len(), 3);
    let mut header = [0; MAX_HEADER];
    let superframe = coalescer.groups()[1];
    assert_eq!(coalescer.write_header(&superframe, &batch.memory, &mut header), Some((0, vnet)));
    assert_eq!(coalescer.payload(&superframe).collect::<Vec<_>>(), [batch.packets[1].clone()]);
}

proptest! {
    #[test]
    fn coalescing_what_was_segmented_gives_the_superframe(shape in shapes()) {
        let (bytes, vnet) = shape.build();
        let out = Batch::new(&packets(&shape)).run(|_| 3);
        prop_assert_eq!(out.len(), 1);
        let (port, packets, joined, header) = &out[0];
        prop_assert_eq!((*port, usize::from(*packets)), (3, shape.payload.len().div_ceil(usize::from(shape.size))));
        prop_assert_eq!(joined, &bytes);
        prop_assert_eq!(header, &vnet);
    }

    #[test]
    fn every_octet_leaves_once_and_flows_stay_in_order(
        shapes in proptest::collection::vec(shapes(), 1..4), order in any::<u16>(), breakage in 0u16..100,
    ) {
        // Flows that differ in both ports, which changes no checksum, interleaved by the bits of `order`.
        let mut flows: Vec<Vec<Vec<u8>>> = shapes.iter().map(packets).collect();
        let l4 = |packet: &[u8]| if packet[0] >> 4 == 6 { 40 } else { 20 };
        for (index, flow) in (0u8..).zip(&mut flows) {
            for packet in flow.iter_mut() {
                let l4 = l4(packet);
                packet[l4 + 1] += index;
                packet[l4 + 3] -= index;
            }
        }
        let mut mixed = Vec::new();
        let mut at = 0u32;
        while flows.iter().any(|flow| !flow.is_empty()) {
            let flow = usize::from(order.rotate_left(at)) % flows.len();
            at += 1;
            if !flows[flow].is_empty() {
                mixed.push(flows[flow].remove(0));
            } else if let Some(left) = flows.iter_mut().find(|flow| !flow.is_empty()) {
                mixed.push(left.remove(0));
            }
        }
        if let Some(packet) = mixed.get_mut(usize::from(breakage)) {
            *packet.last_mut().unwrap() ^= 0x20;
        }
        let out = Batch::new(&mixed).run(|_| 0);
        let groups = out.len();
        // Cutting what was joined gives back every packet, each flow's in its order.
        let mut after: Vec<Vec<u8>> = Vec::new();
        for (_, packets, bytes, vnet) in out {
            if packets == 1 {
                after.push(bytes);
            } else {
                after.extend(cut(&bytes, vnet, 65_535, false).unwrap().into_iter().map(|packet| packet[4..].to_vec()));
            }
        }
        let of_flow = |all: &[Vec<u8>], flow: u8| -> Vec<Vec<u8>> {
            all.iter().filter(|packet| packet[l4(packet) + 1] == 0x39 + flow).cloned().collect()
        };
        if shapes.len() == 1 && usize::from(breakage) >= mixed.len() {
            prop_assert_eq!(groups, 1);
        }
        prop_assert_eq!(after.len(), mixed.len());
        for flow in 0..4 {
            prop_assert_eq!(of_flow(&after, flow), of_flow(&mixed, flow));
        }
    }

    #[test]
    fn no_bytes_make_it_panic(
        packets in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..80), 0..8), version in 4u8..7,
    ) {
        let mut packets = packets;
        for packet in packets.iter_mut().filter(|packet| !packet.is_empty()) {
            packet[0] = version << 4 | packet[0] & 0x0f;
        }
        let total: usize = packets.iter().map(Vec::len).sum();
        let out = Batch::new(&packets).run(|_| 0);
        prop_assert!(out.iter().map(|(_, _, bytes, _)| bytes.len()).sum::<usize>() <= total);
    }
}
