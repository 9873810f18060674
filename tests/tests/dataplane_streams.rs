//! The same frames through a plain veth and through us: what arrives must be the same, packet by packet and octet by
//! octet, but for the TTL. Superframes are cut by the kernel in front of the receiver, so that segment sums,
//! sequence numbers, flags, options, identifications and congestion marks are the kernel's own on both ways.
//!
//! ```text
//!   plain        sender ── eth0 (tx off: cut here) ─────────────────────────── eth0  receiver
//!   same node    sender ── eth0 ─ vrouter ─ host end (tx off: cut here) ────── eth0  receiver
//!   remote       sender ── eth0 ─ vrouter ═ tunnel ═ vrouter ─ host end ────── eth0  receiver
//! ```
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::io::Write as _;
use std::net::IpAddr;
use std::process::Command;
use std::time::Duration;

use dataplane_core::{Gso, VnetHeader};
use vrouter_tests::fixture::{gateway, pair_with, wait_routes};
use vrouter_tests::lab::underlay_v6;
use vrouter_tests::process::run_ok;
use vrouter_tests::{Capture, Lab, Namespace, Node, PATIENCE, Pod, sys, wait_for};
use vrouter_types::MacAddr;

#[path = "../../dataplane/core/tests/differential/reference.rs"]
mod reference;

use reference::{ACK, CWR, FIN, Fields, PSH, TCP, TcpFields, UDP, URG};

/// One write to a packet socket, and how many packets it is.
struct Written {
    packet: Vec<u8>,
    vnet: VnetHeader,
    packets: usize,
}

/// A sequence of numbers that looks random and is the same every time (xorshift).
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 20).unwrap() % end
    }

    fn octets(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| u8::try_from(self.below(256)).unwrap()).collect()
    }
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

/// Frames of many flows between two addresses, each flow with its own source port.
struct Script {
    from: IpAddr,
    to: IpAddr,
    port: u16,
    numbers: Numbers,
    out: Vec<Written>,
}

impl Script {
    fn new(from: IpAddr, to: IpAddr) -> Script {
        let mut script = Script { from, to, port: 20_000, numbers: Numbers(0x9e37_79b9), out: Vec::new() };
        script.tcp_superframes();
        script.tcp_packets();
        script.datagrams();
        script.oddities();
        script
    }

    /// The first packet of a new flow.
    fn flow(&mut self, tcp: bool, payload: usize) -> Fields {
        self.port += 1;
        let v6 = self.from.is_ipv6();
        let tcp = tcp.then(|| TcpFields {
            seq: u32::MAX - 5000,
            ack: 77,
            flags: ACK,
            window: 501,
            options: [&[1, 1, 8, 10][..], &self.numbers.octets(8)].concat(),
            ..TcpFields::default()
        });
        Fields {
            v6,
            tos: 0,
            flow_label: if v6 { 0x1234 } else { 0 },
            id: if v6 { 0 } else { 0xfff0 },
            df: !v6,
            ttl: 64,
            src: octets(self.from),
            dst: octets(self.to),
            between: vec![],
            next: if tcp.is_some() { TCP } else { UDP },
            // Nobody listens; the discard port it is.
            ports: (self.port, 9),
            payload: self.numbers.octets(payload),
            tcp,
        }
    }

    fn superframe(&mut self, fields: &Fields, size: u16) {
        let (packet, vnet) = fields.write_superframe(size);
        self.out.push(Written { packet, vnet, packets: fields.payload.len().div_ceil(size.into()) });
    }

    fn packet(&mut self, packet: Vec<u8>) {
        self.out.push(Written { packet, vnet: VnetHeader::NONE, packets: 1 });
    }

    fn tcp_superframes(&mut self) {
        // What senders set on superframes, and what nobody sets.
        for flags in
            [ACK, ACK | PSH, ACK | PSH | FIN, ACK | CWR, ACK | URG, ACK | 0x40, ACK | PSH | FIN | CWR]
        {
            for options in [0, 12, 40] {
                let len = 2000 + self.numbers.below(18_000);
                let mut fields = self.flow(true, len);
                let size = 500 + self.numbers.below(800);
                let tcp = fields.tcp.as_mut().unwrap();
                tcp.flags = flags;
                tcp.options = vec![1; options];
                fields.tos = 2;
                self.superframe(&fields, u16::try_from(size).unwrap());
            }
        }
        // One after another, so that they could grow together.
        let mut fields = self.flow(true, 9000);
        for _ in 0..4 {
            self.superframe(&fields, 1200);
            fields.id = if fields.v6 { 0 } else { fields.id.wrapping_add(8) };
            let tcp = fields.tcp.as_mut().unwrap();
            tcp.seq = tcp.seq.wrapping_add(9000);
        }
        // Identifications count where fragmentation is allowed as well.
        let mut fields = self.flow(true, 5000);
        fields.df = false;
        self.superframe(&fields, 1000);
    }

    /// Packet after packet of one size, with one thing changed in the midst of each run.
    fn tcp_packets(&mut self) {
        for change in 0..14 {
            let mut next = self.flow(true, 700);
            for index in 0..8 {
                let mut packet = next.clone();
                packet.payload[0] = index;
                let tcp = packet.tcp.as_mut().unwrap();
                match (index, change) {
                    (4, 0) => tcp.flags |= PSH,
                    (4, 1) => tcp.flags |= FIN,
                    (4, 2) => tcp.flags |= CWR | 0x40,
                    (4, 3) => packet.tos = 3,
                    (4, 4) => packet.ttl = 33,
                    (4, 5) => packet.payload.truncate(30),
                    (4.., 6) => tcp.options = vec![1, 1, 5, 10, 1, 2, 3, 4, 5, 6, 7, 8],
                    (4.., 7) => tcp.window = 9,
                    (4.., 8) => tcp.ack = 99,
                    (4, 9) => packet.id ^= if next.v6 { 0 } else { 0x55 },
                    (4, 10) => packet.payload.clear(),
                    (4, 11) => packet.flow_label ^= if next.v6 { 1 } else { 0 },
                    _ => {}
                }
                let mut bytes = packet.write();
                if (index, change) == (4, 12) {
                    // Wrong before it reached us: it stays wrong.
                    *bytes.last_mut().unwrap() ^= 1;
                }
                // Lost before it reached us.
                if (index, change) != (4, 13) {
                    self.packet(bytes);
                }
                let tcp = next.tcp.as_mut().unwrap();
                tcp.seq = tcp.seq.wrapping_add(u32::try_from(packet.payload.len()).unwrap());
                next.id = if next.v6 { 0 } else { next.id.wrapping_add(1) };
            }
        }
    }

    fn datagrams(&mut self) {
        for (len, size) in [(10_000, 700), (1300, 650), (6400, 100), (1001, 1000)] {
            let fields = self.flow(false, len);
            self.superframe(&fields, size);
        }
        for change in 0..5 {
            let mut fields = self.flow(false, 300);
            for index in 0..6 {
                fields.payload[0] = index;
                let mut bytes = fields.write();
                let checksum = bytes.len() - fields.payload.len() - 2;
                match (index, change) {
                    (3, 1) => *bytes.last_mut().unwrap() ^= 1,
                    (3, 2) if !fields.v6 => bytes[checksum..checksum + 2].fill(0),
                    (3, 3) => fields.payload.truncate(100),
                    (3, 4) => fields.tos = 1,
                    _ => {}
                }
                self.packet(bytes);
                fields.id = if fields.v6 { 0 } else { fields.id.wrapping_add(1) };
            }
        }
    }

    /// Headers between IP and transport, fragments, partial checksums.
    fn oddities(&mut self) {
        for tcp in [true, false] {
            let mut fields = self.flow(tcp, 1100);
            if fields.v6 {
                // Hop-by-hop options, then destination options: padding only.
                let extensions =
                    [60, 0, 1, 4, 0, 0, 0, 0, fields.next, 1, 1, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
                (fields.between, fields.next) = (extensions.to_vec(), 0);
            } else {
                fields.between = vec![7, 7, 4, 0, 0, 0, 0, 0];
            }
            self.packet(fields.write());
            self.packet(fields.write());
            if tcp {
                fields.payload = self.numbers.octets(6000);
                self.superframe(&fields, 1000);
            }
            // One packet whose sender left the checksum to others.
            let fields = self.flow(tcp, 999);
            let (packet, vnet) = fields.write_superframe(1);
            let vnet = VnetHeader { gso: Gso::None, gso_size: 0, ecn: false, ..vnet };
            self.out.push(Written { packet, vnet, packets: 1 });
        }
        if self.from.is_ipv4() {
            let mut fields = self.flow(false, 800);
            fields.df = false;
            for field in [[0x20, 0], [0x20, 100], [0, 200]] {
                let mut bytes = fields.write();
                bytes[6..8].copy_from_slice(&field);
                bytes[10..12].fill(0);
                let sum = !reference::sum(&[&bytes[..20]]);
                bytes[10..12].copy_from_slice(&sum.to_be_bytes());
                self.packet(bytes);
            }
        } else {
            for field in [[0, 1], [0x03, 0x21], [0x06, 0x40]] {
                let mut fields = self.flow(false, 800);
                fields.ports.0 = 20_500;
                fields.between = vec![UDP, 0, field[0], field[1], 1, 2, 3, 4];
                fields.next = 44;
                self.packet(fields.write());
            }
        }
    }
}

/// Writes a script into a namespace's `eth0`, slowly enough for any queue.
fn send(from: &Namespace, gateway: MacAddr, script: &[Written]) {
    let link = from.netlink(|netlink| netlink.link("eth0"));
    let mut socket = from.run(|| sys::packet_socket(link.index, Duration::from_millis(1))).unwrap();
    sys::carry_offloads(&socket).unwrap();
    for Written { packet, vnet, .. } in script {
        let ethertype = if packet[0] >> 4 == 4 { [0x08, 0x00] } else { [0x86, 0xdd] };
        let shift = |offset: u16| if vnet.needs_csum { offset + 14 } else { 0 };
        let vnet = VnetHeader { hdr_len: shift(vnet.hdr_len), csum_start: shift(vnet.csum_start), ..*vnet };
        let frame = [&vnet.encode()[..], &gateway.0, &link.mac.unwrap().0, &ethertype, packet].concat();
        socket.write_all(&frame).unwrap_or_else(|error| panic!("{vnet:?}: {error}"));
        std::thread::sleep(Duration::from_micros(500 + packet.len() as u64 / 20));
    }
}

/// What arrived, flow by flow (by source port; fragments by their addresses alone), each packet without its TTL.
type Flows = BTreeMap<Option<u16>, Vec<Vec<u8>>>;

/// Packets of the script's direction, in order, with the checksums of IP headers verified.
fn arrived(frames: &[Vec<u8>], from: IpAddr, to: IpAddr) -> Flows {
    let mut flows = Flows::new();
    for frame in frames.iter().filter(|frame| frame.len() > 14 + 20) {
        let mut packet = frame[14..].to_vec();
        let ends = [octets(from), octets(to)].concat();
        let at = if from.is_ipv4() { 12 } else { 8 };
        let family = if from.is_ipv4() { 4 } else { 6 };
        if packet[0] >> 4 != family || packet.get(at..at + ends.len()) != Some(&ends[..]) {
            continue;
        }
        if family == 4 {
            let header = usize::from(packet[0] & 15) * 4;
            assert_eq!(reference::sum(&[&packet[..header]]), 0xffff, "IPv4 header checksum");
            packet[8] = 0;
            packet[10..12].fill(0);
        } else {
            packet[7] = 0;
        }
        let port = Fields::read(&frame[14..]).map(|(fields, _)| fields.ports.0);
        flows.entry(port).or_default().push(packet);
    }
    flows
}

/// Sends the script and waits until all of it is there.
fn run(from: &Namespace, gateway: MacAddr, to: &Namespace, ends: (IpAddr, IpAddr)) -> Flows {
    let script = Script::new(ends.0, ends.1).out;
    let mut wanted = BTreeMap::<Option<u16>, usize>::new();
    for Written { packet, packets, .. } in &script {
        let port = Fields::read(packet).map(|(fields, _)| fields.ports.0);
        *wanted.entry(port).or_default() += packets;
    }
    let capture = Capture::start(to, "eth0");
    send(from, gateway, &script);
    wait_for("every packet to arrive", PATIENCE, || {
        let flows = arrived(&capture.frames(), ends.0, ends.1);
        let count = |port| flows.get(port).map_or(0, Vec::len);
        let missing = wanted.iter().filter(|(port, wanted)| count(port) < **wanted);
        let missing: Vec<_> = missing.map(|(port, wanted)| (port, count(port), wanted)).collect();
        if missing.is_empty() { Ok(flows) } else { Err(format!("flow, arrived, sent: {missing:?}")) }
    })
}

/// Lets the kernel cut superframes and complete checksums before this interface transmits.
fn cut_here(namespace: &Namespace, interface: &str) {
    let off = ["-K", interface, "tx", "off", "tso", "off", "gso", "off"];
    run_ok(namespace, Command::new("ethtool").args(off));
}

fn plain(lab: &Lab, ends: (IpAddr, IpAddr)) -> Flows {
    let (a, b) = (lab.namespace("plain-a"), lab.namespace("plain-b"));
    a.add_veth("eth0", &b, "eth0");
    cut_here(&a, "eth0");
    run(&a, b.mac("eth0"), &b, ends)
}

/// Both families through us, against a plain veth.
fn same_as_plain(lab: &Lab, from: &Pod, to: (&Node, &Pod)) {
    let (node, to) = to;
    cut_here(node.namespace(), &to.host_interface());
    for ends in [(from.v4().into(), to.v4().into()), (from.v6().into(), to.v6().into())] {
        let ours = run(from.namespace(), MacAddr::GATEWAY, to.namespace(), ends);
        let plain = plain(lab, ends);
        assert!(plain.len() > 40, "{} flows", plain.len());
        for (port, packets) in &plain {
            let ours = ours.get(port).unwrap_or_else(|| panic!("{ends:?}: flow {port:?} did not arrive"));
            for (index, (ours, plain)) in ours.iter().zip(packets).enumerate() {
                assert_eq!(ours, plain, "{ends:?}: packet {index} of flow {port:?}");
            }
            assert_eq!(ours.len(), packets.len(), "{ends:?}: flow {port:?}");
        }
        assert_eq!(ours.len(), plain.len());
    }
}

/// `v6`: the tunnels run over IPv6; BGP stays where it is.
fn remote(encapsulation: &str, v6: bool) {
    let lab = Lab::new();
    let config = |own, other| {
        let config = gateway(own, &[other]).encapsulations(&[encapsulation]);
        if v6 { config.underlay(underlay_v6(own).into()) } else { config }
    };
    let (one, two) = pair_with(&lab, &config(11, 12), &config(12, 11));
    let (near, far) = (one.add_pod("near"), two.add_pod("far"));
    wait_routes(&one, &far.addresses());
    wait_routes(&two, &near.addresses());
    let hops = one.route("city", &format!("{}/32", far.v4()));
    assert_eq!(hops[0]["ip"].as_str().is_some_and(|to| to.contains(':')), v6, "{hops:?}");
    same_as_plain(&lab, &near, (&two, &far));
    assert_eq!((one.faults(), two.faults()), Default::default());
}

#[test]
fn what_arrives_over_mpls_over_udp_is_what_a_veth_brings() {
    remote("mpls-over-udp", false);
}

#[test]
fn what_arrives_over_mpls_over_gre_is_what_a_veth_brings() {
    remote("mpls-over-gre", false);
}

#[test]
fn what_arrives_over_mpls_over_udp_and_ipv6_is_what_a_veth_brings() {
    remote("mpls-over-udp", true);
}

#[test]
fn what_arrives_over_mpls_over_gre_and_ipv6_is_what_a_veth_brings() {
    remote("mpls-over-gre", true);
}

#[test]
fn what_arrives_from_the_same_node_is_what_a_veth_brings() {
    let lab = Lab::new();
    let node = Node::start(&lab, "gw-11", 11, &gateway(11, &[]));
    let (near, far) = (node.add_pod("near"), node.add_pod("far"));
    same_as_plain(&lab, &near, (&node, &far));
    assert_eq!(node.faults(), Default::default());
}
