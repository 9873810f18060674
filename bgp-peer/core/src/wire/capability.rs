//! Capabilities in an OPEN (RFC 5492), and what a list of them offers.
//!
//! ```text
//!  +--------------+--------------+---------------------------+
//!  | code         | length       | value …                   |   any number of them in one optional parameter
//!  +--------------+--------------+---------------------------+
//! ```
//! A capability that we do not know is kept as it came, for `show`, and otherwise ignored. One that we use must have
//! the length that its RFC says: who gets that wrong means something else than we would read.

use std::fmt;

use bytes::{BufMut, Bytes, BytesMut};
use vrouter_types::Asn;

use super::graceful::{self, GracefulRestart, LongLived};
use super::notification::Notification;
use crate::{Family, FamilySet};

/// One capability as the wire has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Capability {
    /// Which one.
    pub code: u8,
    /// Its value, at most 255 octets.
    pub value: Bytes,
}

/// Multiprotocol extensions: one family (RFC 4760 §8).
pub const MULTIPROTOCOL: u8 = 1;
/// Route refresh (RFC 2918 §2).
pub const ROUTE_REFRESH: u8 = 2;
/// Extended next hop encoding: families and the family of their next hop (RFC 8950 §4).
pub const EXTENDED_NEXTHOP: u8 = 5;
/// Messages of up to 65,535 octets (RFC 8654 §3).
pub const EXTENDED_MESSAGE: u8 = 6;
/// Graceful restart (RFC 4724 §3).
pub const GRACEFUL_RESTART: u8 = 64;
/// AS numbers of four octets (RFC 6793 §3).
pub const FOUR_OCTET_AS: u8 = 65;
/// Enhanced route refresh (RFC 7313 §3).
pub const ENHANCED_ROUTE_REFRESH: u8 = 70;
/// Long-lived graceful restart (RFC 9494 §3).
pub const LONG_LIVED_GRACEFUL_RESTART: u8 = 71;

impl Capability {
    /// One without a value.
    pub const fn empty(code: u8) -> Capability {
        Capability { code, value: Bytes::new() }
    }

    /// A family that we carry.
    pub fn multiprotocol(family: Family) -> Capability {
        let (afi, safi) = family.code();
        let [high, low] = afi.to_be_bytes();
        Capability { code: MULTIPROTOCOL, value: Bytes::copy_from_slice(&[high, low, 0, safi]) }
    }

    /// Our AS number.
    pub fn four_octet_as(asn: Asn) -> Capability {
        Capability { code: FOUR_OCTET_AS, value: Bytes::copy_from_slice(&asn.0.to_be_bytes()) }
    }

    /// IPv4 families whose next hop may be IPv6.
    pub fn extended_nexthop(families: FamilySet) -> Capability {
        let mut value = BytesMut::new();
        for family in families.iter() {
            let (afi, safi) = family.code();
            value.put_u16(afi);
            value.put_u16(u16::from(safi));
            value.put_u16(AFI_IPV6);
        }
        Capability { code: EXTENDED_NEXTHOP, value: value.freeze() }
    }

    /// Appends it. A value longer than the length octet can say is cut there.
    pub fn encode(&self, out: &mut BytesMut) {
        let length = u8::try_from(self.value.len()).unwrap_or(u8::MAX);
        out.put_u8(self.code);
        out.put_u8(length);
        out.put_slice(self.value.get(..usize::from(length)).unwrap_or_default());
    }

    /// Reads the value of one optional parameter and appends what it holds. The parameter may be empty.
    ///
    /// # Errors
    /// A capability that ends behind the end of its parameter makes the OPEN malformed (RFC 5492 §4).
    pub(super) fn decode_all(mut value: Bytes, into: &mut Vec<Capability>) -> Result<(), Notification> {
        while !value.is_empty() {
            let &[code, length, ..] = value.as_ref() else { return Err(Notification::open_malformed()) };
            let end = 2 + usize::from(length);
            if value.len() < end {
                return Err(Notification::open_malformed());
            }
            into.push(Capability { code, value: value.slice(2..end) });
            value = value.slice(end..);
        }
        Ok(())
    }
}

impl fmt::Display for Capability {
    /// One line for people: `multiprotocol vpnv4`, `four-octet AS 4200000001`, `code 73 (20 octets)`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.code, self.value.as_ref()) {
            (MULTIPROTOCOL, &[a, b, _, safi]) => match Family::from_code(u16::from_be_bytes([a, b]), safi) {
                Some(family) => write!(f, "multiprotocol {family}"),
                None => write!(f, "multiprotocol {}/{safi}", u16::from_be_bytes([a, b])),
            },
            (FOUR_OCTET_AS, &[a, b, c, d]) => write!(f, "four-octet AS {}", u32::from_be_bytes([a, b, c, d])),
            (ROUTE_REFRESH, _) => f.write_str("route refresh"),
            (ENHANCED_ROUTE_REFRESH, _) => f.write_str("enhanced route refresh"),
            (EXTENDED_MESSAGE, _) => f.write_str("extended message"),
            (EXTENDED_NEXTHOP, value) => {
                f.write_str("extended next hop")?;
                extended_nexthop_families(value).iter().try_for_each(|family| write!(f, " {family}"))
            }
            (GRACEFUL_RESTART | LONG_LIVED_GRACEFUL_RESTART, value) => {
                match graceful::describe(self.code, &self.value) {
                    Some(text) => f.write_str(&text),
                    None => write!(f, "code {} ({} octets)", self.code, value.len()),
                }
            }
            (69, _) => f.write_str("additional paths"),
            (73, _) => f.write_str("host name"),
            (75, _) => f.write_str("software version"),
            (code, value) => write!(f, "code {code} ({} octets)", value.len()),
        }
    }
}

/// What a list of capabilities offers, as far as we use it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Offer {
    /// Families, as capability 1 names them; without that capability, IPv4 unicast (RFC 4760 §8).
    pub families: FamilySet,
    /// The AS number in four octets.
    pub four_octet_as: Option<Asn>,
    /// Whether ROUTE-REFRESH is answered.
    pub route_refresh: bool,
    /// Whether refreshes are delimited.
    pub enhanced_route_refresh: bool,
    /// Whether long messages are read.
    pub extended_message: bool,
    /// IPv4 families whose next hop may be IPv6.
    pub extended_nexthop: FamilySet,
    /// What is said about restarts.
    pub graceful: Option<GracefulRestart>,
}

impl Offer {
    /// Reads the list. The same capability twice is no error (RFC 5492 §4); of two AS numbers the last counts.
    ///
    /// # Errors
    /// A capability that we use with a length that its RFC does not have.
    pub fn from_capabilities(capabilities: &[Capability]) -> Result<Offer, Notification> {
        let mut offer = Offer::default();
        let mut multiprotocol = false;
        let mut long_lived = Vec::new();
        let malformed = Notification::open_malformed;
        for capability in capabilities {
            match (capability.code, capability.value.as_ref()) {
                (MULTIPROTOCOL, &[a, b, _, safi]) => {
                    multiprotocol = true;
                    Family::from_code(u16::from_be_bytes([a, b]), safi)
                        .into_iter()
                        .for_each(|f| offer.families.insert(f));
                }
                (FOUR_OCTET_AS, &[a, b, c, d]) => {
                    offer.four_octet_as = Some(Asn(u32::from_be_bytes([a, b, c, d])))
                }
                (EXTENDED_NEXTHOP, value) if value.len().is_multiple_of(6) => {
                    offer.extended_nexthop = extended_nexthop_families(value);
                }
                (MULTIPROTOCOL | FOUR_OCTET_AS | EXTENDED_NEXTHOP, _) => {
                    return Err(malformed());
                }
                (GRACEFUL_RESTART, value) => {
                    offer.graceful = Some(GracefulRestart::decode(value).ok_or_else(malformed)?);
                }
                (LONG_LIVED_GRACEFUL_RESTART, value) => {
                    long_lived = LongLived::decode(value).ok_or_else(malformed)?;
                }
                (ROUTE_REFRESH, _) => offer.route_refresh = true,
                (ENHANCED_ROUTE_REFRESH, _) => offer.enhanced_route_refresh = true,
                (EXTENDED_MESSAGE, _) => offer.extended_message = true,
                _ => {}
            }
        }
        if !multiprotocol {
            offer.families.insert(Family::Ipv4Unicast);
        }
        if let Some(graceful) = &mut offer.graceful {
            graceful.long_lived = long_lived;
        }
        Ok(offer)
    }
}

fn extended_nexthop_families(value: &[u8]) -> FamilySet {
    let tuples = value.chunks_exact(6).filter_map(|tuple| match *tuple {
        [a, b, 0, safi, c, d] if u16::from_be_bytes([c, d]) == AFI_IPV6 => {
            Family::from_code(u16::from_be_bytes([a, b]), safi)
        }
        _ => None,
    });
    tuples.collect()
}

const AFI_IPV6: u16 = 2;

#[cfg(test)]
mod tests {
    use super::*;

    fn capability(code: u8, value: &[u8]) -> Capability {
        Capability { code, value: Bytes::copy_from_slice(value) }
    }

    #[test]
    fn ours_read_back_as_what_they_offer() {
        let families = FamilySet::L3VPN;
        let mut list: Vec<_> = families.iter().map(Capability::multiprotocol).collect();
        list.push(Capability::four_octet_as(Asn(4_200_000_001)));
        list.push(Capability::extended_nexthop(FamilySet::from_iter([Family::Vpnv4])));
        list.extend([ROUTE_REFRESH, ENHANCED_ROUTE_REFRESH, EXTENDED_MESSAGE].map(Capability::empty));
        let mut out = BytesMut::new();
        list.iter().for_each(|capability| capability.encode(&mut out));

        let mut read = Vec::new();
        Capability::decode_all(out.freeze(), &mut read).unwrap();
        assert_eq!(read, list);
        let offer = Offer::from_capabilities(&read).unwrap();
        assert_eq!(
            offer,
            Offer {
                families,
                four_octet_as: Some(Asn(4_200_000_001)),
                route_refresh: true,
                enhanced_route_refresh: true,
                extended_message: true,
                extended_nexthop: FamilySet::from_iter([Family::Vpnv4]),
                graceful: None,
            }
        );
    }

    #[test]
    fn wrong_lengths_of_what_we_use_are_refused() {
        for broken in [
            capability(MULTIPROTOCOL, &[0, 1, 0]),
            capability(MULTIPROTOCOL, &[0, 1, 0, 128, 0]),
            capability(FOUR_OCTET_AS, &[0, 0, 1]),
            capability(FOUR_OCTET_AS, &[]),
            capability(EXTENDED_NEXTHOP, &[0, 1, 0, 128, 0]),
            capability(GRACEFUL_RESTART, &[]),
            capability(LONG_LIVED_GRACEFUL_RESTART, &[0, 1, 128, 0x80, 0, 0]),
        ] {
            assert_eq!(
                Offer::from_capabilities(std::slice::from_ref(&broken)),
                Err(Notification::open_malformed()),
                "{broken:?}"
            );
        }
    }

    #[test]
    fn unknown_capabilities_change_nothing() {
        let unknown = [capability(0, &[1]), capability(9, &[0, 0]), capability(200, &[7; 255])];
        assert_eq!(Offer::from_capabilities(&unknown), Offer::from_capabilities(&[]));
    }

    #[test]
    fn without_multiprotocol_it_is_ipv4_unicast() {
        assert_eq!(
            Offer::from_capabilities(&[]).unwrap().families,
            FamilySet::from_iter([Family::Ipv4Unicast])
        );
        let multicast = [capability(MULTIPROTOCOL, &[0, 1, 0, 2])];
        assert!(Offer::from_capabilities(&multicast).unwrap().families.is_empty());
    }

    #[test]
    fn capability_may_not_leave_its_parameter() {
        for octets in [&[1][..], &[1, 4], &[1, 4, 0, 1, 0], &[2, 0, 65, 4, 0, 0, 0]] {
            let verdict = Capability::decode_all(Bytes::copy_from_slice(octets), &mut Vec::new());
            assert_eq!(verdict, Err(Notification::open_malformed()), "{octets:?}");
        }
    }
}
