//! What `vrouter-cni` does with bad input and in bad company: the runtime is told so in CNI's words, and nothing is left
//! behind: no link, address, route, port, lease or state file.

use std::path::PathBuf;
use std::process::Command;

use serde_json::{Value, json};
use vrouter_tests::cni_bench::{Bench, with};
use vrouter_tests::cni_run::{
    CniAnswer, CniCall, CniError, Script, ScriptedAgent, Traces, attached, files_under,
};
use vrouter_tests::process::run_ok;
use vrouter_tests::{AgentConfig, Lab, Namespace, Node, PATIENCE, Vrf, wait_until};

/// A real agent with two VRFs, and a pod's namespace beside it.
struct Real {
    node: Node,
    pod: Namespace,
    lab: Lab,
}

impl Real {
    fn new(pods: &str) -> Real {
        let lab = Lab::new();
        let open = Vrf::new("open", "target:64512:1").pods(pods).default();
        let closed =
            Vrf::new("closed", "target:64512:2").pods("10.79.0.0/24").line(r#"namespaces = ["city-*"]"#);
        let node = Node::start(&lab, "gw", 1, &AgentConfig::new(64512).vrf(&open).vrf(&closed));
        let pod = lab.namespace("pod");
        Real { node, pod, lab }
    }

    fn call(&self, verb: &str, container: &str, pod: &Namespace, vrf: &str, args: &str) -> CniAnswer {
        let conf = json!({ "cniVersion": "1.0.0", "name": "lab", "type": "vrouter-cni",
                           "socket": self.node.socket(), "spool": self.spool(), "vrf": vrf });
        let call = CniCall::new(self.node.namespace()).container(container, pod.path());
        call.env("CNI_ARGS", args).run(verb, &conf)
    }

    fn spool(&self) -> PathBuf {
        self.node.directory().join("state/deletes")
    }

    fn traces(&self) -> (Traces, usize) {
        let state = self.node.directory().join("state/ports");
        let ports = self.node.ctl_json(&["show", "ports"])["ports"].as_array().map_or(0, Vec::len);
        (Traces::of(self.node.namespace(), &self.pod, &[&state, &self.spool()]), ports)
    }
}

#[test]
fn what_is_no_configuration_is_refused_before_anything_is_done() {
    let bench = Bench::new();
    let agent = bench.obliging();
    let before = bench.traces();
    let cases: [(&[u8], u64); 9] = [
        (b"", 6),
        (b"{\"cniVersion\":\"1.0.0\",\"name\":", 6),
        (b"[1,2]", 6),
        (b"\xff\xfe{}", 6),
        (b"{\"cniVersion\":1,\"name\":\"n\"}", 6),
        (b"{\"name\":\"n\"}", 1),
        (b"{\"cniVersion\":\"99.0.0\",\"name\":\"n\"}", 1),
        (b"{\"cniVersion\":\"1.0.0\"}", 7),
        (b"{\"cniVersion\":\"1.0.0\",\"name\":\"n\",\"mtu\":\"big\"}", 7),
    ];
    for verb in ["ADD", "DEL", "CHECK"] {
        for (stdin, code) in cases {
            let error = bench.call().env("CNI_COMMAND", verb).run_raw(stdin).error();
            assert_eq!(error.code, code, "{verb} {:?}: {error:?}", String::from_utf8_lossy(stdin));
            assert!(!error.msg.is_empty());
        }
    }
    let unknown = bench.call().run("ADD", &with(bench.conf("1.0.0"), "cniVersion", json!("99.0.0"))).error();
    assert!(unknown.details.contains("99.0.0") && unknown.details.contains("0.4.0"), "{unknown:?}");
    assert!(agent.calls().is_empty());
    assert_eq!(bench.traces(), before);
}

#[test]
fn all_missing_variables_are_named_at_once() {
    let bench = Bench::new();
    let agent = bench.obliging();
    let none = CniCall::new(&bench.host);
    let names = |error: CniError| (error.code, error.msg);
    let wanted = |list: &str| (4, format!("required env variables [{list}] missing"));
    let conf = bench.conf("1.0.0");
    assert_eq!(names(none.run("ADD", &conf).error()), wanted("CNI_CONTAINERID,CNI_NETNS,CNI_IFNAME"));
    assert_eq!(names(none.run("CHECK", &conf).error()), wanted("CNI_CONTAINERID,CNI_NETNS,CNI_IFNAME"));
    assert_eq!(names(none.run("DEL", &conf).error()), wanted("CNI_CONTAINERID,CNI_IFNAME"));
    assert_eq!(
        names(none.run("GC", &with(conf.clone(), "cniVersion", json!("1.1.0"))).error()),
        wanted("CNI_PATH")
    );
    let one = bench.call().without("CNI_NETNS");
    assert_eq!(names(one.run("ADD", &conf).error()), wanted("CNI_NETNS"));
    assert_eq!(bench.call().run("REMOVE", &conf).error().code, 4);
    for (name, value) in
        [("CNI_CONTAINERID", "../c1"), ("CNI_IFNAME", "a/b"), ("CNI_IFNAME", "sixteencharacter")]
    {
        let error = bench.call().env(name, value).run("ADD", &conf).error();
        assert_eq!((error.code, error.msg.contains(name)), (4, true), "{error:?}");
    }
    assert!(agent.calls().is_empty());
}

#[test]
fn a_namespace_that_is_absent_or_none_or_our_own_is_code_8() {
    let bench = Bench::new();
    let agent = bench.obliging();
    let before = bench.traces();
    let file = bench.lab.path("file");
    std::fs::write(&file, "no namespace").unwrap();
    for path in
        ["/run/netns/vr-absent", file.to_str().unwrap(), "/dev/null", bench.host.path().to_str().unwrap()]
    {
        let error = bench.call().env("CNI_NETNS", path).run("ADD", &bench.conf("1.0.0")).error();
        assert_eq!((error.code, error.msg.contains(path)), (8, true), "{path}: {error:?}");
    }
    assert!(agent.calls().is_empty());
    assert_eq!(bench.traces(), before);
}

#[test]
fn a_taken_interface_name_is_refused_and_its_owner_undisturbed() {
    let bench = Bench::new();
    let agent = bench.obliging();
    bench.lab.namespace("far");
    run_ok(
        &bench.pod,
        Command::new("ip").args(["link", "add", "eth0", "type", "veth", "peer", "name", "eth1"]),
    );
    run_ok(&bench.pod, Command::new("ip").args(["addr", "add", "192.0.2.7/24", "dev", "eth0"]));
    let before = bench.traces();
    let error = bench.call().run("ADD", &bench.conf("1.0.0")).error();
    assert_eq!((error.code, error.msg.contains("eth0")), (102, true), "{error:?}");
    assert!(agent.calls().is_empty());
    assert_eq!(bench.traces(), before);
    // The DEL that follows a failed ADD must not take the other's interface either.
    bench.call().run("DEL", &bench.conf("1.0.0")).done();
    assert_eq!(bench.traces(), before);
}

#[test]
fn without_an_agent_add_is_code_11_and_nothing_is_left() {
    let bench = Bench::new();
    let before = bench.traces();
    let error = bench.call().run("ADD", &bench.conf("1.0.0")).error();
    assert_eq!((error.code, error.version.as_str()), (11, "1.0.0"));
    let socket = bench.socket().display().to_string();
    assert!(error.msg.contains(&socket) && error.details.contains("vrouter-agent"), "{error:?}");
    // A socket file that an agent left when it was killed is the same.
    drop(std::os::unix::net::UnixListener::bind(bench.socket()).unwrap());
    assert_eq!(bench.call().run("ADD", &bench.conf("1.0.0")).error().code, 11);
    assert_eq!(bench.traces(), before);
}

#[test]
fn an_agent_that_answers_nonsense_or_breaks_off_leaves_no_interface() {
    let bench = Bench::new();
    let before = bench.traces();
    let head = b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{\"port\":".to_vec();
    let octets = |octets: Vec<u8>| move || Script::Octets(octets.clone());
    type Answer = Box<dyn Fn() -> Script + Send>;
    let cases: [(&str, u64, Answer); 6] = [
        ("closes at once", 11, Box::new(octets(Vec::new()))),
        ("closes in mid-reply", 11, Box::new(octets(head))),
        ("speaks something else", 999, Box::new(octets(b"SSH-2.0-OpenSSH\r\n".to_vec()))),
        (
            "lies about its length",
            999,
            Box::new(octets(b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n".to_vec())),
        ),
        ("gives no address", 999, Box::new(|| Script::Answer(200, attached(&[], 1468)))),
        (
            "gives IPv6 on too small an MTU",
            999,
            Box::new(|| Script::Answer(200, attached(&["fd00::5"], 1000))),
        ),
    ];
    for (what, code, answer) in cases {
        let agent = ScriptedAgent::start(&bench.socket(), move |call, _| match call {
            "POST /v1/ports/detach" => Script::Answer(200, json!({ "existed": true })),
            _ => answer(),
        });
        let error = bench.call().run("ADD", &bench.conf("1.0.0")).error();
        assert_eq!(error.code, code, "{what}: {error:?}");
        assert!(agent.count("POST /v1/ports/detach") >= 1, "{what}: the port may exist and must be detached");
        assert_eq!(bench.traces(), before, "{what}");
    }
}

#[test]
fn an_agent_that_stays_silent_ends_in_code_11_and_a_spooled_removal() {
    let bench = Bench::new();
    let before = bench.traces();
    let _agent = ScriptedAgent::start(&bench.socket(), |_, _| Script::Silence);
    let error = bench.call().run("ADD", &bench.conf("1.0.0")).error();
    assert_eq!(error.code, 11, "{error:?}");
    let spooled = files_under(&bench.spool());
    assert_eq!(spooled.len(), 1);
    let left: Value = serde_json::from_str(&std::fs::read_to_string(&spooled[0]).unwrap()).unwrap();
    assert_eq!((left["container"].as_str(), left["interface"].as_str()), (Some("c1"), Some("eth0")));
    std::fs::remove_file(&spooled[0]).unwrap();
    assert_eq!(bench.traces(), before);
}

#[test]
fn a_failure_in_the_pod_takes_the_port_back() {
    let bench = Bench::new();
    let before = bench.traces();
    // The kernel refuses a multicast address on an interface.
    let agent = ScriptedAgent::start(&bench.socket(), |call, _| match call {
        "POST /v1/ports/detach" => Script::Answer(200, json!({ "existed": true })),
        _ => Script::Answer(200, attached(&["10.0.0.5", "ff02::1"], 1468)),
    });
    let error = bench.call().run("ADD", &bench.conf("1.0.0")).error();
    assert_eq!((error.code, error.msg.contains("ff02::1")), (999, true), "{error:?}");
    assert_eq!(agent.count("POST /v1/ports/detach"), 1);
    assert_eq!(bench.traces(), before);
}

#[test]
fn a_lease_is_given_back_when_the_agent_refuses() {
    let bench = Bench::new();
    let agent = ScriptedAgent::start(&bench.socket(), |_, _| {
        Script::Answer(409, json!({ "kind": "conflict", "message": "10.99.0.2 is port 7's" }))
    });
    let ipam = json!({ "type": "host-local", "dataDir": bench.lab.path("leases"), "ranges": [[{ "subnet": "10.99.0.0/24" }]] });
    let error = bench.call().run("ADD", &with(bench.conf("1.0.0"), "ipam", ipam)).error();
    assert_eq!((error.code, error.msg.as_str()), (102, "10.99.0.2 is port 7's"));
    let leases = files_under(&bench.lab.path("leases"));
    assert!(!leases.iter().any(|path| path.ends_with("10.99.0.2")), "{leases:?}");
    // After a clear no there is nothing to detach.
    assert_eq!(agent.count("POST /v1/ports/detach"), 0);
    assert!(!bench.pod.has_link("eth0"));
}

#[test]
fn an_ipam_plugin_that_is_absent_or_refuses_fails_the_add() {
    let bench = Bench::new();
    let agent = bench.obliging();
    let before = bench.traces();
    let absent = bench
        .call()
        .run("ADD", &with(bench.conf("1.0.0"), "ipam", json!({ "type": "no-such-ipam" })))
        .error();
    assert_eq!((absent.code, absent.msg.contains("no-such-ipam")), (105, true), "{absent:?}");
    let refusing = json!({ "type": "host-local", "ranges": [[{ "subnet": "nonsense" }]] });
    let refused = bench.call().run("ADD", &with(bench.conf("1.0.0"), "ipam", refusing)).error();
    assert!(refused.msg.starts_with("host-local: "), "{refused:?}");
    assert_eq!(agent.count("POST /v1/ports/attach"), 0);
    assert_eq!(bench.traces(), before);
}

#[test]
fn an_exhausted_pool_is_said_and_costs_nothing() {
    let real = Real::new("10.78.0.0/29");
    let mut pods = Vec::new();
    let refused = (0..9).find_map(|number| {
        let container = format!("c{number}");
        let pod = real.lab.namespace(&container);
        let before = real.traces();
        let answer = real.call("ADD", &container, &pod, "open", "");
        if answer.code == Some(0) {
            pods.push((container, pod));
            return None;
        }
        assert_eq!(real.traces(), before);
        assert!(!pod.has_link("eth0"));
        Some(answer.error())
    });
    let refused = refused.expect("eight addresses for nine pods");
    assert_eq!((refused.code, refused.msg.contains("10.78.0.0/29")), (103, true), "{refused:?}");
    assert!(pods.len() >= 4, "{} pods in a /29", pods.len());
    let (container, pod) = &pods[0];
    real.call("DEL", container, pod, "open", "").done();
    real.call("ADD", "late", &real.pod, "open", "").result();
}

#[test]
fn a_vrf_that_does_not_admit_the_pod_or_does_not_exist_is_refused() {
    let real = Real::new("10.78.0.0/24");
    let before = real.traces();
    let args = |namespace: &str| format!("IgnoreUnknown=1;K8S_POD_NAMESPACE={namespace};K8S_POD_NAME=p");
    let barred = real.call("ADD", "c1", &real.pod, "closed", &args("default")).error();
    assert_eq!((barred.code, barred.msg.contains("closed")), (100, true), "{barred:?}");
    assert!(barred.msg.contains("default"), "{barred:?}");
    let absent = real.call("ADD", "c1", &real.pod, "no-such-vrf", &args("default")).error();
    assert_eq!((absent.code, absent.msg.contains("no-such-vrf")), (101, true), "{absent:?}");
    assert_eq!(real.traces(), before);
    let admitted = real.call("ADD", "c1", &real.pod, "closed", &args("city-1")).result();
    assert!(admitted["ips"][0]["address"].as_str().unwrap().starts_with("10.79.0."));
}

#[test]
fn a_del_without_an_agent_is_done_when_the_agent_starts() {
    let mut real = Real::new("10.78.0.0/24");
    let before = real.traces();
    let result = real.call("ADD", "c1", &real.pod, "open", "").result();
    let host = result["interfaces"][0]["name"].as_str().unwrap().to_owned();
    assert_eq!(real.traces().1, 1);
    real.node.kill9();
    for _ in 0..2 {
        real.call("DEL", "c1", &real.pod, "open", "").done();
    }
    assert!(!real.node.namespace().has_link(&host) && !real.pod.has_link("eth0"));
    assert_eq!(files_under(&real.spool()).len(), 1);
    real.node.start_agent();
    wait_until("the spooled removal to be done", PATIENCE, || real.traces().1 == 0);
    wait_until("the spool to be empty", PATIENCE, || files_under(&real.spool()).is_empty());
    assert_eq!(real.traces(), before);
    // The address is free again, and the same container may come back.
    real.call("ADD", "c1", &real.pod, "open", "").result();
}
