//! What the words of a slot mean.
//!
//! ```text
//!  0 1  the workload's address         5  protocol, family, kind; who began; translation; the port that others see
//!  2 3  the other end's                6 7  the address that others see
//!  4    both ports, the port's number  8  its VRF, or the slot that this one points to
//! ```

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use vrouter_types::{PortId, VrfId};

use super::life::FlowState;
use super::{Begun, Flow, FlowTuple, Translation};
use crate::flow::words;

/// Words of a slot.
pub(super) const WORDS: usize = 9;
pub(super) const FREE: u64 = 0;
pub(super) const WRITING: u64 = 1;
pub(super) const USED: u64 = 2;
pub(super) const GENERATION: u64 = 0xff_ffff;

/// What a slot holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Flow,
    Alias,
    Fragment,
}

/// One use of one slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FlowRef {
    pub(super) slot: u32,
    pub(super) generation: u32,
}

/// What a slot is found by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Key(pub(super) [u64; 6]);

impl Key {
    pub(super) fn of(kind: Kind, tuple: &FlowTuple) -> Key {
        let FlowTuple { port, protocol, local, remote, local_port, remote_port } = *tuple;
        let ([a, b], [c, d]) = (words(local), words(remote));
        let ports = u64::from(local_port) << 48 | u64::from(remote_port) << 32 | u64::from(port.0);
        let meta = u64::from(protocol) | u64::from(local.is_ipv4()) << 8 | (kind as u64) << 16;
        Key([a, b, c, d, ports, meta])
    }

    pub(super) fn words(&self) -> [u64; 6] {
        self.0
    }
}

pub(super) fn reference(slot: usize, head: u64) -> Option<FlowRef> {
    Some(FlowRef { slot: u32::try_from(slot).ok()?, generation: generation(head) })
}

pub(super) fn generation(head: u64) -> u32 {
    u32::try_from(head >> 8 & GENERATION).unwrap_or_default()
}

pub(super) fn next_generation(at: FlowRef) -> u64 {
    (u64::from(at.generation) + 1) & GENERATION
}

pub(super) fn life(state: FlowState, generation: u32, now_ms: u64) -> u64 {
    (now_ms >> 8) << 32 | u64::from(state.0) << 24 | u64::from(generation)
}

pub(super) fn state(life: u64) -> FlowState {
    FlowState(u8::try_from(life >> 24 & 0xff).unwrap_or_default())
}

/// Workers' clocks differ by a little: what was seen in the future was seen now.
pub(super) fn quiet_ms(life: u64, now_ms: u64) -> u64 {
    (now_ms >> 8 & 0xffff_ffff).saturating_sub(life >> 32) << 8
}

pub(super) fn stamp(policy: u64, generation: u32) -> u64 {
    policy << 24 | u64::from(generation)
}

pub(super) fn is_key(words: &[u64; WORDS], key: &Key) -> bool {
    words[..5] == key.0[..5] && words[5] & 0xff_ffff == key.0[5]
}

pub(super) fn kind(words: &[u64; WORDS]) -> Option<Kind> {
    [Kind::Flow, Kind::Alias, Kind::Fragment].into_iter().find(|kind| *kind as u64 == words[5] >> 16 & 0xff)
}

pub(super) fn port_of(key: &Key) -> PortId {
    PortId(u32::try_from(key.0[4] & 0xffff_ffff).unwrap_or_default())
}

/// Who began and the kind of translation, in the sixth word's place; the address that others see; its VRF.
pub(super) fn encode(flow: &Flow) -> (u64, [u64; 2], u64) {
    let begun = u64::from(flow.begun == Begun::Outside) << 24;
    let with = |kind: u64, port: u16| begun | kind << 32 | u64::from(port) << 48;
    match flow.translation {
        Translation::None => (begun, [0, 0], 0),
        Translation::Floating(address, vrf) => (with(1, 0), words(address), u64::from(vrf.0)),
        Translation::Node(address, port) => (with(2, port), words(address), 0),
        Translation::Metadata(address, port) => (with(3, port), words(address), 0),
        Translation::Dns(address, port) => (with(4, port), words(address), 0),
    }
}

pub(super) fn decode(at: FlowRef, words: &[u64; WORDS], life: u64) -> Flow {
    let meta = words[5];
    let v4 = meta >> 8 & 1 == 1;
    let low = |word: u64| u32::try_from(word & 0xffff_ffff).unwrap_or_default();
    let port = |word: u64| u16::try_from(word & 0xffff).unwrap_or_default();
    let address = |high: u64, low_word: u64| match v4 {
        true => IpAddr::V4(Ipv4Addr::from_bits(low(low_word))),
        false => IpAddr::V6(Ipv6Addr::from_bits(u128::from(high) << 64 | u128::from(low_word))),
    };
    let tuple = FlowTuple {
        port: PortId(low(words[4])),
        protocol: u8::try_from(meta & 0xff).unwrap_or_default(),
        local: address(words[0], words[1]),
        remote: address(words[2], words[3]),
        local_port: port(words[4] >> 48),
        remote_port: port(words[4] >> 32),
    };
    let (seen_as, seen_port) = (address(words[6], words[7]), port(meta >> 48));
    let translation = match meta >> 32 & 0xff {
        1 => Translation::Floating(seen_as, VrfId(low(words[8]))),
        2 => Translation::Node(seen_as, seen_port),
        3 => Translation::Metadata(seen_as, seen_port),
        4 => Translation::Dns(seen_as, seen_port),
        _ => Translation::None,
    };
    let begun = if meta >> 24 & 1 == 1 { Begun::Outside } else { Begun::Inside };
    Flow { at, tuple, begun, translation, state: state(life) }
}
