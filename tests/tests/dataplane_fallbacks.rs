//! Kernels that lack an offload, or have it switched off: everything still passes, octet by octet, and `show tunnels`
//! names what is done instead.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

use std::net::{SocketAddr, UdpSocket};
use std::process::Command;
use std::time::Duration;

use vrouter_tests::bulk::{expected, transfer};
use vrouter_tests::fixture::{gateway, pair_with, wait_routes};
use vrouter_tests::process::{run, run_ok};
use vrouter_tests::{Capture, Lab, Node, Pod};

const OCTETS: u64 = 2 << 20;
const DATAGRAMS: u32 = 200;

/// TCP both ways, and datagrams that a kernel may hand over as one.
fn traffic(near: &Pod, far: &Pod) {
    for (from, to) in [(near, far), (far, near)] {
        for address in to.addresses() {
            let there = SocketAddr::new(address, 5000);
            let arrived = transfer(from.namespace(), to.namespace(), there, OCTETS).unwrap();
            assert_eq!((arrived.octets, arrived.digest), expected(OCTETS), "to {address}");
        }
        datagrams(from, to);
    }
}

fn datagrams(from: &Pod, to: &Pod) {
    let sink = to.namespace().run(|| UdpSocket::bind((to.v4(), 6000))).unwrap();
    sink.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let source = from.namespace().run(|| UdpSocket::bind("0.0.0.0:0")).unwrap();
    source.connect((to.v4(), 6000)).unwrap();
    let mut next = 0;
    while next < DATAGRAMS {
        // So few at once that no queue is full.
        for number in next..next + 20 {
            source.send(&[&number.to_be_bytes()[..], &[0x5a; 700]].concat()).unwrap();
        }
        for number in next..next + 20 {
            let mut datagram = [0; 1500];
            let count = sink.recv(&mut datagram).unwrap();
            assert_eq!((count, datagram[..4].to_vec()), (704, number.to_be_bytes().to_vec()));
        }
        next += 20;
    }
}

fn offloads(node: &Node) -> Vec<String> {
    let tunnels = node.ctl_json(&["show", "tunnels"]);
    let lines = tunnels["offloads"].as_array().cloned().unwrap_or_default();
    lines.iter().filter_map(|line| line.as_str().map(str::to_owned)).collect()
}

/// Two nodes of which the first, or both, go without something; what the first says of it.
fn scene(lab: &Lab, encapsulation: &str, without: [&str; 2]) -> (Node, Node, Pod, Pod) {
    let config = |own, other, lines: &str| {
        gateway(own, &[other]).encapsulations(&[encapsulation]).section(&format!("[dataplane]\n{lines}"))
    };
    let (one, two) = pair_with(lab, &config(11, 12, without[0]), &config(12, 11, without[1]));
    let (near, far) = (one.add_pod("near"), two.add_pod("far"));
    wait_routes(&one, &far.addresses());
    wait_routes(&two, &near.addresses());
    (one, two, near, far)
}

#[test]
fn a_kernel_without_any_offload_carries_everything_and_says_how() {
    let lab = Lab::new();
    let nothing = "without = [\"udp-segmentation\", \"udp-coalescing\", \"udp-superframes\", \"gre-frames\", \"nftables\"]";
    let (one, two, near, far) = scene(&lab, "mpls-over-udp", [nothing, ""]);
    traffic(&near, &far);
    let (lacking, having) = (offloads(&one), offloads(&two));
    for line in [
        "ports: no UDP superframes, datagrams pass one by one",
        "underlay: no UDP segmentation, each datagram is sent by itself",
        "underlay: no UDP coalescing, datagrams are joined across a batch",
    ] {
        assert!(lacking.iter().any(|other| other == line), "{line:?} is not in {lacking:#?}");
    }
    for line in ["ports: UDP superframes", "underlay: UDP segmentation", "underlay: UDP coalescing"] {
        assert!(having.iter().any(|other| other == line), "{line:?} is not in {having:#?}");
        assert!(!lacking.iter().any(|other| other == line), "{line:?} is in {lacking:#?}");
    }
    let rules = run(one.namespace(), Command::new("nft").args(["list", "tables"]));
    assert!(
        !String::from_utf8_lossy(&rules.stdout).contains("netdev vrouter"),
        "nftables was not to be used"
    );
    let text = one.ctl(&["show", "tunnels"]);
    assert!(text.contains("no UDP segmentation"), "{text}");
}

#[test]
fn each_offload_can_be_missing_alone() {
    for name in ["udp-segmentation", "udp-coalescing", "udp-superframes", "nftables"] {
        let lab = Lab::new();
        let without = format!("without = [\"{name}\"]");
        let (one, _two, near, far) = scene(&lab, "mpls-over-udp", [&without, &without]);
        traffic(&near, &far);
        assert!(!one.faults().contains_key("send-failed"), "{name}: {:?}", one.faults());
    }
}

#[test]
fn a_way_out_that_refuses_to_segment_is_noticed_while_packets_flow() {
    let lab = Lab::new();
    let (one, two, near, far) = scene(&lab, "mpls-over-udp", ["", ""]);
    for node in [&one, &two] {
        let off = ["-K", "eth0", "tso", "off", "gso", "off", "tx", "off", "gro", "off"];
        run_ok(node.namespace(), Command::new("ethtool").args(off));
    }
    traffic(&near, &far);
}

#[test]
fn flows_leave_by_as_many_source_ports_as_the_operator_says() {
    for (count, few) in [(1, true), (8, false)] {
        let lab = Lab::new();
        let lines = format!("entropy-ports = {count}");
        let (one, _two, near, far) = scene(&lab, "mpls-over-udp", [&lines, ""]);
        let capture = Capture::start(one.namespace(), "eth0");
        let sources: Vec<_> =
            (0..64).map(|_| near.namespace().run(|| UdpSocket::bind("0.0.0.0:0")).unwrap()).collect();
        let sink = far.namespace().run(|| UdpSocket::bind((far.v4(), 7000))).unwrap();
        sink.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        for source in &sources {
            for _ in 0..3 {
                source.send_to(b"which port?", (far.v4(), 7000)).unwrap();
                sink.recv(&mut [0; 100]).unwrap();
            }
        }
        let frames = capture.frames();
        let tunnel = frames
            .iter()
            .filter(|frame| frame[12..14] == [8, 0] && frame[23] == 17 && frame[36..38] == [0x19, 0xeb]);
        let mut ports = std::collections::BTreeSet::new();
        // Inner source port by outer source port: a flow has one.
        let mut flows = std::collections::BTreeMap::new();
        for frame in tunnel.filter(|frame| frame.len() >= 14 + 28 + 4 + 28 && frame[46 + 9] == 17) {
            let port = u16::from_be_bytes([frame[34], frame[35]]);
            let flow = u16::from_be_bytes([frame[66], frame[67]]);
            assert!(port >= 49_152, "{port}");
            assert_eq!(*flows.entry(flow).or_insert(port), port, "flow {flow} changed its way");
            ports.insert(port);
        }
        assert!(flows.len() >= 64, "{} flows seen", flows.len());
        assert!(ports.len() <= count && (few || ports.len() > count / 2), "{ports:?} of {count}");
    }
}
