//! TCP MD5 signatures (RFC 2385) with FRR: with the right key the session comes up, with a wrong one or none it does not,
//! and a person sees that.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::net::IpAddr;

use vrouter_tests::fixture::{ASN, city, wait_routes};
use vrouter_tests::lab::underlay_v4;
use vrouter_tests::{AgentConfig, Frr, Lab, Namespace, Node, PATIENCE, wait_for};

const KEY: &str = "a-key/of+the_usual=kind";

fn locked_frr(lab: &Lab) -> Frr {
    let clients: Vec<IpAddr> = [11, 12].map(|host| underlay_v4(host).into()).to_vec();
    let lines = clients.iter().map(|client| format!(" neighbor {client} password {KEY}"));
    Frr::start_with(lab, "frr", 1, ASN, &clients, &lines.collect::<Vec<_>>().join("\n"))
}

fn gateway(lab: &Lab, host: u8, key: Option<&str>) -> Node {
    let name = format!("gw-{host}");
    let lines = key.map_or(String::new(), |key| {
        let path = lab.path(&format!("{name}.key"));
        std::fs::write(&path, key).unwrap();
        format!("password-file = \"{}\"", path.display())
    });
    let config = AgentConfig::new(ASN).vrf(&city(host)).neighbor_with(underlay_v4(1).into(), &lines);
    Node::start(lab, &name, host, &config)
}

/// What the kernel of a namespace has counted under this name (`/proc/net/netstat`).
fn counter(namespace: &Namespace, name: &str) -> u64 {
    let text = namespace.run(|| std::fs::read_to_string("/proc/thread-self/net/netstat")).unwrap();
    let lines: Vec<&str> = text.lines().filter(|line| line.starts_with("TcpExt:")).collect();
    let [names, values] = lines[..] else { panic!("no TcpExt in {text}") };
    let mut pairs = names.split(' ').zip(values.split(' '));
    pairs
        .find(|(known, _)| *known == name)
        .map_or_else(|| panic!("no {name}"), |(_, value)| value.parse().unwrap())
}

#[test]
fn the_right_key_brings_the_session_up() {
    let lab = Lab::new();
    let frr = locked_frr(&lab);
    let (one, two) = (gateway(&lab, 11, Some(KEY)), gateway(&lab, 12, Some(&format!("{KEY}\n"))));
    one.wait_established(frr.address());
    two.wait_established(frr.address());
    let (near, far) = (one.add_pod("near"), two.add_pod("far"));
    wait_routes(&one, &far.addresses());
    wait_routes(&two, &near.addresses());
    assert_eq!(counter(frr.namespace(), "TCPMD5Failure"), 0, "every segment was signed as it should be");
    assert_eq!(counter(one.namespace(), "TCPMD5NotFound"), 0);
}

#[test]
fn a_wrong_key_and_no_key_keep_the_session_down_and_say_so() {
    let lab = Lab::new();
    let frr = locked_frr(&lab);
    let (wrong, none) = (gateway(&lab, 11, Some("not the key")), gateway(&lab, 12, None));
    wait_for("FRR's kernel to refuse the wrong signature and the missing one", PATIENCE, || {
        let refused = ["TCPMD5Failure", "TCPMD5NotFound"].map(|name| counter(frr.namespace(), name));
        if refused.iter().all(|count| *count > 0) { Ok(()) } else { Err(refused) }
    });
    for node in [&wrong, &none] {
        assert_ne!(node.bgp_state(frr.address()), "Established");
        let error = wait_for("the reason to be shown", 2 * PATIENCE, || {
            let shown = node.ctl_json(&["show", "bgp", "neighbors"]);
            let error = shown["neighbors"][frr.address().to_string()]["lastError"].clone();
            error.as_str().map(str::to_owned).ok_or(shown)
        });
        assert!(error.contains("connect"), "{error}");
    }
}
