//! What may pass a port: security groups, compiled. Asked once per flow, not per packet.
//!
//! Rules only allow, as neutron's do: what none of them matches does not begin. An answer to what was let through needs
//! no rule, and neither does an ICMP error about it.

use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::sync::Arc;

use vrouter_types::Prefix;

use crate::flow_table::{Begun, FlowTuple};
use crate::packet::{ICMP, ICMPV6, Packet};

/// Echo requests of ICMP and ICMPv6.
const ECHO_REQUEST: [u8; 2] = [8, 128];

/// The rules of a port.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Policy {
    /// Differs from that of every policy that says something else. Flows that began under another are checked anew.
    pub generation: u64,
    /// What others may begin towards the workload.
    pub ingress: Box<[Rule]>,
    /// What the workload may begin.
    pub egress: Box<[Rule]>,
}

/// Allows what it matches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// Of IPv4, else of IPv6.
    pub v4: bool,
    /// The IP protocol; `None`: any.
    pub protocol: Option<u8>,
    /// What of the protocol.
    pub service: Service,
    /// Who is at the other end.
    pub remote: Remote,
}

/// What of a protocol a rule matches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Service {
    /// All of it.
    Any,
    /// Destination ports.
    Ports(RangeInclusive<u16>),
    /// An ICMP type, and its code if that matters.
    Icmp(u8, Option<u8>),
}

/// The other end of a flow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Remote {
    /// Anybody.
    Any,
    /// These addresses.
    Prefix(Prefix),
    /// The members of a group.
    Members(Arc<Members>),
}

/// The addresses of a group's members, to be found by bisection.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Members {
    /// First and last address of each range; in order, apart from each other. IPv4 and IPv6 by themselves.
    v4: Box<[(u128, u128)]>,
    v6: Box<[(u128, u128)]>,
}

impl FromIterator<Prefix> for Members {
    fn from_iter<I: IntoIterator<Item = Prefix>>(prefixes: I) -> Members {
        let (v4, v6): (Vec<Prefix>, Vec<Prefix>) = prefixes.into_iter().partition(|prefix| prefix.is_ipv4());
        Members { v4: ranges(&v4, 32), v6: ranges(&v6, 128) }
    }
}

impl Members {
    /// Whether the address is a member's.
    pub fn contains(&self, address: IpAddr) -> bool {
        let (ranges, address) = match address {
            IpAddr::V4(v4) => (&self.v4, u128::from(v4.to_bits())),
            IpAddr::V6(v6) => (&self.v6, v6.to_bits()),
        };
        let behind = ranges.partition_point(|(first, _)| *first <= address);
        behind.checked_sub(1).and_then(|at| ranges.get(at)).is_some_and(|(_, last)| address <= *last)
    }
}

fn ranges(prefixes: &[Prefix], bits: u8) -> Box<[(u128, u128)]> {
    let range = |prefix: &Prefix| {
        let first = match prefix.addr() {
            IpAddr::V4(v4) => u128::from(v4.to_bits()),
            IpAddr::V6(v6) => v6.to_bits(),
        };
        let host = u32::from(bits - prefix.len());
        (first, first | 1u128.checked_shl(host).map_or(u128::MAX, |size| size - 1))
    };
    let mut all: Vec<(u128, u128)> = prefixes.iter().map(range).collect();
    all.sort_unstable();
    let mut joined: Vec<(u128, u128)> = Vec::with_capacity(all.len());
    for (first, last) in all {
        match joined.last_mut() {
            Some((_, end)) if first <= *end => *end = last.max(*end),
            _ => joined.push((first, last)),
        }
    }
    joined.into()
}

/// What a rule is asked about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Question {
    begun: Begun,
    protocol: u8,
    remote: IpAddr,
    /// The destination port.
    port: Option<u16>,
    icmp: Option<(u8, u8)>,
}

impl Question {
    /// Of a packet from the workload (`Inside`) or to it.
    pub(crate) fn of_packet(begun: Begun, packet: &Packet, bytes: &[u8]) -> Question {
        let remote = if begun == Begun::Inside { packet.dst } else { packet.src };
        let icmp = match packet.transport(bytes) {
            [kind, code, ..] if packet.is_icmp() => Some((*kind, *code)),
            _ => None,
        };
        let port = packet.ports(bytes).map(|(_, dst)| dst);
        Question { begun, protocol: packet.protocol, remote, port, icmp }
    }

    /// Of the packet that began a flow.
    pub(crate) fn of_flow(tuple: &FlowTuple, begun: Begun) -> Question {
        let FlowTuple { protocol, remote, .. } = *tuple;
        let port = if begun == Begun::Inside { tuple.remote_port } else { tuple.local_port };
        let v6 = usize::from(remote.is_ipv6());
        let icmp = (protocol == [ICMP, ICMPV6][v6]).then(|| (ECHO_REQUEST[v6], 0));
        Question { begun, protocol, remote, port: icmp.is_none().then_some(port), icmp }
    }
}

impl Policy {
    /// Whether some rule allows it.
    pub(crate) fn allows(&self, question: &Question) -> bool {
        let rules = if question.begun == Begun::Inside { &self.egress } else { &self.ingress };
        rules.iter().any(|rule| rule.matches(question))
    }
}

impl Rule {
    fn matches(&self, question: &Question) -> bool {
        let service = match &self.service {
            Service::Any => true,
            Service::Ports(ports) => question.port.is_some_and(|port| ports.contains(&port)),
            Service::Icmp(kind, code) => question
                .icmp
                .is_some_and(|(asked, with)| asked == *kind && code.is_none_or(|code| code == with)),
        };
        let remote = || match &self.remote {
            Remote::Any => true,
            Remote::Prefix(prefix) => prefix.contains(question.remote),
            Remote::Members(members) => members.contains(question.remote),
        };
        self.v4 == question.remote.is_ipv4()
            && self.protocol.is_none_or(|protocol| protocol == question.protocol)
            && service
            && remote()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{echo, tcp, udp};
    use proptest::prelude::*;

    fn rule(protocol: Option<u8>, service: Service, remote: Remote) -> Rule {
        Rule { v4: true, protocol, service, remote }
    }

    fn asked(policy: &Policy, begun: Begun, bytes: &[u8]) -> bool {
        policy.allows(&Question::of_packet(begun, &Packet::parse(bytes).unwrap(), bytes))
    }

    #[test]
    fn a_policy_without_rules_allows_nothing() {
        let nothing = Policy::default();
        assert!(!asked(&nothing, Begun::Inside, &udp("10.0.0.1", "10.0.0.2", 1)));
        assert!(!asked(&nothing, Begun::Outside, &udp("10.0.0.1", "10.0.0.2", 1)));
    }

    #[test]
    fn direction_family_protocol_port_and_remote_must_all_match() {
        let remote = Remote::Prefix("10.0.0.0/24".parse().unwrap());
        let web =
            Policy { ingress: [rule(Some(6), Service::Ports(80..=81), remote)].into(), ..Policy::default() };
        let syn = |src, dst| tcp(src, dst, 2, &[], 0);
        assert!(asked(&web, Begun::Outside, &syn("10.0.0.1", "10.9.0.2")));
        assert!(!asked(&web, Begun::Inside, &syn("10.9.0.2", "10.0.0.1")), "the other direction");
        assert!(!asked(&web, Begun::Outside, &syn("fd00::1", "fd00::2")), "the other family");
        assert!(!asked(&web, Begun::Outside, &udp("10.0.0.1", "10.9.0.2", 1)), "another protocol");
        assert!(!asked(&web, Begun::Outside, &syn("10.0.1.1", "10.9.0.2")), "another remote");
        let mut other_port = syn("10.0.0.1", "10.9.0.2");
        other_port[23] = 82;
        assert!(!asked(&web, Begun::Outside, &other_port), "another port");
    }

    #[test]
    fn icmp_is_matched_by_type_and_code() {
        let allow = |service| Policy {
            ingress: [rule(Some(ICMP), service, Remote::Any)].into(),
            ..Policy::default()
        };
        let request = echo("10.0.0.1", "10.0.0.2", 8, 1);
        assert!(asked(&allow(Service::Icmp(8, None)), Begun::Outside, &request));
        assert!(asked(&allow(Service::Icmp(8, Some(0))), Begun::Outside, &request));
        assert!(!asked(&allow(Service::Icmp(8, Some(1))), Begun::Outside, &request));
        assert!(!asked(&allow(Service::Icmp(3, None)), Begun::Outside, &request));
        assert!(!asked(&allow(Service::Ports(0..=65535)), Begun::Outside, &request), "ICMP has no ports");
    }

    proptest! {
        #[test]
        fn members_are_found_as_by_looking_at_each(
            prefixes in proptest::collection::vec((any::<u32>(), 0u8..=32, any::<u128>(), 0u8..=128), 0..20),
            address: u32, other: u128, near in 0usize..20,
        ) {
            let list: Vec<Prefix> = prefixes.iter().flat_map(|(v4, len4, v6, len6)| {
                [Prefix::new(std::net::Ipv4Addr::from_bits(*v4).into(), *len4).unwrap(),
                 Prefix::new(std::net::Ipv6Addr::from_bits(*v6).into(), *len6).unwrap()]
            }).collect();
            let members: Members = list.iter().copied().collect();
            let mut asked: Vec<IpAddr> = vec![
                std::net::Ipv4Addr::from_bits(address).into(), std::net::Ipv6Addr::from_bits(other).into(),
            ];
            if let Some((v4, _, v6, _)) = prefixes.get(near) {
                asked.push(std::net::Ipv4Addr::from_bits(v4 ^ (address & 0xff)).into());
                asked.push(std::net::Ipv6Addr::from_bits(v6 ^ (other & 0xff)).into());
            }
            for address in asked {
                prop_assert_eq!(members.contains(address), list.iter().any(|prefix| prefix.contains(address)));
            }
        }
    }
}
