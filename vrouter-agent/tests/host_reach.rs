//! What the host reaches through `vrouter0`, and what it must not, whatever addresses tenants choose.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::{CONFIG, Node, ip, prefix, tap};
use vrouter_agent::event::{Effect, Event, Millis, VrfPath, VrfRoute};
use vrouter_types::{EncapSet, Label, VrfId};

/// The node speaks to all of these.
const NEEDED: &str = r#"
[[bgp.neighbor]]
address = "192.0.2.1"
[openstack]
metadata = "http://192.0.2.5:8775"
resolvers = ["192.0.2.53"]
"#;

fn config() -> String {
    let text = CONFIG.replace("\"198.51.100.0/24\"", "\"198.51.100.0/24\", \"192.0.2.7/32\"");
    format!("{text}{NEEDED}")
}

/// A route of another provider edge, or its end.
fn hear(node: &mut Node, next_hop: &str, is_there: bool) {
    let path = VrfPath {
        rd: "192.0.2.9:1".parse().unwrap(),
        next_hop: ip(next_hop),
        label: Label::new(100).unwrap(),
        encaps: EncapSet::EMPTY,
        local: false,
        local_pref: 100,
    };
    let paths = is_there.then_some(path).into_iter().collect();
    node.handle(Event::Routes(vec![VrfRoute { vrf: VrfId(0), prefix: prefix("10.7.0.0/16"), paths }]));
}

fn pass(node: &mut Node) {
    node.now += 1_000;
    node.handle(Event::Tick { now: Millis(node.now) });
}

#[test]
fn no_machine_gets_what_the_host_sends_to_those_that_the_node_speaks_to() {
    let mut node = Node::with(&config());
    let addresses = ["192.0.2.1", "192.0.2.5", "192.0.2.53", "192.0.2.7", "192.0.2.77", "198.51.100.9"];
    for (n, address) in addresses.into_iter().enumerate() {
        let request = tap(&mut node, &format!("t{n}"), "tenant-b", &[address]);
        node.attach(request).unwrap();
    }
    let reached: Vec<String> = node.host_routes.iter().map(ToString::to_string).collect();
    assert_eq!(reached, ["192.0.2.77", "198.51.100.9"], "a range of provider edges may have workloads in it");
    assert_eq!(node.overlay.host_addresses().count(), 2);
    for address in &addresses[..4] {
        let said = node.overlay.problems().iter().filter(|it| it.contains(&format!("{address}:"))).count();
        assert_eq!(said, 1, "{address}: {:?}", node.overlay.problems());
    }
    for n in 0..addresses.len() {
        node.detach(&format!("t{n}")).unwrap();
    }
    node.assert_nothing_left();
}

#[test]
fn a_provider_edge_that_comes_takes_the_hosts_route_from_a_machine_of_its_address_first() {
    let mut node = Node::new();
    let request = tap(&mut node, "t", "tenant-b", &["192.0.2.77"]);
    node.attach(request).unwrap();
    assert!(node.host_routes.contains(&ip("192.0.2.77")));
    node.log.clear();
    hear(&mut node, "192.0.2.77", true);
    assert!(node.host_routes.is_empty());
    let at = |is: fn(&Effect) -> bool| node.log.iter().position(is).unwrap();
    let gone = at(|effect| matches!(effect, Effect::RemoveHostRoute(_)));
    assert!(gone < at(|effect| matches!(effect, Effect::PublishFib { .. })), "before packets go there");
    let revision = node.overlay.ports_revision();
    hear(&mut node, "192.0.2.77", false);
    pass(&mut node);
    assert!(node.host_routes.contains(&ip("192.0.2.77")), "nobody else has this address any more");
    assert!(node.overlay.ports_revision() > revision, "the host's own table follows");
    node.detach("t").unwrap();
    node.assert_nothing_left();
}

#[test]
fn a_neighbor_that_the_operator_adds_takes_the_hosts_route_from_a_machine_of_its_address() {
    let mut node = Node::new();
    let request = tap(&mut node, "t", "tenant-b", &["192.0.2.1"]);
    node.attach(request).unwrap();
    assert_eq!(node.host_routes.len(), 1);
    node.reload(&format!("{CONFIG}\n[[bgp.neighbor]]\naddress = \"192.0.2.1\"\n")).unwrap();
    assert!(node.host_routes.is_empty());
    node.reload(CONFIG).unwrap();
    assert_eq!(node.host_routes.len(), 1);
}
