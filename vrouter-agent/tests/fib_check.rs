//! CHECK compares what is desired with what packets meet.
#![allow(clippy::unwrap_used, reason = "a test may")]

mod common;

use std::sync::Arc;

use common::{Node, key, pod};
use dataplane_core::Fib;
use vrouter_agent::fib_build::FibBuilder;
use vrouter_agent::fib_check::fault;
use vrouter_types::Prefix;

#[test]
fn a_port_that_packets_do_not_meet_fails_the_check() {
    let mut node = Node::new();
    let request = pod(&mut node, "c1", "city-lamps");
    let attached = node.attach(request).unwrap();
    let fib = FibBuilder::new().build(&node.overlay);
    assert_eq!(fault(&node.overlay, &fib, &key("c1")), None);
    assert_eq!(fault(&node.overlay, &fib, &key("unknown")), None, "that is another's to say");
    let says = |fib: &Fib, words: &str| {
        let why = fault(&node.overlay, fib, &key("c1")).unwrap();
        assert!(why.contains("c1/eth0") && why.contains(words), "{why}");
    };
    says(&Fib::new(), "does not know it");
    let mut changed = Fib::clone(&fib);
    changed.ilm.remove(attached.label);
    says(&changed, "label");
    let mut changed = Fib::clone(&fib);
    for vrf in changed.vrfs.iter_mut().flatten() {
        Arc::make_mut(vrf).routes.remove(Prefix::host(attached.addresses[0]));
    }
    says(&changed, &attached.addresses[0].to_string());
    node.detach("c1").unwrap();
    assert_eq!(fault(&node.overlay, &Fib::new(), &key("c1")), None);
}
