//! Translation there and back, whatever the packet: sums stay right, and nothing else changes.

use std::sync::Arc;

use dataplane_core::nat::service_address;
use dataplane_core::{Snat, StaticNat, Verdict};
use proptest::prelude::*;
use vrouter_types::VrfId;

use crate::lab::{CITY, Lab, assert_sound, hop};
use crate::packets::{ICMP, ICMPV6, TCP, UDP, fix_v4, ip, labelled, ttl};

/// City's first workload leaves with the node's address, or with a floating one of another VRF.
fn lab(floating: bool) -> Lab {
    let mut lab = Lab::new();
    let mut vrf = dataplane_core::Vrf::clone(lab.fib.vrfs[0].as_ref().unwrap());
    vrf.snat = Some(Snat::BOTH);
    lab.fib.vrfs[0] = Some(Arc::new(vrf));
    if floating {
        let mut outside = dataplane_core::Vrf::new(VrfId(2), "outside");
        for all in ["0.0.0.0/0", "::/0"] {
            outside.routes.insert(all.parse().unwrap(), dataplane_core::Route::Tunnel([hop(0, 300)].into()));
        }
        lab.fib.insert_vrf(Arc::new(outside));
        let mut port = dataplane_core::Port::clone(lab.fib.port(CITY).unwrap());
        port.nat = [("10.20.11.2", "198.51.100.7"), ("fd00:20:11::2", "2001:db8:7::7")]
            .map(|(fixed, floating)| StaticNat {
                fixed: fixed.parse().unwrap(),
                floating: floating.parse().unwrap(),
                vrf: VrfId(2),
            })
            .to_vec();
        lab.fib.insert_port(Arc::new(port));
    }
    lab
}

#[derive(Debug, Clone, Copy)]
struct Case {
    v6: bool,
    floating: bool,
    protocol: u8,
    ports: (u16, u16),
    len: usize,
    seed: u8,
    unsummed: bool,
}

fn cases() -> impl Strategy<Value = Case> {
    let protocol = prop_oneof![Just(TCP), Just(UDP), Just(ICMP)];
    let shape = (any::<bool>(), any::<bool>(), any::<bool>());
    (shape, protocol, (any::<u16>(), any::<u16>()), 0..64usize, any::<u8>()).prop_map(
        |((v6, floating, unsummed), protocol, ports, len, seed)| {
            let unsummed = unsummed && protocol == UDP && !v6;
            Case { v6, floating, protocol, ports, len, seed, unsummed }
        },
    )
}

impl Case {
    fn pod(&self) -> &'static str {
        if self.v6 { "fd00:20:11::2" } else { "10.20.11.2" }
    }

    fn far(&self) -> &'static str {
        if self.v6 { "2001:db8:9::9" } else { "203.0.113.9" }
    }

    fn seen(&self) -> String {
        match (self.floating, self.v6) {
            (false, v6) => service_address(CITY, !v6).unwrap().to_string(),
            (true, false) => "198.51.100.7".into(),
            (true, true) => "2001:db8:7::7".into(),
        }
    }

    /// A question to afar, or an answer to `to`.
    fn packet(&self, src: &str, dst: &str, answer: bool) -> Vec<u8> {
        let rest = (0..self.len).map(|n| self.seed.wrapping_mul(7).wrapping_add(u8::try_from(n).unwrap()));
        let (from, to) = if answer { (self.ports.1, self.ports.0) } else { self.ports };
        let (mut head, at) = match self.protocol {
            TCP => {
                let mut head = [from.to_be_bytes(), to.to_be_bytes()].concat();
                head.extend([0, 0, 0, self.seed, 0, 0, 0, 2, 0x50, if answer { 0x12 } else { 2 }]);
                head.extend([0xff, 0xff, 0, 0, 0, 0]);
                (head, 16)
            }
            UDP => {
                let len = u16::try_from(8 + self.len).unwrap();
                ([from, to, len, 0].map(u16::to_be_bytes).concat(), 6)
            }
            _ => {
                let kind = [[8, 0], [128, 129]][usize::from(self.v6)][usize::from(answer)];
                let id = self.ports.0.to_be_bytes();
                (vec![kind, 0, 0, 0, id[0], id[1], 0, self.seed], 2)
            }
        };
        head.extend(rest);
        let protocol = if self.protocol == ICMP && self.v6 { ICMPV6 } else { self.protocol };
        let mut packet = ip(src, dst, protocol, head, at);
        if self.unsummed {
            packet[26..28].fill(0);
        }
        packet
    }

    /// An ICMP error about a packet, from a router on its way.
    fn error(&self, about: &[u8], to: &str) -> Vec<u8> {
        let (router, kind, protocol) =
            if self.v6 { ("2001:db8::ff", 1, ICMPV6) } else { ("192.0.2.254", 3, ICMP) };
        ip(router, to, protocol, [&[kind, 1, 0, 0, 0, 0, 0, 0][..], about].concat(), 2)
    }

    fn assert_sound(&self, packet: &[u8]) {
        if self.unsummed {
            assert_eq!(packet[26..28], [0, 0], "none was asked for");
            let mut fixed = packet.to_vec();
            fix_v4(&mut fixed);
            assert_eq!(fixed, packet, "the header's checksum");
        } else {
            assert_sound(packet);
        }
    }

    /// From the host or the tunnel, whichever leads back.
    fn arrive(&self, lab: &mut Lab, packet: &[u8]) -> Vec<u8> {
        let out =
            if self.floating { lab.underlay(&labelled(16, true, 64, packet)) } else { lab.host(packet) };
        assert_eq!(out.verdict, Verdict::ToPort(CITY));
        // A tunnel costs one of the TTL.
        if self.floating { ttl(out.bytes, 64) } else { out.bytes }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn what_left_and_what_comes_back_is_what_was_sent_but_for_the_address(case in cases()) {
        let mut lab = lab(case.floating);
        let (pod, far, seen) = (case.pod(), case.far(), case.seen());
        let asked = case.packet(pod, far, false);
        let out = lab.port(CITY, &asked);
        prop_assert!(matches!(out.verdict, Verdict::ToHost | Verdict::ToUnderlay(_)), "{:?}", out.verdict);
        case.assert_sound(&out.bytes);
        let left = if case.floating { ttl(out.bytes.clone(), 64) } else { out.bytes.clone() };
        prop_assert_eq!(&left, &case.packet(&seen, far, false));
        let back = case.arrive(&mut lab, &case.packet(far, &seen, true));
        case.assert_sound(&back);
        prop_assert_eq!(back, case.packet(far, pod, true));
        // Errors quote the packet as its sender knows it, all of it or only the beginning (RFC 5508 §4.2).
        let header = if case.v6 { 40 } else { 20 };
        for quoted in [left.len(), header + 8] {
            let back = case.arrive(&mut lab, &case.error(&left[..quoted], &seen));
            assert_sound(&back);
            prop_assert_eq!(back, case.error(&asked[..quoted], pod), "{} octets", quoted);
        }
    }
}
