//! What we accept, read by routecore as well: it reads on demand and judges no attribute.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod differential;

use std::net::IpAddr;

use differential::{
    Message, Reading, Reason, Verdict, as_path, foreign_family, has_host_bits, has_ipv6_next_hop_of_ipv4,
    has_label_without_bottom, has_membership, membership, says, unicast, vpn,
};
use routecore::bgp::ParseError;
use routecore::bgp::message::update::FourOctetAsns;
use routecore::bgp::message::{SessionConfig, UpdateMessage};
use routecore::bgp::nlri::afisafi::{AfiSafiNlri, Nlri};
use routecore::bgp::nlri::mpls_vpn::MplsVpnNlri;
use routecore::bgp::nlri::nexthop::NextHop;

fn theirs(message: &Message) -> Verdict {
    let mut config = SessionConfig::modern();
    config.set_four_octet_asns(FourOctetAsns(message.as4));
    read(message, &config).map_or(Verdict::Reset, Verdict::Says)
}

fn read(message: &Message, config: &SessionConfig) -> Result<Reading, ParseError> {
    let update = UpdateMessage::from_octets(&message.octets[..], config)?;
    let mut reading = Reading {
        announced: update.announcements_vec()?.iter().filter_map(|route| show(route, false)).collect(),
        withdrawn: update.withdrawals_vec()?.iter().filter_map(|route| show(route, true)).collect(),
        next_hop: next_hop(&update)?,
        ..Reading::default()
    };
    update.origin()?.into_iter().for_each(|origin| reading.put("origin", u8::from(origin)));
    if let Some(path) = update.aspath()? {
        let segments = path.segments().map(|segment| {
            // The kind shows in its text only.
            let is_set = segment.to_string().contains("SET");
            (is_set, segment.asns().map(|asn| asn.into_u32()).collect::<Vec<u32>>())
        });
        let segments: Vec<_> = segments.collect();
        reading.put("as-path", as_path(segments.iter().map(|(is_set, numbers)| (*is_set, &numbers[..]))));
    }
    update.multi_exit_disc()?.into_iter().for_each(|med| reading.put("med", med.0));
    update.local_pref()?.into_iter().for_each(|pref| reading.put("local-pref", pref.0));
    let communities = update.communities()?.into_iter().flatten().flat_map(|one| one.to_raw());
    reading.put_list("communities", &communities.collect::<Vec<_>>());
    let ext = update.ext_communities()?.into_iter().flatten().flat_map(|one| one.to_raw());
    reading.put_list("ext-communities", &ext.collect::<Vec<_>>());
    let large = update.large_communities()?.into_iter().flatten().flat_map(|one| one.to_raw());
    reading.put_list("large-communities", &large.collect::<Vec<_>>());
    Ok(reading)
}

fn next_hop(update: &UpdateMessage<&[u8]>) -> Result<Option<IpAddr>, ParseError> {
    let next_hop = match update.mp_next_hop()? {
        None if update.has_conventional_nlri() => update.conventional_next_hop()?,
        other => other,
    };
    Ok(match next_hop {
        Some(NextHop::Unicast(address) | NextHop::MplsVpnUnicast(_, address)) => Some(address.to_canonical()),
        Some(NextHop::Ipv6LL { global, .. }) => Some(IpAddr::V6(global).to_canonical()),
        _ => None,
    })
}

fn show(route: &Nlri<&[u8]>, is_withdrawn: bool) -> Option<String> {
    let labelled = |route: &MplsVpnNlri<&[u8]>| {
        let label =
            if is_withdrawn { 0 } else { route.labels().iter().next().map_or(0, |label| label.value()) };
        vpn(route.rd().as_ref().try_into().unwrap(), route.prefix(), label)
    };
    match route {
        Nlri::Ipv4Unicast(route) => Some(unicast(route.nlri())),
        Nlri::Ipv6Unicast(route) => Some(unicast(route.nlri())),
        Nlri::Ipv4MplsVpnUnicast(route) => Some(labelled(route.nlri())),
        Nlri::Ipv6MplsVpnUnicast(route) => Some(labelled(route.nlri())),
        Nlri::Ipv4RouteTarget(route) => Some(target(route.nlri())),
        _ => None,
    }
}

fn target(route: &routecore::bgp::nlri::routetarget::RouteTargetNlri<&[u8]>) -> String {
    let origin = route.origin_as().map(|origin| origin.into_u32().to_be_bytes());
    let target = route.route_target().map(|target| target.to_raw());
    match (origin, target) {
        (Some(origin), Some(target)) => membership(96, &[&origin[..], &target].concat()),
        (Some(origin), None) => format!("rtc of {origin:?}"),
        _ => membership(0, &[]),
    }
}

/// Why we differ.
const REASONS: &[Reason] = &[
    ("routecore knows no IPv6 next hop of an IPv4 family (RFC 8950, RFC 4684)", |message, _, theirs| {
        *theirs == Verdict::Reset && has_ipv6_next_hop_of_ipv4(message)
    }),
    (
        "we ignore what belongs to a family that was not negotiated; routecore reads or refuses it",
        |message, ours, _| says(ours, |reading| reading.announced.is_empty()) && foreign_family(message),
    ),
    (
        "without the bottom-of-stack bit routecore reads on; several labels were not negotiated (RFC 8277 §2.1)",
        |message, _, _| has_label_without_bottom(message),
    ),
    (
        "routecore refuses bits beyond the length of a prefix; they are irrelevant (RFC 4271 §4.3)",
        |message, _, theirs| *theirs == Verdict::Reset && has_host_bits(message),
    ),
    ("routecore has no view of memberships in less than a whole target (RFC 4684 §4)", |_, ours, theirs| {
        says(theirs, |_| true) && has_membership(ours, |bits| bits != 96)
    }),
];

#[test]
fn routecore_and_we_read_the_same() {
    differential::compare_accepted(theirs, &["originator", "cluster-list"], REASONS);
}
