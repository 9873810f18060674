//! Several workers: packets of one flow never overtake each other, whoever forwards them.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use vrouter_tests::bulk::{expected, transfer};
use vrouter_tests::fixture::{gateway, pair_with, wait_routes};
use vrouter_tests::{Lab, Node, Pod};

const FLOWS: usize = 24;
const ROUNDS: u32 = 150;
/// Datagrams of one flow in a row: what a kernel and we join.
const BURST: u32 = 5;
/// Datagrams on their way at a time: fewer than any queue between the ends holds.
const UNDERWAY: usize = 400;
const OCTETS: u64 = 4 << 20;

fn scene(lab: &Lab, encapsulation: &str, workers: usize) -> (Node, Node, [Pod; 2], Pod) {
    let config = |own, other| {
        let lines = format!("[dataplane]\nworkers = {workers}");
        gateway(own, &[other]).encapsulations(&[encapsulation]).section(&lines)
    };
    let (one, two) = pair_with(lab, &config(11, 12), &config(12, 11));
    // Two ports: two workers receive.
    let (near, far) = ([one.add_pod("near-1"), one.add_pod("near-2")], two.add_pod("far"));
    wait_routes(&one, &far.addresses());
    near.iter().for_each(|pod| wait_routes(&two, &pod.addresses()));
    (one, two, near, far)
}

/// Numbered datagrams of many flows at a steady pace, slower where they arrive more slowly; and how many arrived in all.
/// Each flow's numbers must rise.
fn numbered(near: &[Pod; 2], far: &Pod) -> usize {
    let sink = far.namespace().run(|| UdpSocket::bind((far.v4(), 7000))).unwrap();
    sink.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    let arrived = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&arrived);
    let reader = std::thread::spawn(move || {
        let (mut last, mut datagram) = (vec![None; FLOWS], [0; 1500]);
        while let Ok(length) = sink.recv(&mut datagram) {
            assert!(length >= 8);
            let field = |at: usize| u32::from_be_bytes(datagram[at..at + 4].try_into().unwrap());
            let (flow, number) = (field(0) as usize, field(4));
            assert!(last[flow] < Some(number), "flow {flow}: {number} behind {:?}", last[flow]);
            last[flow] = Some(number);
            counter.fetch_add(1, Relaxed);
        }
    });
    let sources: Vec<UdpSocket> = (0..FLOWS)
        .map(|flow| {
            let source = near[flow % 2].namespace().run(|| UdpSocket::bind("0.0.0.0:0")).unwrap();
            source.connect((far.v4(), 7000)).unwrap();
            source
        })
        .collect();
    let begin = Instant::now();
    for round in 0..ROUNDS {
        for (flow, source) in sources.iter().enumerate() {
            for number in round * BURST..(round + 1) * BURST {
                let head = [u32::try_from(flow).unwrap().to_be_bytes(), number.to_be_bytes()].concat();
                // Equal lengths join, others do not.
                let length =
                    if (number + round).is_multiple_of(3) { 30 + number as usize % 400 } else { 300 };
                source.send(&[&head[..], &vec![0x5a; length]].concat()).unwrap();
            }
        }
        let due = Duration::from_millis(u64::from(round) * 10);
        std::thread::sleep(due.saturating_sub(begin.elapsed()));
        let sent = FLOWS * ((round + 1) * BURST) as usize;
        let patience = Instant::now() + Duration::from_millis(500);
        while sent - arrived.load(Relaxed) > UNDERWAY && Instant::now() < patience {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    reader.join().unwrap();
    arrived.load(Relaxed)
}

fn flows_keep_their_order(encapsulation: &str, workers: usize) {
    let lab = Lab::new();
    let (one, two, near, far) = scene(&lab, encapsulation, workers);
    let sent = FLOWS * (ROUNDS * BURST) as usize;
    let arrived = numbered(&near, &far);
    assert!(arrived > sent * 9 / 10, "{arrived} of {sent} arrived");
    // Both ways at once, on many connections.
    std::thread::scope(|scope| {
        for (place, pod) in near.iter().enumerate() {
            for (from, to, base) in [(pod, &far, 5000), (&far, pod, 6000)] {
                scope.spawn(move || {
                    let there = SocketAddr::new(to.v4().into(), base + u16::try_from(place).unwrap());
                    let arrived = transfer(from.namespace(), to.namespace(), there, OCTETS).unwrap();
                    assert_eq!((arrived.octets, arrived.digest), expected(OCTETS), "to {there}");
                });
            }
        }
    });
    for node in [&one, &two] {
        assert!(!node.faults().contains_key("send-failed"), "{:?}", node.faults());
    }
}

#[test]
fn two_workers_keep_every_flow_in_order_over_udp() {
    flows_keep_their_order("mpls-over-udp", 2);
}

#[test]
fn three_workers_keep_every_flow_in_order_over_gre() {
    flows_keep_their_order("mpls-over-gre", 3);
}

#[test]
fn four_workers_keep_every_flow_in_order_over_udp() {
    flows_keep_their_order("mpls-over-udp", 4);
}
