//! What the host reaches through `vrouter0`: each address of a port in service, while it means one port.

use std::collections::BTreeSet;
use std::net::IpAddr;

use vrouter_types::PortId;

use super::Overlay;
use crate::event::Effect;

impl Overlay {
    /// The port that the host means by an address: its only owner, or among several the one in the default VRF. Else
    /// nobody: a probe for one tenant's pod must not reach another's.
    pub fn host_owner(&self, address: IpAddr) -> Option<PortId> {
        self.owner_among(self.host.get(&address)?)
    }

    /// Every address that the host reaches.
    pub fn host_addresses(&self) -> impl Iterator<Item = (IpAddr, PortId)> {
        self.host.iter().filter_map(|(address, ports)| Some((*address, self.owner_among(ports)?)))
    }

    /// Whether the kernel has not taken the route to this address.
    pub fn host_failure(&self, address: IpAddr) -> Option<&str> {
        self.host_failures.get(&address).map(String::as_str)
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
            let ports = self.host.entry(*address).or_default();
            change(ports);
            if ports.is_empty() {
                self.host.remove(address);
            }
            match (before, self.host_owner(*address).is_some()) {
                (false, true) => effects.push(Effect::AddHostRoute(*address)),
                (true, false) => {
                    self.host_failures.remove(address);
                    effects.push(Effect::RemoveHostRoute(*address));
                }
                (true, true) | (false, false) => {}
            }
        }
        effects
    }

    fn owner_among(&self, ports: &BTreeSet<PortId>) -> Option<PortId> {
        let is_default = |port: &&PortId| {
            let vrf = self.ports.get(port).and_then(|port| self.vrf(port.vrf));
            vrf.is_some_and(|vrf| vrf.config.default)
        };
        match ports.len() {
            0 | 1 => ports.first().copied(),
            _ => ports.iter().find(is_default).copied(),
        }
    }
}
