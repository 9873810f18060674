//! What a neighbor has been sent, and what it has yet to be sent (Adj-RIB-Out), as state, never as messages.
//!
//! ```text
//!  route changes ──▶ dirty ──absorb──▶ groups: (family, withdraw | attribute set) → routes ──▶ one UPDATE each, packed
//!                                                            slots: route → sent, queued
//! ```
//! A route is in one group at most. Announced and withdrawn before its turn comes, it is in none and costs nothing.

use std::collections::{BTreeMap, BTreeSet};

use hashbrown::HashMap;
use vrouter_types::Label;

use crate::wire::attr::set::AttrSet;
use crate::wire::nlri::RtMembership;
use crate::{Family, FamilySet};

use super::attrs::{AttrId, AttrTable};
use super::table::{RouteId, Table, family_of};

/// What travels together. Withdrawals come first: they are short, and the way they end may be dead already.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Group {
    Withdraw(Family),
    Announce(Family, AttrId),
}

impl Group {
    pub(super) fn family(self) -> Family {
        match self {
            Group::Withdraw(family) | Group::Announce(family, _) => family,
        }
    }
}

/// What the neighbor knows of a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sent {
    Nothing,
    /// This; one count of the set is ours.
    This(AttrId, Label),
    /// Something; it asked for it again.
    Again,
}

#[derive(Debug)]
struct Slot {
    sent: Sent,
    /// The group it is in; if that announces, one count of the set is ours.
    queued: Option<Group>,
}

/// Where a membership that is told came from: us, or somebody with this CLUSTER_LIST.
pub(super) type MembershipPath = Option<Box<[u8]>>;

#[derive(Debug, Default)]
pub(super) struct AdjOut {
    slots: HashMap<RouteId, Slot>,
    groups: BTreeMap<Group, BTreeSet<RouteId>>,
    dirty: BTreeSet<RouteId>,
    /// Every route is to be looked at again.
    pub(super) all_dirty: bool,
    /// Memberships that the neighbor has.
    pub(super) memberships: BTreeMap<RtMembership, MembershipPath>,
    /// Those that may have to be told or withdrawn.
    pub(super) memberships_dirty: BTreeSet<RtMembership>,
    /// Those of them that we gave up. The withdrawal goes out even if we want them again by then: their routes are gone
    /// here, and only a new membership brings them back.
    pub(super) memberships_given_up: BTreeSet<RtMembership>,
    /// Those of them that it asked for again.
    pub(super) memberships_again: BTreeSet<RtMembership>,
    /// Memberships that the neighbor gave up since routes were last sorted.
    pub(super) lost_interest: BTreeSet<RtMembership>,
    /// Routes that it has.
    pub(super) told: usize,
    /// Families whose next complete transfer ends with End-of-RIB.
    pub(super) end_of_rib: BTreeSet<Family>,
    /// Families whose refresh has yet to begin (BoRR) and to end (EoRR).
    pub(super) begin_refresh: BTreeSet<Family>,
    pub(super) end_refresh: BTreeSet<Family>,
    /// Families that we want the neighbor to send again.
    pub(super) requests: BTreeSet<Family>,
    /// Routes that did not fit a message of their own.
    pub(super) too_long: u64,
}

impl AdjOut {
    /// Towards a neighbor that knows nothing yet.
    pub(super) fn new(families: FamilySet) -> AdjOut {
        AdjOut { all_dirty: true, end_of_rib: families.iter().collect(), ..AdjOut::default() }
    }

    /// The route may have changed.
    pub(super) fn touch(&mut self, route: RouteId) {
        self.dirty.insert(route);
    }

    /// Routes to look at again.
    pub(super) fn take_dirty(&mut self, table: &Table) -> BTreeSet<RouteId> {
        let mut dirty = std::mem::take(&mut self.dirty);
        if std::mem::take(&mut self.all_dirty) {
            dirty.extend(self.slots.keys());
            dirty.extend(table.routes().map(|(route, _)| route));
        }
        dirty
    }

    /// Puts the route into the group where it belongs, given what the neighbor should know of it.
    pub(super) fn desire(
        &mut self,
        route: RouteId,
        family: Family,
        desired: Option<(AttrId, Label)>,
        table: &mut Table,
        attrs: &mut AttrTable,
    ) {
        let sent = self.slots.get(&route).map_or(Sent::Nothing, |slot| slot.sent);
        let group = match (desired, sent) {
            (None, Sent::Nothing) => None,
            (None, _) => Some(Group::Withdraw(family)),
            (Some((id, label)), Sent::This(known, known_label)) if (id, label) == (known, known_label) => {
                None
            }
            (Some((id, _)), _) => Some(Group::Announce(family, id)),
        };
        self.queue(route, group, table, attrs);
    }

    fn queue(&mut self, route: RouteId, group: Option<Group>, table: &mut Table, attrs: &mut AttrTable) {
        if group.is_none() && !self.slots.contains_key(&route) {
            return;
        }
        let slot = self.slots.entry(route).or_insert_with(|| {
            table.known_to(route, 1);
            Slot { sent: Sent::Nothing, queued: None }
        });
        if slot.queued != group {
            if let Some(Group::Announce(_, id)) = group {
                attrs.retain(id);
            }
            let before = std::mem::replace(&mut slot.queued, group);
            if let Some(before) = before {
                self.leave(before, route);
                if let Group::Announce(_, id) = before {
                    attrs.release(id);
                }
            }
            if let Some(group) = group {
                self.groups.entry(group).or_default().insert(route);
            }
        }
        self.drop_if_idle(route, table);
    }

    fn leave(&mut self, group: Group, route: RouteId) {
        if let Some(routes) = self.groups.get_mut(&group) {
            routes.remove(&route);
            if routes.is_empty() {
                self.groups.remove(&group);
            }
        }
    }

    fn drop_if_idle(&mut self, route: RouteId, table: &mut Table) {
        if matches!(self.slots.get(&route), Some(Slot { sent: Sent::Nothing, queued: None })) {
            self.slots.remove(&route);
            if self.slots.is_empty() {
                self.slots = HashMap::new();
            }
            table.known_to(route, -1);
            table.forget_if_unused(route);
        }
    }

    /// The first group of a family, and its routes.
    pub(super) fn first_group(&self, family: Family) -> Option<(Group, &BTreeSet<RouteId>)> {
        self.groups.iter().find(|(group, _)| group.family() == family).map(|(group, routes)| (*group, routes))
    }

    /// The group's route has been put into a message, under this label.
    pub(super) fn sent(
        &mut self,
        route: RouteId,
        group: Group,
        label: Label,
        table: &mut Table,
        attrs: &mut AttrTable,
    ) {
        let Some(slot) = self.slots.get_mut(&route) else { return };
        // The queue's count of the set becomes the count of what was sent.
        let sent = match group {
            Group::Withdraw(_) => Sent::Nothing,
            Group::Announce(_, id) => Sent::This(id, label),
        };
        slot.queued = None;
        self.told += usize::from(matches!(sent, Sent::This(..)));
        if let Sent::This(before, _) = std::mem::replace(&mut slot.sent, sent) {
            self.told -= 1;
            attrs.release(before);
        }
        self.leave(group, route);
        self.drop_if_idle(route, table);
    }

    /// The route does not fit a message of its own: the neighbor must not keep an older form (RFC 8654 §4).
    pub(super) fn refuse(
        &mut self,
        route: RouteId,
        family: Family,
        table: &mut Table,
        attrs: &mut AttrTable,
    ) {
        self.too_long += 1;
        self.desire(route, family, None, table, attrs);
    }

    /// The neighbor asked for the family again.
    pub(super) fn send_again(&mut self, family: Family, table: &Table, attrs: &mut AttrTable) {
        for (route, slot) in &mut self.slots {
            let is_of_family = table.key(*route).is_some_and(|key| family_of(key) == family);
            if let Sent::This(id, _) = slot.sent
                && is_of_family
            {
                attrs.release(id);
                slot.sent = Sent::Again;
                self.told -= 1;
                self.dirty.insert(*route);
            }
        }
    }

    /// The neighbor gave up memberships, and with them the routes that nothing else asked for. If it wants them again
    /// before we have withdrawn them, it needs them again.
    pub(super) fn given_up(&mut self, wants: impl Fn(AttrSet<'_>) -> bool, attrs: &mut AttrTable) {
        for slot in self.slots.values_mut() {
            if let Sent::This(id, _) = slot.sent
                && !wants(attrs.set(id))
            {
                attrs.release(id);
                slot.sent = Sent::Again;
                self.told -= 1;
            }
        }
        self.all_dirty = true;
    }

    /// Forgets everything; the session is gone.
    pub(super) fn clear(&mut self, table: &mut Table, attrs: &mut AttrTable) {
        for (route, slot) in std::mem::take(&mut self.slots) {
            if let Sent::This(id, _) = slot.sent {
                attrs.release(id);
            }
            if let Some(Group::Announce(_, id)) = slot.queued {
                attrs.release(id);
            }
            table.known_to(route, -1);
            table.forget_if_unused(route);
        }
        *self = AdjOut::default();
    }

    /// Octets of what is sent and of what is queued.
    pub(super) fn octets(&self) -> usize {
        let queued: usize = self.groups.values().map(BTreeSet::len).sum();
        let memberships = self.memberships.len() * size_of::<(RtMembership, MembershipPath)>();
        self.slots.allocation_size() + (queued + self.dirty.len()) * size_of::<RouteId>() + memberships
    }

    /// Routes that the neighbor has, with what it was told.
    pub(super) fn known(&self) -> impl Iterator<Item = (RouteId, AttrId, Label)> {
        self.slots.iter().filter_map(|(route, slot)| match slot.sent {
            Sent::This(id, label) => Some((*route, id, label)),
            _ => None,
        })
    }
}
