//! Where a machine is, when two nodes say that they have it: while it moves, and when machines share an address.
//!
//! ```text
//!             comes, and others have the address,         nobody else has it
//!             or nobody knows yet                          (after three seconds)
//!   attach ──────────────────────────▶ incoming ──────────────────────────▶ ordinary ◀──┐
//!     │       LOCAL_PREF 100, MED 200      │                LOCAL_PREF 100     │          │ another node
//!     └───────────── shown before ──▶    shown by ARP, RARP or ND ▼  ◀─────────┘          │ says more
//!                                              active: LOCAL_PREF 200, and more than any other ┘
//! ```
//! A machine under live migration is attached on both nodes. The new node's route loses until the machine shows itself
//! there, and then wins everywhere with the next UPDATE: it says one more than the old one's, which thereupon steps back.
//! So traffic goes one way at a time. An allowed address pair is ordinary where the machine stands by. Machines that take
//! an address from each other all the time have to wait ([`super::quarrels`]).
//!
//! This is for machines' own addresses and for pairs of one address. A machine whose routes carry an order for consistent
//! hashing means to share its address with others: it is always ordinary. So are pods: theirs are nobody else's.

use std::collections::BTreeSet;
use std::net::IpAddr;

use agent_api::PortKind;
use vrouter_types::{PortId, Prefix, VrfId};

use super::places::Claim;
use super::{Overlay, Port, Vrf};
use crate::event::{Effect, Millis};

/// What an active route says more than an ordinary one.
const ACTIVE: u32 = 100;
/// The MULTI_EXIT_DISC of what has just come.
const INCOMING_MED: u32 = 200;
/// How long a VRF that is new may not yet know what others have.
const PROBE: u64 = 3_000;
/// After so long whoever was active before has stepped back, and the ordinary excess is enough.
const CALM: u64 = 30_000;

impl Port {
    /// Whether the machine has shown that it has the address here.
    pub(super) fn is_active(&self, address: IpAddr) -> bool {
        self.saved.active.contains_key(&address)
    }

    /// Whether the address may be elsewhere too.
    fn is_contested(&self, address: IpAddr) -> bool {
        let shares =
            self.extras.own.get(&address).is_some_and(|own| own.hash_order.is_some_and(|order| order > 0));
        let own =
            self.saved.request.kind == PortKind::Tap && self.saved.addresses.contains(&address) && !shares;
        own || self.pairs().any(|pair| pair == Prefix::host(address))
    }
}

impl Overlay {
    /// LOCAL_PREF and, if it differs from the VRF's, MULTI_EXIT_DISC of the route to one address of a port.
    pub(super) fn preference(&self, port: &Port, vrf: &Vrf, address: IpAddr) -> (u32, Option<u32>) {
        let med = vrf.config.policy.med;
        if let Some(more) = port.saved.active.get(&address) {
            return (active_preference(port, vrf, address, *more), med);
        }
        let base = wanted_preference(port, address).unwrap_or(vrf.config.policy.local_pref);
        let is_incoming = port.incoming.contains(&address);
        (base, if is_incoming { Some(med.unwrap_or_default().saturating_add(INCOMING_MED)) } else { med })
    }

    /// The port goes into service: what is not known to be here may be elsewhere.
    pub(super) fn stand_up(&mut self, id: PortId) {
        let now = self.now;
        let Some(port) = self.ports.get(&id) else { return };
        let is_new = self
            .vrf(port.vrf)
            .is_some_and(|vrf| vrf.since.0 > 0 && now.0 < vrf.since.0.saturating_add(PROBE));
        let is_incoming = |address: &&IpAddr| {
            port.is_contested(**address)
                && !port.is_active(**address)
                && (is_new || self.others(port.vrf, **address).is_some())
        };
        let incoming: BTreeSet<IpAddr> = port.saved.addresses.iter().filter(is_incoming).copied().collect();
        let raised = port.saved.active.iter().filter(|(_, more)| **more > 0).map(|(address, _)| *address);
        let watched: Vec<IpAddr> = incoming.iter().copied().chain(raised).collect();
        if let Some(port) = self.ports.get_mut(&id) {
            port.incoming = incoming;
        }
        self.watched.extend(watched.into_iter().map(|address| ((id, address), Millis(now.0 + PROBE))));
    }

    /// The most that another node says for an address.
    fn others(&self, vrf: VrfId, address: IpAddr) -> Option<u32> {
        let prefix = Prefix::host(address);
        let paths = self.vrf(vrf)?.imported.get(&prefix).or_else(|| self.stale.routes.get(&(vrf, prefix)))?;
        paths.iter().filter(|path| !path.local).map(|path| path.local_pref).max()
    }

    /// Whether packets for a prefix of this port go to another node that has it more.
    pub(super) fn yields(&self, vrf: &Vrf, prefix: Prefix, port: PortId) -> bool {
        let Some(port) = self.ports.get(&port).filter(|port| port.vrf == vrf.id && prefix.is_host()) else {
            return false;
        };
        if !port.is_contested(prefix.addr()) {
            return false;
        }
        let Some(others) = self.others(vrf.id, prefix.addr()) else { return false };
        let (ours, _) = self.preference(port, vrf, prefix.addr());
        let is_incoming = port.incoming.contains(&prefix.addr());
        others > ours || (is_incoming && others == ours)
    }

    /// A workload has shown that it has an address.
    pub(super) fn learned(&mut self, id: PortId, address: IpAddr) -> Vec<Effect> {
        let Some(port) = self.ports.get(&id).filter(|port| port.is_up() && port.is_contested(address)) else {
            return Vec::new();
        };
        let (vrf_id, prefix) = (port.vrf, Prefix::host(address));
        let Some(vrf) = self.vrf(vrf_id).filter(|_| self.may_win(id, vrf_id, prefix)) else {
            return Vec::new();
        };
        let others = self.others(vrf_id, address);
        let before = port.saved.active.get(&address).copied();
        let ours = active_preference(port, vrf, address, 0);
        // One more than the most, where that is not less anyway.
        let more = others.map_or(0, |others| others.saturating_add(1).saturating_sub(ours));
        if before.is_some_and(|had| had >= more) {
            self.quarrels.kept(vrf_id, address);
            return Vec::new();
        }
        // From one that is out of service nothing is taken.
        let last = self.quarrels.holder(vrf_id, address);
        if last.is_some_and(|last| !self.ports.get(&last).is_some_and(Port::is_up)) {
            self.quarrels.end(vrf_id, address);
        }
        if !self.quarrels.may_take(vrf_id, address, id, self.now) {
            return Vec::new();
        }
        self.quarrels.taken(vrf_id, address, id, self.now);
        let rivals: Vec<PortId> = self.holders(vrf_id, prefix).filter(|rival| *rival != id).collect();
        rivals.iter().for_each(|rival| self.set_active(*rival, address, None));
        self.set_active(id, address, Some(more));
        self.watched.insert((id, address), Millis(self.now.0 + CALM));
        let mut effects = self.save_ports(rivals.into_iter().chain([id]));
        self.settle(vrf_id, prefix);
        effects.push(Effect::PublishFib { soon: false });
        effects.extend(self.tell_all());
        effects
    }

    /// Whether a port that shows an address may have it: one that may hold it takes nothing from one whose own it is.
    fn may_win(&self, id: PortId, vrf: VrfId, prefix: Prefix) -> bool {
        let first = self.claims.get(&(vrf, prefix)).and_then(|claims| claims.first());
        first.is_none_or(|(claim, owner)| *owner == id || *claim >= Claim::Pair)
    }

    /// Ports of this node that are active for a prefix.
    fn holders(&self, vrf: VrfId, prefix: Prefix) -> impl Iterator<Item = PortId> {
        let claims = self.claims.get(&(vrf, prefix)).into_iter().flatten();
        let is_active =
            move |id: &PortId| self.ports.get(id).is_some_and(|port| port.is_active(prefix.addr()));
        claims.map(|(_, id)| *id).filter(is_active)
    }

    /// What others say for a prefix has changed: who was active here may not be any more.
    pub(super) fn step_back(&mut self, vrf: VrfId, prefix: Prefix) -> Vec<Effect> {
        if !prefix.is_host() || !self.claims.contains_key(&(vrf, prefix)) {
            return Vec::new();
        }
        let Some(others) = self.others(vrf, prefix.addr()) else { return Vec::new() };
        let Some(table) = self.vrf(vrf) else { return Vec::new() };
        let is_less = |id: &PortId| {
            self.ports.get(id).is_some_and(|port| self.preference(port, table, prefix.addr()).0 < others)
        };
        let less: Vec<PortId> = self.holders(vrf, prefix).filter(is_less).collect();
        less.iter().for_each(|id| self.set_active(*id, prefix.addr(), None));
        self.save_ports(less.into_iter())
    }

    fn set_active(&mut self, id: PortId, address: IpAddr, more: Option<u32>) {
        if let Some(port) = self.ports.get_mut(&id) {
            port.incoming.remove(&address);
            match more {
                Some(more) => port.saved.active.insert(address, more),
                None => port.saved.active.remove(&address),
            };
            self.untold.insert(id);
        }
        self.watched.remove(&(id, address));
    }

    fn save_ports(&self, ids: impl Iterator<Item = PortId>) -> Vec<Effect> {
        let port = |id| Some(Effect::SavePort(Box::new(self.ports.get(&id)?.saved.clone())));
        ids.filter_map(port).collect()
    }

    /// Time passed: nobody else has what came, or whoever had it has stepped back.
    pub(super) fn look_at_standings(&mut self) -> Vec<Effect> {
        let now = self.now;
        let due = self.watched.iter().filter(|(_, at)| **at <= now).map(|(key, _)| *key);
        let due: Vec<(PortId, IpAddr)> = due.collect();
        let claims = self.quarrels.due(now);
        let mut effects: Vec<Effect> =
            claims.into_iter().flat_map(|(id, address)| self.learned(id, address)).collect();
        for (id, address) in due {
            let Some(port) = self.ports.get(&id).filter(|port| port.is_up()) else {
                self.watched.remove(&(id, address));
                continue;
            };
            let (vrf, prefix) = (port.vrf, Prefix::host(address));
            if port.incoming.contains(&address) {
                if self.others(vrf, address).is_some() {
                    self.watched.insert((id, address), Millis(now.0 + PROBE));
                    continue;
                }
                self.set_active(id, address, None);
            } else if port.saved.active.get(&address).is_some_and(|more| *more > 0) {
                self.set_active(id, address, Some(0));
                effects.extend(self.save_ports([id].into_iter()));
            } else {
                self.watched.remove(&(id, address));
            }
            self.refresh(vrf, prefix);
        }
        effects
    }
}

/// The LOCAL_PREF that the operator or neutron asks for.
fn wanted_preference(port: &Port, address: IpAddr) -> Option<u32> {
    port.extras.own.get(&address).and_then(|own| own.local_pref).or(port.saved.request.local_pref)
}

/// The LOCAL_PREF of an address that the machine has shown, which says so much more than an active one's does anyway.
fn active_preference(port: &Port, vrf: &Vrf, address: IpAddr, more: u32) -> u32 {
    // What somebody asks for is told as it is, but for a draw.
    let wanted = wanted_preference(port, address);
    let ours = wanted.unwrap_or_else(|| vrf.config.policy.local_pref.saturating_add(ACTIVE));
    ours.saturating_add(more)
}
