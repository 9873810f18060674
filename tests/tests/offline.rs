//! A gateway that boots with its uplink down, no peer and no controller, and serves its pods all the same.

use std::time::Duration;

use vrouter_tests::fixture::{ASN, city, gateway, wait_routes};
use vrouter_tests::lab::underlay_v4;
use vrouter_tests::{AgentConfig, Answer, Lab, Node, Probe, wait_for};

#[test]
fn pods_are_served_before_there_is_an_uplink_and_advertised_once_there_is() {
    let lab = Lab::new();
    let mut one = Node::prepare(&lab, "gw-11", 11, &gateway(11, &[12]));
    let two = Node::start(&lab, "gw-12", 12, &gateway(12, &[11]));
    // Not even an address: the modem has yet to register.
    lab.set_link("gw-11", false);
    one.namespace().netlink(|netlink| {
        netlink.delete_address("eth0", one.address(), 24)?;
        netlink.set_up("eth0", false)
    });
    one.start_agent();
    let (near, other) = (one.add_pod("near"), one.add_pod("other"));
    for address in other.addresses() {
        assert_eq!(Probe::default().send(near.namespace(), address), Answer::Reply, "pod to pod, {address}");
        assert_eq!(Probe::default().send(one.namespace(), address), Answer::Reply, "host to pod, {address}");
    }
    lab.set_link("gw-11", true);
    one.namespace().netlink(|netlink| {
        netlink.set_up("eth0", true)?;
        netlink.add_address("eth0", one.address(), 24)
    });
    one.wait_established(two.address());
    let far = two.add_pod("far");
    wait_routes(&one, &far.addresses());
    wait_routes(&two, &near.addresses());
    for address in far.addresses() {
        assert_eq!(Probe::default().send(near.namespace(), address), Answer::Reply, "to {address}");
    }
}

#[test]
fn tunnels_follow_the_address_of_the_underlay_interface() {
    let lab = Lab::new();
    // Without graceful restart: the far side forgets the old address with the old session.
    let active = "graceful-restart = false";
    let passive = "passive = true\ngraceful-restart = false";
    let config = AgentConfig::new(ASN).vrf(&city(11)).underlay_interface("eth0");
    let config = config.neighbor_with(underlay_v4(12).into(), active);
    let one = Node::start(&lab, "gw-11", 11, &config);
    // The other side knows both addresses that the first may come from.
    let config = AgentConfig::new(ASN)
        .vrf(&city(12))
        .neighbor_with(underlay_v4(11).into(), passive)
        .neighbor_with(underlay_v4(111).into(), passive);
    let two = Node::start(&lab, "gw-12", 12, &config);
    one.wait_established(two.address());
    let (near, far) = (one.add_pod("near"), two.add_pod("far"));
    wait_routes(&one, &far.addresses());
    wait_routes(&two, &near.addresses());
    assert_eq!(Probe::default().send(near.namespace(), far.v4().into()), Answer::Reply);
    // The modem registers anew and gets another address.
    one.namespace().netlink(|netlink| {
        netlink.delete_address("eth0", underlay_v4(11).into(), 24)?;
        netlink.add_address("eth0", underlay_v4(111).into(), 24)
    });
    // Its session begins anew at once, not when the hold timer of 90 seconds says so.
    two.wait_established(underlay_v4(111).into());
    // What the far side still has is a session to an address that nobody has: it can only wait, or be told.
    two.ctl(&["clear", "bgp", "192.0.2.11"]);
    let prefix = format!("{}/32", near.v4());
    wait_for("the route to name the new address", Duration::from_secs(60), || {
        let hops = two.route("city", &prefix);
        match hops.first() {
            Some(hop) if hop["ip"] == "192.0.2.111" => Ok(()),
            _ => Err((hops, one.ctl(&["show", "bgp", "neighbors"]))),
        }
    });
    wait_routes(&one, &far.addresses());
    for address in far.addresses() {
        assert_eq!(Probe::default().send(near.namespace(), address), Answer::Reply, "to {address}");
    }
}
