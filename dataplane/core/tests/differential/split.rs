//! Superframes that are longer than an IP length field can tell: what becomes of them on the way to a tunnel, and on the
//! way to a port or the host, where they leave as several.

use dataplane_core::frame::{MAX_PACKET, MAX_SUPERFRAME};
use dataplane_core::segment::{Headers, MAX_HEADER, SegmentError, Step, split};
use dataplane_core::vnet::VNET_HEADER_LEN;
use dataplane_core::{Frame, Gso, VnetHeader};
use proptest::prelude::*;

use crate::generate::{packets, tcp_options};
use crate::reference::{ACK, CWR, FIN, Fields, PSH, TCP, TcpFields, UDP};
use crate::segmentation;

/// A superframe of several, as a port gets it.
struct Part {
    bytes: Vec<u8>,
    vnet: VnetHeader,
}

/// What we make of a superframe, behind a link header of this many octets.
fn ours(bytes: &[u8], vnet: VnetHeader, link: usize, memory: usize) -> Result<Vec<Part>, SegmentError> {
    let prefix = [&vnet.behind(link).encode()[..], &vec![0xee; link]].concat();
    let mut bytes = bytes.to_vec();
    let mut slices = split(&Frame::new(&mut bytes, vnet), &prefix)?;
    let mut memory = vec![0; memory.max(MAX_HEADER)];
    let (mut used, mut out) = (0, Vec::new());
    loop {
        let mut room = Headers::new(&mut memory, used);
        match slices.next(&bytes, &mut room) {
            Step::Slice(slice) => {
                used = room.used();
                let mut part = [&memory[slice.header], &bytes[slice.payload]].concat();
                let vnet = VnetHeader::decode(part[..VNET_HEADER_LEN].try_into().unwrap()).unwrap();
                assert_eq!(part[VNET_HEADER_LEN..VNET_HEADER_LEN + link], vec![0xee; link]);
                let mut frame = Frame::new(&mut part[VNET_HEADER_LEN..], vnet);
                frame.pull(link);
                out.push(Part { bytes: frame.bytes().to_vec(), vnet: *frame.vnet() });
            }
            Step::Full => used = 0,
            Step::Done => return Ok(out),
        }
    }
}

/// TCP of either family with more payload than one length field tells, as Linux and as nobody sends it.
fn superframes() -> impl Strategy<Value = Fields> {
    let tcp = (any::<u32>(), any::<u32>(), any::<u8>(), any::<u16>(), tcp_options()).prop_map(
        |(seq, ack, flags, window, options)| TcpFields {
            seq,
            ack,
            flags,
            window,
            options,
            ..TcpFields::default()
        },
    );
    let plain = prop::option::weighted(0.7, tcp);
    (packets(66_000..MAX_SUPERFRAME - 200), plain).prop_filter_map("TCP", |(mut fields, plain)| {
        if let Some(tcp) = plain {
            if fields.tcp.is_none() {
                // What leads to UDP does not lead to TCP.
                fields.next = TCP;
                fields.between.clear();
            }
            fields.tcp = Some(tcp);
        }
        fields.tcp.is_some().then_some(fields)
    })
}

/// Segments as networks have them, and some that are longer than any network's.
fn sizes() -> impl Strategy<Value = u16> {
    prop_oneof![2 => 100u16..9000, 2 => 1200u16..1460, 1 => 9000..=u16::MAX, 1 => 32_000u16..33_000]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, max_shrink_iters: 64, ..ProptestConfig::default() })]

    #[test]
    fn a_long_superframe_leaves_for_a_tunnel_as_the_packets_that_the_rfcs_describe(
        fields in superframes(), size in sizes(), narrower in 0usize..400,
    ) {
        let (bytes, vnet) = fields.write_superframe(size);
        prop_assert!(bytes.len() > MAX_PACKET);
        let header = usize::from(vnet.hdr_len);
        let room = usize::from(size).saturating_sub(narrower).max(50).min(MAX_PACKET - header);
        let got = segmentation::ours(&bytes, vnet, header + room, false, 4096).unwrap();
        let want: Vec<Vec<u8>> = fields.cut(room).iter().map(Fields::write).collect();
        prop_assert!(got == want, "{} packets instead of {}", got.len(), want.len());
    }

    #[test]
    fn a_long_superframe_in_parts_stands_for_the_same_packets(
        fields in superframes(), size in sizes(), link in 0usize..19, memory in 0usize..4000,
    ) {
        let (bytes, vnet) = fields.write_superframe(size);
        let whole = segmentation::ours(&bytes, vnet, MAX_PACKET, false, 4096).unwrap();
        let parts = ours(&bytes, vnet, link, memory).unwrap();
        let (mut packets, mut payload) = (Vec::new(), 0);
        for (index, part) in parts.iter().enumerate() {
            prop_assert!(part.bytes.len() <= MAX_PACKET, "{} octets", part.bytes.len());
            // Reading checks length and header checksum; writing it again, the pseudo header's sum and all else.
            let (fields, _) = Fields::read(&part.bytes).expect("a part is a sound superframe");
            let (again, expected) = fields.write_superframe(size);
            prop_assert!(again == part.bytes, "part {index} is not what its fields say");
            // The congestion mark is a first segment's; that the whole had it may still be told.
            prop_assert_eq!(part.vnet, VnetHeader { ecn: vnet.ecn, ..expected });
            payload += fields.payload.len();
            packets.extend(segmentation::ours(&part.bytes, part.vnet, MAX_PACKET, false, 4096).unwrap());
        }
        prop_assert!(packets == whole, "{} packets instead of {}", packets.len(), whole.len());
        prop_assert_eq!(payload, fields.payload.len());
        // And no more parts than it takes.
        let header = usize::from(vnet.hdr_len);
        let each = (MAX_PACKET - header) / usize::from(size).min(MAX_PACKET - header);
        prop_assert_eq!(parts.len(), whole.len().div_ceil(each));
    }
}

/// As Linux sends it: time stamps, "don't fragment", 1,428 octets per segment.
fn linux(v6: bool) -> Fields {
    let len = if v6 { 16 } else { 4 };
    let tcp = TcpFields {
        seq: u32::MAX - 100_000,
        flags: ACK | FIN | PSH | CWR,
        window: 501,
        options: vec![1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2],
        ..TcpFields::default()
    };
    Fields {
        v6,
        tos: 2,
        flow_label: 0,
        id: if v6 { 0 } else { 0xffc0 },
        df: !v6,
        ttl: 64,
        src: vec![10; len],
        dst: vec![11; len],
        between: vec![],
        next: TCP,
        ports: (40_000, 5001),
        tcp: Some(tcp),
        payload: (0..MAX_SUPERFRAME - 72).map(|at| u8::try_from(at % 251).unwrap()).collect(),
    }
}

#[test]
fn marks_are_where_they_belong_and_identifications_count_the_segments() {
    let fields = linux(false);
    let (bytes, vnet) = fields.write_superframe(1428);
    assert_eq!((&bytes[2..4], bytes.len()), (&[0, 0][..], MAX_SUPERFRAME - 20));
    let parts = ours(&bytes, vnet, 14, 4096).unwrap();
    let read: Vec<Fields> = parts.iter().map(|part| Fields::read(&part.bytes).unwrap().0).collect();
    // 45 segments of 1,428 octets fit 65,535.
    let lengths: Vec<usize> = read.iter().map(|part| part.payload.len()).collect();
    assert_eq!(lengths, [64_260, 64_260, 64_260, MAX_SUPERFRAME - 72 - 3 * 64_260]);
    assert_eq!(read.iter().map(|part| part.id).collect::<Vec<_>>(), [0xffc0, 0xffed, 0x001a, 0x0047]);
    let flags: Vec<u8> = read.iter().map(|part| part.tcp.as_ref().unwrap().flags).collect();
    assert_eq!(flags, [ACK | CWR, ACK, ACK, ACK | FIN | PSH]);
    let seq = |at: usize| read[at].tcp.as_ref().unwrap().seq;
    assert_eq!((seq(0), seq(1), seq(2)), (u32::MAX - 100_000, u32::MAX - 35_740, 28_519));
}

#[test]
fn what_is_no_tcp_superframe_is_not_split() {
    for v6 in [false, true] {
        let fields = linux(v6);
        let (bytes, good) = fields.write_superframe(1428);
        assert!(ours(&bytes, good, 14, 0).is_ok());
        let other = if v6 { Gso::TcpV4 } else { Gso::TcpV6 };
        let header = usize::from(good.hdr_len);
        let small = Fields { tcp: None, payload: vec![7; 3000], ..fields.clone() };
        let small = Fields { next: UDP, ..small };
        let (datagrams, of_datagrams) = small.write_superframe(1000);
        let mut fragment = bytes.clone();
        fragment[6] |= 0x20;
        for (name, bytes, vnet) in [
            ("checksum complete", &bytes[..], VnetHeader { needs_csum: false, ..good }),
            ("no superframe", &bytes, VnetHeader { gso: Gso::None, ..good }),
            ("nothing at all", &bytes, VnetHeader::NONE),
            ("the other family", &bytes, VnetHeader { gso: other, ..good }),
            ("datagrams", &bytes, VnetHeader { gso: Gso::UdpL4, ..good }),
            ("segments of nothing", &bytes, VnetHeader { gso_size: 0, ..good }),
            ("UDP", &datagrams, of_datagrams),
            ("UDP that says TCP", &datagrams, good),
            ("no payload", &bytes[..header], good),
            ("half a TCP header", &bytes[..header - 20], good),
            ("half an IP header", &bytes[..15], good),
            ("no octets", &[], good),
        ] {
            assert_eq!(ours(bytes, vnet, 14, 0).err(), Some(SegmentError::Malformed), "{name}, IPv6: {v6}");
        }
        if !v6 {
            assert_eq!(ours(&fragment, good, 14, 0).err(), Some(SegmentError::Malformed), "a fragment");
        }
    }
}
