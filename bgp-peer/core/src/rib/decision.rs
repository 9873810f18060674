//! Route selection: the numbered steps of RFC 4271 §9.1.2.2, with RFC 4456 §9.
//!
//! Each step removes the candidates that are worse than the best left, and says so. Steps up to `e` decide between paths
//! that may share the traffic; those from `f` on only break ties. MED is compared within a neighboring AS only, so
//! selection works on the whole set: pairwise comparison would depend on the order.
//!
//! Among paths under one route distinguisher our own comes first: nobody takes its place by telling our own prefix. Among
//! those that a VRF imports under several, another provider edge's may be better: a machine that has moved is where its
//! route says so loudest, and our own only wins a draw.

use std::net::{IpAddr, Ipv4Addr};

use vrouter_types::Asn;

use crate::wire::attr::check::Origin;

/// A step of route selection. Its order is the order of application, but for `Local`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// RFC 4271 §9.1.2.1: the path can be used at all: an encapsulation we know.
    Usable,
    /// RFC 9494 §4.3: a long-lived stale route only where there is no other.
    LongLived,
    /// RFC 4271 §9.1.1: our own route.
    Local,
    /// RFC 4271 §9.1.1: highest LOCAL_PREF.
    LocalPref,
    /// Step a: shortest AS_PATH.
    AsPathLength,
    /// Step b: lowest ORIGIN.
    Origin,
    /// Step c: lowest MULTI_EXIT_DISC among those of one neighboring AS.
    Med,
    /// Step d: external before internal.
    External,
    /// Step e: lowest interior cost. The way to every next hop is the kernel's affair: they cost the same.
    InteriorCost,
    /// Step f: lowest BGP identifier, the ORIGINATOR_ID where there is one (RFC 4456 §9).
    Identifier,
    /// Between f and g: shortest CLUSTER_LIST (RFC 4456 §9).
    ClusterListLength,
    /// Step g: lowest neighbor address.
    PeerAddress,
}

impl std::fmt::Display for Step {
    /// With the number that RFC 4271 §9.1.2.2 gives it.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Step::Usable => "it names no encapsulation that we know (RFC 4271 §9.1.2.1)",
            Step::LongLived => "long-lived stale (RFC 9494 §4.3)",
            Step::Local => "not our own",
            Step::LocalPref => "lower LOCAL_PREF (RFC 4271 §9.1.1)",
            Step::AsPathLength => "longer AS_PATH (step a)",
            Step::Origin => "higher ORIGIN (step b)",
            Step::Med => "higher MULTI_EXIT_DISC (step c)",
            Step::External => "internal, another is external (step d)",
            Step::InteriorCost => "higher interior cost (step e)",
            Step::Identifier => "higher BGP identifier or ORIGINATOR_ID (step f)",
            Step::ClusterListLength => "longer CLUSTER_LIST (RFC 4456 §9)",
            Step::PeerAddress => "higher neighbor address (step g)",
        })
    }
}

/// What the steps compare.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Candidate {
    /// Whether it can be used.
    pub is_usable: bool,
    /// Whether it is long-lived stale.
    pub is_long_lived: bool,
    /// Whether it is our own.
    pub is_local: bool,
    /// LOCAL_PREF.
    pub local_pref: u32,
    /// Length of AS_PATH, a set counting one.
    pub as_path_length: u32,
    /// ORIGIN.
    pub origin: Origin,
    /// First AS of AS_PATH; `None`: our own.
    pub neighbor_as: Option<Asn>,
    /// MULTI_EXIT_DISC, 0 where absent.
    pub med: u32,
    /// Whether it came from another AS.
    pub is_external: bool,
    /// ORIGINATOR_ID, else the neighbor's BGP identifier.
    pub identifier: Ipv4Addr,
    /// Length of CLUSTER_LIST.
    pub cluster_list_length: u16,
    /// The neighbor's address; `None`: our own route.
    pub peer_address: Option<IpAddr>,
}

/// Applies the steps up to and including `last`. `lost` tells for each candidate the step that removed it; `None`: it is
/// among the best.
pub fn decide(candidates: &[Candidate], last: Step, lost: &mut Vec<Option<Step>>) {
    lost.clear();
    lost.resize(candidates.len(), None);
    let order = if last == Step::InteriorCost { ACROSS } else { STEPS };
    for step in order.into_iter().take_while(|step| *step <= last) {
        match step {
            Step::Usable => remove(candidates, lost, step, |c| !c.is_usable),
            Step::LongLived => keep_least(candidates, lost, step, |c| c.is_long_lived),
            Step::Local => keep_least(candidates, lost, step, |c| !c.is_local),
            Step::LocalPref => keep_least(candidates, lost, step, |c| u32::MAX - c.local_pref),
            Step::AsPathLength => keep_least(candidates, lost, step, |c| c.as_path_length),
            Step::Origin => keep_least(candidates, lost, step, |c| c.origin),
            Step::Med => remove_worse_med(candidates, lost),
            Step::External => keep_least(candidates, lost, step, |c| !c.is_external),
            Step::InteriorCost => {}
            Step::Identifier => keep_least(candidates, lost, step, |c| c.identifier),
            Step::ClusterListLength => keep_least(candidates, lost, step, |c| c.cluster_list_length),
            Step::PeerAddress => keep_least(candidates, lost, step, |c| c.peer_address),
        }
    }
}

fn remove(
    candidates: &[Candidate],
    lost: &mut [Option<Step>],
    step: Step,
    is_worse: impl Fn(&Candidate) -> bool,
) {
    for (candidate, lost) in candidates.iter().zip(lost) {
        if lost.is_none() && is_worse(candidate) {
            *lost = Some(step);
        }
    }
}

fn keep_least<K: Ord>(
    candidates: &[Candidate],
    lost: &mut [Option<Step>],
    step: Step,
    key: impl Fn(&Candidate) -> K,
) {
    if let Some(least) = left(candidates, lost).map(&key).min() {
        remove(candidates, lost, step, |candidate| key(candidate) > least);
    }
}

/// Whether one loses depends on candidates that lose in the same step, so the losers are found first.
fn remove_worse_med(candidates: &[Candidate], lost: &mut [Option<Step>]) {
    let least_of = |neighbor: Option<Asn>| {
        left(candidates, lost).filter(|c| c.neighbor_as == neighbor).map(|c| c.med).min()
    };
    let worse: Vec<bool> =
        candidates.iter().map(|c| least_of(c.neighbor_as).is_some_and(|least| c.med > least)).collect();
    for (lost, is_worse) in lost.iter_mut().zip(worse) {
        if lost.is_none() && is_worse {
            *lost = Some(Step::Med);
        }
    }
}

fn left<'c>(candidates: &'c [Candidate], lost: &[Option<Step>]) -> impl Iterator<Item = &'c Candidate> {
    candidates.iter().zip(lost).filter(|(_, lost)| lost.is_none()).map(|(candidate, _)| candidate)
}

const STEPS: [Step; 12] = [
    Step::Usable,
    Step::LongLived,
    Step::Local,
    Step::LocalPref,
    Step::AsPathLength,
    Step::Origin,
    Step::Med,
    Step::External,
    Step::InteriorCost,
    Step::Identifier,
    Step::ClusterListLength,
    Step::PeerAddress,
];

/// The order across route distinguishers.
const ACROSS: [Step; 12] = [
    Step::Usable,
    Step::LongLived,
    Step::LocalPref,
    Step::AsPathLength,
    Step::Origin,
    Step::Med,
    Step::Local,
    Step::External,
    Step::InteriorCost,
    Step::Identifier,
    Step::ClusterListLength,
    Step::PeerAddress,
];
