//! The shell around `bgp-core`: TCP, timers, one task.
//!
//! ```text
//!   agent ── SpeakerHandle ──commands──▶ ┌─────────────────────────────┐ ──SpeakerEvent──▶ agent
//!                                        │ speaker task                │
//!   accept task ─────────conn_events───▶ │  Neighbor × n, Rib          │
//!   connect task (one per attempt) ────▶ │                             │
//!   conn task (one per connection) ────▶ │                             │ ──writes──▶ conn task ──▶ socket
//!         octets read, write finished    └─────────────────────────────┘   (bounded)
//! ```
//! One task owns every neighbor and the RIB, so there is no lock. Every channel is bounded. UPDATEs are built from the
//! RIB when the socket has taken what it was given before, never queued: over a slow link a route that changes ten
//! times in the meantime is sent once.
#![warn(missing_docs)]

mod config;
mod conn;
mod handle;
mod monitor;
mod peer;
mod sockopt;
mod speaker;
mod view;

pub use bgp_core;
pub use bgp_core::{
    DownReason, Family, FamilySet, LocalRoute, MessageCounts, ParseFamilyError, PathSource, PeerCounts,
    PeerId, RestartTerms, Rib, RouteKey, RouteQuery, RouteScope, RouteView, State, VrfImport, VrfPath,
    VrfRoute,
};
pub use config::{NeighborConfig, SpeakerConfig, SpeakerError};
pub use handle::{Speaker, SpeakerHandle};
pub use monitor::{MonitorEvent, MonitorKind};
pub use speaker::{Change, ChangeKind, ClearError, ClearKind, SpeakerEvent};
pub use view::{NeighborView, SpeakerSummary};
