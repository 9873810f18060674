//! What operators ask: why a path is best, why a route is not imported, why a neighbor is not told; memory, memberships.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod rib_pair;

use std::time::Instant;

use bgp_core::decision::Step;
use bgp_core::wire::community::Community;
use bgp_core::{
    FamilySet, LocalRoute, Negotiated, NotAdvertised, PathSource, PeerDown, PeerId, PeerPolicy, RouteQuery,
};
use rib_pair::*;
use vrouter_types::{Asn, VrfId};

const RED: &str = "target:65000:100";
const BLUE: &str = "target:65000:200";

#[test]
fn every_candidate_says_which_step_it_lost() {
    let now = Instant::now();
    let mut b = rib(100);
    b.set_imports(imports(&[(0, &[RED]), (1, &[BLUE])]), now);
    let paths = [(1u8, 100, RED), (2, 200, RED), (3, 300, BLUE)];
    for (n, local_pref, target) in paths {
        let mut pe = rib(n);
        let own = route(&format!("65000:{n}:10.0.0.1/32"), 16, &[target]);
        pe.originate(LocalRoute { local_pref, next_hop: address(n).into(), ..own }, now);
        pe.peer_up(PEER, policy(100), &session(n, 100, vpn()), now);
        b.peer_up(PeerId(n.into()), policy(n), &session(100, n, vpn()), now);
        take(&mut b, PeerId(n.into()), &messages(&mut pe, PEER), now);
    }
    let explained = b.explain(VrfId(0), "10.0.0.1/32".parse().unwrap());
    assert_eq!(explained.imports, [RED.parse().unwrap()]);
    let brief: Vec<_> = explained
        .candidates
        .iter()
        .map(|path| (path.route.local_pref, path.is_imported, path.lost, path.lost_in_table))
        .collect();
    assert_eq!(
        brief,
        [(200, true, None, None), (100, true, Some(Step::LocalPref), None), (300, false, None, None)]
    );
    assert_eq!(Step::LocalPref.to_string(), "lower LOCAL_PREF (RFC 4271 §9.1.1)");
    assert!(b.explain(VrfId(0), "10.0.0.2/32".parse().unwrap()).candidates.is_empty());
}

#[test]
fn every_neighbor_that_is_not_told_has_a_reason() {
    let now = Instant::now();
    let mut rr = rib(100);
    let external = |n: u8| Negotiated { peer_asn: Asn(65001), is_ibgp: false, ..session(100, n, vpn()) };
    let client = |n: u8| PeerPolicy { route_reflector_client: true, ..policy(n) };
    rr.peer_up(PeerId(1), policy(1), &session(100, 1, vpn()), now);
    rr.peer_up(PeerId(2), policy(2), &session(100, 2, vpn()), now);
    rr.peer_up(PeerId(3), client(3), &session(100, 3, vpn()), now);
    rr.peer_up(PeerId(4), client(4), &session(100, 4, FamilySet::L3VPN), now);
    rr.peer_up(PeerId(5), client(5), &session(100, 5, FamilySet::from_iter([bgp_core::Family::Vpnv6])), now);
    rr.peer_up(PeerId(6), policy(6), &external(6), now);

    let mut pe = rib(1);
    pe.originate(route("65000:1:10.0.0.1/32", 16, &[RED]), now);
    pe.peer_up(PEER, policy(100), &session(1, 100, vpn()), now);
    take(&mut rr, PeerId(1), &messages(&mut pe, PEER), now);
    let explained = rr.explain(VrfId(0), "10.0.0.1/32".parse().unwrap());
    let reasons: Vec<_> =
        explained.candidates[0].advertised.iter().map(|(peer, why)| (peer.0, *why)).collect();
    assert_eq!(
        reasons,
        [
            (1, Some(NotAdvertised::OwnRoute)),
            (2, Some(NotAdvertised::SplitHorizon)),
            (3, None),
            (4, Some(NotAdvertised::NoMembership)),
            (5, Some(NotAdvertised::FamilyOff)),
            (6, Some(NotAdvertised::SplitHorizon)),
        ]
    );
    // And so it is on the wire.
    let told = [1, 2, 3, 4, 5, 6]
        .map(|n| messages(&mut rr, PeerId(n)).iter().any(|(kind, body)| *kind == 2 && body.len() > 40));
    assert_eq!(told, [false, false, true, false, false, false]);
}

#[test]
fn what_a_vrf_export_sets_arrives_and_well_known_communities_are_obeyed() {
    let now = Instant::now();
    let own = LocalRoute {
        med: Some(5),
        local_pref: 300,
        as_path_prepend: vec![Asn(65010), Asn(4_200_000_000)],
        communities: vec![Community(7), Community(3), Community(7)],
        large_communities: vec!["65000:1:2".parse().unwrap()],
        ..route("65000:1:10.0.0.1/32", 16, &[RED])
    };
    let (mut a, mut b) = (rib(1), rib(2));
    b.set_imports(imports(&[(0, &[RED])]), now);
    a.originate(own.clone(), now);
    connect(&mut a, &mut b, vpn(), now);
    settle(&mut a, &mut b, now);
    let query = RouteQuery { family: Some(bgp_core::Family::Vpnv4), ..RouteQuery::default() };
    let [view] = &b.routes(&query)[..] else { panic!("one route") };
    assert_eq!((view.med, view.local_pref, view.as_path.as_str()), (Some(5), 300, "65010 4200000000"));
    assert_eq!(view.communities, [Community(3), Community(7)]);
    assert_eq!(view.large_communities[0].to_string(), "65000:1:2");

    for (community, internal, external) in [
        (Community::NO_EXPORT, true, false),
        (Community::NO_EXPORT_SUBCONFED, true, false),
        (Community::NO_ADVERTISE, false, false),
        (Community(1), true, true),
    ] {
        for (is_ibgp, is_told) in [(true, internal), (false, external)] {
            let mut a = rib(1);
            a.originate(LocalRoute { communities: vec![community], ..own.clone() }, now);
            a.peer_up(PEER, policy(2), &Negotiated { is_ibgp, ..session(1, 2, vpn()) }, now);
            let told = messages(&mut a, PEER).iter().any(|(_, body)| body.len() > 40);
            assert_eq!(told, is_told, "{community} {is_ibgp}");
        }
    }
}

#[test]
fn memberships_show_who_has_them_and_who_was_told() {
    let now = Instant::now();
    let (mut a, mut b) = (rib(1), rib(2));
    a.set_imports(imports(&[(0, &[RED])]), now);
    b.set_imports(imports(&[(0, &[RED, BLUE])]), now);
    connect(&mut a, &mut b, FamilySet::L3VPN, now);
    settle(&mut a, &mut b, now);
    let brief: Vec<_> =
        a.rtc().into_iter().map(|view| (view.membership.to_string(), view.sources, view.told)).collect();
    assert_eq!(
        brief,
        [
            (format!("65000:{RED}"), vec![PathSource::Local, PathSource::Peer(PEER)], vec![PEER]),
            (format!("65000:{BLUE}"), vec![PathSource::Peer(PEER)], vec![]),
        ]
    );
}

#[test]
fn memory_is_counted_and_given_back() {
    let now = Instant::now();
    let (mut a, mut b) = (rib(1), rib(2));
    b.set_imports(imports(&[(0, &[RED])]), now);
    let idle = [a.memory().octets(), b.memory().octets()];
    connect(&mut a, &mut b, vpn(), now);
    for i in 0..2000u32 {
        let prefix = format!("65000:1:10.0.{}.{}/32", i >> 8, i & 255);
        a.originate(route(&prefix, 16, &[RED]), now);
    }
    settle(&mut a, &mut b, now);
    assert_eq!(events(&mut b).len(), 2000);
    let report = b.memory();
    let routes = report.parts.iter().find(|part| part.name == "routes").unwrap();
    assert_eq!(routes.entries, 2000);
    assert!((40..=100).contains(&(routes.octets / 2000)), "{routes:?}");
    for rib in [&mut a, &mut b] {
        rib.peer_down(PEER, PeerDown::Purge, now);
    }
    for i in 0..2000u32 {
        a.withdraw(format!("65000:1:10.0.{}.{}/32", i >> 8, i & 255).parse().unwrap(), now);
    }
    events(&mut b);
    assert_eq!([a.memory().octets(), b.memory().octets()], idle);
}
