//! What gets compared: pairs of "pods", joined by us. What others join is in [`peers`](crate::peers).
//!
//! ```text
//!   pod a ── node a ══ one veth pair, MTU 1500 ══ node b ── pod b          or: pod a ── node ── pod b
//! ```

use std::any::Any;
use std::net::IpAddr;
use std::path::Path;
use std::process::Command;

use vrouter_tests::config::{AgentConfig, Vrf};
use vrouter_tests::lab::{Lab, underlay_v4};
use vrouter_tests::netns::Namespace;
use vrouter_tests::node::Node;
use vrouter_tests::process::run_ok;

use crate::throughput::Scene;

/// Names in the tables.
pub(crate) const UDP: &str = "udp";
pub(crate) const GRE: &str = "gre";
pub(crate) const OURS: &str = "ours";
pub(crate) const VXLAN: &str = "vxlan";
pub(crate) const FORWARD: &str = "forward";
pub(crate) const DIRECT: &str = "veth";
pub(crate) const OVS: &str = "ovs";

/// Two ends that reach each other.
pub(crate) struct Contender {
    /// What it is called in the table.
    pub(crate) name: String,
    /// Whether it is an agent of ours.
    pub(crate) is_ours: bool,
    /// Where traffic begins.
    pub(crate) source: Namespace,
    /// Where it ends.
    pub(crate) sink: Namespace,
    /// The sink's address.
    pub(crate) to: IpAddr,
    /// Processes that carry it.
    pub(crate) daemons: Vec<u32>,
    /// What has to live as long as the contender.
    pub(crate) _keep: Box<dyn Any>,
}

/// Our agents, pods through our CNI plugin: on two nodes, or both on one.
pub(crate) fn ours(
    lab: &Lab,
    name: String,
    hosts: [u8; 2],
    encapsulation: &str,
    scene: Scene,
    agent: Option<&Path>,
) -> Contender {
    let [a, b] = hosts;
    let prepare = |own: u8, other: u8| {
        let config = AgentConfig::new(65000)
            .encapsulations(&[encapsulation])
            .neighbor(underlay_v4(other).into())
            .vrf(&Vrf::new("bench", "target:65000:1").pods(&format!("10.77.{own}.0/24")).default());
        // Not by its name, which may be longer than an interface's.
        let mut node = Node::prepare(lab, &format!("gw-{own}"), own, &config);
        if let Some(agent) = agent {
            node.set_program(agent);
        }
        node
    };
    let mut nodes =
        if scene == Scene::Node { vec![prepare(a, b)] } else { vec![prepare(a, b), prepare(b, a)] };
    if let [one, two] = &nodes[..] {
        wire(one.namespace(), a, two.namespace(), b);
        set_features([one.namespace(), two.namespace()], scene);
    }
    nodes.iter_mut().for_each(Node::start_agent);
    let last = nodes.len() - 1;
    let pods = [nodes[0].add_pod("source"), nodes[last].add_pod("sink")];
    let to = pods[1].v4();
    if last > 0 {
        nodes[0].wait_route("bench", &format!("{to}/32"));
        nodes[1].wait_route("bench", &format!("{}/32", pods[0].v4()));
    }
    verify_checksums(pods[1].namespace());
    Contender {
        name,
        is_ours: true,
        source: pods[0].namespace().clone(),
        sink: pods[1].namespace().clone(),
        to: to.into(),
        daemons: nodes.iter().map(Node::pid).collect(),
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

/// Switches offloads of both ends of an underlay.
pub(crate) fn set_features(nodes: [&Namespace; 2], scene: Scene) {
    for node in nodes {
        if !scene.features().is_empty() {
            run_ok(node, Command::new("ethtool").args(["-K", "eth0"]).args(scene.features()));
        }
    }
}

/// The receiving end checks every checksum itself, so that none stays unfinished unnoticed.
pub(crate) fn verify_checksums(sink: &Namespace) {
    run_ok(sink, Command::new("ethtool").args(["-K", "eth0", "rx", "off"]));
}
