//! What travels beside a message's octets: control messages, addresses, and how they are told to the kernel. Safe code;
//! [`sys`](crate::sys) hands the octets over.

use std::mem;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::Range;

use crate::sys::IfIndex;

use crate::vlan::NUMBER;

/// Control messages that we send: segment size and traffic class.
pub(crate) const SEND_CONTROL: usize = 48;
/// Control messages that we receive: the same two, and room for what the kernel may add.
pub(crate) const RECV_CONTROL: usize = 96;

/// A socket address of either family, as the kernel lays it out:
///
/// ```text
///  0         2        4             8                     24         28
///  | family  | port   | IPv4 address|
///  | family  | port   | flow info   | IPv6 address        | scope    |   family in the machine's order
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C, align(8))]
pub(crate) struct Name([u8; 28]);

impl Name {
    /// No address.
    pub(crate) const NONE: Name = Name([0; 28]);

    /// Writes an address, and tells how long it is.
    pub(crate) fn set(&mut self, address: IpAddr, port: u16) -> libc::socklen_t {
        *self = Name::NONE;
        let (family, len) = if address.is_ipv4() { (libc::AF_INET, 16) } else { (libc::AF_INET6, 28) };
        self.0[..2].copy_from_slice(&u16::try_from(family).unwrap_or(0).to_ne_bytes());
        self.0[2..4].copy_from_slice(&port.to_be_bytes());
        match address {
            IpAddr::V4(address) => self.0[4..8].copy_from_slice(&address.octets()),
            IpAddr::V6(address) => self.0[8..24].copy_from_slice(&address.octets()),
        }
        len
    }

    /// The UDP port, where there is one.
    pub(crate) fn port(&self) -> u16 {
        u16::from_be_bytes([self.0[2], self.0[3]])
    }

    /// Writes an interface (struct sockaddr_ll: family, protocol, index), and tells how long it is.
    pub(crate) fn set_link(&mut self, link: IfIndex, v6: bool) -> libc::socklen_t {
        *self = Name::NONE;
        self.0[..2].copy_from_slice(&u16::try_from(libc::AF_PACKET).unwrap_or(0).to_ne_bytes());
        self.0[2..4].copy_from_slice(if v6 { &[0x86, 0xdd] } else { &[8, 0] });
        self.0[4..8].copy_from_slice(&link.to_ne_bytes());
        20
    }

    /// The address, if it is an Internet address.
    pub(crate) fn address(&self) -> Option<IpAddr> {
        let [f0, f1, _, _, a, b, c, d, v6 @ ..] = self.0;
        match i32::from(u16::from_ne_bytes([f0, f1])) {
            libc::AF_INET => Some(Ipv4Addr::new(a, b, c, d).into()),
            libc::AF_INET6 => v6.first_chunk::<16>().map(|octets| Ipv6Addr::from(*octets).into()),
            _ => None,
        }
    }
}

/// What came with a received message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Received {
    pub(crate) len: usize,
    pub(crate) from: Option<IpAddr>,
    /// UDP ports: the sender's, and ours.
    pub(crate) ports: (u16, u16),
    /// Octets per datagram where the kernel joined several; zero where not.
    pub(crate) segment: usize,
    pub(crate) tos: u8,
    pub(crate) truncated: bool,
    /// The number of the VLAN tag that the kernel took off; a tag that only says a priority is none.
    pub(crate) vlan: Option<u16>,
}

/// Where a message goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum To {
    /// Where the socket leads: a port's interface.
    Bound,
    /// An address of the socket's own family, and a port.
    Address(IpAddr, u16),
    /// The address that the socket is connected to.
    Connected(IpAddr),
    /// An interface, by a packet socket, on the way to this address.
    Link(IfIndex, IpAddr),
}

/// One message to send: pieces of memory, gathered.
#[derive(Debug, Clone)]
pub(crate) struct Message {
    /// Which pieces.
    pub(crate) pieces: Range<usize>,
    /// To whom.
    pub(crate) to: To,
    /// Octets per datagram where the kernel is to cut; zero where not.
    pub(crate) segment: u16,
    pub(crate) tos: u8,
}

/// From the kernel's uapi linux/if_packet.h.
pub(crate) const PACKET_AUXDATA: i32 = 8;
const STATUS_VLAN: i32 = 1 << 4;

/// Octets of a control message's header, and what lengths are rounded up to.
const CONTROL_HEADER: usize = mem::size_of::<libc::cmsghdr>();
const CONTROL_ALIGN: usize = mem::size_of::<usize>();

/// Reads segment size and traffic class out of received control messages.
pub(crate) fn read_control(mut octets: &[u8], received: &mut Received) {
    const WORD: usize = mem::size_of::<usize>();
    while octets.len() >= CONTROL_HEADER {
        let mut word = [0; WORD];
        word.copy_from_slice(&octets[..WORD]);
        let len = usize::from_ne_bytes(word).min(octets.len());
        let number = |at: usize| {
            let mut number = [0; 4];
            octets.get(at..at + 4).map_or(0, |from| {
                number.copy_from_slice(from);
                i32::from_ne_bytes(number)
            })
        };
        if len < CONTROL_HEADER {
            return;
        }
        match (number(WORD), number(WORD + 4)) {
            (libc::SOL_UDP, libc::UDP_GRO) => {
                received.segment = usize::try_from(number(CONTROL_HEADER)).unwrap_or(0);
            }
            // IPv4 tells one octet, IPv6 a number.
            (libc::IPPROTO_IP, libc::IP_TOS) => {
                received.tos = octets.get(CONTROL_HEADER).copied().unwrap_or(0);
            }
            (libc::IPPROTO_IPV6, libc::IPV6_TCLASS) => {
                received.tos = u8::try_from(number(CONTROL_HEADER)).unwrap_or(0);
            }
            // struct tpacket_auxdata begins with its status; the tag is behind two lengths and two offsets.
            (libc::SOL_PACKET, PACKET_AUXDATA) => {
                let tag = octets.get(CONTROL_HEADER + 16..).and_then(|rest| rest.first_chunk());
                let tag = tag.map_or(0, |tag| u16::from_ne_bytes(*tag) & NUMBER);
                received.vlan = (number(CONTROL_HEADER) & STATUS_VLAN != 0 && tag != 0).then_some(tag);
            }
            _ => {}
        }
        octets = octets.get(len.next_multiple_of(CONTROL_ALIGN)..).unwrap_or_default();
    }
}

/// Writes the control messages of a message, and tells how many octets they take.
pub(crate) fn write_controls(octets: &mut [u8; SEND_CONTROL], message: &Message) -> usize {
    let mut len = 0;
    if message.segment != 0 {
        let value = message.segment.to_ne_bytes();
        len += write_control(&mut octets[len..], libc::SOL_UDP, libc::UDP_SEGMENT, &value);
    }
    if message.tos != 0
        && let To::Address(address, _) | To::Connected(address) = message.to
    {
        let (level, kind) = if address.is_ipv6() {
            (libc::IPPROTO_IPV6, libc::IPV6_TCLASS)
        } else {
            (libc::IPPROTO_IP, libc::IP_TOS)
        };
        len += write_control(&mut octets[len..], level, kind, &i32::from(message.tos).to_ne_bytes());
    }
    len
}

/// Writes one control message and tells its length, padding included.
fn write_control(octets: &mut [u8], level: i32, kind: i32, value: &[u8]) -> usize {
    const WORD: usize = mem::size_of::<usize>();
    let len = CONTROL_HEADER + value.len();
    octets[..WORD].copy_from_slice(&len.to_ne_bytes());
    octets[WORD..WORD + 4].copy_from_slice(&level.to_ne_bytes());
    octets[WORD + 4..WORD + 8].copy_from_slice(&kind.to_ne_bytes());
    octets[CONTROL_HEADER..len].copy_from_slice(value);
    len.next_multiple_of(CONTROL_ALIGN)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn control(level: i32, kind: i32, value: &[u8]) -> Vec<u8> {
        let mut octets = [0; 64];
        let len = write_control(&mut octets, level, kind, value);
        octets[..len].to_vec()
    }

    #[test]
    fn addresses_are_laid_out_as_the_kernel_has_them() {
        let mut name = Name::NONE;
        assert_eq!(name.address(), None);
        for (text, len) in [("192.0.2.1", 16), ("2001:db8::1", 28)] {
            let address: IpAddr = text.parse().unwrap();
            assert_eq!(name.set(address, 6635), len);
            assert_eq!(name.address(), Some(address));
            assert_eq!((&name.0[2..4], name.port()), (&[0x19, 0xeb][..], 6635));
        }
    }

    #[test]
    fn segment_size_and_traffic_class_are_found_among_others() {
        let octets = [
            control(libc::SOL_SOCKET, libc::SCM_TIMESTAMP, &[9; 16]),
            control(libc::IPPROTO_IP, libc::IP_TOS, &[0x2e]),
            control(libc::SOL_UDP, libc::UDP_GRO, &1472i32.to_ne_bytes()),
        ];
        let mut received = Received::default();
        read_control(&octets.concat(), &mut received);
        assert_eq!((received.segment, received.tos), (1472, 0x2e));
        let mut received = Received::default();
        read_control(&control(libc::IPPROTO_IPV6, libc::IPV6_TCLASS, &3i32.to_ne_bytes()), &mut received);
        assert_eq!(received.tos, 3);
        for (status, tag, expected) in [
            (STATUS_VLAN, 101u16, Some(101)),
            (STATUS_VLAN, 0xe065, Some(101)),
            (STATUS_VLAN, 0xe000, None),
            (0, 7, None),
        ] {
            let auxdata = [&status.to_ne_bytes()[..], &[0; 12], &tag.to_ne_bytes(), &[0; 2]].concat();
            read_control(&control(libc::SOL_PACKET, PACKET_AUXDATA, &auxdata), &mut received);
            assert_eq!(received.vlan, expected, "{tag}");
        }
    }

    #[test]
    fn short_and_lying_control_messages_are_passed_over() {
        let whole = control(libc::SOL_UDP, libc::UDP_GRO, &1472i32.to_ne_bytes());
        for len in 0..whole.len() {
            read_control(&whole[..len], &mut Received::default());
        }
        for lie in [0usize, 1, 15, usize::MAX] {
            let mut octets = whole.clone();
            octets[..mem::size_of::<usize>()].copy_from_slice(&lie.to_ne_bytes());
            read_control(&octets, &mut Received::default());
        }
    }
}
