//! What the last run imported serves until somebody knows better.
#![allow(clippy::unwrap_used, reason = "a test may")]

mod common;

use common::{CONFIG, Node, ip, label, prefix};
use vrouter_agent::event::{Event, Millis, VrfPath, VrfRoute};
use vrouter_types::{Encap, EncapSet, VrfId};

fn path(next_hop: &str, local: bool) -> VrfPath {
    VrfPath {
        rd: "192.0.2.1:1".parse().unwrap(),
        next_hop: ip(next_hop),
        label: label(100),
        encaps: Encap::ALL.into_iter().collect::<EncapSet>(),
        local,
        local_pref: 100,
    }
}

fn say(node: &mut Node, vrf: u32, to: &str, paths: Vec<VrfPath>) {
    node.handle(Event::Routes(vec![VrfRoute { vrf: VrfId(vrf), prefix: prefix(to), paths }]));
}

/// A node whose last run knew two routes, one of them with a path of its own as well.
fn rebooted(text: &str, stale_for: u64) -> Node {
    let mut node = Node::new();
    say(&mut node, 0, "10.8.0.0/16", vec![path("192.0.2.1", false), path("192.0.2.11", true)]);
    say(&mut node, 1, "10.9.0.0/16", vec![path("192.0.2.2", false)]);
    say(&mut node, 1, "10.10.0.0/16", vec![path("192.0.2.11", true)]);
    node.saved_routes = node.overlay.saved_routes(100);
    node.stale_for = stale_for;
    node.restart(text, "boot-2")
}

fn routes(node: &Node) -> Vec<String> {
    let of = |vrf: &vrouter_agent::overlay::Vrf| {
        let route = |entry: &vrouter_agent::overlay::RouteEntry| {
            format!("{} {} {:?}", vrf.config.name, entry.prefix, entry.protocol)
        };
        node.overlay.routes(vrf.id).map(route).collect::<Vec<_>>()
    };
    node.overlay.vrfs().iter().flat_map(of).collect()
}

#[test]
fn without_an_uplink_the_last_runs_remote_routes_forward() {
    let node = rebooted(CONFIG, 1000);
    assert_eq!(routes(&node), ["city 10.8.0.0/16 Stale", "tenant-b 10.9.0.0/16 Stale"]);
    let edges: Vec<_> = node.overlay.provider_edges().collect();
    assert_eq!(edges, [ip("192.0.2.1"), ip("192.0.2.2")], "what they send is taken");
    assert!(
        node.overlay
            .problems()
            .iter()
            .any(|problem| problem.starts_with("2 route(s) are those of the last run"))
    );
}

#[test]
fn a_live_route_takes_the_place_of_a_stale_one_and_its_end_is_the_end() {
    let mut node = rebooted(CONFIG, 1000);
    say(&mut node, 0, "10.8.0.0/16", vec![path("192.0.2.7", false)]);
    assert_eq!(routes(&node), ["city 10.8.0.0/16 Bgp", "tenant-b 10.9.0.0/16 Stale"]);
    assert!(!node.overlay.provider_edges().any(|edge| edge == ip("192.0.2.1")));
    say(&mut node, 0, "10.8.0.0/16", Vec::new());
    assert_eq!(routes(&node), ["tenant-b 10.9.0.0/16 Stale"]);
}

#[test]
fn what_nobody_says_again_goes_when_all_is_said() {
    let mut node = rebooted(CONFIG, 1000);
    say(&mut node, 0, "10.8.0.0/16", vec![path("192.0.2.1", false)]);
    node.handle(Event::RoutesComplete);
    assert_eq!(routes(&node), ["city 10.8.0.0/16 Bgp"]);
    assert_eq!(node.overlay.tunnels().count(), 1);
    assert_eq!(node.overlay.provider_edges().collect::<Vec<_>>(), [ip("192.0.2.1")]);
}

#[test]
fn the_time_ends_and_what_is_left_of_it_survives_another_reboot() {
    let mut node = rebooted(CONFIG, 1000);
    node.handle(Event::Tick { now: Millis(999) });
    assert_eq!((node.overlay.stale_routes(), node.overlay.stale_left()), (2, 1));
    let again = node.overlay.saved_routes(100);
    assert_eq!(again.iter().map(|vrf| vrf.routes.len()).sum::<usize>(), 2, "stale ones are saved again");
    node.handle(Event::Tick { now: Millis(1000) });
    assert!(routes(&node).is_empty() && node.overlay.tunnels().count() == 0);
    assert!(node.overlay.saved_routes(100).is_empty());
    assert!(routes(&rebooted(CONFIG, 0)).is_empty());
}

#[test]
fn a_vrf_that_imports_something_else_now_gets_nothing_back() {
    let other = CONFIG.replacen("import = [\"target:64512:100\"]", "import = [\"target:64512:1\"]", 1);
    assert_eq!(routes(&rebooted(&other, 1000)), ["tenant-b 10.9.0.0/16 Stale"]);
    let mut node = rebooted(CONFIG, 1000);
    node.reload(&other).unwrap();
    assert_eq!(routes(&node), ["tenant-b 10.9.0.0/16 Stale"]);
}

#[test]
fn what_is_saved_is_bounded_and_holds_no_route_of_our_own() {
    let mut node = Node::new();
    for third in 0..10 {
        say(&mut node, 0, &format!("10.8.{third}.0/24"), vec![path("192.0.2.1", false)]);
    }
    say(&mut node, 0, "10.7.0.0/16", vec![path("192.0.2.11", true)]);
    let saved = node.overlay.saved_routes(4);
    assert_eq!(saved.iter().map(|vrf| vrf.routes.len()).sum::<usize>(), 4);
    assert!(saved.iter().flat_map(|vrf| &vrf.routes).all(|(_, paths)| paths.iter().all(|path| !path.local)));
}
