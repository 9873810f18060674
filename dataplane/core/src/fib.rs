//! Forwarding state: an immutable snapshot, built by control, read by packets.
//!
//! Everything is an index: a packet follows numbers, not pointers that control could free. Ports and VRFs are shared
//! between snapshots (`Arc`), so a change rebuilds only what it touches.

mod ilm;
mod routes;
mod services;
mod sources;

pub use ilm::Ilm;
pub use routes::{Hop, Route, RouteTable};
pub use services::{Lease, ServiceTargets, Services, Subnet};
pub use sources::{HostFib, Sources};

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use vrouter_types::{Encap, MacAddr, PortId, Prefix, VrfId};

use crate::nat::{Snat, StaticNat};
use crate::policy::Policy;

/// All that decides where packets go.
#[derive(Debug, Clone, Default)]
pub struct Fib {
    /// Grows with every published snapshot.
    pub generation: u64,
    /// What workloads see as their router.
    pub gateway: Gateway,
    /// By [`PortId`].
    pub ports: Vec<Option<Arc<Port>>>,
    /// By [`VrfId`].
    pub vrfs: Vec<Option<Arc<Vrf>>>,
    /// Labels of ours, and the port that each means.
    pub ilm: Ilm,
    /// By [`TunnelId`].
    pub tunnels: Vec<Option<Tunnel>>,
    /// Whose tunnel packets we take.
    pub sources: Sources,
    /// What the host may reach.
    pub host: HostFib,
    /// Where the agent serves workloads.
    pub services: ServiceTargets,
}

impl Fib {
    /// A snapshot that forwards nothing.
    pub fn new() -> Fib {
        Fib::default()
    }

    /// Puts a port at its index.
    pub fn insert_port(&mut self, port: Arc<Port>) {
        insert(&mut self.ports, port.id.0, port);
    }

    /// Puts a VRF at its index.
    pub fn insert_vrf(&mut self, vrf: Arc<Vrf>) {
        insert(&mut self.vrfs, vrf.id.0, vrf);
    }

    /// Puts a tunnel at its index.
    pub fn insert_tunnel(&mut self, id: TunnelId, tunnel: Tunnel) {
        insert(&mut self.tunnels, id.0, tunnel);
    }

    /// The port of this id, if there is one.
    pub fn port(&self, id: PortId) -> Option<&Port> {
        self.ports.get(id.0 as usize)?.as_deref()
    }

    /// The VRF of this id, if there is one.
    pub fn vrf(&self, id: VrfId) -> Option<&Vrf> {
        self.vrfs.get(id.0 as usize)?.as_deref()
    }

    /// The tunnel of this id, if there is one.
    pub fn tunnel(&self, id: TunnelId) -> Option<&Tunnel> {
        self.tunnels.get(id.0 as usize)?.as_ref()
    }
}

/// The addresses that every workload has as its router, the same on every port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gateway {
    /// Where workloads send everything.
    pub mac: MacAddr,
    /// Also the source of ICMP errors.
    pub v4: Ipv4Addr,
    /// Also the source of ICMPv6 errors towards ports.
    pub v6: Ipv6Addr,
}

impl Default for Gateway {
    fn default() -> Gateway {
        Gateway {
            mac: MacAddr::GATEWAY,
            v4: Ipv4Addr::new(169, 254, 1, 1),
            v6: Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1),
        }
    }
}

impl Gateway {
    /// Whether this is one of its two addresses.
    pub fn has(&self, addr: IpAddr) -> bool {
        match addr {
            IpAddr::V4(v4) => v4 == self.v4,
            IpAddr::V6(v6) => v6 == self.v6,
        }
    }
}

/// A workload's interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Port {
    /// Its index.
    pub id: PortId,
    /// The VRF that it is bound to.
    pub vrf: VrfId,
    /// The workload's MAC address: where its frames go.
    pub mac: MacAddr,
    /// Further MAC addresses that it may send from, as a router redundancy protocol's. Frames never go there: a
    /// workload that moves an address between its own MACs takes it in on any of them.
    pub macs: Vec<MacAddr>,
    /// The workload's addresses.
    pub addresses: Vec<IpAddr>,
    /// Prefixes that the workload may use beside them.
    pub prefixes: Vec<Prefix>,
    /// The largest IP packet that the workload takes.
    pub mtu: u16,
    /// Further addresses that the workload may use; with a MAC address, only from that one.
    pub allowed: Vec<(Prefix, Option<MacAddr>)>,
    /// The DSCP of its tunnel packets, over its VRF's.
    pub dscp: Option<u8>,
    /// What may pass; `None`: all.
    pub policy: Option<Arc<Policy>>,
    /// Addresses of other VRFs that stand for its own.
    pub nat: Vec<StaticNat>,
    /// What we serve the workload ourselves.
    pub services: Option<Arc<Services>>,
    /// It is a sub-port: its frames carry this 802.1Q tag on their interface.
    pub vlan: Option<u16>,
}

impl Port {
    /// A port that has no address yet.
    pub fn new(id: PortId, vrf: VrfId, mac: MacAddr) -> Port {
        Port {
            id,
            vrf,
            mac,
            macs: Vec::new(),
            addresses: Vec::new(),
            prefixes: Vec::new(),
            mtu: 1500,
            allowed: Vec::new(),
            dscp: None,
            policy: None,
            nat: Vec::new(),
            services: None,
            vlan: None,
        }
    }

    /// Whether the workload may send from this MAC address, some packet or other.
    pub fn has_mac(&self, mac: MacAddr) -> bool {
        self.is_own_mac(mac) || self.allowed.iter().any(|(_, only)| *only == Some(mac))
    }

    /// Whether the workload may use this address.
    pub fn has(&self, addr: IpAddr) -> bool {
        self.is_own(addr) || self.allowed.iter().any(|(prefix, _)| prefix.contains(addr))
    }

    /// Whether the workload may send from this address with this MAC address.
    pub fn may_send(&self, addr: IpAddr, mac: MacAddr) -> bool {
        let own_mac = self.is_own_mac(mac);
        (own_mac && self.is_own(addr))
            || self
                .allowed
                .iter()
                .any(|(prefix, only)| only.map_or(own_mac, |only| only == mac) && prefix.contains(addr))
    }

    fn is_own_mac(&self, mac: MacAddr) -> bool {
        self.mac == mac || self.macs.contains(&mac)
    }

    fn is_own(&self, addr: IpAddr) -> bool {
        self.addresses.contains(&addr) || self.prefixes.iter().any(|prefix| prefix.contains(addr))
    }
}

/// One private network of this node.
#[derive(Debug, Clone)]
pub struct Vrf {
    /// Its index.
    pub id: VrfId,
    /// As configured.
    pub name: String,
    /// What it reaches.
    pub routes: RouteTable,
    /// Whether its workloads may open flows to the host.
    pub host_open: bool,
    /// The DSCP of its tunnel packets (six bits); `None` copies the inner packet's (RFC 2983 §3). ECN is always copied.
    pub dscp: Option<u8>,
    /// How its workloads reach, from an address of the node, what it has no route for; `None`: not at all.
    pub snat: Option<Snat>,
}

impl Vrf {
    /// A VRF that reaches nothing.
    pub fn new(id: VrfId, name: impl Into<String>) -> Vrf {
        let (name, routes) = (name.into(), RouteTable::default());
        Vrf { id, name, routes, host_open: false, dscp: None, snat: None }
    }
}

/// An index into [`Fib::tunnels`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TunnelId(pub u32);

/// A way to another provider edge.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Tunnel {
    /// The other provider edge.
    pub remote: IpAddr,
    /// How packets travel.
    pub encap: Encap,
    /// The largest inner packet.
    pub mtu: u16,
}

fn insert<T>(table: &mut Vec<Option<T>>, index: u32, value: T) {
    let index = index as usize;
    if table.len() <= index {
        table.resize_with(index + 1, || None);
    }
    table[index] = Some(value);
}
