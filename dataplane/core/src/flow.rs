//! One number per flow: entropy for the tunnel's source port and the choice among ways of equal cost.

use std::net::IpAddr;

use crate::fib::{Fib, Hop, Tunnel};
use crate::packet::{Fragment, Packet};

/// A random key of this process: who does not know it cannot aim flows at one port or one path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FlowKey([u64; 2]);

/// The hash of a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FlowHash(pub(crate) u64);

impl FlowKey {
    pub(crate) fn new(key: [u64; 2]) -> FlowKey {
        // Odd, so that no multiplication loses everything.
        FlowKey([key[0], key[1] | 1])
    }

    /// What it was made of.
    pub(crate) fn words(self) -> [u64; 2] {
        self.0
    }

    /// Mixes words into one.
    pub(crate) fn hash<const N: usize>(self, words: [u64; N]) -> FlowHash {
        let [seed, factor] = self.0;
        FlowHash(words.into_iter().fold(seed, |hash, word| mix(hash ^ word, factor ^ 0x9e37_79b9_7f4a_7c15)))
    }

    /// The hash of a packet's flow.
    pub(crate) fn flow(self, packet: &Packet, bytes: &[u8]) -> FlowHash {
        let [s0, s1] = words(packet.src);
        let [d0, d1] = words(packet.dst);
        // RFC 7510 §3: the source port tells flows apart. We differ for fragments: later ones have no ports, so all
        // fragments hash addresses only, or one datagram would take two ways.
        let ports = match packet.fragment {
            Fragment::Whole => {
                packet.ports(bytes).map_or(0, |(src, dst)| u64::from(src) << 16 | u64::from(dst))
            }
            Fragment::First(_) | Fragment::Later(_) => return self.hash([s0, s1, d0, d1]),
        };
        self.hash([s0, s1, d0, d1, u64::from(packet.protocol) << 32 | ports])
    }

    /// The way that a flow takes: the one that scores highest with it (rendezvous hashing), so that when a provider
    /// edge goes, only its own flows move. Ways whose tunnel is gone do not count.
    pub(crate) fn choose<'f>(self, fib: &'f Fib, hops: &[Hop], flow: FlowHash) -> Option<(Hop, &'f Tunnel)> {
        let alive = |hop: &Hop| Some((*hop, fib.tunnel(hop.tunnel)?));
        if let [only] = hops {
            return alive(only);
        }
        hops.iter().filter_map(alive).max_by_key(|(hop, tunnel)| {
            // By what the way is, not by its index: indexes may change from snapshot to snapshot.
            let [r0, r1] = words(tunnel.remote);
            self.hash([flow.0, r0, r1, u64::from(hop.label.value())]).0
        })
    }
}

impl FlowHash {
    /// Sixteen bits for the tunnel header.
    pub(crate) fn entropy(self) -> u16 {
        u16::try_from(self.0 >> 48).unwrap_or_default()
    }
}

/// An address as two words.
pub(crate) fn words(addr: IpAddr) -> [u64; 2] {
    match addr {
        IpAddr::V4(addr) => [0, u64::from(addr.to_bits())],
        IpAddr::V6(addr) => {
            let [a, b, c, d, e, f, g, h] = addr.segments().map(u64::from);
            [a << 48 | b << 32 | c << 16 | d, e << 48 | f << 32 | g << 16 | h]
        }
    }
}

/// Both halves of the product, folded.
#[expect(clippy::cast_possible_truncation, reason = "the two halves of 128 bits")]
fn mix(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    (product >> 64) as u64 ^ product as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fib::TunnelId;
    use crate::testing::udp;
    use std::collections::{BTreeMap, BTreeSet};
    use vrouter_types::{Encap, Label};

    const KEY: [u64; 2] = [0x0123_4567_89ab_cdef, 0xfeed_face_cafe_beef];

    fn hash(bytes: &[u8]) -> FlowHash {
        FlowKey::new(KEY).flow(&Packet::parse(bytes).unwrap(), bytes)
    }

    fn fragment(bytes: &mut [u8], field: u16) {
        bytes[6..8].copy_from_slice(&field.to_be_bytes());
        bytes[10..12].fill(0);
        let sum = crate::checksum::checksum(&bytes[..20]);
        bytes[10..12].copy_from_slice(&sum.to_be_bytes());
    }

    #[test]
    fn the_ports_of_a_flow_count_and_its_payload_does_not() {
        let (mut a, b) = (udp("10.0.0.1", "10.0.0.2", 7), udp("10.0.0.1", "10.0.0.2", 100));
        assert_eq!(hash(&a), hash(&b));
        a[21] ^= 1;
        assert_ne!(hash(&a), hash(&b));
        let (mut a, b) = (udp("fd00::1", "fd00::2", 7), udp("fd00::1", "fd00::2", 100));
        assert_eq!(hash(&a), hash(&b));
        a[40] ^= 1;
        assert_ne!(hash(&a), hash(&b));
    }

    #[test]
    fn all_fragments_of_a_datagram_hash_alike() {
        let (mut first, mut later) = (udp("10.0.0.1", "10.0.0.2", 8), udp("10.0.0.1", "10.0.0.2", 8));
        later[20..].fill(0x5a); // no ports here
        fragment(&mut first, 0x2000);
        fragment(&mut later, 0x0002);
        assert_eq!(hash(&first), hash(&later));
    }

    #[test]
    fn all_fragments_of_an_ipv6_datagram_hash_alike() {
        let whole = udp("fd00::1", "fd00::2", 40);
        let fragment = |field: u16, next: u8, inside: &[u8]| {
            let mut bytes = whole[..40].to_vec();
            bytes[6] = 44;
            bytes.extend([next, 0]);
            bytes.extend(field.to_be_bytes());
            bytes.extend([0, 0, 0, 7]);
            bytes.extend(inside);
            bytes[5] = u8::try_from(bytes.len() - 40).unwrap();
            bytes
        };
        let first = fragment(1, 17, &whole[40..]);
        // With options inside, their header is all that the later ones name.
        let options = fragment(1, 60, &[&[17, 0, 1, 4, 0, 0, 0, 0], &whole[40..]].concat());
        let others = [fragment(7 << 3 | 1, 17, &[0x5a; 16]), fragment(9 << 3, 60, &[0x11; 3]), options];
        for other in others {
            assert_eq!(hash(&first), hash(&other));
        }
        assert_eq!(hash(&fragment(0, 17, &whole[40..])), hash(&whole), "one that is no part of any");
    }

    #[test]
    fn another_key_is_another_hash() {
        let bytes = udp("10.0.0.1", "10.0.0.2", 7);
        let packet = Packet::parse(&bytes).unwrap();
        assert_ne!(FlowKey::new([1, 2]).flow(&packet, &bytes), FlowKey::new([3, 4]).flow(&packet, &bytes));
    }

    #[test]
    fn entropy_spreads() {
        let mut seen = BTreeSet::new();
        for port in 0..1000u16 {
            let mut bytes = udp("10.0.0.1", "10.0.0.2", 0);
            bytes[20..22].copy_from_slice(&port.to_be_bytes());
            seen.insert(hash(&bytes).entropy() % 16);
        }
        assert_eq!(seen.len(), 16);
    }

    #[test]
    fn only_the_flows_of_a_lost_provider_edge_move() {
        let mut fib = Fib::new();
        let hops: Vec<Hop> = (0..4u32)
            .map(|n| {
                let remote = IpAddr::from([192, 0, 2, u8::try_from(n).unwrap()]);
                fib.insert_tunnel(TunnelId(n), Tunnel { remote, encap: Encap::MplsOverUdp, mtu: 1468 });
                Hop { tunnel: TunnelId(n), label: Label::new(100).unwrap() }
            })
            .collect();
        let mut without = fib.clone();
        without.tunnels[2] = None;
        let key = FlowKey::new(KEY);
        let mut share: BTreeMap<u32, u32> = BTreeMap::new();
        for flow in (0..4000u64).map(|n| key.hash([n])) {
            let (before, _) = key.choose(&fib, &hops, flow).unwrap();
            let (after, _) = key.choose(&without, &hops, flow).unwrap();
            *share.entry(before.tunnel.0).or_default() += 1;
            assert!(before == after || before.tunnel == TunnelId(2));
            // The order in which control lists them does not matter either.
            let reversed: Vec<Hop> = hops.iter().rev().copied().collect();
            assert_eq!(key.choose(&fib, &reversed, flow).unwrap().0, before);
        }
        assert!(share.len() == 4 && share.values().all(|n| (700..1300).contains(n)), "{share:?}");
    }
}
