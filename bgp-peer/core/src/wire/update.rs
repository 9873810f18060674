//! UPDATE messages (RFC 4271 §4.3, RFC 4760), read in place and checked as RFC 7606 asks.
//!
//! ```text
//! | header (19) | withdrawn length (2) | withdrawn 1/1 … | attributes length (2) | attributes … | announced 1/1 … |
//!                                                           ├ MP_REACH_NLRI:   AFI (2) SAFI (1) length (1) next hop, 0, routes
//!                                                           └ MP_UNREACH_NLRI: AFI (2) SAFI (1) routes
//! ```
//! What a defect leads to, mildest first: the attribute is discarded ([`Attributes::discarded`]), the routes are treated
//! as withdrawn ([`Update::malformed`]), the session ends (`Err`). RFC 7606 §2 would also let a speaker ignore a family
//! from then on; this one does not: a VPN that silently stays empty is worse than a session that says why it ended.
//! Families that were not negotiated are ignored.

pub mod writer;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::{Family, Negotiated, Notification};

use super::attr::check::{Attributes, has_specified_flags};
use super::attr::{Fault, Malformed, RawAttribute, RawAttributes, code, flag, subcode};
use super::nlri::{NlriError, Nlris};

/// An UPDATE, checked.
#[derive(Debug, Clone)]
pub struct Update<'a> {
    /// Withdrawn 1/1 routes.
    pub withdrawn: Nlris<'a>,
    /// Announced 1/1 routes; their next hop is [`Attributes::next_hop`].
    pub announced: Nlris<'a>,
    /// MP_UNREACH_NLRI of a negotiated family.
    pub unreach: Option<Nlris<'a>>,
    /// MP_REACH_NLRI of a negotiated family.
    pub reach: Option<Reach<'a>>,
    /// The attributes that are fit for use.
    pub attributes: Attributes<'a>,
    /// If set, all announced routes are treated as withdrawn, for this reason (RFC 7606 §2).
    pub malformed: Option<Malformed>,
    /// AFI and SAFI, if this is an End-of-RIB marker (RFC 4724 §2), negotiated or not.
    pub end_of_rib: Option<(u16, u8)>,
}

/// MP_REACH_NLRI (RFC 4760 §3).
#[derive(Debug, Clone, Copy)]
pub struct Reach<'a> {
    /// The next hop as received; the global one of two.
    pub next_hop: IpAddr,
    /// The link-local next hop beside it (RFC 2545 §3).
    pub link_local: Option<Ipv6Addr>,
    /// The routes.
    pub routes: Nlris<'a>,
}

impl<'a> Update<'a> {
    /// Reads the body of a message. An error ends the session.
    pub fn decode(body: &'a [u8], session: &Negotiated) -> Result<Update<'a>, Notification> {
        // RFC 7606 §3 a: a length that passes the end cannot be survived.
        let (withdrawn, rest) = split_field(body).ok_or_else(Notification::malformed_attribute_list)?;
        let (block, announced) = split_field(rest).ok_or_else(Notification::malformed_attribute_list)?;
        let has_ipv4 = !announced.is_empty();
        let mut reading = Reading::new(session, withdrawn, announced)?;
        reading.read_attributes(block)?;
        reading.finish(has_ipv4, block)
    }
}

fn split_field(octets: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = octets.split_first_chunk::<2>()?;
    rest.split_at_checked(usize::from(u16::from_be_bytes(*length)))
}

/// The state of one pass over the attributes.
struct Reading<'a, 's> {
    session: &'s Negotiated,
    update: Update<'a>,
    seen: [u64; 4],
    saw_reach: bool,
    /// The first attribute that withdraws the routes, for the NOTIFICATION if there are none to withdraw.
    culprit: &'a [u8],
}

impl<'a, 's> Reading<'a, 's> {
    fn new(
        session: &'s Negotiated,
        withdrawn: &'a [u8],
        announced: &'a [u8],
    ) -> Result<Reading<'a, 's>, Notification> {
        // RFC 7606 §5.3, §3 j: routes that cannot be read cannot be withdrawn either.
        let read = |field| {
            let routes = Nlris::new(Family::Ipv4Unicast, field);
            routes.map_err(|_| Notification::update_error(subcode::INVALID_NETWORK_FIELD, field))
        };
        let (mut withdrawn, mut announced) = (read(withdrawn)?, read(announced)?);
        if !session.families.contains(Family::Ipv4Unicast) {
            (withdrawn, announced) = (Nlris::empty(Family::Ipv4Unicast), Nlris::empty(Family::Ipv4Unicast));
        }
        let attributes = Attributes::default();
        let update = Update {
            withdrawn,
            announced,
            unreach: None,
            reach: None,
            attributes,
            malformed: None,
            end_of_rib: None,
        };
        Ok(Reading { session, update, seen: [0; 4], saw_reach: false, culprit: &[] })
    }

    fn read_attributes(&mut self, block: &'a [u8]) -> Result<(), Notification> {
        for attribute in RawAttributes::new(block) {
            match attribute {
                Ok(attribute) => self.read_attribute(attribute)?,
                Err(overrun) => self.refuse(overrun, block),
            }
        }
        Ok(())
    }

    fn read_attribute(&mut self, attribute: RawAttribute<'a>) -> Result<(), Notification> {
        let is_repeated = self.mark_seen(attribute.code);
        match attribute.code {
            // RFC 7606 §3 g: two of these end the session; of any other, the first counts.
            code::MP_REACH_NLRI | code::MP_UNREACH_NLRI if is_repeated => {
                Err(Notification::update_error(subcode::MALFORMED_ATTRIBUTE_LIST, attribute.octets))
            }
            _ if is_repeated => {
                self.update.attributes.discarded += 1;
                Ok(())
            }
            code::MP_REACH_NLRI => self.read_reach(attribute),
            code::MP_UNREACH_NLRI => self.read_unreach(attribute),
            // RFC 4271 §6.3: a well-known attribute that is not known.
            code if attribute.flags & flag::OPTIONAL == 0 && !is_well_known(code) => {
                Err(Notification::update_error(subcode::UNRECOGNIZED_WELL_KNOWN, attribute.octets))
            }
            _ => {
                if let Err(malformed) = self.update.attributes.take(attribute, self.session) {
                    self.refuse(malformed, attribute.octets);
                }
                Ok(())
            }
        }
    }

    fn read_reach(&mut self, attribute: RawAttribute<'a>) -> Result<(), Notification> {
        let broken = || Notification::optional_attribute_error(attribute.octets);
        self.saw_reach = true;
        if !has_specified_flags(&attribute) {
            self.refuse(Malformed { attribute: attribute.code, fault: Fault::Flags }, attribute.octets);
        }
        let [afi_high, afi_low, safi, length, rest @ ..] = attribute.value else { return Err(broken()) };
        // RFC 4760 §3: next hop, a reserved octet, then routes.
        let (next_hop, rest) = rest.split_at_checked(usize::from(*length)).ok_or_else(broken)?;
        let (_, field) = rest.split_first().ok_or_else(broken)?;
        let Some(family) = self.family(*afi_high, *afi_low, *safi) else { return Ok(()) };
        let (next_hop, link_local) = read_next_hop(family, next_hop).ok_or_else(broken)?;
        let routes = Nlris::new(family, field).map_err(|_: NlriError| broken())?;
        if matches!(family, Family::Vpnv4 | Family::Vpnv6) && !is_unicast(next_hop) {
            self.refuse(Malformed { attribute: code::MP_REACH_NLRI, fault: Fault::Value }, attribute.octets);
        }
        self.update.reach = Some(Reach { next_hop, link_local, routes });
        Ok(())
    }

    fn read_unreach(&mut self, attribute: RawAttribute<'a>) -> Result<(), Notification> {
        let broken = || Notification::optional_attribute_error(attribute.octets);
        // Wrong flags would mean: treat as withdrawn. That is what these routes are.
        let [afi_high, afi_low, safi, field @ ..] = attribute.value else { return Err(broken()) };
        if field.is_empty() {
            self.update.end_of_rib = Some((u16::from_be_bytes([*afi_high, *afi_low]), *safi));
        }
        let Some(family) = self.family(*afi_high, *afi_low, *safi) else { return Ok(()) };
        self.update.unreach = Some(Nlris::new(family, field).map_err(|_: NlriError| broken())?);
        Ok(())
    }

    fn finish(mut self, has_ipv4: bool, block: &'a [u8]) -> Result<Update<'a>, Notification> {
        self.check_next_hop();
        self.check_mandatory();
        if let Some(malformed) = self.update.malformed
            && !self.saw_reach
            && !has_ipv4
        {
            // RFC 7606 §5.2: without routes to withdraw, the broken part may have hidden them.
            return Err(malformed.notification(self.culprit));
        }
        let lone_unreach = self.update.end_of_rib.is_some() && self.seen == bit(code::MP_UNREACH_NLRI);
        let is_bare = !has_ipv4 && self.update.withdrawn.is_empty();
        self.update.end_of_rib = match self.update.end_of_rib {
            Some(family) if lone_unreach && is_bare => Some(family),
            None if block.is_empty() && is_bare => Some(Family::Ipv4Unicast.code()),
            _ => None,
        };
        Ok(self.update)
    }

    /// RFC 7606 §7.3. Beside MP_REACH_NLRI alone NEXT_HOP means nothing (RFC 4760 §3).
    fn check_next_hop(&mut self) {
        let next_hop = self.update.attributes.next_hop;
        if !self.update.announced.is_empty() && next_hop.is_some_and(|next_hop| !is_unicast(next_hop.into()))
        {
            self.refuse(Malformed { attribute: code::NEXT_HOP, fault: Fault::Value }, &[]);
        }
    }

    /// RFC 7606 §3 d. LOCAL_PREF may be absent: its default is assumed then.
    fn check_mandatory(&mut self) {
        let has_ipv4 = !self.update.announced.is_empty();
        if !has_ipv4 && self.update.reach.is_none() {
            return;
        }
        let attributes = &self.update.attributes;
        let missing = [
            (code::ORIGIN, attributes.origin.is_none()),
            (code::AS_PATH, attributes.as_path.is_none()),
            (code::NEXT_HOP, has_ipv4 && attributes.next_hop.is_none()),
        ];
        if let Some((attribute, _)) = missing.into_iter().find(|(_, is_missing)| *is_missing) {
            self.refuse(Malformed { attribute, fault: Fault::Missing }, &[]);
        }
    }

    fn refuse(&mut self, malformed: Malformed, octets: &'a [u8]) {
        if self.update.malformed.is_none() {
            self.update.malformed = Some(malformed);
            self.culprit = octets;
        }
    }

    fn family(&self, afi_high: u8, afi_low: u8, safi: u8) -> Option<Family> {
        Family::from_code(u16::from_be_bytes([afi_high, afi_low]), safi)
            .filter(|family| self.session.families.contains(*family))
    }

    /// Whether the type was seen before.
    fn mark_seen(&mut self, code: u8) -> bool {
        let before = self.seen;
        for (seen, bit) in self.seen.iter_mut().zip(bit(code)) {
            *seen |= bit;
        }
        before == self.seen
    }
}

fn bit(code: u8) -> [u64; 4] {
    let mut bits = [0; 4];
    if let Some(word) = bits.get_mut(usize::from(code / 64)) {
        *word = 1 << (code % 64);
    }
    bits
}

fn is_well_known(code: u8) -> bool {
    // Optional ones sent without the optional bit are known, with wrong flags (RFC 7606 §3 c).
    matches!(code, 1..=10 | 14..=18 | code::TUNNEL_ENCAP | code::IPV6_EXT_COMMUNITIES | code::LARGE_COMMUNITY | code::PREFIX_SID)
}

/// The next hop of a family, and the link-local one beside it. VPN next hops have a route distinguisher in front, which
/// means nothing (RFC 4364 §4.3.2). 12 octets on VPNv6 is what some PEs send over IPv4; IPv6 on IPv4 families is RFC 8950.
fn read_next_hop(family: Family, octets: &[u8]) -> Option<(IpAddr, Option<Ipv6Addr>)> {
    match (family, octets.len()) {
        (Family::Ipv4Unicast | Family::Rtc, 4) => Some((Ipv4Addr::from(*octets.first_chunk()?).into(), None)),
        (Family::Ipv4Unicast | Family::Ipv6Unicast | Family::Rtc, 16 | 32) => read_ipv6(octets, 0),
        (Family::Vpnv4 | Family::Vpnv6, 12) => Some((Ipv4Addr::from(*octets.last_chunk()?).into(), None)),
        (Family::Vpnv4 | Family::Vpnv6, 24 | 48) => read_ipv6(octets, 8),
        _ => None,
    }
}

fn read_ipv6(octets: &[u8], skip: usize) -> Option<(IpAddr, Option<Ipv6Addr>)> {
    let (global, rest) = octets.get(skip..)?.split_first_chunk::<16>()?;
    let link_local = rest.last_chunk::<16>().map(|octets| Ipv6Addr::from(*octets));
    Some((Ipv6Addr::from(*global).into(), link_local))
}

/// Whether the address can be that of one host beyond this one.
fn is_unicast(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(v4) => !matches!(v4.octets(), [0 | 127 | 224..=255, ..]),
        IpAddr::V6(v6) => !v6.is_multicast() && !v6.is_unspecified() && !v6.is_loopback(),
    }
}
