//! The virtio-net header that travels with a frame: partial checksums and segmentation (virtio 1.2 §5.1.6).
//!
//! ```text
//!  0       1         2        4         6           8            10
//!  | flags | gso_type| hdr_len| gso_size| csum_start| csum_offset|   host byte order, as AF_PACKET and tun have it
//! ```
//! Kinds of segmentation that this header cannot carry are refused: the kernel loses such packets by itself, so
//! workloads have those offloads switched off.

/// Octets of a virtio-net header on AF_PACKET and tun.
pub const VNET_HEADER_LEN: usize = 10;

const NEEDS_CSUM: u8 = 1;
const DATA_VALID: u8 = 2;
const GSO_NONE: u8 = 0;
const GSO_TCPV4: u8 = 1;
const GSO_TCPV6: u8 = 4;
const GSO_UDP_L4: u8 = 5;
const GSO_ECN: u8 = 0x80;

/// How the bytes are to be cut when they leave for a link that needs packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Gso {
    /// One packet.
    #[default]
    None,
    /// TCP over IPv4, to be cut into segments.
    TcpV4,
    /// TCP over IPv6, to be cut into segments.
    TcpV6,
    /// UDP of either family, to be cut into datagrams.
    UdpL4,
}

/// What the sender left to be done. Offsets count from the start of the [`Frame`](crate::Frame).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct VnetHeader {
    /// The checksum at `csum_start + csum_offset` holds only the pseudo header's sum.
    pub needs_csum: bool,
    /// The transport checksum was verified.
    pub data_valid: bool,
    /// Whether and how to cut.
    pub gso: Gso,
    /// The TCP superframe carries CWR, which only the first segment may keep.
    pub ecn: bool,
    /// Octets of headers in front of the payload; a hint.
    pub hdr_len: u16,
    /// Payload octets per segment.
    pub gso_size: u16,
    /// Where the transport header begins.
    pub csum_start: u16,
    /// Where in the transport header the checksum is.
    pub csum_offset: u16,
}

impl VnetHeader {
    /// One packet whose checksums are complete.
    pub const NONE: VnetHeader = VnetHeader {
        needs_csum: false,
        data_valid: false,
        gso: Gso::None,
        ecn: false,
        hdr_len: 0,
        gso_size: 0,
        csum_start: 0,
        csum_offset: 0,
    };

    /// The header of the same packet behind `octets` of another header.
    #[must_use]
    pub fn behind(self, octets: usize) -> VnetHeader {
        if !self.needs_csum && self.gso == Gso::None {
            return self;
        }
        let shift = u16::try_from(octets).unwrap_or(u16::MAX);
        let hdr_len = self.hdr_len.saturating_add(shift);
        VnetHeader { hdr_len, csum_start: self.csum_start.saturating_add(shift), ..self }
    }

    /// Reads the kernel's bytes; `None` where the kind of segmentation is none that we carry.
    pub fn decode(bytes: &[u8; VNET_HEADER_LEN]) -> Option<VnetHeader> {
        let [flags, gso_type, h0, h1, g0, g1, s0, s1, o0, o1] = *bytes;
        let gso = match gso_type & !GSO_ECN {
            GSO_NONE => Gso::None,
            GSO_TCPV4 => Gso::TcpV4,
            GSO_TCPV6 => Gso::TcpV6,
            GSO_UDP_L4 => Gso::UdpL4,
            _ => return None,
        };
        Some(VnetHeader {
            needs_csum: flags & NEEDS_CSUM != 0,
            data_valid: flags & DATA_VALID != 0,
            gso,
            ecn: gso_type & GSO_ECN != 0,
            hdr_len: u16::from_ne_bytes([h0, h1]),
            gso_size: u16::from_ne_bytes([g0, g1]),
            csum_start: u16::from_ne_bytes([s0, s1]),
            csum_offset: u16::from_ne_bytes([o0, o1]),
        })
    }

    /// The bytes as the kernel reads them.
    pub fn encode(&self) -> [u8; VNET_HEADER_LEN] {
        let flags =
            if self.needs_csum { NEEDS_CSUM } else { 0 } | if self.data_valid { DATA_VALID } else { 0 };
        let kind = match self.gso {
            Gso::None => GSO_NONE,
            Gso::TcpV4 => GSO_TCPV4,
            Gso::TcpV6 => GSO_TCPV6,
            Gso::UdpL4 => GSO_UDP_L4,
        };
        let [h0, h1] = self.hdr_len.to_ne_bytes();
        let [g0, g1] = self.gso_size.to_ne_bytes();
        let [s0, s1] = self.csum_start.to_ne_bytes();
        let [o0, o1] = self.csum_offset.to_ne_bytes();
        [flags, kind | if self.ecn { GSO_ECN } else { 0 }, h0, h1, g0, g1, s0, s1, o0, o1]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_survive_the_round_trip() {
        for gso in [Gso::None, Gso::TcpV4, Gso::TcpV6, Gso::UdpL4] {
            for (needs_csum, data_valid, ecn) in
                [(false, false, false), (true, false, true), (false, true, false)]
            {
                let header = VnetHeader {
                    needs_csum,
                    data_valid,
                    gso,
                    ecn,
                    hdr_len: 66,
                    gso_size: 1448,
                    csum_start: 34,
                    csum_offset: 16,
                };
                assert_eq!(VnetHeader::decode(&header.encode()), Some(header));
            }
        }
    }

    #[test]
    fn unknown_segmentation_is_refused() {
        // 3 is UFO, 0x20 a tunnel bit: neither can be carried on.
        for kind in [2, 3, 6, 0x20, 0x21, 0x7f] {
            assert_eq!(VnetHeader::decode(&[0, kind, 0, 0, 0, 0, 0, 0, 0, 0]), None, "{kind}");
        }
    }
}
