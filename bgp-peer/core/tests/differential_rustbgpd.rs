//! The same octets, read by us and by rustbgpd-wire: the same routes, the same attributes, the same mercy with errors.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod differential;

use std::net::IpAddr;

use differential::{
    Message, Reading, Reason, Verdict, as_path, attribute_types, foreign_family, has_label_without_bottom,
    has_wrong_mp_flags, membership, same_but, says, unicast, vpn,
};
use rustbgpd_wire::attribute::{AsPathSegment, MpReachNlri, PathAttribute};
use rustbgpd_wire::validate::{ErrorDisposition, validate_update_attributes};
use rustbgpd_wire::{Prefix, RtcNlri, UpdateMessage, VpnNlri, VpnPrefix};

fn theirs(message: &Message) -> Verdict {
    let body = &message.octets[19..];
    let Ok(update) = UpdateMessage::decode(&mut &body[..], body.len()) else { return Verdict::Reset };
    let Ok(parsed) = update.parse_revised(message.as4, message.is_ibgp, false, &[]) else {
        return Verdict::Reset;
    };
    let worst = |wanted| parsed.malformed.iter().any(|fault| fault.disposition == wanted);
    if worst(ErrorDisposition::SessionReset) {
        return Verdict::Reset;
    }
    let update = parsed.update;
    let reach = update.attributes.iter().find_map(|attribute| match attribute {
        PathAttribute::MpReachNlri(reach) => Some(reach),
        _ => None,
    });
    let has_body = !update.announced.is_empty();
    let has_routes = has_body || reach.is_some();
    let checked = validate_update_attributes(&update.attributes, has_routes, has_body, !message.is_ibgp);
    if worst(ErrorDisposition::TreatAsWithdraw) || checked.is_err() {
        return Verdict::Withdraw;
    }
    let body = |entries: &[rustbgpd_wire::nlri::Ipv4NlriEntry]| -> Vec<String> {
        entries.iter().map(|entry| unicast(show(&Prefix::V4(entry.prefix)))).collect()
    };
    let (announced, withdrawn) = (body(&update.announced), body(&update.withdrawn));
    let mut reading = Reading { announced, withdrawn, ..Reading::default() };
    if let Some(reach) = reach {
        reading.announced.extend(routes(reach));
        reading.next_hop = Some(reach.next_hop.to_canonical());
    }
    for attribute in &update.attributes {
        put(&mut reading, attribute, has_body);
    }
    Verdict::Says(reading)
}

fn routes(reach: &MpReachNlri) -> Vec<String> {
    let unicast_routes = reach.announced.iter().map(|entry| unicast(show(&entry.prefix)));
    let labelled = reach.vpn_announced.iter().map(|entry| labelled(&entry.nlri, entry.nlri.labels[0].label));
    unicast_routes.chain(labelled).chain(reach.rtc_announced.iter().map(target)).collect()
}

fn labelled(route: &VpnNlri, label: u32) -> String {
    let prefix = match route.prefix {
        VpnPrefix::V4 { addr, len } => format!("{addr}/{len}"),
        VpnPrefix::V6 { addr, len } => format!("{addr}/{len}"),
    };
    vpn(route.route_distinguisher.octets(), prefix, label)
}

fn target(route: &RtcNlri) -> String {
    let octets = [&route.origin_as.to_be_bytes()[..], &route.route_target_bits.to_be_bytes()].concat();
    membership(route.prefix_len, &octets[..usize::from(route.prefix_len).div_ceil(8)])
}

fn show(prefix: &Prefix) -> String {
    format!("{}/{}", prefix.addr_string(), prefix.prefix_len())
}

fn put(reading: &mut Reading, attribute: &PathAttribute, has_body: bool) {
    match attribute {
        PathAttribute::Origin(origin) => reading.put("origin", *origin as u8),
        PathAttribute::AsPath(path) => {
            let segments = path.segments.iter().map(|segment| match segment {
                AsPathSegment::AsSet(numbers) => (true, &numbers[..]),
                AsPathSegment::AsSequence(numbers) => (false, &numbers[..]),
            });
            reading.put("as-path", as_path(segments));
        }
        PathAttribute::NextHop(address) if has_body && reading.next_hop.is_none() => {
            reading.next_hop = Some((*address).into());
        }
        PathAttribute::LocalPref(value) => reading.put("local-pref", value),
        PathAttribute::Med(value) => reading.put("med", value),
        PathAttribute::OriginatorId(id) => reading.put("originator", id),
        PathAttribute::ClusterList(list) => {
            reading.put_list("cluster-list", &list.iter().flat_map(|id| id.octets()).collect::<Vec<_>>());
        }
        PathAttribute::MpUnreachNlri(unreach) => {
            let unicast_routes = unreach.withdrawn.iter().map(|entry| unicast(show(&entry.prefix)));
            reading.withdrawn.extend(unicast_routes);
            reading.withdrawn.extend(unreach.vpn_withdrawn.iter().map(|entry| labelled(&entry.nlri, 0)));
            reading.withdrawn.extend(unreach.rtc_withdrawn.iter().map(target));
        }
        other => {
            if let Some(values) = other.communities() {
                let octets: Vec<u8> = values.iter().flat_map(|one| one.to_be_bytes()).collect();
                reading.put_list("communities", &octets);
            } else if let Some(values) = other.extended_communities() {
                let octets: Vec<u8> = values.iter().flat_map(|one| one.as_u64().to_be_bytes()).collect();
                reading.put_list("ext-communities", &octets);
            } else if let Some(values) = other.large_communities() {
                let octets =
                    values.iter().flat_map(|one| [one.global_admin, one.local_data1, one.local_data2]);
                reading
                    .put_list("large-communities", &octets.flat_map(u32::to_be_bytes).collect::<Vec<u8>>());
            }
        }
    }
}

/// Why we differ.
const REASONS: &[Reason] = &[
    (
        "RFC 9774 (2025) forbids AS_SET and rustbgpd withdraws for it; we read AS_PATH by RFC 4271",
        |message, ours, theirs| {
            let has_set =
                |reading: &Reading| reading.attributes.get("as-path").is_some_and(|path| path.contains('{'));
            *theirs == Verdict::Withdraw && says(ours, has_set) && attribute_types(message).contains(&2)
        },
    ),
    (
        "we ignore what belongs to a family that was not negotiated; rustbgpd reads or refuses it",
        |message, ours, theirs| {
            let is_silent =
                says(ours, |reading| reading.announced.is_empty() && reading.withdrawn.is_empty());
            is_silent && *theirs != Verdict::Withdraw && foreign_family(message)
        },
    ),
    (
        "rustbgpd merges AS4_PATH at once; we keep both and merge for the RIB (RFC 6793 §4.2.3)",
        |message, ours, theirs| attribute_types(message).contains(&17) && same_but(ours, theirs, "as-path"),
    ),
    (
        "without the bottom-of-stack bit rustbgpd reads on; several labels were not negotiated (RFC 8277 §2.1)",
        |message, _, _| has_label_without_bottom(message),
    ),
    (
        "rustbgpd resets on wrong flags of MP attributes; routes that can be read can be withdrawn (RFC 7606 §3 c)",
        |message, ours, theirs| {
            *theirs == Verdict::Reset && *ours != Verdict::Reset && has_wrong_mp_flags(message)
        },
    ),
    (
        "rustbgpd wants a zero route distinguisher in a next hop; it means nothing (RFC 4364 §4.3.2)",
        |message, ours, theirs| {
            *theirs == Verdict::Reset
                && matches!(ours, Verdict::Says(_))
                && message.id.contains("nh-rd-nonzero")
        },
    ),
    (
        "rustbgpd refuses memberships with bits beyond their length; they are irrelevant (RFC 4684 §4, RFC 4271 §4.3)",
        |_, ours, theirs| {
            let is_odd = |reading: &Reading| {
                let all = reading.announced.iter().chain(&reading.withdrawn);
                all.filter_map(|route| route.strip_prefix("rtc ")?.split(' ').next()?.parse::<u32>().ok())
                    .any(|bits| bits % 8 != 0)
            };
            *theirs == Verdict::Reset && says(ours, is_odd)
        },
    ),
    (
        "the partial bit on a well-known attribute is an error (RFC 4271 §4.3); rustbgpd lets it pass",
        |message, ours, theirs| {
            *ours == Verdict::Withdraw
                && matches!(theirs, Verdict::Says(_))
                && message.id.contains("flag-partial")
        },
    ),
    (
        "NEXT_HOP is mandatory beside 1/1 routes from internal neighbors as well (RFC 4271 §5)",
        |message, ours, theirs| {
            *ours == Verdict::Withdraw
                && matches!(theirs, Verdict::Says(_))
                && message.is_ibgp
                && !attribute_types(message).contains(&3)
        },
    ),
    (
        "the first AS of an external neighbor's path is its own (RFC 4271 §6.3); rustbgpd's codec leaves that to its caller",
        |message, ours, theirs| {
            *ours == Verdict::Withdraw && matches!(theirs, Verdict::Says(_)) && !message.is_ibgp
        },
    ),
    (
        "with nothing to withdraw, treating as withdrawn could hide routes: reset (RFC 7606 §5.2)",
        |_, ours, theirs| (ours, theirs) == (&Verdict::Reset, &Verdict::Withdraw),
    ),
    (
        "NEXT_HOP means nothing without 1/1 routes (RFC 4760 §3); rustbgpd checks its value all the same",
        |message, ours, theirs| {
            let types = attribute_types(message);
            let has_mp = types.contains(&14) || types.contains(&15);
            *theirs == Verdict::Withdraw && matches!(ours, Verdict::Says(_)) && types.contains(&3) && has_mp
        },
    ),
    (
        "attributes of services that we do not offer are carried unread; rustbgpd checks them",
        |message, ours, theirs| {
            let is_unread = |code: &u8| matches!(code, 22 | 29 | 33..=36);
            *theirs == Verdict::Withdraw
                && says(ours, |_| true)
                && attribute_types(message).iter().any(is_unread)
        },
    ),
    (
        "AS4_PATH means nothing between speakers of four octets and is discarded whatever it looks like (RFC 6793 §6)",
        |message, ours, theirs| {
            *theirs == Verdict::Withdraw
                && says(ours, |_| message.as4)
                && attribute_types(message).contains(&17)
        },
    ),
    (
        "from an external neighbor these are discarded, flags and all (RFC 7606 §7.9, §7.10); §3 c would withdraw",
        |message, ours, theirs| {
            let is_internal = |code: &u8| matches!(code, 9 | 10);
            let has_internal = attribute_types(message).iter().any(is_internal);
            *theirs == Verdict::Withdraw && says(ours, |_| !message.is_ibgp) && has_internal
        },
    ),
    (
        "rustbgpd wants an IPv6 next hop within the blocks in use; we want one that can be a host's",
        |_, ours, theirs| {
            let is_strange = |reading: &Reading| matches!(reading.next_hop, Some(IpAddr::V6(v6)) if v6.segments()[0] == 0xfffe);
            *theirs == Verdict::Withdraw && says(ours, is_strange)
        },
    ),
];

#[test]
fn rustbgpd_and_we_read_the_same() {
    differential::compare(theirs, REASONS);
}
