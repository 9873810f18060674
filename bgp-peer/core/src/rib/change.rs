//! A path comes, changes or goes: everything that follows from it.

use vrouter_types::{EncapSet, Label, Prefix, VpnPrefix};

use super::attrs::{AttrId, Merits};
use super::config::{PathSource, RibEvent, VrfPath};
use super::decision::{Candidate, Step, decide};
use super::sender::Sender;
use super::table::{Path, RouteId, Source};
use super::{Rib, VrfId};

/// Buffers that are used again.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    pub(super) octets: Vec<u8>,
    pub(super) more_octets: Vec<u8>,
    pub(super) paths: Vec<VrfPath>,
    importers: Vec<VrfId>,
    more_importers: Vec<VrfId>,
    candidates: Vec<Candidate>,
    lost: Vec<Option<Step>>,
    offered: Vec<(RouteId, Path)>,
}

impl Rib {
    /// Stores a path. The caller's count of the attribute set goes with it.
    pub(super) fn put_path(
        &mut self,
        key: VpnPrefix,
        source: Source,
        attrs: AttrId,
        label: Label,
        since: u32,
    ) {
        let route = self.table.find_or_insert(key);
        let path = Path::new(source, attrs, label, since);
        let known = self.table.path(route, source).copied();
        let has_room = source.is_local() || known.is_some() || self.has_room(source);
        if !has_room || known.is_some_and(|known| known.says_the_same(&path)) {
            self.table.set_stale(route, source, false);
            self.attrs.release(attrs);
            self.table.forget_if_unused(route);
            return;
        }
        let best = self.table.best(route).copied();
        if self.table.put(route, path).is_none()
            && let Some(sender) = self.sender_mut(source)
        {
            sender.paths += 1;
            self.received += 1;
        }
        self.path_changed(route, key.prefix, known.map(|known| known.attrs), Some(attrs), best);
        if let Some(known) = known {
            self.attrs.release(known.attrs);
        }
    }

    /// Removes a path, if there is one.
    pub(super) fn take_path(&mut self, key: VpnPrefix, source: Source) {
        if let Some(route) = self.table.find(key) {
            self.take_path_of(route, key, source);
        }
    }

    pub(super) fn take_path_of(&mut self, route: RouteId, key: VpnPrefix, source: Source) {
        let best = self.table.best(route).copied();
        let Some(gone) = self.table.take(route, source) else { return };
        if let Some(sender) = self.sender_mut(source) {
            sender.paths -= 1;
            self.received -= 1;
            self.make_up_for_refusals();
        }
        self.path_changed(route, key.prefix, Some(gone.attrs), None, best);
        self.attrs.release(gone.attrs);
        self.table.forget_if_unused(route);
    }

    /// Whether one path more may be stored from a neighbor; if not, that is counted and told.
    fn has_room(&mut self, source: Source) -> bool {
        let has_room = self.received < self.config.max_paths;
        if !has_room {
            self.refused += 1;
            self.is_starved = true;
            return false;
        }
        let PathSource::Peer(id) = PathSource::from(source) else { return true };
        let Some(sender) = self.senders.get_mut(&id) else { return false };
        let is_within = sender.policy.max_prefixes.is_none_or(|most| sender.paths < most);
        if !is_within {
            self.refused += 1;
            if !std::mem::replace(&mut sender.is_over_limit, true) {
                self.notices.push_back(RibEvent::PrefixLimit(id));
            }
        }
        is_within
    }

    fn sender_mut(&mut self, source: Source) -> Option<&mut Sender> {
        match PathSource::from(source) {
            PathSource::Local => None,
            PathSource::Peer(peer) => self.senders.get_mut(&peer),
        }
    }

    /// There is room again for what was refused: asks for it. A tenth must be free, or a full table would ask all the time.
    fn make_up_for_refusals(&mut self) {
        if self.is_starved && self.received <= self.config.max_paths - self.config.max_paths / 10 {
            self.is_starved = false;
            self.peers.values_mut().for_each(super::Peer::ask_again);
        }
    }

    /// Imports have changed: drops what nobody imports any more and hands the rest to its importers.
    pub(super) fn import_again(&mut self) {
        let routes: Vec<(RouteId, VpnPrefix)> = self.table.routes().collect();
        let mut importers = std::mem::take(&mut self.scratch.importers);
        for (route, key) in routes {
            let paths: Vec<Path> = self.table.paths(route).copied().collect();
            for path in paths {
                self.imports.importers(self.attrs.set(path.attrs), &mut importers);
                if importers.is_empty() && !path.source.is_local() && !self.is_reflector {
                    self.take_path(key, path.source);
                }
                for vrf in &importers {
                    self.imports.update(*vrf, key.prefix, route, true);
                }
            }
        }
        self.scratch.importers = importers;
    }

    /// Works out what the next VRF with changes should use for a prefix, into `scratch.paths`.
    pub(super) fn select_for_vrf(&mut self) -> Option<(VrfId, Prefix)> {
        let (vrf, prefix, routes) = self.imports.next_dirty()?;
        let mut offered = std::mem::take(&mut self.scratch.offered);
        offered.clear();
        offered.extend(routes.iter().flat_map(|route| self.table.paths(*route).map(|path| (*route, *path))));
        offered.retain(|(_, path)| self.imports.is_importer(vrf, self.attrs.set(path.attrs)));
        self.compare(offered.iter().map(|(_, path)| *path), Step::InteriorCost);
        let mut paths = std::mem::take(&mut self.scratch.paths);
        paths.clear();
        let best = offered.iter().zip(&self.scratch.lost).filter(|(_, lost)| lost.is_none());
        paths.extend(best.filter_map(|((route, path), _)| self.vrf_path(*route, path)));
        // One way under several names, or told by two reflectors, is one way.
        paths.sort_by_key(|path| (path.next_hop, path.label, path.rd, path.source));
        paths.dedup_by_key(|path| (path.next_hop, path.label));
        paths.sort_by_key(|path| path.rd);
        (self.scratch.paths, self.scratch.offered) = (paths, offered);
        Some((vrf, prefix))
    }

    fn vrf_path(&self, route: RouteId, path: &Path) -> Option<VrfPath> {
        let merits = self.attrs.merits(path.attrs)?;
        let source = PathSource::from(path.source);
        let default_encap = match source {
            PathSource::Local => None,
            PathSource::Peer(peer) => self.senders.get(&peer).and_then(|sender| sender.policy.default_encap),
        };
        let named = merits.encaps.set();
        let encaps = if named.is_empty() { EncapSet::from_iter(default_encap) } else { named };
        Some(VrfPath {
            rd: self.table.key(route)?.rd,
            next_hop: merits.next_hop,
            label: path.label(),
            encaps,
            local_pref: merits.local_pref,
            source,
        })
    }

    fn path_changed(
        &mut self,
        route: RouteId,
        prefix: Prefix,
        before: Option<AttrId>,
        after: Option<AttrId>,
        best_before: Option<Path>,
    ) {
        self.select_best(route);
        let best = self.table.best(route).copied();
        let is_told =
            |best: Option<Path>| best.is_some_and(|best| best.source.is_local() || self.is_reflector);
        let is_same = match (best_before, best) {
            (Some(before), Some(after)) => before.says_the_same(&after),
            (before, after) => before.is_none() && after.is_none(),
        };
        if !is_same && (is_told(best_before) || is_told(best)) {
            self.peers.values_mut().for_each(|peer| peer.out.touch(route));
        }
        if self.imports.is_empty() {
            return;
        }
        let (mut affected, mut more) =
            (std::mem::take(&mut self.scratch.importers), std::mem::take(&mut self.scratch.more_importers));
        affected.clear();
        for id in [before, after].into_iter().flatten() {
            self.imports.importers(self.attrs.set(id), &mut more);
            affected.extend_from_slice(&more);
        }
        affected.sort_unstable();
        affected.dedup();
        for vrf in &affected {
            let imported = |path: &Path| self.imports.is_importer(*vrf, self.attrs.set(path.attrs));
            let is_imported = self.table.paths(route).any(imported);
            self.imports.update(*vrf, prefix, route, is_imported);
        }
        (self.scratch.importers, self.scratch.more_importers) = (affected, more);
    }

    fn select_best(&mut self, route: RouteId) {
        // Nearly every route has one path or none: nothing to compare.
        if self.table.paths(route).next().is_none() {
            return;
        }
        if let Some(only) = self.table.only_path(route) {
            let is_usable = self.attrs.merits(only.attrs).is_some_and(|merits| merits.encaps.is_usable());
            return only.set_best(is_usable || self.is_reflector);
        }
        let mut offered = std::mem::take(&mut self.scratch.offered);
        offered.clear();
        offered.extend(self.table.paths(route).map(|path| (route, *path)));
        self.compare(offered.iter().map(|(_, path)| *path), Step::PeerAddress);
        let best = offered.iter().zip(&self.scratch.lost).find(|(_, lost)| lost.is_none());
        self.table.set_best(route, best.map(|((_, path), _)| path.source));
        self.scratch.offered = offered;
    }

    /// Leaves in `scratch.lost` which of the paths are worse than another, and why.
    fn compare(&mut self, paths: impl Iterator<Item = Path>, last: Step) {
        let mut candidates = std::mem::take(&mut self.scratch.candidates);
        candidates.clear();
        candidates
            .extend(paths.filter_map(|path| Some(self.candidate(&path, self.attrs.merits(path.attrs)?))));
        self.widen(&mut candidates, last);
        decide(&candidates, last, &mut self.scratch.lost);
        self.scratch.candidates = candidates;
    }

    /// What we cannot use ourselves, those we reflect to may.
    pub(super) fn widen(&self, candidates: &mut [Candidate], last: Step) {
        if self.is_reflector && last == Step::PeerAddress {
            candidates.iter_mut().for_each(|candidate| candidate.is_usable = true);
        }
    }

    pub(super) fn candidate(&self, path: &Path, merits: &Merits) -> Candidate {
        let sender = match PathSource::from(path.source) {
            PathSource::Local => None,
            PathSource::Peer(peer) => self.senders.get(&peer),
        };
        let router_id = sender.map_or(self.config.router_id, |sender| sender.router_id);
        Candidate {
            is_usable: merits.encaps.is_usable(),
            is_long_lived: merits.is_long_lived,
            is_local: path.source.is_local(),
            local_pref: merits.local_pref,
            as_path_length: merits.as_path_length,
            origin: merits.origin,
            neighbor_as: merits.neighbor_as,
            med: merits.med,
            is_external: sender.is_some_and(|sender| !sender.is_ibgp),
            identifier: merits.originator_id.unwrap_or(router_id),
            cluster_list_length: merits.cluster_list_length,
            peer_address: sender.map(|sender| sender.policy.address),
        }
    }
}
