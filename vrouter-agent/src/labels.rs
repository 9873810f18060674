//! Labels of our own: from 16 up, one per port, never reused at once.
//!
//! ```text
//!   16 ─────────────▶ cursor ──▶ reserved                                 LAST
//!   [ in use, resting, free ][ free, durable before used ][ free until the wrap ]
//! ```
//! A label that another provider edge may still send to must not mean a new port: it rests after it is withdrawn, and
//! allocation goes round the whole range before it comes back. The cursor is on disk a block ahead of what is handed
//! out, so that a restart goes on behind everything that was ever given, whatever was resting then.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use vrouter_types::{Label, PortId};

use crate::event::Millis;

/// What a label is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LabelUse {
    /// It leads to this port.
    InUse(PortId),
    /// It is withdrawn, and not to be used again before then.
    Resting(Millis),
}

/// Every label between the two ends is in use or resting.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no label is left: {used} are in use and {resting} rest after use")]
pub struct LabelsExhausted {
    /// How many lead to a port.
    pub used: usize,
    /// How many rest.
    pub resting: usize,
}

/// The labels of this node.
#[derive(Debug, Clone)]
pub struct LabelPool {
    last: u32,
    rest: u64,
    cursor: u32,
    /// Up to here, exclusively and cyclically, the disk knows that labels may have been given.
    reserved: u32,
    /// The disk does not know of labels that were given.
    is_uncovered: bool,
    labels: BTreeMap<Label, LabelUse>,
}

impl LabelPool {
    /// 16 to 65,535, resting for a minute. The forwarding state indexes by label, so the range bounds its size; no
    /// gateway has a tenth of that in ports.
    pub fn new() -> LabelPool {
        LabelPool::with(LAST, REST_MILLIS)
    }

    /// Up to this label, resting this long.
    pub fn with(last: Label, rest_millis: u64) -> LabelPool {
        let (last, rest) = (last.value().max(FIRST), rest_millis);
        LabelPool { last, rest, cursor: FIRST, reserved: FIRST, is_uncovered: false, labels: BTreeMap::new() }
    }

    /// Goes on where a former run may have got to.
    pub fn resume(&mut self, cursor: Label) {
        self.cursor = if (FIRST..=self.last).contains(&cursor.value()) { cursor.value() } else { FIRST };
        self.reserved = self.cursor;
    }

    /// Takes the label that the port had before. `false`: it is another's, or outside the range.
    pub fn claim(&mut self, label: Label, port: PortId) -> bool {
        let is_taken = self.labels.get(&label).is_some_and(|used| *used != LabelUse::InUse(port));
        if !(FIRST..=self.last).contains(&label.value()) || is_taken {
            return false;
        }
        self.labels.insert(label, LabelUse::InUse(port));
        true
    }

    /// A label for the port. The second value, if any, is the cursor that must be durable before the label is used.
    pub fn allocate(&mut self, port: PortId) -> Result<(Label, Option<Label>), LabelsExhausted> {
        let size = self.last - FIRST + 1;
        let mut save = None;
        for _ in 0..size {
            let candidate = self.cursor;
            if candidate == self.reserved {
                save = self.reserve();
            }
            self.cursor = self.ahead(1);
            // The ends of the range fit twenty bits.
            let Ok(label) = Label::new(candidate) else { continue };
            if let Entry::Vacant(free) = self.labels.entry(label) {
                free.insert(LabelUse::InUse(port));
                return Ok((label, save));
            }
        }
        let used = self.labels.values().filter(|label| matches!(label, LabelUse::InUse(_))).count();
        Err(LabelsExhausted { used, resting: self.labels.len() - used })
    }

    /// The cursor that was to be durable is not: the next label asks again.
    pub fn not_saved(&mut self) {
        self.reserved = self.cursor;
        self.is_uncovered = true;
    }

    /// The cursor that must be durable before labels that were given already are used; `None`: it is.
    pub fn cover(&mut self) -> Option<Label> {
        if !self.is_uncovered {
            return None;
        }
        self.reserve()
    }

    fn reserve(&mut self) -> Option<Label> {
        self.reserved = self.ahead(BLOCK.min(self.last - FIRST));
        self.is_uncovered = false;
        Label::new(self.reserved).ok()
    }

    /// The port's label is withdrawn: it rests from now on. Another port's does not.
    pub fn release(&mut self, label: Label, port: PortId, now: Millis) {
        if self.labels.get(&label) == Some(&LabelUse::InUse(port)) {
            self.labels.insert(label, LabelUse::Resting(Millis(now.0.saturating_add(self.rest))));
        }
    }

    /// Lets those go that have rested.
    pub fn tick(&mut self, now: Millis) {
        self.labels.retain(|_, label| !matches!(label, LabelUse::Resting(until) if *until <= now));
    }

    /// The port that the label leads to.
    pub fn port(&self, label: Label) -> Option<PortId> {
        match self.labels.get(&label)? {
            LabelUse::InUse(port) => Some(*port),
            LabelUse::Resting(_) => None,
        }
    }

    /// Labels in use or resting, in order of their values.
    pub fn iter(&self) -> impl Iterator<Item = (Label, LabelUse)> {
        self.labels.iter().map(|(label, state)| (*label, *state))
    }

    fn ahead(&self, steps: u32) -> u32 {
        let size = self.last - FIRST + 1;
        FIRST + (self.cursor - FIRST + steps) % size
    }
}

impl Default for LabelPool {
    fn default() -> LabelPool {
        LabelPool::new()
    }
}

const FIRST: u32 = Label::FIRST_UNRESERVED.value();
const LAST: Label = match Label::new(0xffff) {
    Ok(label) => label,
    Err(_) => Label::MAX,
};
/// Longer than any withdrawal takes to get around, reflectors and a slow uplink included.
const REST_MILLIS: u64 = 60_000;
/// One write to disk per this many labels.
const BLOCK: u32 = 64;

#[cfg(test)]
mod tests {
    use super::*;

    fn label(value: u32) -> Label {
        Label::new(value).unwrap()
    }

    /// The labels 16 to 19.
    fn small() -> LabelPool {
        LabelPool::with(label(19), 60_000)
    }

    #[test]
    fn the_first_label_is_sixteen_and_its_block_is_saved_before() {
        let mut pool = LabelPool::new();
        assert_eq!(pool.allocate(PortId(0)), Ok((label(16), Some(label(16 + 64)))));
        assert_eq!(pool.allocate(PortId(1)), Ok((label(17), None)));
    }

    #[test]
    fn a_released_label_rests_and_is_the_last_to_come_back() {
        let mut pool = small();
        let (first, _) = pool.allocate(PortId(0)).unwrap();
        pool.release(first, PortId(9), Millis(0));
        assert_eq!(pool.port(first), Some(PortId(0)), "it is not the other's to give back");
        pool.release(first, PortId(0), Millis(0));
        for port in 1..4 {
            assert_ne!(pool.allocate(PortId(port)).unwrap().0, first);
        }
        assert_eq!(pool.allocate(PortId(4)), Err(LabelsExhausted { used: 3, resting: 1 }));
        pool.tick(Millis(59_999));
        assert!(pool.allocate(PortId(4)).is_err());
        pool.tick(Millis(60_000));
        assert_eq!(pool.allocate(PortId(4)).unwrap().0, first);
    }

    #[test]
    fn a_restart_goes_on_behind_everything_that_was_given() {
        let mut pool = LabelPool::new();
        let mut saved = None;
        let mut given = Vec::new();
        for port in 0..100 {
            let (label, save) = pool.allocate(PortId(port)).unwrap();
            saved = save.or(saved);
            given.push(label);
        }
        let mut restarted = LabelPool::new();
        restarted.resume(saved.unwrap());
        let (next, save) = restarted.allocate(PortId(0)).unwrap();
        assert!(!given.contains(&next) && next > *given.last().unwrap());
        assert!(save.is_some());
    }

    #[test]
    fn a_cursor_that_was_not_saved_is_asked_for_again() {
        let mut pool = LabelPool::new();
        assert!(pool.allocate(PortId(0)).unwrap().1.is_some());
        pool.not_saved();
        assert_eq!(pool.allocate(PortId(1)), Ok((label(17), Some(label(17 + 64)))));
        assert_eq!(pool.allocate(PortId(2)), Ok((label(18), None)));
        assert_eq!(pool.cover(), None);
        pool.not_saved();
        assert_eq!(pool.cover(), Some(label(19 + 64)), "also without a next one");
        assert_eq!(pool.cover(), None);
    }

    #[test]
    fn a_cursor_outside_the_range_starts_over() {
        let mut pool = small();
        pool.resume(label(1_000));
        assert_eq!(pool.allocate(PortId(0)).unwrap().0, label(16));
    }

    #[test]
    fn a_claimed_label_is_nobody_elses() {
        let mut pool = small();
        assert!(pool.claim(label(16), PortId(7)));
        assert!(!pool.claim(label(16), PortId(8)));
        assert!(!pool.claim(label(3), PortId(8)));
        assert!(!pool.claim(label(20), PortId(8)));
        assert_eq!(pool.port(label(16)), Some(PortId(7)));
        assert_eq!(pool.allocate(PortId(9)).unwrap().0, label(17));
    }
}
