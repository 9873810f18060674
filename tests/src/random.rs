//! Randomness that can be had again: from a seed that is printed, or named by `VROUTER_SEED`.

use std::time::{SystemTime, UNIX_EPOCH};

/// xorshift64*: not for secrets.
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// From this seed.
    pub fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// From the seed that `VROUTER_SEED` names, or another one each time. It is printed.
    pub fn seeded(what: &str) -> Random {
        let clock = || {
            SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |since| u64::from(since.subsec_nanos()))
        };
        let named = std::env::var("VROUTER_SEED").ok().and_then(|seed| seed.parse().ok());
        let seed = named.unwrap_or_else(clock);
        println!("{what}: the same again with VROUTER_SEED={seed}");
        Random::new(seed)
    }

    /// A number below this one, which is not 0.
    pub fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let number = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33;
        usize::try_from(number).unwrap_or_default() % limit.max(1)
    }

    /// `true` once in so many times.
    pub fn one_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_and_every_number_comes() {
        let numbers = |seed| {
            let mut random = Random::new(seed);
            (0..100).map(|_| random.below(5)).collect::<Vec<_>>()
        };
        assert_eq!(numbers(7), numbers(7));
        assert_ne!(numbers(7), numbers(8));
        assert!((0..5).all(|number| numbers(0).contains(&number)));
    }
}
