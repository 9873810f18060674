//! Routes between two RIBs: what is advertised, imported, withdrawn, and when.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod rib_pair;

use std::time::Instant;

use bgp_core::{Family, FamilySet, PathSource, RouteQuery, RouteScope};
use rib_pair::*;
use vrouter_types::{Encap, EncapSet, VrfId};

const RED: &str = "target:65000:100";
const BLUE: &str = "target:65000:200";

#[test]
fn a_route_of_one_reaches_the_vrf_of_the_other_and_leaves_it_again() {
    let now = Instant::now();
    let (mut a, mut b) = (rib(1), rib(2));
    b.set_imports(imports(&[(7, &[RED])]), now);
    for (prefix, label) in [("65000:1:10.0.0.1/32", 16), ("65000:1:fd00::1/128", 17)] {
        a.originate(route(prefix, label, &[RED]), now);
    }
    connect(&mut a, &mut b, vpn(), now);
    settle(&mut a, &mut b, now);
    let heard = events(&mut b);
    assert_eq!(heard.len(), 2);
    for (event, (prefix, label)) in heard.iter().zip([("10.0.0.1/32", 16), ("fd00::1/128", 17)]) {
        assert_eq!((event.vrf, event.prefix), (VrfId(7), prefix.parse().unwrap()));
        let [path] = event.paths[..] else { panic!("{event:?}") };
        assert_eq!((path.label.value(), path.next_hop), (label, address(1).into()));
        assert_eq!(path.encaps, EncapSet::from_iter([Encap::MplsOverUdp]));
        assert_eq!(path.source, PathSource::Peer(PEER));
    }
    a.withdraw("65000:1:10.0.0.1/32".parse().unwrap(), now);
    settle(&mut a, &mut b, now);
    let [gone] = &events(&mut b)[..] else { panic!() };
    assert_eq!((gone.prefix, gone.paths.len()), ("10.0.0.1/32".parse().unwrap(), 0));
    b.peer_down(PEER, bgp_core::PeerDown::Purge, now);
    assert_eq!(events(&mut b).len(), 1, "the other route goes with the session");
    assert_eq!((b.counts().paths, b.counts().attribute_sets), (0, 0));
}

#[test]
fn what_no_vrf_imports_is_not_stored() {
    let now = Instant::now();
    let (mut a, mut b) = (rib(1), rib(2));
    b.set_imports(imports(&[(0, &[BLUE])]), now);
    a.originate(route("65000:1:10.0.0.1/32", 16, &[RED]), now);
    connect(&mut a, &mut b, vpn(), now);
    settle(&mut a, &mut b, now);
    assert_eq!(b.counts().paths, 0);
    assert_eq!(b.peer_counts(PEER).unwrap().updates_not_imported, 1);
}

#[test]
fn imports_that_grow_ask_for_a_refresh_once_and_only_then() {
    let now = Instant::now();
    let (mut a, mut b) = (rib(1), rib(2));
    b.set_imports(imports(&[(0, &[BLUE])]), now);
    a.originate(route("65000:1:10.0.0.1/32", 16, &[RED]), now);
    connect(&mut a, &mut b, vpn(), now);
    settle(&mut a, &mut b, now);
    b.set_imports(imports(&[(0, &[BLUE]), (1, &[RED])]), now);
    let asked = messages(&mut b, PEER);
    assert_eq!(asked.iter().map(|(kind, _)| *kind).collect::<Vec<_>>(), [5, 5], "VPNv4 and VPNv6");
    take(&mut a, PEER, &asked, now);
    settle(&mut a, &mut b, now);
    assert_eq!(events(&mut b).len(), 1);
    b.set_imports(imports(&[(0, &[BLUE]), (1, &[RED]), (2, &[RED])]), now);
    assert_eq!(messages(&mut b, PEER), [], "the routes are here already");
    let [event] = &events(&mut b)[..] else { panic!() };
    assert_eq!(event.vrf, VrfId(2));
    b.set_imports(imports(&[(0, &[BLUE])]), now);
    assert_eq!(messages(&mut b, PEER), []);
    assert_eq!(events(&mut b).len(), 2, "gone from both");
    assert_eq!(b.counts().paths, 0);
}

#[test]
fn a_local_route_is_imported_into_our_own_vrfs() {
    let now = Instant::now();
    let mut a = rib(1);
    a.set_imports(imports(&[(0, &[RED]), (1, &[RED, BLUE]), (2, &[BLUE])]), now);
    a.originate(route("65000:1:10.0.0.1/32", 16, &[RED]), now);
    let heard = events(&mut a);
    assert_eq!(heard.iter().map(|event| event.vrf.0).collect::<Vec<_>>(), [0, 1]);
    assert!(heard.iter().all(|event| event.paths[0].source == PathSource::Local));
}

#[test]
fn advertised_and_withdrawn_before_its_turn_costs_nothing() {
    let now = Instant::now();
    let (mut a, mut b) = (rib(1), rib(2));
    connect(&mut a, &mut b, vpn(), now);
    settle(&mut a, &mut b, now);
    for n in 0..100 {
        a.originate(route(&format!("65000:1:10.0.0.{n}/32"), 16, &[RED]), now);
    }
    for n in 0..100 {
        a.withdraw(format!("65000:1:10.0.0.{n}/32").parse().unwrap(), now);
    }
    assert_eq!(messages(&mut a, PEER), []);
    assert_eq!((a.counts().routes, a.counts().attribute_sets), (0, 0));
}

#[test]
fn a_change_back_before_its_turn_costs_nothing() {
    let now = Instant::now();
    let (mut a, mut b) = (rib(1), rib(2));
    connect(&mut a, &mut b, vpn(), now);
    a.originate(route("65000:1:10.0.0.1/32", 16, &[RED]), now);
    settle(&mut a, &mut b, now);
    a.originate(route("65000:1:10.0.0.1/32", 17, &[BLUE]), now);
    a.originate(route("65000:1:10.0.0.1/32", 16, &[RED]), now);
    assert_eq!(messages(&mut a, PEER), []);
}

#[test]
fn memberships_and_their_end_of_rib_come_first_and_routes_wait_for_the_neighbors() {
    let now = Instant::now();
    let (mut a, mut b) = (rib(1), rib(2));
    a.set_imports(imports(&[(0, &[RED])]), now);
    a.originate(route("65000:1:10.0.0.1/32", 16, &[RED]), now);
    a.originate(route("65000:2:10.0.0.1/32", 17, &[BLUE]), now);
    b.set_imports(imports(&[(0, &[BLUE])]), now);
    connect(&mut a, &mut b, FamilySet::L3VPN, now);
    let first = messages(&mut a, PEER);
    assert_eq!(first.len(), 2, "one UPDATE with the membership, one End-of-RIB, and no VPN route yet");
    take(&mut b, PEER, &first, now);
    settle(&mut a, &mut b, now);
    assert!(b.end_of_rib_heard(PEER).contains(Family::Vpnv4));
    let scope = RouteScope::Received(PEER);
    let held = b.routes(&RouteQuery { scope, family: Some(Family::Vpnv4), ..RouteQuery::default() });
    assert_eq!(held.iter().map(|view| view.key.to_string()).collect::<Vec<_>>(), ["65000:2:10.0.0.1/32"]);
    assert_eq!(b.peer_counts(PEER).unwrap().updates_not_imported, 0, "the other was never sent");
}

#[test]
fn memberships_without_an_end_get_their_routes_at_once_and_our_end_of_rib_after_a_minute() {
    let now = Instant::now();
    let (mut a, mut b) = (rib(1), rib(2));
    a.originate(route("65000:1:10.0.0.1/32", 16, &[RED]), now);
    b.set_imports(imports(&[(0, &[RED])]), now);
    connect(&mut a, &mut b, FamilySet::L3VPN, now);
    take(&mut a, PEER, &messages(&mut b, PEER)[..1], now);
    let sent = messages(&mut a, PEER);
    assert_eq!(sent.len(), 2, "End-of-RIB of our memberships, and the route");
    assert_eq!(a.peer_counts(PEER).unwrap().advertised, 1);
    let deadline = a.poll_timeout().unwrap();
    assert_eq!(deadline, now + seconds(60));
    a.handle_timeout(now + seconds(59));
    assert_eq!(messages(&mut a, PEER), []);
    a.handle_timeout(deadline);
    assert_eq!(messages(&mut a, PEER).len(), 2, "End-of-RIB of VPNv4 and VPNv6");
    assert_eq!(a.poll_timeout(), None);
}

#[test]
fn memberships_that_come_and_go_later_bring_and_withdraw_their_routes() {
    let now = Instant::now();
    let (mut a, mut b) = (rib(1), rib(2));
    for n in 0..3 {
        a.originate(route(&format!("65000:1:10.0.0.{n}/32"), 16, &[&format!("target:65000:{n}")]), now);
    }
    connect(&mut a, &mut b, FamilySet::L3VPN, now);
    settle(&mut a, &mut b, now);
    for (targets, expected) in
        [(&["target:65000:0", "target:65000:2"][..], 2), (&["target:65000:2"], 1), (&[], 0)]
    {
        b.set_imports(imports(&[(0, targets)]), now);
        settle(&mut a, &mut b, now);
        assert_eq!((a.peer_counts(PEER).unwrap().advertised, b.counts().paths), (expected, expected));
    }
}

#[test]
fn our_own_membership_handed_back_by_a_reflector_is_obeyed() {
    let now = Instant::now();
    let (mut a, mut b) = (rib(1), rib(2));
    a.originate(route("65000:1:10.0.0.1/32", 16, &[RED]), now);
    b.set_imports(imports(&[(0, &[RED])]), now);
    connect(&mut a, &mut b, FamilySet::L3VPN, now);
    let mut update = messages(&mut b, PEER).swap_remove(0).1;
    update.extend([&[0x80, 9, 4][..], &address(1).octets()].concat());
    let length = u16::try_from(update.len() - 4).unwrap();
    update[2..4].copy_from_slice(&length.to_be_bytes());
    a.handle_update(PEER, &update, now).unwrap();
    messages(&mut a, PEER);
    assert_eq!(a.peer_counts(PEER).unwrap().advertised, 1);
}

#[test]
fn an_import_given_up_and_wanted_again_at_once_gets_its_routes_back() {
    let now = Instant::now();
    for is_withdrawal_sent in [false, true] {
        let (mut a, mut b) = (rib(1), rib(2));
        a.originate(route("65000:1:10.0.0.1/32", 16, &[RED]), now);
        b.set_imports(imports(&[(0, &[RED])]), now);
        connect(&mut a, &mut b, FamilySet::L3VPN, now);
        settle(&mut a, &mut b, now);
        b.set_imports(imports(&[(0, &[BLUE])]), now);
        assert_eq!(b.counts().paths, 0);
        if is_withdrawal_sent {
            // It arrives, and before the sender acts on it, so does the new membership.
            take(&mut a, PEER, &messages(&mut b, PEER), now);
        }
        b.set_imports(imports(&[(0, &[RED])]), now);
        settle(&mut a, &mut b, now);
        assert_eq!(b.counts().paths, 1);
    }
}

#[test]
fn a_membership_given_up_during_its_refresh_is_withdrawn() {
    let now = Instant::now();
    let (mut a, mut b) = (rib(1), rib(2));
    b.set_imports(imports(&[(0, &[RED])]), now);
    connect(&mut a, &mut b, FamilySet::L3VPN, now);
    settle(&mut a, &mut b, now);
    b.handle_route_refresh(PEER, &[0, 1, 0, 132], now).unwrap();
    b.set_imports(imports(&[(0, &[BLUE])]), now);
    settle(&mut a, &mut b, now);
    let query = RouteQuery { scope: RouteScope::Received(PEER), ..RouteQuery::default() };
    let held: Vec<String> = a.routes(&query).iter().map(|view| view.key.to_string()).collect();
    assert_eq!(held, ["65000:target:65000:200"]);
}
