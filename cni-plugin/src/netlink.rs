//! A synchronous netlink socket: one request, its replies, its acknowledgement.
//!
//! It speaks with the kernel only, which answers before `send` returns; so nothing here waits for a clock. Requests are
//! built with `netlink-packet-route`; replies stay octets, of which the caller takes what it needs. So an attribute that a
//! future kernel adds or changes cannot fail an ADD, and the program carries no decoders that it never runs.

use std::io;

use netlink_packet_core::{
    Emitable, NLM_F_ACK, NLM_F_REQUEST, NetlinkDeserializable, NetlinkHeader, NetlinkMessage, NetlinkPayload,
    NetlinkSerializable,
};
use netlink_sys::{Socket, SocketAddr};

/// What the kernel writes into one datagram at most.
const DATAGRAM: usize = 64 << 10;
/// More datagrams than any dump of ours can have: a bound for the loop, nothing else.
const MAX_DATAGRAMS: usize = 1 << 16;

/// NLA_F_NESTED and NLA_F_NET_BYTEORDER, which are no part of an attribute's kind.
const FLAGS: u16 = 0xc000;

/// A socket in the network namespace of the thread that opened it.
#[derive(Debug)]
pub(crate) struct Netlink {
    socket: Socket,
    sequence: u32,
}

impl Netlink {
    /// Opens one for this netlink protocol.
    pub(crate) fn open(protocol: isize) -> io::Result<Netlink> {
        let socket = Socket::new(protocol)?;
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(Netlink { socket, sequence: 0 })
    }

    /// Sends one request and returns all that is answered until the kernel has acknowledged it.
    pub(crate) fn ask(&mut self, kind: u16, request: &impl Emitable, flags: u16) -> io::Result<Vec<Reply>> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | NLM_F_ACK | flags;
        header.sequence_number = self.sequence;
        let mut message =
            NetlinkMessage::new(header, NetlinkPayload::InnerMessage(Request { kind, request }));
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        self.socket.send(&bytes, 0)?;
        self.collect()
    }

    fn collect(&self) -> io::Result<Vec<Reply>> {
        let mut replies = Vec::new();
        for _ in 0..MAX_DATAGRAMS {
            let mut datagram = Vec::with_capacity(DATAGRAM);
            self.socket.recv(&mut datagram, 0)?;
            if self.read_datagram(&datagram, &mut replies)? {
                return Ok(replies);
            }
        }
        Err(io::Error::other("the kernel does not stop answering"))
    }

    /// Whether the request is done with.
    fn read_datagram(&self, datagram: &[u8], replies: &mut Vec<Reply>) -> io::Result<bool> {
        let mut rest = datagram;
        while !rest.is_empty() {
            let message = NetlinkMessage::<Reply>::deserialize(rest).map_err(io::Error::other)?;
            // The kernel pads messages to four octets; the last one may lack the padding.
            let length = (message.header.length as usize).next_multiple_of(4);
            if length == 0 {
                break;
            }
            rest = rest.get(length..).unwrap_or_default();
            if message.header.sequence_number != self.sequence {
                continue;
            }
            match message.payload {
                NetlinkPayload::InnerMessage(reply) => replies.push(reply),
                NetlinkPayload::Done(_) => return Ok(true),
                NetlinkPayload::Error(error) if error.code.is_none() => return Ok(true),
                NetlinkPayload::Error(error) => return Err(error.to_io()),
                _ => {}
            }
        }
        Ok(false)
    }
}

/// A message to the kernel: its number and what it says.
struct Request<'a, T> {
    kind: u16,
    request: &'a T,
}

impl<T: Emitable> NetlinkSerializable for Request<'_, T> {
    fn message_type(&self) -> u16 {
        self.kind
    }

    fn buffer_len(&self) -> usize {
        self.request.buffer_len()
    }

    fn serialize(&self, buffer: &mut [u8]) {
        self.request.emit(buffer);
    }
}

/// A message from the kernel: a fixed head, whose length depends on the kind, and attributes.
#[derive(Debug)]
pub(crate) struct Reply(Vec<u8>);

impl Reply {
    /// The octets of the head.
    pub(crate) fn head<const N: usize>(&self) -> Option<[u8; N]> {
        self.0.get(..N)?.try_into().ok()
    }

    /// The value of the first attribute of this kind, behind a head of this length.
    pub(crate) fn attribute(&self, head: usize, kind: u16) -> Option<&[u8]> {
        let mut rest = self.0.get(head..)?;
        // What follows a damaged attribute cannot be found.
        loop {
            let length = usize::from(u16::from_ne_bytes(rest.get(..2)?.try_into().ok()?));
            let found = u16::from_ne_bytes(rest.get(2..4)?.try_into().ok()?);
            let value = rest.get(4..length)?;
            if found & !FLAGS == kind {
                return Some(value);
            }
            rest = rest.get(length.next_multiple_of(4)..)?;
        }
    }
}

impl NetlinkDeserializable for Reply {
    type Error = std::convert::Infallible;

    fn deserialize(_: &NetlinkHeader, payload: &[u8]) -> Result<Reply, Self::Error> {
        Ok(Reply(payload.to_vec()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_with_lying_lengths_end_the_search() {
        for bytes in
            [&[0u8; 4][..], &[0, 0, 0, 0, 3, 0, 1, 0], &[0, 0, 0, 0, 0, 0, 1, 0], &[0, 0, 0, 0, 99, 0, 1, 0]]
        {
            assert_eq!(Reply(bytes.to_vec()).attribute(4, 1), None, "{bytes:?}");
        }
        assert_eq!(Reply(vec![0; 3]).attribute(4, 1), None);
        let sound = Reply(vec![9, 9, 9, 9, 5, 0, 2, 0, 7, 0, 0, 0, 6, 0, 1, 0, 0x15, 0, 0, 0]);
        assert_eq!((sound.attribute(4, 1), sound.attribute(4, 2)), (Some(&[0x15, 0][..]), Some(&[7][..])));
        assert_eq!((sound.head::<4>(), sound.head::<40>()), (Some([9; 4]), None));
    }
}
