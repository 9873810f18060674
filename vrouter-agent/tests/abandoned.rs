//! Pods whose sandbox went and whose DEL never came.
#![allow(clippy::unwrap_used, reason = "a test may")]

mod common;

use common::{CONFIG, Node, pod, tap};
use vrouter_agent::event::{Effect, Event, Millis};

/// Lets this many minutes pass, second by second.
fn pass(node: &mut Node, minutes: u64) {
    for _ in 0..minutes * 60 {
        node.now += 1_000;
        let now = Millis(node.now);
        node.handle(Event::Tick { now });
    }
}

/// The interface goes.
fn lose(node: &mut Node, interface: &str) {
    node.links.remove(interface);
    node.handle(Event::LinkRemoved(interface.to_owned()));
}

#[test]
fn a_pod_without_an_interface_is_forgotten_after_ten_minutes() {
    let mut node = Node::new();
    let request = pod(&mut node, "c1", "city-lamps");
    let first = node.attach(request.clone()).unwrap();
    lose(&mut node, "vrc1");
    pass(&mut node, 9);
    assert_eq!(node.overlay.ports().count(), 1);
    assert!(node.advertised.is_empty(), "it is not advertised meanwhile");
    pass(&mut node, 2);
    node.assert_nothing_left();
    // The runtime's DEL may come yet, and so may the pod.
    assert!(!node.detach("c1").unwrap().existed);
    node.links.insert("vrc1".to_owned());
    assert_ne!(node.attach(request).unwrap().addresses, first.addresses, "its addresses rest");
}

#[test]
fn an_interface_that_comes_back_begins_anew() {
    let mut node = Node::new();
    let request = pod(&mut node, "c1", "city-lamps");
    node.attach(request).unwrap();
    for _ in 0..3 {
        lose(&mut node, "vrc1");
        pass(&mut node, 8);
        node.links.insert("vrc1".to_owned());
        node.handle(Event::LinkAdded("vrc1".to_owned()));
        pass(&mut node, 1);
    }
    assert!(node.overlay.ports().all(|port| port.is_up()));
    assert_eq!(node.overlay.ports().count(), 1);
}

#[test]
fn a_pod_that_vanished_while_the_agent_was_away_is_forgotten_too_and_a_tap_never() {
    let mut node = Node::new();
    let request = pod(&mut node, "c1", "city-lamps");
    node.attach(request).unwrap();
    let vm = tap(&mut node, "tap1", "city", &["10.20.11.200"]);
    node.attach(vm).unwrap();
    node.links.clear();
    let mut node = node.restart(CONFIG, "boot-1");
    pass(&mut node, 12);
    let left: Vec<_> = node.overlay.ports().map(|port| port.saved.request.key.container.clone()).collect();
    assert_eq!(left, ["tap1"]);
    pass(&mut node, 60);
    assert_eq!(node.overlay.ports().count(), 1);
}

#[test]
fn a_pod_whose_interface_cannot_be_opened_is_not_abandoned() {
    let mut node = Node::new();
    let request = pod(&mut node, "c1", "city-lamps");
    node.attach(request).unwrap();
    lose(&mut node, "vrc1");
    node.links.insert("vrc1".to_owned());
    node.fail = Some(|effect| matches!(effect, Effect::OpenPort { .. }));
    pass(&mut node, 30);
    assert_eq!(node.overlay.ports().count(), 1);
}
