//! containerd 1.6, driven over its CRI socket as a kubelet drives it: pods come, are reached, and go without a trace.

use std::path::PathBuf;

use serde_json::{Value, json};
use vrouter_tests::binaries::binary;
use vrouter_tests::cni_run::files_under;
use vrouter_tests::cri::{Containerd, CriPod, PodSpec, cached_results, ping};
use vrouter_tests::{AgentConfig, Lab, Node, PATIENCE, Vrf, wait_until};

/// A node whose pods containerd makes. Dropped in this order: containerd still needs the agent to take its pods away.
struct Edge {
    containerd: Containerd,
    network: String,
    node: Node,
    _lab: Lab,
}

/// A pod with a container to look around in.
struct Inside {
    pod: CriPod,
    container: String,
    v4: String,
    v6: String,
}

impl Edge {
    fn new() -> Edge {
        let lab = Lab::new();
        let pods = |vrf: Vrf| vrf.pods("10.20.11.0/24").pods("fd00:20:11::/64");
        let city = pods(Vrf::new("smart-city", "target:64512:100")).default();
        let tenant = pods(Vrf::new("tenant-b", "target:64512:200"));
        let barred =
            Vrf::new("barred", "target:64512:300").pods("10.30.0.0/24").line(r#"namespaces = ["vip-*"]"#);
        let config = AgentConfig::new(64512).vrf(&city).vrf(&tenant).vrf(&barred);
        let node = Node::start(&lab, "gw", 1, &config);
        let network = format!("vr{}", std::process::id());
        let plugin = json!({
            "type": "vrouter-cni", "socket": node.socket(), "spool": node.directory().join("state/deletes"),
            "capabilities": { "io.kubernetes.cri.pod-annotations": true, "portMappings": true, "bandwidth": true },
        });
        let conflist = json!({
            "cniVersion": "0.4.0", "cniVersions": ["0.3.1", "0.4.0", "1.0.0", "1.1.0"],
            "name": network, "plugins": [plugin],
        });
        let directory = lab.path("containerd");
        let plugins = [binary("vrouter-cni")];
        let containerd = Containerd::start(node.namespace(), &directory, &conflist, &plugins);
        Edge { containerd, network, node, _lab: lab }
    }

    fn run(&self, spec: &PodSpec) -> Inside {
        let pod = self.containerd.run_pod(spec).expect("RunPodSandbox");
        let addresses = self.containerd.addresses(&pod).expect("PodSandboxStatus");
        let [v4, v6] = addresses.as_slice() else { panic!("not dual stack: {addresses:?}") };
        let container = self.containerd.start_container(&pod).expect("a container");
        Inside { pod, container, v4: v4.clone(), v6: v6.clone() }
    }

    fn exec(&self, inside: &Inside, words: &[&str]) -> Result<String, String> {
        self.containerd.exec(&inside.container, words)
    }

    fn ports(&self) -> Vec<Value> {
        self.node.ctl_json(&["show", "ports"])["ports"].as_array().cloned().unwrap_or_default()
    }

    /// What pods leave on the node while they run: links, host routes, state files, cached results.
    fn traces(&self) -> (Vec<String>, Value, Value, Vec<PathBuf>, Vec<PathBuf>) {
        let host = self.node.namespace();
        let links = host.netlink(|netlink| netlink.links()).into_iter().map(|link| link.name).collect();
        let routes =
            |family| vrouter_tests::cni_run::ip_json(host, &[family, "route", "show", "dev", "vrouter0"]);
        let state = files_under(&self.node.directory().join("state/ports"));
        (links, routes("-4"), routes("-6"), state, cached_results(&self.network))
    }
}

#[test]
fn the_harness_runs_pods_with_the_reference_plugins() {
    let lab = Lab::new();
    let site = lab.site("node", 1);
    let (directory, network) = (lab.path("containerd"), format!("ref{}", std::process::id()));
    let ipam = json!({ "type": "host-local", "dataDir": lab.path("ipam"), "routes": [{ "dst": "0.0.0.0/0" }],
                       "ranges": [[{ "subnet": "10.88.77.0/24" }]] });
    let conflist =
        json!({ "cniVersion": "0.4.0", "name": network, "plugins": [{ "type": "ptp", "ipam": ipam }] });
    let containerd = Containerd::start(&site, &directory, &conflist, &[]);
    containerd.network_ready().unwrap();
    let pod = containerd.run_pod(&PodSpec::new("reference")).unwrap();
    assert_eq!(containerd.addresses(&pod).unwrap(), ["10.88.77.2"]);
    let container = containerd.start_container(&pod).unwrap();
    let shown = containerd.exec(&container, &["/bin/ip", "addr", "show", "dev", "eth0"]).unwrap();
    assert!(shown.contains("10.88.77.2/24"), "{shown}");
    assert!(containerd.exec(&container, &["/bin/cat", "/absent"]).is_err());
    assert_eq!(cached_results(&network).len(), 1);
    containerd.stop(&pod).unwrap();
    containerd.remove(&pod).unwrap();
    assert!(containerd.pods().unwrap().is_empty() && cached_results(&network).is_empty());
}

#[test]
fn containerd_runs_dual_stack_pods_that_reach_each_other_and_are_reached_from_the_host() {
    let edge = Edge::new();
    let before = edge.traces();
    edge.containerd.network_ready().unwrap();
    let lamp = edge.run(&PodSpec::new("lamp"));
    let named = PodSpec::new("meter").annotation("vrouter.dev/vrf", "smart-city");
    let meter = edge.run(&named);
    for (inside, name) in [(&lamp, "lamp"), (&meter, "meter")] {
        let shown = edge.exec(inside, &["ip", "addr", "show", "dev", "eth0"]).unwrap();
        assert!(
            shown.contains(&format!("{}/32", inside.v4)) && shown.contains(&format!("{}/128", inside.v6))
        );
        assert!(!shown.contains("tentative"), "{shown}");
        let routes = edge.exec(inside, &["ip", "route"]).unwrap();
        assert!(routes.contains("default via 169.254.1.1 dev eth0"), "{routes}");
        let routes = edge.exec(inside, &["ip", "-6", "route"]).unwrap();
        assert!(routes.contains("default via fe80::1 dev eth0"), "{routes}");
        let ports = edge.ports();
        let port = ports.iter().find(|port| port["name"] == name).unwrap();
        assert_eq!((port["vrf"].as_str(), port["namespace"].as_str()), (Some("smart-city"), Some("default")));
        assert_eq!(port["key"]["container"], inside.pod.id.as_str());
        assert_eq!(port["addresses"], json!([inside.v4, inside.v6]));
    }
    edge.exec(&lamp, &["ping", "-c", "3", "-W", "5", &meter.v4]).unwrap();
    edge.exec(&lamp, &["ping", "-c", "3", "-W", "5", &meter.v6]).unwrap();
    // A kubelet's probe comes from the node itself.
    for address in [&lamp.v4, &lamp.v6, &meter.v4, &meter.v6] {
        ping(edge.node.namespace(), address).unwrap_or_else(|said| panic!("{address}: {said}"));
    }
    for inside in [&lamp, &meter] {
        edge.containerd.stop(&inside.pod).unwrap();
        edge.containerd.stop(&inside.pod).unwrap();
        edge.containerd.remove(&inside.pod).unwrap();
    }
    assert!(edge.ports().is_empty());
    assert_eq!(edge.traces(), before);
}

#[test]
fn tenants_with_the_same_addresses_never_meet() {
    let edge = Edge::new();
    let [one, two] = ["one", "two"].map(|name| edge.run(&PodSpec::new(name)));
    let tenant = |name| edge.run(&PodSpec::new(name).annotation("vrouter.dev/vrf", "tenant-b"));
    let other = tenant("other");
    assert_eq!((&other.v4, &other.v6), (&one.v4, &one.v6));
    edge.exec(&one, &["ping", "-c", "3", "-W", "5", &two.v4]).unwrap();
    let cut_off = edge.exec(&other, &["ping", "-c", "2", "-W", "1", &two.v4]).unwrap_err();
    assert!(cut_off.contains("100% packet loss"), "{cut_off}");
    let friend = tenant("friend");
    assert_eq!(friend.v4, two.v4);
    edge.exec(&other, &["ping", "-c", "3", "-W", "5", &friend.v4]).unwrap();
}

#[test]
fn a_pod_that_its_vrf_does_not_admit_fails_with_a_reason_and_leaves_nothing() {
    let edge = Edge::new();
    let before = edge.traces();
    let barred = |name| PodSpec::new(name).annotation("vrouter.dev/vrf", "barred");
    let said = edge.containerd.run_pod(&barred("guest")).unwrap_err();
    assert!(said.contains("barred") && said.contains("default"), "{said}");
    assert!(edge.containerd.pods().unwrap().is_empty());
    assert_eq!(edge.traces(), before);
    let pod = edge.containerd.run_pod(&barred("member").kubernetes_namespace("vip-1")).unwrap();
    assert!(edge.containerd.addresses(&pod).unwrap()[0].starts_with("10.30.0."));
}

#[test]
fn pods_go_while_the_agent_is_away_and_are_forgotten_when_it_is_back() {
    let mut edge = Edge::new();
    let before = edge.traces();
    let lamp = edge.run(&PodSpec::new("lamp"));
    edge.node.kill9();
    let said = edge.containerd.run_pod(&PodSpec::new("late")).unwrap_err();
    assert!(said.contains("vrouter-agent"), "{said}");
    edge.containerd.stop(&lamp.pod).unwrap();
    edge.containerd.remove(&lamp.pod).unwrap();
    edge.node.start_agent();
    wait_until("the port to be forgotten", PATIENCE, || edge.ports().is_empty());
    wait_until("nothing to be left", PATIENCE, || edge.traces() == before);
    let again = edge.run(&PodSpec::new("again"));
    ping(edge.node.namespace(), &again.v4).unwrap();
}
