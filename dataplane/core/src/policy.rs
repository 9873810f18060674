//! What may pass a port: security groups, compiled. Asked once per flow, not per packet.

use std::sync::Arc;

use vrouter_types::Prefix;

/// The rules of a port: what no rule allows does not begin.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Policy {
    /// What others may begin towards the workload.
    pub ingress: Box<[Rule]>,
    /// What the workload may begin.
    pub egress: Box<[Rule]>,
}

/// Allows what it matches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// Of IPv4, else of IPv6.
    pub v4: bool,
    /// The IP protocol; `None`: any.
    pub protocol: Option<u8>,
    /// Destination ports, or the ICMP type and code; `None`: any.
    pub ports: Option<(u16, u16)>,
    /// Who is at the other end.
    pub remote: Remote,
}

/// The other end of a flow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Remote {
    /// Anybody.
    Any,
    /// These addresses.
    Prefix(Prefix),
    /// The members of a group.
    Members(Arc<[Prefix]>),
}
