//! The RIB: what neighbors said, what our VRFs make of it, what neighbors are told. No message waits here encoded.
//!
//! ```text
//!  handle_update ──▶ import? ──no──▶ dropped                              originate, withdraw
//!                       │ yes                                                    │
//!                       ▼                                                        ▼
//!                  ┌─────────────── Table: routes, their paths, the best of each ───────────────┐
//!                  └──────┬──────────────────────────────────────────────────────────┬──────────┘
//!                         ▼ prefixes marked                                          ▼ routes marked
//!                  Imports: per VRF the equally good paths             AdjOut per neighbor: grouped by attributes
//!                         ▼                                                          ▼
//!                    poll_event                                                 poll_message
//! ```
//! Import comes before storing: a received route that no VRF imports is not kept (RFC 4364 §4.3.1). When imports grow,
//! neighbors that filter by route target (RFC 4684) send what is missing by themselves; others are asked for a refresh
//! (RFC 2918). Only routes of our own are advertised: those of an internal neighbor never go to another (RFC 4271 §9.2),
//! and relabelling between ASs is not done here. Unicast routes are read, checked, and dropped.

mod adj_out;
mod attrs;
mod change;
mod config;
pub mod decision;
mod import;
mod receive;
mod rtc;
mod send;
mod slab;
mod table;
mod view;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use vrouter_types::{VpnPrefix, VrfId};

use crate::wire::attr::set::LocalAttributes;
use crate::wire::nlri::RtMembership;
use crate::{Family, FamilySet, Negotiated, PeerId};

pub use config::{LocalRoute, PathSource, PeerPolicy, RibConfig, RibEvent, VrfImport, VrfPath, VrfRoute};
pub use view::{PeerCounts, RibCounts, RouteKey, RouteQuery, RouteScope, RouteView};

use adj_out::AdjOut;
use attrs::AttrTable;
use change::Scratch;
use import::Imports;
use rtc::Memberships;
use table::{Source, Table};

/// All routes of one speaker.
#[derive(Debug)]
pub struct Rib {
    config: RibConfig,
    /// The first moment it was told; ages are counted from there.
    epoch: Option<Instant>,
    attrs: AttrTable,
    table: Table,
    imports: Imports,
    /// What we tell neighbors that filter by route target.
    own_memberships: BTreeSet<RtMembership>,
    peers: BTreeMap<PeerId, Peer>,
    /// Received paths that are stored.
    received: usize,
    /// Received paths and memberships that found no room.
    refused: u64,
    /// Paths were refused, and have not been asked for since.
    is_starved: bool,
    scratch: Scratch,
}

/// A neighbor whose session is up.
#[derive(Debug)]
struct Peer {
    source: Source,
    policy: PeerPolicy,
    session: Negotiated,
    /// Its route target memberships, if the family is in force.
    memberships: Option<Memberships>,
    out: AdjOut,
    /// Whether our memberships may differ from what it was told.
    memberships_dirty: bool,
    counts: PeerCounts,
    end_of_rib_heard: FamilySet,
}

impl Rib {
    /// An empty one.
    pub fn new(config: RibConfig) -> Rib {
        Rib {
            config,
            epoch: None,
            attrs: AttrTable::new(),
            table: Table::new(),
            imports: Imports::default(),
            own_memberships: BTreeSet::new(),
            peers: BTreeMap::new(),
            received: 0,
            refused: 0,
            is_starved: false,
            scratch: Scratch::default(),
        }
    }

    /// Replaces what the VRFs import. Held routes are looked at again at once; missing ones are asked for.
    pub fn set_imports(&mut self, vrfs: Vec<VrfImport>, now: Instant) {
        self.age(now);
        let has_grown = self.imports.set(&vrfs);
        self.import_again();
        let targets = self.imports.targets();
        let own = targets.map(|target| RtMembership::full(self.config.asn, target)).collect();
        let before = std::mem::replace(&mut self.own_memberships, own);
        for peer in self.peers.values_mut() {
            let given_up =
                before.difference(&self.own_memberships).filter(|m| peer.out.memberships.contains(m));
            peer.out.memberships_given_up.extend(given_up);
            peer.memberships_dirty = true;
            if has_grown && peer.memberships.is_none() {
                peer.ask_again();
            }
        }
    }

    /// Advertises a route of our own, or replaces it.
    pub fn originate(&mut self, route: LocalRoute, now: Instant) {
        let since = self.age(now);
        let attributes = LocalAttributes {
            next_hop: route.next_hop,
            local_pref: route.local_pref,
            med: route.med,
            route_targets: &route.route_targets,
            encaps: route.encaps,
        };
        attributes.canonical(&mut self.scratch.octets);
        let id = self.attrs.intern(&self.scratch.octets);
        self.put_path(route.prefix, Source::LOCAL, id, route.label, since);
    }

    /// Withdraws a route of our own.
    pub fn withdraw(&mut self, prefix: VpnPrefix, now: Instant) {
        self.age(now);
        self.take_path(prefix, Source::LOCAL);
    }

    /// A session is up: the neighbor will be told everything that it should know.
    pub fn peer_up(&mut self, peer: PeerId, policy: PeerPolicy, negotiated: &Negotiated, now: Instant) {
        self.peer_down(peer, now);
        let families = negotiated.families;
        let out = AdjOut::new(families);
        let state = Peer {
            source: peer.into(),
            policy,
            session: negotiated.clone(),
            memberships: families.contains(Family::Rtc).then(|| Memberships::new(now)),
            out,
            memberships_dirty: true,
            counts: PeerCounts::default(),
            end_of_rib_heard: FamilySet::EMPTY,
        };
        self.peers.insert(peer, state);
    }

    /// A session is gone, and with it everything that the neighbor said.
    pub fn peer_down(&mut self, peer: PeerId, now: Instant) {
        self.age(now);
        let Some(mut gone) = self.peers.remove(&peer) else { return };
        gone.out.clear(&mut self.table, &mut self.attrs);
        let routes = self.table.routes().filter(|(route, _)| self.table.path(*route, gone.source).is_some());
        let keys: Vec<VpnPrefix> = routes.map(|(_, key)| key).collect();
        for key in keys {
            self.take_path(key, gone.source);
        }
    }

    /// When [`Rib::handle_timeout`] is due.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.peers.values().filter_map(|peer| peer.memberships.as_ref()?.wait_until()).min()
    }

    /// Time has passed: neighbors whose memberships did not come are not waited for any longer (RFC 4684 §6).
    pub fn handle_timeout(&mut self, now: Instant) {
        for memberships in self.peers.values_mut().filter_map(|peer| peer.memberships.as_mut()) {
            if memberships.wait_until().is_some_and(|deadline| deadline <= now) {
                memberships.stop_waiting();
            }
        }
    }

    /// The next change for a VRF. Changes that cancelled out are not seen.
    pub fn poll_event(&mut self) -> Option<RibEvent> {
        loop {
            let (vrf, prefix) = self.select_for_vrf()?;
            let paths = &self.scratch.paths;
            if self.imports.tell(vrf, prefix, paths) {
                return Some(RibEvent::VrfRoute(VrfRoute { vrf, prefix, paths: paths.clone() }));
            }
        }
    }

    /// Seconds since the first moment it was told.
    fn age(&mut self, now: Instant) -> u32 {
        let epoch = *self.epoch.get_or_insert(now);
        u32::try_from(now.saturating_duration_since(epoch).as_secs()).unwrap_or(u32::MAX)
    }
}

impl Peer {
    /// Asks for all its VPN routes once more (RFC 2918).
    fn ask_again(&mut self) {
        if self.session.route_refresh {
            let carried = VPN.into_iter().filter(|family| self.session.families.contains(*family));
            self.out.requests.extend(carried);
        }
    }
}

/// Families that carry VPN routes, in the order they are sent.
const VPN: [Family; 2] = [Family::Vpnv4, Family::Vpnv6];
