//! Writing UPDATE messages: as many routes as fit under one set of attributes.
//!
//! MP_REACH_NLRI goes first (RFC 7606 §5.1) and always has the extended length, so that its length can be filled in once
//! the routes are known. 1/1 routes with an IPv4 next hop travel in the message's own fields.

use std::net::IpAddr;

use bytes::{BufMut, BytesMut};

use crate::wire::attr::{code, flag};
use crate::wire::header::{self, MessageType};
use crate::wire::nlri::Nlri;
use crate::{Family, Negotiated};

/// The longest message that may be sent (RFC 4271 §4.1, RFC 8654).
pub const fn message_limit(session: &Negotiated) -> usize {
    if session.extended_message { header::MAX_EXTENDED_LEN } else { header::MAX_LEN }
}

/// One UPDATE message under construction at the end of a buffer.
#[derive(Debug)]
pub struct UpdateWriter<'o, 'a> {
    out: &'o mut BytesMut,
    start: usize,
    /// Octets of routes that still fit.
    room: usize,
    routes: usize,
    shape: Shape<'a>,
}

#[derive(Debug, Clone, Copy)]
enum Shape<'a> {
    /// The attributes follow the routes.
    Reach {
        length_at: usize,
        attributes: &'a [u8],
    },
    Unreach {
        length_at: usize,
    },
    Announced,
    Withdrawn,
}

impl<'o, 'a> UpdateWriter<'o, 'a> {
    /// Begins a message that announces. `attributes`: from [`AttrSet::export`](crate::wire::attr::set::AttrSet::export).
    pub fn announce(
        out: &'o mut BytesMut,
        family: Family,
        next_hop: IpAddr,
        attributes: &'a [u8],
        limit: usize,
    ) -> UpdateWriter<'o, 'a> {
        let start = header::begin(out, MessageType::Update);
        out.put_u16(0);
        if family == Family::Ipv4Unicast && next_hop.is_ipv4() {
            put_length(out, attributes.len());
            out.put_slice(attributes);
            return UpdateWriter::begin(out, start, limit, Shape::Announced);
        }
        out.put_u16(0);
        let length_at = put_mp_header(out, code::MP_REACH_NLRI, family);
        put_next_hop(out, family, next_hop);
        out.put_u8(0);
        UpdateWriter::begin(out, start, limit, Shape::Reach { length_at, attributes })
    }

    /// Begins a message that withdraws.
    pub fn withdraw(out: &'o mut BytesMut, family: Family, limit: usize) -> UpdateWriter<'o, 'a> {
        let start = header::begin(out, MessageType::Update);
        out.put_u16(0);
        if family == Family::Ipv4Unicast {
            return UpdateWriter::begin(out, start, limit, Shape::Withdrawn);
        }
        out.put_u16(0);
        let length_at = put_mp_header(out, code::MP_UNREACH_NLRI, family);
        UpdateWriter::begin(out, start, limit, Shape::Unreach { length_at })
    }

    fn begin(out: &'o mut BytesMut, start: usize, limit: usize, shape: Shape<'a>) -> UpdateWriter<'o, 'a> {
        let later = match shape {
            Shape::Reach { attributes, .. } => attributes.len(),
            Shape::Withdrawn => 2,
            _ => 0,
        };
        let room = (limit + start).saturating_sub(out.len() + later);
        UpdateWriter { out, start, room, routes: 0, shape }
    }

    /// Adds a route. False: it does not fit, and the message is as it was.
    #[inline]
    pub fn push(&mut self, route: &Nlri) -> bool {
        let Some(room) = self.room.checked_sub(route.encoded_len()) else { return false };
        self.room = room;
        self.routes += 1;
        match self.shape {
            Shape::Reach { .. } | Shape::Announced => route.encode(self.out),
            Shape::Unreach { .. } | Shape::Withdrawn => route.encode_withdrawal(self.out),
        }
        true
    }

    /// Completes the message and says how many routes it has. With none, the buffer is as it was before.
    pub fn finish(self) -> usize {
        if self.routes == 0 {
            self.out.truncate(self.start);
            return 0;
        }
        let fields_at = self.start + header::LEN;
        match self.shape {
            Shape::Reach { length_at, attributes } => {
                patch(self.out, length_at, length_at + 2);
                self.out.put_slice(attributes);
                patch(self.out, fields_at + 2, fields_at + 4);
            }
            Shape::Unreach { length_at } => {
                patch(self.out, length_at, length_at + 2);
                patch(self.out, fields_at + 2, fields_at + 4);
            }
            Shape::Withdrawn => {
                patch(self.out, fields_at, fields_at + 2);
                self.out.put_u16(0);
            }
            Shape::Announced => {}
        }
        header::finish(self.out, self.start);
        self.routes
    }
}

/// Appends the End-of-RIB marker of a family (RFC 4724 §2).
pub fn put_end_of_rib(out: &mut BytesMut, family: Family) {
    let start = header::begin(out, MessageType::Update);
    out.put_u16(0);
    if family == Family::Ipv4Unicast {
        out.put_u16(0);
    } else {
        let (afi, safi) = family.code();
        out.put_u16(6);
        out.put_slice(&[flag::OPTIONAL, code::MP_UNREACH_NLRI, 3]);
        out.put_u16(afi);
        out.put_u8(safi);
    }
    header::finish(out, start);
}

/// Appends attribute header, AFI and SAFI; returns where the attribute's length stands.
fn put_mp_header(out: &mut BytesMut, code: u8, family: Family) -> usize {
    let (afi, safi) = family.code();
    out.put_slice(&[flag::OPTIONAL | flag::EXTENDED_LENGTH, code]);
    let length_at = out.len();
    out.put_u16(0);
    out.put_u16(afi);
    out.put_u8(safi);
    length_at
}

/// VPN next hops have a zero route distinguisher in front (RFC 4364 §4.3.2); VPNv6 over IPv4 has the mapped address
/// (RFC 4659 §3.2.1.2).
fn put_next_hop(out: &mut BytesMut, family: Family, next_hop: IpAddr) {
    let mapped = matches!(family, Family::Vpnv6 | Family::Ipv6Unicast);
    let distinguisher = if matches!(family, Family::Vpnv4 | Family::Vpnv6) { 8 } else { 0 };
    let (v4, v6);
    let octets: &[u8] = match next_hop {
        IpAddr::V4(address) if mapped => {
            v6 = address.to_ipv6_mapped().octets();
            &v6
        }
        IpAddr::V4(address) => {
            v4 = address.octets();
            &v4
        }
        IpAddr::V6(address) => {
            v6 = address.octets();
            &v6
        }
    };
    // 8 and at most 16 octets.
    out.put_u8(u8::try_from(distinguisher + octets.len()).unwrap_or(u8::MAX));
    out.put_bytes(0, distinguisher);
    out.put_slice(octets);
}

/// Writes how many octets follow `from` into the two at `at`.
fn patch(out: &mut BytesMut, at: usize, from: usize) {
    let length = u16::try_from(out.len().saturating_sub(from)).unwrap_or(u16::MAX);
    if let Some(field) = out.get_mut(at..at + 2) {
        field.copy_from_slice(&length.to_be_bytes());
    }
}

fn put_length(out: &mut BytesMut, length: usize) {
    out.put_u16(u16::try_from(length).unwrap_or(u16::MAX));
}
