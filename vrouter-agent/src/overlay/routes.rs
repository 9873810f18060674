//! Which route a prefix has: the node itself, before a port of this VRF, before what BGP says.
//!
//! Level-triggered: whatever changed, [`Overlay::refresh`] works out anew what one prefix should be, and moves the
//! tunnels' counts by the difference.

use std::net::IpAddr;

use dataplane_core::TunnelId;
use vrouter_types::{Label, PortId, Prefix, VrfId};

use super::{Overlay, Port, Protocol, RouteEntry, Target, preferred, vrf_mut};
use crate::event::{Effect, VrfPath, VrfRoute};

impl Overlay {
    /// The best paths of some prefixes changed.
    pub(super) fn import(&mut self, routes: Vec<VrfRoute>) -> Vec<Effect> {
        let workloads = self.workloads_among(&routes);
        let followed = self.take_routes(routes);
        // What leads to a provider edge must not lead to a workload: the next forwarding state has a tunnel there.
        let mut effects = self.review_host(workloads);
        effects.extend(followed);
        effects.push(Effect::PublishFib { soon: true });
        effects.extend(self.tell_all());
        effects
    }

    /// The tables follow; what others are to be told of it is noted.
    pub(super) fn take_routes(&mut self, routes: Vec<VrfRoute>) -> Vec<Effect> {
        self.imports_revision += 1;
        let mut effects = Vec::new();
        for route in routes {
            let Some(vrf) = vrf_mut(&mut self.vrfs, route.vrf) else { continue };
            let remote = |path: &&VrfPath| !path.local;
            route.paths.iter().filter(remote).for_each(|path| self.tunnels.learn(path.next_hop));
            let confirmed = if route.paths.is_empty() {
                Vec::new()
            } else {
                self.stale.routes.remove(&(route.vrf, route.prefix)).unwrap_or_default()
            };
            let old = if route.paths.is_empty() {
                vrf.imported.remove(&route.prefix)
            } else {
                vrf.imported.insert(route.prefix, route.paths)
            };
            let old = old.unwrap_or_default();
            confirmed.iter().for_each(|path| self.tunnels.unlearn(path.next_hop));
            old.iter().filter(remote).for_each(|path| self.tunnels.unlearn(path.next_hop));
            effects.extend(self.step_back(route.vrf, route.prefix));
            self.note_leaks(route.vrf);
            self.refresh(route.vrf, route.prefix);
        }
        effects
    }

    /// Makes the prefix's route what it should be.
    pub(super) fn refresh(&mut self, vrf: VrfId, prefix: Prefix) {
        let wanted = self.wanted(vrf, prefix);
        let Some(vrf) = vrf_mut(&mut self.vrfs, vrf) else { return };
        // The new tunnels are counted before the old are not, so that one that stays keeps its number.
        let entry = wanted.map(|(protocol, wanted)| {
            let target = match wanted {
                Wanted::Target(target) => target,
                Wanted::Hops(hops) => Target::Tunnels(
                    hops.iter()
                        .map(|(to, encap, label)| (self.tunnels.acquire(*to, *encap), *label))
                        .collect(),
                ),
            };
            RouteEntry { prefix, protocol, target }
        });
        let old = match &entry {
            Some(entry) => vrf.routes.insert(prefix, entry.clone()),
            None => vrf.routes.remove(&prefix),
        };
        if old != entry {
            vrf.revision += 1;
            vrf.changes.note(vrf.revision, prefix);
        }
        if let Some(RouteEntry { target: Target::Tunnels(hops), .. }) = old {
            hops.iter().for_each(|(tunnel, _): &(TunnelId, Label)| self.tunnels.release(*tunnel));
        }
    }

    fn wanted(&self, vrf: VrfId, prefix: Prefix) -> Option<(Protocol, Wanted)> {
        let vrf = self.vrf(vrf)?;
        // Also where the host is closed to them: what leaves with the node's address must not come in that way.
        if (vrf.config.host_open || vrf.config.snat) && prefix.is_host() && self.is_own(prefix.addr()) {
            return Some((Protocol::Connected, Wanted::Target(Target::Host)));
        }
        if let Some(port) = vrf.locals.get(&prefix).filter(|port| !self.yields(vrf, prefix, **port)) {
            return Some((Protocol::Local, Wanted::Target(Target::Port(*port))));
        }
        let (protocol, paths) = match vrf.imported.get(&prefix) {
            Some(paths) => (Protocol::Bgp, paths),
            None => (Protocol::Stale, self.stale.routes.get(&(vrf.id, prefix))?),
        };
        let in_service = |port: &PortId| self.ports.get(port).is_some_and(Port::is_up);
        let leaked = paths.iter().filter(|path| path.local).find_map(|path| self.labels.port(path.label));
        let leaked = leaked.filter(in_service);
        if let Some(port) = leaked {
            return Some((protocol, Wanted::Target(Target::Port(port))));
        }
        let mut hops: Vec<_> = paths.iter().filter_map(|path| self.hop(path)).collect();
        hops.sort_unstable();
        hops.dedup();
        (!hops.is_empty()).then_some((protocol, Wanted::Hops(hops)))
    }

    /// How to reach a path's provider edge; `None` if it wants an encapsulation that the operator does not, or is of
    /// the family that our end of the tunnels is not.
    fn hop(&self, path: &VrfPath) -> Option<Hop> {
        if path.local || path.next_hop.is_ipv4() != self.next_hop.is_ipv4() {
            return None;
        }
        let encap = preferred(&self.config.underlay.encapsulations, path.encaps)?;
        Some((path.next_hop, encap, path.label))
    }
}

type Hop = (IpAddr, vrouter_types::Encap, Label);

enum Wanted {
    Target(Target),
    Hops(Vec<Hop>),
}
