//! NOTIFICATION: why a session ends (RFC 4271 §4.5 and §6, RFC 4486, RFC 6608, RFC 9003, RFC 9687).
//!
//! ```text
//!  +--------------+--------------+---------------------------+
//!  | error code   | subcode      | data …                    |   behind the header, at least two octets
//!  +--------------+--------------+---------------------------+
//! ```
//! It never fails to decode: a NOTIFICATION is the last word on its connection and is not answered (RFC 4271 §6.4).

use std::fmt;

use bytes::{BufMut, Bytes, BytesMut};

use super::header::{self, MessageType};

/// Why a session ends, as it is sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notification {
    /// The error code.
    pub code: u8,
    /// The error subcode.
    pub subcode: u8,
    /// What goes with it: usually the octets that were wrong.
    pub data: Bytes,
}

impl Notification {
    /// One with data. The data is cut so that the message fits 4,096 octets (RFC 4271 §4.1).
    pub fn new(code: u8, subcode: u8, data: &[u8]) -> Notification {
        let data = Bytes::copy_from_slice(data.get(..MAX_DATA).unwrap_or(data));
        Notification { code, subcode, data }
    }

    /// Message Header Error, Connection Not Synchronized: the marker is wrong (RFC 4271 §6.1).
    pub fn connection_not_synchronized() -> Notification {
        Notification::new(1, 1, &[])
    }

    /// Message Header Error, Bad Message Length, with that length (RFC 4271 §6.1).
    pub fn bad_message_length(length: u16) -> Notification {
        Notification::new(1, 2, &length.to_be_bytes())
    }

    /// Message Header Error, Bad Message Type, with that type (RFC 4271 §6.1).
    pub fn bad_message_type(kind: u8) -> Notification {
        Notification::new(1, 3, &[kind])
    }

    /// OPEN Message Error without a subcode: malformed (RFC 4271 §6.2).
    pub fn open_malformed() -> Notification {
        Notification::new(2, 0, &[])
    }

    /// OPEN Message Error, Unsupported Version Number, with the version that we speak (RFC 4271 §6.2).
    pub fn unsupported_version() -> Notification {
        Notification::new(2, 1, &[0, 4])
    }

    /// OPEN Message Error, Bad Peer AS (RFC 4271 §6.2).
    pub fn bad_peer_as() -> Notification {
        Notification::new(2, 2, &[])
    }

    /// OPEN Message Error, Bad BGP Identifier (RFC 4271 §6.2, RFC 6286 §2.2).
    pub fn bad_bgp_identifier() -> Notification {
        Notification::new(2, 3, &[])
    }

    /// OPEN Message Error, Unsupported Optional Parameter (RFC 4271 §6.2).
    pub fn unsupported_optional_parameter() -> Notification {
        Notification::new(2, 4, &[])
    }

    /// OPEN Message Error, Unacceptable Hold Time (RFC 4271 §6.2).
    pub fn unacceptable_hold_time() -> Notification {
        Notification::new(2, 6, &[])
    }

    /// OPEN Message Error, Unsupported Capability, with the capabilities that we miss (RFC 5492 §5).
    pub fn unsupported_capability(capabilities: &[u8]) -> Notification {
        Notification::new(2, 7, capabilities)
    }

    /// UPDATE Message Error with one of the subcodes of RFC 4271 §6.3 and the octets at fault.
    pub fn update_error(subcode: u8, data: &[u8]) -> Notification {
        Notification::new(3, subcode, data)
    }

    /// UPDATE Message Error, Malformed Attribute List (RFC 4271 §6.3).
    pub fn malformed_attribute_list() -> Notification {
        Notification::update_error(1, &[])
    }

    /// UPDATE Message Error, Optional Attribute Error, with the attribute (RFC 4271 §6.3).
    pub fn optional_attribute_error(attribute: &[u8]) -> Notification {
        Notification::update_error(9, attribute)
    }

    /// UPDATE Message Error, Invalid Network Field (RFC 4271 §6.3).
    pub fn invalid_network_field() -> Notification {
        Notification::update_error(10, &[])
    }

    /// Hold Timer Expired (RFC 4271 §6.5).
    pub fn hold_timer_expired() -> Notification {
        Notification::new(4, 0, &[])
    }

    /// Finite State Machine Error: a message that the state has no use for. The subcode names the state: 1 OpenSent,
    /// 2 OpenConfirm, 3 Established (RFC 6608 §3).
    pub fn fsm_error(subcode: u8, kind: Option<MessageType>) -> Notification {
        match kind {
            Some(kind) => Notification::new(5, subcode, &[kind.code()]),
            None => Notification::new(5, subcode, &[]),
        }
    }

    /// Cease, Administrative Shutdown, with a message for people (RFC 9003 §2).
    pub fn administrative_shutdown(message: &str) -> Notification {
        let mut end = message.len().min(255);
        while !message.is_char_boundary(end) {
            end -= 1;
        }
        let text = message.get(..end).unwrap_or_default().as_bytes();
        let mut data = Vec::with_capacity(1 + text.len());
        data.extend(u8::try_from(text.len()));
        data.extend_from_slice(text);
        Notification::new(6, 2, &data)
    }

    /// Cease, Maximum Number of Prefixes Reached (RFC 4486 §4).
    pub fn maximum_prefixes() -> Notification {
        Notification::new(6, 1, &[])
    }

    /// Cease, Peer De-configured (RFC 4486 §4).
    pub fn peer_deconfigured() -> Notification {
        Notification::new(6, 3, &[])
    }

    /// Cease, Administrative Reset (RFC 4486 §4).
    pub fn administrative_reset() -> Notification {
        Notification::new(6, 4, &[])
    }

    /// Cease, Other Configuration Change (RFC 4486 §4).
    pub fn configuration_change() -> Notification {
        Notification::new(6, 6, &[])
    }

    /// The same in a Cease, Hard Reset: even where restarts are graceful, the routes go (RFC 8538 §3).
    #[must_use]
    pub fn into_hard_reset(self) -> Notification {
        let mut data = vec![self.code, self.subcode];
        data.extend_from_slice(&self.data);
        Notification::new(6, 9, &data)
    }

    /// Whether it is a Cease, Hard Reset (RFC 8538 §3).
    pub fn is_hard_reset(&self) -> bool {
        (self.code, self.subcode) == (6, 9)
    }

    /// What a hard reset carries (RFC 8538 §3); one in another is none.
    fn inner(&self) -> Option<Notification> {
        let &[code, subcode, ..] = self.data.as_ref() else { return None };
        let data = self.data.slice(2..);
        (self.is_hard_reset() && (code, subcode) != (6, 9)).then_some(Notification { code, subcode, data })
    }

    /// Cease, Connection Rejected (RFC 4486 §4).
    pub fn connection_rejected() -> Notification {
        Notification::new(6, 5, &[])
    }

    /// Cease, Connection Collision Resolution (RFC 4486 §4).
    pub fn connection_collision() -> Notification {
        Notification::new(6, 7, &[])
    }

    /// ROUTE-REFRESH Message Error, Invalid Message Length, with the message (RFC 7313 §5).
    pub fn refresh_length(message: &[u8]) -> Notification {
        Notification::new(7, 1, message)
    }

    /// Send Hold Timer Expired (RFC 9687 §4).
    pub fn send_hold_timer_expired() -> Notification {
        Notification::new(8, 0, &[])
    }

    /// Reads what follows the header. The header check has seen to two octets; missing ones read as zero.
    pub fn decode(body: &[u8]) -> Notification {
        let octet = |at: usize| body.get(at).copied().unwrap_or(0);
        Notification::new(octet(0), octet(1), body.get(2..).unwrap_or_default())
    }

    /// Appends the message.
    pub fn encode(&self, out: &mut BytesMut) {
        let start = header::begin(out, MessageType::Notification);
        out.put_u8(self.code);
        out.put_u8(self.subcode);
        out.put_slice(&self.data);
        header::finish(out, start);
    }

    /// The message for people that an administrative shutdown or reset carries (RFC 9003 §2). Whatever is not
    /// printable is escaped: it is the neighbor's text, and it goes to our log.
    pub fn shutdown_communication(&self) -> Option<String> {
        let (6, 2 | 4) = (self.code, self.subcode) else { return None };
        let (length, text) = self.data.split_first()?;
        let text = text.get(..usize::from(*length)).unwrap_or(text);
        if text.is_empty() {
            return None;
        }
        Some(String::from_utf8_lossy(text).escape_debug().to_string())
    }

    fn code_name(&self) -> &'static str {
        match self.code {
            1 => "Message Header Error",
            2 => "OPEN Message Error",
            3 => "UPDATE Message Error",
            4 => "Hold Timer Expired",
            5 => "Finite State Machine Error",
            6 => "Cease",
            7 => "ROUTE-REFRESH Message Error",
            8 => "Send Hold Timer Expired",
            _ => "unknown error",
        }
    }

    fn subcode_name(&self) -> Option<&'static str> {
        let name = match (self.code, self.subcode) {
            (1, 1) => "Connection Not Synchronized",
            (1, 2) => "Bad Message Length",
            (1, 3) => "Bad Message Type",
            (2, 0) => "malformed",
            (2, 1) => "Unsupported Version Number",
            (2, 2) => "Bad Peer AS",
            (2, 3) => "Bad BGP Identifier",
            (2, 4) => "Unsupported Optional Parameter",
            (2, 6) => "Unacceptable Hold Time",
            (2, 7) => "Unsupported Capability",
            (2, 11) => "Role Mismatch",
            (3, 1) => "Malformed Attribute List",
            (3, 2) => "Unrecognized Well-known Attribute",
            (3, 3) => "Missing Well-known Attribute",
            (3, 4) => "Attribute Flags Error",
            (3, 5) => "Attribute Length Error",
            (3, 6) => "Invalid ORIGIN Attribute",
            (3, 8) => "Invalid NEXT_HOP Attribute",
            (3, 9) => "Optional Attribute Error",
            (3, 10) => "Invalid Network Field",
            (3, 11) => "Malformed AS_PATH",
            (5, 1) => "Receive Unexpected Message in OpenSent State",
            (5, 2) => "Receive Unexpected Message in OpenConfirm State",
            (5, 3) => "Receive Unexpected Message in Established State",
            (6, 1) => "Maximum Number of Prefixes Reached",
            (6, 2) => "Administrative Shutdown",
            (6, 3) => "Peer De-configured",
            (6, 4) => "Administrative Reset",
            (6, 5) => "Connection Rejected",
            (6, 6) => "Other Configuration Change",
            (6, 7) => "Connection Collision Resolution",
            (6, 8) => "Out of Resources",
            (6, 9) => "Hard Reset",
            (6, 10) => "BFD Down",
            (7, 1) => "Invalid Message Length",
            _ => return None,
        };
        Some(name)
    }
}

impl fmt::Display for Notification {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.code_name())?;
        if let Some(name) = self.subcode_name() {
            write!(f, ", {name}")?;
        }
        write!(f, " ({}/{})", self.code, self.subcode)?;
        if let Some(inner) = self.inner() {
            return write!(f, ": {inner}");
        }
        match self.shutdown_communication() {
            Some(text) => write!(f, ": \"{text}\""),
            None => Ok(()),
        }
    }
}

const MAX_DATA: usize = header::MAX_LEN - header::LEN - 2;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shutdown_communication_survives_the_wire() {
        let mut out = BytesMut::new();
        Notification::administrative_shutdown("router moves to the new rack").encode(&mut out);
        let read = Notification::decode(&out[header::LEN..]);
        assert_eq!(read.shutdown_communication().unwrap(), "router moves to the new rack");
        assert_eq!(
            read.to_string(),
            "Cease, Administrative Shutdown (6/2): \"router moves to the new rack\""
        );
    }

    #[test]
    fn long_shutdown_communication_is_cut_between_characters() {
        let notification = Notification::administrative_shutdown(&"é".repeat(200));
        assert_eq!(notification.data.len(), 255);
        assert_eq!(notification.data[0], 254);
        assert_eq!(notification.shutdown_communication().unwrap(), "é".repeat(127));
    }

    #[test]
    fn neighbors_text_cannot_break_out_of_a_log_line() {
        let hostile = Notification::new(6, 2, b"\x08a\n\x1b[2Jb\xff");
        let text = hostile.to_string();
        assert!(text.chars().all(|c| !c.is_control()), "{text:?}");
        assert!(text.contains('a') && text.contains('b'));
    }

    #[test]
    fn a_hard_reset_names_what_it_carries_and_bottoms_out() {
        let hard = Notification::administrative_shutdown("new rack").into_hard_reset();
        let text = "Cease, Hard Reset (6/9): Cease, Administrative Shutdown (6/2): \"new rack\"";
        assert!(hard.is_hard_reset());
        assert_eq!(hard.to_string(), text);
        assert_eq!(hard.into_hard_reset().to_string(), "Cease, Hard Reset (6/9)");
        assert_eq!(Notification::new(6, 9, &[6]).to_string(), "Cease, Hard Reset (6/9)");
    }

    #[test]
    fn lying_text_length_reads_what_is_there() {
        assert_eq!(Notification::new(6, 2, &[200, b'h', b'i']).shutdown_communication().unwrap(), "hi");
        assert_eq!(Notification::new(6, 2, &[]).shutdown_communication(), None);
        assert_eq!(Notification::new(6, 2, &[0, b'x']).shutdown_communication(), None);
    }

    #[test]
    fn message_never_exceeds_4096_octets() {
        let mut out = BytesMut::new();
        Notification::update_error(1, &[0xab; 9000]).encode(&mut out);
        assert_eq!(out.len(), header::MAX_LEN);
    }

    #[test]
    fn unknown_codes_print_their_numbers() {
        assert_eq!(Notification::new(99, 7, &[]).to_string(), "unknown error (99/7)");
        assert_eq!(Notification::new(6, 77, &[]).to_string(), "Cease (6/77)");
    }
}
