//! What OpenStack says, event by event: ports, VRFs, routes, and machines that are on more than one node.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::net::IpAddr;

use agent_api::{AttachPort, DetachPort, ErrorKind, FloatingIp};
use common::{CONFIG, Node};
use serde_json::{Value, json};
use vrouter_agent::event::{CallId, Effect, Event, LocalRoute, Millis, VrfPath, VrfRoute};
use vrouter_agent::fib_build::FibBuilder;
use vrouter_agent::openstack::plug::{Plug, Source};
use vrouter_agent::openstack::{Attachment, Change, Detachment, Uuid, view};
use vrouter_agent::overlay::Overlay;
use vrouter_types::{EncapSet, Label, PortId, VrfId};

const NETWORK: &str = "56297dc0-0000-4000-8000-000000000002";

fn plug(n: u8) -> Plug {
    let object = json!({
        "id": format!("93c2c386-6e79-485e-bfa4-0000000000{n:02x}"), "instance-id": NETWORK, "vn-id": NETWORK,
        "vm-project-id": "", "display-name": "vm", "ip-address": format!("10.0.0.{n}"), "ip6-address": "",
        "mac-address": format!("02:00:00:00:00:{n:02x}"), "system-name": format!("tap{n}"), "type": 0,
        "rx-vlan-id": -1, "tx-vlan-id": -1
    });
    Plug::read(&object, Source::Request).unwrap()
}

fn attachment(n: u8, more: Value) -> Attachment {
    let mut body = json!({
        "vpn_instance_id": "red", "vpn_type": "ipvpn", "import_rt": "64512:1", "export_rt": "64512:1",
        "mac_address": format!("02:00:00:00:00:{n:02x}"), "ip_address": format!("10.0.0.{n}"), "gateway_ip": "10.0.0.254",
        "local_port": { "linuxif": format!("tap{n}") }
    });
    if let (Value::Object(body), Value::Object(more)) = (&mut body, more) {
        body.extend(more);
    }
    Attachment::read(&body).unwrap()
}

fn attach(node: &mut Node, n: u8, more: Value) {
    node.links.insert(format!("tap{n}"));
    node.openstack(Change::Attach(vec![attachment(n, more)])).unwrap();
}

fn detach(node: &mut Node, n: u8, instance: &str) {
    let attachment = attachment(n, json!({ "vpn_instance_id": instance }));
    let gone = Detachment { instance: instance.into(), mac: attachment.mac, address: None };
    node.openstack(Change::Detach(vec![gone])).unwrap();
}

fn vrf(node: &Node, name: &str) -> VrfId {
    node.overlay.vrf_by_name(name).unwrap_or_else(|| panic!("no VRF {name}")).id
}

fn path(next_hop: &str, local_pref: u32) -> VrfPath {
    VrfPath {
        rd: format!("{next_hop}:1").parse().unwrap(),
        next_hop: next_hop.parse().unwrap(),
        label: Label::new(100).unwrap(),
        encaps: EncapSet::EMPTY,
        local: false,
        local_pref,
    }
}

/// What BGP says of a prefix in a VRF.
fn hear(node: &mut Node, vrf: VrfId, prefix: &str, paths: Vec<VrfPath>) {
    node.handle(Event::Routes(vec![VrfRoute { vrf, prefix: prefix.parse().unwrap(), paths }]));
}

fn shows(node: &mut Node, port: PortId, address: &str) {
    let mac = node.overlay.port(port).unwrap().saved.request.mac;
    let (address, now) = (address.parse().unwrap(), Millis(node.now));
    node.handle(Event::Learned { port, address, mac, now });
}

fn told<'n>(node: &'n Node, prefix: &str) -> Vec<&'n LocalRoute> {
    node.advertised.values().filter(|route| route.prefix.prefix == prefix.parse().unwrap()).collect()
}

/// The one route to a prefix that others were told, as LOCAL_PREF and MULTI_EXIT_DISC.
fn merits(node: &Node, prefix: &str) -> (u32, Option<u32>) {
    let routes = told(node, prefix);
    assert_eq!(routes.len(), 1, "{prefix}: {routes:?}");
    (routes[0].policy.local_pref, routes[0].policy.med)
}

fn port(node: &Node, n: u8) -> PortId {
    let tap = format!("tap{n}");
    let port = node.overlay.ports().find(|port| port.saved.request.host_interface == tap);
    port.unwrap_or_else(|| panic!("no port on {tap}")).saved.port
}

/// Where a packet of a VRF to an address goes: `here` or the other node.
fn way(overlay: &Overlay, vrf: VrfId, prefix: &str) -> String {
    let route = overlay.routes(vrf).find(|route| route.prefix == prefix.parse().unwrap());
    route.map_or("nowhere".to_owned(), |route| format!("{:?}", route.target))
}

fn pass(node: &mut Node, millis: u64) {
    node.now += millis;
    let now = Millis(node.now);
    node.handle(Event::Tick { now });
}

#[test]
fn one_array_is_one_write_one_publication_and_one_answer_in_the_order_that_is_promised() {
    let mut node = Node::new();
    node.links.extend((1..=3).map(|n| format!("tap{n}")));
    let many = (1..=3).map(|n| attachment(n, json!({}))).collect();
    node.openstack(Change::Attach(many)).unwrap();
    let kinds: Vec<&str> = node.log.iter().map(kind).collect();
    let wanted = [
        "labels", "save all", "imports", "open all", "publish", "host", "host", "host", "tell", "tell",
        "tell", "answer",
    ];
    assert_eq!(kinds, wanted);
    assert_eq!((node.disk.len(), node.attachments.len(), node.instances.len()), (3, 3, 1));
    assert_eq!(node.imports[&vrf(&node, "red")].len(), 1);
    node.log.clear();
    let gone = (1..=3).map(|n| attachment(n, json!({}))).map(|it| Detachment {
        instance: it.instance,
        mac: it.mac,
        address: None,
    });
    node.openstack(Change::Detach(gone.collect())).unwrap();
    let kinds: Vec<&str> = node.log.iter().map(kind).collect();
    assert_eq!(kinds.iter().filter(|kind| **kind == "save all").count(), 1, "{kinds:?}");
    assert!(
        kinds.iter().position(|kind| *kind == "withdraw") < kinds.iter().position(|kind| *kind == "close"),
        "{kinds:?}"
    );
    assert!(node.disk.is_empty() && node.attachments.is_empty() && node.instances.is_empty());
    assert!(node.advertised.is_empty() && node.open.is_empty() && node.host_routes.is_empty());
    assert!(node.overlay.vrf_by_name("red").is_none(), "the instance went with its last port");
}

fn kind(effect: &Effect) -> &'static str {
    match effect {
        Effect::SaveLabels { .. } => "labels",
        Effect::SaveAll(_) => "save all",
        Effect::SetImports(_) => "imports",
        Effect::OpenPorts(_) => "open all",
        Effect::PublishFib { .. } => "publish",
        Effect::AddHostRoute(_) | Effect::RemoveHostRoute(_) => "host",
        Effect::Originate(_) => "tell",
        Effect::Withdraw(_) => "withdraw",
        Effect::ClosePort(_) => "close",
        Effect::Answer { .. } => "answer",
        _ => "other",
    }
}

#[test]
fn an_instance_of_the_operators_name_is_the_operators() {
    let mut node = Node::new();
    attach(&mut node, 1, json!({ "vpn_instance_id": "city" }));
    assert_eq!(node.overlay.port(port(&node, 1)).unwrap().vrf, vrf(&node, "city"));
    assert_eq!(
        told(&node, "10.0.0.1/32")[0].route_targets[0].to_string(),
        "target:64512:100",
        "as the file says"
    );
    assert_eq!(node.overlay.vrfs().len(), 3);
}

#[test]
fn route_targets_change_live_and_nothing_else_moves() {
    let mut node = Node::new();
    attach(&mut node, 1, json!({}));
    let (before, label) = (port(&node, 1), told(&node, "10.0.0.1/32")[0].label);
    node.log.clear();
    attach(&mut node, 1, json!({ "import_rt": "64512:2,4200000000:1", "export_rt": "192.0.2.1:9" }));
    assert_eq!(node.imports[&vrf(&node, "red")].len(), 2);
    let route = told(&node, "10.0.0.1/32")[0];
    assert_eq!((route.label, route.route_targets[0].to_string()), (label, "target:192.0.2.1:9".to_owned()));
    assert_eq!(port(&node, 1), before);
    assert!(!node.log.iter().any(|effect| matches!(effect, Effect::ClosePort(_) | Effect::Withdraw(_))));
    attach(&mut node, 1, json!({ "export_rt": "" , "import_rt": "64512:2,4200000000:1" }));
    assert!(told(&node, "10.0.0.1/32")[0].route_targets.is_empty(), "nobody imports what has no target");
}

#[test]
fn a_second_address_joins_a_port_that_goes_on() {
    let mut node = Node::new();
    attach(&mut node, 1, json!({}));
    let (id, label) = (port(&node, 1), told(&node, "10.0.0.1/32")[0].label);
    node.log.clear();
    attach(&mut node, 1, json!({ "ip_address": "2001:db8::1/64" }));
    assert_eq!((port(&node, 1), told(&node, "2001:db8::1/128")[0].label), (id, label));
    assert!(
        !node.log.iter().any(|effect| matches!(effect, Effect::ClosePort(_) | Effect::OpenPort { .. })),
        "{:?}",
        node.log
    );
    assert_eq!(node.host_routes.len(), 2);
    assert_eq!(node.disk[&id].addresses.len(), 2);
}

#[test]
fn preferences_orders_and_subnets_are_told_as_asked() {
    let mut node = Node::new();
    attach(&mut node, 1, json!({ "local_pref": 150, "lb_consistent_hash_order": 3 }));
    attach(&mut node, 2, json!({ "ip_address": "10.9.0.2/16", "advertise_subnet": true }));
    attach(&mut node, 3, json!({ "ip_address": "10.9.0.3/16", "advertise_subnet": true, "local_pref": 50 }));
    let route = told(&node, "10.0.0.1/32")[0];
    assert_eq!((route.policy.local_pref, route.hash_order), (150, Some(3)));
    let subnets = told(&node, "10.9.0.0/16");
    assert_eq!(subnets.len(), 2, "each under a distinguisher of its own");
    let mut prefs: Vec<u32> = subnets.iter().map(|route| route.policy.local_pref).collect();
    prefs.sort_unstable();
    assert_eq!(prefs, [50, 100]);
    attach(&mut node, 1, json!({}));
    assert_eq!(told(&node, "10.0.0.1/32")[0].policy.local_pref, 100, "back to what is usual");
    let fib = FibBuilder::new().build(&node.overlay);
    let served = fib.port(port(&node, 2)).unwrap();
    assert!(served.has("10.9.77.77".parse().unwrap()), "what is behind it is delivered to it");
    detach(&mut node, 2, "red");
    assert_eq!(told(&node, "10.9.0.0/16").len(), 1);
}

#[test]
fn directions_and_a_second_instance_advertise_through_one_port() {
    let mut node = Node::new();
    attach(&mut node, 1, json!({ "direction": "from-port" }));
    assert!(node.advertised.is_empty(), "not announced");
    let more = json!({ "vpn_instance_id": "blue", "direction": "to-port", "export_rt": "64512:7" });
    attach(&mut node, 1, more);
    assert_eq!(node.overlay.ports().count(), 1);
    let route = told(&node, "10.0.0.1/32")[0];
    assert_eq!(route.route_targets[0].to_string(), "target:64512:7");
    assert_eq!(
        node.overlay.port(port(&node, 1)).unwrap().vrf,
        vrf(&node, "red"),
        "its own packets enter there"
    );
    assert!(way(&node.overlay, vrf(&node, "blue"), "10.0.0.1/32").contains("Port"));
    detach(&mut node, 1, "red");
    assert_eq!(told(&node, "10.0.0.1/32").len(), 1, "the other stays");
    detach(&mut node, 1, "blue");
    assert!(node.advertised.is_empty() && node.overlay.ports().count() == 0);
}

#[test]
fn routes_leak_through_a_port_while_they_are_there() {
    let mut node = Node::new();
    attach(&mut node, 1, json!({}));
    let leak = json!({ "vpn_instance_id": "leak", "direction": "to-port", "import_rt": "", "export_rt": "",
        "readvertise": { "from_rt": ["64512:8"], "to_rt": ["64512:9"] } });
    attach(&mut node, 1, leak);
    let from = vrf(&node, "(leak, through tap1)");
    assert_eq!(node.imports[&from][0].to_string(), "target:64512:8");
    hear(&mut node, from, "10.77.0.0/16", vec![path("192.0.2.9", 100)]);
    let route = told(&node, "10.77.0.0/16")[0];
    assert_eq!(route.route_targets[0].to_string(), "target:64512:9");
    assert_eq!(route.label, node.overlay.port(port(&node, 1)).unwrap().saved.label);
    let fib = FibBuilder::new().build(&node.overlay);
    assert!(fib.port(port(&node, 1)).unwrap().has("10.77.1.1".parse().unwrap()));
    hear(&mut node, from, "10.77.0.0/16", Vec::new());
    assert!(told(&node, "10.77.0.0/16").is_empty());
    hear(&mut node, from, "10.78.0.0/16", vec![path("192.0.2.9", 100)]);
    detach(&mut node, 1, "leak");
    assert!(told(&node, "10.78.0.0/16").is_empty());
    assert!(node.overlay.vrf_by_name("(leak, through tap1)").is_none());
}

#[test]
fn what_leaks_by_one_target_is_not_told_with_anothers() {
    let mut node = Node::new();
    attach(&mut node, 1, json!({}));
    let leak = |address: &str, from: &str, to: &str| {
        json!({ "vpn_instance_id": "leak", "direction": "to-port", "ip_address": address, "import_rt": "",
            "export_rt": "", "readvertise": { "from_rt": [from], "to_rt": [to] } })
    };
    attach(&mut node, 1, leak("10.0.0.1", "64512:8", "64512:9"));
    attach(&mut node, 1, leak("2001:db8::1", "64512:18", "64512:19"));
    for (name, from, to, prefix) in [
        ("(leak, through tap1)", "target:64512:8", "target:64512:9", "10.77.0.0/16"),
        ("(leak, part 2, through tap1)", "target:64512:18", "target:64512:19", "10.78.0.0/16"),
    ] {
        let id = vrf(&node, name);
        assert_eq!(node.imports[&id].iter().map(ToString::to_string).collect::<Vec<_>>(), [from]);
        hear(&mut node, id, prefix, vec![path("192.0.2.9", 100)]);
        let targets = &told(&node, prefix)[0].route_targets;
        assert_eq!(targets.iter().map(ToString::to_string).collect::<Vec<_>>(), [to], "{prefix}");
    }
    detach(&mut node, 1, "leak");
    assert!(!node.overlay.vrfs().iter().any(|vrf| vrf.config.name.contains("leak")));
}

#[test]
fn an_instance_of_the_operators_name_leaks_too() {
    let mut node = Node::new();
    attach(&mut node, 1, json!({}));
    let leak = json!({ "vpn_instance_id": "city", "direction": "to-port",
        "readvertise": { "from_rt": ["64512:8"], "to_rt": ["64512:9"] } });
    attach(&mut node, 1, leak);
    let from = vrf(&node, "(city, through tap1)");
    hear(&mut node, from, "10.77.0.0/16", vec![path("192.0.2.9", 100)]);
    assert_eq!(told(&node, "10.77.0.0/16")[0].route_targets[0].to_string(), "target:64512:9");
    node.reload(&CONFIG.replacen("name = \"city\"", "name = \"city\"\nhost = \"open\"", 1)).unwrap();
    assert_eq!(told(&node, "10.77.0.0/16").len(), 1, "a reload leaves it alone");
}

#[test]
fn nobody_joins_a_tenants_instance_but_by_the_api_that_made_it() {
    let mut node = Node::new();
    attach(&mut node, 1, json!({ "readvertise": { "from_rt": ["64512:8"], "to_rt": ["64512:9"] } }));
    node.links.insert("vr9".into());
    let named = |container: &str, kind, name: &str| {
        let key = agent_api::PortKey { container: container.into(), interface: "eth0".into() };
        let mut port = AttachPort::new(key, kind, "vr9".into(), vrouter_types::MacAddr([2, 0, 0, 0, 0, 9]));
        port.namespace = Some("city-x".into());
        port.addresses = vec!["10.0.0.9".parse().unwrap()];
        port.vrf = Some(name.into());
        port
    };
    let stranger = |kind, name: &str| named("c", kind, name);
    for kind in [agent_api::PortKind::Pod, agent_api::PortKind::Tap] {
        for name in ["red", "(red, through tap1)"] {
            assert!(node.overlay.vrf_by_name(name).is_some(), "{name}");
            for container in ["c", "openstack"] {
                let error = node.attach(named(container, kind, name)).unwrap_err();
                assert_eq!(error.kind, ErrorKind::NotAdmitted, "{error}");
            }
        }
        let error = node.attach(stranger(kind, "blue")).unwrap_err();
        assert!(error.message.contains("city") && !error.message.contains("red"), "{error}");
    }
    assert_eq!(node.overlay.ports().count(), 1);
    node.attach(stranger(agent_api::PortKind::Pod, "city")).unwrap();
}

#[test]
fn a_pod_whose_vrf_has_gone_does_not_join_the_instance_that_got_its_name() {
    let mut node = Node::new();
    let request = common::pod(&mut node, "a", "city-x");
    node.attach(request).unwrap();
    let without = CONFIG.replace("name = \"city\"", "name = \"town\"");
    let mut node = node.restart(&without, "boot-1");
    assert_eq!(node.overlay.ports().count(), 0, "nobody serves it");
    attach(&mut node, 1, json!({ "vpn_instance_id": "city" }));
    let mut node = node.restart(&without, "boot-1");
    let city = vrf(&node, "city");
    let names: Vec<_> = node.overlay.ports().map(|port| port.saved.request.key.container.clone()).collect();
    assert_eq!(names, ["openstack"], "its pod has nothing to do with this tenant");
    assert_eq!(way(&node.overlay, city, "10.20.11.2/32"), "nowhere");
    assert!(
        node.overlay.problems().iter().any(|it| it.contains("OpenStack's now")),
        "{:?}",
        node.overlay.problems()
    );
    node.reload(CONFIG).unwrap();
    assert_eq!(node.overlay.ports().count(), 2, "the operator has put the VRF back");
}

#[test]
fn a_vrf_with_pods_does_not_become_a_tenants_instance_by_a_reload() {
    let mut node = Node::new();
    attach(
        &mut node,
        1,
        json!({ "vpn_instance_id": "tenant-b", "import_rt": "64512:9", "export_rt": "64512:9" }),
    );
    let request = common::pod(&mut node, "a", "b");
    node.attach(request).unwrap();
    let without = CONFIG.replace("name = \"tenant-b\"", "name = \"town\"");
    let error = node.reload(&without).unwrap_err();
    assert!(error.kind == ErrorKind::Conflict && error.message.contains("a/eth0"), "{error}");
    assert!(!error.message.contains("openstack"), "{error}");
    let targets = &told(&node, "10.20.11.2/32")[0].route_targets;
    assert_eq!(targets[0].to_string(), "target:64512:200", "nothing was changed");
    node.detach("a").unwrap();
    node.reload(&without).unwrap();
    assert_eq!(told(&node, "10.0.0.1/32")[0].route_targets[0].to_string(), "target:64512:9");
}

#[test]
fn a_machine_under_migration_is_reached_on_one_node_at_a_time() {
    let mut node = Node::new();
    attach(&mut node, 9, json!({}));
    pass(&mut node, 10_000);
    let red = vrf(&node, "red");
    // It is elsewhere: plugged here, it is announced so that nobody prefers this node.
    hear(&mut node, red, "10.0.0.1/32", vec![path("192.0.2.1", 100)]);
    attach(&mut node, 1, json!({}));
    assert_eq!(merits(&node, "10.0.0.1/32"), (100, Some(200)));
    assert!(
        way(&node.overlay, red, "10.0.0.1/32").contains("Tunnels"),
        "its neighbours here find it there too"
    );
    pass(&mut node, 10_000);
    assert_eq!(merits(&node, "10.0.0.1/32"), (100, Some(200)), "however long it takes");
    // It shows itself here.
    let id = port(&node, 1);
    shows(&mut node, id, "10.0.0.1");
    assert_eq!(merits(&node, "10.0.0.1/32"), (200, None));
    assert!(way(&node.overlay, red, "10.0.0.1/32").contains("Port"));
    assert!(node.disk[&id].active.contains_key(&"10.0.0.1".parse::<IpAddr>().unwrap()), "a restart knows it");
    // It goes on to a third node, which says more; then back here, which says more again.
    hear(&mut node, red, "10.0.0.1/32", vec![path("192.0.2.3", 201)]);
    assert_eq!(merits(&node, "10.0.0.1/32"), (100, None), "steps back");
    assert!(way(&node.overlay, red, "10.0.0.1/32").contains("Tunnels"));
    shows(&mut node, id, "10.0.0.1");
    assert_eq!(merits(&node, "10.0.0.1/32"), (202, None));
    assert!(way(&node.overlay, red, "10.0.0.1/32").contains("Port"));
    hear(&mut node, red, "10.0.0.1/32", Vec::new());
    pass(&mut node, 31_000);
    assert_eq!(merits(&node, "10.0.0.1/32"), (200, None), "once the others have stepped back");
}

#[test]
fn a_machine_that_nobody_else_has_becomes_ordinary_without_a_word() {
    let mut node = Node::new();
    pass(&mut node, 1_000);
    attach(&mut node, 1, json!({}));
    assert_eq!(merits(&node, "10.0.0.1/32"), (100, Some(200)), "the VRF is new: others may have it");
    pass(&mut node, 3_000);
    assert_eq!(merits(&node, "10.0.0.1/32"), (100, None));
    attach(&mut node, 2, json!({}));
    assert_eq!(merits(&node, "10.0.0.2/32"), (100, None), "a VRF that is not new knows");
    // An operator's own preference is told as it is, and wins a draw once the machine shows itself.
    let red = vrf(&node, "red");
    hear(&mut node, red, "10.0.0.3/32", vec![path("192.0.2.1", 70)]);
    attach(&mut node, 3, json!({ "local_pref": 70 }));
    assert_eq!(merits(&node, "10.0.0.3/32"), (70, Some(200)));
    let id = port(&node, 3);
    shows(&mut node, id, "10.0.0.3");
    assert_eq!(merits(&node, "10.0.0.3/32"), (71, None));
}

#[test]
fn an_address_pair_is_active_where_it_was_shown_last_and_stands_by_elsewhere() {
    let mut node = Node::new();
    let pair = json!({ "allowed_address_pairs": [{ "ip_address": "10.0.0.100" }, { "ip_address": "10.99.0.0/24" }] });
    for n in [1, 2] {
        attach(&mut node, n, pair.clone());
    }
    pass(&mut node, 5_000);
    assert_eq!(merits(&node, "10.0.0.100/32"), (100, None), "one of them stands by for both");
    assert!(told(&node, "10.99.0.0/24").is_empty(), "only single addresses are announced");
    let (one, two) = (port(&node, 1), port(&node, 2));
    let label = |node: &Node, id| node.overlay.port(id).unwrap().saved.label;
    shows(&mut node, two, "10.0.0.100");
    assert_eq!(merits(&node, "10.0.0.100/32"), (200, None));
    assert_eq!(told(&node, "10.0.0.100/32")[0].label, label(&node, two));
    shows(&mut node, one, "10.0.0.100");
    assert_eq!(told(&node, "10.0.0.100/32")[0].label, label(&node, one), "takeover on one node");
    assert_eq!(merits(&node, "10.0.0.100/32"), (200, None));
    // Takeover by a machine on another node, and back.
    let red = vrf(&node, "red");
    hear(&mut node, red, "10.0.0.100/32", vec![path("192.0.2.1", 201)]);
    assert_eq!(merits(&node, "10.0.0.100/32"), (100, None));
    assert!(way(&node.overlay, red, "10.0.0.100/32").contains("Tunnels"));
    shows(&mut node, two, "10.0.0.100");
    assert_eq!(merits(&node, "10.0.0.100/32"), (202, None));
    // The active one goes: the other stands by.
    detach(&mut node, 2, "red");
    assert_eq!(told(&node, "10.0.0.100/32")[0].label, label(&node, one));
    assert_eq!(merits(&node, "10.0.0.100/32"), (100, None));
    shows(&mut node, one, "10.0.0.55");
    assert!(told(&node, "10.0.0.55/32").is_empty(), "nobody takes what is not allowed");
}

#[test]
fn a_floating_address_is_announced_in_its_own_vrf_and_follows_its_machine() {
    let mut node = Node::new();
    let floating = json!({ "floating_ips": [
        { "floating_ip_address": "203.0.113.5", "fixed_ip_address": "10.0.0.1", "vpn_instance_id": "main" },
        { "floating_ip_address": "203.0.113.6", "fixed_ip_address": "10.0.0.1", "vpn_instance_id": "outside" }
    ] });
    attach(&mut node, 1, floating.clone());
    pass(&mut node, 5_000);
    let route = told(&node, "203.0.113.5/32")[0];
    assert_eq!(route.route_targets[0].to_string(), "target:64512:300", "those of the floating VRF");
    assert_eq!(route.label, told(&node, "10.0.0.1/32")[0].label);
    assert!(way(&node.overlay, vrf(&node, "main"), "203.0.113.5/32").contains("Port"));
    assert!(told(&node, "203.0.113.6/32").is_empty(), "no such VRF yet");
    attach(&mut node, 2, json!({ "vpn_instance_id": "outside" }));
    assert_eq!(told(&node, "203.0.113.6/32").len(), 1, "it came");
    let id = port(&node, 1);
    shows(&mut node, id, "10.0.0.1");
    assert_eq!(merits(&node, "203.0.113.5/32"), (200, None), "where the machine is");
    attach(&mut node, 1, json!({}));
    assert!(told(&node, "203.0.113.5/32").is_empty() && told(&node, "203.0.113.6/32").is_empty());
}

#[test]
fn nobody_has_a_floating_address_in_a_tenants_instance_but_by_the_api_that_made_it() {
    let mut node = Node::new();
    let mut stranger = common::tap(&mut node, "a", "city", &["10.20.11.9"]);
    let floating = |vrf: &str| FloatingIp {
        address: "10.0.0.77".parse().unwrap(),
        fixed: "10.20.11.9".parse().unwrap(),
        vrf: vrf.into(),
    };
    stranger.floating_ips = vec![floating("red"), floating("main")];
    node.attach(stranger).unwrap();
    attach(&mut node, 1, json!({}));
    let (red, main) = (vrf(&node, "red"), vrf(&node, "main"));
    assert_eq!(way(&node.overlay, red, "10.0.0.77/32"), "nowhere", "red came later, and is another's");
    assert!(way(&node.overlay, main, "10.0.0.77/32").contains("Port"));
    let routes = told(&node, "10.0.0.77/32");
    assert_eq!(
        routes.iter().map(|it| it.route_targets[0].to_string()).collect::<Vec<_>>(),
        ["target:64512:300"]
    );
    let fib = FibBuilder::new().build(&node.overlay);
    let nat: Vec<_> = fib.ports.iter().flatten().flat_map(|port| &port.nat).map(|nat| nat.vrf).collect();
    assert_eq!(nat, [main]);
    let hidden = json!({ "floating_ips": [{ "floating_ip_address": "10.0.0.8", "fixed_ip_address": "10.0.0.1",
        "vpn_instance_id": "(red, through tap1)" }] });
    let mut body = json!({
        "vpn_instance_id": "red", "vpn_type": "ipvpn", "import_rt": "64512:1", "export_rt": "64512:1", "gateway_ip": "",
        "mac_address": "02:00:00:00:00:01", "ip_address": "10.0.0.1", "local_port": "tap1"
    });
    body.as_object_mut().unwrap().extend(hidden.as_object().unwrap().clone());
    assert!(Attachment::read(&body).unwrap_err().message.contains("floating_ips"), "no such name");
}

#[test]
fn what_many_attachments_of_one_tap_say_alike_is_held_once_and_what_is_too_much_waits() {
    let mut node = Node::new();
    attach(&mut node, 1, json!({}));
    let pairs = |n: u32, many: u32| -> Vec<Value> {
        let pair =
            |at: u32| json!({ "ip_address": std::net::Ipv4Addr::from(0x0a63_0000 + n + at).to_string() });
        (0..many).map(pair).collect()
    };
    let behind = |n: u32, pairs: Vec<Value>| {
        let groups: Vec<String> = (0..10).map(|group| format!("{group}-{}", "x".repeat(100))).collect();
        attachment(
            1,
            json!({
                "ip_address": format!("172.16.{n}.0/24"), "advertise_subnet": true, "security_groups": groups,
                "allowed_address_pairs": pairs
            }),
        )
    };
    node.openstack(Change::Attach((0..250).map(|n| behind(n, pairs(0, 20))).collect())).unwrap();
    let id = port(&node, 1);
    let saved = &node.disk[&id];
    assert_eq!(saved.request.security_groups.as_ref().map(Vec::len), Some(10));
    assert_eq!(saved.request.allowed.len(), 20);
    assert!(serde_json::to_vec(saved).unwrap().len() < 16 << 10, "a file that is read back");
    node.openstack(Change::Attach((0..50).map(|n| behind(n, pairs(n * 64, 64))).collect())).unwrap();
    assert_eq!(node.overlay.ports().count(), 0);
    assert!(
        node.overlay.problems().iter().any(|it| it.contains("1024 allowed address pairs")),
        "{:?}",
        node.overlay.problems()
    );
    node.openstack(Change::Attach((0..50).map(|n| behind(n, pairs(0, 20))).collect())).unwrap();
    assert_eq!(node.overlay.ports().count(), 1);
}

#[test]
fn machines_that_do_not_run_are_tried_together_and_cost_no_more_than_the_attempt() {
    let mut node = Node::new();
    let all = (1..=200).map(|n| attachment(n, json!({}))).collect();
    node.openstack(Change::Attach(all)).unwrap();
    let count = |node: &Node, is: fn(&Effect) -> bool| node.log.iter().filter(|effect| is(effect)).count();
    node.log.clear();
    pass(&mut node, 60_000);
    let tried = |effect: &Effect| matches!(effect, Effect::OpenPorts(underway) if underway.open.len() == 200);
    assert_eq!(count(&node, tried), 1);
    let published = count(&node, |effect| matches!(effect, Effect::PublishFib { .. }));
    assert!(published <= 1 && node.log.len() <= 3, "{published}: {:?}", node.log);
    node.links.extend((1..=200).map(|n| format!("tap{n}")));
    node.log.clear();
    pass(&mut node, 60_000);
    assert_eq!((node.open.len(), node.advertised.len()), (200, 200));
    assert!(count(&node, |effect| matches!(effect, Effect::PublishFib { .. })) <= 2);
}

#[test]
fn a_disk_that_is_full_is_told_and_what_was_asked_is_done_once_it_is_not() {
    let mut node = Node::new();
    node.links.insert("tap1".into());
    node.fail = Some(|effect| matches!(effect, Effect::SaveAll(_)));
    let error = node.openstack(Change::Attach(vec![attachment(1, json!({}))])).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Internal);
    assert!(
        node.advertised.is_empty() && node.open.is_empty() && node.attachments.is_empty(),
        "nothing of it"
    );
    assert!(
        node.overlay.problems().iter().any(|problem| problem.contains("tap1")),
        "{:?}",
        node.overlay.problems()
    );
    node.fail = None;
    node.openstack(Change::Attach(vec![attachment(1, json!({}))])).unwrap();
    assert_eq!(
        (node.attachments.len(), node.instances.len(), node.disk.len()),
        (1, 1, 1),
        "the caller asks again"
    );
    pass(&mut node, 120_000);
    assert_eq!((node.advertised.len(), node.open.len()), (1, 1));
}

#[test]
fn asking_again_and_again_while_the_disk_is_full_makes_nothing_grow() {
    let mut node = Node::new();
    node.fail = Some(|effect| matches!(effect, Effect::SaveAll(_)));
    let ask = |node: &mut Node| {
        node.log.clear();
        node.openstack(Change::Plug(vec![plug(1)])).unwrap_err();
        node.openstack(Change::Unplug(plug(2).id)).unwrap_err();
        attach_fails(node, json!({ "local_pref": 1 }));
        attach_fails(node, json!({ "local_pref": 2 }));
        let saved = node.log.iter().filter_map(|effect| match effect {
            Effect::SaveAll(writes) => Some(writes.len()),
            _ => None,
        });
        saved.max().unwrap()
    };
    let first = ask(&mut node);
    let later: Vec<usize> = (0..10).map(|_| ask(&mut node)).collect();
    assert!(later.iter().all(|writes| *writes <= first + 4), "{first}, then {later:?}");
    node.fail = None;
    pass(&mut node, 120_000);
    assert_eq!((node.plugs.len(), node.attachments[&0].local_pref), (1, Some(2)), "the last word holds");
}

#[test]
fn no_machine_is_known_by_a_label_that_the_disk_does_not_know_of() {
    let mut node = Node::new();
    node.links.insert("tap1".into());
    node.fail = Some(|effect| matches!(effect, Effect::SaveLabels { .. }));
    attach_fails(&mut node, json!({}));
    assert!(node.advertised.is_empty() && node.open.is_empty() && node.disk.is_empty(), "nothing of it");
    pass(&mut node, 10_000);
    assert!(node.advertised.is_empty() && node.disk.is_empty(), "however often it is tried");
    node.fail = None;
    pass(&mut node, 120_000);
    pass(&mut node, 120_000);
    let label = node.overlay.port(port(&node, 1)).unwrap().saved.label;
    assert!(node.cursor.is_some_and(|cursor| cursor > label), "{:?} {label}", node.cursor);
    assert_eq!((node.advertised.len(), node.disk.len()), (1, 1));
}

#[test]
fn what_is_tried_again_never_takes_the_place_of_what_was_written_since() {
    let mut node = Node::new();
    attach(&mut node, 1, json!({}));
    attach(&mut node, 2, json!({}));
    pass(&mut node, 10_000);
    let (one, two) = (port(&node, 1), port(&node, 2));
    node.fail = Some(|effect| matches!(effect, Effect::SaveAll(_)));
    attach_fails(&mut node, json!({ "allowed_address_pairs": [{ "ip_address": "10.0.0.100" }] }));
    node.openstack(Change::Attach(vec![attachment(
        2,
        json!({ "description": "b", "allowed_address_pairs": [{ "ip_address": "10.0.0.101" }] }),
    )]))
    .unwrap_err();
    // Meanwhile one file was written, and another was deleted.
    shows(&mut node, one, "10.0.0.1");
    let written = node.disk[&one].clone();
    assert_eq!(written.active.len(), 1);
    let (call, request) = (CallId(u64::MAX), DetachPort { key: node.disk[&two].request.key.clone() });
    node.handle(Event::Detach { call, request, now: Millis(node.now) });
    assert!(!node.disk.contains_key(&two));
    node.fail = None;
    pass(&mut node, 120_000);
    assert_eq!(node.attachments[&0].allowed.len(), 1, "it was tried again");
    assert_eq!(node.disk[&one], written);
    assert!(!node.disk.contains_key(&two), "nobody has this port any more");
}

#[test]
fn there_is_an_end_to_what_waits_for_a_disk_that_fails() {
    let mut node = Node::new();
    node.fail = Some(|effect| matches!(effect, Effect::SaveAll(_)));
    let many = |round: u128| -> Vec<Plug> {
        let one = |n: u128| Plug { id: Uuid(round << 64 | n), interface: format!("tap{n}"), ..plug(1) };
        (1..=4_000).map(one).collect()
    };
    let mut kinds = Vec::new();
    for round in 1..6 {
        node.log.clear();
        kinds.push(node.openstack(Change::Plug(many(round))).unwrap_err().kind);
        let _ = node.openstack(Change::UnplugInstance(plug(1).instance));
        let _ = node.openstack(Change::Unplug(Uuid(round)));
    }
    assert_eq!(kinds[..2], [ErrorKind::Internal; 2], "as long as there is room");
    assert_eq!(kinds[3..], [ErrorKind::Unavailable; 2], "{kinds:?}");
    node.fail = None;
    pass(&mut node, 120_000);
    node.openstack(Change::UnplugInstance(plug(1).instance)).unwrap();
    node.openstack(Change::Plug(vec![plug(7)])).unwrap();
    assert_eq!(node.plugs.len(), 1);
}

fn attach_fails(node: &mut Node, more: Value) {
    node.openstack(Change::Attach(vec![attachment(1, more)])).unwrap_err();
}

#[test]
fn a_restart_in_the_middle_of_anything_gives_back_the_same_ports_labels_and_routes() {
    let mut node = Node::new();
    node.links.insert("tap5".into());
    node.openstack(Change::Plug(vec![plug(5)])).unwrap();
    attach(&mut node, 1, json!({ "local_pref": 77 }));
    attach(&mut node, 2, json!({ "vpn_instance_id": "blue", "direction": "to-port" }));
    attach(&mut node, 5, json!({ "vpn_instance_id": "net" }));
    node.openstack(Change::Attach(vec![attachment(6, json!({}))])).unwrap();
    pass(&mut node, 10_000);
    let (ports, routes) = (node.disk.clone(), node.advertised.clone());
    let mut node = node.restart(CONFIG, "boot-1");
    assert_eq!(node.disk, ports, "nothing is plugged anew");
    assert_eq!(node.advertised, routes);
    assert!(!node.log.iter().any(|effect| matches!(effect, Effect::Withdraw(_) | Effect::SavePort(_))));
    // What was written but not yet made, and what was made but is no longer wanted.
    node.plugs.insert(plug(7).id, plug(7));
    node.plugs.remove(&plug(5).id);
    node.attachments.retain(|_, it| it.mac != plug(5).mac);
    node.links.insert("tap7".into());
    let text = CONFIG.replacen(
        "name = \"city\"",
        &format!("name = \"city\"\nopenstack-networks = [\"{NETWORK}\"]"),
        1,
    );
    let node = node.restart(&text, "boot-1");
    assert_eq!(told(&node, "10.0.0.7/32").len(), 1, "joins");
    assert!(told(&node, "10.0.0.5/32").is_empty(), "leaves");
    assert!(!node.disk.values().any(|saved| saved.request.host_interface == "tap5"));
}

#[test]
fn a_machine_that_is_only_sent_packets_and_attached_by_its_mac_comes_back_with_its_label() {
    let mut node = Node::new();
    node.links.insert("tap5".into());
    node.openstack(Change::Plug(vec![plug(5)])).unwrap();
    let patch = json!({ "vpn_instance_id": "blue", "direction": "to-port", "local_port": { "linuxif": "patch2tun:7" } });
    node.openstack(Change::Attach(vec![attachment(5, patch)])).unwrap();
    let (ports, routes) = (node.disk.clone(), node.advertised.clone());
    assert_eq!((ports.len(), told(&node, "10.0.0.5/32").len()), (1, 1));
    let node = node.restart(CONFIG, "boot-1");
    assert_eq!((node.disk, node.advertised), (ports, routes));
}

#[test]
fn machines_of_two_tenants_that_are_only_sent_packets_may_have_one_address() {
    let mut node = Node::new();
    let to_port = |instance: &str, targets: &str| {
        json!({ "vpn_instance_id": instance, "direction": "to-port", "ip_address": "10.0.0.1", "import_rt": targets,
            "export_rt": targets })
    };
    attach(&mut node, 1, to_port("blue", "64512:7"));
    attach(&mut node, 2, to_port("green", "64512:8"));
    assert_eq!(node.overlay.waiting().collect::<Vec<_>>(), []);
    let (ports, routes) = (node.disk.clone(), node.advertised.clone());
    assert_eq!((ports.len(), told(&node, "10.0.0.1/32").len()), (2, 2), "each in its own instance");
    let mut node = node.restart(CONFIG, "boot-1");
    assert_eq!((&node.disk, &node.advertised), (&ports, &routes));
    detach(&mut node, 1, "blue");
    assert_eq!(
        told(&node, "10.0.0.1/32")[0].route_targets[0].to_string(),
        "target:64512:8",
        "the other stays"
    );
}

#[test]
fn what_syncports_awaits_is_awaited_after_a_restart_too() {
    let text = CONFIG.replacen(
        "name = \"city\"",
        &format!("name = \"city\"\nopenstack-networks = [\"{NETWORK}\"]"),
        1,
    );
    let mut node = Node::with(&text);
    let taps = [1, 2, 3, 4].map(|n| format!("tap{n}"));
    node.links.extend(taps);
    let at = |n: u8, time: &str| Plug { time: time.into(), ..plug(n) };
    node.openstack(Change::Plug((1..=4).map(|n| at(n, "before")).collect())).unwrap();
    node.openstack(Change::Plug(vec![at(1, "again, and nothing else is new")])).unwrap();
    node.openstack(Change::Sync).unwrap();
    node.openstack(Change::Plug(vec![at(2, "after")])).unwrap();
    let mut node = node.restart(&text, "boot-1");
    // One whose client found no agent has left its file alone, and was told that this is enough.
    let mut plugs = node.plugs.clone();
    plugs.insert(plug(3).id, at(3, "while nobody was there"));
    node.plugs = plugs;
    let mut node = node.restart(&text, "boot-1");
    assert_eq!(node.overlay.ports().count(), 4);
    pass(&mut node, 59_000);
    assert_eq!(node.overlay.ports().count(), 4, "they have time to be plugged again");
    pass(&mut node, 1_000);
    let names: Vec<_> = node.overlay.ports().map(|port| port.saved.request.host_interface.clone()).collect();
    assert_eq!(names, ["tap2", "tap3"], "the others are gone as they would be without a restart");
    assert_eq!((node.awaited.len(), node.plugs.len()), (0, 2), "nothing is left behind");
    let mut node = node.restart(&text, "boot-1");
    pass(&mut node, 120_000);
    assert_eq!(node.overlay.ports().count(), 2);
}

#[test]
fn nothing_goes_for_a_syncports_that_was_refused() {
    let mut node = Node::new();
    node.openstack(Change::Plug(vec![plug(1)])).unwrap();
    node.fail = Some(|effect| matches!(effect, Effect::SaveAll(_)));
    node.openstack(Change::Sync).unwrap_err();
    node.fail = None;
    pass(&mut node, 120_000);
    pass(&mut node, 120_000);
    assert_eq!((node.plugs.len(), node.awaited.len()), (1, 0));
}

#[test]
fn ten_thousand_prefixes_behind_one_tap_and_a_thousand_instances_are_shown_in_one_go() {
    let mut node = Node::new();
    attach(&mut node, 1, json!({}));
    for n in 0..10_000_u32 {
        let [_, _, high, low] = n.to_be_bytes();
        let subnet =
            json!({ "ip_address": format!("172.{}.{}.0/24", 16 + high, low), "advertise_subnet": true });
        node.attachments.insert(n + 1, attachment(1, subnet));
    }
    for n in 0..1_000_u32 {
        let other = json!({
            "vpn_instance_id": format!("v{n}"), "direction": "to-port", "mac_address": "02:00:00:00:00:02",
            "local_port": { "linuxif": "tap2" }
        });
        node.attachments.insert(20_000 + n, attachment(2, other));
    }
    let node = node.restart(CONFIG, "boot-1");
    let listed = view::attachments(&node.overlay);
    let listed = listed["attachments"].as_array().unwrap();
    assert_eq!(listed.len(), 11_001);
    let label = node.overlay.port(port(&node, 1)).unwrap().saved.label;
    let of_tap1 = listed.iter().filter(|it| it["label"] == json!(label) && it["state"] == "up").count();
    assert_eq!(of_tap1, 10_001);
    let shown = view::openstack(&node.overlay);
    let red = shown.instances.iter().find(|it| it.name == "red").unwrap();
    assert_eq!((shown.instances.len(), red.attachments, red.configured), (1_001, 10_001, false));
    assert_eq!(red.rd, node.overlay.vrf_by_name("red").map(|vrf| vrf.config.rd));
    assert_eq!(shown.taps.iter().map(|tap| tap.attachments.len()).collect::<Vec<_>>(), [10_001, 1_000]);
}

#[test]
fn reloading_gives_waiting_ports_their_vrf_and_leaves_the_others_alone() {
    let mut node = Node::new();
    attach(&mut node, 1, json!({}));
    node.links.insert("tap5".into());
    node.openstack(Change::Plug(vec![plug(5)])).unwrap();
    assert!(node.overlay.waiting().any(|(tap, why)| tap == "tap5" && why.contains(NETWORK)));
    let before = (port(&node, 1), told(&node, "10.0.0.1/32")[0].clone());
    let text = CONFIG.replacen(
        "name = \"city\"",
        &format!("name = \"city\"\nopenstack-networks = [\"{NETWORK}\"]"),
        1,
    );
    node.reload(&text).unwrap();
    assert_eq!(told(&node, "10.0.0.5/32").len(), 1);
    assert_eq!(node.overlay.waiting().count(), 0);
    assert_eq!((port(&node, 1), told(&node, "10.0.0.1/32")[0].clone()), before);
    assert!(node.imports.contains_key(&vrf(&node, "red")), "an instance goes on importing");
    let added = format!(
        "{text}\n[[vrf]]\nname = \"red\"\nexport = [\"target:64512:999\"]\nimport = [\"target:64512:999\"]\n"
    );
    node.reload(&added).unwrap();
    assert_eq!(
        told(&node, "10.0.0.1/32")[0].route_targets[0].to_string(),
        "target:64512:999",
        "the operator's word holds"
    );
    assert_eq!(port(&node, 1), before.0);
    node.reload(&text).unwrap();
    assert_eq!(
        told(&node, "10.0.0.1/32")[0].route_targets[0].to_string(),
        "target:64512:1",
        "and is taken back"
    );
}

#[test]
fn vrfs_that_come_and_go_leave_nothing_behind() {
    let mut node = Node::new();
    for round in 0..200_u64 {
        let instance = format!("i{round}");
        attach(&mut node, 1, json!({ "vpn_instance_id": instance }));
        let id = vrf(&node, &instance);
        hear(&mut node, id, "10.8.0.0/16", vec![path("192.0.2.1", 100)]);
        detach(&mut node, 1, &instance);
        pass(&mut node, 61_000);
    }
    assert_eq!((node.overlay.vrfs().len(), node.overlay.tunnels().count()), (3, 0));
    attach(&mut node, 1, json!({}));
    assert!(vrf(&node, "red").0 < 10, "numbers are used again");
}

#[test]
fn a_pod_and_a_plugged_machine_are_no_less_ports_than_before() {
    let mut node = Node::new();
    node.links.insert("tap1".into());
    attach(&mut node, 1, json!({ "vpn_instance_id": "city" }));
    let mut other = AttachPort::new(
        agent_api::PortKey { container: "c".into(), interface: "eth0".into() },
        agent_api::PortKind::Pod,
        "tap1".into(),
        vrouter_types::MacAddr([2, 0, 0, 0, 0, 9]),
    );
    other.namespace = Some("city-x".into());
    assert_eq!(node.attach(other).unwrap_err().kind, ErrorKind::Conflict, "the tap is taken");
    let mut pod = AttachPort::new(
        agent_api::PortKey { container: "d".into(), interface: "eth0".into() },
        agent_api::PortKind::Pod,
        "vr9".into(),
        vrouter_types::MacAddr([2, 0, 0, 0, 0, 9]),
    );
    pod.namespace = Some("city-x".into());
    pod.addresses = vec!["10.0.0.3".parse().unwrap()];
    node.links.insert("vr9".into());
    node.attach(pod).unwrap();
    attach(&mut node, 3, json!({ "vpn_instance_id": "city" }));
    let waits: Vec<_> = node.overlay.waiting().collect();
    assert!(waits[0].1.contains("already belongs"), "{waits:?}");
}
