//! Structure of two attributes made of TLVs: Tunnel Encapsulation (RFC 9012 §2) and Prefix-SID (RFC 8669 §3).
//!
//! ```text
//! TUNNEL_ENCAP   | tunnel type (2) | length (2) | sub-TLVs: type (1), length (1; 2 from type 128 on), value … | …
//! PREFIX_SID     | type (1) | length (2) | value | …
//! ```
//! A broken Tunnel Encapsulation attribute withdraws its routes (RFC 9012 §13); a broken Prefix-SID is discarded
//! (RFC 8669 §6). Sub-TLVs other than the tunnel egress endpoint are not looked into.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::wire::ext_community::NamedEncaps;

/// Whether the value is whole TLVs of whole sub-TLVs.
pub(crate) fn is_tunnel_encap(value: &[u8]) -> bool {
    let mut rest = value;
    while !rest.is_empty() {
        let Some((_, sub_tlvs, tail)) = split_tunnel(rest) else { return false };
        let mut sub_rest = sub_tlvs;
        while !sub_rest.is_empty() {
            let Some((_, _, tail)) = split_sub_tlv(sub_rest) else { return false };
            sub_rest = tail;
        }
        rest = tail;
    }
    true
}

/// Adds the tunnel types whose egress is the next hop. Another egress would need a tunnel of its own: not supported.
pub(crate) fn name_tunnels(value: &[u8], next_hop: IpAddr, named: &mut NamedEncaps) {
    let mut rest = value;
    while let Some((tunnel_type, sub_tlvs, tail)) = split_tunnel(rest) {
        if egress_is(sub_tlvs, next_hop) {
            named.name(tunnel_type);
        }
        rest = tail;
    }
}

/// RFC 9012 §3.1: four reserved octets, an address family, an address. Family 0, or no such sub-TLV: the next hop.
fn egress_is(sub_tlvs: &[u8], next_hop: IpAddr) -> bool {
    let mut rest = sub_tlvs;
    while let Some((kind, value, tail)) = split_sub_tlv(rest) {
        if kind == EGRESS_ENDPOINT {
            let [_, _, _, _, high, low, address @ ..] = value else { return false };
            return match (u16::from_be_bytes([*high, *low]), address.len()) {
                (0, _) => true,
                (1, 4) => <[u8; 4]>::try_from(address).is_ok_and(|a| Ipv4Addr::from(a) == next_hop),
                (2, 16) => {
                    <[u8; 16]>::try_from(address).is_ok_and(|a| Ipv6Addr::from(a).to_canonical() == next_hop)
                }
                _ => false,
            };
        }
        rest = tail;
    }
    true
}

fn split_tunnel(octets: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let [a, b, c, d, tail @ ..] = octets else { return None };
    let (value, tail) = tail.split_at_checked(usize::from(u16::from_be_bytes([*c, *d])))?;
    Some((u16::from_be_bytes([*a, *b]), value, tail))
}

fn split_sub_tlv(octets: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (kind, length, tail) = match *octets {
        [kind @ 128..=255, high, low, ref tail @ ..] => (kind, u16::from_be_bytes([high, low]), tail),
        [kind @ 0..=127, length, ref tail @ ..] => (kind, u16::from(length), tail),
        _ => return None,
    };
    let (value, tail) = tail.split_at_checked(usize::from(length))?;
    Some((kind, value, tail))
}

/// Whether the value is whole TLVs, those of RFC 8669 of their lengths. Type 0 is reserved and refused: a value of
/// zeros crossed the Internet in May 2025 and reset sessions on the way.
pub(crate) fn is_prefix_sid(value: &[u8]) -> bool {
    let mut rest = value;
    while !rest.is_empty() {
        let [kind, high, low, tail @ ..] = rest else { return false };
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        let fits = match *kind {
            0 => false,
            LABEL_INDEX => length == 7,
            // Two octets of flags, then ranges of six octets.
            ORIGINATOR_SRGB => length > 2 && (length - 2).is_multiple_of(6),
            _ => true,
        };
        let Some((_, tail)) = tail.split_at_checked(length).filter(|_| fits) else { return false };
        rest = tail;
    }
    !value.is_empty()
}

const EGRESS_ENDPOINT: u8 = 6;
const LABEL_INDEX: u8 = 1;
const ORIGINATOR_SRGB: u8 = 3;

#[cfg(test)]
mod tests {
    use vrouter_types::{Encap, EncapSet};

    use super::*;

    fn named(value: &[u8]) -> NamedEncaps {
        let mut named = NamedEncaps::None;
        name_tunnels(value, "192.0.2.1".parse().unwrap(), &mut named);
        named
    }

    #[test]
    fn a_tunnel_counts_where_its_egress_is_the_next_hop() {
        let udp = NamedEncaps::Some(EncapSet::from_iter([Encap::MplsOverUdp]));
        assert_eq!(named(&[0, 13, 0, 0]), udp);
        assert_eq!(named(&[0, 13, 0, 12, 6, 10, 0, 0, 0, 0, 0, 1, 192, 0, 2, 1]), udp);
        assert_eq!(named(&[0, 13, 0, 12, 6, 10, 0, 0, 0, 0, 0, 1, 192, 0, 2, 9]), NamedEncaps::None);
        assert_eq!(named(&[0, 13, 0, 8, 6, 6, 0, 0, 0, 0, 0, 0]), udp, "address family 0");
    }

    #[test]
    fn broken_tlvs_are_seen() {
        for broken in
            [&[0, 13][..], &[0, 13, 0, 1], &[0, 13, 0, 2, 6, 6], &[0, 13, 0, 2, 128, 0], &[0, 13, 0, 0, 0]]
        {
            assert!(!is_tunnel_encap(broken), "{broken:?}");
        }
        assert!(is_tunnel_encap(&[0, 13, 0, 4, 128, 0, 1, 0xff]));
        for broken in [&[][..], &[0, 0, 0], &[1, 0], &[1, 0, 0xff, 0], &[1, 0, 0], &[3, 0, 2, 0, 0]] {
            assert!(!is_prefix_sid(broken), "{broken:?}");
        }
        assert!(is_prefix_sid(&[1, 0, 7, 0, 0, 0, 0, 0, 0, 1]));
    }
}
