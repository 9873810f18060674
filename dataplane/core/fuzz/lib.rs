//! A small node whose numbers the fuzzer chooses, and what every verdict promises.
//!
//! Run one with `cargo +nightly fuzz run from_port` from the folder above.

pub mod harness;

use std::sync::Arc;

use arbitrary::Arbitrary;
use dataplane_core::policy::{Policy, Remote, Rule, Service};
use dataplane_core::{
    Fib, Frame, Gso, Hop, HostFlows, Port, Route, ServiceTargets, Services, Snat, State, StaticNat, Tunnel,
    TunnelId, Verdict, VnetHeader, Vrf,
};
use vrouter_types::{Encap, Label, MacAddr, PortId, VrfId};

/// The port that packets come from and go to.
pub const PORT: PortId = PortId(0);
/// The provider edge that is known.
pub const PE: [u8; 4] = [192, 0, 2, 1];

/// The node's numbers.
#[derive(Debug, Arbitrary)]
pub struct Node {
    port_mtu: u16,
    tunnel_mtu: u16,
    host_open: bool,
    default_route: bool,
    without_tunnels: bool,
    without_vrf: bool,
    dscp: Option<u8>,
    snat: bool,
    /// Rules that allow everything, or nothing.
    policy: Option<bool>,
    floating: bool,
    served: bool,
}

/// A virtio-net header, however wrong.
#[derive(Debug, Arbitrary)]
pub struct Vnet {
    bytes: Option<[u8; 10]>,
}

impl Node {
    /// The forwarding state.
    pub fn fib(&self) -> Fib {
        let mut fib = Fib::new();
        for (id, last) in [(0, 2), (1, 3)] {
            let addresses = vec![[10, 0, 0, last].into(), [0xfd00, 0, 0, 0, 0, 0, 0, u16::from(last)].into()];
            for addr in &addresses {
                fib.host.insert(*addr, PortId(id));
            }
            let mac = MacAddr([2, 0, 0, 0, 0, last]);
            let allowed = |v4| Rule { v4, protocol: None, service: Service::Any, remote: Remote::Any };
            let rules = |open: bool| -> Box<[Rule]> {
                if open { [allowed(true), allowed(false)].into() } else { Box::default() }
            };
            let policy = |open| Policy { generation: 1, ingress: rules(open), egress: rules(open) };
            let nat = StaticNat { fixed: addresses[0], floating: [10, 2, 0, last].into(), vrf: VrfId(0) };
            let served = Services { metadata: true, dns: true, ..Services::default() };
            let port = Port {
                policy: self.policy.map(|open| Arc::new(policy(open))),
                nat: self.floating.then_some(nat).into_iter().collect(),
                services: self.served.then(|| Arc::new(served)),
                macs: vec![MacAddr([2, 0, 0, 0, 0, 9])],
                addresses,
                prefixes: vec!["10.9.0.0/16".parse().unwrap()],
                mtu: self.port_mtu,
                ..Port::new(PortId(id), VrfId(0), mac)
            };
            fib.insert_port(Arc::new(port));
            fib.ilm.insert(Label::new(16 + id).unwrap(), PortId(id));
        }
        fib.sources.insert(PE.into());
        fib.services = ServiceTargets { metadata: 8775, dns: 5300 };
        if !self.without_tunnels {
            for (id, encap) in [(0, Encap::MplsOverUdp), (1, Encap::MplsOverGre)] {
                let tunnel = Tunnel { remote: PE.into(), encap, mtu: self.tunnel_mtu };
                fib.insert_tunnel(TunnelId(id), tunnel);
            }
        }
        if !self.without_vrf {
            fib.insert_vrf(Arc::new(self.vrf()));
        }
        fib
    }

    fn vrf(&self) -> Vrf {
        let mut vrf = Vrf {
            snat: self.snat.then_some(Snat::BOTH),
            host_open: self.host_open,
            dscp: self.dscp.map(|dscp| dscp & 63),
            ..Vrf::new(VrfId(0), "fuzz")
        };
        let hop = |tunnel| Hop { tunnel: TunnelId(tunnel), label: Label::new(100 + tunnel).unwrap() };
        let tunnels = Route::Tunnel([hop(0), hop(1)].into());
        for (prefix, route) in [
            ("10.0.0.2/32", Route::Port(PortId(0))),
            ("10.0.0.3/32", Route::Port(PortId(1))),
            ("fd00::2/128", Route::Port(PortId(0))),
            ("fd00::3/128", Route::Port(PortId(1))),
            ("10.1.0.0/16", tunnels.clone()),
            ("fd00:1::/32", tunnels.clone()),
            ("10.2.0.0/16", Route::Discard),
            ("10.3.0.0/16", Route::Host),
        ] {
            vrf.routes.insert(prefix.parse().unwrap(), route);
        }
        if self.default_route {
            vrf.routes.insert("0.0.0.0/0".parse().unwrap(), tunnels.clone());
            vrf.routes.insert("::/0".parse().unwrap(), tunnels);
        }
        vrf
    }
}

impl Vnet {
    /// As the shell decodes it; what cannot be decoded never reaches the pipeline.
    pub fn header(&self) -> VnetHeader {
        self.bytes.as_ref().and_then(VnetHeader::decode).unwrap_or(VnetHeader::NONE)
    }
}

/// A worker that has seen no packet.
pub fn state() -> State {
    State::new(Arc::new(HostFlows::new(16, [1, 2])))
}

/// Sets the IPv4 header checksum right where there is such a header, so that the fuzzer gets past it.
pub fn fix_checksum(packet: &mut [u8]) {
    let Some(first) = packet.first().filter(|first| **first >> 4 == 4) else { return };
    let len = usize::from(first & 15) * 4;
    let Some(header) = packet.get_mut(..len).filter(|header| header.len() >= 20) else { return };
    header[10..12].fill(0);
    let sum = dataplane_core::checksum::checksum(header);
    header[10..12].copy_from_slice(&sum.to_be_bytes());
}

/// What every verdict promises.
pub fn check(verdict: Verdict, state: &State, frame: &Frame<'_>) {
    match verdict {
        Verdict::ToPort(_) | Verdict::ToHost | Verdict::ToUnderlay(_) => {
            assert!(matches!(frame.bytes().first().map(|first| first >> 4), Some(4 | 6)));
            assert!(frame.vnet().gso == Gso::None || frame.vnet().gso_size > 0);
            if frame.bytes()[0] >> 4 == 4 {
                let len = usize::from(frame.bytes()[0] & 15) * 4;
                assert_eq!(dataplane_core::checksum::checksum(&frame.bytes()[..len]), 0);
            }
        }
        Verdict::Reply(_) => assert!(!state.reply.bytes().is_empty()),
        Verdict::Drop(_) => {}
    }
}
