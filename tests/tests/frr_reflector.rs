//! FRR as route reflector between two gateways: what it sees of our routes, and what becomes of them when it goes.

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::Value;
use vrouter_tests::fixture::{ASN, city, city_rd, gateway, wait_routes};
use vrouter_tests::lab::underlay_v4;
use vrouter_tests::{
    AgentConfig, Answer, Frr, GoBgp, GoBgpPeer, Lab, Node, PATIENCE, Pod, Probe, wait_for, wait_until,
};

fn reflected(lab: &Lab) -> (Frr, Node, Node) {
    let frr = Frr::start(lab, "frr", 1, ASN, &[underlay_v4(11).into(), underlay_v4(12).into()]);
    let one = Node::start(lab, "gw-11", 11, &gateway(11, &[1]));
    let two = Node::start(lab, "gw-12", 12, &gateway(12, &[1]));
    one.wait_established(frr.address());
    two.wait_established(frr.address());
    (frr, one, two)
}

/// The label of a pod, as its own node shows it.
fn label(node: &Node, pod: &Pod) -> Value {
    let ports = node.ctl_json(&["show", "ports"]);
    let ports = ports["ports"].as_array().cloned().unwrap_or_default();
    let own = ports.into_iter().find(|port| port["key"]["container"] == pod.container());
    own.unwrap_or_else(|| panic!("{} has no port", pod.container()))["label"].clone()
}

#[test]
fn frr_sees_label_distinguisher_targets_and_encapsulations_and_pods_meet() {
    let lab = Lab::new();
    let (frr, one, two) = reflected(&lab);
    let (near, far) = (one.add_pod("near"), two.add_pod("far"));
    wait_routes(&one, &far.addresses());
    wait_routes(&two, &near.addresses());
    for (family, prefix) in [("ipv4", format!("{}/32", near.v4())), ("ipv6", format!("{}/128", near.v6()))] {
        let paths = frr.vpn_paths(family, &city_rd(11), &prefix);
        let [path] = &paths[..] else { panic!("one path for {prefix}: {paths:#?}") };
        assert_eq!(path["remoteLabel"], label(&one, &near), "{path:#?}");
        assert_eq!(path["valid"], true, "{path:#?}");
        assert_eq!(path["locPrf"], 100, "{path:#?}");
        let next_hop = path["nexthops"][0]["ip"].as_str().unwrap_or("none");
        let next_hop: IpAddr = next_hop.parse().expect("an address");
        assert_eq!(next_hop.to_canonical(), one.address(), "{path:#?}");
        let communities = path["extendedCommunity"]["string"].as_str().unwrap_or("none");
        let mut communities: Vec<&str> = communities.split(' ').collect();
        communities.sort_unstable();
        assert_eq!(communities, ["ET:11", "ET:13", "ET:2", "RT:4200000000:100"], "{path:#?}");
    }
    for address in far.addresses() {
        assert_eq!(Probe::default().send(near.namespace(), address), Answer::Reply, "to {address}");
    }
    // The far gateway's view: the next hop is the other gateway and not the reflector.
    let hops = two.wait_route("city", &format!("{}/32", near.v4()));
    assert_eq!(hops[0]["ip"], "192.0.2.11", "{hops:#?}");
    assert_eq!(hops[0]["label"], label(&one, &near), "{hops:#?}");
}

#[test]
fn a_deleted_pod_is_withdrawn_from_frr() {
    let lab = Lab::new();
    let (frr, one, two) = reflected(&lab);
    let near = one.add_pod("near");
    wait_routes(&two, &near.addresses());
    near.delete();
    for (family, prefix) in [("ipv4", format!("{}/32", near.v4())), ("ipv6", format!("{}/128", near.v6()))] {
        wait_until("the route to be withdrawn from FRR", PATIENCE, || {
            frr.vpn_paths(family, &city_rd(11), &prefix).is_empty()
        });
        two.wait_no_route("city", &prefix);
    }
}

/// How many sessions with a neighbor were established, and how many of them lost.
fn sessions(node: &Node, neighbor: IpAddr) -> (u64, u64) {
    let peer = &node.ctl_json(&["show", "bgp", "summary"])["peers"][neighbor.to_string()];
    let count = |key: &str| peer[key].as_u64().unwrap_or_else(|| panic!("no {key} in {peer:#?}"));
    (count("connectionsEstablished"), count("connectionsDropped"))
}

#[test]
fn a_session_comes_back_by_itself_when_frr_does() {
    let lab = Lab::new();
    let (mut frr, one, two) = reflected(&lab);
    let (near, far) = (one.add_pod("near"), two.add_pod("far"));
    wait_routes(&one, &far.addresses());
    let before = sessions(&one, frr.address());
    frr.kill();
    wait_for("the lost session to be seen", PATIENCE, || match one.bgp_state(frr.address()) {
        state if state == "Established" => Err(state),
        _ => Ok(()),
    });
    one.wait_no_route("city", &format!("{}/32", far.v4()));
    let during = one.add_pod("during");
    frr.start_again();
    one.wait_established(frr.address());
    two.wait_established(frr.address());
    wait_routes(&one, &far.addresses());
    wait_routes(&two, &near.addresses());
    wait_routes(&two, &during.addresses());
    assert_eq!(Probe::default().send(far.namespace(), during.v4().into()), Answer::Reply);
    let after = sessions(&one, frr.address());
    assert!(after.0 > before.0 && after.1 > before.1, "(established, lost): {before:?}, then {after:?}");
}

#[test]
fn a_session_needs_the_right_password() {
    let lab = Lab::new();
    let clients = [underlay_v4(11).into(), underlay_v4(12).into()];
    let lines = " neighbor 192.0.2.11 password rain-in-may\n neighbor 192.0.2.12 password rain-in-may";
    let frr = Frr::start_with(&lab, "frr", 1, ASN, &clients, lines);
    let node = |host: u8, password: &str| {
        let path = lab.path(&format!("{host}.key"));
        std::fs::write(&path, password).expect("a file");
        let key = format!("password-file = {path:?}");
        let config = AgentConfig::new(ASN).vrf(&city(host)).neighbor_with(frr.address(), &key);
        Node::start(&lab, &format!("gw-{host}"), host, &config)
    };
    let (right, wrong) = (node(11, "rain-in-may\n"), node(12, "rain-in-june\n"));
    right.wait_established(frr.address());
    let pod = right.add_pod("pod");
    wait_until("FRR to have our route", PATIENCE, || {
        !frr.vpn_paths("ipv4", &city_rd(11), &format!("{}/32", pod.v4())).is_empty()
    });
    assert_ne!(wrong.bgp_state(frr.address()), "Established");
    let shown =
        format!("{}{}", wrong.ctl(&["show", "bgp", "neighbors"]), right.ctl(&["show", "bgp", "neighbors"]));
    assert!(!shown.contains("rain-in"), "a password is shown:\n{shown}");
}

#[test]
fn losing_one_of_two_reflectors_loses_no_route() {
    let lab = Lab::new();
    let clients = [underlay_v4(11).into(), underlay_v4(12).into()];
    let mut frr = Frr::start(&lab, "frr", 1, ASN, &clients);
    let gobgp = GoBgp::start(&lab, "gobgp", 2, ASN, &clients.map(|client| GoBgpPeer::client(client, ASN)));
    let one = Node::start(&lab, "gw-11", 11, &gateway(11, &[1, 2]));
    let two = Node::start(&lab, "gw-12", 12, &gateway(12, &[1, 2]));
    for node in [&one, &two] {
        node.wait_established(frr.address());
        node.wait_established(gobgp.address());
    }
    let (near, far) = (one.add_pod("near"), two.add_pod("far"));
    let rd = city_rd(12);
    let prefix = format!("{}/32", far.v4());
    wait_until("both reflectors' paths", PATIENCE, || {
        let routes = one.ctl_json(&["show", "bgp", "routes", "--family", "vpnv4"]);
        routes["routes"][format!("{rd}:{prefix}")].as_array().is_some_and(|paths| paths.len() == 2)
    });
    wait_routes(&two, &near.addresses());
    let hops = one.route("city", &prefix);
    assert_eq!(hops.len(), 1, "two reflections of one route are one way: {hops:#?}");
    // While one goes and comes back, every single probe is answered.
    let ended = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let probing = scope.spawn(|| {
            let once = Probe { attempts: 1, patience: Duration::from_secs(2), ..Probe::default() };
            let mut sent = 0;
            while !ended.load(Ordering::Relaxed) {
                assert_eq!(once.send(near.namespace(), far.v4().into()), Answer::Reply, "probe {sent}");
                sent += 1;
            }
            sent
        });
        let lost = scope.spawn(|| {
            frr.kill();
            wait_until("the lost session to be seen", PATIENCE, || {
                one.bgp_state(frr.address()) != "Established"
            });
            assert!(!one.route("city", &prefix).is_empty());
            frr.start_again();
            one.wait_established(frr.address());
            two.wait_established(frr.address());
        });
        let lost = lost.join();
        ended.store(true, Ordering::Relaxed);
        assert!(probing.join().expect("no probe is lost") > 10);
        lost.expect("the session comes back");
    });
}
