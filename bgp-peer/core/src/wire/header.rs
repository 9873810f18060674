//! The message header (RFC 4271 §4.1), and where one message ends and the next begins.
//!
//! ```text
//!  0                   1                   2                   3
//!  +---------------------------------------------------------------+
//!  | marker: sixteen octets, all ones                              |
//!  +-------------------------------+---------------+---------------+
//!  | length, header included       | type          |
//!  +-------------------------------+---------------+
//! ```
//! Nineteen octets are enough to refuse a message: nobody has to send us 65,535 octets to be told that they are too
//! many. A wrong marker is refused with its first wrong octet.

use bytes::{BufMut, BytesMut};

use super::notification::Notification;

/// Octets of the header.
pub const LEN: usize = 19;
/// The longest message (RFC 4271 §4.1).
pub const MAX_LEN: usize = 4096;
/// The longest message where RFC 8654 is in force.
pub const MAX_EXTENDED_LEN: usize = 65_535;

/// The five messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MessageType {
    /// The first on a connection.
    Open,
    /// Routes.
    Update,
    /// The last on a connection.
    Notification,
    /// Still here.
    Keepalive,
    /// Send it all again (RFC 2918).
    RouteRefresh,
}

impl MessageType {
    /// The type of this code.
    pub const fn from_code(code: u8) -> Option<MessageType> {
        match code {
            1 => Some(MessageType::Open),
            2 => Some(MessageType::Update),
            3 => Some(MessageType::Notification),
            4 => Some(MessageType::Keepalive),
            5 => Some(MessageType::RouteRefresh),
            _ => None,
        }
    }

    /// The octet in the header.
    pub const fn code(self) -> u8 {
        match self {
            MessageType::Open => 1,
            MessageType::Update => 2,
            MessageType::Notification => 3,
            MessageType::Keepalive => 4,
            MessageType::RouteRefresh => 5,
        }
    }

    /// The lengths that can be right, header included (RFC 4271 §6.1). ROUTE-REFRESH has its own error for a wrong
    /// length (RFC 7313 §5), so any length passes here. OPEN and KEEPALIVE never grow (RFC 8654 §4).
    const fn lengths(self, extended: bool) -> (usize, usize) {
        let max = if extended { MAX_EXTENDED_LEN } else { MAX_LEN };
        match self {
            MessageType::Open => (29, MAX_LEN),
            MessageType::Update => (23, max),
            MessageType::Notification => (21, max),
            MessageType::Keepalive => (LEN, LEN),
            MessageType::RouteRefresh => (LEN, max),
        }
    }
}

/// A header that has been checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// What kind of message follows.
    pub kind: MessageType,
    /// Octets of the whole message.
    pub length: usize,
}

impl Header {
    /// Reads the header at the front. `None`: more octets are needed.
    ///
    /// # Errors
    /// The NOTIFICATION of RFC 4271 §6.1 that the octets deserve.
    pub fn decode(octets: &[u8], extended: bool) -> Result<Option<Header>, Notification> {
        if octets.iter().take(MARKER.len()).any(|octet| *octet != 0xff) {
            return Err(Notification::connection_not_synchronized());
        }
        let Some(&[high, low, code]) = octets.get(MARKER.len()..LEN) else { return Ok(None) };
        let length = u16::from_be_bytes([high, low]);
        if usize::from(length) < LEN || (usize::from(length) > MAX_LEN && !extended) {
            return Err(Notification::bad_message_length(length));
        }
        let kind = MessageType::from_code(code).ok_or_else(|| Notification::bad_message_type(code))?;
        let (min, max) = kind.lengths(extended);
        if !(min..=max).contains(&usize::from(length)) {
            return Err(Notification::bad_message_length(length));
        }
        Ok(Some(Header { kind, length: usize::from(length) }))
    }
}

/// Appends a header whose length is still open, and says where it begins.
pub fn begin(out: &mut BytesMut, kind: MessageType) -> usize {
    let start = out.len();
    out.put_slice(&MARKER);
    out.put_u16(0);
    out.put_u8(kind.code());
    start
}

/// Writes the length into the header that begins at `start`. A message that is longer than any can be gets the length
/// 65,535; whoever builds messages keeps them within what was negotiated.
pub fn finish(out: &mut BytesMut, start: usize) {
    let length = u16::try_from(out.len().saturating_sub(start)).unwrap_or(u16::MAX);
    if let Some(field) = out.get_mut(start + MARKER.len()..start + MARKER.len() + 2) {
        field.copy_from_slice(&length.to_be_bytes());
    }
}

const MARKER: [u8; 16] = [0xff; 16];

#[cfg(test)]
mod tests {
    use super::*;

    fn message(length: u16, code: u8) -> Vec<u8> {
        let mut octets = MARKER.to_vec();
        octets.extend(length.to_be_bytes());
        octets.push(code);
        octets
    }

    #[test]
    fn short_headers_wait_for_more() {
        let whole = message(19, 4);
        for end in 0..whole.len() {
            assert_eq!(Header::decode(&whole[..end], false), Ok(None), "{end} octets");
        }
        assert_eq!(
            Header::decode(&whole, false),
            Ok(Some(Header { kind: MessageType::Keepalive, length: 19 }))
        );
    }

    #[test]
    fn first_wrong_marker_octet_is_enough() {
        assert_eq!(Header::decode(b"H", false), Err(Notification::connection_not_synchronized()));
        for at in 0..16 {
            let mut octets = message(19, 4);
            octets[at] = 0xfe;
            assert_eq!(
                Header::decode(&octets, false),
                Err(Notification::connection_not_synchronized()),
                "octet {at}"
            );
        }
    }

    #[test]
    fn each_type_has_its_lengths() {
        // (type, smallest, largest, largest with extended messages)
        for (code, min, max, extended) in
            [(1, 29, 4096, 4096), (2, 23, 4096, 65535), (3, 21, 4096, 65535), (4, 19, 19, 19)]
        {
            let right = |length, extended| Header::decode(&message(length, code), extended).is_ok();
            assert!(right(min, false) && right(max, false) && right(extended, true), "type {code}");
            for (length, extended) in [(min - 1, false), (min - 1, true), (max + 1, false)] {
                let verdict = Header::decode(&message(length, code), extended);
                assert_eq!(
                    verdict,
                    Err(Notification::bad_message_length(length)),
                    "type {code} length {length}"
                );
            }
        }
    }

    #[test]
    fn unknown_types_are_named() {
        for code in [0, 6, 255] {
            assert_eq!(Header::decode(&message(19, code), true), Err(Notification::bad_message_type(code)));
        }
    }

    #[test]
    fn finish_fills_the_length_of_its_own_message() {
        let mut out = BytesMut::new();
        let first = begin(&mut out, MessageType::Keepalive);
        finish(&mut out, first);
        let second = begin(&mut out, MessageType::Notification);
        out.put_slice(&[6, 2]);
        finish(&mut out, second);
        assert_eq!(Header::decode(&out, false).unwrap().unwrap().length, 19);
        assert_eq!(Header::decode(&out[19..], false).unwrap().unwrap().length, 21);
    }
}
