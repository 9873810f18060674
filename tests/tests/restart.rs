//! An agent that is killed and started again: same ports, labels and addresses, and traffic without any CNI call.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{BufRead, BufReader, Write};
use std::net::{IpAddr, SocketAddr};

use serde_json::Value;
use vrouter_tests::echo::connect_tcp;
use vrouter_tests::fixture::{pair, wait_routes};
use vrouter_tests::{Answer, Lab, Namespace, Node, PATIENCE, Probe, Server, ask_tcp, wait_until};
use vrouter_types::{MacAddr, Prefix};

/// What must not change: all of `show ports` but its counters.
fn ports(node: &Node) -> Vec<Value> {
    let mut ports = node.ctl_json(&["show", "ports"])["ports"].as_array().cloned().unwrap_or_default();
    for port in &mut ports {
        let port = port.as_object_mut().expect("a port");
        // What was counted, and how fast: not what the port is.
        port.retain(|key, _| !["counters", "rates"].contains(&key.as_str()));
    }
    ports
}

#[test]
fn a_killed_agent_comes_back_with_the_same_ports_and_traffic_flows() {
    let lab = Lab::new();
    let (mut one, two) = pair(&lab);
    let (near, other, far) = (one.add_pod("near"), one.add_pod("other"), two.add_pod("far"));
    wait_routes(&one, &far.addresses());
    wait_routes(&two, &near.addresses());
    let server = Server::tcp(far.namespace(), 7, "far");
    let mut stream = connect_tcp(near.namespace(), SocketAddr::new(far.v4().into(), server.port())).unwrap();
    let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "far");
    let before = ports(&one);
    assert_eq!(before.len(), 2, "{before:#?}");

    one.kill9();
    one.start_agent();

    assert_eq!(ports(&one), before);
    one.wait_established(two.address());
    wait_routes(&one, &far.addresses());
    wait_routes(&two, &near.addresses());
    for address in far.addresses() {
        assert_eq!(Probe::default().send(near.namespace(), address), Answer::Reply, "to {address}");
    }
    for address in near.addresses() {
        assert_eq!(Probe::default().send(far.namespace(), address), Answer::Reply, "to {address}");
        assert_eq!(Probe::default().send(other.namespace(), address), Answer::Reply, "to {address}");
        assert_eq!(Probe::default().send(one.namespace(), address), Answer::Reply, "host to {address}");
    }
    assert_eq!(ask_tcp(near.namespace(), SocketAddr::new(far.v6().into(), 7), "x").unwrap(), "far");
    writeln!(stream, "still here").unwrap();
    assert_eq!(lines.next().unwrap().unwrap(), "still here", "a connection from before goes on");
    near.check().expect("CNI CHECK finds all as it was");
}

#[test]
fn a_far_end_that_refuses_for_a_while_costs_nothing_once_it_is_back() {
    let lab = Lab::new();
    let (one, mut two) = pair(&lab);
    let (near, far) = (one.add_pod("near"), two.add_pod("far"));
    wait_routes(&one, &far.addresses());
    wait_routes(&two, &near.addresses());
    assert_eq!(Probe::default().send(near.namespace(), far.v4().into()), Answer::Reply);
    // Its routes are kept while it is away, and its kernel says that nobody listens.
    two.kill9();
    for _ in 0..3 {
        assert_eq!(Probe::hopeless().send(near.namespace(), far.v4().into()), Answer::Silence);
    }
    two.start_agent();
    wait_routes(&two, &near.addresses());
    wait_until("an answer", PATIENCE, || {
        Probe::default().send(near.namespace(), far.v4().into()) == Answer::Reply
    });
    let faults = one.faults();
    assert!(!faults.contains_key("send-failed") && !faults.contains_key("too-big"), "{faults:?}");
}

#[test]
fn a_stopped_agent_ends_well_and_comes_back_with_the_same_ports() {
    let lab = Lab::new();
    let (mut one, two) = pair(&lab);
    let near = one.add_pod("near");
    wait_routes(&two, &near.addresses());
    let before = ports(&one);
    one.stop_agent();
    two.wait_no_route("city", &format!("{}/32", near.v4()));
    one.start_agent();
    assert_eq!(ports(&one), before);
    wait_routes(&two, &near.addresses());
}

#[test]
fn a_pod_deleted_while_the_agent_is_away_is_gone_when_it_is_back() {
    let lab = Lab::new();
    let (mut one, two) = pair(&lab);
    let (gone, stays) = (one.add_pod("gone"), one.add_pod("stays"));
    wait_routes(&two, &gone.addresses());
    one.kill9();
    gone.delete();
    one.start_agent();
    wait_until("the deleted pod's port to be gone", PATIENCE, || {
        let ports = ports(&one);
        ports.len() == 1 && ports[0]["key"]["container"] == stays.container()
    });
    wait_routes(&two, &stays.addresses());
    two.wait_no_route("city", &format!("{}/32", gone.v4()));
    let spool = one.directory().join("state/deletes");
    let left = std::fs::read_dir(&spool).map(|files| files.flatten().count()).unwrap_or_default();
    assert_eq!(left, 0, "{} still holds files", spool.display());
}

#[test]
fn a_tap_that_vanishes_is_served_again_when_it_comes_back() {
    let lab = Lab::new();
    let (mut one, two) = pair(&lab);
    let far = two.add_pod("far");
    wait_routes(&one, &far.addresses());
    let mac = MacAddr([2, 0, 0, 0, 0, 0x51]);
    let address: IpAddr = "10.50.0.2".parse().unwrap();
    let mut before = None;
    for round in 0..3 {
        let vm = Namespace::new(&format!("vm-{round}"));
        plug(&one, &vm, mac, address);
        if round == 0 {
            let words = ["port", "add", "--vrf", "city", "--interface", "tapvm0", "--mac", &mac.to_string()];
            one.ctl(&[&words[..], &["--address", "10.50.0.2"]].concat());
        }
        wait_until("the port to be up", PATIENCE, || ports(&one)[0]["state"] == "up");
        wait_routes(&one, &far.addresses());
        wait_routes(&two, &[address]);
        assert_eq!(Probe::default().send(&vm, far.v4().into()), Answer::Reply, "round {round}");
        let now = ports(&one);
        assert_eq!(before.get_or_insert_with(|| now.clone()), &now, "round {round}");
        one.namespace().netlink(|netlink| netlink.delete_link("tapvm0"));
        if round == 1 {
            one.kill9();
            one.start_agent();
        }
        wait_until("the port to be seen down", PATIENCE, || ports(&one)[0]["state"] != "up");
    }
}

/// Plugs a "VM": a namespace that knows its address and the gateway, as a guest's own configuration would have it.
fn plug(node: &Node, vm: &Namespace, mac: MacAddr, address: IpAddr) {
    let gateway: IpAddr = "169.254.1.1".parse().unwrap();
    node.namespace().add_veth("tapvm0", vm, "eth0");
    vm.add_address("eth0", address, 32);
    vm.netlink(|netlink| {
        netlink.set_mac("eth0", mac)?;
        netlink.set_mtu("eth0", 1468)?;
        netlink.add_route(Prefix::host(gateway), None, "eth0")?;
        netlink.add_route("0.0.0.0/0".parse().unwrap(), Some(gateway), "eth0")
    });
}
