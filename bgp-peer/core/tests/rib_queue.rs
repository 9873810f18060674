//! Routes that change faster than a slow neighbor takes messages: nothing is lost, and what waits is bounded.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod rib_pair;

use std::time::Instant;

use bgp_core::{Family, LocalRoute, Rib, RouteQuery, RouteScope};
use bytes::BytesMut;
use rib_pair::*;

const RED: &str = "target:65000:100";
const ROUTES: u32 = 700;

fn local(number: u32, med: u32) -> LocalRoute {
    let prefix = format!("65000:1:10.0.{}.{}/32", number >> 8, number & 255);
    LocalRoute { med: Some(med), ..route(&prefix, 16 + med % 1000, &[RED]) }
}

fn view(rib: &Rib, scope: RouteScope) -> Vec<(String, Option<u32>, u32)> {
    let query = RouteQuery { family: Some(Family::Vpnv4), scope, ..RouteQuery::default() };
    let brief = |view: bgp_core::RouteView| (view.key.to_string(), view.med, view.label.unwrap().value());
    rib.routes(&query).into_iter().map(brief).collect()
}

#[test]
fn a_slow_neighbor_gets_the_last_word_on_every_route_and_costs_bounded_memory() {
    let now = Instant::now();
    let (mut a, mut b) = (rib(1), rib(2));
    b.set_imports(imports(&[(0, &[RED])]), now);
    connect(&mut a, &mut b, vpn(), now);
    let mut random = 0x9e37_79b9_u32;
    let mut next = move || {
        random ^= random << 13;
        random ^= random >> 17;
        random ^= random << 5;
        random
    };
    let mut most = 0;
    let mut message = BytesMut::new();
    for _ in 0..1500 {
        for _ in 0..60 {
            let number = next() % ROUTES;
            match next() % 10 {
                0 => a.withdraw(local(number, 0).prefix, now),
                med => a.originate(local(number, med * 10_000 + next() % 300), now),
            }
        }
        // One message at a time gets through.
        if a.poll_message(PEER, &mut message) {
            take(&mut b, PEER, &[(message[18], message[19..].to_vec())], now);
            message.clear();
        }
        let waiting = a.memory().parts.into_iter().find(|part| part.name == "advertised routes").unwrap();
        most = most.max(waiting.octets);
    }
    settle(&mut a, &mut b, now);
    let told = view(&a, RouteScope::Advertised(PEER));
    assert!(told.len() > 500, "{}", told.len());
    assert_eq!(told, view(&a, RouteScope::All));
    assert_eq!(told, view(&b, RouteScope::Received(PEER)));
    // 90,000 changes of 700 routes.
    assert!(most < 64 * 1024, "{most}");
    assert_eq!(a.counts().attribute_sets, b.counts().attribute_sets, "every count of a set was given back");
}
