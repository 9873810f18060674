//! `trace` tells what the pipeline does.

use dataplane_core::trace::{Trace, trace};
use vrouter_types::{MacAddr, VrfId};

use crate::lab::{CITY, fib};

fn run(vrf: u32, src: &str, dst: &str) -> Trace {
    trace(&fib(), VrfId(vrf), src.parse().unwrap(), dst.parse().unwrap())
}

#[test]
fn a_trace_to_a_tunnel_names_every_step() {
    let trace = run(0, "10.20.11.2", "10.20.12.7");
    assert!(trace.forwarded);
    assert_eq!(trace.verdict, "to 192.0.2.1 label 100 over mpls-over-udp");
    assert_eq!(
        trace.steps,
        [
            "port 1 of VRF city sends 10.20.11.2 to 10.20.12.7: 28 octets, TTL 64",
            "10.20.11.2 belongs to the port",
            "route 10.20.12.0/24 of VRF city leads through a tunnel",
            "the way is 192.0.2.1 over mpls-over-udp, label 100",
            "28 octets fit the 1468 that the way ahead takes",
            "TTL 64 becomes 63",
        ]
    );
}

#[test]
fn verdicts_read_well() {
    for (vrf, src, dst, verdict, forwarded) in [
        (0, "fd00:20:11::2", "fd00:20:11::3", "to port 2", true),
        (1, "10.20.21.4", "192.0.2.11", "to the host", true),
        (1, "10.20.11.2", "10.20.12.7", "to 192.0.2.1 label 200 over mpls-over-udp", true),
        (0, "10.20.12.7", "10.20.11.2", "to port 1", true),
        (0, "10.20.11.2", "10.20.99.1", "dropped: discard-route: The route says to discard.", false),
    ] {
        let trace = run(vrf, src, dst);
        assert_eq!((trace.verdict.as_str(), trace.forwarded), (verdict, forwarded));
        assert!(!trace.steps.is_empty());
    }
    let lost = run(0, "10.20.11.2", "203.0.113.9");
    assert!(lost.verdict.starts_with("dropped: no-route: ") && !lost.forwarded, "{}", lost.verdict);
    assert!(lost.verdict.ends_with("An ICMP error goes to port 1."), "{}", lost.verdict);
    assert_eq!(lost.steps.last().unwrap(), "10.20.11.2 hears of it: network unreachable");
}

#[test]
fn a_trace_sends_with_the_mac_that_its_source_was_allowed_with() {
    let mut fib = fib();
    let mut port = fib.port(CITY).unwrap().clone();
    port.allowed.push(("10.20.30.1/32".parse().unwrap(), Some(MacAddr([0, 0, 0x5e, 0, 1, 9]))));
    fib.insert_port(port.into());
    let [src, dst] = ["10.20.30.1", "10.20.12.7"].map(|address| address.parse().unwrap());
    assert_eq!(trace(&fib, VrfId(0), src, dst).verdict, "to 192.0.2.1 label 100 over mpls-over-udp");
}

#[test]
fn a_trace_over_several_ways_says_that_its_own_is_one_of_them() {
    let trace = run(0, "10.20.11.2", "10.20.14.7");
    let steps = trace.steps.join("\n");
    assert!(steps.contains("leads through 2 tunnels of equal cost\none flow's way is 192.0.2."), "{steps}");
    assert!(trace.forwarded);
}

#[test]
fn what_cannot_be_traced_says_why() {
    for (vrf, src, dst, step) in [
        (0, "10.20.11.9", "10.20.12.7", "no port of the VRF has 10.20.11.9"),
        (7, "10.20.11.2", "10.20.12.7", "there is no VRF 7"),
        (0, "10.20.11.2", "fd00:20:12::7", "10.20.11.2 and fd00:20:12::7 are of two families"),
    ] {
        let trace = run(vrf, src, dst);
        assert_eq!((trace.steps, trace.forwarded), (vec![step.to_string()], false));
    }
}
