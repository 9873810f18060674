//! What gets compared: pairs of "pods" on two nodes, joined by our tunnels or by the kernel's VXLAN.
//!
//! ```text
//!   pod a ── node a ══ one veth pair, MTU 1500 ══ node b ── pod b
//! ```

use std::any::Any;
use std::net::{IpAddr, Ipv4Addr};
use std::process::Command;

use vrouter_tests::config::{AgentConfig, Vrf};
use vrouter_tests::lab::{Lab, underlay_v4};
use vrouter_tests::netns::Namespace;
use vrouter_tests::node::Node;
use vrouter_tests::process::run_ok;

/// Two ends that reach each other.
pub(crate) struct Contender {
    /// What it is called in the table.
    pub(crate) name: &'static str,
    /// Where traffic begins.
    pub(crate) source: Namespace,
    /// Where it ends.
    pub(crate) sink: Namespace,
    /// The sink's address.
    pub(crate) to: IpAddr,
    /// What has to live as long as the contender.
    _keep: Box<dyn Any>,
}

/// Our agents on both nodes, pods through our CNI plugin.
pub(crate) fn ours(lab: &Lab, name: &'static str, hosts: [u8; 2], encapsulation: &str) -> Contender {
    let [a, b] = hosts;
    let prepare = |own: u8, other: u8| {
        let config = AgentConfig::new(65000)
            .encapsulations(&[encapsulation])
            .neighbor(underlay_v4(other).into())
            .vrf(&Vrf::new("bench", "target:65000:1").pods(&format!("10.77.{own}.0/24")).default());
        Node::prepare(lab, &format!("{name}-{own}"), own, &config)
    };
    let mut nodes = [prepare(a, b), prepare(b, a)];
    wire(nodes[0].namespace(), a, nodes[1].namespace(), b);
    nodes.iter_mut().for_each(Node::start_agent);
    let pods = [nodes[0].add_pod("source"), nodes[1].add_pod("sink")];
    let to = pods[1].v4();
    nodes[0].wait_route("bench", &format!("{to}/32"));
    nodes[1].wait_route("bench", &format!("{}/32", pods[0].v4()));
    verify_checksums(pods[1].namespace());
    Contender {
        name,
        source: pods[0].namespace().clone(),
        sink: pods[1].namespace().clone(),
        to: to.into(),
        _keep: Box::new((pods, nodes)),
    }
}

/// Replaces what joins two sites by one veth pair, so that no bridge is measured.
fn wire(a: &Namespace, a_host: u8, b: &Namespace, b_host: u8) {
    for node in [a, b] {
        node.netlink(|netlink| netlink.delete_link("eth0"));
    }
    a.add_veth("eth0", b, "eth0");
    a.add_address("eth0", underlay_v4(a_host).into(), 24);
    b.add_address("eth0", underlay_v4(b_host).into(), 24);
}

/// The kernel's VXLAN between two nodes that forward between it and their pod.
pub(crate) fn kernel_vxlan(lab: &Lab) -> Contender {
    let nodes = [lab.namespace("vxlan-a"), lab.namespace("vxlan-b")];
    let pods = [lab.namespace("vxlan-pod-a"), lab.namespace("vxlan-pod-b")];
    nodes[0].add_veth("eth0", &nodes[1], "eth0");
    for (own, (node, pod)) in nodes.iter().zip(&pods).enumerate() {
        let (own, other) = (own + 1, 2 - own);
        node.add_veth("pod", pod, "eth0");
        node.set_sysctl("net/ipv4/ip_forward", "1");
        ip(node, &format!("addr add 192.0.2.{own}/24 dev eth0"));
        ip(node, &format!("addr add 10.78.{own}.1/24 dev pod"));
        ip(
            node,
            &format!(
                "link add vx type vxlan id 7 local 192.0.2.{own} remote 192.0.2.{other} dstport 4789 dev eth0"
            ),
        );
        ip(node, &format!("addr add 10.79.0.{own}/24 dev vx"));
        ip(node, "link set vx up");
        ip(node, &format!("route add 10.78.{other}.0/24 via 10.79.0.{other}"));
        ip(pod, &format!("addr add 10.78.{own}.2/24 dev eth0"));
        ip(pod, "link set eth0 mtu 1450");
        ip(pod, &format!("route add default via 10.78.{own}.1"));
    }
    verify_checksums(&pods[1]);
    let [source, sink] = pods;
    Contender {
        name: "kernel VXLAN",
        source,
        sink,
        to: Ipv4Addr::new(10, 78, 2, 2).into(),
        _keep: Box::new(nodes),
    }
}

/// The receiving end checks every checksum itself, so that none stays unfinished unnoticed.
fn verify_checksums(sink: &Namespace) {
    run_ok(sink, Command::new("ethtool").args(["-K", "eth0", "rx", "off"]));
}

fn ip(namespace: &Namespace, words: &str) {
    run_ok(namespace, Command::new("ip").args(words.split(' ')));
}
