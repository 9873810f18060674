//! The host reaches its pods through `vrouter0`, as a kubelet's probe does; pods reach the host where their VRF is open.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::net::{IpAddr, SocketAddr};

use vrouter_tests::fixture::{ASN, city, vrf};
use vrouter_tests::{AgentConfig, Answer, Lab, Node, Probe, Server, ask_tcp, ask_udp};

/// A node whose default VRF is open to the host, and a tenant whose VRF is closed.
fn node(lab: &Lab) -> Node {
    let tenant = vrf("tenant", "target:4200000000:7", 70, 11);
    Node::start(lab, "gw-11", 11, &AgentConfig::new(ASN).vrf(&city(11)).vrf(&tenant))
}

#[test]
fn the_host_probes_pods_of_every_vrf() {
    let lab = Lab::new();
    let node = node(&lab);
    for pod in [node.add_pod("open"), node.add_pod_in("closed", "tenant")] {
        let tcp = Server::tcp(pod.namespace(), 8080, "pod");
        for address in pod.addresses() {
            let to = SocketAddr::new(address, tcp.port());
            let _udp = Server::udp_on(pod.namespace(), to, "pod");
            assert_eq!(Probe::default().send(node.namespace(), address), Answer::Reply, "ping {address}");
            assert_eq!(ask_tcp(node.namespace(), to, "GET /healthz").expect("a TCP answer"), "pod");
            let asked = ask_udp(node.namespace(), to, "alive?");
            let asked = asked.unwrap_or_else(|error| panic!("UDP to {to}: {error}; {:?}", node.drops()));
            assert_eq!(asked, "pod alive?");
        }
    }
}

#[test]
fn the_host_asks_servers_that_are_bound_to_no_address() {
    let lab = Lab::new();
    let node = node(&lab);
    for pod in [node.add_pod("open"), node.add_pod_in("closed", "tenant")] {
        let server = Server::udp(pod.namespace(), 5353, "pod");
        for address in pod.addresses() {
            let to = SocketAddr::new(address, server.port());
            let asked = ask_udp(node.namespace(), to, "alive?");
            let asked = asked.unwrap_or_else(|error| panic!("UDP to {to}: {error}; {:?}", node.drops()));
            assert_eq!(asked, "pod alive?");
        }
    }
    assert!(!node.drops().contains_key("link-local"), "{:?}", node.drops());
}

#[test]
fn pods_open_flows_to_the_host_only_where_their_vrf_is_open() {
    let lab = Lab::new();
    let node = node(&lab);
    let (open, closed) = (node.add_pod("open"), node.add_pod_in("closed", "tenant"));
    let server = Server::tcp(node.namespace(), 53, "host");
    let addresses: [IpAddr; 2] = ["169.254.1.1".parse().unwrap(), node.address()];
    for address in addresses {
        let to = SocketAddr::new(address, server.port());
        assert_eq!(ask_tcp(open.namespace(), to, "lookup").expect("an answer"), "host", "{address}");
        assert!(ask_tcp(closed.namespace(), to, "lookup").is_err(), "{address} is open to a closed VRF");
    }
    assert!(node.drops().get("host-closed").is_some_and(|packets| *packets > 0), "{:?}", node.drops());
}

#[test]
fn the_host_reaches_no_pod_that_is_gone() {
    let lab = Lab::new();
    let node = node(&lab);
    let pod = node.add_pod("gone");
    let address = pod.v4();
    assert_eq!(Probe::default().send(node.namespace(), address.into()), Answer::Reply);
    pod.delete();
    let answer = node.namespace().run(|| {
        let to = SocketAddr::new(address.into(), 80);
        std::net::TcpStream::connect_timeout(&to, std::time::Duration::from_secs(1)).map(drop)
    });
    assert!(answer.is_err());
}

#[test]
fn where_two_tenants_share_an_address_the_host_reaches_the_default_vrfs_pod() {
    let lab = Lab::new();
    let same = vrf("tenant", "target:4200000000:7", 20, 11);
    let node = Node::start(&lab, "gw-11", 11, &AgentConfig::new(ASN).vrf(&city(11)).vrf(&same));
    let tenant = node.add_pod_in("tenant", "tenant");
    let _first = Server::tcp(tenant.namespace(), 80, "tenant");
    let to = SocketAddr::new(tenant.v4().into(), 80);
    assert_eq!(ask_tcp(node.namespace(), to, "who?").expect("an answer"), "tenant", "alone with its address");
    let default = node.add_pod("default");
    let _second = Server::tcp(default.namespace(), 80, "default");
    assert_eq!(default.addresses(), tenant.addresses(), "both tenants have the same addresses");
    assert_eq!(ask_tcp(node.namespace(), to, "who?").expect("an answer"), "default");
    let ports = node.ctl_json(&["show", "ports"]);
    let reachable = |vrf: &str| {
        let ports = ports["ports"].as_array().cloned().unwrap_or_default();
        let port = ports.into_iter().find(|port| port["vrf"] == vrf).expect("a port");
        port["hostReachable"].as_array().map(Vec::len)
    };
    assert_eq!((reachable("tenant"), reachable("city")), (Some(0), Some(2)), "{ports:#}");
    default.delete();
    assert_eq!(ask_tcp(node.namespace(), to, "who?").expect("an answer"), "tenant", "alone again");
}
