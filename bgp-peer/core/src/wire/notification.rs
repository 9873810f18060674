//! NOTIFICATION: why a session ends (RFC 4271 §4.5, §6; RFC 4486; RFC 9003).

use bytes::Bytes;

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
}

const MAX_DATA: usize = 4096 - 19 - 2;
