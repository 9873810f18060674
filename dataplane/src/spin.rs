//! Whether to wait for the next packet by asking again instead of sleeping.
//!
//! Waking up costs more than forwarding one packet. While single packets come closer together than [`SPIN`], as in a
//! dialogue of short requests, a worker keeps asking for that long before it sleeps. It stops as soon as asking did not
//! pay: an idle node uses no processor time. Bulk does not spin: its senders need the processor more than we do, and
//! sleeping makes batches.
//!
//! Where the kernel joins nothing (GRE, far ends without UDP checksums), a worker that is as fast as its sender would be
//! woken for every packet or two, and there would be nothing to join. So behind a few long packets it [naps](Nap), as
//! network cards hold back interrupts: the next batch is worth waking up for.

use std::time::{Duration, Instant};

/// How long to ask before sleeping.
const SPIN: Duration = Duration::from_micros(50);
/// How many times in a row asking must have paid, or must have been about to.
const TRUST: u8 = 4;
const MOST_TRUST: u8 = 16;
/// More packets than this at once, or a superframe, are bulk.
const DIALOGUE: usize = 4;

#[derive(Debug)]
pub(crate) struct Spin {
    idle_since: Option<Instant>,
    trust: u8,
    alone: bool,
}

impl Spin {
    /// A lone processor has better things to do: `alone` never asks.
    pub(crate) fn new(alone: bool) -> Spin {
        Spin { idle_since: None, trust: 0, alone }
    }

    /// What to tell epoll: zero to ask, negative to sleep.
    pub(crate) fn timeout_ms(&mut self, now: Instant) -> i32 {
        let since = *self.idle_since.get_or_insert(now);
        if self.alone || self.trust < TRUST {
            return -1;
        }
        if now.duration_since(since) < SPIN {
            return 0;
        }
        // Asked in vain.
        self.trust -= TRUST;
        -1
    }

    /// Told after epoll: whether there is work.
    pub(crate) fn woke(&mut self, work: bool, now: Instant) {
        if !work {
            return;
        }
        let soon = self.idle_since.take().is_some_and(|since| now.duration_since(since) < SPIN);
        self.trust = if soon { (self.trust + 1).min(MOST_TRUST) } else { self.trust.saturating_sub(1) };
    }

    /// Told after the work was done: how many packets it was.
    pub(crate) fn worked(&mut self, packets: usize) {
        if packets > DIALOGUE {
            self.trust = 0;
        }
    }
}

/// How long packets gather.
const NAP: Duration = Duration::from_micros(100);
/// Mean octets of long packets: segments of a bulk transfer, but no superframes.
const LONG: std::ops::RangeInclusive<usize> = 600..=4096;

/// What a turn brought from tunnels, to decide whether to wait for more at once.
#[derive(Debug, Default)]
pub(crate) struct Nap {
    packets: usize,
    octets: usize,
}

impl Nap {
    /// Told of every message that a tunnel brought.
    pub(crate) fn received(&mut self, packets: usize, octets: usize) {
        self.packets += packets;
        self.octets += octets;
    }

    /// Behind a turn: how long to let packets gather. A batch that was full, of `slots`, has made others wait already.
    pub(crate) fn after_turn(&mut self, slots: usize) -> Option<Duration> {
        let Nap { packets, octets } = std::mem::take(self);
        let few = packets > DIALOGUE && packets < slots;
        (few && LONG.contains(&(octets / packets))).then_some(NAP)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nap(packets: usize, octets: usize) -> Option<Duration> {
        let mut nap = Nap::default();
        nap.received(packets, octets);
        let wanted = nap.after_turn(64);
        assert_eq!(nap.after_turn(64), None, "a turn counts once");
        wanted
    }

    #[test]
    fn a_few_long_packets_are_worth_waiting_for_more() {
        assert_eq!(nap(10, 14_000), Some(NAP));
        assert_eq!(nap(63, 63 * 1472), Some(NAP));
    }

    #[test]
    fn dialogues_small_packets_superframes_and_full_batches_are_not() {
        assert_eq!(nap(0, 0), None);
        assert_eq!(nap(DIALOGUE, DIALOGUE * 1400), None);
        assert_eq!(nap(30, 30 * 60), None);
        assert_eq!(nap(6, 6 * 60_000), None);
        assert_eq!(nap(64, 64 * 1400), None);
    }

    fn trusting() -> (Spin, Instant) {
        (Spin { idle_since: None, trust: MOST_TRUST, alone: false }, Instant::now())
    }

    #[test]
    fn packets_close_together_earn_trust_and_rare_ones_lose_it() {
        let (mut spin, now) = (Spin::new(false), Instant::now());
        for _ in 0..TRUST {
            assert_eq!(spin.timeout_ms(now), -1);
            spin.woke(true, now + SPIN / 2);
        }
        assert_eq!(spin.timeout_ms(now), 0);
        spin.woke(true, now + SPIN);
        assert_eq!(spin.timeout_ms(now), -1);
    }

    #[test]
    fn asking_goes_on_until_there_is_work_but_not_for_long() {
        let (mut spin, now) = trusting();
        assert_eq!(spin.timeout_ms(now), 0);
        spin.woke(false, now);
        assert_eq!(spin.timeout_ms(now + SPIN / 2), 0);
        assert_eq!(spin.timeout_ms(now + SPIN), -1);
        assert!(spin.trust < MOST_TRUST, "asked in vain");
    }

    #[test]
    fn bulk_does_not_spin() {
        let (mut spin, now) = trusting();
        spin.worked(DIALOGUE + 1);
        assert_eq!(spin.timeout_ms(now), -1);
    }

    #[test]
    fn a_lone_processor_does_not_spin() {
        let (mut spin, now) = trusting();
        spin.alone = true;
        assert_eq!(spin.timeout_ms(now), -1);
    }
}
