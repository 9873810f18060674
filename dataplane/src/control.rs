//! What control may ask of the dataplane: open, close, publish, count.

use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use arc_swap::ArcSwap;
use dataplane_core::{DropReason, Fib, HostFlows};
use tracing::{info, warn};
use vrouter_types::{Encap, PortId};

use crate::counters::{Drops, PortCounters, TunnelCounters};
use crate::error::DataplaneError;
use crate::guard;
use crate::host_link::HostLink;
use crate::port_link::PortLink;
use crate::snapshot::Snapshot;
use crate::sys;
use crate::token::Token;
use crate::underlay::Underlay;
use crate::worker::{Shared, Worker};

/// Flows of the host that are remembered at once: 16 octets each.
const HOST_FLOWS: usize = 16_384;

/// How the dataplane is to run.
#[derive(Debug, Clone)]
pub struct DataplaneConfig {
    /// Threads; by default one per two cores.
    pub workers: Option<usize>,
    /// The name of the host's own interface; none leaves the host out.
    pub host_interface: Option<String>,
    /// How many UDP source ports flows are spread over.
    pub entropy_ports: u16,
    /// Octets that each socket may queue, in either direction. By default a thousandth of the memory, from 512 KiB to
    /// 4 MiB: less loses packets of bulk flows, more only delays them.
    pub socket_buffer: usize,
}

impl Default for DataplaneConfig {
    fn default() -> DataplaneConfig {
        DataplaneConfig {
            workers: None,
            host_interface: Some("vrouter0".to_owned()),
            entropy_ports: 16,
            socket_buffer: memory_octets().map_or(4 << 20, |memory| memory / 1024).clamp(512 << 10, 4 << 20),
        }
    }
}

fn memory_octets() -> Option<usize> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix(" kB")?.parse::<usize>().ok()?.checked_mul(1024)
}

/// Running workers. Dropping it stops them; guards on workloads' interfaces stay.
#[derive(Debug)]
pub struct Dataplane {
    config: DataplaneConfig,
    snapshots: Arc<ArcSwap<Snapshot>>,
    workers: Vec<Handle>,
    /// Held while a new snapshot is made of the last one.
    publishing: Mutex<()>,
    without_nftables: AtomicBool,
    clock: Instant,
}

#[derive(Debug)]
struct Handle {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Dataplane {
    /// Makes the host's interface and starts the workers. Needs no uplink and no port.
    pub fn start(config: DataplaneConfig, fib: Arc<Fib>) -> Result<Dataplane, DataplaneError> {
        let host = match &config.host_interface {
            Some(name) => {
                let failed = |source| DataplaneError::HostInterface { name: name.clone(), source };
                Some(Arc::new(HostLink::open(name).map_err(failed)?))
            }
            None => None,
        };
        let snapshot = Snapshot {
            fib: Arc::new(Fib::new()),
            tunnels: Arc::default(),
            remotes: Arc::default(),
            ports: Arc::default(),
            underlay: None,
            host,
            drops: Arc::new(Drops::default()),
            datagrams: Arc::new(AtomicBool::new(true)),
        };
        let snapshots = Arc::new(ArcSwap::from_pointee(snapshot.with_fib(fib)));
        let (mut dataplane, count) = {
            let cores = thread::available_parallelism().map_or(1, usize::from);
            let count = config.workers.unwrap_or((cores / 2).max(1)).max(1);
            let (publishing, without_nftables) = (Mutex::new(()), AtomicBool::new(false));
            let (workers, clock) = (Vec::new(), Instant::now());
            (Dataplane { config, snapshots, workers, publishing, without_nftables, clock }, count)
        };
        let random = RandomState::new();
        let key = [random.hash_one(1), random.hash_one(2)];
        let host_flows = Arc::new(HostFlows::new(HOST_FLOWS, key));
        for index in 0..count {
            let handle = dataplane.start_worker(index, &host_flows).map_err(DataplaneError::Worker)?;
            dataplane.workers.push(handle);
        }
        Ok(dataplane)
    }

    fn start_worker(&self, index: usize, host_flows: &Arc<HostFlows>) -> std::io::Result<Handle> {
        let shared = Arc::new(Shared::new()?);
        // One reader: what the host sends of one flow stays in order.
        if let Some(host) = self.snapshots.load().host.as_ref().filter(|_| index == 0) {
            shared.epoll.add(host.fd(), Token::Host.write())?;
        }
        let (snapshots, flows) = (Arc::clone(&self.snapshots), Arc::clone(host_flows));
        let (for_worker, clock) = (Arc::clone(&shared), self.clock);
        let thread = thread::Builder::new()
            .name(format!("dataplane-{index}"))
            .spawn(move || Worker::new(index, for_worker, snapshots, flows, clock).run())?;
        Ok(Handle { shared, thread: Some(thread) })
    }

    /// Opens the tunnel sockets on this source address, or closes them. Opening the same address again changes
    /// nothing.
    pub fn set_underlay(&self, address: Option<IpAddr>) -> Result<(), DataplaneError> {
        let publishing = self.lock();
        let old = self.snapshots.load_full();
        if old.underlay.as_ref().map(|underlay| underlay.address()) == address {
            return Ok(());
        }
        let underlay = match address {
            None => None,
            Some(address) => {
                let (ports, buffer) = (self.config.entropy_ports, self.config.socket_buffer);
                let (underlay, without_gre) = Underlay::open(address, self.workers.len(), ports, buffer)?;
                if let Some(error) = without_gre {
                    warn!(%address, %error, "no MPLS-over-GRE: cannot open a raw socket");
                }
                Some(Arc::new(underlay))
            }
        };
        if let Some(underlay) = &underlay {
            self.watch_underlay(underlay).map_err(|source| DataplaneError::Underlay {
                what: "epoll".to_owned(),
                address: underlay.address(),
                source,
            })?;
        }
        self.snapshots.store(Arc::new(Snapshot { underlay, ..Snapshot::clone(&old) }));
        if let Some(old) = &old.underlay {
            self.forget_underlay(old);
        }
        drop(publishing);
        self.wake_all();
        match address {
            Some(address) => info!(%address, "tunnels open"),
            None => info!("tunnels closed"),
        }
        Ok(())
    }

    fn watch_underlay(&self, underlay: &Underlay) -> std::io::Result<()> {
        for (index, worker) in self.workers.iter().enumerate() {
            for (place, receiver) in underlay.receivers(index).iter().enumerate() {
                worker.shared.epoll.add(receiver.fd(), Token::Udp(place).write())?;
            }
        }
        // Every raw socket would get every packet, so one worker has the only one.
        match (self.workers.first(), underlay.gre()) {
            (Some(worker), Some(fd)) => worker.shared.epoll.add(fd, Token::Gre.write()),
            _ => Ok(()),
        }
    }

    fn forget_underlay(&self, underlay: &Underlay) {
        for (index, worker) in self.workers.iter().enumerate() {
            let receivers = underlay.receivers(index).iter().map(|receiver| receiver.fd());
            for fd in receivers.chain(underlay.gre()) {
                // Whatever was not watched needs no forgetting.
                let _ = worker.shared.epoll.remove(fd);
            }
        }
    }

    /// Replaces the forwarding state. Workers see it with their next batch.
    pub fn publish(&self, fib: Arc<Fib>) {
        let _publishing = self.lock();
        let next = self.snapshots.load().with_fib(fib);
        self.snapshots.store(Arc::new(next));
    }

    /// The forwarding state in use.
    pub fn fib(&self) -> Arc<Fib> {
        Arc::clone(&self.snapshots.load().fib)
    }

    /// Serves this interface as a port: when this returns, its frames are received. The host's own stack is shut out
    /// of the interface's ingress first.
    pub fn open_port(&self, port: PortId, interface: &str) -> Result<(), DataplaneError> {
        let name = || interface.to_owned();
        if sys::if_index(interface).is_err() {
            return Err(DataplaneError::NoInterface { port, interface: name() });
        }
        self.guard(interface);
        let publishing = self.lock();
        let old = self.snapshots.load_full();
        let failed = |source| DataplaneError::OpenPort { port, interface: name(), source };
        let link =
            PortLink::open(interface, self.config.socket_buffer, old.port_stats(port)).map_err(failed)?;
        let link = Arc::new(link);
        let worker = self.worker_of(port).ok_or(DataplaneError::Stopped)?;
        // Published before it is watched, so that the first event finds it.
        self.snapshots.store(Arc::new(old.with_port(port, Some(Arc::clone(&link)))));
        if let Err(error) = worker.shared.epoll.add(link.fd(), Token::Port(port).write()) {
            self.snapshots.store(old);
            return Err(failed(error));
        }
        if let Some(before) = old.port(port) {
            let _ = worker.shared.epoll.remove(before.fd());
        }
        drop(publishing);
        self.wake_all();
        info!(%port, interface, "port open");
        Ok(())
    }

    /// Stops serving a port and gives its interface back to the host. A port that is not open stays so.
    pub fn close_port(&self, port: PortId) {
        let publishing = self.lock();
        let old = self.snapshots.load_full();
        let Some(link) = old.port(port) else { return };
        let next = old.with_port(port, None);
        let last = next.ports.iter().flatten().next().is_none();
        self.snapshots.store(Arc::new(next));
        if let Some(worker) = self.worker_of(port) {
            let _ = worker.shared.epoll.remove(link.fd());
        }
        drop(publishing);
        self.wake_all();
        // The interface may be gone already, and its chain with it.
        let _ = guard::let_host_in(link.interface());
        if last {
            let _ = guard::clear();
        }
        info!(%port, interface = link.interface(), "port closed");
    }

    fn guard(&self, interface: &str) {
        for (what, error) in guard::shut_out_host(interface) {
            let nftables = what.contains("nftables");
            if nftables && self.without_nftables.swap(true, Ordering::Relaxed) {
                continue;
            }
            warn!(interface, %error, "the host's stack may see workloads' frames: cannot {what}");
        }
    }

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
        }
        offloads.extend(snapshot.host.iter().flat_map(|host| host.offloads.clone()));
        offloads.extend(snapshot.underlay.iter().flat_map(|underlay| underlay.offloads()));
        offloads
    }

    fn worker_of(&self, port: PortId) -> Option<&Handle> {
        self.workers.get(port.0 as usize % self.workers.len().max(1))
    }

    fn lock(&self) -> MutexGuard<'_, ()> {
        // Nothing under it can be left half done: a snapshot is replaced as a whole.
        self.publishing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets sleeping workers see the new snapshot, so that they let go of closed sockets.
    fn wake_all(&self) {
        self.workers.iter().for_each(|worker| worker.shared.wake());
    }
}

impl Drop for Dataplane {
    fn drop(&mut self) {
        for worker in &self.workers {
            worker.shared.stop();
        }
        for worker in &mut self.workers {
            if let Some(thread) = worker.thread.take() {
                let _ = thread.join();
            }
        }
    }
}
