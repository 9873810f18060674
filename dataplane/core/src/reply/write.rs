//! Writing a message whose length is not known before: a cursor that never runs out of its buffer, and what goes
//! around a message in UDP.

use std::net::IpAddr;

use vrouter_types::{MacAddr, Prefix};

use super::{ETHERNET_HEADER, Ends, IPV4_HEADER, REPLY_TTL, length, put_ethernet};
use crate::checksum;
use crate::packet::{IPV6_HEADER, UDP};
use crate::state::ReplyBuffer;
use crate::verdict::DropReason;

pub(crate) const UDP_HEADER: usize = 8;

/// Octets put behind each other. What does not fit is not begun.
#[derive(Debug)]
pub(crate) struct Writer<'b> {
    bytes: &'b mut [u8],
    at: usize,
}

impl<'b> Writer<'b> {
    pub(crate) fn new(bytes: &'b mut [u8]) -> Writer<'b> {
        Writer { bytes, at: 0 }
    }

    /// How much is written.
    pub(crate) fn len(&self) -> usize {
        self.at
    }

    /// What is written.
    pub(crate) fn written(&self) -> &[u8] {
        self.bytes.get(..self.at).unwrap_or(&[])
    }

    /// Puts all of it, or nothing.
    pub(crate) fn put(&mut self, octets: &[u8]) -> Option<()> {
        let room = self.bytes.get_mut(self.at..)?.get_mut(..octets.len())?;
        room.copy_from_slice(octets);
        self.at += octets.len();
        Some(())
    }

    /// Whether so much more would fit.
    pub(crate) fn has_room(&self, octets: usize) -> Option<()> {
        (self.bytes.len() - self.at >= octets).then_some(())
    }

    /// Does all of it, or nothing.
    pub(crate) fn whole(&mut self, put: impl FnOnce(&mut Self) -> Option<()>) -> Option<()> {
        let before = self.at;
        let done = put(self);
        if done.is_none() {
            self.at = before;
        }
        done
    }

    /// An option of DHCPv6: code, length, what `put` writes.
    pub(crate) fn option6(&mut self, code: u16, put: impl FnOnce(&mut Self) -> Option<()>) -> Option<()> {
        self.whole(|writer| {
            writer.put(&code.to_be_bytes())?;
            let at = writer.at;
            writer.put(&[0, 0])?;
            put(writer)?;
            let len = u16::try_from(writer.at - at - 2).ok()?;
            writer.bytes.get_mut(at..at + 2)?.copy_from_slice(&len.to_be_bytes());
            Some(())
        })
    }

    /// A domain name as DNS writes it (RFC 1035 §3.1), uncompressed. A name that DNS cannot have is not written.
    pub(crate) fn name(&mut self, name: &str) -> Option<()> {
        self.whole(|writer| {
            let name = name.strip_suffix('.').unwrap_or(name);
            if name.len() > 253 {
                return None;
            }
            for label in name.split('.') {
                let len = u8::try_from(label.len()).ok().filter(|len| (1..64).contains(len))?;
                writer.put(&[len])?;
                writer.put(label.as_bytes())?;
            }
            writer.put(&[0])
        })
    }
}

/// Where a datagram of ours goes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Envelope {
    pub(crate) mac: MacAddr,
    pub(crate) from_mac: MacAddr,
    pub(crate) ends: Ends,
    pub(crate) ports: (u16, u16),
}

/// Writes a datagram of at most `most` octets of IP packet; `put` writes its payload.
pub(crate) fn datagram(
    reply: &mut ReplyBuffer,
    envelope: Envelope,
    most: usize,
    reason: Option<DropReason>,
    put: impl FnOnce(&mut Writer<'_>) -> Option<()>,
) -> Option<()> {
    let headers = envelope.ends.header_len() + UDP_HEADER;
    let frame = reply.start(ETHERNET_HEADER + most.max(headers), reason)?;
    let mut writer = Writer::new(frame.get_mut(ETHERNET_HEADER + headers..)?);
    put(&mut writer)?;
    let len = headers + writer.len();
    reply.shorten(ETHERNET_HEADER + len);
    let frame = reply.bytes_mut();
    put_ethernet(frame, envelope.mac, envelope.from_mac, envelope.ends.ethertype());
    put_ip_and_udp(frame.get_mut(ETHERNET_HEADER..)?, envelope)
}

fn put_ip_and_udp(bytes: &mut [u8], Envelope { ends, ports, .. }: Envelope) -> Option<()> {
    let (header, datagram) = bytes.split_at_mut_checked(ends.header_len())?;
    let (src, dst): (IpAddr, IpAddr) = match ends {
        Ends::V4 { src, dst } => {
            header[0] = 0x45;
            header[2..4].copy_from_slice(&length(IPV4_HEADER + datagram.len()));
            header[8] = REPLY_TTL;
            header[9] = UDP;
            header[12..16].copy_from_slice(&src.octets());
            header[16..20].copy_from_slice(&dst.octets());
            let sum = checksum::checksum(header);
            header[10..12].copy_from_slice(&sum.to_be_bytes());
            (src.into(), dst.into())
        }
        Ends::V6 { src, dst } => {
            header[0] = 0x60;
            header[4..6].copy_from_slice(&length(datagram.len()));
            header[6] = UDP;
            header[7] = REPLY_TTL;
            header[8..24].copy_from_slice(&src.octets());
            header[24..40].copy_from_slice(&dst.octets());
            (src.into(), dst.into())
        }
    };
    let len = datagram.len();
    let udp: &mut [u8; UDP_HEADER] = datagram.first_chunk_mut()?;
    udp[..2].copy_from_slice(&ports.0.to_be_bytes());
    udp[2..4].copy_from_slice(&ports.1.to_be_bytes());
    udp[4..6].copy_from_slice(&length(len));
    let partial = checksum::fold(checksum::pseudo_header(src, dst, UDP, len));
    udp[6..8].copy_from_slice(&partial.to_be_bytes());
    checksum::finish_partial(datagram, 0, 6).then_some(())
}

/// The payload of a whole UDP datagram, which begins at its header; `None` where its length or its checksum lies.
pub(crate) fn payload(ends: Ends, datagram: &[u8], checked: bool) -> Option<&[u8]> {
    let &[_, _, _, _, l0, l1, c0, c1] = datagram.first_chunk::<UDP_HEADER>()?;
    let len = usize::from(u16::from_be_bytes([l0, l1]));
    let whole = datagram.get(..len)?;
    let (src, dst): (IpAddr, IpAddr) = match ends {
        Ends::V4 { src, dst } => (src.into(), dst.into()),
        Ends::V6 { src, dst } => (src.into(), dst.into()),
    };
    let unsummed = [c0, c1] == [0, 0] && src.is_ipv4();
    let sum = || checksum::fold(checksum::sum(whole) + checksum::pseudo_header(src, dst, UDP, len));
    if !checked && !unsummed && sum() != 0xffff {
        return None;
    }
    whole.get(UDP_HEADER..)
}

/// The netmask of an IPv4 prefix.
pub(crate) fn mask(prefix: Prefix) -> u32 {
    u32::MAX.checked_shl(32u32.saturating_sub(prefix.len().into())).unwrap_or(0)
}

const _: () = assert!(IPV6_HEADER > IPV4_HEADER);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_not_begun() {
        let mut room = [0xee; 5];
        let mut writer = Writer::new(&mut room);
        assert_eq!(writer.put(&[1, 2, 3]), Some(()));
        assert_eq!(writer.put(&[4, 5, 6]), None);
        assert_eq!(writer.option6(9, |writer| writer.put(&[7])), None);
        assert_eq!(writer.written(), [1, 2, 3]);
        assert_eq!(room, [1, 2, 3, 0, 9]);
    }

    #[test]
    fn names_are_written_as_dns_has_them_and_others_are_not() {
        let mut room = [0; 300];
        let mut writer = Writer::new(&mut room);
        assert_eq!(writer.name("a.example."), Some(()));
        assert_eq!(writer.written(), b"\x01a\x07example\x00");
        let long = "x".repeat(64);
        for bad in ["", ".", "a..b", long.as_str(), ["abcdefg"; 40].join(".").as_str()] {
            assert_eq!(writer.name(bad), None, "{bad}");
        }
        assert_eq!(writer.len(), 11);
    }

    #[test]
    fn masks_have_as_many_ones_as_the_prefix_is_long() {
        for (prefix, expected) in [("0.0.0.0/0", 0), ("10.0.0.0/8", 0xff00_0000), ("10.0.0.1/32", u32::MAX)] {
            assert_eq!(mask(prefix.parse().unwrap()), expected, "{prefix}");
        }
    }
}
