//! What other provider edges are told of ports, and how that follows changes: what a port's routes should be is worked
//! out anew, and only what differs from what was told is told.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use vrouter_types::{Label, PortId, Prefix, RouteDistinguisher, VpnPrefix, VrfId};

use super::places::Claim;
use super::{Overlay, Port, Vrf};
use crate::config::ExportPolicy;
use crate::event::{Effect, LocalRoute};
use crate::openstack::ledger::FIRST_PORT_RD;
use crate::openstack::wanted::{Leak, Merits};

type Told = BTreeMap<VpnPrefix, LocalRoute>;

impl Overlay {
    /// Tells what is new about a port, and takes back what is no more.
    pub(super) fn tell(&mut self, id: PortId) -> Vec<Effect> {
        self.untold.remove(&id);
        let Some(port) = self.ports.get(&id) else { return Vec::new() };
        let wanted = if port.is_up() { self.advertised(port) } else { Told::new() };
        let gone = port.told.iter().map(|route| route.prefix).filter(|prefix| !wanted.contains_key(prefix));
        let mut effects: Vec<Effect> = gone.map(Effect::Withdraw).collect();
        let is_told = |route: &LocalRoute| {
            let place = port.told.binary_search_by_key(&route.prefix, |told| told.prefix);
            place.is_ok_and(|place| port.told.get(place) == Some(route))
        };
        let new = wanted.values().filter(|route| !is_told(route));
        effects.extend(new.cloned().map(Effect::Originate));
        if let Some(port) = self.ports.get_mut(&id) {
            // Most ports have one or two.
            port.told = wanted.into_values().collect();
        }
        effects
    }

    /// Tells of every port of which something may be new.
    pub(super) fn tell_all(&mut self) -> Vec<Effect> {
        let ids: Vec<PortId> = std::mem::take(&mut self.untold).into_iter().collect();
        let effects: Vec<Effect> = ids.into_iter().flat_map(|id| self.tell(id)).collect();
        // What goes over from one port to another is not taken back in between, nor after.
        let (told, gone): (Vec<Effect>, Vec<Effect>) =
            effects.into_iter().partition(|effect| matches!(effect, Effect::Originate(_)));
        let prefix = |effect: &Effect| match effect {
            Effect::Originate(route) => Some(route.prefix),
            _ => None,
        };
        let again: BTreeSet<VpnPrefix> = told.iter().filter_map(prefix).collect();
        let is_gone = |effect: &Effect| !matches!(effect, Effect::Withdraw(prefix) if again.contains(prefix));
        gone.into_iter().filter(is_gone).chain(told).collect()
    }

    /// The routes that other provider edges hear of for this port.
    fn advertised(&self, port: &Port) -> Told {
        let mut told = Told::new();
        for (vrf, prefix, claim) in &port.placed {
            let Some(vrf) = self.vrf(*vrf) else { continue };
            if vrf.locals.get(prefix) == Some(&port.saved.port) {
                let (merits, med) = self.merits(port, vrf, *prefix, *claim);
                add(&mut told, self.route(vrf, vrf.config.rd, *prefix, port.saved.label, merits, med));
            }
        }
        let own_rd = self.port_rd(port.saved.port);
        for advert in port.extras.adverts.iter().filter(|advert| advert.own_rd) {
            let Some(vrf) = self.vrf_by_name(&advert.vrf) else { continue };
            add(&mut told, self.route(vrf, own_rd, advert.prefix, port.saved.label, advert.merits, None));
        }
        for leak in &port.extras.leaks {
            self.leaked(port, leak).into_iter().for_each(|route| add(&mut told, route));
        }
        told
    }

    /// What a leak's VRF has imported, but for what comes back to this very port.
    fn leaked(&self, port: &Port, leak: &Leak) -> Vec<LocalRoute> {
        let name = leak_vrf(leak, &port.saved.request.host_interface);
        let Some(from) = self.vrf_by_name(&name) else { return Vec::new() };
        let rd = self.port_rd(port.saved.port);
        let route = |prefix: Prefix| LocalRoute {
            route_targets: leak.to.clone(),
            ..self.route(from, rd, prefix, port.saved.label, leak.merits, None)
        };
        from.imported
            .iter()
            .filter(|(_, paths)| is_of_others(paths, port.saved.label))
            .map(|(prefix, _)| route(*prefix))
            .collect()
    }

    /// Prefixes that others reach through the port beside its own: what it may be sent, and may send from.
    pub fn behind(&self, port: &Port) -> Vec<Prefix> {
        let mut behind: Vec<Prefix> = port.extras.prefixes().collect();
        for leak in &port.extras.leaks {
            let vrf = self.vrf_by_name(&leak_vrf(leak, &port.saved.request.host_interface));
            let imported = vrf.into_iter().flat_map(|vrf| &vrf.imported);
            behind.extend(
                imported
                    .filter(|(_, paths)| is_of_others(paths, port.saved.label))
                    .map(|(prefix, _)| *prefix),
            );
        }
        behind.sort_unstable();
        behind.dedup();
        behind
    }

    /// Under which a port announces what other ports of a VRF may announce too.
    fn port_rd(&self, port: PortId) -> RouteDistinguisher {
        // There are fewer ports than numbers from there up.
        let number = u16::try_from(port.0).unwrap_or_default().saturating_add(FIRST_PORT_RD);
        RouteDistinguisher::from_ipv4(self.config.bgp.router_id, number)
    }

    fn route(
        &self,
        vrf: &Vrf,
        rd: RouteDistinguisher,
        prefix: Prefix,
        label: Label,
        merits: Merits,
        med: Option<u32>,
    ) -> LocalRoute {
        let policy = &vrf.config.policy;
        LocalRoute {
            prefix: VpnPrefix { rd, prefix },
            label,
            next_hop: self.next_hop,
            route_targets: vrf.config.export.clone(),
            encaps: self.encaps,
            policy: ExportPolicy {
                local_pref: merits.local_pref.unwrap_or(policy.local_pref),
                med: med.or(policy.med),
                ..policy.clone()
            },
            hash_order: merits.hash_order,
        }
    }

    /// What the route of a place says of itself: where the machine showed itself counts.
    fn merits(&self, port: &Port, vrf: &Vrf, prefix: Prefix, claim: Claim) -> (Merits, Option<u32>) {
        match claim {
            Claim::Advert => {
                let of = |advert: &&crate::openstack::Advert| {
                    advert.prefix == prefix && advert.vrf == vrf.config.name
                };
                let advert = port.extras.adverts.iter().find(of);
                (advert.map(|advert| advert.merits).unwrap_or_default(), None)
            }
            Claim::Floating => {
                let fixed = port.saved.request.floating_ips.iter().find(|it| it.address == prefix.addr());
                let fixed = fixed.map_or(prefix.addr(), |floating| floating.fixed);
                self.standing_merits(port, vrf, fixed)
            }
            Claim::Own if !prefix.is_host() => {
                (Merits { local_pref: port.saved.request.local_pref, hash_order: None }, None)
            }
            Claim::Own | Claim::Pair => self.standing_merits(port, vrf, prefix.addr()),
        }
    }

    fn standing_merits(&self, port: &Port, vrf: &Vrf, address: IpAddr) -> (Merits, Option<u32>) {
        let (local_pref, med) = self.preference(port, vrf, address);
        let hash_order = port.extras.own.get(&address).and_then(|own| own.hash_order);
        (Merits { local_pref: Some(local_pref), hash_order }, med)
    }

    /// A route of this VRF changed: whoever leaks it has something to tell.
    pub(super) fn note_leaks(&mut self, vrf: VrfId) {
        if let Some(port) = self.leaks.get(&vrf).copied() {
            self.untold.insert(port);
            if let Some(port) = self.ports.get_mut(&port) {
                port.generation += 1;
            }
            self.ports_revision += 1;
        }
    }
}

/// The name of the VRF that imports what a leak takes.
pub(super) fn leak_vrf(leak: &Leak, tap: &str) -> String {
    match leak.part {
        0 => format!("({}, through {tap})", leak.vrf),
        part => format!("({}, part {}, through {tap})", leak.vrf, part + 1),
    }
}

/// Whether a path leads elsewhere than to the port with this label.
fn is_of_others(paths: &[crate::event::VrfPath], label: Label) -> bool {
    paths.iter().any(|path| !(path.local && path.label == label))
}

/// What is announced twice under one name carries what both say.
fn add(told: &mut Told, route: LocalRoute) {
    let Some(known) = told.get_mut(&route.prefix) else {
        told.insert(route.prefix, route);
        return;
    };
    known.route_targets.extend(route.route_targets);
    known.route_targets.sort_unstable();
    known.route_targets.dedup();
    known.policy.local_pref = known.policy.local_pref.max(route.policy.local_pref);
}
