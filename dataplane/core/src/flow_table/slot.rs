//! The slots: claimed, written, read and freed by many at once, without a lock.
//!
//! ```text
//!  head   63        32 31          8 7      0       life   63        32 31  24 23         0
//!         |fingerprint|  generation |  use   |             | seen, 256 ms | state| generation |
//! ```
//! Free → (compare and swap) → being written → in use → (compare and swap) → free, with the next generation. Who reads
//! takes the head, then the words, then the head again.

use std::sync::atomic::{
    AtomicU32, AtomicU64,
    Ordering::{AcqRel, Acquire, Relaxed, Release, SeqCst},
    fence,
};

use vrouter_types::PortId;
use zerocopy::FromZeros;

use super::life::{FRAGMENT_MS, FlowState, Seen};
pub(crate) use super::words::FlowRef;
use super::words::{
    FREE, GENERATION, USED, WORDS, WRITING, decode, encode, generation, is_key, kind, life, next_generation,
    port_of, quiet_ms, reference, stamp, state,
};
pub(super) use super::words::{Key, Kind};
use super::{Flow, buckets, place};
use crate::flow::FlowKey;

/// Heads of a bucket: one cache line.
pub(super) const BUCKET: usize = 8;
/// Ports have shares by their numbers, which go round below this.
const PORTS: usize = 4096;
/// One cache line of heads.
#[derive(Debug, Default, FromZeros)]
#[repr(C, align(64))]
struct Bucket([AtomicU64; BUCKET]);

/// The words of a key; in the upper half of the sixth, who began and how the flow is translated; then the address that
/// others see; then its VRF, or the slot that this one points to.
#[derive(Debug, Default, FromZeros)]
#[repr(C)]
struct Slot {
    words: [AtomicU64; WORDS],
    life: AtomicU64,
    stamp: AtomicU64,
}

/// What one port holds.
#[derive(Debug, Default, FromZeros)]
#[repr(C)]
pub(super) struct Share {
    slots: AtomicU32,
    node_ports: AtomicU32,
}

impl Share {
    pub(super) fn slots(&self) -> u32 {
        self.slots.load(Relaxed)
    }

    pub(super) fn node_ports(&self) -> u32 {
        self.node_ports.load(Relaxed)
    }
}

#[derive(Debug)]
pub(super) struct Store {
    heads: Box<[Bucket]>,
    slots: Box<[Slot]>,
    shares: Box<[Share]>,
    node_ports: AtomicU32,
    used: AtomicU32,
}

/// All zeros is free, and the allocator has zeros without touching them: what no flow has used takes no memory.
fn boxed<T: Default + FromZeros>(count: usize) -> Box<[T]> {
    let zeroed = <[T]>::new_box_zeroed_with_elems(count);
    zeroed.unwrap_or_else(|_| std::iter::repeat_with(T::default).take(count).collect())
}

impl Store {
    pub(super) fn new(flows: usize) -> Store {
        let count = buckets(flows);
        let (heads, slots, shares) = (boxed(count), boxed(count * BUCKET), boxed(PORTS));
        Store { heads, slots, shares, node_ports: AtomicU32::new(0), used: AtomicU32::new(0) }
    }

    pub(super) fn share(&self, port: PortId) -> &Share {
        &self.shares[port.0 as usize % PORTS]
    }

    pub(super) fn node_ports(&self) -> u32 {
        self.node_ports.load(Relaxed)
    }

    pub(super) fn used(&self) -> u32 {
        self.used.load(Relaxed)
    }

    pub(super) fn octets(&self) -> usize {
        size_of_val(&*self.heads) + size_of_val(&*self.slots) + size_of_val(&*self.shares)
    }

    /// The flow of this key. One whose time is over is freed.
    pub(super) fn find(&self, key: &Key, hasher: FlowKey, now_ms: u64) -> Option<Flow> {
        self.read_flow(self.search_alive(key, hasher, now_ms)?)
    }

    /// The flow that the slot of this key points to. One that points nowhere is freed.
    pub(super) fn find_target(&self, key: &Key, hasher: FlowKey, now_ms: u64) -> Option<Flow> {
        self.read_flow(self.target(self.search_alive(key, hasher, now_ms)?)?)
    }

    /// Behind one that is over, another may have begun.
    fn search_alive(&self, key: &Key, hasher: FlowKey, now_ms: u64) -> Option<FlowRef> {
        for _ in 0..2 {
            let found = self.search(key, hasher)?;
            if !self.is_over(found, now_ms) {
                return Some(found);
            }
            self.remove(found);
        }
        None
    }

    /// Whether some slot has this key, as one whose flow is still being written.
    pub(super) fn is_taken(&self, key: &Key, hasher: FlowKey) -> bool {
        self.search(key, hasher).is_some()
    }

    fn search(&self, key: &Key, hasher: FlowKey) -> Option<FlowRef> {
        let (places, fingerprint) = place(key.hash(hasher), self.heads.len());
        places.into_iter().find_map(|bucket| {
            let heads = self.heads.get(bucket)?.0.iter().enumerate();
            let same = |head: u64| head >> 32 == fingerprint && head & 0xff == USED;
            heads
                .filter_map(|(index, head)| Some((index, head.load(Acquire))).filter(|(_, head)| same(*head)))
                .find_map(|(index, head)| {
                    let at = reference(bucket * BUCKET + index, head)?;
                    let words = self.read(at, head)?;
                    is_key(&words, key).then_some(at)
                })
        })
    }

    /// The words of a slot in the use that `head` tells of.
    fn read(&self, at: FlowRef, head: u64) -> Option<[u64; WORDS]> {
        let slot = self.slots.get(at.slot as usize)?;
        let words = std::array::from_fn(|word| slot.words[word].load(Relaxed));
        fence(Acquire);
        (self.head(at)?.load(Relaxed) == head).then_some(words)
    }

    /// The head of a slot that is in this use.
    fn used_head(&self, at: FlowRef) -> Option<u64> {
        let head = self.head(at)?.load(Acquire);
        (head & 0xff == USED && generation(head) == at.generation).then_some(head)
    }

    fn read_used(&self, at: FlowRef) -> Option<[u64; WORDS]> {
        self.read(at, self.used_head(at)?)
    }

    pub(super) fn read_flow(&self, at: FlowRef) -> Option<Flow> {
        let words = self.read_used(at)?;
        let life = self.slots.get(at.slot as usize)?.life.load(Relaxed);
        (kind(&words) == Some(Kind::Flow)).then(|| decode(at, &words, life))
    }

    fn target(&self, at: FlowRef) -> Option<FlowRef> {
        let word = self.read_used(at)?[8];
        Some(FlowRef {
            slot: u32::try_from(word >> 32).ok()?,
            generation: u32::try_from(word & GENERATION).ok()?,
        })
    }

    fn head(&self, at: FlowRef) -> Option<&AtomicU64> {
        let slot = at.slot as usize;
        self.heads.get(slot / BUCKET)?.0.get(slot % BUCKET)
    }

    /// A free slot for this key, in the emptier of its buckets. Nobody else touches it until it is published.
    pub(super) fn claim(&self, key: &Key, hasher: FlowKey, now_ms: u64) -> Option<FlowRef> {
        let (places, fingerprint) = place(key.hash(hasher), self.heads.len());
        for reclaim in [false, true] {
            if reclaim {
                places.into_iter().for_each(|bucket| self.sweep_bucket(bucket, now_ms));
            }
            let free = |bucket: usize| {
                self.heads[bucket].0.iter().filter(|head| head.load(Relaxed) & 0xff == FREE).count()
            };
            let [first, second] = places;
            let order = if free(first) >= free(second) { [first, second] } else { [second, first] };
            let claimed = order.into_iter().find_map(|bucket| self.claim_in(bucket, fingerprint));
            if claimed.is_some() {
                return claimed;
            }
        }
        None
    }

    fn claim_in(&self, bucket: usize, fingerprint: u64) -> Option<FlowRef> {
        self.heads.get(bucket)?.0.iter().enumerate().find_map(|(index, slot)| {
            let head = slot.load(Relaxed);
            if head & 0xff != FREE {
                return None;
            }
            let writing = fingerprint << 32 | (head >> 8 & GENERATION) << 8 | WRITING;
            slot.compare_exchange(head, writing, AcqRel, Relaxed).ok()?;
            fence(Release);
            reference(bucket * BUCKET + index, writing)
        })
    }

    /// Gives a claimed slot back, unused.
    pub(super) fn abandon(&self, at: FlowRef) {
        if let Some(head) = self.head(at) {
            head.store(next_generation(at) << 8 | FREE, Release);
        }
    }

    pub(super) fn publish_flow(&self, at: FlowRef, key: &Key, flow: &Flow, policy: u64, now_ms: u64) {
        self.share(flow.tuple.port).slots.fetch_add(1, Relaxed);
        let (meta, address, vrf) = encode(flow);
        let life = life(flow.state, at.generation, now_ms);
        self.publish(at, key, [meta, address[0], address[1], vrf], (life, stamp(policy, at.generation)));
    }

    pub(super) fn publish_pointer(&self, at: FlowRef, key: &Key, target: FlowRef, node: bool, now_ms: u64) {
        let share = self.share(port_of(key));
        share.slots.fetch_add(1, Relaxed);
        if node {
            share.node_ports.fetch_add(1, Relaxed);
            self.node_ports.fetch_add(1, Relaxed);
        }
        let to = u64::from(target.slot) << 32 | u64::from(target.generation);
        let life = life(FlowState(0), at.generation, now_ms);
        self.publish(at, key, [u64::from(node) << 32, 0, 0, to], (life, 0));
    }

    fn publish(&self, at: FlowRef, key: &Key, rest: [u64; 4], (life, stamp): (u64, u64)) {
        let (Some(slot), Some(head)) = (self.slots.get(at.slot as usize), self.head(at)) else { return };
        let [a, b, c, d, e, meta] = key.0;
        let words = [a, b, c, d, e, meta | rest[0], rest[1], rest[2], rest[3]];
        slot.words.iter().zip(words).for_each(|(word, value)| word.store(value, Relaxed));
        slot.life.store(life, Relaxed);
        slot.stamp.store(stamp, Relaxed);
        self.used.fetch_add(1, Relaxed);
        let used = head.load(Relaxed) & !0xff | USED;
        head.store(used, SeqCst);
    }

    /// Frees a slot, if it is still in this use.
    pub(super) fn remove(&self, at: FlowRef) {
        let Some(head) = self.used_head(at) else { return };
        let Some(words) = self.read(at, head) else { return };
        let free = next_generation(at) << 8 | FREE;
        if self.head(at).is_none_or(|slot| slot.compare_exchange(head, free, AcqRel, Relaxed).is_err()) {
            return;
        }
        self.used.fetch_sub(1, Relaxed);
        let share = &self.shares[usize::try_from(words[4] & 0xffff_ffff).unwrap_or_default() % PORTS];
        share.slots.fetch_sub(1, Relaxed);
        if kind(&words) == Some(Kind::Alias) && words[5] >> 32 & 1 == 1 {
            share.node_ports.fetch_sub(1, Relaxed);
            self.node_ports.fetch_sub(1, Relaxed);
        }
    }

    pub(super) fn note(&self, flow: &Flow, seen: Seen, now_ms: u64) {
        let protocol = flow.tuple.protocol;
        self.change_life(flow.at, now_ms, |state| {
            if state.is_denied() { state } else { state.after(protocol, seen) }
        });
    }

    /// Moves a flow's life on. A denied one is not kept alive by what goes on being sent.
    fn change_life(&self, at: FlowRef, now_ms: u64, change: impl Fn(FlowState) -> FlowState) {
        let Some(slot) = self.slots.get(at.slot as usize) else { return };
        // Others move it on as well: whoever loses looks again, a few times.
        for _ in 0..4 {
            let old = slot.life.load(Relaxed);
            if old & GENERATION != u64::from(at.generation) {
                return;
            }
            let state = state(old);
            let next = life(change(state), at.generation, now_ms);
            let unchanged = state == self::state(next) && (next >> 32) <= (old >> 32) + 2;
            if unchanged
                || state.is_denied()
                || slot.life.compare_exchange(old, next, Relaxed, Relaxed).is_ok()
            {
                return;
            }
        }
    }

    pub(super) fn stamp(&self, at: FlowRef) -> Option<u64> {
        let stamp = self.slots.get(at.slot as usize)?.stamp.load(Relaxed);
        (stamp & GENERATION == u64::from(at.generation)).then_some(stamp >> 24)
    }

    /// Notes under which policy the flow was looked at, and what came of it.
    pub(super) fn judge(&self, at: FlowRef, policy: u64, change: impl Fn(FlowState) -> FlowState) {
        let Some(slot) = self.slots.get(at.slot as usize) else { return };
        let of_this_use = |word: u64| word & GENERATION == u64::from(at.generation);
        // Whoever loses a race finds out with the flow's next packet: the stamp comes last.
        let old = slot.life.load(Relaxed);
        let next = old & !(0xff << 24) | u64::from(change(state(old)).0) << 24;
        let judged = old == next || slot.life.compare_exchange(old, next, Relaxed, Relaxed).is_ok();
        let old = slot.stamp.load(Relaxed);
        if judged && of_this_use(old) && of_this_use(next) {
            let _ = slot.stamp.compare_exchange(old, stamp(policy, at.generation), Relaxed, Relaxed);
        }
    }

    /// Whether the slot's time is over.
    fn is_over(&self, at: FlowRef, now_ms: u64) -> bool {
        let Some(words) = self.read_used(at) else { return true };
        let Some(slot) = self.slots.get(at.slot as usize) else { return true };
        let (life, protocol) = (slot.life.load(Relaxed), u8::try_from(words[5] & 0xff).unwrap_or_default());
        let quiet = quiet_ms(life, now_ms);
        match kind(&words) {
            Some(Kind::Flow) => quiet > state(life).idle_ms(protocol),
            Some(Kind::Alias) => self.is_target_over(&words, now_ms),
            Some(Kind::Fragment) => quiet > FRAGMENT_MS || self.is_target_over(&words, now_ms),
            None => true,
        }
    }

    fn is_target_over(&self, words: &[u64; WORDS], now_ms: u64) -> bool {
        let slot = u32::try_from(words[8] >> 32).unwrap_or_default();
        let generation = u32::try_from(words[8] & GENERATION).unwrap_or_default();
        let target = FlowRef { slot, generation };
        let Some(head) = self.head(target).map(|head| head.load(Acquire)) else { return true };
        let same = self::generation(head) == generation;
        match head & 0xff {
            WRITING => !same,
            USED if same => self.is_over(target, now_ms),
            _ => true,
        }
    }

    /// Frees every slot whose time is over.
    pub(super) fn sweep(&self, now_ms: u64) {
        (0..self.heads.len()).for_each(|bucket| self.sweep_bucket(bucket, now_ms));
    }

    fn sweep_bucket(&self, bucket: usize, now_ms: u64) {
        let Some(heads) = self.heads.get(bucket) else { return };
        for (index, head) in heads.0.iter().enumerate() {
            let head = head.load(Acquire);
            let Some(at) = reference(bucket * BUCKET + index, head).filter(|_| head & 0xff == USED) else {
                continue;
            };
            if self.is_over(at, now_ms) {
                self.remove(at);
            }
        }
    }

    /// Every flow that is alive, with the milliseconds since its last packet and until it is over.
    pub(super) fn flows(&self, now_ms: u64) -> impl Iterator<Item = (Flow, u64, u64)> {
        let heads = self.heads.iter().flat_map(|bucket| &bucket.0).enumerate();
        heads.filter_map(move |(slot, head)| {
            let head = head.load(Acquire);
            let at = reference(slot, head).filter(|_| head & 0xff == USED)?;
            let flow = self.read_flow(at)?;
            let quiet = quiet_ms(self.slots.get(slot)?.life.load(Relaxed), now_ms);
            let left = flow.state.idle_ms(flow.tuple.protocol).checked_sub(quiet)?;
            Some((flow, quiet, left))
        })
    }
}
