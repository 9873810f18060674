//! One VRF's routes: longest prefix match over both families.

use std::net::IpAddr;

use prefix_trie::PrefixMap;
use vrouter_types::{Label, PortId, Prefix};

use super::TunnelId;

/// Where a prefix leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Route {
    /// To a port of this node, of this VRF or of one whose routes it imports.
    Port(PortId),
    /// Through tunnels of equal cost; a flow keeps to one of them.
    Tunnel(Box<[Hop]>),
    /// To the host: an address of the node itself.
    Host,
    /// Nowhere, and silently.
    Discard,
}

/// One way to a prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Hop {
    /// The tunnel to the provider edge.
    pub tunnel: TunnelId,
    /// The label that it gave the prefix.
    pub label: Label,
}

/// A VRF's routes.
#[derive(Debug, Clone, Default)]
pub struct RouteTable {
    v4: PrefixMap<(u32, u8), Route>,
    v6: PrefixMap<(u128, u8), Route>,
}

impl RouteTable {
    /// No routes.
    pub fn new() -> RouteTable {
        RouteTable::default()
    }

    /// Adds or replaces; gives back what was there.
    pub fn insert(&mut self, prefix: Prefix, route: Route) -> Option<Route> {
        match prefix.addr() {
            IpAddr::V4(addr) => self.v4.insert((addr.to_bits(), prefix.len()), route),
            IpAddr::V6(addr) => self.v6.insert((addr.to_bits(), prefix.len()), route),
        }
    }

    /// Removes; gives back what was there.
    pub fn remove(&mut self, prefix: Prefix) -> Option<Route> {
        match prefix.addr() {
            IpAddr::V4(addr) => self.v4.remove(&(addr.to_bits(), prefix.len())),
            IpAddr::V6(addr) => self.v6.remove(&(addr.to_bits(), prefix.len())),
        }
    }

    /// The route of the longest prefix that holds the address.
    pub fn lookup(&self, addr: IpAddr) -> Option<&Route> {
        match addr {
            IpAddr::V4(addr) => self.v4.get_lpm(&(addr.to_bits(), 32)).map(|(_, route)| route),
            IpAddr::V6(addr) => self.v6.get_lpm(&(addr.to_bits(), 128)).map(|(_, route)| route),
        }
    }

    /// The same with the prefix that matched, for people.
    pub fn lookup_prefix(&self, addr: IpAddr) -> Option<(Prefix, &Route)> {
        match addr {
            IpAddr::V4(addr) => {
                let ((net, len), route) = self.v4.get_lpm(&(addr.to_bits(), 32))?;
                Some((v4_prefix(net, len)?, route))
            }
            IpAddr::V6(addr) => {
                let ((net, len), route) = self.v6.get_lpm(&(addr.to_bits(), 128))?;
                Some((v6_prefix(net, len)?, route))
            }
        }
    }

    /// The route of exactly this prefix.
    pub fn get(&self, prefix: Prefix) -> Option<&Route> {
        match prefix.addr() {
            IpAddr::V4(addr) => self.v4.get(&(addr.to_bits(), prefix.len())),
            IpAddr::V6(addr) => self.v6.get(&(addr.to_bits(), prefix.len())),
        }
    }

    /// Every route, IPv4 first, in the order of the prefixes.
    pub fn iter(&self) -> impl Iterator<Item = (Prefix, &Route)> {
        let v4 = self.v4.iter().filter_map(|((net, len), route)| Some((v4_prefix(net, len)?, route)));
        let v6 = self.v6.iter().filter_map(|((net, len), route)| Some((v6_prefix(net, len)?, route)));
        v4.chain(v6)
    }

    /// How many routes there are.
    pub fn len(&self) -> usize {
        self.v4.len() + self.v6.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

fn v4_prefix(net: u32, len: u8) -> Option<Prefix> {
    Prefix::new(IpAddr::V4(net.into()), len)
}

fn v6_prefix(net: u128, len: u8) -> Option<Prefix> {
    Prefix::new(IpAddr::V6(net.into()), len)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What `lookup` means, written the slow way.
    fn scan(routes: &[(Prefix, Route)], addr: IpAddr) -> Option<&Route> {
        routes.iter().filter(|(prefix, _)| prefix.contains(addr)).max_by_key(|(p, _)| p.len()).map(|(_, r)| r)
    }

    /// Few bits vary, so that prefixes nest and addresses hit.
    fn prefixes() -> impl Strategy<Value = Prefix> {
        prop_oneof![
            (0u32..64, 0u8..=32).prop_map(|(low, len)| {
                Prefix::new(IpAddr::V4((0x0a00_0000 | low << 26 | low).into()), len).unwrap()
            }),
            (0u128..64, 0u8..=128).prop_map(|(low, len)| {
                Prefix::new(IpAddr::V6((0xfd << 120 | low << 66 | low).into()), len).unwrap()
            }),
        ]
    }

    proptest! {
        #[test]
        fn the_trie_finds_what_a_scan_finds(
            steps in proptest::collection::vec((prefixes(), any::<bool>()), 1..120),
            addrs in proptest::collection::vec(prefixes(), 1..40),
        ) {
            let (mut table, mut list) = (RouteTable::new(), Vec::<(Prefix, Route)>::new());
            for (number, (prefix, keep)) in steps.into_iter().enumerate() {
                let before = list.iter().position(|(p, _)| *p == prefix).map(|at| list.swap_remove(at).1);
                if keep {
                    let route = Route::Port(PortId(u32::try_from(number).unwrap()));
                    list.push((prefix, route.clone()));
                    prop_assert_eq!(table.insert(prefix, route), before);
                } else {
                    prop_assert_eq!(table.remove(prefix), before);
                }
            }
            prop_assert_eq!(table.len(), list.len());
            for addr in addrs.into_iter().map(Prefix::addr) {
                prop_assert_eq!(table.lookup(addr), scan(&list, addr));
                let found = table.lookup_prefix(addr);
                prop_assert_eq!(found.map(|(_, route)| route), scan(&list, addr));
                prop_assert!(found.is_none_or(|(prefix, route)| table.get(prefix) == Some(route)));
            }
            let mut all: Vec<Prefix> = table.iter().map(|(prefix, _)| prefix).collect();
            let mut want: Vec<Prefix> = list.iter().map(|(prefix, _)| *prefix).collect();
            all.sort();
            want.sort();
            prop_assert_eq!(all, want);
        }
    }

    #[test]
    fn families_never_meet() {
        let mut table = RouteTable::new();
        table.insert("0.0.0.0/0".parse().unwrap(), Route::Host);
        assert_eq!(table.lookup("::".parse().unwrap()), None);
        assert_eq!(table.lookup("255.255.255.255".parse().unwrap()), Some(&Route::Host));
    }
}
