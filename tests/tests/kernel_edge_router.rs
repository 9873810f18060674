//! Debian's kernel as the datacenter's edge router: it takes our labelled packets into a kernel VRF and answers through
//! the same encapsulation. A GoBGP beside it speaks BGP for it.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::net::IpAddr;

use serde_json::Value;
use vrouter_tests::echo::web_page;
use vrouter_tests::fixture::{ASN, city};
use vrouter_tests::guest::EDGE_LABEL;
use vrouter_tests::lab::underlay_v4;
use vrouter_tests::{
    AgentConfig, Answer, Capture, Edge, GoBgp, GoBgpPeer, Lab, Node, PATIENCE, Probe, wait_until,
};

/// A pod asks what is behind the edge router, over one encapsulation; tshark reads along.
fn pod_reaches_the_edge_router(encapsulation: &str, filter: &str) {
    let lab = Lab::new();
    let vms: [(IpAddr, u8); 2] = [("10.99.0.1".parse().unwrap(), 24), ("fd00:99::1".parse().unwrap(), 64)];
    let mut edge = Edge::boot(&lab, 1, &vms);
    let speaker = GoBgp::start(&lab, "speaker", 2, ASN, &[GoBgpPeer::client(underlay_v4(11).into(), ASN)]);
    let config = AgentConfig::new(ASN)
        .vrf(&city(11))
        .neighbor_with(speaker.address(), &format!("default-encapsulation = {encapsulation:?}"));
    let node = Node::start(&lab, "gw-11", 11, &config);
    node.wait_established(speaker.address());
    let pod = node.add_pod("sensor");
    let community = "rd 192.0.2.1:1 rt 64086.59904:100";
    speaker.announce("vpnv4", &format!("10.99.0.0/24 label {EDGE_LABEL} {community} nexthop 192.0.2.1"));
    speaker
        .announce("vpnv6", &format!("fd00:99::/64 label {EDGE_LABEL} {community} nexthop ::ffff:192.0.2.1"));
    node.wait_route("city", "10.99.0.0/24");
    node.wait_route("city", "fd00:99::/64");

    // What the edge router's own BGP would do with our routes: label, next hop, tunnel.
    let tunnel = if encapsulation == "mpls-over-udp" { "udp1" } else { "gre1" };
    match tunnel {
        "udp1" => edge.tunnel_udp(node.address()),
        _ => edge.tunnel_gre(node.address()),
    }
    for (family, address) in [("vpnv4", IpAddr::from(pod.v4())), ("vpnv6", pod.v6().into())] {
        let label = advertised_label(&speaker, family, address);
        edge.route(address, label, tunnel);
    }

    let capture = Capture::start(lab.wan(), "gw-11");
    for (address, _) in vms {
        let patient = Probe { attempts: 20, ..Probe::default() };
        assert_eq!(patient.send(pod.namespace(), address), Answer::Reply, "ping {address}");
        assert_eq!(web_page(pod.namespace(), address).expect("a web page"), "edge", "{address}");
    }
    for address in pod.addresses() {
        edge.guest().run(&format!("ping -c 2 -W 5 -I red {address}"));
    }
    let pcap = capture.write(&lab.path("edge.pcap"));
    assert_eq!(pcap.malformed(), [""; 0]);
    for (source, to) in [("192.0.2.11", "10.99.0.1"), ("192.0.2.1", &pod.v4().to_string())] {
        let selected = format!("{filter} && mpls && ip.src == {source} && ip.dst == {to}");
        assert!(!pcap.fields(&selected, &["frame.number"]).is_empty(), "nothing from {source} to {to}");
    }
    for (source, to) in [("192.0.2.11", "fd00:99::1"), ("192.0.2.1", &pod.v6().to_string())] {
        let selected = format!("{filter} && mpls && ip.src == {source} && ipv6.dst == {to}");
        assert!(!pcap.fields(&selected, &["frame.number"]).is_empty(), "nothing from {source} to {to}");
    }
    // Bulk both ways: what the kernel sends has no outer checksum, and what we send is cut from superframes.
    let noise = lab.path("noise");
    for (address, _) in vms {
        edge.guest().assert_download(pod.namespace(), address, 4, &noise);
        edge.guest().assert_upload(pod.namespace(), address, &noise);
    }
    let tunnels = node.ctl_json(&["show", "tunnels"]);
    let to_edge = tunnels["tunnels"].as_array().and_then(|all| {
        all.iter().find(|tunnel| tunnel["remote"] == "192.0.2.1" && tunnel["encapsulation"] == encapsulation)
    });
    let counted = |key| to_edge.and_then(|tunnel| tunnel[key].as_u64()).unwrap_or_default();
    assert!(counted("txPackets") > 0 && counted("rxPackets") > 0, "{tunnels:#?}");
}

/// The label of the route that the speaker has from us for an address.
fn advertised_label(speaker: &GoBgp, family: &str, address: IpAddr) -> u32 {
    let length = if address.is_ipv4() { 32 } else { 128 };
    let prefix = format!("192.0.2.11:100:{address}/{length}");
    let label = |paths: &[Value]| paths.first()?["nlri"]["labels"][0].as_u64()?.try_into().ok();
    let mut found = None;
    wait_until(&format!("our route {prefix}"), PATIENCE, || {
        found = label(&speaker.paths(family, &prefix));
        found.is_some()
    });
    found.unwrap_or_default()
}

#[test]
fn a_pod_and_a_kernel_vrf_meet_over_mpls_over_udp() {
    pod_reaches_the_edge_router("mpls-over-udp", "udp.dstport == 6635");
}

#[test]
fn a_pod_and_a_kernel_vrf_meet_over_mpls_over_gre() {
    pod_reaches_the_edge_router("mpls-over-gre", "gre.proto == 0x8847");
}
