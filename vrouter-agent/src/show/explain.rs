//! `explain`: the RIB's reasons in words, and what they come to.

use std::time::Instant;

use agent_api::{ApiError, ExplainedPath, Explanation};
use bgp_peer::NeighborView;
use bgp_peer::bgp_core;
use vrouter_types::{Prefix, VrfId};

use super::{bgp, vrf_named};
use crate::overlay::{Overlay, Protocol};

/// The number of the VRF that is asked about.
pub fn explained_vrf(overlay: &Overlay, name: &str) -> Result<VrfId, ApiError> {
    vrf_named(overlay, name).map(|vrf| vrf.id)
}

/// What the RIB knows, with names for numbers.
pub fn explanation(
    overlay: &Overlay,
    neighbors: &[NeighborView],
    reasons: &bgp_core::Explanation,
    now: Instant,
) -> Explanation {
    let candidate = |it: &bgp_core::ExplainedPath| {
        let not_used = match it.lost {
            _ if !it.is_imported => {
                Some("not imported: it carries no route target that the VRF imports".to_owned())
            }
            lost => lost.map(|step| step.to_string()),
        };
        let told = |(peer, why): &(bgp_peer::PeerId, Option<bgp_core::NotAdvertised>)| {
            let address = bgp::neighbor_address(neighbors, *peer)?;
            Some((address, why.map_or("advertised".to_owned(), |why| why.to_string())))
        };
        ExplainedPath {
            network: it.route.key.to_string(),
            path: bgp::path(overlay, neighbors, &it.route, now),
            imported: it.is_imported,
            not_used,
            not_best: it.lost_in_table.map(|step| step.to_string()),
            advertised: it.advertised.iter().filter_map(told).collect(),
        }
    };
    let candidates: Vec<ExplainedPath> = reasons.candidates.iter().map(candidate).collect();
    Explanation {
        vrf: overlay.vrf(reasons.vrf).map(|vrf| vrf.config.name.clone()).unwrap_or_default(),
        prefix: reasons.prefix,
        imports: reasons.imports.clone(),
        verdict: verdict(overlay, reasons.vrf, reasons.prefix, &candidates),
        candidates,
    }
}

fn verdict(overlay: &Overlay, vrf: VrfId, prefix: Prefix, candidates: &[ExplainedPath]) -> Vec<String> {
    let mut verdict = Vec::new();
    let entry = overlay.routes(vrf).find(|entry| entry.prefix == prefix);
    verdict.push(match entry.map(|entry| entry.protocol) {
        Some(Protocol::Local) => "a port of this node has it: that comes before BGP".to_owned(),
        Some(Protocol::Connected) => "it is the node's own: that comes before BGP".to_owned(),
        Some(Protocol::Stale) => "the last run's route serves: no neighbor has confirmed it yet".to_owned(),
        Some(Protocol::Bgp) => "it forwards as BGP says".to_owned(),
        None => "it does not forward".to_owned(),
    });
    let usable = candidates.iter().filter(|it| it.not_used.is_none()).count();
    if candidates.is_empty() && entry.is_none() {
        verdict.push(
            "no path is held; received routes that no VRF imports are not kept: compare the route targets with what \
             the other provider edge exports"
                .to_owned(),
        );
    } else if usable == 0 && entry.is_none() {
        verdict.push("no path that is held is usable in this VRF".to_owned());
    } else if entry.is_none() && usable > 0 {
        verdict.push(
            "a path would do, but its provider edge cannot be reached: it wants an encapsulation that [underlay] does \
             not have, or is of the other IP version"
                .to_owned(),
        );
    } else if usable > 1 {
        verdict.push(format!("{usable} equally good paths share the traffic by flow"));
    }
    verdict
}
