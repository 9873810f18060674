//! An agent that is killed and started again: same ports, labels and addresses, and traffic without any CNI call.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;

use serde_json::Value;
use vrouter_tests::echo::connect_tcp;
use vrouter_tests::fixture::{pair, wait_routes};
use vrouter_tests::{Answer, Lab, Node, Probe, Server, ask_tcp};

/// What must not change: all of `show ports` but its counters.
fn ports(node: &Node) -> Vec<Value> {
    let mut ports = node.ctl_json(&["show", "ports"])["ports"].as_array().cloned().unwrap_or_default();
    for port in &mut ports {
        port.as_object_mut().expect("a port").remove("counters");
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
    vrouter_tests::wait_until("the deleted pod's port to be gone", vrouter_tests::PATIENCE, || {
        let ports = ports(&one);
        ports.len() == 1 && ports[0]["key"]["container"] == stays.container()
    });
    wait_routes(&two, &stays.addresses());
    two.wait_no_route("city", &format!("{}/32", gone.v4()));
    let spool = one.directory().join("state/deletes");
    let left = std::fs::read_dir(&spool).map(|files| files.flatten().count()).unwrap_or_default();
    assert_eq!(left, 0, "{} still holds files", spool.display());
}
