//! Any bytes, any virtio-net header, any small forwarding state: one verdict, never a panic.

use std::sync::Arc;

use dataplane_core::frame::MAX_PACKET;
use dataplane_core::policy::{Policy, Remote, Rule, Service};
use dataplane_core::segment::split;
use dataplane_core::{
    DropReason, Fib, Frame, Gso, HostFlows, Port, ReplyTo, Route, ServiceTargets, Services, Snat, State,
    StaticNat, Verdict, VnetHeader, Vrf, from_host, from_port, from_underlay,
};
use proptest::prelude::*;
use vrouter_types::{Label, PortId, VrfId};

use crate::lab::{CITY, Lab, assert_sound, fib, hop, mac, outer};
use crate::packets::{arp, echo, ethernet, fix_v4, labelled, solicitation, tcp, tos, ttl, udp};

fn vnets() -> impl Strategy<Value = VnetHeader> {
    let gso = prop_oneof![Just(Gso::None), Just(Gso::TcpV4), Just(Gso::TcpV6), Just(Gso::UdpL4)];
    let offset = prop_oneof![0u16..80, any::<u16>()];
    (any::<bool>(), any::<bool>(), gso, offset.clone(), offset.clone(), offset.clone(), offset).prop_map(
        |(needs_csum, data_valid, gso, hdr_len, gso_size, csum_start, csum_offset)| VnetHeader {
            needs_csum,
            data_valid,
            gso,
            ecn: false,
            hdr_len,
            gso_size,
            csum_start,
            csum_offset,
        },
    )
}

/// Packets that are almost right, so that the deeper steps are reached.
fn packets() -> impl Strategy<Value = Vec<u8>> {
    let pods = [
        "10.20.11.2",
        "10.20.11.3",
        "10.20.12.7",
        "10.20.13.7",
        "10.20.14.7",
        "203.0.113.9",
        "169.254.1.1",
        "169.254.64.2",
        "169.254.169.254",
    ];
    let sixes = [
        "fd00:20:11::2",
        "fd00:20:11::3",
        "fd00:20:12::7",
        "fe80::1",
        "fe80::9",
        "ff02::1:ff00:1",
        "fd76:7274::2",
    ];
    let ends = prop_oneof![
        (prop::sample::select(pods.to_vec()), prop::sample::select(pods.to_vec())),
        (prop::sample::select(sixes.to_vec()), prop::sample::select(sixes.to_vec())),
    ];
    (ends, 0usize..5, any::<u8>(), 0usize..1600, prop::collection::vec(any::<u8>(), 0..10)).prop_map(
        |((src, dst), kind, octet, payload, mut options)| match kind {
            0 => udp(src, dst, payload),
            1 => echo(src, dst, octet, 7),
            2 if src.contains(':') => solicitation(src, dst, "fe80::1", mac(CITY)),
            _ => {
                options.resize(options.len() & !3, 1);
                tcp(src, dst, octet, &options, payload)
            }
        },
    )
}

/// One octet changed somewhere, and cut anywhere.
fn bent(packet: impl Strategy<Value = Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
    let change = prop::collection::vec((0usize..90, any::<u8>()), 0..4);
    (packet, change, prop_oneof![4 => Just(usize::MAX), 1 => 0usize..100]).prop_map(
        |(mut bytes, change, len)| {
            for (at, value) in change {
                if let Some(octet) = bytes.get_mut(at) {
                    *octet = value;
                }
            }
            bytes.truncate(len);
            bytes
        },
    )
}

/// What a virtio-net header may call a superframe, longer than an IP header can tell; over IPv6 with the option that
/// tells it, or without.
fn long_packets() -> impl Strategy<Value = Vec<u8>> {
    (packets(), 60_000usize..262_000, any::<bool>()).prop_map(|(mut packet, len, with_option)| {
        packet.resize(len, 0x61);
        if packet[0] >> 4 == 4 {
            packet[2..4].fill(0);
            fix_v4(&mut packet);
            return packet;
        }
        packet[4..6].fill(0);
        if with_option {
            let octets = u32::try_from(len - 40 + 8).unwrap().to_be_bytes();
            let option = [&[packet[6], 0, 0xc2, 4][..], &octets].concat();
            packet[6] = 0;
            packet.splice(40..40, option);
        }
        packet
    })
}

/// A virtio-net header that suits long packets of TCP, behind a link header of this many octets.
fn fitting(link: u16) -> impl Strategy<Value = VnetHeader> {
    let kind = prop::sample::select(vec![(Gso::TcpV4, 20), (Gso::TcpV6, 40), (Gso::TcpV6, 48)]);
    (any::<u16>(), kind).prop_map(move |(gso_size, (gso, header))| VnetHeader {
        needs_csum: true,
        gso,
        gso_size,
        hdr_len: link + header + 20,
        csum_start: link + header,
        csum_offset: 16,
        ..VnetHeader::NONE
    })
}

fn frames() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        prop::collection::vec(any::<u8>(), 0..120),
        packets().prop_map(|packet| ethernet([0, 0, 0x5e, 0, 1, 0], mac(CITY), &packet)),
        long_packets().prop_map(|packet| ethernet([0, 0, 0x5e, 0, 1, 0], mac(CITY), &packet)),
        Just(arp(1, mac(CITY), "10.20.11.2", "169.254.1.1")),
    ]
}

fn open() -> Policy {
    let any = |v4| Rule { v4, protocol: None, service: Service::Any, remote: Remote::Any };
    let rules = || [any(true), any(false)].into();
    Policy { generation: 1, ingress: rules(), egress: rules() }
}

fn change_ports(fib: &mut Fib, change: impl Fn(&mut Port)) {
    fib.ports.iter_mut().flatten().for_each(|port| change(Arc::make_mut(port)));
}

fn change_vrf(fib: &mut Fib, change: impl Fn(&mut Vrf)) {
    fib.vrfs.iter_mut().flatten().for_each(|vrf| change(Arc::make_mut(vrf)));
}

/// The lab's state with pieces torn out and MTUs that nobody would configure.
fn fibs() -> impl Strategy<Value = Fib> {
    let mtu = prop_oneof![0u16..100, 500u16..1600, Just(u16::MAX)];
    (prop::collection::vec(0u8..10, 0..4), mtu.clone(), mtu).prop_map(|(torn, port_mtu, tunnel_mtu)| {
        let mut fib = fib();
        for slot in fib.ports.iter_mut().flatten() {
            Arc::make_mut(slot).mtu = port_mtu;
        }
        for tunnel in fib.tunnels.iter_mut().flatten() {
            tunnel.mtu = tunnel_mtu;
        }
        for piece in torn {
            match piece {
                0 => fib.ports.truncate(2),
                1 => fib.vrfs.truncate(1),
                2 => fib.tunnels.clear(),
                3 => fib.tunnels.iter_mut().take(1).for_each(|tunnel| *tunnel = None),
                4 => fib.ilm.remove(Label::new(16).unwrap()),
                6 => change_vrf(&mut fib, |vrf| vrf.snat = Some(Snat::BOTH)),
                7 => change_ports(&mut fib, |port| port.policy = Some(Arc::new(open()))),
                8 => change_ports(&mut fib, |port| {
                    let floating = "203.0.113.9".parse().unwrap();
                    let nat = StaticNat { fixed: port.addresses[0], floating, vrf: VrfId(0) };
                    port.nat = vec![nat];
                }),
                9 => {
                    fib.services = ServiceTargets { metadata: 8775, dns: 5300 };
                    let served = Services { metadata: true, dns: true, ..Services::default() };
                    let served = Arc::new(served);
                    change_ports(&mut fib, |port| port.services = Some(Arc::clone(&served)));
                }
                _ => {
                    let mut vrf = fib.vrfs[0].as_deref().unwrap().clone();
                    vrf.routes.insert("0.0.0.0/0".parse().unwrap(), Route::Tunnel(Box::new([])));
                    vrf.routes.insert("::/0".parse().unwrap(), Route::Tunnel([hop(0, 9), hop(1, 9)].into()));
                    fib.insert_vrf(vrf.into());
                }
            }
        }
        fib
    })
}

fn state() -> State {
    State::new(Arc::new(HostFlows::new(8, [1, 2])))
}

/// What a verdict promises.
fn check(verdict: Verdict, state: &State, frame: &Frame<'_>) -> Result<(), TestCaseError> {
    match verdict {
        Verdict::ToPort(_) | Verdict::ToUnderlay(_) | Verdict::ToHost => {
            prop_assert!(matches!(frame.bytes().first().map(|first| first >> 4), Some(4 | 6)));
            if frame.vnet().gso != Gso::None {
                prop_assert!(frame.vnet().gso_size > 0);
            }
            // Longer than any packet: only what can be made into several.
            let vnet = frame.vnet();
            let is_tcp = matches!(vnet.gso, Gso::TcpV4 | Gso::TcpV6) && vnet.needs_csum;
            prop_assert!(frame.bytes().len() <= MAX_PACKET || is_tcp);
            prop_assert!(frame.bytes().len() <= MAX_PACKET || split(frame, &[]).is_ok());
        }
        Verdict::Reply(to) => {
            prop_assert!(!state.reply.bytes().is_empty());
            let errors = state.reply.reason().is_some();
            prop_assert!(errors || matches!(to, ReplyTo::Port(_)));
        }
        Verdict::Drop(reason) => prop_assert!(DropReason::ALL.contains(&reason)),
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn no_frame_from_a_port_panics(
        fib in fibs(), port in 0u32..5, mut bytes in bent(frames()), vnet in prop_oneof![vnets(), fitting(14)], plain: bool,
    ) {
        let (mut state, vnet) = (state(), if plain { VnetHeader::NONE } else { vnet });
        let mut frame = Frame::new(&mut bytes, vnet);
        let verdict = from_port(&fib, &mut state, PortId(port), &mut frame);
        check(verdict, &state, &frame)?;
        // The lab's VRFs import nothing from each other.
        if let (Verdict::ToPort(to), Some(from)) = (verdict, fib.port(PortId(port))) {
            prop_assert_eq!(fib.port(to).map(|to| to.vrf), Some(from.vrf));
        }
        if let Verdict::Reply(ReplyTo::Port(to)) = verdict {
            prop_assert_eq!(to, PortId(port));
        }
    }

    #[test]
    fn a_sound_packet_stays_sound(packet in packets(), hops: u8, dscp: u8, port in 1u32..4, label in 16u32..19) {
        let packet = tos(ttl(packet, hops), dscp);
        let mut lab = Lab::new();
        let outs = [
            lab.port(PortId(port), &packet),
            lab.underlay(&labelled(label, true, hops, &packet)),
            lab.host(&packet),
        ];
        for out in outs {
            if matches!(out.verdict, Verdict::ToPort(_) | Verdict::ToHost | Verdict::ToUnderlay(_)) {
                assert_sound(&out.bytes);
                prop_assert_eq!(out.bytes.len(), packet.len());
            }
        }
    }

    #[test]
    fn no_tunnel_packet_panics(
        fib in fibs(), label in 14u32..20, bottom in prop::bool::weighted(0.9), ttl in 0u8..5, inner in bent(packets()),
        raw in prop::option::weighted(0.1, prop::collection::vec(any::<u8>(), 0..60)), tos: u8,
    ) {
        let mut state = state();
        let was_raw = raw.is_some();
        let mut bytes = raw.unwrap_or_else(|| labelled(label, bottom, ttl, &inner));
        let mut frame = Frame::new(&mut bytes, VnetHeader::NONE);
        let verdict = from_underlay(&fib, &mut state, outer("192.0.2.1", tos), &mut frame);
        check(verdict, &state, &frame)?;
        if let Verdict::ToPort(to) = verdict {
            prop_assert!(fib.ilm.lookup(Label::new(label).unwrap()) == Some(to) || was_raw);
        }
    }

    #[test]
    fn no_packet_from_the_host_panics(
        fib in fibs(), mut bytes in bent(prop_oneof![4 => packets(), 1 => long_packets()]),
        vnet in prop_oneof![vnets(), fitting(0)], plain: bool,
    ) {
        let (mut state, vnet) = (state(), if plain { VnetHeader::NONE } else { vnet });
        let mut frame = Frame::new(&mut bytes, vnet);
        let verdict = from_host(&fib, &mut state, &mut frame);
        check(verdict, &state, &frame)?;
    }
}

#[test]
fn every_prefix_of_a_good_frame_has_its_verdict() {
    let mut lab = Lab::new();
    for packet in [
        tcp("10.20.11.2", "10.20.12.7", 2, &[2, 4, 5, 0xb4], 4),
        udp("fd00:20:11::2", "fd00:20:12::7", 4),
        solicitation("fd00:20:11::2", "ff02::1:ff00:1", "fe80::1", mac(CITY)),
    ] {
        let frame = ethernet([0, 0, 0x5e, 0, 1, 0], mac(CITY), &packet);
        for len in 0..frame.len() {
            let verdict = lab.frame(CITY, &frame[..len], VnetHeader::NONE).verdict;
            assert!(matches!(verdict, Verdict::Drop(_)), "{len}: {verdict:?}");
        }
        assert!(!matches!(lab.frame(CITY, &frame, VnetHeader::NONE).verdict, Verdict::Drop(_)));
    }
}
