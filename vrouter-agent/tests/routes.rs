//! Routes: what BGP says, what it becomes, and the forwarding state that follows.
#![allow(clippy::unwrap_used, reason = "a test may")]

mod common;

use std::sync::Arc;

use common::{CONFIG, Node, ip, label, pod, prefix, tap};
use dataplane_core::fib::{Fib, Hop, Route};
use vrouter_agent::event::{Effect, Event, VrfPath, VrfRoute};
use vrouter_agent::fib_build::FibBuilder;
use vrouter_types::{Encap, EncapSet, PortId, VrfId};

const UDP: &[Encap] = &[Encap::MplsOverUdp];
const GRE: &[Encap] = &[Encap::MplsOverGre];
const BOTH: &[Encap] = &[Encap::MplsOverGre, Encap::MplsOverUdp];

fn path(next_hop: &str, value: u32, encaps: &[Encap]) -> VrfPath {
    VrfPath {
        rd: "192.0.2.1:1".parse().unwrap(),
        next_hop: ip(next_hop),
        label: label(value),
        encaps: encaps.iter().copied().collect::<EncapSet>(),
        local: false,
        local_pref: 100,
    }
}

fn learn(node: &mut Node, vrf: u32, to: &str, paths: Vec<VrfPath>) {
    node.handle(Event::Routes(vec![VrfRoute { vrf: VrfId(vrf), prefix: prefix(to), paths }]));
}

fn fib(node: &Node) -> Arc<Fib> {
    FibBuilder::new().build(&node.overlay)
}

/// Where a destination leads, as `remote encapsulation label`.
fn ways(fib: &Fib, vrf: u32, to: &str) -> Vec<String> {
    match fib.vrf(VrfId(vrf)).unwrap().routes.lookup(ip(to)) {
        Some(Route::Tunnel(hops)) => {
            let way = |hop: &Hop| {
                let tunnel = fib.tunnel(hop.tunnel).unwrap();
                format!("{} {} {}", tunnel.remote, tunnel.encap, hop.label)
            };
            hops.iter().map(way).collect()
        }
        Some(Route::Port(port)) => vec![format!("port {port}")],
        Some(Route::Host) => vec!["host".to_owned()],
        Some(Route::Discard) => vec!["discard".to_owned()],
        None => Vec::new(),
    }
}

#[test]
fn the_operators_first_encapsulation_that_the_peer_named_is_used() {
    for (order, named, expected) in [
        (r#"["mpls-over-udp", "mpls-over-gre"]"#, BOTH, "192.0.2.1 mpls-over-udp 100"),
        (r#"["mpls-over-gre", "mpls-over-udp"]"#, BOTH, "192.0.2.1 mpls-over-gre 100"),
        (r#"["mpls-over-udp", "mpls-over-gre"]"#, GRE, "192.0.2.1 mpls-over-gre 100"),
        (r#"["mpls-over-gre", "mpls-over-udp"]"#, UDP, "192.0.2.1 mpls-over-udp 100"),
        (r#"["mpls-over-gre", "mpls-over-udp"]"#, &[], "192.0.2.1 mpls-over-gre 100"),
    ] {
        let config = CONFIG.replace("accept-from", &format!("encapsulations = {order}\naccept-from"));
        let mut node = Node::with(&config);
        learn(&mut node, 0, "10.8.0.0/16", vec![path("192.0.2.1", 100, named)]);
        assert_eq!(ways(&fib(&node), 0, "10.8.1.1"), [expected], "{order} {named:?}");
    }
}

#[test]
fn a_path_that_wants_what_the_operator_does_not_is_no_way() {
    let config = CONFIG.replace("accept-from", "encapsulations = [\"mpls-over-udp\"]\naccept-from");
    let mut node = Node::with(&config);
    learn(&mut node, 0, "10.8.0.0/16", vec![path("192.0.2.1", 100, GRE), path("192.0.2.2", 200, BOTH)]);
    assert_eq!(ways(&fib(&node), 0, "10.8.1.1"), ["192.0.2.2 mpls-over-udp 200"]);
    learn(&mut node, 0, "10.8.0.0/16", vec![path("192.0.2.1", 100, GRE)]);
    assert!(ways(&fib(&node), 0, "10.8.1.1").is_empty());
}

#[test]
fn equal_paths_share_and_one_vrf_does_not_see_the_others() {
    let mut node = Node::new();
    learn(&mut node, 0, "10.8.0.0/16", vec![path("192.0.2.2", 200, UDP), path("192.0.2.1", 100, UDP)]);
    let fib = fib(&node);
    assert_eq!(ways(&fib, 0, "10.8.1.1"), ["192.0.2.1 mpls-over-udp 100", "192.0.2.2 mpls-over-udp 200"]);
    assert!(ways(&fib, 1, "10.8.1.1").is_empty() && ways(&fib, 2, "10.8.1.1").is_empty());
}

#[test]
fn next_hops_are_known_provider_edges_while_a_route_names_them() {
    let mut node = Node::new();
    assert!(!fib(&node).sources.contains(ip("192.0.2.1")));
    assert!(fib(&node).sources.contains(ip("198.51.100.7")), "accept-from");
    learn(&mut node, 0, "10.8.0.0/16", vec![path("192.0.2.1", 100, UDP)]);
    learn(&mut node, 1, "10.8.0.0/16", vec![path("192.0.2.1", 101, UDP)]);
    assert!(fib(&node).sources.contains(ip("192.0.2.1")));
    learn(&mut node, 0, "10.8.0.0/16", Vec::new());
    assert!(fib(&node).sources.contains(ip("192.0.2.1")));
    learn(&mut node, 1, "10.8.0.0/16", Vec::new());
    assert!(!fib(&node).sources.contains(ip("192.0.2.1")));
}

#[test]
fn tunnels_live_as_long_as_a_route_leads_through_them_and_keep_their_number() {
    let mut node = Node::new();
    learn(&mut node, 0, "10.8.0.0/16", vec![path("192.0.2.1", 100, UDP)]);
    learn(&mut node, 0, "10.9.0.0/16", vec![path("192.0.2.2", 100, UDP)]);
    learn(&mut node, 1, "10.8.0.0/16", vec![path("192.0.2.2", 101, UDP)]);
    let tunnels = |node: &Node| -> Vec<_> {
        node.overlay.tunnels().map(|t| (t.id.0, t.remote, t.routes, t.mtu)).collect()
    };
    assert_eq!(tunnels(&node), [(0, ip("192.0.2.1"), 1, 1468), (1, ip("192.0.2.2"), 2, 1468)]);
    learn(&mut node, 0, "10.8.0.0/16", vec![path("192.0.2.1", 177, UDP)]);
    learn(&mut node, 0, "10.9.0.0/16", Vec::new());
    assert_eq!(tunnels(&node), [(0, ip("192.0.2.1"), 1, 1468), (1, ip("192.0.2.2"), 1, 1468)]);
    learn(&mut node, 0, "10.8.0.0/16", Vec::new());
    learn(&mut node, 0, "10.8.0.0/16", Vec::new());
    assert_eq!(tunnels(&node), [(1, ip("192.0.2.2"), 1, 1468)]);
    learn(&mut node, 0, "10.8.0.0/16", vec![path("192.0.2.3", 5, GRE)]);
    assert_eq!(tunnels(&node)[0], (0, ip("192.0.2.3"), 1, 1472));
}

#[test]
fn a_port_of_this_node_goes_before_what_bgp_says_of_its_address() {
    let mut node = Node::new();
    let request = tap(&mut node, "tap1", "city", &["10.1.1.1"]);
    let port = node.attach(request).unwrap();
    learn(&mut node, 0, "10.1.1.1/32", vec![path("192.0.2.1", 100, UDP)]);
    assert_eq!(ways(&fib(&node), 0, "10.1.1.1"), [format!("port {}", port.port)]);
    node.handle(Event::LinkRemoved("vrtap1".to_owned()));
    assert_eq!(
        ways(&fib(&node), 0, "10.1.1.1"),
        ["192.0.2.1 mpls-over-udp 100"],
        "a VM that moved is reached there"
    );
}

#[test]
fn our_own_route_in_another_vrf_of_ours_leads_to_the_port() {
    let mut node = Node::new();
    let request = pod(&mut node, "c1", "city-a");
    let port = node.attach(request).unwrap();
    let mut leak = path("192.0.2.11", port.label.value(), BOTH);
    leak.local = true;
    learn(&mut node, 1, "10.20.11.2/32", vec![leak, path("192.0.2.1", 100, UDP)]);
    let snapshot = fib(&node);
    assert_eq!(ways(&snapshot, 1, "10.20.11.2"), [format!("port {}", port.port)]);
    assert!(!snapshot.sources.contains(ip("192.0.2.11")), "we are no provider edge of our own");
    learn(&mut node, 1, "10.20.11.2/32", Vec::new());
    assert!(ways(&fib(&node), 1, "10.20.11.2").is_empty());
}

#[test]
fn the_snapshot_holds_what_is_in_service_and_nothing_else() {
    let mut node = Node::new();
    let mut up = tap(&mut node, "tap1", "city", &["10.1.1.1", "fd00::7"]);
    up.prefixes = vec![prefix("10.7.0.0/24")];
    let waits = tap(&mut node, "tap2", "city", &["10.1.1.2"]);
    let (up, waits) = (node.attach(up).unwrap(), node.attach(waits).unwrap());
    node.handle(Event::LinkRemoved("vrtap2".to_owned()));
    let fib = fib(&node);
    assert_eq!(fib.ilm.lookup(up.label), Some(up.port));
    assert_eq!(fib.ilm.lookup(waits.label), None);
    assert!(fib.port(waits.port).is_none());
    let port = fib.port(up.port).unwrap();
    assert_eq!(
        (port.vrf, port.mtu, port.prefixes.as_slice()),
        (VrfId(0), 1468, &[prefix("10.7.0.0/24")][..])
    );
    for to in ["10.1.1.1", "fd00::7", "10.7.0.200"] {
        assert_eq!(ways(&fib, 0, to), [format!("port {}", up.port)]);
    }
    assert_eq!(fib.host.lookup(ip("fd00::7")), Some(up.port));
    assert_eq!(fib.host.lookup(ip("10.7.0.200")), None);
    assert_eq!(fib.host.lookup(ip("10.1.1.2")), None);
}

#[test]
fn what_did_not_change_is_shared_between_snapshots() {
    let mut node = Node::new();
    let request = pod(&mut node, "c1", "city-a");
    let port = node.attach(request).unwrap();
    let mut builder = FibBuilder::new();
    let before = builder.build(&node.overlay);
    learn(&mut node, 1, "10.8.0.0/16", vec![path("192.0.2.1", 100, UDP)]);
    let after = builder.build(&node.overlay);
    assert!(after.generation > before.generation);
    let same_vrf =
        |vrf: usize| Arc::ptr_eq(before.vrfs[vrf].as_ref().unwrap(), after.vrfs[vrf].as_ref().unwrap());
    assert_eq!([same_vrf(0), same_vrf(1), same_vrf(2)], [true, false, true]);
    let index = port.port.0 as usize;
    assert!(Arc::ptr_eq(before.ports[index].as_ref().unwrap(), after.ports[index].as_ref().unwrap()));
    learn(&mut node, 1, "10.8.0.0/16", vec![path("192.0.2.1", 100, UDP)]);
    let again = builder.build(&node.overlay);
    assert!(
        Arc::ptr_eq(after.vrfs[1].as_ref().unwrap(), again.vrfs[1].as_ref().unwrap()),
        "said again, not changed"
    );
}

#[test]
fn a_port_that_was_replaced_is_not_taken_for_the_old_one() {
    let mut node = Node::new();
    let mut builder = FibBuilder::new();
    let mut request = tap(&mut node, "tap1", "city", &["10.1.1.1"]);
    let old = node.attach(request.clone()).unwrap();
    builder.build(&node.overlay);
    request.addresses = vec![ip("10.1.1.2")];
    let same = node.attach(request.clone()).unwrap();
    assert_eq!((same.port, same.label), (old.port, old.label), "what is on it may change while it goes on");
    assert_eq!(builder.build(&node.overlay).port(same.port).unwrap().addresses, [ip("10.1.1.2")]);
    request.vrf = Some("tenant-b".to_owned());
    let new = node.attach(request).unwrap();
    let fib = builder.build(&node.overlay);
    assert!(fib.port(old.port).is_none());
    assert_eq!(fib.port(new.port).unwrap().addresses, [ip("10.1.1.2")]);
    assert_eq!((fib.ilm.lookup(old.label), fib.ilm.lookup(new.label)), (None, Some(new.port)));
}

#[test]
fn route_changes_may_wait_for_each_other_and_attaches_never_do() {
    let mut node = Node::new();
    learn(&mut node, 0, "10.8.0.0/16", vec![path("192.0.2.1", 100, UDP)]);
    assert_eq!(node.log, [Effect::PublishFib { soon: true }]);
    node.log.clear();
    let request = pod(&mut node, "c1", "city-a");
    node.attach(request).unwrap();
    let publishes: Vec<_> =
        node.log.iter().filter(|effect| matches!(effect, Effect::PublishFib { .. })).collect();
    assert_eq!(publishes, [&Effect::PublishFib { soon: false }]);
}

#[test]
fn another_underlay_address_moves_the_tunnels_and_is_advertised() {
    let mut node = Node::new();
    let request = tap(&mut node, "tap1", "city", &["10.1.1.1"]);
    node.attach(request).unwrap();
    assert_eq!(node.routes(), ["192.0.2.11:1:10.1.1.1/32 16 192.0.2.11"]);
    node.log.clear();
    node.underlay(Some("203.0.113.5"), 1400);
    assert_eq!(node.log[0], Effect::SetUnderlay(Some(ip("203.0.113.5"))));
    assert_eq!(node.routes(), ["192.0.2.11:1:10.1.1.1/32 16 203.0.113.5"]);
    learn(&mut node, 0, "10.8.0.0/16", vec![path("192.0.2.1", 100, UDP)]);
    assert_eq!(node.overlay.tunnels().next().unwrap().mtu, 1368);
    node.log.clear();
    node.underlay(Some("203.0.113.5"), 1300);
    assert_eq!(node.log, [Effect::PublishFib { soon: false }], "only the MTU changed");
    assert_eq!(node.overlay.tunnels().next().unwrap().mtu, 1268);
    node.log.clear();
    node.underlay(None, 0);
    assert_eq!(node.log[0], Effect::SetUnderlay(None));
    assert_eq!(
        node.routes(),
        ["192.0.2.11:1:10.1.1.1/32 16 203.0.113.5"],
        "what is known stays until it is known better"
    );
    assert!(node.overlay.problems().iter().any(|problem| problem.contains("no uplink")));
}

#[test]
fn tunnel_sockets_that_fail_are_tried_again_and_said() {
    let mut node = Node::new();
    node.fail = Some(|effect| matches!(effect, Effect::SetUnderlay(_)));
    node.underlay(Some("192.0.2.11"), 1500);
    assert!(node.overlay.problems().iter().any(|problem| problem.contains("tunnels do not work")));
    node.fail = None;
    node.log.clear();
    node.handle(Event::Tick { now: vrouter_agent::event::Millis(1_000) });
    assert_eq!(node.log, [Effect::SetUnderlay(Some(ip("192.0.2.11")))]);
    assert!(node.overlay.problems().is_empty());
}

#[test]
fn a_provider_edge_of_the_other_ip_version_is_no_way() {
    let mut node = Node::new();
    learn(&mut node, 0, "10.8.0.0/16", vec![path("2001:db8::1", 100, UDP)]);
    assert!(ways(&fib(&node), 0, "10.8.1.1").is_empty());
    node.underlay(Some("2001:db8::11"), 1500);
    assert_eq!(ways(&fib(&node), 0, "10.8.1.1"), ["2001:db8::1 mpls-over-udp 100"]);
    assert_eq!(node.overlay.tunnels().next().unwrap().mtu, 1448);
}

#[test]
fn workloads_reach_the_host_only_where_the_operator_lets_them() {
    let mut node = Node::new();
    node.handle(Event::HostAddresses(vec![ip("192.0.2.11"), ip("2001:db8::11")]));
    let snapshot = fib(&node);
    for own in ["192.0.2.11", "2001:db8::11"] {
        assert_eq!(ways(&snapshot, 2, own), ["host"]);
        assert!(ways(&snapshot, 0, own).is_empty() && ways(&snapshot, 1, own).is_empty());
    }
    assert!(snapshot.vrf(VrfId(2)).unwrap().host_open && !snapshot.vrf(VrfId(0)).unwrap().host_open);
    node.handle(Event::HostAddresses(vec![ip("192.0.2.11")]));
    assert!(ways(&fib(&node), 2, "2001:db8::11").is_empty());
}

#[test]
fn sessions_from_an_address_that_has_gone_end_and_those_from_others_do_not() {
    let mut node = Node::new();
    let ended = |effects: &[Effect]| -> Vec<std::net::IpAddr> {
        let gone = effects.iter().filter_map(|effect| match effect {
            Effect::EndSessionsFrom(gone) => Some(gone.clone()),
            _ => None,
        });
        gone.flatten().collect()
    };
    let both = vec![ip("192.0.2.11"), ip("198.51.100.7")];
    assert!(ended(&node.overlay.apply(Event::HostAddresses(both))).is_empty());
    let moved = vec![ip("192.0.2.111"), ip("198.51.100.7")];
    assert_eq!(ended(&node.overlay.apply(Event::HostAddresses(moved))), [ip("192.0.2.11")]);
}

#[test]
fn a_route_for_a_vrf_that_is_not_there_is_nobodys() {
    let mut node = Node::new();
    learn(&mut node, 77, "10.8.0.0/16", vec![path("192.0.2.1", 100, UDP)]);
    assert_eq!(node.overlay.tunnels().count(), 0);
    assert!(!fib(&node).sources.contains(ip("192.0.2.1")));
    assert_eq!(node.overlay.port(PortId(0)), None);
}
