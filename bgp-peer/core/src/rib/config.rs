//! What the RIB is told and what it tells: configuration, own routes, routes for VRFs.

use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use vrouter_types::{Asn, Encap, EncapSet, Label, Prefix, RouteDistinguisher, RouteTarget, VpnPrefix, VrfId};

use crate::wire::community::{Community, LargeCommunity};
use crate::{Family, FamilySet, PeerId};

/// What does not change while the RIB lives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RibConfig {
    /// Our AS number.
    pub asn: Asn,
    /// Our BGP identifier.
    pub router_id: Ipv4Addr,
    /// Our cluster identifier (RFC 4456 §7): routes that passed it are loops.
    pub cluster_id: Ipv4Addr,
    /// How many received paths are stored at most; those beyond are refused and counted.
    pub max_paths: usize,
}

/// What a VRF imports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VrfImport {
    /// The VRF.
    pub vrf: VrfId,
    /// Routes that carry one of these.
    pub import: Vec<RouteTarget>,
}

/// A route of our own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalRoute {
    /// Route distinguisher and prefix.
    pub prefix: VpnPrefix,
    /// The label that leads to it here.
    pub label: Label,
    /// Our end of the tunnels.
    pub next_hop: IpAddr,
    /// The VRF's export targets.
    pub route_targets: Vec<RouteTarget>,
    /// How we may be reached.
    pub encaps: EncapSet,
    /// LOCAL_PREF, usually 100.
    pub local_pref: u32,
    /// MULTI_EXIT_DISC.
    pub med: Option<u32>,
    /// AS numbers in AS_PATH, the nearest first. A neighbor of one of these takes the route for a loop.
    pub as_path_prepend: Vec<Asn>,
    /// COMMUNITIES. NO_ADVERTISE and NO_EXPORT (RFC 1997) are obeyed here too.
    pub communities: Vec<Community>,
    /// LARGE_COMMUNITY.
    pub large_communities: Vec<LargeCommunity>,
    /// Its place among equally good routes for consistent hashing; absent: not sent.
    pub hash_order: Option<u32>,
}

/// What is known about a neighbor beside its session and concerns its routes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerPolicy {
    /// Its address.
    pub address: IpAddr,
    /// For routes that name no encapsulation.
    pub default_encap: Option<Encap>,
    /// Whether we reflect its routes to everyone, and everyone's to it (RFC 4456 §6).
    pub route_reflector_client: bool,
    /// How many routes it may have here; more are refused, and [`RibEvent::PrefixLimit`] says so. Not a family each.
    pub max_prefixes: Option<usize>,
}

impl PeerPolicy {
    /// A neighbor of which nothing but the address is special.
    pub fn new(address: IpAddr) -> PeerPolicy {
        PeerPolicy { address, default_encap: None, route_reflector_client: false, max_prefixes: None }
    }
}

/// How a session ended, as far as its routes are concerned.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum PeerDown {
    /// They go at once.
    #[default]
    Purge,
    /// They stay, as stale, until the neighbor is back and has sent its own again (RFC 4724 §4.2, RFC 8538 §4).
    Restarting {
        /// Those of these families; others go at once.
        families: FamilySet,
        /// The longest they stay without a session.
        until: Instant,
        /// How much longer as long-lived stale routes (RFC 9494 §4.2).
        long_lived: Vec<(Family, Duration)>,
    },
}

/// What has changed for others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RibEvent {
    /// A VRF's route is new, different or gone.
    VrfRoute(VrfRoute),
    /// The neighbor sent more routes than it may have. Said once a session; what goes beyond is refused.
    PrefixLimit(PeerId),
}

/// A VRF's route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VrfRoute {
    /// The VRF.
    pub vrf: VrfId,
    /// The prefix.
    pub prefix: Prefix,
    /// Every equally good path, by route distinguisher; none: the route is gone.
    pub paths: Vec<VrfPath>,
}

/// One way a VRF's traffic may go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct VrfPath {
    /// The route distinguisher it was announced under.
    pub rd: RouteDistinguisher,
    /// The tunnel's far end.
    pub next_hop: IpAddr,
    /// The label there.
    pub label: Label,
    /// What the route named; else the neighbor's default; else nothing.
    pub encaps: EncapSet,
    /// LOCAL_PREF.
    pub local_pref: u32,
    /// Who said so.
    pub source: PathSource,
}

/// Where a path came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PathSource {
    /// Our own route, imported into a VRF of ours.
    Local,
    /// This neighbor.
    Peer(PeerId),
}
