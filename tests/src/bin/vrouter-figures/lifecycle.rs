//! Sizes of the programs, memory of the agent, and how long a CNI ADD takes beside `ptp` with `host-local`.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use serde_json::{Value, json};
use vrouter_tests::binaries::binary;
use vrouter_tests::config::{AgentConfig, Vrf};
use vrouter_tests::lab::Lab;
use vrouter_tests::netns::Namespace;
use vrouter_tests::node::Node;

use crate::report::Figures;

/// Where Debian puts the reference plugins.
const REFERENCE_PLUGINS: &str = "/usr/lib/cni";

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

/// Wall time of ADD, whole process, agent included; every pod is deleted again.
pub(crate) fn add_latency(figures: &mut Figures, runs: usize) {
    let lab = Lab::new();
    let node = node(&lab, 32);
    let ours = json!({
        "cniVersion": "1.0.0", "name": "ours", "type": "vrouter-cni",
        "socket": node.socket(), "spool": node.directory().join("state/deletes"),
    });
    let ptp = json!({
        "cniVersion": "1.0.0", "name": "ptp", "type": "ptp",
        "ipam": { "type": "host-local", "dataDir": lab.path("ipam"),
                  "ranges": [[{ "subnet": "10.88.0.0/16" }]], "routes": [{ "dst": "0.0.0.0/0" }] },
    });
    let (plugin, reference) = (binary("vrouter-cni"), Path::new(REFERENCE_PLUGINS).join("ptp"));
    let (mut our_times, mut their_times) = (Vec::new(), Vec::new());
    for run in 0..runs {
        our_times.push(add_and_delete(&lab, &node, &plugin, &ours, &format!("ours{run}")));
        their_times.push(add_and_delete(&lab, &node, &reference, &ptp, &format!("ptp{run}")));
    }
    println!();
    figures.beside("CNI ADD", "ms", &our_times, ("ptp+host-local", &their_times));
}

fn add_and_delete(lab: &Lab, node: &Node, plugin: &Path, conf: &Value, container: &str) -> f64 {
    let pod = lab.namespace(container);
    let begin = Instant::now();
    call(node, plugin, "ADD", conf, container, &pod);
    let time = begin.elapsed();
    call(node, plugin, "DEL", conf, container, &pod);
    time.as_secs_f64() * 1e3
}

fn call(node: &Node, plugin: &Path, verb: &str, conf: &Value, container: &str, pod: &Namespace) {
    let mut command = Command::new(plugin);
    command
        .env("CNI_COMMAND", verb)
        .env("CNI_CONTAINERID", container)
        .env("CNI_NETNS", pod.path())
        .env("CNI_IFNAME", "eth0")
        .env("CNI_PATH", REFERENCE_PLUGINS)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    let child = node.namespace().run(|| command.spawn());
    let mut child = child.unwrap_or_else(|error| panic!("start {}: {error}", plugin.display()));
    if let Some(mut stdin) = child.stdin.take() {
        stdin
            .write_all(conf.to_string().as_bytes())
            .unwrap_or_else(|error| panic!("write to the plugin: {error}"));
    }
    let output = child.wait_with_output().unwrap_or_else(|error| panic!("wait for the plugin: {error}"));
    assert!(
        output.status.success(),
        "{} {verb}: {}",
        plugin.display(),
        String::from_utf8_lossy(&output.stdout)
    );
}
