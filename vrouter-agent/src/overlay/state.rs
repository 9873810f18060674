//! The parts that the overlay is made of, as others may read them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use agent_api::AttachedPort;
use dataplane_core::frame::MAX_SUPERFRAME;
use dataplane_core::{Gateway, TunnelId};
use vrouter_types::{Encap, Label, PortId, Prefix, VrfId};

use super::changes::Changes;
use super::places::Place;
use crate::config::VrfConfig;
use crate::event::{LocalRoute, Millis, SavedPort, VrfPath};
use crate::ipam::AddressPool;
use crate::openstack::RouteExtras;

/// A VRF.
#[derive(Debug, Clone)]
pub struct Vrf {
    /// Its number.
    pub id: VrfId,
    /// What the operator says of it.
    pub config: VrfConfig,
    /// Changes with each change to its routes.
    pub revision: u64,
    /// When it came.
    pub since: Millis,
    pub(super) pool: AddressPool,
    /// Who has which address, ports that wait included.
    pub(super) addresses: BTreeMap<IpAddr, PortId>,
    /// Addresses and prefixes of ports in service.
    pub(super) locals: BTreeMap<Prefix, PortId>,
    /// What BGP says.
    pub(super) imported: BTreeMap<Prefix, Vec<VrfPath>>,
    /// What follows from these, and forwards.
    pub(super) routes: BTreeMap<Prefix, RouteEntry>,
    pub(super) changes: Changes,
}

impl Vrf {
    pub(super) fn new(id: VrfId, config: VrfConfig) -> Vrf {
        Vrf {
            id,
            revision: 0,
            since: Millis::default(),
            pool: AddressPool::new(&config.pods),
            addresses: BTreeMap::new(),
            locals: BTreeMap::new(),
            imported: BTreeMap::new(),
            routes: BTreeMap::new(),
            changes: Changes::default(),
            config,
        }
    }

    /// The route of exactly this prefix.
    pub fn route(&self, prefix: Prefix) -> Option<&RouteEntry> {
        self.routes.get(&prefix)
    }

    /// The prefixes whose routes are others than they were as of this revision. `None`: look at all of them.
    pub fn changed_since(&self, revision: u64) -> Option<impl Iterator<Item = Prefix>> {
        self.changes.since(revision)
    }
}

/// The VRF of this number, without borrowing the rest of the overlay.
pub(super) fn vrf_mut(vrfs: &mut [Vrf], id: VrfId) -> Option<&mut Vrf> {
    let place = id.0 as usize;
    match vrfs.get(place) {
        Some(vrf) if vrf.id == id => vrfs.get_mut(place),
        _ => vrfs.iter_mut().find(|vrf| vrf.id == id),
    }
}

/// A port.
#[derive(Debug, Clone, PartialEq)]
pub struct Port {
    /// What is on disk, or about to be.
    pub saved: SavedPort,
    /// Its VRF.
    pub vrf: VrfId,
    /// Whether it forwards.
    pub state: PortState,
    /// When a port that waits is tried again.
    pub(super) retry: Backoff,
    /// What is special about its routes.
    pub extras: RouteExtras,
    /// Changes with each change to what forwards, but those that change the sequence.
    pub generation: u64,
    /// Addresses of its own that others may have.
    pub(super) incoming: BTreeSet<IpAddr>,
    /// Its places in the tables of VRFs.
    pub(super) placed: BTreeSet<Place>,
    /// What other provider edges were told of it, in order of the prefixes.
    pub(super) told: Box<[LocalRoute]>,
}

/// When to try again what failed: after two seconds, then later and later, up to a minute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Backoff {
    at: Millis,
    delay: u64,
}

impl Backoff {
    const FIRST: u64 = 2_000;
    const LAST: u64 = 60_000;

    pub(super) fn is_due(self, now: Millis) -> bool {
        self.at <= now
    }

    /// It failed, or is about to be tried.
    pub(super) fn defer(&mut self, now: Millis) {
        self.at = Millis(now.0.saturating_add(self.delay));
        self.delay = (self.delay * 2).min(Self::LAST);
    }
}

impl Default for Backoff {
    fn default() -> Backoff {
        Backoff { at: Millis::default(), delay: Self::FIRST }
    }
}

impl Port {
    pub(super) fn new(saved: SavedPort, vrf: VrfId, why: String, retry: Backoff) -> Port {
        let state = PortState::Waiting(why);
        Port {
            saved,
            vrf,
            state,
            retry,
            extras: RouteExtras::default(),
            generation: 0,
            incoming: BTreeSet::new(),
            placed: BTreeSet::new(),
            told: Box::default(),
        }
    }

    /// Whether it forwards.
    pub fn is_up(&self) -> bool {
        self.state == PortState::Up
    }

    /// Its addresses and the prefixes behind it, as routes.
    pub fn prefixes(&self) -> impl Iterator<Item = Prefix> {
        let addresses = self.saved.addresses.iter().copied().map(Prefix::host);
        addresses.chain(self.saved.request.prefixes.iter().copied())
    }

    /// What other provider edges were told of it.
    pub fn told(&self) -> impl Iterator<Item = &LocalRoute> {
        self.told.iter()
    }

    /// What its maker was told.
    pub fn attached(&self) -> AttachedPort {
        let gateway = Gateway::default();
        AttachedPort {
            port: self.saved.port,
            vrf: self.saved.vrf.clone(),
            label: self.saved.label,
            addresses: self.saved.addresses.clone(),
            mtu: self.saved.mtu,
            superframe: u32::try_from(MAX_SUPERFRAME).ok(),
            gateway4: gateway.v4,
            gateway6: gateway.v6,
            gateway_mac: gateway.mac,
            waits: None,
        }
    }
}

/// Whether a port forwards.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PortState {
    /// It does.
    Up,
    /// It does not: why, for people. Its number, label and addresses stay its own.
    Waiting(String),
}

/// A route as it forwards.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteEntry {
    /// Its prefix.
    pub prefix: Prefix,
    /// Who made it.
    pub protocol: Protocol,
    /// Where packets go.
    pub target: Target,
}

/// Who made a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// A port of this node in this VRF.
    Local,
    /// BGP: another provider edge, or another VRF of this node.
    Bgp,
    /// BGP, in the last run; nobody has confirmed it yet.
    Stale,
    /// The node itself.
    Connected,
}

/// Where packets go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// To a port of this node.
    Port(PortId),
    /// To other provider edges, shared by flow: tunnel and label.
    Tunnels(Vec<(TunnelId, Label)>),
    /// To the host.
    Host,
}

/// A tunnel that a route leads through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tunnel {
    /// Its number in the forwarding state.
    pub id: TunnelId,
    /// The other provider edge.
    pub remote: IpAddr,
    /// How packets travel.
    pub encap: Encap,
    /// The largest inner packet.
    pub mtu: u16,
    /// How many routes lead through it.
    pub routes: usize,
}
