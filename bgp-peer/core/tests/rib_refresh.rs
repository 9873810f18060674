//! Route refresh, asked for and answered (RFC 2918, RFC 7313), and End-of-RIB (RFC 4724).
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod rib_pair;

use std::time::Instant;

use bgp_core::{Family, FamilySet, Negotiated, Rib, RibConfig};
use rib_pair::*;

const RED: &str = "target:65000:100";

fn enhanced(local: u8, peer: u8) -> Negotiated {
    Negotiated { enhanced_route_refresh: true, ..session(local, peer, FamilySet::L3VPN) }
}

fn enhanced_pair(now: Instant) -> (Rib, Rib) {
    let (mut a, mut b) = (rib(1), rib(2));
    b.set_imports(imports(&[(0, &[RED])]), now);
    for n in 0..10 {
        a.originate(route(&format!("65000:1:10.0.0.{n}/32"), 16, &[RED]), now);
    }
    a.peer_up(PEER, policy(2), &enhanced(1, 2), now);
    b.peer_up(PEER, policy(1), &enhanced(2, 1), now);
    settle(&mut a, &mut b, now);
    events(&mut b);
    (a, b)
}

/// A ROUTE-REFRESH body.
fn refresh(family: Family, subtype: u8) -> [u8; 4] {
    let (afi, safi) = family.code();
    let [high, low] = afi.to_be_bytes();
    [high, low, subtype, safi]
}

#[test]
fn a_request_is_answered_with_the_whole_family_between_its_delimiters() {
    let now = Instant::now();
    let (mut a, mut b) = enhanced_pair(now);
    assert_eq!(messages(&mut a, PEER), []);
    a.handle_route_refresh(PEER, &refresh(Family::Vpnv4, 0), now).unwrap();
    let answer = messages(&mut a, PEER);
    let kinds: Vec<u8> = answer.iter().map(|(kind, _)| *kind).collect();
    assert_eq!(kinds, [5, 2, 5]);
    assert_eq!((answer[0].1[2], answer[2].1[2]), (1, 2), "BoRR, EoRR");
    take(&mut b, PEER, &answer, now);
    assert_eq!(events(&mut b), [], "nothing has changed");
    assert_eq!(b.counts().paths, 10);
}

#[test]
fn memberships_are_refreshed_as_well() {
    let now = Instant::now();
    let (mut a, mut b) = enhanced_pair(now);
    b.handle_route_refresh(PEER, &refresh(Family::Rtc, 0), now).unwrap();
    let answer = messages(&mut b, PEER);
    assert_eq!(answer.iter().map(|(kind, _)| *kind).collect::<Vec<_>>(), [5, 2, 5]);
    take(&mut a, PEER, &answer, now);
    assert_eq!(messages(&mut a, PEER), [], "what is wanted is what was wanted");
}

#[test]
fn what_a_refresh_does_not_confirm_is_swept_at_its_end() {
    let now = Instant::now();
    let (mut a, mut b) = enhanced_pair(now);
    a.handle_route_refresh(PEER, &refresh(Family::Vpnv4, 0), now).unwrap();
    for n in 0..4 {
        a.withdraw(format!("65000:1:10.0.0.{n}/32").parse().unwrap(), now);
    }
    // The withdrawals are lost on the way; the delimiters make up for it.
    let answer: Vec<_> =
        messages(&mut a, PEER).into_iter().filter(|(kind, body)| *kind == 5 || body[5] == 14).collect();
    take(&mut b, PEER, &answer, now);
    assert_eq!(b.counts().paths, 6);
    assert_eq!(events(&mut b).len(), 4);
}

#[test]
fn memberships_not_confirmed_are_swept_at_the_end_and_their_routes_withdrawn() {
    let now = Instant::now();
    let (mut a, mut b) = enhanced_pair(now);
    for subtype in [1, 2] {
        a.handle_route_refresh(PEER, &refresh(Family::Rtc, subtype), now).unwrap();
    }
    settle(&mut a, &mut b, now);
    assert_eq!(b.counts().paths, 0, "nobody wants them any more, as far as the sender knows");
}

#[test]
fn a_request_during_changes_leaves_both_in_agreement() {
    let now = Instant::now();
    let (mut a, mut b) = enhanced_pair(now);
    a.withdraw("65000:1:10.0.0.0/32".parse().unwrap(), now);
    a.originate(route("65000:1:10.0.0.1/32", 99, &[RED]), now);
    a.handle_route_refresh(PEER, &refresh(Family::Vpnv4, 0), now).unwrap();
    a.originate(route("65000:1:10.0.0.99/32", 16, &[RED]), now);
    a.withdraw("65000:1:10.0.0.2/32".parse().unwrap(), now);
    settle(&mut a, &mut b, now);
    assert_eq!(b.counts().paths, 9);
    assert_eq!(b.counts().attribute_sets, 1);
    assert_eq!(a.peer_counts(PEER).unwrap().advertised, 9);
}

#[test]
fn requests_for_families_that_were_not_negotiated_are_ignored() {
    let now = Instant::now();
    let (mut a, _) = enhanced_pair(now);
    for body in [
        &refresh(Family::Ipv4Unicast, 0)[..],
        &[0, 25, 0, 70],
        &[0, 1, 9, 128],
        &[0, 1, 0, 128, 2, 64, 0, 1, 0],
    ] {
        a.handle_route_refresh(PEER, body, now).unwrap();
        assert_eq!(messages(&mut a, PEER), []);
    }
    assert_eq!(a.handle_route_refresh(PEER, &[0, 1, 0], now).unwrap_err().code, 1);
    assert_eq!(a.handle_route_refresh(PEER, &[0, 1, 1, 128, 0], now).unwrap_err().code, 7);
}

#[test]
fn every_negotiated_family_gets_one_end_of_rib_even_when_it_is_empty() {
    let now = Instant::now();
    let (mut a, mut b) = (rib(1), rib(2));
    let all: FamilySet = Family::ALL.into_iter().collect();
    connect(&mut a, &mut b, all, now);
    settle(&mut a, &mut b, now);
    assert_eq!((a.end_of_rib_heard(PEER), b.end_of_rib_heard(PEER)), (all, all));
    assert_eq!(messages(&mut a, PEER), []);
}

#[test]
fn a_session_that_comes_back_gets_everything_once_more() {
    let now = Instant::now();
    let (mut a, mut b) = enhanced_pair(now);
    a.peer_down(PEER, bgp_core::PeerDown::Purge, now);
    b.peer_down(PEER, bgp_core::PeerDown::Purge, now);
    assert_eq!(events(&mut b).len(), 10);
    assert_eq!(messages(&mut a, PEER), [], "nobody is there");
    a.peer_up(PEER, policy(2), &enhanced(1, 2), now);
    b.peer_up(PEER, policy(1), &enhanced(2, 1), now);
    settle(&mut a, &mut b, now);
    assert_eq!(events(&mut b).len(), 10);
}

#[test]
fn refused_routes_are_asked_for_once_when_there_is_room_again() {
    let now = Instant::now();
    let mut a = rib(1);
    let config = RibConfig { asn: ASN, router_id: address(2), cluster_id: address(2), max_paths: 20 };
    let mut b = Rib::new(config);
    b.set_imports(imports(&[(0, &[RED])]), now);
    for n in 0..22 {
        a.originate(route(&format!("65000:1:10.0.0.{n}/32"), 16, &[RED]), now);
    }
    connect(&mut a, &mut b, vpn(), now);
    settle(&mut a, &mut b, now);
    assert_eq!((b.counts().paths, b.counts().refused), (20, 2));
    a.withdraw("65000:1:10.0.0.0/32".parse().unwrap(), now);
    settle(&mut a, &mut b, now);
    assert_eq!(b.counts().paths, 19, "one free place is not worth a refresh");
    a.withdraw("65000:1:10.0.0.1/32".parse().unwrap(), now);
    settle(&mut a, &mut b, now);
    assert_eq!((b.counts().paths, b.counts().refused), (20, 2), "all that there are");
}
