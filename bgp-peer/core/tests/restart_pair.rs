//! Graceful restart on a virtual clock: two neighbors, two RIBs, and what one keeps of the other's routes while there is
//! no session. A day passes in microseconds.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod pair;

use std::time::Duration;

use bgp_core::{
    DownReason, Input, LocalRoute, Neighbor, Notification, RestartOffer, Rib, RibConfig, SessionConfig,
    State, VrfImport,
};
use pair::{Pair, config};
use vrouter_types::{EncapSet, Label, VrfId};

const SECOND: Duration = Duration::from_secs(1);
const RESTART: Duration = Duration::from_secs(120);
const LONG: Duration = Duration::from_secs(3600);

const OFFER: RestartOffer =
    RestartOffer { restarting: false, forwarding_kept: true, restart_time: 120, long_lived_stale_time: 0 };

fn with(offer: Option<RestartOffer>, router_id: u8) -> SessionConfig {
    SessionConfig { restart: offer, ..config(65000, router_id) }
}

fn rib(pair: &Pair, number: u8) -> Rib {
    let id = [192, 0, 2, number].into();
    let asn = config(65000, number).local_asn;
    let mut rib = Rib::new(RibConfig { asn, router_id: id, cluster_id: id, max_paths: 1000 });
    let import = vec!["target:65000:7".parse().unwrap()];
    rib.set_imports(vec![VrfImport { vrf: VrfId(0), import }], pair.now);
    rib
}

fn route(number: u8) -> LocalRoute {
    LocalRoute {
        prefix: format!("192.0.2.{number}:1:10.0.0.{number}/32").parse().unwrap(),
        label: Label::new(100).unwrap(),
        next_hop: [192, 0, 2, number].into(),
        route_targets: vec!["target:65000:7".parse().unwrap()],
        encaps: EncapSet::from_iter(vrouter_types::Encap::ALL),
        local_pref: 100,
        med: None,
        as_path_prepend: Vec::new(),
        communities: Vec::new(),
        large_communities: Vec::new(),
        hash_order: None,
    }
}

/// Two that offer this, with a route from the first in the second.
fn established(first: Option<RestartOffer>, second: Option<RestartOffer>, seed: u64) -> Pair {
    let mut pair = Pair::new([with(first, 1), with(second, 2)], [false, true], seed);
    let mut ribs = [rib(&pair, 1), rib(&pair, 2)];
    ribs[0].set_imports(Vec::new(), pair.now);
    ribs[0].originate(route(1), pair.now);
    pair.ribs = Some(ribs);
    pair.input(1, Input::Start);
    pair.input(0, Input::Start);
    pair.run(2 * SECOND);
    assert!(pair.is_established());
    assert_eq!(pair.told[1], [1], "the route is there");
    pair
}

/// Nobody reaches the other from now on.
fn separate(pair: &mut Pair) {
    pair.reachable = [false; 2];
    pair.break_links();
}

#[test]
fn a_link_that_flaps_moves_no_route_at_either_end_whatever_the_order() {
    for seed in 0..200 {
        let mut pair = established(Some(OFFER), Some(OFFER), seed);
        for round in 2..6 {
            pair.break_links();
            pair.run(40 * SECOND);
            assert!(pair.is_established(), "seed {seed}");
            assert_eq!(pair.ups, [round, round], "seed {seed}");
        }
        assert_eq!(pair.told[1], [1], "seed {seed}: told once and never again");
    }
}

#[test]
fn without_graceful_restart_at_either_end_routes_go_with_the_session() {
    for (first, second) in [(None, None), (Some(OFFER), None), (None, Some(OFFER))] {
        let mut pair = established(first, second, 1);
        pair.break_links();
        pair.run(40 * SECOND);
        assert_eq!(pair.told[1], [1, 0, 1]);
    }
}

#[test]
fn who_does_not_come_back_is_forgotten_when_the_restart_time_is_over() {
    let mut pair = established(Some(OFFER), Some(OFFER), 2);
    separate(&mut pair);
    pair.run(RESTART - SECOND);
    assert_eq!(pair.told[1], [1]);
    pair.run(2 * SECOND);
    assert_eq!(pair.told[1], [1, 0]);
}

#[test]
fn long_lived_routes_stay_until_both_times_are_over_and_the_shorter_wish_counts() {
    for (ours, theirs) in [(3600, 3600), (3600, 86_400), (86_400, 3600)] {
        let [first, second] =
            [ours, theirs].map(|time| Some(RestartOffer { long_lived_stale_time: time, ..OFFER }));
        let mut pair = established(first, second, 3);
        separate(&mut pair);
        pair.run(RESTART + LONG - SECOND);
        assert_ne!(pair.told[1].last(), Some(&0), "{ours} {theirs}");
        pair.run(2 * SECOND);
        assert_eq!(pair.told[1].last(), Some(&0), "{ours} {theirs}");
    }
}

#[test]
fn back_within_the_long_lived_time_nothing_has_moved() {
    let long = Some(RestartOffer { long_lived_stale_time: 3600, ..OFFER });
    let mut pair = established(long, long, 4);
    separate(&mut pair);
    pair.run(LONG);
    pair.reachable = [true; 2];
    pair.run(40 * SECOND);
    assert!(pair.is_established());
    assert!(!pair.told[1].contains(&0), "{:?}", pair.told[1]);
    // The new session's times count anew.
    separate(&mut pair);
    pair.run(RESTART + LONG + 2 * SECOND);
    assert_eq!(pair.told[1].last(), Some(&0));
}

#[test]
fn silence_ends_the_session_and_not_the_routes() {
    let mut pair = established(Some(OFFER), Some(OFFER), 5);
    pair.is_cut = true;
    pair.run(95 * SECOND);
    let hold = DownReason::Sent(Notification::hold_timer_expired());
    assert_eq!(pair.downs, [vec![hold.clone()], vec![hold]]);
    assert_eq!(pair.told[1], [1], "the N bit");
    pair.is_cut = false;
    pair.run(60 * SECOND);
    assert!(pair.is_established());
    assert_eq!(pair.told[1], [1]);
}

#[test]
fn a_planned_end_is_a_hard_reset_and_takes_the_routes() {
    let mut pair = established(Some(OFFER), Some(OFFER), 6);
    pair.input(0, Input::Stop("new rack"));
    pair.run(SECOND);
    assert_eq!(pair.told[1], [1, 0]);
    let [DownReason::Received(said)] = &pair.downs[1][..] else { panic!("{:?}", pair.downs[1]) };
    assert!(said.is_hard_reset() && said.to_string().contains("new rack"), "{said}");
}

#[test]
fn who_leaves_without_a_word_keeps_its_routes_with_the_neighbor() {
    let mut pair = established(Some(OFFER), Some(OFFER), 7);
    pair.input(0, Input::Leave(""));
    pair.run(SECOND);
    assert!(matches!(pair.downs[1][..], [DownReason::Lost(_)]), "{:?}", pair.downs[1]);
    assert_eq!(pair.nodes[0].state(), State::Idle);
    pair.input(0, Input::Start);
    pair.run(40 * SECOND);
    assert!(pair.is_established());
    assert_eq!(pair.told[1], [1]);

    // Who would not keep them is told.
    let mut pair = established(Some(OFFER), None, 8);
    pair.input(0, Input::Leave("bye"));
    pair.run(SECOND);
    assert!(matches!(pair.downs[1][..], [DownReason::Received(_)]), "{:?}", pair.downs[1]);
}

#[test]
fn a_configuration_change_leaves_routes_where_they_are() {
    let mut pair = established(Some(OFFER), Some(OFFER), 9);
    pair.input(0, Input::End(Notification::configuration_change()));
    pair.input(0, Input::Start);
    pair.run(40 * SECOND);
    assert!(pair.is_established() && pair.ups == [2, 2]);
    assert_eq!(pair.told[1], [1]);
}

/// The first node is born anew with these routes; the wire is told nothing.
fn reborn(pair: &mut Pair, offer: RestartOffer, routes: &[LocalRoute]) {
    pair.break_links();
    pair.nodes[0] = Neighbor::new(with(Some(offer), 1), false, 77, pair.now);
    let mut fresh = rib(pair, 1);
    routes.iter().for_each(|route| fresh.originate(route.clone(), pair.now));
    pair.ribs.as_mut().unwrap()[0] = fresh;
    pair.input(0, Input::Start);
    pair.run(40 * SECOND);
    assert!(pair.is_established());
}

#[test]
fn who_restarts_with_its_forwarding_state_is_missed_by_nobody() {
    let mut pair = established(Some(OFFER), Some(OFFER), 10);
    reborn(&mut pair, RestartOffer { restarting: true, ..OFFER }, &[route(1)]);
    assert_eq!(pair.told[1], [1]);
    let theirs = pair.nodes[1].negotiated().unwrap().restart.theirs.clone().unwrap();
    assert!(theirs.restarting);
}

#[test]
fn who_restarts_without_its_forwarding_state_is_forgotten_before_it_is_learned_again() {
    let mut pair = established(Some(OFFER), Some(OFFER), 11);
    reborn(&mut pair, RestartOffer { restarting: true, forwarding_kept: false, ..OFFER }, &[route(1)]);
    assert_eq!(pair.told[1].last(), Some(&1));
    assert!(pair.told[1].contains(&0), "{:?}", pair.told[1]);
}

#[test]
fn what_a_restarted_neighbor_has_no_more_goes_when_it_has_said_all() {
    let mut pair = established(Some(OFFER), Some(OFFER), 12);
    reborn(&mut pair, RestartOffer { restarting: true, ..OFFER }, &[]);
    assert_eq!(pair.told[1], [1, 0], "swept at End-of-RIB");
}

#[test]
fn a_neighbor_that_calls_anew_has_restarted_and_is_taken_at_once() {
    let mut pair = established(Some(OFFER), Some(OFFER), 13);
    pair.run(60 * SECOND);
    // Its end of the old connection is gone without a word: power was lost.
    pair.is_cut = true;
    pair.nodes[0] =
        Neighbor::new(with(Some(RestartOffer { restarting: true, ..OFFER }), 1), false, 99, pair.now);
    let mut fresh = rib(&pair, 1);
    fresh.originate(route(1), pair.now);
    pair.ribs.as_mut().unwrap()[0] = fresh;
    pair.is_cut = false;
    pair.input(0, Input::Start);
    pair.run(5 * SECOND);
    assert!(pair.is_established(), "without waiting for the hold timer");
    assert!(
        matches!(&pair.downs[1][..], [DownReason::Lost(why)] if why.contains("anew")),
        "{:?}",
        pair.downs[1]
    );
    assert_eq!(pair.told[1], [1]);
}

#[test]
fn both_connect_at_once_with_graceful_restart_and_one_session_remains() {
    for seed in 0..500 {
        let mut pair = Pair::new([with(Some(OFFER), 1), with(Some(OFFER), 2)], [false; 2], seed);
        pair.input(0, Input::Start);
        pair.input(1, Input::Start);
        pair.run(20 * SECOND);
        assert!(pair.is_established() && pair.open_links() == 1, "seed {seed}");
        let ups = pair.ups;
        pair.run(1000 * SECOND);
        assert_eq!((pair.ups, pair.is_established()), (ups, true), "seed {seed}: the session does not last");
    }
}

#[test]
fn a_configured_keepalive_time_counts_up_to_a_third_of_the_hold_time() {
    for (configured, seconds) in [(10, 10), (60, 30)] {
        let mut often = config(65000, 1);
        often.keepalive_time = Some(configured);
        let mut pair = Pair::new([often, config(65000, 2)], [false, true], 14);
        pair.input(1, Input::Start);
        pair.input(0, Input::Start);
        pair.run(3600 * SECOND);
        let sent = pair.nodes[0].sent().keepalives;
        let (fewest, most) = (3600 / seconds, 3600 / seconds * 4 / 3 + 2);
        assert!((fewest..=most).contains(&sent), "{sent} of {fewest} to {most}");
    }
}

#[test]
fn a_configured_connect_retry_time_is_kept_about() {
    let mut eager = config(65000, 1);
    eager.connect_retry = Some(5);
    let mut pair = Pair::new([eager, config(65000, 2)], [false, true], 15);
    pair.reachable[1] = false;
    pair.input(0, Input::Start);
    pair.run(600 * SECOND);
    let waits: Vec<_> = pair.attempts[0].windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!(waits.len() > 100, "{}", waits.len());
    assert!(waits.iter().all(|wait| *wait <= 5 * SECOND && *wait >= 3 * SECOND), "{waits:?}");
}

#[test]
fn whatever_a_link_does_in_the_end_both_ends_agree() {
    let long = RestartOffer { long_lived_stale_time: 600, ..OFFER };
    let offers = [None, Some(OFFER), Some(long)].into_iter().cycle();
    for (seed, offer) in (0..300u64).zip(offers) {
        let mut pair = established(offer, offer, seed);
        let (mut chance, mut is_there) = (seed, true);
        for _ in 0..30 {
            chance = chance.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let [kind, time, ..] = (chance >> 24).to_be_bytes()[3..] else { unreachable!() };
            match kind % 5 {
                0 => pair.break_links(),
                1 => {
                    // Silence, which may be longer than the hold time; then what was lost is noticed.
                    pair.is_cut = true;
                    pair.run(u32::from(time) * SECOND);
                    pair.is_cut = false;
                    pair.break_links();
                }
                2 => pair.reachable = [!pair.reachable[0]; 2],
                3 => {
                    let (now, ribs) = (pair.now, pair.ribs.as_mut().unwrap());
                    match is_there {
                        true => ribs[0].withdraw(route(1).prefix, now),
                        false => ribs[0].originate(route(1), now),
                    }
                    is_there = !is_there;
                }
                _ => pair.run(u32::from(time) * SECOND / 8),
            }
        }
        pair.reachable = [true; 2];
        pair.run(300 * SECOND);
        assert!(pair.is_established(), "seed {seed}");
        assert_eq!(pair.told[1].last(), Some(&usize::from(is_there)), "seed {seed}: {:?}", pair.told[1]);
    }
}
