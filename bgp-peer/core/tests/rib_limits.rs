//! What a neighbor may not do here: more routes than agreed, our own next hop, more memberships than there is room for.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod rib_pair;

use std::time::Instant;

use bgp_core::{
    FamilySet, LocalRoute, PeerDown, PeerPolicy, Rib, RibConfig, RibEvent, RouteQuery, RouteScope,
};
use rib_pair::*;

const RED: &str = "target:65000:100";

fn many(rib: &mut Rib, count: u8, now: Instant) {
    for i in 0..count {
        rib.originate(route(&format!("65000:1:10.0.0.{i}/32"), 16, &[RED]), now);
    }
}

#[test]
fn a_prefix_limit_is_told_once_a_session_and_refuses_the_rest() {
    let now = Instant::now();
    let (mut a, mut b) = (rib(1), rib(2));
    many(&mut a, 10, now);
    b.set_imports(imports(&[(0, &[RED])]), now);
    for _ in 0..2 {
        a.peer_up(PEER, policy(2), &session(1, 2, vpn()), now);
        let limited = PeerPolicy { max_prefixes: Some(4), ..policy(1) };
        b.peer_up(PEER, limited, &session(2, 1, vpn()), now);
        settle(&mut a, &mut b, now);
        assert_eq!(b.peer_counts(PEER).unwrap().received, 4);
        let told: Vec<_> = std::iter::from_fn(|| b.poll_event()).collect();
        assert_eq!(told.iter().filter(|event| **event == RibEvent::PrefixLimit(PEER)).count(), 1);
        assert_eq!(told.len(), 5);
        a.peer_down(PEER, PeerDown::Purge, now);
        b.peer_down(PEER, PeerDown::Purge, now);
        assert_eq!(events(&mut b).len(), 4);
    }
}

#[test]
fn a_limit_that_is_not_passed_is_not_told() {
    let now = Instant::now();
    let (mut a, mut b) = (rib(1), rib(2));
    many(&mut a, 4, now);
    b.set_imports(imports(&[(0, &[RED])]), now);
    a.peer_up(PEER, policy(2), &session(1, 2, vpn()), now);
    b.peer_up(PEER, PeerPolicy { max_prefixes: Some(4), ..policy(1) }, &session(2, 1, vpn()), now);
    settle(&mut a, &mut b, now);
    // Said again, and replaced: still four.
    many(&mut a, 4, now);
    a.originate(route("65000:1:10.0.0.1/32", 99, &[RED]), now);
    settle(&mut a, &mut b, now);
    assert!(std::iter::from_fn(|| b.poll_event()).all(|event| matches!(event, RibEvent::VrfRoute(_))));
}

#[test]
fn counts_agree_with_the_routes_through_churn() {
    let now = Instant::now();
    let (mut a, mut b) = (rib(1), rib(2));
    b.set_imports(imports(&[(0, &[RED])]), now);
    connect(&mut a, &mut b, FamilySet::L3VPN, now);
    for step in 0..60u8 {
        match step % 6 {
            0 => many(&mut a, step, now),
            1 => a.withdraw(format!("65000:1:10.0.0.{}/32", step / 2).parse().unwrap(), now),
            2 => b.set_imports(imports(&[(0, &["target:65000:9"])]), now),
            3 => a.originate(route("65000:1:10.0.0.3/32", step.into(), &[RED]), now),
            4 => b.set_imports(imports(&[(0, &[RED])]), now),
            _ => {}
        }
        settle(&mut a, &mut b, now);
        let query =
            |scope| RouteQuery { family: Some(bgp_core::Family::Vpnv4), scope, ..RouteQuery::default() };
        let advertised = a.routes(&query(RouteScope::Advertised(PEER))).len();
        let received = b.routes(&query(RouteScope::Received(PEER))).len();
        assert_eq!(a.peer_counts(PEER).unwrap().advertised, advertised);
        assert_eq!(b.peer_counts(PEER).unwrap().received, received);
        assert_eq!(advertised, received);
    }
}

#[test]
fn a_route_that_leads_to_ourselves_is_refused_while_it_does() {
    let now = Instant::now();
    let (mut a, mut b) = (rib(1), rib(2));
    b.set_imports(imports(&[(0, &[RED])]), now);
    let own = LocalRoute { next_hop: address(1).into(), ..route("65000:2:10.9.9.9/32", 30, &[RED]) };
    b.originate(own.clone(), now);
    events(&mut b);
    // `route` has address 1 as its next hop.
    many(&mut a, 1, now);
    connect(&mut a, &mut b, vpn(), now);
    settle(&mut a, &mut b, now);
    assert_eq!((b.peer_counts(PEER).unwrap().received, b.peer_counts(PEER).unwrap().updates_looped), (0, 1));
    // Replaced twice and withdrawn: no longer ours.
    b.originate(LocalRoute { local_pref: 7, ..own.clone() }, now);
    b.originate(own.clone(), now);
    b.withdraw(own.prefix, now);
    many(&mut a, 2, now);
    settle(&mut a, &mut b, now);
    assert_eq!(b.peer_counts(PEER).unwrap().received, 1);
}

#[test]
fn refused_memberships_are_asked_for_when_there_is_room() {
    let now = Instant::now();
    let config = RibConfig { asn: ASN, router_id: address(1), cluster_id: address(1), max_paths: 10 };
    let (mut a, mut b) = (Rib::new(config), rib(2));
    let targets: Vec<String> = (0..15).map(|n| format!("target:65000:{n}")).collect();
    let targets: Vec<&str> = targets.iter().map(String::as_str).collect();
    b.set_imports(imports(&[(0, &targets)]), now);
    connect(&mut a, &mut b, FamilySet::L3VPN, now);
    settle(&mut a, &mut b, now);
    assert_eq!(a.peer_counts(PEER).unwrap().memberships_received, 10);
    b.set_imports(imports(&[(0, &targets[6..])]), now);
    settle(&mut a, &mut b, now);
    assert_eq!(a.peer_counts(PEER).unwrap().memberships_received, 9);
}

#[test]
fn a_table_that_has_shrunk_says_so_once() {
    let now = Instant::now();
    let mut rib = rib(1);
    let name = |i: u32| format!("65000:1:10.0.{}.{}/32", i >> 8, i & 255);
    assert!(!rib.has_shrunk());
    (0..6000).for_each(|i| rib.originate(route(&name(i), 16, &[RED]), now));
    assert!(!rib.has_shrunk());
    (0..4095).for_each(|i| rib.withdraw(name(i).parse().unwrap(), now));
    assert!(!rib.has_shrunk());
    (4095..6000).for_each(|i| rib.withdraw(name(i).parse().unwrap(), now));
    assert!(rib.has_shrunk());
    assert!(!rib.has_shrunk());
}

#[test]
fn a_table_has_not_shrunk_while_a_vrf_waits_to_be_told() {
    let now = Instant::now();
    let mut rib = rib(1);
    rib.set_imports(imports(&[(0, &[RED])]), now);
    let name = |i: u32| format!("65000:1:10.0.{}.{}/32", i >> 8, i & 255);
    (0..5000).for_each(|i| rib.originate(route(&name(i), 16, &[RED]), now));
    assert_eq!(events(&mut rib).len(), 5000);
    assert!(!rib.has_shrunk());
    (0..5000).for_each(|i| rib.withdraw(name(i).parse().unwrap(), now));
    // The first half has gone, and is said; the other waits.
    assert!(rib.has_shrunk());
    assert_eq!(events(&mut rib).len(), 5000);
    assert!(rib.has_shrunk());
}
