//! Another address and port in a packet, and all that follows: the IPv4 header checksum, the transport's checksum, and
//! in an ICMP error the packet that it quotes (RFC 5508 §4.2, RFC 3022 §4.3). Sums are updated (RFC 1624), not made
//! anew, so that a packet that was damaged stays so. The frame begins at its IP header.

use std::net::IpAddr;

use crate::checksum::fold;
use crate::flow_table::quoted;
use crate::frame::Frame;
use crate::packet::{Fragment, ICMP, ICMPV6, Packet, TCP, UDP};

/// Protocols whose checksum covers ports at their front and addresses in a pseudo header, like UDP's.
const DCCP: u8 = 33;
const UDP_LITE: u8 = 136;
const SCTP: u8 = 132;
const ECHO_ID: usize = 4;
const ICMP_HEADER: usize = 8;

/// Which end of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    Source,
    Destination,
}

/// What one end becomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct NewEnd {
    pub(super) end: End,
    pub(super) address: IpAddr,
    /// `None`: as it is.
    pub(super) port: Option<u16>,
}

/// What has changed under a checksum.
#[derive(Debug, Clone, Copy, Default)]
struct Delta(u32);

impl Delta {
    /// Puts octets in place of as many others, at an even place under the sum.
    fn replace(&mut self, bytes: &mut [u8], at: usize, new: &[u8]) -> Option<()> {
        let old = bytes.get_mut(at..at + new.len())?;
        for (old, new) in old.chunks_exact(2).zip(new.chunks_exact(2)) {
            let word = |octets: &[u8]| u32::from(octets[0]) << 8 | u32::from(octets[1]);
            self.0 = u32::from(fold(self.0 + (0xffff - word(old)) + word(new)));
        }
        old.copy_from_slice(new);
        Some(())
    }

    fn and(self, other: Delta) -> Delta {
        Delta(u32::from(fold(self.0 + other.0)))
    }

    /// The complement of a sum, as checksums are.
    fn correct(self, checksum: u16) -> u16 {
        !fold(u32::from(!checksum) + self.0)
    }
}

/// Gives one end of a packet another address. The packet's description follows.
pub(super) fn translate(frame: &mut Frame<'_>, packet: &mut Packet, new: NewEnd) {
    match new.end {
        End::Source => packet.src = new.address,
        End::Destination => packet.dst = new.address,
    }
    let vnet = *frame.vnet();
    let partial = vnet.needs_csum && usize::from(vnet.csum_start) == packet.l4;
    let len = packet.len.min(frame.bytes().len());
    let Some(bytes) = frame.bytes_mut().get_mut(..len) else { return };
    let Some(addresses) = set_address(bytes, 0, packet.is_v4(), new) else { return };
    if matches!(packet.fragment, Fragment::Later(_)) {
        return;
    }
    let error = quoted(packet, bytes).is_some();
    let content = if error {
        set_quoted(bytes, packet.l4 + ICMP_HEADER, new)
    } else {
        set_port(bytes, packet, packet.l4, new)
    };
    let Some((field, sum)) = sum_of(bytes, packet, 0) else { return };
    let sum = match packet.protocol {
        // It covers the pseudo header only, so far, and is not complemented.
        _ if partial => fold(u32::from(sum) + addresses.0),
        _ => corrected(packet.protocol, sum, addresses, content),
    };
    field.copy_from_slice(&sum.to_be_bytes());
}

/// The transport's checksum, and where it is; `base` is where the IP header begins.
fn sum_of<'b>(bytes: &'b mut [u8], packet: &Packet, base: usize) -> Option<(&'b mut [u8], u16)> {
    let at = base + packet.l4 + sum_at(packet.protocol)?;
    let field = bytes.get_mut(at..at + 2)?;
    let sum = u16::from_be_bytes([field[0], field[1]]);
    Some((field, sum))
}

/// A transport's checksum after addresses and what it covers itself have changed.
fn corrected(protocol: u8, sum: u16, addresses: Delta, content: Delta) -> u16 {
    match protocol {
        // None (RFC 768).
        UDP if sum == 0 => 0,
        UDP | UDP_LITE => Some(addresses.and(content).correct(sum)).filter(|sum| *sum != 0).unwrap_or(0xffff),
        ICMP => content.correct(sum),
        _ => addresses.and(content).correct(sum),
    }
}

/// Sets an address of the IP header at `base`, and its checksum. What has changed, for sums that cover the address.
fn set_address(bytes: &mut [u8], base: usize, v4: bool, new: NewEnd) -> Option<Delta> {
    let mut delta = Delta::default();
    match (new.address, v4) {
        (IpAddr::V4(address), true) => {
            let at = base + if new.end == End::Source { 12 } else { 16 };
            delta.replace(bytes, at, &address.octets())?;
            let field = bytes.get_mut(base + 10..base + 12)?;
            let sum = delta.correct(u16::from_be_bytes([field[0], field[1]]));
            field.copy_from_slice(&sum.to_be_bytes());
        }
        (IpAddr::V6(address), false) => {
            let at = base + if new.end == End::Source { 8 } else { 24 };
            delta.replace(bytes, at, &address.octets())?;
        }
        _ => return None,
    }
    Some(delta)
}

/// Sets a port, or the identifier of an echo message, of the transport header at `at`.
fn set_port(bytes: &mut [u8], packet: &Packet, at: usize, new: NewEnd) -> Delta {
    let mut delta = Delta::default();
    let place = match packet.protocol {
        ICMP | ICMPV6 => ECHO_ID,
        TCP | UDP | UDP_LITE | DCCP | SCTP if new.end == End::Source => 0,
        TCP | UDP | UDP_LITE | DCCP | SCTP => 2,
        _ => return delta,
    };
    if let Some(port) = new.port {
        delta.replace(bytes, at + place, &port.to_be_bytes());
    }
    delta
}

/// The packet that an error at `base` quotes went the other way: there the other end becomes the new one.
fn set_quoted(bytes: &mut [u8], base: usize, new: NewEnd) -> Delta {
    let nothing = Delta::default();
    let about = bytes.get(base..).and_then(|quote| Packet::read(quote).ok());
    let Some(about) = about.filter(|about| about.is_v4() == new.address.is_ipv4()) else { return nothing };
    let end = if new.end == End::Source { End::Destination } else { End::Source };
    let quoted = NewEnd { end, ..new };
    let Some(addresses) = set_address(bytes, base, about.is_v4(), quoted) else { return nothing };
    // The header's checksum makes up for the address, so that over IPv4 nothing changes under the error's own.
    let header = if about.is_v4() { nothing } else { addresses };
    if matches!(about.fragment, Fragment::Later(_)) {
        return header;
    }
    let content = set_port(bytes, &about, base + about.l4, quoted);
    // Whoever sent the packet may know it by its checksum, where the error quotes so much.
    let mut change = header.and(content);
    if let Some((field, sum)) = sum_of(bytes, &about, base) {
        let sum = corrected(about.protocol, sum, addresses, content);
        change.replace(field, 0, &sum.to_be_bytes());
    }
    change
}

/// Where a protocol has a checksum that covers its ports or the addresses.
fn sum_at(protocol: u8) -> Option<usize> {
    match protocol {
        TCP => Some(16),
        UDP | UDP_LITE | DCCP => Some(6),
        ICMP | ICMPV6 => Some(2),
        _ => None,
    }
}
