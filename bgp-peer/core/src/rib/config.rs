//! What the RIB is told and what it tells: configuration, own routes, routes for VRFs.

use std::net::{IpAddr, Ipv4Addr};

use vrouter_types::{Asn, Encap, EncapSet, Label, Prefix, RouteDistinguisher, RouteTarget, VpnPrefix, VrfId};

use crate::PeerId;

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
}

/// What is configured about a neighbor and concerns its routes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerPolicy {
    /// Its address.
    pub address: IpAddr,
    /// For routes that name no encapsulation.
    pub default_encap: Option<Encap>,
}

/// What has changed for others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RibEvent {
    /// A VRF's route is new, different or gone.
    VrfRoute(VrfRoute),
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
