//! The shell around `dataplane-core`: sockets and threads, and nothing that decides.
//!
//! ```text
//!            open_port, set_underlay, publish
//!  control ──────────────── ArcSwap<Snapshot> ───────────────┐ one load per batch
//!                                                            ▼
//!   veth, tap  ◀─ packet socket ─▶ ┌──────── worker (one per two cores) ────────┐ ◀─ UDP 6635, 51234
//!   vrouter0   ◀────── tun ──────▶ │ epoll, recvmmsg → pipeline → sendmmsg      │ ─▶ UDP 49152-65535
//!                                  └────────────────────────────────────────────┘ ◀▶ raw IP, GRE
//! ```
//! A worker owns the receiving of its ports (port id modulo workers); any worker sends to any socket, which the kernel
//! allows. So a packet never changes threads, and a flow never overtakes itself: what one port sends is one worker's,
//! and the kernel gives one tunnel flow to one worker's socket.
#![deny(unsafe_code)]
#![warn(missing_docs)]

mod adjacency;
mod adopt;
mod capture;
mod cmsg;
mod control;
mod counters;
mod egress;
mod error;
mod flows;
mod gre;
mod guard;
mod host_link;
mod learning;
mod offload;
mod port_link;
mod ring;
mod snapshot;
mod spin;
#[allow(unsafe_code, reason = "system calls")]
mod sys;
mod token;
mod underlay;
mod vlan;
mod watch;
mod worker;

pub use adopt::{Keeper, Kept};
pub use capture::{
    Capture, CaptureConfig, CapturePoint, Captured, Direction, MAX_CAPTURES, MAX_SNAPLEN, TooManyCaptures,
};
pub use control::{Dataplane, DataplaneConfig};
pub use counters::{PortCounters, TunnelCounters};
pub use error::DataplaneError;
pub use offload::{Offload, UnknownOffload};
pub use sys::memory_file;
pub use watch::WorkerHealth;
