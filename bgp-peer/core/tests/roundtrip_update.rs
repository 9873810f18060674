//! What is written reads back as it was, arbitrary octets never panic, and messages are packed.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Instant;

use bgp_core::wire::as_path::AsPath;
use bgp_core::wire::attr::check::{Attributes, Origin};
use bgp_core::wire::attr::set::AttrSet;
use bgp_core::wire::attr::{RawAttribute, code, flag};
use bgp_core::wire::nlri::{Nlri, Nlris, RtMembership};
use bgp_core::wire::update::Update;
use bgp_core::wire::update::writer::{UpdateWriter, message_limit};
use bgp_core::{Family, FamilySet, LocalRoute, Negotiated, PeerId, PeerPolicy, Rib, RibConfig, VrfImport};
use bytes::BytesMut;
use proptest::collection::vec;
use proptest::prelude::*;
use vrouter_types::{Asn, EncapSet, Label, Prefix, RouteDistinguisher, RouteTarget, VpnPrefix, VrfId};

fn session(is_ibgp: bool, as4: bool, extended_message: bool) -> Negotiated {
    Negotiated {
        local_asn: Asn(4_200_000_001),
        peer_asn: Asn(if is_ibgp { 4_200_000_001 } else { 4_200_000_002 }),
        local_router_id: Ipv4Addr::new(192, 0, 2, 1),
        peer_router_id: Ipv4Addr::new(192, 0, 2, 2),
        is_ibgp,
        as4,
        hold_time: 90,
        families: Family::ALL.into_iter().collect(),
        extended_message,
        route_refresh: true,
        enhanced_route_refresh: true,
        extended_nexthop: FamilySet::L3VPN,
        restart: Default::default(),
    }
}

/// The same session seen from the other end.
fn mirrored(session: &Negotiated) -> Negotiated {
    Negotiated { local_asn: session.peer_asn, peer_asn: session.local_asn, ..session.clone() }
}

/// Attributes that own their octets.
#[derive(Debug, Clone)]
struct Owned {
    origin: u8,
    as_path: Vec<u8>,
    med: Option<u32>,
    local_pref: u32,
    atomic_aggregate: bool,
    aggregator: Option<(u32, u32)>,
    communities: Vec<u8>,
    originator_id: Option<u32>,
    cluster_list: Vec<u8>,
    ext_communities: Vec<u8>,
    large_communities: Vec<u8>,
    opaque: BTreeMap<u8, Vec<u8>>,
    next_hop: IpAddr,
}

impl Owned {
    fn canonical(&self) -> Vec<u8> {
        let opaque = self.opaque.iter().map(|(code, value)| RawAttribute {
            flags: flag::PASSED_ON,
            code: *code,
            value,
            octets: &[],
        });
        let attributes = Attributes {
            origin: Origin::from_octet(self.origin),
            as_path: Some(AsPath::new(&self.as_path, true).unwrap()),
            med: self.med,
            local_pref: Some(self.local_pref),
            atomic_aggregate: self.atomic_aggregate,
            aggregator: self.aggregator.map(|(asn, id)| (Asn(asn), id.into())),
            communities: &self.communities,
            originator_id: self.originator_id.map(Ipv4Addr::from),
            cluster_list: &self.cluster_list,
            ext_communities: &self.ext_communities,
            large_communities: &self.large_communities,
            opaque: opaque.collect(),
            ..Attributes::default()
        };
        let mut canonical = Vec::new();
        attributes.canonical(self.next_hop, &mut canonical);
        canonical
    }
}

fn octets_of(unit: usize, most: usize) -> impl Strategy<Value = Vec<u8>> {
    vec(vec(any::<u8>(), unit), 0..=most).prop_map(|units| units.concat())
}

/// AS numbers around the border of two octets, none zero and none AS_TRANS, whose meaning is not its value.
fn asn() -> impl Strategy<Value = u32> {
    prop_oneof![1..100u32, 65_000..66_000u32, 4_000_000_000..4_000_000_100u32]
}

fn as_path() -> impl Strategy<Value = Vec<u8>> {
    let segment = (1..=2u8, vec(asn(), 1..6));
    vec(segment, 0..4).prop_map(|segments| {
        let mut octets = Vec::new();
        for (kind, numbers) in segments {
            octets.extend([kind, u8::try_from(numbers.len()).unwrap()]);
            numbers.iter().for_each(|number| octets.extend(number.to_be_bytes()));
        }
        octets
    })
}

fn next_hop() -> impl Strategy<Value = IpAddr> {
    prop_oneof![
        (1..=9u8, any::<[u8; 3]>()).prop_map(|(a, [b, c, d])| IpAddr::from([a, b, c, d])),
        any::<[u8; 15]>().prop_map(|rest| {
            let mut octets = [0x20; 16];
            octets[1..].copy_from_slice(&rest);
            IpAddr::from(octets)
        }),
    ]
}

fn attributes() -> impl Strategy<Value = Owned> {
    let first = (0..=2u8, as_path(), any::<Option<u32>>(), any::<u32>(), any::<bool>());
    let second = (proptest::option::of((asn(), any::<u32>())), octets_of(4, 80), any::<Option<u32>>());
    let third = (octets_of(4, 5), octets_of(8, 40), octets_of(12, 4), next_hop());
    let opaque =
        proptest::collection::btree_map(prop_oneof![26..32u8, 200..=255u8], vec(any::<u8>(), 0..300), 0..3);
    (first, second, third, opaque).prop_map(
        |((origin, as_path, med, local_pref, atomic_aggregate), second, third, opaque)| {
            let (aggregator, communities, originator_id) = second;
            let (cluster_list, ext_communities, large_communities, next_hop) = third;
            Owned {
                origin,
                as_path,
                med,
                local_pref,
                atomic_aggregate,
                aggregator,
                communities,
                originator_id,
                cluster_list,
                ext_communities,
                large_communities,
                opaque,
                next_hop,
            }
        },
    )
}

fn family() -> impl Strategy<Value = Family> {
    proptest::sample::select(Family::ALL.to_vec())
}

fn nlri(family: Family) -> BoxedStrategy<Nlri> {
    let v4 = (any::<[u8; 4]>(), 0..=32u8).prop_map(|(addr, len)| Prefix::new(addr.into(), len).unwrap());
    let v6 = (any::<[u8; 16]>(), 0..=128u8).prop_map(|(addr, len)| Prefix::new(addr.into(), len).unwrap());
    let vpn = |prefix: BoxedStrategy<Prefix>| {
        (any::<[u8; 8]>(), prefix, 0..=0xf_ffffu32).prop_map(|(rd, prefix, label)| {
            let rd = RouteDistinguisher::from_octets(rd);
            Nlri::Vpn(VpnPrefix { rd, prefix }, Label::new(label).unwrap())
        })
    };
    match family {
        Family::Ipv4Unicast => v4.prop_map(Nlri::Unicast).boxed(),
        Family::Ipv6Unicast => v6.prop_map(Nlri::Unicast).boxed(),
        Family::Vpnv4 => vpn(v4.boxed()).boxed(),
        Family::Vpnv6 => vpn(v6.boxed()).boxed(),
        Family::Rtc => (asn(), 0..=2u8, any::<[u8; 6]>())
            .prop_map(|(origin, kind, [a, b, c, d, e, f])| {
                let target = RouteTarget::from_ext_community([kind, 2, a, b, c, d, e, f]).unwrap();
                Nlri::Rtc(RtMembership::full(Asn(origin), target))
            })
            .boxed(),
    }
}

fn routes() -> impl Strategy<Value = (Family, Vec<Nlri>)> {
    family().prop_flat_map(|family| (Just(family), vec(nlri(family), 1..400)))
}

/// Writes all routes in as many messages as it takes.
fn write(mut begin: impl FnMut(&mut BytesMut, &[Nlri]) -> usize, routes: &[Nlri]) -> Vec<BytesMut> {
    let (mut left, mut messages) = (routes, Vec::new());
    while !left.is_empty() {
        let mut out = BytesMut::from(&b"before"[..]);
        let written = begin(&mut out, left);
        assert!(written > 0, "a message without routes");
        messages.push(out.split_off(6));
        assert_eq!(&out[..], b"before");
        left = &left[written..];
    }
    messages
}

fn push_all(mut message: UpdateWriter<'_, '_>, routes: &[Nlri]) -> usize {
    let fitting = routes.iter().take_while(|route| message.push(route)).count();
    assert_eq!(message.finish(), fitting);
    fitting
}

/// VPNv6 and IPv6 next hops of IPv4 are mapped on the wire.
fn same_next_hop(sent: IpAddr, read: IpAddr) -> bool {
    sent.to_canonical() == read.to_canonical()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn an_announcement_reads_back_as_it_was(
        owned in attributes(),
        (family, routes) in routes(),
        as4: bool,
        extended: bool,
    ) {
        let session = session(true, as4, extended);
        let canonical = owned.canonical();
        let mut exported = Vec::new();
        AttrSet::new(&canonical).export(family, &session, &mut exported);
        let limit = message_limit(&session);
        let messages = write(
            |out, left| push_all(UpdateWriter::announce(out, family, owned.next_hop, &exported, limit), left),
            &routes,
        );
        let mut read = Vec::new();
        for message in &messages {
            prop_assert!(message.len() <= limit);
            let update = Update::decode(&message[19..], &session).unwrap();
            prop_assert_eq!(update.malformed, None);
            prop_assert_eq!(update.attributes.discarded, 0);
            let reach = update.reach.map(|reach| reach.routes);
            read.extend(update.announced.chain(reach.into_iter().flat_map(|routes: Nlris<'_>| routes)));
            let next_hop = update.reach.map(|reach| reach.next_hop);
            let next_hop = next_hop.or(update.attributes.next_hop.map(IpAddr::V4)).unwrap();
            prop_assert!(same_next_hop(owned.next_hop, next_hop));
            let mut again = Vec::new();
            update.attributes.canonical(owned.next_hop, &mut again);
            prop_assert_eq!(&again, &canonical);
        }
        prop_assert_eq!(read, routes);
    }

    #[test]
    fn a_withdrawal_reads_back_as_it_was((family, routes) in routes(), extended: bool) {
        let session = session(true, true, extended);
        let limit = message_limit(&session);
        let messages = write(|out, left| push_all(UpdateWriter::withdraw(out, family, limit), left), &routes);
        let mut read = Vec::new();
        for message in &messages {
            prop_assert!(message.len() <= limit);
            let update = Update::decode(&message[19..], &session).unwrap();
            read.extend(update.withdrawn.chain(update.unreach.into_iter().flat_map(|routes: Nlris<'_>| routes)));
            prop_assert_eq!(update.end_of_rib, None);
        }
        let key = |route: &Nlri| match *route {
            Nlri::Vpn(key, _) => Nlri::Vpn(key, Label::MAX),
            other => other,
        };
        prop_assert_eq!(read.iter().map(key).collect::<Vec<_>>(), routes.iter().map(key).collect::<Vec<_>>());
    }

    #[test]
    fn an_external_neighbor_sees_our_as_first_and_nothing_internal(owned in attributes(), as4: bool) {
        let session = session(false, as4, false);
        let canonical = owned.canonical();
        let mut exported = Vec::new();
        AttrSet::new(&canonical).export(Family::Vpnv4, &session, &mut exported);
        let route = Nlri::Vpn("65000:1:10.0.0.0/8".parse().unwrap(), Label::MAX);
        let mut out = BytesMut::new();
        push_all(UpdateWriter::announce(&mut out, Family::Vpnv4, owned.next_hop, &exported, 65_535), &[route]);
        let update = Update::decode(&out[19..], &mirrored(&session)).unwrap();
        prop_assert_eq!(update.malformed, None);
        let read = &update.attributes;
        prop_assert_eq!((read.local_pref, read.originator_id, read.cluster_list), (None, None, &[][..]));
        prop_assert_eq!(read.discarded, 0, "nothing was sent that must be discarded");
        let merged = read.merged_as_path();
        let sent: Vec<Asn> = AsPath::new(&owned.as_path, true).unwrap().numbers().collect();
        let numbers: Vec<Asn> = AsPath::new(&merged, true).unwrap().numbers().collect();
        prop_assert_eq!(numbers[0], session.local_asn);
        prop_assert_eq!(&numbers[1..], sent);
    }

    #[test]
    fn arbitrary_octets_never_panic(body in vec(any::<u8>(), 0..600), is_ibgp: bool, as4: bool) {
        let session = session(is_ibgp, as4, false);
        let _ = Update::decode(&body, &session);
        hear(&session, &[&body]);
    }

    #[test]
    fn damaged_updates_never_panic(
        owned in attributes(),
        (family, routes) in routes(),
        damage in vec((any::<proptest::sample::Index>(), any::<u8>()), 1..6),
        cut in any::<proptest::sample::Index>(),
        is_ibgp: bool,
    ) {
        let session = session(is_ibgp, true, false);
        let canonical = owned.canonical();
        let mut exported = Vec::new();
        AttrSet::new(&canonical).export(family, &session, &mut exported);
        let mut out = BytesMut::new();
        push_all(UpdateWriter::announce(&mut out, family, owned.next_hop, &exported, 4096), &routes);
        let whole = out[19..].to_vec();
        let mut damaged = whole.clone();
        for (at, octet) in damage {
            let at = at.index(damaged.len());
            damaged[at] = octet;
        }
        let cut = &damaged[..cut.index(damaged.len())];
        hear(&session, &[&whole, &damaged, cut, &whole]);
    }
}

/// A RIB that hears these bodies in turn; it must stay within its bounds and still work.
fn hear(session: &Negotiated, bodies: &[&[u8]]) {
    let now = Instant::now();
    let config = RibConfig {
        asn: session.local_asn,
        router_id: session.local_router_id,
        cluster_id: session.local_router_id,
        max_paths: 50,
    };
    let mut rib = Rib::new(config);
    let import = (0..=255).map(|n| RouteTarget::from_ext_community([0, 2, 0, 0, 0, 0, 0, n]).unwrap());
    rib.set_imports(vec![VrfImport { vrf: VrfId(0), import: import.collect() }], now);
    let policy = PeerPolicy::new(session.peer_router_id.into());
    rib.peer_up(PeerId(0), policy, session, now);
    for body in bodies {
        let _ = rib.handle_update(PeerId(0), body, now);
        let _ = rib.handle_route_refresh(PeerId(0), body, now);
        assert!(rib.counts().paths <= 50);
        while rib.poll_event().is_some() {}
        let mut out = BytesMut::new();
        while rib.poll_message(PeerId(0), &mut out) {}
    }
    rib.peer_down(PeerId(0), bgp_core::PeerDown::Purge, now);
    assert_eq!((rib.counts().routes, rib.counts().paths, rib.counts().attribute_sets), (0, 0, 0));
}

/// Octets that a RIB sends for these routes, and the least that any packing could send.
fn octets_sent(routes: &[LocalRoute]) -> (usize, usize) {
    let now = Instant::now();
    let session = session(true, true, false);
    let router_id = session.local_router_id;
    let mut rib =
        Rib::new(RibConfig { asn: session.local_asn, router_id, cluster_id: router_id, max_paths: 0 });
    let families = FamilySet::from_iter([Family::Vpnv4, Family::Vpnv6]);
    let session = Negotiated { families, ..session };
    routes.iter().for_each(|route| rib.originate(route.clone(), now));
    let policy = PeerPolicy::new(session.peer_router_id.into());
    rib.peer_up(PeerId(0), policy, &session, now);
    let mut out = BytesMut::new();
    while rib.poll_message(PeerId(0), &mut out) {}
    let mut groups: BTreeMap<(bool, Vec<RouteTarget>), usize> = BTreeMap::new();
    for route in routes {
        let is_ipv4 = route.prefix.prefix.is_ipv4();
        let octets = Nlri::Vpn(route.prefix, route.label).encoded_len();
        *groups.entry((is_ipv4, route.route_targets.clone())).or_default() += octets;
    }
    let mut least = 29 + 29;
    for ((is_ipv4, targets), octets) in groups {
        let next_hop = if is_ipv4 { 12 } else { 24 };
        // Header, two lengths; ORIGIN, AS_PATH, LOCAL_PREF, communities; MP_REACH_NLRI up to the routes.
        let fixed = 19 + 4 + 4 + 3 + 7 + 3 + 8 * targets.len() + 4 + 5 + next_hop;
        let messages = octets.div_ceil(4096_usize.saturating_sub(fixed).max(1));
        least += messages * fixed + octets;
    }
    (out.len(), least)
}

#[test]
fn packing_is_within_two_percent_of_the_least_possible() {
    for (count, sets) in [(3000, 300), (3000, 1), (2000, 10), (500, 500)] {
        let routes: Vec<LocalRoute> = (0..count)
            .map(|n: u32| {
                let target = format!("target:65000:{}", n % sets);
                let [_, _, high, low] = n.to_be_bytes();
                let prefix = if n.is_multiple_of(4) {
                    format!("65000:1:fd00::{n:x}/128")
                } else {
                    format!("65000:1:10.1.{high}.{low}/32")
                };
                LocalRoute {
                    prefix: prefix.parse().unwrap(),
                    label: Label::new(16 + n).unwrap(),
                    next_hop: Ipv4Addr::new(192, 0, 2, 1).into(),
                    route_targets: vec![target.parse().unwrap()],
                    encaps: EncapSet::EMPTY,
                    local_pref: 100,
                    med: None,
                    as_path_prepend: Vec::new(),
                    communities: Vec::new(),
                    large_communities: Vec::new(),
                    hash_order: None,
                }
            })
            .collect();
        let (sent, least) = octets_sent(&routes);
        assert!(sent >= least, "{sent} octets cannot be fewer than {least}");
        assert!(sent * 100 <= least * 102, "{count} routes in {sets} sets: {sent} octets, least {least}");
    }
}

#[test]
fn a_set_too_large_for_a_message_is_not_sent_and_blocks_nothing() {
    let target = |n: u32| format!("target:65000:{n}").parse::<RouteTarget>().unwrap();
    let huge = LocalRoute {
        prefix: "65000:1:10.0.0.1/32".parse().unwrap(),
        label: Label::FIRST_UNRESERVED,
        next_hop: Ipv4Addr::new(192, 0, 2, 1).into(),
        route_targets: (0..600).map(target).collect(),
        encaps: EncapSet::EMPTY,
        local_pref: 100,
        med: None,
        as_path_prepend: Vec::new(),
        communities: Vec::new(),
        large_communities: Vec::new(),
        hash_order: None,
    };
    let small = LocalRoute {
        prefix: "65000:1:10.0.0.2/32".parse().unwrap(),
        route_targets: vec![target(1)],
        ..huge.clone()
    };
    let (alone, _) = octets_sent(std::slice::from_ref(&small));
    let (both, _) = octets_sent(&[huge, small]);
    assert_eq!(alone, both);
}

#[test]
fn attribute_codes_are_ascending_in_canonical_form() {
    let owned = Owned {
        origin: 0,
        as_path: vec![],
        med: Some(1),
        local_pref: 100,
        atomic_aggregate: true,
        aggregator: Some((1, 1)),
        communities: vec![0; 4],
        originator_id: Some(1),
        cluster_list: vec![0; 4],
        ext_communities: vec![0; 8],
        large_communities: vec![0; 12],
        opaque: [(11, vec![1]), (26, vec![2]), (255, vec![3])].into(),
        next_hop: Ipv4Addr::LOCALHOST.into(),
    };
    let canonical = owned.canonical();
    let codes: Vec<u8> = AttrSet::new(&canonical).iter().map(|attribute| attribute.code).collect();
    assert_eq!(codes, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 16, 26, code::LARGE_COMMUNITY, 255]);
    let partial =
        AttrSet::new(&canonical).iter().filter(|attribute| attribute.flags & flag::PARTIAL != 0).count();
    assert_eq!(partial, 3, "passed on without being understood");
}
