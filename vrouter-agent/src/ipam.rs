//! Addresses for pods: one per family from the VRF's `pods`, round robin.
//!
//! Who has which address is the ports' business; this only chooses among those that nobody has. Choosing goes round
//! the range, and the address of a pod that went rests for a minute: somebody may still talk to it. Only when nothing
//! else is left is the one given that has rested longest: a pod with a used address is better than none. A pod that asks
//! for an address by name gets it, rested or not. Not given out: the first two addresses of a range (the network's own, and the one where people expect a
//! router) and, for IPv4, the last (broadcast); ranges of at most two addresses are used whole.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use agent_api::PoolUse;
use vrouter_types::Prefix;

use crate::event::Millis;

/// How long the address of a pod that went is avoided.
const REST_MILLIS: u64 = 60_000;
/// More than pods can go in that time.
const MAX_RESTING: usize = 8_192;

/// No address of a family is left.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no {family} address is left in {ranges}")]
pub struct AddressesExhausted {
    family: &'static str,
    ranges: String,
}

/// The ranges of one VRF, and where the next search begins.
#[derive(Debug, Clone)]
pub struct AddressPool {
    ranges: Vec<Range>,
    /// Until when; may hold addresses of ranges that a reload took away.
    resting: BTreeMap<IpAddr, Millis>,
}

#[derive(Debug, Clone)]
struct Range {
    prefix: Prefix,
    /// The first and the last address to give, as numbers.
    first: u128,
    last: u128,
    /// Where the next search begins.
    cursor: u128,
}

impl AddressPool {
    /// The ranges in the operator's order.
    pub fn new(ranges: &[Prefix]) -> AddressPool {
        AddressPool {
            ranges: ranges.iter().map(|prefix| Range::new(*prefix)).collect(),
            resting: BTreeMap::new(),
        }
    }

    /// These ranges instead; what rests goes on resting.
    pub fn with_ranges(&self, ranges: &[Prefix]) -> AddressPool {
        AddressPool { resting: self.resting.clone(), ..AddressPool::new(ranges) }
    }

    /// Nobody has this address any more: it rests from now on.
    pub fn release(&mut self, address: IpAddr, now: Millis) {
        if self.resting.len() < MAX_RESTING {
            self.resting.insert(address, Millis(now.0.saturating_add(REST_MILLIS)));
        }
    }

    /// Lets those go that have rested.
    pub fn tick(&mut self, now: Millis) {
        self.resting.retain(|_, until| *until > now);
    }

    /// One address per family that has ranges, IPv4 first; `used` says whether somebody has an address.
    pub fn allocate(&mut self, used: impl Fn(IpAddr) -> bool) -> Result<Vec<IpAddr>, AddressesExhausted> {
        let mut addresses = Vec::new();
        for ipv4 in [true, false] {
            let mut ranges = self.ranges.iter().filter(|range| range.prefix.is_ipv4() == ipv4).peekable();
            if ranges.peek().is_none() {
                continue;
            }
            let rested = |address: IpAddr| used(address) || self.resting.contains_key(&address);
            let fresh = ranges.find_map(|range| range.next_free(&rested));
            match fresh.or_else(|| self.longest_rested(ipv4, &used)) {
                Some(address) => addresses.push(address),
                None => return Err(self.exhausted(ipv4)),
            }
        }
        addresses.iter().for_each(|address| self.taken(*address));
        Ok(addresses)
    }

    /// Somebody got this address, from here or from elsewhere: the next search begins behind it.
    pub fn taken(&mut self, address: IpAddr) {
        self.resting.remove(&address);
        if let Some(range) = self.ranges.iter_mut().find(|range| range.prefix.contains(address)) {
            range.cursor = if (range.first..range.last).contains(&number(address)) {
                number(address) + 1
            } else {
                range.first
            };
        }
    }

    /// What is used of each range.
    pub fn pool_use(&self, used: impl Iterator<Item = IpAddr> + Clone) -> Vec<PoolUse> {
        let of = |range: &Range| PoolUse {
            range: range.prefix,
            used: u64::try_from(used.clone().filter(|address| range.prefix.contains(*address)).count())
                .unwrap_or(u64::MAX),
            size: range.size(),
        };
        self.ranges.iter().map(of).collect()
    }

    fn longest_rested(&self, ipv4: bool, used: &impl Fn(IpAddr) -> bool) -> Option<IpAddr> {
        let can_be_given = |address: &IpAddr| {
            address.is_ipv4() == ipv4
                && !used(*address)
                && self.ranges.iter().any(|range| range.gives(*address))
        };
        let resting = self.resting.iter().filter(|(address, _)| can_be_given(address));
        resting.min_by_key(|(_, until)| **until).map(|(address, _)| *address)
    }

    fn exhausted(&self, ipv4: bool) -> AddressesExhausted {
        let ranges = self.ranges.iter().filter(|range| range.prefix.is_ipv4() == ipv4);
        AddressesExhausted {
            family: if ipv4 { "IPv4" } else { "IPv6" },
            ranges: ranges
                .map(|range| format!("{} (all {} in use)", range.prefix, range.size()))
                .collect::<Vec<_>>()
                .join(", "),
        }
    }
}

impl Range {
    fn new(prefix: Prefix) -> Range {
        let width = if prefix.is_ipv4() { 32 } else { 128 };
        let network = number(prefix.addr());
        let hosts = u32::from(width - prefix.len());
        let broadcast = network | 1u128.checked_shl(hosts).map_or(u128::MAX, |size| size - 1);
        let (first, last) = match (hosts, prefix.is_ipv4()) {
            (0 | 1, _) => (network, broadcast),
            (_, true) => (network + 2, broadcast - 1),
            (_, false) => (network + 2, broadcast),
        };
        Range { prefix, first, last, cursor: first }
    }

    fn gives(&self, address: IpAddr) -> bool {
        self.prefix.contains(address) && (self.first..=self.last).contains(&number(address))
    }

    /// Looks at one address more than are used or rest, at most: the search ends.
    fn next_free(&self, used: &impl Fn(IpAddr) -> bool) -> Option<IpAddr> {
        let candidates = (self.cursor..=self.last).chain(self.first..self.cursor);
        candidates.map(|candidate| self.address(candidate)).find(|address| !used(*address))
    }

    fn address(&self, number: u128) -> IpAddr {
        match self.prefix.addr() {
            IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::from(u32::try_from(number).unwrap_or(u32::MAX))),
            IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::from(number)),
        }
    }

    fn size(&self) -> u64 {
        u64::try_from(self.last - self.first).unwrap_or(u64::MAX).saturating_add(1).min(1 << 63)
    }
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(u32::from(address)),
        IpAddr::V6(address) => u128::from(address),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn pool(ranges: &[&str]) -> AddressPool {
        AddressPool::new(&ranges.iter().map(|range| range.parse().unwrap()).collect::<Vec<_>>())
    }

    fn addresses(texts: &[&str]) -> Vec<IpAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn both_families_skip_the_network_and_the_router() {
        let mut pool = pool(&["fd00:20:11::/64", "10.20.11.0/24"]);
        assert_eq!(pool.allocate(|_| false).unwrap(), addresses(&["10.20.11.2", "fd00:20:11::2"]));
        assert_eq!(pool.allocate(|_| false).unwrap(), addresses(&["10.20.11.3", "fd00:20:11::3"]));
    }

    #[test]
    fn a_freed_address_comes_back_last() {
        let mut pool = pool(&["10.0.0.0/29"]);
        let mut given = Vec::new();
        for _ in 0..5 {
            given.extend(pool.allocate(|_| false).unwrap());
        }
        assert_eq!(given, addresses(&["10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5", "10.0.0.6"]));
        assert_eq!(pool.allocate(|_| false).unwrap(), addresses(&["10.0.0.2"]));
    }

    #[test]
    fn a_released_address_rests_and_is_given_earlier_only_for_want_of_others() {
        let mut pool = pool(&["10.0.0.0/29"]);
        let mut held: BTreeSet<IpAddr> = BTreeSet::new();
        for _ in 0..5 {
            held.extend(pool.allocate(|address| held.contains(&address)).unwrap());
        }
        let [a, b, c] = ["10.0.0.3", "10.0.0.5", "10.0.0.2"].map(|text| text.parse::<IpAddr>().unwrap());
        for (address, at) in [(b, 5_000), (a, 10_000), (c, 20_000)] {
            held.remove(&address);
            pool.release(address, Millis(at));
        }
        // The one that has rested longest, not the first behind the cursor.
        assert_eq!(pool.allocate(|address| held.contains(&address)).unwrap(), [b]);
        held.insert(b);
        // `c` has not rested; `a` has.
        pool.tick(Millis(70_000));
        pool.taken("10.0.0.6".parse().unwrap());
        assert_eq!(pool.allocate(|address| held.contains(&address)).unwrap(), [a]);
        held.insert(a);
        assert_eq!(
            pool.with_ranges(&["10.0.0.0/29".parse().unwrap()]).longest_rested(true, &|_| false),
            Some(c)
        );
        assert_eq!(pool.allocate(|address| held.contains(&address)).unwrap(), [c]);
        held.insert(c);
        assert!(pool.allocate(|address| held.contains(&address)).is_err());
    }

    #[test]
    fn an_address_rests_in_its_family_and_range_only() {
        let mut pool = pool(&["10.0.0.0/30", "fd00::/64"]);
        pool.release("10.9.9.9".parse().unwrap(), Millis(0));
        pool.release("fd00::2".parse().unwrap(), Millis(0));
        assert_eq!(pool.allocate(|_| false).unwrap(), addresses(&["10.0.0.2", "fd00::3"]));
        let used: BTreeSet<IpAddr> = addresses(&["10.0.0.2"]).into_iter().collect();
        assert!(pool.allocate(|address| used.contains(&address)).is_err());
    }

    #[test]
    fn exhaustion_names_the_ranges_and_their_use() {
        let used: BTreeSet<IpAddr> = addresses(&["10.0.0.2", "10.0.1.2"]).into_iter().collect();
        let mut pool = pool(&["10.0.0.0/30", "10.0.1.0/30"]);
        let error = pool.allocate(|address| used.contains(&address)).unwrap_err();
        assert_eq!(
            error.to_string(),
            "no IPv4 address is left in 10.0.0.0/30 (all 1 in use), 10.0.1.0/30 (all 1 in use)"
        );
    }

    #[test]
    fn the_second_range_serves_when_the_first_is_full() {
        let used: BTreeSet<IpAddr> = addresses(&["10.0.0.2"]).into_iter().collect();
        let mut pool = pool(&["10.0.0.0/30", "10.0.1.0/24"]);
        assert_eq!(pool.allocate(|address| used.contains(&address)).unwrap(), addresses(&["10.0.1.2"]));
    }

    #[test]
    fn an_address_taken_before_moves_the_search_on() {
        let mut pool = pool(&["10.0.0.0/24"]);
        pool.taken("10.0.0.77".parse().unwrap());
        assert_eq!(pool.allocate(|_| false).unwrap(), addresses(&["10.0.0.78"]));
        pool.taken("10.0.0.254".parse().unwrap());
        assert_eq!(pool.allocate(|_| false).unwrap(), addresses(&["10.0.0.2"]));
    }

    #[test]
    fn the_smallest_and_the_largest_ranges_work() {
        for (range, first, size) in [
            ("10.0.0.7/32", "10.0.0.7", 1),
            ("10.0.0.6/31", "10.0.0.6", 2),
            ("fd00::/127", "fd00::", 2),
            ("255.255.255.0/24", "255.255.255.2", 253),
            ("::/0", "::2", 1 << 63),
            ("0.0.0.0/0", "0.0.0.2", (1 << 32) - 3),
        ] {
            let mut pool = pool(&[range]);
            assert_eq!(pool.allocate(|_| false).unwrap(), addresses(&[first]), "{range}");
            assert_eq!(pool.pool_use(std::iter::empty())[0].size, size, "{range}");
        }
    }
}
