//! One thread: receive a batch, decide each packet, send what came of it, before anything else is received.
//!
//! ```text
//!  epoll ─▶ recvmmsg ─▶ from_port / from_underlay / from_host ─┬─▶ segment ──▶ egress ─▶ sendmmsg
//!             arena          one snapshot per batch            └─▶ coalesce ─▶ egress ─▶ sendmmsg, writev
//! ```
//! The arena is all the memory that packets get: slots to receive into, and behind them room for headers. Nothing is
//! allocated, locked or logged per packet.

mod act;
mod link;
mod seen;
mod serve;
mod way;

use std::fs::File;
use std::io::{self, Read, Write};
use std::ops::Range;
use std::os::fd::AsFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use arc_swap::{ArcSwap, Cache};
use dataplane_core::coalesce::Coalescer;
use dataplane_core::frame::MAX_SUPERFRAME;
use dataplane_core::{Frame, State, Verdict, VnetHeader};
use tracing::error;
use vrouter_types::PortId;

use crate::egress::Egress;
use crate::learning::Learning;
use crate::snapshot::Snapshot;
use crate::spin::{Nap, Spin};
use crate::sys::{self, Epoll, Ready, Receiver};
use crate::token::Token;
use crate::watch::{PROBE_PORT, Pulse};

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

/// Offset of the header room in the arena.
pub(super) const HEADS_AT: usize = SLOTS * STRIDE;
