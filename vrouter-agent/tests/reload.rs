//! A changed configuration on a running node: what follows, what waits for a restart, what is refused.
#![allow(clippy::unwrap_used, reason = "a test may")]

mod common;

use agent_api::ErrorKind;
use common::{CONFIG, Node, ip, label, pod, prefix};
use dataplane_core::fib::Route;
use vrouter_agent::event::{Effect, Event, VrfPath, VrfRoute};
use vrouter_agent::fib_build::FibBuilder;
use vrouter_types::{Encap, EncapSet, VrfId};

fn path(next_hop: &str) -> VrfPath {
    VrfPath {
        rd: "192.0.2.1:1".parse().unwrap(),
        next_hop: ip(next_hop),
        label: label(100),
        encaps: Encap::ALL.into_iter().collect::<EncapSet>(),
        local: false,
        local_pref: 100,
    }
}

fn learn(node: &mut Node, vrf: u32, to: &str) {
    let route = VrfRoute { vrf: VrfId(vrf), prefix: prefix(to), paths: vec![path("192.0.2.1")] };
    node.handle(Event::Routes(vec![route]));
}

fn with_neighbors(neighbors: &[&str]) -> String {
    let tables = neighbors.iter().map(|keys| format!("[[bgp.neighbor]]\n{keys}\n"));
    CONFIG.replace(
        "[[vrf]]\nname = \"city\"",
        &format!("{}[[vrf]]\nname = \"city\"", tables.collect::<String>()),
    )
}

fn has_problem(node: &Node, words: &str) -> bool {
    node.overlay.problems().iter().any(|problem| problem.contains(words))
}

#[test]
fn the_same_file_again_changes_nothing_and_touches_no_session() {
    let mut node = Node::with(&with_neighbors(&["address = \"192.0.2.1\""]));
    let request = pod(&mut node, "a", "city-1");
    node.attach(request).unwrap();
    let reloaded = node.reload(&with_neighbors(&["address = \"192.0.2.1\""])).unwrap();
    assert!(reloaded.changed.is_empty() && reloaded.needs_restart.is_empty(), "{reloaded:?}");
    let quiet = |effect: &Effect| matches!(effect, Effect::PublishFib { .. } | Effect::Answer { .. });
    assert!(node.log.iter().all(quiet), "{:?}", node.log);
}

#[test]
fn changed_imports_reach_bgp_which_evaluates_every_route_anew() {
    let mut node = Node::new();
    let changed = CONFIG.replacen("import = [\"target:64512:100\"]", "import = [\"target:64512:101\"]", 1);
    assert_eq!(node.reload(&changed).unwrap().changed, ["VRF city: import"]);
    assert_eq!(node.imports[&VrfId(0)], ["target:64512:101".parse().unwrap()]);
    assert_eq!(node.imports.len(), 3, "the others go on importing what they did");
    assert!(node.concerned.is_empty());
}

#[test]
fn changed_exports_are_advertised_again_and_other_vrfs_are_not() {
    let mut node = Node::new();
    for (container, namespace) in [("a", "city-1"), ("b", "b")] {
        let request = pod(&mut node, container, namespace);
        node.attach(request).unwrap();
    }
    let changed = CONFIG.replacen(
        "export = [\"target:64512:100\"]",
        "export = [\"target:64512:900\"]\nlocal-pref = 50\ncommunities = [\"64512:7\"]",
        1,
    );
    assert_eq!(node.reload(&changed).unwrap().changed, ["VRF city: export, what its routes carry"]);
    let originated: Vec<_> = node
        .log
        .iter()
        .filter_map(|effect| if let Effect::Originate(route) = effect { Some(route) } else { None })
        .collect();
    assert_eq!(originated.len(), 2, "both addresses of the pod in city");
    for route in originated {
        assert_eq!(route.route_targets, ["target:64512:900".parse().unwrap()]);
        assert_eq!((route.policy.local_pref, route.policy.communities.len()), (50, 1));
    }
    assert!(!node.log.iter().any(|effect| matches!(effect, Effect::Withdraw(_))));
}

#[test]
fn another_route_distinguisher_replaces_the_routes() {
    let mut node = Node::new();
    let request = pod(&mut node, "a", "city-1");
    node.attach(request).unwrap();
    let before = node.advertised.len();
    let changed = CONFIG.replacen("name = \"city\"", "name = \"city\"\nrd = \"64512:77\"", 1);
    node.reload(&changed).unwrap();
    assert_eq!(node.advertised.len(), before);
    assert!(node.routes().iter().all(|route| route.starts_with("64512:77:")), "{:?}", node.routes());
}

#[test]
fn vrfs_come_and_go_in_the_middle_and_the_others_keep_their_routes() {
    let mut node = Node::new();
    let request = pod(&mut node, "a", "anything");
    let main = node.attach(request).unwrap();
    learn(&mut node, 1, "10.8.0.0/16");
    learn(&mut node, 2, "10.8.0.0/16");
    assert_eq!(node.overlay.tunnels().map(|tunnel| tunnel.routes).sum::<usize>(), 2);
    // RDs follow the place in the file unless they are written.
    let fixed = CONFIG.replace("name = \"main\"", "name = \"main\"\nrd = \"192.0.2.11:3\"");
    let (head, rest) = fixed.split_once("[[vrf]]\nname = \"tenant-b\"").unwrap();
    let (_, tail) = rest.split_once("[[vrf]]").unwrap();
    let without = format!(
        "{head}[[vrf]]\nname = \"new\"\npods = [\"10.77.0.0/24\"]\nnamespaces = [\"new\"]\n[[vrf]]{tail}"
    );
    let reloaded = node.reload(&without).unwrap();
    assert_eq!(reloaded.changed, ["VRF tenant-b removed", "VRF new added"]);
    assert_eq!(node.overlay.tunnels().map(|tunnel| tunnel.routes).sum::<usize>(), 1);
    let names: Vec<_> = node.overlay.vrfs().iter().map(|vrf| vrf.config.name.as_str()).collect();
    assert_eq!(names, ["city", "new", "main"]);
    let fib = FibBuilder::new().build(&node.overlay);
    let id = node.overlay.vrf_by_name("main").unwrap().id;
    assert!(matches!(fib.vrf(id).unwrap().routes.lookup(ip("10.8.1.1")), Some(Route::Tunnel(_))));
    assert!(matches!(fib.vrf(id).unwrap().routes.lookup(main.addresses[0]), Some(Route::Port(_))));
    // Routes that were under way to the VRF that went must not reach the one that came.
    let new = node.overlay.vrf_by_name("new").unwrap().id;
    assert_ne!(new, VrfId(1));
    learn(&mut node, 1, "10.9.0.0/16");
    assert_eq!(node.overlay.routes(new).count(), 0);
    let request = pod(&mut node, "n", "new");
    let attached = node.attach(request).unwrap();
    assert_eq!((attached.vrf.as_str(), attached.addresses[0]), ("new", ip("10.77.0.2")));
}

#[test]
fn a_vrf_with_ports_is_not_taken_away_and_the_ports_are_named() {
    let mut node = Node::new();
    let request = pod(&mut node, "busy", "b");
    node.attach(request).unwrap();
    let before = node.routes();
    let (head, rest) = CONFIG.split_once("[[vrf]]\nname = \"tenant-b\"").unwrap();
    let (_, tail) = rest.split_once("[[vrf]]").unwrap();
    let error = node.reload(&format!("{head}[[vrf]]{tail}")).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Conflict);
    assert!(error.message.contains("\"tenant-b\"") && error.message.contains("busy"), "{error}");
    assert_eq!(node.routes(), before);
    assert_eq!(node.log.len(), 1, "only the answer: {:?}", node.log);
    assert!(node.overlay.vrf_by_name("tenant-b").is_some());
}

#[test]
fn only_the_neighbors_that_differ_are_concerned() {
    let before = ["address = \"192.0.2.1\"", "address = \"192.0.2.2\"", "address = \"192.0.2.3\""];
    let mut node = Node::with(&with_neighbors(&before));
    let after = [
        "address = \"192.0.2.4\"",
        "address = \"192.0.2.1\"",
        "address = \"192.0.2.2\"\nhold-time = 30\ndescription = \"edge\"",
    ];
    let reloaded = node.reload(&with_neighbors(&after)).unwrap();
    let expected = [
        "neighbor 192.0.2.2: hold-time, description",
        "neighbor 192.0.2.3 removed",
        "neighbor 192.0.2.4 added",
    ];
    assert_eq!(reloaded.changed, expected);
    assert_eq!(node.concerned, [["192.0.2.2", "192.0.2.3", "192.0.2.4"]]);
}

#[test]
fn neighbors_that_bgp_did_not_take_are_a_problem_and_tried_again_by_the_next_reload() {
    let mut node = Node::new();
    node.fail = Some(|effect| matches!(effect, Effect::SetNeighbors { .. }));
    let text = with_neighbors(&["address = \"192.0.2.1\""]);
    assert!(node.reload(&text).unwrap_err().message.contains("made to fail"));
    assert!(has_problem(&node, "neighbors are not as configured"));
    node.fail = None;
    assert!(node.reload(&text).unwrap().changed.is_empty());
    assert_eq!(node.concerned.len(), 1);
    assert!(!has_problem(&node, "neighbors"));
}

#[test]
fn a_port_whose_vrf_was_forgotten_is_served_again_once_a_reload_names_it() {
    let mut node = Node::new();
    let request = pod(&mut node, "busy", "b");
    let attached = node.attach(request).unwrap();
    let (head, rest) = CONFIG.split_once("[[vrf]]\nname = \"tenant-b\"").unwrap();
    let (_, tail) = rest.split_once("[[vrf]]").unwrap();
    let mut node = node.restart(&format!("{head}[[vrf]]{tail}"), "boot-1");
    assert!(has_problem(&node, "VRF \"tenant-b\" is not configured any more"));
    node.reload(CONFIG).unwrap();
    node.handle(Event::Tick { now: vrouter_agent::event::Millis(60_000) });
    let port = node.overlay.port_by_key(&common::key("busy")).unwrap();
    assert!(port.is_up() && port.saved.label == attached.label, "{port:?}");
    assert!(!has_problem(&node, "tenant-b") && !has_problem(&node, "busy"));
}

#[test]
fn a_common_hold_time_concerns_those_that_have_none_of_their_own() {
    let neighbors = ["address = \"192.0.2.1\"", "address = \"192.0.2.2\"\nhold-time = 30"];
    let mut node = Node::with(&with_neighbors(&neighbors));
    let changed = with_neighbors(&neighbors).replace("asn = 64512", "asn = 64512\nhold-time = 45");
    assert_eq!(node.reload(&changed).unwrap().changed, ["[bgp] hold-time"]);
    assert_eq!(node.concerned, [["192.0.2.1"]]);
}

#[test]
fn a_key_file_with_another_key_concerns_its_neighbor() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("key");
    let keyed = format!("address = \"192.0.2.1\"\npassword-file = {:?}", file.to_str().unwrap());
    let text = with_neighbors(&[keyed.as_str(), "address = \"192.0.2.2\""]);
    std::fs::write(&file, "one").unwrap();
    let config =
        |text: &str| vrouter_agent::config::Config::parse(text, std::path::Path::new("agent.toml")).unwrap();
    let mut overlay = vrouter_agent::overlay::Overlay::new(std::sync::Arc::new(config(&text)));
    std::fs::write(&file, "two").unwrap();
    let call = vrouter_agent::event::CallId(1);
    let effects = overlay.apply(Event::Reload { call, config: Box::new(config(&text)) });
    let concerned = vec!["192.0.2.1".to_owned()];
    assert!(effects.contains(&Effect::SetNeighbors { concerned }), "{effects:?}");
}

#[test]
fn what_cannot_change_live_is_named_and_stays() {
    let mut node = Node::new();
    let changed = CONFIG
        .replace("address = \"192.0.2.11\"", "address = \"192.0.2.99\"")
        .replace("asn = 64512", "asn = 64513\nrouter-id = \"192.0.2.99\"\nlisten = \"0.0.0.0:179\"")
        + "[agent]\nsocket = \"/run/other.sock\"\nname = \"other\"\n[dataplane]\nworkers = 2\n[openstack]\ndhcp-lease = 600\n";
    let reloaded = node.reload(&changed).unwrap();
    let expected = [
        "[agent] socket",
        "[underlay] address or interface",
        "[bgp] asn",
        "[bgp] router-id",
        "[bgp] cluster-id",
        "[bgp] listen",
        "[openstack] metadata, resolvers or dhcp-lease",
        "[dataplane]",
    ];
    assert_eq!(reloaded.needs_restart, expected);
    assert_eq!(reloaded.changed, ["[agent] name"], "route distinguishers stay with the router ID");
    assert_eq!(node.overlay.config().bgp.asn, Some(vrouter_types::Asn(64512)));
}

#[test]
fn another_order_of_encapsulations_moves_the_tunnels_and_is_advertised() {
    let mut node = Node::new();
    let request = pod(&mut node, "a", "city-1");
    node.attach(request).unwrap();
    learn(&mut node, 0, "10.8.0.0/16");
    let encap = |node: &Node| node.overlay.tunnels().map(|tunnel| tunnel.encap).collect::<Vec<_>>();
    assert_eq!(encap(&node), [Encap::MplsOverUdp]);
    let changed = CONFIG.replace("accept-from", "encapsulations = [\"mpls-over-gre\"]\naccept-from");
    assert_eq!(node.reload(&changed).unwrap().changed, ["[underlay] encapsulations"]);
    assert_eq!(encap(&node), [Encap::MplsOverGre]);
    assert!(node.advertised.values().all(|route| !route.encaps.contains(Encap::MplsOverUdp)));
}

#[test]
fn provider_edges_that_the_operator_names_are_known_at_once() {
    let mut node = Node::new();
    let known = |node: &Node| FibBuilder::new().build(&node.overlay).sources.contains(ip("203.0.113.9"));
    assert!(!known(&node));
    node.reload(&CONFIG.replace("198.51.100.0/24", "203.0.113.0/24")).unwrap();
    assert!(known(&node));
}

#[test]
fn another_default_vrf_is_who_the_host_means() {
    let mut node = Node::new();
    for (container, namespace) in [("a", "city-1"), ("b", "b")] {
        let mut request = pod(&mut node, container, namespace);
        request.addresses = vec![ip("10.20.11.50")];
        node.attach(request).unwrap();
    }
    assert!(
        !node.host_routes.contains(&ip("10.20.11.50")),
        "two mean the same address, and neither is the default"
    );
    let changed = CONFIG
        .replace("default = true\n", "")
        .replace("namespaces = [\"b\"]", "namespaces = [\"b\"]\ndefault = true");
    node.reload(&changed).unwrap();
    assert!(node.host_routes.contains(&ip("10.20.11.50")));
    node.reload(CONFIG).unwrap();
    assert!(!node.host_routes.contains(&ip("10.20.11.50")));
}

#[test]
fn pods_beyond_the_new_range_keep_their_addresses_and_new_ones_are_inside() {
    let mut node = Node::new();
    let request = pod(&mut node, "a", "city-1");
    let old = node.attach(request).unwrap();
    node.reload(&CONFIG.replacen("\"10.20.11.0/24\"", "\"10.20.12.0/24\"", 1)).unwrap();
    let request = pod(&mut node, "b", "city-1");
    let new = node.attach(request).unwrap();
    assert!(prefix("10.20.11.0/24").contains(old.addresses[0]), "{old:?}");
    assert!(prefix("10.20.12.0/24").contains(new.addresses[0]), "{new:?}");
    assert_eq!(node.overlay.ports().filter(|port| port.is_up()).count(), 2);
}
