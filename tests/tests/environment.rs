//! What changes around a running agent: interfaces that get other names, an uplink of another size, an address that
//! moves, a machine that boots with its pods gone. Each has one outcome.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::net::IpAddr;
use std::time::Duration;

use agent_api::sealed;
use serde_json::Value;
use vrouter_tests::agreement::wait_agreement;
use vrouter_tests::fixture::{ASN, city, gateway, host_prefix, pair, wait_routes};
use vrouter_tests::lab::underlay_v4;
use vrouter_tests::process::{command, run_ok};
use vrouter_tests::sandbox::Sandbox;
use vrouter_tests::{
    AgentConfig, Answer, GoBgp, GoBgpPeer, Lab, Namespace, Node, PATIENCE, Pod, Probe, wait_for,
};

fn rename(namespace: &Namespace, from: &str, to: &str) {
    run_ok(namespace, &mut command("ip", &["link", "set", "dev", from, "name", to]));
}

fn reaches(from: &Pod, to: &Pod) {
    for address in to.addresses() {
        assert_eq!(Probe::default().send(from.namespace(), address), Answer::Reply, "to {address}");
    }
}

fn port_state(node: &Node, container: &str) -> String {
    let ports = node.ctl_json(&["show", "ports"])["ports"].as_array().cloned().unwrap_or_default();
    let port = ports.iter().find(|port| port["key"]["container"] == container).cloned().unwrap_or_default();
    port["state"].as_str().unwrap_or("no such port").to_owned()
}

fn wait_state(node: &Node, container: &str, word: &str) {
    wait_for(&format!("{container} to be {word}"), PATIENCE, || {
        let state = port_state(node, container);
        if state.contains(word) { Ok(()) } else { Err(state) }
    });
}

#[test]
fn a_pods_interface_that_is_renamed_costs_its_routes_until_it_has_its_name_again() {
    let lab = Lab::new();
    let (one, two) = pair(&lab);
    let (near, other, far) = (one.add_pod("near"), one.add_pod("other"), two.add_pod("far"));
    wait_routes(&two, &near.addresses());
    wait_routes(&one, &far.addresses());
    let name = near.host_interface();
    rename(one.namespace(), &name, "renamed0");
    wait_state(&one, near.container(), &name);
    two.wait_no_route("city", &host_prefix(near.v4().into()));
    reaches(&other, &far);
    // What the host sees of it now is nobody's.
    assert_eq!(
        Probe { attempts: 2, ..Probe::default() }.send(near.namespace(), far.v4().into()),
        Answer::Silence
    );
    rename(one.namespace(), "renamed0", &name);
    wait_state(&one, near.container(), "up");
    wait_routes(&two, &near.addresses());
    reaches(&near, &far);
    // And one that goes while it has another name is gone all the same.
    rename(one.namespace(), &name, "renamed0");
    wait_state(&one, near.container(), &name);
    near.delete();
    assert_eq!(port_state(&one, near.container()), "no such port");
}

#[test]
fn a_tap_that_is_named_before_it_exists_joins_when_it_appears_and_after_it_is_renamed() {
    let lab = Lab::new();
    let (one, two) = pair(&lab);
    let words = ["port", "add", "--vrf", "city", "--interface", "tapvm0", "--mac", "02:00:00:00:00:51"];
    let said = one.ctl(&[&words[..], &["--address", "10.50.0.2"]].concat());
    assert!(said.contains("waits") && said.contains("tapvm0"), "{said}");
    let said = one.status().problems;
    assert!(said.iter().any(|said| said.contains("waits") && said.contains("tapvm0")), "{said:?}");
    let vm = Namespace::new("vm");
    one.namespace().add_veth("tapelse", &vm, "eth0");
    rename(one.namespace(), "tapelse", "tapvm0");
    wait_state(&one, "tapvm0", "up");
    wait_routes(&two, &["10.50.0.2".parse().unwrap()]);
    rename(one.namespace(), "tapvm0", "tapelse");
    wait_state(&one, "tapvm0", "gone");
    two.wait_no_route("city", "10.50.0.2/32");
    rename(one.namespace(), "tapelse", "tapvm0");
    wait_state(&one, "tapvm0", "up");
    one.ctl(&["port", "delete", "--interface", "tapvm0"]);
    two.wait_no_route("city", "10.50.0.2/32");
}

#[test]
fn an_uplink_that_is_renamed_serves_on_where_the_operator_named_its_address() {
    let lab = Lab::new();
    let (mut one, two) = pair(&lab);
    let (near, far) = (one.add_pod("near"), two.add_pod("far"));
    wait_routes(&one, &far.addresses());
    wait_routes(&two, &near.addresses());
    rename(one.namespace(), "eth0", "wan0");
    wait_for("the underlay's new name", PATIENCE, || {
        let tunnels = one.ctl_json(&["show", "tunnels"]);
        if tunnels["interface"] == "wan0" { Ok(()) } else { Err(tunnels) }
    });
    reaches(&near, &far);
    one.kill9();
    one.start_agent();
    wait_routes(&one, &far.addresses());
    reaches(&near, &far);
}

#[test]
fn an_uplink_that_is_renamed_is_no_uplink_where_the_operator_named_its_interface() {
    let lab = Lab::new();
    let config = AgentConfig::new(ASN).vrf(&city(11)).underlay_interface("eth0");
    let one = Node::start(&lab, "gw-11", 11, &config.neighbor(underlay_v4(12).into()));
    let two = Node::start(&lab, "gw-12", 12, &gateway(12, &[11]));
    one.wait_established(two.address());
    let (near, other, far) = (one.add_pod("near"), one.add_pod("other"), two.add_pod("far"));
    wait_routes(&one, &far.addresses());
    rename(one.namespace(), "eth0", "wan0");
    let problem = |word: &'static str, wanted: bool| {
        wait_for(&format!("a status that says {word}: {wanted}"), PATIENCE, || {
            let said = one.status().problems;
            if said.iter().any(|said| said.contains(word)) == wanted { Ok(()) } else { Err(said) }
        });
    };
    problem("no uplink", true);
    reaches(&near, &other);
    rename(one.namespace(), "wan0", "eth0");
    problem("no uplink", false);
    one.wait_established(two.address());
    wait_routes(&one, &far.addresses());
    reaches(&near, &far);
}

#[test]
fn what_fits_the_tunnels_follows_the_uplinks_mtu() {
    let lab = Lab::new();
    let (one, two) = pair(&lab);
    let (near, far) = (one.add_pod("near"), two.add_pod("far"));
    wait_routes(&one, &far.addresses());
    wait_routes(&two, &near.addresses());
    let probe = |length| Probe { length, ..Probe::default() }.send(near.namespace(), far.v4().into());
    let tunnel_mtu = |wanted: u64| {
        wait_for(&format!("tunnels for {wanted} octets"), PATIENCE, || {
            let tunnels = one.ctl_json(&["show", "tunnels"]);
            if tunnels["tunnels"][0]["mtu"] == wanted { Ok(()) } else { Err(tunnels) }
        });
    };
    tunnel_mtu(1468);
    assert_eq!(probe(1468), Answer::Reply);
    lab.set_uplink_mtu(one.namespace(), "gw-11", 1400);
    tunnel_mtu(1368);
    // The pod was told 1468 when it came. It hears what fits.
    assert!(matches!(probe(1369), Answer::TooBig { mtu: 1368, .. }), "{:?}", probe(1369));
    assert_eq!(probe(1368), Answer::Reply);
    let late = one.add_pod("late");
    assert_eq!(late.namespace().netlink(|netlink| netlink.link("eth0")).mtu, 1368);
    lab.set_uplink_mtu(one.namespace(), "gw-11", 1500);
    tunnel_mtu(1468);
    assert_eq!(probe(1468), Answer::Reply);
}

/// With graceful restart the far side keeps what it knew under the old address. It must not share packets between that
/// and the new one.
#[test]
fn a_node_whose_address_changes_is_reached_at_the_new_one_alone() {
    let lab = Lab::new();
    let config = AgentConfig::new(ASN).vrf(&city(11)).underlay_interface("eth0");
    let one = Node::start(&lab, "gw-11", 11, &config.neighbor(underlay_v4(12).into()));
    let config = ["passive = true\nhold-time = 6"; 2];
    let two = AgentConfig::new(ASN).vrf(&city(12)).neighbor_with(underlay_v4(11).into(), config[0]);
    let two = Node::start(&lab, "gw-12", 12, &two.neighbor_with(underlay_v4(111).into(), config[1]));
    one.wait_established(two.address());
    let (near, far) = (one.add_pod("near"), two.add_pod("far"));
    wait_routes(&one, &far.addresses());
    wait_routes(&two, &near.addresses());
    one.namespace().netlink(|netlink| {
        netlink.delete_address("eth0", underlay_v4(11).into(), 24)?;
        netlink.add_address("eth0", underlay_v4(111).into(), 24)
    });
    two.wait_established(underlay_v4(111).into());
    // The session with the old address ends with its hold time, long before the restart time that its routes could stay.
    wait_for("the new address alone", Duration::from_secs(30), || {
        let hops = two.route("city", &host_prefix(near.v4().into()));
        let ips: Vec<IpAddr> = hops.iter().filter_map(|hop| hop["ip"].as_str()?.parse().ok()).collect();
        if ips == [IpAddr::from(underlay_v4(111))] { Ok(()) } else { Err(hops) }
    });
    wait_routes(&one, &far.addresses());
    for _ in 0..8 {
        reaches(&far, &near);
    }
}

#[test]
fn after_a_reboot_what_went_with_the_old_sandboxes_is_gone_and_late_deletes_succeed() {
    let lab = Lab::new();
    let reflector = GoBgp::start(&lab, "gobgp", 1, ASN, &[GoBgpPeer::client(underlay_v4(11).into(), ASN)]);
    let mut node = Node::start(&lab, "gw-11", 11, &gateway(11, &[1]));
    let mut pods: Vec<Sandbox> = (0..5).map(|number| Sandbox::new(&node, &format!("pod-{number}"))).collect();
    pods.iter_mut().for_each(|pod| pod.add().unwrap());
    wait_agreement("before", &node, 11, &pods, Some(&reflector));
    node.kill9();
    for pod in &pods {
        // The machine goes down, and every namespace with it; the disk stays.
        let name = pod.host_interface();
        node.namespace().netlink(|netlink| netlink.delete_link(&name));
    }
    for file in fs::read_dir(node.directory().join("state/ports")).unwrap() {
        let path = file.unwrap().path();
        let mut port: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        port["bootId"] = "the boot before".into();
        port.as_object_mut().unwrap().remove("check");
        fs::write(&path, sealed::seal(&port).unwrap()).unwrap();
    }
    node.start_agent();
    wait_agreement("after the reboot", &node, 11, &[], Some(&reflector));
    // kubelet deletes the old sandboxes when it comes to it, perhaps after it made new ones.
    let mut again: Vec<Sandbox> =
        (0..5).map(|number| Sandbox::new(&node, &format!("new-{number}"))).collect();
    again.iter_mut().for_each(|pod| pod.add().unwrap());
    pods.iter_mut().for_each(|pod| pod.delete().unwrap());
    wait_agreement("after late deletes", &node, 11, &again, Some(&reflector));
}

/// Which day it is decides nothing: neither in the agent nor in what it leaves for the next one. Its clocks are those
/// that only run forward; the calendar is for people.
#[test]
fn a_clock_that_jumps_by_years_changes_nothing() {
    let library = [
        "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1",
        "/usr/lib/aarch64-linux-gnu/faketime/libfaketime.so.1",
    ]
    .into_iter()
    .find(|path| std::path::Path::new(path).exists());
    let Some(library) = library else {
        eprintln!("SKIPPED: libfaketime is not installed, so the clock cannot jump");
        return;
    };
    let lab = Lab::new();
    let two = Node::start(&lab, "gw-12", 12, &gateway(12, &[11]));
    let mut one = Node::prepare(&lab, "gw-11", 11, &gateway(11, &[12]));
    let clock = lab.path("clock");
    let set = |offset: &str| fs::write(&clock, offset).unwrap();
    set("+0");
    one.set_environment(&[
        ("LD_PRELOAD", library),
        ("FAKETIME_TIMESTAMP_FILE", &clock.display().to_string()),
        ("FAKETIME_NO_CACHE", "1"),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
    ]);
    one.start_agent();
    one.wait_established(two.address());
    let (near, far) = (one.add_pod("near"), two.add_pod("far"));
    let flows = |when: &str| {
        wait_routes(&one, &far.addresses());
        wait_routes(&two, &near.addresses());
        for address in far.addresses() {
            assert_eq!(
                Probe::default().send(near.namespace(), address),
                Answer::Reply,
                "{when}: to {address}"
            );
        }
    };
    flows("before");
    let uptime =
        || one.ctl_json(&["show", "bgp", "neighbors"])[two.address().to_string()]["bgpTimerUpMsec"].as_u64();
    let before = uptime();
    let year =
        |one: &Node| one.log().lines().last().and_then(|line| line.get(..4)?.parse::<i32>().ok()).unwrap();
    let this_year = year(&one);
    for (offset, years) in [("+20y", 20), ("-30y", -30), ("+0", 0)] {
        set(offset);
        let pod = one.add_pod("guest");
        let jumped = year(&one) - this_year;
        assert!(
            (years - 1..=years + 1).contains(&jumped),
            "the clock did not jump: {jumped} years, {offset}"
        );
        flows(offset);
        pod.delete();
        // Longer than the tick of everything that counts seconds.
        std::thread::sleep(Duration::from_millis(2500));
        assert_eq!(one.bgp_state(two.address()), "Established", "{offset}");
        assert!(uptime() >= before && uptime() < Some(600_000), "{offset}: {:?}", uptime());
    }
}
