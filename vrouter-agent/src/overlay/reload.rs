//! The operator has changed the configuration: what follows from that now, what needs a restart, what is refused.
//!
//! ```text
//!   Withdraw (old RD)…  RemoveHostRoute…  AddHostRoute…  PublishFib  SetImports?  SetNeighbors?  Originate…  Answer
//! ```
//! Only what differs has effects. A VRF that still has ports is not taken away: its workloads would be cut off by what
//! may be a slip of the pen, so the whole reload is refused and the ports are named.

mod fixed;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use agent_api::{ApiError, ErrorKind, Reloaded};
use vrouter_types::{PortId, Prefix, VpnPrefix, VrfId};

use super::{Overlay, Port, Vrf};
use crate::config::{BgpConfig, Config, NeighborConfig, PeerAddress, VrfConfig};
use crate::event::{Answer, CallId, Effect, SavedPort, VrfRoute};
use crate::openstack::CONTAINER;
use crate::openstack::ledger::Touched;

/// More are not named in a refusal.
const MAX_NAMED: usize = 10;

/// What is different about one VRF.
struct Difference {
    keys: Vec<&'static str>,
    /// Other provider edges must hear of its routes again.
    advertise: bool,
    /// It lets workloads in to the host, or no longer.
    host: bool,
}

impl Overlay {
    pub(super) fn reload(&mut self, call: CallId, config: Config) -> Vec<Effect> {
        if let Err(error) = self.check_removed(&config) {
            return vec![Effect::Answer { call, answer: Err(error) }];
        }
        let (config, needs_restart) = fixed::keep(&self.config, config);
        let old = std::mem::replace(&mut self.config, Arc::new(config));
        let new = Arc::clone(&self.config);
        let mut changed = sections(&old, &new);
        let host_before: BTreeMap<IpAddr, PortId> = self.host_addresses().collect();
        let mut withdraw = Vec::new();
        let _ = self.review_all_hosts();
        let same_encaps = old.underlay.encapsulations == new.underlay.encapsulations;
        let mut again = self.change_vrfs(&new, &mut changed, &mut withdraw);
        self.encaps = new.underlay.encapsulations.iter().copied().collect();
        if !same_encaps {
            self.refresh_all();
            again = self.vrfs.iter().map(|vrf| vrf.id).collect();
        }
        let mut effects = withdraw;
        effects.extend(self.host_difference(&host_before));
        self.ports_revision += 1;
        effects.push(Effect::PublishFib { soon: false });
        if imports(&old) != imports(&new) {
            let all = self.vrfs.iter().map(|vrf| (vrf.id, vrf.config.import.clone()));
            effects.push(Effect::SetImports(all.collect()));
        }
        let concerned = neighbors(&old.bgp, &new.bgp, &mut changed);
        // What failed before is still to be done, though the file says nothing new.
        if !concerned.is_empty() || self.neighbors_failure.take().is_some() {
            effects.push(Effect::SetNeighbors { concerned });
        }
        let concerned = self.ports.values().filter(|port| again.contains(&port.vrf));
        let concerned: Vec<PortId> = concerned.map(|port| port.saved.port).collect();
        self.untold.extend(concerned);
        effects.extend(self.tell_all());
        let everything = self.everything();
        if everything != Touched::default() {
            effects.extend(self.follow(everything, None));
        }
        let answer = Ok(Answer::Reloaded(Reloaded { changed, needs_restart }));
        effects.push(Effect::Answer { call, answer });
        effects
    }

    fn check_removed(&self, config: &Config) -> Result<(), ApiError> {
        let stays = |vrf: &Vrf| config.vrfs.iter().any(|new| new.name == vrf.config.name);
        for vrf in self.vrfs.iter().filter(|vrf| !stays(vrf)) {
            // What OpenStack attached goes on in an instance of this name, which nobody else may be in.
            let is_kept = self.is_of_openstack(&vrf.config.name, config);
            let is_cut_off = |port: &&Port| !(is_kept && port.saved.request.key.container == CONTAINER);
            let ports = self.ports.values().filter(|port| port.vrf == vrf.id).filter(is_cut_off);
            let names: Vec<String> = ports.map(|port| port.saved.request.key.to_string()).collect();
            if names.is_empty() {
                continue;
            }
            let more = if names.len() > MAX_NAMED { ", …" } else { "" };
            let message = format!(
                "VRF {:?} is not in the configuration any more, but has {} port(s): {}{more}. Nothing was changed. Take \
                 these away first (delete the pods, or vrouterctl port delete), or put the VRF back",
                vrf.config.name,
                names.len(),
                names.iter().take(MAX_NAMED).cloned().collect::<Vec<_>>().join(", ")
            );
            return Err(ApiError::new(ErrorKind::Conflict, message));
        }
        Ok(())
    }

    /// Makes the VRFs what the configuration says. Returns those whose routes must be advertised again.
    fn change_vrfs(
        &mut self,
        new: &Config,
        changed: &mut Vec<String>,
        withdraw: &mut Vec<Effect>,
    ) -> Vec<VrfId> {
        let is_gone = |vrf: &Vrf| {
            let name = &vrf.config.name;
            !new.vrfs.iter().any(|config| config.name == *name) && !self.is_of_openstack(name, new)
        };
        let gone: Vec<VrfId> = self.vrfs.iter().filter(|vrf| is_gone(vrf)).map(|vrf| vrf.id).collect();
        for id in &gone {
            changed.extend(self.vrf(*id).map(|vrf| format!("VRF {} removed", vrf.config.name)));
            self.empty(*id);
        }
        self.drop_stale_of_other_imports(new);
        let mut again = Vec::new();
        let mut open_changed = Vec::new();
        let mut old = std::mem::take(&mut self.vrfs);
        old.retain(|vrf| !gone.contains(&vrf.id));
        let mut vrfs = Vec::new();
        for config in &new.vrfs {
            let Some(at) = old.iter().position(|vrf| vrf.config.name == config.name) else {
                changed.push(format!("VRF {} added", config.name));
                let id = VrfId(self.next_vrf);
                self.next_vrf += 1;
                open_changed.push(id);
                vrfs.push(Vrf::new(id, config.clone()));
                continue;
            };
            let mut vrf = old.swap_remove(at);
            let difference = differs(&vrf.config, config);
            if !difference.keys.is_empty() {
                changed.push(format!("VRF {}: {}", config.name, difference.keys.join(", ")));
            }
            if vrf.config.rd != config.rd {
                withdraw.extend(
                    vrf.locals
                        .keys()
                        .map(|prefix| Effect::Withdraw(VpnPrefix { rd: vrf.config.rd, prefix: *prefix })),
                );
            }
            if difference.advertise {
                again.push(vrf.id);
            }
            if difference.host {
                open_changed.push(vrf.id);
            }
            change(&mut vrf, config);
            vrfs.push(vrf);
        }
        // Those of OpenStack, which follow the operator's.
        vrfs.append(&mut old);
        self.vrfs = vrfs;
        self.reopen(&open_changed);
        self.adopt(&new.vrfs);
        again
    }

    /// What the last run imported is of no use to a VRF that imports something else.
    fn drop_stale_of_other_imports(&mut self, new: &Config) {
        let wanted = |vrf: &Vrf| new.vrfs.iter().find(|config| config.name == vrf.config.name);
        let differs = |vrf: &&Vrf| wanted(vrf).is_some_and(|config| config.import != vrf.config.import);
        let differ: Vec<VrfId> = self.vrfs.iter().filter(differs).map(|vrf| vrf.id).collect();
        self.drop_stale(|vrf| differ.contains(&vrf));
    }

    /// Ports on disk that nobody served for want of these VRFs wait for their interfaces now.
    fn adopt(&mut self, vrfs: &[VrfConfig]) {
        let is_there = |saved: &SavedPort| vrfs.iter().any(|vrf| vrf.name == saved.vrf);
        let missed = self.orphans.iter().filter(|(_, (saved, _))| is_there(saved));
        let keys: Vec<_> = missed.map(|(key, _)| key.clone()).collect();
        for key in keys {
            if let Some((saved, _)) = self.orphans.remove(&key) {
                self.take_back(saved, false);
            }
        }
    }

    /// Whether the host's own addresses are routes of these VRFs may have changed.
    fn reopen(&mut self, vrfs: &[VrfId]) {
        let underlay = self.underlay.as_ref().map(|underlay| underlay.address);
        let own: Vec<IpAddr> = self.host_own.iter().copied().chain(underlay).collect();
        for (vrf, address) in vrfs.iter().flat_map(|vrf| own.iter().map(move |address| (*vrf, *address))) {
            self.refresh(vrf, Prefix::host(address));
        }
    }

    /// Everything that BGP says for a VRF that goes, so that tunnels and provider edges are not counted for it.
    fn empty(&mut self, id: VrfId) {
        self.drop_stale(|vrf| vrf == id);
        let imported: Vec<Prefix> =
            self.vrf(id).map(|vrf| vrf.imported.keys().copied().collect()).unwrap_or_default();
        let gone = |prefix| VrfRoute { vrf: id, prefix, paths: Vec::new() };
        // It has no ports, so nobody's standing changes.
        let _ = self.take_routes(imported.into_iter().map(gone).collect());
    }

    /// Another VRF may be the default, and its ports then are who the host means.
    fn host_difference(&self, before: &BTreeMap<IpAddr, PortId>) -> Vec<Effect> {
        let after: BTreeMap<IpAddr, PortId> = self.host_addresses().collect();
        let gone = before.keys().filter(|address| !after.contains_key(address));
        let come = after.keys().filter(|address| !before.contains_key(address));
        let gone = gone.copied().map(Effect::RemoveHostRoute);
        gone.chain(come.copied().map(Effect::AddHostRoute)).collect()
    }
}

fn change(vrf: &mut Vrf, config: &VrfConfig) {
    if vrf.config.pods != config.pods {
        vrf.pool = vrf.pool.with_ranges(&config.pods);
        vrf.addresses.keys().for_each(|address| vrf.pool.taken(*address));
    }
    vrf.config = config.clone();
    vrf.revision += 1;
}

fn differs(old: &VrfConfig, new: &VrfConfig) -> Difference {
    let policy = old.policy != new.policy;
    let (rd, export) = (old.rd != new.rd, old.export != new.export);
    let (open, snat) = (old.host_open != new.host_open, old.snat != new.snat);
    let keys = [
        ("rd", rd),
        ("import", old.import != new.import),
        ("export", export),
        ("what its routes carry", policy),
        ("pods", old.pods != new.pods),
        ("namespaces", old.namespaces != new.namespaces),
        ("default", old.default != new.default),
        ("host", open),
        ("snat", snat),
        ("dscp", old.dscp != new.dscp),
        ("openstack-networks", old.openstack_networks != new.openstack_networks),
        ("openstack-projects", old.openstack_projects != new.openstack_projects),
    ];
    let keys = keys.into_iter().filter_map(|(key, differs)| differs.then_some(key)).collect();
    Difference { keys, advertise: rd || export || policy, host: open || snat }
}

fn imports(config: &Config) -> BTreeMap<&str, &Vec<vrouter_types::RouteTarget>> {
    config.vrfs.iter().map(|vrf| (vrf.name.as_str(), &vrf.import)).collect()
}

/// What is different outside the VRFs and neighbors.
fn sections(old: &Config, new: &Config) -> Vec<String> {
    let (a, b) = (&old.underlay, &new.underlay);
    [
        ("[agent] name", old.name != new.name),
        ("[agent] metrics", old.metrics != new.metrics),
        ("[underlay] encapsulations", a.encapsulations != b.encapsulations),
        ("[underlay] accept-from", a.accept_from != b.accept_from),
        ("[bgp] long-lived-stale-time", old.bgp.long_lived_stale_time != new.bgp.long_lived_stale_time),
    ]
    .into_iter()
    .filter(|(_, differs)| *differs)
    .map(|(key, _)| key.to_owned())
    .collect()
}

/// The neighbors that must notice: new, gone, different; or all that a common setting is for.
fn neighbors(old: &BgpConfig, new: &BgpConfig, changed: &mut Vec<String>) -> Vec<String> {
    let common = [
        ("[bgp] hold-time", old.hold_time != new.hold_time),
        ("[bgp] graceful-restart", old.graceful_restart != new.graceful_restart),
        ("[bgp] restart-time", old.restart_time != new.restart_time),
    ];
    changed.extend(common.iter().filter(|(_, differs)| *differs).map(|(key, _)| (*key).to_owned()));
    let mut concerned = Vec::new();
    let find = |bgp: &BgpConfig, address: PeerAddress| {
        bgp.neighbors.iter().find(|neighbor| neighbor.address == address).cloned()
    };
    for was in &old.neighbors {
        let address = was.address;
        let Some(is) = find(new, address) else {
            changed.push(format!("neighbor {address} removed"));
            concerned.push(address.to_string());
            continue;
        };
        let mut keys = neighbor_keys(was, &is);
        if !keys.is_empty() {
            changed.push(format!("neighbor {address}: {}", keys.join(", ")));
        }
        if was.hold_time.is_none() && old.hold_time != new.hold_time {
            keys.push("hold-time");
        }
        let restart = old.graceful_restart != new.graceful_restart && was.graceful_restart.is_none();
        let stale = old.long_lived_stale_time != new.long_lived_stale_time;
        if !keys.is_empty() || restart || stale || old.restart_time != new.restart_time {
            concerned.push(address.to_string());
        }
    }
    for is in new.neighbors.iter().filter(|is| find(old, is.address).is_none()) {
        changed.push(format!("neighbor {} added", is.address));
        concerned.push(is.address.to_string());
    }
    concerned
}

fn neighbor_keys(was: &NeighborConfig, is: &NeighborConfig) -> Vec<&'static str> {
    [
        ("port", was.port != is.port),
        ("asn", was.asn != is.asn),
        // The file may be the same and what stands in it another.
        ("password-file", was.password != is.password),
        ("hold-time", was.hold_time != is.hold_time),
        ("keepalive-time", was.keepalive_time != is.keepalive_time),
        ("connect-retry", was.connect_retry != is.connect_retry),
        ("ttl-security", was.ttl_security != is.ttl_security),
        ("route-reflector-client", was.route_reflector_client != is.route_reflector_client),
        ("max-prefixes", was.max_prefixes != is.max_prefixes),
        ("max-prefixes-restart", was.max_prefixes_restart != is.max_prefixes_restart),
        ("graceful-restart", was.graceful_restart != is.graceful_restart),
        ("passive", was.passive != is.passive),
        ("local-address", was.local_address != is.local_address),
        ("description", was.description != is.description),
        ("default-encapsulation", was.default_encapsulation != is.default_encapsulation),
        ("families", was.families != is.families),
    ]
    .into_iter()
    .filter_map(|(key, differs)| differs.then_some(key))
    .collect()
}
