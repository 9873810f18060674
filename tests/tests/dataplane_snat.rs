//! Pods leave with the node's address where their VRF lets them: to the Internet, to the node's own network.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use vrouter_tests::echo::{Server, ask_tcp, connect_tcp};
use vrouter_tests::fixture::{ASN, city, vrf};
use vrouter_tests::{AgentConfig, Answer, Lab, Namespace, Node, Probe};

const SERVER: u8 = 99;
/// Of the node, for workloads.
const PORTS: std::ops::RangeInclusive<u16> = 40_960..=49_151;

/// A node whose default VRF may leave with the node's address, a tenant of the same addresses that may too, and one that
/// may not.
fn config() -> AgentConfig {
    let same = vrf("same", "target:4200000000:7", 20, 11).line("snat = true").line("host = \"closed\"");
    let closed = vrf("closed", "target:4200000000:8", 80, 11);
    AgentConfig::new(ASN).vrf(&city(11).line("snat = true")).vrf(&same).vrf(&closed)
}

/// A UDP server on the node's network that answers with who has asked.
struct Mirror {
    ended: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Mirror {
    fn start(namespace: &Namespace, port: u16) -> Mirror {
        let socket = namespace.run(|| UdpSocket::bind((Ipv6Addr::UNSPECIFIED, port))).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        let ended = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&ended);
        let thread = std::thread::spawn(move || {
            let mut buffer = [0; 2048];
            while !flag.load(Ordering::Relaxed) {
                if let Ok((_, from)) = socket.recv_from(&mut buffer) {
                    let plain = SocketAddr::new(from.ip().to_canonical(), from.port());
                    let _ = socket.send_to(plain.to_string().as_bytes(), from);
                }
            }
        });
        Mirror { ended, thread: Some(thread) }
    }
}

impl Drop for Mirror {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

fn socket(from: &Namespace, to: SocketAddr) -> UdpSocket {
    let any: IpAddr = if to.is_ipv4() { [0, 0, 0, 0].into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = from.run(|| UdpSocket::bind((any, 0))).unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    socket.connect(to).unwrap();
    socket
}

/// As whom the server knows the socket.
fn known_as(socket: &UdpSocket) -> Option<SocketAddr> {
    let mut buffer = [0; 128];
    for _ in 0..4 {
        let answer = socket.send(b"who am I?").and_then(|_| socket.recv(&mut buffer));
        if let Ok(length) = answer {
            return Some(std::str::from_utf8(&buffer[..length]).unwrap().parse().unwrap());
        }
    }
    None
}

fn servers() -> [IpAddr; 2] {
    vrouter_tests::lab::underlay(SERVER)
}

#[test]
fn a_pod_reaches_a_server_of_the_nodes_network_that_sees_only_the_node() {
    let lab = Lab::new();
    let node = Node::start(&lab, "gw-11", 11, &config());
    let server = lab.site("server", SERVER);
    let _mirror = Mirror::start(&server, 9000);
    let _web = Server::tcp(&server, 8080, "web");
    let pod = node.add_pod("sensor");
    for (to, own) in servers().into_iter().zip(vrouter_tests::lab::underlay(11)) {
        let udp = socket(pod.namespace(), SocketAddr::new(to, 9000));
        let seen = known_as(&udp).unwrap_or_else(|| panic!("no answer from {to}: {:?}", node.drops()));
        assert_eq!(seen.ip(), own, "the server sees the node");
        assert!(PORTS.contains(&seen.port()), "{seen}");
        assert_eq!(ask_tcp(pod.namespace(), SocketAddr::new(to, 8080), "GET").expect("TCP"), "web");
        assert_eq!(Probe::default().send(pod.namespace(), to), Answer::Reply, "ping {to}");
    }
    let flows = node.ctl_json(&["show", "flows", "--vrf", "city"]);
    let kinds: Vec<&str> =
        flows["flows"].as_array().unwrap().iter().filter_map(|flow| flow["protocol"].as_str()).collect();
    assert!(["udp", "tcp", "icmp", "icmpv6"].iter().all(|kind| kinds.contains(kind)), "{flows:#}");
    assert!(flows["table"]["nodePorts"].as_u64() >= Some(6), "{flows:#}");
    let text = node.ctl(&["show", "flows"]);
    assert!(text.contains("node 169.254.64."), "{text}");
}

#[test]
fn a_tenant_without_snat_stays_inside_and_tenants_with_equal_addresses_do_not_mix() {
    let lab = Lab::new();
    let node = Node::start(&lab, "gw-11", 11, &config());
    let server = lab.site("server", SERVER);
    let _mirror = Mirror::start(&server, 9000);
    let [to, to6] = servers().map(|address| SocketAddr::new(address, 9000));
    let closed = node.add_pod_in("closed", "closed");
    assert_eq!(known_as(&socket(closed.namespace(), to)), None);
    assert!(node.drops().contains_key("no-route"), "{:?}", node.drops());
    let (one, other) = (node.add_pod("one"), node.add_pod_in("other", "same"));
    assert_eq!(one.addresses(), other.addresses(), "both tenants have the same addresses");
    for to in [to, to6] {
        let sockets = [socket(one.namespace(), to), socket(other.namespace(), to)];
        let seen: Vec<SocketAddr> = sockets.iter().map(|socket| known_as(socket).unwrap()).collect();
        assert_ne!(seen[0], seen[1]);
        // Again, now that both are known: each hears its own answer.
        assert_eq!(sockets.iter().map(|socket| known_as(socket).unwrap()).collect::<Vec<_>>(), seen);
    }
    // Nor does the host lead one tenant to the other's pods, or in to itself where that is closed.
    let lone = node.add_pod_in("lone", "closed");
    let _closed = Server::tcp(lone.namespace(), 80, "closed");
    assert!(ask_tcp(one.namespace(), SocketAddr::new(lone.v4().into(), 80), "GET").is_err());
    assert!(node.drops().contains_key("host-to-stranger"), "{:?}", node.drops());
    let _host = Server::tcp(node.namespace(), 2222, "host");
    let own = SocketAddr::new(node.address(), 2222);
    assert!(ask_tcp(other.namespace(), own, "hello").is_err(), "the node itself is closed to it");
    assert_eq!(ask_tcp(one.namespace(), own, "hello").expect("open to the default VRF"), "host");
}

#[test]
fn ports_run_out_by_name_for_one_and_the_node_goes_on_with_its_own() {
    let lab = Lab::new();
    let limits = "[dataplane]\nsnat-ports = \"41000-41003\"\nsnat-ports-per-port = 3\n";
    let node = Node::start(&lab, "gw-11", 11, &config().section(limits));
    let server = lab.site("server", SERVER);
    let _mirror = Mirror::start(&server, 9000);
    let to = SocketAddr::new(servers()[0], 9000);
    // The node itself talks to the same server from a port in the middle of the range, before and after.
    let own = node.namespace().run(|| UdpSocket::bind(("0.0.0.0", 41001))).unwrap();
    own.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    own.connect(to).unwrap();
    assert_eq!(known_as(&own).unwrap().port(), 41001);
    let (greedy, other) = (node.add_pod("greedy"), node.add_pod("other"));
    let sockets: Vec<UdpSocket> = (0..3).map(|_| socket(greedy.namespace(), to)).collect();
    for socket in &sockets {
        let seen = known_as(socket).unwrap_or_else(|| panic!("{:?}", node.drops()));
        assert!((41000..=41003).contains(&seen.port()) && seen.port() != 41001, "{seen}");
    }
    assert_eq!(known_as(&socket(greedy.namespace(), to)), None, "its share is used up");
    assert!(node.drops().contains_key("snat-ports-exhausted"), "{:?}", node.drops());
    assert!(sockets.iter().all(|socket| known_as(socket).is_some()), "what goes on goes on");
    assert_eq!(known_as(&own).unwrap().port(), 41001, "and so does the node");
    assert_eq!(
        Probe::default().send(other.namespace(), servers()[0]),
        Answer::Reply,
        "another has its own share"
    );
}

#[test]
fn connections_outlive_the_agent() {
    let lab = Lab::new();
    let mut node = Node::start(&lab, "gw-11", 11, &config());
    let server = lab.site("server", SERVER);
    let _web = Server::tcp(&server, 8080, "web");
    let pod = node.add_pod("sensor");
    let mut stream = connect_tcp(pod.namespace(), SocketAddr::new(servers()[0], 8080)).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let mut greeting = [0; 4];
    stream.read_exact(&mut greeting).unwrap();
    node.kill9();
    node.start_agent();
    stream.write_all(b"still here").unwrap();
    let mut echo = [0; 10];
    stream.read_exact(&mut echo).unwrap_or_else(|error| panic!("{error}: {:?}", node.drops()));
    assert_eq!(&echo, b"still here");
}
