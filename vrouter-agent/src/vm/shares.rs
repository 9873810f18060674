//! How much of something each port may have at once, and how often.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use vrouter_types::PortId;

/// Places, of which each port may hold some.
#[derive(Debug, Clone)]
pub(super) struct Shares {
    total: usize,
    each: usize,
    used: Arc<Mutex<HashMap<PortId, usize>>>,
}

/// A place. Dropping it gives it back.
#[derive(Debug)]
pub(super) struct Share {
    port: PortId,
    used: Arc<Mutex<HashMap<PortId, usize>>>,
}

impl Shares {
    pub(super) fn new(total: usize, each: usize) -> Shares {
        Shares { total, each, used: Arc::default() }
    }

    /// `None`: the port, or all together, have as many as they may.
    pub(super) fn take(&self, port: PortId) -> Option<Share> {
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        if used.values().sum::<usize>() >= self.total {
            return None;
        }
        let own = used.entry(port).or_default();
        if *own >= self.each {
            return None;
        }
        *own += 1;
        Some(Share { port, used: Arc::clone(&self.used) })
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(own) = used.get_mut(&self.port) {
            *own -= 1;
            if *own == 0 {
                used.remove(&self.port);
            }
        }
    }
}

/// Token buckets, one per port. Full ones are forgotten, so there are never more than ports that were busy lately.
#[derive(Debug)]
pub(super) struct Rates {
    per_second: f64,
    burst: f64,
    buckets: Mutex<HashMap<PortId, (f64, Instant)>>,
}

impl Rates {
    pub(super) fn new(per_second: u32, burst: u32) -> Rates {
        Rates { per_second: per_second.into(), burst: burst.into(), buckets: Mutex::default() }
    }

    pub(super) fn allow(&self, port: PortId, now: Instant) -> bool {
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        let earned = |since: Instant| now.saturating_duration_since(since).as_secs_f64() * self.per_second;
        if buckets.len() >= 1024 {
            buckets.retain(|_, (tokens, filled)| *tokens + earned(*filled) < self.burst);
        }
        let (tokens, filled) = buckets.entry(port).or_insert((self.burst, now));
        *tokens = (*tokens + earned(*filled)).min(self.burst);
        *filled = now;
        let allowed = *tokens >= 1.0;
        if allowed {
            *tokens -= 1.0;
        }
        allowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn no_port_takes_more_than_its_share_and_all_not_more_than_there_is() {
        let shares = Shares::new(5, 2);
        let mut held: Vec<_> = (0..3).flat_map(|port| (0..3).map(move |_| PortId(port))).collect();
        let mut places: Vec<_> = held.drain(..).filter_map(|port| shares.take(port)).collect();
        assert_eq!(places.len(), 5, "two, two, and one for the third");
        assert!(shares.take(PortId(9)).is_none());
        places.remove(0);
        assert!(shares.take(PortId(9)).is_some());
        places.clear();
        assert!(shares.used.lock().unwrap().is_empty(), "nothing is kept of ports that hold nothing");
    }

    #[test]
    fn a_burst_ends_and_the_rate_goes_on_for_each_port() {
        let rates = Rates::new(10, 20);
        let start = Instant::now();
        let burst = |port, now| (0..1000).take_while(|_| rates.allow(PortId(port), now)).count();
        assert_eq!((burst(1, start), burst(1, start), burst(2, start)), (20, 0, 20));
        assert_eq!(burst(1, start + Duration::from_secs(1)), 10);
        for port in 10..3000 {
            rates.allow(PortId(port), start + Duration::from_secs(60 + u64::from(port)));
        }
        assert!(rates.buckets.lock().unwrap().len() <= 1024);
    }
}
