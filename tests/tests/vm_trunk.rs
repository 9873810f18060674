//! A virtual machine with a VLAN trunk: its tap is one port, each tag another, in VRFs of their own.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::net::IpAddr;

use vrouter_tests::fixture::{gateway, pair_with, vrf};
use vrouter_tests::{Answer, Guest, Lab, Probe};
use vrouter_types::MacAddr;

const MAC: &str = "52:54:00:00:00:07";

#[test]
fn a_trunks_sub_ports_are_ports_of_their_own_and_unknown_tags_are_dropped_by_name() {
    let lab = Lab::new();
    let power = |host| vrf("power", "target:4200000000:300", 30, host);
    let (one, hypervisor) =
        pair_with(&lab, &gateway(11, &[12]).vrf(&power(11)), &gateway(12, &[11]).vrf(&power(12)));
    let (city, power) = (one.add_pod("city"), one.add_pod_in("power", "power"));
    hypervisor.namespace().add_tap("tap0");
    let add = |vrf: &str, address: &str, subnet: &str, more: &[&str]| {
        let words = ["port", "add", "--vrf", vrf, "--interface", "tap0", "--mac", MAC, "--address", address];
        hypervisor.ctl(&[&words[..], &["--dhcp", "--subnet", subnet], more].concat())
    };
    add("city", "10.50.0.7", "10.50.0.0/24=10.50.0.1", &[]);
    // The same addresses in the other VRF: nothing is shared but the tap.
    add("power", "10.60.0.7", "10.60.0.0/24=10.60.0.1", &["--vlan", "101"]);
    let mac: MacAddr = MAC.parse().unwrap();
    let mut vm = Guest::boot(&lab, "vm", hypervisor.namespace(), "tap0", mac);
    vm.serve_web();
    assert_eq!(vm.udhcpc("eth0")["ip"], "10.50.0.7");
    vm.run("/sbin/ip link add link eth0 name eth0.101 type vlan id 101");
    // Both default routes would be one too many.
    vm.run("/sbin/ip route delete default; /sbin/ip route add 10.20.0.0/16 via 10.50.0.1");
    assert_eq!(vm.udhcpc("eth0.101")["ip"], "10.60.0.7");
    let patient = Probe { attempts: 20, ..Probe::default() };
    let noise = lab.path("noise");
    for (pod, address) in [(&city, "10.50.0.7"), (&power, "10.60.0.7")] {
        let address: IpAddr = address.parse().unwrap();
        vm.run(&format!("ping -c 3 -W 5 {}", pod.v4()));
        assert_eq!(patient.send(pod.namespace(), address), Answer::Reply, "ping {address}");
        // Bulk both ways: superframes with a tag.
        vm.assert_download(pod.namespace(), address, 8, &noise);
        vm.assert_upload(pod.namespace(), address, &noise);
    }
    assert_ne!(Probe::hopeless().send(city.namespace(), "10.60.0.7".parse().unwrap()), Answer::Reply);

    vm.run("/sbin/ip link add link eth0 name eth0.102 type vlan id 102 && /sbin/ip link set eth0.102 up");
    vm.run("/sbin/ip address add 10.70.0.7/24 dev eth0.102");
    let dropped = hypervisor.faults_of("vlan", || {
        let _ = vm.attempt("ping -c 2 -W 1 10.70.0.1");
    });
    assert_eq!(dropped.keys().collect::<Vec<_>>(), ["vlan"], "{dropped:#?}");

    let ports = hypervisor.ctl_json(&["show", "ports"]);
    let ports = ports["ports"].as_array().unwrap();
    assert_eq!((&ports[0]["vlan"], &ports[1]["vlan"]), (&serde_json::Value::Null, &101.into()), "{ports:#?}");
    assert!(hypervisor.ctl(&["show", "ports"]).contains("tap0.101"));
    // Taking the parent away leaves the sub-port, and the host's stack stays out of the tap.
    hypervisor.ctl(&["port", "delete", "--interface", "tap0"]);
    vm.run(&format!("ping -c 3 -W 5 {}", power.v4()));
    assert_ne!(vm.attempt(&format!("ping -c 1 -W 1 {}", city.v4())).unwrap().0, 0);
    hypervisor.ctl(&["port", "delete", "--interface", "tap0", "--vlan", "101"]);
    assert_ne!(vm.attempt(&format!("ping -c 1 -W 1 {}", power.v4())).unwrap().0, 0);
}
