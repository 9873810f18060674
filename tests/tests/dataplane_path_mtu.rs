//! A path that is narrower in its middle than at its ends: a router there says so to the node, and the node to its pods.
//!
//! ```text
//!   pod ─ gw-11 ══ 1500 ══ router ══ 1400 ══ gw-12 ─ pod
//! ```
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::net::{IpAddr, SocketAddr};
use std::process::Command;

use vrouter_tests::fixture::{gateway, pair_with, wait_routes};
use vrouter_tests::process::run_ok;
use vrouter_tests::{
    Answer, Lab, Namespace, PATIENCE, Probe, Server, ask_udp, bulk, transfer, wait_for, wait_until,
};

fn route(namespace: &Namespace, words: &str) {
    run_ok(namespace, Command::new("ip").args(["route", "add"]).args(words.split(' ')));
}

fn pods_hear_of_it(encapsulation: &str, overhead: u16) {
    let lab = Lab::new();
    let config = |own, other| gateway(own, &[other]).encapsulations(&[encapsulation]);
    let (one, two) = pair_with(&lab, &config(11, 12), &config(12, 11));
    let (near, far) = (one.add_pod("near"), two.add_pod("far"));
    wait_routes(&one, &far.addresses());
    wait_routes(&two, &near.addresses());
    let router = lab.site("router", 99);
    router.set_sysctl("net/ipv4/ip_forward", "1");
    for interface in ["all", "eth0"] {
        router.set_sysctl(&format!("net/ipv4/conf/{interface}/send_redirects"), "0");
    }
    route(&router, "192.0.2.12/32 dev eth0 mtu lock 1400");
    route(one.namespace(), "192.0.2.12/32 via 192.0.2.99 dev eth0");
    let fits = 1400 - overhead;
    for address in far.addresses() {
        // The first ones tell the node's kernel, then the node; then the pod hears what fits. Those are lost.
        let larger = Probe { length: usize::from(fits) + 1, ..Probe::default() };
        wait_for(&format!("{} octets to {address} to be too big", fits + 1), PATIENCE, || {
            match larger.send(near.namespace(), address) {
                Answer::TooBig { mtu, .. } if mtu == u32::from(fits) => Ok(()),
                other => Err(other),
            }
        });
        let fitting = Probe { length: usize::from(fits), ..Probe::default() };
        assert_eq!(fitting.send(near.namespace(), address), Answer::Reply, "{fits} octets to {address}");
        let to = SocketAddr::new(address, 5001);
        let arrived = transfer(near.namespace(), far.namespace(), to, 2 << 20).unwrap();
        assert_eq!((arrived.octets, arrived.digest), bulk::expected(2 << 20), "to {address}");
    }
    let faults = one.faults();
    assert_eq!(faults.keys().collect::<Vec<_>>(), ["too-big"], "{faults:?}");
}

/// The middle of the path takes so little that IPv6 inside would not fit a packet of 1280 octets: it travels in fragments.
fn ipv6_passes(encapsulation: &str) {
    let lab = Lab::new();
    let config = |own, other| gateway(own, &[other]).encapsulations(&[encapsulation]);
    let (one, two) = pair_with(&lab, &config(11, 12), &config(12, 11));
    let (near, far) = (one.add_pod("near"), two.add_pod("far"));
    wait_routes(&one, &far.addresses());
    wait_routes(&two, &near.addresses());
    let router = lab.site("router", 99);
    router.set_sysctl("net/ipv4/ip_forward", "1");
    for interface in ["all", "eth0"] {
        router.set_sysctl(&format!("net/ipv4/conf/{interface}/send_redirects"), "0");
    }
    for (node, host) in [(&one, 12), (&two, 11)] {
        route(&router, &format!("192.0.2.{host}/32 dev eth0 mtu lock 1100"));
        route(node.namespace(), &format!("192.0.2.{host}/32 via 192.0.2.99 dev eth0"));
    }
    let to = IpAddr::V6(far.v6());
    // The first ones tell the nodes' kernels, then the nodes, in either direction.
    let larger = Probe { length: 1281, ..Probe::default() };
    wait_for("1281 octets to be too big", PATIENCE, || match larger.send(near.namespace(), to) {
        Answer::TooBig { mtu: 1280, .. } => Ok(()),
        other => Err(other),
    });
    let largest = Probe { length: 1280, ..Probe::default() };
    wait_until("1280 octets to pass", PATIENCE, || largest.send(near.namespace(), to) == Answer::Reply);
    for length in [1000, 1100, 1279, 1280] {
        let probe = Probe { length, ..Probe::default() };
        assert_eq!(probe.send(near.namespace(), to), Answer::Reply, "{length} octets");
    }
    let server = Server::udp_on(far.namespace(), SocketAddr::new(to, 7000), "far");
    let question = "?".repeat(1280 - 48 - 8);
    let asked = ask_udp(near.namespace(), SocketAddr::new(to, server.port()), &question);
    assert_eq!(asked.unwrap(), format!("far {question}"));
    let arrived = transfer(near.namespace(), far.namespace(), SocketAddr::new(to, 5001), 2 << 20).unwrap();
    assert_eq!((arrived.octets, arrived.digest), bulk::expected(2 << 20));
    let faults = one.faults();
    assert_eq!(faults.keys().collect::<Vec<_>>(), ["too-big"], "{faults:?}");
}

#[test]
fn ipv6_passes_a_path_that_takes_less_than_it_counts_on_over_mpls_over_udp() {
    ipv6_passes("mpls-over-udp");
}

#[test]
fn ipv6_passes_a_path_that_takes_less_than_it_counts_on_over_mpls_over_gre() {
    ipv6_passes("mpls-over-gre");
}

#[test]
fn pods_hear_of_a_narrow_path_over_mpls_over_udp() {
    pods_hear_of_it("mpls-over-udp", 32);
}

#[test]
fn pods_hear_of_a_narrow_path_over_mpls_over_gre() {
    pods_hear_of_it("mpls-over-gre", 28);
}
