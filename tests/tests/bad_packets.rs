//! Tunnel packets that no sane provider edge sends: each moves exactly the counter that names its fault, and nothing
//! else.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use vrouter_tests::fixture::{ASN, city};
use vrouter_tests::packets::{
    gre, ip_packet, labelled, send_gre, send_mpls_over_udp, stack_entry, udp_packet,
};
use vrouter_tests::{AgentConfig, Answer, Lab, Namespace, Node, PATIENCE, Pod, Probe, ask_udp, wait_for};

/// A node with a pod, and a provider edge that we script, which it accepts packets from.
struct Scene {
    node: Node,
    pod: Pod,
    label: u32,
    edge: Namespace,
    stranger: Namespace,
}

fn scene(lab: &Lab) -> Scene {
    let config = AgentConfig::new(ASN).vrf(&city(11)).accept_from("192.0.2.1/32");
    let node = Node::start(lab, "gw-11", 11, &config);
    let pod = node.add_pod("pod");
    let ports = node.ctl_json(&["show", "ports"]);
    let label = ports["ports"][0]["label"].as_u64().and_then(|label| label.try_into().ok()).expect("a label");
    let (edge, stranger) = (lab.site("edge", 1), lab.site("stranger", 66));
    Scene { node, pod, label, edge, stranger }
}

fn only(reason: &str) -> BTreeMap<String, u64> {
    BTreeMap::from([(reason.to_owned(), 1)])
}

/// Payloads behind the UDP or GRE header, and the counter that each must move.
fn bad_labelled(scene: &Scene) -> Vec<(&'static str, Vec<u8>, &'static str)> {
    let (from, pod) = (IpAddr::from([10, 99, 0, 1]), IpAddr::from(scene.pod.v4()));
    let (from6, pod6) = ("fd00:99::1".parse().unwrap(), IpAddr::from(scene.pod.v6()));
    let label = scene.label;
    let good = udp_packet(SocketAddr::new(from, 9), SocketAddr::new(pod, 9), 64, b"good");
    let good6 = udp_packet(SocketAddr::new(from6, 9), SocketAddr::new(pod6, 9), 64, b"good");
    let changed = |packet: &[u8], change: &dyn Fn(&mut Vec<u8>)| {
        let mut packet = packet.to_vec();
        change(&mut packet);
        labelled(label, 64, &packet)
    };
    let stack = [&stack_entry(label, false, 64)[..], &labelled(label, 64, &good)].concat();
    vec![
        ("three octets of a label", stack_entry(label, true, 64)[..3].to_vec(), "truncated-label"),
        ("a label and nothing behind it", stack_entry(label, true, 64).to_vec(), "truncated-ip"),
        ("half an IPv4 header", labelled(label, 64, &good[..12]), "truncated-ip"),
        ("half an IPv6 header", labelled(label, 64, &good6[..30]), "truncated-ip"),
        ("a label that nobody has", labelled(1_000_000, 64, &good), "unknown-label"),
        ("explicit null", labelled(0, 64, &good), "reserved-label"),
        ("two labels", stack, "label-stack"),
        ("a label with TTL zero", labelled(label, 0, &good), "label-ttl"),
        ("IP version 7", changed(&good, &|packet| packet[0] = 0x75), "bad-ip-version"),
        (
            "a total length beyond the packet",
            changed(&good, &|packet| packet[2..4].fill(0x7f)),
            "bad-ip-length",
        ),
        (
            "a total length within the header",
            changed(&good, &|packet| packet[2..4].copy_from_slice(&[0, 19])),
            "bad-ip-length",
        ),
        ("a header length of four words", changed(&good, &|packet| packet[0] = 0x44), "bad-ip-header"),
        (
            "a payload length beyond the packet",
            changed(&good6, &|packet| packet[4..6].fill(0x7f)),
            "bad-ip-length",
        ),
        ("a wrong header checksum", changed(&good, &|packet| packet[10] ^= 0xff), "bad-ip-checksum"),
        (
            "an address that the label's port does not have",
            labelled(label, 64, &ip_packet(from, IpAddr::from([10, 20, 11, 200]), 17, 64, &[0; 8])),
            "wrong-destination",
        ),
    ]
}

#[test]
fn each_bad_packet_moves_exactly_its_counter() {
    let lab = Lab::new();
    let scene = scene(&lab);
    let gateway = scene.node.address();
    for (what, packet, reason) in bad_labelled(&scene) {
        let seen =
            scene.node.faults_of(reason, || send_mpls_over_udp(&scene.edge, gateway, &packet).unwrap());
        assert_eq!(seen, only(reason), "{what}, over UDP");
        let seen = scene.node.faults_of(reason, || send_gre(&scene.edge, gateway, &gre(&packet)).unwrap());
        assert_eq!(seen, only(reason), "{what}, over GRE");
    }
    let good = labelled(scene.label, 64, &[0x45; 40]);
    for (what, octets, reason) in [
        ("two octets of GRE", vec![0, 0], "truncated-gre"),
        ("GRE that promises a key and ends", vec![0x20, 0, 0x88, 0x47], "truncated-gre"),
        ("GRE version 1", [&[0, 1, 0x88, 0x47], &good[..]].concat(), "unsupported-gre"),
        ("IPv4 in GRE", [&[0, 0, 0x08, 0x00], &good[..]].concat(), "unsupported-gre"),
    ] {
        let seen = scene.node.faults_of(reason, || send_gre(&scene.edge, gateway, &octets).unwrap());
        assert_eq!(seen, only(reason), "{what}");
    }
    // Nothing else is disturbed: the agent serves the host and the pod as before.
    assert_eq!(Probe::default().send(scene.node.namespace(), scene.pod.v4().into()), Answer::Reply);
    let port = &scene.node.ctl_json(&["show", "ports"])["ports"][0];
    assert_eq!(port["state"], "up", "{port:#?}");
}

#[test]
fn packets_of_a_stranger_are_dropped_whatever_they_hold() {
    let lab = Lab::new();
    let scene = scene(&lab);
    let gateway = scene.node.address();
    let server = vrouter_tests::Server::udp(scene.pod.namespace(), 9, "pod");
    let to = SocketAddr::new(scene.pod.v4().into(), server.port());
    let packet = labelled(scene.label, 64, &udp_packet("10.99.0.1:9".parse().unwrap(), to, 64, b"good"));
    let sent = || send_mpls_over_udp(&scene.stranger, gateway, &packet).unwrap();
    assert_eq!(scene.node.faults_of("unknown-source", sent), only("unknown-source"));
    let sent = || send_gre(&scene.stranger, gateway, &gre(&packet)).unwrap();
    assert_eq!(scene.node.faults_of("unknown-source", sent), only("unknown-source"));
    let counters = &scene.node.ctl_json(&["show", "ports"])["ports"][0]["counters"];
    let before = counters["txPackets"].as_u64();
    // The same packet of a known provider edge arrives.
    send_mpls_over_udp(&scene.edge, gateway, &packet).unwrap();
    wait_for("the good packet to reach the pod", PATIENCE, || {
        let counters = scene.node.ctl_json(&["show", "ports"])["ports"][0]["counters"].clone();
        if counters["txPackets"].as_u64() > before { Ok(()) } else { Err(counters) }
    });
    assert_eq!(ask_udp(scene.node.namespace(), to, "and the host?").unwrap(), "pod and the host?");
}

#[test]
fn a_pod_cannot_send_as_another() {
    let lab = Lab::new();
    let scene = scene(&lab);
    let other = scene.node.add_pod("other");
    let thief = scene.pod.namespace();
    thief.add_address("eth0", IpAddr::from([10, 20, 11, 99]), 32);
    let sent = || {
        let socket = thief.run(|| std::net::UdpSocket::bind("10.20.11.99:0")).unwrap();
        socket.send_to(b"it is me", SocketAddr::new(other.v4().into(), 9)).unwrap();
    };
    assert_eq!(scene.node.faults_of("spoofed-source", sent), only("spoofed-source"));
}
