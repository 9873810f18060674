//! Routes as UPDATE messages carry them: unicast, labelled VPN and route target membership.
//!
//! ```text
//! 1/1, 2/1        | bits (1) | prefix (0..16) |                                            RFC 4271 §4.3
//! 1/128, 2/128    | bits (1) | label (3) | route distinguisher (8) | prefix (0..16) |       RFC 4364 §4.3.4, RFC 8277 §2.2
//! 1/132           | bits (1) | origin AS (4) | route target (0..8) |    or bits = 0          RFC 4684 §4
//! ```
//! The length counts bits of everything behind it. A field is checked once as a whole by [`Nlris::new`]; reading it
//! afterwards cannot fail and allocates nothing. Exactly one label: several were never negotiated (RFC 8277 §2.1).
//! Path identifiers (RFC 7911) are never negotiated either.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use bytes::BufMut;
use vrouter_types::{Asn, Label, Prefix, RouteDistinguisher, RouteTarget, VpnPrefix};

use crate::Family;

/// One route of an UPDATE.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Nlri {
    /// 1/1 and 2/1.
    Unicast(Prefix),
    /// 1/128 and 2/128. In a withdrawal the label means nothing (RFC 8277 §2.4).
    Vpn(VpnPrefix, Label),
    /// 1/132.
    Rtc(RtMembership),
}

impl Nlri {
    /// Octets on the wire, length octet included.
    #[inline]
    pub fn encoded_len(&self) -> usize {
        match self {
            Nlri::Unicast(prefix) => 1 + prefix_octets(prefix.len()),
            Nlri::Vpn(route, _) => 1 + LABEL_AND_RD + prefix_octets(route.prefix.len()),
            Nlri::Rtc(membership) => 1 + prefix_octets(membership.bits),
        }
    }

    /// Appends it as an announcement has it.
    #[inline]
    pub fn encode(&self, out: &mut impl BufMut) {
        match self {
            Nlri::Unicast(prefix) => {
                out.put_u8(prefix.len());
                put_prefix(*prefix, out);
            }
            Nlri::Vpn(route, label) => put_vpn(*route, label.to_nlri(), out),
            Nlri::Rtc(membership) => membership.encode(out),
        }
    }

    /// Appends it as a withdrawal has it: the label field holds 0x800000 (RFC 8277 §2.4).
    pub fn encode_withdrawal(&self, out: &mut impl BufMut) {
        match self {
            Nlri::Vpn(route, _) => put_vpn(*route, [0x80, 0, 0], out),
            _ => self.encode(out),
        }
    }
}

/// In one piece: a buffer looks for room at every write. Most are IPv4 hosts, of a length that the compiler knows.
#[inline]
fn put_vpn(route: VpnPrefix, label: [u8; 3], out: &mut impl BufMut) {
    let bits = LABEL_AND_RD_BITS + route.prefix.len();
    let ([l0, l1, l2], [r0, r1, r2, r3, r4, r5, r6, r7]) = (label, route.rd.octets());
    match route.prefix.addr() {
        IpAddr::V4(addr) => {
            let [a, b, c, d] = addr.octets();
            let octets = [bits, l0, l1, l2, r0, r1, r2, r3, r4, r5, r6, r7, a, b, c, d];
            if bits == VPNV4_HOST_BITS {
                out.put_slice(&octets);
            } else {
                out.put_slice(octets.get(..1 + prefix_octets(bits)).unwrap_or_default());
            }
        }
        IpAddr::V6(addr) => {
            out.put_slice(&[bits, l0, l1, l2, r0, r1, r2, r3, r4, r5, r6, r7]);
            out.put_slice(addr.octets().get(..prefix_octets(route.prefix.len())).unwrap_or_default());
        }
    }
}

fn put_prefix(prefix: Prefix, out: &mut impl BufMut) {
    let octets = prefix_octets(prefix.len());
    match prefix.addr() {
        IpAddr::V4(addr) => out.put_slice(addr.octets().get(..octets).unwrap_or_default()),
        IpAddr::V6(addr) => out.put_slice(addr.octets().get(..octets).unwrap_or_default()),
    }
}

/// Interest in route targets (RFC 4684 §4): the first `bits` of an origin AS and a route target. No bits: everything.
///
/// Bits beyond the length are kept zero, so that equal interests are equal values. An origin AS of zero bits or of all
/// thirty-two: anything between is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RtMembership {
    octets: [u8; 12],
    bits: u8,
}

impl RtMembership {
    /// Interest in every route.
    pub const DEFAULT: RtMembership = RtMembership { octets: [0; 12], bits: 0 };

    /// Interest in one route target.
    pub fn full(origin: Asn, target: RouteTarget) -> RtMembership {
        let mut octets = [0; 12];
        octets[..4].copy_from_slice(&origin.0.to_be_bytes());
        octets[4..].copy_from_slice(&target.octets());
        RtMembership { octets, bits: 96 }
    }

    fn decode(bits: u8, field: &[u8]) -> Option<RtMembership> {
        if bits != 0 && !(32..=96).contains(&bits) {
            return None;
        }
        let mut octets = [0; 12];
        octets.get_mut(..field.len())?.copy_from_slice(field);
        clear_beyond(&mut octets, bits);
        Some(RtMembership { octets, bits })
    }

    fn encode(&self, out: &mut impl BufMut) {
        out.put_u8(self.bits);
        out.put_slice(self.octets.get(..prefix_octets(self.bits)).unwrap_or_default());
    }

    /// Bits in force: 0, or 32 to 96.
    pub fn bits(&self) -> u8 {
        self.bits
    }

    /// Who announced it first; `None` for the default.
    pub fn origin(&self) -> Option<Asn> {
        let [a, b, c, d, ..] = self.octets;
        (self.bits >= 32).then(|| Asn(u32::from_be_bytes([a, b, c, d])))
    }

    /// The route target's octets; those beyond [`RtMembership::target_bits`] are zero.
    pub fn target_octets(&self) -> [u8; 8] {
        let [_, _, _, _, target @ ..] = self.octets;
        target
    }

    /// Bits of the route target in force: 0 to 64.
    pub fn target_bits(&self) -> u8 {
        self.bits.saturating_sub(32)
    }

    /// Whether a route that carries this community is wanted. The origin AS is not compared: a route has none.
    pub fn wants(&self, community: [u8; 8]) -> bool {
        let differing = u64::from_be_bytes(community) ^ u64::from_be_bytes(self.target_octets());
        differing.leading_zeros() >= u32::from(self.target_bits())
    }
}

impl std::fmt::Display for RtMembership {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Some(origin) = self.origin() else { return f.pad("default") };
        let target = self.target_octets();
        f.pad(&match (self.target_bits(), RouteTarget::from_ext_community(target)) {
            (64, Some(target)) => format!("{origin}:{target}"),
            (64, None) => format!("{origin}:0x{:016x}", u64::from_be_bytes(target)),
            (bits, _) => format!("{origin}:0x{:016x}/{bits}", u64::from_be_bytes(target)),
        })
    }
}

/// A run of routes of one family that has been checked as a whole.
#[derive(Debug, Clone, Copy)]
pub struct Nlris<'a> {
    family: Family,
    rest: &'a [u8],
}

impl<'a> Nlris<'a> {
    /// Checks that the field holds whole routes of lawful lengths and nothing else.
    pub fn new(family: Family, field: &'a [u8]) -> Result<Nlris<'a>, NlriError> {
        let (least, most) = bit_range(family);
        let mut rest = field;
        while let [bits, tail @ ..] = rest {
            let is_default = family == Family::Rtc && *bits == 0;
            if !is_default && !(least..=most).contains(bits) {
                return Err(NlriError::Length { family, bits: *bits });
            }
            rest = tail.get(prefix_octets(*bits)..).ok_or(NlriError::Truncated { family, bits: *bits })?;
        }
        Ok(Nlris { family, rest: field })
    }

    /// No routes.
    pub const fn empty(family: Family) -> Nlris<'a> {
        Nlris { family, rest: &[] }
    }

    /// Whether no route is left.
    pub const fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// What they are routes of.
    pub const fn family(&self) -> Family {
        self.family
    }
}

impl Iterator for Nlris<'_> {
    type Item = Nlri;

    #[inline]
    fn next(&mut self) -> Option<Nlri> {
        // Most of what a PE ever reads is IPv4 hosts: of one length, found out at once.
        if self.family == Family::Vpnv4
            && let Some((&[VPNV4_HOST_BITS, l0, l1, l2, ref tail @ ..], rest)) =
                self.rest.split_first_chunk::<VPNV4_HOST>()
            && let &[r0, r1, r2, r3, r4, r5, r6, r7, a, b, c, d] = tail
        {
            self.rest = rest;
            let rd = RouteDistinguisher::from_octets([r0, r1, r2, r3, r4, r5, r6, r7]);
            let prefix = Prefix::host(Ipv4Addr::new(a, b, c, d).into());
            return Some(Nlri::Vpn(VpnPrefix { rd, prefix }, Label::from_nlri([l0, l1, l2])));
        }
        let (bits, tail) = self.rest.split_first()?;
        let (field, rest) = tail.split_at_checked(prefix_octets(*bits))?;
        self.rest = rest;
        match self.family {
            Family::Ipv4Unicast => read_prefix::<4>(*bits, field).map(Nlri::Unicast),
            Family::Ipv6Unicast => read_prefix::<16>(*bits, field).map(Nlri::Unicast),
            Family::Vpnv4 => read_vpn::<4>(*bits, field),
            Family::Vpnv6 => read_vpn::<16>(*bits, field),
            Family::Rtc => RtMembership::decode(*bits, field).map(Nlri::Rtc),
        }
    }
}

/// Why a run of routes cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NlriError {
    /// The length does not fit the family.
    #[error("{family} route of {bits} bits")]
    Length {
        /// The family.
        family: Family,
        /// The length octet.
        bits: u8,
    },
    /// The field ends inside a route.
    #[error("{family} route of {bits} bits passes the end of its field")]
    Truncated {
        /// The family.
        family: Family,
        /// The length octet.
        bits: u8,
    },
}

fn read_vpn<const N: usize>(bits: u8, field: &[u8]) -> Option<Nlri> {
    let (label, field) = field.split_first_chunk::<3>()?;
    let (rd, field) = field.split_first_chunk::<8>()?;
    let prefix = read_prefix::<N>(bits.checked_sub(LABEL_AND_RD_BITS)?, field)?;
    Some(Nlri::Vpn(VpnPrefix { rd: RouteDistinguisher::from_octets(*rd), prefix }, Label::from_nlri(*label)))
}

/// Bits beyond the length are irrelevant (RFC 4271 §4.3); `Prefix` clears them.
fn read_prefix<const N: usize>(bits: u8, field: &[u8]) -> Option<Prefix> {
    // Of hosts nothing has to be cleared.
    if let (128, Ok(octets)) = (bits, <[u8; 16]>::try_from(field)) {
        return Some(Prefix::host(Ipv6Addr::from(octets).into()));
    }
    let mut octets = [0; 16];
    octets.get_mut(..field.len())?.copy_from_slice(field);
    let [a, b, c, d, ..] = octets;
    let addr: IpAddr = if N == 4 { Ipv4Addr::new(a, b, c, d).into() } else { Ipv6Addr::from(octets).into() };
    Prefix::new(addr, bits)
}

fn clear_beyond(octets: &mut [u8; 12], bits: u8) {
    for (octet, start) in octets.iter_mut().zip((0u8..).step_by(8)) {
        match bits.saturating_sub(start) {
            0 => *octet = 0,
            kept @ 1..=7 => *octet &= 0xff << (8 - kept),
            _ => {}
        }
    }
}

const fn prefix_octets(bits: u8) -> usize {
    bits.div_ceil(8) as usize
}

const fn bit_range(family: Family) -> (u8, u8) {
    match family {
        Family::Ipv4Unicast => (0, 32),
        Family::Ipv6Unicast => (0, 128),
        Family::Vpnv4 => (LABEL_AND_RD_BITS, LABEL_AND_RD_BITS + 32),
        Family::Vpnv6 => (LABEL_AND_RD_BITS, LABEL_AND_RD_BITS + 128),
        Family::Rtc => (32, 96),
    }
}

const LABEL_AND_RD: usize = 11;
const VPNV4_HOST_BITS: u8 = LABEL_AND_RD_BITS + 32;
const VPNV4_HOST: usize = 1 + LABEL_AND_RD + 4;
const LABEL_AND_RD_BITS: u8 = 88;

#[cfg(test)]
mod tests {
    use super::*;

    fn read(family: Family, field: &[u8]) -> Vec<Nlri> {
        Nlris::new(family, field).unwrap().collect()
    }

    #[test]
    fn a_vpn_host_route_takes_sixteen_octets() {
        let field = [0x78, 0x00, 0x01, 0x01, 0, 0, 0xfd, 0xe8, 0, 0, 0, 1, 10, 0, 0, 1];
        let route = Nlri::Vpn("65000:1:10.0.0.1/32".parse().unwrap(), Label::new(16).unwrap());
        assert_eq!(read(Family::Vpnv4, &field), [route]);
        let mut out = Vec::new();
        route.encode(&mut out);
        assert_eq!(out, field);
        assert_eq!(route.encoded_len(), field.len());
    }

    #[test]
    fn lengths_outside_the_family_are_refused() {
        for (family, bits) in
            [(Family::Ipv4Unicast, 33), (Family::Vpnv4, 87), (Family::Vpnv4, 121), (Family::Vpnv6, 217)]
        {
            let field = [&[bits][..], &[0; 40]].concat();
            assert_eq!(Nlris::new(family, &field).unwrap_err(), NlriError::Length { family, bits });
        }
        for bits in (1..=31).chain(97..=255) {
            let field = [&[bits][..], &[0; 40]].concat();
            assert!(Nlris::new(Family::Rtc, &field).is_err(), "{bits}");
        }
    }

    #[test]
    fn a_field_that_ends_inside_a_route_is_refused() {
        for cut in 1..16 {
            let field = &[0x78, 0, 1, 1, 0, 0, 0xfd, 0xe8, 0, 0, 0, 1, 10, 0, 0, 1][..cut];
            assert!(Nlris::new(Family::Vpnv4, field).is_err(), "{cut}");
        }
    }

    #[test]
    fn a_membership_wants_what_its_bits_cover() {
        let target = [0, 2, 0xfd, 0xe8, 0, 0, 0, 1];
        let full = RtMembership::full(Asn(65001), "target:65000:1".parse().unwrap());
        assert!(full.wants(target));
        assert!(!full.wants([0, 2, 0xfd, 0xe8, 0, 0, 0, 2]));
        assert!(RtMembership::DEFAULT.wants(target));
        let [Nlri::Rtc(odd)] = read(Family::Rtc, &[33, 0, 0, 0xfd, 0xe8, 0x7f])[..] else { panic!() };
        assert!(odd.wants(target));
        assert!(!odd.wants([0x80, 2, 0, 0, 0, 0, 0, 0]));
        assert_eq!(odd.target_octets(), [0; 8], "bits beyond the length are cleared");
    }

    #[test]
    fn withdrawals_carry_the_compatibility_label() {
        let route = Nlri::Vpn("65000:1:fd00::/16".parse().unwrap(), Label::MAX);
        let mut out = Vec::new();
        route.encode_withdrawal(&mut out);
        assert_eq!(out[..4], [104, 0x80, 0, 0]);
        assert_eq!(out.len(), route.encoded_len());
    }
}
