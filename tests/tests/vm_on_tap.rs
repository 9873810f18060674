//! A real virtual machine on a tap of one node, reached from a pod on another.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::net::IpAddr;

use vrouter_tests::echo::web_page;
use vrouter_tests::fixture::{pair, wait_routes};
use vrouter_tests::{Answer, Guest, Lab, Probe};
use vrouter_types::MacAddr;

#[test]
fn a_vm_joins_by_port_add_is_reached_from_a_pod_and_leaves_by_port_delete() {
    let lab = Lab::new();
    let (one, hypervisor) = pair(&lab);
    let pod = one.add_pod("sensor");
    let mac = MacAddr([0x02, 0, 0, 0, 0, 0x42]);
    let addresses: [IpAddr; 2] = ["10.50.0.2".parse().unwrap(), "fd00:50::2".parse().unwrap()];
    hypervisor.namespace().add_tap("tapvm0");
    let added = [
        "port",
        "add",
        "--vrf",
        "city",
        "--interface",
        "tapvm0",
        "--mac",
        &mac.to_string(),
        "--address",
        &addresses[0].to_string(),
        "--address",
        &addresses[1].to_string(),
    ];
    hypervisor.ctl(&added);
    wait_routes(&one, &addresses);
    wait_routes(&hypervisor, &pod.addresses());

    let mut vm = Guest::boot(&lab, "vm", hypervisor.namespace(), "tapvm0", mac);
    let gateways = ["169.254.1.1".parse().unwrap(), "fe80::1".parse().unwrap()];
    vm.configure(&[(addresses[0], 32), (addresses[1], 128)], &gateways, 1468);
    for address in addresses {
        let patient = Probe { attempts: 20, ..Probe::default() };
        assert_eq!(patient.send(pod.namespace(), address), Answer::Reply, "ping {address}");
        assert_eq!(web_page(pod.namespace(), address).expect("a web page"), "vm", "{address}");
    }
    // Bulk both ways: the guest's own superframes and checksums left to the tap, and ours towards it.
    let noise = lab.path("noise");
    for address in addresses {
        vm.assert_download(pod.namespace(), address, 8, &noise);
        vm.assert_upload(pod.namespace(), address, &noise);
    }
    for address in pod.addresses() {
        vm.run(&format!("ping -c 3 -W 5 {address}"));
    }
    let ports = hypervisor.ctl_json(&["show", "ports"]);
    let port = &ports["ports"][0];
    assert_eq!((&port["kind"], &port["hostInterface"]), (&"tap".into(), &"tapvm0".into()), "{ports:#?}");
    assert!(port["counters"]["rxPackets"].as_u64() > Some(0), "{ports:#?}");

    hypervisor.ctl(&["port", "delete", "--interface", "tapvm0"]);
    one.wait_no_route("city", "10.50.0.2/32");
    one.wait_no_route("city", "fd00:50::2/128");
    assert_ne!(Probe::hopeless().send(pod.namespace(), addresses[0]), Answer::Reply);
    assert!(hypervisor.namespace().has_link("tapvm0"), "the tap is nova's, not ours to remove");
    assert_eq!(hypervisor.ctl_json(&["show", "ports"])["ports"].as_array().map(Vec::len), Some(0));
}

#[test]
fn a_port_with_a_wrong_vrf_or_address_is_refused_with_a_reason_and_one_without_its_tap_waits() {
    let lab = Lab::new();
    let (one, _two) = pair(&lab);
    one.namespace().add_tap("tapvm0");
    let pod = one.add_pod("first");
    let taken = pod.v4().to_string();
    for (vrf, interface, address, reason) in
        [("nowhere", "tapvm0", "10.50.0.2", "nowhere"), ("city", "tapvm0", taken.as_str(), taken.as_str())]
    {
        let words = [
            "port",
            "add",
            "--vrf",
            vrf,
            "--interface",
            interface,
            "--mac",
            "02:00:00:00:00:42",
            "--address",
            address,
        ];
        let output = one.try_ctl(&words);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{words:?}: {said}");
        assert!(said.contains(reason), "{words:?}: {said}");
    }
    let ports = one.ctl_json(&["show", "ports"]);
    assert_eq!(ports["ports"].as_array().map(Vec::len), Some(1), "nothing is left of them: {ports:#?}");
    let words = "port add --vrf city --interface tapvm9 --mac 02:00:00:00:00:42 --address 10.50.0.2";
    let said = one.ctl(&words.split(' ').collect::<Vec<_>>());
    assert!(said.contains("It waits") && said.contains("tapvm9"), "{said}");
    one.namespace().add_tap("tapvm9");
    one.wait_route("city", "10.50.0.2/32");
}
