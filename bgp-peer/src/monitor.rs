//! What can be watched as it happens: sessions and VRF routes.
//!
//! Whoever reads too slowly loses the oldest, and is told how many
//! ([`RecvError::Lagged`](tokio::sync::broadcast::error::RecvError::Lagged)). While nobody watches, nothing is kept.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::SystemTime;

use bgp_core::{State, VrfRoute};
use tokio::sync::broadcast;

/// Something that has happened.
#[derive(Debug, Clone)]
pub struct MonitorEvent {
    /// When.
    pub at: SystemTime,
    /// What.
    pub kind: MonitorKind,
}

/// What can happen.
#[derive(Debug, Clone)]
pub enum MonitorKind {
    /// A neighbor's session is in another state.
    Session {
        /// Whose.
        neighbor: IpAddr,
        /// The state before.
        from: State,
        /// The state now.
        to: State,
        /// Why, where something went wrong.
        cause: Option<String>,
    },
    /// The paths of a VRF's route are now these; none: it is gone.
    Route(Arc<VrfRoute>),
}

/// The speaker's end.
#[derive(Debug, Default)]
pub(crate) struct Monitor(Option<broadcast::Sender<MonitorEvent>>);

impl Monitor {
    pub(crate) fn subscribe(&mut self) -> broadcast::Receiver<MonitorEvent> {
        match &self.0 {
            Some(sender) => sender.subscribe(),
            None => {
                let (sender, receiver) = broadcast::channel(CAPACITY);
                self.0 = Some(sender);
                receiver
            }
        }
    }

    /// Tells whoever watches.
    pub(crate) fn tell(&mut self, kind: impl FnOnce() -> MonitorKind) {
        let Some(sender) = &self.0 else { return };
        if sender.receiver_count() == 0 {
            self.0 = None;
            return;
        }
        let event = MonitorEvent { at: SystemTime::now(), kind: kind() };
        // The last one may have gone this moment.
        let _ = sender.send(event);
    }
}

/// Events that a reader may be behind.
const CAPACITY: usize = 4096;
