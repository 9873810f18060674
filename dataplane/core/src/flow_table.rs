//! Flows that need memory: of ports with a policy, and of packets whose addresses are translated.
//!
//! ```text
//!  tuple ──hash──▶ two buckets of eight heads ──▶ slot: tuple, translation │ life: state, last seen │ stamp: policy
//!                  [fingerprint|generation|use]         written once         changes with packets
//!
//!  kinds of slot    flow       what the workload sees: its own address and port, the other end's
//!                   alias      what others see of a flow whose port is translated; points to its flow
//!                   fragment   datagrams whose later fragments carry no ports; points to its flow
//! ```
//! A fixed number of slots that all workers share without a lock. A slot is claimed by one compare-and-swap on its head
//! and read like a sequence lock: whoever finds the head changed has read nothing. Each use of a slot has its own
//! generation, so nobody refreshes, stamps or frees a flow other than the one that he found. Two workers that begin one
//! flow at once may make it twice; the first in its bucket is then the one that counts, the other times out.
//!
//! A flow is never given up before its time. When there is no room, or the port has used up its share, the new flow is
//! refused: a flood costs whoever floods. The last quarter is for ports that hold little. Nobody sweeps but those who need
//! room, at most once in a second.

mod keep;
mod life;
mod slot;
mod tuple;
mod usage;
mod words;

#[cfg(test)]
mod tests;

use std::net::IpAddr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use vrouter_types::{PortId, VrfId};

use crate::flow::{FlowHash, FlowKey};
use crate::packet::{ICMP, ICMPV6, TCP, UDP};
use crate::verdict::DropReason;
pub use keep::KEPT_FLOW_LEN;
pub use life::FlowState;
pub(crate) use life::{Seen, Sender};
pub(crate) use slot::FlowRef;
use slot::{BUCKET, Kind, Store};
pub(crate) use tuple::{Class, Datagram, Direction, classify, quoted};
pub use usage::{FlowUse, FlowView};

/// How much the table may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FlowLimits {
    /// Slots in all, of some hundred octets each. A flow whose port is translated takes two.
    pub flows: usize,
    /// Slots that one port may hold; a sixteenth of that once three quarters of all are in use.
    pub per_port: u32,
    /// Flows that may leave with the node's address at once, each of which takes a port there.
    pub node_ports: u32,
    /// How many of these one port may hold; a sixteenth of that once three quarters of all are in use.
    pub node_ports_per_port: u32,
}

impl Default for FlowLimits {
    fn default() -> FlowLimits {
        FlowLimits { flows: 65_536, per_port: 16_384, node_ports: 8_192, node_ports_per_port: 1_024 }
    }
}

/// A flow as the workload sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FlowTuple {
    /// The workload's port.
    pub port: PortId,
    /// The IP protocol.
    pub protocol: u8,
    /// The workload's address.
    pub local: IpAddr,
    /// The other end's.
    pub remote: IpAddr,
    /// The workload's port, or the identifier of its echo requests.
    pub local_port: u16,
    /// The other end's.
    pub remote_port: u16,
}

/// Who began a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Begun {
    /// The workload.
    Inside,
    /// The other end.
    Outside,
}

/// What others see instead of the workload's address and port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Translation {
    /// The same.
    None,
    /// A floating address, in its VRF; the port stays.
    Floating(IpAddr, VrfId),
    /// An address that the host gives the node's own for; and the port.
    Node(IpAddr, u16),
    /// The same address, towards the agent's metadata service.
    Metadata(IpAddr, u16),
    /// The same address, towards the agent's DNS forwarder.
    Dns(IpAddr, u16),
}

impl Translation {
    /// The address of which the flow needs a port of its own.
    fn alias(self) -> Option<IpAddr> {
        match self {
            Translation::None | Translation::Floating(..) => None,
            Translation::Node(address, _)
            | Translation::Metadata(address, _)
            | Translation::Dns(address, _) => Some(address),
        }
    }

    fn with_port(self, port: u16) -> Translation {
        match self {
            Translation::Node(address, _) => Translation::Node(address, port),
            Translation::Metadata(address, _) => Translation::Metadata(address, port),
            Translation::Dns(address, _) => Translation::Dns(address, port),
            other => other,
        }
    }
}

/// A flow as it was when it was looked up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Flow {
    pub(crate) at: FlowRef,
    pub(crate) tuple: FlowTuple,
    pub(crate) begun: Begun,
    pub(crate) translation: Translation,
    pub(crate) state: FlowState,
}

/// What a packet begins.
#[derive(Debug, Clone, Copy)]
pub(crate) struct NewFlow {
    pub(crate) tuple: FlowTuple,
    pub(crate) begun: Begun,
    /// Where it needs a port for others to see, that follows.
    pub(crate) translation: Translation,
    /// The other end as others see it, where it is not the workload's.
    pub(crate) other_end: Option<(IpAddr, u16)>,
    pub(crate) seen: Seen,
    pub(crate) policy: u64,
}

/// The table. It takes its memory when [`FlowTable::prepare`] is called, and until then refuses every flow.
#[derive(Debug)]
pub struct FlowTable {
    limits: FlowLimits,
    key: FlowKey,
    store: OnceLock<Store>,
    /// When somebody last looked for slots whose time is over.
    swept_ms: AtomicU64,
    refused: AtomicU64,
}

/// How often somebody who finds no room may look through everything.
const SWEEP_MS: u64 = 1000;
/// Alias ports that are tried.
const TRIES: u16 = 32;

impl FlowTable {
    /// A table within these limits. `key` is random: it keeps workloads from making flows collide.
    pub fn new(limits: FlowLimits, key: [u64; 2]) -> FlowTable {
        let (store, key) = (OnceLock::new(), FlowKey::new(key));
        FlowTable { limits, key, store, swept_ms: AtomicU64::new(0), refused: AtomicU64::new(0) }
    }

    /// Takes the memory, once. For control, before it publishes a snapshot that needs flows.
    pub fn prepare(&self) {
        self.store.get_or_init(|| Store::new(self.limits.flows));
    }

    /// What it may hold.
    pub fn limits(&self) -> FlowLimits {
        self.limits
    }

    /// The flow of this tuple.
    pub(crate) fn find(&self, tuple: &FlowTuple, now_ms: u64) -> Option<Flow> {
        let store = self.store.get()?;
        store.find(&slot::Key::of(Kind::Flow, tuple), self.key, now_ms)
    }

    /// The flow of which others see this tuple.
    pub(crate) fn find_alias(&self, tuple: &FlowTuple, now_ms: u64) -> Option<Flow> {
        let store = self.store.get()?;
        store.find_target(&slot::Key::of(Kind::Alias, tuple), self.key, now_ms)
    }

    /// The flow whose datagram this later fragment is of.
    pub(crate) fn find_fragment(&self, datagram: &Datagram, now_ms: u64) -> Option<Flow> {
        let store = self.store.get()?;
        store.find_target(&datagram.key(), self.key, now_ms)
    }

    /// Remembers a flow. Where it needs a port of its own for others to see, the wanted one or another.
    pub(crate) fn begin(&self, new: &NewFlow, now_ms: u64) -> Result<Flow, DropReason> {
        let begun = self.try_begin(new, now_ms);
        let begun = match begun {
            // Perhaps most of it is long over.
            Err(_) if self.sweep(now_ms) => self.try_begin(new, now_ms),
            other => other,
        };
        if begun.is_err() {
            self.refused.fetch_add(1, Relaxed);
        }
        begun
    }

    fn try_begin(&self, new: &NewFlow, now_ms: u64) -> Result<Flow, DropReason> {
        let store = self.store.get().ok_or(DropReason::FlowTableFull)?;
        let key = slot::Key::of(Kind::Flow, &new.tuple);
        self.check_share(store, new, share)?;
        let claim = store.claim(&key, self.key, now_ms).ok_or(DropReason::FlowTableFull)?;
        let translation = match new.translation.alias() {
            None => new.translation,
            Some(address) => match self.make_alias(store, new, address, claim, now_ms) {
                Ok(translation) => translation,
                Err(reason) => {
                    store.abandon(claim);
                    return Err(reason);
                }
            },
        };
        let state = FlowState::first(new.tuple.protocol, new.seen);
        let flow = Flow { at: claim, tuple: new.tuple, begun: new.begun, translation, state };
        store.publish_flow(claim, &key, &flow, new.policy, now_ms);
        Ok(flow)
    }

    fn check_share(
        &self,
        store: &Store,
        new: &NewFlow,
        share: fn(u32, u32, u32) -> u32,
    ) -> Result<(), DropReason> {
        if self.is_spent(store, new.tuple.port, share) {
            return Err(DropReason::FlowLimitPort);
        }
        let FlowLimits { node_ports: all, node_ports_per_port: each, .. } = self.limits;
        let (used, own) = (store.node_ports(), store.share(new.tuple.port).node_ports());
        if matches!(new.translation, Translation::Node(..)) && (own >= share(each, used, all) || used >= all)
        {
            return Err(DropReason::SnatExhausted);
        }
        Ok(())
    }

    /// Whether the port holds its share of slots.
    fn is_spent(&self, store: &Store, port: PortId, share: fn(u32, u32, u32) -> u32) -> bool {
        let all = u32::try_from(self.limits.flows).unwrap_or(u32::MAX);
        store.share(port).slots() >= share(self.limits.per_port, store.used(), all)
    }

    /// The alias of a flow that is being made: with the workload's own port, or one that is free towards that end.
    fn make_alias(
        &self,
        store: &Store,
        new: &NewFlow,
        address: IpAddr,
        flow: FlowRef,
        now_ms: u64,
    ) -> Result<Translation, DropReason> {
        let wanted = new.tuple.local_port;
        // Other protocols have no ports, or a checksum that we cannot correct.
        let tries = if matches!(new.tuple.protocol, TCP | UDP | ICMP | ICMPV6) { TRIES } else { 1 };
        let (remote, remote_port) = new.other_end.unwrap_or((new.tuple.remote, new.tuple.remote_port));
        for step in 0..tries {
            let local_port = wanted.wrapping_add(step.wrapping_mul(977));
            let tuple = FlowTuple { local: address, local_port, remote, remote_port, ..new.tuple };
            let key = slot::Key::of(Kind::Alias, &tuple);
            if store.find_target(&key, self.key, now_ms).is_some() || store.is_taken(&key, self.key) {
                continue;
            }
            let claim = store.claim(&key, self.key, now_ms).ok_or(DropReason::FlowTableFull)?;
            let node = matches!(new.translation, Translation::Node(..));
            store.publish_pointer(claim, &key, flow, node, now_ms);
            return Ok(new.translation.with_port(local_port));
        }
        Err(DropReason::FlowClash)
    }

    /// Remembers that the later fragments of a datagram are of this flow.
    pub(crate) fn begin_fragment(
        &self,
        datagram: &Datagram,
        flow: &Flow,
        now_ms: u64,
    ) -> Result<(), DropReason> {
        let store = self.store.get().ok_or(DropReason::FlowTableFull)?;
        let key = datagram.key();
        if store.find_target(&key, self.key, now_ms).is_some() {
            return Ok(());
        }
        let is_spent = || self.is_spent(store, flow.tuple.port, share);
        if is_spent() && (!self.sweep(now_ms) || is_spent()) {
            return Err(DropReason::FlowLimitPort);
        }
        let claim = store.claim(&key, self.key, now_ms).ok_or(DropReason::FlowTableFull)?;
        store.publish_pointer(claim, &key, flow.at, false, now_ms);
        Ok(())
    }

    /// Notes a packet of a flow.
    pub(crate) fn note(&self, flow: &Flow, seen: Seen, now_ms: u64) {
        if let Some(store) = self.store.get() {
            store.note(flow, seen, now_ms);
        }
    }

    /// The policy under which the flow was last found right; `None` if it is gone.
    pub(crate) fn stamp(&self, flow: &Flow) -> Option<u64> {
        self.store.get()?.stamp(flow.at)
    }

    /// The flow is right under this policy, too.
    pub(crate) fn allow(&self, flow: &Flow, policy: u64) {
        if let Some(store) = self.store.get() {
            store.judge(flow.at, policy, FlowState::allowed);
        }
    }

    /// The flow may not go on under this policy. It stays for a while, so that the rest of it cannot pass for something
    /// new.
    pub(crate) fn deny(&self, flow: &Flow, policy: u64) {
        if let Some(store) = self.store.get() {
            store.judge(flow.at, policy, FlowState::denied);
        }
    }

    /// Forgets a flow.
    pub(crate) fn remove(&self, flow: &Flow) {
        if let Some(store) = self.store.get() {
            store.remove(flow.at);
        }
    }

    /// Frees what is over. `false` where somebody has just done so.
    fn sweep(&self, now_ms: u64) -> bool {
        let (Some(store), last) = (self.store.get(), self.swept_ms.load(Relaxed)) else { return false };
        // The first time counts as well: the clock begins near zero.
        let due = last == 0 || now_ms.saturating_sub(last) >= SWEEP_MS;
        if !due || self.swept_ms.compare_exchange(last, now_ms.max(1), Relaxed, Relaxed).is_err() {
            return false;
        }
        store.sweep(now_ms);
        true
    }
}

/// What one may hold of all. Once three quarters are in use, the rest is for whoever holds little: a few ports that take
/// all they may, as those of one tenant, leave others room.
fn share(most: u32, used: u32, all: u32) -> u32 {
    const LITTLE: u32 = 16;
    if used < all / 4 * 3 { most } else { most.min((most / 16).max(LITTLE)) }
}

impl slot::Key {
    fn hash(&self, key: FlowKey) -> FlowHash {
        key.hash(self.words())
    }
}

/// Both buckets of a hash, and what its slots are known by.
fn place(hash: FlowHash, buckets: usize) -> ([usize; 2], u64) {
    let low = usize::try_from(hash.0 & 0xffff_ffff).unwrap_or_default();
    let other = low.wrapping_mul(0x9e37_79b1) >> 7 ^ low >> 16;
    ([low & (buckets - 1), other & (buckets - 1)], (hash.0 >> 32).max(1))
}

/// Slots for this many flows: whole buckets, a power of two of them.
fn buckets(flows: usize) -> usize {
    flows.clamp(BUCKET, 1 << 22).div_ceil(BUCKET).next_power_of_two()
}
