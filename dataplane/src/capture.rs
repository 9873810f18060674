//! Copies of packets for whoever wants to look: into a bounded ring per worker and capture, only while one runs.
//!
//! ```text
//!  worker ─ matches? ─▶ ring (words) ──▶ Capture::read, every few milliseconds ──▶ pcapng
//!                         full: counted, and the packet goes on
//!  word 0: │ reason + 1 │ out │ octets that follow │    1: time, ns    2: │ kept │ original octets │    3: lost so far
//! ```
//! A port's packets are Ethernet frames: from the workload as they came, before anything was changed in them; to the
//! workload as they are handed to its interface. A superframe is one packet. The underlay's are datagrams as on the
//! wire, each for itself, with an outer header that is made up from what the sockets tell, since they keep the real one.
//! Why a packet was dropped is known where the pipeline drops it. Nobody looking: workers see an empty list per packet.

mod outer;
mod record;
#[cfg(test)]
mod tests;

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Weak};

use dataplane_core::{DropReason, Filter};
use vrouter_types::PortId;

use crate::control::Dataplane;
use crate::ring::{Reader, Ring};

pub(crate) use outer::Ends;
pub(crate) use record::{Begun, incoming_frame, incoming_tunnel, outgoing};

/// Captures at a time.
pub const MAX_CAPTURES: usize = 4;
/// The most that is kept of a packet: the longest superframe with all its headers, and as much as Wireshark reads.
pub const MAX_SNAPLEN: u32 = 256 << 10;
/// Octets of rings per capture, shared by the workers; and the least that a worker gets, which holds superframes.
const RING_OCTETS: usize = 4 << 20;
const LEAST_OCTETS: usize = 512 << 10;
const WORDS: usize = 4;
const OUT: u64 = 1 << 32;
const REASON: u32 = 40;

/// Where to look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CapturePoint {
    /// At a workload's interface.
    Port(PortId),
    /// Between us and the other provider edges.
    Underlay,
}

/// Which way packets go: `In` comes from the workload or the wire, `Out` goes there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// What arrives.
    In,
    /// What leaves.
    Out,
}

/// What to look at.
#[derive(Debug, Clone)]
pub struct CaptureConfig {
    /// Where.
    pub point: CapturePoint,
    /// Only this way; `None`: both.
    pub direction: Option<Direction>,
    /// Octets kept of each packet.
    pub snaplen: u32,
    /// Only these packets.
    pub filter: Option<Filter>,
}

/// A packet that was seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Captured {
    /// When, in nanoseconds since 1970.
    pub at_ns: u64,
    /// Which way it went.
    pub direction: Direction,
    /// Why the pipeline dropped it, if it did.
    pub dropped: Option<DropReason>,
    /// Its length; what was kept may be shorter.
    pub original: u32,
    /// Packets lost to a full ring between the one before and this one.
    pub lost: u64,
    /// What was kept of it.
    pub octets: Vec<u8>,
}

/// Too many captures run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{MAX_CAPTURES} captures run already; end one of them")]
pub struct TooManyCaptures;

/// What workers know of a capture.
#[derive(Debug)]
pub(crate) struct Tap {
    config: CaptureConfig,
    rings: Vec<TapRing>,
}

#[derive(Debug)]
struct TapRing {
    ring: Ring,
    lost: AtomicU64,
}

impl Tap {
    pub(crate) fn new(config: CaptureConfig, workers: usize) -> Tap {
        let octets = (RING_OCTETS / workers.max(1)).max(LEAST_OCTETS);
        let ring = || TapRing { ring: Ring::new(octets / 8), lost: AtomicU64::new(0) };
        let config = CaptureConfig { snaplen: config.snaplen.clamp(1, MAX_SNAPLEN), ..config };
        Tap { config, rings: (0..workers).map(|_| ring()).collect() }
    }

    fn looks_at(&self, point: CapturePoint, direction: Direction) -> bool {
        self.config.point == point && self.config.direction.is_none_or(|wanted| wanted == direction)
    }
}

/// A running capture. Dropping it ends it.
#[derive(Debug)]
pub struct Capture {
    tap: Arc<Tap>,
    dataplane: Weak<Dataplane>,
    /// Per ring, how many losses were told.
    told: Vec<u64>,
}

impl Capture {
    pub(crate) fn new(tap: Arc<Tap>, dataplane: &Arc<Dataplane>) -> Capture {
        let told = vec![0; tap.rings.len()];
        Capture { tap, dataplane: Arc::downgrade(dataplane), told }
    }

    /// What has been seen since it was last asked, in order of time. As much as the rings hold at most.
    pub fn read(&mut self) -> Vec<Captured> {
        let mut packets = Vec::new();
        for (TapRing { ring, .. }, told) in self.tap.rings.iter().zip(&mut self.told) {
            let mut reader = ring.reader();
            while let Some(packet) = read_one(&mut reader, told) {
                packets.push(packet);
            }
            reader.done();
        }
        packets.sort_by_key(|packet| packet.at_ns);
        packets
    }

    /// How many packets were lost in all, because nobody took them in time.
    pub fn lost(&self) -> u64 {
        self.tap.rings.iter().map(|ring| ring.lost.load(Relaxed)).sum()
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        if let Some(dataplane) = self.dataplane.upgrade() {
            dataplane.end_capture(&self.tap);
        }
    }
}

fn read_one(reader: &mut Reader<'_>, told: &mut u64) -> Option<Captured> {
    let [head, at_ns, lengths, lost] = [reader.word()?, reader.word()?, reader.word()?, reader.word()?];
    let low = |word: u64| u32::try_from(word & u64::from(u32::MAX)).unwrap_or(0);
    let (kept, original) = (low(lengths >> 32), low(lengths));
    let reason = usize::try_from(head >> REASON).unwrap_or(0).checked_sub(1);
    let mut octets = Vec::with_capacity(kept as usize);
    reader.octets(kept as usize, &mut octets);
    let since = lost.saturating_sub(*told);
    *told = lost;
    Some(Captured {
        at_ns,
        direction: if head & OUT == 0 { Direction::In } else { Direction::Out },
        dropped: reason.and_then(|index| DropReason::ALL.get(index).copied()),
        original,
        lost: since,
        octets,
    })
}
