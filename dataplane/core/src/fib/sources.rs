//! Who may send us tunnel packets, and what the host may reach.

use std::net::IpAddr;

use hashbrown::{HashMap, HashSet};
use vrouter_types::{PortId, Prefix};

/// The known provider edges: next hops that BGP taught us, and prefixes that the operator named.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    addresses: HashSet<IpAddr>,
    prefixes: Vec<Prefix>,
}

impl Sources {
    /// Nobody is known.
    pub fn new() -> Sources {
        Sources::default()
    }

    /// Adds one address.
    pub fn insert(&mut self, addr: IpAddr) {
        self.addresses.insert(addr);
    }

    /// Adds every address of a prefix.
    pub fn insert_prefix(&mut self, prefix: Prefix) {
        if !self.prefixes.contains(&prefix) {
            self.prefixes.push(prefix);
        }
    }

    /// Whether tunnel packets from this address are taken.
    pub fn contains(&self, addr: IpAddr) -> bool {
        self.addresses.contains(&addr) || self.prefixes.iter().any(|prefix| prefix.contains(addr))
    }
}

/// The one port that the host means by an address, whatever its VRF.
#[derive(Debug, Clone, Default)]
pub struct HostFib {
    ports: HashMap<IpAddr, PortId>,
}

impl HostFib {
    /// The host reaches nothing.
    pub fn new() -> HostFib {
        HostFib::default()
    }

    /// Lets the host reach a port by this address.
    pub fn insert(&mut self, addr: IpAddr, port: PortId) -> Option<PortId> {
        self.ports.insert(addr, port)
    }

    /// The port that the host means.
    pub fn lookup(&self, addr: IpAddr) -> Option<PortId> {
        self.ports.get(&addr).copied()
    }

    /// Every address that the host reaches, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (IpAddr, PortId)> {
        self.ports.iter().map(|(addr, port)| (*addr, *port))
    }
}
