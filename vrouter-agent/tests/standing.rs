//! Machines that share an address and take it from each other: at once where that is meant, seldom where they quarrel.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use agent_api::AddressPair;
use common::{Node, ip, prefix, tap};
use vrouter_agent::event::{Effect, Event, Millis, VrfPath, VrfRoute};
use vrouter_types::{EncapSet, Label, PortId, VrfId};

const SHARED: &str = "10.20.11.100";
const CITY: VrfId = VrfId(0);

/// A node with two machines that may hold one address, and their ports.
fn two() -> (Node, PortId, PortId) {
    let mut node = Node::new();
    let [one, two] = [("a", "10.20.11.5"), ("b", "10.20.11.6")].map(|(name, own)| {
        let mut request = tap(&mut node, name, "city", &[own]);
        request.allowed = vec![AddressPair { prefix: prefix(&format!("{SHARED}/32")), mac: None }];
        node.attach(request).unwrap().port
    });
    pass(&mut node, 10_000);
    node.log.clear();
    (node, one, two)
}

/// Time passes as it does for the agent: a tick each second.
fn pass(node: &mut Node, millis: u64) {
    let end = node.now + millis;
    while node.now < end {
        node.now = end.min((node.now / 1_000 + 1) * 1_000);
        if node.now.is_multiple_of(1_000) {
            node.handle(Event::Tick { now: Millis(node.now) });
        }
    }
}

fn shows(node: &mut Node, port: PortId) {
    let mac = node.overlay.port(port).unwrap().saved.request.mac;
    node.handle(Event::Learned { port, address: ip(SHARED), mac, now: Millis(node.now) });
}

/// What another node says of the address.
fn hear(node: &mut Node, local_pref: Option<u32>) {
    let path = |local_pref| VrfPath {
        rd: "192.0.2.1:1".parse().unwrap(),
        next_hop: ip("192.0.2.1"),
        label: Label::new(100).unwrap(),
        encaps: EncapSet::EMPTY,
        local: false,
        local_pref,
    };
    let paths = local_pref.map(path).into_iter().collect();
    let prefix = prefix(&format!("{SHARED}/32"));
    node.handle(Event::Routes(vec![VrfRoute { vrf: CITY, prefix, paths }]));
}

/// The port that others are told has the address.
fn holder(node: &Node) -> PortId {
    let shared = prefix(&format!("{SHARED}/32"));
    let route = node.advertised.values().find(|route| route.prefix.prefix == shared).unwrap();
    let of = |port: &&vrouter_agent::overlay::Port| port.saved.label == route.label;
    node.overlay.ports().find(of).unwrap().saved.port
}

/// What is dear: files and UPDATEs.
fn cost(node: &Node) -> (usize, usize) {
    let count = |is: fn(&Effect) -> bool| node.log.iter().filter(|effect| is(effect)).count();
    (
        count(|effect| matches!(effect, Effect::SavePort(_))),
        count(|effect| matches!(effect, Effect::Originate(_))),
    )
}

#[test]
fn a_first_move_is_at_once_and_so_is_the_way_back() {
    let (mut node, one, two) = two();
    for port in [two, one, two] {
        shows(&mut node, port);
        assert_eq!(holder(&node), port);
    }
}

#[test]
fn virtual_routers_that_take_over_every_few_seconds_never_wait() {
    let (mut node, one, two) = two();
    for turn in 0..100 {
        let port = [one, two][turn % 2];
        shows(&mut node, port);
        assert_eq!(holder(&node), port, "turn {turn}");
        pass(&mut node, 3_000);
    }
}

#[test]
fn machines_that_quarrel_for_an_hour_cost_a_bounded_number_of_writes_and_updates() {
    let (mut node, one, two) = two();
    for turn in 0..60 * 60 * 4 {
        shows(&mut node, [one, two][turn % 2]);
        pass(&mut node, 250);
    }
    let (saved, told) = cost(&node);
    assert!(saved < 160 && told < 80, "{saved} files, {told} routes in an hour");
    assert!(saved > 20, "but now and then it goes over: {saved}");
    let now = Millis(node.now);
    node.log.clear();
    for turn in 0..60 * 50 {
        shows(&mut node, [one, two][turn % 2]);
    }
    assert_eq!(
        (now, cost(&node).0 <= 2),
        (Millis(node.now), true),
        "fifty times a second: {:?}",
        cost(&node)
    );
}

#[test]
fn a_quarrel_with_a_machine_on_another_node_is_as_cheap() {
    let (mut node, one, _) = two();
    let mut others = 200;
    for _ in 0..60 * 60 {
        shows(&mut node, one);
        // There, it is one more than ours whenever we have it.
        let ours = node.advertised.values().find(|route| route.prefix.prefix.addr() == ip(SHARED)).unwrap();
        others = others.max(ours.policy.local_pref + 1);
        hear(&mut node, Some(others));
        pass(&mut node, 1_000);
    }
    let (saved, told) = cost(&node);
    assert!(saved < 160 && told < 160, "{saved} files, {told} routes in an hour");
}

#[test]
fn who_says_but_once_that_it_took_over_has_it_although_others_quarrelled_before() {
    let (mut node, one, two) = two();
    for turn in 0..40 {
        shows(&mut node, [one, two][turn % 2]);
        pass(&mut node, 250);
    }
    let (had, comes) = if holder(&node) == one { (one, two) } else { (two, one) };
    shows(&mut node, comes);
    assert_eq!(holder(&node), had, "not yet");
    pass(&mut node, 61_000);
    assert_eq!(holder(&node), comes);
}

#[test]
fn after_a_calm_while_the_next_move_is_at_once_again() {
    let (mut node, one, two) = two();
    for turn in 0..4_000 {
        shows(&mut node, [one, two][turn % 2]);
        pass(&mut node, 250);
    }
    pass(&mut node, 130_000);
    let port = if holder(&node) == one { two } else { one };
    shows(&mut node, port);
    assert_eq!(holder(&node), port);
}

#[test]
fn nobody_waits_for_a_machine_that_is_gone_however_it_quarrelled() {
    let (mut node, one, two) = two();
    for turn in 0..4_000 {
        shows(&mut node, [one, two][turn % 2]);
        pass(&mut node, 250);
    }
    let (had, stays) = if holder(&node) == one { ("vra", two) } else { ("vrb", one) };
    node.links.remove(had);
    node.handle(Event::LinkRemoved(had.to_owned()));
    shows(&mut node, stays);
    assert_eq!(holder(&node), stays);
    assert!(node.disk[&stays].active.contains_key(&ip(SHARED)), "at once");
}

#[test]
fn a_machine_that_may_hold_an_address_takes_nothing_from_one_whose_own_it_is() {
    let mut node = Node::new();
    let own = tap(&mut node, "own", "city", &[SHARED]);
    let own = node.attach(own).unwrap().port;
    let mut request = tap(&mut node, "pair", "city", &["10.20.11.5"]);
    request.allowed = vec![AddressPair { prefix: prefix(&format!("{SHARED}/32")), mac: None }];
    let pair = node.attach(request).unwrap().port;
    shows(&mut node, own);
    node.log.clear();
    for _ in 0..10 {
        shows(&mut node, pair);
        assert!(node.disk[&own].active.contains_key(&ip(SHARED)) && holder(&node) == own);
    }
    assert_eq!(cost(&node), (0, 0));
    node.detach("own").unwrap();
    shows(&mut node, pair);
    assert_eq!(holder(&node), pair, "whose own it was is gone");
}
