//! State as people and scripts read it: from the overlay, the dataplane's counters and BGP's views to the types of the
//! API. Nothing here decides, waits or counts.
//!
//! Counters come in as functions, so that all of this can be tested without a socket.

mod bgp;
mod explain;
mod flows;
#[cfg(test)]
mod tests;

pub use bgp::{bgp_neighbors, bgp_problems, bgp_routes, bgp_rtc, bgp_summary, route_query, state_name};
pub use explain::{explained_vrf, explanation};
pub use flows::{FlowFilter, flow_table_use, flows};

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use agent_api::{
    ApiError, DropCount, Drops, ErrorKind, LabelUse, Labels, Memory, MemoryPart, PortCounters, PortServed,
    PortStatus, Ports, RouteNexthop, Routes, Status, TraceReply, TraceRequest, TrafficRates, TunnelStatus,
    Tunnels, VrfRoute, VrfSummary, Vrfs, WaitingTap,
};
use bgp_peer::{SpeakerSummary, State};
use dataplane::TunnelCounters;
use dataplane_core::fib::{Fib, TunnelId};
use dataplane_core::{DropReason, FlowUse, trace};
use vrouter_types::{Encap, PortId, Prefix};

use crate::agent::HOST_INTERFACE;
use crate::labels;
use crate::memory::Usage;
use crate::overlay::{Overlay, Port, PortState, Protocol, RouteEntry, Target, Tunnel, Vrf};
use crate::rates::Rate;

/// `show status`. `problems`: all that are known.
pub fn status(
    overlay: &Overlay,
    speaker: Option<&SpeakerSummary>,
    uptime: Duration,
    ready: bool,
    problems: Vec<String>,
) -> Status {
    let neighbors = speaker.map(|summary| summary.neighbors.as_slice()).unwrap_or_default();
    Status {
        name: overlay.config().name.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        uptime_msec: msec(uptime),
        ready,
        problems,
        ports: overlay.ports().count(),
        established: neighbors.iter().filter(|view| view.state == State::Established).count(),
        neighbors: neighbors.len(),
        routes: overlay.vrfs().iter().map(|vrf| overlay.routes(vrf.id).count()).sum(),
        rss_bytes: crate::memory::usage().rss,
        run: None,
    }
}

/// `show memory`. `bgp`: what the speaker says of itself.
pub fn memory(overlay: &Overlay, usage: Usage, bgp: Vec<MemoryPart>, flows: &FlowUse) -> Memory {
    let part = |name: &str, entries: usize| MemoryPart {
        name: name.to_owned(),
        entries: u64::try_from(entries).unwrap_or(u64::MAX),
        bytes: None,
    };
    let routes = overlay.vrfs().iter().map(|vrf| overlay.routes(vrf.id).count()).sum();
    let mut parts = bgp;
    parts.extend([
        part("FIB routes", routes),
        part("FIB tunnels", overlay.tunnels().count()),
        part("FIB ports", overlay.ports().filter(|port| port.is_up()).count()),
        part("labels", overlay.labels().count()),
        part("VRFs", overlay.vrfs().len()),
        MemoryPart { bytes: u64::try_from(flows.octets).ok(), ..part("flows", flows.flows) },
    ]);
    Memory { rss_bytes: usage.rss, rss_peak_bytes: usage.peak, parts }
}

/// `show vrfs`.
pub fn vrfs(overlay: &Overlay) -> Vrfs {
    let summary = |vrf: &Vrf| VrfSummary {
        rd: vrf.config.rd,
        import: vrf.config.import.clone(),
        export: vrf.config.export.clone(),
        pods: overlay.pool_use(vrf.id),
        namespaces: vrf.config.namespaces.clone().unwrap_or_default(),
        default: vrf.config.default,
        ports: overlay.ports().filter(|port| port.vrf == vrf.id).count(),
        routes: overlay.routes(vrf.id).count(),
    };
    Vrfs { vrfs: overlay.vrfs().iter().map(|vrf| (vrf.config.name.clone(), summary(vrf))).collect() }
}

/// `show routes`: of one VRF or all; the prefix and those inside it or, if there are none, the one that covers it.
pub fn routes(overlay: &Overlay, vrf: Option<&str>, prefix: Option<Prefix>) -> Result<Routes, ApiError> {
    let vrfs = match vrf {
        Some(name) => std::slice::from_ref(vrf_named(overlay, name)?),
        None => overlay.vrfs(),
    };
    let tunnels: BTreeMap<TunnelId, Tunnel> = overlay.tunnels().map(|tunnel| (tunnel.id, tunnel)).collect();
    let of = |vrf: &Vrf| {
        let entries: Vec<&RouteEntry> = overlay.routes(vrf.id).collect();
        let chosen = prefix.map_or_else(|| entries.clone(), |prefix| within(&entries, prefix));
        let route = |entry: &RouteEntry| (entry.prefix.to_string(), vrf_route(overlay, &tunnels, entry));
        (vrf.config.name.clone(), chosen.into_iter().map(route).collect())
    };
    Ok(Routes { vrfs: vrfs.iter().map(of).collect() })
}

fn within<'e>(entries: &[&'e RouteEntry], wanted: Prefix) -> Vec<&'e RouteEntry> {
    let inside = |entry: &&&RouteEntry| wanted.overlaps(entry.prefix) && entry.prefix.len() >= wanted.len();
    let inside: Vec<&RouteEntry> = entries.iter().filter(inside).copied().collect();
    if !inside.is_empty() {
        return inside;
    }
    let covering = entries.iter().filter(|entry| entry.prefix.contains(wanted.addr()));
    let covering = covering.filter(|entry| entry.prefix.len() <= wanted.len());
    covering.max_by_key(|entry| entry.prefix.len()).copied().into_iter().collect()
}

fn vrf_route(overlay: &Overlay, tunnels: &BTreeMap<TunnelId, Tunnel>, entry: &RouteEntry) -> VrfRoute {
    let nowhere = RouteNexthop { port: None, interface: None, ip: None, label: None, encapsulation: None };
    let nexthops = match &entry.target {
        Target::Port(port) => {
            vec![RouteNexthop { port: Some(*port), interface: interface_of(overlay, *port), ..nowhere }]
        }
        Target::Host => vec![RouteNexthop { interface: Some(HOST_INTERFACE.to_owned()), ..nowhere }],
        Target::Tunnels(hops) => {
            let nexthop = |(tunnel, label)| RouteNexthop {
                ip: tunnels.get(tunnel).map(|tunnel| tunnel.remote),
                encapsulation: tunnels.get(tunnel).map(|tunnel| tunnel.encap),
                label: Some(label),
                ..nowhere.clone()
            };
            hops.iter().map(|(tunnel, label)| nexthop((tunnel, *label))).collect()
        }
    };
    let protocol = match entry.protocol {
        Protocol::Local => "local",
        Protocol::Bgp => "bgp",
        Protocol::Stale => "bgp-stale",
        Protocol::Connected => "connected",
    };
    VrfRoute { protocol: protocol.to_owned(), nexthops }
}

/// `show ports`, with each port's counters and what it does now.
pub fn ports(overlay: &Overlay, read: impl Fn(PortId) -> (dataplane::PortCounters, Option<Rate>)) -> Ports {
    let status = |port: &Port| port_status(overlay, port, read(port.saved.port));
    let waits = |(tap, why): (&str, &str)| WaitingTap { interface: tap.to_owned(), reason: why.to_owned() };
    Ports { ports: overlay.ports().map(status).collect(), waiting: overlay.waiting().map(waits).collect() }
}

fn port_status(
    overlay: &Overlay,
    port: &Port,
    (counters, rate): (dataplane::PortCounters, Option<Rate>),
) -> PortStatus {
    let (saved, request) = (&port.saved, &port.saved.request);
    let reachable = |address: &&IpAddr| {
        overlay.host_owner(**address) == Some(saved.port) && overlay.host_failure(**address).is_none()
    };
    PortStatus {
        port: saved.port,
        key: request.key.clone(),
        kind: request.kind,
        host_interface: request.host_interface.clone(),
        vlan: request.vlan,
        name: request.name.clone(),
        namespace: request.namespace.clone(),
        vrf: saved.vrf.clone(),
        label: saved.label,
        mac: request.mac,
        host_reachable: saved.addresses.iter().filter(reachable).copied().collect(),
        addresses: saved.addresses.clone(),
        security_groups: request.security_groups.clone(),
        floating_ips: request.floating_ips.clone(),
        state: match &port.state {
            PortState::Up => "up".to_owned(),
            PortState::Waiting(why) => why.clone(),
        },
        counters: PortCounters {
            rx_packets: counters.rx_packets,
            rx_bytes: counters.rx_bytes,
            tx_packets: counters.tx_packets,
            tx_bytes: counters.tx_bytes,
            drops: counters.dropped,
            served: PortServed {
                dhcp: counters.dhcp,
                dhcp6: counters.dhcp6,
                router_advertisement: counters.router_advertisements,
            },
        },
        rates: rate.map(rates),
    }
}

/// `show labels`.
pub fn labels(overlay: &Overlay) -> Labels {
    let show = |(label, used)| {
        let (state, port) = match used {
            labels::LabelUse::InUse(port) => ("in use", Some(port)),
            labels::LabelUse::Resting(_) => ("resting", None),
        };
        let found = port.and_then(|port| overlay.port(port));
        LabelUse {
            label,
            state: state.to_owned(),
            port,
            vrf: found.map(|port| port.saved.vrf.clone()),
            interface: found.map(|port| port.saved.request.host_interface.clone()),
        }
    };
    Labels { labels: overlay.labels().map(show).collect() }
}

/// `show tunnels`.
pub fn tunnels(
    overlay: &Overlay,
    offloads: Vec<String>,
    read: impl Fn(IpAddr, Encap) -> (TunnelCounters, Option<Rate>),
) -> Tunnels {
    let status = |tunnel: Tunnel| {
        let (counters, rate) = read(tunnel.remote, tunnel.encap);
        TunnelStatus {
            remote: tunnel.remote,
            encapsulation: tunnel.encap,
            // What the path's routers have told is less than what the underlay's interface says.
            mtu: counters.path_mtu.map_or(tunnel.mtu, |path| path.min(tunnel.mtu)),
            routes: tunnel.routes,
            tx_packets: counters.tx_packets,
            tx_bytes: counters.tx_bytes,
            rx_packets: counters.rx_packets,
            rx_bytes: counters.rx_bytes,
            too_big: counters.too_big,
            rates: rate.map(rates),
        }
    };
    Tunnels {
        local: overlay.underlay().map(|underlay| underlay.address),
        interface: overlay.underlay().map(|underlay| underlay.interface.clone()),
        underlay_mtu: overlay.underlay_mtu(),
        offloads,
        tunnels: overlay.tunnels().map(status).collect(),
    }
}

fn rates(rate: Rate) -> TrafficRates {
    TrafficRates {
        rx_packets_per_second: rate.rx_packets,
        rx_bits_per_second: rate.rx_bits,
        tx_packets_per_second: rate.tx_packets,
        tx_bits_per_second: rate.tx_bits,
        drops_per_second: rate.drops,
    }
}

/// `show drops`, from what was counted for all and for each port, with what each comes to per second.
pub fn drops(
    overlay: &Overlay,
    counted: &[(DropReason, u64)],
    rate: impl Fn(DropReason, u64) -> Option<f64>,
    of_port: impl Fn(PortId) -> Vec<(DropReason, u64)>,
    port_rate: impl Fn(PortId, DropReason, u64) -> Option<f64>,
) -> Drops {
    let packets =
        |reason| counted.iter().filter(|(other, _)| *other == reason).map(|(_, packets)| packets).sum();
    let count = |reason: &DropReason| {
        let packets = packets(*reason);
        let count = DropCount {
            description: reason.description().to_owned(),
            packets,
            packets_per_second: rate(*reason, packets),
        };
        (reason.name().to_owned(), count)
    };
    let ports = overlay.ports().map(|port| {
        let happened = of_port(port.saved.port).into_iter().filter(|(_, packets)| *packets > 0);
        (port.saved.port.0, happened.map(|(reason, packets)| (reason.name().to_owned(), packets)).collect())
    });
    let port_rates = overlay.ports().map(|port| {
        let id = port.saved.port;
        let rate = |(reason, packets): (DropReason, u64)| {
            port_rate(id, reason, packets).map(|rate| (reason.name().to_owned(), rate))
        };
        (id.0, of_port(id).into_iter().filter_map(rate).collect())
    });
    Drops {
        port_rates: port_rates.filter(|(_, rates): &(_, BTreeMap<_, _>)| !rates.is_empty()).collect(),
        drops: DropReason::ALL.iter().map(count).collect(),
        ports: ports.filter(|(_, drops): &(_, BTreeMap<_, _>)| !drops.is_empty()).collect(),
    }
}

/// `trace`: the pipeline's own steps, with the port's interface in the verdict.
pub fn trace(overlay: &Overlay, fib: &Fib, request: &TraceRequest) -> Result<TraceReply, ApiError> {
    let vrf = vrf_named(overlay, &request.vrf)?;
    if request.src.is_ipv4() != request.dst.is_ipv4() {
        let message = format!("{} and {} are not of one address family", request.src, request.dst);
        return Err(ApiError::new(ErrorKind::BadRequest, message));
    }
    let trace = trace::trace(fib, vrf.id, request.src, request.dst);
    let port = trace.verdict.strip_prefix("to port ").and_then(|port| port.parse().ok()).map(PortId);
    let verdict = match port.and_then(|port| interface_of(overlay, port)) {
        Some(interface) => format!("{} ({interface})", trace.verdict),
        None => trace.verdict,
    };
    Ok(TraceReply { steps: trace.steps, verdict, forwarded: trace.forwarded })
}

fn vrf_named<'o>(overlay: &'o Overlay, name: &str) -> Result<&'o Vrf, ApiError> {
    overlay.vrf_by_name(name).ok_or_else(|| {
        let names: Vec<&str> = overlay.vrfs().iter().map(|vrf| vrf.config.name.as_str()).collect();
        let message = format!("there is no VRF {name:?} on this node (there are: {})", names.join(", "));
        ApiError::new(ErrorKind::NotFound, message)
    })
}

fn interface_of(overlay: &Overlay, port: PortId) -> Option<String> {
    overlay.port(port).map(|port| port.saved.request.host_interface.clone())
}

fn msec(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
