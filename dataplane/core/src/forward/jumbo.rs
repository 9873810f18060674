//! IPv6 superframes that are longer than a length field can tell: Linux says how long in a jumbo payload option (RFC 2675
//! §2), which whoever cuts them takes off. Newer kernels leave it out. No packet that long ever leaves us.
//!
//! ```text
//!  │ IPv6, length 0, next: hop-by-hop │ next: TCP │ 0 │ 0xc2 │ 4 │ octets behind the IPv6 header │ TCP …
//!  ╰──────────── 40 octets ───────────╯╰──────────────────────── 8 octets ────────────────────╯
//! ```

use crate::frame::{Frame, MAX_PACKET};
use crate::packet::{HOP_BY_HOP, IPV6_HEADER, TCP};
use crate::vnet::Gso;

const OPTION_HEADER: usize = 8;
const WITH_OPTION: usize = IPV6_HEADER + OPTION_HEADER;
/// An option of its own header: next header, length; kind, length.
const JUMBO_PAYLOAD: [u8; 4] = [TCP, 0, 0xc2, 4];

/// Takes the option off a superframe of TCP that has it. Anything else stays as it is.
pub(super) fn take_off(frame: &mut Frame<'_>) {
    if frame.vnet().gso != Gso::TcpV6 || frame.bytes().len() <= MAX_PACKET {
        return;
    }
    let behind = u32::try_from(frame.bytes().len() - IPV6_HEADER).unwrap_or(0);
    let Some(header) = frame.bytes_mut().first_chunk_mut::<WITH_OPTION>() else { return };
    let is_jumbo = header[0] >> 4 == 6
        && header[4..7] == [0, 0, HOP_BY_HOP]
        && header[IPV6_HEADER..IPV6_HEADER + 4] == JUMBO_PAYLOAD
        && header[IPV6_HEADER + 4..] == behind.to_be_bytes();
    if is_jumbo {
        header.copy_within(..IPV6_HEADER, OPTION_HEADER);
        header[OPTION_HEADER + 6] = TCP;
        frame.pull(OPTION_HEADER);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vnet::VnetHeader;

    fn superframe(change: impl FnOnce(&mut Vec<u8>)) -> (Vec<u8>, VnetHeader) {
        let mut bytes = vec![7; 100_000];
        bytes[..8].copy_from_slice(&[0x60, 1, 2, 3, 0, 0, HOP_BY_HOP, 64]);
        bytes[40..44].copy_from_slice(&JUMBO_PAYLOAD);
        bytes[44..48].copy_from_slice(&(100_000u32 - 40).to_be_bytes());
        change(&mut bytes);
        let vnet = VnetHeader { needs_csum: true, gso: Gso::TcpV6, csum_start: 48, ..VnetHeader::NONE };
        (bytes, vnet)
    }

    #[test]
    fn the_option_goes_and_the_header_stays() {
        let (mut bytes, vnet) = superframe(|_| ());
        let mut frame = Frame::new(&mut bytes, vnet);
        take_off(&mut frame);
        assert_eq!(frame.bytes().len(), 100_000 - 8);
        assert_eq!(frame.bytes()[..8], [0x60, 1, 2, 3, 0, 0, TCP, 64]);
        assert!(frame.bytes()[8..].iter().all(|octet| *octet == 7));
        assert_eq!(frame.vnet().csum_start, 40);
    }

    #[test]
    fn whatever_is_not_exactly_that_stays() {
        let changes: [fn(&mut Vec<u8>); 7] = [
            |bytes| bytes[0] = 0x45,
            |bytes| bytes[5] = 1,
            |bytes| bytes[6] = TCP,
            |bytes| bytes[40] = 17,
            |bytes| bytes[41] = 1,
            |bytes| bytes[47] ^= 1,
            |bytes| bytes.truncate(MAX_PACKET),
        ];
        for (index, change) in changes.into_iter().enumerate() {
            let (mut bytes, vnet) = superframe(change);
            let before = bytes.clone();
            let mut frame = Frame::new(&mut bytes, vnet);
            take_off(&mut frame);
            assert_eq!(frame.bytes(), before, "change {index}");
        }
        let (mut bytes, vnet) = superframe(|_| ());
        let mut frame = Frame::new(&mut bytes, VnetHeader { gso: Gso::None, ..vnet });
        take_off(&mut frame);
        assert_eq!(frame.bytes().len(), 100_000);
    }
}
