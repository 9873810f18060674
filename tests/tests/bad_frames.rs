//! Frames that a workload may not send: each moves exactly the counter that names its fault, and nobody is deceived.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};

use vrouter_tests::fixture::gateway;
use vrouter_tests::packets::{arp_request, ethernet, neighbour_solicitation, send_frame, udp_packet};
use vrouter_tests::{Answer, Capture, Lab, Node, PATIENCE, Probe, wait_for};
use vrouter_types::MacAddr;

const IPV4: u16 = 0x0800;
const ARP: u16 = 0x0806;
const IPV6: u16 = 0x86dd;
const BROADCAST: MacAddr = MacAddr::BROADCAST;

fn only(reason: &str) -> BTreeMap<String, u64> {
    BTreeMap::from([(reason.to_owned(), 1)])
}

#[test]
fn each_bad_frame_moves_exactly_its_counter() {
    let lab = Lab::new();
    let node = Node::start(&lab, "gw-11", 11, &gateway(11, &[]));
    let (pod, other) = (node.add_pod("pod"), node.add_pod("other"));
    let (mac, gateway) = (pod.namespace().mac("eth0"), MacAddr::GATEWAY);
    let to = SocketAddr::new(other.v4().into(), 9);
    let to6 = SocketAddr::new(other.v6().into(), 9);
    let from = SocketAddr::new(pod.v4().into(), 9);
    let good = udp_packet(from, to, 64, b"good");
    let good6 = udp_packet(SocketAddr::new(pod.v6().into(), 9), to6, 64, b"good");
    let changed = |packet: &[u8], change: &dyn Fn(&mut Vec<u8>)| {
        let mut packet = packet.to_vec();
        change(&mut packet);
        packet
    };
    let as_other = udp_packet(to, SocketAddr::new(pod.v4().into(), 9), 64, b"it is me");
    let as_other6 = udp_packet("[fd00:20:11::99]:9".parse().unwrap(), to6, 64, b"it is me");
    let dhcp =
        udp_packet("0.0.0.0:68".parse().unwrap(), "255.255.255.255:67".parse().unwrap(), 64, &[1; 240]);
    let loopback = udp_packet(from, "127.0.0.1:9".parse().unwrap(), 64, b"home");
    let tagged = [&[0, 5, 8, 0], &good[..]].concat();
    let cases = [
        ("another's MAC address", ethernet(gateway, MacAddr([2, 0, 0, 0, 0, 9]), IPV4, &good), "spoofed-mac"),
        ("another's IPv4 address", ethernet(gateway, mac, IPV4, &as_other), "spoofed-source"),
        ("another's IPv6 address", ethernet(gateway, mac, IPV6, &as_other6), "spoofed-source"),
        (
            "a frame for another MAC",
            ethernet(MacAddr([2, 0, 0, 0, 0, 9]), mac, IPV4, &good),
            "not-to-gateway",
        ),
        ("a VLAN tag", ethernet(gateway, mac, 0x8100, &tagged), "vlan"),
        ("an unknown protocol", ethernet(gateway, mac, 0x88cc, &[0; 46]), "unknown-ethertype"),
        ("half an IPv4 header", ethernet(gateway, mac, IPV4, &good[..10]), "truncated-ip"),
        ("half an IPv6 header", ethernet(gateway, mac, IPV6, &good6[..30]), "truncated-ip"),
        ("IPv6 that says it is IPv4", ethernet(gateway, mac, IPV4, &good6), "bad-ip-version"),
        (
            "a lying total length",
            ethernet(gateway, mac, IPV4, &changed(&good, &|packet| packet[2..4].fill(0x7f))),
            "bad-ip-length",
        ),
        (
            "a lying payload length",
            ethernet(gateway, mac, IPV6, &changed(&good6, &|packet| packet[4..6].fill(0x7f))),
            "bad-ip-length",
        ),
        (
            "a wrong header checksum",
            ethernet(gateway, mac, IPV4, &changed(&good, &|packet| packet[10] ^= 0xff)),
            "bad-ip-checksum",
        ),
        ("a DHCP request", ethernet(BROADCAST, mac, IPV4, &dhcp), "dhcp"),
        ("a packet to loopback", ethernet(gateway, mac, IPV4, &loopback), "martian-destination"),
        ("half an ARP request", ethernet(BROADCAST, mac, ARP, &[0, 1, 8, 0, 6, 4, 0, 1]), "malformed-arp"),
    ];
    for (what, frame, reason) in cases {
        let seen = node.faults_of(reason, || send_frame(pod.namespace(), "eth0", &frame).unwrap());
        assert_eq!(seen, only(reason), "{what}");
    }
    assert_eq!(Probe::default().send(pod.namespace(), other.v4().into()), Answer::Reply);
    assert_eq!(Probe::default().send(pod.namespace(), other.v6().into()), Answer::Reply);
}

#[test]
fn the_gateway_answers_for_every_address_but_the_workloads_own() {
    let lab = Lab::new();
    let node = Node::start(&lab, "gw-11", 11, &gateway(11, &[]));
    let pod = node.add_pod("pod");
    let mac = pod.namespace().mac("eth0");
    let capture = Capture::start(pod.namespace(), "eth0");
    let answered = |frame: &[u8], answer: &[u8]| {
        send_frame(pod.namespace(), "eth0", frame).unwrap();
        wait_for("the gateway's answer", PATIENCE, || {
            let frames = capture.frames();
            let from_gateway = |frame: &&Vec<u8>| frame.get(6..12) == Some(&MacAddr::GATEWAY.0[..]);
            let holds = |frame: &Vec<u8>| frame.windows(answer.len()).any(|window| window == answer);
            if frames.iter().filter(from_gateway).any(holds) { Ok(()) } else { Err(frames) }
        });
    };
    for target in ["169.254.1.1", "10.20.11.77", "8.8.8.8"] {
        let target: Ipv4Addr = target.parse().unwrap();
        let request = ethernet(BROADCAST, mac, ARP, &arp_request(mac, pod.v4(), target));
        // An ARP reply: the gateway's MAC address, then the target.
        let answer = [&[0, 2][..], &MacAddr::GATEWAY.0, &target.octets()].concat();
        answered(&request, &answer);
    }
    for target in ["fe80::1", "fd00:20:11::77", "2001:db8:1::1"] {
        let target = target.parse().unwrap();
        let request = neighbour_solicitation(mac, pod.v6(), target);
        let request = ethernet(MacAddr([0x33, 0x33, 0xff, 0, 0, 1]), mac, IPV6, &request);
        // A neighbour advertisement's target, then its option with the gateway's MAC address.
        let answer = [&target.octets()[..], &[2, 1], &MacAddr::GATEWAY.0].concat();
        answered(&request, &answer);
    }
    let own = ethernet(BROADCAST, mac, ARP, &arp_request(mac, pod.v4(), pod.v4()));
    let seen = node.faults_of("neighbor-announced", || send_frame(pod.namespace(), "eth0", &own).unwrap());
    assert_eq!(seen, only("neighbor-announced"));
}
