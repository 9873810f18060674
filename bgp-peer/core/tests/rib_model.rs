//! Two RIBs under random changes against a model that is too simple to be wrong: in the end each VRF holds what the
//! routes, the targets and the session say, no message or event was needed twice, and nothing is left behind.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod rib_pair;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Instant;

use bgp_core::{FamilySet, LocalRoute, Rib};
use proptest::collection::vec;
use proptest::prelude::*;
use rib_pair::*;
use vrouter_types::{Prefix, VpnPrefix};

const PREFIXES: [&str; 4] = ["10.0.0.1/32", "10.0.0.0/8", "fd00::1/128", "::/0"];
const VRFS: u32 = 3;

#[derive(Debug, Clone)]
enum Change {
    Originate { side: usize, rd: u32, prefix: usize, label: u32, targets: u8, local_pref: u32 },
    Withdraw { side: usize, rd: u32, prefix: usize },
    Imports { side: usize, targets: [u8; VRFS as usize] },
    Deliver { side: usize, most: usize },
    Flap,
    Refresh { side: usize },
}

fn change() -> impl Strategy<Value = Change> {
    let side = 0..2usize;
    prop_oneof![
        6 => (side.clone(), 1..4u32, 0..4usize, 16..19u32, 0..16u8, 100..102u32).prop_map(
            |(side, rd, prefix, label, targets, local_pref)| {
                Change::Originate { side, rd, prefix, label, targets, local_pref }
            }
        ),
        3 => (side.clone(), 1..4u32, 0..4usize).prop_map(|(side, rd, prefix)| Change::Withdraw { side, rd, prefix }),
        2 => (side.clone(), any::<[u8; VRFS as usize]>()).prop_map(|(side, targets)| Change::Imports { side, targets }),
        4 => (side.clone(), 1..4usize).prop_map(|(side, most)| Change::Deliver { side, most }),
        1 => Just(Change::Flap),
        1 => side.prop_map(|side| Change::Refresh { side }),
    ]
}

/// One end: the RIB, what it was told to do, and what it has said about its VRFs.
struct End {
    rib: Rib,
    routes: BTreeMap<VpnPrefix, LocalRoute>,
    imports: [u8; VRFS as usize],
    vrfs: BTreeMap<(u32, Prefix), BTreeSet<(IpAddr, u32)>>,
}

fn names(bits: u8) -> Vec<String> {
    (0..4).filter(|bit| bits & 1 << bit != 0).map(|bit| format!("target:65000:{bit}")).collect()
}

impl End {
    fn new(n: u8) -> End {
        End { rib: rib(n), routes: BTreeMap::new(), imports: [0; VRFS as usize], vrfs: BTreeMap::new() }
    }

    fn hear_events(&mut self) {
        for event in events(&mut self.rib) {
            let key = (event.vrf.0, event.prefix);
            let paths: BTreeSet<_> = event.paths.iter().map(|p| (p.next_hop, p.label.value())).collect();
            assert_eq!(paths.len(), event.paths.len(), "each way once");
            let before = if paths.is_empty() { self.vrfs.remove(&key) } else { self.vrfs.insert(key, paths) };
            assert!(before.is_some() || self.vrfs.contains_key(&key), "gone without having been there");
        }
    }

    /// What each VRF should hold.
    fn expected(&self, other: &End) -> BTreeMap<(u32, Prefix), BTreeSet<(IpAddr, u32)>> {
        let mut expected = BTreeMap::new();
        for vrf in 0..VRFS {
            let wanted = names(self.imports[vrf as usize]);
            let is_imported = |route: &&LocalRoute| {
                route.route_targets.iter().any(|target| wanted.contains(&target.to_string()))
            };
            for prefix in PREFIXES.map(|prefix| prefix.parse::<Prefix>().unwrap()) {
                let of = |end: &End| -> Vec<LocalRoute> {
                    let routes = end.routes.values().filter(|route| route.prefix.prefix == prefix);
                    routes.filter(is_imported).cloned().collect()
                };
                let (own, others) = (of(self), of(other));
                let most = |routes: &[LocalRoute]| routes.iter().map(|route| route.local_pref).max();
                // Our own win a draw.
                let offered = if most(&own) >= most(&others) { own } else { others };
                let best = most(&offered);
                let ways: BTreeSet<_> = offered
                    .iter()
                    .filter(|route| Some(route.local_pref) == best)
                    .map(|route| (route.next_hop, route.label.value()))
                    .collect();
                if !ways.is_empty() {
                    expected.insert((vrf, prefix), ways);
                }
            }
        }
        expected
    }

    fn set_imports(&mut self, now: Instant) {
        let names: Vec<Vec<String>> = self.imports.iter().map(|bits| names(*bits)).collect();
        let lists: Vec<Vec<&str>> =
            names.iter().map(|list| list.iter().map(String::as_str).collect()).collect();
        let targets: Vec<(u32, &[&str])> = (0..VRFS).zip(lists.iter().map(Vec::as_slice)).collect();
        self.rib.set_imports(imports(&targets), now);
    }
}

fn up(ends: &mut [End; 2], families: FamilySet, now: Instant) {
    let [a, b] = ends;
    connect(&mut a.rib, &mut b.rib, families, now);
}

fn apply(ends: &mut [End; 2], change: &Change, families: FamilySet, now: Instant) {
    match *change {
        Change::Originate { side, rd, prefix, label, targets, local_pref } => {
            let text = format!("65000:{rd}:{}", PREFIXES[prefix]);
            let names = names(targets);
            let targets: Vec<&str> = names.iter().map(String::as_str).collect();
            let next_hop = address(u8::try_from(side).unwrap() + 1).into();
            let route = LocalRoute { next_hop, local_pref, ..route(&text, label, &targets) };
            ends[side].routes.insert(route.prefix, route.clone());
            ends[side].rib.originate(route, now);
        }
        Change::Withdraw { side, rd, prefix } => {
            let prefix = format!("65000:{rd}:{}", PREFIXES[prefix]).parse().unwrap();
            ends[side].routes.remove(&prefix);
            ends[side].rib.withdraw(prefix, now);
        }
        Change::Imports { side, targets } => {
            ends[side].imports = targets;
            ends[side].set_imports(now);
        }
        Change::Deliver { side, most } => {
            for _ in 0..most {
                let mut out = bytes::BytesMut::new();
                if ends[side].rib.poll_message(PEER, &mut out) {
                    take(&mut ends[1 - side].rib, PEER, &[(out[18], out[19..].to_vec())], now);
                }
            }
        }
        Change::Flap => {
            ends.iter_mut().for_each(|end| end.rib.peer_down(PEER, bgp_core::PeerDown::Purge, now));
            up(ends, families, now);
        }
        Change::Refresh { side } => {
            for body in [[0, 1, 0, 128], [0, 2, 0, 128], [0, 1, 0, 132]] {
                ends[side].rib.handle_route_refresh(PEER, &body, now).unwrap();
            }
        }
    }
}

fn check_end(mut ends: [End; 2], now: Instant) {
    let [a, b] = &mut ends;
    settle(&mut a.rib, &mut b.rib, now);
    for end in &mut ends {
        end.hear_events();
    }
    let [a, b] = &ends;
    assert_eq!(a.vrfs, a.expected(b));
    assert_eq!(b.vrfs, b.expected(a));
    for end in &mut ends {
        end.rib.peer_down(PEER, bgp_core::PeerDown::Purge, now);
        let prefixes: Vec<VpnPrefix> = end.routes.keys().copied().collect();
        prefixes.into_iter().for_each(|prefix| end.rib.withdraw(prefix, now));
        end.hear_events();
        assert!(end.vrfs.is_empty());
        let counts = end.rib.counts();
        assert_eq!((counts.routes, counts.paths, counts.attribute_sets), (0, 0, 0));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn two_ribs_agree_with_the_model(changes in vec(change(), 0..60), with_memberships: bool) {
        let now = Instant::now();
        let families = if with_memberships { FamilySet::L3VPN } else { vpn() };
        let mut ends = [End::new(1), End::new(2)];
        up(&mut ends, families, now);
        for change in &changes {
            apply(&mut ends, change, families, now);
            ends.iter_mut().for_each(End::hear_events);
        }
        check_end(ends, now);
    }
}
