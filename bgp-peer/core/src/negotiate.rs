//! What two OPEN messages agree on (RFC 4271 §4.2, RFC 5492, RFC 6793).

use std::net::Ipv4Addr;

use vrouter_types::Asn;

use crate::FamilySet;

/// A configured neighbor: its index in the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerId(pub u32);

/// What is in force on a session: everything that both ends offered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Negotiated {
    /// Our AS number.
    pub local_asn: Asn,
    /// The neighbor's AS number.
    pub peer_asn: Asn,
    /// Our BGP identifier.
    pub local_router_id: Ipv4Addr,
    /// The neighbor's BGP identifier.
    pub peer_router_id: Ipv4Addr,
    /// Whether both are in one AS.
    pub is_ibgp: bool,
    /// Whether AS numbers take four octets (RFC 6793).
    pub as4: bool,
    /// The smaller of the two hold times, in seconds; 0: no keepalives (RFC 4271 §4.2).
    pub hold_time: u16,
    /// Families that both offered (RFC 4760 §8).
    pub families: FamilySet,
    /// Whether messages may be up to 65,535 octets long (RFC 8654).
    pub extended_message: bool,
    /// Whether the neighbor answers ROUTE-REFRESH (RFC 2918).
    pub route_refresh: bool,
    /// Whether refreshes are delimited (RFC 7313).
    pub enhanced_route_refresh: bool,
    /// IPv4 families whose next hop may be IPv6 (RFC 8950).
    pub extended_nexthop: FamilySet,
}
