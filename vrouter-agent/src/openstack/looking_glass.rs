//! Bagpipe's looking glass: one tree of all there is, read from any place.
//!
//! ```text
//!   summary  config  logs
//!   bgp/    route_counts  routes  peers/<address>  workers
//!   vpns/   instances/<id>/{ports, received_routes, best_routes, adv_routes, …}  dataplane/{drivers, ids}  instances_per_vni
//! ```
//! A place that holds others names them with their addresses (`href`), so that one can walk. Within a place, further
//! segments are the names of its parts.

use agent_api::{BgpNeighbors, BgpRoutes};
use serde_json::{Map, Value, json};

use super::view::texts;
use super::{Ledger, view};
use crate::overlay::{Overlay, Port, Protocol, Target, Vrf};

/// What the tree is made of.
pub struct Sources<'s> {
    /// Desired state.
    pub overlay: &'s Overlay,
    /// Neighbors, as `show bgp neighbors` has them.
    pub neighbors: &'s BgpNeighbors,
    /// Routes, as `show bgp routes` has them; empty where the place does not need them.
    pub routes: &'s BgpRoutes,
    /// Seconds since 1970 at the start of the agent.
    pub started: u64,
}

/// Where the tree is.
const ROOT: &str = "/looking-glass";

/// Whether a place shows routes of BGP, which are gathered only then.
pub fn needs_routes(path: &[String]) -> bool {
    matches!(path.first().map(String::as_str), Some("bgp"))
        && path.get(1).is_some_and(|second| second == "routes")
}

/// What is at a place; `None`: nothing.
pub fn look(path: &[String], from: &Sources<'_>) -> Option<Value> {
    let segments: Vec<&str> = path.iter().map(String::as_str).collect();
    let (value, rest): (Value, &[&str]) = match segments.as_slice() {
        [] => {
            let mut root = links("", &["bgp", "vpns", "config", "logs"]);
            root.insert("summary".to_owned(), summary(from));
            (Value::Object(root), &[])
        }
        ["summary", rest @ ..] => (summary(from), rest),
        ["config", rest @ ..] => (config(from), rest),
        ["logs", rest @ ..] => (logs(from), rest),
        ["bgp"] => (Value::Object(links("bgp", &["route_counts", "routes", "peers", "workers"])), &[]),
        ["bgp", "route_counts", rest @ ..] => (route_counts(from), rest),
        ["bgp", "routes", rest @ ..] => (serde_json::to_value(from.routes).ok()?, rest),
        ["bgp", "peers" | "workers", rest @ ..] => (serde_json::to_value(from.neighbors).ok()?, rest),
        ["vpns"] => (Value::Object(links("vpns", &["instances", "dataplane", "instances_per_vni"])), &[]),
        ["vpns", "instances"] => (instances(from), &[]),
        ["vpns", "instances", id, rest @ ..] => (instance(from, id)?, rest),
        ["vpns", "dataplane"] => (Value::Object(links("vpns/dataplane", &["drivers", "ids"])), &[]),
        ["vpns", "dataplane", "drivers", rest @ ..] => (drivers(from), rest),
        ["vpns", "dataplane", "ids", rest @ ..] => (ids(from), rest),
        ["vpns", "instances_per_vni", rest @ ..] => (json!({}), rest),
        _ => return None,
    };
    rest.iter().try_fold(value, |value, segment| match value {
        Value::Object(mut object) => object.remove(*segment),
        Value::Array(mut items) => {
            let at: usize = segment.parse().ok()?;
            (at < items.len()).then(|| items.swap_remove(at))
        }
        _ => None,
    })
}

fn links(under: &str, names: &[&str]) -> Map<String, Value> {
    let place = |name: &str| {
        if under.is_empty() { format!("{ROOT}/{name}") } else { format!("{ROOT}/{under}/{name}") }
    };
    names.iter().map(|name| ((*name).to_owned(), json!({ "href": place(name) }))).collect()
}

fn summary(from: &Sources<'_>) -> Value {
    let neighbors = serde_json::to_value(from.neighbors).unwrap_or_default();
    let states = neighbors.as_object().into_iter().flat_map(Map::values);
    let established = states.filter(|it| it.to_string().contains("\"Established\"")).count();
    json!({
        "BGP_established_peers": established,
        "route_counts": route_counts(from),
        "vpn_instances_count": from.overlay.ledger().instances().count(),
        "warnings_and_errors": from.overlay.problems().len(),
        "start_time": from.started,
        "version": env!("CARGO_PKG_VERSION"),
    })
}

fn route_counts(from: &Sources<'_>) -> Value {
    let of = |wanted: fn(Protocol) -> bool| -> usize {
        let vrfs = from.overlay.vrfs().iter();
        vrfs.flat_map(|vrf| from.overlay.routes(vrf.id)).filter(|route| wanted(route.protocol)).count()
    };
    json!({
        "local": of(|protocol| protocol == Protocol::Local),
        "received": of(|protocol| matches!(protocol, Protocol::Bgp | Protocol::Stale)),
    })
}

fn config(from: &Sources<'_>) -> Value {
    let config = from.overlay.config();
    json!({
        "BGP": {
            "local_address": config.underlay.source.as_ref().map(|source| format!("{source:?}")),
            "my_as": config.bgp.asn,
            "peers": config.bgp.neighbors.iter().map(|it| it.address.to_string()).collect::<Vec<_>>(),
            "enable_rtc": true,
        },
        "API": { "vpn-api": config.openstack.vpn_api, "port-api": config.openstack.port_api },
        "DATAPLANE_DRIVER_IPVPN": {
            "dataplane_driver": "vrouter",
            "encapsulations": config.underlay.encapsulations,
        },
    })
}

fn logs(from: &Sources<'_>) -> Value {
    let entry = |text: String| json!({ "level": "WARNING", "text": text });
    Value::Array(from.overlay.problems().into_iter().map(entry).collect())
}

fn instances(from: &Sources<'_>) -> Value {
    let one = |instance: &super::Instance| {
        let place = format!("{ROOT}/vpns/instances/{}", instance.id);
        json!({ "id": instance.id, "name": instance.description, "href": place })
    };
    Value::Array(from.overlay.ledger().instances().map(one).collect())
}

fn instance(from: &Sources<'_>, id: &str) -> Option<Value> {
    let (overlay, ledger) = (from.overlay, from.overlay.ledger());
    let instance = ledger.instance(id)?;
    let vrf = overlay.vrf_by_name(id)?;
    let attachments: Vec<_> = ledger.attachments().filter(|(_, it)| it.instance == id).collect();
    let leaks: Vec<Value> = attachments
        .iter()
        .filter_map(|(tap, it)| {
            let it = it.readvertise.as_ref()?;
            Some(json!({ "port": tap, "from": texts(&it.from), "to": texts(&it.to) }))
        })
        .collect();
    Some(json!({
        "external_instance_id": id,
        "instance_type": "ipvpn",
        "description": instance.description,
        "route_targets": { "import": texts(&instance.import), "export": texts(&instance.export) },
        "rd": vrf.config.rd,
        "configured": overlay.config().vrfs.iter().any(|vrf| vrf.name == id),
        "gateway_ip": attachments.iter().find_map(|(_, it)| it.gateway),
        "ports": ports(overlay, &attachments),
        "readvertise": leaks,
        "attract_traffic": {},
        "fallback": "not done: what has no route is refused by ICMP",
        "received_routes": routes(overlay, vrf, |protocol| matches!(protocol, Protocol::Bgp | Protocol::Stale)),
        "best_routes": routes(overlay, vrf, |_| true),
        "adv_routes": advertised(overlay, vrf),
        "dataplane": { "driver": "vrouter", "ports": overlay.ports().filter(|port| port.vrf == vrf.id).count() },
        "logs": overlay.problems().into_iter().filter(|problem| problem.contains(id)).collect::<Vec<_>>(),
    }))
}

/// Per interface: label, MAC address, addresses, and what was asked for.
fn ports(overlay: &Overlay, attachments: &[(&str, &super::Attachment)]) -> Value {
    let mut ports: Map<String, Value> = Map::new();
    for (tap, it) in attachments {
        let port = overlay.port_by_key(&Ledger::port_key(tap));
        let endpoint = json!({
            "label": port.map(|port| port.saved.label),
            "mac_address": it.mac,
            "ip_address": it.prefix(),
            "local_pref": it.local_pref.unwrap_or(100),
            "lb_consistent_hash_order": it.hash_order.unwrap_or(0),
            "rd": overlay.vrf_by_name(&it.instance).map(|vrf| vrf.config.rd),
            "description": it.description,
            "direction": it.direction,
            "state": port.map_or("waiting", |port| if port.is_up() { "up" } else { "waiting" }),
        });
        let list = ports.entry((*tap).to_owned()).or_insert_with(|| json!([]));
        if let Value::Array(list) = list {
            list.push(endpoint);
        }
    }
    Value::Object(ports)
}

fn routes(overlay: &Overlay, vrf: &Vrf, wanted: impl Fn(Protocol) -> bool) -> Value {
    let target = |target: &Target| match target {
        Target::Port(id) => {
            let port = overlay.port(*id);
            json!({ "port": port.map(|port| port.saved.request.host_interface.clone()) })
        }
        Target::Tunnels(hops) => {
            let remote = |id| overlay.tunnels().find(|tunnel| tunnel.id == id).map(|tunnel| tunnel.remote);
            json!(
                hops.iter()
                    .map(|(id, label)| json!({ "next_hop": remote(*id), "label": label }))
                    .collect::<Vec<_>>()
            )
        }
        Target::Host => json!("host"),
    };
    let routes = overlay.routes(vrf.id).filter(|route| wanted(route.protocol));
    Value::Object(routes.map(|route| (route.prefix.to_string(), target(&route.target))).collect())
}

fn advertised(overlay: &Overlay, vrf: &Vrf) -> Value {
    let of = |port: &Port| -> Vec<Value> {
        let told = port
            .told()
            .filter(|route| route.prefix.rd == vrf.config.rd || route.route_targets == vrf.config.export);
        told.map(|route| {
            json!({
                "prefix": route.prefix, "label": route.label, "next_hop": route.next_hop,
                "route_targets": texts(&route.route_targets), "local_pref": route.policy.local_pref,
            })
        })
        .collect()
    };
    Value::Array(overlay.ports().flat_map(of).collect())
}

fn drivers(from: &Sources<'_>) -> Value {
    json!({ "ipvpn": {
        "type": "vrouter",
        "encaps": from.overlay.config().underlay.encapsulations,
        "local_address": from.overlay.underlay().map(|underlay| underlay.address),
        "tunnels": from.overlay.tunnels().map(|it| json!({ "remote": it.remote, "encap": it.encap })).collect::<Vec<_>>(),
    } })
}

/// Every label, and what it is for.
fn ids(from: &Sources<'_>) -> Value {
    let purpose = |(label, used): (vrouter_types::Label, crate::labels::LabelUse)| {
        let text = match used {
            crate::labels::LabelUse::InUse(port) => match from.overlay.port(port) {
                Some(port) => {
                    format!("packets to {} in {}", port.saved.request.host_interface, port.saved.vrf)
                }
                None => "a port that is not served".to_owned(),
            },
            crate::labels::LabelUse::Resting(_) => "withdrawn, and not to be used again yet".to_owned(),
        };
        (label.to_string(), json!(text))
    };
    Value::Object(from.overlay.labels().map(purpose).collect())
}

/// `GET /attachments`.
pub fn attachments(overlay: &Overlay) -> Value {
    view::attachments(overlay)
}
