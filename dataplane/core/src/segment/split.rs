//! Superframes that are longer than an IP length field can tell (Linux calls it BIG TCP), cut into such as every
//! interface takes. Segments are not made here: checksums stay partial.

use super::ip::{self, Transport};
use super::{SegmentError, Slices, tcp};
use crate::frame::{Frame, MAX_PACKET};
use crate::vnet::Gso;

/// Plans superframes no longer than [`MAX_PACKET`] of a longer one of TCP, each behind `prefix`, which holds the frame's
/// virtio-net header and what else the receiver wants. All are superframes of equally many segments but the last.
///
/// # Errors
/// [`SegmentError::Malformed`] for anything but a TCP superframe whose checksum is partial.
pub fn split<'p>(frame: &Frame<'_>, prefix: &'p [u8]) -> Result<Slices<'p>, SegmentError> {
    let vnet = frame.vnet();
    if !matches!(vnet.gso, Gso::TcpV4 | Gso::TcpV6) || !vnet.needs_csum {
        return Err(SegmentError::Malformed);
    }
    let Transport { pseudo, .. } = ip::transport(frame.bytes(), ip::TCP).ok_or(SegmentError::Malformed)?;
    let mut slices = tcp(frame, prefix, MAX_PACKET, vnet.gso, vnet.gso_size)?;
    let segments = (MAX_PACKET - slices.header) / slices.size;
    slices.segments = u16::try_from(segments).unwrap_or(u16::MAX);
    slices.size *= usize::from(slices.segments);
    (slices.partial, slices.l4_sum) = (true, pseudo);
    Ok(slices)
}
