//! podman with its CNI backend: containers come, are reached, and go without a trace.
#![allow(clippy::unwrap_used, reason = "a test may")]

use std::path::PathBuf;
use std::process::Command;

use serde_json::{Value, json};
use vrouter_tests::binaries::binary;
use vrouter_tests::cni_chain::ours;
use vrouter_tests::cni_run::files_under;
use vrouter_tests::cri::{page, ping};
use vrouter_tests::podman::Podman;
use vrouter_tests::process::run_ok;
use vrouter_tests::{AgentConfig, Lab, Namespace, Node, PATIENCE, Vrf, wait_for};

/// A node whose containers podman makes. Dropped in this order.
struct Edge {
    podman: Podman,
    node: Node,
    outside: Namespace,
    _lab: Lab,
}

impl Edge {
    fn new() -> Option<Edge> {
        let lab = Lab::new();
        let vrf = Vrf::new("city", "target:64512:1").pods("10.20.11.0/24").pods("fd00:20:11::/64").default();
        let node = Node::start(&lab, "gw", 1, &AgentConfig::new(64512).vrf(&vrf));
        let outside = lab.site("outside", 9);
        run_ok(node.namespace(), Command::new("sysctl").args(["-q", "-w", "net.ipv4.ip_forward=1"]));
        let ours = ours(&node.socket(), &node.directory().join("state/deletes"));
        let portmap = json!({ "type": "portmap", "snat": true, "capabilities": { "portMappings": true } });
        let programs = [binary("vrouter-cni")];
        let podman = Podman::new(node.namespace(), &lab.path("podman"), &json!([ours, portmap]), &programs)?;
        Some(Edge { podman, node, outside, _lab: lab })
    }

    fn ports(&self) -> Vec<Value> {
        self.node.ctl_json(&["show", "ports"])["ports"].as_array().cloned().unwrap_or_default()
    }

    fn traces(&self) -> (Vec<String>, Vec<PathBuf>, usize) {
        let links = self.node.namespace().netlink(|netlink| netlink.links());
        let state = files_under(&self.node.directory().join("state/ports"));
        (links.into_iter().map(|link| link.name).collect(), state, self.ports().len())
    }
}

#[test]
fn podmans_containers_are_reached_inside_and_outside_and_go_without_a_trace() {
    let Some(edge) = Edge::new() else { return };
    let before = edge.traces();
    let host_port = (edge.node.address(), 8080).into();
    edge.podman.start("web", &["-p", "8080:80"]).unwrap();
    edge.podman.start("lamp", &[]).unwrap();
    let (web, lamp) = (edge.podman.addresses("web").unwrap(), edge.podman.addresses("lamp").unwrap());
    assert_eq!((web.len(), lamp.len(), edge.ports().len()), (2, 2, 2), "{web:?} {lamp:?}");
    let shown = edge.podman.exec("lamp", &["ip", "addr", "show", "dev", "eth0"]).unwrap();
    assert!(shown.contains(&format!("{}/32", lamp[0])), "{shown}");
    edge.podman.exec("lamp", &["ping", "-c", "3", "-W", "5", &web[0]]).unwrap();
    edge.podman.exec("lamp", &["ping", "-c", "3", "-W", "5", &web[1]]).unwrap();
    for address in web.iter().chain(&lamp) {
        ping(edge.node.namespace(), address).unwrap_or_else(|said| panic!("{address}: {said}"));
    }
    edge.podman.exec("web", &["sh", "-c", "echo served > /index.html; httpd -p 80 -h /"]).unwrap();
    for (from, who) in [(edge.node.namespace(), "the node"), (&edge.outside, "outside")] {
        wait_for(&format!("the page from {who}"), PATIENCE, || match page(from, host_port) {
            Ok(page) if page == "served\n" => Ok(()),
            other => Err(other),
        });
    }
    for name in ["web", "lamp"] {
        edge.podman.run(&["stop", "--time", "0", name]).unwrap();
        edge.podman.run(&["rm", name]).unwrap();
    }
    assert!(page(&edge.outside, host_port).is_err());
    assert_eq!(edge.traces(), before);
}

#[test]
fn a_container_may_ask_podman_for_its_address() {
    let Some(edge) = Edge::new() else { return };
    edge.podman.start("fixed", &["--ip", "10.20.11.77", "--mac-address", "02:00:00:00:00:77"]).unwrap();
    assert_eq!(edge.podman.addresses("fixed").unwrap(), ["10.20.11.77"]);
    assert!(
        edge.podman
            .exec("fixed", &["ip", "link", "show", "dev", "eth0"])
            .unwrap()
            .contains("02:00:00:00:00:77")
    );
    ping(edge.node.namespace(), "10.20.11.77").unwrap();
    let said = edge.podman.start("late", &["--ip", "10.20.11.77"]).unwrap_err();
    assert!(said.contains("10.20.11.77") && said.contains("belongs to port"), "{said}");
}
