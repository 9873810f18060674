//! What neighbors are told, one message at a time, worked out when there is room for it.
//!
//! Order: our own requests; route target memberships and their End-of-RIB; VPN routes; their End-of-RIB (RFC 4724 §2).
//!
//! RFC 4684 §6 has VPN routes wait for the End-of-RIB of the neighbor's memberships, lest routes be sent that nobody wants.
//! We differ: towards such a neighbor nothing is sent but what a membership that has arrived asks for, so there is nothing
//! to wait for. Neighbors that never mark that end (GoBGP without graceful restart) thus cost no minute of silence. Only our
//! own End-of-RIB waits, up to a minute: before, it would not be true.

use std::collections::BTreeSet;
use std::net::IpAddr;

use bytes::BytesMut;
use vrouter_types::{EncapSet, Label};

use crate::wire::attr::set::{AttrSet, DEFAULT_LOCAL_PREF, LocalAttributes};
use crate::wire::nlri::{Nlri, RtMembership};
use crate::wire::route_refresh::RouteRefresh;
use crate::wire::update::writer::{UpdateWriter, message_limit, put_end_of_rib};
use crate::{Family, PeerId};

use super::adj_out::Group;
use super::attrs::{AttrId, AttrTable};
use super::config::RibConfig;
use super::table::{RouteId, Table, family_of};
use super::{Peer, Rib, VPN};

impl Rib {
    /// Appends one whole message for the neighbor. False: there is nothing to say.
    pub fn poll_message(&mut self, peer: PeerId, out: &mut BytesMut) -> bool {
        let Rib { config, attrs, table, peers, own_memberships, scratch, .. } = self;
        let Some(peer) = peers.get_mut(&peer) else { return false };
        if let Some(family) = peer.out.requests.pop_first() {
            RouteRefresh::Request(family).encode(out);
            return true;
        }
        if peer.send_begin_refresh(Family::Rtc, out)
            || peer.send_memberships(own_memberships, config, &mut scratch.octets, out)
            || peer.send_end_marker(Family::Rtc, out)
        {
            return true;
        }
        for family in [Family::Ipv4Unicast, Family::Ipv6Unicast] {
            if peer.send_begin_refresh(family, out) || peer.send_end_marker(family, out) {
                return true;
            }
        }
        peer.absorb(table, attrs);
        VPN.into_iter().any(|family| {
            peer.send_begin_refresh(family, out)
                || peer.send_routes(family, table, attrs, &mut scratch.octets, out)
                || peer.send_end_marker(family, out)
        })
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
        let is_waiting = VPN.contains(&family)
            && self.memberships.as_ref().is_some_and(|memberships| memberships.wait_until().is_some());
        let is_due = !is_waiting && self.out.end_of_rib.remove(&family);
        if is_due {
            put_end_of_rib(out, family);
        }
        is_due
    }

    /// Brings what it knows of our memberships closer to what they are.
    fn send_memberships(
        &mut self,
        own: &BTreeSet<RtMembership>,
        config: &RibConfig,
        octets: &mut Vec<u8>,
        out: &mut BytesMut,
    ) -> bool {
        if !self.memberships_dirty || self.memberships.is_none() {
            return false;
        }
        let limit = message_limit(&self.session);
        let (known, given_up) = (&mut self.out.memberships, &mut self.out.memberships_given_up);
        if !given_up.is_empty() {
            let mut message = UpdateWriter::withdraw(out, Family::Rtc, limit);
            while let Some(membership) = given_up.first()
                && message.push(&Nlri::Rtc(*membership))
            {
                known.remove(membership);
                given_up.pop_first();
            }
            return message.finish() > 0;
        }
        let again = &mut self.out.memberships_again;
        let is_due = |m: &&RtMembership| !known.contains(m) || again.contains(m);
        let due: Vec<RtMembership> = own.iter().filter(is_due).copied().collect();
        self.memberships_dirty = !due.is_empty();
        if due.is_empty() {
            again.clear();
            return false;
        }
        let next_hop = config.router_id.into();
        membership_attributes(next_hop, octets);
        let mut exported = Vec::new();
        AttrSet::new(octets).export(Family::Rtc, &self.session, &mut exported);
        let mut message = UpdateWriter::announce(out, Family::Rtc, next_hop, &exported, limit);
        for membership in due.into_iter().take_while(|membership| message.push(&Nlri::Rtc(*membership))) {
            again.remove(&membership);
            known.insert(membership);
        }
        message.finish() > 0
    }

    /// Sorts routes that changed into groups.
    fn absorb(&mut self, table: &mut Table, attrs: &mut AttrTable) {
        for route in self.out.take_dirty(table) {
            let Some(family) = table.key(route).map(family_of) else { continue };
            let desired = self.desired(route, family, table, attrs);
            self.out.desire(route, family, desired, table, attrs);
        }
    }

    /// What the neighbor should know of a route.
    fn desired(
        &self,
        route: RouteId,
        family: Family,
        table: &Table,
        attrs: &AttrTable,
    ) -> Option<(AttrId, Label)> {
        let best = table.best(route).filter(|best| best.source.is_local())?;
        let next_hop = attrs.merits(best.attrs)?.next_hop;
        // RFC 8950: an IPv6 next hop on an IPv4 family only where both know how.
        let is_expressible =
            family == Family::Vpnv6 || next_hop.is_ipv4() || self.session.extended_nexthop.contains(family);
        let is_wanted = self.memberships.as_ref().is_none_or(|all| all.want(attrs.set(best.attrs)));
        let is_desired = self.session.families.contains(family) && is_expressible && is_wanted;
        is_desired.then_some((best.attrs, best.label()))
    }

    /// Sends as much of one group as fits a message.
    fn send_routes(
        &mut self,
        family: Family,
        table: &mut Table,
        attrs: &mut AttrTable,
        octets: &mut Vec<u8>,
        out: &mut BytesMut,
    ) -> bool {
        let limit = message_limit(&self.session);
        while let Some((group, routes)) = self.out.first_group(family) {
            let mut message = match group {
                Group::Withdraw(_) => UpdateWriter::withdraw(out, family, limit),
                Group::Announce(_, id) => {
                    let set = attrs.set(id);
                    set.export(family, &self.session, octets);
                    UpdateWriter::announce(out, family, set.next_hop(), octets, limit)
                }
            };
            let mut fitting: Vec<(RouteId, Label)> = Vec::new();
            for route in routes {
                let Some(key) = table.key(*route) else { continue };
                let label = table.best(*route).map_or(Label::IMPLICIT_NULL, |best| best.label());
                if !message.push(&Nlri::Vpn(key, label)) {
                    break;
                }
                fitting.push((*route, label));
            }
            let first = routes.first().copied();
            let is_message = message.finish() > 0;
            for (route, label) in fitting {
                self.out.sent(route, group, label, table, attrs);
            }
            if is_message {
                return true;
            }
            let Some(first) = first else { return false };
            self.out.refuse(first, family, table, attrs);
        }
        false
    }
}

fn membership_attributes(next_hop: IpAddr, octets: &mut Vec<u8>) {
    let attributes = LocalAttributes {
        next_hop,
        local_pref: DEFAULT_LOCAL_PREF,
        med: None,
        route_targets: &[],
        encaps: EncapSet::EMPTY,
    };
    attributes.canonical(octets);
}
