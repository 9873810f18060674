//! Which flow a packet is of.

use std::net::IpAddr;

use vrouter_types::PortId;

use super::FlowTuple;
use super::slot::{Key, Kind};
use crate::packet::{Fragment, Packet, TCP};

/// Types of ICMP and ICMPv6.
const ECHO_REQUEST: [u8; 2] = [8, 128];
const ECHO_REPLY: [u8; 2] = [0, 129];
const RST: u8 = 0x04;

/// Which way a packet goes, as the workload sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    Out,
    In,
}

impl Direction {
    fn back(self) -> Direction {
        match self {
            Direction::Out => Direction::In,
            Direction::In => Direction::Out,
        }
    }
}

/// A datagram that travels in fragments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Datagram {
    port: PortId,
    protocol: u8,
    src: IpAddr,
    dst: IpAddr,
    id: u32,
}

impl Datagram {
    pub(crate) fn of(port: PortId, packet: &Packet, id: u32) -> Datagram {
        // IPv6 says the protocol in the first fragment only where the others begin with another header.
        let protocol = if packet.is_v4() { packet.protocol } else { 0 };
        Datagram { port, protocol, src: packet.src, dst: packet.dst, id }
    }

    pub(super) fn key(&self) -> Key {
        let [high, low] =
            [self.id >> 16, self.id & 0xffff].map(|half| u16::try_from(half).unwrap_or_default());
        let Datagram { port, protocol, src, dst, .. } = *self;
        let tuple = FlowTuple { port, protocol, local: src, remote: dst, local_port: high, remote_port: low };
        Key::of(Kind::Fragment, &tuple)
    }
}

/// How a packet relates to flows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Class {
    /// It is of this flow, has these TCP flags, and may begin the flow or not.
    Flow { tuple: FlowTuple, flags: u8, begins: bool },
    /// It is an ICMP error about a packet of this flow.
    Error(FlowTuple),
    /// It is a later fragment of this datagram.
    Later(Datagram),
    /// It is of no flow: each such packet is judged for itself.
    Alone,
}

/// What a packet from or to a port is.
pub(crate) fn classify(port: PortId, direction: Direction, packet: &Packet, bytes: &[u8]) -> Class {
    if let Fragment::Later(id) = packet.fragment {
        return Class::Later(Datagram::of(port, packet, id));
    }
    if let Some(quoted) = quoted(packet, bytes) {
        let about = Packet::read(quoted).ok();
        // Whoever sent it hears of it. An error for another only borrows the flow.
        let about = about.filter(|about| about.src == packet.dst);
        return match about.map(|about| classify_whole(port, direction.back(), &about, quoted)) {
            Some(Class::Flow { tuple, .. }) => Class::Error(tuple),
            _ => Class::Alone,
        };
    }
    classify_whole(port, direction, packet, bytes)
}

fn classify_whole(port: PortId, direction: Direction, packet: &Packet, bytes: &[u8]) -> Class {
    let Packet { protocol, .. } = *packet;
    if matches!(packet.fragment, Fragment::Later(_)) {
        return Class::Alone;
    }
    // Source and destination, as of a packet that goes out.
    let (src, dst, begins) = match (packet.icmp_echo(bytes), packet.is_icmp()) {
        (Some(Echo { id, request: true }), _) => (id, 0, true),
        (Some(Echo { id, request: false }), _) => (0, id, false),
        (None, true) => return Class::Alone,
        (None, false) => {
            let (src, dst) = packet.ports(bytes).unwrap_or_default();
            (src, dst, true)
        }
    };
    let flags =
        if protocol == TCP { packet.transport(bytes).get(13).copied().unwrap_or_default() } else { 0 };
    let ((local, local_port), (remote, remote_port)) = match direction {
        Direction::Out => ((packet.src, src), (packet.dst, dst)),
        Direction::In => ((packet.dst, dst), (packet.src, src)),
    };
    let tuple = FlowTuple { port, protocol, local, remote, local_port, remote_port };
    Class::Flow { tuple, flags, begins: begins && flags & RST == 0 }
}

/// An echo message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Echo {
    pub(crate) id: u16,
    pub(crate) request: bool,
}

impl Packet {
    /// The echo message, where it is one. An error may quote no more of it than its identifier.
    pub(crate) fn icmp_echo(&self, bytes: &[u8]) -> Option<Echo> {
        let family = usize::from(!self.is_v4());
        match self.transport(bytes) {
            [kind, 0, _, _, a, b, ..] if self.is_icmp() => {
                let id = u16::from_be_bytes([*a, *b]);
                let request = *kind == ECHO_REQUEST[family];
                (request || *kind == ECHO_REPLY[family]).then_some(Echo { id, request })
            }
            _ => None,
        }
    }
}

/// The packet that an ICMP error is about.
pub(crate) fn quoted<'b>(packet: &Packet, bytes: &'b [u8]) -> Option<&'b [u8]> {
    let message = packet.icmp(bytes)?;
    let is_error = match (packet.is_v4(), message.first()?) {
        (true, kind) => matches!(kind, 3 | 4 | 5 | 11 | 12),
        (false, kind) => *kind < 128,
    };
    is_error.then(|| message.get(8..)).flatten()
}
