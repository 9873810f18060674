//! `/syncports`: whoever asks for it plugs all that there is again, and what is not plugged again in time goes.
//!
//! What is awaited is on disk, so that a restart does not forget it: the new run waits as long as the old one would have.
//! A port that was plugged while no agent ran has a newer time in its file than the mark says, and is awaited no more.

use std::collections::BTreeSet;

use super::{Ledger, Touched};
use crate::event::Millis;
use crate::openstack::{Uuid, Write};

/// What is not plugged again so long after `/syncports` goes. The incumbent's `stale_interface_cleanup_timeout`.
pub const STALE_MILLIS: u64 = 60_000;

/// What `/syncports` waits for.
#[derive(Debug, Clone, Default)]
pub(super) struct Awaited {
    /// Plugs that were not plugged again.
    plugs: BTreeSet<Uuid>,
    /// Those of which the disk says so.
    marks: BTreeSet<Uuid>,
    until: Option<Millis>,
}

impl Ledger {
    /// All plugs are awaited from now on.
    pub(super) fn sync(&mut self, now: Millis, touched: &mut Touched) {
        self.awaited.plugs = self.plugs.keys().copied().collect();
        self.awaited.marks.extend(self.awaited.plugs.iter().copied());
        self.awaited.until = Some(Millis(now.0.saturating_add(STALE_MILLIS)));
        touched.writes.extend(self.plugs.values().map(|plug| Write::Awaited(plug.id, plug.time.clone())));
    }

    /// The port is plugged again, or gone: it is awaited no more.
    pub(super) fn came(&mut self, id: Uuid, touched: &mut Touched) {
        self.awaited.plugs.remove(&id);
        if self.awaited.marks.remove(&id) {
            touched.writes.push(Write::ForgetAwaited(id));
        }
    }

    /// The call has failed, and its caller need not plug anything again: nothing goes for that. What the disk may have
    /// taken of it is taken back there.
    pub fn await_none(&mut self, writes: Vec<Write>) -> Vec<Write> {
        if !writes.iter().any(|write| matches!(write, Write::Awaited(..))) {
            return writes;
        }
        self.awaited = Awaited::default();
        let take_back = |write| match write {
            Write::Awaited(id, _) => Write::ForgetAwaited(id),
            write => write,
        };
        writes.into_iter().map(take_back).collect()
    }

    /// What the last run awaited, and the time that the port's file had then.
    pub(super) fn await_again(&mut self, marks: &[(Uuid, String)]) {
        let is_due = |(id, time): &&(Uuid, String)| self.plugs.get(id).is_some_and(|plug| plug.time == *time);
        self.awaited.plugs = marks.iter().filter(is_due).map(|(id, _)| *id).collect();
        self.awaited.marks = marks.iter().map(|(id, _)| *id).collect();
        self.awaited.until = (!marks.is_empty()).then_some(Millis(STALE_MILLIS));
    }

    /// What `/syncports` waited for and did not come.
    pub fn tick(&mut self, now: Millis) -> Touched {
        let mut touched = Touched::default();
        if self.awaited.until.is_some_and(|until| until <= now) {
            let Awaited { plugs, marks, .. } = std::mem::take(&mut self.awaited);
            plugs.into_iter().for_each(|id| self.unplug(id, &mut touched));
            touched.writes.extend(marks.into_iter().map(Write::ForgetAwaited));
        }
        touched
    }
}
