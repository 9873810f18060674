//! Whether everything that knows of a node's pods says the same: the pods that exist, the agent's ports, labels and
//! routes, its files, the host's links, routes and nftables chains, and what a route reflector has been told.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::net::IpAddr;
use std::time::Duration;

use agent_api::client::ClientError;
use agent_api::{Client, Labels, Ports, Routes, path};
use serde_json::Value;

use crate::cni_run::{files_under, ip_json};
use crate::fixture::{city_rd, host_prefix};
use crate::gobgp::GoBgp;
use crate::netns::Namespace;
use crate::node::Node;
use crate::process::{command, run};
use crate::sandbox::Sandbox;
use crate::wait::{PATIENCE, wait_for};

/// Waits until nothing disagrees with the pods that exist: those of these sandboxes that have a network, in the VRF
/// `city` of the node of this host number. `reflector`: what has been told is compared too.
///
/// # Panics
/// When something still disagrees after [`PATIENCE`], with each disagreement in a sentence.
pub fn wait_agreement(what: &str, node: &Node, host: u8, pods: &[Sandbox], reflector: Option<&GoBgp>) {
    wait_for(&format!("{what}: everything to agree with the pods that exist"), PATIENCE, || {
        let found = disagreements(node, host, pods, reflector);
        if found.is_empty() { Ok(()) } else { Err(found) }
    });
}

/// What disagrees, a sentence each.
pub fn disagreements(node: &Node, host: u8, pods: &[Sandbox], reflector: Option<&GoBgp>) -> Vec<String> {
    let view = match View::of(node) {
        Ok(view) => view,
        Err(error) => return vec![format!("the agent does not answer: {error}")],
    };
    let mut found = Vec::new();
    let pods: Vec<&Sandbox> = pods.iter().filter(|pod| pod.is_wired()).collect();
    let addresses: BTreeSet<IpAddr> = pods.iter().flat_map(|pod| pod.addresses()).collect();
    let interfaces: BTreeSet<String> = pods.iter().map(|pod| pod.host_interface()).collect();

    let wanted: BTreeMap<String, (String, Vec<IpAddr>)> =
        pods.iter().map(|pod| (pod.id().to_owned(), (pod.host_interface(), pod.addresses()))).collect();
    let ports = view.ports.ports.iter();
    let have: BTreeMap<_, _> = ports
        .map(|port| (port.key.container.clone(), (port.host_interface.clone(), port.addresses.clone())))
        .collect();
    differ(&mut found, "ports", &wanted, &have);
    for port in &view.ports.ports {
        if port.state != "up" || port.host_reachable != port.addresses {
            found.push(format!("port {} is {}, reachable {:?}", port.key, port.state, port.host_reachable));
        }
    }
    let labels: BTreeMap<_, _> = view.ports.ports.iter().map(|port| (port.label, port.port)).collect();
    let in_use = view.labels.labels.iter().filter_map(|label| Some((label.label, label.port?))).collect();
    differ(&mut found, "labels in use", &labels, &in_use);
    let local: BTreeSet<String> = addresses.iter().map(|address| host_prefix(*address)).collect();
    differ(&mut found, "local routes", &local, &view.local_routes());
    files(&mut found, node, &view);
    kernel(&mut found, node.namespace(), &addresses, &interfaces);
    if let Some(reflector) = reflector {
        let rd = city_rd(host);
        let told = view.ports.ports.iter().flat_map(|port| {
            let label = port.label.value();
            let rd = &rd;
            port.addresses.iter().map(move |address| (format!("{rd}:{}", host_prefix(*address)), label))
        });
        differ(&mut found, "the reflector's routes", &told.collect(), &reflected(reflector, &rd));
    }
    found
}

struct View {
    ports: Ports,
    labels: Labels,
    routes: Routes,
}

impl View {
    fn of(node: &Node) -> Result<View, ClientError> {
        let client = || Client::connect(node.socket(), Duration::from_secs(5));
        Ok(View {
            ports: client()?.get(path::PORTS)?,
            labels: client()?.get(path::LABELS)?,
            routes: client()?.get(path::ROUTES)?,
        })
    }

    fn local_routes(&self) -> BTreeSet<String> {
        let routes = self.routes.vrfs.values().flatten();
        routes.filter(|(_, route)| route.protocol == "local").map(|(prefix, _)| prefix.clone()).collect()
    }
}

/// One file per port that says what the agent says, and nothing else but the node's own.
fn files(found: &mut Vec<String>, node: &Node, view: &View) {
    let state = node.directory().join("state");
    let mut names = BTreeSet::new();
    let mut saved = BTreeMap::new();
    for file in files_under(&state) {
        let name = file.strip_prefix(&state).unwrap_or(&file).display().to_string();
        if name.starts_with("ports/") {
            let text = std::fs::read(&file).unwrap_or_default();
            let port: Value = serde_json::from_slice(&text).unwrap_or_default();
            saved.insert(name.clone(), (port["label"].clone(), port["addresses"].clone()));
        }
        names.insert(name);
    }
    let file = |port: &agent_api::PortStatus| format!("ports/{}.json", port.port);
    let json = |value: Result<Value, _>| value.unwrap_or_default();
    let wanted = view.ports.ports.iter().map(|port| {
        let (label, addresses) = (serde_json::to_value(port.label), serde_json::to_value(&port.addresses));
        (file(port), (json(label), json(addresses)))
    });
    differ(found, "state files", &wanted.collect(), &saved);
    let is_left = |name: &&String| {
        let unfinished = [".new", ".tmp", ".bad"].into_iter().any(|end| name.ends_with(end));
        name.starts_with("deletes/") || unfinished
    };
    found.extend(names.iter().filter(is_left).map(|name| format!("the state directory holds {name}")));
}

/// The host's side: veths, routes through `vrouter0`, nftables chains.
fn kernel(
    found: &mut Vec<String>,
    host: &Namespace,
    addresses: &BTreeSet<IpAddr>,
    interfaces: &BTreeSet<String>,
) {
    let links = host.netlink(|netlink| netlink.links()).into_iter().map(|link| link.name);
    let veths = links.filter(|name| name.starts_with("vr") && name != "vrouter0").collect();
    differ(found, "veths", interfaces, &veths);
    let mut routes = BTreeSet::new();
    for family in ["-4", "-6"] {
        let shown = ip_json(host, &[family, "route", "show", "dev", "vrouter0"]);
        let mut shown = shown.as_array().cloned().unwrap_or_default();
        // The interface's own addresses.
        shown.retain(|route| route["protocol"] != "kernel");
        routes.extend(shown.iter().filter_map(|route| route["dst"].as_str()?.parse::<IpAddr>().ok()));
    }
    differ(found, "host routes", addresses, &routes);
    let shown = run(host, &mut command("nft", &["-j", "list", "chains", "netdev"]));
    let shown: Value = serde_json::from_slice(&shown.stdout).unwrap_or_default();
    let chains = shown["nftables"].as_array().cloned().unwrap_or_default();
    let chains =
        chains.iter().filter_map(|chain| chain["chain"]["name"].as_str().map(str::to_owned)).collect();
    differ(found, "nftables chains", interfaces, &chains);
}

fn reflected(reflector: &GoBgp, rd: &str) -> BTreeMap<String, u32> {
    let mut told = BTreeMap::new();
    for family in ["vpnv4", "vpnv6"] {
        let rib = reflector.cli_json(&format!("global rib -a {family}"));
        for (prefix, paths) in rib.as_object().into_iter().flatten() {
            let label = paths[0]["nlri"]["labels"][0].as_u64().and_then(|label| u32::try_from(label).ok());
            if prefix.starts_with(rd) {
                told.insert(prefix.clone(), label.unwrap_or_default());
            }
        }
    }
    told
}

fn differ<T: Debug + PartialEq>(found: &mut Vec<String>, what: &str, wanted: &T, have: &T) {
    if wanted != have {
        found.push(format!("{what}: {have:?} instead of {wanted:?}"));
    }
}
