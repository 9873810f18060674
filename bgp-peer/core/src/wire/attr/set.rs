//! Attributes in canonical form: how the RIB stores them, and how they leave for a neighbor.
//!
//! Canonical octets are ordinary path attributes in ascending order of type, each once, the extended length only where
//! needed, AS numbers in four octets with AS4_PATH merged in (RFC 6793 §4.2.3), LOCAL_PREF always present. NEXT_HOP (3)
//! stands for the next hop of either IP version, in 4 or 16 octets, wherever the message carried it. Equal routes thus have equal octets.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use vrouter_types::{Asn, EncapSet, RouteTarget};

use crate::wire::as_path::AsPath;
use crate::wire::community::{Community, LargeCommunity, communities};
use crate::wire::ext_community::{self, NamedEncaps, encap_communities, hash_order_community, named_encaps};
use crate::{Family, Negotiated};

use super::check::{Attributes, Origin};
use super::{RawAttribute, RawAttributes, code, flag, put_attribute, tunnel};

/// LOCAL_PREF of routes that arrive without one.
pub const DEFAULT_LOCAL_PREF: u32 = 100;

impl Attributes<'_> {
    /// Writes the canonical octets, replacing what `out` holds.
    pub fn canonical(&self, next_hop: IpAddr, out: &mut Vec<u8>) {
        out.clear();
        let mut opaque = self.opaque.clone();
        opaque.sort_by_key(|attribute| attribute.code);
        let mut opaque = opaque.into_iter().peekable();
        let mut put = |out: &mut Vec<u8>, flags: u8, code: u8, value: &[u8]| {
            while let Some(early) = opaque.next_if(|early| early.code < code) {
                put_opaque(out, early);
            }
            put_attribute(out, flags, code, value);
        };
        put(out, flag::TRANSITIVE, code::ORIGIN, &[self.origin.unwrap_or(Origin::Incomplete) as u8]);
        put(out, flag::TRANSITIVE, code::AS_PATH, &self.merged_as_path());
        put(out, flag::TRANSITIVE, code::NEXT_HOP, &address_octets(next_hop));
        if let Some(med) = self.med {
            put(out, flag::OPTIONAL, code::MULTI_EXIT_DISC, &med.to_be_bytes());
        }
        let local_pref = self.local_pref.unwrap_or(DEFAULT_LOCAL_PREF);
        put(out, flag::TRANSITIVE, code::LOCAL_PREF, &local_pref.to_be_bytes());
        if self.atomic_aggregate {
            put(out, flag::TRANSITIVE, code::ATOMIC_AGGREGATE, &[]);
        }
        if let Some((asn, address)) = self.merged_aggregator() {
            put(out, flag::PASSED_ON, code::AGGREGATOR, &aggregator_octets(asn, address));
        }
        let mut list = |out: &mut Vec<u8>, flags: u8, code: u8, value: &[u8]| {
            if !value.is_empty() {
                put(out, flags, code, value);
            }
        };
        list(out, flag::PASSED_ON, code::COMMUNITIES, self.communities);
        let originator = self.originator_id.map(|id| id.octets());
        list(out, flag::OPTIONAL, code::ORIGINATOR_ID, originator.as_ref().map_or(&[], |id| id.as_slice()));
        list(out, flag::OPTIONAL, code::CLUSTER_LIST, self.cluster_list);
        list(out, flag::PASSED_ON, code::EXT_COMMUNITIES, self.ext_communities);
        list(out, flag::PASSED_ON, code::TUNNEL_ENCAP, self.tunnel_encap);
        list(out, flag::PASSED_ON, code::IPV6_EXT_COMMUNITIES, self.ipv6_ext_communities);
        list(out, flag::PASSED_ON, code::LARGE_COMMUNITY, self.large_communities);
        opaque.for_each(|late| put_opaque(out, late));
    }

    /// The AS_PATH in four octets per number, with what AS4_PATH knows better (RFC 6793 §4.2.3).
    pub fn merged_as_path(&self) -> Vec<u8> {
        let mut octets = Vec::new();
        let path = self.as_path.unwrap_or(AsPath::EMPTY);
        match self.as4_path {
            Some(as4_path) if self.as4_attributes_count() => path.encode_merged(as4_path, &mut octets),
            _ => path.encode_as4(&mut octets),
        }
        octets
    }

    /// The AGGREGATOR, with what AS4_AGGREGATOR knows better (RFC 6793 §4.2.3).
    pub fn merged_aggregator(&self) -> Option<(Asn, Ipv4Addr)> {
        match (self.aggregator, self.as4_aggregator) {
            (Some((Asn::TRANS, _)), Some(better)) => Some(better),
            (aggregator, _) => aggregator,
        }
    }

    /// RFC 6793 §4.2.3: beside an AS4_AGGREGATOR, an AGGREGATOR other than AS_TRANS was set behind the last four-octet
    /// speaker, and both AS4 attributes are out of date.
    fn as4_attributes_count(&self) -> bool {
        self.as4_aggregator.is_none() || self.aggregator.is_none_or(|(asn, _)| asn == Asn::TRANS)
    }
}

/// What a route of our own says, for [`LocalAttributes::canonical`].
#[derive(Debug, Clone, Copy)]
pub struct LocalAttributes<'a> {
    /// The tunnel's far end as others see it.
    pub next_hop: IpAddr,
    /// LOCAL_PREF.
    pub local_pref: u32,
    /// MULTI_EXIT_DISC.
    pub med: Option<u32>,
    /// Route targets.
    pub route_targets: &'a [RouteTarget],
    /// Encapsulations.
    pub encaps: EncapSet,
    /// AS_PATH.
    pub as_path: &'a [Asn],
    /// COMMUNITIES.
    pub communities: &'a [Community],
    /// LARGE_COMMUNITY.
    pub large_communities: &'a [LargeCommunity],
    /// Consistent Hash Sort Order.
    pub hash_order: Option<u32>,
}

impl LocalAttributes<'_> {
    /// Writes the canonical octets, replacing what `out` holds. Route targets are sorted, so that their order in a
    /// configuration makes no other set.
    pub fn canonical(&self, out: &mut Vec<u8>) {
        let mut targets = self.route_targets.to_vec();
        targets.sort_unstable();
        targets.dedup();
        let ext_communities: Vec<u8> = targets
            .into_iter()
            .map(RouteTarget::octets)
            .chain(encap_communities(self.encaps))
            .chain(self.hash_order.map(hash_order_community))
            .flatten()
            .collect();
        let mut as_path = Vec::new();
        // RFC 4271 §4.3: a segment counts its numbers in one octet.
        for segment in self.as_path.chunks(usize::from(u8::MAX)) {
            as_path.extend([AS_SEQUENCE, u8::try_from(segment.len()).unwrap_or(u8::MAX)]);
            as_path.extend(segment.iter().flat_map(|asn| asn.0.to_be_bytes()));
        }
        let communities: Vec<u8> = sorted(self.communities).flat_map(|c| c.0.to_be_bytes()).collect();
        let large_communities: Vec<u8> =
            sorted(self.large_communities).flat_map(|c| c.0).flat_map(u32::to_be_bytes).collect();
        let attributes = Attributes {
            origin: Some(Origin::Igp),
            as_path: AsPath::new(&as_path, true).ok(),
            med: self.med,
            local_pref: Some(self.local_pref),
            communities: &communities,
            ext_communities: &ext_communities,
            large_communities: &large_communities,
            ..Attributes::default()
        };
        attributes.canonical(self.next_hop, out);
    }
}

fn sorted<T: Copy + Ord>(values: &[T]) -> impl Iterator<Item = T> {
    values.iter().copied().collect::<BTreeSet<T>>().into_iter()
}

const AS_SEQUENCE: u8 = 2;

/// Canonical octets, read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AttrSet<'a>(&'a [u8]);

impl<'a> AttrSet<'a> {
    /// Octets that [`Attributes::canonical`] wrote.
    pub const fn new(octets: &'a [u8]) -> AttrSet<'a> {
        AttrSet(octets)
    }

    /// Its octets.
    pub const fn octets(self) -> &'a [u8] {
        self.0
    }

    /// Every attribute.
    pub fn iter(self) -> impl Iterator<Item = RawAttribute<'a>> {
        RawAttributes::new(self.0).filter_map(Result::ok)
    }

    /// The value of one; empty if it is absent.
    pub fn value(self, code: u8) -> &'a [u8] {
        self.iter()
            .find(|attribute| attribute.code == code)
            .map(|attribute| attribute.value)
            .unwrap_or_default()
    }

    /// ORIGIN.
    pub fn origin(self) -> Origin {
        self.value(code::ORIGIN).first().and_then(|o| Origin::from_octet(*o)).unwrap_or(Origin::Incomplete)
    }

    /// AS_PATH.
    pub fn as_path(self) -> AsPath<'a> {
        AsPath::new(self.value(code::AS_PATH), true).unwrap_or(AsPath::EMPTY)
    }

    /// The next hop, of either IP version.
    pub fn next_hop(self) -> IpAddr {
        let value = self.value(code::NEXT_HOP);
        match (<[u8; 4]>::try_from(value), <[u8; 16]>::try_from(value)) {
            (Ok(octets), _) => Ipv4Addr::from(octets).into(),
            (_, Ok(octets)) => Ipv6Addr::from(octets).into(),
            _ => Ipv4Addr::UNSPECIFIED.into(),
        }
    }

    /// MULTI_EXIT_DISC.
    pub fn med(self) -> Option<u32> {
        self.number(code::MULTI_EXIT_DISC)
    }

    /// LOCAL_PREF.
    pub fn local_pref(self) -> u32 {
        self.number(code::LOCAL_PREF).unwrap_or(DEFAULT_LOCAL_PREF)
    }

    /// ORIGINATOR_ID.
    pub fn originator_id(self) -> Option<Ipv4Addr> {
        self.number(code::ORIGINATOR_ID).map(Ipv4Addr::from)
    }

    /// CLUSTER_LIST.
    pub fn cluster_list(self) -> impl Iterator<Item = Ipv4Addr> {
        self.value(code::CLUSTER_LIST).as_chunks::<4>().0.iter().map(|octets| Ipv4Addr::from(*octets))
    }

    /// EXTENDED COMMUNITIES.
    pub fn ext_communities(self) -> &'a [u8] {
        self.value(code::EXT_COMMUNITIES)
    }

    /// Route targets.
    pub fn route_targets(self) -> impl Iterator<Item = RouteTarget> {
        ext_community::route_targets(self.ext_communities())
    }

    /// What the route says about encapsulation: communities (RFC 9012 §4.1) and Tunnel Encapsulation attribute (§2).
    pub fn named_encaps(self) -> NamedEncaps {
        let mut named = named_encaps(self.ext_communities());
        tunnel::name_tunnels(self.value(code::TUNNEL_ENCAP), self.next_hop(), &mut named);
        named
    }

    /// Writes the same attributes with another value for one of them, replacing what `out` holds.
    pub fn with(self, flags: u8, code: u8, value: &[u8], out: &mut Vec<u8>) {
        out.clear();
        let mut new = Some(value);
        for attribute in self.iter() {
            if attribute.code >= code
                && let Some(value) = new.take()
            {
                put_attribute(out, flags, code, value);
            }
            if attribute.code != code {
                put_attribute(out, attribute.flags, attribute.code, attribute.value);
            }
        }
        if let Some(value) = new {
            put_attribute(out, flags, code, value);
        }
    }

    /// With the ORIGINATOR_ID that a reflector adds where there is none (RFC 4456 §8).
    pub fn with_originator(self, originator: Ipv4Addr, out: &mut Vec<u8>) {
        self.with(flag::OPTIONAL, code::ORIGINATOR_ID, &originator.octets(), out);
    }

    /// With our cluster in front of the CLUSTER_LIST (RFC 4456 §8).
    pub fn with_cluster(self, cluster: Ipv4Addr, out: &mut Vec<u8>) {
        let list = [&cluster.octets(), self.value(code::CLUSTER_LIST)].concat();
        self.with(flag::OPTIONAL, code::CLUSTER_LIST, &list, out);
    }

    /// COMMUNITIES.
    pub fn communities(self) -> impl Iterator<Item = Community> {
        communities(self.value(code::COMMUNITIES))
    }

    /// With one more community.
    pub fn with_community(self, community: Community, out: &mut Vec<u8>) {
        let list = [self.value(code::COMMUNITIES), &community.0.to_be_bytes()].concat();
        self.with(flag::PASSED_ON, code::COMMUNITIES, &list, out);
    }

    fn number(self, code: u8) -> Option<u32> {
        <[u8; 4]>::try_from(self.value(code)).ok().map(u32::from_be_bytes)
    }

    /// Writes the attributes as the neighbor gets them, NEXT_HOP only where the family's next hop travels there,
    /// replacing what `out` holds.
    pub fn export(self, family: Family, session: &Negotiated, out: &mut Vec<u8>) {
        out.clear();
        let mut as4 = Vec::new();
        for attribute in self.iter() {
            let RawAttribute { flags, code, value, .. } = attribute;
            match code {
                code::NEXT_HOP if family != Family::Ipv4Unicast || value.len() != 4 => {}
                code::LOCAL_PREF | code::ORIGINATOR_ID | code::CLUSTER_LIST if !session.is_ibgp => {}
                code::AS_PATH => {
                    let path = self.exported_as_path(session);
                    let Ok(path) = AsPath::new(&path, true) else { continue };
                    put_as_path(path, session.as4, out, &mut as4);
                }
                code::AGGREGATOR if !session.as4 => put_short_aggregator(value, out, &mut as4),
                _ => put_attribute(out, flags, code, value),
            }
        }
        out.extend_from_slice(&as4);
    }

    /// RFC 4271 §5.1.2: towards an external neighbor our own AS number goes in front.
    fn exported_as_path(self, session: &Negotiated) -> Cow<'a, [u8]> {
        let path = self.value(code::AS_PATH);
        if session.is_ibgp {
            return Cow::Borrowed(path);
        }
        let [a, b, c, d] = session.local_asn.0.to_be_bytes();
        let longer = match path {
            [2, count @ 0..=254, numbers @ ..] => [&[2, count + 1, a, b, c, d], numbers].concat(),
            _ => [&[2, 1, a, b, c, d], path].concat(),
        };
        Cow::Owned(longer)
    }
}

fn put_as_path(path: AsPath<'_>, as4: bool, out: &mut Vec<u8>, later: &mut Vec<u8>) {
    let mut value = Vec::new();
    if as4 {
        path.encode_as4(&mut value);
    } else if path.encode_as2(&mut value) {
        let mut whole = Vec::new();
        path.encode_as4(&mut whole);
        put_attribute(later, flag::PASSED_ON, code::AS4_PATH, &whole);
    }
    put_attribute(out, flag::TRANSITIVE, code::AS_PATH, &value);
}

fn put_short_aggregator(value: &[u8], out: &mut Vec<u8>, later: &mut Vec<u8>) {
    let [a, b, c, d, address @ ..] = value else { return };
    let asn = Asn(u32::from_be_bytes([*a, *b, *c, *d]));
    let short = [&asn.to_two_octets().to_be_bytes(), address].concat();
    put_attribute(out, flag::PASSED_ON, code::AGGREGATOR, &short);
    if asn.0 > u32::from(u16::MAX) {
        put_attribute(later, flag::PASSED_ON, code::AS4_AGGREGATOR, value);
    }
}

fn address_octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

fn aggregator_octets(asn: Asn, address: Ipv4Addr) -> [u8; 8] {
    let ([a, b, c, d], [e, f, g, h]) = (asn.0.to_be_bytes(), address.octets());
    [a, b, c, d, e, f, g, h]
}

/// RFC 4271 §5: what is passed on without being understood is partial.
fn put_opaque(out: &mut Vec<u8>, attribute: RawAttribute<'_>) {
    put_attribute(out, attribute.flags | flag::PARTIAL, attribute.code, attribute.value);
}
