use std::fmt::Write as _;

use agent_api::{AttachedPort, DetachedPort, PortStatus, Ports};

use crate::table::{Table, list, maybe, per_second};

/// `show ports`.
pub(crate) fn ports(reply: &Ports) -> String {
    if reply.ports.is_empty() {
        return format!("There are no ports.\n{}", waiting(reply));
    }
    let mut table = Table::new([">Port", "Interface", "VRF", ">Label", "MAC", "Addresses", "Name", "State"]);
    for port in &reply.ports {
        table.row([
            port.port.to_string(),
            interface(port),
            port.vrf.clone(),
            port.label.to_string(),
            port.mac.to_string(),
            list(&port.addresses),
            full_name(port),
            port.state.clone(),
        ]);
    }
    let mut text = format!("{}\n{}", table.render(), traffic(reply));
    text.push_str(&served(reply));
    text.push_str(&reach(reply));
    text.push_str(&waiting(reply));
    let hidden: Vec<String> = reply.ports.iter().filter_map(hidden_from_host).collect();
    if !hidden.is_empty() {
        text.push('\n');
        text.extend(hidden);
    }
    text
}

/// Taps that nova has plugged and that have no port, a line each.
fn waiting(reply: &Ports) -> String {
    let mut table = Table::new(["Tap", "Waits"]);
    for tap in &reply.waiting {
        table.row([tap.interface.clone(), tap.reason.clone()]);
    }
    if table.is_empty() { String::new() } else { format!("\n{}", table.render()) }
}

/// Ports with security groups or floating addresses, a line each.
fn reach(reply: &Ports) -> String {
    let mut table = Table::new([">Port", "Security groups", "Floating addresses"]);
    let with = |port: &&PortStatus| port.security_groups.is_some() || !port.floating_ips.is_empty();
    for port in reply.ports.iter().filter(with) {
        let groups = match &port.security_groups {
            None => String::new(),
            Some(groups) if groups.is_empty() => "none: nothing may pass".to_owned(),
            Some(groups) => list(groups),
        };
        let floating =
            port.floating_ips.iter().map(|ip| format!("{} in {} for {}", ip.address, ip.vrf, ip.fixed));
        table.row([port.port.to_string(), groups, list(floating)]);
    }
    if table.is_empty() { String::new() } else { format!("\n{}", table.render()) }
}

/// A sub-port's name is its tap's with the tag, as Linux writes it.
fn interface(port: &PortStatus) -> String {
    let name = &port.host_interface;
    port.vlan.map_or_else(|| name.clone(), |vlan| format!("{name}.{vlan}"))
}

/// Counters and rates, a line per port.
fn traffic(reply: &Ports) -> String {
    let mut table = Table::new([
        ">Port",
        ">Received",
        ">Octets",
        ">Packets/s",
        ">Bit/s",
        ">Sent",
        ">Octets",
        ">Packets/s",
        ">Bit/s",
        ">Drops",
        ">Drops/s",
    ]);
    for port in &reply.ports {
        let (counters, rates) = (&port.counters, port.rates.as_ref());
        table.row([
            port.port.to_string(),
            counters.rx_packets.to_string(),
            counters.rx_bytes.to_string(),
            maybe(rates.map(|rates| per_second(rates.rx_packets_per_second))),
            maybe(rates.map(|rates| per_second(rates.rx_bits_per_second))),
            counters.tx_packets.to_string(),
            counters.tx_bytes.to_string(),
            maybe(rates.map(|rates| per_second(rates.tx_packets_per_second))),
            maybe(rates.map(|rates| per_second(rates.tx_bits_per_second))),
            counters.drops.to_string(),
            maybe(rates.map(|rates| per_second(rates.drops_per_second))),
        ]);
    }
    table.render()
}

fn full_name(port: &PortStatus) -> String {
    let name = port.name.clone().unwrap_or_default();
    match &port.namespace {
        Some(namespace) => format!("{namespace}/{name}"),
        None => name,
    }
}

/// What virtual machines were served, where any was.
fn served(reply: &Ports) -> String {
    let mut table = Table::new([">Port", "Interface", ">DHCP", ">DHCPv6", ">Router advertisements"]);
    let machines = reply.ports.iter().filter(|port| !port.counters.served.is_nothing());
    for port in machines.clone() {
        let served = port.counters.served;
        table.row([
            port.port.to_string(),
            interface(port),
            served.dhcp.to_string(),
            served.dhcp6.to_string(),
            served.router_advertisement.to_string(),
        ]);
    }
    if machines.count() == 0 { String::new() } else { format!("\n{}", table.render()) }
}

/// Tenants may use the same addresses; the host can reach one of them.
fn hidden_from_host(port: &PortStatus) -> Option<String> {
    let hidden: Vec<_> = port.addresses.iter().filter(|a| !port.host_reachable.contains(a)).collect();
    let note = format!(
        "The host does not reach {} of port {} (VRF {}): no host route, or another VRF's port has it.\n",
        list(&hidden),
        port.port,
        port.vrf
    );
    (!hidden.is_empty()).then_some(note)
}

/// `port add`.
pub(crate) fn attached(interface: &str, reply: &AttachedPort) -> String {
    let mut text = format!(
        "{interface} is port {} in VRF {}, label {}, MTU {}\n",
        reply.port, reply.vrf, reply.label, reply.mtu
    );
    let _ = writeln!(
        text,
        "Addresses {}; gateways {} and {} at {}",
        list(&reply.addresses),
        reply.gateway4,
        reply.gateway6,
        reply.gateway_mac
    );
    if let Some(why) = &reply.waits {
        let _ = writeln!(text, "It waits: {why}. It forwards as soon as {interface} appears");
    }
    text
}

/// `port delete`.
pub(crate) fn detached(interface: &str, reply: &DetachedPort) -> String {
    if reply.existed {
        format!("{interface} is no port any more\n")
    } else {
        format!("{interface} was no port\n")
    }
}

#[cfg(test)]
mod tests {
    use agent_api::{PortCounters, PortKey, PortKind, TrafficRates};
    use vrouter_types::{Label, MacAddr, PortId};

    use super::*;

    fn port(number: u32, interface: &str, vrf: &str, addresses: &[&str]) -> PortStatus {
        let addresses: Vec<_> = addresses.iter().map(|address| address.parse().unwrap()).collect();
        PortStatus {
            port: PortId(number),
            key: PortKey { container: "c".into(), interface: "eth0".into() },
            kind: PortKind::Pod,
            host_interface: interface.into(),
            vlan: None,
            name: Some("sensor".into()),
            namespace: Some("city-1".into()),
            vrf: vrf.into(),
            label: Label::new(16 + number).unwrap(),
            mac: "02:00:00:00:00:01".parse().unwrap(),
            host_reachable: addresses.clone(),
            addresses,
            security_groups: None,
            floating_ips: Vec::new(),
            state: "up".into(),
            counters: PortCounters {
                rx_packets: 10,
                tx_packets: 2_000_000,
                drops: 1,
                ..PortCounters::default()
            },
            rates: None,
        }
    }

    #[test]
    fn ports_are_aligned_and_shared_addresses_are_told() {
        let mut other = port(10, "tap0", "tenant-b", &["10.0.0.2", "fd00::2"]);
        other.namespace = None;
        other.name = None;
        other.host_reachable.remove(0);
        other.rates = Some(TrafficRates {
            rx_packets_per_second: 0.5,
            rx_bits_per_second: 4_200_000.0,
            tx_packets_per_second: 12.0,
            ..TrafficRates::default()
        });
        let reply =
            Ports { ports: vec![port(0, "vr0a1b2c3d4e5f6", "smart", &["10.0.0.2"]), other], waiting: vec![] };
        let expected = "\
Port  Interface        VRF       Label  MAC                Addresses          Name           State
   0  vr0a1b2c3d4e5f6  smart        16  02:00:00:00:00:01  10.0.0.2           city-1/sensor  up
  10  tap0             tenant-b     26  02:00:00:00:00:01  10.0.0.2, fd00::2  -              up

Port  Received  Octets  Packets/s  Bit/s     Sent  Octets  Packets/s  Bit/s  Drops  Drops/s
   0        10       0          -      -  2000000       0          -      -      1        -
  10        10       0        0.5   4.2M  2000000       0         12      0      1        0

The host does not reach 10.0.0.2 of port 10 (VRF tenant-b): no host route, or another VRF's port has it.
";
        assert_eq!(ports(&reply), expected);
        assert_eq!(ports(&Ports { ports: vec![], waiting: vec![] }), "There are no ports.\n");
    }

    #[test]
    fn sub_ports_show_their_tag_and_machines_what_they_were_served() {
        let mut machine = port(3, "tap0", "smart", &["10.0.0.2"]);
        machine.vlan = Some(101);
        machine.counters.served.dhcp = 4;
        let text =
            ports(&Ports { ports: vec![machine, port(4, "veth1", "smart", &["10.0.0.3"])], waiting: vec![] });
        let served = "\nPort  Interface  DHCP  DHCPv6  Router advertisements\n   3  tap0.101      4       0                      0\n";
        assert!(text.contains(served), "{text}");
    }

    #[test]
    fn attach_and_detach_answer_in_sentences() {
        let reply = AttachedPort {
            port: PortId(3),
            vrf: "smart".into(),
            label: Label::new(19).unwrap(),
            addresses: vec!["10.0.0.9".parse().unwrap(), "fd00::9".parse().unwrap()],
            mtu: 1468,
            superframe: None,
            gateway4: "169.254.1.1".parse().unwrap(),
            gateway6: "fe80::1".parse().unwrap(),
            gateway_mac: MacAddr::GATEWAY,
            waits: None,
        };
        let expected = "tap0 is port 3 in VRF smart, label 19, MTU 1468\n\
                        Addresses 10.0.0.9, fd00::9; gateways 169.254.1.1 and fe80::1 at 00:00:5e:00:01:00\n";
        assert_eq!(attached("tap0", &reply), expected);
        let waits = AttachedPort { waits: Some("there is no interface tap0".into()), ..reply };
        let more = "It waits: there is no interface tap0. It forwards as soon as tap0 appears\n";
        assert_eq!(attached("tap0", &waits), format!("{expected}{more}"));
        let gone = |existed| detached("tap0", &DetachedPort { existed, host_interface: None });
        assert_eq!(gone(true), "tap0 is no port any more\n");
        assert_eq!(gone(false), "tap0 was no port\n");
    }
}
