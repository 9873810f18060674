//! One address behind three provider edges: each flow keeps to one of them, fragments and all, and when one goes, only its
//! own flows move.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::process::Command;

use vrouter_tests::fixture::gateway;
use vrouter_tests::process::run_ok;
use vrouter_tests::{Capture, Lab, Node, PATIENCE, Pod, wait_for};

const ANYCAST: &str = "10.50.0.2";
const FLOWS: u16 = 48;
const FIRST_PORT: u16 = 30_000;

/// A tunnel packet of MPLS over UDP: to whom, from which source port, and the packet inside.
struct Tunnelled<'f> {
    to: IpAddr,
    entropy: u16,
    inner: &'f [u8],
}

/// The tunnel packets with an inner packet of IPv4 for the anycast address.
fn tunnelled(frames: &[Vec<u8>]) -> Vec<Tunnelled<'_>> {
    let word = |bytes: &[u8], at: usize| u16::from_be_bytes([bytes[at], bytes[at + 1]]);
    let outer = frames.iter().filter(|frame| frame.len() > 14 + 32 + 28 && frame[12..15] == [0x08, 0, 0x45]);
    let ours = outer.filter(|frame| frame[14 + 9] == 17 && word(frame, 14 + 22) == 6635);
    let anycast = ANYCAST.parse::<Ipv4Addr>().unwrap().octets();
    ours.map(|frame| Tunnelled {
        to: Ipv4Addr::new(frame[30], frame[31], frame[32], frame[33]).into(),
        entropy: word(frame, 14 + 20),
        inner: &frame[14 + 32..],
    })
    .filter(|packet| packet.inner[0] == 0x45 && packet.inner[16..20] == anycast)
    .collect()
}

/// Sends twice in each flow; which provider edge each flow went to.
fn ways(node: &Node, from: &Pod) -> BTreeMap<u16, IpAddr> {
    let capture = Capture::start(node.namespace(), "eth0");
    for port in FIRST_PORT..FIRST_PORT + FLOWS {
        let socket = from.namespace().run(|| UdpSocket::bind(("0.0.0.0", port))).unwrap();
        for payload in [&b"one"[..], b"another"] {
            socket.send_to(payload, (ANYCAST, 9)).unwrap();
        }
    }
    wait_for("every flow on the wire", PATIENCE, || {
        let frames = capture.frames();
        let mut ways = BTreeMap::<u16, Vec<(IpAddr, u16)>>::new();
        for packet in tunnelled(&frames) {
            let port = u16::from_be_bytes([packet.inner[20], packet.inner[21]]);
            ways.entry(port).or_default().push((packet.to, packet.entropy));
        }
        if ways.len() < usize::from(FLOWS) || ways.values().any(|seen| seen.len() < 2) {
            return Err(ways);
        }
        assert!(
            ways.values().all(|seen| seen.iter().all(|way| *way == seen[0])),
            "a flow took two ways: {ways:?}"
        );
        Ok(ways.into_iter().map(|(port, seen)| (port, seen[0].0)).collect())
    })
}

/// The anycast workload, on a tap of a node.
fn add_workload(node: &Node, last: u8) {
    node.namespace().add_tap("tapvm0");
    let mac = format!("02:00:00:00:00:{last:02x}");
    let words = ["--vrf", "city", "--interface", "tapvm0", "--mac", &mac, "--address", ANYCAST];
    node.ctl(&[&["port", "add"], &words[..]].concat());
}

#[test]
fn a_flow_keeps_its_provider_edge_and_only_those_of_a_lost_one_move() {
    let lab = Lab::new();
    let one = Node::start(&lab, "gw-11", 11, &gateway(11, &[12, 13, 14]));
    let edges =
        [12, 13, 14].map(|host| Node::start(&lab, &format!("gw-{host}"), host, &gateway(host, &[11])));
    // The kernel cuts what we send as one before a capture sees it.
    let off = ["-K", "eth0", "tx", "off", "tso", "off", "gso", "off"];
    run_ok(one.namespace(), Command::new("ethtool").args(off));
    let pod = one.add_pod("pod");
    for (edge, last) in edges.iter().zip([2, 3, 4]) {
        one.wait_established(edge.address());
        add_workload(edge, last);
    }
    let hops = |count: usize| {
        wait_for(&format!("{count} ways to the workload"), PATIENCE, || {
            let route = one.route("city", &format!("{ANYCAST}/32"));
            if route.len() == count { Ok(()) } else { Err(route) }
        });
    };
    hops(3);
    let before = ways(&one, &pod);
    let used: BTreeSet<IpAddr> = before.values().copied().collect();
    assert_eq!(used, edges.iter().map(Node::address).collect(), "all are used");
    assert_eq!(ways(&one, &pod), before, "and the flows stay where they are");

    // All fragments of a datagram take one way, and look alike to the network.
    let capture = Capture::start(one.namespace(), "eth0");
    let socket = pod.namespace().run(|| UdpSocket::bind("0.0.0.0:0")).unwrap();
    for _ in 0..8 {
        socket.send_to(&[7; 4000], (ANYCAST, 9)).unwrap();
    }
    let fragments = wait_for("every fragment on the wire", PATIENCE, || {
        let frames = capture.frames();
        let mut fragments = BTreeMap::<[u8; 2], Vec<(IpAddr, u16)>>::new();
        for packet in
            tunnelled(&frames).iter().filter(|packet| packet.inner[6] & 0x3f != 0 || packet.inner[7] != 0)
        {
            let id = [packet.inner[4], packet.inner[5]];
            fragments.entry(id).or_default().push((packet.to, packet.entropy));
        }
        let all = fragments.len() == 8 && fragments.values().all(|pieces| pieces.len() == 3);
        if all { Ok(fragments) } else { Err(fragments) }
    });
    assert!(fragments.values().all(|pieces| pieces.iter().all(|way| *way == pieces[0])), "{fragments:?}");

    edges[1].ctl(&["port", "delete", "--interface", "tapvm0"]);
    hops(2);
    let after = ways(&one, &pod);
    for (port, edge) in &before {
        let lost = *edge == edges[1].address();
        assert_eq!(after[port] == *edge, !lost, "flow {port} went to {edge}, now to {}", after[port]);
    }
}
