//! Security groups from the API to the packets: machines that may talk and may not, while rules change and floods come.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::process::Command;
use std::time::Duration;

use vrouter_tests::echo::{Server, ask_tcp, ask_udp, connect_tcp};
use vrouter_tests::fixture::{ASN, city, vrf};
use vrouter_tests::process::run_ok;
use vrouter_tests::vm::Machine;
use vrouter_tests::{AgentConfig, Answer, Lab, Node, PATIENCE, Probe, wait_until};
use vrouter_types::MacAddr;

const PUBLIC: &str = "target:4200000000:9";

fn node(lab: &Lab, more: &str) -> Node {
    let config = AgentConfig::new(ASN).vrf(&city(11)).vrf(&vrf("public", PUBLIC, 90, 11)).section(more);
    Node::start(lab, "gw-11", 11, &config)
}

/// A machine in the city with a fixed address, in these groups.
fn machine(lab: &Lab, node: &Node, name: &str, last: u8, words: &[&str]) -> (Machine, IpAddr) {
    let machine = Machine::plug(lab, node, name, MacAddr([0x52, 0x54, 0, 0, 0, last]));
    let address: IpAddr = format!("10.50.0.{last}").parse().unwrap();
    let own = format!("{address}");
    machine.add_port(node, &[&["--vrf", "city", "--address", &own], words].concat());
    let inside = machine.namespace();
    let ip = |words: &str| {
        run_ok(inside, Command::new("ip").args(words.split(' ')));
    };
    ip(&format!("address add {own}/32 dev eth0"));
    ip("route add 169.254.1.1 dev eth0");
    ip("route add default via 169.254.1.1 dev eth0 mtu 1468");
    (machine, address)
}

fn set(node: &Node, lab: &Lab, groups: &str) {
    let file = lab.path("groups.json");
    std::fs::write(&file, groups).unwrap();
    node.ctl(&["security-group", "set", file.to_str().unwrap()]);
}

fn web(rules: &str) -> String {
    format!(r#"{{"name": "web", "rules": [{{"direction": "egress", "family": "ipv4"}}{rules}]}}"#)
}

const ALLOW_HTTP: &str =
    r#", {"direction": "ingress", "family": "ipv4", "protocol": "tcp", "portMin": 8080}"#;

fn port_drops(node: &Node, interface: &str, reason: &str) -> u64 {
    let drops = node.ctl_json(&["show", "drops"]);
    let ports = node.ctl_json(&["show", "ports"]);
    let ports = ports["ports"].as_array().unwrap();
    let port = ports.iter().find(|port| port["hostInterface"] == interface).unwrap()["port"].to_string();
    let port = port.trim_matches('"');
    drops["ports"][port][reason].as_u64().unwrap_or(0)
}

#[test]
fn machines_talk_as_their_groups_allow_and_established_connections_follow_the_rules() {
    let lab = Lab::new();
    let mut node = node(&lab, "");
    set(&node, &lab, &web(ALLOW_HTTP));
    let (server, to) = machine(&lab, &node, "srv", 2, &["--security-group", "web"]);
    let (client, _) = machine(&lab, &node, "cli", 3, &["--security-group", "default"]);
    let pod = node.add_pod("free");
    let _http = Server::tcp(server.namespace(), 8080, "http");
    let _other = Server::tcp(server.namespace(), 2222, "other");
    let _client = Server::tcp(client.namespace(), 8080, "client");
    for from in [client.namespace(), pod.namespace()] {
        assert_eq!(ask_tcp(from, SocketAddr::new(to, 8080), "GET").expect("allowed"), "http");
        assert!(ask_tcp(from, SocketAddr::new(to, 2222), "GET").is_err(), "no rule allows this port");
    }
    assert!(port_drops(&node, server.tap(), "policy-ingress") > 0, "{:#}", node.ctl_json(&["show", "drops"]));
    assert_eq!(Probe::hopeless().send(pod.namespace(), to), Answer::Silence, "no rule allows a ping");
    assert_eq!(
        Probe::default().send(server.namespace(), pod.v4().into()),
        Answer::Reply,
        "but its own is answered"
    );
    // The default group lets in its own members only.
    let client_address: IpAddr = "10.50.0.3".parse().unwrap();
    assert!(ask_tcp(server.namespace(), SocketAddr::new(client_address, 8080), "GET").is_err());
    let (member, _) = machine(&lab, &node, "mem", 4, &["--security-group", "default"]);
    assert_eq!(
        ask_tcp(member.namespace(), SocketAddr::new(client_address, 8080), "GET").expect("a member"),
        "client"
    );
    // An established connection goes on while a rule allows it, is cut off when none does, and is back with the rule.
    let mut stream = connect_tcp(pod.namespace(), SocketAddr::new(to, 8080)).unwrap();
    let mut greeting = [0; 5];
    stream.read_exact(&mut greeting).unwrap();
    let narrower = format!(
        r#", {{"direction": "ingress", "family": "ipv4", "protocol": "tcp", "portMin": 8000, "portMax": 8090, "remotePrefix": "{}/32"}}"#,
        pod.v4()
    );
    set(&node, &lab, &web(&narrower));
    echo(&mut stream, b"still").expect("another rule allows it");
    assert!(ask_tcp(client.namespace(), SocketAddr::new(to, 8080), "GET").is_err(), "not from elsewhere");
    set(&node, &lab, &web(""));
    assert!(echo(&mut stream, b"lost?").is_err(), "no rule allows it any more");
    // Over a restart of the agent the groups are as they were.
    node.kill9();
    node.start_agent();
    assert!(ask_tcp(pod.namespace(), SocketAddr::new(to, 8080), "GET").is_err());
    set(&node, &lab, &web(ALLOW_HTTP));
    assert_eq!(ask_tcp(pod.namespace(), SocketAddr::new(to, 8080), "GET").expect("allowed again"), "http");
}

fn echo(stream: &mut TcpStream, text: &[u8]) -> std::io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(3)))?;
    stream.write_all(text)?;
    let mut answer = vec![0; text.len()];
    stream.read_exact(&mut answer)
}

#[test]
fn a_flood_is_refused_by_name_and_an_old_connection_lives() {
    let lab = Lab::new();
    let node = node(&lab, "[dataplane]\nmax-flows = 4096\nmax-flows-per-port = 200\n");
    let (flooder, _) = machine(&lab, &node, "fld", 2, &["--security-group", "default"]);
    let (other, _) = machine(&lab, &node, "oth", 3, &["--security-group", "default"]);
    let pod = node.add_pod("pod");
    let _server = Server::tcp(pod.namespace(), 8080, "pod");
    let _udp = Server::udp(pod.namespace(), 5353, "pod");
    let mut old = connect_tcp(flooder.namespace(), SocketAddr::new(pod.v4().into(), 8080)).unwrap();
    let mut greeting = [0; 4];
    old.read_exact(&mut greeting).unwrap();
    let to = pod.v4();
    let sockets: Vec<UdpSocket> =
        flooder.namespace().run(|| (0..20).map(|_| UdpSocket::bind(("0.0.0.0", 0)).unwrap()).collect());
    // Whatever a queue on the way loses comes again.
    wait_until("a thousand flows are refused", PATIENCE, || {
        for port in 10_000..10_200u16 {
            for socket in &sockets {
                let _ = socket.send_to(b"flood", (to, port));
            }
        }
        port_drops(&node, flooder.tap(), "flow-limit-port") > 1_000
    });
    echo(&mut old, b"alive").unwrap_or_else(|error| panic!("the old connection: {error}"));
    assert!(
        ask_udp(flooder.namespace(), SocketAddr::new(to.into(), 5353), "new").is_err(),
        "new flows of the flooder wait until the flood is over"
    );
    assert_eq!(
        ask_udp(other.namespace(), SocketAddr::new(to.into(), 5353), "new").expect("others do not notice"),
        "pod new"
    );
    let flows = node.ctl_json(&["show", "flows", "--limit", "10"]);
    assert_eq!(flows["flows"].as_array().map(Vec::len), Some(10));
    assert!(
        flows["matching"].as_u64() >= Some(199) && flows["table"]["refused"].as_u64() > Some(1_000),
        "{flows:#}"
    );
    let memory = node.ctl(&["show", "memory"]);
    assert!(memory.lines().any(|line| line.starts_with("flows ")), "{memory}");
}

#[test]
fn a_floating_address_is_a_machines_in_another_vrf() {
    let lab = Lab::new();
    let node = node(&lab, "");
    let (machine, own) = machine(&lab, &node, "vm", 2, &["--floating-ip", "198.51.100.2=10.50.0.2@public"]);
    let outside = node.add_pod_in("outside", "public");
    let inside = node.add_pod("inside");
    let _machine = Server::tcp(machine.namespace(), 80, "machine");
    let _outside = Server::tcp(outside.namespace(), 80, "outside");
    let floating: IpAddr = "198.51.100.2".parse().unwrap();
    node.wait_route("public", "198.51.100.2/32");
    assert_eq!(ask_tcp(outside.namespace(), SocketAddr::new(floating, 80), "in").expect("in"), "machine");
    assert_eq!(
        ask_tcp(machine.namespace(), SocketAddr::new(outside.v4().into(), 80), "out").expect("out"),
        "outside"
    );
    assert_eq!(Probe::default().send(outside.namespace(), floating), Answer::Reply);
    assert_eq!(ask_tcp(inside.namespace(), SocketAddr::new(own, 80), "own").expect("its own VRF"), "machine");
    assert!(ask_tcp(inside.namespace(), SocketAddr::new(floating, 80), "in").is_err(), "not in the city");
    let text = node.ctl(&["show", "flows"]);
    assert!(text.contains("floating 198.51.100.2 in public"), "{text}");
}
