//! A synchronous netlink socket: one request, its replies, its acknowledgement.
//!
//! It speaks with the kernel only, which answers before `send` returns; so nothing here waits for a clock.

use std::io;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_REQUEST, NetlinkDeserializable, NetlinkHeader, NetlinkMessage, NetlinkPayload,
    NetlinkSerializable,
};
use netlink_sys::{Socket, SocketAddr};

/// What the kernel writes into one datagram at most.
const DATAGRAM: usize = 64 << 10;
/// More datagrams than any dump of ours can have: a bound for the loop, nothing else.
const MAX_DATAGRAMS: usize = 1 << 16;

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
    pub(crate) fn ask<M>(&mut self, request: M, flags: u16) -> io::Result<Vec<M>>
    where
        M: NetlinkSerializable + NetlinkDeserializable,
    {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | NLM_F_ACK | flags;
        header.sequence_number = self.sequence;
        let mut message = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(request));
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        self.socket.send(&bytes, 0)?;
        self.collect()
    }

    fn collect<M: NetlinkDeserializable>(&self) -> io::Result<Vec<M>> {
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
    fn read_datagram<M: NetlinkDeserializable>(
        &self,
        datagram: &[u8],
        replies: &mut Vec<M>,
    ) -> io::Result<bool> {
        let mut rest = datagram;
        while !rest.is_empty() {
            let message = NetlinkMessage::<M>::deserialize(rest).map_err(io::Error::other)?;
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
