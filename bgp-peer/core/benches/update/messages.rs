//! The message that reference figures were taken with: ORIGIN, empty AS_PATH, LOCAL_PREF, two route targets and the
//! encapsulation community for MPLS in GRE, and VPNv4 host routes of one distinguisher.
#![allow(unreachable_pub, reason = "shared by a bench and a test")]

use std::net::{IpAddr, Ipv4Addr};

use bgp_core::wire::header;
use bgp_core::wire::nlri::Nlri;
use bgp_core::wire::update::writer::UpdateWriter;
use bgp_core::{Family, FamilySet, Negotiated, SessionConfig, negotiate};
use bytes::BytesMut;
use vrouter_types::{Asn, Label, Prefix, RouteDistinguisher, VpnPrefix};

pub const NEXT_HOP: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 99, 4, 0));

/// Two internal speakers that agreed on VPNv4.
pub fn session() -> Negotiated {
    let config = |last: u8| SessionConfig {
        local_asn: Asn(65000),
        local_router_id: Ipv4Addr::new(10, 99, 0, last),
        peer_asn: Asn(65000),
        hold_time: 180,
        families: [Family::Vpnv4].into_iter().collect::<FamilySet>(),
        ..SessionConfig::default()
    };
    let agreed = negotiate(&config(1), &config(2).open()).unwrap();
    Negotiated { extended_message: false, ..agreed }
}

/// All attributes but MP_REACH_NLRI.
pub fn attributes() -> Vec<u8> {
    let mut octets = vec![0x40, 1, 1, 0, 0x40, 2, 0, 0x40, 5, 4, 0, 0, 0, 100, 0xc0, 16, 24];
    octets.extend([0, 2, 0xfd, 0xe8, 0, 0, 0, 1, 0, 2, 0xfd, 0xe8, 0, 1, 0x86, 0xa1]);
    octets.extend([3, 0x0c, 0, 0, 0, 0, 0, 11]);
    octets
}

pub fn routes(count: u32) -> impl Iterator<Item = Nlri> {
    (0..count).map(|number| {
        let address = Ipv4Addr::from(0x0b00_0000 + number);
        let rd = RouteDistinguisher::from_octets([0, 0, 0xfd, 0xe8, 0, 0, 0, 1]);
        let prefix = VpnPrefix { rd, prefix: Prefix::new(address.into(), 32).unwrap() };
        Nlri::Vpn(prefix, Label::new(16 + number).unwrap())
    })
}

/// One whole message with so many routes.
pub fn message(count: u32) -> Vec<u8> {
    let (attributes, mut out) = (attributes(), BytesMut::new());
    let mut message = UpdateWriter::announce(&mut out, Family::Vpnv4, NEXT_HOP, &attributes, header::MAX_LEN);
    routes(count).for_each(|route| assert!(message.push(&route)));
    message.finish();
    out.to_vec()
}
