//! What we serve a workload ourselves: DHCP and router advertisements in the pipeline, metadata and DNS by the agent.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use vrouter_types::Prefix;

/// What we serve a workload ourselves.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Services {
    /// Its packets to the metadata address (169.254.169.254 and fe80::a9fe:a9fe, TCP port 80) go to the agent.
    pub metadata: bool,
    /// Its packets to port 53 of the gateway (UDP and TCP) go to the agent.
    pub dns: bool,
    /// The subnets of its addresses, as it sees them.
    pub subnets: Vec<Subnet>,
    /// What DHCP and router advertisements tell it; `None`: neither is served.
    pub lease: Option<Lease>,
}

impl Services {
    /// Where workloads ask for metadata, by IPv4.
    pub const METADATA_V4: Ipv4Addr = Ipv4Addr::new(169, 254, 169, 254);
    /// Where workloads ask for metadata, by IPv6.
    pub const METADATA_V6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0xa9fe, 0xa9fe);

    /// Whether the workload knows its router by this address: one of a subnet, beside those of every port.
    pub fn is_gateway(&self, addr: IpAddr) -> bool {
        self.subnets.iter().any(|subnet| subnet.gateway == Some(addr))
    }

    /// The subnet of an address: the smallest that holds it.
    pub(crate) fn subnet(&self, addr: IpAddr) -> Option<&Subnet> {
        let holds = self.subnets.iter().filter(|subnet| subnet.prefix.contains(addr));
        holds.max_by_key(|subnet| subnet.prefix.len())
    }
}

/// One subnet as a workload sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subnet {
    /// Its addresses.
    pub prefix: Prefix,
    /// The router that the workload is told; `None`: there is none, only the routes.
    pub gateway: Option<IpAddr>,
    /// Further routes: the destination and the router.
    pub routes: Vec<(Prefix, IpAddr)>,
}

/// What a workload is told beside its addresses.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Lease {
    /// The name that it is to have.
    pub host_name: Option<String>,
    /// The domain that it is in, and searches.
    pub domain: Option<String>,
    /// Whom it asks for names; empty: the gateway, where [`Services::dns`] is served.
    pub dns: Vec<IpAddr>,
    /// How long what it is told holds; all ones: for ever.
    pub seconds: u32,
}

/// Where the agent serves workloads: ports of the gateway's addresses on the host. Zero: it does not.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ServiceTargets {
    /// Of the metadata proxy.
    pub metadata: u16,
    /// Of the DNS forwarder.
    pub dns: u16,
}
