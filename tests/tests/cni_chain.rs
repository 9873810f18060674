//! The reference plugins behind ours, with the real agent: what they add works, CHECK and DEL go through the whole list,
//! and nothing is left.
#![allow(clippy::unwrap_used, reason = "a test may")]

use std::net::SocketAddr;
use std::process::Command;

use serde_json::{Value, json};
use vrouter_tests::cni_chain::{Chain, ours};
use vrouter_tests::cni_run::{CniCall, ip_json};
use vrouter_tests::process::run_ok;
use vrouter_tests::{
    AgentConfig, Answer, Lab, Namespace, Node, PATIENCE, Probe, Server, Vrf, ask_tcp, wait_for,
};

/// A node, and a site on the same network that knows nothing of pods.
struct Place {
    node: Node,
    outside: Namespace,
    pod: Namespace,
    lab: Lab,
}

impl Place {
    fn new() -> Place {
        let lab = Lab::new();
        let vrf = Vrf::new("open", "target:64512:1").pods("10.20.11.0/24").pods("fd00:20:11::/64").default();
        let node = Node::start(&lab, "gw", 1, &AgentConfig::new(64512).vrf(&vrf));
        let (outside, pod) = (lab.site("outside", 9), lab.namespace("pod"));
        Place { node, outside, pod, lab }
    }

    /// Ours leaves the bandwidth to plugins behind it; two that limit it would be in each other's way.
    fn chain(&self, behind: &[Value]) -> Chain {
        let mut ours = ours(&self.node.socket(), &self.node.directory().join("state/deletes"));
        ours["capabilities"]["bandwidth"] = json!(false);
        Chain::new(self.node.namespace(), "lab", "1.0.0", &[&[ours], behind].concat())
    }

    /// What could be left: links and the rules of the firewall, without counters.
    fn traces(&self) -> (Vec<String>, Vec<String>) {
        let host = self.node.namespace();
        let links = host.netlink(|netlink| netlink.links()).into_iter().map(|link| link.name).collect();
        let rules = run_ok(host, Command::new("iptables-save").args(["-t", "nat"]));
        // The chains that all host ports share stay, as portmap leaves them.
        (
            links,
            rules
                .lines()
                .filter(|line| line.contains("10.20.11.") || line.contains("CNI-DN-"))
                .map(str::to_owned)
                .collect(),
        )
    }
}

fn first_address(result: &Value) -> String {
    result["ips"][0]["address"]
        .as_str()
        .and_then(|text| text.split('/').next())
        .unwrap_or_default()
        .to_owned()
}

#[test]
fn a_host_port_reaches_the_pod_from_the_node_and_from_outside() {
    let place = Place::new();
    let before = place.traces();
    let portmap = json!({ "type": "portmap", "snat": true, "capabilities": { "portMappings": true } });
    let mapping = json!({ "portMappings": [
        { "hostPort": 8080, "containerPort": 80, "protocol": "tcp" },
        { "hostPort": 8081, "containerPort": 81, "protocol": "tcp", "hostIP": "192.0.2.1" },
    ] });
    let chain = place.chain(&[portmap]).runtime(mapping);
    run_ok(place.node.namespace(), Command::new("sysctl").args(["-q", "-w", "net.ipv4.ip_forward=1"]));
    let result = chain.add("c1", &place.pod).unwrap();
    assert!(first_address(&result).starts_with("10.20.11."), "{result}");
    let servers = [(80, "web"), (81, "admin")].map(|(port, name)| Server::tcp(&place.pod, port, name));
    for (from, what) in [(place.node.namespace(), "the node"), (&place.outside, "outside")] {
        for (port, name) in [(8080, "web"), (8081, "admin")] {
            let to: SocketAddr = (place.node.address(), port).into();
            wait_for(&format!("{name} from {what}"), PATIENCE, || match ask_tcp(from, to, "hello") {
                Ok(greeting) if greeting == name => Ok(()),
                other => Err(format!("{other:?}; drops {:?}", place.node.drops())),
            });
        }
    }
    // The node's own loopback address, which portmap masquerades.
    let greeting = ask_tcp(place.node.namespace(), "127.0.0.1:8080".parse().unwrap(), "hello");
    assert_eq!(greeting.unwrap(), "web");
    // No CHECK here: portmap 1.1.1 looks for rules of the other family and fails on what it made itself.
    chain.delete("c1", &place.pod, &result).unwrap();
    drop(servers);
    assert_eq!(place.traces(), before);
    assert!(ask_tcp(&place.outside, (place.node.address(), 8080).into(), "hello").is_err());
}

#[test]
fn bandwidth_and_tuning_run_behind_ours_and_go_again() {
    let place = Place::new();
    let before = place.traces();
    let bandwidth = json!({ "type": "bandwidth", "capabilities": { "bandwidth": true } });
    let tuning = json!({ "type": "tuning", "sysctl": { "net.ipv4.conf.eth0.arp_filter": "1" }, "mtu": 1400 });
    let rates = json!({ "ingressRate": 8_000_000, "ingressBurst": 800_000, "egressRate": 8_000_000, "egressBurst": 800_000 });
    let chain = place.chain(&[bandwidth, tuning]).runtime(json!({ "bandwidth": rates }));
    let result = chain.add("c1", &place.pod).unwrap();
    // What we made is still in the result of the last one.
    let names: Vec<_> =
        result["interfaces"].as_array().unwrap().iter().map(|one| one["name"].as_str().unwrap()).collect();
    assert!(names.len() >= 2 && names.contains(&"eth0"), "{names:?}");
    assert_eq!(ip_json(&place.pod, &["link", "show", "dev", "eth0"])[0]["mtu"], 1400);
    let host = names.iter().find(|name| name.starts_with("vr")).unwrap();
    let queues = run_ok(place.node.namespace(), Command::new("tc").args(["qdisc", "show", "dev", host]));
    assert!(queues.contains("tbf"), "{queues}");
    // The queue came when the port was open already, and yet it limits what the pod is sent.
    let pod: std::net::IpAddr = first_address(&result).parse().unwrap();
    wait_for("packets to pass the queue", PATIENCE, || {
        assert_eq!(Probe::default().send(place.node.namespace(), pod), Answer::Reply);
        let shown = ["-s", "-j", "qdisc", "show", "dev", host];
        let queues = run_ok(place.node.namespace(), Command::new("tc").args(shown));
        let queues: Value = serde_json::from_str(&queues).unwrap();
        let tbf = queues.as_array().unwrap().iter().find(|queue| queue["kind"] == "tbf");
        if tbf.unwrap()["packets"].as_u64() > Some(0) { Ok(()) } else { Err(queues) }
    });
    chain.check("c1", &place.pod, &result).unwrap();
    chain.delete("c1", &place.pod, &result).unwrap();
    chain.delete("c1", &place.pod, &result).unwrap();
    assert_eq!(place.traces(), before);
}

#[test]
fn what_is_missing_in_the_list_fails_and_del_still_takes_ours_away() {
    let place = Place::new();
    let before = place.traces();
    let refusing = json!({ "type": "tuning", "sysctl": { "net.ipv4.no.such.key": "1" } });
    let chain = place.chain(&[refusing]);
    let said = chain.add("c1", &place.pod).unwrap_err();
    assert!(said.contains("no"), "{said}");
    // A runtime calls DEL of the list after a failed ADD.
    chain.delete("c1", &place.pod, &Value::Null).unwrap();
    assert_eq!(place.traces(), before);
    assert!(place.node.ctl_json(&["show", "ports"])["ports"].as_array().unwrap().is_empty());
}

#[test]
fn the_loopback_plugin_may_run_at_the_same_time() {
    let place = Place::new();
    let chain = place.chain(&[]);
    for round in 0..8 {
        let (id, pod) = (format!("c{round}"), place.lab.namespace(&format!("pod{round}")));
        let loopback = CniCall::of("/usr/lib/cni/loopback".as_ref(), place.node.namespace())
            .container(&id, pod.path())
            .env("CNI_IFNAME", "lo");
        let conf = json!({ "cniVersion": "1.0.0", "name": "cni-loopback", "type": "loopback" });
        let (ours, theirs) = std::thread::scope(|scope| {
            let theirs = scope.spawn(|| loopback.run("ADD", &conf).try_result());
            (chain.add(&id, &pod), theirs.join().unwrap())
        });
        let (ours, _) = (ours.unwrap(), theirs.unwrap());
        chain.check(&id, &pod, &ours).unwrap();
        chain.delete(&id, &pod, &ours).unwrap();
        loopback.run("DEL", &conf).try_done().unwrap();
    }
}
