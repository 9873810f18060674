//! Two neighbors over an in-memory link: they meet, collide, fall silent, break down and come back.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod pair;

use std::time::Duration;

use bgp_core::{DownReason, Input, Notification, State};
use pair::{Pair, config};

const SECOND: Duration = Duration::from_secs(1);

fn established(seed: u64) -> Pair {
    let mut pair = Pair::new([config(65000, 1), config(65000, 2)], [false, true], seed);
    pair.input(1, Input::Start);
    pair.input(0, Input::Start);
    pair.run(SECOND / 10);
    assert!(pair.is_established(), "{} {}", pair.nodes[0].state(), pair.nodes[1].state());
    pair
}

#[test]
fn the_first_attempt_is_made_at_once_and_succeeds() {
    let pair = established(1);
    assert_eq!(pair.ups, [1, 1]);
    assert_eq!(pair.open_links(), 1);
    let agreed = pair.nodes[0].negotiated().unwrap();
    assert_eq!(agreed.hold_time, 90);
    assert!(agreed.is_ibgp && agreed.as4);
    assert_eq!(pair.nodes[0].last_open().unwrap().router_id.octets(), [192, 0, 2, 2]);
    assert_eq!(pair.nodes[0].sent().opens, 1);
    assert_eq!(pair.nodes[1].received().opens, 1);
}

#[test]
fn two_that_connect_at_once_end_with_one_session_whatever_the_order() {
    let mut met_at_once = 0;
    for seed in 0..2000 {
        let mut pair = Pair::started(seed);
        pair.run(SECOND / 100);
        met_at_once += u32::from(pair.is_established());
        pair.run(20 * SECOND);
        assert!(pair.is_established(), "seed {seed}: {} {}", pair.nodes[0].state(), pair.nodes[1].state());
        assert_eq!(pair.open_links(), 1, "seed {seed}");
        let ups = pair.ups;
        pair.run(1000 * SECOND);
        assert_eq!((pair.ups, pair.is_established()), (ups, true), "seed {seed}: the session does not last");
    }
    // Now and then each end closes the other's connection (RFC 4271 §6.8 allows it); a second later all is well.
    assert!(met_at_once > 1500, "only {met_at_once} of 2000 met at once");
}

#[test]
fn external_neighbors_with_one_identifier_resolve_their_collision() {
    for seed in 0..200 {
        let (mut a, mut b) = (config(65000, 1), config(65001, 1));
        (a.peer_asn, b.peer_asn) = (b.local_asn, a.local_asn);
        let mut pair = Pair::new([a, b], [false; 2], seed);
        pair.input(0, Input::Start);
        pair.input(1, Input::Start);
        pair.run(20 * SECOND);
        assert!(pair.is_established() && pair.open_links() == 1, "seed {seed}");
    }
}

#[test]
fn keepalives_hold_a_session_for_a_day() {
    let mut pair = established(3);
    pair.run(24 * 3600 * SECOND);
    assert!(pair.is_established());
    assert_eq!(pair.ups, [1, 1]);
    let keepalives = pair.nodes[0].sent().keepalives;
    // One every 22.5 to 30 seconds.
    assert!((2880..=3841).contains(&keepalives), "{keepalives}");
}

#[test]
fn hold_time_zero_needs_no_keepalives() {
    let mut quiet = config(65000, 1);
    quiet.hold_time = 0;
    let mut pair = Pair::new([quiet, config(65000, 2)], [false, true], 4);
    pair.input(1, Input::Start);
    pair.input(0, Input::Start);
    pair.run(24 * 3600 * SECOND);
    assert!(pair.is_established());
    assert_eq!(pair.nodes[0].sent().keepalives, 1, "the one that confirms the OPEN");
}

#[test]
fn silence_ends_the_session_after_the_hold_time_and_not_before() {
    let mut pair = established(5);
    pair.is_cut = true;
    pair.run(59 * SECOND);
    assert!(pair.is_established(), "a keepalive was due at most 30 seconds before the cut");
    pair.run(32 * SECOND);
    for node in 0..2 {
        assert_eq!(pair.downs[node], [DownReason::Sent(Notification::hold_timer_expired())]);
    }
}

#[test]
fn a_lost_session_comes_back() {
    let mut pair = established(6);
    for round in 2..20 {
        pair.break_links();
        pair.run(61 * SECOND);
        assert_eq!(pair.ups, [round, round]);
        assert!(pair.is_established());
    }
    assert_eq!(pair.nodes[0].established(), 19);
    assert_eq!(pair.nodes[0].dropped(), 18);
}

#[test]
fn a_cut_link_heals_by_itself() {
    let mut pair = established(7);
    pair.is_cut = true;
    pair.reachable = [false; 2];
    pair.run(600 * SECOND);
    assert!(!pair.is_established());
    pair.is_cut = false;
    pair.reachable = [true; 2];
    pair.run(31 * SECOND);
    assert!(pair.is_established());
}

#[test]
fn waits_grow_to_half_a_minute_and_are_jittered() {
    let attempts = |seed| {
        let mut pair = Pair::new([config(65000, 1), config(65000, 2)], [false, true], seed);
        pair.reachable[1] = false;
        pair.input(0, Input::Start);
        pair.run(600 * SECOND);
        assert_eq!(pair.nodes[0].state(), State::Active);
        pair.attempts[0].windows(2).map(|pair| pair[1] - pair[0]).collect::<Vec<_>>()
    };
    let waits = attempts(8);
    for (wait, longest) in waits.iter().zip([1, 2, 4, 8, 16, 30, 30, 30]) {
        let longest = longest * SECOND;
        assert!(*wait <= longest && *wait > longest / 2 - SECOND / 1000, "{wait:?} for {longest:?}");
    }
    assert!(waits.len() < 40, "{} attempts in ten minutes", waits.len());
    assert_ne!(waits[..5], attempts(9)[..5]);
}

#[test]
fn a_session_that_lasts_begins_the_waits_anew() {
    let mut pair = established(10);
    pair.reachable[1] = false;
    pair.break_links();
    pair.run(300 * SECOND);
    pair.reachable[1] = true;
    pair.run(31 * SECOND);
    assert!(pair.is_established());
    pair.run(61 * SECOND);
    let before = pair.attempts[0].len();
    pair.break_links();
    pair.run(SECOND);
    assert!(pair.is_established());
    assert_eq!(pair.attempts[0].len(), before + 1);
}

#[test]
fn a_planned_end_says_so_and_is_no_reason_to_give_up() {
    let mut pair = established(11);
    pair.input(1, Input::Stop("new rack"));
    pair.run(SECOND / 100);
    let [DownReason::Received(notification)] = &pair.downs[0][..] else { panic!("{:?}", pair.downs[0]) };
    assert_eq!(notification.to_string(), "Cease, Administrative Shutdown (6/2): \"new rack\"");
    assert_eq!(pair.nodes[1].state(), State::Idle);
    pair.run(100 * SECOND);
    assert_eq!(pair.nodes[1].state(), State::Idle, "stopped is stopped");
    pair.input(1, Input::Start);
    pair.run(31 * SECOND);
    assert!(pair.is_established());
}

#[test]
fn wrong_as_is_refused_with_the_reason_at_both_ends() {
    let mut pair = Pair::new([config(65000, 1), config(65000, 2)], [false, true], 12);
    let mut wrong = config(65001, 2);
    wrong.peer_asn = config(65000, 1).local_asn;
    pair.nodes[1] = bgp_core::Neighbor::new(wrong, true, 1, pair.now);
    pair.input(1, Input::Start);
    pair.input(0, Input::Start);
    pair.run(10 * SECOND);
    assert_eq!(pair.ups, [0, 0]);
    let error = pair.nodes[0].last_error().unwrap();
    let reason = error.reason.to_string();
    let [ours, theirs] = ["in AS 65001, configured is AS 65000", "in AS 65000, configured is AS 65001"];
    let word = "received OPEN Message Error, Bad Peer AS (2/2)";
    assert!(reason.contains(ours) || reason == word, "{reason}");
    let reason = pair.nodes[1].last_error().unwrap().reason.to_string();
    assert!(reason.contains(theirs) || reason == word, "{reason}");
    assert!(!error.octets.is_empty());
    assert!(pair.attempts[0].len() < 8, "{} attempts in ten seconds", pair.attempts[0].len());
    assert!(pair.nodes[0].sent().notifications > 0 || pair.nodes[0].received().notifications > 0);
}

#[test]
fn a_neighbor_that_lost_its_session_unnoticed_is_let_in_again() {
    let mut pair = established(13);
    // The second node is born anew; its end of the old connection is gone without a word.
    pair.is_cut = true;
    pair.nodes[1] = bgp_core::Neighbor::new(config(65000, 2), false, 99, pair.now);
    pair.run(SECOND);
    pair.is_cut = false;
    pair.input(1, Input::Start);
    pair.run(200 * SECOND);
    assert!(pair.is_established());
    assert!(pair.open_links() >= 1);
    assert!(pair.ups[1] >= 2);
}
