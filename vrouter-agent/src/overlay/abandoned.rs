//! Pods that nobody takes away: their interface has gone, so their sandbox has, and no DEL came.
//!
//! A veth goes with its pod's namespace and never comes back under the same name but by another ADD, which replaces the
//! port. Runtimes forget sandboxes all the same: when another plugin of the list fails ADD and DEL, when they are killed in
//! mid-ADD, when their own clean-up fails. Without this, each such pod would keep its address for ever. A port is forgotten
//! when its interface has been absent for [`ABANDONED`], which is longer than any runtime goes on trying; a DEL that comes
//! later still succeeds. Taps are the hypervisor's to take away: they vanish and come back.

use std::collections::BTreeMap;

use agent_api::{ErrorKind, PortKey, PortKind};
use vrouter_types::PortId;

use super::Overlay;
use crate::event::{Effect, Millis};

/// Ten minutes.
const ABANDONED: u64 = 600_000;

/// Pods whose interface is absent, and since when.
#[derive(Debug, Default)]
pub(super) struct Absent(BTreeMap<PortId, Millis>);

impl Overlay {
    /// The interface of this port is not there.
    pub(super) fn note_absent(&mut self, id: PortId) {
        let is_pod = self.ports.get(&id).is_some_and(|port| port.saved.request.kind == PortKind::Pod);
        if is_pod {
            self.absent.0.entry(id).or_insert(self.now);
        }
    }

    /// Opening it failed: because there is none, or for another reason, which proves that there is one.
    pub(super) fn note_opening(&mut self, failed: PortId, kind: ErrorKind) {
        match kind {
            ErrorKind::NotFound => self.note_absent(failed),
            _ => drop(self.absent.0.remove(&failed)),
        }
    }

    /// Takes away those that have been absent for too long.
    pub(super) fn forget_abandoned(&mut self) -> Vec<Effect> {
        let (ports, now) = (&self.ports, self.now);
        self.absent.0.retain(|id, _| ports.get(id).is_some_and(|port| !port.is_up()));
        let is_due = |since: &Millis| now.0.saturating_sub(since.0) >= ABANDONED;
        let due = self.absent.0.iter().filter(|(_, since)| is_due(since)).filter_map(|(id, _)| ports.get(id));
        let keys: Vec<PortKey> = due.map(|port| port.saved.request.key.clone()).collect();
        keys.iter().flat_map(|key| self.remove(key)).collect()
    }
}
