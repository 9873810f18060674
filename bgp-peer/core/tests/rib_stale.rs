//! Routes that outlive their session: the timelines of graceful and long-lived graceful restart, on a clock of our own.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod rib_pair;

use std::time::Instant;

use bgp_core::wire::community::Community;
use bgp_core::{
    Family, FamilySet, GracefulRestart, LocalRoute, LongLived, Negotiated, PeerDown, PeerId, PeerPolicy,
    RestartTerms, Rib, RouteQuery, RouteView,
};
use rib_pair::*;

const RED: &str = "target:65000:100";
const OTHER: PeerId = PeerId(7);

fn restart(kept: FamilySet) -> GracefulRestart {
    let long_lived = |family| LongLived { family, forwarding_kept: true, stale_time: 3600 };
    GracefulRestart {
        restarting: false,
        notification: true,
        restart_time: 120,
        families: FamilySet::L3VPN,
        forwarding_kept: kept,
        long_lived: FamilySet::L3VPN.iter().map(long_lived).collect(),
    }
}

fn restarting(local: u8, peer: u8, families: FamilySet, kept: FamilySet) -> Negotiated {
    let terms = RestartTerms { ours: Some(restart(kept)), theirs: Some(restart(kept)) };
    Negotiated { restart: terms, ..session(local, peer, families) }
}

fn connect_gr(a: &mut Rib, b: &mut Rib, kept: FamilySet, now: Instant) {
    a.peer_up(PEER, policy(2), &restarting(1, 2, FamilySet::L3VPN, kept), now);
    b.peer_up(PEER, policy(1), &restarting(2, 1, FamilySet::L3VPN, kept), now);
}

fn away(now: Instant, long_lived: u64) -> PeerDown {
    PeerDown::Restarting {
        families: FamilySet::L3VPN,
        until: now + seconds(120),
        long_lived: FamilySet::L3VPN.iter().map(|family| (family, seconds(long_lived))).collect(),
    }
}

fn vpn_routes(rib: &Rib) -> Vec<RouteView> {
    rib.routes(&RouteQuery { family: Some(Family::Vpnv4), ..RouteQuery::default() })
}

/// Two that have settled: `a` has two routes, the second with NO_LLGR; `b` imports both.
fn pair(now: Instant) -> (Rib, Rib) {
    let (mut a, mut b) = (rib(1), rib(2));
    b.set_imports(imports(&[(0, &[RED])]), now);
    a.originate(route("65000:1:10.0.0.1/32", 16, &[RED]), now);
    let communities = vec![Community::NO_LLGR];
    a.originate(LocalRoute { communities, ..route("65000:1:10.0.0.2/32", 17, &[RED]) }, now);
    connect_gr(&mut a, &mut b, FamilySet::L3VPN, now);
    settle(&mut a, &mut b, now);
    assert_eq!(events(&mut b).len(), 2);
    (a, b)
}

#[test]
fn a_flap_with_forwarding_kept_changes_no_forwarding() {
    let now = Instant::now();
    let (mut a, mut b) = pair(now);
    for rib in [&mut a, &mut b] {
        rib.peer_down(PEER, away(now, 0), now);
    }
    assert!(vpn_routes(&b).iter().all(|view| view.is_stale));
    connect_gr(&mut a, &mut b, FamilySet::L3VPN, now + seconds(100));
    settle(&mut a, &mut b, now + seconds(100));
    assert!(vpn_routes(&b).iter().all(|view| !view.is_stale));
    assert!(events(&mut b).is_empty());
    assert_eq!(b.poll_timeout(), None, "nothing is left to wait for");
}

#[test]
fn what_is_not_said_again_goes_at_the_end_of_rib_and_not_before() {
    let now = Instant::now();
    let (mut a, mut b) = pair(now);
    for rib in [&mut a, &mut b] {
        rib.peer_down(PEER, away(now, 0), now);
    }
    a.withdraw("65000:1:10.0.0.1/32".parse().unwrap(), now);
    a.defer_end_of_rib(now + seconds(60));
    connect_gr(&mut a, &mut b, FamilySet::L3VPN, now);
    settle(&mut a, &mut b, now);
    assert!(events(&mut b).is_empty(), "the end is held until local routes are complete");
    a.local_routes_complete();
    settle(&mut a, &mut b, now);
    let [gone] = &events(&mut b)[..] else { panic!("one event") };
    assert!(gone.paths.is_empty());
    assert_eq!(vpn_routes(&b).len(), 1);
}

#[test]
fn a_held_end_of_rib_goes_when_its_time_is_over() {
    let now = Instant::now();
    let (mut a, mut b) = (rib(1), rib(2));
    a.defer_end_of_rib(now + seconds(60));
    connect_gr(&mut a, &mut b, FamilySet::L3VPN, now);
    settle(&mut a, &mut b, now);
    assert!(!b.end_of_rib_heard(PEER).contains(Family::Vpnv4));
    a.handle_timeout(now + seconds(59));
    settle(&mut a, &mut b, now);
    assert!(!b.end_of_rib_heard(PEER).contains(Family::Vpnv4));
    a.handle_timeout(now + seconds(60));
    settle(&mut a, &mut b, now);
    assert!(b.end_of_rib_heard(PEER).contains(Family::Vpnv4));
}

#[test]
fn families_whose_forwarding_was_lost_go_when_the_session_is_up() {
    let now = Instant::now();
    let (mut a, mut b) = pair(now);
    a.peer_down(PEER, away(now, 3600), now);
    b.peer_down(PEER, away(now, 3600), now);
    connect_gr(&mut a, &mut b, FamilySet::EMPTY, now);
    assert!(vpn_routes(&b).is_empty());
    assert!(events(&mut b).iter().all(|event| event.paths.is_empty()));
}

#[test]
fn a_purge_and_a_family_that_is_not_kept_leave_nothing() {
    let now = Instant::now();
    let (_, mut b) = pair(now);
    let rtc = FamilySet::from_iter([Family::Rtc]);
    let how = PeerDown::Restarting { families: rtc, until: now + seconds(9), long_lived: Vec::new() };
    b.peer_down(PEER, how, now);
    assert!(vpn_routes(&b).is_empty());
    let (_, mut b) = pair(now);
    b.peer_down(PEER, away(now, 3600), now);
    b.peer_down(PEER, PeerDown::Purge, now);
    assert!(vpn_routes(&b).is_empty());
    assert_eq!((b.poll_timeout(), b.counts()), (None, bgp_core::RibCounts::default()));
}

#[test]
fn after_the_restart_time_routes_are_long_lived_stale_then_gone() {
    let now = Instant::now();
    let (_, mut b) = pair(now);
    b.peer_down(PEER, away(now, 3600), now);
    assert_eq!(b.poll_timeout(), Some(now + seconds(120)));
    b.handle_timeout(now + seconds(119));
    assert_eq!(vpn_routes(&b).len(), 2);
    b.handle_timeout(now + seconds(120));
    let [left] = &vpn_routes(&b)[..] else { panic!("the one without NO_LLGR") };
    assert_eq!(left.communities, [Community::LLGR_STALE]);
    assert!(left.is_stale);
    let [gone] = &events(&mut b)[..] else { panic!("the other goes; this one leads where it led") };
    assert!(gone.paths.is_empty());
    b.handle_timeout(now + seconds(120 + 3599));
    assert_eq!(vpn_routes(&b).len(), 1);
    b.handle_timeout(now + seconds(120 + 3600));
    assert!(vpn_routes(&b).is_empty());
    assert_eq!(events(&mut b).len(), 1);
    assert_eq!(b.poll_timeout(), None);
}

#[test]
fn a_long_lived_stale_route_serves_only_where_there_is_no_other() {
    let now = Instant::now();
    let (_, mut b) = pair(now);
    let mut c = rib(3);
    let worse =
        LocalRoute { local_pref: 1, next_hop: address(3).into(), ..route("65000:1:10.0.0.1/32", 99, &[RED]) };
    c.originate(worse, now);
    c.peer_up(PEER, policy(2), &session(3, 2, vpn()), now);
    b.peer_up(OTHER, policy(3), &session(2, 3, vpn()), now);
    take(&mut b, OTHER, &messages(&mut c, PEER), now);
    assert!(events(&mut b).is_empty(), "a worse path");
    b.peer_down(PEER, away(now, 3600), now);
    assert!(events(&mut b).is_empty(), "stale is as good as before");
    b.handle_timeout(now + seconds(120));
    let changed = events(&mut b);
    let now_other = changed.iter().find(|event| !event.paths.is_empty()).unwrap();
    assert_eq!(now_other.paths[0].next_hop, address(3));
}

#[test]
fn a_neighbor_that_returns_from_another_address_replaces_what_was_kept_of_it() {
    let now = Instant::now();
    let (mut a, mut b) = pair(now);
    a.peer_down(PEER, PeerDown::Purge, now);
    b.peer_down(PEER, away(now, 3600), now);
    // The same identifier, another address: the first route leads there now, the second is no more.
    let moved = LocalRoute { next_hop: address(111).into(), ..route("65000:1:10.0.0.1/32", 16, &[RED]) };
    a.originate(moved, now);
    a.withdraw("65000:1:10.0.0.2/32".parse().unwrap(), now);
    let at = now + seconds(1);
    a.peer_up(PEER, policy(2), &restarting(1, 2, vpn(), vpn()), at);
    b.peer_up(OTHER, policy(111), &restarting(2, 1, vpn(), vpn()), at);
    assert!(events(&mut b).is_empty(), "until it says them again, they serve");
    let said = messages(&mut a, PEER);
    let (end, routes): (Vec<_>, Vec<_>) =
        said.into_iter().partition(|(kind, body)| *kind == 2 && body.len() < 12);
    take(&mut b, OTHER, &routes, at);
    let changed = events(&mut b);
    assert_eq!(changed.len(), 1, "{changed:?}");
    let hops: Vec<_> = changed[0].paths.iter().map(|path| path.next_hop).collect();
    assert_eq!(hops, [address(111)], "not shared with where it was");
    take(&mut b, OTHER, &end, at);
    let changed = events(&mut b);
    assert!(
        changed.len() == 1 && changed[0].paths.is_empty(),
        "what it does not say again is gone: {changed:?}"
    );
    assert_eq!(b.poll_timeout(), None, "nothing is left to wait for");
}

#[test]
fn a_neighbor_that_returns_from_another_address_and_never_ends_replaces_all_at_once() {
    let now = Instant::now();
    let (_, mut b) = pair(now);
    b.peer_down(PEER, away(now, 3600), now);
    b.peer_up(OTHER, policy(111), &session(2, 1, vpn()), now);
    assert!(vpn_routes(&b).is_empty() && events(&mut b).iter().all(|event| event.paths.is_empty()));
}

#[test]
fn two_routers_and_two_sessions_with_one_are_no_move() {
    let now = Instant::now();
    let (_, mut b) = pair(now);
    // Another router; then a second session with the same router while the first stands.
    b.peer_up(OTHER, policy(3), &session(2, 3, vpn()), now);
    b.peer_up(PeerId(8), policy(111), &session(2, 1, vpn()), now);
    assert_eq!(vpn_routes(&b).iter().filter(|view| !view.is_stale).count(), 2);
    b.peer_down(PeerId(8), away(now, 3600), now);
    b.peer_down(PEER, away(now, 3600), now);
    b.peer_up(PeerId(9), policy(4), &session(2, 4, vpn()), now);
    assert_eq!(vpn_routes(&b).len(), 2, "another router changes nothing");
}

#[test]
fn where_a_neighbor_was_before_it_moved_goes_when_that_session_times_out() {
    let now = Instant::now();
    let (mut a, mut b) = pair(now);
    // It moved; the session with where it was hangs until its hold time is over.
    let moved = LocalRoute { next_hop: address(111).into(), ..route("65000:1:10.0.0.1/32", 16, &[RED]) };
    a.originate(moved, now);
    a.peer_down(PEER, PeerDown::Purge, now);
    a.peer_up(PEER, policy(2), &restarting(1, 2, vpn(), vpn()), now);
    b.peer_up(OTHER, policy(111), &restarting(2, 1, vpn(), vpn()), now);
    take(&mut b, OTHER, &messages(&mut a, PEER), now);
    b.peer_down(PEER, away(now, 3600), now);
    assert_eq!(vpn_routes(&b).iter().map(|view| view.is_stale).collect::<Vec<_>>(), [false, false]);
    let last = events(&mut b).into_iter().rfind(|event| event.prefix.to_string() == "10.0.0.1/32").unwrap();
    let hops: Vec<_> = last.paths.iter().map(|path| path.next_hop).collect();
    assert_eq!(hops, [address(111)]);
    assert_eq!(b.poll_timeout(), None, "nothing is left to wait for");
}

#[test]
fn stale_routes_do_not_survive_a_second_restart_unless_they_are_long_lived() {
    let now = Instant::now();
    for (long_lived, left) in [(0, 0), (3600, 1)] {
        let (mut a, mut b) = pair(now);
        b.peer_down(PEER, away(now, long_lived), now);
        a.peer_down(PEER, PeerDown::Purge, now);
        connect_gr(&mut a, &mut b, FamilySet::L3VPN, now);
        b.peer_down(PEER, away(now, long_lived), now + seconds(1));
        b.handle_timeout(now + seconds(121));
        assert_eq!(vpn_routes(&b).len(), left, "{long_lived}");
    }
}

#[test]
fn flaps_do_not_prolong_what_is_long_lived() {
    let now = Instant::now();
    let (mut a, mut b) = pair(now);
    b.peer_down(PEER, away(now, 3600), now);
    b.handle_timeout(now + seconds(120));
    let end = now + seconds(120 + 3600);
    for n in 1..20u64 {
        let at = now + seconds(180 * n);
        a.peer_down(PEER, PeerDown::Purge, at);
        connect_gr(&mut a, &mut b, FamilySet::L3VPN, at);
        b.peer_down(PEER, away(at, 3600), at);
        b.handle_timeout(at + seconds(120));
    }
    assert_eq!(vpn_routes(&b).len(), 1);
    b.handle_timeout(end);
    assert!(vpn_routes(&b).is_empty());
}

#[test]
fn a_session_without_end_of_rib_cannot_keep_stale_routes_for_ever() {
    let now = Instant::now();
    let (_, mut b) = pair(now);
    b.peer_down(PEER, away(now, 0), now);
    b.peer_up(PEER, policy(1), &restarting(2, 1, FamilySet::L3VPN, FamilySet::L3VPN), now);
    b.handle_timeout(now + seconds(200));
    assert_eq!(vpn_routes(&b).len(), 2, "the restart time counts only without a session");
    b.handle_timeout(now + seconds(360));
    assert!(vpn_routes(&b).is_empty());
}

#[test]
fn a_reflector_tells_long_lived_routes_only_to_who_knows_what_they_are() {
    let now = Instant::now();
    let mut reflector = rib(100);
    let mut source = rib(1);
    let client = |n: u8| PeerPolicy { route_reflector_client: true, ..policy(n) };
    source.originate(route("65000:1:10.0.0.1/32", 16, &[RED]), now);
    source.peer_up(PEER, policy(100), &restarting(1, 100, vpn(), vpn()), now);
    reflector.peer_up(PEER, client(1), &restarting(100, 1, vpn(), vpn()), now);
    reflector.peer_up(PeerId(2), client(2), &restarting(100, 2, vpn(), vpn()), now);
    reflector.peer_up(PeerId(3), client(3), &session(100, 3, vpn()), now);
    take(&mut reflector, PEER, &messages(&mut source, PEER), now);
    let with_routes =
        |told: &[(u8, Vec<u8>)]| told.iter().filter(|(kind, body)| *kind == 2 && body.len() > 10).count();
    for peer in [PeerId(2), PeerId(3)] {
        assert_eq!(with_routes(&messages(&mut reflector, peer)), 1);
    }
    reflector.peer_down(PEER, away(now, 3600), now);
    for peer in [PeerId(2), PeerId(3)] {
        assert_eq!(with_routes(&messages(&mut reflector, peer)), 0, "kept");
    }
    reflector.handle_timeout(now + seconds(120));
    let told = [PeerId(2), PeerId(3)].map(|peer| messages(&mut reflector, peer));
    let has_stale = |body: &[u8]| body.windows(4).any(|octets| octets == [0xff, 0xff, 0, 6]);
    assert!(told[0].iter().any(|(_, body)| has_stale(body)));
    assert!(!told[1].iter().any(|(_, body)| has_stale(body)));
    assert_eq!(with_routes(&told[1]), 1, "withdrawn");
}

#[test]
fn memberships_are_kept_over_a_restart() {
    let now = Instant::now();
    let (mut a, mut b) = pair(now);
    a.peer_down(PEER, away(now, 0), now);
    b.peer_down(PEER, PeerDown::Purge, now);
    a.peer_up(PEER, policy(2), &restarting(1, 2, FamilySet::L3VPN, FamilySet::L3VPN), now);
    let told = messages(&mut a, PEER);
    assert!(told.iter().any(|(_, body)| body.len() > 40), "routes go at once, as the kept memberships ask");
    a.handle_timeout(now + seconds(360));
    assert_eq!(a.peer_counts(PEER).unwrap().memberships_received, 0);
    assert!(a.poll_timeout().is_none());
}
