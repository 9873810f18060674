//! What a message says, in words that every decoder can be brought to, and the messages to be compared on: our own of
//! every family, and the collected ones.
#![allow(dead_code, reason = "each test uses its part")]

mod own;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;

use bgp_core::wire::header;
use bgp_core::wire::nlri::Nlri;
use bgp_core::wire::update::Update;
use bgp_core::{Family, Negotiated, SessionConfig, negotiate};
use serde_json::Value;
use vrouter_types::{Asn, Label};

/// What a decoder makes of an UPDATE.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The session must end.
    Reset,
    /// Its routes are withdrawn (RFC 7606).
    Withdraw,
    Says(Reading),
}

/// What it says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Reading {
    /// Family, distinguisher, prefix and label, as text.
    pub(crate) announced: Vec<String>,
    pub(crate) withdrawn: Vec<String>,
    /// IPv4 in either form is one address.
    pub(crate) next_hop: Option<IpAddr>,
    /// By name; lists in hex, in the order of the message.
    pub(crate) attributes: BTreeMap<&'static str, String>,
}

impl Reading {
    pub(crate) fn put(&mut self, name: &'static str, value: impl ToString) {
        self.attributes.insert(name, value.to_string());
    }

    /// Adds a list that is not empty.
    pub(crate) fn put_list(&mut self, name: &'static str, octets: &[u8]) {
        if !octets.is_empty() {
            self.put(name, hex(octets));
        }
    }
}

/// One UPDATE to be compared on.
#[derive(Debug)]
pub(crate) struct Message {
    pub(crate) id: String,
    pub(crate) octets: Vec<u8>,
    pub(crate) as4: bool,
    pub(crate) is_ibgp: bool,
    /// Whether a message like this may be expected to be read without complaint.
    pub(crate) is_ours: bool,
}

pub(crate) use own::own_messages;

pub(crate) fn hex(octets: &[u8]) -> String {
    octets.iter().map(|octet| format!("{octet:02x}")).collect()
}

pub(crate) fn vpn(rd: [u8; 8], prefix: impl ToString, label: u32) -> String {
    format!("vpn {} {} {label}", hex(&rd), prefix.to_string())
}

pub(crate) fn unicast(prefix: impl ToString) -> String {
    format!("unicast {}", prefix.to_string())
}

pub(crate) fn membership(bits: u8, octets: &[u8]) -> String {
    format!("rtc {bits} {}", hex(octets))
}

/// AS numbers in sequence; those of a set in braces.
pub(crate) fn as_path<'a>(segments: impl Iterator<Item = (bool, &'a [u32])>) -> String {
    let words = segments.map(|(is_set, numbers)| {
        let numbers = numbers.iter().map(u32::to_string).collect::<Vec<_>>().join(" ");
        if is_set { format!("{{{numbers}}}") } else { numbers }
    });
    words.collect::<Vec<_>>().join(" ")
}

fn session(message: &Message) -> Negotiated {
    let families = Family::ALL.into_iter().collect();
    let theirs = if message.is_ibgp { Asn(65000) } else { Asn(65001) };
    let config = |local_asn: Asn, peer_asn: Asn, last: u8| SessionConfig {
        local_asn,
        peer_asn,
        local_router_id: Ipv4Addr::new(192, 0, 2, last),
        families,
        ..SessionConfig::default()
    };
    let agreed = negotiate(&config(Asn(65000), theirs, 254), &config(theirs, Asn(65000), 1).open()).unwrap();
    Negotiated { as4: message.as4, ..agreed }
}

/// What we make of it.
pub(crate) fn ours(message: &Message) -> Verdict {
    let session = session(message);
    let body = &message.octets[header::LEN..];
    let Ok(update) = Update::decode(body, &session) else { return Verdict::Reset };
    if update.malformed.is_some() {
        return Verdict::Withdraw;
    }
    let mut reading = Reading::default();
    let reach = update.reach.map(|reach| reach.routes);
    reading.announced =
        update.announced.chain(reach.into_iter().flatten()).map(|route| text(&route)).collect();
    let withdrawn = update.withdrawn.chain(update.unreach.into_iter().flatten());
    reading.withdrawn = withdrawn.map(|route| text(&without_label(route))).collect();
    let attributes = &update.attributes;
    let next_hop = attributes.next_hop.filter(|_| !update.announced.is_empty()).map(IpAddr::V4);
    reading.next_hop =
        update.reach.map(|reach| reach.next_hop).or(next_hop).map(|address| address.to_canonical());
    if let Some(origin) = attributes.origin {
        reading.put("origin", origin as u8);
    }
    if let Some(path) = attributes.as_path {
        let segments: Vec<(bool, Vec<u32>)> =
            path.segments().map(|(is_set, numbers)| (is_set, numbers.map(|asn| asn.0).collect())).collect();
        reading.put("as-path", as_path(segments.iter().map(|(is_set, numbers)| (*is_set, &numbers[..]))));
    }
    attributes.med.into_iter().for_each(|med| reading.put("med", med));
    attributes.local_pref.into_iter().for_each(|pref| reading.put("local-pref", pref));
    attributes.originator_id.into_iter().for_each(|id| reading.put("originator", id));
    reading.put_list("cluster-list", attributes.cluster_list);
    reading.put_list("communities", attributes.communities);
    reading.put_list("ext-communities", attributes.ext_communities);
    reading.put_list("large-communities", attributes.large_communities);
    Verdict::Says(reading)
}

fn without_label(route: Nlri) -> Nlri {
    match route {
        Nlri::Vpn(prefix, _) => Nlri::Vpn(prefix, Label::new(0).unwrap()),
        other => other,
    }
}

fn text(route: &Nlri) -> String {
    match route {
        Nlri::Unicast(prefix) => unicast(prefix),
        Nlri::Vpn(route, label) => vpn(route.rd.octets(), route.prefix, label.value()),
        Nlri::Rtc(target) => {
            let mut octets = target.origin().map_or(0, |origin| origin.0).to_be_bytes().to_vec();
            octets.extend(target.target_octets());
            membership(target.bits(), &octets[..usize::from(target.bits()).div_ceil(8)])
        }
    }
}

/// A sentence, and where it holds.
pub(crate) type Reason = (&'static str, fn(&Message, &Verdict, &Verdict) -> bool);

pub(crate) fn says(verdict: &Verdict, holds: impl Fn(&Reading) -> bool) -> bool {
    matches!(verdict, Verdict::Says(reading) if holds(reading))
}

/// Whether they differ in this attribute and nowhere else.
pub(crate) fn same_but(ours: &Verdict, theirs: &Verdict, name: &str) -> bool {
    let (Verdict::Says(ours), Verdict::Says(theirs)) = (ours, theirs) else { return false };
    let (mut ours, mut theirs) = (ours.clone(), theirs.clone());
    ours.attributes.remove(name);
    theirs.attributes.remove(name);
    ours == theirs
}

/// Like [`compare`], for decoders that judge nothing: only what we accept.
/// `unseen`: attributes that they have no view of.
pub(crate) fn compare_accepted(theirs: impl Fn(&Message) -> Verdict, unseen: &[&str], reasons: &[Reason]) {
    let read = |message: &Message| {
        let Verdict::Says(own) = ours(message) else { return ours(message) };
        let Verdict::Says(mut other) = theirs(message) else { return Verdict::Reset };
        let kept = own.attributes.into_iter().filter(|(name, _)| unseen.contains(name));
        other.attributes.extend(kept);
        Verdict::Says(other)
    };
    compare(read, reasons);
}

/// Compares on everything there is. A difference without a reason fails, and so does a reason without a difference.
pub(crate) fn compare(theirs: impl Fn(&Message) -> Verdict, reasons: &[Reason]) {
    let mut used = BTreeMap::new();
    let (mut same, mut unexplained) = (0_usize, Vec::new());
    for message in own_messages().into_iter().chain(collected()) {
        let (own, other) = (ours(&message), for_session(theirs(&message), &message));
        if own == other {
            same += 1;
            continue;
        }
        match reasons.iter().find(|(_, holds)| holds(&message, &own, &other)) {
            Some((reason, _)) => *used.entry(*reason).or_insert(0_usize) += 1,
            None => unexplained.push(format!(
                "{}\n  {}\n  ours   {own:?}\n  theirs {other:?}",
                message.id,
                hex(&message.octets)
            )),
        }
    }
    println!("{same} messages read alike; explained differences: {used:#?}");
    assert!(unexplained.is_empty(), "{} unexplained:\n{}", unexplained.len(), unexplained.join("\n"));
    assert!(same > 500, "only {same} alike");
    if has_vectors() {
        let idle: Vec<_> = reasons.iter().filter(|(reason, _)| !used.contains_key(reason)).collect();
        assert!(
            idle.is_empty(),
            "reasons that explain nothing any more: {:?}",
            idle.iter().map(|(reason, _)| reason)
        );
    }
}

/// RFC 4271 §5.1.5, RFC 4456 §8: from an external neighbor these are ignored; a plain decoder does not know who sent them.
fn for_session(verdict: Verdict, message: &Message) -> Verdict {
    match verdict {
        Verdict::Says(mut reading) if !message.is_ibgp => {
            reading
                .attributes
                .retain(|name, _| !matches!(*name, "local-pref" | "originator" | "cluster-list"));
            Verdict::Says(reading)
        }
        other => other,
    }
}

/// Attribute types of a message, in its order, as far as they can be told apart.
pub(crate) fn attribute_types(message: &Message) -> Vec<u8> {
    attributes(message).into_iter().map(|(_, code, _)| code).collect()
}

/// Whether we discard an attribute of it, or carry one without looking into it.
pub(crate) fn has_unread(message: &Message) -> bool {
    let session = session(message);
    Update::decode(&message.octets[header::LEN..], &session)
        .is_ok_and(|update| update.attributes.discarded > 0 || !update.attributes.opaque.is_empty())
}

/// Whether an MP attribute is of a family that we never negotiate.
pub(crate) fn foreign_family(message: &Message) -> bool {
    mp_attributes(message).any(|(_, _, value)| match value {
        [high, low, safi, ..] => Family::from_code(u16::from_be_bytes([*high, *low]), *safi).is_none(),
        _ => false,
    })
}

/// Whether an IPv4 family has an IPv6 next hop (RFC 8950).
pub(crate) fn has_ipv6_next_hop_of_ipv4(message: &Message) -> bool {
    mp_attributes(message)
        .any(|(_, code, value)| matches!((code, value), (14, [0, 1, _, 16 | 24 | 32 | 48, ..])))
}

/// Whether one of its routes is a membership in other than a whole number of octets, or in less than a whole target.
pub(crate) fn has_membership(ours: &Verdict, of: impl Fn(u32) -> bool) -> bool {
    says(ours, |reading| {
        let all = reading.announced.iter().chain(&reading.withdrawn);
        all.filter_map(|route| route.strip_prefix("rtc ")?.split(' ').next()?.parse().ok()).any(&of)
    })
}

/// Whether an attribute comes twice.
pub(crate) fn has_twice(message: &Message) -> bool {
    let types = attribute_types(message);
    types.iter().enumerate().any(|(at, code)| types[..at].contains(code))
}

/// Whether it was collected to show bits beyond the length of a prefix.
pub(crate) fn has_host_bits(message: &Message) -> bool {
    message.id.contains("host-bits") || message.id.starts_with("frrmp-ipv4")
}

/// Whether an MP attribute has flags other than optional and extended length.
pub(crate) fn has_wrong_mp_flags(message: &Message) -> bool {
    mp_attributes(message).any(|(flags, ..)| flags & 0xe0 != 0x80)
}

/// Whether a VPN route has a label that announces another one behind it.
pub(crate) fn has_label_without_bottom(message: &Message) -> bool {
    mp_attributes(message).any(|(_, code, value)| {
        let routes = match (code, value) {
            (14, [_, _, 128, length, rest @ ..]) => rest.get(usize::from(*length) + 1..),
            (15, [_, _, 128, rest @ ..]) => Some(rest),
            _ => None,
        };
        let mut routes = routes.unwrap_or_default();
        while let [bits, rest @ ..] = routes {
            if rest.get(2).is_some_and(|octet| octet & 1 == 0) && rest.get(..3) != Some(&[0x80, 0, 0]) {
                return true;
            }
            routes = rest.get(usize::from(*bits).div_ceil(8)..).unwrap_or_default();
        }
        false
    })
}

fn mp_attributes(message: &Message) -> impl Iterator<Item = (u8, u8, &[u8])> {
    attributes(message).into_iter().filter(|(_, code, _)| matches!(code, 14 | 15))
}

/// Flags, type and value of each.
fn attributes(message: &Message) -> Vec<(u8, u8, &[u8])> {
    let body = &message.octets[header::LEN..];
    let word =
        |at: usize| body.get(at..at + 2).map_or(0, |two| usize::from(two[0]) << 8 | usize::from(two[1]));
    let start = 4 + word(0);
    let block = body.get(start..).unwrap_or_default();
    let mut block = block.get(..word(start - 2)).unwrap_or(block);
    let mut found = Vec::new();
    while let [flags, code, rest @ ..] = block {
        let (length, skip) = match (flags & 0x10, rest) {
            (0, [length, ..]) => (usize::from(*length), 1),
            (_, [high, low, ..]) => (usize::from(*high) << 8 | usize::from(*low), 2),
            _ => break,
        };
        let value = rest.get(skip..).unwrap_or_default();
        found.push((*flags, *code, value.get(..length).unwrap_or(value)));
        block = value.get(length..).unwrap_or_default();
    }
    found
}

fn folder() -> std::path::PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap();
    root.join("../shared/vectors")
}

fn has_vectors() -> bool {
    folder().join("updates.json").exists()
}

/// UPDATEs of the collected vectors. Left out: what was recorded under capabilities that we never negotiate.
fn collected() -> Vec<Message> {
    let mut messages = Vec::new();
    for name in ["updates", "rfc7606", "malformed", "rtc"] {
        let Ok(text) = std::fs::read_to_string(folder().join(format!("{name}.json"))) else {
            eprintln!("SKIPPED: no {name}.json in {}", folder().display());
            continue;
        };
        let cases: Vec<Value> = serde_json::from_str(&text).unwrap();
        for case in &cases {
            let negotiated = &case["negotiated"];
            if negotiated.get("addpath").is_some() || negotiated.get("multiple_labels").is_some() {
                continue;
            }
            for key in ["message_hex", "update_hex", "update_vpnv4_hex", "baseline_hex", "baseline_vpnv4_hex"]
            {
                let Some(octets) = case[key].as_str().map(unhex) else { continue };
                // Only UPDATEs whose header is sound: the frame is another decoder's business.
                let length =
                    octets.get(16..18).map_or(0, |two| usize::from(two[0]) << 8 | usize::from(two[1]));
                if octets.get(18) != Some(&2)
                    || length != octets.len()
                    || octets.len() < 23
                    || octets[..16] != [0xff; 16]
                {
                    continue;
                }
                messages.push(Message {
                    id: format!("{} {key}", case["id"].as_str().unwrap_or(name)),
                    as4: negotiated["as4"].as_bool().unwrap_or(true),
                    is_ibgp: case["peer"].as_str().unwrap_or("ibgp") == "ibgp",
                    is_ours: false,
                    octets,
                });
            }
        }
    }
    messages
}

fn unhex(text: &str) -> Vec<u8> {
    text.as_bytes()
        .chunks(2)
        .map(|two| u8::from_str_radix(std::str::from_utf8(two).unwrap(), 16).unwrap())
        .collect()
}
