//! Superframes that are longer than a header can tell (BIG TCP): pods send them wherever the kernel has them, and
//! what they carry arrives whole on every way that a packet can take.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use vrouter_tests::binaries::binary;
use vrouter_tests::bulk::{Arrived, fetch};
use vrouter_tests::capture::Pcap;
use vrouter_tests::fixture::{ASN, city, gateway, pair_with, vrf, wait_routes};
use vrouter_tests::lab::underlay;
use vrouter_tests::process::run_ok;
use vrouter_tests::vm::Machine;
use vrouter_tests::{AgentConfig, Lab, Namespace, Node, PATIENCE, Pod, bulk, transfer, wait_until};
use vrouter_types::MacAddr;

const OCTETS: u64 = 64 << 20;
const PORT: u16 = 5001;
/// The longest superframe, and what a header can tell.
const LONGEST: u32 = 245_760;
const TELLABLE: u64 = 65_535;
const ETHERNET: u64 = 14;

/// Whether the kernel lets this pod send long superframes.
fn sends_long(pod: &Pod) -> bool {
    let set = pod.namespace().netlink(|netlink| netlink.superframes("eth0"));
    if set.ipv4.is_none() {
        eprintln!(
            "SKIPPED: this kernel has no IPv4 superframes longer than a header can tell (Linux 6.3 has)"
        );
    }
    set.ipv4.is_some()
}

/// The first frames of a stream: fewer than it has, in superframes however long.
const FIRST: [&str; 4] = ["--snaplen", "96", "--count", "200"];

/// What the agent sees of a stream at a pod's interface.
struct Watch {
    child: Child,
    file: PathBuf,
}

impl Watch {
    fn start(lab: &Lab, node: &Node, pod: &Pod, words: &[&str]) -> Watch {
        let interface = pod.host_interface();
        let file = lab.path(&format!("{interface}.pcapng"));
        let mut command = Command::new(binary("vrouterctl"));
        command.arg("--socket").arg(node.socket()).args(["capture", &interface]).args(words);
        command.args(["--filter", &format!("tcp and port {PORT}"), "--seconds", "60"]);
        let child = command.arg("-w").arg(&file).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        wait_until("the capture to begin", PATIENCE, || fs::metadata(&file).is_ok_and(|file| file.len() > 0));
        Watch { child, file }
    }

    fn end(mut self) -> Pcap {
        assert!(self.child.wait().unwrap().success());
        Pcap::read(&self.file)
    }

    /// How long the longest frame was.
    fn longest(self) -> u64 {
        let rows = self.end().fields("tcp", &["frame.len"]);
        let lengths: Vec<u64> = rows.iter().map(|row| row[0].parse().unwrap()).collect();
        let (long, longest) =
            (lengths.iter().filter(|len| **len > TELLABLE + ETHERNET).count(), lengths.iter().max());
        eprintln!("{long} of {} frames longer than {TELLABLE}, the longest {longest:?}", lengths.len());
        *longest.expect("frames were seen")
    }
}

/// Runs a stream that the pod sends, and demands that all of it arrives, in superframes longer than a header can tell
/// where the kernel has them, and that nothing is lost by a name that would speak of them.
fn arrives(lab: &Lab, node: &Node, pod: &Pod, stream: impl FnOnce() -> io::Result<Arrived>) {
    let watch = Watch::start(lab, node, pod, &[&["--direction", "in"], &FIRST[..]].concat());
    let arrived = stream().unwrap_or_else(|error| panic!("{error}; drops: {:?}", node.drops()));
    assert_eq!((arrived.octets, arrived.digest), bulk::expected(OCTETS));
    let longest = watch.longest();
    assert!(longest > TELLABLE + ETHERNET || !sends_long(pod), "the agent got none longer than {longest}");
    assert!(longest <= u64::from(LONGEST) + ETHERNET);
    assert_lossless(node);
}

fn assert_lossless(node: &Node) {
    let drops = node.drops();
    for reason in [
        "truncated-receive",
        "unknown-offload",
        "segment-failed",
        "bad-offload",
        "bad-ip-length",
        "send-failed",
    ] {
        assert!(!drops.contains_key(reason), "{drops:?}");
    }
}

fn at(address: impl Into<IpAddr>) -> SocketAddr {
    SocketAddr::new(address.into(), PORT)
}

#[test]
fn a_pod_may_send_superframes_as_long_as_the_agent_takes_them() {
    let lab = Lab::new();
    let node = Node::start(&lab, "gw-11", 11, &gateway(11, &[]));
    let pod = node.add_pod("pod");
    let set = pod.namespace().netlink(|netlink| netlink.superframes("eth0"));
    assert!(matches!(set.size, Some(61_440 | LONGEST)), "{set:?}");
    assert_eq!(set.segments, Some(2000));
    // IPv6 had them first.
    assert!(!sends_long(&pod) || (set.size, set.ipv4) == (Some(LONGEST), Some(LONGEST)), "{set:?}");
    // What ADD sets is not what CHECK or a restart of the agent would mind.
    pod.check().unwrap();
}

fn between_nodes(order: &[&str]) {
    let lab = Lab::new();
    let (one, two) =
        pair_with(&lab, &gateway(11, &[12]).encapsulations(order), &gateway(12, &[11]).encapsulations(order));
    let (near, far) = (one.add_pod("near"), two.add_pod("far"));
    wait_routes(&one, &far.addresses());
    wait_routes(&two, &near.addresses());
    let hops = one.wait_route("city", &format!("{}/32", far.v4()));
    assert_eq!(hops[0]["encapsulation"], order[0]);
    for address in far.addresses() {
        arrives(&lab, &one, &near, || transfer(near.namespace(), far.namespace(), at(address), OCTETS));
    }
    assert_lossless(&two);
}

#[test]
fn they_cross_a_tunnel_over_udp() {
    between_nodes(&["mpls-over-udp"]);
}

#[test]
fn they_cross_a_tunnel_over_gre() {
    between_nodes(&["mpls-over-gre"]);
}

#[test]
fn they_reach_a_pod_of_the_same_node() {
    let lab = Lab::new();
    let node = Node::start(&lab, "gw-11", 11, &gateway(11, &[]));
    let (one, two) = (node.add_pod("one"), node.add_pod("two"));
    for address in two.addresses() {
        let out = Watch::start(&lab, &node, &two, &[&["--direction", "out"], &FIRST[..]].concat());
        arrives(&lab, &node, &one, || transfer(one.namespace(), two.namespace(), at(address), OCTETS));
        let longest = out.longest();
        assert!((TELLABLE / 2..=TELLABLE + ETHERNET).contains(&longest), "{longest} octets towards a pod");
    }
}

#[test]
fn they_are_captured_whole() {
    let lab = Lab::new();
    let node = Node::start(&lab, "gw-11", 11, &gateway(11, &[]));
    let (one, two) = (node.add_pod("one"), node.add_pod("two"));
    let watch = Watch::start(&lab, &node, &one, &["--direction", "in", "--count", "40"]);
    transfer(one.namespace(), two.namespace(), at(two.v4()), OCTETS).unwrap();
    let pcap = watch.end();
    let rows = pcap.fields("tcp", &["frame.len", "frame.cap_len"]);
    assert!(rows.iter().all(|row| row[0] == row[1]), "{rows:?}");
    let longest: u64 = rows.iter().map(|row| row[0].parse().unwrap()).max().unwrap();
    assert!(longest > TELLABLE + ETHERNET || !sends_long(&one), "none longer than {longest}");
    assert_eq!(pcap.malformed(), [""; 0]);
}

#[test]
fn they_reach_the_host_that_asked_for_them_and_the_host_that_is_open() {
    let lab = Lab::new();
    let closed = vrf("closed", "target:4200000000:7", 70, 11);
    let node = Node::start(&lab, "gw-11", 11, &AgentConfig::new(ASN).vrf(&city(11)).vrf(&closed));
    let pod = node.add_pod_in("closed", "closed");
    for address in pod.addresses() {
        arrives(&lab, &node, &pod, || fetch(node.namespace(), pod.namespace(), at(address), OCTETS));
    }
    let pod = node.add_pod("open");
    let gateway: IpAddr = "169.254.1.1".parse().unwrap();
    arrives(&lab, &node, &pod, || transfer(pod.namespace(), node.namespace(), at(gateway), OCTETS));
}

#[test]
fn they_leave_with_the_nodes_address() {
    let lab = Lab::new();
    let node = Node::start(&lab, "gw-11", 11, &AgentConfig::new(ASN).vrf(&city(11).line("snat = true")));
    let server = lab.site("server", 99);
    let pod = node.add_pod("pod");
    arrives(&lab, &node, &pod, || transfer(pod.namespace(), &server, at(underlay(99)[0]), OCTETS));
}

#[test]
fn they_pass_a_security_group_that_tracks_their_flow() {
    let lab = Lab::new();
    let node = Node::start(&lab, "gw-11", 11, &gateway(11, &[]));
    let groups = lab.path("groups.json");
    let rule = format!(
        r#"{{"direction": "ingress", "family": "ipv4", "protocol": "tcp", "portMin": {PORT}, "portMax": {PORT}}}"#
    );
    fs::write(&groups, format!(r#"{{"name": "sink", "rules": [{rule}]}}"#)).unwrap();
    node.ctl(&["security-group", "set", groups.to_str().unwrap()]);
    let machine = Machine::plug(&lab, &node, "sink", MacAddr([0x52, 0x54, 0, 0, 0, 2]));
    machine.add_port(&node, &["--vrf", "city", "--address", "10.50.0.2", "--security-group", "sink"]);
    configure(machine.namespace());
    let pod = node.add_pod("pod");
    let to: IpAddr = "10.50.0.2".parse().unwrap();
    arrives(&lab, &node, &pod, || transfer(pod.namespace(), machine.namespace(), at(to), OCTETS));
    let flows = node.ctl_json(&["show", "flows", "--vrf", "city"]);
    assert!(flows["flows"].to_string().contains("10.50.0.2"), "{flows:#}");
    assert!(transfer(pod.namespace(), machine.namespace(), SocketAddr::new(to, PORT + 1), 1).is_err());
}

/// As a machine of one address is configured.
fn configure(inside: &Namespace) {
    for words in [
        "address add 10.50.0.2/32 dev eth0",
        "route add 169.254.1.1 dev eth0",
        "route add default via 169.254.1.1 dev eth0 mtu 1468",
    ] {
        run_ok(inside, Command::new("ip").args(words.split(' ')));
    }
}

/// Two pods on two nodes, both limited to 400 Mbit/s after this many bits.
fn limited(lab: &Lab, burst: u64) -> [(Node, Pod); 2] {
    let (one, two) = pair_with(lab, &gateway(11, &[12]), &gateway(12, &[11]));
    let near = one.pod("near").bandwidth(400_000_000, burst).add();
    let far = two.pod("far").bandwidth(400_000_000, burst).add();
    wait_routes(&one, &far.addresses());
    wait_routes(&two, &near.addresses());
    [(one, near), (two, far)]
}

#[test]
fn they_pass_a_limit_of_the_pods_bandwidth() {
    let lab = Lab::new();
    let [(one, near), (two, far)] = limited(&lab, 8_000_000);
    arrives(&lab, &one, &near, || transfer(near.namespace(), far.namespace(), at(far.v4()), OCTETS));
    assert_lossless(&two);
}

#[test]
fn they_pass_a_limit_whose_burst_is_shorter_than_themselves() {
    // The kernel cuts them in front of us.
    let lab = Lab::new();
    let [(one, near), (two, far)] = limited(&lab, 800_000);
    for (from, to, port) in [(&near, &far, PORT), (&far, &near, PORT + 1)] {
        let to_port = SocketAddr::new(to.v4().into(), port);
        let arrived = transfer(from.namespace(), to.namespace(), to_port, OCTETS / 4).unwrap();
        assert_eq!((arrived.octets, arrived.digest), bulk::expected(OCTETS / 4));
    }
    assert_lossless(&one);
    assert_lossless(&two);
}
