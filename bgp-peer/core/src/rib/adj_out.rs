//! What a neighbor has been sent, and what it has yet to be sent (Adj-RIB-Out), as state, never as messages.
//!
//! ```text
//!  route changes ──▶ dirty ──absorb──▶ groups: (family, withdraw | attribute set) → routes ──▶ one UPDATE each, packed
//!                                                            slots: route → sent, queued
//! ```
//! A route is in one group at most. Announced and withdrawn before its turn comes, it is in none and costs nothing.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use hashbrown::HashMap;
use hashbrown::hash_map::Entry;
use vrouter_types::Label;

use crate::wire::attr::set::AttrSet;
use crate::wire::nlri::RtMembership;
use crate::{Family, FamilySet};

use super::attrs::{AttrId, AttrTable};
use super::table::{RouteId, RouteSet, Table, family_of};

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

/// What is to be said of a route; of a set that is to be announced, one count is ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Queued {
    Nothing,
    Withdraw,
    Announce(AttrId),
}

/// Both, in twelve octets.
#[derive(Debug, Clone, Copy)]
struct Slot {
    sent: u32,
    label: Label,
    queued: u32,
}

const NOTHING: u32 = u32::MAX;
const OTHER: u32 = u32::MAX - 1;

impl Slot {
    const EMPTY: Slot = Slot { sent: NOTHING, label: Label::IMPLICIT_NULL, queued: NOTHING };

    fn sent(&self) -> Sent {
        match self.sent {
            NOTHING => Sent::Nothing,
            OTHER => Sent::Again,
            number => Sent::This(AttrId::from_number(number), self.label),
        }
    }

    /// Returns what was sent before.
    fn set_sent(&mut self, sent: Sent) -> Sent {
        let before = self.sent();
        match sent {
            Sent::Nothing => self.sent = NOTHING,
            Sent::Again => self.sent = OTHER,
            Sent::This(id, label) => (self.sent, self.label) = (id.number(), label),
        }
        before
    }

    fn queued(&self) -> Queued {
        match self.queued {
            NOTHING => Queued::Nothing,
            OTHER => Queued::Withdraw,
            number => Queued::Announce(AttrId::from_number(number)),
        }
    }

    fn set_queued(&mut self, queued: Queued) -> Queued {
        let before = self.queued();
        self.queued = match queued {
            Queued::Nothing => NOTHING,
            Queued::Withdraw => OTHER,
            Queued::Announce(id) => id.number(),
        };
        before
    }

    fn is_in(&self, group: Group) -> bool {
        match (group, self.queued()) {
            (Group::Withdraw(_), Queued::Withdraw) => true,
            (Group::Announce(_, id), Queued::Announce(queued)) => id == queued,
            _ => false,
        }
    }

    fn is_idle(&self) -> bool {
        self.sent == NOTHING && self.queued == NOTHING
    }
}

/// What became of an attempt to put a route into a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sending {
    /// It is in.
    Done,
    /// It no longer belongs there.
    Outdated,
    /// It does not fit.
    Full,
}

/// Routes in groups that may have left before anyone looks.
const SLACK: usize = 1024;

/// Where a membership that is told came from: us, or somebody with this CLUSTER_LIST.
pub(super) type MembershipPath = Option<Box<[u8]>>;

#[derive(Debug, Default)]
pub(super) struct AdjOut {
    slots: HashMap<RouteId, Slot>,
    /// Routes in order of arrival. Those that have left since are still there: their slot says otherwise.
    groups: BTreeMap<Group, VecDeque<RouteId>>,
    /// Routes in groups, those that have left included; and those that have not.
    entries: usize,
    waiting: usize,
    dirty: RouteSet,
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
    pub(super) fn take_dirty(&mut self, table: &Table) -> impl Iterator<Item = RouteId> + use<> {
        let mut dirty = std::mem::take(&mut self.dirty);
        if std::mem::take(&mut self.all_dirty) {
            self.slots.keys().for_each(|route| dirty.insert(*route));
            table.routes().for_each(|(route, _)| dirty.insert(route));
        }
        dirty.into_iter()
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
        let mut entry = match self.slots.entry(route) {
            Entry::Occupied(entry) => entry,
            Entry::Vacant(_) if desired.is_none() => return,
            Entry::Vacant(entry) => {
                table.known_to(route, 1);
                entry.insert_entry(Slot::EMPTY)
            }
        };
        let slot = entry.get_mut();
        let queued = match (desired, slot.sent()) {
            (None, Sent::Nothing) => Queued::Nothing,
            (None, _) => Queued::Withdraw,
            (Some(desired), Sent::This(id, label)) if desired == (id, label) => Queued::Nothing,
            (Some((id, _)), _) => Queued::Announce(id),
        };
        if slot.queued() == queued {
            return;
        }
        if let Queued::Announce(id) = queued {
            attrs.retain(id);
        }
        let before = slot.set_queued(queued);
        if slot.is_idle() {
            entry.remove();
            self.forget(route, table);
        }
        if let Queued::Announce(id) = before {
            attrs.release(id);
        }
        self.waiting -= usize::from(before != Queued::Nothing);
        self.waiting += usize::from(queued != Queued::Nothing);
        match queued {
            Queued::Nothing => {}
            Queued::Withdraw => self.enqueue(Group::Withdraw(family), route),
            Queued::Announce(id) => self.enqueue(Group::Announce(family, id), route),
        }
    }

    fn enqueue(&mut self, group: Group, route: RouteId) {
        self.groups.entry(group).or_default().push_back(route);
        self.entries += 1;
        // Routes that change faster than they can be sent leave more behind than there is.
        if self.entries > 2 * self.waiting + SLACK {
            self.groups.retain(|group, routes| {
                routes.make_contiguous().sort_unstable();
                let mut before = None;
                let is_in = |route: &RouteId| self.slots.get(route).is_some_and(|slot| slot.is_in(*group));
                routes.retain(|route| before.replace(*route) != Some(*route) && is_in(route));
                !routes.is_empty()
            });
            self.entries = self.groups.values().map(VecDeque::len).sum();
        }
    }

    /// The route has no slot any more.
    fn forget(&mut self, route: RouteId, table: &mut Table) {
        if self.slots.is_empty() {
            self.slots = HashMap::new();
        }
        table.known_to(route, -1);
        table.forget_if_unused(route);
    }

    /// Takes the first group of a family, and its routes.
    pub(super) fn take_group(&mut self, family: Family) -> Option<(Group, VecDeque<RouteId>)> {
        let group = *self.groups.keys().find(|group| group.family() == family)?;
        let routes = self.groups.remove(&group)?;
        self.entries -= routes.len();
        Some((group, routes))
    }

    /// Puts back what did not fit.
    pub(super) fn return_group(&mut self, group: Group, routes: VecDeque<RouteId>) {
        if !routes.is_empty() {
            self.entries += routes.len();
            self.groups.insert(group, routes);
        }
    }

    /// Puts one of a group's routes into a message, under this label.
    pub(super) fn send(
        &mut self,
        route: RouteId,
        group: Group,
        label: Label,
        push: impl FnOnce() -> bool,
        table: &mut Table,
        attrs: &mut AttrTable,
    ) -> Sending {
        let Entry::Occupied(mut entry) = self.slots.entry(route) else { return Sending::Outdated };
        let slot = entry.get_mut();
        if !slot.is_in(group) {
            return Sending::Outdated;
        }
        if !push() {
            return Sending::Full;
        }
        // The queue's count of the set becomes the count of what was sent.
        let sent = match slot.set_queued(Queued::Nothing) {
            Queued::Announce(id) => Sent::This(id, label),
            _ => Sent::Nothing,
        };
        self.waiting -= 1;
        self.told += usize::from(sent != Sent::Nothing);
        let before = slot.set_sent(sent);
        if slot.is_idle() {
            entry.remove();
            self.forget(route, table);
        }
        if let Sent::This(id, _) = before {
            self.told -= 1;
            attrs.release(id);
        }
        Sending::Done
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
            if let Sent::This(id, _) = slot.sent()
                && is_of_family
            {
                attrs.release(id);
                slot.set_sent(Sent::Again);
                self.told -= 1;
                self.dirty.insert(*route);
            }
        }
    }

    /// The neighbor gave up memberships, and with them the routes that nothing else asked for. If it wants them again
    /// before we have withdrawn them, it needs them again.
    pub(super) fn given_up(&mut self, wants: impl Fn(AttrSet<'_>) -> bool, attrs: &mut AttrTable) {
        let mut known: HashMap<AttrId, bool> = HashMap::new();
        for slot in self.slots.values_mut() {
            if let Sent::This(id, _) = slot.sent()
                && !*known.entry(id).or_insert_with(|| wants(attrs.set(id)))
            {
                attrs.release(id);
                slot.set_sent(Sent::Again);
                self.told -= 1;
            }
        }
        self.all_dirty = true;
    }

    /// Forgets everything; the session is gone.
    pub(super) fn clear(&mut self, table: &mut Table, attrs: &mut AttrTable) {
        for (route, slot) in std::mem::take(&mut self.slots) {
            if let Sent::This(id, _) = slot.sent() {
                attrs.release(id);
            }
            if let Queued::Announce(id) = slot.queued() {
                attrs.release(id);
            }
            table.known_to(route, -1);
            table.forget_if_unused(route);
        }
        *self = AdjOut::default();
    }

    /// Octets of what is sent and of what is queued.
    pub(super) fn octets(&self) -> usize {
        let memberships = self.memberships.len() * size_of::<(RtMembership, MembershipPath)>();
        let queued = self.entries * size_of::<RouteId>();
        self.slots.allocation_size() + queued + self.dirty.octets() + memberships
    }

    /// Routes that the neighbor has, with what it was told.
    pub(super) fn known(&self) -> impl Iterator<Item = (RouteId, AttrId, Label)> {
        self.slots.iter().filter_map(|(route, slot)| match slot.sent() {
            Sent::This(id, label) => Some((*route, id, label)),
            _ => None,
        })
    }
}
