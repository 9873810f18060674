//! What the last run imported, until BGP says it again, says that there is nothing more, or the time is over.
//!
//! A gateway that boots without its uplink still knows where everybody was (RFC 9494 gives the idea and the time). A
//! live route takes the place of a stale one the moment it comes; a VRF that imports something else than it did gets
//! nothing back.

use std::collections::BTreeMap;

use vrouter_types::{Prefix, VrfId};

use super::Overlay;
use crate::event::{Effect, Millis, SavedVrf, VrfPath};

/// Routes of the last run that nobody has confirmed.
#[derive(Debug, Default)]
pub(super) struct Stale {
    pub(super) routes: BTreeMap<(VrfId, Prefix), Vec<VrfPath>>,
    /// When they have served long enough.
    until: Millis,
}

impl Overlay {
    pub(super) fn restore_routes(&mut self, saved: Vec<SavedVrf>, stale_for: u64) {
        self.stale.until = Millis(self.now.0.saturating_add(stale_for));
        if stale_for == 0 {
            return;
        }
        for saved in saved {
            let same = |vrf: &&super::Vrf| vrf.config.import == saved.import;
            let Some(vrf) = self.vrf_by_name(&saved.name).filter(same).map(|vrf| vrf.id) else { continue };
            for (prefix, mut paths) in saved.routes {
                paths.retain(|path| !path.local);
                if paths.is_empty() {
                    continue;
                }
                paths.iter().for_each(|path| self.tunnels.learn(path.next_hop));
                self.stale.routes.insert((vrf, prefix), paths);
                self.refresh(vrf, prefix);
            }
        }
    }

    /// All that is still stale goes.
    pub(super) fn forget_stale(&mut self) -> Vec<Effect> {
        if self.stale.routes.is_empty() {
            return Vec::new();
        }
        self.drop_stale(|_| true);
        vec![Effect::PublishFib { soon: true }]
    }

    /// The stale routes of these VRFs go.
    pub(super) fn drop_stale(&mut self, of: impl Fn(VrfId) -> bool) {
        let (gone, kept) =
            std::mem::take(&mut self.stale.routes).into_iter().partition(|((vrf, _), _)| of(*vrf));
        self.stale.routes = kept;
        self.imports_revision += 1;
        let gone: BTreeMap<(VrfId, Prefix), Vec<VrfPath>> = gone;
        for ((vrf, prefix), paths) in gone {
            paths.iter().for_each(|path| self.tunnels.unlearn(path.next_hop));
            self.refresh(vrf, prefix);
        }
    }

    /// How many routes are those of the last run.
    pub fn stale_routes(&self) -> usize {
        self.stale.routes.len()
    }

    /// How long they may still serve, in milliseconds.
    pub fn stale_left(&self) -> u64 {
        self.stale.until.0.saturating_sub(self.now.0)
    }

    /// Changes whenever what BGP says does, or what is left of the last run.
    pub fn imports_revision(&self) -> u64 {
        self.imports_revision
    }

    /// What the next run should know, `most` routes at most.
    pub fn saved_routes(&self, most: usize) -> Vec<SavedVrf> {
        let mut room = most;
        let saved = |vrf: &super::Vrf| {
            let live = vrf.imported.iter().map(|(prefix, paths)| (*prefix, paths));
            let stale = self.stale.routes.iter().filter(|((of, _), _)| *of == vrf.id);
            let stale = stale.map(|((_, prefix), paths)| (*prefix, paths));
            let remote = |(prefix, paths): (Prefix, &Vec<VrfPath>)| {
                let paths: Vec<VrfPath> = paths.iter().filter(|path| !path.local).cloned().collect();
                (!paths.is_empty()).then_some((prefix, paths))
            };
            let routes: Vec<_> = live.chain(stale).filter_map(remote).take(room).collect();
            room -= routes.len();
            SavedVrf { name: vrf.config.name.clone(), import: vrf.config.import.clone(), routes }
        };
        self.vrfs.iter().map(saved).filter(|saved| !saved.routes.is_empty()).collect()
    }
}
