//! Bytes in place, with the virtio-net header that belongs to them.
//!
//! A frame borrows a slot of the worker's arena. It only ever gets shorter: headers are pulled from the front, padding
//! is cut from the end, and what goes in front is gathered by the shell, since the octets before a frame may belong
//! to its neighbour in the same receive buffer.

use crate::vnet::VnetHeader;

/// The longest packet that an IP length field can tell.
pub const MAX_PACKET: usize = 65_535;
/// The longest superframe that a workload may send. A fourth of it, with a label and headers for each of its segments,
/// still fits one UDP send (65,507 octets).
pub const MAX_SUPERFRAME: usize = 4 * (60 << 10);

/// Borrowed bytes of one packet or superframe.
#[derive(Debug)]
pub struct Frame<'b> {
    bytes: &'b mut [u8],
    vnet: VnetHeader,
}

impl<'b> Frame<'b> {
    /// A frame over these bytes. Offsets in `vnet` count from their start.
    pub fn new(bytes: &'b mut [u8], vnet: VnetHeader) -> Frame<'b> {
        Frame { bytes, vnet }
    }

    /// Drops octets from the front, and shifts the virtio-net offsets with them. More than there is empties it.
    pub fn pull(&mut self, octets: usize) {
        let bytes = std::mem::take(&mut self.bytes);
        let octets = octets.min(bytes.len());
        self.bytes = &mut bytes[octets..];
        let shift = u16::try_from(octets).unwrap_or(u16::MAX);
        self.vnet.hdr_len = self.vnet.hdr_len.saturating_sub(shift);
        self.vnet.csum_start = self.vnet.csum_start.saturating_sub(shift);
    }

    /// Cuts what lies behind this many octets, as link-layer padding.
    pub fn truncate(&mut self, octets: usize) {
        if octets < self.bytes.len() {
            let bytes = std::mem::take(&mut self.bytes);
            self.bytes = &mut bytes[..octets];
        }
    }

    /// The bytes, to be changed in place.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        self.bytes
    }

    /// The virtio-net header, to be changed.
    pub fn vnet_mut(&mut self) -> &mut VnetHeader {
        &mut self.vnet
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        self.bytes
    }

    /// The virtio-net header.
    pub fn vnet(&self) -> &VnetHeader {
        &self.vnet
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pulling_shifts_the_offsets() {
        let mut bytes = [0, 1, 2, 3, 4, 5];
        let vnet = VnetHeader { needs_csum: true, hdr_len: 5, csum_start: 4, ..VnetHeader::NONE };
        let mut frame = Frame::new(&mut bytes, vnet);
        frame.pull(3);
        assert_eq!(frame.bytes(), [3, 4, 5]);
        assert_eq!((frame.vnet().hdr_len, frame.vnet().csum_start), (2, 1));
    }

    #[test]
    fn pulling_and_cutting_more_than_there_is_does_no_harm() {
        let mut bytes = [0, 1];
        let mut frame = Frame::new(&mut bytes, VnetHeader::NONE);
        frame.truncate(9);
        assert_eq!(frame.bytes(), [0, 1]);
        frame.pull(9);
        assert!(frame.bytes().is_empty());
    }
}
