//! The packet path without I/O: what happens to a frame, decided from an immutable snapshot.
//!
//! ```text
//!                     ┌───────────────── Fib (snapshot) ─────────────────┐
//!                     │ ports   vrfs   ilm   tunnels   sources   host    │
//!                     └──────────────────────────────────────────────────┘
//!   Ethernet  ──▶ from_port ─────┐                        ┌──▶ ToUnderlay(push)  segment, then the tunnel
//!   label+IP  ──▶ from_underlay ─┼─ parse ─ look up ──────┼──▶ ToPort(port)      coalesce, then Ethernet
//!   IP        ──▶ from_host ─────┘  TTL, MTU, MSS, ECN    ├──▶ ToHost
//!                                                         ├──▶ Reply(to)         ARP, ND, ICMP: state.reply
//!                                                         └──▶ Drop(reason)      exactly one counter
//! ```
//! A frame may be a 64 KB superframe: its virtio-net header travels with it. After a forwarding verdict the frame
//! begins at the inner IP header. The link header is the shell's business, which gathers it in front: neighbours in
//! one receive buffer must not be overwritten.
//!
//! A worker's [`State`] remembers where flows went, so that most packets need no longest-prefix match; a snapshot of
//! another generation makes it forget.
//!
//! What this crate refuses to do: ask the time, open a socket, spawn, lock, log, or allocate per packet. It is told
//! `now` through [`State`]. No bytes make it panic.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

pub mod checksum;
pub mod coalesce;
pub mod fib;
pub mod filter;
mod flow;
mod flow_cache;
mod flow_table;
mod forward;
pub mod frame;
mod host_flows;
mod learned;
mod limiter;
pub mod nat;
mod packet;
pub mod policy;
mod reply;
pub mod segment;
mod state;
#[cfg(test)]
#[path = "../tests/pipeline/packets.rs"]
mod testing;
pub mod trace;
pub mod verdict;
pub mod vnet;

pub use fib::{
    Fib, Gateway, Hop, HostFib, Ilm, Lease, Port, Route, RouteTable, ServiceTargets, Services, Sources,
    Subnet, Tunnel, TunnelId, Vrf,
};
pub use filter::Filter;
pub use flow_table::{
    Begun, FlowLimits, FlowState, FlowTable, FlowTuple, FlowUse, FlowView, KEPT_FLOW_LEN, Translation,
};
pub use forward::{Outer, from_host, from_port, from_underlay, too_big, unsolicited_advertisement};
pub use frame::Frame;
pub use host_flows::HostFlows;
pub use learned::{Announcements, Learned};
pub use nat::{Snat, StaticNat};
pub use policy::Policy;
pub use state::{ReplyBuffer, Service, State};
pub use verdict::{DropReason, Push, ReplyTo, Verdict};
pub use vnet::{Gso, VnetHeader};
