//! Two gateways that peer directly with each other: pods on one reach pods on the other.

use std::net::SocketAddr;

use vrouter_tests::fixture::{ASN, city, gateway, pair, pair_with, wait_routes};
use vrouter_tests::lab::{underlay_v4, underlay_v6};
use vrouter_tests::{
    AgentConfig, Answer, Capture, Lab, Node, PATIENCE, Pod, Probe, Server, ask_tcp, ask_udp, bulk, transfer,
    wait_until,
};

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
    wait_routes(&one, &far.addresses());
    wait_routes(&two, &near.addresses());
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
fn streams_in_both_directions_at_once_arrive_whole() {
    const OCTETS: u64 = 12 << 20;
    let lab = Lab::new();
    let (one, two) = pair(&lab);
    let (near, far) = (one.add_pod("near"), two.add_pod("far"));
    wait_routes(&one, &far.addresses());
    wait_routes(&two, &near.addresses());
    let streams = [(&near, &far, 1), (&near, &far, 2), (&far, &near, 3), (&far, &near, 4)];
    std::thread::scope(|scope| {
        for (from, to, port) in streams {
            for address in to.addresses() {
                let to_port = SocketAddr::new(address, 5000 + port * 2 + u16::from(address.is_ipv6()));
                scope.spawn(move || {
                    let arrived = transfer(from.namespace(), to.namespace(), to_port, OCTETS);
                    let arrived = arrived.unwrap_or_else(|error| panic!("to {to_port}: {error}"));
                    assert_eq!((arrived.octets, arrived.digest), bulk::expected(OCTETS), "to {to_port}");
                });
            }
        }
    });
}

#[test]
fn bulk_travels_in_superframes_and_is_put_together_again() {
    let lab = Lab::new();
    let (one, two) = pair(&lab);
    let (near, far) = (one.add_pod("near"), two.add_pod("far"));
    wait_routes(&one, &far.addresses());
    wait_routes(&two, &near.addresses());
    let (sent, wire) = (Capture::start(near.namespace(), "eth0"), Capture::start(one.namespace(), "eth0"));
    let received = Capture::start(far.namespace(), "eth0");
    let to = SocketAddr::new(far.v4().into(), 5001);
    let arrived = transfer(near.namespace(), far.namespace(), to, 8 << 20).expect("an unbroken transfer");
    assert_eq!((arrived.octets, arrived.digest), bulk::expected(8 << 20));
    for (place, capture) in
        [("the pod sends", sent), ("the wire carries", wire), ("the far pod gets", received)]
    {
        let largest = capture.frames().iter().map(Vec::len).max().unwrap_or_default();
        assert!(largest > 3000, "{place} nothing larger than {largest} octets");
    }
}

#[test]
fn a_session_lost_to_silence_comes_back_with_the_cable() {
    let lab = Lab::new();
    let short = |host, peer: u8| {
        AgentConfig::new(ASN).vrf(&city(host)).neighbor_with(underlay_v4(peer).into(), "hold-time = 3")
    };
    let (one, two) = pair_with(&lab, &short(11, 12), &short(12, 11));
    let (near, far) = (one.add_pod("near"), two.add_pod("far"));
    wait_routes(&one, &far.addresses());
    lab.set_link("gw-12", false);
    wait_until("the silent session to be given up", PATIENCE, || {
        one.bgp_state(two.address()) != "Established"
    });
    let error = one.ctl_json(&["show", "bgp", "neighbors"])["neighbors"]["192.0.2.12"]["lastError"].clone();
    assert!(error.as_str().is_some_and(|error| error.to_lowercase().contains("hold timer")), "{error}");
    lab.set_link("gw-12", true);
    one.wait_established(two.address());
    wait_routes(&one, &far.addresses());
    wait_routes(&two, &near.addresses());
    assert_eq!(Probe::default().send(near.namespace(), far.v4().into()), Answer::Reply);
}

#[test]
fn pods_meet_over_an_ipv6_underlay() {
    let lab = Lab::new();
    let six = |host: u8, peer: u8| {
        let neighbor = underlay_v6(peer).into();
        AgentConfig::new(ASN)
            .vrf(&city(host))
            .underlay(underlay_v6(host).into())
            .neighbor(neighbor)
            .bgp_listen("[::]:179")
    };
    for order in [["mpls-over-udp"], ["mpls-over-gre"]] {
        let one = Node::start(&lab, "gw-11", 11, &six(11, 12).encapsulations(&order));
        let two = Node::start(&lab, "gw-12", 12, &six(12, 11).encapsulations(&order));
        one.wait_established(underlay_v6(12).into());
        let (near, far) = (one.add_pod(order[0]), two.add_pod(order[0]));
        wait_routes(&one, &far.addresses());
        wait_routes(&two, &near.addresses());
        assert_eq!(encapsulation(&one, &far), order[0]);
        let hops = one.wait_route("city", &format!("{}/32", far.v4()));
        assert_eq!(hops[0]["ip"], "2001:db8::12", "{hops:#?}");
        let capture = Capture::start(one.namespace(), "eth0");
        assert_all_traffic(&near, &far);
        let pcap = capture.write(&lab.path("wire.pcap"));
        assert!(!pcap.fields("mpls && ipv6.src == 2001:db8::11", &["mpls.label"]).is_empty());
        assert_eq!(pcap.malformed(), [""; 0]);
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
    let files =
        || std::fs::read_dir(two.directory().join("state/ports")).map(|files| files.flatten().count());
    assert_eq!(files().expect("the state directory"), 1);
    far.delete();
    assert_eq!(files().expect("the state directory"), 0, "a port's file is left");
    assert_eq!(two.ctl_json(&["show", "ports"])["ports"].as_array().map(Vec::len), Some(0));
    one.wait_no_route("city", &format!("{v4}/32"));
    one.wait_no_route("city", &format!("{v6}/128"));
    assert!(!two.namespace().has_link(&interface), "{interface} is left");
    assert_ne!(Probe::hopeless().send(near.namespace(), v4.into()), Answer::Reply);
    far.delete();
}
