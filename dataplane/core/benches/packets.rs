//! What one packet costs in the pure core, in nanoseconds: `cargo bench -p dataplane-core`.
//!
//! Each figure is the median of several rounds, with the fastest and the slowest beside it: the machine has other
//! things to do. The routes are 10,000 prefixes of mixed length, the flows many, so that caches see what they would in
//! the field; the same flow again and again shows what a packet costs at best.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a bench may")]
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_macros,
    reason = "it asks the clock, and tells people"
)]

use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use dataplane_core::coalesce::{Coalescer, MAX_HEADER};
use dataplane_core::policy::{Policy, Remote, Rule, Service};
use dataplane_core::segment::{Headers, Step, label_entry, segment};
use dataplane_core::{
    Fib, FlowLimits, FlowTable, Frame, Gso, Hop, HostFlows, Outer, Port, Route, State, Tunnel, TunnelId,
    Verdict, VnetHeader, Vrf, from_port, from_underlay,
};
use vrouter_types::{Encap, Label, MacAddr, PortId, Prefix, VrfId};

#[path = "../tests/pipeline/packets.rs"]
mod packets;

use packets::{df, ethernet, labelled, tcp, udp_ports};

const ROUNDS: usize = 11;
const ROUTES: u32 = 10_000;
const PORT: PortId = PortId(0);
const GATEWAY: [u8; 6] = [0, 0, 0x5e, 0, 1, 0];
const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];

/// Runs `work` on each of `inputs` in turn, `count` times a round, and prints nanoseconds per unit.
fn measure<T>(name: &str, units: usize, inputs: &mut [T], mut work: impl FnMut(&mut T)) {
    let count = (200_000 / units).max(inputs.len());
    let mut rounds: Vec<f64> = (0..ROUNDS)
        .map(|_| {
            let start = Instant::now();
            for turn in 0..count {
                let index = turn % inputs.len();
                work(&mut inputs[index]);
            }
            start.elapsed().as_secs_f64() * 1e9 / (count * units) as f64
        })
        .collect();
    rounds.sort_by(f64::total_cmp);
    println!("{name:<74} {:>8.1} ns   ({:.1} to {:.1})", rounds[ROUNDS / 2], rounds[0], rounds[ROUNDS - 1]);
}

fn label(value: u32) -> Label {
    Label::new(value).unwrap()
}

/// A node with one port and `routes` prefixes behind two provider edges.
fn fib(routes: u32) -> Fib {
    let mut fib = Fib::new();
    fib.generation = 1;
    let addresses = vec!["10.0.0.2".parse().unwrap(), "fd00::2".parse().unwrap()];
    let port = Port { addresses, mtu: 1468, ..Port::new(PORT, VrfId(0), MacAddr(MAC)) };
    fib.insert_port(Arc::new(port));
    fib.ilm.insert(label(16), PORT);
    for id in 0..2u8 {
        let tunnel = Tunnel { remote: [192, 0, 2, id + 1].into(), encap: Encap::MplsOverUdp, mtu: 1468 };
        fib.sources.insert(tunnel.remote);
        fib.insert_tunnel(TunnelId(id.into()), tunnel);
    }
    let mut vrf = Vrf::new(VrfId(0), "bench");
    for index in 0..routes {
        let hops: Box<[Hop]> = if index % 8 == 0 {
            [0, 1].map(|id| Hop { tunnel: TunnelId(id), label: label(100 + id) }).into()
        } else {
            [Hop { tunnel: TunnelId(index % 2), label: label(200 + index) }].into()
        };
        let [_, a, b, c] = index.wrapping_mul(2_654_435_761).to_be_bytes();
        let len = [24, 32, 28, 20][index as usize % 4];
        let v4 = Prefix::new([20 + a % 64, b, c, 0].into(), len).unwrap();
        let v6 = [0xfd00, u16::from(a), u16::from(b), u16::from(c), 0, 0, 0, 0];
        vrf.routes.insert(v4, Route::Tunnel(hops.clone()));
        vrf.routes.insert(
            Prefix::new(v6.into(), [64, 128, 72, 60][index as usize % 4]).unwrap(),
            Route::Tunnel(hops),
        );
    }
    vrf.routes.insert(
        "0.0.0.0/0".parse().unwrap(),
        Route::Tunnel([Hop { tunnel: TunnelId(0), label: label(99) }].into()),
    );
    vrf.routes.insert(
        "::/0".parse().unwrap(),
        Route::Tunnel([Hop { tunnel: TunnelId(0), label: label(99) }].into()),
    );
    vrf.routes.insert("10.0.0.2/32".parse().unwrap(), Route::Port(PORT));
    fib.insert_vrf(Arc::new(vrf));
    fib
}

fn state() -> State {
    State::new(Arc::new(HostFlows::new(1024, [0x5eed, 0xf00d])))
}

/// Where flow number `n` goes.
fn destination(v6: bool, n: u32) -> String {
    let [_, a, b, c] = n.wrapping_mul(2_654_435_761).to_be_bytes();
    if v6 { format!("fd00:{a:x}:{b:x}:{c:x}::1") } else { format!("{}.{b}.{c}.1", 20 + a % 64) }
}

fn frames(v6: bool, flows: u32) -> Vec<Vec<u8>> {
    let source = if v6 { "fd00::2" } else { "10.0.0.2" };
    let ports = |n: u32| (u16::try_from(1024 + n % 50_000).unwrap(), 53);
    (0..flows)
        .map(|n| ethernet(GATEWAY, MAC, &udp_ports(source, &destination(v6, n % ROUTES), ports(n), 18)))
        .collect()
}

fn lookups() {
    for v6 in [false, true] {
        let family = if v6 { "IPv6" } else { "IPv4" };
        for routes in [100, ROUTES] {
            let fib = fib(routes);
            let vrf = fib.vrf(VrfId(0)).unwrap();
            let mut addrs: Vec<std::net::IpAddr> =
                (0..routes).map(|n| destination(v6, n).parse().unwrap()).collect();
            measure(&format!("longest prefix match, {family}, {routes} routes"), 1, &mut addrs, |addr| {
                black_box(vrf.routes.lookup(black_box(*addr)));
            });
        }
    }
}

fn pipeline(remembered: bool) {
    let mut fib = fib(ROUTES);
    // Nothing is remembered of a snapshot that was never published.
    fib.generation = u64::from(remembered);
    let how = if remembered { "remembered" } else { "by the routes" };
    for (v6, flows) in [(false, 1), (false, 1000), (false, 50_000), (true, 1), (true, 1000)] {
        let mut state = state();
        let mut frames = frames(v6, flows);
        let family = if v6 { "IPv6" } else { "IPv4" };
        measure(
            &format!("from_port to a tunnel, {family}, 18 octets, {flows} flows, {how}"),
            1,
            &mut frames,
            |bytes| {
                // The TTL is put back, or it would run out.
                let at = if v6 { 14 + 7 } else { 14 + 8 };
                let (before, sum) = (bytes[at], [bytes[24], bytes[25]]);
                let verdict =
                    from_port(&fib, &mut state, PORT, &mut Frame::new(black_box(bytes), VnetHeader::NONE));
                assert!(matches!(verdict, Verdict::ToUnderlay(_)));
                bytes[at] = before;
                if !v6 {
                    bytes[24..26].copy_from_slice(&sum);
                }
            },
        );
    }
    let mut state = state();
    let outer = Outer { src: [192, 0, 2, 1].into(), encap: Encap::MplsOverUdp, tos: 0 };
    let inner = udp_ports("20.1.2.3", "10.0.0.2", (53, 1024), 18);
    measure("from_underlay to a port, IPv4, 18 octets", 1, &mut [labelled(16, true, 64, &inner)], |bytes| {
        let (ttl, sum) = (bytes[12], [bytes[14], bytes[15]]);
        let verdict =
            from_underlay(&fib, &mut state, outer, &mut Frame::new(black_box(bytes), VnetHeader::NONE));
        assert!(matches!(verdict, Verdict::ToPort(_)));
        bytes[12] = ttl;
        bytes[14..16].copy_from_slice(&sum);
    });
}

/// What a port with a policy pays beside: 16,000 flows that are known, and flows that begin where others are over.
fn flows() {
    let mut fib = fib(ROUTES);
    let any = Rule { v4: true, protocol: None, service: Service::Any, remote: Remote::Any };
    let policy = Policy { generation: 1, egress: [any].into(), ..Policy::default() };
    let mut port = Port::clone(fib.port(PORT).unwrap());
    port.policy = Some(Arc::new(policy));
    fib.insert_port(Arc::new(port));
    for many in [1u16, 16_000] {
        let packet =
            |source| ethernet(GATEWAY, MAC, &udp_ports("10.0.0.2", "20.1.2.3", (1024 + source, 53), 18));
        let mut frames: Vec<Vec<u8>> = (0..many).map(packet).collect();
        for (what, pause_ms) in [("known", 0), ("that begins", 31_000)] {
            let table = FlowTable::new(FlowLimits::default(), [1, 2]);
            table.prepare();
            let mut state = State::sharing(Arc::new(HostFlows::new(16, [1, 2])), Arc::new(table));
            let mut count = 0u64;
            measure(&format!("from_port with a policy, a flow {what}, of {many}"), 1, &mut frames, |bytes| {
                // Once all have been seen, they are over.
                count += 1;
                if count.is_multiple_of(many.into()) {
                    state.now_ms += pause_ms;
                }
                let (ttl, sum) = (bytes[22], [bytes[24], bytes[25]]);
                let verdict =
                    from_port(&fib, &mut state, PORT, &mut Frame::new(black_box(bytes), VnetHeader::NONE));
                assert!(matches!(verdict, Verdict::ToUnderlay(_)), "{verdict:?}");
                bytes[22] = ttl;
                bytes[24..26].copy_from_slice(&sum);
            });
        }
    }
}

/// A TCP superframe of 60,000 octets of payload, in segments of 1,400, and its virtio-net header.
fn superframe() -> (Vec<u8>, VnetHeader) {
    let bytes = df(tcp("10.0.0.2", "20.1.2.3", 0x10, &[1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2], 60_000));
    let vnet = VnetHeader {
        needs_csum: true,
        gso: Gso::TcpV4,
        gso_size: 1400,
        hdr_len: 52,
        csum_start: 20,
        csum_offset: 16,
        ..VnetHeader::NONE
    };
    (bytes, vnet)
}

fn cut(bytes: &mut [u8], vnet: VnetHeader, memory: &mut [u8]) -> Vec<Vec<u8>> {
    let entry = label_entry(label(9), 0, 64);
    let mut slices = segment(&mut Frame::new(bytes, vnet), &entry, 1468, false).unwrap();
    let (mut headers, mut out) = (Headers::new(memory, 0), Vec::new());
    let mut pieces = Vec::new();
    while let Step::Slice(slice) = slices.next(bytes, &mut headers) {
        pieces.push(slice);
    }
    for slice in pieces {
        out.push([&memory[slice.header.start + 4..slice.header.end], &bytes[slice.payload]].concat());
    }
    out
}

fn bulk() {
    let (mut bytes, vnet) = superframe();
    let mut memory = vec![0; 64 * 1024];
    let packets = cut(&mut bytes, vnet, &mut memory);
    let count = packets.len();
    measure("segment, TCP of 1,400 octets, per segment", count, &mut [()], |()| {
        let entry = label_entry(label(9), 0, 64);
        let mut slices = segment(&mut Frame::new(&mut bytes, vnet), &entry, 1468, false).unwrap();
        let mut headers = Headers::new(&mut memory, 0);
        while let Step::Slice(slice) = slices.next(&bytes, &mut headers) {
            black_box(slice);
        }
    });
    let mut arena = Vec::new();
    let mut ranges = Vec::new();
    for packet in &packets {
        ranges.push(arena.len()..arena.len() + packet.len());
        arena.extend(packet);
    }
    let mut coalescer = Coalescer::new(count);
    measure("coalesce, TCP of 1,400 octets, per segment", count, &mut [()], |()| {
        coalescer.clear();
        for range in &ranges {
            coalescer.push(&arena, 0, range.clone(), &VnetHeader::NONE);
        }
        let mut header = [0; MAX_HEADER];
        for group in coalescer.groups() {
            black_box(coalescer.write_header(group, &arena, &mut header));
        }
        assert_eq!(coalescer.groups().len(), 1);
    });
    let small: Vec<Vec<u8>> = (0..64).map(|_| df(udp_ports("10.0.0.2", "20.1.2.3", (5, 6), 18))).collect();
    let arena = small.concat();
    let len = small[0].len();
    let mut coalescer = Coalescer::new(64);
    measure("coalesce, UDP of 18 octets, per datagram", 64, &mut [()], |()| {
        coalescer.clear();
        for index in 0..64 {
            coalescer.push(&arena, 0, index * len..(index + 1) * len, &VnetHeader::NONE);
        }
        assert_eq!(coalescer.groups().len(), 1);
    });
}

fn main() {
    lookups();
    pipeline(false);
    pipeline(true);
    flows();
    bulk();
}
