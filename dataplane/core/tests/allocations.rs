//! No packet allocates: a counting allocator says so.

#![allow(clippy::unwrap_used, reason = "a test may")]

#[path = "pipeline/lab.rs"]
#[allow(dead_code, reason = "shared with the pipeline's tests")]
mod lab;
#[path = "pipeline/packets.rs"]
mod packets;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use std::sync::Arc;

use dataplane_core::policy::{Policy, Remote, Rule, Service};
use dataplane_core::{
    Frame, Port, ReplyTo, Snat, StaticNat, Verdict, VnetHeader, Vrf, from_host, from_port, from_underlay,
};
use lab::{CITY, GATEWAY, Lab, mac, outer};
use vrouter_types::VrfId;

use packets::{arp, df, echo, ethernet, labelled, solicitation, tcp, ttl, udp, udp_ports};

struct Counting;

thread_local! {
    // Per thread: the test harness allocates on its own.
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
}

fn count() {
    // Where the thread's own storage is gone, it ends, and nobody counts any more.
    let _ = ALLOCATIONS.try_with(|count| count.set(count.get() + 1));
}

// SAFETY: every call is handed to the system's allocator as it came; counting neither allocates nor unwinds.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's promise about the layout is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: the caller's promise about the memory, its layout and the new size is passed on.
        unsafe { System.realloc(memory, layout, size) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise about the memory and its layout is passed on.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// What ran, and how often it allocated.
fn counted(run: impl FnOnce() -> Verdict) -> (Verdict, usize) {
    let before = ALLOCATIONS.get();
    let verdict = run();
    (verdict, ALLOCATIONS.get() - before)
}

#[test]
fn the_counter_counts() {
    let (_, allocations) = counted(|| {
        drop(std::hint::black_box(vec![1u8; 100]));
        Verdict::ToHost
    });
    assert_eq!(allocations, 1);
}

#[test]
fn no_frame_from_a_port_allocates() {
    let mut lab = Lab::new();
    // As published: flows are remembered.
    lab.fib.generation = 1;
    let packets = [
        ("to a tunnel", udp("10.20.11.2", "10.20.12.7", 100)),
        ("to one of two tunnels", udp("10.20.11.2", "10.20.14.7", 100)),
        ("to a tunnel over IPv6", tcp("fd00:20:11::2", "fd00:20:12::7", 2, &[2, 4, 5, 0xb4], 0)),
        ("to a port", udp("10.20.11.2", "10.20.11.3", 100)),
        ("ping", echo("10.20.11.2", "169.254.1.1", 8, 1)),
        ("discovery", solicitation("fd00:20:11::2", "ff02::1:ff00:1", "fe80::1", mac(CITY))),
        ("no route", udp("10.20.11.2", "203.0.113.9", 100)),
        ("too big", df(udp("10.20.11.2", "10.20.13.7", 1400))),
        ("expired", ttl(udp("fd00:20:11::2", "fd00:20:12::7", 100), 1)),
        ("spoofed", udp("10.20.11.9", "10.20.12.7", 100)),
    ];
    let mut frames: Vec<_> =
        packets.into_iter().map(|(name, packet)| (name, ethernet(GATEWAY, mac(CITY), &packet))).collect();
    frames.push(("ARP", arp(1, mac(CITY), "10.20.11.2", "169.254.1.1")));
    let mut again = frames.clone();
    for (name, bytes) in frames.iter_mut().chain(&mut again) {
        let mut frame = Frame::new(bytes, VnetHeader::NONE);
        let (verdict, allocations) = counted(|| from_port(&lab.fib, &mut lab.state, CITY, &mut frame));
        assert_eq!(allocations, 0, "{name}: {verdict:?}");
    }
}

#[test]
fn no_tunnel_packet_and_no_packet_from_the_host_allocates() {
    let mut lab = Lab::new();
    for (name, inner) in [
        ("delivered", udp("10.20.12.7", "10.20.11.2", 100)),
        ("a SYN", tcp("10.20.12.7", "10.20.11.2", 2, &[2, 4, 5, 0xb4], 0)),
        ("expired", ttl(udp("10.20.12.7", "10.20.11.2", 100), 1)),
        ("lying", udp("10.20.12.7", "10.20.11.2", 100)[..50].to_vec()),
    ] {
        let mut bytes = labelled(16, true, 64, &inner);
        let mut frame = Frame::new(&mut bytes, VnetHeader::NONE);
        let outer = outer("192.0.2.1", 0);
        let (verdict, allocations) = counted(|| from_underlay(&lab.fib, &mut lab.state, outer, &mut frame));
        assert_eq!(allocations, 0, "{name}: {verdict:?}");
        assert!(name != "expired" || matches!(verdict, Verdict::Reply(ReplyTo::Underlay(_))));
    }
    for dst in ["10.20.11.2", "10.20.12.7"] {
        let mut bytes = udp("169.254.1.1", dst, 100);
        let mut frame = Frame::new(&mut bytes, VnetHeader::NONE);
        let (verdict, allocations) = counted(|| from_host(&lab.fib, &mut lab.state, &mut frame));
        assert_eq!(allocations, 0, "{verdict:?}");
    }
}

#[test]
fn no_packet_of_a_flow_allocates() {
    let mut lab = Lab::new();
    lab.fib.generation = 1;
    let mut vrf = Vrf::clone(lab.fib.vrfs[0].as_ref().unwrap());
    vrf.snat = Some(Snat::BOTH);
    lab.fib.vrfs[0] = Some(Arc::new(vrf));
    let mut port = Port::clone(lab.fib.port(CITY).unwrap());
    let any = |v4| Rule { v4, protocol: None, service: Service::Any, remote: Remote::Any };
    let policy = Policy { generation: 1, egress: [any(true), any(false)].into(), ..Policy::default() };
    port.policy = Some(Arc::new(policy));
    let floating = "198.51.100.3".parse().unwrap();
    port.nat = vec![StaticNat { fixed: "10.20.11.3".parse().unwrap(), floating, vrf: VrfId(1) }];
    lab.fib.insert_port(Arc::new(port));
    // The second of each is known.
    for packet in [
        udp("10.20.11.2", "10.20.12.7", 100),
        udp("10.20.11.2", "203.0.113.9", 100),
        echo("fd00:20:11::2", "2001:db8::9", 128, 7),
    ] {
        for round in ["begins", "goes on"] {
            let mut bytes = ethernet(GATEWAY, mac(CITY), &packet);
            let mut frame = Frame::new(&mut bytes, VnetHeader::NONE);
            let (verdict, allocations) = counted(|| from_port(&lab.fib, &mut lab.state, CITY, &mut frame));
            assert_eq!(allocations, 0, "a flow {round}: {verdict:?}");
            assert!(matches!(verdict, Verdict::ToUnderlay(_) | Verdict::ToHost));
        }
    }
    for bytes in
        [udp_ports("203.0.113.9", "169.254.64.2", (9, 40000), 9), udp("203.0.113.9", "169.254.64.2", 9)]
    {
        let mut bytes = bytes;
        let mut frame = Frame::new(&mut bytes, VnetHeader::NONE);
        let (verdict, allocations) = counted(|| from_host(&lab.fib, &mut lab.state, &mut frame));
        assert_eq!(allocations, 0, "{verdict:?}");
    }
    for dst in ["10.20.11.2", "198.51.100.3"] {
        let mut bytes = labelled(16, true, 64, &udp("10.20.12.7", dst, 100));
        let mut frame = Frame::new(&mut bytes, VnetHeader::NONE);
        let (verdict, allocations) =
            counted(|| from_underlay(&lab.fib, &mut lab.state, outer("192.0.2.1", 0), &mut frame));
        assert_eq!(allocations, 0, "refused by policy: {verdict:?}");
    }
}
