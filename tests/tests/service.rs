//! The agent as a service: with the rights that its unit gives it, stopped and restarted as systemd does it, started
//! with hundreds of ports.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::Read;
use std::net::{IpAddr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use agent_api::{AttachPort, Client, PortKey, PortKind};
use vrouter_tests::binaries::binary;
use vrouter_tests::fixture::{gateway, pair, wait_routes};
use vrouter_tests::process::{command, run, run_ok};
use vrouter_tests::sys::hold::hold;
use vrouter_tests::{Answer, Lab, Node, PATIENCE, Probe, wait_until};
use vrouter_types::MacAddr;

/// Ports of the node that is started again.
const PORTS: u8 = 250;

fn script(path: &Path, text: &str) -> PathBuf {
    std::fs::write(path, format!("#!/bin/sh\n{text}\n")).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
    path.to_owned()
}

fn text(output: &Output) -> String {
    [&output.stdout[..], &output.stderr].map(String::from_utf8_lossy).concat()
}

#[test]
fn two_capabilities_are_all_that_the_agent_needs() {
    let lab = Lab::new();
    let mut one = Node::prepare(&lab, "gw-11", 11, &gateway(11, &[12]));
    let agent = binary("vrouter-agent");
    let only = "-all,+net_admin,+net_raw";
    let run = format!(
        "exec setpriv --bounding-set={only} --inh-caps=-all --no-new-privs {} \"$@\"",
        agent.display()
    );
    one.set_program(&script(&lab.path("confined"), &run));
    // Its neighbor connects to port 179, which takes a third capability or this.
    one.namespace().set_sysctl("net/ipv4/ip_unprivileged_port_start", "179");
    one.supervise(None);
    one.start_agent();
    let status = std::fs::read_to_string(format!("/proc/{}/status", one.pid())).unwrap();
    // CAP_NET_ADMIN is 12 and CAP_NET_RAW 13 (capability.h).
    assert!(status.contains("\nCapEff:\t0000000000003000\n"), "{status}");
    let two = Node::start(&lab, "gw-12", 12, &gateway(12, &[11]));
    one.wait_established(two.address());
    let (near, beside, far) = (one.add_pod("near"), one.add_pod("beside"), two.add_pod("far"));
    let works = |one: &Node| {
        wait_routes(one, &far.addresses());
        wait_routes(&two, &near.addresses());
        for to in far.addresses().iter().chain(&beside.addresses()) {
            assert_eq!(Probe::default().send(near.namespace(), *to), Answer::Reply, "to {to}");
        }
        for to in near.addresses() {
            assert_eq!(Probe::default().send(one.namespace(), to), Answer::Reply, "host to {to}");
        }
    };
    works(&one);
    one.restart_agent();
    works(&one);
    beside.delete();
    let complaints: Vec<String> =
        one.log().lines().filter(|line| line.contains(" WARN ")).map(str::to_owned).collect();
    let of_rights = |line: &&String| line.contains("ermi") || line.contains("cannot");
    assert_eq!(complaints.iter().find(of_rights), None, "{complaints:#?}");
}

#[test]
fn without_the_right_to_port_179_the_agent_says_what_would_give_it() {
    let lab = Lab::new();
    let one = Node::prepare(&lab, "gw-11", 11, &gateway(11, &[12]));
    one.namespace().set_sysctl("net/ipv4/ip_unprivileged_port_start", "1024");
    let mut agent = command("setpriv", &["--bounding-set=-all,+net_admin,+net_raw", "--inh-caps=-all"]);
    agent.arg(binary("vrouter-agent")).arg("--config").arg(one.config_path());
    let output = run(one.namespace(), &mut agent);
    assert_eq!(output.status.code(), Some(5), "{}", text(&output));
    for remedy in ["CAP_NET_BIND_SERVICE", "net.ipv4.ip_unprivileged_port_start=179"] {
        assert!(text(&output).contains(remedy), "{}", text(&output));
    }
}

#[test]
fn systemds_restart_leaves_the_routes_with_the_neighbors_and_its_stop_takes_them_back() {
    let lab = Lab::new();
    let (mut one, two) = pair(&lab);
    let near = one.add_pod("near");
    wait_routes(&two, &near.addresses());
    let prefix = format!("{}/32", near.v4());
    // What systemd would answer, in the words of its list-jobs.
    let hand_over = |one: &Node, job: &str| {
        script(&lab.path("systemctl"), &format!("echo '  77 vrouter-agent.service {job} running'"));
        let path = format!("{}:{}", lab.directory().display(), std::env::var("PATH").unwrap());
        let (pid, unit) = (one.pid().to_string(), "vrouter-agent.service");
        let mut stop = Command::new(binary("vrouter-agent"));
        run_ok(one.namespace(), stop.args(["hand-over", &pid, unit]).env("PATH", path))
    };
    assert_eq!(hand_over(&one, "stop"), "a stop: routes will be withdrawn\n");
    assert!(one.try_ctl(&["status"]).status.success(), "it is still there, for systemd's SIGTERM");
    assert_eq!(hand_over(&one, "restart"), "a restart: neighbors keep our routes\n");
    assert!(!one.try_ctl(&["status"]).status.success(), "it has ended");
    assert_eq!(two.route("city", &prefix).len(), 1, "the neighbor keeps the route");
    one.kill9();
    one.start_agent();
    one.wait_established(two.address());
    assert_eq!(two.route("city", &prefix).len(), 1, "and never lost it");
    one.stop_agent();
    two.wait_no_route("city", &prefix);
}

#[test]
fn hundreds_of_ports_come_back_at_once() {
    let lab = Lab::new();
    let mut one = Node::prepare(&lab, "gw-11", 11, &gateway(11, &[]));
    one.supervise(None);
    one.start_agent();
    let vms = lab.namespace("vms");
    let mut client = Client::connect(one.socket(), Duration::from_secs(20)).unwrap();
    for number in 0..PORTS {
        let tap = format!("tap{number}");
        one.namespace().add_veth(&tap, &vms, &tap);
        let key = PortKey { container: tap.clone(), interface: tap.clone() };
        let mut port = AttachPort::new(key, PortKind::Tap, tap, MacAddr([2, 0, 0, 0, 1, number]));
        port.vrf = Some("city".to_owned());
        port.addresses = vec![IpAddr::from([10, 20, 11, number + 2])];
        client.attach(&port).unwrap();
    }
    drop(client);
    let up = |node: &Node| {
        let ports = node.ctl_json(&["show", "ports"])["ports"].as_array().cloned().unwrap_or_default();
        ports.iter().filter(|port| port["state"] == "up").count()
    };
    let begin = Instant::now();
    one.restart_agent();
    let warm = begin.elapsed();
    assert_eq!(up(&one), usize::from(PORTS));
    let start = one.ctl_json(&["status"])["run"]["start"].clone();
    assert!(start["adoptedSockets"].as_u64() >= Some(u64::from(PORTS)), "{start}");
    // A manager that has lost everything: every socket and every guard is made anew.
    one.kill9();
    one.supervisor().lose_all();
    let begin = Instant::now();
    one.start_agent();
    let cold = begin.elapsed();
    assert_eq!(up(&one), usize::from(PORTS));
    let guarded = run_ok(one.namespace(), &mut command("nft", &["list", "table", "netdev", "vrouter"]));
    assert_eq!(guarded.matches("policy drop").count(), usize::from(PORTS));
    println!(
        "{PORTS} ports: restart in {} ms, of which packets waited for {} ms; start without kept sockets in {} ms",
        warm.as_millis(),
        start["pauseUsec"].as_u64().unwrap_or_default() / 1000,
        cold.as_millis()
    );
}

#[test]
fn the_service_manager_hears_nothing_while_a_worker_is_stuck() {
    let lab = Lab::new();
    let mut one = Node::prepare(&lab, "gw-11", 11, &gateway(11, &[]));
    one.supervise(Some(Duration::from_millis(400)));
    one.start_agent();
    let beats = || one.supervisor().watchdogs().len();
    wait_until("the first beats", PATIENCE, || beats() > 2);
    let tasks =
        std::fs::read_dir(format!("/proc/{}/task", one.pid())).unwrap().map(|task| task.unwrap().path());
    let is_worker =
        |task: &PathBuf| std::fs::read_to_string(task.join("comm")).unwrap().trim() == "dataplane-0";
    let worker = tasks.into_iter().find(is_worker).expect("a worker");
    let held = hold(worker.file_name().unwrap().to_str().unwrap().parse().unwrap()).unwrap();
    wait_until("the agent to be silent", PATIENCE, || {
        let before = beats();
        std::thread::sleep(Duration::from_millis(1000));
        beats() == before
    });
    assert!(one.log().contains("workers move no packets"), "{}", one.log());
    drop(held);
    let before = beats();
    wait_until("the agent to speak again", PATIENCE, || beats() > before);
}

#[test]
fn the_first_open_follows_the_start() {
    let lab = Lab::new();
    let mut one = Node::prepare(&lab, "gw-11", 11, &gateway(11, &[12]));
    let peer = lab.site("peer", 12);
    let listener = peer.run(|| TcpListener::bind("192.0.2.12:179")).unwrap();
    let begin = Instant::now();
    let first = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut header = [0; 19];
        stream.read_exact(&mut header).unwrap();
        (begin.elapsed(), header[18])
    });
    one.start_agent();
    let (time, kind) = first.join().unwrap();
    assert_eq!(kind, 1, "an OPEN (RFC 4271, section 4.1)");
    println!("from the start of the process to its first OPEN: {:.1} ms", time.as_secs_f64() * 1000.0);
}
