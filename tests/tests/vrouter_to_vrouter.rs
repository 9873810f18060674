//! Two gateways that peer directly with each other: pods on one reach pods on the other.

use std::net::SocketAddr;

use vrouter_tests::fixture::{gateway, pair, pair_with, wait_routes};
use vrouter_tests::{Answer, Capture, Lab, Node, Pod, Probe, Server, ask_tcp, ask_udp, bulk, transfer};

/// Every kind of traffic from one pod to another, both families.
fn assert_all_traffic(from: &Pod, to: &Pod) {
    let (udp, tcp) = (Server::udp(to.namespace(), 7, "far"), Server::tcp(to.namespace(), 7, "far"));
    for address in to.addresses() {
        assert_eq!(Probe::default().send(from.namespace(), address), Answer::Reply, "ping {address}");
        let asked = ask_udp(from.namespace(), SocketAddr::new(address, udp.port()), "hello");
        assert_eq!(asked.expect("a UDP answer"), "far hello");
        let asked = ask_tcp(from.namespace(), SocketAddr::new(address, tcp.port()), "hello");
        assert_eq!(asked.expect("a TCP answer"), "far");
    }
}

/// The encapsulation of a node's route to a pod.
fn encapsulation(node: &Node, pod: &Pod) -> String {
    let hops = node.wait_route("city", &format!("{}/32", pod.v4()));
    hops[0]["encapsulation"].as_str().unwrap_or("none").to_owned()
}

fn pods_meet_over(order: &[&str], filter: &str) {
    let lab = Lab::new();
    let (one, two) =
        pair_with(&lab, &gateway(11, &[12]).encapsulations(order), &gateway(12, &[11]).encapsulations(order));
    let (near, far) = (one.add_pod("near"), two.add_pod("far"));
    wait_routes(&one, &far.addresses());
    wait_routes(&two, &near.addresses());
    assert_eq!(encapsulation(&one, &far), order[0]);
    let capture = Capture::start(one.namespace(), "eth0");
    assert_all_traffic(&near, &far);
    assert_all_traffic(&far, &near);
    let pcap = capture.write(&lab.path("wire.pcap"));
    for source in ["192.0.2.11", "192.0.2.12"] {
        let rows = pcap.fields(&format!("{filter} && mpls && ip.src == {source}"), &["mpls.label"]);
        assert!(!rows.is_empty(), "no packet of {source} is {filter}");
    }
    let encapsulated = pcap.fields("mpls", &["frame.number"]).len();
    assert_eq!(pcap.fields(&format!("mpls && {filter}"), &["frame.number"]).len(), encapsulated);
    assert_eq!(pcap.malformed(), [""; 0]);
    assert_eq!((one.faults(), two.faults()), Default::default(), "nothing was dropped on either side");
}

#[test]
fn pods_of_two_gateways_meet_over_mpls_over_udp() {
    pods_meet_over(&["mpls-over-udp", "mpls-over-gre"], "udp.dstport == 6635 && udp.srcport >= 49152");
}

#[test]
fn pods_of_two_gateways_meet_over_mpls_over_gre() {
    pods_meet_over(&["mpls-over-gre", "mpls-over-udp"], "gre.proto == 0x8847");
}

#[test]
fn the_encapsulation_is_the_first_of_ours_that_the_peer_named() {
    let lab = Lab::new();
    // Ours: UDP before GRE. Theirs: GRE alone.
    let (one, two) =
        pair_with(&lab, &gateway(11, &[12]), &gateway(12, &[11]).encapsulations(&["mpls-over-gre"]));
    let (near, far) = (one.add_pod("near"), two.add_pod("far"));
    assert_eq!(encapsulation(&one, &far), "mpls-over-gre");
    assert_eq!(encapsulation(&two, &near), "mpls-over-gre");
    assert_eq!(Probe::default().send(near.namespace(), far.v4().into()), Answer::Reply);
    assert_eq!(Probe::default().send(far.namespace(), near.v6().into()), Answer::Reply);
}

#[test]
fn every_octet_of_a_bulk_transfer_arrives() {
    const OCTETS: u64 = 50 << 20;
    let lab = Lab::new();
    let (one, two) = pair(&lab);
    let (near, far) = (one.add_pod("near"), two.add_pod("far"));
    wait_routes(&one, &far.addresses());
    wait_routes(&two, &near.addresses());
    for (address, octets) in [(far.v4().into(), OCTETS), (far.v6().into(), OCTETS / 4)] {
        let arrived = transfer(near.namespace(), far.namespace(), SocketAddr::new(address, 5001), octets);
        let arrived = arrived.expect("an unbroken transfer");
        assert_eq!((arrived.octets, arrived.digest), bulk::expected(octets), "to {address}");
        eprintln!("to {address}: {octets} octets in {:?}", arrived.time);
    }
}

#[test]
fn a_deleted_pod_is_withdrawn_and_its_address_unreachable() {
    let lab = Lab::new();
    let (one, two) = pair(&lab);
    let (near, far) = (one.add_pod("near"), two.add_pod("far"));
    let (v4, v6) = (far.v4(), far.v6());
    wait_routes(&one, &far.addresses());
    let interface = far.host_interface();
    assert!(two.namespace().has_link(&interface));
    far.delete();
    one.wait_no_route("city", &format!("{v4}/32"));
    one.wait_no_route("city", &format!("{v6}/128"));
    assert!(!two.namespace().has_link(&interface), "{interface} is left");
    assert_ne!(Probe::hopeless().send(near.namespace(), v4.into()), Answer::Reply);
    far.delete();
}
