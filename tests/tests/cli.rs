//! `vrouterctl` against a running agent: every view for people and as JSON, traces, and exit codes.

use std::process::Command;

use vrouter_tests::binaries::binary;
use vrouter_tests::fixture::{pair, wait_routes};
use vrouter_tests::{Answer, Lab, Probe};

/// Every view, with a key that its JSON must have and a word that people must find.
fn views(pod: &str, far: &str) -> Vec<(Vec<&'static str>, &'static str, String)> {
    vec![
        (vec!["show", "bgp", "summary"], "peers", "192.0.2.12".to_owned()),
        (vec!["show", "bgp", "neighbors"], "neighbors", "Established".to_owned()),
        (vec!["show", "bgp", "neighbors", "192.0.2.12"], "neighbors", "192.0.2.12".to_owned()),
        (vec!["show", "bgp", "routes"], "routes", format!("192.0.2.12:100:{far}/32")),
        (vec!["show", "bgp", "routes", "--family", "vpnv4"], "routes", far.to_owned()),
        (vec!["show", "bgp", "routes", "--rd", "192.0.2.11:100"], "routes", pod.to_owned()),
        (vec!["show", "bgp", "routes", "--rt", "target:4200000000:100"], "routes", far.to_owned()),
        (vec!["show", "bgp", "routes", "--neighbor", "192.0.2.12", "--received"], "routes", far.to_owned()),
        (vec!["show", "bgp", "routes", "--neighbor", "192.0.2.12", "--advertised"], "routes", pod.to_owned()),
        (vec!["show", "vrfs"], "vrfs", "target:4200000000:100".to_owned()),
        (vec!["show", "routes"], "vrfs", far.to_owned()),
        (vec!["show", "routes", "--vrf", "city"], "vrfs", pod.to_owned()),
        (vec!["show", "ports"], "ports", pod.to_owned()),
        (vec!["show", "labels"], "labels", "in use".to_owned()),
        (vec!["show", "tunnels"], "tunnels", "192.0.2.12".to_owned()),
        (vec!["show", "drops"], "drops", "no-route".to_owned()),
    ]
}

#[test]
fn every_view_is_text_for_people_and_one_object_for_programs() {
    let lab = Lab::new();
    let (one, two) = pair(&lab);
    let (near, far) = (one.add_pod("near"), two.add_pod("far"));
    wait_routes(&one, &far.addresses());
    wait_routes(&two, &near.addresses());
    assert_eq!(Probe::default().send(near.namespace(), far.v4().into()), Answer::Reply);
    let nowhere = Probe::default().send(near.namespace(), "10.66.0.1".parse().expect("an address"));
    assert!(matches!(nowhere, Answer::Unreachable { .. }), "{nowhere:?}");
    for (words, key, wanted) in views(&near.v4().to_string(), &far.v4().to_string()) {
        let text = one.ctl(&words);
        assert!(text.contains(&wanted), "{words:?}: no {wanted} in:\n{text}");
        let json = one.ctl_json(&words);
        assert!(json.is_object() && !json[key].is_null(), "{words:?}: no {key} in {json:#}");
    }
    let none = one.ctl_json(&["show", "bgp", "routes", "--rt", "target:4200000000:999"]);
    assert_eq!(none["totalPrefixCounter"], 0, "{none:#}");
}

#[test]
fn a_trace_says_where_a_packet_goes_or_why_it_does_not() {
    let lab = Lab::new();
    let (one, two) = pair(&lab);
    let (near, far) = (one.add_pod("near"), two.add_pod("far"));
    wait_routes(&one, &far.addresses());
    for (source, destination, forwarded, said) in [
        (near.v4().to_string(), far.v4().to_string(), true, "192.0.2.12"),
        (near.v6().to_string(), far.v6().to_string(), true, "192.0.2.12"),
        (near.v4().to_string(), "10.66.0.1".to_owned(), false, "no-route"),
    ] {
        let words = ["trace", "--vrf", "city", &source, &destination];
        let trace = one.ctl_json(&words);
        assert_eq!(trace["forwarded"], forwarded, "{trace:#}");
        let text = one.ctl(&words);
        assert!(text.replace(' ', "-").contains(said), "{words:?}: no {said} in:\n{text}");
    }
    let before = one.drops();
    one.ctl(&["trace", "--vrf", "city", &near.v4().to_string(), "10.66.0.1"]);
    assert_eq!(one.drops().get("no-route"), before.get("no-route"), "a trace is no packet");
}

#[test]
fn exit_codes_say_who_is_at_fault() {
    let lab = Lab::new();
    let (one, _two) = pair(&lab);
    let code = |words: &[&str]| one.try_ctl(words).status.code();
    assert_eq!(code(&["show", "vrfs"]), Some(0));
    assert_eq!(code(&["show", "routes", "--vrf", "nowhere"]), Some(1), "the agent says no");
    assert_eq!(code(&["trace", "--vrf", "nowhere", "10.0.0.1", "10.0.0.2"]), Some(1));
    assert_eq!(code(&["show", "nonsense"]), Some(2), "usage");
    assert_eq!(code(&["trace", "--vrf", "city", "10.0.0.1", "not-an-address"]), Some(2));
    let socket = lab.path("nobody.sock");
    let output =
        Command::new(binary("vrouterctl")).arg("--socket").arg(&socket).args(["show", "vrfs"]).output();
    let output = output.expect("vrouterctl runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "the agent cannot be reached: {said}");
    assert!(said.contains("nobody.sock"), "{said}");
}
