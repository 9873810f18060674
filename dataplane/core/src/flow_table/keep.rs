//! Flows on their way to the next run: so that a restart breaks no connection that rules or translations track.
//!
//! ```text
//!  octet 0    4        5      6           7     8        9      25      41         43          45          61   63
//!        port protocol begun  translation state families local  remote  local port remote port translated  port
//! ```
//! Floating addresses need no memory, and the agent's own services are asked again: flows of both begin anew. Whatever
//! is taken back is checked against the policy of this run with its next packet, and belongs to a port that is there.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use vrouter_types::PortId;

use super::slot::{Key, Kind, Store};
use super::{Begun, Flow, FlowState, FlowTable, FlowTuple, NewFlow, Seen, Sender, Translation};
use crate::fib::Fib;

/// A kept flow's octets.
pub const KEPT_FLOW_LEN: usize = 63;

/// Under this policy no run has ever looked at a flow.
const NO_POLICY: u64 = (1 << 40) - 1;

impl FlowTable {
    /// The flows that are alive and that the next run cannot find out by itself.
    pub fn keep(&self, now_ms: u64) -> impl Iterator<Item = [u8; KEPT_FLOW_LEN]> {
        let store = self.store.get().into_iter();
        store.flat_map(move |store| store.flows(now_ms)).filter_map(|(flow, _, _)| encode(&flow))
    }

    /// Takes a flow of the last run back. `false`: it makes no sense, has no place, or its port is not there any more.
    pub fn take_back(&self, fib: &Fib, octets: &[u8], now_ms: u64) -> bool {
        let (Some(kept), Some(store)) = (decode(octets), self.store.get()) else { return false };
        let port = fib.port(kept.tuple.port);
        port.is_some_and(|port| port.addresses.contains(&kept.tuple.local)) && self.put(store, &kept, now_ms)
    }

    fn put(&self, store: &Store, kept: &Kept, now_ms: u64) -> bool {
        let Kept { tuple, begun, translation, state } = *kept;
        let seen = Seen { sender: Sender::Beginner, flags: 0 };
        let new = NewFlow { tuple, begun, translation, other_end: None, seen, policy: NO_POLICY };
        let key = Key::of(Kind::Flow, &tuple);
        // It had its place in the last run, whoever else holds much.
        if self.check_share(store, &new, |most, _, _| most).is_err() || store.is_taken(&key, self.key) {
            return false;
        }
        let Some(claim) = store.claim(&key, self.key, now_ms) else { return false };
        if let Translation::Node(address, port) = translation {
            let alias = FlowTuple { local: address, local_port: port, ..tuple };
            let alias = Key::of(Kind::Alias, &alias);
            let free = !store.is_taken(&alias, self.key);
            let Some(pointer) = free.then(|| store.claim(&alias, self.key, now_ms)).flatten() else {
                store.abandon(claim);
                return false;
            };
            store.publish_pointer(pointer, &alias, claim, true, now_ms);
        }
        let flow = Flow { at: claim, tuple, begun, translation, state };
        store.publish_flow(claim, &key, &flow, NO_POLICY, now_ms);
        true
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Kept {
    tuple: FlowTuple,
    begun: Begun,
    translation: Translation,
    state: FlowState,
}

fn encode(flow: &Flow) -> Option<[u8; KEPT_FLOW_LEN]> {
    let (kind, address, port) = match flow.translation {
        Translation::None => (0, IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0),
        Translation::Node(address, port) => (1, address, port),
        Translation::Floating(..) | Translation::Metadata(..) | Translation::Dns(..) => return None,
    };
    let tuple = &flow.tuple;
    let begun = u8::from(flow.begun == Begun::Outside);
    let families = [tuple.local, tuple.remote, address].into_iter().rev();
    let families = families.fold(0, |bits, address| bits << 1 | u8::from(address.is_ipv6()));
    let mut octets = [0; KEPT_FLOW_LEN];
    octets[..4].copy_from_slice(&tuple.port.0.to_be_bytes());
    octets[4..9].copy_from_slice(&[tuple.protocol, begun, kind, flow.state.0, families]);
    octets[9..25].copy_from_slice(&sixteen(tuple.local));
    octets[25..41].copy_from_slice(&sixteen(tuple.remote));
    octets[41..43].copy_from_slice(&tuple.local_port.to_be_bytes());
    octets[43..45].copy_from_slice(&tuple.remote_port.to_be_bytes());
    octets[45..61].copy_from_slice(&sixteen(address));
    octets[61..63].copy_from_slice(&port.to_be_bytes());
    Some(octets)
}

fn decode(octets: &[u8]) -> Option<Kept> {
    let octets: &[u8; KEPT_FLOW_LEN] = octets.try_into().ok()?;
    let two = |at: usize| Some(u16::from_be_bytes([*octets.get(at)?, *octets.get(at + 1)?]));
    let [a, b, c, d, protocol, begun, kind, state, families, ..] = *octets;
    let address = |at: usize, bit: u8| {
        let octets: [u8; 16] = octets.get(at..at + 16)?.try_into().ok()?;
        let address = Ipv6Addr::from(octets);
        match families >> bit & 1 {
            0 => address.to_ipv4_mapped().map(IpAddr::V4),
            _ => Some(IpAddr::V6(address)),
        }
    };
    let (local, remote) = (address(9, 0)?, address(25, 1)?);
    let translation = match kind {
        0 => Translation::None,
        1 => {
            let seen_as = address(45, 2).filter(|seen_as| seen_as.is_ipv4() == local.is_ipv4())?;
            Translation::Node(seen_as, two(61)?)
        }
        _ => return None,
    };
    let begun = match begun {
        0 => Begun::Inside,
        1 => Begun::Outside,
        _ => return None,
    };
    let port = PortId(u32::from_be_bytes([a, b, c, d]));
    let tuple = FlowTuple { port, protocol, local, remote, local_port: two(41)?, remote_port: two(43)? };
    // What the rules had cut off, they look at again.
    (local.is_ipv4() == remote.is_ipv4()).then_some(Kept {
        tuple,
        begun,
        translation,
        state: FlowState(state),
    })
}

fn sixteen(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        IpAddr::V6(address) => address.octets(),
    }
}

#[cfg(test)]
mod tests {
    use vrouter_types::{MacAddr, VrfId};

    use super::super::FlowLimits;
    use super::*;
    use crate::fib::Port;
    use crate::packet::{TCP, UDP};

    fn table() -> FlowTable {
        let table = FlowTable::new(FlowLimits { flows: 64, ..FlowLimits::default() }, [1, 2]);
        table.prepare();
        table
    }

    fn new(local: &str, remote: &str, protocol: u8, translation: Translation) -> NewFlow {
        let (local, remote) = (local.parse().unwrap(), remote.parse().unwrap());
        let tuple = FlowTuple { port: PortId(3), protocol, local, remote, local_port: 5000, remote_port: 80 };
        let seen = Seen { sender: Sender::Beginner, flags: 0x02 };
        NewFlow { tuple, begun: Begun::Inside, translation, other_end: None, seen, policy: 7 }
    }

    fn fib(addresses: &[&str]) -> Fib {
        let mut fib = Fib::new();
        let mut port = Port::new(PortId(3), VrfId(0), MacAddr([2; 6]));
        port.addresses = addresses.iter().map(|address| address.parse().unwrap()).collect();
        fib.ports = vec![None, None, None, Some(port.into())];
        fib
    }

    #[test]
    fn a_flow_goes_on_in_the_next_run_with_the_port_that_others_know() {
        let (old, node) = (table(), "192.0.2.1".parse().unwrap());
        let plain = new("fd00::2", "fd00::9", TCP, Translation::None);
        let shared = new("10.0.0.2", "10.9.9.9", UDP, Translation::Node(node, 0));
        let flows = [old.begin(&plain, 100).unwrap(), old.begin(&shared, 100).unwrap()];
        // Another of the same port, so that this one was given another.
        let other = FlowTuple { local: "10.0.0.3".parse().unwrap(), ..shared.tuple };
        let moved = old.begin(&NewFlow { tuple: other, ..shared }, 100).unwrap();
        let Translation::Node(_, port) = moved.translation else { panic!("{moved:?}") };
        assert_ne!(port, 5000);
        let kept: Vec<_> = old.keep(200).collect();
        assert_eq!(kept.len(), 3);
        let (next, fib) = (table(), fib(&["fd00::2", "10.0.0.2", "10.0.0.3"]));
        assert!(kept.iter().all(|octets| next.take_back(&fib, octets, 5)));
        for flow in flows.iter().chain([&moved]) {
            let found = next.find(&flow.tuple, 6).expect("it goes on");
            assert_eq!(
                (found.begun, found.translation, found.state),
                (flow.begun, flow.translation, flow.state)
            );
            assert_ne!(next.stamp(&found), Some(7), "this run's policy has not looked at it");
        }
        let alias = FlowTuple { local: node, local_port: port, ..other };
        assert_eq!(next.find_alias(&alias, 6).map(|flow| flow.tuple), Some(other));
        assert!(!next.take_back(&fib, &kept[0], 6), "only once");
        assert_eq!(next.usage(6).node_ports, 2);
    }

    #[test]
    fn a_table_nearly_full_comes_back_as_a_whole() {
        let table = || {
            // Its slots are a power of two, so that no bucket runs over.
            let limits = FlowLimits { flows: 520, per_port: 130, ..FlowLimits::default() };
            let table = FlowTable::new(limits, [1, 2]);
            table.prepare();
            table
        };
        let (old, next) = (table(), table());
        let of = |port, number| {
            let new = new("10.0.0.2", "10.9.9.9", UDP, Translation::None);
            NewFlow { tuple: FlowTuple { port: PortId(port), local_port: number, ..new.tuple }, ..new }
        };
        // Three ports hold their share, and many hold little.
        let held = (0..3).flat_map(|port| (0..130).map(move |number| (port, number)));
        for (port, number) in held.chain((3..23).flat_map(|port| [(port, 1), (port, 2)])) {
            old.begin(&of(port, number), 100).unwrap();
        }
        let mut fib = Fib::new();
        for id in (0..23).map(PortId) {
            let mut port = Port::new(id, VrfId(0), MacAddr([2; 6]));
            port.addresses.push("10.0.0.2".parse().unwrap());
            fib.insert_port(port.into());
        }
        let kept: Vec<_> = old.keep(200).collect();
        assert_eq!(kept.len(), 3 * 130 + 40);
        assert_eq!(kept.iter().filter(|octets| !next.take_back(&fib, *octets, 5)).count(), 0);
        assert_eq!(next.begin(&of(0, 999), 5).err(), Some(crate::DropReason::FlowLimitPort));
    }

    #[test]
    fn what_needs_no_memory_or_has_no_port_is_left_behind() {
        let old = table();
        let address = "192.0.2.1".parse().unwrap();
        for translation in [Translation::Floating(address, VrfId(1)), Translation::Dns(address, 53)] {
            old.begin(&new("10.0.0.2", "10.9.9.9", UDP, translation), 1).unwrap();
            assert_eq!(old.keep(2).count(), 0, "{translation:?}");
            let found = old.find(&new("10.0.0.2", "10.9.9.9", UDP, translation).tuple, 2).unwrap();
            old.remove(&found);
        }
        old.begin(&new("10.0.0.2", "10.9.9.9", UDP, Translation::None), 1).unwrap();
        let kept: Vec<_> = old.keep(2).collect();
        assert_eq!(kept.len(), 1);
        assert!(!table().take_back(&fib(&["10.0.0.7"]), &kept[0], 1), "the port has another address now");
        assert!(!table().take_back(&Fib::new(), &kept[0], 1), "the port is gone");
    }

    #[test]
    fn octets_that_are_no_flow_are_refused() {
        let old = table();
        old.begin(&new("10.0.0.2", "10.9.9.9", UDP, Translation::None), 1).unwrap();
        let good = old.keep(2).next().unwrap();
        let (next, fib) = (table(), fib(&["10.0.0.2"]));
        for len in 0..good.len() {
            assert!(!next.take_back(&fib, &good[..len], 1), "{len}");
        }
        for (at, value) in [(5, 2), (6, 2), (8, 1), (9, 1), (3, 4)] {
            let mut bad = good;
            bad[at] = value;
            assert!(!next.take_back(&fib, &bad, 1), "octet {at}");
        }
        assert!(next.take_back(&fib, &good, 1));
        old.begin(&new("10.0.0.2", "10.9.9.9", TCP, Translation::Node("192.0.2.1".parse().unwrap(), 0)), 1)
            .unwrap();
        let mut translated = old.keep(2).find(|octets| octets[6] == 1).unwrap();
        translated[8] ^= 0b100;
        assert!(!next.take_back(&fib, &translated, 1), "to an address of the other family");
        translated[8] ^= 0b100;
        assert!(next.take_back(&fib, &translated, 1));
    }
}
