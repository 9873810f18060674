//! A gateway that boots with its uplink down, no peer and no controller, and serves its pods all the same.

use vrouter_tests::fixture::{gateway, wait_routes};
use vrouter_tests::{Answer, Lab, Node, Probe};

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
