//! Flows that the host began, so that workloads may answer it where they may not begin flows themselves.
//!
//! ```text
//!  63                            24 23                    0
//!  |   fingerprint (keyed hash)    |  time, in 1.024 s     |   one slot; zero is free
//! ```
//! A fixed table of atomics in buckets of four: shared by all workers, without a lock, never growing. A full bucket
//! gives up the slot that was quiet longest. A fingerprint can lie once in some 2^40 packets, and then lets one
//! packet through to the host that the host did not ask for: the host's own state then refuses it.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use vrouter_types::PortId;

use crate::flow::{FlowHash, FlowKey, words};
use crate::packet::{Fragment, Packet, TCP};

const BUCKET: usize = 4;
const TIME_BITS: u32 = 24;
const TIME_MASK: u64 = (1 << TIME_BITS) - 1;
/// Workers' clocks differ by a little: a time up to this far ahead is now.
const SKEW: u64 = 64;

/// The table.
#[derive(Debug)]
pub struct HostFlows {
    slots: Box<[AtomicU64]>,
    key: FlowKey,
    used: AtomicBool,
}

impl HostFlows {
    /// A table of at least this many slots, of eight octets each. `key` is random: it keeps workloads from making
    /// flows collide, and also serves the workers' flow hashes.
    pub fn new(slots: usize, key: [u64; 2]) -> HostFlows {
        let slots = slots.clamp(BUCKET, 1 << 24).next_power_of_two();
        let empty = std::iter::repeat_with(AtomicU64::default);
        HostFlows { slots: empty.take(slots).collect(), key: FlowKey::new(key), used: AtomicBool::new(false) }
    }

    /// What the next run should know, as words: each slot with its flow's age instead of a time.
    pub fn keep(&self, now_ms: u64) -> impl Iterator<Item = u64> {
        let now = time(now_ms);
        self.slots.iter().map(move |slot| match slot.load(Ordering::Relaxed) {
            0 => 0,
            slot => slot & !TIME_MASK | age(slot, now),
        })
    }

    /// Takes back what [`HostFlows::keep`] has told a table of this size and this key.
    pub fn take_back(&self, kept: impl Iterator<Item = u64>, now_ms: u64) {
        let now = time(now_ms);
        for (slot, word) in self.slots.iter().zip(kept).filter(|(_, word)| *word >> TIME_BITS != 0) {
            let began = now.wrapping_sub(word & TIME_MASK) & TIME_MASK;
            slot.store(word & !TIME_MASK | began, Ordering::Relaxed);
            self.used.store(true, Ordering::Relaxed);
        }
    }

    /// How many slots there are.
    pub fn slots(&self) -> usize {
        self.slots.len()
    }

    pub(crate) fn key(&self) -> FlowKey {
        self.key
    }

    /// Notes what the host sends to a port.
    pub(crate) fn begin(&self, port: PortId, packet: &Packet, bytes: &[u8], now_ms: u64) {
        if let Some(flow) = Flow::begun_by_host(port, packet, bytes) {
            self.insert(flow.hash(self.key), now_ms);
        }
    }

    /// Whether what a port sends answers the host. Looks into ICMP errors for the packet that they are about.
    pub(crate) fn answers(&self, port: PortId, packet: &Packet, bytes: &[u8], now_ms: u64) -> bool {
        if !self.used.load(Ordering::Relaxed) {
            return false;
        }
        if let Fragment::Later(id) = packet.fragment {
            return self.refresh(fragment_hash(self.key, port, packet, id), FRAGMENT_MS, now_ms);
        }
        if let Some(quoted) = quoted(packet, bytes) {
            // It is about a packet that went the other way.
            return Packet::read(quoted)
                .ok()
                .filter(|about| about.src == packet.dst)
                .and_then(|about| Flow::of_host(port, &about, quoted))
                .is_some_and(|flow| self.refresh(flow.hash(self.key), flow.idle_ms(), now_ms));
        }
        let Some(flow) = Flow::of_port(port, packet, bytes) else { return false };
        let found = self.refresh(flow.hash(self.key), flow.idle_ms(), now_ms);
        if let (true, Fragment::First(id)) = (found, packet.fragment) {
            self.insert(fragment_hash(self.key, port, packet, id), now_ms);
        }
        found
    }

    fn insert(&self, flow: FlowHash, now_ms: u64) {
        self.used.store(true, Ordering::Relaxed);
        let (bucket, fingerprint) = self.place(flow);
        let now = time(now_ms);
        // Its own slot, else a free one, else the one that was quiet longest. Two workers may race for a slot: one
        // of the two flows is noted with its next packet.
        let victim = bucket.iter().max_by_key(|slot| match slot.load(Ordering::Relaxed) {
            slot if slot >> TIME_BITS == fingerprint => u64::MAX,
            0 => u64::MAX - 1,
            slot => age(slot, now),
        });
        if let Some(slot) = victim {
            slot.store(fingerprint << TIME_BITS | now, Ordering::Relaxed);
        }
    }

    /// Whether the flow is there and was not idle for too long; if so, it is now.
    fn refresh(&self, flow: FlowHash, idle_ms: u64, now_ms: u64) -> bool {
        let (bucket, fingerprint) = self.place(flow);
        let now = time(now_ms);
        bucket.iter().any(|entry| {
            let slot = entry.load(Ordering::Relaxed);
            let found = slot >> TIME_BITS == fingerprint && age(slot, now) <= idle_ms >> 10;
            if found && slot & TIME_MASK != now {
                entry.store(fingerprint << TIME_BITS | now, Ordering::Relaxed);
            }
            found
        })
    }

    fn place(&self, flow: FlowHash) -> (&[AtomicU64], u64) {
        let buckets = self.slots.len() / BUCKET;
        let bucket = usize::try_from(flow.0 & 0xff_ffff).unwrap_or_default() % buckets * BUCKET;
        // Never zero, so that no used slot looks free.
        (&self.slots[bucket..bucket + BUCKET], (flow.0 >> TIME_BITS).max(1))
    }
}

const TCP_IDLE_MS: u64 = 2 * 60 * 60 * 1000;
const OTHER_IDLE_MS: u64 = 180 * 1000;
const FRAGMENT_MS: u64 = 30 * 1000;
const TCP_SYN: u8 = 0x02;
const TCP_RST: u8 = 0x04;
const TCP_ACK: u8 = 0x10;

/// A flow as the host sees it: `host` began it, `pod` answers.
struct Flow {
    port: PortId,
    protocol: u8,
    host: [u64; 2],
    pod: [u64; 2],
    /// The host's port or echo identifier, then the pod's port.
    ports: [u16; 2],
}

impl Flow {
    /// Of a packet from the host that may begin a flow. Refusals and the answers to a SYN do not: a workload that may
    /// ask the host could have it answer so often that it forgets what it asked others.
    fn begun_by_host(port: PortId, packet: &Packet, bytes: &[u8]) -> Option<Flow> {
        let flags = packet.transport(bytes).get(13).copied().filter(|_| packet.protocol == TCP);
        let answers = flags
            .is_some_and(|flags| flags & TCP_RST != 0 || flags & (TCP_SYN | TCP_ACK) == TCP_SYN | TCP_ACK);
        if answers { None } else { Flow::of_host(port, packet, bytes) }
    }

    /// Of a packet from the host. Errors and echo replies are of none.
    fn of_host(port: PortId, packet: &Packet, bytes: &[u8]) -> Option<Flow> {
        let ports = match packet.ports(bytes) {
            Some((host, pod)) => [host, pod],
            None => [echo_id(packet, bytes, ECHO_REQUEST)?, 0],
        };
        let (host, pod) = (words(packet.src), words(packet.dst));
        Some(Flow { port, protocol: packet.protocol, host, pod, ports })
    }

    /// Of a packet from a port: what answers. A bare SYN begins a flow and an echo request asks: neither answers.
    fn of_port(port: PortId, packet: &Packet, bytes: &[u8]) -> Option<Flow> {
        let ports = match packet.ports(bytes) {
            Some((pod, host)) => [host, pod],
            None => [echo_id(packet, bytes, ECHO_REPLY)?, 0],
        };
        if packet.protocol == TCP {
            let flags = packet.transport(bytes).get(13)?;
            if flags & (TCP_SYN | TCP_ACK) == TCP_SYN {
                return None;
            }
        }
        let (host, pod) = (words(packet.dst), words(packet.src));
        Some(Flow { port, protocol: packet.protocol, host, pod, ports })
    }

    fn hash(&self, key: FlowKey) -> FlowHash {
        let [a, b] = self.ports.map(u64::from);
        let meta = u64::from(self.port.0) << 8 | u64::from(self.protocol);
        key.hash([meta, self.host[0], self.host[1], self.pod[0], self.pod[1], a << 16 | b])
    }

    fn idle_ms(&self) -> u64 {
        if self.protocol == TCP { TCP_IDLE_MS } else { OTHER_IDLE_MS }
    }
}

/// Types of ICMP and ICMPv6.
const ECHO_REQUEST: [u8; 2] = [8, 128];
const ECHO_REPLY: [u8; 2] = [0, 129];

/// The identifier of an echo message of this kind.
fn echo_id(packet: &Packet, bytes: &[u8], kinds: [u8; 2]) -> Option<u16> {
    let kind = if packet.is_v4() { kinds[0] } else { kinds[1] };
    match packet.icmp(bytes)? {
        [first, 0, _, _, a, b, ..] if *first == kind => Some(u16::from_be_bytes([*a, *b])),
        _ => None,
    }
}

/// The packet that an ICMP error is about.
fn quoted<'b>(packet: &Packet, bytes: &'b [u8]) -> Option<&'b [u8]> {
    let message = packet.icmp(bytes)?;
    let is_error = match (packet.is_v4(), message.first()?) {
        (true, kind) => matches!(kind, 3 | 11 | 12),
        (false, kind) => *kind < 128,
    };
    is_error.then(|| message.get(8..)).flatten()
}

fn fragment_hash(key: FlowKey, port: PortId, packet: &Packet, id: u32) -> FlowHash {
    let ([s0, s1], [d0, d1]) = (words(packet.src), words(packet.dst));
    // IPv6 says the protocol in the first fragment only where the others begin with another header.
    let protocol = if packet.is_v4() { packet.protocol } else { 0 };
    let meta = 1 << 48 | u64::from(port.0) << 8 | u64::from(protocol);
    key.hash([meta, s0, s1, d0, d1, u64::from(id)])
}

fn time(now_ms: u64) -> u64 {
    now_ms >> 10 & TIME_MASK
}

fn age(slot: u64, now: u64) -> u64 {
    let age = now.wrapping_sub(slot) & TIME_MASK;
    if age > TIME_MASK - SKEW { 0 } else { age }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{echo, tcp, udp};

    const PORT: PortId = PortId(3);

    fn table(slots: usize) -> HostFlows {
        HostFlows::new(slots, [7, 9])
    }

    fn begin(flows: &HostFlows, bytes: &[u8], now_ms: u64) {
        flows.begin(PORT, &Packet::parse(bytes).unwrap(), bytes, now_ms);
    }

    fn answers(flows: &HostFlows, port: PortId, bytes: &[u8], now_ms: u64) -> bool {
        flows.answers(port, &Packet::parse(bytes).unwrap(), bytes, now_ms)
    }

    fn swap(bytes: &[u8]) -> Vec<u8> {
        let mut back = bytes.to_vec();
        back[12..16].copy_from_slice(&bytes[16..20]);
        back[16..20].copy_from_slice(&bytes[12..16]);
        back[20..22].copy_from_slice(&bytes[22..24]);
        back[22..24].copy_from_slice(&bytes[20..22]);
        back
    }

    #[test]
    fn an_answer_is_known_until_the_flow_was_idle_for_long() {
        let (flows, probe) = (table(64), udp("169.254.1.1", "10.0.0.2", 4));
        assert!(!answers(&flows, PORT, &swap(&probe), 0));
        begin(&flows, &probe, 1_000_000);
        assert!(answers(&flows, PORT, &swap(&probe), 1_000_000));
        assert!(answers(&flows, PORT, &swap(&probe), 1_170_000), "and is refreshed by it");
        assert!(answers(&flows, PORT, &swap(&probe), 1_340_000));
        assert!(!answers(&flows, PORT, &swap(&probe), 1_540_000));
    }

    #[test]
    fn the_same_addresses_on_another_port_are_another_flow() {
        let (flows, probe) = (table(64), udp("169.254.1.1", "10.0.0.2", 4));
        begin(&flows, &probe, 0);
        assert!(!answers(&flows, PortId(4), &swap(&probe), 0));
    }

    #[test]
    fn a_bare_syn_answers_nobody() {
        let (flows, syn) = (table(64), tcp("169.254.1.1", "10.0.0.2", TCP_SYN, &[], 0));
        begin(&flows, &syn, 0);
        assert!(!answers(&flows, PORT, &swap(&syn), 0));
        let mut syn_ack = swap(&syn);
        syn_ack[33] = TCP_SYN | TCP_ACK;
        assert!(answers(&flows, PORT, &syn_ack, 0));
    }

    #[test]
    fn what_the_host_refuses_or_only_accepts_is_no_flow_of_its_own() {
        for answer in [TCP_RST, TCP_RST | TCP_ACK, TCP_SYN | TCP_ACK] {
            let flows = table(64);
            let bytes = tcp("169.254.1.1", "10.0.0.2", answer, &[], 0);
            begin(&flows, &bytes, 0);
            assert!(!answers(&flows, PORT, &swap(&tcp("169.254.1.1", "10.0.0.2", TCP_ACK, &[], 0)), 0));
            assert_eq!(flows.keep(0).filter(|slot| *slot != 0).count(), 0, "{answer:#x}");
        }
        let flows = table(64);
        begin(&flows, &tcp("169.254.1.1", "10.0.0.2", TCP_SYN, &[], 0), 0);
        assert!(answers(&flows, PORT, &swap(&tcp("169.254.1.1", "10.0.0.2", TCP_ACK, &[], 0)), 0));
    }

    #[test]
    fn an_echo_reply_answers_and_an_echo_request_does_not() {
        let flows = table(64);
        begin(&flows, &echo("169.254.1.1", "10.0.0.2", 8, 77), 0);
        assert!(answers(&flows, PORT, &echo("10.0.0.2", "169.254.1.1", 0, 77), 0));
        assert!(!answers(&flows, PORT, &echo("10.0.0.2", "169.254.1.1", 0, 78), 0));
        assert!(!answers(&flows, PORT, &echo("10.0.0.2", "169.254.1.1", 8, 77), 0));
    }

    #[test]
    fn an_error_about_a_flow_of_the_host_belongs_to_it() {
        let (flows, probe) = (table(64), udp("169.254.1.1", "10.0.0.2", 4));
        begin(&flows, &probe, 0);
        let mut error = echo("10.0.0.2", "169.254.1.1", 3, 0);
        error.extend(&probe[..28]);
        error[2..4].copy_from_slice(&56u16.to_be_bytes());
        let packet = Packet::read(&error).unwrap();
        assert!(flows.answers(PORT, &packet, &error, 0));
        error[28 + 20] ^= 1; // another port of the host
        assert!(!flows.answers(PORT, &packet, &error, 0));
    }

    #[test]
    fn later_fragments_follow_their_first() {
        let (flows, probe) = (table(64), udp("169.254.1.1", "10.0.0.2", 4));
        begin(&flows, &probe, 0);
        let (mut first, mut later) = (swap(&probe), swap(&probe));
        (first[6], later[7]) = (0x20, 5);
        let read = |bytes: &[u8]| Packet::read(bytes).unwrap();
        assert!(!flows.answers(PORT, &read(&later), &later, 0));
        assert!(flows.answers(PORT, &read(&first), &first, 0));
        assert!(flows.answers(PORT, &read(&later), &later, 0));
        later[5] ^= 1; // of another datagram
        assert!(!flows.answers(PORT, &read(&later), &later, 0));
    }

    #[test]
    fn the_next_run_knows_what_the_host_began_and_for_how_long() {
        let (old, probe) = (table(64), udp("169.254.1.1", "10.0.0.2", 4));
        begin(&old, &probe, 5_000_000);
        let kept: Vec<u64> = old.keep(5_100_000).collect();
        assert_eq!(kept.len(), old.slots());
        let (next, late) = (table(64), table(64));
        next.take_back(kept.iter().copied(), 2000);
        assert!(answers(&next, PORT, &swap(&probe), 3000));
        late.take_back(kept.into_iter(), 2000);
        assert!(!answers(&late, PORT, &swap(&probe), 2000 + OTHER_IDLE_MS), "its age came along");
    }

    #[test]
    fn a_full_table_forgets_the_quietest_and_never_grows() {
        let flows = table(4);
        let probes: Vec<Vec<u8>> = (0..9u8).map(|n| udp("169.254.1.1", &format!("10.0.0.{n}"), 4)).collect();
        for (second, probe) in (10..).zip(&probes) {
            begin(&flows, probe, second * 1024);
        }
        let known: Vec<bool> = probes.iter().map(|p| answers(&flows, PORT, &swap(p), 19 * 1024)).collect();
        assert_eq!(known, [false, false, false, false, false, true, true, true, true]);
        assert_eq!(flows.slots.len(), 4);
    }

    #[test]
    fn clocks_that_differ_by_a_little_do_no_harm() {
        let (flows, probe) = (table(4), udp("169.254.1.1", "10.0.0.2", 4));
        begin(&flows, &probe, 10_000);
        assert!(answers(&flows, PORT, &swap(&probe), 8_000));
    }
}
