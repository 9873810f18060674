//! What we accept, read by netgauze-bgp-pkt as well; and what it writes from what it read of ours, octet for octet.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod differential;

use std::collections::HashMap;
use std::net::IpAddr;

use differential::{
    Message, Reading, Reason, Verdict, as_path, foreign_family, has_host_bits, has_membership, has_twice,
    has_unread, has_wrong_mp_flags, membership, says, unicast, vpn,
};
use netgauze_bgp_pkt::BgpMessage;
use netgauze_bgp_pkt::nlri::{MplsLabel, RouteDistinguisher, RouteTargetMembershipAddress};
use netgauze_bgp_pkt::path_attribute::{AsPath, AsPathSegmentType, MpReach, MpUnreach, PathAttributeValue};
use netgauze_bgp_pkt::update::BgpUpdateMessage;
use netgauze_bgp_pkt::wire::deserializer::BgpParsingContext;
use netgauze_parse_utils::WritablePdu;
use netgauze_parse_utils::reader::SliceReader;
use netgauze_parse_utils::traits::ParseFromWithOneInput;

fn parse(message: &Message) -> Option<BgpUpdateMessage> {
    let mut context =
        BgpParsingContext::new(message.as4, HashMap::new(), HashMap::new(), false, false, false, false);
    let mut reader = SliceReader::new(&message.octets);
    match BgpMessage::parse(&mut reader, &mut context) {
        Ok(BgpMessage::Update(update)) => Some(update),
        _ => None,
    }
}

fn theirs(message: &Message) -> Verdict {
    let Some(update) = parse(message) else { return Verdict::Reset };
    let mut reading = Reading {
        announced: update.nlri().iter().map(|route| unicast(route.network().address())).collect(),
        withdrawn: update.withdraw_routes().iter().map(|route| unicast(route.network().address())).collect(),
        ..Reading::default()
    };
    for attribute in update.path_attributes() {
        put(&mut reading, attribute.value(), !update.nlri().is_empty());
    }
    Verdict::Says(reading)
}

fn put(reading: &mut Reading, attribute: &PathAttributeValue, has_body: bool) {
    match attribute {
        PathAttributeValue::Origin(origin) => reading.put("origin", *origin as u8),
        PathAttributeValue::AsPath(path) => reading.put("as-path", show_path(path)),
        PathAttributeValue::NextHop(next_hop) if has_body && reading.next_hop.is_none() => {
            reading.next_hop = Some(next_hop.next_hop().into());
        }
        PathAttributeValue::MultiExitDiscriminator(med) => reading.put("med", med.metric()),
        PathAttributeValue::LocalPreference(pref) => reading.put("local-pref", pref.metric()),
        PathAttributeValue::Originator(originator) => reading.put("originator", originator.id()),
        PathAttributeValue::ClusterList(list) => {
            let octets = list.cluster_list().iter().flat_map(|id| id.id().octets());
            reading.put_list("cluster-list", &octets.collect::<Vec<_>>());
        }
        PathAttributeValue::Communities(list) => {
            let octets = list.communities().iter().flat_map(|one| one.value().to_be_bytes());
            reading.put_list("communities", &octets.collect::<Vec<_>>());
        }
        PathAttributeValue::ExtendedCommunities(list) => {
            let octets = list.communities().iter().flat_map(|one| {
                let mut octets = Vec::new();
                one.write(&mut octets).unwrap();
                octets
            });
            reading.put_list("ext-communities", &octets.collect::<Vec<_>>());
        }
        PathAttributeValue::LargeCommunities(list) => {
            let octets = list.communities().iter().flat_map(|one| {
                let mut octets = Vec::new();
                one.write(&mut octets).unwrap();
                octets
            });
            reading.put_list("large-communities", &octets.collect::<Vec<_>>());
        }
        PathAttributeValue::MpReach(reach) => put_reach(reading, reach),
        PathAttributeValue::MpUnreach(unreach) => put_unreach(reading, unreach),
        _ => {}
    }
}

fn show_path(path: &AsPath) -> String {
    let is_set = |kind: AsPathSegmentType| kind == AsPathSegmentType::AsSet;
    let segments: Vec<(bool, Vec<u32>)> = match path {
        AsPath::As2PathSegments(segments) => segments
            .iter()
            .map(|segment| {
                (
                    is_set(segment.segment_type()),
                    segment.as_numbers().iter().map(|asn| u32::from(*asn)).collect(),
                )
            })
            .collect(),
        AsPath::As4PathSegments(segments) => segments
            .iter()
            .map(|segment| (is_set(segment.segment_type()), segment.as_numbers().to_vec()))
            .collect(),
    };
    as_path(segments.iter().map(|(is_set, numbers)| (*is_set, &numbers[..])))
}

fn put_reach(reading: &mut Reading, reach: &MpReach) {
    let next_hop: IpAddr = match reach {
        MpReach::Ipv4Unicast { next_hop, nlri, .. } => {
            reading.announced.extend(nlri.iter().map(|route| unicast(route.network().address())));
            *next_hop
        }
        MpReach::Ipv6Unicast { next_hop_global, nlri, .. } => {
            reading.announced.extend(nlri.iter().map(|route| unicast(route.network().address())));
            (*next_hop_global).into()
        }
        MpReach::Ipv4MplsVpnUnicast { next_hop, nlri } => {
            let routes = nlri.iter().map(|r| vpn(rd(r.rd()), r.network().address(), label(r.label_stack())));
            reading.announced.extend(routes);
            next_hop.next_hop()
        }
        MpReach::Ipv6MplsVpnUnicast { next_hop, nlri } => {
            let routes = nlri.iter().map(|r| vpn(rd(r.rd()), r.network().address(), label(r.label_stack())));
            reading.announced.extend(routes);
            next_hop.next_hop()
        }
        MpReach::RouteTargetMembership { next_hop, nlri } => {
            reading.announced.extend(nlri.iter().map(target));
            *next_hop
        }
        _ => return,
    };
    reading.next_hop = Some(next_hop.to_canonical());
}

fn put_unreach(reading: &mut Reading, unreach: &MpUnreach) {
    match unreach {
        MpUnreach::Ipv4Unicast { nlri } => {
            reading.withdrawn.extend(nlri.iter().map(|route| unicast(route.network().address())));
        }
        MpUnreach::Ipv6Unicast { nlri } => {
            reading.withdrawn.extend(nlri.iter().map(|route| unicast(route.network().address())));
        }
        MpUnreach::Ipv4MplsVpnUnicast { nlri } => {
            reading
                .withdrawn
                .extend(nlri.iter().map(|route| vpn(rd(route.rd()), route.network().address(), 0)));
        }
        MpUnreach::Ipv6MplsVpnUnicast { nlri } => {
            reading
                .withdrawn
                .extend(nlri.iter().map(|route| vpn(rd(route.rd()), route.network().address(), 0)));
        }
        MpUnreach::RouteTargetMembership { nlri } => reading.withdrawn.extend(nlri.iter().map(target)),
        _ => {}
    }
}

fn rd(rd: RouteDistinguisher) -> [u8; 8] {
    u64::from(rd).to_be_bytes()
}

fn label(stack: &[MplsLabel]) -> u32 {
    stack.first().map_or(0, |label| {
        let [a, b, c] = *label.value();
        u32::from_be_bytes([0, a, b, c]) >> 4
    })
}

fn target(route: &RouteTargetMembershipAddress) -> String {
    route.membership().map_or_else(
        || membership(0, &[]),
        |target| {
            let octets = [&target.origin_as().to_be_bytes()[..], target.route_target()].concat();
            membership(u8::try_from(octets.len() * 8).unwrap(), &octets)
        },
    )
}

/// Why we differ.
const REASONS: &[Reason] = &[
    (
        "netgauze refuses a message, or what follows, for an attribute that we discard or do not look into (RFC 7606)",
        |message, _, _| has_unread(message) && !has_twice(message),
    ),
    (
        "of an attribute that comes twice the first counts (RFC 7606 §3 g); netgauze keeps both",
        |message, _, _| has_twice(message),
    ),
    (
        "netgauze keeps bits beyond the length of a prefix; they are irrelevant (RFC 4271 §4.3)",
        |message, _, theirs| says(theirs, |_| true) && has_host_bits(message),
    ),
    ("netgauze knows no link-local next hop of a VPN route (RFC 2545 §3)", |message, _, _| {
        message.id.contains("nh-48")
    }),
    (
        "route distinguishers of unknown type are still distinguishers (RFC 4364 §4.2); netgauze drops the routes",
        |message, _, _| message.id.starts_with("rd-type-"),
    ),
    (
        "we ignore what belongs to a family that was not negotiated; netgauze reads or refuses it",
        |message, ours, _| says(ours, |reading| reading.announced.is_empty()) && foreign_family(message),
    ),
    ("netgauze drops IPv6 prefixes outside the blocks in use", |_, ours, _| {
        says(ours, |reading| {
            reading.announced.iter().chain(&reading.withdrawn).any(|route| route.contains("fffe:"))
        })
    }),
    (
        "wrong flags of MP_UNREACH_NLRI: the routes can be read, and are withdrawn (RFC 7606 §3 c)",
        |message, _, _| has_wrong_mp_flags(message),
    ),
    ("netgauze reads memberships in whole octets only (RFC 4684 §4)", |_, ours, _| {
        has_membership(ours, |bits| bits % 8 != 0)
    }),
];

#[test]
fn netgauze_and_we_read_the_same() {
    differential::compare_accepted(theirs, &[], REASONS);
}

#[test]
fn what_netgauze_writes_from_our_messages_is_what_we_wrote() {
    let mut compared = 0;
    for message in differential::own_messages() {
        let update = parse(&message).unwrap_or_else(|| panic!("{} cannot be read", message.id));
        let mut octets = Vec::new();
        BgpMessage::Update(update).write(&mut octets).unwrap();
        assert_eq!(differential::hex(&octets), differential::hex(&message.octets), "{}", message.id);
        compared += 1;
    }
    assert!(compared > 500);
}
