//! The agent's local API: HTTP/1.1 and JSON on a root-only Unix socket.
//!
//! ```text
//!  POST /v1/ports/attach         AttachPort   -> AttachedPort      durable, forwarding and advertised when answered
//!  POST /v1/ports/detach         DetachPort   -> DetachedPort      unknown ports are no error
//!  POST /v1/ports/check          AttachPort   -> AttachedPort      what attach answered, if all of it still stands
//!  GET  /v1/status                            -> Status
//!  GET  /v1/show/bgp/summary                  -> BgpSummary
//!  GET  /v1/show/bgp/neighbors[?address=A]    -> BgpNeighbors
//!  GET  /v1/show/bgp/routes[?filter…]         -> BgpRoutes         filters: see RouteFilter
//!  GET  /v1/show/bgp/rtc                      -> BgpRtc
//!  POST /v1/bgp/clear            BgpClear     -> BgpClear          what was done
//!  GET  /v1/explain?vrf=NAME&prefix=P         -> Explanation
//!  GET  /v1/monitor/bgp                       -> MonitorEvent…     one JSON object per line, until either side ends it
//!  GET  /v1/show/vrfs                         -> Vrfs
//!  GET  /v1/show/routes[?vrf=NAME&prefix=P]   -> Routes
//!  GET  /v1/show/ports                        -> Ports
//!  GET  /v1/show/labels                       -> Labels
//!  GET  /v1/show/tunnels                      -> Tunnels
//!  GET  /v1/show/drops                        -> Drops
//!  GET  /v1/show/memory                       -> Memory
//!  GET  /v1/show/openstack                    -> OpenStack
//!  GET  /v1/capture?point=…                  -> a pcapng file, until a limit is reached or either side has had enough
//!  GET  /v1/show/flows[?vrf&port&limit]       -> Flows             how many are told is bounded
//!  GET  /v1/security-groups                   -> SecurityGroups
//!  GET  /v1/security-groups/NAME              -> SecurityGroupView
//!  PUT  /v1/security-groups/NAME SecurityGroup -> SecurityGroupChanged   durable and in force when answered
//!  DELETE /v1/security-groups/NAME            -> SecurityGroupChanged   unknown groups are no error
//!  POST /v1/trace                TraceRequest -> TraceReply
//!  POST /v1/reload                            -> Reloaded          a file with mistakes changes nothing
//! ```
//! Every reply that is not 200 carries an [`ApiError`]. JSON keys are camelCase; where FRR shows the same thing, the
//! key is FRR's.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod capture;
pub mod client;
mod error;
pub mod path;
pub mod pcapng;
mod port;
pub mod sealed;
mod security_group;
mod show;
mod show_agent;
mod show_bgp;
mod show_flows;
mod show_openstack;
mod vm;

pub use capture::{CaptureDirection, CaptureRequest, DirectionError};
pub use client::{Client, ClientError, ProtocolError};
pub use error::{ApiError, ErrorKind};
pub use port::{
    AddressPair, AttachPort, AttachedPort, DetachPort, DetachedPort, FloatingIp, PortKey, PortKind,
};
pub use security_group::*;
pub use show::*;
pub use show_agent::*;
pub use show_bgp::*;
pub use show_flows::*;
pub use show_openstack::*;
pub use vm::{Subnet, VmServices};

/// Where the agent listens unless its configuration says otherwise.
pub const DEFAULT_SOCKET: &str = "/run/vrouter/agent.sock";

/// Where `vrouter-cni` leaves a DEL that the agent could not take; the agent works it off when it starts.
pub const DEFAULT_SPOOL: &str = "/var/lib/vrouter/deletes";
