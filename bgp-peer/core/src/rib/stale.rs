//! Routes that outlive the session they came over: graceful restart (RFC 4724, RFC 8538), then long-lived (RFC 9494).
//!
//! ```text
//!  session ends ──▶ stale ──restart time──▶ long-lived stale: LLGR_STALE, only where there is no other ──▶ gone
//!                     └──── session up, F bit: said again, or swept at End-of-RIB ────┘
//! ```
//! Routes with NO_LLGR go when the restart time is over. A route that is still stale when the session ends once more goes
//! (RFC 4724 §4.2), unless it is of a long-lived family: then the end that was set for it first holds.

use std::time::{Duration, Instant};

use vrouter_types::VpnPrefix;

use crate::wire::community::Community;
use crate::{Family, FamilySet, Negotiated, PeerId};

use super::config::{PathSource, PeerDown};
use super::sender::Sender;
use super::table::{Path, RouteId, RouteSet, Source, family_of};
use super::{Rib, VPN};

/// A family of a neighbor whose routes wait.
#[derive(Debug, Clone, Copy)]
pub(super) struct StaleFamily {
    pub(super) family: Family,
    pub(super) until: Instant,
    /// What comes after.
    pub(super) long_lived: Duration,
    /// What has come.
    pub(super) is_long_lived: bool,
}

impl Rib {
    pub(super) fn sender(&self, source: Source) -> Option<&Sender> {
        match PathSource::from(source) {
            PathSource::Local => None,
            PathSource::Peer(peer) => self.senders.get(&peer),
        }
    }

    /// The session has ended: sorts what stays from what goes.
    pub(super) fn keep_or_purge(&mut self, peer: PeerId, how: PeerDown) {
        let (families, until, long_lived) = match how {
            PeerDown::Purge => (FamilySet::EMPTY, None, Vec::new()),
            PeerDown::Restarting { families, until, long_lived } => (families, Some(until), long_lived),
        };
        let Some(sender) = self.senders.get_mut(&peer) else { return };
        let before = std::mem::take(&mut sender.stale);
        if let Some(until) = until {
            sender.stale.extend(families.iter().map(|family| {
                let extra = long_lived.iter().find(|(long, _)| *long == family).map(|(_, time)| *time);
                let first = before.iter().find(|stale| stale.family == family && stale.is_long_lived);
                let long_lived = match first {
                    Some(first) => first.until.saturating_duration_since(until),
                    None => extra.unwrap_or_default(),
                };
                StaleFamily { family, until, long_lived, is_long_lived: false }
            }));
        }
        let is_long = |family| long_lived.iter().any(|(long, time)| *long == family && !time.is_zero());
        self.visit(peer, |rib, route, key, path| {
            let family = family_of(key);
            if families.contains(family) && (!path.is_stale() || is_long(family)) {
                rib.table.set_stale(route, path.source, true);
            } else {
                rib.take_path_of(route, key, path.source);
            }
        });
        self.keep_or_purge_memberships(peer, families.contains(Family::Rtc));
        self.drop_if_idle(peer);
        self.leave_to_latter(peer);
    }

    /// A session with a router that we have another session with: it has moved, and this is where it was. What the other
    /// session has said, or will have when it says that it is done, stands.
    fn leave_to_latter(&mut self, peer: PeerId) {
        let Some(gone) = self.senders.get(&peer) else { return };
        let identity = (gone.asn, gone.router_id);
        let is_same = |id: &PeerId| self.senders.get(id).is_some_and(|it| (it.asn, it.router_id) == identity);
        let Some(latter) = self.peers.keys().copied().find(|id| *id != peer && is_same(id)) else { return };
        if let Some(sender) = self.senders.get_mut(&latter) {
            sender.formerly.push(peer);
        }
        let Some(state) = self.peers.get(&latter) else { return };
        let ends = state.session.restart.theirs.is_some();
        let (agreed, heard) = (state.session.families, state.end_of_rib_heard);
        let waits = |family: &Family| ends && agreed.contains(*family) && !heard.contains(*family);
        for family in FAMILIES.into_iter().filter(|family| !waits(family)) {
            self.sweep(peer, family);
        }
    }

    fn keep_or_purge_memberships(&mut self, peer: PeerId, is_kept: bool) {
        let Some(sender) = self.senders.get_mut(&peer) else { return };
        let Some(memberships) = &mut sender.memberships else { return };
        if is_kept {
            memberships.stop_waiting();
            memberships.begin_refresh();
            return;
        }
        let gone: Vec<_> = memberships.iter().copied().collect();
        sender.memberships = None;
        gone.into_iter().for_each(|membership| self.note_interest(peer, membership, false));
    }

    /// The session is up again: what is stale waits for the End-of-RIB, or goes at once.
    pub(super) fn resume(&mut self, peer: PeerId, session: &Negotiated, now: Instant) {
        let Some(sender) = self.senders.get_mut(&peer) else { return };
        let (families, kept) = (session.families, session.forwarding_kept());
        let ends = session.restart.theirs.is_some();
        for stale in &mut sender.stale {
            if !stale.is_long_lived {
                stale.until = now + STALE;
            } else if !ends {
                // There may never be an End-of-RIB.
                stale.until = stale.until.min(now + STALE);
            }
        }
        let is_lost = |stale: &&StaleFamily| !families.contains(stale.family) || !kept.contains(stale.family);
        let lost: Vec<Family> = sender.stale.iter().filter(is_lost).map(|stale| stale.family).collect();
        lost.into_iter().for_each(|family| self.sweep(peer, family));
        if !families.contains(Family::Rtc) {
            self.keep_or_purge_memberships(peer, false);
        }
        let never_ends = |family: &Family| !ends || !families.contains(*family);
        for family in FAMILIES.into_iter().filter(never_ends) {
            self.sweep_former(peer, family);
        }
    }

    /// Neighbors that are the same router, since an identifier is one router's within its AS (RFC 6286 §2.1), whose
    /// sessions are gone and whose routes wait: it has come back from another address, and not to where they lead.
    pub(super) fn formerly(&self, peer: PeerId, sender: &Sender) -> Vec<PeerId> {
        let is_same = |other: &Sender| (other.asn, other.router_id) == (sender.asn, sender.router_id);
        let senders = self.senders.iter().filter(|(id, _)| **id != peer && !self.peers.contains_key(id));
        senders.filter(|(_, other)| is_same(other) && !other.stale.is_empty()).map(|(id, _)| *id).collect()
    }

    /// The neighbor has said this route: what waits of the same router under another address is over.
    pub(super) fn take_former(&mut self, formerly: &[PeerId], key: VpnPrefix) {
        for former in formerly {
            let (source, route) = (Source::from(*former), self.table.find(key));
            if let Some(route) = route
                && self.table.path(route, source).is_some_and(Path::is_stale)
            {
                self.take_path_of(route, key, source);
            }
        }
    }

    /// All of this family that waits of the same router under other addresses is over.
    pub(super) fn sweep_former(&mut self, peer: PeerId, family: Family) {
        let formerly = self.senders.get(&peer).map(|sender| sender.formerly.clone()).unwrap_or_default();
        for former in formerly {
            // It may be there again meanwhile, and say itself what holds.
            if !self.peers.contains_key(&former) {
                self.sweep(former, family);
            }
        }
    }

    /// Whatever of the family is still stale is gone.
    pub(super) fn sweep(&mut self, peer: PeerId, family: Family) {
        let Some(sender) = self.senders.get_mut(&peer) else { return };
        sender.stale.retain(|stale| stale.family != family);
        if family == Family::Rtc {
            let gone = sender.memberships.as_mut().map(super::Memberships::end_refresh).unwrap_or_default();
            self.give_up_memberships(peer, gone);
        } else if VPN.contains(&family) {
            self.visit(peer, |rib, route, key, path| {
                if path.is_stale() && family_of(key) == family {
                    rib.take_path_of(route, key, path.source);
                }
            });
        }
        self.drop_if_idle(peer);
    }

    pub(super) fn stale_timeout(&mut self, now: Instant) {
        let is_due = |stale: &&StaleFamily| stale.until <= now;
        let due = |(peer, sender): (&PeerId, &Sender)| {
            sender.stale.iter().filter(is_due).map(|stale| (*peer, stale.family)).collect::<Vec<_>>()
        };
        let due: Vec<(PeerId, Family)> = self.senders.iter().flat_map(due).collect();
        for (peer, family) in due {
            let is_up = self.peers.contains_key(&peer);
            let stale = self.senders.get_mut(&peer).and_then(|sender| {
                sender.stale.iter_mut().find(|stale| stale.family == family && !stale.is_long_lived && !is_up)
            });
            match stale {
                Some(stale) if !stale.long_lived.is_zero() => {
                    stale.is_long_lived = true;
                    stale.until += stale.long_lived;
                    self.make_long_lived(peer, family);
                }
                _ => self.sweep(peer, family),
            }
        }
    }

    /// RFC 9494 §4.2: the routes get LLGR_STALE; those that must not be kept that long go.
    fn make_long_lived(&mut self, peer: PeerId, family: Family) {
        self.visit(peer, |rib, route, key, path| {
            let Some(merits) = rib.attrs.merits(path.attrs) else { return };
            if family_of(key) != family || !path.is_stale() || merits.is_long_lived {
                return;
            }
            if merits.no_long_lived {
                return rib.take_path_of(route, key, path.source);
            }
            rib.attrs.set(path.attrs).with_community(Community::LLGR_STALE, &mut rib.scratch.octets);
            let id = rib.attrs.intern(&rib.scratch.octets);
            rib.put_path(key, path.source, id, path.label(), path.since);
            rib.table.set_stale(route, path.source, true);
        });
    }

    /// Every path that is held from a neighbor.
    pub(super) fn visit(&mut self, peer: PeerId, mut each: impl FnMut(&mut Rib, RouteId, VpnPrefix, Path)) {
        if self.senders.get(&peer).is_none_or(|sender| sender.paths == 0) {
            return;
        }
        let source = Source::from(peer);
        let mut held = RouteSet::default();
        let is_held = |route: &RouteId| self.table.path(*route, source).is_some();
        self.table.routes().map(|(route, _)| route).filter(is_held).for_each(|route| held.insert(route));
        for route in held.into_iter() {
            if let (Some(key), Some(path)) = (self.table.key(route), self.table.path(route, source).copied())
            {
                each(self, route, key, path);
            }
        }
    }

    fn drop_if_idle(&mut self, peer: PeerId) {
        let is_idle = |sender: &Sender| sender.stale.is_empty() && sender.paths == 0;
        if !self.peers.contains_key(&peer) && self.senders.get(&peer).is_some_and(is_idle) {
            self.keep_or_purge_memberships(peer, false);
            self.senders.remove(&peer);
        }
    }
}

/// Families whose routes may wait.
const FAMILIES: [Family; 3] = [Family::Vpnv4, Family::Vpnv6, Family::Rtc];
/// How long stale routes wait for the End-of-RIB of a session that is up (RFC 4724 §4.2).
const STALE: Duration = Duration::from_secs(360);
