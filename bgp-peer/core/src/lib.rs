//! BGP for L3VPN without I/O: wire codec, state machine, RIB.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod family;
mod negotiate;
pub mod rib;
pub mod wire;

pub use family::{Family, FamilySet, ParseFamilyError};
pub use negotiate::{Negotiated, PeerId};
pub use rib::*;
pub use wire::notification::Notification;
