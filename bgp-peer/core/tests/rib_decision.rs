//! Route selection, one test per step, under the step's number in RFC 4271 §9.1.2.2 and RFC 4456 §9.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::net::Ipv4Addr;

use bgp_core::decision::{Candidate, Step, decide};
use bgp_core::wire::attr::check::Origin;
use vrouter_types::Asn;

/// A candidate that is neither better nor worse than its like in any step but the last.
fn candidate(n: u8) -> Candidate {
    Candidate {
        is_usable: true,
        is_long_lived: false,
        is_local: false,
        local_pref: 100,
        as_path_length: 2,
        origin: Origin::Egp,
        neighbor_as: Some(Asn(65001)),
        med: 50,
        is_external: false,
        identifier: Ipv4Addr::new(192, 0, 2, 100),
        cluster_list_length: 1,
        peer_address: Some(Ipv4Addr::new(192, 0, 2, n).into()),
    }
}

fn lost(candidates: &[Candidate]) -> Vec<Option<Step>> {
    let mut lost = Vec::new();
    decide(candidates, Step::PeerAddress, &mut lost);
    lost
}

/// The second beats the first in this step, although the first would win by neighbor address.
fn assert_decides(step: Step, improve: impl Fn(&mut Candidate)) {
    let mut pair = [candidate(1), candidate(2)];
    assert_eq!(lost(&pair), [None, Some(Step::PeerAddress)], "without the improvement");
    improve(&mut pair[1]);
    assert_eq!(lost(&pair), [Some(step), None]);
    pair.reverse();
    assert_eq!(lost(&pair), [None, Some(step)], "in the other order");
}

#[test]
fn step_0_a_path_that_cannot_be_used_is_never_best() {
    let unusable = Candidate { is_usable: false, local_pref: 200, ..candidate(1) };
    assert_eq!(lost(&[unusable, candidate(2)]), [Some(Step::Usable), None]);
    assert_eq!(lost(&[unusable]), [Some(Step::Usable)], "not even alone");
}

#[test]
fn step_0_our_own_route_wins() {
    assert_decides(Step::Local, |c| c.is_local = true);
}

#[test]
fn step_0_highest_local_pref_wins() {
    assert_decides(Step::LocalPref, |c| c.local_pref = 101);
}

#[test]
fn step_a_shortest_as_path_wins() {
    assert_decides(Step::AsPathLength, |c| c.as_path_length = 1);
}

#[test]
fn step_b_lowest_origin_wins() {
    assert_decides(Step::Origin, |c| c.origin = Origin::Igp);
}

#[test]
fn step_c_lowest_med_wins() {
    assert_decides(Step::Med, |c| c.med = 49);
}

#[test]
fn step_c_med_is_not_compared_between_neighboring_ass() {
    let other = Candidate { neighbor_as: Some(Asn(65002)), med: 1, ..candidate(2) };
    assert_eq!(lost(&[candidate(1), other]), [None, Some(Step::PeerAddress)]);
}

#[test]
fn step_c_does_not_depend_on_the_order_of_paths() {
    // Pairwise, each of the three beats another in a circle: x loses to z by MED, z to y and y to x by identifier.
    let x = Candidate { med: 10, identifier: Ipv4Addr::new(1, 1, 1, 1), ..candidate(1) };
    let y =
        Candidate { neighbor_as: Some(Asn(65002)), identifier: Ipv4Addr::new(2, 2, 2, 2), ..candidate(2) };
    let z = Candidate { med: 5, identifier: Ipv4Addr::new(3, 3, 3, 3), ..candidate(3) };
    for order in [[x, y, z], [x, z, y], [y, x, z], [y, z, x], [z, x, y], [z, y, x]] {
        let best: Vec<_> = order.iter().zip(lost(&order)).filter(|(_, lost)| lost.is_none()).collect();
        assert_eq!(best.len(), 1);
        assert_eq!(*best[0].0, y);
    }
}

#[test]
fn step_d_external_beats_internal() {
    assert_decides(Step::External, |c| c.is_external = true);
}

#[test]
fn step_e_all_next_hops_cost_the_same_so_paths_stay_equal() {
    let pair = [candidate(1), candidate(2)];
    let mut lost = Vec::new();
    decide(&pair, Step::InteriorCost, &mut lost);
    assert_eq!(lost, [None, None], "both carry traffic");
}

#[test]
fn step_f_lowest_identifier_wins() {
    assert_decides(Step::Identifier, |c| c.identifier = Ipv4Addr::new(192, 0, 2, 99));
}

#[test]
fn step_f_to_g_shortest_cluster_list_wins() {
    assert_decides(Step::ClusterListLength, |c| c.cluster_list_length = 0);
}

#[test]
fn step_g_lowest_neighbor_address_wins() {
    assert_eq!(lost(&[candidate(2), candidate(1)]), [Some(Step::PeerAddress), None]);
}

#[test]
fn every_step_yields_to_the_ones_before_it() {
    type Improve = fn(&mut Candidate);
    let improvements: [(Step, Improve); 9] = [
        (Step::Local, |c| c.is_local = true),
        (Step::LocalPref, |c| c.local_pref = 101),
        (Step::AsPathLength, |c| c.as_path_length = 1),
        (Step::Origin, |c| c.origin = Origin::Igp),
        (Step::Med, |c| c.med = 49),
        (Step::External, |c| c.is_external = true),
        (Step::Identifier, |c| c.identifier = Ipv4Addr::LOCALHOST),
        (Step::ClusterListLength, |c| c.cluster_list_length = 0),
        (Step::PeerAddress, |c| c.peer_address = None),
    ];
    for (earlier, (step, improve)) in improvements.iter().enumerate() {
        let mut pair = [candidate(1), candidate(1)];
        improve(&mut pair[0]);
        improvements[earlier + 1..].iter().for_each(|(_, later)| later(&mut pair[1]));
        assert_eq!(lost(&pair), [None, Some(*step)]);
    }
}
