//! Machines that take an address from each other again and again: each time costs two files on disk and an UPDATE to
//! every neighbor, so the next time must wait, longer and longer.
//!
//! ```text
//!   shown ─▶ taken ─▶ taken ─▶ taken ─▶ after 1 s ─▶ 2 s ─▶ 4 s … 60 s ─▶ 60 s …
//!              at once, so that a machine that moves, and a virtual router that takes over, need not wait
//! ```
//! Who shows the address too soon is not forgotten: if nobody shows it after that, it is the one's once the time is over.
//! A virtual router says but once that it has taken over. After twice the time without a change all is calm, and the next
//! change is the first again. Changes that are three seconds apart never wait.

use std::collections::BTreeMap;
use std::net::IpAddr;

use vrouter_types::{PortId, VrfId};

use crate::event::Millis;

/// So many changes in a row are at once: a machine that has moved may be contradicted by what it sent before.
const FREE: u32 = 3;
/// What the next one waits, after the change before; twice that for the one behind it.
const FIRST: u64 = 1_000;
/// Nobody waits longer.
const LAST: u64 = 60_000;

/// Addresses whose holder has changed of late.
#[derive(Debug, Default)]
pub(super) struct Quarrels(BTreeMap<(VrfId, IpAddr), Quarrel>);

/// One of them.
#[derive(Debug)]
struct Quarrel {
    /// Who took it last.
    holder: PortId,
    since: Millis,
    /// How often it was taken in a row.
    takes: u32,
    /// Who showed it last, too soon.
    claimant: Option<PortId>,
}

impl Quarrel {
    fn hold(&self) -> u64 {
        self.takes.checked_sub(FREE).map_or(0, |more| (FIRST << more.min(6)).min(LAST))
    }

    fn is_held(&self, now: Millis) -> bool {
        now.0.saturating_sub(self.since.0) < self.hold()
    }

    fn is_calm(&self, now: Millis) -> bool {
        now.0.saturating_sub(self.since.0) >= 2 * self.hold().max(FIRST)
    }
}

impl Quarrels {
    /// Who took the address last, of this node's ports.
    pub(super) fn holder(&self, vrf: VrfId, address: IpAddr) -> Option<PortId> {
        self.0.get(&(vrf, address)).map(|quarrel| quarrel.holder)
    }

    /// Whether a port that shows the address may take it now. If not, it may have it later.
    pub(super) fn may_take(&mut self, vrf: VrfId, address: IpAddr, by: PortId, now: Millis) -> bool {
        let Some(quarrel) = self.0.get_mut(&(vrf, address)) else { return true };
        let is_held = quarrel.is_held(now);
        quarrel.claimant = is_held.then_some(by);
        !is_held
    }

    /// The port has it now.
    pub(super) fn taken(&mut self, vrf: VrfId, address: IpAddr, by: PortId, now: Millis) {
        let takes = self.0.get(&(vrf, address)).filter(|it| !it.is_calm(now)).map_or(0, |it| it.takes);
        let quarrel = Quarrel { holder: by, since: now, takes: takes.saturating_add(1), claimant: None };
        self.0.insert((vrf, address), quarrel);
    }

    /// Who has it shows that it still does: whoever came before has not the last word.
    pub(super) fn kept(&mut self, vrf: VrfId, address: IpAddr) {
        if let Some(quarrel) = self.0.get_mut(&(vrf, address)) {
            quarrel.claimant = None;
        }
    }

    /// Nobody is left to take it from.
    pub(super) fn end(&mut self, vrf: VrfId, address: IpAddr) {
        self.0.remove(&(vrf, address));
    }

    /// The port is gone.
    pub(super) fn forget(&mut self, port: PortId) {
        self.0.retain(|_, quarrel| quarrel.holder != port);
        for quarrel in self.0.values_mut().filter(|quarrel| quarrel.claimant == Some(port)) {
            quarrel.claimant = None;
        }
    }

    /// Who may have now what it showed too soon. What is calm is forgotten.
    pub(super) fn due(&mut self, now: Millis) -> Vec<(PortId, IpAddr)> {
        let over = self.0.iter_mut().filter(|(_, quarrel)| !quarrel.is_held(now));
        let due = over.filter_map(|((_, address), quarrel)| Some((quarrel.claimant.take()?, *address)));
        let due = due.collect();
        self.0.retain(|_, quarrel| !quarrel.is_calm(now));
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VRF: VrfId = VrfId(1);
    const ADDRESS: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1));

    /// Two ports show the address in turn, so often; returns when it was taken.
    fn fight(quarrels: &mut Quarrels, every: u64, times: u64) -> Vec<u64> {
        let mut taken = Vec::new();
        for turn in 0..times {
            let (port, now) = (PortId(u32::try_from(turn % 2).unwrap()), Millis(turn * every));
            if quarrels.may_take(VRF, ADDRESS, port, now) {
                quarrels.taken(VRF, ADDRESS, port, now);
                taken.push(now.0);
            }
        }
        taken
    }

    #[test]
    fn each_change_in_a_row_waits_twice_as_long_as_the_one_before_up_to_a_minute() {
        let taken = fight(&mut Quarrels::default(), 20, 30_000);
        let between: Vec<u64> = taken.windows(2).map(|pair| pair[1] - pair[0]).collect();
        let expected = [20, 20, 1_000, 2_000, 4_000, 8_000, 16_000, 32_000, 60_000];
        assert_eq!(between[..9], expected);
        assert!(between[9..].iter().all(|time| *time == 60_000), "{between:?}");
    }

    #[test]
    fn changes_that_are_seconds_apart_never_wait() {
        let taken = fight(&mut Quarrels::default(), 3_000, 100);
        assert_eq!(taken.len(), 100);
    }

    #[test]
    fn whoever_showed_it_last_has_it_once_the_time_is_over() {
        let mut quarrels = Quarrels::default();
        assert_eq!(fight(&mut quarrels, 0, 5).len(), 3, "0, 1 and 0 again");
        assert_eq!(quarrels.due(Millis(999)), []);
        assert!(!quarrels.may_take(VRF, ADDRESS, PortId(1), Millis(999)));
        assert_eq!(quarrels.due(Millis(1_000)), [(PortId(1), ADDRESS)]);
        assert_eq!(quarrels.due(Millis(1_000)), [], "once");
        quarrels.taken(VRF, ADDRESS, PortId(1), Millis(1_000));
        assert!(!quarrels.may_take(VRF, ADDRESS, PortId(0), Millis(1_001)));
        quarrels.kept(VRF, ADDRESS);
        assert_eq!(quarrels.due(Millis(3_000)), [], "the holder spoke last");
    }

    #[test]
    fn nothing_is_remembered_of_what_is_calm_or_of_ports_that_are_gone() {
        let mut quarrels = Quarrels::default();
        fight(&mut quarrels, 20, 1_000);
        quarrels.due(Millis(140_000));
        assert!(quarrels.0.is_empty(), "{quarrels:?}");
        assert_eq!(fight(&mut quarrels, 0, 4).len(), 3, "the first again");
        quarrels.forget(PortId(1));
        assert_eq!(quarrels.due(Millis(1_000)), [], "its claim is gone");
        assert_eq!(quarrels.holder(VRF, ADDRESS), Some(PortId(0)));
        quarrels.forget(PortId(0));
        assert!(quarrels.0.is_empty(), "{quarrels:?}");
    }
}
