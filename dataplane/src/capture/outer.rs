//! The outer header of a tunnel's packet, which sockets keep to themselves, made up from what they tell.
//!
//! Addresses, ports, traffic class and lengths are right, and so is a UDP checksum. TTL (64), identification (0) and
//! "don't fragment" are what we send with; of what arrives they are a guess, and options and GRE's checksum and key are
//! left out.

use std::net::IpAddr;

use dataplane_core::checksum::{checksum, fold, pseudo_header, sum};
use vrouter_types::Encap;

use crate::gre;

const TTL: u8 = 64;
const UDP: u8 = 17;
const GRE: u8 = 47;
const MAX: usize = 48;

/// Who sends to whom, and how.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ends {
    pub(crate) src: IpAddr,
    pub(crate) dst: IpAddr,
    /// Of UDP; zero for GRE.
    pub(crate) ports: (u16, u16),
    pub(crate) tos: u8,
    pub(crate) encap: Encap,
}

/// Octets in front of a label.
#[derive(Debug)]
pub(super) struct Header {
    octets: [u8; MAX],
    len: usize,
}

impl Header {
    pub(super) fn octets(&self) -> &[u8] {
        self.octets.get(..self.len).unwrap_or_default()
    }

    /// The header in front of these pieces, which begin at the label. `None` where the ends are of two families.
    pub(super) fn new<'p>(ends: &Ends, pieces: impl Iterator<Item = &'p [u8]> + Clone) -> Option<Header> {
        let len: usize = pieces.clone().map(<[u8]>::len).sum();
        let mut header = Header { octets: [0; MAX], len: 0 };
        let (protocol, tunnel) = match ends.encap {
            Encap::MplsOverUdp => (UDP, 8),
            Encap::MplsOverGre => (GRE, gre::HEADER.len()),
        };
        header.put_ip(ends, protocol, tunnel + len)?;
        let at = header.len;
        let behind = header.octets.get_mut(at..at + tunnel)?;
        match ends.encap {
            Encap::MplsOverUdp => {
                let length = word(tunnel + len);
                behind[..2].copy_from_slice(&ends.ports.0.to_be_bytes());
                behind[2..4].copy_from_slice(&ends.ports.1.to_be_bytes());
                behind[4..6].copy_from_slice(&length);
                let all = sum(behind) + pseudo_header(ends.src, ends.dst, UDP, tunnel + len) + sum_of(pieces);
                let sum = !fold(all);
                behind[6..8].copy_from_slice(&if sum == 0 { [0xff; 2] } else { sum.to_be_bytes() });
            }
            Encap::MplsOverGre => behind.copy_from_slice(&gre::HEADER),
        }
        header.len += tunnel;
        Some(header)
    }

    fn put_ip(&mut self, ends: &Ends, protocol: u8, payload: usize) -> Option<()> {
        match (ends.src, ends.dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                let ip = self.octets.first_chunk_mut::<20>()?;
                let [a, b] = word(20 + payload);
                ip[..10].copy_from_slice(&[0x45, ends.tos, a, b, 0, 0, 0x40, 0, TTL, protocol]);
                ip[12..16].copy_from_slice(&src.octets());
                ip[16..].copy_from_slice(&dst.octets());
                let sum = checksum(ip);
                ip[10..12].copy_from_slice(&sum.to_be_bytes());
                self.len = 20;
            }
            (IpAddr::V6(src), IpAddr::V6(dst)) => {
                let ip = self.octets.first_chunk_mut::<40>()?;
                let [a, b] = word(payload);
                ip[..8].copy_from_slice(&[0x60 | ends.tos >> 4, ends.tos << 4, 0, 0, a, b, protocol, TTL]);
                ip[8..24].copy_from_slice(&src.octets());
                ip[24..].copy_from_slice(&dst.octets());
                self.len = 40;
            }
            _ => return None,
        }
        Some(())
    }
}

/// The sum over gathered pieces, of which any may have an odd length.
fn sum_of<'p>(pieces: impl Iterator<Item = &'p [u8]>) -> u32 {
    let (mut total, mut odd) = (0u32, false);
    for piece in pieces {
        let folded = fold(sum(piece));
        total += u32::from(if odd { folded.swap_bytes() } else { folded });
        odd ^= piece.len() % 2 == 1;
    }
    total
}

fn word(octets: usize) -> [u8; 2] {
    u16::try_from(octets).unwrap_or(u16::MAX).to_be_bytes()
}
