use std::net::IpAddr;

use proptest::prelude::*;

use super::*;
use crate::vnet::VnetHeader;

pub(crate) const ENTRY: [u8; 4] = [0x00, 0x01, 0x01, 0x40];

/// What a superframe is made of.
#[derive(Debug, Clone)]
pub(crate) struct Shape {
    pub(crate) v6: bool,
    pub(crate) tcp: bool,
    pub(crate) options: usize,
    pub(crate) flags: u8,
    pub(crate) seq: u32,
    pub(crate) id: u16,
    pub(crate) payload: Vec<u8>,
    pub(crate) size: u16,
}

impl Shape {
    fn addresses(&self) -> (IpAddr, IpAddr) {
        if self.v6 {
            ("fd01::1".parse().unwrap(), "fd01::2".parse().unwrap())
        } else {
            ("10.1.0.1".parse().unwrap(), "10.1.0.2".parse().unwrap())
        }
    }

    /// The superframe as a kernel would hand it over: pseudo header's sum in the checksum field.
    pub(crate) fn build(&self) -> (Vec<u8>, VnetHeader) {
        let mut l4 = vec![0x30, 0x39, 0x14, 0xb5];
        if self.tcp {
            l4.extend(self.seq.to_be_bytes());
            l4.extend([
                0,
                0,
                0,
                9,
                0x50 + u8::try_from(self.options * 16).unwrap(),
                self.flags,
                1,
                2,
                0,
                0,
                0,
                0,
            ]);
            l4.extend(std::iter::repeat_n(1, self.options * 4));
        } else {
            l4.extend(u16::try_from(8 + self.payload.len()).unwrap().to_be_bytes());
            l4.extend([0, 0]);
        }
        let (header, offset) = (l4.len(), if self.tcp { 16 } else { 6 });
        l4.extend(&self.payload);
        let (src, dst) = self.addresses();
        let protocol = if self.tcp { 6 } else { 17 };
        let pseudo = checksum::fold(checksum::pseudo_header(src, dst, protocol, l4.len()));
        l4[offset..offset + 2].copy_from_slice(&pseudo.to_be_bytes());
        let mut bytes = if self.v6 {
            let mut ip = vec![0x60, 0, 0, 0];
            ip.extend(u16::try_from(l4.len()).unwrap().to_be_bytes());
            ip.extend([protocol, 64]);
            ip
        } else {
            let mut ip = vec![0x45, 0];
            ip.extend(u16::try_from(20 + l4.len()).unwrap().to_be_bytes());
            ip.extend(self.id.to_be_bytes());
            ip.extend([0x40, 0, 64, protocol, 0, 0]);
            ip
        };
        for address in [src, dst] {
            match address {
                IpAddr::V4(address) => bytes.extend(address.octets()),
                IpAddr::V6(address) => bytes.extend(address.octets()),
            }
        }
        if !self.v6 {
            let sum = checksum::checksum(&bytes);
            bytes[10..12].copy_from_slice(&sum.to_be_bytes());
        }
        let start = bytes.len();
        bytes.extend(l4);
        let vnet = VnetHeader {
            needs_csum: true,
            gso: match (self.tcp, self.v6) {
                (true, false) => Gso::TcpV4,
                (true, true) => Gso::TcpV6,
                (false, _) => Gso::UdpL4,
            },
            hdr_len: u16::try_from(start + header).unwrap(),
            gso_size: self.size,
            csum_start: u16::try_from(start).unwrap(),
            csum_offset: u16::try_from(offset).unwrap(),
            ..VnetHeader::NONE
        };
        (bytes, vnet)
    }
}

/// Any superframe of at least two packets.
pub(crate) fn shapes() -> impl Strategy<Value = Shape> {
    let payload = (2usize..40, 1u16..200, any::<u8>()).prop_flat_map(|(packets, size, fill)| {
        let full = (packets - 1) * usize::from(size);
        (full + 1..=full + usize::from(size)).prop_map(move |len| {
            let payload = (0..len).map(|at| fill.wrapping_add(u8::try_from(at % 251).unwrap())).collect();
            (payload, size)
        })
    });
    (
        any::<[bool; 2]>(),
        0usize..=10,
        prop_oneof![Just(0x10), Just(0x18)],
        any::<u32>(),
        any::<u16>(),
        payload,
    )
        .prop_map(|([v6, tcp], options, flags, seq, id, (payload, size))| Shape {
            v6,
            tcp,
            options,
            flags,
            seq,
            id,
            payload,
            size,
        })
}

/// The slices of a frame as packets, label and all.
pub(crate) fn cut(
    bytes: &[u8],
    vnet: VnetHeader,
    max: usize,
    fragment: bool,
) -> Result<Vec<Vec<u8>>, SegmentError> {
    let mut bytes = bytes.to_vec();
    let mut slices = segment(&mut Frame::new(&mut bytes, vnet), &ENTRY, max, fragment)?;
    // Memory for one header only: every other call finds it full.
    let (mut memory, mut used, mut packets) = ([0; MAX_HEADER], 0, Vec::new());
    loop {
        let mut headers = Headers::new(&mut memory, used);
        match slices.next(&bytes, &mut headers) {
            Step::Slice(slice) => {
                used = headers.used();
                packets.push([&memory[slice.header], &bytes[slice.payload]].concat());
            }
            Step::Full => used = 0,
            Step::Done => return Ok(packets),
        }
    }
}

/// An independent reader's view of a packet behind its label; it panics where checksums or lengths are wrong.
fn read(packet: &[u8]) -> (etherparse::NetHeaders, Option<etherparse::TransportHeader>, Vec<u8>) {
    assert_eq!(packet[..4], ENTRY);
    let sliced = etherparse::PacketHeaders::from_ip_slice(&packet[4..]).unwrap();
    let payload = sliced.payload.slice().to_vec();
    let (net, transport) = (sliced.net.unwrap(), sliced.transport);
    match (&net, &transport) {
        (etherparse::NetHeaders::Ipv4(ip, _), transport) => {
            assert_eq!(ip.header_checksum, ip.calc_header_checksum());
            assert_eq!(usize::from(ip.total_len), packet.len() - 4);
            match transport {
                Some(etherparse::TransportHeader::Tcp(tcp)) => {
                    assert_eq!(tcp.checksum, tcp.calc_checksum_ipv4(ip, &payload).unwrap());
                }
                Some(etherparse::TransportHeader::Udp(udp)) => {
                    assert_eq!(udp.checksum, udp.calc_checksum_ipv4(ip, &payload).unwrap());
                }
                _ => {}
            }
        }
        (etherparse::NetHeaders::Ipv6(ip, _), Some(etherparse::TransportHeader::Tcp(tcp))) => {
            assert_eq!(usize::from(ip.payload_length), packet.len() - 44);
            assert_eq!(tcp.checksum, tcp.calc_checksum_ipv6(ip, &payload).unwrap());
        }
        (etherparse::NetHeaders::Ipv6(ip, _), Some(etherparse::TransportHeader::Udp(udp))) => {
            assert_eq!(udp.checksum, udp.calc_checksum_ipv6(ip, &payload).unwrap());
        }
        other => panic!("{other:?}"),
    }
    (net, transport, payload)
}

fn tcp_shape(payload: usize, size: u16) -> Shape {
    let payload = (0..payload).map(|at| u8::try_from(at % 251).unwrap()).collect();
    Shape { v6: false, tcp: true, options: 3, flags: 0x10, seq: 7, id: 0xfffe, payload, size }
}

#[test]
fn sequence_and_identification_count_on_and_flags_are_shared_out() {
    // CWR, PSH, FIN and ACK on the superframe.
    let (bytes, vnet) = Shape { flags: 0x99, ..tcp_shape(250, 100) }.build();
    let packets = cut(&bytes, vnet, 1400, false).unwrap();
    let seen: Vec<_> = packets
        .iter()
        .map(|packet| {
            let (net, transport, payload) = read(packet);
            let etherparse::NetHeaders::Ipv4(ip, _) = net else { panic!("{net:?}") };
            (
                ip.identification,
                transport.unwrap().tcp().unwrap().sequence_number,
                packet[4 + 33],
                payload.len(),
            )
        })
        .collect();
    assert_eq!(seen, [(0xfffe, 7, 0x90, 100), (0xffff, 107, 0x10, 100), (0, 207, 0x19, 50)]);
}

#[test]
fn a_byte_stream_is_cut_smaller_where_the_tunnel_takes_less() {
    let (bytes, vnet) = tcp_shape(3000, 1400).build();
    let packets = cut(&bytes, vnet, 600, false).unwrap();
    assert!(packets.iter().all(|packet| packet.len() <= 604));
    assert!(packets[..packets.len() - 1].iter().all(|packet| packet.len() == 604), "equal but for the last");
    assert_eq!(packets.iter().flat_map(|packet| read(packet).2).collect::<Vec<_>>(), bytes[52..]);
    assert_eq!(cut(&bytes, vnet, 52, false), Err(SegmentError::TooBig));
}

#[test]
fn a_lone_segment_that_is_too_long_is_cut_if_it_was_intact() {
    let (bytes, vnet) = tcp_shape(1400, 1).build();
    let plain = VnetHeader { gso: Gso::None, ..vnet };
    let packets = cut(&bytes, plain, 1000, false).unwrap();
    assert_eq!(packets.iter().map(|packet| read(packet).2.len()).collect::<Vec<_>>(), [948, 452]);
    let mut complete = bytes.clone();
    assert!(checksum::finish_partial(&mut complete, 20, 16));
    assert_eq!(cut(&complete, VnetHeader::NONE, 1000, false), Ok(packets));
    complete[100] ^= 1;
    assert_eq!(cut(&complete, VnetHeader::NONE, 1000, false), Err(SegmentError::TooBig));
    let (syn, vnet) = Shape { flags: 0x12, ..tcp_shape(1400, 1) }.build();
    assert_eq!(cut(&syn, VnetHeader { gso: Gso::None, ..vnet }, 1000, false), Err(SegmentError::TooBig));
}

#[test]
fn datagrams_keep_their_borders_or_do_not_pass() {
    let (bytes, vnet) = Shape { tcp: false, ..tcp_shape(3000, 1200) }.build();
    let packets = cut(&bytes, vnet, 1228, false).unwrap();
    assert_eq!(packets.iter().map(|packet| read(packet).2.len()).collect::<Vec<_>>(), [1200, 1200, 600]);
    assert_eq!(cut(&bytes, vnet, 1227, false), Err(SegmentError::TooBig));
    // Even where fragmentation is allowed: they say "don't fragment".
    assert_eq!(cut(&bytes, vnet, 1227, true), Err(SegmentError::TooBig));
}

#[test]
fn a_plain_packet_passes_whole_with_its_checksum_completed() {
    for tcp in [true, false] {
        let (bytes, vnet) = Shape { tcp, ..tcp_shape(90, 100) }.build();
        let packets = cut(&bytes, VnetHeader { gso: Gso::None, ..vnet }, 1400, false).unwrap();
        assert_eq!(packets.len(), 1);
        assert_eq!(read(&packets[0]).2, bytes[bytes.len() - 90..]);
    }
}

/// Puts fragments of one packet together again.
fn reassemble(fragments: &[Vec<u8>]) -> Vec<u8> {
    let mut whole: Vec<u8> = Vec::new();
    for (index, fragment) in fragments.iter().enumerate() {
        let (net, _, _) = read_ip_only(fragment);
        let data = &fragment[4 + net.header_len()..];
        assert_eq!(usize::from(net.fragment_offset.value()) * 8, whole.len());
        assert_eq!(net.more_fragments, index + 1 < fragments.len());
        whole.extend(data);
    }
    whole
}

fn read_ip_only(packet: &[u8]) -> (etherparse::Ipv4Header, usize, ()) {
    let (ip, rest) = etherparse::Ipv4Header::from_slice(&packet[4..]).unwrap();
    assert_eq!(ip.header_checksum, ip.calc_header_checksum());
    assert_eq!(usize::from(ip.total_len), packet.len() - 4);
    (ip, rest.len(), ())
}

#[test]
fn a_packet_that_may_be_fragmented_is_and_comes_together_again() {
    let (mut bytes, vnet) = Shape { tcp: false, ..tcp_shape(1000, 2000) }.build();
    bytes[6] = 0;
    bytes[10..12].fill(0);
    let sum = checksum::checksum(&bytes[..20]);
    bytes[10..12].copy_from_slice(&sum.to_be_bytes());
    let plain = VnetHeader { gso: Gso::None, ..vnet };
    let mut complete = bytes.clone();
    assert!(checksum::finish_partial(&mut complete, 20, 6));
    for max in [28, 300, 1027] {
        let fragments = cut(&bytes, plain, max, true).unwrap();
        assert!(fragments.len() > 1 && fragments.iter().all(|fragment| fragment.len() <= max + 4), "{max}");
        assert_eq!(reassemble(&fragments), complete[20..], "{max}");
    }
    assert_eq!(cut(&bytes, plain, 1027, false), Err(SegmentError::TooBig));
    assert_eq!(cut(&bytes, plain, 27, true), Err(SegmentError::TooBig), "no room for eight octets");
}

#[test]
fn a_fragment_is_fragmented_further() {
    let (mut bytes, vnet) = Shape { tcp: false, ..tcp_shape(100, 2000) }.build();
    // Offset 40 octets, more to come.
    bytes[6..8].copy_from_slice(&[0x20, 5]);
    let vnet = VnetHeader { gso: Gso::None, needs_csum: false, ..vnet };
    let fragments = cut(&bytes, vnet, 84, true).unwrap();
    let seen: Vec<_> = fragments.iter().map(|f| (f[4 + 6..4 + 8].to_vec(), f.len() - 24)).collect();
    assert_eq!(seen, [(vec![0x20, 5], 64), (vec![0x20, 13], 44)]);
}

#[test]
fn a_fragment_is_cut_up_to_the_end_of_the_longest_datagram_and_not_beyond() {
    let (mut bytes, vnet) = Shape { tcp: false, ..tcp_shape(100, 2000) }.build();
    let vnet = VnetHeader { gso: Gso::None, needs_csum: false, ..vnet };
    let last = u16::try_from((65_535 - bytes.len()) / 8).unwrap();
    bytes[6..8].copy_from_slice(&last.to_be_bytes());
    let fragments = cut(&bytes, vnet, 84, true).unwrap();
    let seen: Vec<_> = fragments.iter().map(|f| u16::from_be_bytes([f[4 + 6], f[4 + 7]])).collect();
    assert_eq!(seen, [last | 0x2000, last + 8]);
    bytes[6..8].copy_from_slice(&(last + 1).to_be_bytes());
    assert_eq!(cut(&bytes, vnet, 84, true), Err(SegmentError::Malformed));
}

#[test]
fn datagrams_of_a_superframe_are_fragmented_one_by_one() {
    let (mut bytes, vnet) = Shape { tcp: false, ..tcp_shape(700, 300) }.build();
    bytes[6] = 0;
    let fragments = cut(&bytes, vnet, 200, true).unwrap();
    // Two datagrams of 308 octets behind the IP header in two fragments each, and one of 108.
    let sizes: Vec<_> = fragments.iter().map(|fragment| fragment.len() - 24).collect();
    assert_eq!(sizes, [176, 132, 176, 132, 108]);
    let payload: Vec<u8> = [&fragments[..2], &fragments[2..4], &fragments[4..]]
        .iter()
        .flat_map(|f| reassemble(f)[8..].to_vec())
        .collect();
    assert_eq!(payload, bytes[28..]);
}

#[test]
fn later_fragments_forget_options_that_are_not_copied() {
    let mut bytes = vec![0x47, 0, 0, 0, 0, 1, 0, 0, 64, 99, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
    // Record route, not copied; loose source route, copied.
    bytes.extend([7, 3, 4, 0x83, 3, 4, 1, 0]);
    bytes.extend([5; 64]);
    let fragments = cut(&bytes, VnetHeader::NONE, 60, true).unwrap();
    assert_eq!(fragments[0][24..32], [7, 3, 4, 0x83, 3, 4, 1, 0]);
    assert_eq!(fragments[1][24..32], [1, 1, 1, 0x83, 3, 4, 1, 0]);
}

#[test]
fn extension_headers_are_kept() {
    let (bytes, vnet) = Shape { v6: true, ..tcp_shape(250, 100) }.build();
    // A destination option header of padding between IPv6 and TCP.
    let mut extended = bytes[..40].to_vec();
    extended[6] = 60;
    extended.extend([6, 0, 1, 4, 0, 0, 0, 0]);
    extended.extend(&bytes[40..]);
    let vnet = VnetHeader { csum_start: 48, ..vnet };
    let packets = cut(&extended, vnet, 1400, false).unwrap();
    assert_eq!(packets.len(), 3);
    for packet in &packets {
        assert_eq!(packet[44..52], [6, 0, 1, 4, 0, 0, 0, 0]);
        read(packet);
    }
}

#[test]
fn superframes_that_do_not_add_up_are_refused() {
    let (bytes, vnet) = tcp_shape(250, 100).build();
    let refused = |bytes: &[u8], vnet| cut(bytes, vnet, 1400, false) == Err(SegmentError::Malformed);
    assert!(refused(&bytes, VnetHeader { gso_size: 0, ..vnet }));
    assert!(refused(&bytes, VnetHeader { gso: Gso::TcpV6, ..vnet }));
    assert!(refused(&bytes, VnetHeader { gso: Gso::UdpL4, ..vnet }));
    assert!(refused(&bytes, VnetHeader { gso: Gso::None, csum_start: 5000, ..vnet }));
    let mut fragment = bytes.clone();
    fragment[7] = 1;
    assert!(refused(&fragment, vnet));
    let mut lying = bytes.clone();
    lying[32] = 0xf0;
    assert!(cut(&lying, vnet, 1400, false).is_ok(), "a longer header is legal as long as there is payload");
    lying[32] = 0x40;
    assert!(refused(&lying, vnet));
    for len in 0..52 {
        assert!(refused(&bytes[..len], vnet), "{len}");
    }
}

proptest! {
    #[test]
    fn slices_are_valid_packets_that_carry_the_payload(shape in shapes()) {
        let (bytes, vnet) = shape.build();
        let packets = cut(&bytes, vnet, 65_535, false).unwrap();
        let header = usize::from(vnet.hdr_len);
        prop_assert_eq!(packets.len(), shape.payload.len().div_ceil(usize::from(shape.size)));
        let (last, equal) = packets.split_last().unwrap();
        prop_assert!(equal.iter().all(|packet| packet.len() == 4 + header + usize::from(shape.size)));
        prop_assert!(last.len() <= 4 + header + usize::from(shape.size));
        prop_assert_eq!(packets.iter().flat_map(|packet| read(packet).2).collect::<Vec<_>>(), shape.payload);
    }

    #[test]
    fn no_bytes_make_it_panic(
        mut bytes in proptest::collection::vec(any::<u8>(), 0..300), version in 4u8..7, vnet: [u8; 10], max in 0usize..400,
        fragment: bool,
    ) {
        if let Some(first) = bytes.first_mut() {
            *first = version << 4 | *first & 0x0f;
        }
        if let Some(vnet) = VnetHeader::decode(&vnet)
            && let Ok(packets) = cut(&bytes, vnet, max, fragment)
        {
            prop_assert!(packets.iter().all(|packet| packet.len() <= max + 4));
        }
    }
}
