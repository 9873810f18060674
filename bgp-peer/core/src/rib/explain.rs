//! Why a prefix is, or is not, where an operator looks for it.

use vrouter_types::{Prefix, RouteTarget, VpnPrefix, VrfId};

use crate::PeerId;

use super::Rib;
use super::decision::{Step, decide};
use super::table::{Path, RouteId, family_of};
use super::view::RouteView;

/// Everything that is known of a prefix, from the point of view of one VRF.
#[derive(Debug, Clone, PartialEq)]
pub struct Explanation {
    /// The VRF.
    pub vrf: VrfId,
    /// The prefix.
    pub prefix: Prefix,
    /// What the VRF imports.
    pub imports: Vec<RouteTarget>,
    /// Every path that is held, under any route distinguisher. Received ones that no VRF imports are not, unless we
    /// reflect.
    pub candidates: Vec<ExplainedPath>,
}

/// One path, and what became of it.
#[derive(Debug, Clone, PartialEq)]
pub struct ExplainedPath {
    /// The path.
    pub route: RouteView,
    /// Whether the VRF imports it: they have a route target in common.
    pub is_imported: bool,
    /// The step that removed it from among those that the VRF imports. `None`: it carries traffic, if it is imported.
    pub lost: Option<Step>,
    /// The step that removed it from among those under its route distinguisher. `None`: it is the best.
    pub lost_in_table: Option<Step>,
    /// Of the best path: for every neighbor with a session, why it is not told of it. `None`: it is told.
    pub advertised: Vec<(PeerId, Option<NotAdvertised>)>,
}

impl Rib {
    /// Why the VRF's traffic to a prefix goes where it goes, and who is told.
    pub fn explain(&self, vrf: VrfId, prefix: Prefix) -> Explanation {
        let routes: Vec<(RouteId, VpnPrefix)> =
            self.table.routes().filter(|(_, key)| key.prefix == prefix).collect();
        let in_vrf: Vec<Path> = routes
            .iter()
            .flat_map(|(route, _)| self.table.paths(*route))
            .filter(|path| self.imports.is_importer(vrf, self.attrs.set(path.attrs)))
            .copied()
            .collect();
        let lost_in_vrf = self.lost(&in_vrf, Step::InteriorCost);
        let mut candidates = Vec::new();
        for (route, key) in routes {
            let paths: Vec<Path> = self.table.paths(route).copied().collect();
            for (path, lost_in_table) in paths.iter().zip(self.lost(&paths, Step::PeerAddress)) {
                let imported = in_vrf.iter().position(|candidate| candidate == path);
                candidates.push(ExplainedPath {
                    route: self.vpn_view(key, path),
                    is_imported: imported.is_some(),
                    lost: imported.and_then(|index| *lost_in_vrf.get(index)?),
                    lost_in_table,
                    advertised: if path.is_best() { self.told_of(path, key) } else { Vec::new() },
                });
            }
        }
        candidates.sort_by_key(|candidate| (!candidate.is_imported, candidate.lost, candidate.route.key));
        Explanation { vrf, prefix, imports: self.imports.targets_of(vrf), candidates }
    }

    fn lost(&self, paths: &[Path], last: Step) -> Vec<Option<Step>> {
        let mut candidates: Vec<_> = paths
            .iter()
            .filter_map(|path| Some(self.candidate(path, self.attrs.merits(path.attrs)?)))
            .collect();
        self.widen(&mut candidates, last);
        let mut lost = Vec::new();
        decide(&candidates, last, &mut lost);
        lost
    }

    fn told_of(&self, best: &Path, key: VpnPrefix) -> Vec<(PeerId, Option<NotAdvertised>)> {
        let reason = |(id, peer): (&PeerId, &super::Peer)| {
            let to = self.senders.get(id)?;
            Some((*id, peer.refusal(best, family_of(key), &self.senders, to, &self.attrs)))
        };
        self.peers.iter().filter_map(reason).collect()
    }
}

/// Why a neighbor is not told of a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotAdvertised {
    /// There is no usable path.
    NoRoute,
    /// The family is not in force on the session.
    FamilyOff,
    /// The neighbor said it, or its originator is the neighbor.
    OwnRoute,
    /// It came from an internal neighbor, and neither of the two is a client (RFC 4456 §6), or from another AS.
    SplitHorizon,
    /// Its IPv6 next hop cannot be said in this family (RFC 8950).
    NextHop,
    /// NO_ADVERTISE, or NO_EXPORT towards another AS (RFC 1997).
    Community,
    /// It is long-lived stale, which the neighbor does not know (RFC 9494 §4.3).
    LongLived,
    /// The neighbor announced no membership for its route targets (RFC 4684).
    NoMembership,
}

impl std::fmt::Display for NotAdvertised {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            NotAdvertised::NoRoute => "no usable path",
            NotAdvertised::FamilyOff => "family not in force",
            NotAdvertised::OwnRoute => "the neighbor's own route",
            NotAdvertised::SplitHorizon => "split horizon: neither end is a client",
            NotAdvertised::NextHop => "IPv6 next hop not negotiated",
            NotAdvertised::Community => "its community forbids it",
            NotAdvertised::LongLived => "long-lived stale, which the neighbor does not know",
            NotAdvertised::NoMembership => "no membership for its route targets",
        })
    }
}
