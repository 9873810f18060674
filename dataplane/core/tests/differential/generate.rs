//! Strategies: any packet of TCP or UDP that a sender could make.

use proptest::prelude::*;

use crate::reference::{Fields, TCP, TcpFields, UDP};

/// TCP options as they occur and as nobody has seen them: whole words, every length right.
pub(crate) fn tcp_options() -> impl Strategy<Value = Vec<u8>> {
    let option = prop_oneof![
        any::<[u8; 8]>().prop_map(|stamps| [&[8, 10][..], &stamps].concat()),
        any::<[u8; 8]>().prop_map(|block| [&[5, 10][..], &block].concat()),
        any::<[u8; 2]>().prop_map(|mss| [&[2, 4][..], &mss].concat()),
        Just(vec![1]),
        Just(vec![4, 2]),
        any::<u8>().prop_map(|shift| vec![3, 3, shift]),
        // An experiment, and one of the future.
        prop::collection::vec(any::<u8>(), 0..12).prop_map(|data| [
            &[254, 2 + u8::try_from(data.len()).unwrap()][..],
            &data
        ]
        .concat()),
        prop::collection::vec(any::<u8>(), 0..6).prop_map(|data| [
            &[99, 2 + u8::try_from(data.len()).unwrap()][..],
            &data
        ]
        .concat()),
    ];
    prop::collection::vec(option, 0..4).prop_map(|options| {
        let mut all: Vec<u8> = Vec::new();
        for option in options {
            if all.len() + option.len() <= 40 {
                all.extend(option);
            }
        }
        all.resize(all.len().next_multiple_of(4), 0);
        all
    })
}

/// IPv6 extension headers in front of this protocol: the next header of the IPv6 header, and the octets.
pub(crate) fn extensions(protocol: u8) -> impl Strategy<Value = (u8, Vec<u8>)> {
    // Hop-by-hop, destination options, a routing header that is used up; padding options inside.
    let header = (prop::sample::select(vec![0u8, 60, 43]), 0u8..3);
    prop::collection::vec(header, 0..3).prop_map(move |headers| {
        let (mut first, mut octets) = (protocol, Vec::new());
        for (kind, eights) in headers.into_iter().rev() {
            let mut header = vec![first, eights];
            let room = usize::from(eights) * 8 + 6;
            if kind == 43 {
                header.extend([4, 0]);
                header.resize(2 + room, 0);
            } else {
                header.extend([1, u8::try_from(room - 2).unwrap()]);
                header.resize(2 + room, 0);
            }
            octets = [header, octets].concat();
            first = kind;
        }
        (first, octets)
    })
}

/// IPv4 options, whole words.
fn v4_options() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        4 => Just(vec![]),
        1 => Just(vec![1, 1, 1, 0]),
        1 => any::<[u8; 4]>().prop_map(|a| [&[7, 7, 4][..], &a, &[0]].concat()),
        1 => any::<[u8; 2]>().prop_map(|a| vec![148, 4, a[0], a[1]]),
    ]
}

fn tcp_fields() -> impl Strategy<Value = TcpFields> {
    (any::<u32>(), any::<u32>(), 0u8..16, any::<u8>(), any::<u16>(), any::<u16>(), tcp_options()).prop_map(
        |(seq, ack, reserved, flags, window, urgent, options)| TcpFields {
            seq,
            ack,
            reserved,
            flags,
            window,
            urgent,
            options,
        },
    )
}

/// Any packet or superframe, with this much payload.
pub(crate) fn packets(payload: std::ops::Range<usize>) -> impl Strategy<Value = Fields> {
    let payload = (payload, any::<u8>()).prop_map(|(len, fill)| {
        (0..len).map(|at| fill.wrapping_add(u8::try_from(at % 251).unwrap())).collect::<Vec<u8>>()
    });
    let network = (any::<bool>(), any::<u8>(), 0u32..0x10_0000, any::<u16>(), any::<bool>(), any::<u8>());
    let transport = (any::<(u16, u16)>(), prop::option::of(tcp_fields()), payload);
    (network, any::<[u8; 32]>(), v4_options(), extensions(TCP), extensions(UDP), transport).prop_map(
        |(
            (v6, tos, flow_label, id, df, ttl),
            addresses,
            options,
            tcp_ext,
            udp_ext,
            (ports, tcp, payload),
        )| {
            let len = if v6 { 16 } else { 4 };
            let (next, extensions) = if tcp.is_some() { tcp_ext } else { udp_ext };
            Fields {
                v6,
                tos,
                flow_label: if v6 { flow_label } else { 0 },
                id: if v6 { 0 } else { id },
                df: df && !v6,
                ttl,
                src: addresses[..len].to_vec(),
                dst: addresses[16..16 + len].to_vec(),
                between: if v6 { extensions } else { options },
                next: if v6 {
                    next
                } else if tcp.is_some() {
                    TCP
                } else {
                    UDP
                },
                ports,
                tcp,
                payload,
            }
        },
    )
}
