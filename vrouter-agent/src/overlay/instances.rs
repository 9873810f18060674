//! VRFs that are not the operator's: one for each VPN instance, and one for each leak of routes.

use std::collections::BTreeSet;

use vrouter_types::{PortId, VrfId};

use super::advertise::leak_vrf;
use super::openstack::Course;
use super::{Overlay, Port, Vrf};
use crate::config::VrfConfig;
use crate::event::VrfRoute;
use crate::openstack::{Leak, Ledger};

impl Overlay {
    /// VRFs of these instances come, or change.
    pub(super) fn make_vrfs(&mut self, instances: &BTreeSet<String>, course: &mut Course) {
        let config = std::sync::Arc::clone(&self.config);
        let mut new = BTreeSet::new();
        for name in instances {
            let Some(wanted) = self.ledger.vrf(name, &config) else { continue };
            if self.put_vrf(wanted, course) {
                new.insert(name.clone());
            }
        }
        if !new.is_empty() {
            self.place_those_that_name(&new);
        }
    }

    /// Whether it is new.
    pub(super) fn put_vrf(&mut self, wanted: VrfConfig, course: &mut Course) -> bool {
        let Some(vrf) = self.vrfs.iter_mut().find(|vrf| vrf.config.name == wanted.name) else {
            let id = self.free_vrf();
            // What was built of another VRF with this number must not be taken for this one's.
            let revision = self.vrf_revisions;
            self.vrfs.push(Vrf { since: self.now, revision, ..Vrf::new(id, wanted) });
            course.imports = true;
            return true;
        };
        if vrf.config == wanted {
            return false;
        }
        course.imports |= vrf.config.import != wanted.import;
        let (id, differs) = (vrf.id, vrf.config.import != wanted.import);
        vrf.config = wanted;
        vrf.revision += 1;
        if differs {
            self.drop_stale(|stale| stale == id);
        }
        let named = self.vrf(id).map(|vrf| vrf.config.name.clone());
        let concerned = |port: &&Port| {
            port.vrf == id
                || port.extras.adverts.iter().any(|advert| Some(&advert.vrf) == named.as_ref())
                || port
                    .saved
                    .request
                    .floating_ips
                    .iter()
                    .any(|floating| Some(&floating.vrf) == named.as_ref())
        };
        let ids: Vec<PortId> = self.ports.values().filter(concerned).map(|port| port.saved.port).collect();
        self.untold.extend(ids);
        false
    }

    /// VRFs of these instances go, if nobody wants them any more.
    pub(super) fn unmake_vrfs(&mut self, instances: &BTreeSet<String>, course: &mut Course) {
        let config = std::sync::Arc::clone(&self.config);
        let is_gone = |name: &&String| {
            self.ledger.vrf(name, &config).is_none() && !config.vrfs.iter().any(|vrf| vrf.name == **name)
        };
        let gone: BTreeSet<String> = instances.iter().filter(is_gone).cloned().collect();
        gone.iter().for_each(|name| self.drop_vrf(name, course));
        if !gone.is_empty() {
            self.place_those_that_name(&gone);
        }
    }

    pub(super) fn drop_vrf(&mut self, name: &str, course: &mut Course) {
        let Some(id) = self.vrf_by_name(name).map(|vrf| vrf.id) else { return };
        if self.ports.values().any(|port| port.vrf == id) {
            return;
        }
        self.drop_stale(|vrf| vrf == id);
        let imported: Vec<_> =
            self.vrf(id).map(|vrf| vrf.imported.keys().copied().collect()).unwrap_or_default();
        let gone = |prefix| VrfRoute { vrf: id, prefix, paths: Vec::new() };
        // It has no ports, so nobody's standing changes.
        let _ = self.take_routes(imported.into_iter().map(gone).collect());
        let revision = self.vrf(id).map_or(0, |vrf| vrf.revision);
        self.vrf_revisions = self.vrf_revisions.max(revision + 1);
        self.vrfs.retain(|vrf| vrf.id != id);
        self.free_vrfs.push_back((id, self.now));
        course.imports = true;
    }

    /// A number that no VRF has had of late: routes under way would reach the wrong one.
    pub(super) fn free_vrf(&mut self) -> VrfId {
        const REST: u64 = 60_000;
        if let Some((_, since)) = self.free_vrfs.front()
            && since.0.saturating_add(REST) <= self.now.0
            && let Some((id, _)) = self.free_vrfs.pop_front()
        {
            return id;
        }
        self.next_vrf += 1;
        VrfId(self.next_vrf - 1)
    }

    /// VRFs that import what leaks through the tap, and those that do no longer go.
    pub(super) fn make_leaks(&mut self, tap: &str, leaks: &[Leak], course: &mut Course) {
        self.drop_leaks(tap, leaks, course);
        let config = std::sync::Arc::clone(&self.config);
        for leak in leaks {
            // An instance of the operator's name is the operator's, and leaks none the less.
            let is_it = |vrf: &&VrfConfig| vrf.name == leak.vrf;
            let operators = || {
                config.vrfs.iter().find(is_it).map(|vrf| VrfConfig {
                    policy: vrf.policy.clone(),
                    ..VrfConfig::new(vrf.name.clone(), vrf.rd)
                })
            };
            // The instance's own number would clash with its own VRF's; nothing is ever announced under this one.
            let Some(base) = self.ledger.vrf(&leak.vrf, &config).or_else(operators) else { continue };
            let hidden = VrfConfig {
                name: leak_vrf(leak, tap),
                import: leak.from.clone(),
                export: Vec::new(),
                ..base
            };
            self.put_vrf(hidden, course);
        }
    }

    pub(super) fn drop_leaks(&mut self, tap: &str, kept: &[Leak], course: &mut Course) {
        let kept: Vec<String> = kept.iter().map(|leak| leak_vrf(leak, tap)).collect();
        let ends = format!(", through {tap})");
        let names = self.vrfs.iter().map(|vrf| &vrf.config.name).filter(|name| name.ends_with(&ends));
        let gone: Vec<String> = names.filter(|name| !kept.contains(name)).cloned().collect();
        for name in gone {
            if let Some(id) = self.vrf_by_name(&name).map(|vrf| vrf.id) {
                self.leaks.remove(&id);
            }
            self.drop_vrf(&name, course);
        }
    }

    /// Routes that such a VRF imports concern this port.
    pub(super) fn bind_leaks(&mut self, tap: &str) {
        let Some(port) = self.port_by_key(&Ledger::port_key(tap)) else { return };
        let id = port.saved.port;
        let names: Vec<String> = port.extras.leaks.iter().map(|leak| leak_vrf(leak, tap)).collect();
        let vrfs: Vec<VrfId> = names.iter().filter_map(|name| Some(self.vrf_by_name(name)?.id)).collect();
        self.leaks.extend(vrfs.into_iter().map(|vrf| (vrf, id)));
    }
}
