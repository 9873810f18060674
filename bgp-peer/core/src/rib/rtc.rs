//! Route target membership (RFC 4684) that a neighbor announced: which of our VPN routes it wants.
//!
//! Prefix semantics as in RFC 4684 §4, the origin AS not compared. Whole targets are looked up, shorter ones walked.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use hashbrown::HashMap;

use crate::wire::attr::set::AttrSet;
use crate::wire::ext_community::{ExtCommunity, ext_communities};
use crate::wire::nlri::RtMembership;

/// How long our End-of-RIB waits for that of the neighbor's memberships (RFC 4684 §6).
pub(super) const WAIT: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub(super) struct Memberships {
    /// With the CLUSTER_LIST that each came with.
    all: BTreeMap<RtMembership, Box<[u8]>>,
    /// Announced before the neighbor's BoRR, or its restart, and not again since (RFC 7313 §4, RFC 4724 §4.2).
    stale: BTreeSet<RtMembership>,
    /// Whole targets, with how many origin AS numbers want each.
    whole: HashMap<ExtCommunity, u32>,
    /// Those that leave bits open.
    open: Vec<RtMembership>,
    /// Until when to wait for the End-of-RIB; `None`: no longer.
    wait_until: Option<Instant>,
    /// Some found no room, and have not been asked for since.
    pub(super) is_starved: bool,
}

impl Memberships {
    pub(super) fn new() -> Memberships {
        Memberships {
            all: BTreeMap::new(),
            stale: BTreeSet::new(),
            whole: HashMap::new(),
            open: Vec::new(),
            wait_until: None,
            is_starved: false,
        }
    }

    /// The session is up: they come now.
    pub(super) fn wait(&mut self, now: Instant) {
        self.wait_until = Some(now + WAIT);
    }

    /// True: this changes what is wanted, or what it came with.
    pub(super) fn add(&mut self, membership: RtMembership, cluster_list: &[u8]) -> bool {
        self.stale.remove(&membership);
        match self.all.insert(membership, cluster_list.into()) {
            Some(before) => *before != *cluster_list,
            None => {
                if membership.target_bits() == 64 {
                    *self.whole.entry(membership.target_octets()).or_default() += 1;
                } else {
                    self.open.push(membership);
                }
                true
            }
        }
    }

    /// True: this changes what is wanted.
    pub(super) fn remove(&mut self, membership: RtMembership) -> bool {
        self.stale.remove(&membership);
        if self.all.remove(&membership).is_none() {
            return false;
        }
        if membership.target_bits() < 64 {
            self.open.retain(|open| *open != membership);
        } else if let Some(count) = self.whole.get_mut(&membership.target_octets()) {
            *count -= 1;
            if *count == 0 {
                self.whole.remove(&membership.target_octets());
            }
        }
        true
    }

    pub(super) fn begin_refresh(&mut self) {
        self.stale = self.all.keys().copied().collect();
    }

    /// Those that were not announced again.
    pub(super) fn end_refresh(&mut self) -> BTreeSet<RtMembership> {
        std::mem::take(&mut self.stale)
    }

    /// What is wanted without these.
    pub(super) fn without(&self, given_up: &BTreeSet<RtMembership>) -> Memberships {
        let mut rest = Memberships::new();
        for membership in self.all.keys().filter(|membership| !given_up.contains(membership)) {
            rest.add(*membership, &[]);
        }
        rest
    }

    /// Whether a route with these attributes is wanted. One without communities only by those who want everything.
    pub(super) fn want(&self, set: AttrSet<'_>) -> bool {
        self.all.contains_key(&RtMembership::DEFAULT)
            || ext_communities(set.ext_communities()).any(|community| {
                self.whole.contains_key(&community) || self.open.iter().any(|open| open.wants(community))
            })
    }

    /// All have been heard, or waited for long enough.
    pub(super) fn stop_waiting(&mut self) {
        self.wait_until = None;
    }

    pub(super) fn wait_until(&self) -> Option<Instant> {
        self.wait_until
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &RtMembership> {
        self.all.keys()
    }

    /// The CLUSTER_LIST that it came with.
    pub(super) fn cluster_list(&self, membership: RtMembership) -> Option<&[u8]> {
        self.all.get(&membership).map(|list| &**list)
    }

    pub(super) fn octets(&self) -> usize {
        let lists: usize = self.all.values().map(|list| list.len()).sum();
        let entries = self.all.len() * size_of::<(RtMembership, Box<[u8]>)>();
        lists + entries + self.whole.allocation_size() + self.open.len() * size_of::<RtMembership>()
    }

    pub(super) fn len(&self) -> usize {
        self.all.len()
    }
}
