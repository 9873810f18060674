//! containerd 1.6 and 2, driven over their CRI sockets as a kubelet drives them: pods come, are reached, and go without a
//! trace, and so do those whose runtime was killed or lost patience.
#![allow(clippy::unwrap_used, reason = "a test may")]

use std::path::PathBuf;
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use vrouter_tests::binaries::binary;
use vrouter_tests::cni_run::{CniCall, files_under};
use vrouter_tests::cri::{Containerd, CriPod, PodSpec, Release, cached_results, page, ping, processes_of};
use vrouter_tests::process::run_ok;
use vrouter_tests::random::Random;
use vrouter_tests::{AgentConfig, Lab, Namespace, Node, PATIENCE, Vrf, sys, wait_for, wait_until};

/// Each test with the containerd that is installed, and with containerd 2 where it can be had.
macro_rules! with_both {
    ($($test:ident: $claim:ident;)*) => {
        $(
            #[test]
            fn $claim() {
                $test(&Release::installed());
            }
        )*

        mod containerd_2 {
            use vrouter_tests::cri::Release;
            $(
                #[test]
                fn $claim() {
                    // Where there is none, it says so.
                    if let Some(release) = Release::second() {
                        super::$test(&release);
                    }
                }
            )*
        }
    };
}

with_both! {
    reference: the_harness_runs_pods_with_the_reference_plugins;
    dual_stack: containerd_runs_dual_stack_pods_that_reach_each_other_and_are_reached_from_the_host;
    tenants: tenants_with_the_same_addresses_never_meet;
    not_admitted: a_pod_that_its_vrf_does_not_admit_fails_with_a_reason_and_leaves_nothing;
    agent_away: pods_go_while_the_agent_is_away_and_are_forgotten_when_it_is_back;
    host_ports: a_host_port_reaches_the_pod_and_goes_with_it;
    many_at_once: thirty_pods_at_once_come_and_go_without_a_trace;
    killed_in_mid_add: a_runtime_killed_in_mid_add_leaves_nothing_that_garbage_collection_does_not_take;
    out_of_patience: a_runtime_that_loses_patience_leaves_nothing;
    churned: pods_in_random_order_and_an_agent_killed_at_random_moments_leave_exactly_those_that_exist;
    broken_list: a_plugin_behind_ours_that_fails_add_and_del_cannot_make_ours_leak;
}

/// One agent that does not get on, as on a machine that swaps. It goes on when this is dropped.
struct Frozen(u32);

impl Frozen {
    fn new(node: &Node) -> Frozen {
        sys::kill(node.pid(), libc::SIGSTOP).unwrap();
        Frozen(node.pid())
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        let _ = sys::kill(self.0, libc::SIGCONT);
    }
}

/// A node whose pods containerd makes. Dropped in this order: containerd still needs the agent to take its pods away.
struct Edge {
    containerd: Containerd,
    network: String,
    node: Node,
    outside: Namespace,
    directory: PathBuf,
    _lab: Lab,
}

/// A pod with a container to look around in.
struct Inside {
    pod: CriPod,
    container: String,
    v4: String,
    v6: String,
}

impl Edge {
    fn new(release: &Release) -> Edge {
        let portmap = json!({ "type": "portmap", "snat": true, "capabilities": { "portMappings": true } });
        // Of which Debian's speaks 1.0.0 at most.
        Edge::with(release, &["0.3.1", "0.4.0", "1.0.0"], &[portmap])
    }

    /// With these plugins behind ours, all of which speak these versions.
    fn with(release: &Release, versions: &[&str], behind: &[Value]) -> Edge {
        let lab = Lab::new();
        let pods = |vrf: Vrf| vrf.pods("10.20.11.0/24").pods("fd00:20:11::/64");
        let city = pods(Vrf::new("smart-city", "target:64512:100")).default();
        let tenant = pods(Vrf::new("tenant-b", "target:64512:200"));
        let barred =
            Vrf::new("barred", "target:64512:300").pods("10.30.0.0/24").line(r#"namespaces = ["vip-*"]"#);
        let config = AgentConfig::new(64512).vrf(&city).vrf(&tenant).vrf(&barred);
        let node = Node::start(&lab, "gw", 1, &config);
        let network = format!("vr{}", std::process::id());
        let plugin = json!({
            "type": "vrouter-cni", "socket": node.socket(), "spool": node.directory().join("state/deletes"),
            "capabilities": { "io.kubernetes.cri.pod-annotations": true, "bandwidth": true, "dns": true },
        });
        let plugins = [&[plugin], behind].concat();
        let conflist = json!({
            "cniVersion": "0.4.0", "cniVersions": versions, "name": network, "plugins": plugins,
        });
        let (directory, outside) = (lab.path("containerd"), lab.site("outside", 9));
        run_ok(node.namespace(), Command::new("sysctl").args(["-q", "-w", "net.ipv4.ip_forward=1"]));
        let plugins = [binary("vrouter-cni")];
        let containerd = Containerd::start(release, node.namespace(), &directory, &conflist, &plugins);
        Edge { containerd, network, node, outside, directory, _lab: lab }
    }

    fn run(&self, spec: &PodSpec) -> Inside {
        let pod = self.containerd.run_pod(spec).expect("RunPodSandbox");
        let addresses = self.containerd.addresses(&pod).expect("PodSandboxStatus");
        let [v4, v6] = addresses.as_slice() else { panic!("not dual stack: {addresses:?}") };
        let container = self.containerd.start_container(&pod).expect("a container");
        Inside { pod, container, v4: v4.clone(), v6: v6.clone() }
    }

    fn exec(&self, inside: &Inside, words: &[&str]) -> Result<String, String> {
        self.containerd.exec(&inside.container, words)
    }

    /// What CRI-O does when it starts: everything that belongs to no pod goes.
    fn collect_garbage(&self) {
        self.collect_garbage_but(&self.containerd.pods().unwrap());
    }

    /// Everything goes but what belongs to these.
    fn collect_garbage_but(&self, pods: &[String]) {
        let valid: Vec<_> = pods.iter().map(|id| json!({ "containerID": id, "ifname": "eth0" })).collect();
        let conf = json!({
            "cniVersion": "1.1.0", "name": self.network, "type": "vrouter-cni", "socket": self.node.socket(),
            "spool": self.node.directory().join("state/deletes"), "cni.dev/valid-attachments": valid,
        });
        CniCall::new(self.node.namespace()).env("CNI_PATH", "/nowhere").run("GC", &conf).done();
    }

    /// The containers of all ports are these pods, in order.
    fn agrees(&self) -> Result<(), String> {
        let containers =
            self.ports().into_iter().map(|port| port["key"]["container"].as_str().unwrap().to_owned());
        let (mut containers, mut pods): (Vec<_>, _) = (containers.collect(), self.containerd.pods()?);
        containers.sort();
        pods.sort();
        if containers == pods { Ok(()) } else { Err(format!("ports of {containers:?}, pods {pods:?}")) }
    }

    fn ports(&self) -> Vec<Value> {
        self.node.ctl_json(&["show", "ports"])["ports"].as_array().cloned().unwrap_or_default()
    }

    /// What pods leave on the node while they run: links, host routes, state files, cached results.
    fn traces(&self) -> (Vec<String>, Value, Value, Vec<PathBuf>, Vec<PathBuf>) {
        let host = self.node.namespace();
        let links = host.netlink(|netlink| netlink.links()).into_iter().map(|link| link.name).collect();
        let routes =
            |family| vrouter_tests::cni_run::ip_json(host, &[family, "route", "show", "dev", "vrouter0"]);
        let state = files_under(&self.node.directory().join("state/ports"));
        (links, routes("-4"), routes("-6"), state, cached_results(&self.network))
    }
}

fn reference(release: &Release) {
    let lab = Lab::new();
    let site = lab.site("node", 1);
    let (directory, network) = (lab.path("containerd"), format!("ref{}", std::process::id()));
    let ipam = json!({ "type": "host-local", "dataDir": lab.path("ipam"), "routes": [{ "dst": "0.0.0.0/0" }],
                       "ranges": [[{ "subnet": "10.88.77.0/24" }]] });
    let conflist =
        json!({ "cniVersion": "0.4.0", "name": network, "plugins": [{ "type": "ptp", "ipam": ipam }] });
    let containerd = Containerd::start(release, &site, &directory, &conflist, &[]);
    containerd.network_ready().unwrap();
    let pod = containerd.run_pod(&PodSpec::new("reference")).unwrap();
    assert_eq!(containerd.addresses(&pod).unwrap(), ["10.88.77.2"]);
    let container = containerd.start_container(&pod).unwrap();
    let shown = containerd.exec(&container, &["/bin/ip", "addr", "show", "dev", "eth0"]).unwrap();
    assert!(shown.contains("10.88.77.2/24"), "{shown}");
    assert!(containerd.exec(&container, &["/bin/cat", "/absent"]).is_err());
    assert_eq!(cached_results(&network).len(), 1);
    containerd.stop(&pod).unwrap();
    containerd.remove(&pod).unwrap();
    assert!(containerd.pods().unwrap().is_empty() && cached_results(&network).is_empty());
}

fn dual_stack(release: &Release) {
    let edge = Edge::new(release);
    let before = edge.traces();
    edge.containerd.network_ready().unwrap();
    let lamp = edge.run(&PodSpec::new("lamp"));
    let named = PodSpec::new("meter").annotation("vrouter.dev/vrf", "smart-city");
    let meter = edge.run(&named);
    for (inside, name) in [(&lamp, "lamp"), (&meter, "meter")] {
        let shown = edge.exec(inside, &["ip", "addr", "show", "dev", "eth0"]).unwrap();
        assert!(
            shown.contains(&format!("{}/32", inside.v4)) && shown.contains(&format!("{}/128", inside.v6))
        );
        assert!(!shown.contains("tentative"), "{shown}");
        let routes = edge.exec(inside, &["ip", "route"]).unwrap();
        assert!(routes.contains("default via 169.254.1.1 dev eth0"), "{routes}");
        let routes = edge.exec(inside, &["ip", "-6", "route"]).unwrap();
        assert!(routes.contains("default via fe80::1 dev eth0"), "{routes}");
        let ports = edge.ports();
        let port = ports.iter().find(|port| port["name"] == name).unwrap();
        assert_eq!((port["vrf"].as_str(), port["namespace"].as_str()), (Some("smart-city"), Some("default")));
        assert_eq!(port["key"]["container"], inside.pod.id.as_str());
        assert_eq!(port["addresses"], json!([inside.v4, inside.v6]));
    }
    edge.exec(&lamp, &["ping", "-c", "3", "-W", "5", &meter.v4]).unwrap();
    edge.exec(&lamp, &["ping", "-c", "3", "-W", "5", &meter.v6]).unwrap();
    // A kubelet's probe comes from the node itself.
    for address in [&lamp.v4, &lamp.v6, &meter.v4, &meter.v6] {
        ping(edge.node.namespace(), address).unwrap_or_else(|said| panic!("{address}: {said}"));
    }
    for inside in [&lamp, &meter] {
        edge.containerd.stop(&inside.pod).unwrap();
        edge.containerd.stop(&inside.pod).unwrap();
        edge.containerd.remove(&inside.pod).unwrap();
    }
    assert!(edge.ports().is_empty());
    assert_eq!(edge.traces(), before);
}

fn tenants(release: &Release) {
    let edge = Edge::new(release);
    let [one, two] = ["one", "two"].map(|name| edge.run(&PodSpec::new(name)));
    let tenant = |name| edge.run(&PodSpec::new(name).annotation("vrouter.dev/vrf", "tenant-b"));
    let other = tenant("other");
    assert_eq!((&other.v4, &other.v6), (&one.v4, &one.v6));
    edge.exec(&one, &["ping", "-c", "3", "-W", "5", &two.v4]).unwrap();
    let cut_off = edge.exec(&other, &["ping", "-c", "2", "-W", "1", &two.v4]).unwrap_err();
    assert!(cut_off.contains("100% packet loss"), "{cut_off}");
    let friend = tenant("friend");
    assert_eq!(friend.v4, two.v4);
    edge.exec(&other, &["ping", "-c", "3", "-W", "5", &friend.v4]).unwrap();
}

fn not_admitted(release: &Release) {
    let edge = Edge::new(release);
    let before = edge.traces();
    let barred = |name| PodSpec::new(name).annotation("vrouter.dev/vrf", "barred");
    let said = edge.containerd.run_pod(&barred("guest")).unwrap_err();
    assert!(said.contains("barred") && said.contains("default"), "{said}");
    assert!(edge.containerd.pods().unwrap().is_empty());
    assert_eq!(edge.traces(), before);
    let pod = edge.containerd.run_pod(&barred("member").kubernetes_namespace("vip-1")).unwrap();
    assert!(edge.containerd.addresses(&pod).unwrap()[0].starts_with("10.30.0."));
}

fn agent_away(release: &Release) {
    let mut edge = Edge::new(release);
    let before = edge.traces();
    let lamp = edge.run(&PodSpec::new("lamp"));
    edge.node.kill9();
    let said = edge.containerd.run_pod(&PodSpec::new("late")).unwrap_err();
    assert!(said.contains("vrouter-agent"), "{said}");
    edge.containerd.stop(&lamp.pod).unwrap();
    edge.containerd.remove(&lamp.pod).unwrap();
    edge.node.start_agent();
    wait_until("the port to be forgotten", PATIENCE, || edge.ports().is_empty());
    wait_until("nothing to be left", PATIENCE, || edge.traces() == before);
    let again = edge.run(&PodSpec::new("again"));
    ping(edge.node.namespace(), &again.v4).unwrap();
}

fn host_ports(release: &Release) {
    let edge = Edge::new(release);
    let before = edge.traces();
    let host_port = (edge.node.address(), 8080).into();
    let web = edge.run(&PodSpec::new("web").host_port(8080, 80));
    edge.exec(&web, &["sh", "-c", "echo served > /index.html; httpd -p 80 -h /"]).unwrap();
    for (from, who) in [(edge.node.namespace(), "the node"), (&edge.outside, "outside")] {
        wait_for(&format!("the page from {who}"), PATIENCE, || match page(from, host_port) {
            Ok(page) if page == "served\n" => Ok(()),
            other => Err(other),
        });
    }
    edge.containerd.stop(&web.pod).unwrap();
    assert!(page(&edge.outside, host_port).is_err());
    edge.containerd.remove(&web.pod).unwrap();
    assert_eq!(edge.traces(), before);
}

fn many_at_once(release: &Release) {
    const PODS: usize = 30;
    let edge = Edge::new(release);
    let before = edge.traces();
    let pods: Vec<CriPod> = std::thread::scope(|scope| {
        let runs: Vec<_> = (0..PODS)
            .map(|number| {
                let containerd = &edge.containerd;
                scope.spawn(move || containerd.run_pod(&PodSpec::new(&format!("pod-{number}"))))
            })
            .collect();
        runs.into_iter().map(|run| run.join().unwrap().unwrap()).collect()
    });
    edge.agrees().unwrap();
    let mut addresses: Vec<_> = pods.iter().flat_map(|pod| edge.containerd.addresses(pod).unwrap()).collect();
    addresses.sort();
    addresses.dedup();
    assert_eq!(addresses.len(), 2 * PODS);
    for address in addresses.iter().step_by(7) {
        ping(edge.node.namespace(), address).unwrap_or_else(|said| panic!("{address}: {said}"));
    }
    std::thread::scope(|scope| {
        for pod in &pods {
            let containerd = &edge.containerd;
            scope.spawn(move || {
                containerd.stop(pod).unwrap();
                containerd.remove(pod).unwrap();
            });
        }
    });
    assert!(edge.ports().is_empty());
    assert_eq!(edge.traces(), before);
}

/// The agent stands still, so ADD is under way: the pod's interface is made and the agent was asked.
fn wait_for_mid_add(edge: &Edge, links: usize) {
    wait_until("an ADD to be under way", PATIENCE, || {
        edge.node.namespace().netlink(|netlink| netlink.links()).len() > links
    });
}

fn killed_in_mid_add(release: &Release) {
    for with_plugin in [false, true] {
        let mut edge = Edge::new(release);
        let (before, links) = (edge.traces(), edge.node.namespace().netlink(|netlink| netlink.links()).len());
        let stays = edge.run(&PodSpec::new("stays"));
        let frozen = Frozen::new(&edge.node);
        let failed = std::thread::scope(|scope| {
            let containerd = &edge.containerd;
            let running = scope.spawn(move || containerd.run_pod(&PodSpec::new("unlucky")));
            wait_for_mid_add(&edge, links + 1);
            for pid in processes_of("containerd", &edge.directory.join("config.toml")) {
                sys::kill(pid, libc::SIGKILL).unwrap();
            }
            if with_plugin {
                for pid in processes_of("vrouter-cni", &edge.directory) {
                    sys::kill(pid, libc::SIGKILL).unwrap();
                }
            }
            running.join().unwrap()
        });
        failed.unwrap_err();
        edge.containerd.kill9();
        drop(frozen);
        edge.containerd.restart();
        // A kubelet removes the sandbox that is not ready, if containerd still knows it, and tries again.
        for id in edge.containerd.pods().unwrap().into_iter().filter(|id| *id != stays.pod.id) {
            let half_made = edge.containerd.pod_of(&id);
            edge.containerd.stop(&half_made).unwrap();
            edge.containerd.remove(&half_made).unwrap();
        }
        let again =
            wait_for("the pod to run", PATIENCE, || edge.containerd.run_pod(&PodSpec::new("unlucky")));
        let address = edge.containerd.addresses(&again).unwrap()[0].clone();
        ping(edge.node.namespace(), &address).unwrap();
        ping(edge.node.namespace(), &stays.v4).unwrap();
        wait_until("the orphaned plugin to end", PATIENCE, || {
            processes_of("vrouter-cni", &edge.directory).is_empty()
        });
        edge.collect_garbage();
        edge.agrees().unwrap_or_else(|why| panic!("plugin killed too: {with_plugin}: {why}"));
        for pod in [&stays.pod, &again] {
            edge.containerd.stop(pod).unwrap();
            edge.containerd.remove(pod).unwrap();
        }
        assert_eq!(edge.traces().0, before.0, "links; plugin killed too: {with_plugin}");
        assert!(edge.ports().is_empty() && edge.traces().3.is_empty());
    }
}

fn out_of_patience(release: &Release) {
    let edge = Edge::new(release);
    let before = edge.traces();
    let frozen = Frozen::new(&edge.node);
    // "Deadline exceeded", "signal: killed" or a stream that ends: each release says it in its own words.
    edge.containerd.run_pod_within(&PodSpec::new("slow"), Duration::from_millis(1500)).unwrap_err();
    drop(frozen);
    // The plugin was killed; containerd calls DEL, or a kubelet's next attempt does.
    let pod =
        wait_for("the kubelet's next attempt", PATIENCE, || edge.containerd.run_pod(&PodSpec::new("slow")));
    wait_for("nothing but the pod to be left", PATIENCE, || edge.agrees());
    edge.containerd.stop(&pod).unwrap();
    edge.containerd.remove(&pod).unwrap();
    wait_for("nothing to be left", PATIENCE, || {
        let now = edge.traces();
        if now == before { Ok(()) } else { Err(Box::new(now)) }
    });
}

/// A kubelet goes on until it is done: another attempt for a pod that did not start, the same again for one that did not end.
fn patiently<T>(what: &str, mut attempt: impl FnMut(usize) -> Result<T, String>) -> T {
    let mut last = String::new();
    for number in 0..100 {
        match attempt(number) {
            Ok(done) => return done,
            Err(said) => last = said,
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    panic!("{what}: {last}");
}

fn remove(containerd: &Containerd, pod: &CriPod) {
    patiently("stop and remove a pod", |_| containerd.stop(pod).and_then(|()| containerd.remove(pod)));
}

fn churned(release: &Release) {
    const PODS: usize = 16;
    const HANDS: usize = 3;
    let mut random = Random::seeded("containerd");
    let mut edge = Edge::new(release);
    let before = edge.traces();
    let Edge { containerd, node, .. } = &mut edge;
    let (containerd, kept): (&Containerd, _) = (containerd, Mutex::new(Vec::new()));
    let (next, hands) = (AtomicUsize::new(0), AtomicUsize::new(HANDS));
    let mut kills = 0;
    std::thread::scope(|scope| {
        for _ in 0..HANDS {
            let mut random = Random::new(random.below(usize::MAX) as u64);
            let (next, hands, kept) = (&next, &hands, &kept);
            scope.spawn(move || {
                while let number @ ..PODS = next.fetch_add(1, Ordering::Relaxed) {
                    let pod = patiently("run a pod", |attempt| {
                        containerd.run_pod(&PodSpec::new(&format!("pod-{number}-{attempt}")))
                    });
                    kept.lock().unwrap().push(pod);
                    if !random.one_in(4) {
                        let mut pods = kept.lock().unwrap();
                        let index = random.below(pods.len());
                        let pod = pods.swap_remove(index);
                        drop(pods);
                        remove(containerd, &pod);
                    }
                }
                hands.fetch_sub(1, Ordering::Relaxed);
            });
        }
        while hands.load(Ordering::Relaxed) > 0 {
            std::thread::sleep(Duration::from_millis(200 + random.below(500) as u64));
            node.kill9();
            node.start_agent();
            kills += 1;
        }
    });
    let kept = kept.into_inner().unwrap();
    println!("{PODS} pods, of which {} stay; the agent was killed {kills} times", kept.len());
    assert!(kills > 0);
    wait_for("ports of exactly the pods that exist", PATIENCE, || edge.agrees());
    for pod in &kept {
        for address in edge.containerd.addresses(pod).unwrap() {
            ping(edge.node.namespace(), &address).unwrap_or_else(|said| panic!("{address}: {said}"));
        }
        remove(&edge.containerd, pod);
    }
    wait_until("nothing to be left", PATIENCE, || edge.traces() == before);
}

#[test]
fn containerd_2_tells_the_kubelet_what_status_says() {
    let Some(release) = Release::second() else { return };
    let mut edge = Edge::with(&release, &["0.3.1", "0.4.0", "1.0.0", "1.1.0"], &[]);
    edge.containerd.network_ready().unwrap();
    let lamp = edge.run(&PodSpec::new("lamp"));
    edge.node.kill9();
    let said = edge.containerd.network_ready().unwrap_err();
    assert!(said.starts_with("NetworkPluginNotReady") && said.contains("agent.sock"), "{said}");
    edge.node.start_agent();
    wait_for("the network to be ready again", PATIENCE, || edge.containerd.network_ready());
    ping(edge.node.namespace(), &lamp.v4).unwrap();
}

/// The runtime then never comes to our DEL (containerd#12130).
fn broken_list(release: &Release) {
    let edge =
        Edge::with(release, &["0.3.1", "0.4.0", "1.0.0", "1.1.0"], &[json!({ "type": "no-such-plugin" })]);
    let before = edge.traces();
    let said = edge.containerd.run_pod(&PodSpec::new("unlucky")).unwrap_err();
    assert!(said.contains("no-such-plugin"), "{said}");
    // Where containerd keeps the sandbox, a kubelet tries to remove it, in vain.
    for id in edge.containerd.pods().unwrap() {
        let _ = edge.containerd.stop(&edge.containerd.pod_of(&id));
    }
    // Its address is not given to another meanwhile, and whoever collects garbage gets it back.
    edge.collect_garbage_but(&[]);
    assert!(edge.ports().is_empty(), "{:?}", edge.ports());
    let now = edge.traces();
    assert_eq!((now.0, now.1, now.2, now.3), (before.0, before.1, before.2, before.3));
}
