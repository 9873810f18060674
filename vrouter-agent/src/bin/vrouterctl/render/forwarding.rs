use std::cmp::Reverse;
use std::fmt::Write as _;

use agent_api::{Drops, Labels, RouteNexthop, Routes, TrafficRates, Tunnels};

use vrouter_types::Prefix;

use crate::table::{Table, in_order, maybe, per_second};

/// `show routes`.
pub(crate) fn routes(reply: &Routes) -> String {
    let mut parts = Vec::new();
    for (vrf, routes) in &reply.vrfs {
        if routes.is_empty() {
            parts.push(format!("VRF {vrf} has no such routes.\n"));
            continue;
        }
        let mut table =
            Table::new(["Prefix", "Protocol", "Next Hop", ">Label", "Encapsulation", ">Port", "Interface"]);
        for (prefix, route) in in_order::<Prefix, _>(routes) {
            // Further next hops stand below the first, as FRR has it.
            let heads = std::iter::once((prefix.as_str(), route.protocol.as_str()))
                .chain(std::iter::repeat((" ", " ")));
            for ((prefix, protocol), nexthop) in heads.zip(&route.nexthops) {
                table.row(route_row(prefix, protocol, nexthop));
            }
            if route.nexthops.is_empty() {
                let discard =
                    RouteNexthop { port: None, interface: None, ip: None, label: None, encapsulation: None };
                table.row(route_row(prefix, &route.protocol, &discard));
            }
        }
        parts.push(format!("VRF {vrf}\n{}", table.render()));
    }
    if parts.is_empty() { "There are no VRFs.\n".to_owned() } else { parts.join("\n") }
}

fn route_row(prefix: &str, protocol: &str, nexthop: &RouteNexthop) -> [String; 7] {
    [
        prefix.to_owned(),
        protocol.to_owned(),
        maybe(nexthop.ip),
        maybe(nexthop.label),
        maybe(nexthop.encapsulation),
        maybe(nexthop.port),
        nexthop.interface.clone().unwrap_or_default(),
    ]
}

/// `show labels`.
pub(crate) fn labels(reply: &Labels) -> String {
    if reply.labels.is_empty() {
        return "No labels are in use or resting.\n".to_owned();
    }
    let mut table = Table::new([">Label", "State", ">Port", "VRF", "Interface"]);
    for label in &reply.labels {
        table.row([
            label.label.to_string(),
            label.state.clone(),
            maybe(label.port),
            label.vrf.clone().unwrap_or_default(),
            label.interface.clone().unwrap_or_default(),
        ]);
    }
    table.render()
}

/// `show tunnels`.
pub(crate) fn tunnels(reply: &Tunnels) -> String {
    let mut text = match (&reply.local, &reply.interface) {
        (Some(local), Some(interface)) => {
            format!("Tunnel source {local} on {interface}, underlay MTU {}\n", reply.underlay_mtu)
        }
        (Some(local), None) => format!("Tunnel source {local}, underlay MTU {}\n", reply.underlay_mtu),
        (None, _) => {
            "There is no tunnel source: the underlay's address is on no interface that is up.\n".to_owned()
        }
    };
    for offload in &reply.offloads {
        let _ = writeln!(text, "  {offload}");
    }
    text.push('\n');
    if reply.tunnels.is_empty() {
        text.push_str("There are no tunnels: no route leads to another provider edge.\n");
        return text;
    }
    let mut table = Table::new([
        "Remote",
        "Encapsulation",
        ">MTU",
        ">Routes",
        ">Packets Sent",
        ">Octets Sent",
        ">Packets/s",
        ">Bit/s",
        ">Packets Received",
        ">Octets Received",
        ">Packets/s",
        ">Bit/s",
        ">Too Big",
    ]);
    for tunnel in &reply.tunnels {
        let rate = |of: fn(&TrafficRates) -> f64| maybe(tunnel.rates.as_ref().map(|it| per_second(of(it))));
        table.row([
            tunnel.remote.to_string(),
            tunnel.encapsulation.to_string(),
            tunnel.mtu.to_string(),
            tunnel.routes.to_string(),
            tunnel.tx_packets.to_string(),
            tunnel.tx_bytes.to_string(),
            rate(|rates| rates.tx_packets_per_second),
            rate(|rates| rates.tx_bits_per_second),
            tunnel.rx_packets.to_string(),
            tunnel.rx_bytes.to_string(),
            rate(|rates| rates.rx_packets_per_second),
            rate(|rates| rates.rx_bits_per_second),
            tunnel.too_big.to_string(),
        ]);
    }
    text.push_str(&table.render());
    text
}

/// `show drops`: what happened, the most frequent first.
pub(crate) fn drops(reply: &Drops) -> String {
    render_drops(reply, false)
}

/// `show drops --all`.
pub(crate) fn drops_all(reply: &Drops) -> String {
    render_drops(reply, true)
}

fn render_drops(reply: &Drops, all: bool) -> String {
    let mut reasons: Vec<_> = reply.drops.iter().filter(|(_, count)| all || count.packets > 0).collect();
    if reasons.is_empty() {
        return "No packets were dropped.\n".to_owned();
    }
    reasons.sort_by_key(|(_, count)| Reverse(count.packets));
    let mut table = Table::new(["Reason", ">Packets", ">Per Second", "Description"]);
    for (reason, count) in reasons {
        let rate = maybe(count.packets_per_second.map(per_second));
        table.row([reason.clone(), count.packets.to_string(), rate, count.description.clone()]);
    }
    let mut text = table.render();
    let mut ports = Table::new([">Port", "Reason", ">Packets", ">Per Second"]);
    for (port, reasons) in &reply.ports {
        let mut reasons: Vec<_> = reasons.iter().collect();
        reasons.sort_by_key(|(_, packets)| Reverse(**packets));
        for (reason, packets) in reasons {
            let rate = reply.port_rates.get(port).and_then(|rates| rates.get(reason).copied());
            ports.row([port.to_string(), reason.clone(), packets.to_string(), maybe(rate.map(per_second))]);
        }
    }
    if !ports.is_empty() {
        let _ = write!(text, "\n{}", ports.render());
    }
    text
}

#[cfg(test)]
mod tests {
    use agent_api::{DropCount, LabelUse, TunnelStatus, VrfRoute};
    use vrouter_types::{Encap, Label, PortId};

    use super::*;

    fn label(value: u32) -> Label {
        Label::new(value).unwrap()
    }

    fn remote(ip: &str, value: u32) -> RouteNexthop {
        RouteNexthop {
            port: None,
            interface: None,
            ip: Some(ip.parse().unwrap()),
            label: Some(label(value)),
            encapsulation: Some(Encap::MplsOverUdp),
        }
    }

    #[test]
    fn routes_stand_under_their_vrf_and_paths_under_their_route() {
        let port = RouteNexthop {
            port: Some(PortId(3)),
            interface: Some("vr01".into()),
            ip: None,
            label: None,
            encapsulation: None,
        };
        let local = VrfRoute { protocol: "local".into(), nexthops: vec![port] };
        let shared = VrfRoute {
            protocol: "bgp".into(),
            nexthops: vec![remote("192.0.2.1", 17), remote("192.0.2.2", 1000)],
        };
        let gone = VrfRoute { protocol: "connected".into(), nexthops: vec![] };
        let routes_of_a = [
            ("10.20.11.0/24".to_owned(), gone),
            ("10.20.11.2/32".to_owned(), local),
            ("10.30.0.0/16".to_owned(), shared),
        ];
        let reply =
            Routes { vrfs: [("a".to_owned(), routes_of_a.into()), ("b".to_owned(), [].into())].into() };
        let expected = "\
VRF a
Prefix         Protocol   Next Hop   Label  Encapsulation  Port  Interface
10.20.11.0/24  connected  -              -  -                 -  -
10.20.11.2/32  local      -              -  -                 3  vr01
10.30.0.0/16   bgp        192.0.2.1     17  mpls-over-udp     -  -
                          192.0.2.2   1000  mpls-over-udp     -  -

VRF b has no such routes.
";
        assert_eq!(routes(&reply), expected);
        assert_eq!(routes(&Routes { vrfs: [].into() }), "There are no VRFs.\n");
    }

    #[test]
    fn labels_show_who_has_them() {
        let used = LabelUse {
            label: label(16),
            state: "in use".into(),
            port: Some(PortId(0)),
            vrf: Some("a".into()),
            interface: Some("vr01".into()),
        };
        let resting =
            LabelUse { label: label(17), state: "resting".into(), port: None, vrf: None, interface: None };
        let expected = "Label  State    Port  VRF  Interface\n   16  in use      0  a    vr01\n   17  resting     -  -    -\n";
        assert_eq!(labels(&Labels { labels: vec![used, resting] }), expected);
        assert_eq!(labels(&Labels { labels: vec![] }), "No labels are in use or resting.\n");
    }

    #[test]
    fn tunnels_begin_with_our_end() {
        let tunnel = TunnelStatus {
            remote: "192.0.2.1".parse().unwrap(),
            encapsulation: Encap::MplsOverGre,
            mtu: 1472,
            routes: 3,
            tx_packets: 10,
            tx_bytes: 1000,
            rx_packets: 9,
            rx_bytes: 900,
            too_big: 2,
            rates: Some(TrafficRates { tx_packets_per_second: 1.5, ..TrafficRates::default() }),
        };
        let mut reply = Tunnels {
            local: Some("192.0.2.11".parse().unwrap()),
            interface: Some("eth0".into()),
            underlay_mtu: 1500,
            offloads: vec!["UDP segmentation offload".into()],
            tunnels: vec![tunnel],
        };
        let expected = "\
Tunnel source 192.0.2.11 on eth0, underlay MTU 1500
  UDP segmentation offload

Remote     Encapsulation   MTU  Routes  Packets Sent  Octets Sent  Packets/s  Bit/s  Packets Received  Octets Received  Packets/s  Bit/s  Too Big
192.0.2.1  mpls-over-gre  1472       3            10         1000        1.5      0                 9              900          0      0        2
";
        assert_eq!(tunnels(&reply), expected);
        reply = Tunnels { local: None, interface: None, offloads: vec![], tunnels: vec![], ..reply };
        let empty = tunnels(&reply);
        assert!(
            empty.contains("There is no tunnel source") && empty.contains("There are no tunnels"),
            "{empty}"
        );
    }

    #[test]
    fn drops_that_happened_come_first_and_others_on_demand() {
        let count = |packets, description: &str| DropCount {
            description: description.into(),
            packets,
            packets_per_second: (packets > 50).then_some(2.5),
        };
        let mut reply = Drops {
            drops: [
                ("no-route".to_owned(), count(7, "no route in the VRF")),
                ("spoofed-source".to_owned(), count(90, "the source is not the port's")),
                ("truncated".to_owned(), count(0, "shorter than its headers say")),
            ]
            .into(),
            ports: [(3, [("no-route".to_owned(), 7), ("spoofed-source".to_owned(), 90)].into())].into(),
            port_rates: [(3, [("no-route".to_owned(), 0.1)].into())].into(),
        };
        let table = "\
Reason          Packets  Per Second  Description
spoofed-source       90         2.5  the source is not the port's
no-route              7           -  no route in the VRF
";
        let per_port = "
Port  Reason          Packets  Per Second
   3  spoofed-source       90           -
   3  no-route              7         0.1
";
        assert_eq!(drops(&reply), format!("{table}{per_port}"));
        assert!(
            drops_all(&reply).contains("truncated             0           -  shorter than its headers say\n")
        );
        reply.ports.clear();
        reply.drops.retain(|_, count| count.packets == 0);
        assert_eq!(drops(&reply), "No packets were dropped.\n");
    }
}
