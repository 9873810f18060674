//! What neighbors are told, one message at a time, worked out when there is room for it.
//!
//! Order: our own requests; route target memberships and their End-of-RIB; VPN routes; their End-of-RIB (RFC 4724 §2).
//!
//! RFC 4684 §6 has VPN routes wait for the End-of-RIB of the neighbor's memberships, lest routes be sent that nobody wants.
//! We differ: towards such a neighbor nothing is sent but what a membership that has arrived asks for, so there is nothing
//! to wait for. Neighbors that never mark that end (GoBGP without graceful restart) thus cost no minute of silence. Only our
//! own End-of-RIB waits, up to a minute: before, it would not be true.

use std::collections::BTreeMap;

use bytes::BytesMut;
use vrouter_types::{EncapSet, Label};

use crate::wire::attr::set::{AttrSet, DEFAULT_LOCAL_PREF, LocalAttributes};
use crate::wire::attr::{code, flag};
use crate::wire::nlri::{Nlri, RtMembership};
use crate::wire::route_refresh::RouteRefresh;
use crate::wire::update::writer::{UpdateWriter, message_limit, put_end_of_rib};
use crate::{Family, PeerId};

use super::adj_out::{AdjOut, Group, MembershipPath, Sending};
use super::attrs::AttrTable;
use super::change::Scratch;
use super::config::{PathSource, RibConfig};
use super::explain::NotAdvertised;
use super::sender::Sender;
use super::table::{Path, Table, family_of};
use super::{Peer, Rib, VPN};

impl Rib {
    /// Appends one whole message for the neighbor. False: there is nothing to say.
    pub fn poll_message(&mut self, peer: PeerId, out: &mut BytesMut) -> bool {
        let Some(state) = self.peers.get_mut(&peer) else { return false };
        if let Some(family) = state.out.requests.pop_first() {
            RouteRefresh::Request(family).encode(out);
            return true;
        }
        if state.send_begin_refresh(Family::Rtc, out) {
            return true;
        }
        let memberships = self.memberships_due(peer);
        let is_complete = self.may_end(peer);
        let Rib { config, attrs, table, peers, senders, scratch, .. } = self;
        let Some(to) = senders.get(&peer) else { return false };
        let Some(peer) = peers.get_mut(&peer) else { return false };
        if peer.send_memberships(memberships, config, scratch, out) || peer.send_end_marker(Family::Rtc, out)
        {
            return true;
        }
        for family in [Family::Ipv4Unicast, Family::Ipv6Unicast] {
            if peer.send_begin_refresh(family, out) || peer.send_end_marker(family, out) {
                return true;
            }
        }
        peer.absorb(senders, to, table, attrs);
        VPN.into_iter().any(|family| {
            peer.send_begin_refresh(family, out)
                || peer.send_routes(family, config, table, attrs, scratch, out)
                || (is_complete && peer.send_end_marker(family, out))
        })
    }

    /// What the neighbor is to be told of those memberships that may have changed.
    fn memberships_due(&mut self, id: PeerId) -> Vec<(RtMembership, Option<MembershipPath>)> {
        let Some(peer) = self.peers.get_mut(&id) else { return Vec::new() };
        let dirty = std::mem::take(&mut peer.out.memberships_dirty);
        if dirty.is_empty() || !peer.session.families.contains(Family::Rtc) {
            return Vec::new();
        }
        let mut due: Vec<_> = dirty.into_iter().map(|m| (m, self.membership_for(id, m))).collect();
        let Some(peer) = self.peers.get_mut(&id) else { return Vec::new() };
        let out = &peer.out;
        due.retain(|(membership, desired)| {
            out.memberships.get(membership) != desired.as_ref() || out.memberships_again.contains(membership)
        });
        due
    }

    /// Whether all that we know for this neighbor is all that we will know after a restart (RFC 4724 §4.1), and whether
    /// it has said what it wants.
    fn may_end(&self, id: PeerId) -> bool {
        let is_waiting = |sender: &Sender| sender.memberships.as_ref()?.wait_until();
        if self.senders.get(&id).and_then(is_waiting).is_some() {
            return false;
        }
        let has_ended = |peer: &Peer| {
            // Who knows nothing of restarts may never say; who has restarted itself waits for us.
            if peer.session.restart.theirs.as_ref().is_none_or(|theirs| theirs.restarting) {
                return true;
            }
            let ends = |family: &Family| peer.end_of_rib_heard.contains(*family);
            VPN.iter().filter(|family| peer.session.families.contains(**family)).all(ends)
        };
        let others_have = || self.peers.iter().all(|(other, peer)| *other == id || has_ended(peer));
        self.deferral.is_none() || (self.are_local_routes_complete && (!self.is_reflector || others_have()))
    }
}

impl Peer {
    fn send_begin_refresh(&mut self, family: Family, out: &mut BytesMut) -> bool {
        let is_due = self.out.begin_refresh.remove(&family);
        if is_due {
            RouteRefresh::Begin(family).encode(out);
        }
        is_due
    }

    /// EoRR, or End-of-RIB.
    fn send_end_marker(&mut self, family: Family, out: &mut BytesMut) -> bool {
        if self.out.end_refresh.remove(&family) {
            RouteRefresh::End(family).encode(out);
            return true;
        }
        let is_due = self.out.end_of_rib.remove(&family);
        if is_due {
            put_end_of_rib(out, family);
        }
        is_due
    }

    /// Brings what it knows of memberships closer to what they are. What does not fit this message is due again.
    fn send_memberships(
        &mut self,
        due: Vec<(RtMembership, Option<MembershipPath>)>,
        config: &RibConfig,
        scratch: &mut Scratch,
        out: &mut BytesMut,
    ) -> bool {
        let limit = message_limit(&self.session);
        let AdjOut {
            memberships: known,
            memberships_given_up: given_up,
            memberships_dirty: dirty,
            memberships_again: again,
            ..
        } = &mut self.out;
        dirty.extend(due.iter().map(|(membership, _)| membership));
        given_up.extend(due.iter().filter(|(_, desired)| desired.is_none()).map(|(m, _)| *m));
        if !given_up.is_empty() {
            let mut message = UpdateWriter::withdraw(out, Family::Rtc, limit);
            while let Some(membership) = given_up.first().copied()
                && message.push(&Nlri::Rtc(membership))
            {
                known.remove(&membership);
                again.remove(&membership);
                given_up.pop_first();
                dirty.insert(membership);
            }
            return message.finish() > 0;
        }
        let Some(path) = due.first().and_then(|(_, desired)| desired.clone()) else { return false };
        membership_attributes(path.as_deref(), config, scratch);
        let mut exported = Vec::new();
        AttrSet::new(&scratch.octets).export(Family::Rtc, &self.session, &mut exported);
        let next_hop = config.router_id.into();
        let mut message = UpdateWriter::announce(out, Family::Rtc, next_hop, &exported, limit);
        let same = due.into_iter().filter(|(_, desired)| desired.as_ref() == Some(&path));
        for (membership, _) in same.take_while(|(membership, _)| message.push(&Nlri::Rtc(*membership))) {
            again.remove(&membership);
            dirty.remove(&membership);
            known.insert(membership, path.clone());
        }
        message.finish() > 0
    }

    /// Sorts routes that changed into groups.
    fn absorb(&mut self, senders: &Senders, to: &Sender, table: &mut Table, attrs: &mut AttrTable) {
        let lost = std::mem::take(&mut self.out.lost_interest);
        if let (false, Some(memberships)) = (lost.is_empty(), &to.memberships) {
            let held = memberships.without(&lost);
            self.out.given_up(|set| held.want(set), attrs);
        }
        // Routes that came together lie together, and often share their attributes.
        let mut last = None;
        for route in self.out.take_dirty(table) {
            let Some(family) = table.key(route).map(family_of) else { continue };
            let mut desired = None;
            if let Some(best) = table.best(route)
                && self.bar(best, family, senders, to, attrs).is_none()
            {
                let is_wanted = match last {
                    Some((id, is_wanted)) if id == best.attrs => is_wanted,
                    _ => is_wanted(to, attrs.set(best.attrs)),
                };
                last = Some((best.attrs, is_wanted));
                desired = is_wanted.then_some((best.attrs, best.label()));
            }
            self.out.desire(route, family, desired, table, attrs);
        }
    }

    /// Why the neighbor is not told of the best path of a route.
    pub(super) fn refusal(
        &self,
        best: &Path,
        family: Family,
        senders: &Senders,
        to: &Sender,
        attrs: &AttrTable,
    ) -> Option<NotAdvertised> {
        let unwanted = || (!is_wanted(to, attrs.set(best.attrs))).then_some(NotAdvertised::NoMembership);
        self.bar(best, family, senders, to, attrs).or_else(unwanted)
    }

    /// Why it is not told of it, whatever it wants.
    fn bar(
        &self,
        best: &Path,
        family: Family,
        senders: &Senders,
        to: &Sender,
        attrs: &AttrTable,
    ) -> Option<NotAdvertised> {
        let Some(merits) = attrs.merits(best.attrs) else { return Some(NotAdvertised::NoRoute) };
        if !self.session.families.contains(family) {
            return Some(NotAdvertised::FamilyOff);
        }
        if let PathSource::Peer(id) = PathSource::from(best.source) {
            let is_reflected = senders.get(&id).is_some_and(|from| from.is_reflected_to(to));
            if best.source == self.source || merits.originator_id == Some(to.router_id) {
                return Some(NotAdvertised::OwnRoute);
            }
            if !is_reflected || merits.originator_id.is_none() {
                return Some(NotAdvertised::SplitHorizon);
            }
        }
        // RFC 8950: an IPv6 next hop on an IPv4 family only where both know how.
        let is_expressible = family == Family::Vpnv6
            || merits.next_hop.is_ipv4()
            || self.session.extended_nexthop.contains(family);
        if !is_expressible {
            return Some(NotAdvertised::NextHop);
        }
        if merits.no_advertise || (merits.no_export && !self.session.is_ibgp) {
            return Some(NotAdvertised::Community);
        }
        if merits.is_long_lived && !self.session.long_lived().iter().any(|entry| entry.family == family) {
            return Some(NotAdvertised::LongLived);
        }
        None
    }

    /// Sends as much of one group as fits a message.
    fn send_routes(
        &mut self,
        family: Family,
        config: &RibConfig,
        table: &mut Table,
        attrs: &mut AttrTable,
        scratch: &mut Scratch,
        out: &mut BytesMut,
    ) -> bool {
        let limit = message_limit(&self.session);
        while let Some((group, mut routes)) = self.out.take_group(family) {
            let mut message = match group {
                Group::Withdraw(_) => UpdateWriter::withdraw(out, family, limit),
                Group::Announce(_, id) => {
                    let mut set = attrs.set(id);
                    let next_hop = set.next_hop();
                    // Only what we reflect has one.
                    if set.originator_id().is_some() {
                        set.with_cluster(config.cluster_id, &mut scratch.more_octets);
                        set = AttrSet::new(&scratch.more_octets);
                    }
                    set.export(family, &self.session, &mut scratch.octets);
                    UpdateWriter::announce(out, family, next_hop, &scratch.octets, limit)
                }
            };
            let mut is_full = false;
            while let (false, Some(route)) = (is_full, routes.front().copied()) {
                // A route that has left may have been followed by one of the other family under its number.
                if let Some(key) = table.key(route).filter(|key| family_of(*key) == family) {
                    let label = table.best(route).map_or(Label::IMPLICIT_NULL, |best| best.label());
                    let push = || message.push(&Nlri::Vpn(key, label));
                    is_full = self.out.send(route, group, label, push, table, attrs) == Sending::Full;
                }
                if !is_full {
                    routes.pop_front();
                }
            }
            let is_message = message.finish() > 0;
            let too_long = (is_full && !is_message).then(|| routes.pop_front()).flatten();
            self.out.return_group(group, routes);
            if is_message {
                return true;
            }
            if let Some(route) = too_long {
                self.out.refuse(route, family, table, attrs);
            }
        }
        false
    }
}

/// Those of a membership of our own, or of one that we pass on: with us as its originator (RFC 4684 §3.2).
fn membership_attributes(cluster_list: Option<&[u8]>, config: &RibConfig, scratch: &mut Scratch) {
    let attributes = LocalAttributes {
        next_hop: config.router_id.into(),
        local_pref: DEFAULT_LOCAL_PREF,
        med: None,
        route_targets: &[],
        encaps: EncapSet::EMPTY,
        as_path: &[],
        communities: &[],
        large_communities: &[],
        hash_order: None,
    };
    attributes.canonical(&mut scratch.octets);
    if let Some(list) = cluster_list {
        AttrSet::new(&scratch.octets).with_originator(config.router_id, &mut scratch.more_octets);
        let list = [&config.cluster_id.octets(), list].concat();
        let set = AttrSet::new(&scratch.more_octets);
        set.with(flag::OPTIONAL, code::CLUSTER_LIST, &list, &mut scratch.octets);
    }
}

/// Whether the neighbor's memberships ask for a route with these attributes; without the family, everything is wanted.
fn is_wanted(to: &Sender, set: AttrSet<'_>) -> bool {
    to.memberships.as_ref().is_none_or(|all| all.want(set))
}

type Senders = BTreeMap<PeerId, Sender>;
