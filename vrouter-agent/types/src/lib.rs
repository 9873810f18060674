//! The nouns that the BGP speaker, the dataplane and the local API all speak, and nothing else.
//!
//! Each is a newtype whose only constructors check it, whose `Display` is what an operator would type, and whose
//! serde form is that text. No behaviour lives here: no I/O, no tables, no clock.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod encap;
mod id;
mod label;
mod mac;
mod prefix;
mod rd;
mod route_target;
mod text;

pub use encap::{Encap, EncapSet, ParseEncapError};
pub use id::{Asn, PortId, VrfId};
pub use label::{Label, LabelError};
pub use mac::{MacAddr, ParseMacError};
pub use prefix::{ParsePrefixError, Prefix, VpnPrefix};
pub use rd::{ParseRdError, RouteDistinguisher};
pub use route_target::{ParseRouteTargetError, RouteTarget};
