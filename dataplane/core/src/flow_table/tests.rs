use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use proptest::prelude::*;

use super::*;
use crate::packet::{TCP, UDP};

const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const ACK: u8 = 0x10;
const FIN: u8 = 0x01;

fn limits(flows: usize) -> FlowLimits {
    FlowLimits { flows, per_port: 1 << 20, node_ports: 1 << 20, node_ports_per_port: 1 << 20 }
}

fn table(limits: FlowLimits) -> FlowTable {
    let table = FlowTable::new(limits, [7, 9]);
    table.prepare();
    table
}

fn tuple(port: u32, protocol: u8, local_port: u16) -> FlowTuple {
    let (local, remote) = ("10.0.0.2".parse().unwrap(), "198.51.100.7".parse().unwrap());
    FlowTuple { port: PortId(port), protocol, local, remote, local_port, remote_port: 443 }
}

fn new(tuple: FlowTuple, translation: Translation) -> NewFlow {
    let seen = Seen { sender: Sender::Beginner, flags: if tuple.protocol == TCP { SYN } else { 0 } };
    NewFlow { tuple, begun: Begun::Inside, translation, other_end: None, seen, policy: 1 }
}

fn plain(table: &FlowTable, tuple: FlowTuple, now_ms: u64) -> Result<Flow, DropReason> {
    table.begin(&new(tuple, Translation::None), now_ms)
}

fn node(table: &FlowTable, tuple: FlowTuple, now_ms: u64) -> Result<Flow, DropReason> {
    table.begin(&new(tuple, Translation::Node("169.254.64.4".parse().unwrap(), 0)), now_ms)
}

fn seen(sender: Sender, flags: u8) -> Seen {
    Seen { sender, flags }
}

#[test]
fn a_table_that_was_not_prepared_refuses_and_takes_no_memory() {
    let table = FlowTable::new(limits(64), [1, 2]);
    assert_eq!(plain(&table, tuple(1, UDP, 5), 0), Err(DropReason::FlowTableFull));
    assert_eq!(table.find(&tuple(1, UDP, 5), 0), None);
    assert_eq!(table.usage(0).octets, 0);
    assert_eq!(table.flows(0).count(), 0);
}

#[test]
fn what_was_begun_is_found_as_it_was() {
    let table = table(limits(64));
    let v6 = FlowTuple {
        local: "fd00::2".parse().unwrap(),
        remote: "2001:db8::7".parse().unwrap(),
        ..tuple(4095, UDP, 65535)
    };
    let floating = Translation::Floating("2001:db8:f::9".parse().unwrap(), VrfId(77));
    table.begin(&new(v6, floating), 5).unwrap();
    let found = table.find(&v6, 5).unwrap();
    assert_eq!((found.tuple, found.translation, found.begun), (v6, floating, Begun::Inside));
    assert_eq!(table.find(&FlowTuple { port: PortId(4094), ..v6 }, 5), None, "of another port");
    assert_eq!(table.find(&FlowTuple { protocol: TCP, ..v6 }, 5), None, "of another protocol");
    assert_eq!(table.stamp(&found), Some(1));
}

#[test]
fn an_alias_leads_to_its_flow_and_goes_with_it() {
    let table = table(limits(64));
    let flow = node(&table, tuple(3, UDP, 5000), 0).unwrap();
    let Translation::Node(address, port) = flow.translation else { panic!("{flow:?}") };
    assert_eq!(port, 5000, "the workload's own port where it is free");
    let alias = FlowTuple { local: address, ..flow.tuple };
    assert_eq!(table.find_alias(&alias, 0).map(|found| found.tuple), Some(flow.tuple));
    assert_eq!(table.usage(0).node_ports, 1);
    table.remove(&flow);
    assert_eq!(table.find_alias(&alias, 0), None);
    table.sweep(10);
    assert_eq!((table.usage(10).node_ports, table.usage(10).slots), (0, 0));
}

#[test]
fn two_addresses_with_one_port_leave_with_two() {
    let table = table(limits(64));
    let first = node(&table, tuple(3, TCP, 5000), 0).unwrap();
    let other = FlowTuple { local: "10.0.0.3".parse().unwrap(), ..tuple(3, TCP, 5000) };
    let second = node(&table, other, 0).unwrap();
    let (Translation::Node(address, one), Translation::Node(_, two)) =
        (first.translation, second.translation)
    else {
        panic!("{first:?} {second:?}")
    };
    assert_ne!(one, two);
    for (port, flow) in [(one, first), (two, second)] {
        let alias = FlowTuple { local: address, local_port: port, ..flow.tuple };
        assert_eq!(table.find_alias(&alias, 0).map(|found| found.tuple.local), Some(flow.tuple.local));
    }
}

#[test]
fn ports_of_the_node_are_bounded_for_each_and_for_all() {
    let table = table(FlowLimits { node_ports: 5, node_ports_per_port: 3, ..limits(256) });
    let begin = |port, number| node(&table, tuple(port, UDP, number), 0).map(|_| ());
    assert!((0..3).all(|number| begin(1, number).is_ok()));
    assert_eq!(begin(1, 3), Err(DropReason::SnatExhausted), "its share");
    assert!((0..2).all(|number| begin(2, number).is_ok()));
    assert_eq!(begin(2, 3), Err(DropReason::SnatExhausted), "the node's");
    assert!(plain(&table, tuple(2, UDP, 9), 0).is_ok(), "what keeps its address needs none");
    assert_eq!(table.usage(0).refused, 2);
    // All of it is over long after.
    assert!(node(&table, tuple(2, UDP, 3), 100_000).is_ok());
    assert_eq!(table.usage(100_000).node_ports, 1);
}

#[test]
fn a_flood_is_refused_and_costs_no_old_flow() {
    let table = table(FlowLimits { per_port: 100, ..limits(512) });
    let old = plain(&table, tuple(1, TCP, 1), 0).unwrap();
    table.note(&old, seen(Sender::Answerer, SYN | ACK), 0);
    table.note(&old, seen(Sender::Beginner, ACK), 0);
    let refusals: Vec<DropReason> =
        (2..2000).filter_map(|number| plain(&table, tuple(1, UDP, number), 10).err()).collect();
    assert_eq!(refusals.len(), 1899);
    assert!(refusals.iter().all(|reason| *reason == DropReason::FlowLimitPort), "a port's share");
    let full: Vec<DropReason> =
        (0..5000u16).filter_map(|n| plain(&table, tuple(2 + u32::from(n % 50), UDP, n), 10).err()).collect();
    assert!(full.contains(&DropReason::FlowTableFull), "the whole table");
    assert!(table.find(&tuple(1, TCP, 1), 10).is_some());
    assert!(table.find(&tuple(1, TCP, 1), 7_000_000).is_some(), "hours later, since it is established");
    assert!(plain(&table, tuple(1, UDP, 9), 100_000).is_ok(), "the flood is over");
}

#[test]
fn a_few_that_take_all_they_may_leave_room_for_whoever_holds_little() {
    // As by default: a port's share is a quarter of all flows, an eighth of the node's ports, and one tenant has many.
    let flows = table(FlowLimits { per_port: 256, ..limits(1024) });
    let nodes = table(FlowLimits { node_ports: 512, node_ports_per_port: 64, ..limits(4096) });
    for number in 0..300 {
        (0..4).for_each(|port| {
            let _ = plain(&flows, tuple(port, UDP, number), 10);
        });
        (0..8).for_each(|port| {
            let _ = node(&nodes, tuple(port, UDP, number), 10);
        });
    }
    assert_eq!(plain(&flows, tuple(0, UDP, 999), 10).err(), Some(DropReason::FlowLimitPort));
    assert_eq!(node(&nodes, tuple(0, UDP, 999), 10).err(), Some(DropReason::SnatExhausted));
    for number in 0..16 {
        assert!(plain(&flows, tuple(77, UDP, number), 10).is_ok(), "{number} {:?}", flows.usage(10));
        assert!(node(&nodes, tuple(77, UDP, number), 10).is_ok(), "{number} {:?}", nodes.usage(10));
    }
    // It is nobody's for good: when those are over, a port may have its share again.
    let again = (0..400).filter(|number| plain(&flows, tuple(5, UDP, *number), 100_000).is_ok());
    assert_eq!(again.count(), 256);
}

#[test]
fn fragments_count_among_a_ports_share_and_stay_within_it() {
    let table = table(FlowLimits { per_port: 10, ..limits(512) });
    let flow = plain(&table, tuple(1, UDP, 1), 0).unwrap();
    let first = crate::testing::udp("10.0.0.1", "10.9.9.9", 8);
    let packet = crate::packet::Packet::parse(&first).unwrap();
    let mut refused = 0;
    for id in 0..200 {
        // A sweep is due each time, and finds nothing: all of them are new.
        let now = u64::from(id) * 20;
        let datagram = Datagram::of(PortId(1), &packet, id);
        match table.begin_fragment(&datagram, &flow, now) {
            Ok(()) => assert!(table.find_fragment(&datagram, now).is_some()),
            Err(reason) => {
                assert_eq!(reason, DropReason::FlowLimitPort);
                refused += 1;
            }
        }
    }
    assert_eq!((refused, table.usage(4000).slots), (191, 10));
    let later = Datagram::of(PortId(1), &packet, 777);
    assert_eq!(table.begin_fragment(&later, &flow, 9_000), Ok(()), "they are over");
}

#[test]
fn a_connection_lives_as_long_as_its_state_says() {
    let table = table(limits(64));
    let begin = || plain(&table, tuple(1, TCP, 1), 0).unwrap();
    let alive = |at| table.find(&tuple(1, TCP, 1), at).is_some();
    let flow = begin();
    assert!(alive(60_000) && !alive(62_000), "a SYN that nobody answers");
    let flow2 = begin();
    assert_ne!(flow.at, flow2.at, "another use of the slot");
    table.note(&flow2, seen(Sender::Answerer, SYN | ACK), 0);
    table.note(&flow2, seen(Sender::Beginner, ACK), 0);
    assert!(alive(7_400_000), "established");
    table.note(&flow2, seen(Sender::Answerer, FIN | ACK), 7_400_000);
    assert!(alive(7_519_000), "half closed");
    table.note(&flow2, seen(Sender::Beginner, FIN | ACK), 7_519_000);
    assert!(alive(7_548_000) && !alive(7_550_000), "closed");
    let flow3 = begin();
    table.note(&flow3, seen(Sender::Beginner, RST), 0);
    assert!(alive(10_000) && !alive(11_000), "reset");
    table.note(&flow3, seen(Sender::Beginner, ACK), 0);
    table.note(&flow, seen(Sender::Beginner, ACK), 0);
    assert!(!alive(11_000), "what is over stays so, whatever comes late");
}

#[test]
fn a_reset_in_anothers_name_does_not_end_a_connection_that_goes_on() {
    for (forged, other) in [(Sender::Answerer, Sender::Beginner), (Sender::Beginner, Sender::Answerer)] {
        let table = table(limits(64));
        let flow = plain(&table, tuple(1, TCP, 1), 0).unwrap();
        let alive = |now| table.find(&tuple(1, TCP, 1), now).is_some();
        table.note(&flow, seen(Sender::Answerer, SYN | ACK), 0);
        table.note(&flow, seen(Sender::Beginner, ACK), 0);
        table.note(&flow, seen(forged, RST), 1000);
        // What was under way does not tell; who is said to have gone does.
        table.note(&flow, seen(other, ACK), 1500);
        assert!(table.find(&tuple(1, TCP, 1), 1500).unwrap().state.is_closed());
        table.note(&flow, seen(forged, ACK), 2000);
        assert!(!table.find(&tuple(1, TCP, 1), 2000).unwrap().state.is_closed());
        assert!(alive(7_000_000), "as before");
        table.note(&flow, seen(other, RST | ACK), 7_000_000);
        table.note(&flow, seen(forged, RST), 7_000_000);
        table.note(&flow, seen(forged, SYN | ACK), 7_000_000);
        assert!(alive(7_009_000) && !alive(7_012_000), "this time it is over");
    }
}

#[test]
fn a_denied_flow_stays_denied_until_rules_allow_it_again() {
    let table = table(limits(64));
    let flow = plain(&table, tuple(1, TCP, 1), 0).unwrap();
    table.deny(&flow, 2);
    let denied = table.find(&tuple(1, TCP, 1), 0).unwrap();
    assert!(denied.state.is_denied());
    assert_eq!(table.stamp(&denied), Some(2));
    table.note(&denied, seen(Sender::Beginner, ACK), 119_000);
    assert!(table.find(&tuple(1, TCP, 1), 121_000).is_none(), "its packets do not keep it");
    let flow = plain(&table, tuple(1, TCP, 1), 0).unwrap();
    table.deny(&flow, 2);
    table.allow(&flow, 3);
    assert!(!table.find(&tuple(1, TCP, 1), 0).unwrap().state.is_denied());
}

#[test]
fn clocks_that_differ_by_a_little_do_no_harm() {
    let table = table(limits(64));
    plain(&table, tuple(1, UDP, 1), 100_000).unwrap();
    assert!(table.find(&tuple(1, UDP, 1), 99_000).is_some());
}

/// A flow of the model: when it was last seen and how long it may be quiet.
#[derive(Debug, Clone, Copy)]
struct Known {
    seen: u64,
    answered: bool,
}

#[derive(Debug, Clone)]
enum Step {
    Begin(u16),
    Answer(u16),
    Remove(u16),
    Find(u16),
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0u16..40).prop_map(Step::Begin),
        (0u16..40).prop_map(Step::Answer),
        (0u16..40).prop_map(Step::Remove),
        (0u16..40).prop_map(Step::Find),
        (0u64..40_000).prop_map(Step::Wait),
    ]
}

proptest! {
    /// Against a map that forgets by the clock. Times are kept in steps of a quarter of a second, so neither side is
    /// asked about a flow within a second of its end.
    #[test]
    fn it_knows_what_a_simple_map_knows(steps in proptest::collection::vec(step(), 1..200)) {
        let table = table(limits(1024));
        let mut model: HashMap<u16, Known> = HashMap::new();
        let mut now = 0u64;
        let idle = |known: &Known| if known.answered { 180_000 } else { 30_000 };
        for step in steps {
            now += if let Step::Wait(ms) = step { ms } else { 0 };
            let near = |known: &Known, now: u64| (known.seen + idle(known)).abs_diff(now) < 2_000;
            while model.values().any(|known| near(known, now)) {
                now += 1_000;
            }
            model.retain(|_, known| now - known.seen <= idle(known));
            match step {
                Step::Begin(number) => {
                    // As packets do: what is known does not begin.
                    let known = table.find(&tuple(1, UDP, number), now).is_some();
                    prop_assert_eq!(known, model.contains_key(&number));
                    if !known {
                        prop_assert!(plain(&table, tuple(1, UDP, number), now).is_ok());
                        model.insert(number, Known { seen: now, answered: false });
                    }
                }
                Step::Answer(number) => {
                    if let Some(flow) = table.find(&tuple(1, UDP, number), now) {
                        table.note(&flow, seen(Sender::Answerer, 0), now);
                    }
                    if let Some(known) = model.get_mut(&number) {
                        *known = Known { seen: now, answered: true };
                    }
                }
                Step::Remove(number) => {
                    if let Some(flow) = table.find(&tuple(1, UDP, number), now) {
                        table.remove(&flow);
                    }
                    model.remove(&number);
                }
                Step::Find(number) => {
                    let found = table.find(&tuple(1, UDP, number), now).is_some();
                    prop_assert_eq!(found, model.contains_key(&number), "{} at {}", number, now);
                }
                Step::Wait(_) => {}
            }
            prop_assert_eq!(table.flows(now).count(), model.len());
        }
        table.sweep(now + 1_000_000);
        prop_assert_eq!(table.usage(now + 1_000_000).slots, 0);
    }
}

/// Threads begin, find, answer and end flows of each other, while others sweep. Every thread has flows that nobody else
/// touches: of these none may be lost or mixed up. At the end, all is accounted for.
#[test]
fn threads_share_it_and_lose_nothing() {
    const THREADS: u32 = 4;
    let table = table(FlowLimits { node_ports: 1 << 20, ..limits(4096) });
    let clock = AtomicU64::new(1);
    thread::scope(|scope| {
        for thread in 0..THREADS {
            let (table, clock) = (&table, &clock);
            scope.spawn(move || {
                for round in 0..3_000u32 {
                    let now = clock.fetch_add(1, Ordering::Relaxed);
                    let number = u16::try_from(round % 64).unwrap();
                    // Its own: with an alias, found by both names.
                    let own = FlowTuple { remote_port: 1, ..tuple(100 + thread, UDP, number) };
                    let flow = match table.find(&own, now) {
                        Some(flow) => flow,
                        None => node(table, own, now).unwrap(),
                    };
                    assert_eq!(flow.tuple, own);
                    let Translation::Node(local, local_port) = flow.translation else { panic!("{flow:?}") };
                    let alias = FlowTuple { local, local_port, ..own };
                    assert_eq!(table.find_alias(&alias, now).map(|found| found.tuple), Some(own));
                    if round % 7 == 0 {
                        table.remove(&flow);
                        assert_eq!(table.find(&own, now), None);
                    }
                    // Everybody's: any answer is fine, but never another flow.
                    let shared = tuple(1, TCP, number);
                    match table.find(&shared, now) {
                        Some(flow) if round % 11 == 0 => table.remove(&flow),
                        Some(flow) => {
                            assert_eq!(flow.tuple, shared);
                            table.note(&flow, seen(Sender::Answerer, ACK), now);
                            table.allow(&flow, u64::from(round));
                        }
                        None => drop(plain(table, shared, now)),
                    }
                    if round % 500 == 0 {
                        table.sweep(now);
                        assert!(table.flows(now).all(|flow| flow.tuple.local == shared.local));
                    }
                }
            });
        }
    });
    let over = clock.into_inner() + 100_000_000;
    table.swept_ms.store(0, Ordering::Relaxed);
    table.sweep(over);
    let usage = table.usage(over);
    assert_eq!((usage.flows, usage.slots, usage.node_ports), (0, 0, 0));
    let store = table.store.get().unwrap();
    assert!((0..200).all(|port| store.share(PortId(port)).slots() == 0));
}
