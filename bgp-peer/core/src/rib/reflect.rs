//! Route reflection (RFC 4456), memberships included (RFC 4684 §3.2).
//!
//! Routes of internal neighbors go to clients, those of clients to all. ORIGINATOR_ID is added where a route is stored,
//! CLUSTER_LIST where it is sent, so that one attribute set serves every neighbor. A membership is told to a neighbor when
//! somebody else whose routes it may get has it; if one of them has no route target constraint, the neighbor is told that
//! everything is wanted.

use std::collections::BTreeSet;
use std::time::Instant;

use vrouter_types::VpnPrefix;

use crate::PeerId;
use crate::wire::nlri::RtMembership;

use super::adj_out::MembershipPath;
use super::table::Path;
use super::{Peer, Rib};

impl Rib {
    /// Whether we reflect: everything that internal neighbors send is kept then, imported or not. It begins by itself
    /// with the first client's session; said beforehand, nothing has to be asked for twice.
    pub fn set_reflector(&mut self, is_reflector: bool, now: Instant) {
        self.age(now);
        if std::mem::replace(&mut self.is_reflector, is_reflector) == is_reflector {
            return;
        }
        if is_reflector {
            self.add_originators();
            self.peers.values_mut().for_each(Peer::ask_again);
        } else {
            self.import_again();
        }
        let all = self.all_memberships();
        for peer in self.peers.values_mut() {
            peer.out.all_dirty = true;
            peer.out.memberships_dirty.extend(&all);
        }
    }

    /// Routes that came before we reflected have no ORIGINATOR_ID yet.
    fn add_originators(&mut self) {
        let routes: Vec<VpnPrefix> = self.table.routes().map(|(_, key)| key).collect();
        for key in routes {
            let Some(route) = self.table.find(key) else { continue };
            let paths: Vec<Path> = self.table.paths(route).copied().collect();
            for path in paths {
                let sender = self.sender(path.source).filter(|sender| sender.is_ibgp);
                let Some(router_id) = sender.map(|sender| sender.router_id) else { continue };
                let set = self.attrs.set(path.attrs);
                if set.originator_id().is_some() {
                    continue;
                }
                set.with_originator(router_id, &mut self.scratch.octets);
                let id = self.attrs.intern(&self.scratch.octets);
                self.put_path(key, path.source, id, path.label(), path.since);
                self.table.set_stale(route, path.source, path.is_stale());
            }
        }
    }

    /// Every membership that anyone may have to be told.
    pub(super) fn all_memberships(&self) -> BTreeSet<RtMembership> {
        let default = std::iter::once(&RtMembership::DEFAULT);
        self.own_memberships.iter().chain(self.interest.keys()).chain(default).copied().collect()
    }

    /// Somebody begins, or ceases, to want this.
    pub(super) fn membership_changed(&mut self, membership: RtMembership) {
        for peer in self.peers.values_mut() {
            peer.out.memberships_dirty.insert(membership);
        }
    }

    /// Keeps who announced what.
    pub(super) fn note_interest(&mut self, peer: PeerId, membership: RtMembership, is_wanted: bool) {
        let peers = self.interest.entry(membership).or_default();
        if is_wanted {
            peers.insert(peer);
        } else {
            peers.remove(&peer);
        }
        if peers.is_empty() {
            self.interest.remove(&membership);
        }
        if self.is_reflector {
            self.membership_changed(membership);
        }
    }

    /// What a neighbor should know of a membership; of several, the one with the shortest CLUSTER_LIST.
    pub(super) fn membership_for(&self, to: PeerId, membership: RtMembership) -> Option<MembershipPath> {
        if self.own_memberships.contains(&membership) || self.wants_everything(to, membership) {
            return Some(None);
        }
        let target = self.senders.get(&to).filter(|_| self.is_reflector)?;
        let others = self.interest.get(&membership)?.iter().filter(|from| **from != to);
        let senders = others.filter_map(|from| self.senders.get(from));
        let lists = senders
            .filter(|from| from.is_reflected_to(target))
            .filter_map(|from| from.memberships.as_ref()?.cluster_list(membership));
        lists.min_by_key(|list| (list.len(), *list)).map(|list| Some(list.into()))
    }

    /// Whether the default membership speaks for a neighbor that has none and gets what this one sends.
    fn wants_everything(&self, to: PeerId, membership: RtMembership) -> bool {
        let Some(target) = self.senders.get(&to) else { return false };
        let speaks_for = |(id, from): (&PeerId, &super::Sender)| {
            let gets_all = from.memberships.is_none() && self.peers.contains_key(id);
            *id != to && gets_all && target.is_reflected_to(from)
        };
        self.is_reflector && membership == RtMembership::DEFAULT && self.senders.iter().any(speaks_for)
    }
}
