//! Desired state: events in, effects out.
//!
//! [`Overlay::apply`] is the only place where something is decided, and it is a function of the events so far: no
//! clock, no file, no socket. What it wants done it returns, in the order in which it must be done:
//!
//! ```text
//!   attach   SaveLabels?  SavePort  OpenPort  PublishFib  AddHostRoute…  Originate…  Answer
//!   detach   Withdraw…  RemoveHostRoute…  PublishFib  ClosePort  ForgetPort  Answer
//! ```
//! A label is therefore advertised only after the forwarding state that serves it, and an answer given only after all
//! of it. If an effect fails, the rest comes back with [`Event::EffectFailed`], and what was half done is undone.
//!
//! Ports that do not forward ([`PortState::Waiting`]) keep their number, label and addresses, but have no routes: an
//! address that has moved to another provider edge must be reachable there.

mod abandoned;
mod admission;
mod advertise;
mod changes;
mod failure;
mod groups;
mod host;
mod instances;
mod openstack;
mod places;
mod ports;
mod quarrels;
mod reload;
mod restore;
mod routes;
mod stale;
mod standing;
mod state;
mod tunnels;
mod underlay;
mod unsaved;
mod update;

use stale::Stale;
use state::{Backoff, vrf_mut};
pub use state::{Port, PortState, Protocol, RouteEntry, Target, Tunnel, Vrf};

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;

use agent_api::{PoolUse, PortKey, SecurityGroup};
use vrouter_types::{Encap, EncapSet, Label, PortId, Prefix, VrfId};

use crate::config::Config;
use crate::event::{CallId, Effect, Event, Millis, SavedPort, Underlay};
use crate::labels::{LabelPool, LabelUse};
use crate::openstack::ledger::Touched;
use crate::openstack::{Ledger, Write};
use places::Claim;
use tunnels::Tunnels;

/// All of it.
#[derive(Debug)]
pub struct Overlay {
    config: Arc<Config>,
    /// What `config.underlay.encapsulations` names, as a set.
    encaps: EncapSet,
    now: Millis,
    boot_id: String,
    vrfs: Vec<Vrf>,
    /// No VRF that came by a reload gets a number that another had: routes under way would reach the wrong one.
    next_vrf: u32,
    /// What the last run imported and nobody has confirmed.
    stale: Stale,
    /// Changes with each change to what BGP says.
    imports_revision: u64,
    ports: BTreeMap<PortId, Port>,
    keys: BTreeMap<PortKey, PortId>,
    /// Saved ports that cannot be served, and why. Their numbers and labels are not given away.
    orphans: BTreeMap<PortKey, (SavedPort, String)>,
    /// Security groups by name.
    groups: BTreeMap<String, SecurityGroup>,
    /// Pods whose interface is not there.
    absent: abandoned::Absent,
    /// Ports that are gone but whose files could not be deleted.
    unforgotten: BTreeMap<PortId, PortKey>,
    /// The attach whose effects are being performed: what to undo if one fails.
    attaching: Option<(CallId, PortId)>,
    /// The same for one that changes a port: what the port was.
    changing: Option<(CallId, Box<SavedPort>)>,
    next_port: u32,
    next_sequence: u64,
    labels: LabelPool,
    tunnels: Tunnels,
    /// What the host reaches.
    host: host::Reach,
    /// The host's own addresses, which workloads reach where the operator lets them.
    host_own: BTreeSet<IpAddr>,
    underlay: Option<Underlay>,
    /// Our end of the tunnels as it last was.
    next_hop: IpAddr,
    underlay_failure: Option<String>,
    /// Why BGP did not take the neighbors as they are configured now.
    neighbors_failure: Option<String>,
    /// When what failed, ports apart, is tried again.
    retry: Backoff,
    /// Changes with each change to ports or labels in service.
    ports_revision: u64,
    /// What OpenStack has said.
    ledger: Ledger,
    /// Taps that OpenStack speaks of and that have no port, and why.
    waiting: BTreeMap<String, String>,
    /// What could not be written, and is tried again.
    unsaved: Vec<Write>,
    /// Numbers of VRFs that went, and when.
    free_vrfs: VecDeque<(VrfId, Millis)>,
    /// Above the revision of every VRF that went.
    vrf_revisions: u64,
    /// Who has a claim to a prefix of a VRF.
    claims: BTreeMap<(VrfId, Prefix), BTreeSet<(Claim, PortId)>>,
    /// Ports of which other provider edges may have to hear something new.
    untold: BTreeSet<PortId>,
    /// Addresses of which more will be known by then.
    watched: BTreeMap<(PortId, IpAddr), Millis>,
    /// Addresses that ports take from each other.
    quarrels: quarrels::Quarrels,
    /// VRFs whose routes leak through a port.
    leaks: BTreeMap<VrfId, PortId>,
}

impl Overlay {
    /// Nothing but what the configuration says.
    pub fn new(config: Arc<Config>) -> Overlay {
        let vrfs: Vec<Vrf> =
            (0..).zip(&config.vrfs).map(|(id, vrf)| Vrf::new(VrfId(id), vrf.clone())).collect();
        Overlay {
            next_vrf: u32::try_from(vrfs.len()).unwrap_or(u32::MAX),
            stale: Stale::default(),
            imports_revision: 0,
            encaps: config.underlay.encapsulations.iter().copied().collect(),
            now: Millis::default(),
            boot_id: String::new(),
            vrfs,
            ports: BTreeMap::new(),
            keys: BTreeMap::new(),
            orphans: BTreeMap::new(),
            groups: BTreeMap::new(),
            absent: abandoned::Absent::default(),
            unforgotten: BTreeMap::new(),
            attaching: None,
            changing: None,
            next_port: 0,
            next_sequence: 0,
            labels: LabelPool::new(),
            tunnels: Tunnels::default(),
            host: host::Reach::default(),
            host_own: BTreeSet::new(),
            underlay: None,
            next_hop: underlay::first_next_hop(&config),
            underlay_failure: None,
            neighbors_failure: None,
            retry: Backoff::default(),
            ports_revision: 0,
            ledger: Ledger::default(),
            waiting: BTreeMap::new(),
            unsaved: Vec::new(),
            free_vrfs: VecDeque::new(),
            vrf_revisions: 0,
            claims: BTreeMap::new(),
            untold: BTreeSet::new(),
            watched: BTreeMap::new(),
            quarrels: quarrels::Quarrels::default(),
            leaks: BTreeMap::new(),
            config,
        }
    }

    /// Decides what an event means.
    pub fn apply(&mut self, event: Event) -> Vec<Effect> {
        if !matches!(event, Event::EffectFailed { .. }) {
            self.attaching = None;
            self.changing = None;
        }
        match event {
            Event::Restore(restore) => self.restore(restore),
            Event::Attach { call, request, now } => {
                self.now = now;
                self.attach(call, request)
            }
            Event::Detach { call, request, now } => {
                self.now = now;
                self.detach(call, &request.key)
            }
            Event::Spooled { file, key, now } => {
                self.now = now;
                self.detach_spooled(file, &key)
            }
            Event::Check { call, request } => self.check(call, &request),
            Event::PutGroup { call, group } => self.put_group(call, group),
            Event::DeleteGroup { call, name } => self.delete_group(call, &name),
            Event::Routes(routes) => self.import(routes),
            Event::RoutesComplete => self.forget_stale(),
            Event::Reload { call, config } => self.reload(call, *config),
            Event::Underlay(underlay) => self.set_underlay(underlay),
            Event::HostAddresses(addresses) => self.set_host_addresses(addresses),
            Event::LinkAdded(name) => self.link_added(&name),
            Event::LinkRemoved(name) => self.link_removed(&name),
            Event::Learned { port, address, now, .. } => {
                self.now = now;
                self.learned(port, address)
            }
            Event::OpenStack { call, change, now } => {
                self.now = now;
                self.openstack(call, change)
            }
            Event::Opened { underway, failed, now } => {
                self.now = now;
                self.opened(underway, failed)
            }
            Event::EffectFailed { failed, error, undone, now } => {
                self.now = now;
                self.effect_failed(failed, error, undone)
            }
            Event::Tick { now } => {
                self.now = now;
                self.tick()
            }
        }
    }

    /// The configuration.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The VRFs in the operator's order.
    pub fn vrfs(&self) -> &[Vrf] {
        &self.vrfs
    }

    /// The VRF of this number.
    pub fn vrf(&self, id: VrfId) -> Option<&Vrf> {
        // A number is a place until a reload takes a VRF away or puts one in between.
        let at_its_place = self.vrfs.get(id.0 as usize).filter(|vrf| vrf.id == id);
        at_its_place.or_else(|| self.vrfs.iter().find(|vrf| vrf.id == id))
    }

    /// The VRF of this name.
    pub fn vrf_by_name(&self, name: &str) -> Option<&Vrf> {
        self.vrfs.iter().find(|vrf| vrf.config.name == name)
    }

    /// What is used of the VRF's pod ranges.
    pub fn pool_use(&self, vrf: VrfId) -> Vec<PoolUse> {
        self.vrf(vrf).map_or_else(Vec::new, |vrf| vrf.pool.pool_use(vrf.addresses.keys().copied()))
    }

    /// The VRF's routes as they forward, by prefix.
    pub fn routes(&self, vrf: VrfId) -> impl Iterator<Item = &RouteEntry> {
        self.vrf(vrf).into_iter().flat_map(|vrf| vrf.routes.values())
    }

    /// The ports in order of their numbers.
    pub fn ports(&self) -> impl Iterator<Item = &Port> {
        self.ports.values()
    }

    /// The port of this number.
    pub fn port(&self, id: PortId) -> Option<&Port> {
        self.ports.get(&id)
    }

    /// The port that its maker calls this.
    pub fn port_by_key(&self, key: &PortKey) -> Option<&Port> {
        self.ports.get(self.keys.get(key)?)
    }

    /// Changes whenever a port or label in service does.
    pub fn ports_revision(&self) -> u64 {
        self.ports_revision
    }

    /// Labels in use or resting, in order of their values.
    pub fn labels(&self) -> impl Iterator<Item = (Label, LabelUse)> {
        self.labels.iter()
    }

    /// Tunnels that a route leads through, in order of their numbers.
    pub fn tunnels(&self) -> impl Iterator<Item = Tunnel> {
        self.tunnels.iter().map(|mut tunnel| {
            tunnel.mtu = self.tunnel_mtu(tunnel.remote, tunnel.encap);
            tunnel
        })
    }

    /// Provider edges that routes taught us.
    pub fn provider_edges(&self) -> impl Iterator<Item = IpAddr> {
        self.tunnels.provider_edges()
    }

    /// Prefixes of provider edges that the operator named.
    pub fn accept_from(&self) -> &[Prefix] {
        &self.config.underlay.accept_from
    }

    /// The way to the other provider edges, when there is one.
    pub fn underlay(&self) -> Option<&Underlay> {
        self.underlay.as_ref()
    }

    /// What is wrong and a person should know, a sentence each.
    pub fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if self.config.underlay.source.is_some() && self.underlay.is_none() {
            problems.push("no uplink: the underlay address is not on any interface that is up".to_owned());
        }
        let stale = self.stale_routes();
        if stale > 0 {
            problems.push(format!(
                "{stale} route(s) are those of the last run: no neighbor has confirmed them yet, for {} more seconds \
                 they serve",
                self.stale_left() / 1000
            ));
        }
        let neighbors = self.neighbors_failure.iter();
        problems.extend(
            neighbors.map(|why| format!("neighbors are not as configured: {why}; correct it and reload")),
        );
        problems.extend(self.underlay_failure.iter().map(|why| format!("tunnels do not work: {why}")));
        let orphan =
            |(key, (_, why)): (&PortKey, &(SavedPort, String))| format!("port {key} is not served: {why}");
        problems.extend(self.orphans.iter().map(orphan));
        for port in self.ports.values() {
            if let PortState::Waiting(why) = &port.state {
                problems.push(format!("port {} waits: {why}", port.saved.request.key));
            }
        }
        let waits = |(tap, why): (&String, &String)| format!("tap {tap} has no port: {why}");
        problems.extend(self.waiting.iter().map(waits));
        problems.extend(self.ledger.problems());
        problems.extend(self.group_problems());
        problems.extend(self.host.problems());
        let unforgotten = |key| format!("the state file of {key}, which is gone, could not be deleted");
        problems.extend(self.unforgotten.values().map(unforgotten));
        problems
    }

    /// Time passed: labels rest, and what failed is tried again, later and later.
    fn tick(&mut self) -> Vec<Effect> {
        self.labels.tick(self.now);
        self.vrfs.iter_mut().for_each(|vrf| vrf.pool.tick(self.now));
        let mut effects = self.forget_abandoned();
        effects.extend(self.retry_ports());
        effects.extend(self.look_at_standings());
        effects.extend(self.review_needed());
        let overdue = self.ledger.tick(self.now);
        if overdue != Touched::default() {
            effects.extend(self.follow(overdue, None));
        }
        if self.stale_routes() > 0 && self.stale_left() == 0 {
            effects.extend(self.forget_stale());
        }
        if self.unforgotten.is_empty() && self.underlay_failure.is_none() && self.unsaved.is_empty() {
            self.retry = Backoff::default();
        } else if self.retry.is_due(self.now) {
            self.retry.defer(self.now);
            effects.extend(self.retry_rest());
        }
        effects.extend(self.tell_all());
        effects
    }

    fn retry_rest(&mut self) -> Vec<Effect> {
        let unforgotten = std::mem::take(&mut self.unforgotten).into_iter();
        let mut effects: Vec<Effect> =
            unforgotten.map(|(port, key)| Effect::ForgetPort { port, key }).collect();
        let unsaved = self.take_unsaved();
        if !unsaved.is_empty() {
            effects.extend(self.labels.cover().map(|cursor| Effect::SaveLabels { cursor }));
            effects.push(Effect::SaveAll(unsaved));
        }
        if self.underlay_failure.take().is_some() {
            effects.push(Effect::SetUnderlay(self.underlay.as_ref().map(|underlay| underlay.address)));
        }
        effects
    }
}

/// Encapsulations in the operator's order.
fn preferred(order: &[Encap], named: EncapSet) -> Option<Encap> {
    if named.is_empty() {
        order.first().copied()
    } else {
        order.iter().copied().find(|encap| named.contains(*encap))
    }
}
