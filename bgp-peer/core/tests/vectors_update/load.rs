//! Cases from `../shared/vectors`.

use std::net::Ipv4Addr;
use std::path::Path;

use bgp_core::wire::header::{Header, MessageType};
use bgp_core::{Family, FamilySet, Negotiated, Notification};
use serde_json::Value;
use vrouter_types::Asn;

pub(crate) const LOCAL_ID: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 254);
pub(crate) const PEER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);

pub(crate) fn cases(file: &str) -> Vec<Value> {
    let vectors = Path::new(env!("CARGO_MANIFEST_DIR"))
        .ancestors()
        .map(|folder| folder.join("shared/vectors"))
        .find(|folder| folder.is_dir());
    let Some(vectors) = vectors else {
        eprintln!("SKIPPED: no shared/vectors beside the workspace: {file} was not tested");
        return Vec::new();
    };
    let text = std::fs::read_to_string(vectors.join(file)).unwrap();
    serde_json::from_str(&text).unwrap()
}

pub(crate) fn text<'c>(case: &'c Value, key: &str) -> &'c str {
    case[key].as_str().unwrap_or_default()
}

pub(crate) fn list<'c>(case: &'c Value, key: &str) -> Vec<&'c str> {
    case[key].as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}

pub(crate) fn octets(hex: &str) -> Vec<u8> {
    assert!(hex.len().is_multiple_of(2), "{hex}");
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
}

pub(crate) fn hex(octets: &[u8]) -> String {
    octets.iter().map(|octet| format!("{octet:02x}")).collect()
}

pub(crate) fn family(text: &str) -> Option<Family> {
    let (afi, safi) = text.split_once('/')?;
    Family::from_code(afi.parse().ok()?, safi.parse().ok()?)
}

pub(crate) fn session(case: &Value) -> Negotiated {
    let negotiated = &case["negotiated"];
    let families = |key| list(negotiated, key).into_iter().filter_map(family).collect::<FamilySet>();
    let number = |key: &str| u32::try_from(negotiated[key].as_u64().unwrap_or(65000)).unwrap();
    let flag = |key: &str| negotiated[key].as_bool().unwrap_or(false);
    let (local_asn, peer_asn) = (Asn(number("local_as")), Asn(number("peer_as")));
    Negotiated {
        local_asn,
        peer_asn,
        local_router_id: LOCAL_ID,
        peer_router_id: PEER,
        is_ibgp: local_asn == peer_asn,
        as4: flag("as4"),
        hold_time: 90,
        families: families("families"),
        extended_message: flag("extended_message"),
        route_refresh: flag("route_refresh"),
        enhanced_route_refresh: flag("enhanced_route_refresh"),
        extended_nexthop: families("extended_nexthop"),
        restart: Default::default(),
    }
}

/// The body of a message, or what its header leads to.
pub(crate) fn body(message: &[u8], session: &Negotiated) -> Result<(MessageType, Vec<u8>), Notification> {
    let header = Header::decode(message, session.extended_message)?.expect("a whole header");
    Ok((header.kind, message[19..].to_vec()))
}
