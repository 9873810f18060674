//! What the operator wants: the agent's configuration file, parsed and valid.
//!
//! Parsing is validating: whoever holds a [`Config`] need not check it again. All mistakes of a file are reported at
//! once, each with its line and what to write instead. Unknown keys are mistakes, because a misspelt key that is
//! silently ignored is found months later.

mod document;
mod export;
mod flows;
mod neighbor;
mod openstack;
mod sections;
mod vm;
mod vrf;

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use vrouter_types::{Asn, Encap, Prefix, RouteDistinguisher, RouteTarget};

pub use document::{ConfigError, ConfigErrors};
pub use export::{Community, ExportPolicy, LargeCommunity};
pub use flows::FlowConfig;
pub use neighbor::PeerAddress;
pub use openstack::OpenStackConfig;
pub(crate) use sections::is_interface_name;
pub use vm::{MetadataConfig, VmConfig};

use crate::Error;
use crate::openstack::Uuid;

/// A valid configuration. The only way to make one is to parse a file, which checks all of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
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
    /// BGP.
    pub bgp: BgpConfig,
    /// The packet workers.
    pub dataplane: DataplaneConfig,
    /// What OpenStack speaks to.
    pub openstack: OpenStackConfig,
    /// What virtual machines are served.
    pub vm: VmConfig,
    /// The VRFs. Their index is their `VrfId`.
    pub vrfs: Vec<VrfConfig>,
}

impl Config {
    /// Reads and checks a file.
    pub fn load(file: &Path) -> Result<Config, Error> {
        let read_error = |source| Error::ReadConfig { path: file.to_owned(), source };
        let text = std::fs::read_to_string(file).map_err(read_error)?;
        Config::parse(&text, file).map_err(Error::Config)
    }

    /// Checks a text; `file` is what messages call it. Reads the password files that it names.
    pub fn parse(text: &str, file: &Path) -> Result<Config, ConfigErrors> {
        sections::parse(text, file)
    }
}

/// One line per part, for `--check-config`.
impl fmt::Display for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let encapsulations: Vec<String> = self.underlay.encapsulations.iter().map(Encap::to_string).collect();
        let source = match &self.underlay.source {
            Some(UnderlaySource::Address(address)) => address.to_string(),
            Some(UnderlaySource::Interface(interface)) => format!("the address of {interface}"),
            None => "no tunnels".to_owned(),
        };
        writeln!(f, "  agent     {} at {}", self.name, self.socket.display())?;
        writeln!(f, "  underlay  {source}, {}", encapsulations.join(" before "))?;
        let neighbors = self.bgp.neighbors.len();
        match self.bgp.asn {
            Some(asn) => writeln!(f, "  bgp       AS {asn}, {} neighbor(s)", neighbors)?,
            None => writeln!(f, "  bgp       none")?,
        }
        for vrf in &self.vrfs {
            let pods: Vec<String> = vrf.pods.iter().map(Prefix::to_string).collect();
            let default = if vrf.default { ", default" } else { "" };
            writeln!(f, "  vrf       {} rd {} pods [{}]{default}", vrf.name, vrf.rd, pods.join(", "))?;
        }
        Ok(())
    }
}

/// `[underlay]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnderlayConfig {
    /// Where the tunnel source comes from; absent: no tunnels.
    pub source: Option<UnderlaySource>,
    /// In order of preference; never empty.
    pub encapsulations: Vec<Encap>,
    /// Tunnel sources beside the next hops that BGP taught us.
    pub accept_from: Vec<Prefix>,
}

/// Where the tunnel source comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum UnderlaySource {
    /// This address, on whichever interface it appears.
    Address(IpAddr),
    /// Whatever address this interface has.
    Interface(String),
}

/// `[bgp]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BgpConfig {
    /// Our AS number; absent: no sessions.
    pub asn: Option<Asn>,
    /// Our BGP identifier.
    pub router_id: Ipv4Addr,
    /// Our cluster's, for routes that we reflect (RFC 4456); default: the router ID.
    pub cluster_id: Ipv4Addr,
    /// Whether routes are kept while a session restarts (RFC 4724), unless a neighbor says otherwise.
    pub graceful_restart: bool,
    /// How long we ask neighbors to wait for us, in seconds.
    pub restart_time: u16,
    /// How long routes are kept after that (RFC 9494), also on disk, in seconds; 0: not at all.
    pub long_lived_stale_time: u32,
    /// Received paths that are kept at most.
    pub max_paths: u32,
    /// The hold time that we offer, in seconds; 0: none.
    pub hold_time: u16,
    /// Where we listen; absent: we only connect.
    pub listen: Option<SocketAddr>,
    /// The neighbors.
    pub neighbors: Vec<NeighborConfig>,
}

/// `[[bgp.neighbor]]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NeighborConfig {
    /// Its address, or where its address is from.
    pub address: PeerAddress,
    /// Its port.
    pub port: u16,
    /// Its AS number.
    pub asn: Asn,
    /// The TCP-MD5 key (RFC 2385). It is in no recording.
    #[serde(skip)]
    pub password: Option<Password>,
    /// Overrides `[bgp] hold-time`.
    pub hold_time: Option<u16>,
    /// Seconds between KEEPALIVEs; absent: a third of the hold time.
    pub keepalive_time: Option<u16>,
    /// Seconds between attempts to connect, about; absent: rising to half a minute.
    pub connect_retry: Option<u16>,
    /// How many hops away it is at most (RFC 5082).
    pub ttl_security: Option<u8>,
    /// Whether we are its route reflector (RFC 4456).
    pub route_reflector_client: bool,
    /// How many of its routes are taken; more end the session.
    pub max_prefixes: Option<u32>,
    /// When a session that ended so is tried again, in seconds; absent: once somebody clears it.
    pub max_prefixes_restart: Option<u32>,
    /// Overrides `[bgp] graceful-restart`.
    pub graceful_restart: Option<bool>,
    /// Wait for it to connect.
    pub passive: bool,
    /// Our end of the connection.
    pub local_address: Option<IpAddr>,
    /// For people.
    pub description: Option<String>,
    /// For routes that name no encapsulation.
    pub default_encapsulation: Option<Encap>,
    /// Which families to offer; default: all.
    pub families: Vec<FamilyName>,
}

/// A TCP-MD5 key. It never prints.
#[derive(Clone, PartialEq, Eq)]
pub struct Password(pub Vec<u8>);

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(…)")
    }
}

/// An address family that a neighbor may be configured with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum FamilyName {
    /// `vpnv4`
    Vpnv4,
    /// `vpnv6`
    Vpnv6,
    /// `rtc`
    Rtc,
}

/// `[dataplane]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DataplaneConfig {
    /// Worker threads; absent: one per two cores.
    pub workers: Option<usize>,
    /// Source ports for MPLS-over-UDP.
    pub entropy_ports: u16,
    /// What the kernel could do and is not to be asked for, by the names of [`dataplane::Offload`].
    pub without: Vec<String>,
    /// Flows that need memory.
    pub flows: FlowConfig,
}

/// `[[vrf]]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VrfConfig {
    /// Its name.
    pub name: String,
    /// Its route distinguisher.
    pub rd: RouteDistinguisher,
    /// Route targets that it imports.
    pub import: Vec<RouteTarget>,
    /// Route targets that its routes carry.
    pub export: Vec<RouteTarget>,
    /// What its routes carry beside these.
    pub policy: ExportPolicy,
    /// This node's pod addresses.
    pub pods: Vec<Prefix>,
    /// Kubernetes namespaces that may use it, with `*` for any letters; absent: all.
    pub namespaces: Option<Vec<String>>,
    /// Whether pods that name no VRF join it.
    pub default: bool,
    /// Whether its workloads may open flows to the host.
    pub host_open: bool,
    /// The DSCP of its tunnel packets; absent: that of the inner packet.
    pub dscp: Option<u8>,
    /// Whether its workloads reach what it has no route for with the node's address.
    pub snat: bool,
    /// OpenStack networks whose ports join it.
    pub openstack_networks: Vec<Uuid>,
    /// OpenStack projects whose ports join it, where their network is no other VRF's.
    pub openstack_projects: Vec<Uuid>,
}

impl VrfConfig {
    /// A VRF of which nothing else is said.
    pub fn new(name: String, rd: RouteDistinguisher) -> VrfConfig {
        VrfConfig {
            name,
            rd,
            import: Vec::new(),
            export: Vec::new(),
            policy: ExportPolicy::default(),
            pods: Vec::new(),
            namespaces: None,
            default: false,
            host_open: false,
            dscp: None,
            snat: false,
            openstack_networks: Vec::new(),
            openstack_projects: Vec::new(),
        }
    }
}
