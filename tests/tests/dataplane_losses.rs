//! Real TCP between real kernels over a wire that loses, doubles, overtakes and marks packets: every octet arrives, in
//! order, whatever options the two ends have agreed on. The receivers check every checksum themselves.
//!
//! ```text
//!   pod ─ vrouter ─ eth0 ═══ gw-11 ─ relay in user space ─ gw-12 ═══ eth0 ─ vrouter ─ pod
//! ```
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::SocketAddr;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::Duration;

use vrouter_tests::fixture::{gateway, pair_with, wait_routes};
use vrouter_tests::packets::checksum;
use vrouter_tests::process::run_ok;
use vrouter_tests::{Lab, Namespace, Node, Pod, bulk, sys, transfer};

/// What the wire has done.
#[derive(Default)]
struct Done {
    lost: AtomicUsize,
    doubled: AtomicUsize,
    overtaken: AtomicUsize,
    marked: AtomicUsize,
}

/// A wire between two sites, in place of the bridge. It is a good one until told otherwise.
struct Wire {
    bad: Arc<AtomicBool>,
    ended: Arc<AtomicBool>,
    done: Arc<Done>,
    ways: Vec<JoinHandle<()>>,
}

impl Wire {
    /// Between the far ends of two nodes' uplinks.
    fn between(lab: &Lab, one: &Node, two: &Node) -> Wire {
        let wan = lab.wan();
        let mut sockets = Vec::new();
        for node in [one, two] {
            // Single packets with complete checksums, as they are on a real wire.
            let off = ["-K", "eth0", "tx", "off", "tso", "off", "gso", "off"];
            run_ok(node.namespace(), Command::new("ethtool").args(off));
            run_ok(wan, Command::new("ip").args(["link", "set", node.name(), "nomaster"]));
            let link = wan.netlink(|netlink| netlink.link(node.name()));
            let socket = wan.run(|| sys::packet_socket(link.index, Duration::from_millis(2))).unwrap();
            sys::ignore_outgoing(&socket).unwrap();
            sockets.push(socket);
        }
        let (bad, ended, done) = (Arc::default(), Arc::default(), Arc::new(Done::default()));
        let mut wire = Wire { bad, ended, done, ways: Vec::new() };
        for (from, to, seed) in [(0, 1, 0x9e37_79b9_u64), (1, 0, 0x7f4a_7c15)] {
            let (from, to) = (sockets[from].try_clone().unwrap(), sockets[to].try_clone().unwrap());
            let (bad, ended, done) = (wire.bad.clone(), wire.ended.clone(), wire.done.clone());
            wire.ways.push(std::thread::spawn(move || carry(from, to, seed, &bad, &ended, &done)));
        }
        wire
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.ended.store(true, Relaxed);
        for way in self.ways.drain(..) {
            let _ = way.join();
        }
    }
}

/// Carries frames one way. A frame that is overtaken waits for three others, or until nothing comes.
fn carry(mut from: File, mut to: File, seed: u64, bad: &AtomicBool, ended: &AtomicBool, done: &Done) {
    let (mut random, mut held, mut wait) = (seed, None::<Vec<u8>>, 0);
    let mut buffer = vec![0; 1 << 17];
    while !ended.load(Relaxed) {
        let length = from.read(&mut buffer).unwrap_or(0);
        let frame = &mut buffer[..length];
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let fate = if bad.load(Relaxed) && length > 0 { random >> 33 & 1023 } else { 1023 };
        match fate {
            0..10 => {
                done.lost.fetch_add(1, Relaxed);
                continue;
            }
            10..15 => {
                done.doubled.fetch_add(1, Relaxed);
                let _ = to.write_all(frame);
            }
            15..25 if held.is_none() => {
                done.overtaken.fetch_add(1, Relaxed);
                (held, wait) = (Some(frame.to_vec()), 3);
                continue;
            }
            25..60 if mark(frame) => {
                done.marked.fetch_add(1, Relaxed);
            }
            _ => {}
        }
        if length > 0 {
            // What does not go is lost, as on any wire.
            let _ = to.write_all(frame);
        }
        wait -= 1;
        if wait <= 0 || length == 0 {
            held.take().inspect(|frame| drop(to.write_all(frame)));
        }
    }
}

/// Marks congestion on a frame of IPv4 whose sender can hear of it (RFC 3168 §5).
fn mark(frame: &mut [u8]) -> bool {
    let Some(header) = frame.get_mut(14..34) else { return false };
    if header[0] != 0x45 || !matches!(header[1] & 3, 1 | 2) {
        return false;
    }
    header[1] |= 3;
    header[10..12].fill(0);
    let sum = checksum(header, 0).to_be_bytes();
    header[10..12].copy_from_slice(&sum);
    true
}

/// Congestion marks that this namespace's kernel saw.
fn marks_seen(namespace: &Namespace) -> u64 {
    let text = namespace.run(|| std::fs::read_to_string("/proc/thread-self/net/netstat")).unwrap();
    let mut lines = text.lines().filter(|line| line.starts_with("IpExt:"));
    let (names, values) = (lines.next().unwrap(), lines.next().unwrap());
    let found = names.split(' ').zip(values.split(' ')).find(|(name, _)| *name == "InCEPkts");
    found.unwrap().1.parse().unwrap()
}

/// Options that a real SYN negotiates: timestamps, selective acknowledgement, congestion marks.
fn agree(pods: [&Pod; 2], [timestamps, sack, ecn]: [bool; 3]) {
    for pod in pods {
        for (name, on) in [("timestamps", timestamps), ("sack", sack), ("ecn", ecn)] {
            pod.namespace().set_sysctl(&format!("net/ipv4/tcp_{name}"), if on { "1" } else { "0" });
        }
    }
}

fn every_octet_arrives_over(encapsulation: &str) {
    let lab = Lab::new();
    let config = |own, other| gateway(own, &[other]).encapsulations(&[encapsulation]);
    let (one, two) = pair_with(&lab, &config(11, 12), &config(12, 11));
    let wire = Wire::between(&lab, &one, &two);
    let (near, far) = (one.add_pod("near"), two.add_pod("far"));
    wait_routes(&one, &far.addresses());
    wait_routes(&two, &near.addresses());
    for pod in [&near, &far] {
        run_ok(pod.namespace(), Command::new("ethtool").args(["-K", "eth0", "rx", "off"]));
    }
    wire.bad.store(true, Relaxed);
    let mut port = 5000;
    for options in [[true, true, true], [false, true, true], [true, false, false]] {
        agree([&near, &far], options);
        for (from, to) in [(&near, &far), (&far, &near)] {
            for address in to.addresses() {
                port += 1;
                let octets = 1 << 20;
                let to_address = SocketAddr::new(address, port);
                let arrived = transfer(from.namespace(), to.namespace(), to_address, octets).unwrap();
                assert_eq!(
                    (arrived.octets, arrived.digest),
                    bulk::expected(octets),
                    "{options:?} to {address}"
                );
            }
        }
    }
    let done = &wire.done;
    for (what, count) in [("lost", &done.lost), ("doubled", &done.doubled), ("overtaken", &done.overtaken)] {
        assert!(count.load(Relaxed) > 10, "only {} packets were {what}", count.load(Relaxed));
    }
    // Marks on tunnel packets reach the pods' own kernels, and nothing marks what cannot hear of it.
    assert!(done.marked.load(Relaxed) > 10);
    assert!(marks_seen(near.namespace()) + marks_seen(far.namespace()) > 0);
    assert_eq!((one.faults(), two.faults()), Default::default());
}

#[test]
fn every_octet_arrives_over_mpls_over_udp_on_a_bad_wire() {
    every_octet_arrives_over("mpls-over-udp");
}

#[test]
fn every_octet_arrives_over_mpls_over_gre_on_a_bad_wire() {
    every_octet_arrives_over("mpls-over-gre");
}
