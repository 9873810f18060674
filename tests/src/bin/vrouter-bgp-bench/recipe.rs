//! What the feeder says: VPNv4 routes in three shapes, encoded in advance, and the hash that a receiver of all of them
//! must come to.
//!
//! ```text
//! shape    routes per attribute set   next hops   stands for
//! gw       10                         300         a fleet of gateways with ten workloads each
//! packed   200                        300         few, large sites
//! uniq     1 (a MED of its own)       60,000      nothing to pack at all
//! ```
//! Set k has v = k mod 1000 + 1: route distinguisher 65000:v, route targets 65000:v and 65000:(100000 + v), and the
//! encapsulation community for MPLS in GRE. Route x is 11.0.0.0 + x with label 16 + x mod 1,000,000.

use std::net::Ipv4Addr;

use serde::Serialize;

/// The AS of everybody in the bench.
pub(crate) const ASN: u32 = 65000;
/// VRFs, and thus route distinguishers.
pub(crate) const VRFS: u32 = 1000;
/// The other route target of VRF v is this much more.
pub(crate) const SECOND_TARGET: u32 = 100_000;
const FIRST_PREFIX: u32 = 0x0b00_0000;
const LOCAL_PREF: u32 = 100;

/// How routes share attributes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Shape {
    /// Ten routes per set.
    Gw,
    /// Two hundred routes per set.
    Packed,
    /// A set for every route.
    Uniq,
}

impl Shape {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Shape::Gw => "gw",
            Shape::Packed => "packed",
            Shape::Uniq => "uniq",
        }
    }

    fn routes_per_set(self) -> u32 {
        match self {
            Shape::Gw => 10,
            Shape::Packed => 200,
            Shape::Uniq => 1,
        }
    }

    fn next_hop(self, set: u32) -> Ipv4Addr {
        match self {
            Shape::Gw | Shape::Packed => Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 99, 4, 0)) + set % 300),
            Shape::Uniq => Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 100, 0, 0)) + set % 60_000),
        }
    }
}

/// Everything that the feeder writes, in one piece.
pub(crate) struct Feed {
    pub(crate) octets: Vec<u8>,
    pub(crate) routes: u32,
    /// The sum of the hashes of all routes.
    pub(crate) hash: u64,
    /// The same for what an edge hands to its dataplane.
    pub(crate) edge_hash: u64,
}

impl Feed {
    pub(crate) fn new(shape: Shape, routes: u32) -> Feed {
        let mut feed = Feed { octets: Vec::new(), routes, hash: 0, edge_hash: 0 };
        for set in 0..routes.div_ceil(shape.routes_per_set()) {
            feed.put_set(shape, set);
        }
        feed
    }

    fn put_set(&mut self, shape: Shape, set: u32) {
        let next_hop = shape.next_hop(set);
        let vrf = set % VRFS + 1;
        let targets = [route_target(vrf), route_target(SECOND_TARGET + vrf)];
        let attributes = attributes_hash(next_hop, LOCAL_PREF, &mut targets.to_vec());
        let rd = rd(vrf);
        let first = set * shape.routes_per_set();
        let mut nlri = Vec::new();
        for x in first..(first + shape.routes_per_set()).min(self.routes) {
            let (label, prefix) = (16 + x % 1_000_000, FIRST_PREFIX + x);
            nlri.push(0x78);
            nlri.extend_from_slice(&(label << 4 | 1).to_be_bytes()[1..]);
            nlri.extend_from_slice(&rd);
            nlri.extend_from_slice(&prefix.to_be_bytes());
            self.hash = self.hash.wrapping_add(route_hash(attributes, &rd, prefix, label));
            self.edge_hash = self.edge_hash.wrapping_add(edge_hash(&rd, prefix, label, next_hop));
        }
        let mut block = vec![0x40, 1, 1, 0, 0x40, 2, 0, 0x40, 5, 4];
        block.extend_from_slice(&LOCAL_PREF.to_be_bytes());
        if shape == Shape::Uniq {
            block.extend_from_slice(&[0x80, 4, 4]);
            block.extend_from_slice(&set.to_be_bytes());
        }
        block.extend_from_slice(&[0xc0, 0x10, 24]);
        targets.iter().for_each(|target| block.extend_from_slice(&target.to_be_bytes()));
        block.extend_from_slice(&[3, 0x0c, 0, 0, 0, 0, 0, 11]);
        let mut reach = vec![0, 1, 128, 12, 0, 0, 0, 0, 0, 0, 0, 0];
        reach.extend_from_slice(&next_hop.octets());
        reach.push(0);
        reach.extend_from_slice(&nlri);
        block.extend_from_slice(&[0x90, 14]);
        block.extend_from_slice(&octets_of(reach.len()));
        block.extend_from_slice(&reach);
        put_update(&mut self.octets, &block);
    }
}

/// The number of a route by its prefix; `None`: not one of ours.
pub(crate) fn number(prefix: u32) -> Option<usize> {
    usize::try_from(prefix.checked_sub(FIRST_PREFIX)?).ok()
}

/// Memberships in these VRFs' route targets, both of each, and the End-of-RIB of the family where asked for (RFC 4684).
pub(crate) fn memberships(vrfs: std::ops::Range<u32>, next_hop: Ipv4Addr, end_of_rib: bool) -> Vec<u8> {
    let mut out = Vec::new();
    for chunk in membership_nlri(vrfs).chunks(MEMBERSHIPS_PER_UPDATE * 13) {
        let mut block = vec![0x40, 1, 1, 0, 0x40, 2, 0, 0x40, 5, 4];
        block.extend_from_slice(&LOCAL_PREF.to_be_bytes());
        block.extend_from_slice(&[0x90, 14]);
        block.extend_from_slice(&octets_of(chunk.len() + 9));
        block.extend_from_slice(&[0, 1, 132, 4]);
        block.extend_from_slice(&next_hop.octets());
        block.push(0);
        block.extend_from_slice(chunk);
        put_update(&mut out, &block);
    }
    if end_of_rib {
        put_update(&mut out, &[0x80, 15, 3, 0, 1, 132]);
    }
    out
}

/// Takes memberships back.
pub(crate) fn no_memberships(vrfs: std::ops::Range<u32>) -> Vec<u8> {
    let mut out = Vec::new();
    for chunk in membership_nlri(vrfs).chunks(MEMBERSHIPS_PER_UPDATE * 13) {
        let mut block = vec![0x90, 15];
        block.extend_from_slice(&octets_of(chunk.len() + 3));
        block.extend_from_slice(&[0, 1, 132]);
        block.extend_from_slice(chunk);
        put_update(&mut out, &block);
    }
    out
}

const MEMBERSHIPS_PER_UPDATE: usize = 250;

fn membership_nlri(vrfs: std::ops::Range<u32>) -> Vec<u8> {
    let mut nlri = Vec::new();
    for target in vrfs.flat_map(|vrf| [vrf, SECOND_TARGET + vrf]) {
        nlri.push(96);
        nlri.extend_from_slice(&ASN.to_be_bytes());
        nlri.extend_from_slice(&route_target(target).to_be_bytes());
    }
    nlri
}

/// Appends an UPDATE with these attributes and nothing else.
fn put_update(out: &mut Vec<u8>, block: &[u8]) {
    out.extend_from_slice(&[0xff; 16]);
    out.extend_from_slice(&octets_of(23 + block.len()));
    out.extend_from_slice(&[2, 0, 0]);
    out.extend_from_slice(&octets_of(block.len()));
    out.extend_from_slice(block);
}

fn octets_of(length: usize) -> [u8; 2] {
    u16::try_from(length).expect("a message has at most 4,096 octets").to_be_bytes()
}

/// `target:65000:number` as its community has it.
fn route_target(number: u32) -> u64 {
    0x0002_0000_0000_0000 | u64::from(ASN) << 32 | u64::from(number)
}

fn rd(vrf: u32) -> [u8; 8] {
    (u64::from(ASN) << 32 | u64::from(vrf)).to_be_bytes()
}

/// What the routes of one UPDATE have in common. Sorts the targets: their order says nothing.
pub(crate) fn attributes_hash(next_hop: Ipv4Addr, local_pref: u32, targets: &mut [u64]) -> u64 {
    targets.sort_unstable();
    let start = mix(u64::from(u32::from(next_hop)) << 32 | u64::from(local_pref));
    targets.iter().fold(start, |hash, target| mix(hash ^ target))
}

/// One route, with everything that must arrive as it was sent.
pub(crate) fn route_hash(attributes: u64, rd: &[u8; 8], prefix: u32, label: u32) -> u64 {
    let route = mix(u64::from_be_bytes(*rd)) ^ (u64::from(prefix) << 20 | u64::from(label));
    mix(attributes ^ mix(route))
}

/// One route as a dataplane is told it.
pub(crate) fn edge_hash(rd: &[u8; 8], prefix: u32, label: u32, next_hop: Ipv4Addr) -> u64 {
    route_hash(mix(u64::from(u32::from(next_hop))), rd, prefix, label)
}

/// The finalizer of splitmix64.
fn mix(value: u64) -> u64 {
    let value = (value ^ value >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ value >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ value >> 31
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_message_of_each_shape_is_the_recipes() {
        let feed = Feed::new(Shape::Uniq, 1);
        let shown: String = feed.octets.iter().map(|octet| format!("{octet:02x}")).collect();
        assert_eq!(shown.len(), feed.octets.len() * 2);
        assert_eq!(u16::from_be_bytes([feed.octets[16], feed.octets[17]]) as usize, feed.octets.len());
        assert!(shown.contains("c010180002fde8000000010002fde8000186a1030c00000000000b"), "{shown}");
        assert!(
            shown.ends_with(
                "900e0021000180 0c00000000000000000a64000000780001010000fde8000000010b000000"
                    .replace(' ', "")
                    .as_str()
            ),
            "{shown}"
        );
        let sizes = [(Shape::Gw, 10), (Shape::Packed, 200)]
            .map(|(shape, routes)| Feed::new(shape, routes).octets.len());
        assert_eq!(sizes, [23 + 14 + 27 + 4 + 17 + 160, 23 + 14 + 27 + 4 + 17 + 3200]);
    }

    #[test]
    fn the_hash_does_not_depend_on_order_but_on_every_field() {
        let next_hop = Ipv4Addr::new(10, 99, 4, 0);
        let one = attributes_hash(next_hop, 100, &mut [1, 2]);
        assert_eq!(one, attributes_hash(next_hop, 100, &mut [2, 1]));
        assert_ne!(one, attributes_hash(next_hop, 101, &mut [1, 2]));
        let route = |prefix, label| route_hash(one, &rd(1), prefix, label);
        assert_ne!(route(1, 16), route(1, 17));
        assert_ne!(route(1, 16), route(2, 16));
        assert_ne!(Feed::new(Shape::Gw, 20).hash, Feed::new(Shape::Gw, 21).hash);
    }
}
