//! Rates of what is counted: packets, octets and drops per second, from samples some seconds apart.
//!
//! ```text
//!   older ───────── newer ───────── now        a rate is (now - older) / time between: 5 to 10 seconds
//! ```
//! Two samples of every counter that there is: memory grows with ports and tunnels, not with time. Told `now`. A counter
//! that is less than it was begins anew (the port was opened again): its rate counts from zero. What was not there at
//! the older sample has no rate yet, which reads as none.

use std::collections::HashMap;
use std::net::IpAddr;

use dataplane::{Dataplane, PortCounters, TunnelCounters};
use dataplane_core::DropReason;
use vrouter_types::{Encap, PortId};

use crate::event::Millis;

/// How far samples are apart.
const PERIOD_MS: u64 = 5000;

/// Every counter at one time.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sample {
    /// Per port.
    pub ports: HashMap<PortId, PortCounters>,
    /// Per tunnel.
    pub tunnels: HashMap<(IpAddr, Encap), TunnelCounters>,
    /// Drops by reason.
    pub drops: HashMap<DropReason, u64>,
    /// Drops by port and reason.
    pub port_drops: HashMap<(PortId, DropReason), u64>,
}

impl Sample {
    /// Reads the counters of these ports and tunnels.
    pub fn read(
        dataplane: &Dataplane,
        ports: impl Iterator<Item = PortId>,
        tunnels: impl Iterator<Item = (IpAddr, Encap)>,
    ) -> Sample {
        let mut sample = Sample { drops: dataplane.drops().into_iter().collect(), ..Sample::default() };
        for port in ports {
            sample.ports.insert(port, dataplane.port_counters(port));
            let drops = dataplane.port_drops(port).into_iter();
            sample.port_drops.extend(drops.map(|(reason, packets)| ((port, reason), packets)));
        }
        sample.tunnels = tunnels.map(|key| (key, dataplane.tunnel_counters(key.0, key.1))).collect();
        sample
    }
}

/// Two samples.
#[derive(Debug, Default)]
pub struct Rates {
    older: Option<(Millis, Sample)>,
    newer: Option<(Millis, Sample)>,
}

/// What goes through something, per second.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Rate {
    /// Packets received.
    pub rx_packets: f64,
    /// Bits received.
    pub rx_bits: f64,
    /// Packets sent.
    pub tx_packets: f64,
    /// Bits sent.
    pub tx_bits: f64,
    /// Packets dropped.
    pub drops: f64,
}

impl Rates {
    /// Whether it is time for another sample.
    pub fn is_due(&self, now: Millis) -> bool {
        self.newer.as_ref().is_none_or(|(at, _)| now.0.saturating_sub(at.0) >= PERIOD_MS)
    }

    /// Takes a sample.
    pub fn add(&mut self, now: Millis, sample: Sample) {
        self.older = self.newer.replace((now, sample));
    }

    /// What the port does, whose counters are these now.
    pub fn of_port(&self, port: PortId, now: Millis, counters: &PortCounters) -> Option<Rate> {
        let (since, sample) = self.since(now)?;
        let before = sample.ports.get(&port)?;
        let per_second = |now: u64, before: u64| per_second(now, before, since);
        Some(Rate {
            rx_packets: per_second(counters.rx_packets, before.rx_packets),
            rx_bits: per_second(counters.rx_bytes, before.rx_bytes) * 8.0,
            tx_packets: per_second(counters.tx_packets, before.tx_packets),
            tx_bits: per_second(counters.tx_bytes, before.tx_bytes) * 8.0,
            drops: per_second(counters.dropped, before.dropped),
        })
    }

    /// What the tunnel does.
    pub fn of_tunnel(&self, key: (IpAddr, Encap), now: Millis, counters: &TunnelCounters) -> Option<Rate> {
        let (since, sample) = self.since(now)?;
        let before = sample.tunnels.get(&key)?;
        let per_second = |now: u64, before: u64| per_second(now, before, since);
        Some(Rate {
            rx_packets: per_second(counters.rx_packets, before.rx_packets),
            rx_bits: per_second(counters.rx_bytes, before.rx_bytes) * 8.0,
            tx_packets: per_second(counters.tx_packets, before.tx_packets),
            tx_bits: per_second(counters.tx_bytes, before.tx_bytes) * 8.0,
            drops: per_second(counters.too_big, before.too_big),
        })
    }

    /// Drops per second for this reason. A reason that had counted nothing yet counts from zero.
    pub fn of_drops(&self, reason: DropReason, now: Millis, packets: u64) -> Option<f64> {
        let (since, sample) = self.since(now)?;
        Some(per_second(packets, sample.drops.get(&reason).copied().unwrap_or(0), since))
    }

    /// The same at one port.
    pub fn of_port_drops(&self, key: (PortId, DropReason), now: Millis, packets: u64) -> Option<f64> {
        let (since, sample) = self.since(now)?;
        sample.ports.get(&key.0)?;
        Some(per_second(packets, sample.port_drops.get(&key).copied().unwrap_or(0), since))
    }

    /// The sample to compare with, and how many milliseconds ago it was taken: the newer one only while there is no
    /// older, and never one of this moment.
    fn since(&self, now: Millis) -> Option<(u64, &Sample)> {
        let (at, sample) = self.older.as_ref().or(self.newer.as_ref())?;
        let since = now.0.saturating_sub(at.0);
        (since >= 500).then_some((since, sample))
    }
}

/// To a tenth.
fn per_second(now: u64, before: u64, since_ms: u64) -> f64 {
    let counted = now.checked_sub(before).unwrap_or(now);
    let tenths = u128::from(counted) * 10_000 / u128::from(since_ms.max(1));
    // More than 2^32 tenths lose what nobody reads.
    let tenths = u64::try_from(tenths).unwrap_or(u64::MAX);
    #[allow(clippy::cast_precision_loss, reason = "rates are for people")]
    let rate = tenths as f64 / 10.0;
    rate
}

#[cfg(test)]
mod tests {
    use super::*;

    const PORT: PortId = PortId(3);

    fn counters(packets: u64) -> PortCounters {
        PortCounters {
            rx_packets: packets,
            rx_bytes: packets * 100,
            dropped: packets / 10,
            ..PortCounters::default()
        }
    }

    fn sample(packets: u64) -> Sample {
        Sample {
            ports: [(PORT, counters(packets))].into(),
            drops: [(DropReason::NoRoute, packets)].into(),
            ..Sample::default()
        }
    }

    #[test]
    fn a_rate_is_the_difference_to_the_older_sample() {
        let mut rates = Rates::default();
        assert!(rates.is_due(Millis(0)));
        assert_eq!(rates.of_port(PORT, Millis(9000), &counters(5)), None, "no sample yet");
        rates.add(Millis(1000), sample(100));
        assert!(!rates.is_due(Millis(5999)) && rates.is_due(Millis(6000)));
        assert_eq!(rates.of_port(PORT, Millis(1000), &counters(100)), None, "of the same moment");
        let rate = rates.of_port(PORT, Millis(3000), &counters(300)).unwrap();
        assert_eq!(
            (rate.rx_packets, rate.rx_bits, rate.tx_packets, rate.drops),
            (100.0, 80_000.0, 0.0, 10.0)
        );
        rates.add(Millis(6000), sample(1100));
        let rate = rates.of_port(PORT, Millis(8000), &counters(1500)).unwrap();
        assert_eq!(rate.rx_packets, 200.0, "1400 in 7 seconds");
        assert_eq!(rates.of_drops(DropReason::NoRoute, Millis(11_000), 50), Some(5.0), "it began anew");
        assert_eq!(rates.of_drops(DropReason::TooBig, Millis(11_000), 5), Some(0.5));
    }

    #[test]
    fn what_is_new_has_no_rate_and_what_began_anew_counts_from_zero() {
        let mut rates = Rates::default();
        rates.add(Millis(0), sample(1000));
        assert_eq!(rates.of_port(PortId(4), Millis(5000), &counters(7)), None);
        assert_eq!(rates.of_port_drops((PortId(4), DropReason::NoRoute), Millis(5000), 7), None);
        assert_eq!(rates.of_port(PORT, Millis(5000), &counters(10)).unwrap().rx_packets, 2.0);
        assert_eq!(rates.of_port(PORT, Millis(5000), &counters(u64::MAX / 200)).unwrap().tx_packets, 0.0);
    }
}
