//! Entries behind stable `u32` handles: half the size of a pointer, and free to appear in several tables.

/// A table whose entries keep their handle while they live.
#[derive(Debug)]
pub(super) struct Slab<T> {
    slots: Vec<Slot<T>>,
    /// Head of the list of free slots.
    free: u32,
    used: usize,
}

#[derive(Debug)]
pub(super) enum Slot<T> {
    /// The next free slot.
    Free(u32),
    Used(T),
}

impl<T> Slab<T> {
    pub(super) fn new() -> Slab<T> {
        Slab { slots: Vec::new(), free: NONE, used: 0 }
    }

    /// Stores an entry. Memory runs out long before handles do.
    pub(super) fn insert(&mut self, entry: T) -> u32 {
        self.used += 1;
        if let Some(slot) = self.slots.get_mut(self.free as usize)
            && let Slot::Free(next) = *slot
        {
            *slot = Slot::Used(entry);
            return std::mem::replace(&mut self.free, next);
        }
        self.slots.push(Slot::Used(entry));
        u32::try_from(self.slots.len() - 1).unwrap_or(NONE)
    }

    /// Takes an entry out. The last one out releases all memory.
    pub(super) fn remove(&mut self, handle: u32) -> Option<T> {
        let slot = self.slots.get_mut(handle as usize).filter(|slot| matches!(slot, Slot::Used(_)))?;
        let Slot::Used(entry) = std::mem::replace(slot, Slot::Free(self.free)) else { return None };
        self.free = handle;
        self.used -= 1;
        if self.used == 0 {
            *self = Slab::new();
        }
        Some(entry)
    }

    pub(super) fn get(&self, handle: u32) -> Option<&T> {
        match self.slots.get(handle as usize)? {
            Slot::Used(entry) => Some(entry),
            Slot::Free(_) => None,
        }
    }

    pub(super) fn get_mut(&mut self, handle: u32) -> Option<&mut T> {
        match self.slots.get_mut(handle as usize)? {
            Slot::Used(entry) => Some(entry),
            Slot::Free(_) => None,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.used
    }

    /// Octets of its slots, used and free.
    pub(super) fn octets(&self) -> usize {
        self.slots.capacity() * size_of::<Slot<T>>()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, &T)> {
        (0u32..).zip(&self.slots).filter_map(|(handle, slot)| match slot {
            Slot::Used(entry) => Some((handle, entry)),
            Slot::Free(_) => None,
        })
    }
}

/// No handle.
pub(super) const NONE: u32 = u32::MAX;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn handles_are_stable_and_reused() {
        let mut slab = Slab::new();
        let (a, b, c) = (slab.insert('a'), slab.insert('b'), slab.insert('c'));
        assert_eq!(slab.remove(b), Some('b'));
        assert_eq!((slab.get(a), slab.get(b), slab.get(c)), (Some(&'a'), None, Some(&'c')));
        assert_eq!(slab.insert('d'), b);
        assert_eq!(slab.iter().map(|(_, entry)| *entry).collect::<String>(), "adc");
    }

    #[test]
    fn removing_twice_changes_nothing() {
        let mut slab = Slab::new();
        let (a, b, _) = (slab.insert('a'), slab.insert('b'), slab.insert('c'));
        slab.remove(a);
        slab.remove(b);
        assert_eq!(slab.remove(a), None);
        assert_eq!((slab.insert('d'), slab.insert('e'), slab.insert('f')), (b, a, 3));
    }

    #[test]
    fn an_empty_slab_holds_no_memory() {
        let mut slab = Slab::new();
        let handles: Vec<u32> = (0..1000).map(|n| slab.insert(n)).collect();
        handles.into_iter().for_each(|handle| assert!(slab.remove(handle).is_some()));
        assert_eq!((slab.len(), slab.slots.capacity()), (0, 0));
    }
}
