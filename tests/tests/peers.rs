//! The peers that other tests rely on, with nothing of ours between them.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::net::{IpAddr, SocketAddr};

use vrouter_tests::echo::web_page;
use vrouter_tests::guest::EDGE_LABEL;
use vrouter_tests::lab::underlay_v4;
use vrouter_tests::packets::{gre, labelled, send_gre, send_mpls_over_udp, stack_entry, udp_packet};
use vrouter_tests::sensors::{Bus, Carbon, Collector, publish};
use vrouter_tests::{
    Answer, Capture, Edge, Frr, GoBgp, GoBgpPeer, Guest, Lab, PATIENCE, Probe, wait_for, wait_until,
};
use vrouter_types::MacAddr;

const ASN: u32 = 4_200_000_000;

#[test]
fn two_gobgps_exchange_vpn_routes_through_frr() {
    let lab = Lab::new();
    let clients = [underlay_v4(1).into(), underlay_v4(2).into()];
    let frr = Frr::start(&lab, "frr", 9, ASN, &clients);
    let reflector = [GoBgpPeer { client: false, ..GoBgpPeer::client_without_rtc(frr.address(), ASN) }];
    let one = GoBgp::start(&lab, "one", 1, ASN, &reflector);
    let two = GoBgp::start(&lab, "two", 2, ASN, &reflector);
    one.wait_established(frr.address());
    two.wait_established(frr.address());
    one.announce("vpnv4", "10.1.0.0/24 label 1000 rd 192.0.2.1:1 rt 64086.59904:7 nexthop 192.0.2.1");
    one.announce("vpnv6", "fd00:1::/64 label 1001 rd 192.0.2.1:1 rt 64086.59904:7 nexthop ::ffff:192.0.2.1");
    let paths = wait_for("the reflected IPv4 route", PATIENCE, || {
        let paths = two.paths("vpnv4", "192.0.2.1:1:10.1.0.0/24");
        if paths.is_empty() { Err(two.cli("global rib -a vpnv4")) } else { Ok(paths) }
    });
    assert_eq!(paths[0]["nlri"]["labels"][0], 1000, "{paths:#?}");
    wait_for("the reflected IPv6 route", PATIENCE, || {
        let paths = two.paths("vpnv6", "192.0.2.1:1:fd00:1::/64");
        if paths.is_empty() { Err(two.cli("global rib -a vpnv6")) } else { Ok(()) }
    });
    let seen = frr.vpn_paths("ipv4", "192.0.2.1:1", "10.1.0.0/24");
    assert_eq!(seen[0]["extendedCommunity"]["string"], "RT:4200000000:7", "{seen:#?}");
}

/// A hand-made provider edge: asks the kernel's edge router through one encapsulation and reads what comes back.
fn edge_answers(over_gre: bool) {
    let lab = Lab::new();
    let vm: SocketAddr = "10.99.0.1:9".parse().unwrap();
    let pod: SocketAddr = "10.1.0.5:4000".parse().unwrap();
    let mut edge = Edge::boot(&lab, 1, &[(vm.ip(), 24)]);
    let site = lab.site("pe", 2);
    let capture = Capture::start(&site, "eth0");
    let label = 17;
    let packet = labelled(EDGE_LABEL, 64, &udp_packet(pod, vm, 64, b"knock"));
    if over_gre {
        edge.tunnel_gre(underlay_v4(2).into());
        edge.route(pod.ip(), label, "gre1");
        send_gre(&site, edge.address(), &gre(&packet)).unwrap();
    } else {
        edge.tunnel_udp(underlay_v4(2).into());
        edge.route(pod.ip(), label, "udp1");
        send_mpls_over_udp(&site, edge.address(), &packet).unwrap();
    }
    // Nobody listens on port 9: the edge router's VRF says so in an ICMP message, labelled for the pod.
    let wanted = [&stack_entry(label, true, 0)[..3], &[]].concat();
    wait_until("the edge router's labelled answer", PATIENCE, || {
        let outer = if over_gre { 20 + 4 } else { 20 + 8 };
        capture.frames().iter().any(|frame| {
            let from_edge = frame.get(26..30) == Some(&[192, 0, 2, 1]);
            from_edge && frame.get(14 + outer..14 + outer + 3) == Some(&wanted[..])
        })
    });
    let pcap = capture.write(&lab.path("edge.pcap"));
    let rows = pcap.fields("mpls", &["mpls.label", "ip.src", "ip.dst"]);
    assert!(
        rows.contains(&vec![
            "17".into(),
            "192.0.2.1,10.99.0.1,10.1.0.5".into(),
            "192.0.2.2,10.1.0.5,10.99.0.1".into()
        ]),
        "{rows:?}"
    );
    assert_eq!(pcap.malformed(), [""; 0]);
}

#[test]
fn the_kernel_edge_router_answers_hand_made_mpls_over_udp() {
    edge_answers(false);
}

#[test]
fn the_kernel_edge_router_answers_hand_made_mpls_over_gre() {
    edge_answers(true);
}

#[test]
fn a_guest_on_a_tap_answers_and_serves() {
    let lab = Lab::new();
    let site = lab.namespace("hypervisor");
    site.add_tap("tap0");
    site.add_address("tap0", "10.7.0.1".parse().unwrap(), 24);
    let mut guest = Guest::boot(&lab, "vm", &site, "tap0", MacAddr([2, 0, 0, 0, 0, 7]));
    let vm: IpAddr = "10.7.0.2".parse().unwrap();
    guest.configure(&[(vm, 24)], &["10.7.0.1".parse().unwrap()], 1400);
    assert_eq!(Probe::default().send(&site, vm), Answer::Reply);
    assert_eq!(web_page(&site, vm).unwrap(), "vm");
    assert_eq!(guest.run("ping -c 1 -W 5 10.7.0.1 >/dev/null && echo reached"), "reached");
    assert_eq!(guest.attempt("false").unwrap().0, 1);
}

#[test]
fn a_reading_travels_from_the_bus_into_carbon() {
    let lab = Lab::new();
    let (bus, store) = (lab.site("bus", 1), lab.site("store", 2));
    let _bus = Bus::start(&lab, &bus);
    let carbon = Carbon::start(&lab, &store);
    let _collector = Collector::start(&bus, underlay_v4(1).into(), underlay_v4(2).into());
    wait_for("the reading in carbon's file", PATIENCE, || {
        // Again each time: the collector may not have subscribed yet.
        publish(&store, underlay_v4(1).into(), "sensors/lamp7/celsius", 21.5);
        let readings = carbon.readings("sensors.lamp7.celsius");
        if readings.iter().any(|(_, value)| *value == 21.5) { Ok(()) } else { Err(readings) }
    });
}
