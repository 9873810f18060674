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

use std::collections::{BTreeMap, BTreeSet};

use agent_api::{ApiError, AttachPort};
use vrouter_types::{PortId, VrfId};

use super::{Overlay, Port};
use crate::config::Config;
use crate::event::{Answer, CallId, Effect, Opening, Underway};
use crate::openstack::ledger::Touched;
use crate::openstack::{Change, Ledger, RouteExtras, Wanted, Write};

/// What following a change comes to.
#[derive(Default)]
pub(super) struct Course {
    /// The way down of ports that go.
    pub(super) down: Vec<Effect>,
    /// Changes to the host's routes.
    pub(super) host: Vec<Effect>,
    pub(super) writes: Vec<Write>,
    pub(super) cursor: Option<vrouter_types::Label>,
    pub(super) imports: bool,
    pub(super) open: Vec<Opening>,
    pub(super) closed: bool,
}

impl Overlay {
    /// Makes a change, or says why not.
    pub(super) fn openstack(&mut self, call: CallId, change: Change) -> Vec<Effect> {
        let changed = self.check_unsaved().and_then(|()| self.ledger.change(change, self.now));
        match changed {
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
        let mut course = Course { writes: self.take_unsaved(), ..Course::default() };
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
        let cursor = course.cursor.or_else(|| self.labels.cover());
        effects.extend(cursor.map(|cursor| Effect::SaveLabels { cursor }));
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
        let failed: BTreeMap<PortId, ApiError> = failed.into_iter().collect();
        let is_open = |opening: &&Opening| !failed.contains_key(&opening.port);
        let mut effects = vec![Effect::PublishFib { soon: false }];
        effects.extend(underway.host);
        for opening in underway.open.iter().filter(is_open) {
            self.open(opening.port);
            let addresses = self.ports.get(&opening.port).map(|port| port.saved.addresses.clone());
            effects.extend(self.join_host(opening.port, &addresses.unwrap_or_default()));
        }
        for (port, error) in failed {
            self.note_opening(port, error.kind);
            self.wait(port, error.message);
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
        let unforgotten = writes.iter().filter_map(|write| match write {
            Write::ForgetPort(port, key) => Some((*port, key.clone())),
            _ => None,
        });
        self.unforgotten.extend(unforgotten);
        let writes = self.ledger.await_none(writes);
        self.keep_unsaved(writes);
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
