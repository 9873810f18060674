//! One thread: receive a batch, decide each packet, send what came of it, before anything else is received.
//!
//! ```text
//!  epoll ─▶ recvmmsg ─▶ from_port / from_underlay / from_host ─┬─▶ segment ──▶ egress ─▶ sendmmsg
//!             arena          one snapshot per batch            └─▶ coalesce ─▶ egress ─▶ sendmmsg, writev
//! ```
//! The arena is all the memory that packets get: slots to receive into, and behind them room for headers. Nothing is
//! allocated, locked or logged per packet.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr};
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Instant;

use arc_swap::{ArcSwap, Cache};
use dataplane_core::coalesce::Coalescer;
use dataplane_core::frame::MAX_SUPERFRAME;
use dataplane_core::vnet::VNET_HEADER_LEN;
use dataplane_core::{DropReason, Frame, Outer, State, Verdict, VnetHeader};
use dataplane_core::{from_host, from_port, from_underlay};
use tracing::{error, warn};
use vrouter_types::{Encap, PortId};

use crate::cmsg::Received;
use crate::egress::Egress;
use crate::gre;
use crate::learning::Learning;
use crate::snapshot::Snapshot;
use crate::spin::{Nap, Spin};
use crate::sys::{self, Epoll, Ready, Receiver};
use crate::token::Token;
use crate::underlay::receiver_port;
use crate::watch::{PROBE_PORT, Pulse};

mod act;

use act::count_packets;

/// Frames per receive call, and how many of them where frames are superframes: what a core's cache holds.
const SLOTS: usize = 64;
const BULK_SLOTS: usize = 8;
const BULK_FRAME: usize = 4096;
/// A maximal superframe with Ethernet and virtio-net header, rounded up. Room that no frame fills is not touched, so it
/// takes no memory.
pub(crate) const STRIDE: usize = MAX_SUPERFRAME + 16_512;
/// What a slot behind those of bulk may keep touched.
const KEPT: usize = 64 * 1024;
/// Room for headers.
const HEADS: usize = 512 * 1024;
/// Packets that one batch coalesces before it sends.
const COALESCE: usize = 2048;
/// Packets read from the host at once.
const HOST_BATCH: usize = 32;

/// What a worker shares with whoever controls it.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) epoll: Epoll,
    wake: File,
    stop: AtomicBool,
    pub(crate) pulse: Arc<Pulse>,
    learning: Arc<Learning>,
}

impl Shared {
    pub(crate) fn new(learning: Arc<Learning>) -> io::Result<Shared> {
        let (epoll, wake, stop) = (Epoll::new()?, sys::event_fd()?.into(), AtomicBool::new(false));
        let shared = Shared { epoll, wake, stop, pulse: Arc::new(Pulse::new()?), learning };
        shared.epoll.add(shared.wake.as_fd(), Token::Wake.write())?;
        if let Some(probe) = shared.pulse.snapshot.port(PROBE_PORT) {
            shared.epoll.add(probe.fd(), Token::Probe.write())?;
        }
        Ok(shared)
    }

    /// Lets a sleeping worker look at the snapshot and at `stop`.
    pub(crate) fn wake(&self) {
        // A counter that is full wakes as well.
        let _ = (&self.wake).write(&1u64.to_ne_bytes());
    }

    pub(crate) fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
        self.wake();
    }

    fn woken(&self) {
        let _ = (&self.wake).read(&mut [0; 8]);
    }
}

/// Octets of the arena that hold one packet from its IP header on, and what its sender left to be done.
#[derive(Debug, Clone)]
pub(super) struct Packet {
    pub(super) range: Range<usize>,
    pub(super) vnet: VnetHeader,
    /// The port that it came from.
    pub(super) from: Option<PortId>,
}

pub(crate) struct Worker {
    index: usize,
    shared: Arc<Shared>,
    snapshots: Cache<Arc<ArcSwap<Snapshot>>, Arc<Snapshot>>,
    pub(super) state: State,
    /// Slots, then headers.
    pub(super) memory: Vec<u8>,
    pub(super) heads_used: usize,
    receiver: Receiver,
    pub(super) coalescer: Coalescer,
    pub(super) egress: Egress,
    /// Packets of this turn, superframes counted as many.
    worked: usize,
    /// Whether slots behind those of bulk hold more memory than they should keep.
    swollen: bool,
    nap: Nap,
    /// What could not be learned so far.
    unlearned: u64,
    clock: Instant,
}

impl Worker {
    pub(crate) fn new(
        index: usize,
        shared: Arc<Shared>,
        snapshots: Arc<ArcSwap<Snapshot>>,
        state: State,
        clock: Instant,
    ) -> Worker {
        Worker {
            index,
            shared,
            snapshots: Cache::new(snapshots),
            state,
            memory: vec![0; SLOTS * STRIDE + HEADS],
            heads_used: 0,
            receiver: Receiver::new(SLOTS),
            coalescer: Coalescer::new(COALESCE),
            egress: Egress::new(),
            worked: 0,
            swollen: false,
            nap: Nap::default(),
            unlearned: 0,
            clock,
        }
    }

    /// Works until told to stop. A panic costs the batch that caused it, never the worker.
    pub(crate) fn run(mut self) {
        // Naps are shorter than what the kernel rounds sleeps up to.
        sys::sleep_exactly();
        let mut ready = Vec::new();
        let mut spin = Spin::new(std::thread::available_parallelism().is_ok_and(|cores| cores.get() == 1));
        while !self.shared.stop.load(Ordering::Relaxed) {
            ready.clear();
            let timeout = spin.timeout_ms(Instant::now());
            match self.shared.epoll.wait(&mut ready, timeout) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return error!(%error, worker = self.index, "cannot wait for packets"),
                Ok(()) => {}
            }
            spin.woke(!ready.is_empty(), Instant::now());
            if catch_unwind(AssertUnwindSafe(|| self.turn(&ready))).is_err() {
                error!(worker = self.index, "a batch was lost to a panic");
                self.coalescer.clear();
                self.egress = Egress::new();
                self.heads_used = 0;
            }
            spin.worked(std::mem::take(&mut self.worked));
            if let Some(time) = self.nap.after_turn(SLOTS) {
                std::thread::sleep(time);
            }
        }
    }

    fn turn(&mut self, ready: &[Ready]) {
        let elapsed = self.clock.elapsed();
        self.state.now_ms = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX);
        let snapshot = Arc::clone(self.snapshots.load());
        self.coalescer.join_datagrams(snapshot.datagrams.load(Ordering::Relaxed));
        for event in ready {
            match Token::read(event.token) {
                Token::Wake => self.shared.woken(),
                Token::Port(port) => self.serve_port(&snapshot, port, event.failed),
                Token::Udp(place) => self.serve_udp(&snapshot, place),
                Token::Gre => {
                    // The path got narrower, perhaps: what goes past the raw socket does not hear of it.
                    if let Some(underlay) = snapshot.underlay.as_ref().filter(|_| event.failed) {
                        underlay.bell.ring_changed();
                    }
                    self.serve_gre(&snapshot);
                }
                Token::Host => self.serve_host(&snapshot),
                Token::Probe => {
                    let probe = Arc::clone(&self.shared.pulse.snapshot);
                    self.serve_port(&probe, PROBE_PORT, event.failed);
                }
            }
        }
        if !self.state.learned.is_empty() {
            self.shared.learning.take(self.index, &mut self.state.learned, &mut self.unlearned);
        }
        self.shared.pulse.turn();
    }

    pub(super) fn now_ms(&self) -> u32 {
        // Differences are all that is asked of it, and it wraps after 49 days.
        u32::try_from(self.state.now_ms & u64::from(u32::MAX)).unwrap_or(0)
    }

    fn serve_port(&mut self, snapshot: &Snapshot, port: PortId, failed: bool) {
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

    fn serve_udp(&mut self, snapshot: &Snapshot, place: usize) {
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

    fn serve_gre(&mut self, snapshot: &Snapshot) {
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

    fn serve_host(&mut self, snapshot: &Snapshot) {
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

    /// Runs the pipeline on the octets at `range` and finds what is left of them.
    fn decide(
        &mut self,
        range: Range<usize>,
        vnet: VnetHeader,
        from: Option<PortId>,
        pipeline: impl FnOnce(&mut State, &mut Frame<'_>) -> Verdict,
    ) -> (Verdict, Packet) {
        let octets = self.memory.get_mut(range.clone()).unwrap_or_default();
        let origin = octets.as_ptr().addr();
        let mut frame = Frame::new(octets, vnet);
        let verdict = pipeline(&mut self.state, &mut frame);
        // A frame only gets shorter, so it still lies within the range.
        let start = range.start + frame.bytes().as_ptr().addr().saturating_sub(origin);
        let packet = Packet { range: start..start + frame.bytes().len(), vnet: *frame.vnet(), from };
        (verdict, packet)
    }
}

/// Whether packets with the same headers get the same verdict: the port keeps no state.
fn is_plain(snapshot: &Snapshot, verdict: Verdict) -> bool {
    let Verdict::ToPort(port) = verdict else { return false };
    snapshot.fib.port(port).is_some_and(|port| !port.is_stateful())
}

/// Offset of the header room in the arena.
pub(super) const HEADS_AT: usize = SLOTS * STRIDE;

mod link;
mod seen;
