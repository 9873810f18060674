//! Forwarding state that is brought up to date is the same as one that is built anew, whatever came between; and what a
//! route that flaps costs does not depend on how many there are.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Instant;

use common::*;
use dataplane_core::fib::{Fib, Route};
use proptest::prelude::*;
use vrouter_agent::event::{Event, VrfPath, VrfRoute};
use vrouter_agent::fib_build::FibBuilder;
use vrouter_types::{Encap, Label, Prefix, VrfId};

fn route(vrf: u32, number: u32, label: Option<u32>) -> VrfRoute {
    let address = Ipv4Addr::from(0x0a40_0000 + (number << 4));
    let path = |label| VrfPath {
        rd: "192.0.2.1:1".parse().unwrap(),
        next_hop: "192.0.2.1".parse().unwrap(),
        label: Label::new(label).unwrap(),
        encaps: Encap::ALL.into_iter().collect(),
        local: false,
        local_pref: 100,
    };
    let prefix = Prefix::new(IpAddr::V4(address), if number.is_multiple_of(3) { 28 } else { 32 }).unwrap();
    VrfRoute { vrf: VrfId(vrf), prefix, paths: label.map(path).into_iter().collect() }
}

type Table = Vec<(VrfId, Prefix, Route)>;

fn table(fib: &Fib) -> Table {
    let vrfs = (0..3).filter_map(|vrf| fib.vrf(VrfId(vrf)));
    vrfs.flat_map(|vrf| vrf.routes.iter().map(|(prefix, route)| (vrf.id, prefix, route.clone()))).collect()
}

proptest! {
    /// Routes come and go in two VRFs, pods too; snapshots are taken now and then, and some are read for long.
    #[test]
    fn what_is_brought_up_to_date_is_what_would_be_built(
        steps in proptest::collection::vec((0_u32..2, 0_u32..40, any::<bool>(), 0_u8..8), 1..200),
    ) {
        let mut node = Node::new();
        node.underlay(Some("192.0.2.11"), 1500);
        let mut builder = FibBuilder::new();
        let mut read: Vec<(Arc<Fib>, Table)> = Vec::new();
        for (vrf, number, comes, what) in steps {
            node.handle(Event::Routes(vec![route(vrf, number, comes.then_some(100 + number))]));
            if what == 0 {
                let name = format!("c{number}");
                let request = pod(&mut node, &name, "city-a");
                if comes { drop(node.attach(request)) } else { drop(node.detach(&name)) }
            }
            if what < 3 {
                let fib = builder.build(&node.overlay);
                prop_assert_eq!(table(&fib), table(&FibBuilder::new().build(&node.overlay)));
                if what == 1 { read.push((Arc::clone(&fib), table(&fib))); }
            }
        }
        for (fib, was) in read {
            prop_assert_eq!(table(&fib), was, "a snapshot that is read has changed");
        }
    }
}

#[test]
fn more_changes_than_are_remembered_lose_no_route() {
    let mut node = Node::new();
    let mut builder = FibBuilder::new();
    drop(builder.build(&node.overlay));
    node.handle(Event::Routes((0..5000).map(|number| route(0, number, Some(100))).collect()));
    assert_eq!(table(&builder.build(&node.overlay)).len(), 5000);
    node.handle(Event::Routes((0..4000).map(|number| route(0, number, None)).collect()));
    assert_eq!(table(&builder.build(&node.overlay)).len(), 1000);
}

/// `cargo test --release -p vrouter-agent --test publish -- --ignored --nocapture`
#[test]
#[ignore = "prints figures, which only a release build has"]
fn what_a_flapping_route_costs() {
    for routes in [1_000, 10_000, 100_000] {
        let mut node = Node::new();
        node.underlay(Some("192.0.2.11"), 1500);
        let mut overlay = std::mem::replace(&mut node.overlay, Node::new().overlay);
        overlay.apply(Event::Routes((0..routes).map(|number| route(0, number, Some(100))).collect()));
        let mut builder = FibBuilder::new();
        let began = Instant::now();
        let mut fib = FibBuilder::new().build(&overlay);
        let anew = began.elapsed();
        fib = {
            drop(fib);
            builder.build(&overlay)
        };
        let mut took = Vec::new();
        for flap in 0..200 {
            overlay.apply(Event::Routes(vec![route(0, 7, (flap % 2 == 0).then_some(101))]));
            let began = Instant::now();
            let next = builder.build(&overlay);
            took.push(began.elapsed());
            // As the dataplane does: the old one goes when the new one is there.
            fib = next;
        }
        took.sort();
        println!("{routes:>7} routes: built anew {anew:>10.1?}, one route more or less {:>8.1?}", took[100]);
        drop(fib);
    }
}
