//! Looking into the RIB: routes for `show bgp routes`, counts for `show bgp summary`.

use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use vrouter_types::{EncapSet, Label, Prefix, RouteDistinguisher, RouteTarget, VpnPrefix, VrfId};

use crate::wire::attr::Malformed;
use crate::wire::attr::check::Origin;
use crate::wire::attr::code;
use crate::wire::attr::set::{AttrSet, DEFAULT_LOCAL_PREF};
use crate::wire::community::{Community, LargeCommunity, communities, large_communities};
use crate::wire::ext_community::{ExtCommunity, ext_communities};
use crate::wire::nlri::RtMembership;
use crate::{Family, FamilySet, PeerId};

use super::config::PathSource;
use super::table::{Path, RouteId, family_of};
use super::{Rib, Sender};

/// What a route is known by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RouteKey {
    /// A VPN route.
    Vpn(VpnPrefix),
    /// Interest in a route target.
    Rtc(RtMembership),
}

impl RouteKey {
    /// The family it travels in.
    pub fn family(&self) -> Family {
        match self {
            RouteKey::Vpn(key) => family_of(*key),
            RouteKey::Rtc(_) => Family::Rtc,
        }
    }
}

impl std::fmt::Display for RouteKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            RouteKey::Vpn(key) => key.fmt(f),
            RouteKey::Rtc(membership) => membership.fmt(f),
        }
    }
}

/// Which routes to show; `None`: no matter.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RouteQuery {
    /// Of this family.
    pub family: Option<Family>,
    /// Under this route distinguisher.
    pub rd: Option<RouteDistinguisher>,
    /// Carrying this route target.
    pub rt: Option<RouteTarget>,
    /// This prefix and those inside it.
    pub prefix: Option<Prefix>,
    /// Whose.
    pub scope: RouteScope,
}

/// Whose routes to show.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum RouteScope {
    /// All that are held.
    #[default]
    All,
    /// Those received from this neighbor and kept.
    Received(PeerId),
    /// Those that this neighbor has been told.
    Advertised(PeerId),
}

/// One path of one route.
#[derive(Debug, Clone, PartialEq)]
pub struct RouteView {
    /// The route.
    pub key: RouteKey,
    /// Its label; absent for route target memberships.
    pub label: Option<Label>,
    /// The next hop.
    pub next_hop: IpAddr,
    /// ORIGIN.
    pub origin: Origin,
    /// AS_PATH, as operators write it.
    pub as_path: String,
    /// LOCAL_PREF.
    pub local_pref: u32,
    /// MULTI_EXIT_DISC.
    pub med: Option<u32>,
    /// COMMUNITIES.
    pub communities: Vec<Community>,
    /// LARGE_COMMUNITY.
    pub large_communities: Vec<LargeCommunity>,
    /// EXTENDED COMMUNITIES, route targets among them.
    pub ext_communities: Vec<ExtCommunity>,
    /// Route targets.
    pub route_targets: Vec<RouteTarget>,
    /// Encapsulations that the route names and we know.
    pub encaps: EncapSet,
    /// ORIGINATOR_ID.
    pub originator_id: Option<Ipv4Addr>,
    /// CLUSTER_LIST.
    pub cluster_list: Vec<Ipv4Addr>,
    /// Where the path came from.
    pub source: PathSource,
    /// Whether it is the best of its route.
    pub is_best: bool,
    /// Whether it waits to be confirmed in a refresh.
    pub is_stale: bool,
    /// VRFs that import it.
    pub imported_by: Vec<VrfId>,
    /// Since when it is as it is, to the second; not known of memberships.
    pub since: Option<Instant>,
}

/// A route target membership: interest in the routes of a target (RFC 4684).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RtcView {
    /// Which.
    pub membership: RtMembership,
    /// Whose it is.
    pub sources: Vec<PathSource>,
    /// Neighbors that have been told of it.
    pub told: Vec<PeerId>,
}

/// Totals.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RibCounts {
    /// VPN routes.
    pub routes: usize,
    /// Their paths, received and our own.
    pub paths: usize,
    /// Different attribute sets.
    pub attribute_sets: usize,
    /// Received paths and memberships that found no room.
    pub refused: u64,
}

/// One neighbor's counts, since its session came up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PeerCounts {
    /// VPN routes held from it.
    pub received: usize,
    /// VPN routes it has been told.
    pub advertised: usize,
    /// Route target memberships held from it.
    pub memberships_received: usize,
    /// Route target memberships it has been told.
    pub memberships_advertised: usize,
    /// Malformed UPDATEs whose routes were treated as withdrawn (RFC 7606).
    pub updates_malformed: u64,
    /// What was wrong with the last of them.
    pub last_malformed: Option<Malformed>,
    /// Attributes that were discarded (RFC 7606).
    pub attributes_discarded: u64,
    /// UPDATEs that had been here before.
    pub updates_looped: u64,
    /// UPDATEs that no VRF imports.
    pub updates_not_imported: u64,
    /// Routes whose attributes fit no message.
    pub routes_too_long: u64,
}

impl Rib {
    /// Totals.
    pub fn counts(&self) -> RibCounts {
        RibCounts {
            routes: self.table.route_count(),
            paths: self.table.path_count(),
            attribute_sets: self.attrs.len(),
            refused: self.refused,
        }
    }

    /// One neighbor's counts, if its session is up.
    pub fn peer_counts(&self, peer: PeerId) -> Option<PeerCounts> {
        let state = self.peers.get(&peer)?;
        let sender = self.senders.get(&peer)?;
        Some(PeerCounts {
            received: sender.paths,
            advertised: state.out.told,
            memberships_received: sender.memberships.as_ref().map_or(0, |all| all.len()),
            memberships_advertised: state.out.memberships.len(),
            routes_too_long: state.out.too_long,
            ..state.counts
        })
    }

    /// Families of which the neighbor has said that it has sent everything (RFC 4724 §2).
    pub fn end_of_rib_heard(&self, peer: PeerId) -> FamilySet {
        self.peers.get(&peer).map_or(FamilySet::EMPTY, |state| state.end_of_rib_heard)
    }

    /// Who announced, and who was told, which memberships.
    pub fn rtc(&self) -> Vec<RtcView> {
        let known = |membership| {
            let received = self.interest.get(&membership).into_iter().flatten();
            let own = self.own_memberships.contains(&membership).then_some(PathSource::Local);
            let told = self.peers.iter().filter(|(_, peer)| peer.out.memberships.contains_key(&membership));
            RtcView {
                membership,
                sources: own.into_iter().chain(received.map(|peer| PathSource::Peer(*peer))).collect(),
                told: told.map(|(peer, _)| *peer).collect(),
            }
        };
        let all = self.all_memberships().into_iter().map(known);
        all.filter(|view| !view.sources.is_empty() || !view.told.is_empty()).collect()
    }

    /// Routes, in order, the best path of each first.
    pub fn routes(&self, query: &RouteQuery) -> Vec<RouteView> {
        let mut views = match query.scope {
            RouteScope::All => {
                let senders = self.senders.iter().map(|(id, sender)| (PathSource::Peer(*id), sender));
                let memberships =
                    senders.flat_map(|(source, sender)| self.received_memberships(source, sender));
                let own =
                    self.own_memberships.iter().map(|own| self.membership_view(*own, PathSource::Local));
                self.paths(None).chain(own).chain(memberships).collect()
            }
            RouteScope::Received(id) => self.received_from(id),
            RouteScope::Advertised(id) => self.advertised_to(id),
        };
        views.retain(|view: &RouteView| query.admits(view));
        views.sort_by_key(|view| (view.key, !view.is_best, view.source));
        views
    }

    fn received_from(&self, id: PeerId) -> Vec<RouteView> {
        let Some(sender) = self.senders.get(&id) else { return Vec::new() };
        let source = PathSource::Peer(id);
        self.paths(Some(source)).chain(self.received_memberships(source, sender)).collect()
    }

    fn advertised_to(&self, id: PeerId) -> Vec<RouteView> {
        let Some(peer) = self.peers.get(&id) else { return Vec::new() };
        let told = peer.out.known().filter_map(|(route, attrs, label)| {
            // Age and marks are those of the path that stands for it now, if there is one.
            let path = self.table.best(route)?;
            let view = self.vpn_view(self.table.key(route)?, path);
            Some(RouteView { label: Some(label), ..view.with_set(self.attrs.set(attrs)) })
        });
        let memberships = peer.out.memberships.keys();
        told.chain(memberships.map(|own| self.membership_view(*own, PathSource::Local))).collect()
    }

    fn paths(&self, source: Option<PathSource>) -> impl Iterator<Item = RouteView> {
        let of_route = |(route, key): (RouteId, VpnPrefix)| {
            self.table.paths(route).map(move |path| (key, path)).collect::<Vec<_>>()
        };
        self.table
            .routes()
            .flat_map(of_route)
            .filter(move |(_, path)| source.is_none_or(|source| source == path.source.into()))
            .map(|(key, path)| self.vpn_view(key, path))
    }

    fn received_memberships(&self, source: PathSource, sender: &Sender) -> impl Iterator<Item = RouteView> {
        let all = sender.memberships.iter().flat_map(|memberships| memberships.iter());
        all.map(move |membership| self.membership_view(*membership, source))
    }

    pub(super) fn vpn_view(&self, key: VpnPrefix, path: &Path) -> RouteView {
        let mut imported_by = Vec::new();
        let set = self.attrs.set(path.attrs);
        self.imports.importers(set, &mut imported_by);
        let view = RouteView {
            label: Some(path.label()),
            is_best: path.is_best(),
            is_stale: path.is_stale(),
            imported_by,
            since: self.moment(path.since),
            ..self.membership_view(RtMembership::DEFAULT, path.source.into())
        };
        RouteView { key: RouteKey::Vpn(key), ..view.with_set(set) }
    }

    /// Attributes of memberships are not kept: they decide nothing.
    fn membership_view(&self, membership: RtMembership, source: PathSource) -> RouteView {
        let next_hop = match source {
            PathSource::Local => self.config.router_id.into(),
            PathSource::Peer(id) => {
                self.senders.get(&id).map_or(Ipv4Addr::UNSPECIFIED.into(), |sender| sender.policy.address)
            }
        };
        RouteView {
            key: RouteKey::Rtc(membership),
            label: None,
            next_hop,
            origin: Origin::Igp,
            as_path: String::new(),
            local_pref: DEFAULT_LOCAL_PREF,
            med: None,
            communities: Vec::new(),
            large_communities: Vec::new(),
            ext_communities: Vec::new(),
            route_targets: Vec::new(),
            encaps: EncapSet::EMPTY,
            originator_id: None,
            cluster_list: Vec::new(),
            source,
            is_best: true,
            is_stale: false,
            imported_by: Vec::new(),
            since: None,
        }
    }

    fn moment(&self, since: u32) -> Option<Instant> {
        self.epoch?.checked_add(Duration::from_secs(since.into()))
    }
}

impl RouteView {
    fn with_set(self, set: AttrSet<'_>) -> RouteView {
        RouteView {
            next_hop: set.next_hop().to_canonical(),
            origin: set.origin(),
            as_path: set.as_path().to_string(),
            local_pref: set.local_pref(),
            med: set.med(),
            communities: communities(set.value(code::COMMUNITIES)).collect(),
            large_communities: large_communities(set.value(code::LARGE_COMMUNITY)).collect(),
            ext_communities: ext_communities(set.ext_communities()).collect(),
            route_targets: set.route_targets().collect(),
            encaps: set.named_encaps().set(),
            originator_id: set.originator_id(),
            cluster_list: set.cluster_list().collect(),
            ..self
        }
    }
}

impl RouteQuery {
    fn admits(&self, view: &RouteView) -> bool {
        let (rd, prefix) = match view.key {
            RouteKey::Vpn(VpnPrefix { rd, prefix }) => (Some(rd), Some(prefix)),
            RouteKey::Rtc(_) => (None, None),
        };
        let is_inside = |outer: Prefix| {
            prefix.is_some_and(|inner| outer.len() <= inner.len() && outer.contains(inner.addr()))
        };
        let carries = |target: RouteTarget| match view.key {
            RouteKey::Vpn(_) => view.route_targets.contains(&target),
            RouteKey::Rtc(membership) => membership.wants(target.octets()),
        };
        self.family.is_none_or(|family| family == view.key.family())
            && self.rd.is_none_or(|wanted| rd == Some(wanted))
            && self.prefix.is_none_or(is_inside)
            && self.rt.is_none_or(carries)
    }
}
