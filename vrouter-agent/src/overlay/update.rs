//! A port changes and stays the same port: its number, its label and its packets go on.

use agent_api::{AttachPort, PortKind};
use vrouter_types::{PortId, Prefix, VrfId};

use super::{Overlay, Port, vrf_mut};
use crate::event::Effect;
use crate::openstack::RouteExtras;

impl Port {
    /// Whether it can become what is asked for without being made anew.
    pub(super) fn can_become(&self, request: &AttachPort, vrf: VrfId) -> bool {
        let was = &self.saved.request;
        // The addresses of one that names none are the VRF's to give, and it has been given some.
        let named = |request: &AttachPort| !request.addresses.is_empty();
        self.vrf == vrf
            && was.key == request.key
            && was.kind == PortKind::Tap
            && request.kind == PortKind::Tap
            && was.host_interface == request.host_interface
            && was.vlan == request.vlan
            && named(was)
            && named(request)
    }

    /// What is sent to it: its addresses but for those nobody is told of, and the prefixes behind it.
    pub(super) fn routed(&self) -> impl Iterator<Item = Prefix> {
        self.prefixes().filter(|prefix| !(prefix.is_host() && self.extras.silent.contains(&prefix.addr())))
    }

    /// The single addresses that it may hold beside its own.
    pub(super) fn pairs(&self) -> impl Iterator<Item = Prefix> {
        let pairs = self.saved.request.allowed.iter().map(|pair| pair.prefix);
        pairs.filter(|pair| pair.is_host() && !self.saved.addresses.contains(&pair.addr()))
    }
}

impl Overlay {
    /// Makes the port what is asked for. Returns the host's routes that follow; what others are told is noted.
    pub(super) fn update(&mut self, id: PortId, request: AttachPort, extras: RouteExtras) -> Vec<Effect> {
        let Some(port) = self.ports.get(&id) else { return Vec::new() };
        let (vrf, is_up, old) = (port.vrf, port.is_up(), port.saved.addresses.clone());
        let mut new = request.addresses.clone();
        new.sort_by_key(std::net::IpAddr::is_ipv6);
        let mtu = self.workload_mtu(request.mtu, new.iter().any(std::net::IpAddr::is_ipv6));
        let mut effects = if is_up { self.leave_host(id, &old) } else { Vec::new() };
        if let Some(vrf) = vrf_mut(&mut self.vrfs, vrf) {
            old.iter().for_each(|address| {
                vrf.addresses.remove(address);
            });
            new.iter().for_each(|address| {
                vrf.addresses.insert(*address, id);
                vrf.pool.taken(*address);
            });
        }
        if let Some(port) = self.ports.get_mut(&id) {
            port.extras = extras;
            port.saved.active.retain(|address, _| {
                new.contains(address)
                    || request.allowed.iter().any(|pair| pair.prefix == Prefix::host(*address))
            });
            port.saved.addresses.clone_from(&new);
            port.saved.mtu = mtu;
            port.saved.request = request;
            port.saved.sequence = self.next_sequence;
            port.generation += 1;
        }
        self.next_sequence += 1;
        self.ports_revision += 1;
        if is_up {
            self.stand_up(id);
            self.place(id);
            effects.extend(self.join_host(id, &new));
        }
        // An address that stays keeps its route.
        let kept: Vec<Effect> = effects
            .iter()
            .filter(|effect| matches!(effect, Effect::RemoveHostRoute(address) if self.host_owner(*address).is_some()))
            .cloned()
            .collect();
        let back = |effect: &Effect| match effect {
            Effect::AddHostRoute(address) => kept.contains(&Effect::RemoveHostRoute(*address)),
            effect => kept.contains(effect),
        };
        effects.retain(|effect| !back(effect));
        effects
    }
}
