//! Ports come and go.

use agent_api::{ApiError, AttachPort, DetachedPort, ErrorKind, PortKey, PortKind};
use vrouter_types::{Label, PortId, Prefix, VrfId};

use super::state::Backoff;
use super::{Overlay, Port, PortState, vrf_mut};
use crate::event::{Answer, CallId, Effect, Opening, SavedPort, Underway};
use crate::openstack::RouteExtras;

/// Numbers go round, so that packets in flight for a port that went never meet the next one; this many bounds the
/// forwarding state.
pub(super) const MAX_PORTS: u32 = 4096;

impl Overlay {
    pub(super) fn attach(&mut self, call: CallId, request: AttachPort) -> Vec<Effect> {
        match self.try_attach(call, request) {
            Ok(effects) => effects,
            Err(error) => vec![Effect::Answer { call, answer: Err(error) }],
        }
    }

    fn try_attach(&mut self, call: CallId, request: AttachPort) -> Result<Vec<Effect>, ApiError> {
        self.check_request(&request)?;
        self.check_maker(&request)?;
        let vrf = self.choose_vrf(&request)?;
        if let Some(port) = self.port_by_key(&request.key) {
            if port.saved.request == request && port.vrf == vrf {
                return Ok(self.attach_again(call, port.saved.port));
            }
            if port.saved.request.kind != request.kind {
                let message = format!("port {} exists and is of another kind; detach it first", request.key);
                return Err(ApiError::new(ErrorKind::Conflict, message));
            }
        }
        self.check_free(&request, vrf)?;
        if let Some(port) = self.port_by_key(&request.key).filter(|port| port.can_become(&request, vrf)) {
            let (id, extras) = (port.saved.port, port.extras.clone());
            return Ok(self.attach_changed(call, id, request, extras));
        }
        // Nothing can be refused from here on but for want of an address, a label or a number.
        let mut effects = self.remove(&request.key);
        match self.make(request, vrf) {
            Ok((port, cursor)) => {
                let id = port.saved.port;
                self.attaching = Some((call, id));
                effects.extend(cursor.map(|cursor| Effect::SaveLabels { cursor }));
                effects.push(Effect::SavePort(Box::new(port.saved.clone())));
                let attached = port.attached();
                self.insert(port);
                effects.extend(self.bring_up(id));
                effects.push(Effect::Answer { call, answer: Ok(Answer::Attached(attached)) });
            }
            Err(error) => effects.push(Effect::Answer { call, answer: Err(error) }),
        }
        Ok(effects)
    }

    /// The same call again: the same answer, once the port forwards.
    fn attach_again(&mut self, call: CallId, id: PortId) -> Vec<Effect> {
        let mut effects = Vec::new();
        let Some(port) = self.ports.get(&id) else { return effects };
        let attached = port.attached();
        if !port.is_up() {
            effects = self.bring_up(id);
        }
        effects.push(Effect::Answer { call, answer: Ok(Answer::Attached(attached)) });
        effects
    }

    /// The same port, of which something else is asked: it goes on with what is different.
    fn attach_changed(
        &mut self,
        call: CallId,
        id: PortId,
        request: AttachPort,
        extras: RouteExtras,
    ) -> Vec<Effect> {
        self.changing = self.ports.get(&id).map(|port| (call, Box::new(port.saved.clone())));
        let host = self.update(id, request, extras);
        let Some(port) = self.ports.get(&id) else { return Vec::new() };
        let (saved, attached, is_up) = (port.saved.clone(), port.attached(), port.is_up());
        let mut effects = vec![Effect::SavePort(Box::new(saved)), Effect::PublishFib { soon: false }];
        effects.extend(host);
        effects.extend(if is_up { self.tell_all() } else { self.bring_up(id) });
        effects.push(Effect::Answer { call, answer: Ok(Answer::Attached(attached)) });
        effects
    }

    /// The change could not be made durable: the port is what it was.
    pub(super) fn change_back(&mut self, call: CallId, was: SavedPort, error: ApiError) -> Vec<Effect> {
        let id = was.port;
        let extras = self.ports.get(&id).map(|port| port.extras.clone()).unwrap_or_default();
        let mut effects = self.update(id, was.request.clone(), extras);
        if let Some(port) = self.ports.get_mut(&id) {
            port.saved = was;
        }
        effects.push(Effect::PublishFib { soon: false });
        effects.extend(self.tell_all());
        effects.push(Effect::Answer { call, answer: Err(error) });
        effects
    }

    pub(super) fn check(&self, call: CallId, request: &AttachPort) -> Vec<Effect> {
        let refuse = |kind, message: String| Err(ApiError::new(kind, message));
        let key = &request.key;
        let answer = match self.port_by_key(key) {
            None => refuse(ErrorKind::NotFound, format!("there is no port {key}")),
            Some(Port { state: PortState::Waiting(why), .. }) => {
                refuse(ErrorKind::Unavailable, format!("port {key} does not forward: {why}"))
            }
            Some(port) => match differs(&port.saved, request) {
                Some(what) => {
                    refuse(ErrorKind::Conflict, format!("port {key} was attached with another {what}"))
                }
                None => Ok(Answer::Attached(port.attached())),
            },
        };
        vec![Effect::Answer { call, answer }]
    }

    pub(super) fn detach(&mut self, call: CallId, key: &PortKey) -> Vec<Effect> {
        let host_interface = self.host_interface(key);
        let answer = DetachedPort { existed: host_interface.is_some(), host_interface };
        let mut effects = self.remove(key);
        effects.push(Effect::Answer { call, answer: Ok(Answer::Detached(answer)) });
        effects
    }

    pub(super) fn detach_spooled(&mut self, file: String, key: &PortKey) -> Vec<Effect> {
        let mut effects = self.remove(key);
        effects.push(Effect::RemoveSpooled { file });
        effects
    }

    /// The port of this interface, whatever state it is in.
    pub fn key_of(&self, host_interface: &str) -> Option<&PortKey> {
        let served = self.ports.values().map(|port| &port.saved.request);
        let all = served.chain(self.orphans.values().map(|(saved, _)| &saved.request));
        all.into_iter().find(|request| request.host_interface == host_interface).map(|request| &request.key)
    }

    fn host_interface(&self, key: &PortKey) -> Option<String> {
        let live = self.port_by_key(key).map(|port| &port.saved);
        let saved = live.or_else(|| self.orphans.get(key).map(|(saved, _)| saved))?;
        Some(saved.request.host_interface.clone())
    }

    /// Takes the port away, whatever state it is in.
    pub(super) fn remove(&mut self, key: &PortKey) -> Vec<Effect> {
        let forget = |port| Effect::ForgetPort { port, key: key.clone() };
        let unforgotten = self.unforgotten.iter().filter(|(_, gone)| *gone == key);
        let mut effects: Vec<Effect> = unforgotten.map(|(port, _)| forget(*port)).collect();
        self.unforgotten.retain(|_, gone| gone != key);
        if let Some((saved, _)) = self.orphans.remove(key) {
            self.labels.release(saved.label, saved.port, self.now);
            effects.push(forget(saved.port));
        }
        let Some(id) = self.keys.get(key).copied() else { return effects };
        effects.extend(self.take_down(id));
        self.keys.remove(key);
        let Some(port) = self.ports.remove(&id) else { return effects };
        self.untold.remove(&id);
        self.watched.retain(|(port, _), _| *port != id);
        self.quarrels.forget(id);
        self.drop_unsaved(id);
        if let Some(vrf) = vrf_mut(&mut self.vrfs, port.vrf) {
            port.saved.addresses.iter().for_each(|address| {
                vrf.addresses.remove(address);
                vrf.pool.release(*address, self.now);
            });
        }
        self.labels.release(port.saved.label, id, self.now);
        effects.push(forget(id));
        effects
    }

    /// A new port with all that is its own, but not yet in any table.
    pub(super) fn make(
        &mut self,
        request: AttachPort,
        vrf: VrfId,
    ) -> Result<(Port, Option<Label>), ApiError> {
        let exhausted = |message: String| ApiError::new(ErrorKind::Exhausted, message);
        let id = self
            .free_number()
            .ok_or_else(|| exhausted(format!("all {MAX_PORTS} ports of this node are in use")))?;
        let behind: Vec<Prefix> = self
            .ports
            .values()
            .filter(|port| port.vrf == vrf)
            .flat_map(|port| port.saved.request.prefixes.iter().copied())
            .collect();
        let vrf_state =
            vrf_mut(&mut self.vrfs, vrf).ok_or_else(|| ApiError::new(ErrorKind::Internal, "no such VRF"))?;
        let name = vrf_state.config.name.clone();
        let mut addresses = request.addresses.clone();
        if addresses.is_empty() {
            let used = |address| {
                vrf_state.addresses.contains_key(&address)
                    || behind.iter().any(|prefix| prefix.contains(address))
            };
            addresses = vrf_state.pool.allocate(used).map_err(|error| {
                exhausted(format!("VRF {name:?}: {error}; delete pods there, or add a range to its pods"))
            })?;
        }
        if addresses.is_empty() {
            let message = format!(
                "VRF {name:?} has no pods range to take an address from; add pods to its \
                                   configuration, or ipam to the CNI configuration"
            );
            return Err(exhausted(message));
        }
        addresses.sort_by_key(std::net::IpAddr::is_ipv6);
        let (label, cursor) = self.labels.allocate(id).map_err(|error| exhausted(error.to_string()))?;
        let mtu = self.workload_mtu(request.mtu, addresses.iter().any(std::net::IpAddr::is_ipv6));
        let (sequence, boot_id) = (self.next_sequence, self.boot_id.clone());
        let active = std::collections::BTreeMap::new();
        let saved =
            SavedPort { port: id, label, vrf: name, addresses, mtu, sequence, boot_id, active, request };
        self.next_port = (id.0 + 1) % MAX_PORTS;
        self.next_sequence += 1;
        Ok((Port::new(saved, vrf, "not yet opened".to_owned(), Backoff::default()), cursor))
    }

    /// Puts a port in the tables. It has no routes yet.
    pub(super) fn insert(&mut self, port: Port) {
        let id = port.saved.port;
        if let Some(vrf) = vrf_mut(&mut self.vrfs, port.vrf) {
            for address in &port.saved.addresses {
                vrf.addresses.insert(*address, id);
                vrf.pool.taken(*address);
            }
        }
        self.keys.insert(port.saved.request.key.clone(), id);
        self.ports.insert(id, port);
    }

    /// Puts a port into service: its interface, then forwarding, then the world.
    pub(super) fn bring_up(&mut self, id: PortId) -> Vec<Effect> {
        let Some(open) = self.open(id) else { return Vec::new() };
        let mut effects = vec![open, Effect::PublishFib { soon: false }];
        effects.extend(self.announce(id));
        effects
    }

    /// The first half of [`Overlay::bring_up`]: the port is up, and its interface is to be opened.
    pub(super) fn open(&mut self, id: PortId) -> Option<Effect> {
        let port = self.ports.get_mut(&id)?;
        port.state = PortState::Up;
        let (interface, vlan) = (port.saved.request.host_interface.clone(), port.saved.request.vlan);
        self.stand_up(id);
        self.place(id);
        self.ports_revision += 1;
        Some(Effect::OpenPort { port: id, interface, vlan })
    }

    /// The second half: the host and the other provider edges may use it.
    pub(super) fn announce(&mut self, id: PortId) -> Vec<Effect> {
        let Some(port) = self.ports.get(&id) else { return Vec::new() };
        let addresses = port.saved.addresses.clone();
        let mut effects = self.join_host(id, &addresses);
        effects.extend(self.tell_all());
        effects
    }

    /// Takes a port out of service: the world, then forwarding, then its interface. It keeps what is its own.
    pub(super) fn take_down(&mut self, id: PortId) -> Vec<Effect> {
        let Some(port) = self.ports.get(&id) else { return Vec::new() };
        if !port.is_up() {
            return Vec::new();
        }
        let addresses = port.saved.addresses.clone();
        if let Some(port) = self.ports.get_mut(&id) {
            port.state = PortState::Waiting("being taken down".to_owned());
        }
        let mut effects = self.tell(id);
        effects.extend(self.leave_host(id, &addresses));
        self.place(id);
        self.ports_revision += 1;
        effects.extend([Effect::PublishFib { soon: false }, Effect::ClosePort(id)]);
        // Whoever has what it had has something to tell.
        effects.extend(self.tell_all());
        effects
    }

    /// An interface of the host appeared: ports that wait for it go into service.
    pub(super) fn link_added(&mut self, name: &str) -> Vec<Effect> {
        let unsaved = self.unsaved_ports();
        let waits = |port: &&Port| {
            !port.is_up() && port.saved.request.host_interface == name && !unsaved.contains(&port.saved.port)
        };
        let ids: Vec<PortId> = self.ports.values().filter(waits).map(|port| port.saved.port).collect();
        ids.iter().for_each(|id| self.reset_retry(*id));
        ids.into_iter().flat_map(|id| self.bring_up(id)).collect()
    }

    /// An interface of the host went: its port has no routes until it is back.
    pub(super) fn link_removed(&mut self, name: &str) -> Vec<Effect> {
        let had = |port: &&Port| port.is_up() && port.saved.request.host_interface == name;
        let ids: Vec<PortId> = self.ports.values().filter(had).map(|port| port.saved.port).collect();
        let mut effects = Vec::new();
        for id in ids {
            effects.extend(self.take_down(id));
            self.reset_retry(id);
            self.wait(id, format!("interface {name} is gone"));
            self.note_absent(id);
        }
        effects
    }

    /// The port waits, for this reason, and is tried again later and later.
    pub(super) fn wait(&mut self, id: PortId, why: String) {
        let now = self.now;
        if let Some(port) = self.ports.get_mut(&id) {
            port.retry.defer(now);
            port.state = PortState::Waiting(why);
        }
    }

    fn reset_retry(&mut self, id: PortId) {
        if let Some(port) = self.ports.get_mut(&id) {
            port.retry = Backoff::default();
        }
    }

    /// Ports that wait and whose time has come: all are tried at once, since a hypervisor may have hundreds of machines
    /// that do not run, and those cost nothing but the attempt.
    pub(super) fn retry_ports(&mut self) -> Option<Effect> {
        let unsaved = self.unsaved_ports();
        let due = |port: &&Port| {
            !port.is_up() && port.retry.is_due(self.now) && !unsaved.contains(&port.saved.port)
        };
        let opening = |port: &Port| Opening {
            port: port.saved.port,
            interface: port.saved.request.host_interface.clone(),
            vlan: port.saved.request.vlan,
        };
        let open: Vec<Opening> = self.ports.values().filter(due).map(opening).collect();
        (!open.is_empty()).then(|| Effect::OpenPorts(Underway { open, ..Underway::default() }))
    }

    fn free_number(&self) -> Option<PortId> {
        let taken = |id: &PortId| self.has_number(*id) || self.unforgotten.contains_key(id);
        (0..MAX_PORTS).map(|step| PortId((self.next_port + step) % MAX_PORTS)).find(|id| !taken(id))
    }
}

/// What differs between what a port was attached with and what a CHECK names. Addresses that the CHECK names must be
/// those of the port; one that names none does not care.
fn differs(saved: &SavedPort, request: &AttachPort) -> Option<&'static str> {
    let was = &saved.request;
    let vrf = request.vrf.as_ref().or(request.configured_vrf.as_ref());
    let addresses = request.addresses.iter().all(|address| saved.addresses.contains(address));
    [
        (was.kind != request.kind, "kind"),
        (was.host_interface != request.host_interface, "host interface"),
        (was.mac != request.mac, "MAC address"),
        (vrf.is_some_and(|vrf| *vrf != saved.vrf), "VRF"),
        (!addresses, "address"),
        (
            was.kind == PortKind::Pod && request.netns.is_some() && was.netns != request.netns,
            "network namespace",
        ),
    ]
    .into_iter()
    .find_map(|(differs, what)| differs.then_some(what))
}
