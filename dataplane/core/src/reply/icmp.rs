//! ICMP errors (RFC 792, RFC 1812 §4.3.2, RFC 1191) and ICMPv6 errors (RFC 4443), and the gateway's echo replies.
//!
//! ```text
//!  0     1     2         4        6        8
//!  | type| code| checksum| unused | MTU    | the packet that it is about, as much as fits …   ICMP
//!  | type| code| checksum| MTU             | the packet that it is about, as much as fits …   ICMPv6
//! ```

use std::net::IpAddr;

use super::{ETHERNET_HEADER, Ends, REPLY_TTL, put_ethernet, put_ip_around_icmp};
use crate::fib::{Gateway, Port};
use crate::packet::{Fragment, ICMP, ICMPV6, Packet};
use crate::state::ReplyBuffer;
use crate::verdict::DropReason;

/// An ICMP error need not be longer than this (RFC 1812 §4.3.2.3).
const MAX_V4: usize = 576;
/// Nor an ICMPv6 error (RFC 4443 §2.4 (c)).
const MAX_V6: usize = 1280;
const MESSAGE_HEADER: usize = 8;
/// The precedence of errors (RFC 1812 §4.3.2.5): internetwork control.
const ERROR_TOS: u8 = 0xc0;
const ECHO_REPLY: u8 = 0;
const ECHO_REPLY_V6: u8 = 129;
const REDIRECT_V6: u8 = 137;

/// The TOS or traffic class of an error.
pub(crate) fn error_tos(v4: bool) -> u8 {
    if v4 { ERROR_TOS } else { 0 }
}

/// What went wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Error {
    TimeExceeded,
    /// The largest packet that would have fitted.
    TooBig(u16),
    NetUnreachable,
    HostUnreachable,
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Error::TimeExceeded => f.write_str("time exceeded"),
            Error::TooBig(mtu) => write!(f, "too big, {mtu} octets would fit"),
            Error::NetUnreachable => f.write_str("network unreachable"),
            Error::HostUnreachable => f.write_str("host unreachable"),
        }
    }
}

impl Error {
    /// Type, code and the MTU that the message carries.
    fn code(self, v4: bool) -> (u8, u8, u16) {
        match (self, v4) {
            (Error::TimeExceeded, true) => (11, 0, 0),
            (Error::TimeExceeded, false) => (3, 0, 0),
            (Error::TooBig(mtu), true) => (3, 4, mtu),
            (Error::TooBig(mtu), false) => (2, 0, mtu),
            (Error::NetUnreachable, true) => (3, 0, 0),
            (Error::NetUnreachable, false) => (1, 0, 0),
            (Error::HostUnreachable, true) => (3, 1, 0),
            (Error::HostUnreachable, false) => (1, 3, 0),
        }
    }
}

/// The Ethernet header in front of a reply to a port.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ToPort<'f> {
    pub(crate) gateway: &'f Gateway,
    pub(crate) port: &'f Port,
}

/// Whether an error about this packet may be sent at all (RFC 1812 §4.3.2.7, RFC 4443 §2.4 (e)).
pub(crate) fn may_answer(packet: &Packet, bytes: &[u8]) -> bool {
    let about_error = match (packet.protocol, packet.is_v4()) {
        (ICMP, true) => packet.icmp(bytes).is_none_or(|message| is_v4_error(message[0])),
        (ICMPV6, false) => packet.icmp(bytes).is_none_or(|m| m[0] < 128 || m[0] == REDIRECT_V6),
        _ => false,
    };
    let later = matches!(packet.fragment, Fragment::Later(_));
    !about_error && !later && is_host(packet.src) && !is_group(packet.dst)
}

/// Whether one host may have this address.
pub(crate) fn is_host(addr: IpAddr) -> bool {
    let loopback_or_none = addr.is_unspecified() || addr.is_loopback();
    let reserved = match addr {
        // 0/8 is "this network", 240/4 is reserved (RFC 6890).
        IpAddr::V4(v4) => v4.octets()[0] == 0 || v4.octets()[0] >= 240,
        // A program that takes both families would believe that it is asked over IPv4 (RFC 6890, table 20).
        IpAddr::V6(v6) => v6.to_ipv4_mapped().is_some(),
    };
    !loopback_or_none && !is_group(addr) && !reserved
}

/// Whether many hosts share this address.
pub(crate) fn is_group(addr: IpAddr) -> bool {
    addr.is_multicast() || matches!(addr, IpAddr::V4(v4) if v4.is_broadcast())
}

/// Writes an error about `packet`, which begins `bytes` as it was received. `room` is what the way back takes.
pub(crate) fn write_error(
    reply: &mut ReplyBuffer,
    to: Option<ToPort<'_>>,
    src: IpAddr,
    (packet, bytes): (&Packet, &[u8]),
    (error, reason): (Error, DropReason),
    room: u16,
) -> Option<()> {
    let ends = Ends::new(src, packet.src)?;
    let (kind, code, mtu) = error.code(packet.is_v4());
    let most = if packet.is_v4() { MAX_V4 } else { MAX_V6 };
    let quote = most.min(room.into()).checked_sub(ends.header_len() + MESSAGE_HEADER)?;
    let quoted = bytes.get(..packet.len.min(quote)).unwrap_or(bytes);
    let link = if to.is_some() { ETHERNET_HEADER } else { 0 };
    let frame = reply.start(link + ends.header_len() + MESSAGE_HEADER + quoted.len(), Some(reason))?;
    let bytes = put_link(frame, to, ends)?;
    let message = bytes.get_mut(ends.header_len()..)?;
    message[..2].copy_from_slice(&[kind, code]);
    message[6..8].copy_from_slice(&mtu.to_be_bytes());
    message[8..].copy_from_slice(quoted);
    put_ip_around_icmp(bytes, ends, error_tos(packet.is_v4()), REPLY_TTL);
    Some(())
}

/// Writes the gateway's reply to an echo request.
pub(crate) fn write_echo_reply(
    reply: &mut ReplyBuffer,
    to: ToPort<'_>,
    packet: &Packet,
    request: &[u8],
) -> Option<()> {
    let ends = Ends::new(packet.dst, packet.src)?;
    let frame = reply.start(ETHERNET_HEADER + ends.header_len() + request.len(), None)?;
    let bytes = put_link(frame, Some(to), ends)?;
    let message = bytes.get_mut(ends.header_len()..)?;
    message.copy_from_slice(request);
    *message.first_mut()? = if packet.is_v4() { ECHO_REPLY } else { ECHO_REPLY_V6 };
    put_ip_around_icmp(bytes, ends, packet.tos, REPLY_TTL);
    Some(())
}

/// Writes the link header, if there is one; gives back what lies behind it.
fn put_link<'b>(frame: &'b mut [u8], to: Option<ToPort<'_>>, ends: Ends) -> Option<&'b mut [u8]> {
    let Some(ToPort { gateway, port }) = to else { return Some(frame) };
    put_ethernet(frame, port.mac, gateway.mac, ends.ethertype());
    frame.get_mut(ETHERNET_HEADER..)
}

/// Destination unreachable, source quench, redirect, time exceeded, parameter problem (RFC 1122 §3.2.2).
fn is_v4_error(kind: u8) -> bool {
    matches!(kind, 3 | 4 | 5 | 11 | 12)
}
