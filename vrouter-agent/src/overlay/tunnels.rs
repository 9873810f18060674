//! Tunnels and provider edges, counted by the routes that need them.

use std::collections::BTreeMap;
use std::net::IpAddr;

use dataplane_core::TunnelId;
use vrouter_types::Encap;

use super::Tunnel;

/// Tunnels by number; a number is reused once no route leads through it.
#[derive(Debug, Default)]
pub(super) struct Tunnels {
    slots: Vec<Option<Tunnel>>,
    by_end: BTreeMap<(IpAddr, Encap), TunnelId>,
    /// Next hops that routes taught us, and how many paths name each.
    provider_edges: BTreeMap<IpAddr, usize>,
}

impl Tunnels {
    /// One more route leads there.
    pub(super) fn acquire(&mut self, remote: IpAddr, encap: Encap) -> TunnelId {
        if let Some(id) = self.by_end.get(&(remote, encap)) {
            if let Some(Some(tunnel)) = self.slots.get_mut(id.0 as usize) {
                tunnel.routes += 1;
            }
            return *id;
        }
        let index = self.slots.iter().position(Option::is_none).unwrap_or_else(|| {
            self.slots.push(None);
            self.slots.len() - 1
        });
        let id = TunnelId(u32::try_from(index).unwrap_or(u32::MAX));
        self.slots[index] = Some(Tunnel { id, remote, encap, mtu: 0, routes: 1 });
        self.by_end.insert((remote, encap), id);
        id
    }

    /// One route less leads there.
    pub(super) fn release(&mut self, id: TunnelId) {
        let Some(slot) = self.slots.get_mut(id.0 as usize) else { return };
        let Some(tunnel) = slot else { return };
        tunnel.routes -= 1;
        if tunnel.routes == 0 {
            self.by_end.remove(&(tunnel.remote, tunnel.encap));
            *slot = None;
        }
    }

    /// A path names this provider edge.
    pub(super) fn learn(&mut self, next_hop: IpAddr) {
        *self.provider_edges.entry(next_hop).or_default() += 1;
    }

    /// A path does no longer.
    pub(super) fn unlearn(&mut self, next_hop: IpAddr) {
        if let Some(paths) = self.provider_edges.get_mut(&next_hop) {
            *paths -= 1;
            if *paths == 0 {
                self.provider_edges.remove(&next_hop);
            }
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = Tunnel> {
        self.slots.iter().flatten().copied()
    }

    pub(super) fn is_provider_edge(&self, address: IpAddr) -> bool {
        self.provider_edges.contains_key(&address)
    }

    pub(super) fn provider_edges(&self) -> impl Iterator<Item = IpAddr> {
        self.provider_edges.keys().copied()
    }
}
