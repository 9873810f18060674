//! An agent that ends and comes back under load: restarted, upgraded to another build, killed. Its sockets stay with a
//! service manager meanwhile, packets queue in them, and neighbors keep its routes.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::Value;
use vrouter_tests::binaries::binary;
use vrouter_tests::fixture::{ASN, city, gateway, host_prefix, wait_routes};
use vrouter_tests::lab::underlay_v4;
use vrouter_tests::paced::{Paced, PacedReport};
use vrouter_tests::process::Daemon;
use vrouter_tests::{
    AgentConfig, Answer, Frr, Lab, Namespace, Node, PATIENCE, Pod, Probe, transfer, wait_until,
};

/// Datagrams per second of each stream: what two busy cores carry without loss in a build without optimisation.
const PACE: u32 = 1000;
/// Packets that a worker may hold in its hands when it is killed: one batch.
const BATCH: u64 = 64;

/// Two gateways behind a reflector that keeps the routes of who restarts; the first has a service manager.
struct Scene {
    one: Node,
    two: Node,
    frr: Frr,
    near: Pod,
    beside: Pod,
    far: Pod,
    watch: Watch,
    _lab: Lab,
}

impl Scene {
    fn set(watchdog: Option<Duration>) -> Scene {
        let lab = Lab::new();
        let clients = [11, 12].map(|host| underlay_v4(host).into());
        let lines = " bgp graceful-restart\n bgp graceful-restart restart-time 60\n bgp graceful-restart notification";
        let frr = Frr::start_with(&lab, "frr", 1, ASN, &clients, lines);
        let mut one = Node::prepare(&lab, "gw-11", 11, &gateway(11, &[1]));
        one.supervise(watchdog);
        one.start_agent();
        let two = Node::start(&lab, "gw-12", 12, &gateway(12, &[1]));
        one.wait_established(frr.address());
        two.wait_established(frr.address());
        let (near, beside, far) = (one.add_pod("near"), one.add_pod("beside"), two.add_pod("far"));
        wait_routes(&one, &far.addresses());
        wait_routes(&two, &near.addresses());
        wait_routes(&two, &beside.addresses());
        let watch = Watch::begin(&lab, &two);
        Scene { one, two, frr, near, beside, far, watch, _lab: lab }
    }

    /// Streams both ways between the nodes, within the node, and from the host.
    fn streams(&self) -> Vec<Paced> {
        let (near, beside, far) = (self.near.namespace(), self.beside.namespace(), self.far.namespace());
        let stream = |name, from: &Namespace, to: &Pod, address| {
            Paced::begin(name, from, to.namespace(), address, PACE)
        };
        vec![
            stream("to the other node", near, &self.far, self.far.v4().into()),
            stream("from the other node", far, &self.near, self.near.v6().into()),
            stream("within the node", beside, &self.near, self.near.v4().into()),
            stream("from the host", self.one.namespace(), &self.near, self.near.v4().into()),
        ]
    }

    /// What is lost of all streams while something happens, each with its longest silence, printed.
    fn under_load(&mut self, what: &str, happen: impl FnOnce(&mut Scene)) -> Vec<PacedReport> {
        let streams = self.streams();
        // Whatever is warmed up by then is not what is measured.
        wait_until("the streams to flow", PATIENCE, || streams.iter().all(|it| it.sent() > 300));
        let pings = Pings::begin(&[
            (self.near.namespace(), self.far.v6().into()),
            (self.near.namespace(), self.beside.v4().into()),
            (self.one.namespace(), self.near.v6().into()),
        ]);
        happen(self);
        let sent: Vec<u64> = streams.iter().map(Paced::sent).collect();
        wait_until("the streams to go on", PATIENCE, || {
            streams.iter().zip(&sent).all(|(stream, before)| stream.sent() > before + 300)
        });
        pings.end();
        let reports: Vec<PacedReport> = streams.into_iter().map(Paced::end).collect();
        for report in &reports {
            println!(
                "{what}: {:20} {} of {} lost, longest silence {:.1} ms",
                report.name,
                report.lost(),
                report.sent,
                report.longest_gap.as_secs_f64() * 1000.0
            );
            assert_eq!((report.doubled, report.overtaken), (0, 0), "{report:?}");
        }
        reports
    }

    /// Nobody has heard of a route that went, and the reflector has all of them.
    fn assert_nothing_withdrawn(&self) {
        self.one.wait_established(self.frr.address());
        wait_routes(&self.two, &self.near.addresses());
        let gone = self.watch.gone();
        assert!(gone.is_empty(), "withdrawn at the other node: {gone:#?}");
    }

    fn start(&self) -> Value {
        self.one.ctl_json(&["status"])["run"]["start"].clone()
    }
}

/// Every route that another client of the reflector loses.
struct Watch {
    daemon: Daemon,
}

impl Watch {
    fn begin(lab: &Lab, node: &Node) -> Watch {
        let mut command = Command::new(binary("vrouterctl"));
        command.args(["--json", "monitor", "bgp", "--socket"]).arg(node.socket());
        let daemon = Daemon::start(node.namespace(), "monitor", command, &lab.path("monitor.log"));
        wait_until("the monitor to watch", PATIENCE, || daemon.log().contains("session"));
        Watch { daemon }
    }

    fn gone(&self) -> Vec<String> {
        let log = self.daemon.log();
        let events = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let is_gone = |event: &Value| event["event"] == "route" && event["paths"] == serde_json::json!([]);
        events.filter(is_gone).map(|event| event["prefix"].to_string()).collect()
    }
}

/// Pings that must all be answered, however late.
struct Pings {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<(u32, u32)>>,
}

impl Pings {
    fn begin(pairs: &[(&Namespace, IpAddr)]) -> Pings {
        let stop = Arc::new(AtomicBool::new(false));
        let ping = |(from, to): &(&Namespace, IpAddr)| {
            let (from, to, stop) = ((*from).clone(), *to, Arc::clone(&stop));
            std::thread::spawn(move || {
                let once = Probe { attempts: 1, patience: Duration::from_secs(3), ..Probe::default() };
                let (mut asked, mut answered) = (0, 0);
                while !stop.load(Ordering::Relaxed) {
                    asked += 1;
                    answered += u32::from(once.send(&from, to) == Answer::Reply);
                    std::thread::sleep(Duration::from_millis(10));
                }
                (asked, answered)
            })
        };
        Pings { threads: pairs.iter().map(ping).collect(), stop }
    }

    fn end(mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let (asked, answered) = thread.join().unwrap();
            assert!(asked > 10, "asked {asked} times only");
            assert_eq!(answered, asked, "pings were lost");
        }
    }
}

impl Drop for Pings {
    /// A failed test must not leave a thread in a namespace that is about to go.
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn lost(reports: &[PacedReport]) -> u64 {
    reports.iter().map(PacedReport::lost).sum()
}

/// The agent as another build would be: its version is another.
fn another_build(lab: &std::path::Path) -> PathBuf {
    let mut octets = std::fs::read(binary("vrouter-agent")).unwrap();
    let (old, new) = (b"0.1.0", b"0.9.9");
    let places: Vec<usize> = memchr_all(&octets, old);
    assert!(!places.is_empty(), "the program holds its version");
    for at in places {
        octets[at..at + new.len()].copy_from_slice(new);
    }
    let path = lab.join("vrouter-agent-0.9.9");
    std::fs::write(&path, octets).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(&path, mode).unwrap();
    path
}

fn memchr_all(octets: &[u8], wanted: &[u8]) -> Vec<usize> {
    let windows = octets.windows(wanted.len()).enumerate();
    windows.filter(|(_, window)| *window == wanted).map(|(at, _)| at).collect()
}

#[test]
fn a_restart_under_load_loses_no_packet_and_withdraws_no_route() {
    let mut scene = Scene::set(None);
    let still = scene.under_load("undisturbed", |_| {});
    assert_eq!(lost(&still), 0, "this machine does not carry the load: {still:#?}");
    let before = scene.one.supervisor().held();
    for name in ["api", "gre", "tun", "udp-6635-0", "udp-51234-0", "entropy-0"] {
        assert!(before.iter().any(|held| held == name), "{name} is not held: {before:?}");
    }
    assert_eq!(before.iter().filter(|name| name.starts_with("port-")).count(), 2, "{before:?}");
    let mut added = None;
    let reports = scene.under_load("restart", |scene| {
        let request = scene.one.pod("mid");
        let adding = std::thread::spawn(move || request.add());
        scene.one.restart_agent();
        added = Some(adding.join().expect("CNI ADD in the middle of a restart succeeds"));
    });
    assert_eq!(lost(&reports), 0, "{reports:#?}");
    scene.assert_nothing_withdrawn();
    let added = added.unwrap();
    added.check().unwrap();
    assert_eq!(Probe::default().send(added.namespace(), scene.far.v4().into()), Answer::Reply);
    let start = scene.start();
    assert!(start["adoptedSockets"].as_u64() >= Some(21), "{start}");
    println!("restart: the agent says that its workers paused for {} us", start["pauseUsec"]);
    drop(added);
}

#[test]
fn an_upgrade_under_load_loses_no_packet_and_withdraws_no_route() {
    let mut scene = Scene::set(None);
    let upgraded = another_build(scene.one.directory());
    let state = scene.one.directory().join("state");
    let reports = scene.under_load("upgrade", |scene| {
        scene.one.set_program(&upgraded);
        scene.one.restart_agent();
    });
    assert_eq!(lost(&reports), 0, "{reports:#?}");
    scene.assert_nothing_withdrawn();
    let status = scene.one.ctl_json(&["status"]);
    assert_eq!(status["version"], "0.9.9");
    assert_eq!(status["run"]["start"]["previousVersion"], "0.1.0");
    // And back, to one that finds less on disk than it writes itself, as after the state of an older build.
    let reports = scene.under_load("downgrade", |scene| {
        scene.one.set_program(&binary("vrouter-agent"));
        scene.one.restart_agent();
    });
    assert_eq!(lost(&reports), 0, "{reports:#?}");
    scene.assert_nothing_withdrawn();
    assert!(!state.join("stopped.json").exists(), "what the last run noted is read once");
}

#[test]
fn a_killed_agent_under_load_loses_what_its_worker_held_at_most_and_withdraws_no_route() {
    let mut scene = Scene::set(None);
    // What has been learned is kept within a second, long before it is on disk.
    wait_until("the routes to be kept", PATIENCE, || {
        let text = scene.one.supervisor().read("routes");
        text.is_some_and(|text| scene.far.addresses().iter().all(|at| text.contains(&host_prefix(*at))))
    });
    let reports = scene.under_load("kill -9", |scene| {
        scene.one.kill9();
        scene.one.start_agent();
    });
    assert!(lost(&reports) <= BATCH, "{reports:#?}");
    scene.assert_nothing_withdrawn();
    let start = scene.start();
    assert!(start["adoptedSockets"].as_u64() >= Some(20), "{start}");
    assert!(start["pauseUsec"].is_null(), "nobody could note when it ended: {start}");
}

#[test]
fn a_connection_with_bulk_lives_through_a_restart_and_an_upgrade() {
    let mut scene = Scene::set(None);
    let (from, to) = (scene.far.namespace().clone(), scene.near.namespace().clone());
    let address = SocketAddr::new(scene.near.v4().into(), 9000);
    let ended = Arc::new(AtomicBool::new(false));
    let is_over = Arc::clone(&ended);
    let octets = 256 << 20;
    let bulk = std::thread::spawn(move || {
        let mut arrived = Vec::new();
        while !is_over.load(Ordering::Relaxed) {
            arrived.push(transfer(&from, &to, address, octets));
        }
        arrived
    });
    std::thread::sleep(Duration::from_millis(300));
    scene.one.restart_agent();
    std::thread::sleep(Duration::from_millis(300));
    let upgraded = another_build(scene.one.directory());
    scene.one.set_program(&upgraded);
    scene.one.restart_agent();
    std::thread::sleep(Duration::from_millis(300));
    ended.store(true, Ordering::Relaxed);
    let arrived = bulk.join().unwrap();
    let (count, digest) = vrouter_tests::bulk::expected(octets);
    for result in arrived {
        let arrived = result.expect("the connection lives");
        assert_eq!((arrived.octets, arrived.digest), (count, digest));
    }
    scene.assert_nothing_withdrawn();
}

#[test]
fn an_answer_to_the_host_finds_its_way_after_a_restart_where_workloads_may_begin_nothing() {
    let lab = Lab::new();
    let closed = AgentConfig::new(ASN).vrf(&city(11).line("host = \"closed\""));
    let mut one = Node::prepare(&lab, "gw-11", 11, &closed);
    one.supervise(None);
    one.start_agent();
    let pod = one.add_pod("near");
    let server = pod.namespace().run(|| UdpSocket::bind((pod.v4(), 5000))).unwrap();
    let client = one.namespace().run(|| UdpSocket::bind("0.0.0.0:0")).unwrap();
    for socket in [&server, &client] {
        socket.set_read_timeout(Some(Duration::from_secs(3))).unwrap();
    }
    client.send_to(b"question", (pod.v4(), 5000)).unwrap();
    let mut buffer = [0; 32];
    let (length, asker) = server.recv_from(&mut buffer).unwrap();
    assert_eq!(&buffer[..length], b"question");
    one.restart_agent();
    server.send_to(b"answer", asker).unwrap();
    let (length, _) = client.recv_from(&mut buffer).expect("the answer comes, though the agent is another");
    assert_eq!(&buffer[..length], b"answer");
    // What the host has not asked for stays outside, before a restart and after.
    let stranger = one.namespace().run(|| UdpSocket::bind("0.0.0.0:0")).unwrap();
    stranger.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    server.send_to(b"hello", (asker.ip(), stranger.local_addr().unwrap().port())).unwrap();
    assert!(stranger.recv_from(&mut buffer).is_err());
    assert!(!one.supervisor().held().iter().any(|name| name == "flows"), "they are taken over once");
}

#[test]
fn the_watchdog_hears_of_the_agent_twice_as_often_as_it_must() {
    let scene = Scene::set(Some(Duration::from_millis(1000)));
    let (begin, before) = (Instant::now(), scene.one.supervisor().watchdogs().len());
    wait_until("some beats", PATIENCE, || scene.one.supervisor().watchdogs().len() >= before + 4);
    assert!(begin.elapsed() >= Duration::from_millis(1000), "not more often than that either");
    let status = || scene.one.supervisor().last("STATUS").unwrap_or_default();
    scene.one.ctl(&["reload"]);
    assert_eq!(scene.one.supervisor().last("RELOADING").as_deref(), Some("1"));
    assert!(scene.one.supervisor().last("MONOTONIC_USEC").is_some(), "or systemd would end the agent");
    scene.one.supervisor().wait_ready();
    wait_until("the status to be told", PATIENCE, || status().starts_with("healthy: 2 ports, 1 of 1 BGP"));
}

#[test]
fn what_is_planted_in_the_store_is_not_served() {
    let mut scene = Scene::set(None);
    scene.one.kill9();
    let supervisor = scene.one.supervisor();
    let port = supervisor.held().into_iter().find(|name| name.starts_with("port-")).unwrap();
    let other = std::fs::File::open("/dev/null").unwrap();
    for name in [port.as_str(), "tun-2", "port-77-eth0", "no name at all"] {
        supervisor.plant(name, other.try_clone().unwrap().into());
    }
    scene.one.start_agent();
    wait_routes(&scene.one, &scene.far.addresses());
    let held = scene.one.supervisor().held();
    assert!(!held.iter().any(|name| name.contains("77") || name.contains("no name") || name == "tun-2"));
    for address in scene.far.addresses() {
        assert_eq!(Probe::default().send(scene.near.namespace(), address), Answer::Reply, "to {address}");
        assert_eq!(Probe::default().send(scene.beside.namespace(), address), Answer::Reply, "to {address}");
    }
}
