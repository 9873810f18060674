//! Sizes of the programs, memory of the agent, and what a CNI ADD costs beside the reference plugins'.

mod add;

use vrouter_tests::binaries::binary;
use vrouter_tests::config::{AgentConfig, Vrf};
use vrouter_tests::lab::Lab;
use vrouter_tests::node::Node;

pub(crate) use add::add_latency;

use crate::report::Figures;

/// Sizes of the three programs, as released.
pub(crate) fn sizes(figures: &mut Figures) {
    for name in ["vrouter-agent", "vrouterctl", "vrouter-cni"] {
        let size = std::fs::metadata(binary(name)).map(|meta| meta.len()).unwrap_or_default();
        figures.single(&format!("{name}: size"), size as f64 / 1e6, "MB");
    }
}

/// The agent's resident memory, idle and with fifty ports.
pub(crate) fn memory(figures: &mut Figures) {
    let lab = Lab::new();
    let node = node(&lab, 31);
    figures.single("agent: resident memory, idle", resident(&node), "MB");
    let pods: Vec<_> = (0..50).map(|n| node.add_pod(&format!("p{n}"))).collect();
    figures.single("agent: resident memory, 50 ports", resident(&node), "MB");
    drop(pods);
}

fn node(lab: &Lab, host: u8) -> Node {
    let vrf = Vrf::new("bench", "target:65000:1").pods("10.77.0.0/16").default();
    Node::start(lab, "figures", host, &AgentConfig::new(65000).vrf(&vrf))
}

pub(crate) fn resident(node: &Node) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", node.pid())).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default();
    let kilobytes: f64 =
        line.split_whitespace().next().and_then(|word| word.parse().ok()).unwrap_or_default();
    kilobytes / 1e3
}
