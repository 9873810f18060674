//! What neighbors say: UPDATE and ROUTE-REFRESH.

use std::collections::BTreeSet;
use std::time::Instant;

use crate::wire::attr::set::AttrSet;
use crate::wire::nlri::{Nlri, Nlris, RtMembership};
use crate::wire::route_refresh::RouteRefresh;
use crate::wire::update::{Reach, Update};
use crate::{Family, Notification, PeerId};

use super::attrs::AttrId;
use super::sender::Sender;
use super::table::{Source, family_of};
use super::{Peer, Rib};

impl Rib {
    /// Takes the body of an UPDATE. An error ends the session (RFC 7606 §2).
    pub fn handle_update(&mut self, peer: PeerId, body: &[u8], now: Instant) -> Result<(), Notification> {
        let since = self.age(now);
        let Some(state) = self.peers.get_mut(&peer) else { return Ok(()) };
        let update = Update::decode(body, &state.session)?;
        state.counts.attributes_discarded += u64::from(update.attributes.discarded);
        if let Some(malformed) = update.malformed {
            state.counts.updates_malformed += 1;
            state.counts.last_malformed = Some(malformed);
        }
        let source = state.source;
        if let Some(routes) = update.unreach {
            self.withdraw_all(peer, source, routes);
        }
        if let Some(reach) = update.reach {
            match reach.routes.family() {
                Family::Vpnv4 | Family::Vpnv6 => self.receive_vpn(peer, source, &update, reach, since),
                Family::Rtc => self.receive_memberships(peer, &update, reach.routes),
                Family::Ipv4Unicast | Family::Ipv6Unicast => {}
            }
        }
        if let Some((afi, safi)) = update.end_of_rib {
            self.end_of_rib(peer, Family::from_code(afi, safi));
        }
        Ok(())
    }

    /// Takes the body of a ROUTE-REFRESH. An error ends the session (RFC 7313 §5).
    pub fn handle_route_refresh(
        &mut self,
        peer: PeerId,
        body: &[u8],
        now: Instant,
    ) -> Result<(), Notification> {
        self.age(now);
        let Some(state) = self.peers.get_mut(&peer) else { return Ok(()) };
        match RouteRefresh::decode(body, &state.session)? {
            Some(RouteRefresh::Request(family)) => self.send_again(peer, family),
            Some(RouteRefresh::Begin(family)) => self.begin_refresh(peer, family),
            Some(RouteRefresh::End(family)) => self.end_refresh(peer, family),
            None => {}
        }
        Ok(())
    }

    fn receive_vpn(
        &mut self,
        peer: PeerId,
        source: Source,
        update: &Update<'_>,
        reach: Reach<'_>,
        since: u32,
    ) {
        let Some(attrs) = self.judge(peer, update, reach) else {
            // Whatever it said of these routes before no longer holds.
            return self.withdraw_all(peer, source, reach.routes);
        };
        // Empty but after a neighbor has moved, and then of one.
        let formerly = self.senders.get(&peer).map(|sender| sender.formerly.clone()).unwrap_or_default();
        for route in reach.routes {
            if let Nlri::Vpn(key, label) = route {
                self.attrs.retain(attrs);
                self.put_path(key, source, attrs, label, since);
                self.take_former(&formerly, key);
            }
        }
        self.attrs.release(attrs);
    }

    /// The attribute set to store, counted once; `None`: the routes are not to be kept.
    fn judge(&mut self, peer: PeerId, update: &Update<'_>, reach: Reach<'_>) -> Option<AttrId> {
        let state = self.peers.get_mut(&peer)?;
        let counts = &mut state.counts;
        if update.malformed.is_some() {
            return None;
        }
        let octets = &mut self.scratch.octets;
        let next_hop = reach.next_hop.to_canonical();
        update.attributes.canonical(next_hop, octets);
        let set = AttrSet::new(octets);
        // RFC 4271 §9.1.2, §5.1.3, RFC 4456 §8: our AS number, address, identifier or cluster in it: a loop.
        let is_loop = set.as_path().numbers().any(|asn| asn == self.config.asn)
            || set.originator_id() == Some(self.config.router_id)
            || set.cluster_list().any(|cluster| cluster == self.config.cluster_id)
            || self.own_next_hops.contains_key(&next_hop);
        if is_loop {
            counts.updates_looped += 1;
            return None;
        }
        let is_imported = set.route_targets().any(|target| self.imports.is_target(target));
        let is_reflected = self.is_reflector && state.session.is_ibgp;
        if !is_imported && !is_reflected {
            counts.updates_not_imported += 1;
            return None;
        }
        if is_reflected && set.originator_id().is_none() {
            set.with_originator(state.session.peer_router_id, &mut self.scratch.more_octets);
            return Some(self.attrs.intern(&self.scratch.more_octets));
        }
        Some(self.attrs.intern(octets))
    }

    fn withdraw_all(&mut self, peer: PeerId, source: Source, routes: Nlris<'_>) {
        if routes.family() == Family::Rtc {
            return self.withdraw_memberships(peer, routes);
        }
        for route in routes {
            if let Nlri::Vpn(key, _) = route {
                self.take_path(key, source);
            }
        }
    }

    fn withdraw_memberships(&mut self, peer: PeerId, routes: Nlris<'_>) {
        let gone = routes.filter_map(|route| match route {
            Nlri::Rtc(membership) => Some(membership),
            _ => None,
        });
        self.give_up_memberships(peer, gone.collect());
    }

    /// The neighbor no longer wants these.
    pub(super) fn give_up_memberships(&mut self, peer: PeerId, gone: BTreeSet<RtMembership>) {
        let Some(Sender { memberships: Some(memberships), .. }) = self.senders.get_mut(&peer) else { return };
        let gone: Vec<_> = gone.into_iter().filter(|membership| memberships.remove(*membership)).collect();
        let has_room = memberships.len() <= self.config.max_paths - self.config.max_paths / 10;
        let ask = has_room && std::mem::take(&mut memberships.is_starved);
        if let Some(Peer { out, session, .. }) = self.peers.get_mut(&peer) {
            out.lost_interest.extend(&gone);
            if ask && session.route_refresh {
                out.requests.insert(Family::Rtc);
            }
        }
        gone.into_iter().for_each(|membership| self.note_interest(peer, membership, false));
    }

    fn receive_memberships(&mut self, peer: PeerId, update: &Update<'_>, routes: Nlris<'_>) {
        let attributes = &update.attributes;
        // RFC 4684 §3.2: a reflector may hand our own membership back. It then stands for others who want the same, so
        // our identifier in ORIGINATOR_ID is no loop here.
        let clusters = attributes.cluster_list.as_chunks::<4>().0;
        let is_loop = clusters.contains(&self.config.cluster_id.octets())
            || attributes.as_path.is_some_and(|path| path.numbers().any(|asn| asn == self.config.asn));
        if update.malformed.is_some() || is_loop {
            return self.withdraw_memberships(peer, routes);
        }
        for route in routes {
            let Nlri::Rtc(membership) = route else { continue };
            let Some(Sender { memberships: Some(memberships), .. }) = self.senders.get_mut(&peer) else {
                return;
            };
            let is_known = memberships.cluster_list(membership).is_some();
            if memberships.len() >= self.config.max_paths && !is_known {
                memberships.is_starved = true;
                self.refused += 1;
                continue;
            }
            if memberships.add(membership, attributes.cluster_list) {
                if let Some(state) = self.peers.get_mut(&peer) {
                    state.out.all_dirty |= !is_known;
                }
                self.note_interest(peer, membership, true);
            }
        }
    }

    fn end_of_rib(&mut self, peer: PeerId, family: Option<Family>) {
        let Some(state) = self.peers.get_mut(&peer) else { return };
        let Some(family) = family.filter(|family| state.session.families.contains(*family)) else { return };
        state.end_of_rib_heard.insert(family);
        let Some(sender) = self.senders.get_mut(&peer) else { return };
        if let (Family::Rtc, Some(memberships)) = (family, &mut sender.memberships) {
            memberships.stop_waiting();
        }
        if sender.stale.iter().any(|stale| stale.family == family) {
            self.sweep(peer, family);
        }
        self.sweep_former(peer, family);
    }

    /// RFC 2918: everything of this family once more, between BoRR and EoRR where both know them (RFC 7313 §4).
    fn send_again(&mut self, peer: PeerId, family: Family) {
        let Some(state) = self.peers.get_mut(&peer) else { return };
        if family == Family::Rtc {
            state.out.memberships_again = state.out.memberships.keys().copied().collect();
            state.out.memberships_dirty.extend(state.out.memberships.keys());
        } else {
            state.out.send_again(family, &self.table, &mut self.attrs);
        }
        if state.session.enhanced_route_refresh {
            state.out.begin_refresh.insert(family);
            state.out.end_refresh.insert(family);
        }
    }

    fn begin_refresh(&mut self, peer: PeerId, family: Family) {
        if let (Family::Rtc, Some(sender)) = (family, self.senders.get_mut(&peer))
            && let Some(memberships) = &mut sender.memberships
        {
            return memberships.begin_refresh();
        }
        self.visit(peer, |rib, route, key, path| {
            if family_of(key) == family {
                rib.table.set_stale(route, path.source, true);
            }
        });
    }

    /// RFC 7313 §4: what was not announced again is gone.
    fn end_refresh(&mut self, peer: PeerId, family: Family) {
        self.sweep(peer, family);
    }
}
