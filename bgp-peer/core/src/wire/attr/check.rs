//! Path attributes read and checked once, with the session's context, into what each calls for (RFC 7606 §3, §7).
//!
//! Per attribute: use it, discard it, or withdraw the routes of its UPDATE. Whether the session must end is decided in
//! [`crate::wire::update`], which alone sees the routes. The checks follow RFC 7606 §7 unless a line says otherwise.

use std::net::Ipv4Addr;

use vrouter_types::Asn;

use crate::Negotiated;

use super::tunnel::{is_prefix_sid, is_tunnel_encap};
use super::{Fault, Malformed, RawAttribute, code, flag};
use crate::wire::as_path::AsPath;

/// ORIGIN (RFC 4271 §5.1.1), in order of preference.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Origin {
    /// Interior to the originating AS.
    Igp,
    /// Learned through EGP.
    Egp,
    /// By other means.
    Incomplete,
}

impl Origin {
    /// The value on the wire, if it is one of the three.
    pub const fn from_octet(octet: u8) -> Option<Origin> {
        match octet {
            0 => Some(Origin::Igp),
            1 => Some(Origin::Egp),
            2 => Some(Origin::Incomplete),
            _ => None,
        }
    }
}

impl std::fmt::Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Origin::Igp => "IGP",
            Origin::Egp => "EGP",
            Origin::Incomplete => "incomplete",
        })
    }
}

/// The attributes of one UPDATE that are fit for use. Absent lists are empty slices.
#[derive(Debug, Clone, Default)]
pub struct Attributes<'a> {
    /// ORIGIN.
    pub origin: Option<Origin>,
    /// AS_PATH, in the session's width.
    pub as_path: Option<AsPath<'a>>,
    /// NEXT_HOP.
    pub next_hop: Option<Ipv4Addr>,
    /// MULTI_EXIT_DISC.
    pub med: Option<u32>,
    /// LOCAL_PREF; never from an external neighbor.
    pub local_pref: Option<u32>,
    /// ATOMIC_AGGREGATE.
    pub atomic_aggregate: bool,
    /// AGGREGATOR.
    pub aggregator: Option<(Asn, Ipv4Addr)>,
    /// COMMUNITIES.
    pub communities: &'a [u8],
    /// ORIGINATOR_ID; never from an external neighbor.
    pub originator_id: Option<Ipv4Addr>,
    /// CLUSTER_LIST; never from an external neighbor.
    pub cluster_list: &'a [u8],
    /// EXTENDED COMMUNITIES.
    pub ext_communities: &'a [u8],
    /// AS4_PATH; only where AS numbers take two octets.
    pub as4_path: Option<AsPath<'a>>,
    /// AS4_AGGREGATOR; only where AS numbers take two octets.
    pub as4_aggregator: Option<(Asn, Ipv4Addr)>,
    /// Tunnel Encapsulation.
    pub tunnel_encap: &'a [u8],
    /// IPv6 Address Specific Extended Communities (RFC 5701).
    pub ipv6_ext_communities: &'a [u8],
    /// LARGE_COMMUNITY.
    pub large_communities: &'a [u8],
    /// Optional attributes that are not looked into and may be passed on (Prefix-SID among them), by type.
    pub opaque: Vec<RawAttribute<'a>>,
    /// How many attributes were discarded.
    pub discarded: u32,
}

enum Refusal {
    Discard,
    Withdraw(Fault),
}

type Checked = Result<(), Refusal>;

impl<'a> Attributes<'a> {
    /// Checks an attribute other than MP_REACH_NLRI and MP_UNREACH_NLRI and keeps it if it is fit. An error means: treat
    /// the routes as withdrawn.
    pub(crate) fn take(
        &mut self,
        attribute: RawAttribute<'a>,
        session: &Negotiated,
    ) -> Result<(), Malformed> {
        let checked = match self.check_flags(&attribute, session) {
            Ok(()) => self.take_value(&attribute, session),
            refused => refused,
        };
        match checked {
            Ok(()) => Ok(()),
            Err(Refusal::Discard) => {
                self.discarded += 1;
                Ok(())
            }
            Err(Refusal::Withdraw(fault)) => Err(Malformed { attribute: attribute.code, fault }),
        }
    }

    /// RFC 7606 §3 c: optional and transitive as specified. RFC 4271 §4.3: no partial bit on what is not both.
    fn check_flags(&self, attribute: &RawAttribute<'_>, session: &Negotiated) -> Checked {
        let Some(specified) = specified_flags(attribute.code) else { return Ok(()) };
        let partial_allowed = specified == flag::PASSED_ON;
        let relevant = flag::PASSED_ON | if partial_allowed { 0 } else { flag::PARTIAL };
        if attribute.flags & relevant == specified {
            return Ok(());
        }
        match attribute.code {
            code::LOCAL_PREF | code::ORIGINATOR_ID | code::CLUSTER_LIST if !session.is_ibgp => {
                Err(Refusal::Discard)
            }
            code::AS4_PATH | code::AS4_AGGREGATOR | code::PREFIX_SID => Err(Refusal::Discard),
            code::ATOMIC_AGGREGATE | code::AGGREGATOR => Err(Refusal::Discard),
            _ => Err(Refusal::Withdraw(Fault::Flags)),
        }
    }

    fn take_value(&mut self, attribute: &RawAttribute<'a>, session: &Negotiated) -> Checked {
        let value = attribute.value;
        match attribute.code {
            code::ORIGIN => self.origin = Some(origin(value)?),
            code::AS_PATH => self.as_path = Some(as_path(value, session)?),
            code::NEXT_HOP => self.next_hop = Some(Ipv4Addr::from(octets::<4>(value)?)),
            code::MULTI_EXIT_DISC => self.med = Some(u32::from_be_bytes(octets(value)?)),
            code::LOCAL_PREF if !session.is_ibgp => return Err(Refusal::Discard),
            code::LOCAL_PREF => self.local_pref = Some(u32::from_be_bytes(octets(value)?)),
            code::ATOMIC_AGGREGATE if !value.is_empty() => return Err(Refusal::Discard),
            code::ATOMIC_AGGREGATE => self.atomic_aggregate = true,
            code::AGGREGATOR => self.aggregator = Some(aggregator(value, session.as4)?),
            code::COMMUNITIES => self.communities = list_of::<4>(value)?,
            code::ORIGINATOR_ID | code::CLUSTER_LIST if !session.is_ibgp => return Err(Refusal::Discard),
            code::ORIGINATOR_ID => self.originator_id = Some(Ipv4Addr::from(octets::<4>(value)?)),
            code::CLUSTER_LIST => self.cluster_list = list_of::<4>(value)?,
            code::EXT_COMMUNITIES => self.ext_communities = list_of::<8>(value)?,
            // RFC 6793 §4.1, §6: from a neighbor that has four-octet AS numbers, or malformed: discard.
            code::AS4_PATH | code::AS4_AGGREGATOR if session.as4 => return Err(Refusal::Discard),
            code::AS4_PATH => {
                self.as4_path = Some(AsPath::new(value, true).map_err(|_| Refusal::Discard)?);
            }
            code::AS4_AGGREGATOR => self.as4_aggregator = Some(aggregator(value, true)?),
            code::TUNNEL_ENCAP if !is_tunnel_encap(value) => return Err(Refusal::Withdraw(Fault::Value)),
            code::TUNNEL_ENCAP => self.tunnel_encap = value,
            code::IPV6_EXT_COMMUNITIES => self.ipv6_ext_communities = list_of::<20>(value)?,
            code::LARGE_COMMUNITY => self.large_communities = list_of::<12>(value)?,
            code::PREFIX_SID if !is_prefix_sid(value) => return Err(Refusal::Discard),
            // RFC 4271 §5: unrecognised and not transitive: quietly ignored; transitive: passed on.
            _ if attribute.flags & flag::TRANSITIVE == 0 => return Err(Refusal::Discard),
            _ => self.opaque.push(*attribute),
        }
        Ok(())
    }
}

/// Optional and transitive bits of the attributes that are looked into.
fn specified_flags(code: u8) -> Option<u8> {
    match code {
        code::ORIGIN | code::AS_PATH | code::NEXT_HOP | code::LOCAL_PREF | code::ATOMIC_AGGREGATE => {
            Some(flag::TRANSITIVE)
        }
        code::MULTI_EXIT_DISC
        | code::ORIGINATOR_ID
        | code::CLUSTER_LIST
        | code::MP_REACH_NLRI
        | code::MP_UNREACH_NLRI => Some(flag::OPTIONAL),
        code::AGGREGATOR
        | code::COMMUNITIES
        | code::EXT_COMMUNITIES
        | code::AS4_PATH
        | code::AS4_AGGREGATOR
        | code::TUNNEL_ENCAP
        | code::IPV6_EXT_COMMUNITIES
        | code::LARGE_COMMUNITY
        | code::PREFIX_SID => Some(flag::PASSED_ON),
        _ => None,
    }
}

/// Whether optional and transitive are as specified.
pub(crate) fn has_specified_flags(attribute: &RawAttribute<'_>) -> bool {
    specified_flags(attribute.code).is_none_or(|specified| attribute.flags & flag::PASSED_ON == specified)
}

fn octets<const N: usize>(value: &[u8]) -> Result<[u8; N], Refusal> {
    value.try_into().map_err(|_| Refusal::Withdraw(Fault::Length))
}

/// A list must not be empty (RFC 7606 §7.8, §7.14, RFC 8092 §6).
fn list_of<const N: usize>(value: &[u8]) -> Result<&[u8], Refusal> {
    let (entries, rest) = value.as_chunks::<N>();
    if entries.is_empty() || !rest.is_empty() { Err(Refusal::Withdraw(Fault::Length)) } else { Ok(value) }
}

fn origin(value: &[u8]) -> Result<Origin, Refusal> {
    let [octet] = octets::<1>(value)?;
    Origin::from_octet(octet).ok_or(Refusal::Withdraw(Fault::Value))
}

/// RFC 4271 §6.3: a path from an external neighbor begins with the neighbor's AS. It is a MAY; a neighbor that breaks
/// it has lost its own number from the path, and with it loop detection.
fn as_path<'a>(value: &'a [u8], session: &Negotiated) -> Result<AsPath<'a>, Refusal> {
    let path = AsPath::new(value, session.as4).map_err(|_| Refusal::Withdraw(Fault::Value))?;
    let neighbor = if session.as4 { session.peer_asn } else { Asn(session.peer_asn.to_two_octets().into()) };
    let is_lawful = session.is_ibgp || path.first() == Some(neighbor);
    if is_lawful { Ok(path) } else { Err(Refusal::Withdraw(Fault::Value)) }
}

/// RFC 7606 §7.7 and RFC 7607: a malformed AGGREGATOR, or one of AS 0, is discarded.
fn aggregator(value: &[u8], as4: bool) -> Result<(Asn, Ipv4Addr), Refusal> {
    let (asn, address) = match (value, as4) {
        (&[a, b, c, d, e, f], false) => (u32::from(u16::from_be_bytes([a, b])), [c, d, e, f]),
        (&[a, b, c, d, e, f, g, h], true) => (u32::from_be_bytes([a, b, c, d]), [e, f, g, h]),
        _ => return Err(Refusal::Discard),
    };
    if asn == 0 { Err(Refusal::Discard) } else { Ok((Asn(asn), Ipv4Addr::from(address))) }
}
