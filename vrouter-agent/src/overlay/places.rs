//! Where ports stand in the tables of VRFs, and who has a prefix that several may have.
//!
//! ```text
//!   own address or prefix    before   floating address   before   allowed pair   before   announced by an attachment
//! ```
//! A prefix of a VRF leads to one port of this node. Among ports that may hold the same pair it is the one that showed it
//! last; where none has, the first.

use std::collections::BTreeSet;

use vrouter_types::{PortId, Prefix, VrfId};

use super::{Overlay, Port, vrf_mut};

/// Why a port has a prefix; the smaller goes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Claim {
    /// It is its own.
    Own,
    /// It stands for one of its own.
    Floating,
    /// It may hold it.
    Pair,
    /// An attachment announces it.
    Advert,
}

/// One entry of a port.
pub(super) type Place = (VrfId, Prefix, Claim);

impl Overlay {
    /// All that a port in service has a claim to.
    fn places(&self, port: &Port) -> Vec<Place> {
        let own = port.routed().map(|prefix| (port.vrf, prefix, Claim::Own));
        let pairs = port.pairs().map(|prefix| (port.vrf, prefix, Claim::Pair));
        let mut places: Vec<Place> = own.chain(pairs).collect();
        let id_of = |name: &str| self.vrf_by_name(name).map(|vrf| vrf.id);
        for floating in &port.saved.request.floating_ips {
            let is_its = port.saved.addresses.contains(&floating.fixed);
            let at = self.floating_vrf(port, &floating.vrf).filter(|_| is_its);
            places.extend(at.map(|vrf| (vrf, Prefix::host(floating.address), Claim::Floating)));
        }
        for advert in port.extras.adverts.iter().filter(|advert| !advert.own_rd) {
            places.extend(id_of(&advert.vrf).map(|vrf| (vrf, advert.prefix, Claim::Advert)));
        }
        places
    }

    /// The port takes the places that are its due, and leaves others. Routes follow, and whoever is concerned is noted.
    pub(super) fn place(&mut self, id: PortId) {
        let Some(port) = self.ports.get(&id) else { return };
        let wanted: BTreeSet<Place> =
            if port.is_up() { self.places(port).into_iter().collect() } else { BTreeSet::new() };
        let had = port.placed.clone();
        if let Some(port) = self.ports.get_mut(&id) {
            port.placed.clone_from(&wanted);
        }
        for (vrf, prefix, claim) in had.difference(&wanted) {
            if let Some(claims) = self.claims.get_mut(&(*vrf, *prefix)) {
                claims.remove(&(*claim, id));
                if claims.is_empty() {
                    self.claims.remove(&(*vrf, *prefix));
                }
            }
        }
        for (vrf, prefix, claim) in wanted.difference(&had) {
            self.claims.entry((*vrf, *prefix)).or_default().insert((*claim, id));
        }
        let moved: Vec<(VrfId, Prefix)> =
            had.symmetric_difference(&wanted).map(|(vrf, prefix, _)| (*vrf, *prefix)).collect();
        moved.into_iter().for_each(|(vrf, prefix)| self.settle(vrf, prefix));
        self.untold.insert(id);
    }

    /// Gives the prefix to whom it belongs now.
    pub(super) fn settle(&mut self, vrf: VrfId, prefix: Prefix) {
        let owner = self.owner(vrf, prefix);
        let Some(table) = vrf_mut(&mut self.vrfs, vrf) else { return };
        let before = match owner {
            Some(owner) => table.locals.insert(prefix, owner),
            None => table.locals.remove(&prefix),
        };
        if before != owner {
            self.untold.extend(before.into_iter().chain(owner));
        }
        self.refresh(vrf, prefix);
    }

    fn owner(&self, vrf: VrfId, prefix: Prefix) -> Option<PortId> {
        let claims = self.claims.get(&(vrf, prefix))?;
        let (first, id) = claims.first().copied()?;
        if first != Claim::Pair {
            return Some(id);
        }
        let holds = |(claim, id): &&(Claim, PortId)| {
            *claim == Claim::Pair && self.ports.get(id).is_some_and(|port| port.is_active(prefix.addr()))
        };
        Some(claims.iter().find(holds).map_or(id, |(_, id)| *id))
    }

    /// Ports that name a VRF which came or went.
    pub(super) fn place_those_that_name(&mut self, vrfs: &BTreeSet<String>) {
        let names = |port: &&Port| {
            port.saved.request.floating_ips.iter().any(|floating| vrfs.contains(&floating.vrf))
                || port.extras.adverts.iter().any(|advert| vrfs.contains(&advert.vrf))
        };
        let ids: Vec<PortId> = self.ports.values().filter(names).map(|port| port.saved.port).collect();
        ids.into_iter().for_each(|id| self.place(id));
    }
}
