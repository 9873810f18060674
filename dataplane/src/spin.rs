//! Whether to wait for the next packet by asking again instead of sleeping.
//!
//! Waking up costs more than forwarding one packet. While single packets come closer together than [`SPIN`], as in a
//! dialogue of short requests, a worker keeps asking for that long before it sleeps. It stops as soon as asking did not
//! pay: an idle node uses no processor time. Bulk does not spin: its senders need the processor more than we do, and
//! sleeping makes batches.

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

#[cfg(test)]
mod tests {
    use super::*;

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
