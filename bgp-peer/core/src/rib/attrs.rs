//! Attribute sets, each stored once: canonical octets behind a counted `u32` handle.
//!
//! Whoever keeps a handle owns one count of it: a path, a route queued for a neighbor, a route sent to one.

use std::hash::BuildHasher;
use std::net::{IpAddr, Ipv4Addr};

use hashbrown::{DefaultHashBuilder, HashTable};
use vrouter_types::Asn;

use crate::wire::attr::check::Origin;
use crate::wire::attr::set::AttrSet;
use crate::wire::community::Community;
use crate::wire::ext_community::NamedEncaps;

use super::slab::Slab;

/// The handle of an attribute set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct AttrId(u32);

/// What route selection asks of a set, read once.
#[derive(Debug, Clone, Copy)]
pub(super) struct Merits {
    pub(super) next_hop: IpAddr,
    pub(super) encaps: NamedEncaps,
    pub(super) origin: Origin,
    pub(super) local_pref: u32,
    pub(super) as_path_length: u32,
    pub(super) neighbor_as: Option<Asn>,
    pub(super) med: u32,
    pub(super) originator_id: Option<Ipv4Addr>,
    pub(super) cluster_list_length: u16,
    /// LLGR_STALE (RFC 9494 §4.3).
    pub(super) is_long_lived: bool,
    /// NO_LLGR (RFC 9494 §4.3).
    pub(super) no_long_lived: bool,
    /// NO_ADVERTISE, and NO_EXPORT or NO_EXPORT_SUBCONFED (RFC 1997).
    pub(super) no_advertise: bool,
    pub(super) no_export: bool,
}

impl Merits {
    fn read(set: AttrSet<'_>) -> Merits {
        let path = set.as_path();
        let carries = |wanted: &[Community]| set.communities().any(|community| wanted.contains(&community));
        Merits {
            next_hop: set.next_hop().to_canonical(),
            encaps: set.named_encaps(),
            origin: set.origin(),
            local_pref: set.local_pref(),
            as_path_length: path.length(),
            neighbor_as: path.first(),
            // RFC 4271 §9.1.2.2 c: the lowest value where there is none.
            med: set.med().unwrap_or(0),
            originator_id: set.originator_id(),
            cluster_list_length: u16::try_from(set.cluster_list().count()).unwrap_or(u16::MAX),
            is_long_lived: carries(&[Community::LLGR_STALE]),
            no_long_lived: carries(&[Community::NO_LLGR]),
            no_advertise: carries(&[Community::NO_ADVERTISE]),
            no_export: carries(&[Community::NO_EXPORT, Community::NO_EXPORT_SUBCONFED]),
        }
    }
}

impl AttrId {
    /// As a number below any mark that one might set in its place.
    pub(super) const fn number(self) -> u32 {
        self.0
    }

    pub(super) const fn from_number(number: u32) -> AttrId {
        AttrId(number)
    }
}

#[derive(Debug)]
struct Entry {
    octets: Box<[u8]>,
    merits: Merits,
    count: u32,
}

#[derive(Debug)]
pub(super) struct AttrTable {
    entries: Slab<Entry>,
    index: HashTable<u32>,
    hasher: DefaultHashBuilder,
}

impl AttrTable {
    pub(super) fn new() -> AttrTable {
        AttrTable { entries: Slab::new(), index: HashTable::new(), hasher: DefaultHashBuilder::default() }
    }

    /// The handle of these octets, with one more count.
    pub(super) fn intern(&mut self, octets: &[u8]) -> AttrId {
        let hash = self.hasher.hash_one(octets);
        let is_it = |handle: &u32| self.entries.get(*handle).is_some_and(|entry| *entry.octets == *octets);
        if let Some(handle) = self.index.find(hash, is_it) {
            let id = AttrId(*handle);
            self.retain(id);
            return id;
        }
        let merits = Merits::read(AttrSet::new(octets));
        let handle = self.entries.insert(Entry { octets: octets.into(), merits, count: 1 });
        let (entries, hasher) = (&self.entries, &self.hasher);
        self.index.insert_unique(hash, handle, |handle| {
            entries.get(*handle).map_or(0, |entry| hasher.hash_one(&*entry.octets))
        });
        AttrId(handle)
    }

    /// One more owner.
    pub(super) fn retain(&mut self, id: AttrId) {
        if let Some(entry) = self.entries.get_mut(id.0) {
            entry.count += 1;
        }
    }

    /// One owner less; the last one frees the set.
    pub(super) fn release(&mut self, id: AttrId) {
        let Some(entry) = self.entries.get_mut(id.0) else { return };
        entry.count -= 1;
        if entry.count > 0 {
            return;
        }
        let hash = self.hasher.hash_one(&*entry.octets);
        if let Ok(found) = self.index.find_entry(hash, |handle| *handle == id.0) {
            found.remove();
        }
        self.entries.remove(id.0);
        if self.entries.len() == 0 {
            self.index = HashTable::new();
        }
    }

    /// The attributes.
    pub(super) fn set(&self, id: AttrId) -> AttrSet<'_> {
        AttrSet::new(self.entries.get(id.0).map(|entry| &*entry.octets).unwrap_or_default())
    }

    /// What route selection asks of them. `None` for a handle that nobody owns.
    pub(super) fn merits(&self, id: AttrId) -> Option<&Merits> {
        self.entries.get(id.0).map(|entry| &entry.merits)
    }

    pub(super) fn octets(&self) -> usize {
        let sets: usize = self.entries.iter().map(|(_, entry)| entry.octets.len()).sum();
        sets + self.entries.octets() + self.index.allocation_size()
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_octets_share_one_handle_until_the_last_owner_leaves() {
        let mut table = AttrTable::new();
        let a = table.intern(&[0x40, 1, 1, 0]);
        let b = table.intern(&[0x40, 1, 1, 1]);
        assert_eq!(table.intern(&[0x40, 1, 1, 0]), a);
        assert_ne!(a, b);
        table.release(a);
        assert_eq!((table.len(), table.set(a).octets()), (2, &[0x40, 1, 1, 0][..]));
        table.release(a);
        table.release(b);
        assert_eq!(table.len(), 0);
        assert!(table.merits(a).is_none());
    }
}
