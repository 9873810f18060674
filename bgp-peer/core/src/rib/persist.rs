//! Imported routes that outlive the process: after a boot without uplink the last known remote routes serve as stale.

use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use vrouter_types::{Label, VpnPrefix};

use crate::wire::attr::RawAttributes;
use crate::wire::attr::set::AttrSet;
use crate::wire::community::Community;
use crate::{Family, PeerId};

use super::config::PeerPolicy;
use super::sender::Sender;
use super::stale::StaleFamily;
use super::table::Path;
use super::{Rib, VPN};

/// A received route that some VRF imports, as it can be written down.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SavedRoute {
    /// The address of the neighbor that announced it.
    pub neighbor: IpAddr,
    /// The neighbor's BGP identifier.
    pub router_id: Ipv4Addr,
    /// Whether the neighbor is internal.
    pub is_ibgp: bool,
    /// Route distinguisher and prefix.
    pub prefix: VpnPrefix,
    /// The label.
    pub label: Label,
    /// The attributes, in canonical form.
    pub attributes: Vec<u8>,
}

impl Rib {
    /// Every received route that some VRF imports.
    pub fn snapshot_imported(&self) -> Vec<SavedRoute> {
        let routes = self.table.routes();
        routes
            .flat_map(|(route, key)| self.table.paths(route).filter_map(move |path| self.save(key, path)))
            .collect()
    }

    fn save(&self, prefix: VpnPrefix, path: &Path) -> Option<SavedRoute> {
        let sender = self.sender(path.source)?;
        let set = self.attrs.set(path.attrs);
        let is_imported = set.route_targets().any(|target| self.imports.is_target(target));
        is_imported.then(|| SavedRoute {
            neighbor: sender.policy.address,
            router_id: sender.router_id,
            is_ibgp: sender.is_ibgp,
            prefix,
            label: path.label(),
            attributes: set.octets().to_vec(),
        })
    }

    /// Takes saved routes back as long-lived stale ones (RFC 9494), until this moment or until the neighbor has sent
    /// its own. To be called before its session is up. Left out: routes of who is no neighbor any more, with NO_LLGR,
    /// that nobody imports, or that do not read as attributes. Returns how many were taken.
    pub fn restore_imported(
        &mut self,
        routes: &[SavedRoute],
        neighbors: &[(PeerId, PeerPolicy)],
        until: Instant,
        now: Instant,
    ) -> usize {
        let since = self.age(now);
        let before = self.received;
        for saved in routes {
            let Some((peer, policy)) = neighbors.iter().find(|(_, policy)| policy.address == saved.neighbor)
            else {
                continue;
            };
            if !self.peers.contains_key(peer)
                && RawAttributes::new(&saved.attributes).all(|attribute| attribute.is_ok())
            {
                self.restore(*peer, policy, saved, until, since);
            }
        }
        self.received - before
    }

    fn restore(&mut self, peer: PeerId, policy: &PeerPolicy, saved: &SavedRoute, until: Instant, since: u32) {
        let set = AttrSet::new(&saved.attributes);
        let has = |community| set.communities().any(|carried| carried == community);
        if has(Community::NO_LLGR) || !set.route_targets().any(|target| self.imports.is_target(target)) {
            return;
        }
        let octets = &mut self.scratch.octets;
        if has(Community::LLGR_STALE) {
            octets.clone_from(&saved.attributes);
        } else {
            set.with_community(Community::LLGR_STALE, octets);
        }
        let stale = |family: Family| StaleFamily {
            family,
            until,
            long_lived: Duration::ZERO,
            is_long_lived: true,
            is_restored: true,
        };
        self.senders.entry(peer).or_insert_with(|| Sender {
            policy: policy.clone(),
            router_id: saved.router_id,
            is_ibgp: saved.is_ibgp,
            paths: 0,
            memberships: None,
            stale: VPN.into_iter().map(stale).collect(),
            is_over_limit: false,
        });
        let id = self.attrs.intern(&self.scratch.octets);
        self.put_path(saved.prefix, peer.into(), id, saved.label, since);
        if let Some(route) = self.table.find(saved.prefix) {
            self.table.set_stale(route, peer.into(), true);
        }
    }
}
