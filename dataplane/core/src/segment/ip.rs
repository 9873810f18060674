//! Where the transport header of an inner packet is, for segmentation and coalescing. The pipeline has judged the
//! packet already; this only finds offsets, and refuses what cannot be cut or joined.

use crate::checksum;

pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;
pub(crate) const V4_HEADER: usize = 20;
pub(crate) const V6_HEADER: usize = 40;
pub(crate) const DONT_FRAGMENT: u16 = 0x4000;
pub(crate) const MORE_FRAGMENTS: u16 = 0x2000;

/// The extension headers that may stand before TCP or UDP in a packet that is no fragment (RFC 8200 §4).
const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const DESTINATION: u8 = 60;
/// More of them than any sender needs.
const MAX_EXTENSIONS: usize = 8;

/// The transport header of a packet that is no fragment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Transport {
    pub(crate) v4: bool,
    pub(crate) l4: usize,
    /// The sum of the pseudo header without the length.
    pub(crate) pseudo: u32,
}

/// The word at `at`; zero where the bytes end before.
pub(crate) fn word(bytes: &[u8], at: usize) -> u16 {
    match bytes.get(at..at + 2) {
        Some(&[high, low]) => u16::from_be_bytes([high, low]),
        _ => 0,
    }
}

/// Writes the low sixteen bits of `value`. The caller has checked that the header is that long.
pub(crate) fn set_word(bytes: &mut [u8], at: usize, value: usize) {
    let [.., high, low] = value.to_be_bytes();
    bytes[at] = high;
    bytes[at + 1] = low;
}

/// The length of an IPv4 header that lies within the bytes.
pub(crate) fn v4_header_len(bytes: &[u8]) -> Option<usize> {
    let len = usize::from(bytes.first()? & 0x0f) * 4;
    (bytes[0] >> 4 == 4 && len >= V4_HEADER && len <= bytes.len()).then_some(len)
}

/// Finds the header of `protocol`, behind IPv6 extension headers if need be.
pub(crate) fn transport(bytes: &[u8], protocol: u8) -> Option<Transport> {
    if bytes.first()? >> 4 == 6 { v6_transport(bytes, protocol) } else { v4_transport(bytes, protocol) }
}

fn v4_transport(bytes: &[u8], protocol: u8) -> Option<Transport> {
    let l4 = v4_header_len(bytes)?;
    let whole = word(bytes, 6) & !DONT_FRAGMENT == 0;
    let pseudo = checksum::sum(&bytes[12..20]) + u32::from(protocol);
    (whole && bytes[9] == protocol).then_some(Transport { v4: true, l4, pseudo })
}

fn v6_transport(bytes: &[u8], protocol: u8) -> Option<Transport> {
    let addresses = bytes.get(8..V6_HEADER)?;
    let pseudo = checksum::sum(addresses) + u32::from(protocol);
    let (mut next, mut l4) = (bytes[6], V6_HEADER);
    for _ in 0..=MAX_EXTENSIONS {
        if next == protocol {
            return (l4 <= bytes.len()).then_some(Transport { v4: false, l4, pseudo });
        }
        let header = bytes.get(l4..l4 + 8)?;
        // With segments left, the checksum covers another destination than the one in the header (RFC 8200 §8.1).
        if !matches!(next, HOP_BY_HOP | DESTINATION) && (next != ROUTING || header[3] != 0) {
            return None;
        }
        next = header[0];
        l4 += (usize::from(header[1]) + 1) * 8;
    }
    None
}
