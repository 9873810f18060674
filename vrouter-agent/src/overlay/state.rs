//! The parts that the overlay is made of, as others may read them.

use std::net::IpAddr;

use dataplane_core::TunnelId;
use vrouter_types::{Encap, Label, PortId, Prefix, VrfId};

use crate::config::VrfConfig;
use crate::event::SavedPort;

/// A VRF.
#[derive(Debug, Clone)]
pub struct Vrf {
    /// Its number.
    pub id: VrfId,
    /// What the operator says of it.
    pub config: VrfConfig,
}

/// A port.
#[derive(Debug, Clone, PartialEq)]
pub struct Port {
    /// What is on disk, or about to be.
    pub saved: SavedPort,
    /// Its VRF.
    pub vrf: VrfId,
    /// Whether it forwards.
    pub state: PortState,
}

/// Whether a port forwards.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PortState {
    /// It does.
    Up,
    /// It does not: why, for people. Its number, label and addresses stay its own.
    Waiting(String),
}

/// A route as it forwards.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteEntry {
    /// Its prefix.
    pub prefix: Prefix,
    /// Who made it.
    pub protocol: Protocol,
    /// Where packets go.
    pub target: Target,
}

/// Who made a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// A port of this node in this VRF.
    Local,
    /// BGP: another provider edge, or another VRF of this node.
    Bgp,
    /// The configuration: the pod range, the host.
    Connected,
}

/// Where packets go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// To a port of this node.
    Port(PortId),
    /// To other provider edges, shared by flow: tunnel and label.
    Tunnels(Vec<(TunnelId, Label)>),
    /// To the host.
    Host,
    /// Nowhere: an address of ours that nobody has.
    Discard,
}

/// A tunnel that a route leads through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tunnel {
    /// Its number in the forwarding state.
    pub id: TunnelId,
    /// The other provider edge.
    pub remote: IpAddr,
    /// How packets travel.
    pub encap: Encap,
    /// The largest inner packet.
    pub mtu: u16,
    /// How many routes lead through it.
    pub routes: usize,
}
