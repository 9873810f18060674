//! OPEN: who speaks, and what it offers (RFC 4271 §4.2; long optional parameters RFC 9072).
//!
//! ```text
//!  +---------+-------------------+-------------------+---------------------------------------+
//!  | version | my AS (2 octets)  | hold time         | BGP identifier                        |
//!  +---------+-------------------+-------------------+---------------------------------------+
//!  | length  | optional parameters: type (1), length (1), value …                            |
//!  +---------+-------------------------------------------------------------------------------+
//!  | 255     | 255     | length (2 octets) | parameters: type (1), length (2), value …       |   RFC 9072
//!  +---------+-------------------------------------------------------------------------------+
//! ```
//! Only what an OPEN can get wrong by itself is refused here. Whether it is the right AS, or a known identifier, is
//! the business of [`negotiate`](crate::negotiate()).

use std::net::Ipv4Addr;

use bytes::{BufMut, Bytes, BytesMut};

use super::capability::Capability;
use super::header::{self, MessageType};
use super::notification::Notification;

/// An OPEN, version 4.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Open {
    /// The AS number, or AS_TRANS where it does not fit (RFC 6793 §9).
    pub my_as: u16,
    /// In seconds: 0, or at least 3.
    pub hold_time: u16,
    /// The BGP identifier: any but zero (RFC 6286 §2.1).
    pub router_id: Ipv4Addr,
    /// In the order in which they came, over all parameters.
    pub capabilities: Vec<Capability>,
}

impl Open {
    /// Reads what follows the header.
    ///
    /// # Errors
    /// The NOTIFICATION of RFC 4271 §6.2 that the message deserves.
    pub fn decode(body: Bytes) -> Result<Open, Notification> {
        let &[version, as0, as1, hold0, hold1, id0, id1, id2, id3, length, ..] = body.as_ref() else {
            return Err(Notification::open_malformed());
        };
        if version != VERSION {
            return Err(Notification::unsupported_version());
        }
        let hold_time = u16::from_be_bytes([hold0, hold1]);
        if matches!(hold_time, 1 | 2) {
            return Err(Notification::unacceptable_hold_time());
        }
        let router_id = Ipv4Addr::new(id0, id1, id2, id3);
        if router_id.is_unspecified() {
            return Err(Notification::bad_bgp_identifier());
        }
        let capabilities = decode_parameters(length, body.slice(FIXED_LEN..))?;
        Ok(Open { my_as: u16::from_be_bytes([as0, as1]), hold_time, router_id, capabilities })
    }

    /// Appends the message, in the long form where the short one cannot hold the capabilities.
    pub fn encode(&self, out: &mut BytesMut) {
        let mut capabilities = BytesMut::new();
        self.capabilities.iter().for_each(|capability| capability.encode(&mut capabilities));
        let start = header::begin(out, MessageType::Open);
        out.put_u8(VERSION);
        out.put_u16(self.my_as);
        out.put_u16(self.hold_time);
        out.put_slice(&self.router_id.octets());
        match (capabilities.len(), u16::try_from(capabilities.len())) {
            (0, _) => out.put_u8(0),
            // 255 would read as the long form (RFC 9072 §2).
            (1..=MAX_SHORT, Ok(length)) => {
                let [_, length] = length.to_be_bytes();
                out.put_slice(&[length + 2, CAPABILITIES, length]);
                out.put_slice(&capabilities);
            }
            (_, Ok(length)) => {
                out.put_slice(&[EXTENDED, EXTENDED]);
                out.put_u16(length.saturating_add(3));
                out.put_u8(CAPABILITIES);
                out.put_u16(length);
                out.put_slice(&capabilities);
            }
            // No message can hold them.
            (_, Err(_)) => out.put_u8(0),
        }
        header::finish(out, start);
    }
}

/// Reads the parameters behind the length octet: all of them, and nothing more.
fn decode_parameters(length: u8, rest: Bytes) -> Result<Vec<Capability>, Notification> {
    // RFC 9072 §2: what counts is the type octet; the length before it may be any but 0.
    let extended = length != 0 && rest.first() == Some(&EXTENDED);
    let (declared, mut rest) = match rest.as_ref() {
        &[_, high, low, ..] if extended => (usize::from(u16::from_be_bytes([high, low])), rest.slice(3..)),
        _ if extended => return Err(Notification::open_malformed()),
        _ => (usize::from(length), rest),
    };
    if rest.len() != declared {
        return Err(Notification::open_malformed());
    }
    let mut capabilities = Vec::new();
    while !rest.is_empty() {
        let (kind, start, length) = match (extended, rest.as_ref()) {
            (true, &[kind, high, low, ..]) => (kind, 3, u16::from_be_bytes([high, low])),
            (false, &[kind, length, ..]) => (kind, 2, u16::from(length)),
            (true | false, _) => return Err(Notification::open_malformed()),
        };
        let end = start + usize::from(length);
        if rest.len() < end {
            return Err(Notification::open_malformed());
        }
        if kind != CAPABILITIES {
            return Err(Notification::unsupported_optional_parameter());
        }
        Capability::decode_all(rest.slice(start..end), &mut capabilities)?;
        rest = rest.slice(end..);
    }
    Ok(capabilities)
}

const VERSION: u8 = 4;
/// Octets up to the parameters.
const FIXED_LEN: usize = 10;
/// The parameter that holds capabilities (RFC 5492 §4).
const CAPABILITIES: u8 = 2;
/// Octets of capabilities that the short form can hold.
const MAX_SHORT: usize = 252;
/// Announces the long form (RFC 9072 §2).
const EXTENDED: u8 = 255;

#[cfg(test)]
mod tests {
    use super::*;

    fn open(capabilities: Vec<Capability>) -> Open {
        Open { my_as: 64512, hold_time: 90, router_id: Ipv4Addr::new(192, 0, 2, 1), capabilities }
    }

    fn filler(octets: usize) -> Vec<Capability> {
        let whole = |length: usize| Capability { code: 200, value: vec![7; length - 2].into() };
        let mut list: Vec<_> = (0..octets / 200).map(|_| whole(200)).collect();
        if !octets.is_multiple_of(200) {
            list.push(whole(octets % 200));
        }
        list
    }

    #[test]
    fn every_length_of_capabilities_survives_the_wire() {
        for octets in [0, 2, 100, 251, 252, 253, 254, 255, 256, 257, 258, 300, 1000, 4000] {
            let sent = open(filler(octets));
            let mut out = BytesMut::new();
            sent.encode(&mut out);
            assert!(header::Header::decode(&out, false).is_ok());
            let body = out.freeze().slice(header::LEN..);
            assert_eq!(body[9] == 255, octets > 252, "{octets} octets of capabilities");
            assert_eq!(Open::decode(body).unwrap(), sent, "{octets} octets of capabilities");
        }
    }

    #[test]
    fn every_cut_and_every_surplus_octet_is_refused() {
        for octets in [0, 100, 300] {
            let mut out = BytesMut::new();
            open(filler(octets)).encode(&mut out);
            let body = out.freeze().slice(header::LEN..);
            for end in 0..body.len() {
                assert!(Open::decode(body.slice(..end)).is_err(), "{end} of {} octets", body.len());
            }
            let mut longer = body.to_vec();
            longer.push(0);
            assert!(Open::decode(longer.into()).is_err());
        }
    }

    #[test]
    fn long_form_with_few_octets_is_read() {
        let body = [4, 0xfc, 0, 0, 90, 192, 0, 2, 1, 9, 255, 0, 5, 2, 0, 2, 2, 0];
        let read = Open::decode(Bytes::copy_from_slice(&body)).unwrap();
        assert_eq!(read.capabilities, [Capability::empty(2)]);
    }
}
