//! What `vrouterctl show bgp` and scripts read.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use serde::{Deserialize, Serialize};
use vrouter_types::{Asn, Encap, Label, Prefix, RouteDistinguisher, RouteTarget, VpnPrefix};

/// `show bgp summary`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BgpSummary {
    /// The BGP identifier.
    pub router_id: Ipv4Addr,
    /// The local AS number.
    #[serde(rename = "as")]
    pub asn: Asn,
    /// By address.
    pub peers: BTreeMap<IpAddr, BgpPeer>,
    /// How many neighbors there are.
    pub total_peers: usize,
    /// How many VPN routes are held: received and kept, and our own.
    pub rib_count: usize,
}

/// One line of `show bgp summary`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BgpPeer {
    /// The neighbor's AS number.
    pub remote_as: Asn,
    /// Messages received since the agent started.
    pub msg_rcvd: u64,
    /// Messages sent since the agent started.
    pub msg_sent: u64,
    /// Time in the present state; for an established session, since it was established.
    pub peer_uptime_msec: u64,
    /// When the session was established, in seconds since 1970; absent when it is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer_uptime_established_epoch: Option<u64>,
    /// Routes held from it, after import.
    pub pfx_rcd: usize,
    /// Routes advertised to it.
    pub pfx_snt: usize,
    /// `Idle`, `Connect`, `Active`, `OpenSent`, `OpenConfirm` or `Established`.
    pub state: String,
    /// How often a session was established.
    pub connections_established: u64,
    /// How often an established session was lost.
    pub connections_dropped: u64,
    /// As configured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub desc: Option<String>,
}

/// `show bgp neighbors`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BgpNeighbors {
    /// By address.
    pub neighbors: BTreeMap<IpAddr, BgpNeighbor>,
}

/// All about one neighbor.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BgpNeighbor {
    /// The line of the summary.
    #[serde(flatten)]
    pub peer: BgpPeer,
    /// The local AS number.
    pub local_as: Asn,
    /// The TCP port.
    pub port: u16,
    /// The neighbor's BGP identifier, once its OPEN has been read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remote_router_id: Option<Ipv4Addr>,
    /// Our end of the connection.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub local_address: Option<IpAddr>,
    /// Negotiated hold time in milliseconds; 0: none.
    pub hold_time_msec: u64,
    /// Negotiated keepalive interval in milliseconds.
    pub keepalive_interval_msec: u64,
    /// What we offered, one line each.
    pub capabilities_advertised: Vec<String>,
    /// What the neighbor offered, one line each.
    pub capabilities_received: Vec<String>,
    /// Families in force, as `vpnv4`, `vpnv6`, `rtc`.
    pub families: Vec<String>,
    /// For routes that name no encapsulation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default_encapsulation: Option<Encap>,
    /// Received messages by type.
    pub received: BgpMessageCounts,
    /// Sent messages by type.
    pub sent: BgpMessageCounts,
    /// Why the last session ended or the last attempt failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
    /// The octets that caused it, in hexadecimal, shortened.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error_bytes: Option<String>,
}

/// BGP messages by type.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BgpMessageCounts {
    /// OPEN messages.
    pub opens: u64,
    /// UPDATE messages.
    pub updates: u64,
    /// KEEPALIVE messages.
    pub keepalives: u64,
    /// NOTIFICATION messages.
    pub notifications: u64,
    /// ROUTE-REFRESH messages.
    pub route_refreshes: u64,
    /// Octets of all of them.
    pub bytes: u64,
}

/// Which routes `show bgp routes` lists; absent: all. Travels as the query string.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RouteFilter {
    /// `vpnv4`, `vpnv6` or `rtc`.
    pub family: Option<String>,
    /// This route distinguisher.
    pub rd: Option<RouteDistinguisher>,
    /// Routes that carry this route target.
    pub rt: Option<RouteTarget>,
    /// This neighbor's.
    pub neighbor: Option<IpAddr>,
    /// With `neighbor`: routes received from it (`true`), or advertised to it (`false`).
    pub received: Option<bool>,
    /// This prefix and those inside it.
    pub prefix: Option<Prefix>,
}

/// `show bgp routes`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BgpRoutes {
    /// By `RD:prefix` (or, for `rtc`, `AS:target`), paths with the best first.
    pub routes: BTreeMap<String, Vec<BgpPath>>,
    /// How many prefixes.
    pub total_prefix_counter: usize,
    /// How many paths.
    pub total_path_counter: usize,
}

/// One path of a route.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BgpPath {
    /// The route itself; absent for `rtc`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub route: Option<VpnPrefix>,
    /// Whether this path is the best.
    pub bestpath: bool,
    /// Whether it is kept over a restart of the neighbor.
    pub stale: bool,
    /// Where it came from: a neighbor's address, or `local`.
    pub peer: String,
    /// The next hop.
    pub nexthop: IpAddr,
    /// The label; absent for `rtc`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remote_label: Option<Label>,
    /// LOCAL_PREF.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loc_prf: Option<u32>,
    /// MULTI_EXIT_DISC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub med: Option<u32>,
    /// As `65000 65001`; empty for routes of our own AS.
    pub aspath: String,
    /// `IGP`, `EGP` or `incomplete`.
    pub origin: String,
    /// Route targets.
    pub route_targets: Vec<RouteTarget>,
    /// Encapsulations that the route's communities name.
    pub encapsulations: Vec<Encap>,
    /// ORIGINATOR_ID, where a reflector set it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub originator_id: Option<Ipv4Addr>,
    /// Names of the VRFs that import it.
    pub imported_by: Vec<String>,
    /// Milliseconds since it last changed; absent for `rtc`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub age_msec: Option<u64>,
}
