//! The agent that boots on gateways and hypervisors.
//!
//! ```text
//!  unix socket ──▶ server ──Call───────────┐
//!  bgp-peer    ──SpeakerEvent──────────────┤                      ┌▶ state_file  (durable)
//!  netlink     ──NetlinkEvent──────────────┼─▶ agent ──Event──▶ Overlay::apply ──Effect──▶ agent ─┼▶ dataplane   (sockets, Arc<Fib>)
//!  ticks, spooled deletes, signals ────────┘   (one task)        (pure)       (in order)         ├▶ speaker     (routes)
//!                                                                 │                              ├▶ netlink     (host routes)
//!                                                                 └──▶ show ──▶ replies          └▶ answers
//! ```
//! [`overlay::Overlay`] decides and does nothing; [`agent`] does and decides nothing. [`server`] translates
//! HTTP to calls, [`show`] translates state to what people read and [`metrics`] to what Prometheus does, [`netlink`]
//! watches and changes the host's network.
//! [`vm`] serves virtual machines metadata and names. [`service`] speaks with the service manager: readiness, watchdog, sockets that it holds over a restart.
//! What must outlive the process is in [`state_file`]; what the operator wants is [`config::Config`].
#![warn(missing_docs)]

pub mod agent;
pub mod config;
pub mod error;
pub mod event;
pub mod fib_build;
pub mod fib_check;
pub mod install;
pub mod ipam;
pub mod journal;
pub mod labels;
pub mod memory;
pub mod metrics;
pub mod netlink;
pub mod openstack;
pub mod overlay;
pub mod policy;
pub mod rates;
pub mod security_groups;
pub mod server;
pub mod service;
pub mod show;
pub mod state_file;
pub mod vm;

pub use error::Error;
