//! IPv4 fragmentation (RFC 791 §3.2) of packets that may be fragmented, and of what is a fragment already.

use super::{Headers, Kind, SegmentError, Slice, Slices, Step, ip};
use crate::checksum;
use crate::frame::MAX_PACKET;

/// How IPv4 packets are cut that may be cut.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cut {
    /// Octets behind the IP header per fragment, a multiple of eight.
    chunk: usize,
    /// Offset field and "more fragments" of the packet itself, which may be a fragment already.
    offset: u16,
    more: bool,
}

impl Cut {
    pub(super) fn new(bytes: &[u8], header: usize, max: usize) -> Result<Cut, SegmentError> {
        let chunk = max.saturating_sub(header) & !7;
        let field = ip::word(bytes, 6);
        if chunk == 0 || field & ip::DONT_FRAGMENT != 0 {
            return Err(SegmentError::TooBig);
        }
        let offset = field & 0x1fff;
        // Beyond the longest datagram the offsets would go round, and what is there would begin another.
        if usize::from(offset) * 8 + bytes.len() > MAX_PACKET {
            return Err(SegmentError::Malformed);
        }
        Ok(Cut { chunk, offset, more: field & ip::MORE_FRAGMENTS != 0 })
    }
}

impl Slices<'_> {
    pub(super) fn next_fragment(&mut self, cut: Cut, bytes: &[u8], headers: &mut Headers<'_>) -> Step {
        let packet = self.at..(self.at + self.size).min(self.end);
        let (l4_len, first) = (self.header - self.l4, self.sent == 0);
        let part = cut.chunk.min(l4_len + packet.len() - self.sent);
        let header_len = if first { self.header } else { self.l4 };
        let prefix = self.prefix;
        let Some((out, header)) = headers.take(prefix.len() + header_len) else { return Step::Full };
        let (front, out) = out.split_at_mut(prefix.len());
        front.copy_from_slice(prefix);
        out.copy_from_slice(&bytes[..header_len]);
        if first && self.kind == Kind::Udp {
            self.finish_transport(&mut out[self.l4..], bytes, packet.clone());
        }
        let start = packet.start + self.sent.saturating_sub(l4_len);
        let end = packet.start + self.sent + part - l4_len;
        let last = end == packet.end;
        let out = &mut out[..self.l4];
        if !first {
            forget_uncopied_options(&mut out[ip::V4_HEADER..]);
        }
        let more = if last && !cut.more { 0 } else { usize::from(ip::MORE_FRAGMENTS) };
        ip::set_word(out, 2, self.l4 + part);
        ip::set_word(out, 4, usize::from(ip::word(bytes, 4).wrapping_add(self.index)));
        ip::set_word(out, 6, (usize::from(cut.offset) + self.sent / 8) | more);
        ip::set_word(out, 10, 0);
        ip::set_word(out, 10, usize::from(checksum::checksum(out)));
        self.sent += part;
        if last {
            (self.at, self.sent, self.index) = (packet.end, 0, self.index.wrapping_add(1));
            self.done = packet.end == self.end;
        }
        Step::Slice(Slice { header, payload: start..end })
    }
}

/// Turns options that only the first fragment carries into no-operations (RFC 791 §3.1, copied flag).
fn forget_uncopied_options(mut options: &mut [u8]) {
    while let Some((&kind, rest)) = options.split_first() {
        let len = match kind {
            0 => return,
            1 => 1,
            _ => rest.first().map_or(0, |len| usize::from(*len)),
        };
        if len == 0 || len > options.len() || (kind != 1 && len < 2) {
            return;
        }
        let (option, behind) = options.split_at_mut(len);
        if kind & 0x80 == 0 {
            option.fill(1);
        }
        options = behind;
    }
}
