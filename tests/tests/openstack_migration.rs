//! Live migration: a machine is on two hypervisors for a while, and whoever sends to it from a third node never sends into
//! a black hole for longer than its new route takes to get there.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use vrouter_tests::fixture::{ASN, gateway, wait_routes};
use vrouter_tests::lab::underlay_v4;
use vrouter_tests::openstack::{Machine, Port, reaches, vpn_api, with_openstack};
use vrouter_tests::{AgentConfig, GoBgp, GoBgpPeer, Lab, Namespace, Node, PATIENCE, wait_until};

const DATA: u16 = 7_000;
/// Ten milliseconds between two datagrams.
const PACE: Duration = Duration::from_millis(10);

fn hypervisor(lab: &Lab, host: u8, gobgp: &GoBgp) -> Node {
    let config = AgentConfig::new(ASN).neighbor(gobgp.address());
    let node = Node::start(
        lab,
        &format!("hv-{host}"),
        host,
        &with_openstack(config, &lab.path(&format!("ports-{host}"))),
    );
    node.wait_established(gobgp.address());
    node
}

/// Hears numbered datagrams in a namespace until it is told to stop.
fn hear(namespace: &Namespace, stop: &Arc<AtomicBool>) -> thread::JoinHandle<BTreeSet<u32>> {
    let socket = namespace.run(|| UdpSocket::bind(("0.0.0.0", DATA))).unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    let stop = Arc::clone(stop);
    thread::spawn(move || {
        let (mut heard, mut buffer) = (BTreeSet::new(), [0; 64]);
        while !stop.load(Ordering::Relaxed) {
            match socket.recv(&mut buffer) {
                Ok(_) => drop(heard.insert(u32::from_be_bytes(buffer[..4].try_into().unwrap()))),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => thread::sleep(Duration::from_millis(10)),
            }
        }
        heard
    })
}

fn send(from: &Namespace, to: IpAddr, stop: &Arc<AtomicBool>) -> thread::JoinHandle<u32> {
    let socket = from.run(|| UdpSocket::bind(("0.0.0.0", 0))).unwrap();
    let stop = Arc::clone(stop);
    thread::spawn(move || {
        let mut number = 0_u32;
        while !stop.load(Ordering::Relaxed) {
            let _ = socket.send_to(&number.to_be_bytes(), SocketAddr::new(to, DATA));
            number += 1;
            thread::sleep(PACE);
        }
        number
    })
}

#[test]
fn a_machine_moves_to_another_hypervisor_and_back_while_a_third_node_sends_to_it() {
    let lab = Lab::new();
    let peers = [11, 12, 13].map(|host| GoBgpPeer::client(underlay_v4(host).into(), ASN));
    let gobgp = GoBgp::start(&lab, "gobgp", 1, ASN, &peers);
    let gateway = Node::start(&lab, "gw-11", 11, &gateway(11, &[1]));
    gateway.wait_established(gobgp.address());
    let (first, second) = (hypervisor(&lab, 12, &gobgp), hypervisor(&lab, 13, &gobgp));
    let pod = gateway.add_pod("sensor");
    let port = Port::new(7);
    let attach = port.attach("ipvpn-net", "4200000000:100");
    let plug = |node: &Node| drop(vpn_api(node.namespace(), "POST", "/attach_localport", Some(&attach)).ok());
    let unplug =
        |node: &Node| drop(vpn_api(node.namespace(), "POST", "/detach_localport", Some(&attach)).ok());
    let boot =
        |name, node: &Node| Machine::boot(name, node.namespace(), &port.tap, port.mac, &[port.ipv4.into()]);
    let goes_to = |node: &Node| {
        let hops = gateway.route("city", &format!("{}/32", port.ipv4));
        hops.len() == 1 && hops[0]["ip"] == node.address().to_string()
    };

    let here = boot("vm-a", &first);
    plug(&first);
    wait_routes(&gateway, &[port.ipv4.into()]);
    reaches(pod.namespace(), port.ipv4.into());
    // A machine that has just come gives way to any other; nobody else having it, it is ordinary soon.
    wait_until("the machine to be settled", PATIENCE, || {
        !gobgp.cli("global rib -a vpnv4").contains("Med: 200")
    });
    let stop = Arc::new(AtomicBool::new(false));
    let (sender, at_first) = (send(pod.namespace(), port.ipv4.into(), &stop), hear(&here.namespace, &stop));

    // Nova plugs the new tap long before the machine is there: nothing changes for whoever sends.
    let there = boot("vm-b", &second);
    there.set_up(false);
    let at_second = hear(&there.namespace, &stop);
    plug(&second);
    wait_until("the new node's route at the reflector", PATIENCE, || {
        gobgp.cli("global rib -a vpnv4").matches(&format!("{}/32", port.ipv4)).count() == 2
    });
    thread::sleep(Duration::from_secs(5));
    assert!(goes_to(&first), "{}", gateway.ctl(&["show", "routes"]));

    // The machine stops here, goes on there, and QEMU says so.
    here.set_up(false);
    there.set_up(true);
    there.announce();
    wait_until("traffic to go to the new node", PATIENCE, || goes_to(&second));
    wait_until("the old node to send there too", PATIENCE, || {
        let hops = first.route("ipvpn-net", &format!("{}/32", port.ipv4));
        hops.iter().any(|hop| hop["ip"] == second.address().to_string())
    });
    reaches(pod.namespace(), port.ipv4.into());
    unplug(&first);
    thread::sleep(Duration::from_millis(500));
    assert!(goes_to(&second));

    // And back.
    plug(&first);
    thread::sleep(Duration::from_millis(500));
    assert!(goes_to(&second), "where it is, it stays");
    there.set_up(false);
    here.set_up(true);
    here.announce();
    wait_until("traffic to go back", PATIENCE, || goes_to(&first));
    unplug(&second);
    reaches(pod.namespace(), port.ipv4.into());
    thread::sleep(Duration::from_millis(300));
    stop.store(true, Ordering::Relaxed);
    let sent = sender.join().unwrap();
    let heard: BTreeSet<u32> = at_first.join().unwrap().union(&at_second.join().unwrap()).copied().collect();
    let all: Vec<u32> = (0..sent).collect();
    let longest = all.split(|number| heard.contains(number)).map(<[u32]>::len).max().unwrap_or_default();
    let lost = all.len() - heard.len();
    eprintln!("{sent} sent, {lost} lost in two moves, at most {longest} in a row at one per {PACE:?}");
    assert!(heard.len() > all.len() / 2, "{lost} of {sent} lost");
}

#[test]
fn a_shared_address_is_where_it_was_announced_last() {
    let lab = Lab::new();
    let peers = [11, 12, 13].map(|host| GoBgpPeer::client(underlay_v4(host).into(), ASN));
    let gobgp = GoBgp::start(&lab, "gobgp", 1, ASN, &peers);
    let gateway = Node::start(&lab, "gw-11", 11, &gateway(11, &[1]));
    gateway.wait_established(gobgp.address());
    let nodes = [hypervisor(&lab, 12, &gobgp), hypervisor(&lab, 13, &gobgp)];
    let pod = gateway.add_pod("sensor");
    let shared: std::net::Ipv4Addr = "10.50.200.1".parse().unwrap();
    let machines = [7_u16, 8].map(|n| {
        let (port, node) = (Port::new(n), &nodes[usize::from(n - 7)]);
        let machine = Machine::boot(
            &format!("vm-{n}"),
            node.namespace(),
            &port.tap,
            port.mac,
            &[port.ipv4.into(), shared.into()],
        );
        let mut attach = port.attach("ipvpn-net", "4200000000:100");
        attach["allowed_address_pairs"] = serde_json::json!([{ "ip_address": shared.to_string() }]);
        vpn_api(node.namespace(), "POST", "/attach_localport", Some(&attach)).ok();
        machine
    });
    let is_at = |node: &Node| {
        let hops = gateway.route("city", &format!("{shared}/32"));
        hops.len() == 1 && hops[0]["ip"] == node.address().to_string()
    };
    for (machine, node) in [(&machines[0], &nodes[0]), (&machines[1], &nodes[1]), (&machines[0], &nodes[0])] {
        // A virtual router that takes over says so by gratuitous ARP.
        wait_until("the shared address to go there", PATIENCE, || {
            machine.announce_as(shared);
            is_at(node)
        });
        reaches(pod.namespace(), shared.into());
    }
    let told = gobgp.cli("global rib -a vpnv4");
    let lines: Vec<&str> = told.lines().filter(|line| line.contains(&format!(":{shared}/32 "))).collect();
    assert!(lines.iter().any(|line| line.contains("LocalPref: 100")), "the other stands by: {lines:#?}");
}
