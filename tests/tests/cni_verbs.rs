//! Each verb of `vrouter-cni` in each version of the specification, with an agent that answers by a script: what is
//! printed, what is in the pod, and that nothing is left.

use std::process::Command;

use serde_json::{Value, json};
use vrouter_tests::cni_bench::{Bench, MTU, with};
use vrouter_tests::cni_run::{CniCall, Script, ScriptedAgent, attached, files_under, ip_json, status};
use vrouter_tests::process::run_ok;
use vrouter_tests::{AgentConfig, Answer, Lab, Namespace, Node, PATIENCE, Probe, Vrf};

const VERSIONS: [&str; 4] = ["0.3.1", "0.4.0", "1.0.0", "1.1.0"];

#[test]
fn every_version_adds_checks_and_deletes_in_its_own_form() {
    let bench = Bench::new();
    let _agent = bench.obliging();
    let before = bench.traces();
    for version in VERSIONS {
        let conf = bench.conf(version);
        let result = bench.call().run("ADD", &conf).result();
        let host = bench.host_interface();
        assert_eq!(result["cniVersion"], version);
        assert_eq!(result["interfaces"][0]["name"], host.as_str());
        assert_eq!(result["interfaces"][0]["sandbox"].as_str().unwrap_or(""), "");
        assert_eq!(result["interfaces"][1]["name"], "eth0");
        assert_eq!(result["interfaces"][1]["sandbox"], bench.pod.path().to_str().unwrap());
        assert_eq!(result["interfaces"][1]["mac"], bench.pod.mac("eth0").to_string());
        assert_eq!(result["interfaces"][0]["mac"], bench.host.mac(&host).to_string());
        let family = |ip: &Value| ip["version"].as_str().map(str::to_owned);
        let old = version.starts_with("0.");
        let wanted = |text: &str| old.then(|| text.to_owned());
        let ips = result["ips"].as_array().unwrap();
        assert_eq!((ips[0]["address"].as_str(), family(&ips[0])), (Some("10.20.11.5/32"), wanted("4")));
        assert_eq!((ips[1]["address"].as_str(), family(&ips[1])), (Some("fd00:20:11::5/128"), wanted("6")));
        assert!(ips.iter().all(|ip| ip["interface"] == 1));
        assert_eq!(result["dns"].is_object(), old);
        assert_eq!(result["interfaces"][1]["mtu"].as_u64(), (version == "1.1.0").then_some(u64::from(MTU)));
        let conf = with(conf, "prevResult", result);
        if version == "0.3.1" {
            let error = bench.call().run("CHECK", &conf).error();
            assert_eq!((error.code, error.version.as_str()), (1, "0.3.1"));
        } else {
            bench.call().run("CHECK", &conf).done();
        }
        bench.call().run("DEL", &conf).done();
        assert_eq!(bench.traces(), before, "{version}");
    }
}

#[test]
fn the_pod_has_addresses_routes_neighbours_and_an_mtu_that_fits() {
    let bench = Bench::new();
    let _agent = bench.obliging();
    bench.call().run("ADD", &bench.conf("1.0.0")).result();
    let link = &ip_json(&bench.pod, &["-details", "addr", "show", "dev", "eth0"])[0];
    assert_eq!(link["mtu"], MTU);
    assert!(link["gso_max_size"].as_u64().unwrap() <= 62 << 10, "{link}");
    let infos = link["addr_info"].as_array().unwrap();
    for (address, length) in [("10.20.11.5", 32), ("fd00:20:11::5", 128)] {
        let info = infos.iter().find(|info| info["local"] == address).unwrap();
        assert_eq!((info["prefixlen"].as_u64(), info.get("tentative")), (Some(length), None), "{info}");
    }
    // Nobody else can be on the link, so nobody is asked, for the link-local address neither.
    let dad = bench.pod.run(|| std::fs::read_to_string("/proc/sys/net/ipv6/conf/eth0/accept_dad"));
    assert_eq!(dad.unwrap().trim(), "0");
    for (family, gateway) in [("-4", "169.254.1.1"), ("-6", "fe80::1")] {
        let route = ip_json(&bench.pod, &[family, "route", "show", "default"]);
        assert_eq!((route[0]["gateway"].as_str(), route[0]["dev"].as_str()), (Some(gateway), Some("eth0")));
        let neighbours = ip_json(&bench.pod, &[family, "neigh", "show", "nud", "permanent"]);
        let gateway = neighbours.as_array().unwrap().iter().find(|entry| entry["dst"] == gateway);
        assert_eq!(gateway.unwrap()["lladdr"], "00:00:5e:00:01:00");
    }
    let host = bench.host_interface();
    let link = &ip_json(&bench.host, &["link", "show", "dev", &host])[0];
    assert_eq!((link["mtu"].as_u64(), link["operstate"].as_str()), (Some(MTU.into()), Some("UP")));
    assert_ne!(link["address"], "00:00:5e:00:01:00");
    assert_eq!(link["ifalias"], "vrouter:lab:c1/eth0");
}

#[test]
fn offloads_that_the_header_cannot_carry_are_off_and_the_others_stay_on() {
    let bench = Bench::new();
    let _agent = bench.obliging();
    let answer = bench.call().run("ADD", &bench.conf("1.0.0"));
    answer.result();
    assert_eq!(answer.stderr, "");
    let features = run_ok(&bench.pod, Command::new("ethtool").args(["-k", "eth0"]));
    let state = |name: &str| {
        let line = features.lines().find_map(|line| line.trim().strip_prefix(&format!("{name}: ")));
        line.map(|line| line.split_whitespace().next().unwrap_or_default().to_owned())
    };
    for name in ["tx-gre-segmentation", "tx-udp_tnl-segmentation", "tx-sctp-segmentation", "tx-gso-list"] {
        assert_eq!(state(name).as_deref(), Some("off"), "{name}");
    }
    for name in ["tcp-segmentation-offload", "tx-udp-segmentation", "tx-checksumming", "scatter-gather"] {
        assert_eq!(state(name).as_deref(), Some("on"), "{name}");
    }
}

#[test]
fn the_agent_is_told_all_that_the_runtime_said() {
    let bench = Bench::new();
    let agent = bench.obliging();
    let runtime = json!({
        "io.kubernetes.cri.pod-annotations": { "vrouter.dev/vrf": "smart-city" },
        "portMappings": [{ "HostPort": 1, "ContainerPort": 2, "Protocol": "tcp", "HostIP": "" }],
        "Mac": "02:aa:bb:cc:dd:ee",
    });
    let conf = with(with(bench.conf("0.4.0"), "runtimeConfig", runtime), "vrf", json!("other"));
    let args = "IgnoreUnknown=1;K8S_POD_UID=u;K8S_POD_NAMESPACE=city-1;K8S_POD_NAME=lamp";
    bench.call().env("CNI_ARGS", args).run("ADD", &conf).result();
    let calls = agent.calls();
    assert_eq!(calls.len(), 1, "{calls:?}");
    let (call, body) = &calls[0];
    assert_eq!(call, "POST /v1/ports/attach");
    assert_eq!(
        body,
        &json!({
            "key": { "container": "c1", "interface": "eth0" }, "kind": "pod", "hostInterface": bench.host_interface(),
            "mac": "02:aa:bb:cc:dd:ee", "netns": bench.pod.path(), "namespace": "city-1", "name": "lamp",
            "vrf": "smart-city", "configuredVrf": "other",
        })
    );
    assert_eq!(bench.pod.mac("eth0").to_string(), "02:aa:bb:cc:dd:ee");
}

#[test]
fn del_succeeds_whatever_is_missing_and_however_often() {
    let bench = Bench::new();
    let agent = bench.obliging();
    let before = bench.traces();
    let conf = bench.conf("1.0.0");
    bench.call().run("DEL", &conf).done();
    bench.call().run("ADD", &conf).result();
    let gone = bench.call().env("CNI_NETNS", "");
    gone.run("DEL", &conf).done();
    assert_eq!(bench.traces(), before);
    gone.without("CNI_NETNS").run("DEL", &conf).done();
    bench.call().env("CNI_NETNS", "/run/netns/vr-absent").run("DEL", &conf).done();
    assert_eq!(agent.count("POST /v1/ports/detach"), 4);
    assert_eq!(bench.traces(), before);
}

#[test]
fn check_names_what_was_lost() {
    let bench = Bench::new();
    let _agent = bench.obliging();
    let lose = |pod: bool, words: &[&str]| {
        let namespace = if pod { &bench.pod } else { &bench.host };
        run_ok(namespace, Command::new("ip").args(words));
    };
    let cases: [(bool, &[&str], &str); 6] = [
        (true, &["addr", "del", "10.20.11.5/32", "dev", "eth0"], "10.20.11.5"),
        (true, &["addr", "del", "fd00:20:11::5/128", "dev", "eth0"], "fd00:20:11::5"),
        (true, &["route", "del", "default"], "169.254.1.1"),
        (true, &["-6", "route", "del", "default"], "fe80::1"),
        (true, &["link", "set", "eth0", "down"], "down"),
        (true, &["link", "del", "eth0"], "no "),
    ];
    for (pod, words, named) in cases {
        let result = bench.call().run("ADD", &bench.conf("1.1.0")).result();
        let conf = with(bench.conf("1.1.0"), "prevResult", result);
        bench.call().run("CHECK", &conf).done();
        lose(pod, words);
        let error = bench.call().run("CHECK", &conf).error();
        assert_eq!((error.code, error.msg.contains(named)), (104, true), "{words:?}: {error:?}");
        bench.call().run("DEL", &conf).done();
    }
    let without = bench.call().run("CHECK", &bench.conf("1.1.0")).error();
    assert_eq!((without.code, without.msg.contains("prevResult")), (7, true));
}

#[test]
fn check_fails_when_the_agent_knows_another_address() {
    let bench = Bench::new();
    let agent = bench.obliging();
    let result = bench.call().run("ADD", &bench.conf("1.0.0")).result();
    let conf = with(bench.conf("1.0.0"), "prevResult", result);
    drop(agent);
    assert_eq!(bench.call().run("CHECK", &conf).error().code, 11);
    let _other = ScriptedAgent::obliging(&bench.socket(), &["10.20.11.9"], MTU);
    let error = bench.call().run("CHECK", &conf).error();
    assert_eq!((error.code, error.msg.contains("10.20.11.9")), (104, true), "{error:?}");
}

#[test]
fn what_a_plugin_before_us_made_is_kept() {
    let bench = Bench::new();
    let _agent = bench.obliging();
    let previous = json!({
        "cniVersion": "1.0.0", "interfaces": [{ "name": "net9", "sandbox": bench.pod.path() }],
        "ips": [{ "address": "192.0.2.7/24", "interface": 0 }], "routes": [{ "dst": "198.51.100.0/24" }],
    });
    let result = bench.call().run("ADD", &with(bench.conf("1.0.0"), "prevResult", previous.clone())).result();
    assert_eq!(result["interfaces"][0], previous["interfaces"][0]);
    assert_eq!(result["ips"][0], previous["ips"][0]);
    assert_eq!(result["routes"][0], previous["routes"][0]);
    assert_eq!(
        (result["interfaces"][2]["name"].as_str(), result["ips"][1]["interface"].as_u64()),
        (Some("eth0"), Some(2))
    );
    let conf = with(bench.conf("1.0.0"), "prevResult", result);
    bench.call().run("CHECK", &conf).done();
}

#[test]
fn addresses_may_come_from_a_delegated_plugin() {
    let bench = Bench::new();
    let agent = ScriptedAgent::start(&bench.socket(), |call, body| match call {
        "POST /v1/ports/detach" => Script::Answer(200, json!({ "existed": true })),
        _ => {
            let asked: Vec<_> =
                body["addresses"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
            Script::Answer(200, attached(&asked, MTU))
        }
    });
    let (leases, before) = (bench.lab.path("leases"), bench.traces());
    let ranges = json!([[{ "subnet": "10.99.0.0/24" }], [{ "subnet": "fd00:99::/64" }]]);
    let ipam = json!({ "type": "host-local", "dataDir": leases, "ranges": ranges });
    let conf = with(bench.conf("1.0.0"), "ipam", ipam);
    let result = bench.call().run("ADD", &conf).result();
    assert_eq!(
        (result["ips"][0]["address"].as_str(), result["ips"][0]["gateway"].as_str()),
        (Some("10.99.0.2/32"), Some("169.254.1.1"))
    );
    assert_eq!(result["ips"][1]["address"], "fd00:99::2/128");
    assert_eq!(agent.calls()[0].1["addresses"], json!(["10.99.0.2", "fd00:99::2"]));
    let lease = leases.join("lab/10.99.0.2");
    assert!(lease.exists());
    let conf = with(conf, "prevResult", result);
    bench.call().run("CHECK", &conf).done();
    bench.call().run("DEL", &conf).done();
    assert!(!lease.exists());
    assert_eq!(bench.traces(), before);
}

#[test]
fn gc_takes_what_is_not_listed_and_of_this_network_only() {
    let bench = Bench::new();
    let pods: Vec<_> = ["keep", "stale", "other"].map(|name| (name, bench.lab.namespace(name))).into();
    let setup = ScriptedAgent::obliging(&bench.socket(), &["10.20.11.5"], MTU);
    let mut ports = Vec::new();
    for (name, pod) in &pods {
        let network = if *name == "other" { "elsewhere" } else { "lab" };
        let conf = with(bench.conf("1.1.0"), "name", json!(network));
        let call = CniCall::new(&bench.host).container(name, pod.path());
        let result = call.run("ADD", &conf).result();
        ports.push(show_port(name, result["interfaces"][0]["name"].as_str().unwrap()));
    }
    drop(setup);
    // The agent also has a port whose interface went with its namespace.
    ports.push(show_port("vanished", "vr0000000000000"));
    let agent = ScriptedAgent::start(&bench.socket(), move |call, _| match call {
        "GET /v1/show/ports" => Script::Answer(200, json!({ "ports": ports })),
        _ => Script::Answer(200, json!({ "existed": true })),
    });
    let call = CniCall::new(&bench.host).env("CNI_PATH", "/nowhere");
    // Without a list nothing is known to be stale.
    call.run("GC", &bench.conf("1.1.0")).done();
    assert!(agent.calls().is_empty());
    let valid = json!([{ "containerID": "keep", "ifname": "eth0" }]);
    call.run("GC", &with(bench.conf("1.1.0"), "cni.dev/valid-attachments", valid)).done();
    let detached: Vec<_> = agent
        .calls()
        .iter()
        .filter_map(|(_, body)| body["key"]["container"].as_str().map(str::to_owned))
        .collect();
    assert_eq!(detached, ["stale", "vanished"]);
    let alive: Vec<_> = pods.iter().map(|(name, pod)| (*name, pod.has_link("eth0"))).collect();
    assert_eq!(alive, [("keep", true), ("stale", false), ("other", true)]);
    assert_eq!(call.run("GC", &bench.conf("1.0.0")).error().code, 1);
}

fn show_port(container: &str, interface: &str) -> Value {
    json!({
        "port": 1, "key": { "container": container, "interface": "eth0" }, "kind": "pod", "hostInterface": interface,
        "vrf": "red", "label": 16, "mac": "02:00:00:00:00:01", "addresses": [], "hostReachable": [], "state": "up",
        "counters": { "rxPackets": 0, "rxBytes": 0, "txPackets": 0, "txBytes": 0, "drops": 0 },
    })
}

#[test]
fn status_is_50_when_the_agent_is_not_ready_and_51_when_it_is_away() {
    let bench = Bench::new();
    let conf = bench.conf("1.1.0");
    let call = CniCall::new(&bench.host);
    let away = call.run("STATUS", &conf).error();
    assert_eq!((away.code, away.version.as_str()), (51, "1.1.0"));
    assert!(away.details.contains("agent.sock"), "{away:?}");
    let agent = bench.obliging();
    call.run("STATUS", &conf).done();
    drop(agent);
    let agent = ScriptedAgent::start(&bench.socket(), |_, _| {
        Script::Answer(200, status(false, &["no underlay address"]))
    });
    let unready = call.run("STATUS", &conf).error();
    assert_eq!((unready.code, unready.details.as_str()), (50, "no underlay address"));
    drop(agent);
    let _silent = ScriptedAgent::start(&bench.socket(), |_, _| Script::Silence);
    assert_eq!(call.run("STATUS", &conf).error().code, 51);
}

#[test]
fn version_lists_all_and_an_unset_command_says_what_this_is() {
    let bench = Bench::new();
    let dummies = CniCall::new(&bench.host).env("CNI_NETNS", "dummy").env("CNI_IFNAME", "dummy");
    let answer = dummies.run("VERSION", &json!({ "cniVersion": "1.0.0" })).result();
    assert_eq!(answer, json!({ "cniVersion": "1.0.0", "supportedVersions": VERSIONS }));
    let about = CniCall::new(&bench.host).run_raw(b"");
    assert_eq!((about.code, about.stdout.as_str()), (Some(0), ""));
    assert!(VERSIONS.iter().all(|version| about.stderr.contains(version)), "{}", about.stderr);
}

#[test]
fn a_repeated_add_after_a_kill_finds_its_own_leftover() {
    let bench = Bench::new();
    let _agent = bench.obliging();
    let before = bench.traces();
    bench.call().run("ADD", &bench.conf("1.0.0")).result();
    // As if the first ADD had been killed with its veth made and the namespace been made anew.
    let other = bench.lab.namespace("anew");
    let again = CniCall::new(&bench.host).container("c1", other.path());
    again.run("ADD", &bench.conf("1.0.0")).result();
    assert!(other.has_link("eth0") && !bench.pod.has_link("eth0"));
    again.run("DEL", &bench.conf("1.0.0")).done();
    assert_eq!(bench.traces(), before);
    assert!(files_under(&bench.spool()).is_empty());
}

#[test]
fn the_very_first_packet_after_add_arrives() {
    let lab = Lab::new();
    let vrf = Vrf::new("open", "target:64512:1").pods("10.20.11.0/24").pods("fd00:20:11::/64").default();
    let node = Node::start(&lab, "gw", 1, &AgentConfig::new(64512).vrf(&vrf));
    let once = Probe { attempts: 1, patience: PATIENCE, ..Probe::default() };
    let first = node.add_pod("first");
    for (number, family) in [0, 1, 2, 3, 4, 5].into_iter().zip([0, 1].into_iter().cycle()) {
        let pod = node.add_pod(&format!("pod{number}"));
        // From the host, as a probe does; from the pod to another; the other family than the last time.
        let to = pod.addresses()[family];
        assert_eq!(once.send(node.namespace(), to), Answer::Reply, "host to pod {number}, {to}");
        let pod = node.add_pod(&format!("peer{number}"));
        let to = first.addresses()[family];
        assert_eq!(once.send(pod.namespace(), to), Answer::Reply, "pod {number} to {to}");
    }
}

#[test]
fn calls_at_the_same_time_do_not_disturb_each_other() {
    let lab = Lab::new();
    let vrf = Vrf::new("open", "target:64512:1").pods("10.20.11.0/24").pods("fd00:20:11::/64").default();
    let node = Node::start(&lab, "gw", 1, &AgentConfig::new(64512).vrf(&vrf));
    let links = || node.namespace().netlink(|netlink| netlink.links()).len();
    let before = links();
    let conf = json!({ "cniVersion": "1.0.0", "name": "lab", "type": "vrouter-cni",
                       "socket": node.socket(), "spool": lab.path("deletes") });
    let pods: Vec<_> =
        (0..12).map(|number| (format!("c{number}"), lab.namespace(&format!("pod{number}")))).collect();
    let all = |verb: &str| -> Vec<_> {
        let run = |(id, pod): &(String, Namespace)| {
            CniCall::new(node.namespace()).container(id, pod.path()).run(verb, &conf)
        };
        std::thread::scope(|scope| {
            let calls: Vec<_> = pods.iter().map(|pod| scope.spawn(move || run(pod))).collect();
            calls.into_iter().map(|call| call.join().unwrap()).collect()
        })
    };
    let results: Vec<_> = all("ADD").iter().map(|answer| answer.result()).collect();
    let mut addresses: Vec<_> =
        results.iter().filter_map(|result| result["ips"][0]["address"].as_str()).collect();
    for address in &addresses {
        let to = address.split('/').next().unwrap().parse().unwrap();
        assert_eq!(Probe::default().send(node.namespace(), to), Answer::Reply, "{address}");
    }
    addresses.sort_unstable();
    addresses.dedup();
    assert_eq!(addresses.len(), pods.len());
    all("DEL").iter().for_each(|answer| answer.done());
    assert_eq!(links(), before);
    assert!(node.ctl_json(&["show", "ports"])["ports"].as_array().unwrap().is_empty());
}

#[test]
fn the_real_agent_stands_by_its_word_over_a_crash() {
    let lab = Lab::new();
    let vrf = Vrf::new("open", "target:64512:1").pods("10.20.11.0/24").pods("fd00:20:11::/64").default();
    let mut node = Node::start(&lab, "gw", 1, &AgentConfig::new(64512).vrf(&vrf));
    let pods = ["kept", "stale"].map(|name| (name, lab.namespace(name)));
    let conf = json!({ "cniVersion": "1.1.0", "name": "lab", "type": "vrouter-cni",
                       "socket": node.socket(), "spool": lab.path("deletes") });
    let call =
        |node: &Node, name: &str, pod: &Namespace| CniCall::new(node.namespace()).container(name, pod.path());
    let added: Vec<_> = pods
        .iter()
        .map(|(name, pod)| {
            with(conf.clone(), "prevResult", call(&node, name, pod).run("ADD", &conf).result())
        })
        .collect();
    node.kill9();
    let (name, pod) = &pods[0];
    assert_eq!(call(&node, name, pod).run("CHECK", &added[0]).error().code, 11);
    assert_eq!(CniCall::new(node.namespace()).run("STATUS", &conf).error().code, 51);
    node.start_agent();
    CniCall::new(node.namespace()).run("STATUS", &conf).done();
    for ((name, pod), conf) in pods.iter().zip(&added) {
        call(&node, name, pod).run("CHECK", conf).done();
    }
    let valid = json!([{ "containerID": "kept", "ifname": "eth0" }]);
    call(&node, name, pod).run("GC", &with(conf.clone(), "cni.dev/valid-attachments", valid)).done();
    call(&node, name, pod).run("CHECK", &added[0]).done();
    let (name, pod) = &pods[1];
    assert!(!pod.has_link("eth0"));
    // The agent knows no such port any more.
    let gone = call(&node, name, pod).run("CHECK", &added[1]).error();
    assert_eq!(gone.code, 101, "{gone:?}");
    assert_eq!(node.ctl_json(&["show", "ports"])["ports"].as_array().unwrap().len(), 1);
}
