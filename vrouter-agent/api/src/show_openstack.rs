//! What `vrouterctl show openstack` reads.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use vrouter_types::{Label, MacAddr, PortId, Prefix, RouteDistinguisher, RouteTarget};

/// `show openstack`: all that nova and neutron's agents have said.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OpenStack {
    /// By tap.
    pub taps: Vec<TapStatus>,
    /// VPN instances by name.
    pub instances: Vec<InstanceStatus>,
}

/// One tap.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TapStatus {
    /// The tap.
    pub interface: String,
    /// `up`, or what it waits for.
    pub state: String,
    /// Its port, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<PortId>,
    /// Its VRF, if it has a port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vrf: Option<String>,
    /// Its label, if it has a port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<Label>,
    /// Its MAC address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<MacAddr>,
    /// Its addresses.
    #[serde(default)]
    pub addresses: Vec<IpAddr>,
    /// What the port API said: neutron's port, network and machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plug: Option<PlugStatus>,
    /// What the VPN API said: the instances it is attached to.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub attachments: Vec<AttachmentStatus>,
}

/// What the port API said of a tap.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PlugStatus {
    /// The port's UUID.
    pub id: String,
    /// The machine's name.
    pub name: String,
    /// The machine's UUID.
    pub instance: String,
    /// The network's UUID.
    pub network: String,
    /// The project's UUID.
    pub project: String,
}

/// One attachment of a tap.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AttachmentStatus {
    /// The instance.
    pub instance: String,
    /// What is announced, unless it is `from-port`.
    pub prefix: Prefix,
    /// `both`, `to-port` or `from-port`.
    pub direction: String,
    /// LOCAL_PREF, if one was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub local_pref: Option<u32>,
}

/// One VPN instance.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct InstanceStatus {
    /// The caller's name for it, which is its VRF's.
    pub name: String,
    /// Its route distinguisher.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rd: Option<RouteDistinguisher>,
    /// Route targets that it imports.
    pub import: Vec<RouteTarget>,
    /// Route targets that its routes carry.
    pub export: Vec<RouteTarget>,
    /// How many attachments it has.
    pub attachments: usize,
    /// Whether the configuration file has a VRF of this name, whose word holds.
    pub configured: bool,
    /// For people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
}
