//! What the network says of packets that lived too long or are too big, as traceroute and a pod's socket hear it.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

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

/// Makes the first gateway's uplink smaller than its pods were made for, as another LTE cell would, and waits until its
/// tunnel says so.
fn shrink(lab: &Lab, node: &Node, underlay_mtu: u32, tunnel_mtu: u32) {
    lab.set_uplink_mtu(node.namespace(), node.name(), underlay_mtu);
    wait_for("the tunnel to shrink", PATIENCE, || {
        let tunnels = node.ctl_json(&["show", "tunnels"]);
        if tunnels["tunnels"][0]["mtu"] == tunnel_mtu { Ok(()) } else { Err(tunnels) }
    });
}

/// `outer`: what the encapsulation adds.
fn too_big_is_answered(encapsulation: &str, outer: u32) {
    let lab = Lab::new();
    let (one, two) = pair_with(
        &lab,
        &gateway(11, &[12]).encapsulations(&[encapsulation]),
        &gateway(12, &[11]).encapsulations(&[encapsulation]),
    );
    let (near, far) = pods(&one, &two);
    let own = near.namespace().netlink(|netlink| netlink.link("eth0")).mtu;
    assert_eq!(own, 1500 - outer, "the pod's own MTU fits the tunnel");
    for address in far.addresses() {
        let largest = Probe { length: usize::try_from(own).unwrap(), ..Probe::default() };
        assert_eq!(largest.send(near.namespace(), address), Answer::Reply, "{own} octets to {address}");
    }
    let fits = 1400 - outer;
    shrink(&lab, &one, 1400, fits);
    for address in far.addresses() {
        let length = usize::try_from(fits).unwrap();
        let largest = Probe { length, ..Probe::default() };
        assert_eq!(largest.send(near.namespace(), address), Answer::Reply, "{length} octets to {address}");
        // One octet more; the pod's kernel remembers the answer, so this is asked once.
        let larger = Probe { length: length + 1, ..Probe::default() };
        match larger.send(near.namespace(), address) {
            Answer::TooBig { mtu, .. } => assert_eq!(mtu, fits, "{address}"),
            other => panic!("{} octets to {address}: {other:?}", length + 1),
        }
    }
    assert!(one.drops().get("too-big").is_some_and(|packets| *packets >= 2), "{:?}", one.drops());
}

#[test]
fn a_packet_too_big_for_mpls_over_udp_is_answered_with_the_size_that_fits() {
    too_big_is_answered("mpls-over-udp", 20 + 8 + 4);
}

#[test]
fn a_packet_too_big_for_mpls_over_gre_is_answered_with_the_size_that_fits() {
    too_big_is_answered("mpls-over-gre", 20 + 4 + 4);
}

#[test]
fn a_pods_socket_learns_the_size_that_fits() {
    let lab = Lab::new();
    let (one, two) = pair(&lab);
    let (near, far) = pods(&one, &two);
    shrink(&lab, &one, 1400, 1368);
    for address in far.addresses() {
        let bind = if address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let socket = near.namespace().run(|| UdpSocket::bind(bind)).expect("a socket");
        sys::forbid_fragments(&socket).expect("path MTU discovery");
        socket.connect(SocketAddr::new(address, 9)).expect("a route");
        let header = if address.is_ipv4() { 28 } else { 48 };
        wait_for("the socket to hear that its datagram is too big", PATIENCE, || {
            match socket.send(&vec![0; 1468 - header]) {
                Err(error) if error.raw_os_error() == Some(libc::EMSGSIZE) => Ok(()),
                other => Err(other),
            }
        });
        // What is pending on the socket is about the datagrams before.
        let _ = socket.take_error();
        socket
            .send(&vec![0; 1368 - header])
            .unwrap_or_else(|error| panic!("1368 octets to {address}: {error}"));
    }
}

#[test]
fn tcp_goes_on_when_the_uplink_becomes_smaller() {
    let lab = Lab::new();
    let (one, two) = pair(&lab);
    let (near, far) = pods(&one, &two);
    shrink(&lab, &one, 1400, 1368);
    for address in far.addresses() {
        let to = SocketAddr::new(address, 5001);
        let arrived = transfer(near.namespace(), far.namespace(), to, 4 << 20).expect("an unbroken transfer");
        assert_eq!((arrived.octets, arrived.digest), bulk::expected(4 << 20), "to {address}");
    }
}

#[test]
fn fragments_of_large_datagrams_arrive() {
    let lab = Lab::new();
    let (one, two) = pair(&lab);
    let (near, far) = pods(&one, &two);
    for address in far.addresses() {
        let large = Probe { length: 20_000, ..Probe::default() };
        assert_eq!(large.send(near.namespace(), address), Answer::Reply, "20,000 octets to {address}");
    }
    assert_eq!((one.faults(), two.faults()), Default::default());
}
