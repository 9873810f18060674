//! What a worker does with a socket that has something: a batch is received, each packet of it decided and acted upon,
//! and all of it sent.

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::ops::Range;
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicUsize, Ordering};

use dataplane_core::vnet::VNET_HEADER_LEN;
use dataplane_core::{DropReason, Outer, Verdict, VnetHeader, from_host, from_port, from_underlay};
use tracing::warn;
use vrouter_types::{Encap, PortId};

use super::act::count_packets;
use super::{BULK_FRAME, BULK_SLOTS, HEADS_AT, HOST_BATCH, KEPT, SLOTS, STRIDE, Worker};
use crate::cmsg::Received;
use crate::gre;
use crate::snapshot::Snapshot;
use crate::sys;
use crate::underlay::receiver_port;

impl Worker {
    pub(super) fn serve_port(&mut self, snapshot: &Snapshot, port: PortId, failed: bool) {
        let Some(link) = snapshot.port(port) else { return };
        let received = self.receive(link.fd(), &link.frame_size, false);
        if failed || received.is_err() {
            if link.check_interface() {
                warn!(%port, interface = link.interface(), "the interface has gone");
            }
            if link.is_down() {
                let _ = self.shared.epoll.remove(link.fd());
            }
        }
        let (mut packets, mut octets) = (0usize, 0usize);
        for slot in 0..received.unwrap_or(0) {
            let message = self.receiver.message(slot);
            octets += message.len.saturating_sub(VNET_HEADER_LEN);
            packets += self.port_frame(snapshot, (port, link.vlan), slot * STRIDE, message);
        }
        link.stats.traffic.received(packets as u64, octets as u64);
        self.finish_batch(snapshot);
    }

    /// Forwards one frame of a port, and tells how many packets it stands for.
    fn port_frame(
        &mut self,
        snapshot: &Snapshot,
        (port, vlan): (PortId, Option<u16>),
        at: usize,
        message: Received,
    ) -> usize {
        let (range, vnet) = match self.split_vnet(at, message, vlan) {
            Ok(frame) => frame,
            Err(reason) => {
                let seen = self.see_frame(snapshot, port, at + VNET_HEADER_LEN..at + message.len.min(STRIDE));
                self.seen(snapshot, seen, Some(reason));
                snapshot.drop_packets(reason, Some(port), 1);
                return 1;
            }
        };
        let packets = count_packets(&vnet, range.len());
        let seen = self.see_frame(snapshot, port, range.clone());
        let (verdict, packet) =
            self.decide(range, vnet, Some(port), |state, frame| from_port(&snapshot.fib, state, port, frame));
        self.seen(snapshot, seen, self.dropped_by(verdict));
        self.act(snapshot, verdict, packet);
        packets
    }

    /// The frame behind its virtio-net header. `vlan` is the tag that it must have had.
    fn split_vnet(
        &self,
        at: usize,
        message: Received,
        vlan: Option<u16>,
    ) -> Result<(Range<usize>, VnetHeader), DropReason> {
        let frame = at + VNET_HEADER_LEN;
        if message.truncated || message.len > STRIDE {
            return Err(DropReason::TruncatedReceive);
        }
        if message.vlan != vlan {
            return Err(DropReason::Vlan);
        }
        let mut header = [0; VNET_HEADER_LEN];
        match self.memory.get(at..frame) {
            Some(octets) if message.len >= VNET_HEADER_LEN => header.copy_from_slice(octets),
            _ => return Err(DropReason::TruncatedReceive),
        }
        let vnet = VnetHeader::decode(&header).ok_or(DropReason::UnknownOffload)?;
        Ok((frame..at + message.len, vnet))
    }

    pub(super) fn serve_udp(&mut self, snapshot: &Snapshot, place: usize) {
        let Some(underlay) = &snapshot.underlay else { return };
        let Some(receiver) = underlay.receivers(self.index).get(place) else { return };
        // An error is about something sent before: asking has taken it away.
        let Ok(count) = self.receive(receiver.fd(), &receiver.frame_size, true) else { return };
        for slot in 0..count {
            let message = self.receiver.message(slot);
            let at = slot * STRIDE;
            if message.truncated {
                snapshot.drop_packets(DropReason::TruncatedReceive, None, 1);
                continue;
            }
            let message = Received { ports: (message.ports.0, receiver_port(place)), ..message };
            self.tunnel_message(snapshot, Encap::MplsOverUdp, at..at + message.len, message);
        }
        self.finish_batch(snapshot);
    }

    pub(super) fn serve_gre(&mut self, snapshot: &Snapshot) {
        let Some(underlay) = &snapshot.underlay else { return };
        let Some(fd) = underlay.gre() else { return };
        let Ok(count) = self.receive(fd, &underlay.gre_frame_size, true) else { return };
        for slot in 0..count {
            let message = self.receiver.message(slot);
            let (at, end) = (slot * STRIDE, slot * STRIDE + message.len.min(STRIDE));
            let octets = self.memory.get(at..end).unwrap_or_default();
            let outer = gre::skip_outer(octets, underlay.is_v6());
            match gre::header_len(octets.get(outer..).unwrap_or_default()) {
                Ok(header) => {
                    let range = at + outer + header..end;
                    self.tunnel_message(snapshot, Encap::MplsOverGre, range, message);
                }
                Err(reason) => snapshot.drop_packets(reason, None, 1),
            }
        }
        self.finish_batch(snapshot);
    }

    /// Forwards what one message from the tunnel holds: one packet, or as many as the kernel has joined.
    fn tunnel_message(&mut self, snapshot: &Snapshot, encap: Encap, range: Range<usize>, message: Received) {
        self.nap.received(1, range.len());
        let src = message.from.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
        let outer = Outer { src, encap, tos: message.tos };
        let segment = if message.segment == 0 { range.len() } else { message.segment };
        // A capture wants to see every packet.
        let leads = segment < range.len() && snapshot.taps.is_empty();
        let (mut at, mut packets) = (range.start, 0);
        // An empty message is a packet too: one without a label.
        while at < range.end || packets == 0 {
            let piece = at..range.end.min(at + segment);
            at = piece.end;
            packets += 1;
            if leads && packets > 1 && self.coalescer.follow(&self.memory, &piece) {
                continue;
            }
            if leads {
                self.coalescer.lead(self.memory.get(piece.clone()).unwrap_or_default());
            }
            let seen = self.see_tunnel(snapshot, outer, message.ports, piece.clone());
            let (verdict, packet) = self.decide(piece, VnetHeader::NONE, None, |state, frame| {
                from_underlay(&snapshot.fib, state, outer, frame)
            });
            self.seen(snapshot, seen, self.dropped_by(verdict));
            self.act(snapshot, verdict, packet);
            if leads && !is_plain(snapshot, verdict) {
                self.coalescer.end_lead();
            }
        }
        if let Some(stats) = snapshot.remotes.get(&(src, encap)) {
            stats.traffic.received(packets, range.len() as u64);
        }
    }

    pub(super) fn serve_host(&mut self, snapshot: &Snapshot) {
        let Some(host) = &snapshot.host else { return };
        for slot in 0..HOST_BATCH {
            let at = slot * STRIDE;
            let Some(octets) = self.memory.get_mut(at..at + STRIDE) else { break };
            let Ok(len) = host.read(octets) else { break };
            match self.split_vnet(at, Received { len, ..Received::default() }, None) {
                Ok((range, vnet)) => {
                    let (verdict, packet) =
                        self.decide(range, vnet, None, |state, frame| from_host(&snapshot.fib, state, frame));
                    self.act(snapshot, verdict, packet);
                }
                Err(reason) => snapshot.drop_packets(reason, None, 1),
            }
        }
        self.finish_batch(snapshot);
    }

    /// Receives a batch, `named` by its senders, and remembers how long its frames were.
    fn receive(&mut self, fd: BorrowedFd<'_>, frame_size: &AtomicUsize, named: bool) -> io::Result<usize> {
        let bulk = frame_size.load(Ordering::Relaxed) > BULK_FRAME;
        let slots = if bulk { BULK_SLOTS } else { SLOTS };
        if std::mem::take(&mut self.swollen) {
            sys::give_back(self.memory.get_mut(BULK_SLOTS * STRIDE..HEADS_AT).unwrap_or_default());
        }
        let memory = self.memory.get_mut(..slots * STRIDE).unwrap_or_default();
        let count = match self.receiver.receive(fd, memory, STRIDE, named) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
            received => received?,
        };
        let mut octets = 0;
        for slot in 0..count {
            let len = self.receiver.message(slot).len;
            octets += len;
            self.swollen |= slot >= BULK_SLOTS && len > KEPT;
        }
        frame_size.store(octets / count.max(1), Ordering::Relaxed);
        self.worked += count.max(octets / BULK_FRAME);
        Ok(count)
    }
}

/// Whether packets with the same headers get the same verdict: the port keeps no state.
fn is_plain(snapshot: &Snapshot, verdict: Verdict) -> bool {
    let Verdict::ToPort(port) = verdict else { return false };
    snapshot.fib.port(port).is_some_and(|port| !port.is_stateful())
}
