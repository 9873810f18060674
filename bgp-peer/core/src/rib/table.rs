//! The routes: every path that neighbors sent (Adj-RIB-In) and our own, by prefix, the best marked (Loc-RIB).
//!
//! One table for all neighbors: a path is 20 octets, a route 36, the index about 9 per route. A neighbor's Adj-RIB-In is
//! the set of paths that carry its number. A route lives while it has a path or while some Adj-RIB-Out knows it.

use std::hash::BuildHasher;
use std::net::IpAddr;
use std::num::NonZeroU32;

use hashbrown::hash_table::Entry;
use hashbrown::{DefaultHashBuilder, HashTable};
use vrouter_types::{Label, VpnPrefix};

use crate::{Family, PeerId};

use super::attrs::AttrId;
use super::config::PathSource;
use super::slab::{NONE, Slab};

/// The handle of a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct RouteId(u32);

/// A set of routes, one bit each.
#[derive(Debug, Default)]
pub(super) struct RouteSet(Vec<u64>);

impl RouteSet {
    pub(super) fn insert(&mut self, route: RouteId) {
        let (word, bit) = (route.0 as usize / 64, route.0 % 64);
        if word >= self.0.len() {
            self.0.resize(word + 1, 0);
        }
        if let Some(word) = self.0.get_mut(word) {
            *word |= 1 << bit;
        }
    }

    pub(super) fn octets(&self) -> usize {
        self.0.capacity() * size_of::<u64>()
    }

    /// In ascending order.
    pub(super) fn into_iter(self) -> impl Iterator<Item = RouteId> {
        (0u32..).step_by(64).zip(self.0).flat_map(|(first, mut word)| {
            std::iter::from_fn(move || {
                let bit = word.trailing_zeros();
                word &= word.checked_sub(1)?;
                Some(RouteId(first + bit))
            })
        })
    }
}

/// Where a path came from, in four octets. Ours sorts first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Source(NonZeroU32);

impl Source {
    pub(super) const LOCAL: Source = Source(NonZeroU32::MIN);

    pub(super) fn is_local(self) -> bool {
        self == Source::LOCAL
    }
}

impl From<PeerId> for Source {
    fn from(peer: PeerId) -> Source {
        Source(NonZeroU32::MIN.saturating_add(1).saturating_add(peer.0))
    }
}

impl From<Source> for PathSource {
    fn from(source: Source) -> PathSource {
        source.0.get().checked_sub(2).map_or(PathSource::Local, |peer| PathSource::Peer(PeerId(peer)))
    }
}

/// One way to reach a prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Path {
    pub(super) source: Source,
    pub(super) attrs: AttrId,
    /// Seconds since the RIB's first event.
    pub(super) since: u32,
    /// Twenty bits of label; above them, marks.
    label_and_marks: u32,
    next: u32,
}

impl Path {
    pub(super) fn new(source: Source, attrs: AttrId, label: Label, since: u32) -> Path {
        Path { source, attrs, since, label_and_marks: label.value(), next: NONE }
    }

    pub(super) fn label(&self) -> Label {
        Label::new(self.label_and_marks & LABEL_BITS).unwrap_or(Label::IMPLICIT_NULL)
    }

    pub(super) fn is_best(&self) -> bool {
        self.label_and_marks & BEST != 0
    }

    /// Whether it waits to be confirmed or swept (RFC 7313 §4).
    pub(super) fn is_stale(&self) -> bool {
        self.label_and_marks & STALE != 0
    }

    /// Whether it says the same as another, marks and age apart.
    pub(super) fn says_the_same(&self, other: &Path) -> bool {
        self.source == other.source && self.attrs == other.attrs && self.label() == other.label()
    }

    pub(super) fn set_best(&mut self, is_best: bool) {
        self.mark(BEST, is_best);
    }

    fn mark(&mut self, bit: u32, is_set: bool) {
        self.label_and_marks = if is_set { self.label_and_marks | bit } else { self.label_and_marks & !bit };
    }
}

#[derive(Debug)]
struct Route {
    key: VpnPrefix,
    first: u32,
    /// Adj-RIBs-Out that know it.
    known_to: u32,
}

#[derive(Debug)]
pub(super) struct Table {
    routes: Slab<Route>,
    paths: Slab<Path>,
    index: HashTable<u32>,
    hasher: DefaultHashBuilder,
}

impl Table {
    pub(super) fn new() -> Table {
        Table {
            routes: Slab::new(),
            paths: Slab::new(),
            index: HashTable::new(),
            hasher: DefaultHashBuilder::default(),
        }
    }

    pub(super) fn find(&self, key: VpnPrefix) -> Option<RouteId> {
        let hash = hash(&self.hasher, key);
        let is_it = |handle: &u32| self.routes.get(*handle).is_some_and(|route| route.key == key);
        self.index.find(hash, is_it).copied().map(RouteId)
    }

    pub(super) fn find_or_insert(&mut self, key: VpnPrefix) -> RouteId {
        let Table { routes, index, hasher, .. } = self;
        let is_it = |handle: &u32| routes.get(*handle).is_some_and(|route| route.key == key);
        let hash_of = |handle: &u32| routes.get(*handle).map_or(0, |route| hash(hasher, route.key));
        match index.entry(hash(hasher, key), is_it, hash_of) {
            Entry::Occupied(known) => RouteId(*known.get()),
            Entry::Vacant(place) => {
                let handle = routes.insert(Route { key, first: NONE, known_to: 0 });
                place.insert(handle);
                RouteId(handle)
            }
        }
    }

    pub(super) fn key(&self, route: RouteId) -> Option<VpnPrefix> {
        self.routes.get(route.0).map(|route| route.key)
    }

    /// Its paths, the best first.
    pub(super) fn paths(&self, route: RouteId) -> impl Iterator<Item = &Path> {
        let mut next = self.routes.get(route.0).map_or(NONE, |route| route.first);
        std::iter::from_fn(move || {
            let path = self.paths.get(next)?;
            next = path.next;
            Some(path)
        })
    }

    pub(super) fn path(&self, route: RouteId, source: Source) -> Option<&Path> {
        self.paths(route).find(|path| path.source == source)
    }

    pub(super) fn best(&self, route: RouteId) -> Option<&Path> {
        self.paths(route).next().filter(|path| path.is_best())
    }

    pub(super) fn routes(&self) -> impl Iterator<Item = (RouteId, VpnPrefix)> {
        self.routes.iter().map(|(handle, route)| (RouteId(handle), route.key))
    }

    pub(super) fn route_count(&self) -> usize {
        self.routes.len()
    }

    pub(super) fn path_count(&self) -> usize {
        self.paths.len()
    }

    pub(super) fn route_octets(&self) -> usize {
        self.routes.octets() + self.index.allocation_size()
    }

    pub(super) fn path_octets(&self) -> usize {
        self.paths.octets()
    }

    /// Adds a path, or replaces the one from the same source, which is returned.
    pub(super) fn put(&mut self, route: RouteId, path: Path) -> Option<Path> {
        if let Some(handle) = self.handle_of(route, path.source)
            && let Some(stored) = self.paths.get_mut(handle)
        {
            let next = stored.next;
            return Some(std::mem::replace(stored, Path { next, ..path }));
        }
        let first = self.routes.get(route.0)?.first;
        let handle = self.paths.insert(Path { next: first, ..path });
        self.routes.get_mut(route.0)?.first = handle;
        None
    }

    /// Takes a path out.
    pub(super) fn take(&mut self, route: RouteId, source: Source) -> Option<Path> {
        let handle = self.unlink(route, source)?;
        self.paths.remove(handle)
    }

    /// The only path, marked as the best or not. `None`: there is none, or more than one.
    pub(super) fn only_path(&mut self, route: RouteId) -> Option<&mut Path> {
        let first = self.routes.get(route.0)?.first;
        self.paths.get_mut(first).filter(|path| path.next == NONE)
    }

    /// Marks the path from this source as the best, and no other, and moves it to the front.
    pub(super) fn set_best(&mut self, route: RouteId, best: Option<Source>) {
        let mut next = self.routes.get(route.0).map_or(NONE, |route| route.first);
        while let Some(path) = self.paths.get_mut(next) {
            path.mark(BEST, Some(path.source) == best);
            next = path.next;
        }
        if let Some(best) = best
            && let Some(handle) = self.unlink(route, best)
            && let (Some(route), Some(path)) = (self.routes.get_mut(route.0), self.paths.get_mut(handle))
        {
            path.next = std::mem::replace(&mut route.first, handle);
        }
    }

    pub(super) fn set_stale(&mut self, route: RouteId, source: Source, is_stale: bool) {
        if let Some(handle) = self.handle_of(route, source)
            && let Some(path) = self.paths.get_mut(handle)
        {
            path.mark(STALE, is_stale);
        }
    }

    /// An Adj-RIB-Out begins (`+1`) or ceases (`-1`) to know the route.
    pub(super) fn known_to(&mut self, route: RouteId, change: i32) {
        if let Some(route) = self.routes.get_mut(route.0) {
            route.known_to = route.known_to.saturating_add_signed(change);
        }
    }

    /// Forgets the route if nothing refers to it.
    pub(super) fn forget_if_unused(&mut self, route: RouteId) {
        let Some(Route { key, first: NONE, known_to: 0 }) = self.routes.get(route.0) else { return };
        let hash = hash(&self.hasher, *key);
        if let Ok(found) = self.index.find_entry(hash, |handle| *handle == route.0) {
            found.remove();
        }
        self.routes.remove(route.0);
        if self.routes.len() == 0 {
            self.index = HashTable::new();
        }
    }

    fn handle_of(&self, route: RouteId, source: Source) -> Option<u32> {
        let mut next = self.routes.get(route.0)?.first;
        while let Some(path) = self.paths.get(next) {
            if path.source == source {
                return Some(next);
            }
            next = path.next;
        }
        None
    }

    /// Takes a path out of its route's list.
    fn unlink(&mut self, route: RouteId, source: Source) -> Option<u32> {
        let mut before = NONE;
        let mut handle = self.routes.get(route.0)?.first;
        loop {
            let path = self.paths.get(handle)?;
            let next = path.next;
            if path.source == source {
                match self.paths.get_mut(before) {
                    Some(before) => before.next = next,
                    None => self.routes.get_mut(route.0)?.first = next,
                }
                return Some(handle);
            }
            (before, handle) = (handle, next);
        }
    }
}

/// In few words: the derived way writes a dozen small pieces.
fn hash(hasher: &DefaultHashBuilder, key: VpnPrefix) -> u64 {
    let rd = u64::from_be_bytes(key.rd.octets());
    let len = u64::from(key.prefix.len());
    match key.prefix.addr() {
        IpAddr::V4(addr) => hasher.hash_one((rd, u64::from(addr.to_bits()) << 8 | len)),
        IpAddr::V6(addr) => hasher.hash_one((rd, addr.to_bits(), len)),
    }
}

/// The family that a VPN prefix travels in.
pub(super) fn family_of(key: VpnPrefix) -> Family {
    if key.prefix.is_ipv4() { Family::Vpnv4 } else { Family::Vpnv6 }
}

const LABEL_BITS: u32 = 0xf_ffff;
const BEST: u32 = 1 << 31;
const STALE: u32 = 1 << 30;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rib::attrs::AttrTable;
    use crate::rib::slab::Slot;

    #[test]
    fn paths_keep_their_order_and_the_best_comes_first() {
        let (mut table, mut attrs) = (Table::new(), AttrTable::new());
        let route = table.find_or_insert("65000:1:10.0.0.1/32".parse().unwrap());
        for peer in 0..3 {
            let id = attrs.intern(&[]);
            assert_eq!(table.put(route, Path::new(PeerId(peer).into(), id, Label::MAX, 0)), None);
        }
        table.set_best(route, Some(PeerId(1).into()));
        assert_eq!(table.best(route).unwrap().source, PeerId(1).into());
        assert_eq!(table.paths(route).count(), 3);
        assert_eq!(table.paths(route).filter(|path| path.is_best()).count(), 1);
        table.take(route, PeerId(1).into()).unwrap();
        assert_eq!(table.best(route), None);
        assert_eq!(table.paths(route).count(), 2);
    }

    #[test]
    fn a_set_of_routes_is_a_set_in_order() {
        let mut set = RouteSet::default();
        for number in [700, 3, 64, 63, 3, 0, 127, 128] {
            set.insert(RouteId(number));
        }
        assert_eq!(set.into_iter().map(|route| route.0).collect::<Vec<_>>(), [0, 3, 63, 64, 127, 128, 700]);
        assert_eq!(RouteSet::default().into_iter().count(), 0);
    }

    #[test]
    fn sizes_are_what_the_memory_figure_assumes() {
        assert_eq!((size_of::<Slot<Path>>(), size_of::<Slot<Route>>()), (20, 36));
    }
}
