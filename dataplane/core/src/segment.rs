//! Userspace segmentation (TSO, USO) and IPv4 fragmentation: one frame in, label-ready slices out.
//!
//! ```text
//!  frame     │ IP │ TCP │ payload 0       │ payload 1       │ payload 2 │
//!                         ▲                 ▲                 ▲
//!  headers   │ label │ IP │ TCP │  │ label │ IP │ TCP │  │ label │ IP │ TCP │      one gathered write
//! ```
//! Each slice is a prefix (the label; or what a port wants) with a header in the caller's memory, and a range of the
//! frame, so payload is never copied. All slices of a
//! frame are equally long except the last, which is what `UDP_SEGMENT` wants. Checksums come out complete: behind the
//! label nobody can complete them. A frame that fits passes whole, behind its label.
//!
//! Refused: superframes whose headers do not add up, fragments in superframes, routing headers that are not used up.
//! Fragments keep the identification, and options that RFC 791 §3.1 does not copy become no-operations, which leaves
//! every fragment's header equally long.

use std::ops::Range;

use vrouter_types::Label;

use crate::checksum;
use crate::frame::Frame;
use crate::vnet::Gso;

mod fragment;
pub(crate) mod ip;
mod split;

pub use split::split;

use fragment::Cut;
use ip::Transport;

/// The longest header of a slice. Memory for [`Headers`] at least this long takes one slice of any frame.
pub const MAX_HEADER: usize = 512;
/// The longest prefix: virtio-net, Ethernet, IPv6, GRE and a label.
pub const MAX_PREFIX: usize = 72;

const TCP_FIN_PSH: u8 = 0x09;
const TCP_CWR: u8 = 0x80;
const TCP_SYN_RST_URG: u8 = 0x26;

/// Where slices' headers are written.
#[derive(Debug)]
pub struct Headers<'m> {
    memory: &'m mut [u8],
    used: usize,
}

impl<'m> Headers<'m> {
    /// Headers go to `memory` from `used` on.
    pub fn new(memory: &'m mut [u8], used: usize) -> Headers<'m> {
        Headers { memory, used }
    }

    /// The next `len` octets and where they are; `None` when full.
    pub fn take(&mut self, len: usize) -> Option<(&mut [u8], Range<usize>)> {
        let range = self.used..self.used.checked_add(len)?;
        let octets = self.memory.get_mut(range.clone())?;
        self.used = range.end;
        Some((octets, range))
    }

    /// How many octets are in use.
    pub fn used(&self) -> usize {
        self.used
    }
}

/// One packet for the tunnel: `header` in the memory of [`Headers`], then `payload` in the frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slice {
    /// Prefix and rewritten headers.
    pub header: Range<usize>,
    /// What follows them, as a range of the frame.
    pub payload: Range<usize>,
}

/// What [`Slices::next`] found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// One more slice.
    Slice(Slice),
    /// No room for its header: send what there is, then ask again.
    Full,
    /// There are no more.
    Done,
}

/// Why a frame has no slices.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SegmentError {
    /// Its headers and its virtio-net header do not fit together.
    #[error("headers do not match the virtio-net header")]
    Malformed,
    /// It is longer than the tunnel takes, and may not be cut.
    #[error("longer than the tunnel takes, and may not be cut")]
    TooBig,
}

/// A label stack entry that is also the bottom of the stack (RFC 3032 §2.1).
pub fn label_entry(label: Label, traffic_class: u8, ttl: u8) -> [u8; 4] {
    (label.value() << 12 | u32::from(traffic_class & 7) << 9 | 1 << 8 | u32::from(ttl)).to_be_bytes()
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Whole,
    Tcp,
    Udp,
}

/// The slices of one frame, made one by one.
#[derive(Debug, Clone)]
pub struct Slices<'p> {
    /// What stands in front of every slice.
    prefix: &'p [u8],
    kind: Kind,
    v4: bool,
    cut: Option<Cut>,
    /// Where the transport header begins, where the payload begins, where it ends.
    l4: usize,
    header: usize,
    end: usize,
    /// Payload octets per packet.
    size: usize,
    /// How many segments a packet stands for: more than one where superframes are cut into superframes.
    segments: u16,
    /// Whether checksums stay partial.
    partial: bool,
    /// The next packet's payload, its number, and how much of it has left as fragments.
    at: usize,
    index: u16,
    sent: usize,
    done: bool,
    /// Sums over the headers without the fields that differ from packet to packet.
    ip_sum: u32,
    l4_sum: u32,
}

/// Plans the slices of a frame that begins at its IP header, none longer than `max` octets behind `prefix`. Completes a
/// partial checksum in place where the frame is a single packet. `fragment` allows an IPv4 packet to be fragmented.
/// Of a prefix longer than [`MAX_PREFIX`] only so much is used.
pub fn segment<'p>(
    frame: &mut Frame<'_>,
    prefix: &'p [u8],
    max: usize,
    fragment: bool,
) -> Result<Slices<'p>, SegmentError> {
    let prefix = prefix.get(..MAX_PREFIX).unwrap_or(prefix);
    match frame.vnet().gso {
        Gso::None => whole(frame, prefix, max, fragment),
        Gso::TcpV4 | Gso::TcpV6 => tcp(frame, prefix, max, frame.vnet().gso, frame.vnet().gso_size),
        Gso::UdpL4 => udp(frame, prefix, max, fragment),
    }
}

fn whole<'p>(
    frame: &mut Frame<'_>,
    prefix: &'p [u8],
    max: usize,
    fragment: bool,
) -> Result<Slices<'p>, SegmentError> {
    let vnet = *frame.vnet();
    if vnet.needs_csum {
        let (start, offset) = (usize::from(vnet.csum_start), usize::from(vnet.csum_offset));
        if !checksum::finish_partial(frame.bytes_mut(), start, offset) {
            return Err(SegmentError::Malformed);
        }
        frame.vnet_mut().needs_csum = false;
    }
    let bytes = frame.bytes();
    let mut slices = Slices::new(prefix, Kind::Whole, bytes.len());
    if bytes.len() > max {
        if !fragment {
            return stream(frame, prefix, max);
        }
        let header = ip::v4_header_len(bytes).ok_or(SegmentError::TooBig)?;
        slices.cut = Some(Cut::new(bytes, header, max)?);
        (slices.v4, slices.l4, slices.header, slices.at) = (true, header, header, header);
        slices.size = bytes.len() - header;
    }
    Ok(slices)
}

/// A single segment of a byte stream that the tunnel does not take: it may be cut, if its checksum was right before.
/// A sender's retransmissions come this way while the path has just become narrower.
fn stream<'p>(frame: &Frame<'_>, prefix: &'p [u8], max: usize) -> Result<Slices<'p>, SegmentError> {
    let bytes = frame.bytes();
    let Transport { v4, l4, pseudo } = ip::transport(bytes, ip::TCP).ok_or(SegmentError::TooBig)?;
    let covered = bytes.get(l4..).unwrap_or_default();
    let flags = covered.get(13).copied().unwrap_or(u8::MAX);
    let sum = pseudo + low16(covered.len()) + checksum::sum(covered);
    if flags & TCP_SYN_RST_URG != 0 || checksum::fold(sum) != 0xffff {
        return Err(SegmentError::TooBig);
    }
    let gso = if v4 { Gso::TcpV4 } else { Gso::TcpV6 };
    tcp(frame, prefix, max, gso, u16::MAX).map_err(|_| SegmentError::TooBig)
}

fn tcp<'p>(
    frame: &Frame<'_>,
    prefix: &'p [u8],
    max: usize,
    gso: Gso,
    size: u16,
) -> Result<Slices<'p>, SegmentError> {
    let bytes = frame.bytes();
    let transport = ip::transport(bytes, ip::TCP).ok_or(SegmentError::Malformed)?;
    if transport.v4 != (gso == Gso::TcpV4) {
        return Err(SegmentError::Malformed);
    }
    let octets = bytes.get(transport.l4..).unwrap_or_default();
    let len = octets.get(12).map_or(0, |byte| usize::from(byte >> 4) * 4);
    let fixed = octets.get(..len).filter(|fixed| fixed.len() >= 20).ok_or(SegmentError::Malformed)?;
    let mut header = [0; 60];
    let header = &mut header[..len];
    header.copy_from_slice(fixed);
    header[4..8].fill(0);
    header[13] = 0;
    header[16..18].fill(0);
    let mut slices = Slices::of(bytes, prefix, Kind::Tcp, transport, len, checksum::sum(header))?;
    let room = max.checked_sub(slices.header).filter(|room| *room > 0).ok_or(SegmentError::TooBig)?;
    // A byte stream may be cut smaller than its sender asked for.
    slices.size = usize::from(size).min(room);
    slices.checked()
}

fn udp<'p>(
    frame: &Frame<'_>,
    prefix: &'p [u8],
    max: usize,
    fragment: bool,
) -> Result<Slices<'p>, SegmentError> {
    let (bytes, vnet) = (frame.bytes(), frame.vnet());
    let transport = ip::transport(bytes, ip::UDP).ok_or(SegmentError::Malformed)?;
    let ports = bytes.get(transport.l4..transport.l4 + 4).ok_or(SegmentError::Malformed)?;
    let mut slices = Slices::of(bytes, prefix, Kind::Udp, transport, 8, checksum::sum(ports))?;
    slices.size = usize::from(vnet.gso_size);
    if slices.header + slices.size.min(slices.end - slices.header) > max {
        if !(fragment && slices.v4) {
            return Err(SegmentError::TooBig);
        }
        slices.cut = Some(Cut::new(bytes, slices.l4, max)?);
    }
    slices.checked()
}

impl<'p> Slices<'p> {
    fn new(prefix: &'p [u8], kind: Kind, end: usize) -> Slices<'p> {
        Slices {
            prefix,
            kind,
            v4: false,
            cut: None,
            l4: 0,
            header: 0,
            end,
            size: end,
            segments: 1,
            partial: false,
            at: 0,
            index: 0,
            sent: 0,
            done: end == 0,
            ip_sum: 0,
            l4_sum: 0,
        }
    }

    fn of(
        bytes: &[u8],
        prefix: &'p [u8],
        kind: Kind,
        Transport { v4, l4, pseudo }: Transport,
        l4_len: usize,
        l4_sum: u32,
    ) -> Result<Slices<'p>, SegmentError> {
        let mut slices = Slices::new(prefix, kind, bytes.len());
        let header = l4 + l4_len;
        if header > bytes.len() || header + MAX_PREFIX > MAX_HEADER {
            return Err(SegmentError::Malformed);
        }
        (slices.v4, slices.l4, slices.header, slices.at) = (v4, l4, header, header);
        slices.l4_sum = l4_sum + pseudo;
        if v4 {
            // Everything but length (2), identification (4) and checksum (10).
            slices.ip_sum = u32::from(ip::word(bytes, 0))
                + checksum::sum(&bytes[6..10])
                + checksum::sum(bytes.get(12..l4).unwrap_or_default());
        }
        Ok(slices)
    }

    fn checked(self) -> Result<Slices<'p>, SegmentError> {
        if self.size == 0 || self.at >= self.end { Err(SegmentError::Malformed) } else { Ok(self) }
    }

    /// The next slice of `bytes`, the frame that was planned.
    pub fn next(&mut self, bytes: &[u8], headers: &mut Headers<'_>) -> Step {
        if self.done || bytes.len() != self.end {
            return Step::Done;
        }
        match (self.cut, self.kind) {
            (Some(cut), _) => self.next_fragment(cut, bytes, headers),
            (None, Kind::Whole) => self.next_whole(headers),
            (None, Kind::Tcp | Kind::Udp) => self.next_packet(bytes, headers),
        }
    }

    fn next_whole(&mut self, headers: &mut Headers<'_>) -> Step {
        let prefix = self.prefix;
        let Some((out, header)) = headers.take(prefix.len()) else { return Step::Full };
        out.copy_from_slice(prefix);
        self.done = true;
        Step::Slice(Slice { header, payload: 0..self.end })
    }

    fn next_packet(&mut self, bytes: &[u8], headers: &mut Headers<'_>) -> Step {
        let payload = self.at..(self.at + self.size).min(self.end);
        let prefix = self.prefix;
        let Some((out, header)) = headers.take(prefix.len() + self.header) else { return Step::Full };
        let (front, out) = out.split_at_mut(prefix.len());
        front.copy_from_slice(prefix);
        out.copy_from_slice(&bytes[..self.header]);
        let total = self.header + payload.len();
        if self.v4 {
            let id = ip::word(out, 4).wrapping_add(self.index);
            ip::set_word(out, 2, total);
            ip::set_word(out, 4, usize::from(id));
            let sum = self.ip_sum + low16(total) + u32::from(id);
            ip::set_word(out, 10, usize::from(!checksum::fold(sum)));
        } else {
            ip::set_word(out, 4, total - ip::V6_HEADER);
        }
        self.finish_transport(&mut out[self.l4..], bytes, payload.clone());
        self.at = payload.end;
        self.index = self.index.wrapping_add(self.segments);
        self.done = payload.end == self.end;
        Step::Slice(Slice { header, payload })
    }

    /// Rewrites the transport header of the packet with this payload: sequence, flags, length, checksum.
    fn finish_transport(&self, l4: &mut [u8], bytes: &[u8], payload: Range<usize>) {
        let len = self.header - self.l4 + payload.len();
        let mut sum = self.l4_sum + low16(len);
        if !self.partial {
            sum += checksum::sum(&bytes[payload.clone()]);
        }
        if self.kind == Kind::Udp {
            ip::set_word(l4, 4, len);
            let complete = checksum::fold(sum + low16(len));
            // Zero would say that there is no checksum (RFC 768).
            ip::set_word(l4, 6, usize::from(if complete == 0xffff { 0xffff } else { !complete }));
            return;
        }
        let mut seq = [0; 4];
        seq.copy_from_slice(&l4[4..8]);
        // No frame is so long that the offset would not fit.
        let offset = u32::try_from(payload.start - self.header).unwrap_or(0);
        let seq = u32::from_be_bytes(seq).wrapping_add(offset);
        l4[4..8].copy_from_slice(&seq.to_be_bytes());
        if payload.end != self.end {
            l4[13] &= !TCP_FIN_PSH;
        }
        if payload.start != self.header {
            l4[13] &= !TCP_CWR;
        }
        if self.partial {
            return ip::set_word(l4, 16, usize::from(checksum::fold(sum)));
        }
        sum += (seq >> 16) + (seq & 0xffff) + u32::from(l4[13]);
        ip::set_word(l4, 16, usize::from(!checksum::fold(sum)));
    }
}

/// The low sixteen bits, as lengths enter sums. Every length here is below 2^16.
fn low16(value: usize) -> u32 {
    u32::try_from(value & 0xffff).unwrap_or(0)
}

#[cfg(test)]
pub(crate) mod tests;
