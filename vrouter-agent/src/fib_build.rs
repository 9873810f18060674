//! Desired state to forwarding state: what the overlay wants, as the snapshot that packets read.
//!
//! What did not change since the last snapshot is shared with it, not built again: a VRF by its revision, a port by
//! its sequence, labels and the host's addresses by the revision of the ports. Of a VRF that did change, the table of
//! the snapshot before the last is brought up to date, once no packet reads it any more: a route that flaps costs that
//! route, however many there are.

use std::collections::BTreeMap;
use std::sync::Arc;

use dataplane_core::Snat;
use dataplane_core::fib::{
    Fib, Hop, HostFib, Ilm, Port, Route, RouteTable, ServiceTargets, Sources, Tunnel, Vrf,
};
use vrouter_types::{PortId, Prefix, VrfId};

use crate::overlay::{self, Overlay, Target};
use crate::policy::{PolicyBuilder, static_nat};
use crate::vm::told;

/// A table of so many routes is sooner copied than kept twice.
const SHORT: usize = 64;

/// Makes one snapshot after the other.
#[derive(Debug, Default)]
pub struct FibBuilder {
    generation: u64,
    vrfs: BTreeMap<VrfId, BuiltVrf>,
    ports: BTreeMap<PortId, (u64, Arc<Port>)>,
    ports_revision: Option<u64>,
    known_vrfs: Vec<VrfId>,
    policies: PolicyBuilder,
    ilm: Ilm,
    host: HostFib,
    services: ServiceTargets,
    lease: u32,
}

/// A VRF as of a revision, and, where its table is long, as of one before.
#[derive(Debug)]
struct BuiltVrf {
    revision: u64,
    vrf: Arc<Vrf>,
    before: Option<(u64, Arc<Vrf>)>,
}

impl FibBuilder {
    /// Nothing has been built yet.
    pub fn new() -> FibBuilder {
        FibBuilder::default()
    }

    /// From here on machines are served there, and lease addresses for so many seconds.
    pub fn serve(&mut self, services: ServiceTargets, lease: u32) {
        (self.services, self.lease) = (services, lease);
    }

    /// What the overlay wants now.
    pub fn build(&mut self, overlay: &Overlay) -> Arc<Fib> {
        self.generation += 1;
        // Floating addresses are of VRFs that may come and go.
        let vrfs: Vec<VrfId> = overlay.vrfs().iter().map(|vrf| vrf.id).collect();
        if self.ports_revision != Some(overlay.ports_revision()) || self.known_vrfs != vrfs {
            self.rebuild_ports(overlay);
            (self.ports_revision, self.known_vrfs) = (Some(overlay.ports_revision()), vrfs);
        }
        let mut fib = Fib {
            generation: self.generation,
            ilm: self.ilm.clone(),
            host: self.host.clone(),
            sources: sources(overlay),
            services: self.services,
            ..Fib::new()
        };
        self.ports.values().for_each(|(_, port)| fib.insert_port(Arc::clone(port)));
        overlay.vrfs().iter().for_each(|vrf| fib.insert_vrf(self.vrf(overlay, vrf)));
        for tunnel in overlay.tunnels() {
            let overlay::Tunnel { id, remote, encap, mtu, .. } = tunnel;
            fib.insert_tunnel(id, Tunnel { remote, encap, mtu });
        }
        Arc::new(fib)
    }

    /// Only ports in service: nobody has a way to one that waits.
    fn rebuild_ports(&mut self, overlay: &Overlay) {
        let mut old = std::mem::take(&mut self.ports);
        self.ilm = Ilm::new();
        self.policies.build(overlay);
        for port in overlay.ports().filter(|port| port.is_up()) {
            // Both only ever rise.
            let (id, sequence) = (port.saved.port, port.saved.sequence + port.generation);
            let (policy, nat) = (self.policies.of(id), static_nat(overlay, port));
            let entry = match old.remove(&id) {
                Some(entry) if entry.0 == sequence && entry.1.policy == policy && entry.1.nat == nat => entry,
                _ => {
                    let built = fib_port(port, overlay.behind(port), self.services, self.lease);
                    (sequence, Arc::new(Port { policy, nat, ..built }))
                }
            };
            self.ports.insert(id, entry);
            self.ilm.insert(port.saved.label, id);
        }
        self.host = HostFib::new();
        overlay.host_addresses().for_each(|(address, port)| {
            self.host.insert(address, port);
        });
    }

    fn vrf(&mut self, overlay: &Overlay, vrf: &overlay::Vrf) -> Arc<Vrf> {
        if let Some(known) = self.vrfs.get(&vrf.id)
            && known.revision == vrf.revision
        {
            return Arc::clone(&known.vrf);
        }
        let mut known = self.vrfs.remove(&vrf.id);
        let routes = known.as_mut().and_then(|known| updated(vrf, known)).unwrap_or_else(|| {
            let mut all = RouteTable::new();
            overlay.routes(vrf.id).for_each(|entry| drop(all.insert(entry.prefix, fib_route(&entry.target))));
            all
        });
        let built = Arc::new(Vrf {
            routes,
            host_open: vrf.config.host_open,
            dscp: vrf.config.dscp,
            snat: vrf.config.snat.then_some(Snat::BOTH),
            ..Vrf::new(vrf.id, vrf.config.name.clone())
        });
        let before = known.filter(|known| known.vrf.routes.len() > SHORT);
        let before = before.map(|known| (known.revision, known.vrf));
        self.vrfs.insert(vrf.id, BuiltVrf { revision: vrf.revision, vrf: Arc::clone(&built), before });
        built
    }
}

/// The routes of a former snapshot with what has changed since. `None`: nobody remembers that.
fn updated(vrf: &overlay::Vrf, known: &mut BuiltVrf) -> Option<RouteTable> {
    let is_remembered = |revision| vrf.changed_since(revision).is_some();
    // What a worker still reads stays as it is, and then the last one is copied.
    let unread = known.before.take().filter(|(revision, _)| is_remembered(*revision));
    let unread = unread.and_then(|(revision, vrf)| Some((revision, Arc::into_inner(vrf)?.routes)));
    let copy = || is_remembered(known.revision).then(|| (known.revision, known.vrf.routes.clone()));
    let (revision, mut routes) = unread.or_else(copy)?;
    for prefix in vrf.changed_since(revision)? {
        match vrf.route(prefix) {
            Some(entry) => drop(routes.insert(prefix, fib_route(&entry.target))),
            None => drop(routes.remove(prefix)),
        }
    }
    Some(routes)
}

fn fib_port(port: &overlay::Port, behind: Vec<Prefix>, services: ServiceTargets, lease: u32) -> Port {
    let saved = &port.saved;
    let request = &saved.request;
    Port {
        macs: request.macs.clone(),
        addresses: saved.addresses.clone(),
        prefixes: request.prefixes.iter().copied().chain(behind).collect(),
        mtu: saved.mtu,
        allowed: request.allowed.iter().map(|pair| (pair.prefix, pair.mac)).collect(),
        dscp: request.dscp,
        vlan: request.vlan,
        services: request.vm.as_ref().map(|vm| Arc::new(told::services(vm, services, lease))),
        ..Port::new(saved.port, port.vrf, request.mac)
    }
}

fn fib_route(target: &Target) -> Route {
    match target {
        Target::Port(port) => Route::Port(*port),
        Target::Host => Route::Host,
        Target::Tunnels(hops) => {
            Route::Tunnel(hops.iter().map(|(tunnel, label)| Hop { tunnel: *tunnel, label: *label }).collect())
        }
    }
}

fn sources(overlay: &Overlay) -> Sources {
    let mut sources = Sources::new();
    overlay.provider_edges().for_each(|address| sources.insert(address));
    overlay.accept_from().iter().for_each(|prefix| sources.insert_prefix(*prefix));
    sources
}
