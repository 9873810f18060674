//! Pods of one node and one VRF: no tunnel, no peer, no uplink.

use std::net::{IpAddr, SocketAddr};

use vrouter_tests::fixture::gateway;
use vrouter_tests::{Answer, Lab, Node, Probe, Server, ask_tcp, ask_udp, bulk, transfer};

#[test]
fn pods_of_one_node_meet_with_the_uplink_down() {
    let lab = Lab::new();
    let node = Node::start(&lab, "gw-11", 11, &gateway(11, &[12]));
    lab.set_link("gw-11", false);
    let (one, two) = (node.add_pod("one"), node.add_pod("two"));
    assert_ne!(one.addresses(), two.addresses());
    let (udp, tcp) = (Server::udp(two.namespace(), 7, "two"), Server::tcp(two.namespace(), 7, "two"));
    for address in two.addresses() {
        assert_eq!(Probe::default().send(one.namespace(), address), Answer::Reply, "ping {address}");
        let asked = ask_udp(one.namespace(), SocketAddr::new(address, udp.port()), "hello");
        assert_eq!(asked.expect("a UDP answer"), "two hello");
        let asked = ask_tcp(one.namespace(), SocketAddr::new(address, tcp.port()), "hello");
        assert_eq!(asked.expect("a TCP answer"), "two");
    }
    assert_eq!(node.faults(), Default::default());
}

#[test]
fn superframes_between_pods_of_one_node_arrive_whole() {
    const OCTETS: u64 = 64 << 20;
    let lab = Lab::new();
    let node = Node::start(&lab, "gw-11", 11, &gateway(11, &[]));
    let (one, two) = (node.add_pod("one"), node.add_pod("two"));
    for address in two.addresses() {
        let arrived = transfer(one.namespace(), two.namespace(), SocketAddr::new(address, 5001), OCTETS);
        let arrived = arrived.expect("an unbroken transfer");
        assert_eq!((arrived.octets, arrived.digest), bulk::expected(OCTETS), "to {address}");
        eprintln!("to {address}: {OCTETS} octets in {:?}", arrived.time);
    }
}

#[test]
fn the_gateway_answers_and_an_absent_neighbour_is_unreachable() {
    let lab = Lab::new();
    let node = Node::start(&lab, "gw-11", 11, &gateway(11, &[]));
    let pod = node.add_pod("one");
    let gateway: IpAddr = "169.254.1.1".parse().unwrap();
    assert_eq!(Probe::default().send(pod.namespace(), gateway), Answer::Reply);
    for absent in ["10.20.11.250", "10.66.0.1", "fd00:20:11::fa", "fd00:66::1"] {
        let answer = Probe::default().send(pod.namespace(), absent.parse().unwrap());
        assert!(matches!(answer, Answer::Unreachable { .. }), "{absent}: {answer:?}");
    }
}
