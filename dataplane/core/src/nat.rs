//! Addresses that stand for others: one to one ([`StaticNat`]), and many behind one ([`Snat`]).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;

use vrouter_types::VrfId;

/// A floating address: what it stands for, and where others see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StaticNat {
    /// The workload's own address.
    pub fixed: IpAddr,
    /// What others see, of the same family.
    pub floating: IpAddr,
    /// The VRF in which they see it.
    pub vrf: VrfId,
}

/// How workloads leave by the host with an address of ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snat {
    /// What IPv4 packets leave with.
    pub v4: Option<Ipv4Addr>,
    /// What IPv6 packets leave with.
    pub v6: Option<Ipv6Addr>,
    /// The ports and echo identifiers that they leave with.
    pub ports: RangeInclusive<u16>,
    /// How many of them one workload may hold at a time.
    pub ports_per_workload: u16,
}
