//! Extended communities (RFC 4360) that mean something here: route targets and the encapsulation (RFC 9012 §4.1).
//!
//! ```text
//! | 0x03 | 0x0c | reserved (4) | tunnel type (2) |
//! ```
//! Tunnel types: 13 MPLS in UDP, 11 MPLS in GRE, 2 GRE, which some PEs send for MPLS in GRE on VPN routes. All three are
//! accepted; GRE is announced as 2 and 11 both, because peers differ in which they know.

use vrouter_types::{Encap, EncapSet, RouteTarget};

/// One extended community.
pub type ExtCommunity = [u8; 8];

/// What the communities of a route say about encapsulation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NamedEncaps {
    /// Nothing: the neighbor's default applies.
    None,
    /// These; where the set is empty, only such as this speaker does not know.
    Some(EncapSet),
}

impl NamedEncaps {
    /// Adds a tunnel type.
    pub(crate) fn name(&mut self, tunnel_type: u16) {
        let mut set = match self {
            NamedEncaps::None => EncapSet::EMPTY,
            NamedEncaps::Some(set) => *set,
        };
        if let Some(encap) = encap_of_tunnel_type(tunnel_type) {
            set.insert(encap);
        }
        *self = NamedEncaps::Some(set);
    }

    /// Whether a route that says so can be used.
    pub fn is_usable(self) -> bool {
        self != NamedEncaps::Some(EncapSet::EMPTY)
    }

    /// The set; empty where nothing was named.
    pub fn set(self) -> EncapSet {
        match self {
            NamedEncaps::None => EncapSet::EMPTY,
            NamedEncaps::Some(set) => set,
        }
    }
}

/// The communities of an EXTENDED COMMUNITIES attribute.
pub fn ext_communities(octets: &[u8]) -> impl Iterator<Item = ExtCommunity> {
    octets.as_chunks::<8>().0.iter().copied()
}

/// The route targets among them.
pub fn route_targets(octets: &[u8]) -> impl Iterator<Item = RouteTarget> {
    ext_communities(octets).filter_map(RouteTarget::from_ext_community)
}

/// What they say about encapsulation.
pub fn named_encaps(octets: &[u8]) -> NamedEncaps {
    let mut named = NamedEncaps::None;
    for community in ext_communities(octets) {
        if let [0x03, 0x0c, _, _, _, _, high, low] = community {
            named.name(u16::from_be_bytes([high, low]));
        }
    }
    named
}

/// The encapsulation communities that announce a set.
pub fn encap_communities(encaps: EncapSet) -> impl Iterator<Item = ExtCommunity> {
    let types: &[(Encap, u8)] =
        &[(Encap::MplsOverGre, GRE), (Encap::MplsOverGre, MPLS_IN_GRE), (Encap::MplsOverUdp, MPLS_IN_UDP)];
    types
        .iter()
        .filter(move |(encap, _)| encaps.contains(*encap))
        .map(|(_, tunnel_type)| [0x03, 0x0c, 0, 0, 0, 0, 0, *tunnel_type])
}

/// The community that says where a route stands among equally good ones, for those that hash flows consistently over
/// them (Consistent Hash Sort Order, draft-ietf-bess-service-chaining; IANA 0x03, 0x14).
///
/// ```text
/// | 0x03 | 0x14 | sort order (4) | reserved (2) |
/// ```
pub fn hash_order_community(order: u32) -> ExtCommunity {
    let [a, b, c, d] = order.to_be_bytes();
    [0x03, HASH_ORDER, a, b, c, d, 0, 0]
}

/// The sort order among the communities of a route; the first counts.
pub fn hash_order(octets: &[u8]) -> Option<u32> {
    ext_communities(octets).find_map(|community| match community {
        [0x03, HASH_ORDER, a, b, c, d, _, _] => Some(u32::from_be_bytes([a, b, c, d])),
        _ => None,
    })
}

const HASH_ORDER: u8 = 0x14;

fn encap_of_tunnel_type(tunnel_type: u16) -> Option<Encap> {
    match u8::try_from(tunnel_type).ok()? {
        GRE | MPLS_IN_GRE => Some(Encap::MplsOverGre),
        MPLS_IN_UDP => Some(Encap::MplsOverUdp),
        _ => None,
    }
}

const GRE: u8 = 2;
const MPLS_IN_GRE: u8 = 11;
const MPLS_IN_UDP: u8 = 13;

#[cfg(test)]
mod tests {
    use super::*;

    fn octets(tunnel_types: &[u8]) -> Vec<u8> {
        tunnel_types.iter().flat_map(|t| [0x03, 0x0c, 0, 0, 0, 0, 0, *t]).collect()
    }

    #[test]
    fn all_three_tunnel_types_are_understood() {
        let gre = EncapSet::from_iter([Encap::MplsOverGre]);
        let udp = EncapSet::from_iter([Encap::MplsOverUdp]);
        assert_eq!(named_encaps(&octets(&[2])), NamedEncaps::Some(gre));
        assert_eq!(named_encaps(&octets(&[11])), NamedEncaps::Some(gre));
        assert_eq!(named_encaps(&octets(&[13])), NamedEncaps::Some(udp));
        assert_eq!(
            named_encaps(&octets(&[8, 13])),
            NamedEncaps::Some(udp),
            "VXLAN beside it changes nothing"
        );
    }

    #[test]
    fn a_route_that_names_only_unknown_types_is_not_usable() {
        assert!(!named_encaps(&octets(&[8])).is_usable());
        assert!(named_encaps(&[0, 2, 0xfd, 0xe8, 0, 0, 0, 1]).is_usable(), "none named");
    }

    #[test]
    fn the_hash_order_is_read_as_it_is_sent() {
        let sent = hash_order_community(7);
        assert_eq!(sent, [0x03, 0x14, 0, 0, 0, 7, 0, 0]);
        assert_eq!(hash_order(&[octets(&[13]), sent.to_vec()].concat()), Some(7));
        assert_eq!(hash_order(&octets(&[13])), None);
    }

    #[test]
    fn gre_is_announced_under_both_its_numbers() {
        let sent: Vec<_> = encap_communities(EncapSet::from_iter(Encap::ALL)).map(|c| c[7]).collect();
        assert_eq!(sent, [2, 11, 13]);
    }
}
