//! The incumbent's port API: nova plugs a machine with nothing new to install, and it is on its network's VPN.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::net::IpAddr;
use std::process::Command;

use serde_json::{Value, json};
use vrouter_tests::fixture::{city, gateway, pair_with, wait_routes};
use vrouter_tests::openstack::{Machine, NETWORK, Port, port_api, reaches, vpn_api, with_openstack};
use vrouter_tests::process::run_ok;
use vrouter_tests::{AgentConfig, Lab, Node, PATIENCE, wait_until};

/// Two nodes; on the second, nova and neutron's agent may speak, and the network of the lab is the city's.
fn hypervisor(lab: &Lab) -> (Node, Node) {
    let second = AgentConfig::new(vrouter_tests::fixture::ASN)
        .vrf(&city(12).line(&format!("openstack-networks = [\"{NETWORK}\"]")))
        .neighbor(vrouter_tests::lab::underlay_v4(11).into());
    pair_with(lab, &gateway(11, &[12]), &with_openstack(second, &lab.path("ports")))
}

fn boot(node: &Node, port: &Port) -> Machine {
    Machine::boot("vm", node.namespace(), &port.tap, port.mac, &[port.ipv4.into()])
}

fn state(node: &Node, tap: &str) -> String {
    let shown = node.ctl_json(&["show", "openstack"]);
    let taps = shown["taps"].as_array().cloned().unwrap_or_default();
    let tap = taps.iter().find(|it| it["interface"] == tap);
    tap.map_or_else(|| "unknown".to_owned(), |it| it["state"].as_str().unwrap().to_owned())
}

#[test]
fn a_machine_that_nova_plugs_is_on_its_networks_vpn_until_nova_unplugs_it() {
    let lab = Lab::new();
    let (one, hypervisor) = hypervisor(&lab);
    let pod = one.add_pod("sensor");
    let (port, host) = (Port::new(7), hypervisor.namespace());
    let machine = boot(&hypervisor, &port);
    let added = port_api(host, "POST", "/port", Some(&port.plug(NETWORK)));
    assert_eq!((added.status, added.reason.as_str(), &added.body), (200, "OK", &json!({})));
    assert!(lab.path("ports").join(&port.id).exists(), "its file is where the incumbent's is");
    wait_routes(&one, &[port.ipv4.into()]);
    reaches(pod.namespace(), port.ipv4.into());
    reaches(&machine.namespace, pod.v4().into());

    let view = port_api(host, "GET", &format!("/port/{}", port.id), None).ok();
    assert_eq!((&view["system-name"], &view["ip-address"]), (&json!(port.tap), &json!(port.ipv4)));
    assert!(view["plen"].is_i64() && view["gateway"].is_string(), "{view}");
    let again = port_api(host, "POST", "/port", Some(&json!([port.plug(NETWORK)])));
    assert_eq!(again.status, 200, "the same again");

    let gone = port_api(host, "DELETE", &format!("/port/{}", port.id), None);
    assert_eq!((gone.status, gone.body), (200, json!({})));
    one.wait_no_route("city", &format!("{}/32", port.ipv4));
    assert!(!lab.path("ports").join(&port.id).exists());
    assert_eq!(
        port_api(host, "DELETE", &format!("/port/{}", port.id), None).status,
        200,
        "it is gone already"
    );
    let missing = port_api(host, "GET", &format!("/port/{}", port.id), None);
    assert_eq!(
        (missing.status, missing.reason.as_str(), missing.body),
        (404, "OK", json!({ "error": "{ Not Found }" }))
    );
    assert_eq!(port_api(host, "GET", "/nothing", None).body, json!({ "error": "Unknown Request" }));
}

/// Packets that the queue of an interface has let through.
fn queued(node: &Node, tap: &str) -> u64 {
    let shown = run_ok(node.namespace(), Command::new("tc").args(["-s", "-j", "qdisc", "show", "dev", tap]));
    let queues: Value = serde_json::from_str(&shown).unwrap();
    queues.as_array().unwrap().iter().find(|it| it["kind"] == "tbf").unwrap()["packets"].as_u64().unwrap()
}

fn shape(node: &Node, tap: &str) {
    let shape =
        ["qdisc", "add", "dev", tap, "root", "tbf", "rate", "100mbit", "burst", "1mb", "latency", "50ms"];
    run_ok(node.namespace(), Command::new("tc").args(shape));
}

#[test]
fn what_is_sent_to_a_machine_passes_the_queue_that_shapes_its_tap() {
    let lab = Lab::new();
    let (one, hypervisor) = hypervisor(&lab);
    let (pod, port) = (one.add_pod("sensor"), Port::new(7));
    let _machine = boot(&hypervisor, &port);
    shape(&hypervisor, &port.tap);
    port_api(hypervisor.namespace(), "POST", "/port", Some(&port.plug(NETWORK))).ok();
    wait_routes(&one, &[port.ipv4.into()]);
    let before = queued(&hypervisor, &port.tap);
    (0..20).for_each(|_| reaches(pod.namespace(), port.ipv4.into()));
    let passed = queued(&hypervisor, &port.tap) - before;
    assert!(passed >= 20, "{passed} of 20");
}

#[test]
fn a_queue_that_is_put_on_a_tap_in_use_is_passed_from_then_on() {
    let lab = Lab::new();
    let (one, hypervisor) = hypervisor(&lab);
    let (pod, port) = (one.add_pod("sensor"), Port::new(7));
    let _machine = boot(&hypervisor, &port);
    port_api(hypervisor.namespace(), "POST", "/port", Some(&port.plug(NETWORK))).ok();
    wait_routes(&one, &[port.ipv4.into()]);
    reaches(pod.namespace(), port.ipv4.into());
    shape(&hypervisor, &port.tap);
    wait_until("packets to pass the queue", PATIENCE, || {
        let before = queued(&hypervisor, &port.tap);
        (0..5).for_each(|_| reaches(pod.namespace(), port.ipv4.into()));
        queued(&hypervisor, &port.tap) - before >= 5
    });
}

#[test]
fn a_machine_survives_a_crash_of_the_agent_and_what_was_plugged_meanwhile_joins() {
    let lab = Lab::new();
    let (one, mut hypervisor) = hypervisor(&lab);
    let pod = one.add_pod("sensor");
    let (port, later) = (Port::new(7), Port::new(8));
    let _machine = boot(&hypervisor, &port);
    port_api(hypervisor.namespace(), "POST", "/port", Some(&port.plug(NETWORK))).ok();
    wait_routes(&one, &[port.ipv4.into()]);
    let label = |node: &Node| node.ctl_json(&["show", "ports"])["ports"][0]["label"].clone();
    let before = label(&hypervisor);
    hypervisor.kill9();
    // vrouter-port-control leaves its file and goes, with exit code 0, while nobody listens.
    let file: Value = later.plug(NETWORK);
    std::fs::write(lab.path("ports").join(&later.id), file.to_string()).unwrap();
    let second = Machine::boot("vm2", hypervisor.namespace(), &later.tap, later.mac, &[later.ipv4.into()]);
    hypervisor.start_agent();
    assert_eq!(label(&hypervisor), before, "nothing is plugged anew");
    wait_routes(&one, &[port.ipv4.into(), later.ipv4.into()]);
    for address in [port.ipv4, later.ipv4] {
        reaches(pod.namespace(), address.into());
    }
    drop(second);
}

#[test]
fn a_port_of_an_unknown_network_waits_visibly_and_joins_by_the_vpn_api_in_either_order() {
    let lab = Lab::new();
    let (one, hypervisor) = hypervisor(&lab);
    let pod = one.add_pod("sensor");
    let host = hypervisor.namespace();
    let unknown = NETWORK.replace("56297dc0", "11111111");
    for (n, plug_first) in [(7, true), (8, false)] {
        let port = Port::new(n);
        let machine = boot(&hypervisor, &port);
        let plug = || port_api(host, "POST", "/port", Some(&port.plug(&unknown))).ok();
        let attach = || {
            let asked = port.attach("ipvpn-net", "4200000000:100");
            assert_eq!(vpn_api(host, "POST", "/attach_localport", Some(&asked)).ok(), Value::Null);
        };
        if plug_first {
            plug();
            let shown = state(&hypervisor, &port.tap);
            assert!(shown.contains(&unknown), "{shown}");
            assert!(hypervisor.ctl(&["show", "ports"]).contains(&port.tap), "visible among ports too");
            attach();
        } else {
            attach();
            plug();
        }
        assert_eq!(state(&hypervisor, &port.tap), "up");
        wait_routes(&one, &[port.ipv4.into()]);
        reaches(pod.namespace(), port.ipv4.into());
        reaches(&machine.namespace, pod.v4().into());
        let ports = hypervisor.ctl_json(&["show", "ports"])["ports"].as_array().unwrap().len();
        assert_eq!(ports, 1, "one port, whoever speaks of it");
        vpn_api(host, "POST", "/detach_localport", Some(&port.detach("ipvpn-net"))).ok();
        one.wait_no_route("city", &format!("{}/32", port.ipv4));
        assert!(state(&hypervisor, &port.tap).contains(&unknown));
        port_api(host, "DELETE", &format!("/port/{}", port.id), None).ok();
        assert_eq!(state(&hypervisor, &port.tap), "unknown");
    }
}

#[test]
fn a_tap_that_vanishes_and_comes_back_is_served_again() {
    let lab = Lab::new();
    let (one, hypervisor) = hypervisor(&lab);
    let pod = one.add_pod("sensor");
    let port = Port::new(7);
    // Nova may tell of the port before the tap is there.
    port_api(hypervisor.namespace(), "POST", "/port", Some(&port.plug(NETWORK))).ok();
    assert!(state(&hypervisor, &port.tap).contains(&port.tap), "{}", state(&hypervisor, &port.tap));
    for _ in 0..2 {
        let machine = boot(&hypervisor, &port);
        wait_routes(&one, &[port.ipv4.into()]);
        reaches(pod.namespace(), port.ipv4.into());
        drop(machine);
        one.wait_no_route("city", &format!("{}/32", port.ipv4));
    }
}

#[test]
fn syncports_and_bad_requests_are_answered_as_the_incumbent_does_but_failures_are_told() {
    let lab = Lab::new();
    let (_one, hypervisor) = hypervisor(&lab);
    let host = hypervisor.namespace();
    let (good, mut bad) = (Port::new(1), Port::new(2).plug(NETWORK));
    bad["mac-address"] = json!("02:00");
    let refused = port_api(host, "POST", "/port", Some(&json!([good.plug(NETWORK), bad])));
    assert_eq!((refused.status, refused.reason.as_str()), (500, "OK"));
    assert!(refused.body["error"].as_str().unwrap().contains("element 1"), "{refused:?}");
    assert_eq!(port_api(host, "GET", &format!("/port/{}", good.id), None).status, 404, "none was added");
    let mut missing = good.plug(NETWORK);
    missing.as_object_mut().unwrap().remove("tx-vlan-id");
    let refused = port_api(host, "POST", "/port", Some(&missing));
    assert_eq!(refused.body, json!({ "error": "{ Invalid or missing field for <tx-vlan-id> }" }));
    assert_eq!(port_api(host, "POST", "/syncports", None).ok(), json!({}));
    let link = port_api(host, "PUT", &format!("/disable-port/{}", good.id), None);
    assert_eq!(link.status, 500);
    assert!(link.body["error"].as_str().unwrap().contains("Port Not found"), "{link:?}");
    assert_eq!(port_api(host, "POST", "/gateway", Some(&json!([]))).status, 500);
    let huge = json!("x".repeat(3 << 20));
    assert_eq!(port_api(host, "POST", "/port", Some(&huge)).status, 500, "bounded");
}

#[test]
fn a_pod_of_the_incumbents_cni_plugin_gets_address_and_mac() {
    let lab = Lab::new();
    let (one, hypervisor) = hypervisor(&lab);
    let pod = one.add_pod("sensor");
    let host = hypervisor.namespace();
    let config = port_api(host, "GET", "/vm-cfg/k8s__default__web-0", None).ok();
    let (vm, vmi, network) = (&config[0]["vm-uuid"], &config[0]["id"], &config[0]["vn-id"]);
    let mac: vrouter_types::MacAddr = config[0]["mac-address"].as_str().unwrap().parse().unwrap();
    let tap = "tapeth0-1b2c3d";
    let asked = json!({
        "time": "now", "vm-id": "c0ffee", "vm-uuid": vm, "vm-name": "k8s__default__web-0", "host-ifname": tap,
        "vm-ifname": "eth0", "vm-namespace": "/proc/1/ns/net", "vn-uuid": network, "vmi-uuid": vmi
    });
    let path = format!("/vm/{}", vm.as_str().unwrap());
    assert_eq!(port_api(host, "GET", &path, None).status, 404, "not yet");
    let placeholder = Machine::boot("pod", host, tap, mac, &[]);
    assert_eq!(port_api(host, "POST", "/vm", Some(&asked)).ok(), json!({}));
    let view = port_api(host, "GET", &path, None).ok();
    let address: IpAddr = view[0]["ip-address"].as_str().unwrap().parse().unwrap();
    assert!(address.to_string().starts_with("10.20.12."), "{view}");
    placeholder.namespace.netlink(|netlink| {
        netlink.add_address("eth0", address, 32)?;
        netlink.add_route("169.254.1.1/32".parse().unwrap(), None, "eth0")?;
        netlink.add_route("0.0.0.0/0".parse().unwrap(), Some("169.254.1.1".parse().unwrap()), "eth0")
    });
    wait_routes(&one, &[address]);
    reaches(pod.namespace(), address);
    assert_eq!(port_api(host, "DELETE", &path, None).ok(), json!({}));
    wait_until("the pod's route to go", PATIENCE, || one.route("city", &format!("{address}/32")).is_empty());
}
