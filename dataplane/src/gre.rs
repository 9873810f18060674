//! GRE as MPLS uses it (RFC 4023 §4, RFC 2784, RFC 2890): four octets, and what some senders add.
//!
//! ```text
//!  0                   1                   2                   3
//!  |C| |K|S| reserved0 (9)   | ver |     protocol type 0x8847      |
//!  | checksum (if C)               | reserved1 (if C)              |
//!  | key (if K)                                                    |
//! ```
//! Checksums and keys are skipped, not judged. Sequence numbers, routing, other versions and other payloads are refused.

use dataplane_core::DropReason;

/// The header that we send.
pub(crate) const HEADER: [u8; 4] = [0, 0, 0x88, 0x47];

const CHECKSUM: u16 = 0x8000;
const KEY: u16 = 0x2000;
const MPLS_UNICAST: u16 = 0x8847;

/// The length of the header in front of the label.
pub(crate) fn header_len(packet: &[u8]) -> Result<usize, DropReason> {
    let Some(&[f0, f1, p0, p1]) = packet.get(..4) else { return Err(DropReason::TruncatedGre) };
    let flags = u16::from_be_bytes([f0, f1]);
    // Bits 1 and 4 to 12 are reserved; those of RFC 1701 routing and sequence numbers, and the version, must be clear.
    if flags & !(CHECKSUM | KEY) != 0 || u16::from_be_bytes([p0, p1]) != MPLS_UNICAST {
        return Err(DropReason::UnsupportedGre);
    }
    let optional = usize::from(flags & CHECKSUM != 0) + usize::from(flags & KEY != 0);
    let len = HEADER.len() + 4 * optional;
    if packet.len() < len { Err(DropReason::TruncatedGre) } else { Ok(len) }
}

/// The GRE packet inside of what a raw socket received: IPv4 sockets keep the outer header.
pub(crate) fn skip_outer(packet: &[u8], v6: bool) -> usize {
    if v6 { 0 } else { packet.first().map_or(0, |first| usize::from(first & 0x0f) * 4).min(packet.len()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksum_and_key_are_skipped() {
        assert_eq!(header_len(&[0, 0, 0x88, 0x47]), Ok(4));
        assert_eq!(header_len(&[0x80, 0, 0x88, 0x47, 1, 2, 3, 4]), Ok(8));
        assert_eq!(header_len(&[0x20, 0, 0x88, 0x47, 1, 2, 3, 4]), Ok(8));
        assert_eq!(header_len(&[0xa0, 0, 0x88, 0x47, 1, 2, 3, 4, 5, 6, 7, 8]), Ok(12));
    }

    #[test]
    fn every_short_header_is_truncated() {
        let packet = [0xa0, 0, 0x88, 0x47, 1, 2, 3, 4, 5, 6, 7, 8];
        for len in 0..packet.len() {
            assert_eq!(header_len(&packet[..len]), Err(DropReason::TruncatedGre), "{len}");
        }
    }

    #[test]
    fn other_gre_is_unsupported() {
        // Sequence number, routing, version 1 (PPTP), IPv4 payload, MPLS multicast.
        for packet in [
            [0x10, 0, 0x88, 0x47],
            [0x40, 0, 0x88, 0x47],
            [0, 1, 0x88, 0x47],
            [0, 0, 8, 0],
            [0, 0, 0x88, 0x48],
        ] {
            assert_eq!(header_len(&packet), Err(DropReason::UnsupportedGre), "{packet:?}");
        }
    }

    #[test]
    fn an_outer_header_longer_than_the_packet_leaves_nothing() {
        assert_eq!(skip_outer(&[0x4f, 0, 0], false), 3);
        assert_eq!(skip_outer(&[], false), 0);
        assert_eq!(skip_outer(&[0x45; 30], false), 20);
        assert_eq!(skip_outer(&[0, 0, 0x88, 0x47], true), 0);
    }
}
