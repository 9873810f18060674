//! Ribs that hear each other: what one sends, the other takes, without sessions in between.
#![allow(dead_code, reason = "each test file uses its part")]

use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use bgp_core::{
    Family, FamilySet, LocalRoute, Negotiated, PeerId, PeerPolicy, Rib, RibConfig, RibEvent, VrfImport,
    VrfRoute,
};
use bytes::BytesMut;
use vrouter_types::{Asn, Encap, EncapSet, Label, VrfId};

pub(crate) const PEER: PeerId = PeerId(0);
pub(crate) const ASN: Asn = Asn(65000);

pub(crate) fn address(n: u8) -> Ipv4Addr {
    Ipv4Addr::new(192, 0, 2, n)
}

pub(crate) fn rib(n: u8) -> Rib {
    let router_id = address(n);
    Rib::new(RibConfig { asn: ASN, router_id, cluster_id: router_id, max_paths: 100_000 })
}

pub(crate) fn session(local: u8, peer: u8, families: FamilySet) -> Negotiated {
    Negotiated {
        local_asn: ASN,
        peer_asn: ASN,
        local_router_id: address(local),
        peer_router_id: address(peer),
        is_ibgp: true,
        as4: true,
        hold_time: 90,
        families,
        extended_message: false,
        route_refresh: true,
        enhanced_route_refresh: false,
        extended_nexthop: FamilySet::EMPTY,
        restart: bgp_core::RestartTerms::default(),
    }
}

pub(crate) fn policy(n: u8) -> PeerPolicy {
    PeerPolicy::new(IpAddr::V4(address(n)))
}

pub(crate) fn vpn() -> FamilySet {
    FamilySet::from_iter([Family::Vpnv4, Family::Vpnv6])
}

pub(crate) fn imports(targets: &[(u32, &[&str])]) -> Vec<VrfImport> {
    targets
        .iter()
        .map(|(vrf, targets)| VrfImport {
            vrf: VrfId(*vrf),
            import: targets.iter().map(|target| target.parse().unwrap()).collect(),
        })
        .collect()
}

pub(crate) fn route(prefix: &str, label: u32, targets: &[&str]) -> LocalRoute {
    LocalRoute {
        prefix: prefix.parse().unwrap(),
        label: Label::new(label).unwrap(),
        next_hop: address(1).into(),
        route_targets: targets.iter().map(|target| target.parse().unwrap()).collect(),
        encaps: EncapSet::from_iter([Encap::MplsOverUdp]),
        local_pref: 100,
        med: None,
        as_path_prepend: Vec::new(),
        communities: Vec::new(),
        large_communities: Vec::new(),
        hash_order: None,
    }
}

/// Everything that the RIB has to say to a neighbor, as bodies with their type.
pub(crate) fn messages(rib: &mut Rib, peer: PeerId) -> Vec<(u8, Vec<u8>)> {
    let mut all = Vec::new();
    let mut out = BytesMut::new();
    while rib.poll_message(peer, &mut out) {
        assert_eq!(out[..16], [0xff; 16]);
        assert_eq!(usize::from(u16::from_be_bytes([out[16], out[17]])), out.len(), "one whole message");
        all.push((out[18], out[19..].to_vec()));
        out.clear();
        assert!(all.len() < 100_000, "does not end");
    }
    assert!(out.is_empty(), "said no, yet wrote");
    all
}

pub(crate) fn take(rib: &mut Rib, peer: PeerId, messages: &[(u8, Vec<u8>)], now: Instant) {
    for (kind, body) in messages {
        match kind {
            2 => rib.handle_update(peer, body, now).unwrap(),
            5 => rib.handle_route_refresh(peer, body, now).unwrap(),
            other => panic!("message of type {other}"),
        }
    }
}

/// Carries messages both ways until both are silent.
pub(crate) fn settle(a: &mut Rib, b: &mut Rib, now: Instant) {
    for _ in 0..20 {
        let (to_b, to_a) = (messages(a, PEER), messages(b, PEER));
        if to_b.is_empty() && to_a.is_empty() {
            return;
        }
        take(b, PEER, &to_b, now);
        take(a, PEER, &to_a, now);
    }
    panic!("the two never fall silent");
}

pub(crate) fn connect(a: &mut Rib, b: &mut Rib, families: FamilySet, now: Instant) {
    a.peer_up(PEER, policy(2), &session(1, 2, families), now);
    b.peer_up(PEER, policy(1), &session(2, 1, families), now);
}

pub(crate) fn events(rib: &mut Rib) -> Vec<VrfRoute> {
    std::iter::from_fn(|| rib.poll_event()).filter_map(vrf_route).collect()
}

fn vrf_route(event: RibEvent) -> Option<VrfRoute> {
    match event {
        RibEvent::VrfRoute(route) => Some(route),
        RibEvent::PrefixLimit(_) => None,
    }
}

pub(crate) fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}
