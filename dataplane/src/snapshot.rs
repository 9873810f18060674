//! All that workers read while they forward: one immutable snapshot, replaced as a whole, picked up once per batch.

use std::collections::HashMap;
use std::net::IpAddr;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use dataplane_core::{DropReason, Fib, TunnelId};
use vrouter_types::{Encap, PortId};

use crate::capture::Tap;
use crate::counters::{Drops, PortStats, TunnelStats};
use crate::host_link::HostLink;
use crate::port_link::PortLink;
use crate::underlay::Underlay;
use crate::underlay::connected::{ByTunnel, connect};

/// A tunnel's far end and kind: what its counters hang on while snapshots come and go.
pub(crate) type TunnelKey = (IpAddr, Encap);

/// Forwarding state and the sockets that serve it.
#[derive(Debug, Clone)]
pub(crate) struct Snapshot {
    pub(crate) fib: Arc<Fib>,
    /// By tunnel id, beside `fib.tunnels`.
    pub(crate) tunnels: Arc<Vec<Option<Arc<TunnelStats>>>>,
    /// The same counters for packets that arrive.
    pub(crate) remotes: Arc<HashMap<TunnelKey, Arc<TunnelStats>>>,
    /// By port id.
    pub(crate) ports: Arc<Vec<Option<Arc<PortLink>>>>,
    pub(crate) underlay: Option<Arc<Underlay>>,
    pub(crate) connected: Arc<ByTunnel>,
    pub(crate) host: Option<Arc<HostLink>>,
    pub(crate) drops: Arc<Drops>,
    /// Cleared where the kernel refuses superframes of datagrams, as before Linux 6.2.
    pub(crate) datagrams: Arc<AtomicBool>,
    /// Who looks on.
    pub(crate) taps: Arc<Vec<Arc<Tap>>>,
}

impl Snapshot {
    /// Forwarding state without a single socket.
    pub(crate) fn empty(fib: Arc<Fib>) -> Snapshot {
        let nothing = Snapshot {
            fib: Arc::new(Fib::new()),
            tunnels: Arc::default(),
            remotes: Arc::default(),
            ports: Arc::default(),
            underlay: None,
            connected: Arc::default(),
            host: None,
            drops: Arc::default(),
            datagrams: Arc::new(AtomicBool::new(true)),
            taps: Arc::default(),
        };
        nothing.with_fib(fib)
    }

    pub(crate) fn port(&self, id: PortId) -> Option<&Arc<PortLink>> {
        self.ports.get(id.0 as usize)?.as_ref()
    }

    pub(crate) fn tunnel(&self, id: TunnelId) -> Option<&TunnelStats> {
        self.tunnels.get(id.0 as usize)?.as_deref()
    }

    /// Counts a drop, in total and at the port that it concerns.
    pub(crate) fn drop_packets(&self, reason: DropReason, port: Option<PortId>, packets: u64) {
        self.drops.add(reason, packets);
        if let Some(link) = port.and_then(|port| self.port(port)) {
            link.stats.drops.add(reason, packets);
        }
    }

    /// The next snapshot with this forwarding state: tunnels that stay keep their counters.
    pub(crate) fn with_fib(&self, fib: Arc<Fib>) -> Snapshot {
        let mut remotes = HashMap::new();
        let tunnels = fib.tunnels.iter().map(|tunnel| {
            let key = tunnel.as_ref().map(|tunnel| (tunnel.remote, tunnel.encap))?;
            let stats = self.remotes.get(&key).cloned().unwrap_or_default();
            Some(Arc::clone(remotes.entry(key).or_insert(stats)))
        });
        let tunnels = Arc::new(tunnels.collect());
        Snapshot { fib, tunnels, remotes: Arc::new(remotes), ..self.clone() }.connect()
    }

    /// The next snapshot with these tunnel sockets.
    pub(crate) fn with_underlay(&self, underlay: Option<Arc<Underlay>>) -> Snapshot {
        Snapshot { underlay, ..self.clone() }.connect()
    }

    fn connect(self) -> Snapshot {
        let connected = connect(self.underlay.as_deref(), &self.fib, &self.connected);
        Snapshot { connected: Arc::new(connected), ..self }
    }

    /// The socket of this place in the pool that is connected to a tunnel's far end.
    pub(crate) fn connected(&self, tunnel: TunnelId, place: usize) -> Option<BorrowedFd<'_>> {
        self.connected.get(tunnel.0 as usize)?.as_ref()?.socket(place)
    }

    /// The next snapshot with this port open, or closed.
    pub(crate) fn with_port(&self, id: PortId, link: Option<Arc<PortLink>>) -> Snapshot {
        let mut ports = Vec::clone(&self.ports);
        let index = id.0 as usize;
        if index >= ports.len() {
            ports.resize(index + 1, None);
        }
        if let Some(place) = ports.get_mut(index) {
            *place = link;
        }
        Snapshot { ports: Arc::new(ports), ..self.clone() }
    }

    /// A port's counters, to be kept when it is opened again.
    pub(crate) fn port_stats(&self, id: PortId) -> Arc<PortStats> {
        self.port(id).map(|link| Arc::clone(&link.stats)).unwrap_or_default()
    }
}
