//! `rtc.json`: route target membership, read and obeyed.

use std::time::Instant;

use bgp_core::wire::nlri::Nlri;
use bgp_core::wire::update::Update;
use bgp_core::{
    Family, FamilySet, LocalRoute, Negotiated, PeerId, PeerPolicy, Rib, RibConfig, RouteQuery, RouteScope,
};
use bytes::BytesMut;
use serde_json::{Value, json};
use vrouter_types::{EncapSet, Label, RouteTarget};

use crate::load::*;

fn memberships(case: &Value) -> Result<Vec<Value>, String> {
    let session = session(case);
    let (_, body) = body(&octets(text(case, "message_hex")), &session).map_err(|sent| sent.to_string())?;
    let update = Update::decode(&body, &session).map_err(|sent| format!("{}/{}", sent.code, sent.subcode))?;
    assert_eq!(update.malformed, None, "{}", text(case, "id"));
    if case["eor"].is_string() {
        assert_eq!(update.end_of_rib, Some((1, 132)));
    }
    let routes = update.unreach.into_iter().chain(update.reach.map(|reach| reach.routes)).flatten();
    Ok(routes
        .map(|route| {
            let Nlri::Rtc(membership) = route else { panic!("{route:?}") };
            let target = hex(&membership.target_octets());
            json!({"length": membership.bits(), "origin_as": membership.origin().map(|asn| asn.0), "rt_hex": target})
        })
        .collect())
}

/// Octets as sent may have bits set past the length; they mean nothing, and are cleared here as the decoder clears them.
fn expected(case: &Value) -> Vec<Value> {
    let decoded = case["decoded"].as_array().into_iter().flatten();
    decoded
        .map(|entry| {
            let mut target = [0; 8];
            let sent = octets(text(entry, "rt_hex"));
            target[..sent.len()].copy_from_slice(&sent);
            let bits = entry["length"].as_u64().unwrap().saturating_sub(32);
            let kept = u64::from_be_bytes(target) & if bits == 0 { 0 } else { u64::MAX << (64 - bits) };
            json!({"length": entry["length"], "origin_as": entry["origin_as"], "rt_hex": hex(&kept.to_be_bytes())})
        })
        .collect()
}

#[test]
fn memberships_read_as_rfc_4684_has_them_and_others_end_the_session() {
    let mut failures = Vec::new();
    for case in cases("rtc.json").iter().filter(|case| text(case, "kind") == "nlri") {
        let read = memberships(case);
        let wanted = match text(case, "expect") {
            "accept" => Ok(expected(case)),
            "reset" => Err("3/9".to_owned()),
            other => panic!("{other}"),
        };
        if read != wanted {
            failures.push(format!("{}: {read:?}, not {wanted:?}", text(case, "id")));
        }
    }
    assert!(failures.is_empty(), "{}:\n{}", failures.len(), failures.join("\n"));
}

/// A RIB whose neighbor has these memberships, and one route with these targets: is it sent?
fn is_advertised(case: &Value) -> bool {
    let now = Instant::now();
    let session = Negotiated { families: FamilySet::L3VPN, ..session(&json!({"negotiated": {"as4": true}})) };
    let config =
        RibConfig { asn: session.local_asn, router_id: LOCAL_ID, cluster_id: LOCAL_ID, max_paths: 1_000 };
    let mut rib = Rib::new(config);
    let targets = list(case, "route_target_hex")
        .into_iter()
        .map(|target| RouteTarget::from_ext_community(octets(target).try_into().unwrap()).unwrap());
    let route = LocalRoute {
        prefix: "65000:1:10.0.0.1/32".parse().unwrap(),
        label: Label::FIRST_UNRESERVED,
        next_hop: LOCAL_ID.into(),
        route_targets: targets.collect(),
        encaps: EncapSet::EMPTY,
        local_pref: 100,
        med: None,
        as_path_prepend: Vec::new(),
        communities: Vec::new(),
        large_communities: Vec::new(),
        hash_order: None,
    };
    rib.originate(route, now);
    let policy = PeerPolicy::new(PEER.into());
    rib.peer_up(PeerId(0), policy, &session, now);
    for membership in list(case, "memberships") {
        rib.handle_update(PeerId(0), &announcement(&octets(membership)), now).unwrap();
    }
    // End-of-RIB of 1/132.
    rib.handle_update(PeerId(0), &octets("00000006800f03000184"), now).unwrap();
    let mut out = BytesMut::new();
    while rib.poll_message(PeerId(0), &mut out) {}
    let scope = RouteScope::Advertised(PeerId(0));
    !rib.routes(&RouteQuery { scope, family: Some(Family::Vpnv4), ..RouteQuery::default() }).is_empty()
}

/// An UPDATE body with one membership, from the octets of its NLRI.
fn announcement(nlri: &[u8]) -> Vec<u8> {
    let reach = [&[0, 1, 132, 4, 192, 0, 2, 1, 0][..], nlri].concat();
    let length = u8::try_from(reach.len()).unwrap();
    let block = [&[0x80, 14, length][..], &reach, &octets("40010100400200400504"), &[0, 0, 0, 100]].concat();
    let length = u16::try_from(block.len()).unwrap().to_be_bytes();
    [&[0, 0][..], &length, &block].concat()
}

#[test]
fn a_neighbor_gets_the_routes_that_its_memberships_cover() {
    let mut failures = Vec::new();
    for case in cases("rtc.json").iter().filter(|case| text(case, "kind") == "match") {
        if case["expect_advertise"].as_bool() != Some(is_advertised(case)) {
            failures.push(text(case, "id").to_owned());
        }
    }
    assert!(failures.is_empty(), "{failures:?}");
}
