//! Token buckets for the packets that we make ourselves, so that no workload can turn us into a sender.

use vrouter_types::PortId;

/// As many as a node has. Of more, those whose ids are equal in the lower twelve bits would share a bucket.
const PORTS: usize = 4096;

/// What kind of answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    /// ARP and neighbour discovery.
    Neighbor,
    /// Echo replies of the gateway.
    Echo,
    /// DHCP and router advertisements.
    Service,
    /// ICMP errors (RFC 1812 §4.3.2.8, RFC 4443 §2.4 (f)).
    Error,
    /// The same about what others sent to a workload: these do not use up its own.
    ErrorToOthers,
    /// Not an answer: control hears of an address.
    Learn,
}

impl Answer {
    const COUNT: usize = 6;

    /// Answers per second, and how many at once. Bounds of one worker.
    const fn rate(self) -> (u64, u64) {
        match self {
            Answer::Neighbor => (200, 400),
            Answer::Echo => (200, 400),
            Answer::Service => (20, 60),
            Answer::Error | Answer::ErrorToOthers => (100, 100),
            Answer::Learn => (50, 50),
        }
    }
}

/// The buckets of one worker.
#[derive(Debug)]
pub(crate) struct Limiter {
    buckets: Box<[Bucket]>,
}

/// What is spent, in thousandths of an answer, and as of when. All zeros is a full bucket, so that a bucket nobody uses
/// takes no memory: the allocator has zeros without touching them.
type Bucket = [u64; 2];

impl Limiter {
    pub(crate) fn new() -> Limiter {
        Limiter { buckets: vec![[0; 2]; PORTS * Answer::COUNT].into() }
    }

    /// Whether one more answer may go out to, or on behalf of, this port.
    pub(crate) fn allow(&mut self, answer: Answer, port: PortId, now_ms: u64) -> bool {
        let index = answer as usize * PORTS + port.0 as usize % PORTS;
        let Some([spent, filled_ms]) = self.buckets.get_mut(index) else { return false };
        let (per_second, burst) = answer.rate();
        let earned = now_ms.saturating_sub(*filled_ms).saturating_mul(per_second);
        *spent = spent.saturating_sub(earned);
        *filled_ms = now_ms.max(*filled_ms);
        let allowed = *spent + 1000 <= burst * 1000;
        if allowed {
            *spent += 1000;
        }
        allowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn burst(limiter: &mut Limiter, port: u32, now_ms: u64) -> usize {
        (0..10_000).take_while(|_| limiter.allow(Answer::Error, PortId(port), now_ms)).count()
    }

    #[test]
    fn a_burst_ends_and_the_rate_goes_on() {
        let mut limiter = Limiter::new();
        assert_eq!(burst(&mut limiter, 1, 5_000_000), 100);
        assert_eq!(burst(&mut limiter, 1, 5_000_000), 0);
        assert_eq!(burst(&mut limiter, 1, 5_000_050), 5);
        assert_eq!(burst(&mut limiter, 1, 4_000_000), 0, "a clock that goes back earns nothing");
        assert_eq!(burst(&mut limiter, 1, 9_000_000), 100);
    }

    #[test]
    fn one_port_does_not_use_up_anothers_answers() {
        let mut limiter = Limiter::new();
        burst(&mut limiter, 1, 0);
        for other in [2, 1 + 64, 1 + 1024, 1 + 2048] {
            assert!(limiter.allow(Answer::Error, PortId(other), 0), "{other}");
        }
        assert!(limiter.allow(Answer::Neighbor, PortId(1), 0));
    }
}
