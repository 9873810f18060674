//! What `vrouterctl show`, `trace` and scripts read, but for BGP.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use vrouter_types::{Encap, Label, MacAddr, PortId, Prefix, RouteDistinguisher, RouteTarget};

/// The agent in one screen.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// The agent's name, as configured.
    pub name: String,
    /// The agent's version.
    pub version: String,
    /// Milliseconds since it started.
    pub uptime_msec: u64,
    /// Whether it serves attach requests.
    pub ready: bool,
    /// What is wrong, a sentence each; empty when healthy.
    pub problems: Vec<String>,
    /// How many ports there are.
    pub ports: usize,
    /// How many BGP sessions are established.
    pub established: usize,
    /// How many neighbors are configured.
    pub neighbors: usize,
    /// How many routes forward, over all VRFs.
    #[serde(default)]
    pub routes: usize,
    /// Resident memory of the agent.
    #[serde(default)]
    pub rss_bytes: u64,
    /// How this run goes; absent from agents that do not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<crate::RunStatus>,
}

/// `show vrfs`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Vrfs {
    /// By name.
    pub vrfs: BTreeMap<String, VrfSummary>,
}

/// One VRF.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct VrfSummary {
    /// Its route distinguisher.
    pub rd: RouteDistinguisher,
    /// Route targets that it imports.
    pub import: Vec<RouteTarget>,
    /// Route targets that its routes carry.
    pub export: Vec<RouteTarget>,
    /// Pod address ranges, with what is used of each.
    pub pods: Vec<PoolUse>,
    /// Namespaces that it admits; empty: all.
    pub namespaces: Vec<String>,
    /// Whether pods that name no VRF join it.
    pub default: bool,
    /// Ports in it.
    pub ports: usize,
    /// Routes in its table.
    pub routes: usize,
}

/// A pod address range and what is used of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PoolUse {
    /// The range.
    pub range: Prefix,
    /// Addresses in use.
    pub used: u64,
    /// Addresses there are, at most 2^63.
    pub size: u64,
}

/// `show routes`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Routes {
    /// By VRF, then by prefix.
    pub vrfs: BTreeMap<String, BTreeMap<String, VrfRoute>>,
}

/// A route as it forwards.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct VrfRoute {
    /// `local` (a port of this node), `bgp`, `bgp-stale` (what the last run knew and nobody has confirmed) or
    /// `connected` (the node itself).
    pub protocol: String,
    /// Where packets go; several: shared by flow.
    pub nexthops: Vec<RouteNexthop>,
}

/// One way for packets to go.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RouteNexthop {
    /// The port, for local ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<PortId>,
    /// The port's host interface, or `vrouter0`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<String>,
    /// The other provider edge.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ip: Option<IpAddr>,
    /// The label that it wants.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<Label>,
    /// How it travels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encapsulation: Option<Encap>,
}

/// `show ports`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Ports {
    /// In order of their numbers.
    pub ports: Vec<PortStatus>,
    /// Taps that OpenStack speaks of and that have no port yet.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub waiting: Vec<WaitingTap>,
}

/// A tap without a port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WaitingTap {
    /// The tap.
    pub interface: String,
    /// What it waits for.
    pub reason: String,
}

/// One port.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PortStatus {
    /// Its number.
    pub port: PortId,
    /// What its maker calls it.
    pub key: crate::PortKey,
    /// What stands behind it.
    pub kind: crate::PortKind,
    /// The host's interface.
    pub host_interface: String,
    /// The VLAN tag of a sub-port's frames.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vlan: Option<u16>,
    /// The pod's or VM's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The Kubernetes namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// The VRF.
    pub vrf: String,
    /// The label.
    pub label: Label,
    /// The workload's MAC address.
    pub mac: MacAddr,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// Addresses of those that the host reaches through `vrouter0`; fewer where another VRF's pod has the same.
    pub host_reachable: Vec<IpAddr>,
    /// The security groups it is in; absent: no policy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub security_groups: Option<Vec<String>>,
    /// Addresses of other VRFs that stand for its own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub floating_ips: Vec<crate::FloatingIp>,
    /// `up`, or why not.
    pub state: String,
    /// Its counters.
    pub counters: PortCounters,
    /// What it does now; absent until two samples are there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rates: Option<TrafficRates>,
}

/// Means over the last five to ten seconds, per second.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TrafficRates {
    /// Packets received.
    pub rx_packets_per_second: f64,
    /// Bits received.
    pub rx_bits_per_second: f64,
    /// Packets sent.
    pub tx_packets_per_second: f64,
    /// Bits sent.
    pub tx_bits_per_second: f64,
    /// Packets dropped; of a tunnel: that its path was too narrow for.
    pub drops_per_second: f64,
}

/// What went through a port, seen from the workload.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PortCounters {
    /// Packets that the workload sent. A superframe counts as the packets it stands for.
    pub rx_packets: u64,
    /// Octets that the workload sent.
    pub rx_bytes: u64,
    /// Packets that it was sent.
    pub tx_packets: u64,
    /// Octets that it was sent.
    pub tx_bytes: u64,
    /// Packets from or to it that were dropped.
    pub drops: u64,
    /// What it was served.
    #[serde(default, skip_serializing_if = "PortServed::is_nothing")]
    pub served: PortServed,
}

/// What a port was served by the pipeline itself.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PortServed {
    /// Answers to DHCP.
    pub dhcp: u64,
    /// Answers to DHCPv6.
    pub dhcp6: u64,
    /// Router advertisements.
    pub router_advertisement: u64,
}

impl PortServed {
    /// Whether there was none.
    pub fn is_nothing(&self) -> bool {
        *self == PortServed::default()
    }
}

/// `show labels`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Labels {
    /// In order of their values.
    pub labels: Vec<LabelUse>,
}

/// One label of ours.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LabelUse {
    /// The label.
    pub label: Label,
    /// `in use` or `resting` (withdrawn, not yet to be used again).
    pub state: String,
    /// The port it leads to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<PortId>,
    /// The VRF of that port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vrf: Option<String>,
    /// The host interface of that port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<String>,
}

/// `show tunnels`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Tunnels {
    /// Our end.
    pub local: Option<IpAddr>,
    /// The underlay's interface.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<String>,
    /// The underlay's MTU.
    pub underlay_mtu: u16,
    /// What the kernel offers, and what we do without, a sentence each.
    pub offloads: Vec<String>,
    /// One per provider edge and encapsulation.
    pub tunnels: Vec<TunnelStatus>,
}

/// One tunnel.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TunnelStatus {
    /// The other provider edge.
    pub remote: IpAddr,
    /// How packets travel.
    pub encapsulation: Encap,
    /// The largest inner packet.
    pub mtu: u16,
    /// Routes that lead through it.
    pub routes: usize,
    /// Inner packets sent.
    pub tx_packets: u64,
    /// Inner octets sent.
    pub tx_bytes: u64,
    /// Inner packets received.
    pub rx_packets: u64,
    /// Inner octets received.
    pub rx_bytes: u64,
    /// Packets that the path was too narrow for.
    #[serde(default)]
    pub too_big: u64,
    /// What it does now; absent until two samples are there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rates: Option<TrafficRates>,
}

/// `show drops`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Drops {
    /// By reason, those that never happened included.
    pub drops: BTreeMap<String, DropCount>,
    /// By port number, then by reason; only what happened.
    pub ports: BTreeMap<u32, BTreeMap<String, u64>>,
    /// The same, per second, over the last five to ten seconds.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub port_rates: BTreeMap<u32, BTreeMap<String, f64>>,
}

/// One reason for drops.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DropCount {
    /// What it means.
    pub description: String,
    /// How many packets.
    pub packets: u64,
    /// How many per second, over the last five to ten seconds; absent until two samples are there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub packets_per_second: Option<f64>,
}

/// Asks what would happen to a packet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TraceRequest {
    /// The VRF that it enters.
    pub vrf: String,
    /// Its source address.
    pub src: IpAddr,
    /// Its destination address.
    pub dst: IpAddr,
}

/// What would happen to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TraceReply {
    /// One line per step.
    pub steps: Vec<String>,
    /// How it ends, as `to port 3 (veth…)`, `to 192.0.2.1 label 17 over mpls-over-udp` or `dropped: no route`.
    pub verdict: String,
    /// Whether it arrives somewhere.
    pub forwarded: bool,
}
