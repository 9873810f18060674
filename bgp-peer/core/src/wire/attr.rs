//! Path attributes as octets: the walk over them, their flags, and what is wrong with a malformed one.
//!
//! ```text
//! | flags (1): optional, transitive, partial, extended length | type (1) | length (1 or 2) | value |
//! ```
//! What each value must look like is decided in [`check`]; [`set`] is their canonical form, as the RIB keeps them.

pub mod check;
pub mod set;
mod tunnel;

use crate::Notification;

/// Attribute type codes (IANA "BGP Path Attributes").
pub mod code {
    #![allow(missing_docs)]
    pub const ORIGIN: u8 = 1;
    pub const AS_PATH: u8 = 2;
    pub const NEXT_HOP: u8 = 3;
    pub const MULTI_EXIT_DISC: u8 = 4;
    pub const LOCAL_PREF: u8 = 5;
    pub const ATOMIC_AGGREGATE: u8 = 6;
    pub const AGGREGATOR: u8 = 7;
    pub const COMMUNITIES: u8 = 8;
    pub const ORIGINATOR_ID: u8 = 9;
    pub const CLUSTER_LIST: u8 = 10;
    pub const MP_REACH_NLRI: u8 = 14;
    pub const MP_UNREACH_NLRI: u8 = 15;
    pub const EXT_COMMUNITIES: u8 = 16;
    pub const AS4_PATH: u8 = 17;
    pub const AS4_AGGREGATOR: u8 = 18;
    pub const TUNNEL_ENCAP: u8 = 23;
    pub const IPV6_EXT_COMMUNITIES: u8 = 25;
    pub const LARGE_COMMUNITY: u8 = 32;
    pub const PREFIX_SID: u8 = 40;
}

/// Attribute flags (RFC 4271 §4.3). The lower four bits are ignored on receipt.
pub mod flag {
    #![allow(missing_docs)]
    pub const OPTIONAL: u8 = 0x80;
    pub const TRANSITIVE: u8 = 0x40;
    pub const PARTIAL: u8 = 0x20;
    pub const EXTENDED_LENGTH: u8 = 0x10;
    /// Optional and transitive.
    pub const PASSED_ON: u8 = OPTIONAL | TRANSITIVE;
}

/// One attribute, unread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RawAttribute<'a> {
    /// Flags as received.
    pub flags: u8,
    /// Type code.
    pub code: u8,
    /// The value.
    pub value: &'a [u8],
    /// All its octets, for a NOTIFICATION.
    pub octets: &'a [u8],
}

/// Walks a block of attributes. An attribute that passes the end, or fewer than three octets left, ends the walk with
/// an error (RFC 7606 §4).
#[derive(Debug, Clone, Copy)]
pub struct RawAttributes<'a> {
    rest: &'a [u8],
}

impl<'a> RawAttributes<'a> {
    /// Walks this block.
    pub const fn new(block: &'a [u8]) -> RawAttributes<'a> {
        RawAttributes { rest: block }
    }

    fn take(&mut self) -> Option<RawAttribute<'a>> {
        let (flags, code, length, tail) = match *self.rest {
            [flags, code, high, low, ref tail @ ..] if flags & flag::EXTENDED_LENGTH != 0 => {
                (flags, code, usize::from(u16::from_be_bytes([high, low])), tail)
            }
            [flags, code, length, ref tail @ ..] if flags & flag::EXTENDED_LENGTH == 0 => {
                (flags, code, usize::from(length), tail)
            }
            _ => return None,
        };
        let (value, rest) = tail.split_at_checked(length)?;
        let octets = self.rest.get(..self.rest.len() - rest.len())?;
        self.rest = rest;
        Some(RawAttribute { flags, code, value, octets })
    }
}

impl<'a> Iterator for RawAttributes<'a> {
    type Item = Result<RawAttribute<'a>, Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let attribute = self.take().ok_or_else(|| Malformed {
            attribute: self.rest.get(1).copied().unwrap_or_default(),
            fault: Fault::Overrun,
        });
        if attribute.is_err() {
            self.rest = &[];
        }
        Some(attribute)
    }
}

/// What is wrong with an attribute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Optional, transitive or partial bit in conflict with the type.
    Flags,
    /// A length that the type does not allow.
    Length,
    /// A value that the type does not allow.
    Value,
    /// A mandatory attribute is absent.
    Missing,
    /// It passes the end of the block.
    Overrun,
}

/// An attribute that makes its UPDATE malformed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Malformed {
    /// The type code.
    pub attribute: u8,
    /// What is wrong.
    pub fault: Fault,
}

impl Malformed {
    /// The NOTIFICATION, where the session cannot go on (RFC 4271 §6.3). `octets`: the attribute.
    pub fn notification(self, octets: &[u8]) -> Notification {
        let subcode = match (self.fault, self.attribute) {
            (Fault::Overrun, _) => subcode::MALFORMED_ATTRIBUTE_LIST,
            (Fault::Missing, code) => {
                return Notification::update_error(subcode::MISSING_WELL_KNOWN, &[code]);
            }
            (Fault::Flags, _) => subcode::ATTRIBUTE_FLAGS,
            (_, code::AS_PATH) => subcode::MALFORMED_AS_PATH,
            (Fault::Length, _) => subcode::ATTRIBUTE_LENGTH,
            (Fault::Value, code::ORIGIN) => subcode::INVALID_ORIGIN,
            (Fault::Value, code::NEXT_HOP) => subcode::INVALID_NEXT_HOP,
            (Fault::Value, _) => subcode::OPTIONAL_ATTRIBUTE,
        };
        Notification::update_error(subcode, octets)
    }
}

impl std::fmt::Display for Malformed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let fault = match self.fault {
            Fault::Flags => "has wrong flags",
            Fault::Length => "has a wrong length",
            Fault::Value => "has a wrong value",
            Fault::Missing => "is missing",
            Fault::Overrun => "passes the end",
        };
        match name(self.attribute) {
            Some(name) => write!(f, "{name} {fault}"),
            None => write!(f, "attribute {} {fault}", self.attribute),
        }
    }
}

/// Subcodes of UPDATE Message Error (RFC 4271 §6.3).
pub(crate) mod subcode {
    pub(crate) const MALFORMED_ATTRIBUTE_LIST: u8 = 1;
    pub(crate) const UNRECOGNIZED_WELL_KNOWN: u8 = 2;
    pub(crate) const MISSING_WELL_KNOWN: u8 = 3;
    pub(crate) const ATTRIBUTE_FLAGS: u8 = 4;
    pub(crate) const ATTRIBUTE_LENGTH: u8 = 5;
    pub(crate) const INVALID_ORIGIN: u8 = 6;
    pub(crate) const INVALID_NEXT_HOP: u8 = 8;
    pub(crate) const OPTIONAL_ATTRIBUTE: u8 = 9;
    pub(crate) const INVALID_NETWORK_FIELD: u8 = 10;
    pub(crate) const MALFORMED_AS_PATH: u8 = 11;
}

/// An attribute's name in the RFCs.
fn name(code: u8) -> Option<&'static str> {
    Some(match code {
        code::ORIGIN => "ORIGIN",
        code::AS_PATH => "AS_PATH",
        code::NEXT_HOP => "NEXT_HOP",
        code::MULTI_EXIT_DISC => "MULTI_EXIT_DISC",
        code::LOCAL_PREF => "LOCAL_PREF",
        code::ATOMIC_AGGREGATE => "ATOMIC_AGGREGATE",
        code::AGGREGATOR => "AGGREGATOR",
        code::COMMUNITIES => "COMMUNITIES",
        code::ORIGINATOR_ID => "ORIGINATOR_ID",
        code::CLUSTER_LIST => "CLUSTER_LIST",
        code::MP_REACH_NLRI => "MP_REACH_NLRI",
        code::MP_UNREACH_NLRI => "MP_UNREACH_NLRI",
        code::EXT_COMMUNITIES => "EXTENDED COMMUNITIES",
        code::AS4_PATH => "AS4_PATH",
        code::AS4_AGGREGATOR => "AS4_AGGREGATOR",
        code::TUNNEL_ENCAP => "TUNNEL_ENCAP",
        code::IPV6_EXT_COMMUNITIES => "IPv6 EXTENDED COMMUNITIES",
        code::LARGE_COMMUNITY => "LARGE_COMMUNITY",
        code::PREFIX_SID => "PREFIX_SID",
        _ => return None,
    })
}

/// Appends an attribute; the extended length only where it is needed.
pub fn put_attribute(out: &mut Vec<u8>, flags: u8, code: u8, value: &[u8]) {
    let flags = flags & !(flag::EXTENDED_LENGTH | 0x0f);
    match u8::try_from(value.len()) {
        Ok(length) => out.extend_from_slice(&[flags, code, length]),
        Err(_) => {
            // A value comes from one message or is built by this crate: it never passes 65,535 octets.
            let [high, low] = u16::try_from(value.len()).unwrap_or(u16::MAX).to_be_bytes();
            out.extend_from_slice(&[flags | flag::EXTENDED_LENGTH, code, high, low]);
        }
    }
    out.extend_from_slice(value);
}
