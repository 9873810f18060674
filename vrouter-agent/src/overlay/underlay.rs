//! The underlay comes, changes, goes: our end of the tunnels, and what fits through them.

use std::collections::BTreeSet;
use std::net::IpAddr;

use vrouter_types::{Encap, Prefix};

use super::Overlay;
use crate::config::{Config, UnderlaySource};
use crate::event::{Effect, Underlay};

/// What an interface carries until we know better.
const DEFAULT_MTU: u16 = 1500;
/// The least that IPv6 works with (RFC 8200 §5): a kernel takes IPv6 off an interface with less.
pub(super) const MIN_IPV6_MTU: u16 = 1280;
/// The least that IPv4 works with (RFC 791 §3.2).
pub(super) const MIN_IPV4_MTU: u16 = 68;

/// Our end of the tunnels before any interface is up. Where only an interface is named, the router ID stands in: routes
/// must have a next hop for our own VRFs to exchange them, and nobody hears of it until there is an uplink.
pub(super) fn first_next_hop(config: &Config) -> IpAddr {
    match config.underlay.source {
        Some(UnderlaySource::Address(address)) => address,
        _ => IpAddr::V4(config.bgp.router_id),
    }
}

impl Overlay {
    /// The underlay came, changed or went.
    pub(super) fn set_underlay(&mut self, underlay: Option<Underlay>) -> Vec<Effect> {
        let address = |underlay: &Option<Underlay>| underlay.as_ref().map(|underlay| underlay.address);
        let (old, new) = (address(&self.underlay), address(&underlay));
        let mut effects = Vec::new();
        self.underlay = underlay;
        let moved = new.is_some_and(|new| new != self.next_hop);
        if let Some(new) = new {
            self.next_hop = new;
        }
        if moved {
            // Another family of ours makes other provider edges reachable.
            self.refresh_all();
        }
        for host in [old, new].into_iter().flatten() {
            self.refresh_everywhere(Prefix::host(host));
        }
        if old != new {
            self.underlay_failure = None;
            effects.push(Effect::SetUnderlay(new));
        }
        effects.push(Effect::PublishFib { soon: false });
        if moved {
            self.untold.extend(self.ports.keys().copied());
            effects.extend(self.tell_all());
        }
        effects
    }

    /// The host has other addresses.
    pub(super) fn set_host_addresses(&mut self, addresses: Vec<IpAddr>) -> Vec<Effect> {
        let new: BTreeSet<IpAddr> = addresses.into_iter().collect();
        let old = std::mem::replace(&mut self.host_own, new.clone());
        old.symmetric_difference(&new).for_each(|address| self.refresh_everywhere(Prefix::host(*address)));
        let gone: Vec<IpAddr> = old.difference(&new).copied().collect();
        let mut effects = vec![Effect::PublishFib { soon: true }];
        if !gone.is_empty() {
            effects.push(Effect::EndSessionsFrom(gone));
        }
        effects
    }

    /// Whether the address is the host's own.
    pub(super) fn is_own(&self, address: IpAddr) -> bool {
        self.host_own.contains(&address)
            || self.underlay.as_ref().is_some_and(|underlay| underlay.address == address)
    }

    /// The underlay's MTU, known or assumed.
    pub fn underlay_mtu(&self) -> u16 {
        self.underlay.as_ref().map_or(DEFAULT_MTU, |underlay| underlay.mtu)
    }

    /// The largest inner packet to this provider edge, which is what the underlay leaves.
    pub fn tunnel_mtu(&self, remote: IpAddr, encap: Encap) -> u16 {
        let outer = if remote.is_ipv4() { 20 } else { 40 };
        self.underlay_mtu().saturating_sub(outer + encap.overhead()).max(MIN_IPV4_MTU)
    }

    /// What a workload may send without any tunnel having to refuse it. A workload with IPv6 gets what IPv6 needs at
    /// least, even where a tunnel then has to say "too big".
    pub(super) fn workload_mtu(&self, wanted: Option<u16>, has_ipv6: bool) -> u16 {
        let encaps = self.config.underlay.encapsulations.iter();
        let fits = encaps.map(|encap| self.tunnel_mtu(self.next_hop, *encap)).min().unwrap_or(DEFAULT_MTU);
        let mtu = wanted.map_or(fits, |wanted| wanted.min(fits));
        if has_ipv6 { mtu.max(MIN_IPV6_MTU) } else { mtu }
    }

    /// Every route that BGP says or said.
    pub(super) fn refresh_all(&mut self) {
        let prefixes =
            |vrf: &super::Vrf| vrf.imported.keys().map(|prefix| (vrf.id, *prefix)).collect::<Vec<_>>();
        let stale = self.stale.routes.keys().copied();
        let all: Vec<_> = self.vrfs.iter().flat_map(prefixes).chain(stale).collect();
        all.into_iter().for_each(|(vrf, prefix)| self.refresh(vrf, prefix));
    }

    fn refresh_everywhere(&mut self, prefix: Prefix) {
        let all: Vec<_> = self.vrfs.iter().map(|vrf| vrf.id).collect();
        all.into_iter().for_each(|vrf| self.refresh(vrf, prefix));
    }
}
