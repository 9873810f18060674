//! What reflecting costs without sockets: a table of VPNv4 routes goes in from one client and out to another.
//!
//! `rib_load [ROUTES [PER_SET [RUNS]]]` prints time per route for reading, deciding and writing, octets held per route,
//! and what is left when all is withdrawn.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a measurement")]

use std::hint::black_box;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use bgp_core::wire::attr::set::{AttrSet, LocalAttributes};
use bgp_core::wire::header;
use bgp_core::wire::nlri::Nlri;
use bgp_core::wire::update::Update;
use bgp_core::wire::update::writer::UpdateWriter;
use bgp_core::{Family, FamilySet, Negotiated, PeerDown, PeerId, PeerPolicy, Rib, RibConfig};
use bytes::BytesMut;
use vrouter_types::{Asn, Encap, EncapSet, Label, Prefix, RouteDistinguisher, RouteTarget, VpnPrefix};

const ASN: Asn = Asn(65000);
const US: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 1);

fn session(peer: Ipv4Addr) -> Negotiated {
    Negotiated {
        local_asn: ASN,
        peer_asn: ASN,
        local_router_id: US,
        peer_router_id: peer,
        is_ibgp: true,
        as4: true,
        hold_time: 90,
        families: FamilySet::from_iter([Family::Vpnv4]),
        extended_message: false,
        route_refresh: true,
        enhanced_route_refresh: false,
        extended_nexthop: FamilySet::EMPTY,
        restart: bgp_core::RestartTerms::default(),
    }
}

/// UPDATE bodies: sets of attributes with so many routes each.
fn feed(routes: u32, per_set: u32) -> Vec<Vec<u8>> {
    let sets = (0..routes).step_by(usize::try_from(per_set).unwrap()).zip(0u32..);
    let body = |(first, k): (u32, u32)| {
        let vrf = k % 1000 + 1;
        let target = |number: u32| -> RouteTarget { format!("target:65000:{number}").parse().unwrap() };
        let local = LocalAttributes {
            next_hop: Ipv4Addr::from(0x0a63_0400 + k % 300).into(),
            local_pref: 100,
            med: None,
            route_targets: &[target(vrf), target(100_000 + vrf)],
            encaps: EncapSet::from_iter([Encap::MplsOverUdp]),
            as_path: &[],
            communities: &[],
            large_communities: &[],
            hash_order: None,
        };
        let (mut octets, mut exported, mut out) = (Vec::new(), Vec::new(), BytesMut::new());
        local.canonical(&mut octets);
        AttrSet::new(&octets).export(Family::Vpnv4, &session(US), &mut exported);
        let mut update = UpdateWriter::announce(&mut out, Family::Vpnv4, local.next_hop, &exported, 4096);
        for x in first..(first + per_set).min(routes) {
            let rd: RouteDistinguisher = format!("65000:{vrf}").parse().unwrap();
            let prefix = Prefix::new(Ipv4Addr::from(0x0b00_0000 + x).into(), 32).unwrap();
            assert!(
                update.push(&Nlri::Vpn(VpnPrefix { rd, prefix }, Label::new(16 + x % 1_000_000).unwrap()))
            );
        }
        update.finish();
        out[header::LEN..].to_vec()
    };
    sets.map(body).collect()
}

fn resident() -> usize {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: usize = text.split(' ').nth(1).and_then(|pages| pages.parse().ok()).unwrap_or_default();
    pages * 4096
}

fn drain(rib: &mut Rib, peer: PeerId) -> (usize, usize) {
    let (mut messages, mut octets, mut out) = (0, 0, BytesMut::with_capacity(16 * 1024));
    while rib.poll_message(peer, &mut out) {
        messages += 1;
        octets += out.len();
        out.clear();
    }
    (messages, octets)
}

fn run(bodies: &[Vec<u8>], routes: u32) {
    let config = RibConfig { asn: ASN, router_id: US, cluster_id: US, max_paths: 10_000_000 };
    let (mut rib, now) = (Rib::new(config), Instant::now());
    let (feeder, receiver) = (PeerId(0), PeerId(1));
    for (peer, last) in [(receiver, 3), (feeder, 2)] {
        let address = Ipv4Addr::new(10, 99, 0, last);
        let policy = PeerPolicy { route_reflector_client: true, ..PeerPolicy::new(address.into()) };
        rib.peer_up(peer, policy, &session(address), now);
    }
    let idle = resident();
    let per_route = |time: Duration| time.as_nanos() / u128::from(routes);
    let (mut reading, mut writing) = (Duration::ZERO, Duration::ZERO);
    let mut sent = (0, 0);
    // As much at once as a socket hands over.
    for some in bodies.chunks(64) {
        let start = Instant::now();
        some.iter().for_each(|body| rib.handle_update(feeder, body, now).unwrap());
        let middle = Instant::now();
        let (messages, octets) = drain(&mut rib, receiver);
        sent = (sent.0 + messages, sent.1 + octets);
        drain(&mut rib, feeder);
        (reading, writing) = (reading + (middle - start), writing + middle.elapsed());
    }
    let loaded = resident();
    println!(
        "{routes} routes: in {} ns, out {} ns per route, {sent:?} messages and octets",
        per_route(reading),
        per_route(writing)
    );
    println!(
        "  resident +{} octets per route",
        (loaded.saturating_sub(idle)) / usize::try_from(routes).unwrap()
    );
    for part in rib.memory().parts {
        println!(
            "  {:>26} {:>9} {:>5} octets per route",
            part.name,
            part.entries,
            part.octets / usize::try_from(routes).unwrap()
        );
    }
    let start = Instant::now();
    rib.peer_down(feeder, PeerDown::Purge, now);
    let middle = Instant::now();
    let (messages, _) = drain(&mut rib, receiver);
    println!(
        "  withdrawn: {} + {} ns per route, {messages} messages; resident {} over idle {}",
        per_route(middle - start),
        per_route(middle.elapsed()),
        resident().saturating_sub(idle),
        idle
    );
}

/// Reading and writing alone, at their best: whatever else the machine does only adds.
fn codec() {
    const ROUTES: u32 = 200;
    const ROUNDS: u32 = 50;
    let body = feed(ROUTES, ROUTES).pop().unwrap();
    let session = session(US);
    let read = best(|| {
        for _ in 0..ROUNDS {
            let update = Update::decode(black_box(&body), &session).unwrap();
            update.reach.unwrap().routes.for_each(|route| {
                black_box(route);
            });
        }
    });
    let update = Update::decode(&body, &session).unwrap();
    let all: Vec<Nlri> = update.reach.unwrap().routes.collect();
    let mut out = BytesMut::with_capacity(4096);
    let written = best(|| {
        for _ in 0..ROUNDS {
            let next_hop = Ipv4Addr::LOCALHOST.into();
            let mut message = UpdateWriter::announce(&mut out, Family::Vpnv4, next_hop, &[], 4096);
            assert!(black_box(&all).iter().all(|route| message.push(route)));
            message.finish();
            black_box(&out);
            out.clear();
        }
    });
    let per = |time: Duration| time.as_secs_f64() * 1e9 / f64::from(ROUTES * ROUNDS);
    println!("decode {:.1} ns, encode {:.1} ns per route", per(read), per(written));
}

fn best(mut run: impl FnMut()) -> Duration {
    let times = (0..200).map(|_| {
        let start = Instant::now();
        run();
        start.elapsed()
    });
    times.min().unwrap_or_default()
}

fn main() {
    let mut arguments = std::env::args().skip(1).map(|argument| argument.parse::<u32>().unwrap());
    let routes = arguments.next().unwrap_or(100_000);
    let per_set = arguments.next().unwrap_or(10);
    codec();
    let bodies = feed(routes, per_set);
    for _ in 0..arguments.next().unwrap_or(3) {
        run(&bodies, routes);
    }
}
