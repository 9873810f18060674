//! The pipeline through its public doors: bytes in, verdict and bytes out.

#![allow(clippy::unwrap_used, reason = "a test may")]

mod dhcp4;
mod dhcp6;
mod fragments;
mod from_host;
mod from_port;
mod from_underlay;
mod hostile;
mod lab;
mod outside;
mod packets;
mod policy;
mod remembered;
mod replies;
mod superframes;
mod tracing;
mod translated;
