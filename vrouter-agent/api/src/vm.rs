use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use vrouter_types::Prefix;

/// What DHCP, router advertisements and metadata tell a virtual machine.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct VmServices {
    /// The instance's UUID, for the metadata service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<String>,
    /// The project's UUID, for the metadata service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub project: Option<String>,
    /// The host name that DHCP gives.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_name: Option<String>,
    /// The domain that DHCP gives.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub domain: Option<String>,
    /// DNS servers; empty: the gateway, which asks the node's.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dns: Vec<IpAddr>,
    /// The subnets of its addresses.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub subnets: Vec<Subnet>,
    /// How long an address is leased, in seconds; zero: the agent's default.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub lease: u32,
    /// Whether DHCP is served.
    #[serde(default)]
    pub dhcp: bool,
    /// Whether metadata is served.
    #[serde(default)]
    pub metadata: bool,
}

/// One subnet as a virtual machine sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Subnet {
    /// Its addresses.
    pub prefix: Prefix,
    /// The router that the machine is told; absent: there is none, only the routes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<IpAddr>,
    /// Further routes: the destination and the router.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub routes: Vec<(Prefix, IpAddr)>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands out references")]
fn is_zero(value: &u32) -> bool {
    *value == 0
}
