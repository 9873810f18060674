use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use vrouter_types::Prefix;

/// The name of the group that is there without anybody making it, with neutron's default rules: all out, and in from
/// members of the same group.
pub const DEFAULT_SECURITY_GROUP: &str = "default";

/// Rules that allow, and who is a member beside the ports of this node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SecurityGroup {
    /// What ports and rules call it: up to 64 letters, digits, `-`, `_` and `.`.
    #[serde(default)]
    pub name: String,
    /// For people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// What may begin. What no rule allows does not.
    #[serde(default)]
    pub rules: Vec<SecurityRule>,
    /// Members on other nodes, whose addresses nobody here knows otherwise.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub members: Vec<Prefix>,
}

/// Which way what a rule allows begins, as the workload sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RuleDirection {
    /// Towards the workload.
    Ingress,
    /// From it.
    Egress,
}

/// The family that a rule is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RuleFamily {
    /// IPv4.
    Ipv4,
    /// IPv6.
    Ipv6,
}

/// Allows what it matches.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SecurityRule {
    /// Which way.
    pub direction: RuleDirection,
    /// Which family.
    pub family: RuleFamily,
    /// The IP protocol, by name or number; absent: any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<String>,
    /// The first destination port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port_min: Option<u16>,
    /// The last; absent: the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port_max: Option<u16>,
    /// The ICMP type.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub icmp_type: Option<u8>,
    /// The ICMP code.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub icmp_code: Option<u8>,
    /// Who is at the other end: these addresses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remote_prefix: Option<Prefix>,
    /// Who is at the other end: members of this group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remote_group: Option<String>,
}

/// `security-group list`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SecurityGroups {
    /// By name.
    pub security_groups: BTreeMap<String, SecurityGroupView>,
}

/// A group and who uses it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SecurityGroupView {
    /// As it was given.
    pub group: SecurityGroup,
    /// Whether it is there because nobody has said otherwise.
    pub built_in: bool,
    /// Ports of this node in it.
    pub ports: Vec<String>,
    /// Addresses of its members, those of other nodes included.
    pub addresses: Vec<Prefix>,
}

/// What became of a group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SecurityGroupChanged {
    /// Its name.
    pub name: String,
    /// Whether there was one of that name before.
    pub existed: bool,
}
