//! The octets of BGP messages and what they mean. Nothing here keeps state.

pub mod as_path;
pub mod attr;
pub mod capability;
pub mod community;
pub mod ext_community;
pub mod graceful;
pub mod header;
pub mod nlri;
pub mod notification;
pub mod open;
pub mod route_refresh;
pub mod update;
