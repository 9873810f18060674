//! What a VRF gets from several neighbors, and what an UPDATE must carry to count at all.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod rib_pair;

use std::net::IpAddr;
use std::time::Instant;

use bgp_core::{Family, FamilySet, LocalRoute, PeerId, PeerPolicy, Rib, RouteQuery};
use rib_pair::*;
use vrouter_types::{Encap, EncapSet};

const RED: &str = "target:65000:100";
const PREFIX: &str = "10.0.0.1/32";

/// A PE that has nothing but this route, as the messages it would send.
fn pe(n: u8, route: LocalRoute) -> Vec<(u8, Vec<u8>)> {
    let now = Instant::now();
    let mut pe = rib(n);
    pe.originate(LocalRoute { next_hop: address(n).into(), ..route }, now);
    pe.peer_up(PEER, policy(100), &session(n, 100, vpn()), now);
    messages(&mut pe, PEER)
}

/// A RIB with one VRF and these PEs for neighbors.
fn receiver(pes: &[(u8, LocalRoute)]) -> Rib {
    let now = Instant::now();
    let mut rib = rib(100);
    rib.set_imports(imports(&[(0, &[RED])]), now);
    for (n, route) in pes {
        let peer = PeerId((*n).into());
        rib.peer_up(peer, policy(*n), &session(100, *n, vpn()), now);
        take(&mut rib, peer, &pe(*n, route.clone()), now);
    }
    rib
}

fn next_hops(rib: &mut Rib) -> Vec<IpAddr> {
    let [event] = &events(rib)[..] else { panic!("one event") };
    event.paths.iter().map(|path| path.next_hop).collect()
}

fn under(rd: &str) -> LocalRoute {
    route(&format!("{rd}:{PREFIX}"), 16, &[RED])
}

#[test]
fn equally_good_paths_under_different_rds_share_the_traffic() {
    let mut rib = receiver(&[(1, under("65000:1")), (2, under("65000:2"))]);
    assert_eq!(next_hops(&mut rib), [address(1), address(2)]);
    rib.peer_down(PeerId(1), bgp_core::PeerDown::Purge, Instant::now());
    assert_eq!(next_hops(&mut rib), [address(2)]);
}

#[test]
fn equally_good_paths_under_one_rd_share_the_traffic() {
    let mut rib = receiver(&[(1, under("65000:1")), (2, under("65000:1"))]);
    assert_eq!(next_hops(&mut rib), [address(1), address(2)]);
}

#[test]
fn a_better_path_under_another_rd_takes_all_the_traffic() {
    let better = LocalRoute { local_pref: 200, ..under("65000:2") };
    let mut rib = receiver(&[(1, under("65000:1")), (2, better), (3, under("65000:3"))]);
    assert_eq!(next_hops(&mut rib), [address(2)]);
}

#[test]
fn our_own_route_wins_a_draw_and_yields_to_a_better_one_under_another_rd() {
    let mut rib = receiver(&[(1, under("65000:1"))]);
    assert_eq!(next_hops(&mut rib), [address(1)]);
    let own = LocalRoute { next_hop: address(100).into(), ..under("65000:9") };
    rib.originate(own, Instant::now());
    assert_eq!(next_hops(&mut rib), [address(100)], "a draw");
    let mut rib = receiver(&[(1, LocalRoute { local_pref: 200, ..under("65000:1") })]);
    let own = LocalRoute { next_hop: address(100).into(), ..under("65000:9") };
    rib.originate(own.clone(), Instant::now());
    assert_eq!(next_hops(&mut rib), [address(1)], "what has moved is where its route says so loudest");
    rib.originate(LocalRoute { local_pref: 201, ..own }, Instant::now());
    assert_eq!(next_hops(&mut rib), [address(100)], "and it has come back");
}

#[test]
fn one_way_told_by_two_reflectors_is_one_path_and_losing_one_changes_no_forwarding() {
    let now = Instant::now();
    let mut rib = receiver(&[(1, under("65000:1"))]);
    assert_eq!(next_hops(&mut rib), [address(1)]);
    rib.peer_up(PeerId(50), policy(50), &session(100, 50, vpn()), now);
    take(&mut rib, PeerId(50), &pe(1, under("65000:1")), now);
    assert_eq!(events(&mut rib), [], "nothing new for the VRF");
    assert_eq!(rib.counts().paths, 2);
    assert_eq!(rib.counts().attribute_sets, 1, "told twice, stored once");
    rib.peer_down(PeerId(1), bgp_core::PeerDown::Purge, now);
    assert_eq!(next_hops(&mut rib), [address(1)]);
}

#[test]
fn a_path_with_unknown_encapsulations_only_is_not_used() {
    // Tunnel type 13 in the community replaced by 8, VXLAN.
    let mut sent = pe(1, under("65000:1"));
    let community = [0x03, 0x0c, 0, 0, 0, 0, 0, 13];
    let at = sent[0].1.windows(8).position(|octets| octets == community).unwrap();
    sent[0].1[at + 7] = 8;
    let mut rib = receiver(&[(2, under("65000:2"))]);
    assert_eq!(next_hops(&mut rib), [address(2)]);
    rib.peer_up(PeerId(1), policy(1), &session(100, 1, vpn()), Instant::now());
    take(&mut rib, PeerId(1), &sent, Instant::now());
    assert_eq!(rib.counts().paths, 2, "stored");
    assert_eq!(events(&mut rib), [], "not used");
}

#[test]
fn the_neighbors_default_stands_in_for_an_encapsulation_that_was_not_named() {
    let now = Instant::now();
    let plain = LocalRoute { encaps: EncapSet::EMPTY, ..under("65000:1") };
    for (default_encap, expected) in
        [(None, EncapSet::EMPTY), (Some(Encap::MplsOverGre), EncapSet::from_iter([Encap::MplsOverGre]))]
    {
        let mut rib = rib(100);
        rib.set_imports(imports(&[(0, &[RED])]), now);
        let policy = PeerPolicy { default_encap, ..policy(1) };
        rib.peer_up(PEER, policy, &session(100, 1, vpn()), now);
        take(&mut rib, PEER, &pe(1, plain.clone()), now);
        assert_eq!(events(&mut rib)[0].paths[0].encaps, expected);
    }
}

#[test]
fn an_ipv4_next_hop_of_a_vpnv6_route_is_ipv4() {
    let route = route("65000:1:fd00::1/128", 16, &[RED]);
    let mut rib = receiver(&[(1, route)]);
    assert_eq!(next_hops(&mut rib), [IpAddr::V4(address(1))]);
}

/// Attributes put behind those of the PE's first UPDATE.
fn with_attribute(mut sent: Vec<(u8, Vec<u8>)>, attribute: &[u8]) -> Vec<(u8, Vec<u8>)> {
    let body = &mut sent[0].1;
    body.extend_from_slice(attribute);
    let length = u16::try_from(body.len() - 4).unwrap();
    body[2..4].copy_from_slice(&length.to_be_bytes());
    sent
}

#[test]
fn routes_that_have_been_here_before_are_ignored() {
    let originator = [&[0x80, 9, 4][..], &address(100).octets()].concat();
    let cluster = [&[0x80, 10, 8, 192, 0, 2, 77][..], &address(100).octets()].concat();
    let harmless = [&[0x80, 9, 4][..], &address(99).octets()].concat();
    for (attribute, is_kept) in [(originator, false), (cluster, false), (harmless, true)] {
        let mut rib = receiver(&[(1, under("65000:1"))]);
        events(&mut rib);
        let sent = with_attribute(pe(1, under("65000:1")), &attribute);
        take(&mut rib, PeerId(1), &sent, Instant::now());
        assert_eq!(rib.counts().paths, usize::from(is_kept), "what it replaces is gone as well");
    }
}

#[test]
fn routes_without_their_target_any_longer_are_dropped() {
    let mut rib = receiver(&[(1, under("65000:1"))]);
    assert_eq!(next_hops(&mut rib), [address(1)]);
    let other = LocalRoute { route_targets: vec!["target:65000:9".parse().unwrap()], ..under("65000:1") };
    take(&mut rib, PeerId(1), &pe(1, other), Instant::now());
    assert_eq!(next_hops(&mut rib), [] as [IpAddr; 0]);
    assert_eq!((rib.counts().paths, rib.counts().routes, rib.counts().attribute_sets), (0, 0, 0));
}

#[test]
fn paths_beyond_the_bound_are_refused_and_counted() {
    let now = Instant::now();
    let mut small = Rib::new(bgp_core::RibConfig {
        asn: ASN,
        router_id: address(100),
        cluster_id: address(100),
        max_paths: 2,
    });
    small.set_imports(imports(&[(0, &[RED])]), now);
    small.peer_up(PEER, policy(1), &session(100, 1, FamilySet::L3VPN), now);
    for n in 0..5 {
        let route = route(&format!("65000:1:10.0.0.{n}/32"), 16, &[RED]);
        take(&mut small, PEER, &pe(1, route), now);
    }
    assert_eq!((small.counts().paths, small.counts().refused), (2, 3));
    let changed = route("65000:1:10.0.0.0/32", 99, &[RED]);
    take(&mut small, PEER, &pe(1, changed), now);
    assert_eq!(small.counts().refused, 3, "what is stored may change");
    small.withdraw("65000:1:10.0.0.0/32".parse().unwrap(), now);
    assert_eq!(small.counts().paths, 2, "a neighbor's route is not ours to withdraw");
}

#[test]
fn views_show_what_was_received_and_who_imports_it() {
    let rib = receiver(&[(1, under("65000:1")), (2, under("65000:2"))]);
    let query = RouteQuery { rd: Some("65000:2".parse().unwrap()), ..RouteQuery::default() };
    let [view] = &rib.routes(&query)[..] else { panic!() };
    assert_eq!(view.key.to_string(), "65000:2:10.0.0.1/32");
    assert_eq!((view.next_hop, view.local_pref, view.is_best), (address(2).into(), 100, true));
    assert_eq!(view.imported_by.len(), 1);
    assert!(view.since.is_some());
    let by_prefix = |prefix: &str| {
        rib.routes(&RouteQuery { prefix: Some(prefix.parse().unwrap()), ..RouteQuery::default() }).len()
    };
    assert_eq!((by_prefix("10.0.0.0/8"), by_prefix("10.0.0.2/31"), by_prefix("::/0")), (2, 0, 0));
    let of_family = RouteQuery { family: Some(Family::Rtc), ..RouteQuery::default() };
    let own = rib.routes(&of_family);
    assert_eq!(own[0].key.to_string(), "65000:target:65000:100");
}
