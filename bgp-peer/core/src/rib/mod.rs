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
//! Import comes before storing: a received route that no VRF imports is not kept (RFC 4364 §4.3.1), unless we reflect. When
//! imports grow, neighbors that filter by route target (RFC 4684) send what is missing by themselves; others are asked for
//! a refresh (RFC 2918). Advertised are routes of our own and, as a reflector (RFC 4456), those of internal neighbors to
//! and from clients, unchanged but for ORIGINATOR_ID and CLUSTER_LIST. Routes of other ASs are not passed on: relabelling
//! is not done here. Unicast routes are read, checked, and dropped.
//!
//! A `Sender` is a neighbor as the one who said things; it outlives its session while its routes wait as stale
//! (RFC 4724, RFC 9494). A `Peer` is a neighbor that can be told things.

mod adj_out;
mod attrs;
mod change;
mod config;
pub mod decision;
mod explain;
mod import;
mod memory;
mod receive;
mod reflect;
mod rtc;
mod send;
mod sender;
mod slab;
mod stale;
mod table;
mod view;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;
use std::time::Instant;

use vrouter_types::{VpnPrefix, VrfId};

use crate::wire::attr::set::LocalAttributes;
use crate::wire::nlri::RtMembership;
use crate::{Family, FamilySet, Negotiated, PeerId};

pub use config::{
    LocalRoute, PathSource, PeerDown, PeerPolicy, RibConfig, RibEvent, VrfImport, VrfPath, VrfRoute,
};
pub use explain::{ExplainedPath, Explanation, NotAdvertised};
pub use memory::{MemoryPart, MemoryReport};
pub use view::{PeerCounts, RibCounts, RouteKey, RouteQuery, RouteScope, RouteView, RtcView};

use adj_out::AdjOut;
use attrs::AttrTable;
use change::Scratch;
use import::Imports;
use rtc::Memberships;
use sender::Sender;
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
    /// Which neighbors announced which membership.
    interest: BTreeMap<RtMembership, BTreeSet<PeerId>>,
    /// Whose session is up.
    peers: BTreeMap<PeerId, Peer>,
    /// Whose session is up, or whose routes are kept.
    senders: BTreeMap<PeerId, Sender>,
    is_reflector: bool,
    /// Where our own routes lead, with how many do.
    own_next_hops: BTreeMap<IpAddr, usize>,
    /// After a restart: our End-of-RIB waits, until then at most.
    deferral: Option<Instant>,
    are_local_routes_complete: bool,
    /// What is to be told beside routes.
    notices: VecDeque<RibEvent>,
    /// Received paths that are stored.
    received: usize,
    /// Received paths and memberships that found no room.
    refused: u64,
    /// Paths were refused, and have not been asked for since.
    is_starved: bool,
    /// The most routes and imported prefixes there were since memory was last given back.
    most: usize,
    scratch: Scratch,
}

/// A neighbor whose session is up.
#[derive(Debug)]
struct Peer {
    source: Source,
    session: Negotiated,
    out: AdjOut,
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
            interest: BTreeMap::new(),
            peers: BTreeMap::new(),
            senders: BTreeMap::new(),
            is_reflector: false,
            own_next_hops: BTreeMap::new(),
            deferral: None,
            are_local_routes_complete: true,
            notices: VecDeque::new(),
            received: 0,
            refused: 0,
            is_starved: false,
            most: 0,
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
        for (id, peer) in &mut self.peers {
            if !self.is_reflector {
                let given_up =
                    before.difference(&self.own_memberships).filter(|m| peer.out.memberships.contains_key(m));
                peer.out.memberships_given_up.extend(given_up);
                if has_grown && self.senders.get(id).is_some_and(|sender| sender.memberships.is_none()) {
                    peer.ask_again();
                }
            }
            peer.out.memberships_dirty.extend(before.symmetric_difference(&self.own_memberships));
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
            as_path: &route.as_path_prepend,
            communities: &route.communities,
            large_communities: &route.large_communities,
            hash_order: route.hash_order,
        };
        attributes.canonical(&mut self.scratch.octets);
        let id = self.attrs.intern(&self.scratch.octets);
        self.forget_own_next_hop(route.prefix);
        *self.own_next_hops.entry(route.next_hop.to_canonical()).or_default() += 1;
        self.put_path(route.prefix, Source::LOCAL, id, route.label, since);
    }

    /// Withdraws a route of our own.
    pub fn withdraw(&mut self, prefix: VpnPrefix, now: Instant) {
        self.age(now);
        self.forget_own_next_hop(prefix);
        self.take_path(prefix, Source::LOCAL);
    }

    fn forget_own_next_hop(&mut self, prefix: VpnPrefix) {
        let own = self.table.find(prefix).and_then(|route| self.table.path(route, Source::LOCAL));
        let Some(merits) = own.and_then(|path| self.attrs.merits(path.attrs)) else { return };
        if let Some(count) = self.own_next_hops.get_mut(&merits.next_hop) {
            *count -= 1;
            if *count == 0 {
                self.own_next_hops.remove(&merits.next_hop);
            }
        }
    }

    /// A session is up: the neighbor will be told everything that it should know. Routes that were kept for it wait for
    /// its End-of-RIB, except those of families whose forwarding state it has not kept (RFC 4724 §4.2).
    pub fn peer_up(&mut self, peer: PeerId, policy: PeerPolicy, negotiated: &Negotiated, now: Instant) {
        if self.peers.contains_key(&peer) {
            self.peer_down(peer, PeerDown::Purge, now);
        }
        self.age(now);
        if policy.route_reflector_client {
            self.set_reflector(true, now);
        }
        let families = negotiated.families;
        let mut sender = Sender::new(policy, negotiated);
        if let Some(kept) = self.senders.remove(&peer) {
            sender = Sender { paths: kept.paths, stale: kept.stale, memberships: kept.memberships, ..sender };
        }
        if families.contains(Family::Rtc) {
            sender.memberships.get_or_insert_with(Memberships::new).wait(now);
        }
        sender.formerly = self.formerly(peer, &sender);
        self.senders.insert(peer, sender);
        let mut out = AdjOut::new(families);
        out.memberships_dirty = self.all_memberships();
        let state = Peer {
            source: peer.into(),
            session: negotiated.clone(),
            out,
            counts: PeerCounts::default(),
            end_of_rib_heard: FamilySet::EMPTY,
        };
        self.peers.insert(peer, state);
        self.resume(peer, negotiated, now);
        self.membership_changed(RtMembership::DEFAULT);
    }

    /// A session is gone, and with it what the neighbor said, unless that is to be kept. Where no session was, what is
    /// kept from the last one goes, unless it is to be kept further.
    pub fn peer_down(&mut self, peer: PeerId, how: PeerDown, now: Instant) {
        self.age(now);
        if let Some(mut gone) = self.peers.remove(&peer) {
            gone.out.clear(&mut self.table, &mut self.attrs);
        }
        self.keep_or_purge(peer, how);
        self.membership_changed(RtMembership::DEFAULT);
    }

    /// When [`Rib::handle_timeout`] is due.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let waits = self.senders.values().filter_map(|sender| sender.memberships.as_ref()?.wait_until());
        let stale = self.senders.values().flat_map(|sender| sender.stale.iter().map(|stale| stale.until));
        waits.chain(stale).chain(self.deferral).min()
    }

    /// Time has passed: neighbors whose memberships did not come are not waited for any longer (RFC 4684 §6), nor are
    /// those that did not come back (RFC 4724 §4.2).
    pub fn handle_timeout(&mut self, now: Instant) {
        for memberships in self.senders.values_mut().filter_map(|sender| sender.memberships.as_mut()) {
            if memberships.wait_until().is_some_and(|deadline| deadline <= now) {
                memberships.stop_waiting();
            }
        }
        if self.deferral.is_some_and(|deadline| deadline <= now) {
            self.deferral = None;
            self.are_local_routes_complete = true;
        }
        self.stale_timeout(now);
    }

    /// We have restarted (RFC 4724 §4.1): our End-of-RIB for VPN routes waits for [`Rib::local_routes_complete`], a
    /// reflector's also for that of everyone else, and for both until this moment at most. What is known is advertised
    /// all the same: the neighbor keeps the rest until then.
    pub fn defer_end_of_rib(&mut self, until: Instant) {
        self.deferral = Some(until);
        self.are_local_routes_complete = false;
    }

    /// All routes of our own have been originated.
    pub fn local_routes_complete(&mut self) {
        self.are_local_routes_complete = true;
    }

    /// Whether so much has gone since the last time that it is worth giving memory back to the system.
    pub fn has_shrunk(&mut self) -> bool {
        // A VRF's prefix stays until it has been told that it is gone.
        let present = self.table.route_count() + self.imports.len();
        self.most = self.most.max(present);
        let has_shrunk = self.most - present >= WORTHWHILE && present <= self.most / 2;
        if has_shrunk {
            self.most = present;
        }
        has_shrunk
    }

    /// The next change for a VRF. Changes that cancelled out are not seen.
    pub fn poll_event(&mut self) -> Option<RibEvent> {
        loop {
            if let Some(notice) = self.notices.pop_front() {
                return Some(notice);
            }
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

/// Routes whose memory is worth giving back: half a megabyte.
const WORTHWHILE: usize = 4096;
/// Families that carry VPN routes, in the order they are sent.
const VPN: [Family; 2] = [Family::Vpnv4, Family::Vpnv6];
