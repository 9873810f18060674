//! Counters: workers add, anybody reads. Relaxed atomics; a sum read in the middle of a batch may miss its end.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use arc_swap::{ArcSwapOption, Guard};
use dataplane_core::{DropReason, Service};

use crate::adjacency::Adjacency;

/// What went through a port. "Received" is what the workload sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PortCounters {
    /// Packets from the workload; a superframe counts as the packets that it stands for.
    pub rx_packets: u64,
    /// Octets from the workload, Ethernet header included.
    pub rx_bytes: u64,
    /// Packets to the workload.
    pub tx_packets: u64,
    /// Octets to the workload, Ethernet header included.
    pub tx_bytes: u64,
    /// Packets from the workload that were dropped, whatever the reason, and those to it that its queue refused.
    pub dropped: u64,
    /// Answers to its DHCP.
    pub dhcp: u64,
    /// Answers to its DHCPv6.
    pub dhcp6: u64,
    /// Router advertisements to it.
    pub router_advertisements: u64,
}

/// What went through a tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TunnelCounters {
    /// Packets from the far end.
    pub rx_packets: u64,
    /// Octets from the far end, from the label on.
    pub rx_bytes: u64,
    /// Packets to the far end.
    pub tx_packets: u64,
    /// Octets to the far end, from the label on.
    pub tx_bytes: u64,
    /// Packets that the path's MTU refused.
    pub too_big: u64,
    /// The largest inner packet as the kernel knows the path, where it refused one lately.
    pub path_mtu: Option<u16>,
}

/// Packets and octets in both directions.
#[derive(Debug, Default)]
pub(crate) struct Traffic {
    rx_packets: AtomicU64,
    rx_bytes: AtomicU64,
    tx_packets: AtomicU64,
    tx_bytes: AtomicU64,
}

impl Traffic {
    pub(crate) fn received(&self, packets: u64, bytes: u64) {
        self.rx_packets.fetch_add(packets, Relaxed);
        self.rx_bytes.fetch_add(bytes, Relaxed);
    }

    pub(crate) fn sent(&self, packets: u64, bytes: u64) {
        self.tx_packets.fetch_add(packets, Relaxed);
        self.tx_bytes.fetch_add(bytes, Relaxed);
    }
}

/// One counter per reason.
#[derive(Debug)]
pub(crate) struct Drops([AtomicU64; DropReason::COUNT]);

impl Default for Drops {
    fn default() -> Drops {
        Drops(std::array::from_fn(|_| AtomicU64::new(0)))
    }
}

impl Drops {
    pub(crate) fn add(&self, reason: DropReason, packets: u64) {
        if let Some(counter) = self.0.get(reason.index()) {
            counter.fetch_add(packets, Relaxed);
        }
    }

    /// Every reason that counted something.
    pub(crate) fn list(&self) -> Vec<(DropReason, u64)> {
        let counted = DropReason::ALL.iter().zip(&self.0);
        counted
            .map(|(reason, count)| (*reason, count.load(Relaxed)))
            .filter(|(_, count)| *count > 0)
            .collect()
    }

    pub(crate) fn total(&self) -> u64 {
        self.0.iter().map(|count| count.load(Relaxed)).sum()
    }
}

/// A port's counters. They outlive its socket's reopening only if the port is not closed in between.
#[derive(Debug, Default)]
pub(crate) struct PortStats {
    pub(crate) traffic: Traffic,
    pub(crate) drops: Drops,
    served: [AtomicU64; 3],
}

impl PortStats {
    pub(crate) fn served(&self, service: Service) {
        if let Some(counter) = self.served.get(service as usize) {
            counter.fetch_add(1, Relaxed);
        }
    }

    pub(crate) fn read(&self) -> PortCounters {
        let traffic = &self.traffic;
        let served =
            |service: Service| self.served.get(service as usize).map_or(0, |count| count.load(Relaxed));
        PortCounters {
            rx_packets: traffic.rx_packets.load(Relaxed),
            rx_bytes: traffic.rx_bytes.load(Relaxed),
            tx_packets: traffic.tx_packets.load(Relaxed),
            tx_bytes: traffic.tx_bytes.load(Relaxed),
            dropped: self.drops.total(),
            dhcp: served(Service::Dhcp),
            dhcp6: served(Service::Dhcp6),
            router_advertisements: served(Service::RouterAdvertisement),
        }
    }
}

/// How long a learned path MTU holds, as long as the kernel itself keeps one (RFC 1191 §6.3).
const PATH_MTU_LIFETIME_MS: u32 = 600_000;

/// A tunnel's counters, and what sending through it has taught.
#[derive(Debug, Default)]
pub(crate) struct TunnelStats {
    pub(crate) traffic: Traffic,
    too_big: AtomicU64,
    /// Largest inner packet, zero for unknown; and when that was learned.
    path_mtu: AtomicU32,
    learned_ms: AtomicU32,
    /// The way past the IP stack, for GRE on Ethernet.
    adjacency: ArcSwapOption<Adjacency>,
}

impl TunnelStats {
    pub(crate) fn adjacency(&self) -> Guard<Option<Arc<Adjacency>>> {
        self.adjacency.load()
    }

    pub(crate) fn set_adjacency(&self, found: Option<Adjacency>) {
        if self.adjacency.load().as_deref() != found.as_ref() {
            self.adjacency.store(found.map(Arc::new));
        }
    }

    pub(crate) fn sent_packets(&self) -> u64 {
        self.traffic.tx_packets.load(Relaxed)
    }

    pub(crate) fn refused(&self, packets: u64) {
        self.too_big.fetch_add(packets, Relaxed);
    }

    /// Whether it is time to ask the kernel again, and if so, notes that somebody does.
    pub(crate) fn may_learn(&self, now_ms: u32) -> bool {
        let last = self.learned_ms.load(Relaxed);
        let due = last == 0 || now_ms.wrapping_sub(last) >= 1000;
        due && self.learned_ms.compare_exchange(last, now_ms.max(1), Relaxed, Relaxed).is_ok()
    }

    pub(crate) fn learn(&self, inner_mtu: u16) {
        self.path_mtu.store(u32::from(inner_mtu), Relaxed);
    }

    /// The path's limit where one was learned lately.
    pub(crate) fn path_mtu(&self, now_ms: u32) -> Option<u16> {
        let mtu = self.path_mtu.load(Relaxed);
        if mtu == 0 || now_ms.wrapping_sub(self.learned_ms.load(Relaxed)) > PATH_MTU_LIFETIME_MS {
            return None;
        }
        u16::try_from(mtu).ok()
    }

    pub(crate) fn read(&self, now_ms: u32) -> TunnelCounters {
        let traffic = &self.traffic;
        TunnelCounters {
            rx_packets: traffic.rx_packets.load(Relaxed),
            rx_bytes: traffic.rx_bytes.load(Relaxed),
            tx_packets: traffic.tx_packets.load(Relaxed),
            tx_bytes: traffic.tx_bytes.load(Relaxed),
            too_big: self.too_big.load(Relaxed),
            path_mtu: self.path_mtu(now_ms),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_learned_path_mtu_is_forgotten() {
        let tunnel = TunnelStats::default();
        assert_eq!(tunnel.path_mtu(5), None);
        assert!(tunnel.may_learn(5));
        assert!(!tunnel.may_learn(900), "asked again within a second");
        tunnel.learn(1400);
        assert_eq!(tunnel.path_mtu(900), Some(1400));
        assert_eq!(tunnel.path_mtu(600_006), None);
        assert!(tunnel.may_learn(600_006));
    }

    #[test]
    fn only_reasons_that_counted_are_listed() {
        let drops = Drops::default();
        assert!(drops.list().is_empty());
        drops.add(DropReason::NoRoute, 2);
        assert_eq!(drops.list(), [(DropReason::NoRoute, 2)]);
        assert_eq!(drops.total(), 2);
    }
}
