//! The few octets that change in a forwarded packet: TTL, ECN, and a SYN's MSS. Checksums follow (RFC 1624).
//! The frame begins at its IP header.

use crate::checksum;
use crate::frame::{Frame, MAX_PACKET};
use crate::packet::{Fragment, Packet, TCP};
use crate::verdict::DropReason;
use crate::vnet::{Gso, VnetHeader};

const CE: u8 = 0b11;
const ECT_0: u8 = 0b10;
const ECT_1: u8 = 0b01;
const TCP_HEADER: usize = 20;
/// Where the checksum is in it.
const TCP_CHECKSUM: u16 = 16;
/// A full superframe of the smallest segments that Linux makes (48 octets) has fewer.
const MAX_SEGMENTS: usize = 2048;
const SYN: u8 = 0x02;
/// TCP options (RFC 9293 §3.2).
const END: u8 = 0;
const NO_OPERATION: u8 = 1;
const MSS: u8 = 2;

/// Sets the TTL or hop limit.
pub(super) fn set_ttl(frame: &mut Frame<'_>, packet: &Packet, ttl: u8) {
    let bytes = frame.bytes_mut();
    if packet.is_v4() {
        let protocol = bytes.get(9).copied().unwrap_or_default();
        set_v4_word(bytes, 8, u16::from_be_bytes([ttl, protocol]));
    } else if let Some(octet) = bytes.get_mut(7) {
        *octet = ttl;
    }
}

/// What the ECN field becomes when an outer header is taken off (RFC 6040 §4.2), or why the packet must go.
pub(super) fn combined_ecn(inner: u8, outer: u8) -> Result<u8, DropReason> {
    match (inner & CE, outer & CE) {
        (0, CE) => Err(DropReason::EcnNotCapable),
        (0, _) => Ok(0),
        (_, CE) => Ok(CE),
        (ECT_0, ECT_1) => Ok(ECT_1),
        (inner, _) => Ok(inner),
    }
}

/// Sets the ECN field.
pub(super) fn set_ecn(frame: &mut Frame<'_>, packet: &Packet, ecn: u8) {
    let tos = packet.tos & !CE | ecn;
    let bytes = frame.bytes_mut();
    if packet.is_v4() {
        let first = bytes.first().copied().unwrap_or_default();
        set_v4_word(bytes, 0, u16::from_be_bytes([first, tos]));
    } else if let Some([first, second, ..]) = bytes.first_chunk_mut::<2>() {
        *first = *first & 0xf0 | tos >> 4;
        *second = *second & 0x0f | tos << 4;
    }
}

/// Lowers the MSS that a SYN offers to what fits packets of `mtu` octets. Never raises it. `Some` says to what.
///
/// A SYN without the option offers 536 (1220 over IPv6) by default (RFC 9293 §3.7.1), which fits what we carry.
pub(super) fn clamp_mss(frame: &mut Frame<'_>, packet: &Packet, mtu: u16) -> Option<u16> {
    let headers = if packet.is_v4() { 40 } else { 60 };
    let most = mtu.checked_sub(headers).filter(|mss| *mss > 0)?;
    let partial = frame.vnet().needs_csum;
    let tcp = transport_mut(frame, packet)?;
    let at = mss_option(tcp)?;
    let field = tcp.get_mut(at..at + 2)?;
    let old = [field[0], field[1]];
    if u16::from_be_bytes(old) <= most {
        return None;
    }
    let new = most.to_be_bytes();
    field.copy_from_slice(&new);
    // A partial checksum covers the pseudo header only, so far.
    if !partial {
        // At an odd offset the option lies across two words of the sum, with its octets swapped (RFC 1071 §2).
        let word = |[a, b]: [u8; 2]| u16::from_be_bytes(if at % 2 == 0 { [a, b] } else { [b, a] });
        let sum = u16::from_be_bytes([tcp[16], tcp[17]]);
        tcp[16..18].copy_from_slice(&checksum::update(sum, word(old), word(new)).to_be_bytes());
    }
    Some(most)
}

/// Whether the packet is a SYN, with or without ACK.
pub(super) fn is_syn(frame: &Frame<'_>, packet: &Packet) -> bool {
    packet.protocol == TCP && packet.transport(frame.bytes()).get(13).is_some_and(|flags| flags & SYN != 0)
}

/// The segment, where the packet is a SYN with a complete TCP header.
fn transport_mut<'f>(frame: &'f mut Frame<'_>, packet: &Packet) -> Option<&'f mut [u8]> {
    if packet.protocol != TCP || matches!(packet.fragment, Fragment::Later(_)) {
        return None;
    }
    let tcp = frame.bytes_mut().get_mut(packet.l4..packet.len)?;
    (tcp.len() >= TCP_HEADER && tcp[13] & SYN != 0).then_some(tcp)
}

/// Where the value of the MSS option is.
fn mss_option(tcp: &[u8]) -> Option<usize> {
    let end = usize::from(tcp.get(12)? >> 4) * 4;
    let mut at = TCP_HEADER;
    while at < end {
        match (*tcp.get(at)?, tcp.get(at + 1)) {
            (END, _) => return None,
            (NO_OPERATION, _) => at += 1,
            (MSS, Some(4)) if at + 4 <= end.min(tcp.len()) => return Some(at + 2),
            (_, Some(len)) if *len >= 2 => at += usize::from(*len),
            _ => return None,
        }
    }
    None
}

/// Octets per packet once a superframe is cut, its IP header included; of one packet, its length.
pub(super) fn packet_len(frame: &Frame<'_>, packet: &Packet) -> usize {
    match frame.vnet().gso {
        Gso::None => packet.len,
        Gso::TcpV4 | Gso::TcpV6 | Gso::UdpL4 => {
            (headers(frame, packet) + usize::from(frame.vnet().gso_size)).min(packet.len)
        }
    }
}

/// Whether a router may cut the packet into fragments (RFC 791 §2.3): of a superframe of UDP, each datagram. One of TCP
/// is cut smaller instead.
pub(super) fn may_fragment(frame: &Frame<'_>, packet: &Packet) -> bool {
    packet.is_v4() && !packet.dont_fragment && matches!(frame.vnet().gso, Gso::None | Gso::UdpL4)
}

/// Cuts a TCP superframe smaller, to packets of at most `mtu` octets: a byte stream does not mind. `false` where
/// that cannot be done.
pub(super) fn reslice(frame: &mut Frame<'_>, packet: &Packet, mtu: u16) -> bool {
    let headers = headers(frame, packet);
    let room = usize::from(mtu).saturating_sub(headers);
    match (frame.vnet().gso, u16::try_from(room)) {
        (Gso::TcpV4 | Gso::TcpV6, Ok(room)) if room > 0 => {
            frame.vnet_mut().gso_size = frame.vnet().gso_size.min(room);
            true
        }
        _ => false,
    }
}

/// Refuses a virtio-net header that does not suit its packet: a VM writes what it likes there, and could make one
/// frame cost us as much as a million packets.
pub(super) fn check_offload(frame: &Frame<'_>, packet: &Packet) -> Result<(), DropReason> {
    let vnet = frame.vnet();
    let transport = packet.transport(frame.bytes());
    let whole = packet.fragment == Fragment::Whole;
    if vnet.needs_csum {
        let start = usize::from(vnet.csum_start);
        let end = start + usize::from(vnet.csum_offset) + 2;
        if !whole || start < packet.l4 || end > packet.len {
            return Err(DropReason::BadOffload);
        }
    }
    let long = packet.len > MAX_PACKET;
    let fits = match vnet.gso {
        Gso::None if !long => return Ok(()),
        Gso::None => false,
        Gso::TcpV4 | Gso::TcpV6 => {
            let offset = transport.get(12).map_or(0, |octet| usize::from(octet >> 4) * 4);
            packet.protocol == TCP
                && packet.is_v4() == (vnet.gso == Gso::TcpV4)
                && offset >= TCP_HEADER
                && offset <= transport.len()
                // Several are made of it, which is done with a partial checksum where TCP has it.
                && (!long || is_partial_of_tcp(vnet, packet))
        }
        Gso::UdpL4 => packet.protocol == crate::packet::UDP && transport.len() >= 8 && !long,
    };
    let few = packet.len <= usize::from(vnet.gso_size) * MAX_SEGMENTS;
    if fits && whole && vnet.gso_size > 0 && few { Ok(()) } else { Err(DropReason::BadOffload) }
}

fn is_partial_of_tcp(vnet: &VnetHeader, packet: &Packet) -> bool {
    vnet.needs_csum && usize::from(vnet.csum_start) == packet.l4 && vnet.csum_offset == TCP_CHECKSUM
}

/// Octets of headers that every packet of a superframe carries.
fn headers(frame: &Frame<'_>, packet: &Packet) -> usize {
    let transport = match frame.vnet().gso {
        Gso::UdpL4 => 8,
        _ => packet.transport(frame.bytes()).get(12).map_or(TCP_HEADER, |octet| usize::from(octet >> 4) * 4),
    };
    packet.l4 + transport
}

/// Replaces one word of an IPv4 header and corrects its checksum.
fn set_v4_word(bytes: &mut [u8], at: usize, new: u16) {
    let Some(header) = bytes.first_chunk_mut::<20>() else { return };
    let old = u16::from_be_bytes([header[at], header[at + 1]]);
    let sum = u16::from_be_bytes([header[10], header[11]]);
    header[at..at + 2].copy_from_slice(&new.to_be_bytes());
    header[10..12].copy_from_slice(&checksum::update(sum, old, new).to_be_bytes());
}
