//! What the fuzzers ask of cutting and joining, briefly: `cargo +nightly fuzz run segment` asks for longer.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

#[allow(unreachable_pub, reason = "shared with the fuzzers")]
#[path = "../fuzz/harness.rs"]
mod harness;
#[path = "pipeline/packets.rs"]
mod packets;

use dataplane_core::VnetHeader;
use packets::{df, tcp, udp};
use proptest::prelude::*;

fn any_vnet() -> impl Strategy<Value = VnetHeader> {
    let decoded = any::<[u8; 10]>().prop_filter_map("decodable", |octets| VnetHeader::decode(&octets));
    prop_oneof![Just(VnetHeader::NONE), decoded]
}

/// A sound packet, with some octets changed or not.
fn any_packet() -> impl Strategy<Value = Vec<u8>> {
    let changes = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..3);
    let ends = prop_oneof![Just(("10.0.0.1", "10.0.0.2")), Just(("fd00::1", "fd00::2"))];
    (ends, any::<bool>(), 0..3000usize, changes).prop_map(|((src, dst), is_tcp, payload, changes)| {
        let mut packet = if is_tcp { tcp(src, dst, 0x10, &[], payload) } else { udp(src, dst, payload) };
        for (at, octet) in changes {
            let at = at.index(packet.len().min(80));
            packet[at] = octet;
        }
        packet
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn whatever_is_cut_stays_within_its_promise(
        vnet in any_vnet(), max in 0..4000u16, fragment: bool, prefix: u8, packet in any_packet(), cut in 0..4000usize,
    ) {
        harness::segment(vnet, max, fragment, prefix, packet[..packet.len().min(cut)].to_vec());
    }

    #[test]
    fn whatever_is_long_is_cut_and_split_within_the_promises(
        vnet in any_vnet(), gso in 0..3u8, size in 48u16.., max: u16, prefix: u8, packet in any_packet(),
        len in 0..=harness::LONGEST,
    ) {
        let gso = [dataplane_core::Gso::TcpV4, dataplane_core::Gso::TcpV6, vnet.gso][usize::from(gso)];
        // Thousands of segments are cut too, but take their time.
        let vnet = VnetHeader { gso, gso_size: size, needs_csum: true, ..vnet };
        let mut packet = packet;
        harness::stretch(&mut packet, 0, len);
        harness::split(vnet, prefix, packet.clone());
        harness::segment(vnet, max.max(100), true, prefix, packet);
    }

    #[test]
    fn whatever_is_joined_stays_within_its_promise(
        packets in prop::collection::vec((any::<u8>(), any_vnet(), any_packet()), 0..harness::PACKETS),
    ) {
        harness::coalesce(packets);
    }
}

#[test]
fn sound_superframes_are_cut_and_sound_packets_joined() {
    let packet = tcp("10.0.0.1", "10.0.0.2", 0x10, &[], 2000);
    let vnet = VnetHeader {
        needs_csum: true,
        gso: dataplane_core::Gso::TcpV4,
        gso_size: 500,
        hdr_len: 40,
        csum_start: 20,
        csum_offset: 16,
        ..VnetHeader::NONE
    };
    assert_eq!(harness::segment(vnet, 1000, false, 4, packet.clone()), 4);
    let mut long = packet;
    harness::stretch(&mut long, 0, 245_760);
    assert_eq!(harness::split(vnet, 4, long.clone()), 4);
    assert_eq!(harness::segment(vnet, 1000, false, 4, long), 492);
    let datagram = df(udp("10.0.0.1", "10.0.0.2", 100));
    let same = vec![(0, VnetHeader::NONE, datagram); 5];
    assert_eq!(harness::coalesce(same), 1, "datagrams of one flow and length");
}
