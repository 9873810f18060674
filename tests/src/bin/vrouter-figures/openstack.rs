//! A thousand machines plugged in one array, in one VRF and in a thousand: how long, and what it costs. What bagpipe 17.0
//! needed for the same, one call after the other, with a driver that forwards nothing: 2.4 to 5.8 s in one VRF, 12.2 s in
//! a thousand, 181 MB, 1,008 threads, 4,417 descriptors.

use std::time::Instant;

use serde_json::{Value, json};
use vrouter_tests::config::AgentConfig;
use vrouter_tests::gobgp::{GoBgp, GoBgpPeer};
use vrouter_tests::lab::{Lab, underlay_v4};
use vrouter_tests::node::Node;
use vrouter_tests::openstack::{Port, vpn_api, with_openstack};
use vrouter_tests::wait::{PATIENCE, wait_until};

use crate::lifecycle::resident;
use crate::report::Figures;

const ASN: u32 = 64512;
const PORTS: u16 = 1_000;

/// With taps that are there, and are opened, and without, which is what bagpipe's figure is for.
pub(crate) fn measure(figures: &mut Figures) {
    for with_taps in [false, true] {
        for instances in [1, PORTS] {
            plug(figures, with_taps, instances);
        }
    }
}

fn plug(figures: &mut Figures, with_taps: bool, instances: u16) {
    let lab = Lab::new();
    let gobgp =
        GoBgp::start(&lab, "gobgp", 1, ASN, &[GoBgpPeer::client_without_rtc(underlay_v4(12).into(), ASN)]);
    let config = AgentConfig::new(ASN).neighbor(gobgp.address());
    let node = Node::start(&lab, "hv", 12, &with_openstack(config, &lab.path("ports")));
    node.wait_established(gobgp.address());
    if with_taps {
        (0..PORTS).for_each(|n| node.namespace().add_tap(&Port::new(n).tap));
    }
    let instance = |n: u16| n % instances;
    let attach =
        |n| Port::new(n).attach(&format!("i{}", instance(n)), &format!("64512:{}", 1000 + instance(n)));
    let all: Vec<Value> = (0..PORTS).map(attach).collect();
    let (idle, descriptors) = (resident(&node), files(&node));
    let begin = Instant::now();
    vpn_api(node.namespace(), "POST", "/attach_localport", Some(&json!(all))).ok();
    let answered = begin.elapsed();
    let taps = if with_taps { "with taps" } else { "no taps" };
    let what = format!("{PORTS} ports, {instances} VRFs, {taps}");
    figures.single(&format!("{what}: attached"), answered.as_secs_f64(), "s");
    if with_taps {
        wait_until("all routes at GoBGP", PATIENCE, || {
            gobgp.cli("global rib summary -a vpnv4").contains(&format!("Destination: {PORTS}"))
        });
        figures.single(&format!("{what}: at the reflector"), begin.elapsed().as_secs_f64(), "s");
    }
    figures.single(&format!("{what}: resident memory"), resident(&node), "MB");
    figures.single(&format!("{what}: beyond idle"), resident(&node) - idle, "MB");
    figures.single(&format!("{what}: threads"), threads(&node), "");
    figures.single(&format!("{what}: further descriptors"), files(&node) - descriptors, "");
    let gone: Vec<Value> = (0..PORTS).map(|n| Port::new(n).detach(&format!("i{}", instance(n)))).collect();
    let begin = Instant::now();
    vpn_api(node.namespace(), "POST", "/detach_localport", Some(&json!(gone))).ok();
    figures.single(&format!("{what}: detached"), begin.elapsed().as_secs_f64(), "s");
}

fn files(node: &Node) -> f64 {
    std::fs::read_dir(format!("/proc/{}/fd", node.pid())).map(Iterator::count).unwrap_or_default() as f64
}

fn threads(node: &Node) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", node.pid())).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("Threads:")).unwrap_or_default();
    line.trim().parse().unwrap_or_default()
}
