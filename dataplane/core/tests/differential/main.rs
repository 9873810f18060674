//! Segmentation and coalescing against a slow second implementation that was written from the RFCs alone: every packet
//! is taken apart into fields and put together again, with checksums summed word by word.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may")]

mod coalescing;
mod following;
mod generate;
mod reference;
mod segmentation;
mod split;
mod stream;

use reference::{Fields, UDP};

#[test]
fn the_reference_agrees_with_a_third_implementation() {
    let fields = Fields {
        v6: false,
        tos: 0x2e,
        flow_label: 0,
        id: 7,
        df: true,
        ttl: 9,
        src: vec![10, 0, 0, 1],
        dst: vec![10, 0, 0, 2],
        between: vec![],
        next: UDP,
        ports: (1, 2),
        tcp: None,
        payload: b"odd".to_vec(),
    };
    let written = fields.write();
    let (again, checksum) = Fields::read(&written).unwrap();
    assert_eq!(again, fields);
    assert!(fields.checksum_is(checksum) && !fields.checksum_is(checksum ^ 1));
    let third = etherparse::PacketHeaders::from_ip_slice(&written).unwrap();
    let etherparse::NetHeaders::Ipv4(ip, _) = third.net.unwrap() else { panic!() };
    assert_eq!(ip.header_checksum, ip.calc_header_checksum());
    let udp = third.transport.unwrap().udp().unwrap();
    assert_eq!(udp.checksum, udp.calc_checksum_ipv4(&ip, third.payload.slice()).unwrap());
}
