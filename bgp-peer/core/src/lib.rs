//! BGP for L3VPN without I/O: wire codec, state machine, RIB.
//!
//! ```text
//!            octets, time                       UPDATE bodies                      VRF routes
//!  shell ───────────────▶ Neighbor (one each) ───────────────▶ Rib (one for all) ──────────────▶ agent
//!        ◀───────────────                     ◀───────────────                   ◀──────────────
//!            Output: connect, send, close       poll_message: one UPDATE            originate,
//!                                               at a time, when there is room       imports
//! ```
//! Nothing here opens a socket, reads a clock, spawns, locks or logs. [`Neighbor`] and [`Rib`] are told `now` and say
//! what to do: `handle_*` when something happened, then `poll_*` until nothing is left. No octet from a neighbor can
//! make them panic, and what they keep is bounded by configuration.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod collision;
mod family;
pub mod fsm;
mod negotiate;
mod neighbor;
pub mod rib;
mod session;
mod timers;
pub mod wire;

pub use collision::Direction;
pub use family::{Family, FamilySet, ParseFamilyError};
pub use fsm::State;
pub use negotiate::{Negotiated, PeerId, RestartOffer, RestartTerms, SessionConfig, negotiate};
pub use neighbor::{ConnId, Input, LastError, Neighbor, Output};
pub use rib::*;
pub use session::{DownReason, MessageCounts};
pub use wire::graceful::{GracefulRestart, LongLived};
pub use wire::notification::Notification;
