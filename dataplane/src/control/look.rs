//! What control may ask without changing anything that packets meet: counters, health, what was learned, captures.

use std::net::IpAddr;
use std::os::unix::net::UnixDatagram;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use dataplane_core::{DropReason, Learned};
use vrouter_types::{Encap, PortId};

use super::Dataplane;
use crate::capture::{Capture, CaptureConfig, MAX_CAPTURES, Tap, TooManyCaptures};
use crate::counters::{PortCounters, TunnelCounters};
use crate::snapshot::Snapshot;
use crate::watch::WorkerHealth;

impl Dataplane {
    /// What went through a port since it was opened; zeros for one that is not open.
    pub fn port_counters(&self, port: PortId) -> PortCounters {
        self.snapshots.load().port(port).map(|link| link.stats.read()).unwrap_or_default()
    }

    /// Why packets from or to a port were dropped: reasons that counted something.
    pub fn port_drops(&self, port: PortId) -> Vec<(DropReason, u64)> {
        self.snapshots.load().port(port).map(|link| link.stats.drops.list()).unwrap_or_default()
    }

    /// Whether a port is open and its interface still there.
    pub fn is_port_up(&self, port: PortId) -> bool {
        self.snapshots.load().port(port).is_some_and(|link| !link.is_down())
    }

    /// What went through a tunnel since it came to be; zeros for one that is not in the forwarding state.
    pub fn tunnel_counters(&self, remote: IpAddr, encap: Encap) -> TunnelCounters {
        let now_ms = u32::try_from(self.clock.elapsed().as_millis() & u128::from(u32::MAX)).unwrap_or(0);
        let snapshot = self.snapshots.load();
        snapshot.remotes.get(&(remote, encap)).map(|stats| stats.read(now_ms)).unwrap_or_default()
    }

    /// Why packets were dropped: reasons that counted something.
    pub fn drops(&self) -> Vec<(DropReason, u64)> {
        self.snapshots.load().drops.list()
    }

    /// What the kernel does for us, as an operator would read it.
    pub fn offloads(&self) -> Vec<String> {
        let snapshot = self.snapshots.load();
        let mut offloads = vec!["ports: TCP superframes".to_owned()];
        if snapshot.datagrams.load(Ordering::Relaxed) {
            offloads.push("ports: UDP superframes".to_owned());
        } else {
            offloads.push("ports: no UDP superframes, datagrams pass one by one".to_owned());
        }
        offloads.extend(snapshot.host.iter().flat_map(|host| host.offloads.clone()));
        offloads.extend(snapshot.underlay.iter().flat_map(|underlay| underlay.offloads()));
        offloads.extend(gre_ways(&snapshot));
        offloads
    }

    /// Begins to copy packets for whoever wants to look. Costs nothing once it is dropped.
    pub fn capture(self: &Arc<Dataplane>, config: CaptureConfig) -> Result<Capture, TooManyCaptures> {
        let tap = Arc::new(Tap::new(config, self.workers.len()));
        let publishing = self.lock();
        let old = self.snapshots.load_full();
        if old.taps.len() >= MAX_CAPTURES {
            return Err(TooManyCaptures);
        }
        let taps = old.taps.iter().chain([&tap]).cloned().collect();
        self.snapshots.store(Arc::new(Snapshot { taps: Arc::new(taps), ..Snapshot::clone(&old) }));
        drop(publishing);
        self.wake_all();
        Ok(Capture::new(tap, self))
    }

    pub(crate) fn end_capture(&self, tap: &Arc<Tap>) {
        let publishing = self.lock();
        let old = self.snapshots.load_full();
        let taps = old.taps.iter().filter(|other| !Arc::ptr_eq(other, tap)).cloned().collect();
        self.snapshots.store(Arc::new(Snapshot { taps: Arc::new(taps), ..Snapshot::clone(&old) }));
        drop(publishing);
        self.wake_all();
    }

    /// How many captures run.
    pub fn captures(&self) -> usize {
        self.snapshots.load().taps.len()
    }

    /// How each worker does: whether it moves packets, as a packet that it is given every second shows.
    pub fn health(&self) -> Vec<WorkerHealth> {
        let workers = self.workers.iter().enumerate();
        workers.map(|(index, worker)| worker.shared.pulse.look(index)).collect()
    }

    /// What workloads have shown of their addresses since this was last asked: gratuitous ARP, ARP replies, neighbour
    /// advertisements. One address of a port is told at most once in a second.
    pub fn learned(&self) -> Vec<Learned> {
        self.learning.read()
    }

    /// Receives a datagram when [`Dataplane::learned`] has something. It does not block; whoever takes it empties it
    /// before asking.
    pub fn learned_bell(&self) -> std::io::Result<UnixDatagram> {
        self.learning.bell()
    }

    /// How many announcements were too many to be told.
    pub fn unlearned(&self) -> u64 {
        self.learning.lost()
    }
}

/// How GRE leaves: past the IP stack to those far ends whose link and neighbour are known, else by a raw socket.
fn gre_ways(snapshot: &Snapshot) -> Option<String> {
    let far_ends = snapshot.remotes.iter().filter(|((_, encap), _)| *encap == Encap::MplsOverGre);
    let (known, all) = far_ends
        .fold((0, 0), |(known, all), (_, stats)| (known + usize::from(stats.adjacency().is_some()), all + 1));
    (all > 0).then(|| match known {
        0 => "underlay: GRE by a raw socket".to_owned(),
        _ if known == all => "underlay: GRE by Ethernet frames".to_owned(),
        _ => format!("underlay: GRE by Ethernet frames to {known} of {all} far ends, else by a raw socket"),
    })
}
