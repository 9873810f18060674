//! What `show ports`, `show tunnels` and `show drops` count, they also tell per second, and no longer once it is over.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

use std::net::SocketAddr;

use serde_json::Value;
use vrouter_tests::fixture::{pair, wait_routes};
use vrouter_tests::packets::{ethernet, send_frame, udp_packet};
use vrouter_tests::{Answer, Lab, Node, PATIENCE, Pod, Probe, wait_for};
use vrouter_types::MacAddr;

/// The pod's port, as `show ports` has it.
fn port(node: &Node, pod: &Pod) -> Value {
    let (ports, wanted) = (node.ctl_json(&["show", "ports"]), pod.host_interface());
    let found = ports["ports"].as_array().unwrap().iter().find(|it| it["hostInterface"] == wanted.as_str());
    found.unwrap().clone()
}

fn positive(value: &Value) -> bool {
    value.as_f64().is_some_and(|rate| rate > 0.0)
}

#[test]
fn what_is_counted_is_told_per_second_until_it_is_over() {
    let lab = Lab::new();
    let (one, two) = pair(&lab);
    let (near, far) = (one.add_pod("near"), two.add_pod("far"));
    wait_routes(&one, &far.addresses());
    wait_routes(&two, &near.addresses());
    let from: SocketAddr = "172.16.9.9:7".parse().unwrap();
    let packet = udp_packet(from, SocketAddr::new(far.v4().into(), 9), 64, b"spoofed");
    let spoofed = ethernet(MacAddr::GATEWAY, near.namespace().mac("eth0"), 0x0800, &packet);
    wait_for("rates of a port, a tunnel and drops", PATIENCE, || {
        for _ in 0..5 {
            assert_eq!(Probe::default().send(near.namespace(), far.v4().into()), Answer::Reply);
            send_frame(near.namespace(), "eth0", &spoofed).unwrap();
        }
        let port = port(&one, &near);
        let (tunnels, drops) = (one.ctl_json(&["show", "tunnels"]), one.ctl_json(&["show", "drops"]));
        let (of_port, of_tunnel) = (&port["rates"], &tunnels["tunnels"][0]["rates"]);
        let number = port["port"].to_string();
        let all = [
            &of_port["rxPacketsPerSecond"],
            &of_port["rxBitsPerSecond"],
            &of_port["txPacketsPerSecond"],
            &of_port["txBitsPerSecond"],
            &of_port["dropsPerSecond"],
            &of_tunnel["rxPacketsPerSecond"],
            &of_tunnel["txBitsPerSecond"],
            &drops["drops"]["spoofed-source"]["packetsPerSecond"],
            &drops["portRates"][number.as_str()]["spoofed-source"],
        ];
        assert_eq!(drops["drops"]["no-route"]["packets"], 0);
        if all.iter().all(|rate| positive(rate)) {
            Ok(())
        } else {
            Err((port, tunnels, drops["portRates"].clone()))
        }
    });
    for (view, heading) in [("ports", "Packets/s"), ("tunnels", "Bit/s"), ("drops", "Per Second")] {
        assert!(one.ctl(&["show", view]).contains(heading), "{view}");
    }
    wait_for("the rates to end with the traffic", PATIENCE, || {
        let rates = port(&one, &near)["rates"].clone();
        if positive(&rates["rxPacketsPerSecond"]) || rates.is_null() { Err(rates) } else { Ok(()) }
    });
    assert!(port(&one, &near)["counters"]["rxPackets"].as_u64().unwrap() > 0, "the counters stay");
}
