//! The watchdog: each worker proves that it moves packets, not only that it lives.
//!
//! ```text
//!  watch (once a second) ──frame──▶ │ socket pair │ ──▶ the worker's epoll, recvmmsg, from_port, egress, sendmmsg
//!         ▲                                                                  │
//!         └──── the same datagram, one hop further, within a second ◀────────┘
//! ```
//! The frame takes the path of every other one, with forwarding state of its own: two ports of a network that nobody
//! else is in, which share the worker's end of the pair. It counts nowhere. A worker that is stuck is found by the
//! answer that does not come; one that lost the frame to a panic is asked again a second later.

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use dataplane_core::checksum::checksum;
use dataplane_core::vnet::VNET_HEADER_LEN;
use dataplane_core::{Fib, Port, Route, Vrf};
use vrouter_types::{MacAddr, PortId, Prefix, VrfId};

use crate::port_link::PortLink;
use crate::snapshot::Snapshot;

/// How often each worker is asked.
const PERIOD: Duration = Duration::from_secs(1);
/// How long an answer may take.
const PATIENCE_MS: u64 = 1000;
/// The port that the frame comes from; the other one is where it goes.
pub(crate) const PROBE_PORT: PortId = PortId(0);
const FAR_PORT: PortId = PortId(1);
/// TEST-NET-2 (RFC 5737).
const NEAR: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
const FAR: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 2);
const NEAR_MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
const FAR_MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);
const TTL: u8 = 64;
const ETHERNET: usize = 14;
const HEADERS: usize = VNET_HEADER_LEN + ETHERNET + 20 + 8;
const FRAME: usize = HEADERS + 8;

/// How a worker does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WorkerHealth {
    /// Its number.
    pub worker: usize,
    /// How often it has woken up for something.
    pub turns: u64,
    /// For how long it has not moved the packet that it was given; zero: it has.
    pub stuck_for_ms: u64,
    /// Whether it moves packets: the last one came out within a second, or may still.
    pub moves: bool,
}

/// One worker's end of the matter: what it serves, and what it counts.
#[derive(Debug)]
pub(crate) struct Pulse {
    /// Serves the probe as any snapshot serves a port.
    pub(crate) snapshot: Arc<Snapshot>,
    turns: AtomicU64,
    ours: UnixDatagram,
    asked: Mutex<Asked>,
    /// Whoever holds it makes the worker stick.
    #[cfg(test)]
    pub(crate) hold: Mutex<()>,
}

/// What was asked and not answered.
#[derive(Debug, Default)]
struct Asked {
    number: u64,
    answers: u64,
    /// The first unanswered question, and when it was asked.
    open: Option<(u64, Instant)>,
}

impl Pulse {
    pub(crate) fn new() -> io::Result<Pulse> {
        let (ours, workers) = UnixDatagram::pair()?;
        ours.set_nonblocking(true)?;
        workers.set_nonblocking(true)?;
        let link = Arc::new(PortLink::over(OwnedFd::from(workers).into()));
        let ports = Arc::new(vec![Some(Arc::clone(&link)), Some(link)]);
        let snapshot = Arc::new(Snapshot { ports, ..Snapshot::empty(Arc::new(network())) });
        Ok(Pulse {
            snapshot,
            turns: AtomicU64::new(0),
            ours,
            asked: Mutex::default(),
            #[cfg(test)]
            hold: Mutex::default(),
        })
    }

    /// Told by the worker, once a turn.
    pub(crate) fn turn(&self) {
        self.turns.fetch_add(1, Relaxed);
        #[cfg(test)]
        drop(self.hold.lock());
    }

    #[cfg(test)]
    pub(crate) fn answers(&self) -> u64 {
        self.asked().answers
    }

    fn asked(&self) -> MutexGuard<'_, Asked> {
        // Nothing under it can be left half done.
        self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks once more. A worker that has not answered for long has a full queue, which is no news.
    fn ask(&self) {
        let mut asked = self.asked();
        asked.number += 1;
        let number = asked.number;
        if self.ours.send(&frame(number)).is_ok() && asked.open.is_none() {
            asked.open = Some((number, Instant::now()));
        }
    }

    /// Takes the answers that are there, and says how the worker does.
    pub(crate) fn look(&self, worker: usize) -> WorkerHealth {
        let mut asked = self.asked();
        let mut answer = [0; FRAME + 1];
        while let Ok(len) = self.ours.recv(&mut answer) {
            let number = answer.get(..len).and_then(answered);
            if number.zip(asked.open).is_some_and(|(number, (open, _))| number >= open) {
                asked.open = None;
                asked.answers += 1;
            }
        }
        let waits = asked.open.map_or(Duration::ZERO, |(_, since)| since.elapsed());
        let stuck_for_ms = u64::try_from(waits.as_millis()).unwrap_or(u64::MAX);
        let turns = self.turns.load(Relaxed);
        WorkerHealth { worker, turns, stuck_for_ms, moves: stuck_for_ms <= PATIENCE_MS }
    }
}

/// The network of the two ports.
fn network() -> Fib {
    let mut fib = Fib { generation: u64::MAX, ..Fib::new() };
    let mut vrf = Vrf::new(VrfId(0), "watchdog");
    for (id, mac, address) in [(PROBE_PORT, NEAR_MAC, NEAR), (FAR_PORT, FAR_MAC, FAR)] {
        fib.insert_port(Arc::new(Port { addresses: vec![address.into()], ..Port::new(id, vrf.id, mac) }));
        vrf.routes.insert(Prefix::host(IpAddr::V4(address)), Route::Port(id));
    }
    fib.insert_vrf(Arc::new(vrf));
    fib
}

/// Virtio-net header, Ethernet, IPv4, UDP without checksum, a number.
fn frame(number: u64) -> [u8; FRAME] {
    let mut frame = [0; FRAME];
    let (_, ethernet) = frame.split_at_mut(VNET_HEADER_LEN);
    ethernet[..6].copy_from_slice(&MacAddr::GATEWAY.0);
    ethernet[6..12].copy_from_slice(&NEAR_MAC.0);
    ethernet[12..14].copy_from_slice(&[8, 0]);
    let ip = &mut ethernet[ETHERNET..];
    ip[..12].copy_from_slice(&[0x45, 0, 0, 36, 0, 0, 0x40, 0, TTL, 17, 0, 0]);
    ip[12..16].copy_from_slice(&NEAR.octets());
    ip[16..20].copy_from_slice(&FAR.octets());
    let sum = checksum(&ip[..20]);
    ip[10..12].copy_from_slice(&sum.to_be_bytes());
    // Discard (RFC 863), where anybody answers at all.
    ip[20..28].copy_from_slice(&[0, 9, 0, 9, 0, 16, 0, 0]);
    ip[28..].copy_from_slice(&number.to_be_bytes());
    frame
}

/// The number of a frame that has come out where it should, one hop further.
fn answered(frame: &[u8]) -> Option<u64> {
    let (headers, number) = frame.split_at_checked(HEADERS)?;
    let ethernet = headers.get(VNET_HEADER_LEN..)?;
    let ttl = ethernet.get(ETHERNET + 8)?;
    let arrived = ethernet.starts_with(&FAR_MAC.0) && *ttl == TTL - 1;
    number.try_into().ok().filter(|_| arrived).map(u64::from_be_bytes)
}

/// The thread that asks. Ends with it.
#[derive(Debug)]
pub(crate) struct Watch {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Watch {
    pub(crate) fn start(pulses: Vec<Arc<Pulse>>) -> io::Result<Watch> {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let ask = move || {
            while !stopped.load(Relaxed) {
                for (worker, pulse) in pulses.iter().enumerate() {
                    pulse.look(worker);
                    pulse.ask();
                }
                thread::park_timeout(PERIOD);
            }
        };
        let thread = thread::Builder::new().name("dataplane-watch".to_owned()).spawn(ask)?;
        Ok(Watch { stop, thread: Some(thread) })
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_frame_that_was_forwarded_is_an_answer() {
        let sent = frame(7);
        assert_eq!(answered(&sent), None, "it came back as it was");
        let mut forwarded = sent;
        forwarded[VNET_HEADER_LEN..VNET_HEADER_LEN + 6].copy_from_slice(&FAR_MAC.0);
        assert_eq!(answered(&forwarded), None, "its TTL is untouched");
        forwarded[VNET_HEADER_LEN + ETHERNET + 8] = TTL - 1;
        assert_eq!(answered(&forwarded), Some(7));
        for len in 0..FRAME {
            assert_eq!(answered(&forwarded[..len]), None, "{len}");
        }
    }

    #[test]
    fn a_worker_that_does_not_answer_is_stuck_until_it_does() {
        let pulse = Pulse::new().unwrap();
        assert!(pulse.look(0).moves, "nothing was asked");
        pulse.ask();
        let (first, _) = pulse.asked().open.unwrap();
        pulse.asked().open = Some((first, Instant::now() - Duration::from_millis(PATIENCE_MS + 1)));
        let health = pulse.look(3);
        assert!(!health.moves && health.stuck_for_ms > PATIENCE_MS && health.worker == 3);
        (0..50).for_each(|_| pulse.ask());
        assert!(!pulse.look(3).moves, "asking again is no answer");
    }
}
