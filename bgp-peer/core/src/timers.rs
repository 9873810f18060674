//! Timers as data: a slot each, the earliest is the deadline. And how long to wait before the next attempt.

use std::time::{Duration, Instant};

/// The timers of one session (RFC 4271 §8, §10; RFC 9687).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Timer {
    /// Until the next attempt to connect; while one is under way, until it is given up.
    ConnectRetry,
    /// How long a session stays idle after it failed.
    IdleHold,
    /// How long the neighbor may be silent.
    Hold,
    /// Until we have to say something.
    Keepalive,
    /// How long the neighbor may leave our octets unread.
    SendHold,
    /// How long an established session must last to count as a success.
    Settle,
}

impl Timer {
    const ALL: [Timer; 6] =
        [Timer::ConnectRetry, Timer::IdleHold, Timer::Hold, Timer::Keepalive, Timer::SendHold, Timer::Settle];
}

/// One slot for each timer.
#[derive(Debug, Default)]
pub(crate) struct TimerTable([Option<Instant>; 6]);

impl TimerTable {
    /// Starts it, or starts it anew.
    pub(crate) fn set(&mut self, timer: Timer, at: Instant) {
        self.0[timer as usize] = Some(at);
    }

    /// Stops it.
    pub(crate) fn stop(&mut self, timer: Timer) {
        self.0[timer as usize] = None;
    }

    /// Stops all.
    pub(crate) fn stop_all(&mut self) {
        *self = TimerTable::default();
    }

    /// Takes a timer that is due, the earliest first.
    pub(crate) fn take_due(&mut self, now: Instant) -> Option<Timer> {
        let due = Timer::ALL.into_iter().filter(|timer| self.0[*timer as usize].is_some_and(|at| at <= now));
        let timer = due.min_by_key(|timer| self.0[*timer as usize])?;
        self.stop(timer);
        Some(timer)
    }

    /// Whether it runs.
    pub(crate) fn is_running(&self, timer: Timer) -> bool {
        self.0[timer as usize].is_some()
    }

    /// The earliest.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.0.iter().flatten().min().copied()
    }
}

/// A stream of numbers that need not be secret, only different from node to node (splitmix64). The caller gives the
/// seed: a core has no source of chance.
#[derive(Debug)]
pub(crate) struct Jitter(u64);

impl Jitter {
    pub(crate) const fn new(seed: u64) -> Jitter {
        Jitter(seed)
    }

    /// Between three quarters of a time and all of it (RFC 4271 §10).
    pub(crate) fn shorten(&mut self, time: Duration) -> Duration {
        time - (time / 4).mul_f64(self.fraction())
    }

    /// From 0 up to, but not including, 1.
    fn fraction(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^= z >> 31;
        f64::from((z >> 32) as u32) / (f64::from(u32::MAX) + 1.0)
    }
}

/// How long to wait before the next attempt: twice as long after each failure, up to a limit, and never in step with
/// the others. Three hundred gateways that lose one route reflector come back over a time, not at a time.
#[derive(Debug)]
pub(crate) struct Backoff {
    failures: u32,
}

impl Backoff {
    /// The longest wait after a first failure.
    pub(crate) const FIRST: Duration = Duration::from_secs(1);
    /// The longest wait of all.
    pub(crate) const LIMIT: Duration = Duration::from_secs(30);

    pub(crate) const fn new() -> Backoff {
        Backoff { failures: 0 }
    }

    /// Counts a failure and says how long to wait: between half of the longest wait and all of it.
    pub(crate) fn fail(&mut self, jitter: &mut Jitter) -> Duration {
        let longest = Backoff::FIRST.saturating_mul(1 << self.failures.min(5)).min(Backoff::LIMIT);
        self.failures = self.failures.saturating_add(1);
        longest - (longest / 2).mul_f64(jitter.fraction())
    }

    /// Counts a failure that is nobody's fault, where the operator has said how long to wait.
    pub(crate) fn fail_at(&mut self, time: Duration, jitter: &mut Jitter) -> Duration {
        self.failures = self.failures.saturating_add(1);
        jitter.shorten(time)
    }

    /// Begins anew: a session has lasted.
    pub(crate) fn reset(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn due_timers_come_in_their_order_and_once() {
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        let mut timers = TimerTable::default();
        timers.set(Timer::Hold, after(90));
        timers.set(Timer::Keepalive, after(30));
        timers.set(Timer::ConnectRetry, after(60));
        timers.stop(Timer::ConnectRetry);
        assert_eq!(timers.next(), Some(after(30)));
        assert_eq!(timers.take_due(after(29)), None);
        assert_eq!(timers.take_due(after(100)), Some(Timer::Keepalive));
        assert_eq!(timers.take_due(after(100)), Some(Timer::Hold));
        assert_eq!(timers.take_due(after(100)), None);
        assert_eq!(timers.next(), None);
    }

    #[test]
    fn waits_double_up_to_the_limit_and_begin_anew() {
        let (mut backoff, mut jitter) = (Backoff::new(), Jitter::new(7));
        for longest in [1, 2, 4, 8, 16, 30, 30, 30].map(Duration::from_secs) {
            let wait = backoff.fail(&mut jitter);
            assert!(
                wait > longest / 2 - Duration::from_millis(1) && wait <= longest,
                "{wait:?} for {longest:?}"
            );
        }
        backoff.reset();
        assert!(backoff.fail(&mut jitter) <= Backoff::FIRST);
    }

    #[test]
    fn different_seeds_wait_differently() {
        let waits: std::collections::BTreeSet<_> =
            (0..300).map(|seed| Backoff::new().fail(&mut Jitter::new(seed)).as_micros() / 100).collect();
        assert!(waits.len() > 250, "only {} different waits of 300", waits.len());
    }

    #[test]
    fn shortened_times_stay_within_a_quarter() {
        let mut jitter = Jitter::new(1);
        for _ in 0..1000 {
            let time = jitter.shorten(Duration::from_secs(40));
            assert!((Duration::from_secs(30)..=Duration::from_secs(40)).contains(&time));
        }
    }
}
