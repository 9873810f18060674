//! What control may ask of the dataplane: open, close, publish, count.

mod closing;
mod frames;
mod guards;
mod kept_flows;
mod run;

use std::collections::BTreeSet;
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use arc_swap::ArcSwap;
use dataplane_core::{Fib, FlowLimits, FlowTable, HostFlows};
use tracing::{info, warn};
use vrouter_types::PortId;

use crate::adjacency::follow::{Bell, Follower};
use crate::adopt::{Kept, Name};
use crate::error::DataplaneError;
use crate::flows::Flows;
use crate::host_link::HostLink;
use crate::learning::Learning;
use crate::offload::Offload;
use crate::port_link::PortLink;
use crate::snapshot::Snapshot;
use crate::sys;
use crate::token::Token;
use crate::underlay::{Plan, Underlay};
use crate::watch::Watch;
use crate::worker::Shared;
use closing::Closing;
use kept_flows::KeptFlows;

/// Flows of the host that are remembered at once: 16 octets each.
const HOST_FLOWS: usize = 16_384;
/// Below the ports that tunnels leave with.
const NODE_PORTS: RangeInclusive<u16> = 40_960..=49_151;

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
    /// What the flow table may hold.
    pub flows: FlowLimits,
    /// Ports and echo identifiers that packets with the node's address leave with.
    pub node_ports: RangeInclusive<u16>,
    /// What is not to be used, though the kernel may have it.
    pub without: Vec<Offload>,
}

impl Default for DataplaneConfig {
    fn default() -> DataplaneConfig {
        DataplaneConfig {
            workers: None,
            host_interface: Some("vrouter0".to_owned()),
            entropy_ports: 16,
            socket_buffer: memory_octets().map_or(4 << 20, |memory| memory / 1024).clamp(512 << 10, 4 << 20),
            flows: FlowLimits::default(),
            node_ports: NODE_PORTS,
            without: Vec::new(),
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
    /// Ends before the workers do.
    watch: Mutex<Option<Watch>>,
    follower: Mutex<Option<Follower>>,
    bell: Arc<Bell>,
    workers: Vec<Handle>,
    /// Held while a new snapshot is made of the last one.
    publishing: Mutex<()>,
    learning: Arc<Learning>,
    without_nftables: AtomicBool,
    /// Interfaces that [`Dataplane::prepare_ports`] has seen to.
    guarded: Mutex<BTreeSet<String>>,
    /// Those whose guard the last run has put up: [`Dataplane::check_guards`] looks whether it still stands.
    unchecked: Mutex<BTreeSet<String>>,
    host_flows: Arc<HostFlows>,
    /// Of the hashes of flows.
    key: [u64; 2],
    left: Mutex<Option<KeptFlows>>,
    pub(crate) closing: Arc<Closing>,
    pub(crate) flows: Flows,
    kept: Kept,
    pub(crate) clock: Instant,
}

#[derive(Debug)]
struct Handle {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Dataplane {
    /// Makes the host's interface and starts the workers. Needs no uplink and no port.
    pub fn start(config: DataplaneConfig, fib: Arc<Fib>) -> Result<Dataplane, DataplaneError> {
        let dataplane = Dataplane::prepare(config, fib, Kept::default())?;
        dataplane.serve()?;
        Ok(dataplane)
    }

    /// [`Dataplane::start`] in two steps, with the sockets of the last run: what is opened queues its packets until
    /// [`Dataplane::serve`]. So the first packet meets ports, tunnels and forwarding state that are complete.
    pub fn prepare(config: DataplaneConfig, fib: Arc<Fib>, kept: Kept) -> Result<Dataplane, DataplaneError> {
        let superframes = !config.without.contains(&Offload::UdpSuperframes);
        let host = match &config.host_interface {
            Some(name) => {
                let failed = |source| DataplaneError::HostInterface { name: name.clone(), source };
                Some(Arc::new(HostLink::open(name, &kept, superframes).map_err(failed)?))
            }
            None => None,
        };
        // A tun that takes no superframes of datagrams means a kernel whose packet sockets do not either.
        let superframes = superframes && host.as_ref().is_none_or(|host| host.takes_datagrams());
        let empty = Snapshot::empty(fib);
        empty.datagrams.store(superframes, Ordering::Relaxed);
        let snapshots = Arc::new(ArcSwap::from_pointee(Snapshot { host, ..empty }));
        let cores = thread::available_parallelism().map_or(1, usize::from);
        let count = config.workers.unwrap_or((cores / 2).max(1)).max(1);
        let random = RandomState::new();
        let left = KeptFlows::of_last_run(&kept);
        let key = left.as_ref().map_or_else(|| [random.hash_one(1), random.hash_one(2)], |left| left.key);
        let flows = Flows::new(FlowTable::new(config.flows, key), config.node_ports.clone());
        let learning = Learning::new(count).map_err(DataplaneError::Worker)?;
        let handle = |index| new_handle(index, &snapshots.load(), Arc::clone(&learning));
        let workers = (0..count).map(handle).collect::<std::io::Result<_>>();
        Ok(Dataplane {
            config,
            watch: Mutex::new(None),
            follower: Mutex::new(None),
            bell: Arc::new(Bell::new().map_err(DataplaneError::Worker)?),
            workers: workers.map_err(DataplaneError::Worker)?,
            snapshots,
            publishing: Mutex::new(()),
            learning,
            without_nftables: AtomicBool::new(false),
            guarded: Mutex::default(),
            unchecked: Mutex::default(),
            host_flows: Arc::new(HostFlows::new(HOST_FLOWS, key)),
            key,
            left: Mutex::new(left),
            closing: Arc::default(),
            flows,
            kept,
            clock: Instant::now(),
        })
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
                let plan = Plan {
                    workers: self.workers.len(),
                    entropy_ports: self.config.entropy_ports,
                    buffer: self.config.socket_buffer,
                    kept: &self.kept,
                    bell: &self.bell,
                    without: &self.config.without,
                };
                let (underlay, without_gre) = Underlay::open(address, plan)?;
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
        // New sockets have the names of old ones.
        let named = old.underlay.iter().flat_map(|old| old.named());
        named.for_each(|(name, _)| self.kept.forget(&name.to_string()));
        let named = underlay.iter().flat_map(|underlay| underlay.named());
        named.for_each(|(name, fd)| self.kept.keep(&name.to_string(), fd));
        self.snapshots.store(Arc::new(old.with_underlay(underlay)));
        self.bell.ring();
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
        self.flows.prepare(&fib, self.config.host_interface.as_deref());
        let _publishing = self.lock();
        let next = self.snapshots.load().with_fib(fib);
        self.snapshots.store(Arc::new(next));
        self.bell.ring();
    }

    /// The forwarding state in use.
    pub fn fib(&self) -> Arc<Fib> {
        Arc::clone(&self.snapshots.load().fib)
    }

    /// Serves this interface as a port: when this returns, its frames are received. The host's own stack is shut out
    /// of the interface's ingress first.
    pub fn open_port(&self, port: PortId, interface: &str) -> Result<(), DataplaneError> {
        self.open(port, interface, None)
    }

    /// The same for a sub-port: the frames of the interface that carry this 802.1Q tag.
    pub fn open_sub_port(&self, port: PortId, interface: &str, vlan: u16) -> Result<(), DataplaneError> {
        self.open(port, interface, Some(vlan))
    }

    fn open(&self, port: PortId, interface: &str, vlan: Option<u16>) -> Result<(), DataplaneError> {
        let name = || interface.to_owned();
        if sys::if_index(interface).is_err() {
            return Err(DataplaneError::NoInterface { port, interface: name() });
        }
        let outside = Name::Port(port, interface);
        if self.kept.has(&outside.to_string()) {
            // Its packets wait, behind a guard that outlives us.
            hold(&self.unchecked).insert(interface.to_owned());
        } else if !hold(&self.guarded).remove(interface) {
            self.guard(&[interface]);
        }
        let publishing = self.lock();
        let old = self.snapshots.load_full();
        let failed = |source| DataplaneError::OpenPort { port, interface: name(), source };
        let buffer = self.config.socket_buffer;
        let link = PortLink::open(outside, (interface, vlan), buffer, old.port_stats(port), &self.kept);
        let link = Arc::new(link.map_err(failed)?);
        let worker = self.worker_of(port).ok_or(DataplaneError::Stopped)?;
        // Published before it is watched, so that the first event finds it.
        let next = old.with_port(port, Some(Arc::clone(&link)));
        frames::share(&next, interface, vlan.is_some());
        self.snapshots.store(Arc::new(next));
        if let Err(error) = worker.shared.epoll.add(link.fd(), Token::Port(port).write()) {
            self.snapshots.store(old);
            return Err(failed(error));
        }
        if let Some(before) = old.port(port) {
            let _ = worker.shared.epoll.remove(before.fd());
            self.kept.forget(&Name::Port(port, before.interface()).to_string());
            self.closing.close(Arc::clone(before));
        }
        self.kept.keep(&outside.to_string(), link.fd());
        drop(publishing);
        self.wake_all();
        info!(%port, interface, "port open");
        Ok(())
    }

    /// Stops serving a port. Its interface is given back to the host, and its socket closed, soon thereafter. A port that
    /// is not open stays so.
    pub fn close_port(&self, port: PortId) {
        let publishing = self.lock();
        let old = self.snapshots.load_full();
        let Some(link) = old.port(port) else { return };
        let next = old.with_port(port, None);
        let last = next.ports.iter().flatten().next().is_none();
        let shared = frames::is_shared(&next, link.interface());
        frames::share(&next, link.interface(), link.vlan.is_some());
        self.snapshots.store(Arc::new(next));
        if let Some(worker) = self.worker_of(port) {
            let _ = worker.shared.epoll.remove(link.fd());
        }
        self.kept.forget(&Name::Port(port, link.interface()).to_string());
        if !shared {
            hold(&self.guarded).remove(link.interface());
            self.closing.give_back(link.interface(), last);
        }
        self.closing.close(Arc::clone(link));
        drop(publishing);
        self.wake_all();
        info!(%port, interface = link.interface(), "port closed");
    }

    /// Sends through the queue of a port's interface from now on, instead of past it: the queue shapes. A port that is not
    /// open has none.
    pub fn honour_queue(&self, port: PortId) {
        if self.snapshots.load().port(port).is_some_and(|link| link.end_bypass()) {
            info!(%port, "the port's interface has a queue that shapes");
        }
    }

    fn worker_of(&self, port: PortId) -> Option<&Handle> {
        self.workers.get(port.0 as usize % self.workers.len().max(1))
    }

    fn lock(&self) -> MutexGuard<'_, ()> {
        hold(&self.publishing)
    }

    /// Lets sleeping workers see the new snapshot, so that they let go of closed sockets.
    fn wake_all(&self) {
        self.workers.iter().for_each(|worker| worker.shared.wake());
    }
}

impl Drop for Dataplane {
    fn drop(&mut self) {
        self.halt();
    }
}

/// Nothing under any of our locks can be left half done: what they hold is replaced as a whole.
pub(crate) fn hold<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn new_handle(index: usize, snapshot: &Snapshot, learning: Arc<Learning>) -> std::io::Result<Handle> {
    let shared = Arc::new(Shared::new(learning)?);
    // One reader: what the host sends of one flow stays in order.
    if let Some(host) = snapshot.host.as_ref().filter(|_| index == 0) {
        shared.epoll.add(host.fd(), Token::Host.write())?;
    }
    Ok(Handle { shared, thread: Mutex::new(None) })
}

mod look;
#[cfg(test)]
mod tests;
