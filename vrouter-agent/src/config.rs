//! What the operator wants: the agent's configuration file, parsed and valid.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use vrouter_types::{Asn, Encap, Prefix, RouteDistinguisher, RouteTarget};

/// A valid configuration. The only way to make one is to parse a file, which checks all of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The agent's name; default: the host's.
    pub name: String,
    /// Where the API listens.
    pub socket: PathBuf,
    /// What outlives the process.
    pub state_dir: PathBuf,
    /// Where Prometheus finds metrics.
    pub metrics: Option<SocketAddr>,
    /// The tunnels' side.
    pub underlay: UnderlayConfig,
    /// BGP; absent: this node stands alone.
    pub bgp: Option<BgpConfig>,
    /// The packet workers.
    pub dataplane: DataplaneConfig,
    /// The VRFs. Their index is their `VrfId`.
    pub vrfs: Vec<VrfConfig>,
}

/// `[underlay]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnderlayConfig {
    /// Where the tunnel source comes from; absent: no tunnels.
    pub source: Option<UnderlaySource>,
    /// In order of preference; never empty.
    pub encapsulations: Vec<Encap>,
    /// Tunnel sources beside the next hops that BGP taught us.
    pub accept_from: Vec<Prefix>,
}

/// Where the tunnel source comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UnderlaySource {
    /// This address, on whichever interface it appears.
    Address(IpAddr),
    /// Whatever address this interface has.
    Interface(String),
}

/// `[bgp]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BgpConfig {
    /// Our AS number.
    pub asn: Asn,
    /// Our BGP identifier.
    pub router_id: Ipv4Addr,
    /// The hold time that we offer, in seconds; 0: none.
    pub hold_time: u16,
    /// Where we listen; absent: we only connect.
    pub listen: Option<SocketAddr>,
    /// The neighbors.
    pub neighbors: Vec<NeighborConfig>,
}

/// `[[bgp.neighbor]]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NeighborConfig {
    /// Its address.
    pub address: IpAddr,
    /// Its port.
    pub port: u16,
    /// Its AS number.
    pub asn: Asn,
    /// A file whose first line is the TCP-MD5 key.
    pub password_file: Option<PathBuf>,
    /// Overrides `[bgp] hold-time`.
    pub hold_time: Option<u16>,
    /// Wait for it to connect.
    pub passive: bool,
    /// Our end of the connection.
    pub local_address: Option<IpAddr>,
    /// For people.
    pub description: Option<String>,
    /// For routes that name no encapsulation.
    pub default_encapsulation: Option<Encap>,
    /// `vpnv4`, `vpnv6`, `rtc`; default: all three.
    pub families: Vec<FamilyName>,
}

/// An address family that a neighbor may be configured with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FamilyName {
    /// `vpnv4`
    Vpnv4,
    /// `vpnv6`
    Vpnv6,
    /// `rtc`
    Rtc,
}

/// `[dataplane]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DataplaneConfig {
    /// Worker threads; absent: one per two cores.
    pub workers: Option<usize>,
    /// Source ports for MPLS-over-UDP.
    pub entropy_ports: u16,
}

/// `[[vrf]]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VrfConfig {
    /// Its name.
    pub name: String,
    /// Its route distinguisher.
    pub rd: RouteDistinguisher,
    /// Route targets that it imports.
    pub import: Vec<RouteTarget>,
    /// Route targets that its routes carry.
    pub export: Vec<RouteTarget>,
    /// This node's pod addresses.
    pub pods: Vec<Prefix>,
    /// Kubernetes namespaces that may use it, with `*`; absent: all.
    pub namespaces: Option<Vec<String>>,
    /// Whether pods that name no VRF join it.
    pub default: bool,
    /// Whether its workloads may open flows to the host.
    pub host_open: bool,
}

/// Everything that is wrong with a configuration file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigErrors(Vec<String>);

impl std::fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0.join("\n"))
    }
}
