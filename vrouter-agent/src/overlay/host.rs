//! What the host reaches through `vrouter0`: each address of a port in service, while it means one port.
//!
//! Tenants choose their machines' addresses, and nothing keeps them from choosing those that the node itself speaks to:
//! another provider edge, a neighbor, whoever is asked for names or metadata. A host route to such a machine would lead
//! the tunnels of all tenants into it. So there is none, and that is said.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use vrouter_types::{PortId, Prefix};

use super::Overlay;
use crate::config::PeerAddress;
use crate::event::{Effect, VrfRoute};

/// What the host may reach.
#[derive(Debug, Default)]
pub(super) struct Reach {
    /// Every address that a port in service has, with those ports.
    ports: BTreeMap<IpAddr, BTreeSet<PortId>>,
    /// Of these, those that the node itself needs.
    needed: BTreeSet<IpAddr>,
    /// Addresses whose host route the kernel did not take, and why.
    failures: BTreeMap<IpAddr, String>,
}

impl Reach {
    /// The kernel did not take the route to this address.
    pub(super) fn failed(&mut self, address: IpAddr, why: String) {
        self.failures.insert(address, why);
    }

    /// A sentence for each address that the host does not reach.
    pub(super) fn problems(&self) -> impl Iterator<Item = String> {
        let needed = self.needed.iter().map(|address| {
            format!(
                "the host does not reach the workload that has {address}: the node itself speaks to another machine of \
                 this address"
            )
        });
        let failed = self.failures.iter();
        needed.chain(failed.map(|(address, why)| format!("the host cannot reach {address}: {why}")))
    }
}

impl Overlay {
    /// The port that the host means by an address: its only owner, or among several the one in the default VRF. Else
    /// nobody: a probe for one tenant's pod must not reach another's.
    pub fn host_owner(&self, address: IpAddr) -> Option<PortId> {
        self.owner_among(address, self.host.ports.get(&address)?)
    }

    /// Every address that the host reaches.
    pub fn host_addresses(&self) -> impl Iterator<Item = (IpAddr, PortId)> {
        let ports = self.host.ports.iter();
        ports.filter_map(|(address, ports)| Some((*address, self.owner_among(*address, ports)?)))
    }

    /// Whether the kernel has not taken the route to this address.
    pub fn host_failure(&self, address: IpAddr) -> Option<&str> {
        self.host.failures.get(&address).map(String::as_str)
    }

    /// The port serves these addresses from now on. Returns the host's routes that follow.
    pub(super) fn join_host(&mut self, port: PortId, addresses: &[IpAddr]) -> Vec<Effect> {
        self.change_host(addresses, |ports| {
            ports.insert(port);
        })
    }

    /// It does no longer.
    pub(super) fn leave_host(&mut self, port: PortId, addresses: &[IpAddr]) -> Vec<Effect> {
        self.change_host(addresses, |ports| {
            ports.remove(&port);
        })
    }

    fn change_host(&mut self, addresses: &[IpAddr], change: impl Fn(&mut BTreeSet<PortId>)) -> Vec<Effect> {
        let mut effects = Vec::new();
        for address in addresses {
            let before = self.host_owner(*address).is_some();
            let ports = self.host.ports.entry(*address).or_default();
            change(ports);
            if ports.is_empty() {
                self.host.ports.remove(address);
                self.host.needed.remove(address);
            } else if self.is_needed(*address) {
                self.host.needed.insert(*address);
            }
            effects.extend(self.host_route(*address, before));
        }
        effects
    }

    /// Next hops of these routes whose address a workload has too.
    pub(super) fn workloads_among(&self, routes: &[VrfRoute]) -> BTreeSet<IpAddr> {
        let paths = routes.iter().flat_map(|route| &route.paths).filter(|path| !path.local);
        paths.map(|path| path.next_hop).filter(|address| self.host.ports.contains_key(address)).collect()
    }

    /// What the node needs has changed.
    pub(super) fn review_all_hosts(&mut self) -> Vec<Effect> {
        self.review_host(self.host.ports.keys().copied().collect())
    }

    /// What the node needed it may not need any more.
    pub(super) fn review_needed(&mut self) -> Vec<Effect> {
        self.review_host(self.host.needed.clone())
    }

    /// Looks whether the node needs these addresses of workloads. Returns the host's routes that follow.
    pub(super) fn review_host(&mut self, addresses: BTreeSet<IpAddr>) -> Vec<Effect> {
        let mut effects = Vec::new();
        for address in addresses {
            let before = self.host_owner(address).is_some();
            let is_new = if self.is_needed(address) {
                self.host.needed.insert(address)
            } else {
                self.host.needed.remove(&address)
            };
            if is_new {
                self.ports_revision += 1;
                effects.extend(self.host_route(address, before));
            }
        }
        effects
    }

    /// What follows for the route to an address that had an owner before, or had none.
    fn host_route(&mut self, address: IpAddr, before: bool) -> Option<Effect> {
        match (before, self.host_owner(address).is_some()) {
            (false, true) => Some(Effect::AddHostRoute(address)),
            (true, false) => {
                self.host.failures.remove(&address);
                Some(Effect::RemoveHostRoute(address))
            }
            (true, true) | (false, false) => None,
        }
    }

    /// Whether the node itself speaks to this address. Ranges of the configuration do not count: workloads' own may be in
    /// them.
    fn is_needed(&self, address: IpAddr) -> bool {
        let config = &self.config;
        let is_neighbor = config.bgp.neighbors.iter().any(|it| it.address == PeerAddress::One(address));
        let metadata = config.vm.metadata.as_ref().is_some_and(|it| it.host.parse() == Ok(address));
        is_neighbor
            || metadata
            || config.vm.resolvers.contains(&address)
            || config.underlay.accept_from.contains(&Prefix::host(address))
            || self.tunnels.is_provider_edge(address)
    }

    fn owner_among(&self, address: IpAddr, ports: &BTreeSet<PortId>) -> Option<PortId> {
        let is_default = |port: &&PortId| {
            let vrf = self.ports.get(port).and_then(|port| self.vrf(port.vrf));
            vrf.is_some_and(|vrf| vrf.config.default)
        };
        if self.host.needed.contains(&address) {
            return None;
        }
        match ports.len() {
            0 | 1 => ports.first().copied(),
            _ => ports.iter().find(is_default).copied(),
        }
    }
}
