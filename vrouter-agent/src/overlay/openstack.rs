//! What OpenStack wants becomes ports and VRFs.
//!
//! ```text
//!   change ─▶ Ledger ─▶ what it touches ─▶ VRFs that come ─▶ ports that go, change, come ─▶ VRFs that go
//!   Withdraw…  RemoveHostRoute…  PublishFib?  ClosePort…  SaveLabels?  SaveAll  SetImports?  OpenPorts
//!                                  ── Opened ──▶  PublishFib  AddHostRoute…  Originate…  Answer
//! ```
//! One change, however many ports it is about, is one write to disk, one new forwarding state and one answer. A port that
//! cannot be now waits, and says why; nothing of that is a failure of the call. A disk that cannot be written is: the
//! caller is told, nothing of it forwards, and it is tried again, by the caller or after a while.

use std::collections::BTreeSet;

use agent_api::{ApiError, AttachPort};
use vrouter_types::{PortId, VrfId};

use super::advertise::leak_vrf;
use super::{Overlay, Port, Vrf};
use crate::config::{Config, VrfConfig};
use crate::event::{Answer, CallId, Effect, Opening, Underway, VrfRoute};
use crate::openstack::ledger::Touched;
use crate::openstack::{Change, Leak, Ledger, RouteExtras, Wanted, Write};

/// What following a change comes to.
#[derive(Default)]
struct Course {
    /// The way down of ports that go.
    down: Vec<Effect>,
    /// Changes to the host's routes.
    host: Vec<Effect>,
    writes: Vec<Write>,
    cursor: Option<vrouter_types::Label>,
    imports: bool,
    open: Vec<Opening>,
    closed: bool,
}

impl Overlay {
    /// Makes a change, or says why not.
    pub(super) fn openstack(&mut self, call: CallId, change: Change) -> Vec<Effect> {
        match self.ledger.change(change, self.now) {
            Ok(touched) => self.follow(touched, Some(call)),
            Err(error) => vec![Effect::Answer { call, answer: Err(error) }],
        }
    }

    /// What OpenStack has said so far.
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// Taps that have no port, and why.
    pub fn waiting(&self) -> impl Iterator<Item = (&str, &str)> {
        self.waiting.iter().map(|(tap, why)| (tap.as_str(), why.as_str()))
    }

    /// Does what a change comes to.
    pub(super) fn follow(&mut self, touched: Touched, call: Option<CallId>) -> Vec<Effect> {
        let mut course = Course { writes: std::mem::take(&mut self.unsaved), ..Course::default() };
        course.writes.extend(touched.writes);
        self.make_vrfs(&touched.instances, &mut course);
        for tap in &touched.taps {
            let config = std::sync::Arc::clone(&self.config);
            match self.ledger.wanted(tap, &config) {
                Some(Wanted::Port(request, extras)) => self.want(tap, *request, extras, &mut course),
                Some(Wanted::Waits(why)) => {
                    self.unwant(tap, &mut course);
                    self.waiting.insert(tap.clone(), why);
                }
                None => self.unwant(tap, &mut course),
            }
        }
        self.unmake_vrfs(&touched.instances, &mut course);
        self.finish(course, call)
    }

    fn finish(&mut self, course: Course, call: Option<CallId>) -> Vec<Effect> {
        let mut effects: Vec<Effect> = Vec::new();
        let (closes, before): (Vec<Effect>, Vec<Effect>) =
            course.down.into_iter().partition(|effect| matches!(effect, Effect::ClosePort(_)));
        effects.extend(before);
        if course.closed {
            effects.push(Effect::PublishFib { soon: false });
        }
        effects.extend(closes);
        effects.extend(course.cursor.map(|cursor| Effect::SaveLabels { cursor }));
        if !course.writes.is_empty() {
            effects.push(Effect::SaveAll(course.writes));
        }
        if course.imports {
            let all = self.vrfs.iter().map(|vrf| (vrf.id, vrf.config.import.clone()));
            effects.push(Effect::SetImports(all.collect()));
        }
        effects.push(Effect::OpenPorts(Underway {
            call,
            open: course.open,
            host: course.host,
            refused: None,
        }));
        effects
    }

    /// The interfaces have been tried: those that are open go into service.
    pub(super) fn opened(&mut self, underway: Underway, failed: Vec<(PortId, ApiError)>) -> Vec<Effect> {
        let mut effects = vec![Effect::PublishFib { soon: false }];
        effects.extend(underway.host);
        for opening in &underway.open {
            if let Some((_, error)) = failed.iter().find(|(id, _)| *id == opening.port) {
                self.wait(opening.port, error.message.clone());
                continue;
            }
            self.open(opening.port);
            let addresses = self.ports.get(&opening.port).map(|port| port.saved.addresses.clone());
            effects.extend(self.join_host(opening.port, &addresses.unwrap_or_default()));
        }
        effects.extend(self.tell_all());
        if let Some(call) = underway.call {
            let answer = underway.refused.map_or(Ok(Answer::Changed), Err);
            effects.push(Effect::Answer { call, answer });
        }
        effects
    }

    /// Nothing is on disk that should be: ports that are not in service yet stay out of it, and it is tried again.
    pub(super) fn not_saved(
        &mut self,
        writes: Vec<Write>,
        error: &ApiError,
        undone: Vec<Effect>,
    ) -> Vec<Effect> {
        self.unsaved = writes;
        let refuse = |effect| match effect {
            Effect::OpenPorts(underway) => {
                for opening in &underway.open {
                    self.wait(opening.port, error.message.clone());
                }
                Effect::OpenPorts(Underway { open: Vec::new(), refused: Some(error.clone()), ..underway })
            }
            effect => effect,
        };
        undone.into_iter().map(refuse).collect()
    }

    /// Whether a port's file is not on disk yet.
    pub(super) fn is_unsaved(&self, id: PortId) -> bool {
        self.unsaved.iter().any(|write| matches!(write, Write::Port(saved) if saved.port == id))
    }

    fn want(&mut self, tap: &str, request: AttachPort, extras: RouteExtras, course: &mut Course) {
        self.waiting.remove(tap);
        let checked = self.check_request(&request).and_then(|()| {
            let vrf = request.vrf.clone().unwrap_or_default();
            self.make_vrfs(&BTreeSet::from([vrf]), course);
            let vrf = self.choose_vrf(&request)?;
            self.check_free(&request, vrf).map(|()| vrf)
        });
        let vrf = match checked {
            Ok(vrf) => vrf,
            Err(error) => {
                self.unwant(tap, course);
                self.waiting.insert(tap.to_owned(), error.message);
                return;
            }
        };
        self.make_leaks(tap, &extras.leaks, course);
        let port = self.port_by_key(&request.key);
        match port.map(|port| {
            (port.saved.port, port.saved.request == request && port.vrf == vrf, port.extras == extras)
        }) {
            Some((_, true, true)) => {}
            Some((id, _, _)) if self.ports.get(&id).is_some_and(|port| port.can_become(&request, vrf)) => {
                let host = self.update(id, request, extras);
                course.host.extend(host);
                course
                    .writes
                    .extend(self.ports.get(&id).map(|port| Write::Port(Box::new(port.saved.clone()))));
            }
            _ => {
                self.drop_port(tap, course);
                self.make_port(tap, request, extras, vrf, course);
            }
        }
        self.bind_leaks(tap);
    }

    fn make_port(
        &mut self,
        tap: &str,
        request: AttachPort,
        extras: RouteExtras,
        vrf: VrfId,
        course: &mut Course,
    ) {
        match self.make(request, vrf) {
            Ok((port, cursor)) => {
                let port = Port { extras, ..port };
                course.cursor = cursor.or(course.cursor);
                course.writes.push(Write::Port(Box::new(port.saved.clone())));
                let id = port.saved.port;
                course.open.push(Opening {
                    port: id,
                    interface: tap.to_owned(),
                    vlan: port.saved.request.vlan,
                });
                self.insert(port);
            }
            Err(error) => {
                self.waiting.insert(tap.to_owned(), error.message);
            }
        }
    }

    /// Nobody speaks of the tap any more, or not enough.
    fn unwant(&mut self, tap: &str, course: &mut Course) {
        self.waiting.remove(tap);
        self.drop_port(tap, course);
        self.drop_leaks(tap, &[], course);
    }

    fn drop_port(&mut self, tap: &str, course: &mut Course) {
        let key = Ledger::port_key(tap);
        if let Some(id) = self.keys.get(&key).copied() {
            // What was to be opened or written for it is not.
            course.open.retain(|opening| opening.port != id);
            course.writes.retain(|write| !matches!(write, Write::Port(saved) if saved.port == id));
        }
        for effect in self.remove(&key) {
            match effect {
                Effect::ForgetPort { port, key } => course.writes.push(Write::ForgetPort(port, key)),
                Effect::PublishFib { .. } => course.closed = true,
                effect => course.down.push(effect),
            }
        }
    }

    /// VRFs of these instances come, or change.
    fn make_vrfs(&mut self, instances: &BTreeSet<String>, course: &mut Course) {
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
    fn put_vrf(&mut self, wanted: VrfConfig, course: &mut Course) -> bool {
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
    fn unmake_vrfs(&mut self, instances: &BTreeSet<String>, course: &mut Course) {
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

    fn drop_vrf(&mut self, name: &str, course: &mut Course) {
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
    fn free_vrf(&mut self) -> VrfId {
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
    fn make_leaks(&mut self, tap: &str, leaks: &[Leak], course: &mut Course) {
        self.drop_leaks(tap, leaks, course);
        let config = std::sync::Arc::clone(&self.config);
        for leak in leaks {
            // The instance's own number would clash with its own VRF's; nothing is ever announced under this one.
            let Some(base) = self.ledger.vrf(&leak.vrf, &config) else { continue };
            let hidden = VrfConfig {
                name: leak_vrf(leak, tap),
                import: leak.from.clone(),
                export: Vec::new(),
                ..base
            };
            self.put_vrf(hidden, course);
        }
    }

    fn drop_leaks(&mut self, tap: &str, kept: &[Leak], course: &mut Course) {
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
    fn bind_leaks(&mut self, tap: &str) {
        let Some(port) = self.port_by_key(&Ledger::port_key(tap)) else { return };
        let id = port.saved.port;
        let names: Vec<String> = port.extras.leaks.iter().map(|leak| leak_vrf(leak, tap)).collect();
        let vrfs: Vec<VrfId> = names.iter().filter_map(|name| Some(self.vrf_by_name(name)?.id)).collect();
        self.leaks.extend(vrfs.into_iter().map(|vrf| (vrf, id)));
    }

    /// The agent starts: instances have their VRFs before ports come back.
    pub(super) fn restore_instances(&mut self, ledger: Ledger) {
        self.ledger = ledger;
        let config = std::sync::Arc::clone(&self.config);
        let mut course = Course::default();
        for vrf in self.ledger.vrfs(&config) {
            self.put_vrf(vrf, &mut course);
        }
        // What was there before is not new.
        self.vrfs.iter_mut().for_each(|vrf| vrf.since = crate::event::Millis::default());
    }

    /// Ports that are back learn what is special about them, before anybody hears of them.
    pub(super) fn restore_extras(&mut self) {
        let config = std::sync::Arc::clone(&self.config);
        let mut course = Course::default();
        for tap in self.ledger.taps() {
            let Some(Wanted::Port(_, extras)) = self.ledger.wanted(&tap, &config) else { continue };
            self.make_leaks(&tap, &extras.leaks, &mut course);
            if let Some(id) = self.keys.get(&Ledger::port_key(&tap)).copied()
                && let Some(port) = self.ports.get_mut(&id)
            {
                port.extras = extras;
            }
            self.bind_leaks(&tap);
        }
    }

    /// All taps that OpenStack speaks of, or spoke of in the last run: as they should be.
    pub(super) fn everything(&self) -> Touched {
        let keys = self.keys.keys().chain(self.orphans.keys());
        let had =
            keys.filter(|key| key.container == crate::openstack::CONTAINER).map(|key| key.interface.clone());
        let taps = self.ledger.taps().into_iter().chain(had).collect();
        let instances = self.ledger.instances().map(|instance| instance.id.clone()).collect();
        Touched { writes: Vec::new(), taps, instances }
    }

    /// Whether a VRF is OpenStack's under this configuration.
    pub(super) fn is_of_openstack(&self, name: &str, config: &Config) -> bool {
        // No name of the operator's begins so.
        name.starts_with('(') || self.ledger.vrf(name, config).is_some()
    }
}
