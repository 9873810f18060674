//! Route target membership (RFC 4684) that a neighbor announced: which of our VPN routes it wants.
//!
//! Prefix semantics as in RFC 4684 §4, the origin AS not compared. Whole targets are looked up, shorter ones walked.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use hashbrown::HashMap;

use crate::wire::attr::set::AttrSet;
use crate::wire::ext_community::{ExtCommunity, ext_communities};
use crate::wire::nlri::RtMembership;

/// How long our End-of-RIB waits for that of the neighbor's memberships (RFC 4684 §6).
pub(super) const WAIT: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub(super) struct Memberships {
    all: BTreeSet<RtMembership>,
    /// Announced before the neighbor's BoRR and not again since (RFC 7313 §4).
    stale: BTreeSet<RtMembership>,
    /// Whole targets, with how many origin AS numbers want each.
    whole: HashMap<ExtCommunity, u32>,
    /// Those that leave bits open.
    open: Vec<RtMembership>,
    /// Until when to wait for the End-of-RIB; `None`: no longer.
    wait_until: Option<Instant>,
}

impl Memberships {
    pub(super) fn new(now: Instant) -> Memberships {
        Memberships {
            all: BTreeSet::new(),
            stale: BTreeSet::new(),
            whole: HashMap::new(),
            open: Vec::new(),
            wait_until: Some(now + WAIT),
        }
    }

    /// True: this changes what is wanted.
    pub(super) fn add(&mut self, membership: RtMembership) -> bool {
        self.stale.remove(&membership);
        if !self.all.insert(membership) {
            return false;
        }
        if membership.target_bits() == 64 {
            *self.whole.entry(membership.target_octets()).or_default() += 1;
        } else {
            self.open.push(membership);
        }
        true
    }

    /// True: this changes what is wanted.
    pub(super) fn remove(&mut self, membership: RtMembership) -> bool {
        self.stale.remove(&membership);
        if !self.all.remove(&membership) {
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
        self.stale.clone_from(&self.all);
    }

    /// True: this changes what is wanted.
    pub(super) fn end_refresh(&mut self) -> bool {
        let swept = std::mem::take(&mut self.stale);
        swept.into_iter().fold(false, |changed, membership| self.remove(membership) | changed)
    }

    /// Whether a route with these attributes is wanted. One without communities only by those who want everything.
    pub(super) fn want(&self, set: AttrSet<'_>) -> bool {
        self.all.contains(&RtMembership::DEFAULT)
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
        self.all.iter()
    }

    pub(super) fn contains(&self, membership: RtMembership) -> bool {
        self.all.contains(&membership)
    }

    pub(super) fn len(&self) -> usize {
        self.all.len()
    }
}
