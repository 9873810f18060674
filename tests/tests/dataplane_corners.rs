//! Corners of forwarding between real kernels: tenants that share routes by route target, a machine with a network behind
//! it, duplicate address detection, superframes of datagrams for a narrow machine, a path that the node itself knows to be
//! narrow.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::io::Write as _;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::process::Command;
use std::time::Duration;

use dataplane_core::{Gso, VnetHeader};
use vrouter_tests::fixture::{ASN, gateway, pair, pair_with, vrf, wait_routes};
use vrouter_tests::packets::{checksum, ethernet, send_frame, udp_packet};
use vrouter_tests::process::run_ok;
use vrouter_tests::{
    AgentConfig, Answer, Capture, Lab, Namespace, Node, PATIENCE, Probe, Server, ask_tcp, bulk, sys,
    transfer, wait_for, wait_until,
};
use vrouter_types::MacAddr;

fn ip(namespace: &Namespace, words: &str) {
    run_ok(namespace, Command::new("ip").args(words.split(' ')));
}

/// A machine on a tap of a node, as the port API would attach it, in the city.
fn machine(lab: &Lab, node: &Node, address: &str, more: &[&str]) -> Namespace {
    let machine = lab.namespace("vm");
    machine.add_veth("eth0", node.namespace(), "tapvm0");
    let mac = machine.mac("eth0").to_string();
    let words =
        ["port", "add", "--vrf", "city", "--interface", "tapvm0", "--mac", &mac, "--address", address];
    node.ctl(&[&words[..], more].concat());
    machine.add_address("eth0", address.parse().unwrap(), 32);
    ip(&machine, "route add 169.254.1.1 dev eth0");
    ip(&machine, "route add default via 169.254.1.1");
    machine
}

/// What went wrong at a node, without what a machine's kernel asks when its interface comes up: whether its link-local
/// address is in use.
fn faults(node: &Node) -> BTreeMap<String, u64> {
    let mut faults = node.faults();
    faults.remove("duplicate-address-probe");
    faults
}

#[test]
fn vrfs_share_routes_by_route_target_on_one_node_and_between_nodes_and_others_do_not() {
    let lab = Lab::new();
    let target = |number: u32| format!("target:{ASN}:{number}");
    let config = |own: u8, other: u8| {
        let (a, b, c) = (target(1), target(2), target(3));
        // The services' VRF and the tenant's import each other's routes; the stranger imports nobody's.
        let services = vrf("services", &a, 31, own).import(&b);
        let tenant = vrf("tenant", &b, 32, own).import(&a);
        let config = AgentConfig::new(ASN).vrf(&services).vrf(&tenant).vrf(&vrf("stranger", &c, 33, own));
        config.neighbor(vrouter_tests::lab::underlay_v4(other).into())
    };
    let (one, two) = pair_with(&lab, &config(11, 12), &config(12, 11));
    let tenant = one.add_pod_in("tenant", "tenant");
    let stranger = one.add_pod_in("stranger", "stranger");
    for (node, name) in [(&one, "here"), (&two, "there")] {
        let services = node.add_pod_in(name, "services");
        let _server = Server::tcp(services.namespace(), 80, name);
        for address in services.addresses() {
            let length = if address.is_ipv4() { 32 } else { 128 };
            one.wait_route("tenant", &format!("{address}/{length}"));
            two.wait_route("services", &format!("{}/32", tenant.v4()));
            let to = SocketAddr::new(address, 80);
            assert_eq!(ask_tcp(tenant.namespace(), to, "who?").unwrap(), name, "{address}");
            let answer = Probe::hopeless().send(stranger.namespace(), address);
            assert!(matches!(answer, Answer::Unreachable { .. }), "{address}: {answer:?}");
        }
    }
}

#[test]
fn a_machine_with_a_network_behind_it_is_reached_and_may_use_that_network_and_no_other() {
    let lab = Lab::new();
    let (one, two) = pair(&lab);
    let pod = one.add_pod("pod");
    let machine = machine(&lab, &two, "10.20.12.200", &["--prefix", "10.77.0.0/24"]);
    machine.add_address("lo", "10.77.0.9".parse().unwrap(), 32);
    one.wait_route("city", "10.77.0.0/24");
    wait_routes(&two, &[pod.v4().into()]);
    let behind: IpAddr = "10.77.0.9".parse().unwrap();
    for to in [behind, "10.20.12.200".parse().unwrap()] {
        assert_eq!(Probe::default().send(pod.namespace(), to), Answer::Reply, "{to}");
    }
    let arrived = transfer(pod.namespace(), &machine, SocketAddr::new(behind, 5001), 1 << 20).unwrap();
    assert_eq!((arrived.octets, arrived.digest), bulk::expected(1 << 20));
    let frame = |from: &str| {
        let from = SocketAddr::new(from.parse().unwrap(), 7);
        let packet = udp_packet(from, SocketAddr::new(pod.v4().into(), 9), 64, b"x");
        ethernet(MacAddr::GATEWAY, machine.mac("eth0"), 0x0800, &packet)
    };
    let before = faults(&two);
    send_frame(&machine, "eth0", &frame("10.77.0.1")).unwrap();
    assert_eq!(faults(&two), before, "any address of its network is its own");
    let mut moved =
        two.faults_of("spoofed-source", || send_frame(&machine, "eth0", &frame("10.77.1.1")).unwrap());
    moved.remove("duplicate-address-probe");
    assert_eq!(moved.keys().collect::<Vec<_>>(), ["spoofed-source"], "{moved:?}");
}

#[test]
fn duplicate_address_detection_finds_no_duplicate_where_there_is_none() {
    let lab = Lab::new();
    let node = Node::start(&lab, "gw-11", 11, &gateway(11, &[]));
    let pod = node.add_pod("pod");
    for key in ["all", "eth0"] {
        pod.namespace().set_sysctl(&format!("net/ipv6/conf/{key}/accept_dad"), "1");
    }
    // Tentative until nobody has answered for a second; an answer would make it fail for good.
    let address = pod.v6();
    ip(pod.namespace(), &format!("addr del {address}/128 dev eth0"));
    ip(pod.namespace(), &format!("addr add {address}/128 dev eth0"));
    wait_for("the address to be no longer tentative", PATIENCE, || {
        let shown = pod.exec(&["ip", "-6", "addr", "show", "dev", "eth0", "to", &address.to_string()]);
        assert!(!shown.contains("dadfailed"), "{shown}");
        if shown.contains(&address.to_string()) && !shown.contains("tentative") { Ok(()) } else { Err(shown) }
    });
    let asked = node.drops();
    assert!(asked.contains_key("duplicate-address-probe"), "{asked:?}");
}

/// A datagram that may be fragmented.
fn without_df(from: SocketAddr, to: SocketAddr, payload: &[u8]) -> Vec<u8> {
    let mut packet = udp_packet(from, to, 64, payload);
    packet[6] = 0;
    packet[10..12].fill(0);
    let sum = checksum(&packet[..20], 0).to_be_bytes();
    packet[10..12].copy_from_slice(&sum);
    packet
}

/// A superframe of datagrams with these many octets each, without DF, as a virtual machine with USO sends it.
fn superframe(from: SocketAddr, to: SocketAddr, mac: MacAddr, size: usize, payload: &[u8]) -> Vec<u8> {
    let packet = without_df(from, to, payload);
    let vnet = VnetHeader {
        needs_csum: true,
        gso: Gso::UdpL4,
        gso_size: u16::try_from(size).unwrap(),
        hdr_len: 42,
        csum_start: 34,
        csum_offset: 6,
        ..VnetHeader::NONE
    };
    [&vnet.encode()[..], &ethernet(MacAddr::GATEWAY, mac, 0x0800, &packet)].concat()
}

#[test]
fn superframes_of_datagrams_are_fragmented_for_a_machine_that_takes_less() {
    let lab = Lab::new();
    let node = Node::start(&lab, "gw-11", 11, &gateway(11, &[]));
    let machine = machine(&lab, &node, "10.20.11.200", &["--mtu", "700"]);
    machine.netlink(|netlink| netlink.set_mtu("eth0", 700));
    let pod = node.add_pod("pod");
    let receiver = machine.run(|| UdpSocket::bind("0.0.0.0:7000")).unwrap();
    receiver.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let payload: Vec<u8> = (0..5 * 1300 + 77u32).map(|n| u8::try_from(n % 251).unwrap()).collect();
    let from = SocketAddr::new(pod.v4().into(), 7001);
    let to: SocketAddr = "10.20.11.200:7000".parse().unwrap();
    let frame = superframe(from, to, pod.namespace().mac("eth0"), 1300, &payload);
    let link = pod.namespace().netlink(|netlink| netlink.link("eth0"));
    let mut socket = pod.namespace().run(|| sys::packet_socket(link.index, Duration::from_secs(1))).unwrap();
    sys::carry_offloads(&socket).unwrap();
    socket.write_all(&frame).unwrap();
    let mut arrived = Vec::<Vec<u8>>::new();
    let mut buffer = [0; 2000];
    while arrived.concat().len() < payload.len() {
        let length =
            receiver.recv(&mut buffer).unwrap_or_else(|error| panic!("{error}: {:?}", node.faults()));
        arrived.push(buffer[..length].to_vec());
    }
    let lengths: Vec<usize> = arrived.iter().map(Vec::len).collect();
    assert_eq!(lengths, [1300, 1300, 1300, 1300, 1300, 77]);
    assert_eq!(arrived.concat(), payload);
    assert!(faults(&node).is_empty(), "{:?}", node.faults());
}

#[test]
fn a_machine_with_larger_frames_than_the_path_takes_hears_of_it_is_clamped_and_may_be_fragmented() {
    let lab = Lab::new();
    let (one, two) = pair(&lab);
    let machine = machine(&lab, &one, "10.20.11.200", &[]);
    machine.netlink(|netlink| netlink.set_mtu("eth0", 9000));
    one.namespace().netlink(|netlink| netlink.set_mtu("tapvm0", 9000));
    let far = two.add_pod("far");
    wait_routes(&one, &[far.v4().into()]);
    wait_routes(&two, &["10.20.11.200".parse().unwrap()]);
    // Before the machine's kernel knows better: what it offers is lowered, so that nothing larger ever comes.
    let seen = Capture::start(far.namespace(), "eth0");
    let to = SocketAddr::new(far.v4().into(), 5001);
    let arrived = transfer(&machine, far.namespace(), to, 1 << 20).unwrap();
    assert_eq!((arrived.octets, arrived.digest), bulk::expected(1 << 20));
    let offers = seen.write(&lab.path("syn.pcap")).fields("tcp.flags.syn == 1", &["tcp.options.mss_val"]);
    assert_eq!(offers, [["1428"], ["1428"]], "a SYN there, a SYN back");
    match (Probe { length: 4000, ..Probe::default() }).send(&machine, far.v4().into()) {
        Answer::TooBig { mtu, .. } => assert_eq!(mtu, 1468),
        other => panic!("{other:?}"),
    }
    let receiver = far.namespace().run(|| UdpSocket::bind("0.0.0.0:7000")).unwrap();
    receiver.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let payload = [7; 6000];
    let packet =
        without_df("10.20.11.200:7".parse().unwrap(), SocketAddr::new(far.v4().into(), 7000), &payload);
    send_frame(&machine, "eth0", &ethernet(MacAddr::GATEWAY, machine.mac("eth0"), 0x0800, &packet)).unwrap();
    let mut buffer = [0; 9000];
    let length = receiver.recv(&mut buffer).unwrap_or_else(|error| panic!("{error}: {:?}", one.faults()));
    assert_eq!(buffer[..length], payload);
    let faults = faults(&one);
    assert_eq!(faults.keys().collect::<Vec<_>>(), ["too-big"], "{faults:?}");
}

#[test]
fn a_datagram_with_a_wrong_checksum_stays_wrong() {
    let lab = Lab::new();
    let (one, two) = pair(&lab);
    let (near, far) = (one.add_pod("near"), two.add_pod("far"));
    wait_routes(&one, &far.addresses());
    let receiver = far.namespace().run(|| UdpSocket::bind("0.0.0.0:7000")).unwrap();
    receiver.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let (from, to) = (SocketAddr::new(near.v4().into(), 7), SocketAddr::new(far.v4().into(), 7000));
    let (mut wrong, right) = (udp_packet(from, to, 64, b"wrong"), udp_packet(from, to, 64, b"right"));
    let sum = u16::from_be_bytes([wrong[26], wrong[27]]);
    wrong[26..28].copy_from_slice(&(sum ^ 0x0101).to_be_bytes());
    let seen = Capture::start(far.namespace(), "eth0");
    for packet in [&wrong, &right] {
        let frame = ethernet(MacAddr::GATEWAY, near.namespace().mac("eth0"), 0x0800, packet);
        send_frame(near.namespace(), "eth0", &frame).unwrap();
    }
    let mut buffer = [0; 100];
    let length = receiver.recv(&mut buffer).unwrap_or_else(|error| panic!("{error}: {:?}", one.faults()));
    assert_eq!(&buffer[..length], b"right", "the wrong one is the receiver's to refuse");
    let frames = seen.frames();
    let arrived: Vec<&[u8]> = frames.iter().filter_map(|frame| frame.get(14 + 20 + 6..)).collect();
    assert!(arrived.iter().any(|octets| *octets == &wrong[26..]), "it arrived as it was: {frames:?}");
}

/// The kernel of the node itself refuses what is too big for a route of its own (EMSGSIZE): pods hear of it.
fn a_narrow_route_is_heard_of(encapsulation: &str, overhead: u32) {
    let lab = Lab::new();
    let config = |own, other| gateway(own, &[other]).encapsulations(&[encapsulation]);
    let (one, two) = pair_with(&lab, &config(11, 12), &config(12, 11));
    let (near, far) = (one.add_pod("near"), two.add_pod("far"));
    wait_routes(&one, &far.addresses());
    wait_routes(&two, &near.addresses());
    let larger = Probe { length: 1450, ..Probe::default() };
    wait_until("1450 octets to pass", PATIENCE, || {
        larger.send(near.namespace(), far.v4().into()) == Answer::Reply
    });
    ip(one.namespace(), "route add 192.0.2.12/32 dev eth0 mtu lock 1400");
    for address in far.addresses() {
        wait_for(&format!("1450 octets to {address} to be too big"), PATIENCE, || {
            match larger.send(near.namespace(), address) {
                Answer::TooBig { mtu, .. } if mtu == 1400 - overhead => Ok(()),
                other => Err(other),
            }
        });
        let arrived = transfer(near.namespace(), far.namespace(), SocketAddr::new(address, 5001), 1 << 20);
        assert_eq!(arrived.unwrap().octets, 1 << 20, "{address}");
    }
}

#[test]
fn a_narrow_route_of_the_node_is_heard_of_over_mpls_over_udp() {
    a_narrow_route_is_heard_of("mpls-over-udp", 32);
}

#[test]
fn a_narrow_route_of_the_node_is_heard_of_over_mpls_over_gre() {
    a_narrow_route_is_heard_of("mpls-over-gre", 28);
}
