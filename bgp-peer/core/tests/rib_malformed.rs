//! What the RIB does with defective UPDATEs, in a few octets each; the collected cases are in `vectors_update`.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod rib_pair;

use std::time::Instant;

use bgp_core::{Family, Notification, Rib};
use rib_pair::*;

const TARGET: &str = "target:65000:100";
const ORIGIN: &[u8] = &[0x40, 1, 1, 0];
const AS_PATH: &[u8] = &[0x40, 2, 0];
const LOCAL_PREF: &[u8] = &[0x40, 5, 4, 0, 0, 0, 100];
const TARGETS: &[u8] = &[0xc0, 16, 8, 0, 2, 0xfd, 0xe8, 0, 0, 0, 100];
/// 65000:1:10.0.0.1/32, label 16.
const ROUTE: &[u8] = &[0x78, 0x00, 0x01, 0x01, 0, 0, 0xfd, 0xe8, 0, 0, 0, 1, 10, 0, 0, 1];

fn attribute(flags: u8, code: u8, value: &[u8]) -> Vec<u8> {
    [&[flags, code, u8::try_from(value.len()).unwrap()], value].concat()
}

fn reach(next_hop: &[u8], routes: &[u8]) -> Vec<u8> {
    let length = u8::try_from(next_hop.len()).unwrap();
    attribute(0x80, 14, &[&[0, 1, 128, length], next_hop, &[0], routes].concat())
}

fn good_reach() -> Vec<u8> {
    reach(&[0, 0, 0, 0, 0, 0, 0, 0, 192, 0, 2, 2], ROUTE)
}

fn update(attributes: &[&[u8]]) -> Vec<u8> {
    let block = attributes.concat();
    let length = u16::try_from(block.len()).unwrap().to_be_bytes();
    [&[0, 0][..], &length, &block].concat()
}

/// A RIB that holds the route already, and what it makes of the next UPDATE.
fn hear(attributes: &[&[u8]]) -> (Rib, Result<(), Notification>) {
    let now = Instant::now();
    let mut rib = rib(1);
    rib.set_imports(imports(&[(0, &[TARGET])]), now);
    rib.peer_up(PEER, policy(2), &session(1, 2, vpn()), now);
    let good = update(&[&good_reach(), ORIGIN, AS_PATH, LOCAL_PREF, TARGETS]);
    rib.handle_update(PEER, &good, now).unwrap();
    assert_eq!((rib.counts().paths, events(&mut rib).len()), (1, 1));
    let result = rib.handle_update(PEER, &update(attributes), now);
    (rib, result)
}

#[test]
fn a_malformed_attribute_withdraws_the_routes_and_keeps_the_session() {
    let reach = good_reach();
    let cases: [(&[&[u8]], &str); 7] = [
        (&[&reach, &[0x40, 1, 1, 3], AS_PATH, LOCAL_PREF, TARGETS], "ORIGIN has a wrong value"),
        (&[&reach, &[0xc0, 1, 1, 0], AS_PATH, LOCAL_PREF, TARGETS], "ORIGIN has wrong flags"),
        (&[&reach, AS_PATH, LOCAL_PREF, TARGETS], "ORIGIN is missing"),
        (&[&reach, ORIGIN, &[0x40, 2, 1, 2], LOCAL_PREF, TARGETS], "AS_PATH has a wrong value"),
        (&[&reach, ORIGIN, AS_PATH, &[0x40, 5, 3, 0, 0, 0], TARGETS], "LOCAL_PREF has a wrong length"),
        (&[&reach, ORIGIN, AS_PATH, LOCAL_PREF, &[0xc0, 16, 9, 0, 2]], "EXTENDED COMMUNITIES passes the end"),
        (&[&reach, ORIGIN, AS_PATH, LOCAL_PREF, TARGETS, &[0xc0, 8, 0]], "COMMUNITIES has a wrong length"),
    ];
    for (attributes, reason) in cases {
        let (mut rib, result) = hear(attributes);
        assert_eq!(result, Ok(()), "{reason}");
        assert_eq!(rib.counts().paths, 0, "{reason}");
        assert_eq!(events(&mut rib)[0].paths, []);
        let counts = rib.peer_counts(PEER).unwrap();
        assert_eq!(counts.updates_malformed, 1);
        assert_eq!(counts.last_malformed.unwrap().to_string(), reason);
    }
}

#[test]
fn a_discarded_attribute_leaves_the_route() {
    let reach = good_reach();
    for discarded in
        [&[0xc0, 7, 3, 1, 2, 3][..], &[0x40, 6, 1, 0], &[0xc0, 40, 3, 0, 0, 0], &[0x80, 200, 1, 1]]
    {
        let (rib, result) = hear(&[&reach, ORIGIN, AS_PATH, LOCAL_PREF, TARGETS, discarded]);
        assert_eq!(result, Ok(()));
        assert_eq!(rib.counts().paths, 1);
        assert_eq!(rib.peer_counts(PEER).unwrap().attributes_discarded, 1, "{discarded:?}");
    }
}

#[test]
fn routes_that_cannot_be_read_end_the_session() {
    let next_hop = [0, 0, 0, 0, 0, 0, 0, 0, 192, 0, 2, 2];
    let short = reach(&next_hop, &ROUTE[..10]);
    let long_prefix = reach(&next_hop, &[&[0x79], &ROUTE[1..], &[0]].concat());
    let bad_next_hop = reach(&next_hop[8..], ROUTE);
    for reach in [short, long_prefix, bad_next_hop] {
        let (rib, result) = hear(&[&reach, ORIGIN, AS_PATH, LOCAL_PREF, TARGETS]);
        let sent = result.unwrap_err();
        assert_eq!((sent.code, sent.subcode, &sent.data[..]), (3, 9, &reach[..]));
        assert_eq!(rib.counts().paths, 1, "nothing of it was applied");
    }
}

#[test]
fn two_reach_attributes_end_the_session_and_two_of_another_do_not() {
    let reach = good_reach();
    let (_, result) = hear(&[&reach, ORIGIN, AS_PATH, LOCAL_PREF, TARGETS, &reach]);
    assert_eq!(result.unwrap_err().subcode, 1);
    let (rib, result) = hear(&[&reach, ORIGIN, AS_PATH, LOCAL_PREF, TARGETS, LOCAL_PREF]);
    assert_eq!((result, rib.counts().paths), (Ok(()), 1));
}

#[test]
fn a_next_hop_that_is_no_host_withdraws_the_route() {
    for [a, b, c, d] in [[0, 0, 0, 0], [127, 0, 0, 1], [224, 0, 0, 1], [255, 255, 255, 255]] {
        let reach = reach(&[0, 0, 0, 0, 0, 0, 0, 0, a, b, c, d], ROUTE);
        let (rib, result) = hear(&[&reach, ORIGIN, AS_PATH, LOCAL_PREF, TARGETS]);
        assert_eq!((result, rib.counts().paths), (Ok(()), 0));
    }
}

#[test]
fn lengths_that_pass_the_end_of_the_message_end_the_session() {
    let now = Instant::now();
    for body in [&[][..], &[0], &[0, 1], &[0, 0, 0], &[0, 0, 0, 1], &[0xff, 0xff, 0, 0]] {
        let (mut rib, _) = hear(&[]);
        let sent = rib.handle_update(PEER, body, now).unwrap_err();
        assert_eq!((sent.code, sent.subcode), (3, 1), "{body:?}");
    }
}

#[test]
fn only_a_bare_marker_is_an_end_of_rib() {
    let marker: &[u8] = &[0x80, 15, 3, 0, 1, 128];
    let (rib, result) = hear(&[marker]);
    assert!(result.is_ok() && rib.end_of_rib_heard(PEER).contains(Family::Vpnv4));
    let (rib, result) = hear(&[marker, ORIGIN]);
    assert!(result.is_ok() && rib.end_of_rib_heard(PEER).is_empty());
    let (rib, _) = hear(&[&[0x80, 15, 3, 0, 25, 70]]);
    assert!(rib.end_of_rib_heard(PEER).is_empty(), "of a family that was not negotiated");
}

#[test]
fn families_that_were_not_negotiated_change_nothing() {
    let evpn = attribute(0x80, 14, &[0, 25, 70, 4, 192, 0, 2, 2, 0, 1, 2, 3]);
    let (rib, result) = hear(&[&evpn, ORIGIN, AS_PATH, LOCAL_PREF, TARGETS]);
    assert_eq!((result, rib.counts().paths), (Ok(()), 1));
}
