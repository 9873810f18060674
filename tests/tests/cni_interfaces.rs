//! Several interfaces per pod, addresses that are asked for, delegates, and what STATUS and CHECK see.
#![allow(clippy::unwrap_used, reason = "a test may")]

use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use serde_json::{Value, json};
use vrouter_tests::cni_bench::{Bench, with};
use vrouter_tests::cni_chain::{Chain, ours};
use vrouter_tests::cni_run::{CniCall, Script, ScriptedAgent, attached, ip_json};
use vrouter_tests::{AgentConfig, Answer, Lab, Namespace, Node, Probe, Vrf, transfer};

/// A node with two tenants.
struct Place {
    node: Node,
    lab: Lab,
}

impl Place {
    fn new() -> Place {
        Place::with(Vrf::new("city", "target:64512:1").pods("10.20.11.0/24").pods("fd00:20:11::/64"))
    }

    fn with(city: Vrf) -> Place {
        let lab = Lab::new();
        let tenant = Vrf::new("tenant", "target:64512:2").pods("10.30.11.0/24");
        let config = AgentConfig::new(64512).vrf(&city.default()).vrf(&tenant);
        Place { node: Node::start(&lab, "gw", 1, &config), lab }
    }

    fn entry(&self, further: &Value) -> Value {
        let mut entry = ours(&self.node.socket(), &self.node.directory().join("state/deletes"));
        entry.as_object_mut().unwrap().extend(further.as_object().unwrap().clone());
        entry
    }

    fn network(&self, name: &str, further: &Value) -> Chain {
        Chain::new(self.node.namespace(), name, "1.0.0", &[self.entry(further)])
    }

    fn containers(&self) -> Vec<(String, String)> {
        let ports = self.node.ctl_json(&["show", "ports"])["ports"].as_array().cloned().unwrap_or_default();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        ports.iter().map(|port| (text(&port["key"]["interface"]), text(&port["vrf"]))).collect()
    }
}

fn addresses(result: &Value) -> Vec<String> {
    let ips = result["ips"].as_array().cloned().unwrap_or_default();
    ips.iter().filter_map(|ip| ip["address"].as_str()?.split('/').next().map(str::to_owned)).collect()
}

fn reaches(from: &Namespace, to: &str) -> bool {
    Probe::default().send(from, to.parse::<IpAddr>().unwrap()) == Answer::Reply
}

#[test]
fn a_second_interface_is_in_another_vrf_and_takes_no_default_route() {
    let place = Place::new();
    let annotations = json!({ "io.kubernetes.cri.pod-annotations": { "vrouter.dev/vrf": "city" } });
    let main = place.network("main", &json!({})).runtime(annotations.clone());
    let routes = json!({ "vrf": "tenant", "routes": [{ "dst": "10.30.0.0/16" }] });
    let second = place.network("second", &routes).runtime(annotations).interface("net1");
    let pods = ["a", "b"].map(|name| place.lab.namespace(name));
    let results: Vec<_> = ["a", "b"]
        .iter()
        .zip(&pods)
        .map(|(id, pod)| (main.add(id, pod).unwrap(), second.add(id, pod).unwrap()))
        .collect();
    assert_eq!(
        place.containers().iter().filter(|it| **it == ("net1".to_owned(), "tenant".to_owned())).count(),
        2
    );
    let (of_main, of_second) = (addresses(&results[1].0), addresses(&results[1].1));
    assert!(
        of_main[0].starts_with("10.20.11.") && of_second[0].starts_with("10.30.11."),
        "{of_main:?} {of_second:?}"
    );
    for to in of_main.iter().chain(&of_second) {
        assert!(reaches(&pods[0], to), "{to}; drops {:?}", place.node.drops());
    }
    let defaults = ip_json(&pods[0], &["-4", "route", "show", "default"]);
    let devices: Vec<_> = defaults.as_array().unwrap().iter().map(|route| route["dev"].clone()).collect();
    assert_eq!(devices, ["eth0"]);
    assert_eq!(results[0].1["routes"], json!([{ "dst": "10.30.0.0/16", "gw": "169.254.1.1" }]));
    main.check("a", &pods[0], &results[0].0).unwrap();
    second.check("a", &pods[0], &results[0].1).unwrap();
    second.delete("a", &pods[0], &results[0].1).unwrap();
    assert!(pods[0].has_link("eth0") && !pods[0].has_link("net1"));
    assert!(reaches(&pods[0], &of_main[0]));
    main.delete("a", &pods[0], &results[0].0).unwrap();
    assert_eq!(place.containers().len(), 2);
}

#[test]
fn addresses_are_what_was_asked_for_however_it_was_asked() {
    let place = Place::new();
    let wanted = ["10.20.11.77", "fd00:20:11::77"];
    let mac = "02:00:00:00:00:77";
    let annotation = json!({ "vrouter.dev/ips": wanted.join(","), "vrouter.dev/mac": mac });
    let plain = || place.network("lab", &json!({}));
    let ways = [
        plain().runtime(json!({ "ips": wanted.map(|it| format!("{it}/24")), "mac": mac })),
        plain().arguments(&format!("IgnoreUnknown=1;IP={};MAC={mac}", wanted.join(","))),
        plain().runtime(json!({ "io.kubernetes.cri.pod-annotations": annotation })),
    ];
    let other = place.lab.namespace("other");
    for (number, way) in ways.iter().enumerate() {
        let (id, pod) = (format!("c{number}"), place.lab.namespace(&format!("pod{number}")));
        let result = way.add(&id, &pod).unwrap();
        assert_eq!(addresses(&result), wanted);
        assert_eq!(pod.mac("eth0").to_string(), mac);
        way.check(&id, &pod, &result).unwrap();
        assert!(reaches(place.node.namespace(), wanted[0]) && reaches(place.node.namespace(), wanted[1]));
        let refused = way.add("late", &other).unwrap_err();
        assert!(refused.contains("102") && refused.contains(wanted[0]) && refused.contains(&id), "{refused}");
        assert!(!other.has_link("eth0"));
        // The very address is free at once for whoever asks for it by name: a pod that comes back keeps it.
        way.delete(&id, &pod, &result).unwrap();
    }
}

#[test]
fn a_pod_whose_wishes_make_no_sense_fails_and_can_be_removed() {
    let place = Place::new();
    let annotation = json!({ "vrouter.dev/ips": "ten dot one" });
    let way =
        place.network("lab", &json!({})).runtime(json!({ "io.kubernetes.cri.pod-annotations": annotation }));
    let pod = place.lab.namespace("pod");
    let said = way.add("c1", &pod).unwrap_err();
    assert!(said.contains("ten dot one"), "{said}");
    way.delete("c1", &pod, &Value::Null).unwrap();
    assert!(place.containers().is_empty() && !pod.has_link("eth0"));
}

#[test]
fn the_pods_dns_is_in_the_result() {
    let place = Place::new();
    let dns =
        json!({ "dns": { "Servers": ["10.43.0.10"], "Searches": ["city.svc"], "Options": ["ndots:5"] } });
    let chain = place.network("lab", &json!({ "dns": { "nameservers": ["192.0.2.53"] } }));
    let pod = place.lab.namespace("pod");
    let result = chain.clone().runtime(dns).add("c1", &pod).unwrap();
    assert_eq!(
        result["dns"],
        json!({ "nameservers": ["10.43.0.10"], "search": ["city.svc"], "options": ["ndots:5"] })
    );
    chain.delete("c1", &pod, &result).unwrap();
    assert_eq!(chain.add("c2", &pod).unwrap()["dns"], json!({ "nameservers": ["192.0.2.53"] }));
}

#[test]
fn bandwidth_is_limited_in_both_directions_before_and_after_a_restart() {
    const RATE: u64 = 16_000_000;
    const OCTETS: u64 = 4 << 20;
    let mut place = Place::new();
    // As containerd writes it: in capitals, and with the largest burst there is.
    let limits = json!({ "IngressRate": RATE, "IngressBurst": 4_294_967_295_u64, "EgressRate": RATE, "EgressBurst": 0 });
    let chain = place.network("lab", &json!({})).runtime(json!({ "bandwidth": limits }));
    let pod = place.lab.namespace("pod");
    let result = chain.add("c1", &pod).unwrap();
    let free = place.lab.namespace("free");
    let other = place.network("lab", &json!({})).add("c2", &free).unwrap();
    let [limited, unlimited] =
        [&result, &other].map(|result| addresses(result)[0].parse::<IpAddr>().unwrap());
    for round in 0..2 {
        let ways = [(&free, &pod, limited, "to the pod"), (&pod, &free, unlimited, "from the pod")];
        for (port, (from, sink, address, what)) in (5001..).zip(ways) {
            let begin = Instant::now();
            transfer(from, sink, SocketAddr::new(address, port), OCTETS).unwrap();
            let took = begin.elapsed().as_secs_f64();
            // All but a burst (a fifth of a second's worth) passes at the rate. Slower is the machine's affair.
            let least = OCTETS as f64 * 8.0 / RATE as f64 - 0.2;
            assert!(took >= least * 0.9, "round {round}, {what}: {took} s, want {least} s at least");
        }
        place.node.kill9();
        place.node.start_agent();
    }
    chain.delete("c1", &pod, &result).unwrap();
}

#[test]
fn the_static_and_host_local_plugins_give_addresses_and_routes() {
    let place = Place::new();
    let leases = place.lab.path("leases");
    let fixed = json!({ "type": "static", "addresses": [{ "address": "10.99.0.5/24" }], "routes": [{ "dst": "10.98.0.0/16" }] });
    let local = json!({ "type": "host-local", "dataDir": leases, "ranges": [[{ "subnet": "10.99.1.0/24" }]],
                        "routes": [{ "dst": "0.0.0.0/0" }, { "dst": "10.97.0.0/16", "gw": "10.99.1.1" }] });
    for (ipam, address, route) in [(fixed, "10.99.0.5", "10.98.0.0/16"), (local, "10.99.1.2", "10.97.0.0/16")]
    {
        let chain = place.network("delegated", &json!({ "ipam": ipam }));
        let pod = place.lab.namespace("pod");
        let result = chain.add("c1", &pod).unwrap();
        assert_eq!(addresses(&result), [address]);
        assert!(
            result["routes"].as_array().unwrap().contains(&json!({ "dst": route, "gw": "169.254.1.1" })),
            "{result}"
        );
        assert_eq!(ip_json(&pod, &["-4", "route", "show", route])[0]["gateway"], "169.254.1.1");
        assert!(reaches(place.node.namespace(), address));
        chain.check("c1", &pod, &result).unwrap();
        chain.delete("c1", &pod, &result).unwrap();
        chain.delete("c1", &pod, &result).unwrap();
    }
    assert!(!leases.join("delegated/10.99.1.2").exists());
}

#[test]
fn status_names_the_range_that_is_full_and_recovers() {
    let place = Place::with(Vrf::new("city", "target:64512:1").pods("10.20.11.0/30").pods("fd00:20:11::/64"));
    let status = || {
        let conf = with(with(place.entry(&json!({})), "cniVersion", json!("1.1.0")), "name", json!("lab"));
        CniCall::new(place.node.namespace()).run("STATUS", &conf)
    };
    status().done();
    let chain = place.network("lab", &json!({}));
    let pod = place.lab.namespace("pod");
    let result = chain.add("c1", &pod).unwrap();
    let full = status().error();
    assert_eq!(full.code, 50);
    assert!(full.details.contains("10.20.11.0/30") && full.details.contains("city"), "{full:?}");
    let refused = chain.add("c2", &place.lab.namespace("late")).unwrap_err();
    assert!(refused.contains("10.20.11.0/30"), "{refused}");
    // The other VRF still has addresses.
    let conf = with(
        with(place.entry(&json!({ "vrf": "tenant" })), "cniVersion", json!("1.1.0")),
        "name",
        json!("lab"),
    );
    CniCall::new(place.node.namespace()).run("STATUS", &conf).done();
    chain.delete("c1", &pod, &result).unwrap();
    status().done();
}

#[test]
fn an_address_rests_after_its_pod_even_over_a_restart() {
    let mut place = Place::new();
    let mut given = Vec::new();
    for round in 0..4 {
        let chain = place.network("lab", &json!({}));
        let (id, pod) = (format!("c{round}"), place.lab.namespace("pod"));
        let result = chain.add(&id, &pod).unwrap();
        let now = addresses(&result);
        assert!(
            now.iter().all(|address| !given.contains(address)),
            "round {round}: {now:?} again, after {given:?}"
        );
        given.extend(now);
        chain.delete(&id, &pod, &result).unwrap();
        if round % 2 == 1 {
            place.node.kill9();
            place.node.start_agent();
        }
    }
}

#[test]
fn an_unneeded_delegate_is_not_asked_and_a_needed_one_always() {
    let bench = Bench::new();
    let _agent = ScriptedAgent::start(&bench.socket(), |call, body| match call {
        "POST /v1/ports/detach" => Script::Answer(200, json!({ "existed": true })),
        _ => {
            let asked: Vec<_> =
                body["addresses"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
            Script::Answer(200, attached(&asked, 1468))
        }
    });
    // An address that the runtime asks for is the delegate's to give.
    let ipam = json!({ "type": "static" });
    let conf =
        with(with(bench.conf("1.0.0"), "ipam", ipam), "runtimeConfig", json!({ "ips": ["10.99.0.8/24"] }));
    let result = bench.call().run("ADD", &conf).result();
    assert_eq!(addresses(&result), ["10.99.0.8"]);
    bench.call().run("CHECK", &with(conf.clone(), "prevResult", result)).done();
    bench.call().run("DEL", &conf).done();
}
