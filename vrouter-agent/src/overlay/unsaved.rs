//! What the disk did not take: it is kept and tried again, as it is by then, and there is an end to how much it may be.
//!
//! Ports have a second way to the disk, [`Effect::SavePort`](crate::event::Effect), which may have worked meanwhile, and
//! a number may be another port's by now. So what is tried again is not what was said then: it is what holds now.

use std::collections::BTreeSet;

use agent_api::{ApiError, ErrorKind};
use vrouter_types::PortId;

use super::Overlay;
use crate::openstack::{LIMITS, Write};

/// While so much waits for the disk, nothing is added: callers ask again.
const MOST: usize = 2 * LIMITS.ports;

impl Overlay {
    /// Refuses a change where too many wait for the disk already.
    pub(super) fn check_unsaved(&self) -> Result<(), ApiError> {
        if self.unsaved.len() < MOST {
            return Ok(());
        }
        let message = format!(
            "the disk cannot be written, and {} files wait for it already; ask again when it can",
            self.unsaved.len()
        );
        Err(ApiError::new(ErrorKind::Unavailable, message))
    }

    /// Keeps what was not written. Of what is to be written to one file the last holds, so that a caller who asks again
    /// and again makes nothing grow.
    pub(super) fn keep_unsaved(&mut self, writes: Vec<Write>) {
        let mut seen = BTreeSet::new();
        let last = writes.into_iter().rev().filter(|write| seen.insert(write.file()));
        self.unsaved = last.collect();
        self.unsaved.reverse();
    }

    /// Takes what was not written, as it should be now.
    pub(super) fn take_unsaved(&mut self) -> Vec<Write> {
        let writes = std::mem::take(&mut self.unsaved);
        writes.into_iter().filter_map(|write| self.as_it_is(write)).collect()
    }

    fn as_it_is(&self, write: Write) -> Option<Write> {
        match write {
            Write::Port(was) => {
                let port = self.ports.get(&was.port)?;
                Some(Write::Port(Box::new(port.saved.clone())))
            }
            Write::ForgetPort(port, _) if self.has_number(port) => None,
            write => Some(write),
        }
    }

    /// Whether a port has this number, served or not.
    pub(super) fn has_number(&self, id: PortId) -> bool {
        self.ports.contains_key(&id) || self.orphans.values().any(|(saved, _)| saved.port == id)
    }

    /// Ports whose files are not on disk yet: they do not go into service.
    pub(super) fn unsaved_ports(&self) -> BTreeSet<PortId> {
        let port = |write: &Write| match write {
            Write::Port(saved) => Some(saved.port),
            _ => None,
        };
        self.unsaved.iter().filter_map(port).collect()
    }

    /// The port is gone: nothing of it is to be written any more.
    pub(super) fn drop_unsaved(&mut self, id: PortId) {
        self.unsaved.retain(|write| !matches!(write, Write::Port(saved) if saved.port == id));
    }
}
