//! Which VRF imports what (RFC 4364 §4.3.1), and what each VRF was told last.
//!
//! Per VRF and prefix: the routes that carry one of its import targets, under any route distinguisher. Changes mark the
//! prefix; what to tell is worked out when it is asked for, so that changes in between cost nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::BuildHasher;
use std::num::NonZeroU64;

use hashbrown::{DefaultHashBuilder, HashMap};
use vrouter_types::{Prefix, RouteTarget, VrfId};

use crate::wire::attr::set::AttrSet;

use super::config::{VrfImport, VrfPath};
use super::table::RouteId;

#[derive(Debug, Default)]
pub(super) struct Imports {
    by_target: HashMap<RouteTarget, Vec<VrfId>>,
    vrfs: BTreeMap<VrfId, HashMap<Prefix, Imported>>,
    dirty: BTreeSet<(VrfId, Prefix)>,
    hasher: DefaultHashBuilder,
}

/// One prefix of a VRF.
#[derive(Debug, Default)]
struct Imported {
    routes: Routes,
    /// Fingerprint of what was told last: eight octets instead of fifty, of a hash that no neighbor can predict.
    told: Option<NonZeroU64>,
}

/// Routes of one prefix under different distinguishers: nearly always one.
#[derive(Debug, Default)]
enum Routes {
    #[default]
    None,
    One(RouteId),
    Many(Box<[RouteId]>),
}

impl Routes {
    fn as_slice(&self) -> &[RouteId] {
        match self {
            Routes::None => &[],
            Routes::One(route) => std::slice::from_ref(route),
            Routes::Many(routes) => routes,
        }
    }

    fn insert(&mut self, route: RouteId) {
        *self = match self {
            Routes::None => Routes::One(route),
            _ => Routes::Many(self.as_slice().iter().copied().chain([route]).collect()),
        };
    }

    fn remove(&mut self, route: RouteId) {
        let mut left = self.as_slice().iter().copied().filter(|known| *known != route);
        *self = match (left.next(), left.next()) {
            (None, _) => Routes::None,
            (Some(only), None) => Routes::One(only),
            (Some(first), Some(second)) => Routes::Many([first, second].into_iter().chain(left).collect()),
        };
    }
}

impl Imports {
    /// Replaces what is imported and forgets which routes were. True: a target is wanted that was not before.
    pub(super) fn set(&mut self, vrfs: &[VrfImport]) -> bool {
        let mut by_target: HashMap<RouteTarget, Vec<VrfId>> = HashMap::new();
        for VrfImport { vrf, import } in vrfs {
            for target in import {
                let importers = by_target.entry(*target).or_default();
                if !importers.contains(vrf) {
                    importers.push(*vrf);
                }
            }
        }
        let has_grown = by_target.keys().any(|target| !self.by_target.contains_key(target));
        self.by_target = by_target;
        for (vrf, prefixes) in &mut self.vrfs {
            for (prefix, imported) in prefixes {
                imported.routes = Routes::None;
                self.dirty.insert((*vrf, *prefix));
            }
        }
        has_grown
    }

    /// Every target that some VRF imports.
    pub(super) fn targets(&self) -> impl Iterator<Item = RouteTarget> {
        self.by_target.keys().copied()
    }

    /// What one VRF imports.
    pub(super) fn targets_of(&self, vrf: VrfId) -> Vec<RouteTarget> {
        let imported = self.by_target.iter().filter(|(_, vrfs)| vrfs.contains(&vrf));
        let mut targets: Vec<_> = imported.map(|(target, _)| *target).collect();
        targets.sort_unstable();
        targets
    }

    /// Prefixes of all VRFs.
    pub(super) fn len(&self) -> usize {
        self.vrfs.values().map(HashMap::len).sum()
    }

    pub(super) fn octets(&self) -> usize {
        let prefixes: usize = self.vrfs.values().map(HashMap::allocation_size).sum();
        prefixes + self.by_target.allocation_size() + self.dirty.len() * size_of::<(VrfId, Prefix)>()
    }

    /// Whether no VRF imports anything, nor has anything left to be told.
    pub(super) fn is_empty(&self) -> bool {
        self.by_target.is_empty() && self.vrfs.is_empty()
    }

    /// Whether any VRF imports it.
    pub(super) fn is_target(&self, target: RouteTarget) -> bool {
        self.by_target.contains_key(&target)
    }

    /// The VRFs that import a route with these attributes, each once, ascending.
    pub(super) fn importers(&self, set: AttrSet<'_>, out: &mut Vec<VrfId>) {
        out.clear();
        for target in set.route_targets() {
            out.extend(self.by_target.get(&target).into_iter().flatten());
        }
        out.sort_unstable();
        out.dedup();
    }

    /// Whether one VRF does.
    pub(super) fn is_importer(&self, vrf: VrfId, set: AttrSet<'_>) -> bool {
        set.route_targets().any(|target| self.by_target.get(&target).is_some_and(|vrfs| vrfs.contains(&vrf)))
    }

    /// A route is, or is no longer, among those that the VRF imports for this prefix, or has changed.
    pub(super) fn update(&mut self, vrf: VrfId, prefix: Prefix, route: RouteId, is_imported: bool) {
        let imported = self.vrfs.entry(vrf).or_default().entry(prefix).or_default();
        match (imported.routes.as_slice().contains(&route), is_imported) {
            (false, true) => imported.routes.insert(route),
            (true, false) => imported.routes.remove(route),
            _ => {}
        }
        self.dirty.insert((vrf, prefix));
    }

    /// The next prefix to look at, with its routes.
    pub(super) fn next_dirty(&mut self) -> Option<(VrfId, Prefix, &[RouteId])> {
        let (vrf, prefix) = self.dirty.pop_first()?;
        let routes =
            self.vrfs.get(&vrf).and_then(|vrf| vrf.get(&prefix)).map(|imported| imported.routes.as_slice());
        Some((vrf, prefix, routes.unwrap_or_default()))
    }

    /// Remembers what is told now. False: it is what was told last.
    pub(super) fn tell(&mut self, vrf: VrfId, prefix: Prefix, paths: &[VrfPath]) -> bool {
        let Some(prefixes) = self.vrfs.get_mut(&vrf) else { return false };
        let Some(imported) = prefixes.get_mut(&prefix) else { return false };
        let fingerprint = (!paths.is_empty()).then(|| fingerprint(&self.hasher, paths));
        let is_news = imported.told != fingerprint;
        imported.told = fingerprint;
        if imported.routes.as_slice().is_empty() && imported.told.is_none() {
            prefixes.remove(&prefix);
            if prefixes.is_empty() {
                self.vrfs.remove(&vrf);
            }
        }
        is_news
    }
}

fn fingerprint(hasher: &DefaultHashBuilder, paths: &[VrfPath]) -> NonZeroU64 {
    NonZeroU64::new(hasher.hash_one(paths)).unwrap_or(NonZeroU64::MIN)
}
