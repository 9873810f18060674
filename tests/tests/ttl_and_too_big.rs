//! What the network says of packets that lived too long or are too big, as traceroute and a pod's socket hear it.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};

use vrouter_tests::fixture::{gateway, pair, pair_with, wait_routes};
use vrouter_tests::{Answer, Lab, Node, PATIENCE, Pod, Probe, bulk, sys, transfer, wait_for};

/// A pod on each of two gateways that know of each other.
fn pods(one: &Node, two: &Node) -> (Pod, Pod) {
    let (near, far) = (one.add_pod("near"), two.add_pod("far"));
    wait_routes(one, &far.addresses());
    wait_routes(two, &near.addresses());
    (near, far)
}

/// Hop by hop to a pod on the other node: who says "time exceeded", until the pod itself answers.
fn trace(from: &Pod, to: IpAddr) -> Vec<IpAddr> {
    let mut hops = Vec::new();
    for ttl in 1..8 {
        match (Probe { ttl, ..Probe::default() }).send(from.namespace(), to) {
            Answer::TimeExceeded { from } => hops.push(from),
            Answer::Reply => return hops,
            other => panic!("hop limit {ttl} to {to}: {other:?}"),
        }
    }
    panic!("{to} is further than seven hops: {hops:?}");
}

#[test]
fn traceroute_sees_the_gateways_and_then_the_pod() {
    let lab = Lab::new();
    let (one, two) = pair(&lab);
    let (near, far) = pods(&one, &two);
    let v4 = trace(&near, far.v4().into());
    assert!((1..=2).contains(&v4.len()), "{v4:?}");
    assert_eq!(v4[0], "169.254.1.1".parse::<IpAddr>().unwrap(), "{v4:?}");
    let v6 = trace(&near, far.v6().into());
    assert_eq!(v6.len(), v4.len(), "{v6:?}");
}

#[test]
fn a_packet_that_does_not_fit_the_tunnel_is_answered_with_the_size_that_does() {
    let lab = Lab::new();
    for (order, mtu) in [(["mpls-over-udp"], 1500 - 20 - 8 - 4), (["mpls-over-gre"], 1500 - 20 - 4 - 4)] {
        let (one, two) = pair_with(
            &lab,
            &gateway(11, &[12]).encapsulations(&order),
            &gateway(12, &[11]).encapsulations(&order),
        );
        let (near, far) = pods(&one, &two);
        let own = near.namespace().netlink(|netlink| netlink.link("eth0")).mtu;
        assert_eq!(own, mtu, "the pod's own MTU fits the tunnel");
        near.namespace().netlink(|netlink| netlink.set_mtu("eth0", 1500));
        for address in far.addresses() {
            let length = usize::try_from(mtu).unwrap();
            let fits = Probe { length, ..Probe::default() };
            assert_eq!(fits.send(near.namespace(), address), Answer::Reply, "{length} octets to {address}");
            let larger = Probe { length: length + 1, ..Probe::default() };
            match larger.send(near.namespace(), address) {
                Answer::TooBig { mtu: said, .. } => assert_eq!(said, mtu, "{address}"),
                other => panic!("{} octets to {address}: {other:?}", length + 1),
            }
        }
        assert!(one.drops().get("too-big").is_some_and(|packets| *packets >= 2), "{:?}", one.drops());
    }
}

#[test]
fn a_pods_socket_learns_the_size_that_fits() {
    let lab = Lab::new();
    let (one, two) = pair(&lab);
    let (near, far) = pods(&one, &two);
    near.namespace().netlink(|netlink| netlink.set_mtu("eth0", 1500));
    for address in far.addresses() {
        let bind = if address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let socket = near.namespace().run(|| UdpSocket::bind(bind)).expect("a socket");
        sys::forbid_fragments(&socket).expect("path MTU discovery");
        socket.connect(SocketAddr::new(address, 9)).expect("a route");
        let header = if address.is_ipv4() { 28 } else { 48 };
        let error = wait_for("the socket to hear that its datagram is too big", PATIENCE, || {
            match socket.send(&vec![0; 1500 - header]) {
                Err(error) if error.raw_os_error() == Some(libc::EMSGSIZE) => Ok(error),
                other => Err(other),
            }
        });
        assert_eq!(error.kind(), io::Error::from_raw_os_error(libc::EMSGSIZE).kind());
        // The socket's pending error, if any, is about the datagrams before.
        let _ = socket.take_error();
        socket
            .send(&vec![0; 1468 - header])
            .unwrap_or_else(|error| panic!("1468 octets to {address}: {error}"));
    }
}

#[test]
fn tcp_finds_its_way_through_a_smaller_tunnel() {
    let lab = Lab::new();
    let (one, two) = pair(&lab);
    let (near, far) = pods(&one, &two);
    near.namespace().netlink(|netlink| netlink.set_mtu("eth0", 1500));
    far.namespace().netlink(|netlink| netlink.set_mtu("eth0", 1500));
    for address in far.addresses() {
        let to = SocketAddr::new(address, 5001);
        let arrived = transfer(near.namespace(), far.namespace(), to, 4 << 20).expect("an unbroken transfer");
        assert_eq!((arrived.octets, arrived.digest), bulk::expected(4 << 20), "to {address}");
    }
}
