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
    /// The prefix of the configuration that it came from, if its address is not configured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dynamic: Option<Prefix>,
    /// What both ends said about restarts; absent without a session whose routes are kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub graceful_restart: Option<BgpRestart>,
    /// That it sent more routes than it may, and what comes of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefix_limit: Option<String>,
    /// What was wrong with UPDATEs, and what was left out of them.
    #[serde(default)]
    pub updates: BgpUpdateCounts,
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

/// Graceful restart (RFC 4724, RFC 8538, RFC 9494) as both ends offered it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BgpRestart {
    /// What we offered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub local: Option<BgpRestartEnd>,
    /// What the neighbor offered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remote: Option<BgpRestartEnd>,
    /// How long its routes are still kept without a session, unless they are long-lived.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub routes_kept_for_msec: Option<u64>,
}

/// What one end offered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BgpRestartEnd {
    /// R: it had just restarted.
    pub restarting: bool,
    /// N: its routes outlive a NOTIFICATION other than a hard reset.
    pub survives_notifications: bool,
    /// How long it may be away.
    pub restart_time_msec: u64,
    /// Families whose routes are worth keeping.
    pub families: Vec<String>,
    /// F: those of them whose forwarding went on.
    pub forwarding_kept: Vec<String>,
    /// Families whose routes are worth keeping after that, and for how many milliseconds.
    pub long_lived: BTreeMap<String, u64>,
}

/// What became of UPDATEs, since the session came up.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BgpUpdateCounts {
    /// Malformed, their routes treated as withdrawn (RFC 7606).
    pub malformed: u64,
    /// What was wrong with the last of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_malformed: Option<String>,
    /// Attributes discarded (RFC 7606).
    pub attributes_discarded: u64,
    /// That had been here before.
    pub looped: u64,
    /// That no VRF imports.
    pub not_imported: u64,
    /// Route target memberships held from the neighbor.
    pub memberships_received: usize,
    /// Route target memberships it has been told.
    pub memberships_advertised: usize,
}

/// What to do anew with a neighbor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BgpClear {
    /// Which.
    pub address: IpAddr,
    /// What.
    pub kind: BgpClearKind,
}

/// The kinds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BgpClearKind {
    /// The session ends and begins anew.
    Hard,
    /// The neighbor is asked for all its routes once more.
    SoftIn,
    /// The neighbor is told all our routes once more.
    SoftOut,
}

/// `explain`: why a prefix of a VRF goes where it goes, and who is told.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Explanation {
    /// The VRF.
    pub vrf: String,
    /// The prefix.
    pub prefix: Prefix,
    /// What the VRF imports.
    pub imports: Vec<RouteTarget>,
    /// What it comes to, a sentence each.
    pub verdict: Vec<String>,
    /// Every path that is held for this prefix, the best first.
    pub candidates: Vec<ExplainedPath>,
}

/// One path, and what became of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ExplainedPath {
    /// As `RD:prefix`.
    pub network: String,
    /// The path.
    pub path: BgpPath,
    /// Whether the VRF imports it.
    pub imported: bool,
    /// Why it does not carry the VRF's traffic; absent: it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_used: Option<String>,
    /// Why it is not the best under its route distinguisher; absent: it is, and neighbors are told of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_best: Option<String>,
    /// By neighbor, for the best path: `advertised`, or why not.
    pub advertised: BTreeMap<IpAddr, String>,
}

/// `show bgp rtc`: who wants routes with which route target (RFC 4684).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BgpRtc {
    /// By `AS:target`; `default` wants all.
    pub memberships: BTreeMap<String, RtcMembership>,
}

/// Who wants routes with one route target.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RtcMembership {
    /// A VRF of ours imports it.
    pub local: bool,
    /// Neighbors that have asked for it.
    pub received_from: Vec<IpAddr>,
    /// Neighbors that we have asked.
    pub advertised_to: Vec<IpAddr>,
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
