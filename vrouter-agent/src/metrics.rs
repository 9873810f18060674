//! State as Prometheus reads it (text exposition format 0.0.4).
//!
//! BGP has the names and labels of `frr_exporter` (`frr_bgp_peer_state` is 1 for an established session), and messages
//! by type have those of GoBGP (`bgp_received_update_total`), so that dashboards made for these show something. What
//! neither knows begins with `vrouter_`. One family after the other, each sample once: who adds a label adds it to all
//! samples of the family.

mod dataplane;

use std::fmt::{Display, Write as _};
use std::net::IpAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ::dataplane::{PortCounters, TunnelCounters};
use bgp_peer::{MessageCounts, NeighborView, SpeakerSummary, State};
use dataplane_core::DropReason;
use vrouter_types::{Encap, PortId};

use crate::labels::LabelUse;
use crate::memory::Usage;
use crate::overlay::{Overlay, Port, Tunnel};

pub use dataplane::Workings;

/// What the metrics are made of. Counters come in as functions, so that all of this can be tested without a socket.
pub struct Sources<'a> {
    /// The desired state.
    pub overlay: &'a Overlay,
    /// BGP's own counts.
    pub speaker: &'a SpeakerSummary,
    /// How many octets the RIB takes.
    pub rib_bytes: usize,
    /// Since when the agent runs.
    pub uptime: Duration,
    /// The process's memory.
    pub usage: Usage,
    /// A port's counters.
    pub port: &'a dyn Fn(PortId) -> PortCounters,
    /// A tunnel's counters.
    pub tunnel: &'a dyn Fn(IpAddr, Encap) -> TunnelCounters,
    /// All drops by reason.
    pub drops: Vec<(DropReason, u64)>,
    /// What the dataplane says of itself.
    pub workings: Workings<'a>,
}

/// The whole page.
pub fn render(sources: &Sources<'_>) -> String {
    let mut page = Page::default();
    agent(&mut page, sources);
    ports(&mut page, sources);
    tunnels(&mut page, sources);
    dataplane::dataplane(&mut page, sources);
    bgp(&mut page, sources.speaker, sources.rib_bytes);
    messages(&mut page, &sources.speaker.neighbors);
    page.0
}

fn agent(page: &mut Page, sources: &Sources<'_>) {
    let (overlay, usage) = (sources.overlay, sources.usage);
    page.family("vrouter_build_info", "gauge", "The agent's version; always 1");
    let name = overlay.config().name.as_str();
    page.sample("vrouter_build_info", &[("version", env!("CARGO_PKG_VERSION")), ("node", name)], 1);
    let started =
        SystemTime::now().checked_sub(sources.uptime).and_then(|at| at.duration_since(UNIX_EPOCH).ok());
    let started = started.unwrap_or_default().as_secs();
    page.single("process_start_time_seconds", "gauge", "When the agent started, since 1970", started);
    page.single("process_resident_memory_bytes", "gauge", "Resident memory of the agent", usage.rss);
    page.single(
        "vrouter_problems",
        "gauge",
        "What is wrong; vrouterctl status says it",
        overlay.problems().len(),
    );
    page.family("vrouter_ports", "gauge", "Ports of pods and VMs");
    let up = overlay.ports().filter(|port| port.is_up()).count();
    page.sample("vrouter_ports", &[("state", "up")], up);
    page.sample("vrouter_ports", &[("state", "waiting")], overlay.ports().count() - up);
    page.family("vrouter_labels", "gauge", "Labels of ours");
    let used = overlay.labels().filter(|(_, used)| matches!(used, LabelUse::InUse(_))).count();
    page.sample("vrouter_labels", &[("state", "in-use")], used);
    page.sample("vrouter_labels", &[("state", "resting")], overlay.labels().count() - used);
    page.family("vrouter_vrf_routes", "gauge", "Routes as they forward");
    for vrf in overlay.vrfs() {
        page.sample("vrouter_vrf_routes", &[("vrf", &vrf.config.name)], overlay.routes(vrf.id).count());
    }
    let help = "Routes of the last run that no neighbor has confirmed";
    page.single("vrouter_stale_routes", "gauge", help, overlay.stale_routes());
    page.family(
        "vrouter_drops_total",
        "counter",
        "Dropped packets by reason; vrouterctl show drops explains them",
    );
    for (reason, packets) in &sources.drops {
        page.sample("vrouter_drops_total", &[("reason", reason.name())], packets);
    }
}

fn ports(page: &mut Page, sources: &Sources<'_>) {
    type Read = fn(&PortCounters) -> u64;
    let all: Vec<(&Port, PortCounters)> =
        sources.overlay.ports().map(|port| (port, (sources.port)(port.saved.port))).collect();
    let families: [(&str, &str, Read); 5] = [
        ("vrouter_port_receive_packets_total", "Packets that the workload sent", |c| c.rx_packets),
        ("vrouter_port_receive_bytes_total", "Octets that the workload sent", |c| c.rx_bytes),
        ("vrouter_port_transmit_packets_total", "Packets that the workload was sent", |c| c.tx_packets),
        ("vrouter_port_transmit_bytes_total", "Octets that the workload was sent", |c| c.tx_bytes),
        ("vrouter_port_drops_total", "Packets from or to the workload that were dropped", |c| c.dropped),
    ];
    for (name, help, read) in families {
        page.family(name, "counter", help);
        for (port, counters) in &all {
            let (id, request) = (port.saved.port.to_string(), &port.saved.request);
            let labels = [
                ("port", id.as_str()),
                ("interface", request.host_interface.as_str()),
                ("vrf", port.saved.vrf.as_str()),
                ("namespace", request.namespace.as_deref().unwrap_or_default()),
                ("pod", request.name.as_deref().unwrap_or_default()),
            ];
            page.sample(name, &labels, read(counters));
        }
    }
}

fn tunnels(page: &mut Page, sources: &Sources<'_>) {
    type Read = fn(&Tunnel, &TunnelCounters) -> u64;
    let tunnels = sources.overlay.tunnels();
    let all: Vec<(Tunnel, TunnelCounters)> =
        tunnels.map(|tunnel| (tunnel, (sources.tunnel)(tunnel.remote, tunnel.encap))).collect();
    let families: [(&str, &str, &str, Read); 7] = [
        ("vrouter_tunnel_receive_packets_total", "counter", "Inner packets received", |_, c| c.rx_packets),
        ("vrouter_tunnel_receive_bytes_total", "counter", "Inner octets received", |_, c| c.rx_bytes),
        ("vrouter_tunnel_transmit_packets_total", "counter", "Inner packets sent", |_, c| c.tx_packets),
        ("vrouter_tunnel_transmit_bytes_total", "counter", "Inner octets sent", |_, c| c.tx_bytes),
        ("vrouter_tunnel_too_big_total", "counter", "Packets that the path's MTU refused", |_, c| c.too_big),
        ("vrouter_tunnel_mtu_bytes", "gauge", "The largest inner packet", |t, c| {
            c.path_mtu.map_or(t.mtu, |path| path.min(t.mtu)).into()
        }),
        ("vrouter_tunnel_routes", "gauge", "Routes that lead through the tunnel", |t, _| {
            u64::try_from(t.routes).unwrap_or(u64::MAX)
        }),
    ];
    for (name, kind, help, read) in families {
        page.family(name, kind, help);
        for (tunnel, counters) in &all {
            let (remote, encap) = (tunnel.remote.to_string(), tunnel.encap.to_string());
            page.sample(name, &[("remote", &remote), ("encapsulation", &encap)], read(tunnel, counters));
        }
    }
}

/// As `frr_exporter` has it. A session here carries VPNv4 and VPNv6 together, so `afi` is `all`.
fn bgp(page: &mut Page, speaker: &SpeakerSummary, rib_bytes: usize) {
    type Read = fn(&NeighborView) -> u64;
    let local_as = speaker.asn.to_string();
    let common = [("vrf", "default"), ("afi", "all"), ("safi", "vpn"), ("local_as", local_as.as_str())];
    page.family("frr_bgp_peers_count_total", "gauge", "Number of neighbors configured");
    page.sample("frr_bgp_peers_count_total", &common, speaker.neighbors.len());
    page.family("frr_bgp_rib_count_total", "gauge", "Number of VPN routes held");
    page.sample("frr_bgp_rib_count_total", &common, speaker.routes);
    page.family("frr_bgp_rib_memory_bytes", "gauge", "Memory that the RIB takes");
    page.sample("frr_bgp_rib_memory_bytes", &common, rib_bytes);
    let families: [(&str, &str, &str, Read); 11] = [
        ("frr_bgp_peer_state", "gauge", "State of the session (1 = Established, 0 = down)", |v| {
            u64::from(v.state == State::Established)
        }),
        ("frr_bgp_peer_uptime_seconds", "gauge", "How long the session is up; 0: it is not", |v| {
            if v.state == State::Established { v.uptime.as_secs() } else { 0 }
        }),
        ("frr_bgp_peer_message_received_total", "counter", "Messages received", |v| v.received.messages()),
        ("frr_bgp_peer_message_sent_total", "counter", "Messages sent", |v| v.sent.messages()),
        ("frr_bgp_peer_prefixes_received_count_total", "gauge", "VPN routes held from the neighbor", |v| {
            v.routes.received as u64
        }),
        ("frr_bgp_peer_prefixes_advertised_count_total", "gauge", "VPN routes it has been told", |v| {
            v.routes.advertised as u64
        }),
        ("vrouter_bgp_peer_received_bytes_total", "counter", "Octets of messages received", |v| {
            v.received.bytes
        }),
        ("vrouter_bgp_peer_sent_bytes_total", "counter", "Octets of messages sent", |v| v.sent.bytes),
        ("vrouter_bgp_peer_established_total", "counter", "Times a session was established", |v| {
            v.connections_established
        }),
        ("vrouter_bgp_peer_dropped_total", "counter", "Times an established session was lost", |v| {
            v.connections_dropped
        }),
        (
            "vrouter_bgp_peer_updates_malformed",
            "gauge",
            "Malformed UPDATEs of this session (RFC 7606)",
            |v| v.routes.updates_malformed,
        ),
    ];
    for (name, kind, help, read) in families {
        page.family(name, kind, help);
        for view in &speaker.neighbors {
            let (peer, peer_as) = (view.address.to_string(), view.asn.to_string());
            let mut labels = common.to_vec();
            labels.extend([("peer", peer.as_str()), ("peer_as", peer_as.as_str())]);
            page.sample(name, &labels, read(view));
        }
    }
}

/// As GoBGP has it: one family per direction and type of message.
fn messages(page: &mut Page, neighbors: &[NeighborView]) {
    type Read = fn(&MessageCounts) -> u64;
    let types: [(&str, Read); 5] = [
        ("open", |c| c.opens),
        ("update", |c| c.updates),
        ("keepalive", |c| c.keepalives),
        ("notification", |c| c.notifications),
        ("refresh", |c| c.route_refreshes),
    ];
    for direction in ["received", "sent"] {
        for (kind, read) in types {
            let name = format!("bgp_{direction}_{kind}_total");
            page.family(&name, "counter", &format!("BGP {kind} messages {direction}"));
            for view in neighbors {
                let counts = if direction == "sent" { &view.sent } else { &view.received };
                page.sample(&name, &[("peer", &view.address.to_string())], read(counts));
            }
        }
    }
}

/// The page under construction.
#[derive(Default)]
struct Page(String);

impl Page {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        // Writing to a String cannot fail.
        let _ = write!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl Display) {
        self.0.push_str(name);
        for (index, (label, text)) in labels.iter().enumerate() {
            let _ = write!(self.0, "{}{label}=\"", if index == 0 { '{' } else { ',' });
            text.chars().for_each(|letter| match letter {
                '\\' => self.0.push_str("\\\\"),
                '"' => self.0.push_str("\\\""),
                '\n' => self.0.push_str("\\n"),
                letter => self.0.push(letter),
            });
            self.0.push('"');
        }
        let _ = writeln!(self.0, "{} {value}", if labels.is_empty() { "" } else { "}" });
    }

    fn single(&mut self, name: &str, kind: &str, help: &str, value: impl Display) {
        self.family(name, kind, help);
        self.sample(name, &[], value);
    }
}

#[cfg(test)]
mod tests;
