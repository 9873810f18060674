//! What the RIB holds, in octets: capacities times sizes, without the allocator's own.

use super::Rib;

/// What the RIB holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MemoryReport {
    /// By what it is for.
    pub parts: Vec<MemoryPart>,
}

/// One of the RIB's tables, or those of one kind together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryPart {
    /// What it holds.
    pub name: &'static str,
    /// How many.
    pub entries: usize,
    /// In how many octets.
    pub octets: usize,
}

impl MemoryReport {
    /// All parts together.
    pub fn octets(&self) -> usize {
        self.parts.iter().map(|part| part.octets).sum()
    }
}

impl Rib {
    /// What it holds at present.
    pub fn memory(&self) -> MemoryReport {
        let outs = || self.peers.values().map(|peer| &peer.out);
        let memberships = || self.senders.values().filter_map(|sender| sender.memberships.as_ref());
        let part = |name, entries, octets| MemoryPart { name, entries, octets };
        MemoryReport {
            parts: vec![
                part("routes", self.table.route_count(), self.table.route_octets()),
                part("paths", self.table.path_count(), self.table.path_octets()),
                part("attribute sets", self.attrs.len(), self.attrs.octets()),
                part(
                    "advertised routes",
                    outs().map(|out| out.told).sum(),
                    outs().map(|out| out.octets()).sum(),
                ),
                part("imported prefixes", self.imports.len(), self.imports.octets()),
                part(
                    "route target memberships",
                    memberships().map(|all| all.len()).sum(),
                    memberships().map(|all| all.octets()).sum(),
                ),
            ],
        }
    }
}
