//! What would happen to a packet, in plain words: the real pipeline, run on a packet made up for it.

use std::net::IpAddr;
use std::sync::Arc;

use vrouter_types::{MacAddr, VrfId};

use crate::checksum;
use crate::fib::{Fib, Port, Route};
use crate::forward::{Outer, Pipeline};
use crate::frame::Frame;
use crate::host_flows::HostFlows;
use crate::packet::UDP;
use crate::state::State;
use crate::verdict::{Push, ReplyTo, Verdict};
use crate::vnet::VnetHeader;

/// What happened to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trace {
    /// One line per step.
    pub steps: Vec<String>,
    /// How it ended, as `to port 3`, `to 192.0.2.1 label 17 over mpls-over-udp` or `dropped: no-route: …`.
    pub verdict: String,
    /// Whether it arrives somewhere.
    pub forwarded: bool,
}

/// Hears what the pipeline does.
pub(crate) trait Recorder {
    /// One step. The line is made only where somebody listens.
    fn note(&mut self, line: impl FnOnce() -> String);
}

/// Nobody listens.
pub(crate) struct Silent;

impl Recorder for Silent {
    #[inline(always)]
    fn note(&mut self, _: impl FnOnce() -> String) {}
}

/// Keeps the lines.
struct Lines(Vec<String>);

impl Recorder for Lines {
    fn note(&mut self, line: impl FnOnce() -> String) {
        self.0.push(line());
    }
}

/// Traces a small UDP packet from `src` to `dst` in a VRF: from the local port that has `src`; where none has, from
/// the tunnel that leads to `src`, if `dst` is here.
pub fn trace(fib: &Fib, vrf: VrfId, src: IpAddr, dst: IpAddr) -> Trace {
    let refuse =
        |step: String, verdict: &str| Trace { steps: vec![step], verdict: verdict.into(), forwarded: false };
    let Some(bytes) = packet(src, dst) else {
        return refuse(format!("{src} and {dst} are of two families"), "dropped: not a packet");
    };
    if fib.vrf(vrf).is_none() {
        return refuse(format!("there is no VRF {vrf}"), "dropped: unknown-vrf");
    }
    if let Some(port) = port_with(fib, vrf, src) {
        return run_from_port(fib, port, mac_with(port, src), bytes);
    }
    match (port_with(fib, vrf, dst), remote(fib, vrf, src)) {
        (Some(port), Some(outer)) => run_from_underlay(fib, port, outer, bytes),
        _ => refuse(format!("no port of the VRF has {src}"), "dropped: spoofed-source"),
    }
}

fn run_from_port(fib: &Fib, port: &Port, mac: MacAddr, bytes: Vec<u8>) -> Trace {
    let ethertype = if bytes[0] >> 4 == 4 { [0x08, 0x00] } else { [0x86, 0xdd] };
    let mut frame = [&fib.gateway.mac.0[..], &mac.0, &ethertype, &bytes].concat();
    run(fib, |pipeline| pipeline.port_frame(port.id, &mut Frame::new(&mut frame, VnetHeader::NONE)))
}

fn run_from_underlay(fib: &Fib, port: &Port, outer: Outer, bytes: Vec<u8>) -> Trace {
    let label = fib.ilm.label_of(port.id).map_or([0, 0, 1], |label| label.to_nlri());
    let mut frame = [&label[..], &[64], &bytes].concat();
    run(fib, |pipeline| pipeline.tunnel_packet(outer, &mut Frame::new(&mut frame, VnetHeader::NONE)))
}

fn run(fib: &Fib, go: impl FnOnce(&mut Pipeline<'_, Lines>) -> Verdict) -> Trace {
    // Of its own: a trace uses up nobody's answers, and knows of no flow that the host began.
    let mut state = State::new(Arc::new(HostFlows::new(0, [0, 0])));
    let mut steps = Lines(Vec::new());
    let verdict = go(&mut Pipeline { fib, state: &mut state, steps: &mut steps });
    let forwarded = matches!(verdict, Verdict::ToPort(_) | Verdict::ToHost | Verdict::ToUnderlay(_));
    Trace { steps: steps.0, verdict: describe(fib, &state, verdict), forwarded }
}

fn describe(fib: &Fib, state: &State, verdict: Verdict) -> String {
    match verdict {
        Verdict::ToPort(port) => format!("to port {port}"),
        Verdict::ToHost => "to the host".into(),
        Verdict::ToUnderlay(push) => to_tunnel(fib, push),
        Verdict::Drop(reason) => format!("dropped: {reason}: {}", reason.description()),
        Verdict::Reply(to) => {
            let to = match to {
                ReplyTo::Port(port) => format!("to port {port}"),
                ReplyTo::Host => "to the host".into(),
                ReplyTo::Underlay(push) => to_tunnel(fib, push),
            };
            match state.reply.reason() {
                Some(reason) => {
                    format!("dropped: {reason}: {} An ICMP error goes {to}.", reason.description())
                }
                None => format!("answered {to}"),
            }
        }
    }
}

fn to_tunnel(fib: &Fib, push: Push) -> String {
    match fib.tunnel(push.tunnel) {
        Some(tunnel) => format!("to {} label {} over {}", tunnel.remote, push.label, tunnel.encap),
        None => format!("to a tunnel that is gone, label {}", push.label),
    }
}

fn port_with(fib: &Fib, vrf: VrfId, addr: IpAddr) -> Option<&Port> {
    let mut ports = fib.ports.iter().flatten().map(|port| &**port).filter(|port| port.vrf == vrf);
    ports.clone().find(|port| port.addresses.contains(&addr)).or_else(|| ports.find(|port| port.has(addr)))
}

/// The MAC address that the workload may send with from this address.
fn mac_with(port: &Port, src: IpAddr) -> MacAddr {
    let further = port.allowed.iter().filter_map(|(_, only)| *only);
    std::iter::once(port.mac).chain(further).find(|mac| port.may_send(src, *mac)).unwrap_or(port.mac)
}

/// The tunnel from which a packet of `src` would come.
fn remote(fib: &Fib, vrf: VrfId, src: IpAddr) -> Option<Outer> {
    match fib.vrf(vrf)?.routes.lookup(src)? {
        Route::Tunnel(hops) => {
            let tunnel = fib.tunnel(hops.first()?.tunnel)?;
            Some(Outer { src: tunnel.remote, encap: tunnel.encap, tos: 0 })
        }
        _ => None,
    }
}

/// A UDP packet as traceroute sends it, TTL 64.
fn packet(src: IpAddr, dst: IpAddr) -> Option<Vec<u8>> {
    let mut udp = [0x9c, 0x40, 0x82, 0x9a, 0, 8, 0, 0];
    let pseudo = checksum::pseudo_header(src, dst, UDP, udp.len());
    let sum = !checksum::fold(checksum::sum(&udp) + pseudo);
    udp[6..].copy_from_slice(&sum.to_be_bytes());
    let header = match (src, dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            let mut header = vec![0x45, 0, 0, 28, 0, 0, 0x40, 0, 64, UDP, 0, 0];
            header.extend(src.octets().into_iter().chain(dst.octets()));
            let sum = checksum::checksum(&header);
            header[10..12].copy_from_slice(&sum.to_be_bytes());
            header
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            let mut header = vec![0x60, 0, 0, 0, 0, 8, UDP, 64];
            header.extend(src.octets().into_iter().chain(dst.octets()));
            header
        }
        _ => return None,
    };
    Some([&header[..], &udp].concat())
}
