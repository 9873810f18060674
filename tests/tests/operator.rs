//! What an operator does on a running node: reload, watch, explain, clear, measure; and a node that boots without its
//! uplink and still knows the way.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};

use serde_json::Value;
use vrouter_tests::binaries::binary;
use vrouter_tests::fixture::{CITY_TARGET, gateway, pair, pair_with, vrf, wait_routes};
use vrouter_tests::{Answer, Lab, Node, PATIENCE, Probe, wait_for, wait_until};

const OTHER_TARGET: &str = "target:4200000000:999";

/// How often the session with a neighbor was established.
fn established(node: &Node, neighbor: &Node) -> u64 {
    let neighbors = node.ctl_json(&["show", "bgp", "neighbors"]);
    neighbors["neighbors"][neighbor.address().to_string()]["connectionsEstablished"]
        .as_u64()
        .unwrap_or_default()
}

#[test]
fn a_reload_adds_a_vrf_with_its_routes_and_the_session_does_not_notice() {
    let lab = Lab::new();
    let both = |host: u8, peer: u8| {
        let other = vrf("other", OTHER_TARGET, 40, host).line(&format!("rd = \"192.0.2.{host}:200\""));
        gateway(host, &[peer]).vrf(&other)
    };
    let (one, two) = pair_with(&lab, &gateway(11, &[12]), &both(12, 11));
    let (near, far) = (one.add_pod("near"), two.add_pod("far"));
    let hidden = two.add_pod_in("hidden", "other");
    wait_routes(&one, &far.addresses());
    wait_routes(&two, &near.addresses());
    let before = established(&one, &two);
    one.write_config(&both(11, 12));
    let reloaded = one.ctl_json(&["reload"]);
    assert_eq!(reloaded["changed"], serde_json::json!(["VRF other added"]), "{reloaded:#}");
    one.wait_route("other", &format!("{}/32", hidden.v4()));
    let here = one.add_pod_in("here", "other");
    two.wait_route("other", &format!("{}/32", here.v4()));
    assert_eq!(Probe::default().send(here.namespace(), hidden.v4().into()), Answer::Reply);
    assert_eq!(Probe::default().send(near.namespace(), far.v4().into()), Answer::Reply);
    assert_eq!(established(&one, &two), before, "the session went on");
    // With a port in it the VRF stays, and the port is named.
    one.write_config(&gateway(11, &[12]));
    let refused = one.try_ctl(&["reload"]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(1), "{said}");
    assert!(said.contains("\"other\"") && said.contains(here.container()), "{said}");
    here.delete();
    let reloaded = one.ctl_json(&["reload"]);
    assert_eq!(reloaded["changed"], serde_json::json!(["VRF other removed"]), "{reloaded:#}");
    assert_eq!(Probe::default().send(near.namespace(), far.v4().into()), Answer::Reply);
    assert_eq!(established(&one, &two), before);
}

#[test]
fn a_broken_file_changes_nothing_and_every_mistake_is_told_with_its_line() {
    let lab = Lab::new();
    let (one, two) = pair(&lab);
    let far = two.add_pod("far");
    wait_routes(&one, &far.addresses());
    let good = std::fs::read_to_string(one.config_path()).expect("the configuration");
    std::fs::write(one.config_path(), good.replace(CITY_TARGET, "target:x")).expect("write it");
    let refused = one.try_ctl(&["reload"]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(1), "{said}");
    assert!(said.contains("agent.toml:") && said.contains("\"target:x\" is no route target"), "{said}");
    assert!(said.contains("nothing was changed"), "{said}");
    wait_routes(&one, &far.addresses());
    // Imports given up and taken back, by signal this time.
    let other =
        good.replace(&format!("import = [\"{CITY_TARGET}\"]"), &format!("import = [\"{OTHER_TARGET}\"]"));
    for (text, has_route) in [(&other, false), (&good, true)] {
        std::fs::write(one.config_path(), text).expect("write it");
        let killed = Command::new("kill").arg("-HUP").arg(one.pid().to_string()).status().expect("kill runs");
        assert!(killed.success());
        wait_until("the route to follow the imports", PATIENCE, || {
            one.route("city", &format!("{}/32", far.v4())).is_empty() != has_route
        });
    }
}

#[test]
fn a_neighbor_that_a_reload_changes_begins_anew_and_the_other_does_not() {
    let lab = Lab::new();
    let one = Node::start(&lab, "gw-11", 11, &gateway(11, &[12, 13]));
    let two = Node::start(&lab, "gw-12", 12, &gateway(12, &[11]));
    let three = Node::start(&lab, "gw-13", 13, &gateway(13, &[11]));
    one.wait_established(two.address());
    one.wait_established(three.address());
    let before = established(&one, &three);
    let config = gateway(11, &[13]).neighbor_with(two.address(), "hold-time = 30\ndescription = \"second\"");
    one.write_config(&config);
    let reloaded = one.ctl_json(&["reload"]);
    assert_eq!(reloaded["changed"][0], "neighbor 192.0.2.12: hold-time, description", "{reloaded:#}");
    wait_for("the new hold time", PATIENCE, || {
        let neighbors = one.ctl_json(&["show", "bgp", "neighbors"]);
        let it = &neighbors["neighbors"]["192.0.2.12"];
        if it["holdTimeMsec"] == 30_000 && it["state"] == "Established" { Ok(()) } else { Err(it.clone()) }
    });
    assert_eq!(established(&one, &three), before, "the other session went on");
    let text = one.ctl(&["show", "bgp", "neighbors", "192.0.2.12"]);
    assert!(text.contains("Description: second") && text.contains("Graceful restart received: "), "{text}");
}

#[test]
fn metrics_are_where_the_operator_says_and_count_what_happens() {
    let lab = Lab::new();
    let config = gateway(11, &[12]);
    let (one, two) = pair_with(&lab, &config, &gateway(12, &[11]));
    let good = std::fs::read_to_string(one.config_path()).expect("the configuration");
    let with = good.replace("[agent]\n", "[agent]\nmetrics = \"127.0.0.1:9469\"\n");
    std::fs::write(one.config_path(), with).expect("write it");
    assert_eq!(one.ctl_json(&["reload"])["changed"], serde_json::json!(["[agent] metrics"]));
    let (near, far) = (one.add_pod("near"), two.add_pod("far"));
    wait_routes(&one, &far.addresses());
    wait_routes(&two, &near.addresses());
    assert_eq!(Probe::default().send(near.namespace(), far.v4().into()), Answer::Reply);
    let namespace = one.namespace();
    let page = wait_for("metrics", PATIENCE, || namespace.run(scrape));
    let sample = |name: &str, labels: &[&str]| -> f64 {
        let line = page
            .lines()
            .find(|line| line.starts_with(name) && labels.iter().all(|label| line.contains(label)));
        let line = line.unwrap_or_else(|| panic!("no {name} {labels:?} in:\n{page}"));
        line.rsplit_once(' ').and_then(|(_, value)| value.parse().ok()).expect(line)
    };
    assert_eq!(sample("frr_bgp_peer_state{", &["peer=\"192.0.2.12\""]), 1.0);
    assert!(sample("frr_bgp_peer_prefixes_received_count_total{", &["192.0.2.12"]) >= 2.0);
    assert!(sample("bgp_received_update_total{", &["192.0.2.12"]) >= 1.0);
    assert!(sample("vrouter_port_receive_packets_total{", &["vrf=\"city\""]) >= 1.0);
    assert!(sample("vrouter_tunnel_transmit_packets_total{", &["remote=\"192.0.2.12\""]) >= 1.0);
    assert_eq!(sample("vrouter_ports{state=\"up\"}", &[]), 1.0);
    assert!(sample("process_resident_memory_bytes", &[]) > 1e6);
}

fn scrape() -> Result<String, String> {
    let mut stream = TcpStream::connect("127.0.0.1:9469").map_err(|error| error.to_string())?;
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").map_err(|error| error.to_string())?;
    let mut reply = String::new();
    stream.read_to_string(&mut reply).map_err(|error| error.to_string())?;
    let (head, page) = reply.split_once("\r\n\r\n").ok_or("no head")?;
    if head.starts_with("HTTP/1.1 200") { Ok(page.to_owned()) } else { Err(head.to_owned()) }
}

#[test]
fn whoever_watches_sees_routes_and_sessions_and_the_agents_end() {
    let lab = Lab::new();
    let (mut one, two) = pair(&lab);
    let mut watcher = Command::new(binary("vrouterctl"))
        .arg("--socket")
        .arg(one.socket())
        .args(["--json", "monitor", "bgp"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("vrouterctl runs");
    let mut lines = BufReader::new(watcher.stdout.take().expect("its output")).lines();
    let mut next = || -> Value {
        let line = lines.next().expect("a line").expect("text");
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"))
    };
    let first = next();
    assert_eq!((&first["event"], &first["state"]), (&"session".into(), &"Established".into()), "{first}");
    let far = two.add_pod("far");
    let wanted = format!("{}/32", far.v4());
    let route = std::iter::from_fn(|| Some(next())).take(20).find(|event| event["prefix"] == wanted.as_str());
    let route = route.expect("the pod's route");
    assert_eq!(
        (&route["vrf"], &route["paths"][0]["nexthop"]),
        (&"city".into(), &"192.0.2.12".into()),
        "{route}"
    );
    one.ctl(&["clear", "bgp", "192.0.2.12"]);
    let down = std::iter::from_fn(|| Some(next())).take(50).find(|event| event["state"] == "Down");
    assert!(down.is_some_and(|event| event["peer"] == "192.0.2.12"));
    one.stop_agent();
    // To the last line, so that none is lost for want of a reader.
    let _rest = lines.count();
    let output = watcher.wait_with_output().expect("it ends");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() && said.starts_with("The agent has stopped"), "{said}");
}

#[test]
fn explain_clear_rtc_and_memory_answer_for_a_real_session() {
    let lab = Lab::new();
    let (one, two) = pair(&lab);
    let (near, far) = (one.add_pod("near"), two.add_pod("far"));
    wait_routes(&one, &far.addresses());
    let text = one.ctl(&["explain", "--vrf", "city", &format!("{}/32", far.v4())]);
    assert!(text.contains("carries the VRF's traffic") && text.contains("from 192.0.2.12"), "{text}");
    let text = one.ctl(&["explain", "--vrf", "city", &format!("{}/32", near.v4())]);
    assert!(
        text.contains("a port of this node has it") && text.contains("advertised to 192.0.2.12"),
        "{text}"
    );
    let text = one.ctl(&["explain", "--vrf", "city", "10.66.0.0/16"]);
    assert!(text.contains("no path is held"), "{text}");
    let rtc = one.ctl_json(&["show", "bgp", "rtc"]);
    let membership = &rtc["memberships"][format!("4200000000:{CITY_TARGET}")];
    assert_eq!(membership["local"], true, "{rtc:#}");
    assert_eq!(membership["receivedFrom"][0], "192.0.2.12", "{rtc:#}");
    assert_eq!(membership["advertisedTo"][0], "192.0.2.12", "{rtc:#}");
    let memory = one.ctl_json(&["show", "memory"]);
    assert!(memory["rssBytes"].as_u64().is_some_and(|octets| octets > 1 << 20), "{memory:#}");
    let parts = memory["parts"].as_array().expect("parts");
    assert!(
        parts.iter().any(|part| part["name"] == "RIB paths" && part["bytes"].as_u64() > Some(0)),
        "{memory:#}"
    );
    let status = one.try_ctl(&["status"]);
    let said = String::from_utf8_lossy(&status.stdout).into_owned();
    assert!(status.status.success() && said.starts_with("gw-11 is healthy"), "{said}");
    let updates = |node: &Node| {
        let neighbors = node.ctl_json(&["show", "bgp", "neighbors"]);
        neighbors["neighbors"]["192.0.2.12"]["received"]["updates"].as_u64().unwrap_or_default()
    };
    let (before, sessions) = (updates(&one), established(&one, &two));
    one.ctl(&["clear", "bgp", "192.0.2.12", "soft", "in"]);
    wait_until("the routes to come once more", PATIENCE, || updates(&one) > before);
    assert_eq!(established(&one, &two), sessions);
    assert_eq!(one.try_ctl(&["clear", "bgp", "192.0.2.99"]).status.code(), Some(1));
    one.ctl(&["clear", "bgp", "192.0.2.12"]);
    wait_until("the session to begin anew", PATIENCE, || established(&one, &two) > sessions);
    one.wait_established(two.address());
}

#[test]
fn a_node_that_starts_without_its_uplink_still_knows_the_way() {
    let lab = Lab::new();
    let (mut one, two) = pair(&lab);
    let (near, far) = (one.add_pod("near"), two.add_pod("far"));
    let prefix = format!("{}/32", far.v4());
    wait_routes(&one, &far.addresses());
    wait_routes(&two, &near.addresses());
    one.stop_agent();
    assert!(one.directory().join("state/routes.json").exists(), "written when it stops");
    lab.set_link("gw-11", false);
    one.start_agent();
    let routes = one.ctl_json(&["show", "routes", "--vrf", "city"]);
    let route = &routes["vrfs"]["city"][&prefix];
    assert_eq!(route["protocol"], "bgp-stale", "{routes:#}");
    assert_eq!(route["nexthops"][0]["ip"], "192.0.2.12", "{routes:#}");
    let status = one.try_ctl(&["status"]);
    let said = String::from_utf8_lossy(&status.stdout).into_owned();
    assert_eq!(status.status.code(), Some(1), "{said}");
    assert!(said.contains("route(s) are those of the last run"), "{said}");
    // What went meanwhile is gone once the neighbor has said all it has to say.
    let stays = two.add_pod("stays");
    far.delete();
    lab.set_link("gw-11", true);
    one.wait_established(two.address());
    wait_routes(&one, &stays.addresses());
    one.wait_no_route("city", &prefix);
    assert_eq!(Probe::default().send(near.namespace(), stays.v4().into()), Answer::Reply);
}

#[test]
fn a_stop_for_a_restart_leaves_the_routes_at_the_neighbors() {
    let lab = Lab::new();
    let (mut one, two) = pair(&lab);
    let (near, far) = (one.add_pod("near"), two.add_pod("far"));
    wait_routes(&one, &far.addresses());
    wait_routes(&two, &near.addresses());
    let killed = Command::new("kill").arg("-USR2").arg(one.pid().to_string()).status().expect("kill runs");
    assert!(killed.success());
    wait_until("the session to end", PATIENCE, || two.bgp_state(one.address()) != "Established");
    let prefix = format!("{}/32", near.v4());
    assert!(!two.route("city", &prefix).is_empty(), "kept: {}", two.ctl(&["show", "bgp", "neighbors"]));
    // It has ended by itself; this only takes note of it.
    one.kill9();
    one.start_agent();
    one.wait_established(two.address());
    wait_routes(&one, &far.addresses());
    assert!(!two.route("city", &prefix).is_empty(), "never gone");
    assert_eq!(Probe::default().send(far.namespace(), near.v4().into()), Answer::Reply);
}
