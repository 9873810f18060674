//! The slow implementation: packets as fields (RFC 791, 8200, 9293, 768), and what cutting a superframe means
//! (virtio 1.2 §5.1.6.2, RFC 3168 §6.1.2 for CWR).

#![allow(dead_code, reason = "the lab's streams use it too, and need less")]

use dataplane_core::{Gso, VnetHeader};

pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;
pub(crate) const FIN: u8 = 0x01;
pub(crate) const SYN: u8 = 0x02;
pub(crate) const RST: u8 = 0x04;
pub(crate) const PSH: u8 = 0x08;
pub(crate) const ACK: u8 = 0x10;
pub(crate) const URG: u8 = 0x20;
pub(crate) const CWR: u8 = 0x80;

/// A packet of TCP or UDP that is no fragment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Fields {
    pub(crate) v6: bool,
    pub(crate) tos: u8,
    pub(crate) flow_label: u32,
    pub(crate) id: u16,
    pub(crate) df: bool,
    pub(crate) ttl: u8,
    pub(crate) src: Vec<u8>,
    pub(crate) dst: Vec<u8>,
    /// IPv4 options, or IPv6 extension headers.
    pub(crate) between: Vec<u8>,
    /// What the IPv6 header says comes next.
    pub(crate) next: u8,
    pub(crate) ports: (u16, u16),
    /// `None`: UDP.
    pub(crate) tcp: Option<TcpFields>,
    pub(crate) payload: Vec<u8>,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct TcpFields {
    pub(crate) seq: u32,
    pub(crate) ack: u32,
    pub(crate) reserved: u8,
    pub(crate) flags: u8,
    pub(crate) window: u16,
    pub(crate) urgent: u16,
    pub(crate) options: Vec<u8>,
}

/// RFC 1071, word by word, not complemented.
pub(crate) fn sum(chunks: &[&[u8]]) -> u16 {
    let mut sum = 0u32;
    let octets: Vec<u8> = chunks.concat();
    for pair in octets.chunks(2) {
        sum += u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0));
        while sum > 0xffff {
            sum -= 0xffff;
        }
    }
    u16::try_from(sum).unwrap()
}

/// A length as an IP header tells it: zero where the field is too short, as Linux writes it in front of what it will cut
/// before anybody else reads it (BIG TCP).
fn length_field(len: usize) -> u16 {
    u16::try_from(len).unwrap_or(0)
}

impl Fields {
    pub(crate) fn protocol(&self) -> u8 {
        if self.tcp.is_some() { TCP } else { UDP }
    }

    fn pseudo(&self, len: usize) -> Vec<u8> {
        let len = u32::try_from(len).unwrap().to_be_bytes();
        [&self.src[..], &self.dst, &len, &[0, 0, 0, self.protocol()]].concat()
    }

    /// The transport header and payload, the checksum field zero.
    fn transport(&self) -> (Vec<u8>, usize) {
        let mut out = [self.ports.0.to_be_bytes(), self.ports.1.to_be_bytes()].concat();
        let at = match &self.tcp {
            Some(tcp) => {
                out.extend(tcp.seq.to_be_bytes());
                out.extend(tcp.ack.to_be_bytes());
                out.push(u8::try_from((20 + tcp.options.len()) / 4).unwrap() << 4 | tcp.reserved);
                out.push(tcp.flags);
                out.extend(tcp.window.to_be_bytes());
                out.extend([0, 0]);
                out.extend(tcp.urgent.to_be_bytes());
                out.extend(&tcp.options);
                16
            }
            None => {
                out.extend(u16::try_from(8 + self.payload.len()).unwrap().to_be_bytes());
                out.extend([0, 0]);
                6
            }
        };
        out.extend(&self.payload);
        (out, at)
    }

    fn network(&self, transport_len: usize) -> Vec<u8> {
        let mut out;
        if self.v6 {
            let len = length_field(self.between.len() + transport_len);
            out = (6 << 28 | u32::from(self.tos) << 20 | self.flow_label).to_be_bytes().to_vec();
            out.extend(len.to_be_bytes());
            out.extend([self.next, self.ttl]);
            out.extend([&self.src[..], &self.dst, &self.between].concat());
        } else {
            let header = 20 + self.between.len();
            let len = length_field(header + transport_len);
            out = vec![0x40 | u8::try_from(header / 4).unwrap(), self.tos];
            out.extend(len.to_be_bytes());
            out.extend(self.id.to_be_bytes());
            out.extend([if self.df { 0x40 } else { 0 }, 0, self.ttl, self.protocol(), 0, 0]);
            out.extend([&self.src[..], &self.dst, &self.between].concat());
            let sum = !sum(&[&out]);
            out[10..12].copy_from_slice(&sum.to_be_bytes());
        }
        out
    }

    /// The packet, every checksum complete.
    pub(crate) fn write(&self) -> Vec<u8> {
        let (mut transport, at) = self.transport();
        let mut checksum = !sum(&[&self.pseudo(transport.len()), &transport]);
        if checksum == 0 && self.tcp.is_none() {
            checksum = 0xffff;
        }
        transport[at..at + 2].copy_from_slice(&checksum.to_be_bytes());
        let packet = [self.network(transport.len()), transport].concat();
        assert!(packet.len() <= 65_535, "no packet is so long");
        packet
    }

    /// The packet as a superframe: the pseudo header's sum where the checksum goes, and its virtio-net header.
    pub(crate) fn write_superframe(&self, gso_size: u16) -> (Vec<u8>, VnetHeader) {
        let (mut transport, at) = self.transport();
        let pseudo = sum(&[&self.pseudo(transport.len())]);
        transport[at..at + 2].copy_from_slice(&pseudo.to_be_bytes());
        let network = self.network(transport.len());
        let header = network.len() + transport.len() - self.payload.len();
        let vnet = VnetHeader {
            needs_csum: true,
            gso: match (self.tcp.is_some(), self.v6) {
                (true, false) => Gso::TcpV4,
                (true, true) => Gso::TcpV6,
                (false, _) => Gso::UdpL4,
            },
            ecn: self.tcp.as_ref().is_some_and(|tcp| tcp.flags & CWR != 0),
            hdr_len: u16::try_from(header).unwrap(),
            gso_size,
            csum_start: u16::try_from(network.len()).unwrap(),
            csum_offset: u16::try_from(at).unwrap(),
            ..VnetHeader::NONE
        };
        ([network, transport].concat(), vnet)
    }

    /// Reads a packet of TCP or UDP whose IP header is whole and right; the transport checksum is the caller's.
    pub(crate) fn read(bytes: &[u8]) -> Option<(Fields, u16)> {
        let word = |at: usize| Some(u16::from_be_bytes([*bytes.get(at)?, *bytes.get(at + 1)?]));
        let v6 = bytes.first()? >> 4 == 6;
        let (len, l4, protocol) = if v6 {
            let (mut next, mut at) = (bytes[6], 40);
            while matches!(next, 0 | 43 | 60) {
                next = *bytes.get(at)?;
                at += 8 + usize::from(*bytes.get(at + 1)?) * 8;
            }
            (40 + usize::from(word(4)?), at, next)
        } else {
            let header = usize::from(bytes[0] & 15) * 4;
            let fragment = word(6)? & 0x3fff != 0;
            if fragment || header < 20 || sum(&[bytes.get(..header)?]) != 0xffff {
                return None;
            }
            (usize::from(word(2)?), header, bytes[9])
        };
        if len != bytes.len() || !matches!(protocol, TCP | UDP) {
            return None;
        }
        let addresses = if v6 { (&bytes[8..24], &bytes[24..40]) } else { (&bytes[12..16], &bytes[16..20]) };
        let tcp = if protocol == TCP {
            let options = bytes.get(l4 + 20..l4 + usize::from(bytes.get(l4 + 12)? >> 4) * 4)?;
            let long = |at| Some(u32::from(word(at)?) << 16 | u32::from(word(at + 2)?));
            Some(TcpFields {
                seq: long(l4 + 4)?,
                ack: long(l4 + 8)?,
                reserved: bytes[l4 + 12] & 15,
                flags: bytes[l4 + 13],
                window: word(l4 + 14)?,
                urgent: word(l4 + 18)?,
                options: options.to_vec(),
            })
        } else {
            (usize::from(word(l4 + 4)?) == len - l4).then_some(())?;
            None
        };
        let header = l4 + tcp.as_ref().map_or(8, |tcp| 20 + tcp.options.len());
        let first = u32::from_be_bytes(bytes[..4].try_into().unwrap());
        let fields = Fields {
            v6,
            tos: if v6 { u8::try_from(first >> 20 & 0xff).unwrap() } else { bytes[1] },
            flow_label: if v6 { first & 0xf_ffff } else { 0 },
            id: if v6 { 0 } else { word(4)? },
            df: !v6 && bytes[6] & 0x40 != 0,
            ttl: bytes[if v6 { 7 } else { 8 }],
            src: addresses.0.to_vec(),
            dst: addresses.1.to_vec(),
            between: bytes[if v6 { 40 } else { 20 }..l4].to_vec(),
            next: if v6 { bytes[6] } else { protocol },
            ports: (word(l4)?, word(l4 + 2)?),
            payload: bytes.get(header..)?.to_vec(),
            tcp,
        };
        let at = if fields.tcp.is_some() { 16 } else { 6 };
        Some((fields, word(l4 + at)?))
    }

    /// Whether this is a packet's right checksum.
    pub(crate) fn checksum_is(&self, checksum: u16) -> bool {
        let (mut transport, at) = self.transport();
        transport[at..at + 2].copy_from_slice(&checksum.to_be_bytes());
        sum(&[&self.pseudo(transport.len()), &transport]) == 0xffff
    }

    /// The packets that a superframe stands for.
    pub(crate) fn cut(&self, size: usize) -> Vec<Fields> {
        let count = self.payload.len().div_ceil(size);
        let mut out = Vec::new();
        let headers = Fields { payload: vec![], ..self.clone() };
        for (index, piece) in self.payload.chunks(size).enumerate() {
            let mut packet = Fields { payload: piece.to_vec(), ..headers.clone() };
            if !self.v6 {
                packet.id = self.id.wrapping_add(u16::try_from(index).unwrap());
            }
            if let Some(tcp) = &mut packet.tcp {
                tcp.seq = tcp.seq.wrapping_add(u32::try_from(index * size).unwrap());
                if index > 0 {
                    tcp.flags &= !CWR;
                }
                if index + 1 < count {
                    tcp.flags &= !(FIN | PSH);
                }
            }
            out.push(packet);
        }
        out
    }
}

/// The packets in a superframe that a virtio-net header describes; one packet where it is none. Panics where the two
/// do not fit together, as the kernel would refuse it.
pub(crate) fn expand(bytes: &[u8], vnet: &VnetHeader) -> Vec<Vec<u8>> {
    if vnet.gso == Gso::None {
        return vec![bytes.to_vec()];
    }
    let (fields, checksum) = Fields::read(bytes).expect("a superframe of TCP or UDP");
    assert!(vnet.needs_csum && !vnet.data_valid, "{vnet:?}");
    assert_eq!(vnet.gso == Gso::UdpL4, fields.tcp.is_none());
    assert!(vnet.gso == Gso::UdpL4 || (vnet.gso == Gso::TcpV6) == fields.v6);
    let (want, expected) = fields.write_superframe(vnet.gso_size);
    assert_eq!(want, bytes, "the superframe is not what its fields say; checksum {checksum:#06x}");
    assert_eq!((vnet.hdr_len, vnet.csum_start), (expected.hdr_len, expected.csum_start));
    assert_eq!((vnet.csum_offset, vnet.ecn), (expected.csum_offset, expected.ecn));
    fields.cut(usize::from(vnet.gso_size)).iter().map(Fields::write).collect()
}
