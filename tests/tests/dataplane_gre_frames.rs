//! MPLS over GRE leaves past the kernel's IP stack where the next hop is known, and follows what the kernel knows of it;
//! everywhere else it leaves by a raw socket. Whatever arrives is the host's stack not to answer.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::process::Command;
use std::time::Duration;

use vrouter_tests::bulk::{expected, transfer};
use vrouter_tests::fixture::{ASN, city, gateway, pair_with, wait_routes};
use vrouter_tests::lab::underlay_v4;
use vrouter_tests::packets::{gre, labelled, send_gre, udp_packet};
use vrouter_tests::process::run_ok;
use vrouter_tests::{AgentConfig, Capture, Lab, Node, PATIENCE, Pod, wait_for, wait_until};

const FRAMES: &str = "underlay: GRE by Ethernet frames";
const RAW: &str = "underlay: GRE by a raw socket";
const OCTETS: u64 = 2 << 20;

fn scene(lab: &Lab, without: &str) -> (Node, Node, Pod, Pod) {
    let config = |own, other| {
        gateway(own, &[other]).encapsulations(&["mpls-over-gre"]).section(&format!("[dataplane]\n{without}"))
    };
    let (one, two) = pair_with(lab, &config(11, 12), &config(12, 11));
    let (near, far) = (one.add_pod("near"), two.add_pod("far"));
    wait_routes(&one, &far.addresses());
    wait_routes(&two, &near.addresses());
    (one, two, near, far)
}

fn way(node: &Node) -> String {
    let tunnels = node.ctl_json(&["show", "tunnels"]);
    let offloads = tunnels["offloads"].as_array().cloned().unwrap_or_default();
    let ways = offloads.iter().filter_map(|line| line.as_str()).filter(|line| line.contains("GRE"));
    ways.collect::<Vec<_>>().join(", ")
}

fn wait_way(node: &Node, wanted: &str) {
    wait_for(&format!("{}: {wanted}", node.name()), PATIENCE, || match way(node) {
        way if way == wanted => Ok(()),
        way => Err(way),
    });
}

fn transfers(near: &Pod, far: &Pod) {
    for to in far.addresses() {
        let arrived = transfer(near.namespace(), far.namespace(), SocketAddr::new(to, 5000), OCTETS).unwrap();
        assert_eq!((arrived.octets, arrived.digest), expected(OCTETS), "to {to}");
    }
}

fn ip(node: &Node, words: &str) {
    run_ok(node.namespace(), Command::new("ip").args(words.split(' ')));
}

/// Whom the last GRE frames on the wire are for.
fn destinations(capture: &Capture) -> Vec<[u8; 6]> {
    let frames = capture.frames();
    let gre = frames.iter().filter(|frame| frame[12..14] == [8, 0] && frame[23] == 47);
    gre.map(|frame| frame[..6].try_into().unwrap()).collect()
}

#[test]
fn gre_leaves_as_frames_to_the_neighbour_that_the_kernel_knows_now() {
    let lab = Lab::new();
    let (one, _two, near, far) = scene(&lab, "");
    transfers(&near, &far);
    wait_way(&one, FRAMES);
    transfers(&near, &far);

    // Another MAC address, as after a failover: followed at once. Nobody has this one.
    let stranger = [2, 0, 0, 0, 0, 0x99];
    ip(&one, "neigh replace 192.0.2.12 lladdr 02:00:00:00:00:99 dev eth0 nud permanent");
    let capture = Capture::start(one.namespace(), "eth0");
    let probe = near.namespace().run(|| UdpSocket::bind("0.0.0.0:0")).unwrap();
    wait_until("a frame for the new address", PATIENCE, || {
        probe.send_to(b"where to?", (far.v4(), 9)).unwrap();
        destinations(&capture).last() == Some(&stranger)
    });

    // Without a neighbour the raw socket sends, so the kernel asks for it, and then frames leave again.
    ip(&one, "neigh del 192.0.2.12 dev eth0");
    transfers(&near, &far);
    wait_way(&one, FRAMES);
    transfers(&near, &far);
    assert!(!one.faults().contains_key("send-failed"), "{:?}", one.faults());
}

#[test]
fn a_route_that_changes_its_way_or_its_mtu_is_followed() {
    let lab = Lab::new();
    let (one, two, near, far) = scene(&lab, "");
    transfers(&near, &far);
    wait_way(&one, FRAMES);

    // By a gateway, which is the far end again under another address.
    two.namespace().add_address("eth0", IpAddr::from([192, 0, 2, 200]), 24);
    ip(&one, "route add 192.0.2.12/32 via 192.0.2.200 dev eth0 mtu lock 1300");
    run_ok(one.namespace(), Command::new("ping").args(["-c", "1", "-W", "5", "192.0.2.200"]));
    wait_way(&one, FRAMES);
    let capture = Capture::start(one.namespace(), "eth0");
    wait_until("packets as short as the route", PATIENCE, || {
        transfers(&near, &far);
        let frames = capture.frames();
        let lengths = frames.iter().rev().take(200).filter(|frame| frame[23] == 47).map(Vec::len);
        lengths.max().is_some_and(|longest| longest <= 14 + 1300)
    });

    // No way at all, and a way again: nothing is remembered that is no longer true.
    ip(&one, "route replace unreachable 192.0.2.12/32");
    wait_way(&one, RAW);
    ip(&one, "route del unreachable 192.0.2.12/32");
    wait_way(&one, FRAMES);
    transfers(&near, &far);
}

#[test]
fn a_nexthop_object_that_changes_under_its_route_is_followed() {
    let lab = Lab::new();
    let (one, two, near, far) = scene(&lab, "");
    two.namespace().add_address("eth0", IpAddr::from([192, 0, 2, 200]), 24);
    // Otherwise routes are told of as well, for programs that know no such objects.
    let mode = ["-q", "-w", "net.ipv4.nexthop_compat_mode=0"];
    run_ok(one.namespace(), Command::new("sysctl").args(mode));
    ip(&one, "nexthop add id 7 via 192.0.2.200 dev eth0");
    ip(&one, "route add 192.0.2.12/32 nhid 7");
    transfers(&near, &far);
    wait_way(&one, FRAMES);
    // Only the object changes. Nobody has this address, and no route message tells of it.
    ip(&one, "neigh replace 192.0.2.201 lladdr 02:00:00:00:00:99 dev eth0 nud permanent");
    ip(&one, "nexthop replace id 7 via 192.0.2.201 dev eth0");
    let capture = Capture::start(one.namespace(), "eth0");
    let probe = near.namespace().run(|| UdpSocket::bind("0.0.0.0:0")).unwrap();
    // Before the second look that nothing asks for, every 30 s.
    wait_until("a frame for the new gateway", Duration::from_secs(20), || {
        probe.send_to(b"where to?", (far.v4(), 9)).unwrap();
        destinations(&capture).last() == Some(&[2, 0, 0, 0, 0, 0x99])
    });
}

#[test]
fn nothing_goes_past_the_stack_while_there_is_an_ipsec_policy() {
    let lab = Lab::new();
    let (one, _two, near, far) = scene(&lab, "");
    transfers(&near, &far);
    wait_way(&one, FRAMES);
    let policy = "src 10.9.0.0/16 dst 10.8.0.0/16 dir out";
    ip(&one, &format!("xfrm policy add {policy} tmpl src 192.0.2.11 dst 192.0.2.99 proto esp mode tunnel"));
    wait_way(&one, RAW);
    transfers(&near, &far);
    ip(&one, &format!("xfrm policy delete {policy}"));
    wait_way(&one, FRAMES);
}

#[test]
fn gre_frames_can_be_switched_off() {
    let lab = Lab::new();
    let (one, two, near, far) = scene(&lab, "without = [\"gre-frames\"]");
    transfers(&near, &far);
    assert_eq!([way(&one), way(&two)], [RAW, RAW]);
}

#[test]
fn gre_that_arrives_in_fragments_is_put_together_and_the_host_never_answers_it() {
    let lab = Lab::new();
    let config = AgentConfig::new(ASN).vrf(&city(11)).accept_from("192.0.2.1/32");
    let node = Node::start(&lab, "gw-11", 11, &config);
    let pod = node.add_pod("pod");
    let label = node.ctl_json(&["show", "ports"])["ports"][0]["label"].as_u64().unwrap();
    let edge = lab.site("edge", 1);
    lab.set_uplink_mtu(&edge, "edge", 700);
    let capture = Capture::start(&edge, "eth0");
    let sink = pod.namespace().run(|| UdpSocket::bind((pod.v4(), 9))).unwrap();
    sink.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let payload: Vec<u8> = (0..1300u32).map(|n| n.to_le_bytes()[0]).collect();
    let source = SocketAddr::from(([10, 99, 0, 1], 9));
    let packet = udp_packet(source, SocketAddr::new(pod.v4().into(), 9), 64, &payload);
    let tunnel = gre(&labelled(label.try_into().unwrap(), 64, &packet));
    send_gre(&edge, underlay_v4(11).into(), &tunnel).unwrap();
    let mut arrived = [0; 2000];
    let count = sink.recv(&mut arrived).unwrap();
    assert!(arrived[..count] == payload[..], "{count} octets arrived");
    let frames = capture.frames();
    let is_gre = |frame: &&Vec<u8>| frame[12..14] == [8, 0] && frame[23] == 47;
    assert!(frames.iter().filter(is_gre).count() > 1, "it was sent in fragments");
    // What is not for us is dropped by name: the host says nothing of protocols that it does not know.
    let moved = node.faults_of("unsupported-gre", || {
        send_gre(&edge, underlay_v4(11).into(), &[0, 0, 8, 0, 0x45]).unwrap();
    });
    assert_eq!(moved["unsupported-gre"], 1);
    let frames = capture.frames();
    assert!(!frames.iter().any(|frame| frame[12..14] == [8, 0] && frame[23] == 1), "an ICMP error");
}
