//! Route reflection: who gets whose routes, what is added to them, and how they are packed.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod rib_pair;

use std::time::Instant;

use bgp_core::{Family, FamilySet, LocalRoute, PeerDown, PeerId, PeerPolicy, Rib, RouteQuery, RouteScope};
use rib_pair::*;

const RED: &str = "target:65000:100";
const REFLECTOR: u8 = 100;

/// A neighbor of the reflector, with a RIB of its own.
struct End {
    n: u8,
    rib: Rib,
}

fn end(n: u8) -> End {
    let mut rib = rib(n);
    rib.set_imports(imports(&[(0, &[RED])]), Instant::now());
    End { n, rib }
}

/// A reflector, with these clients and others.
fn reflector(clients: &mut [End], others: &mut [End], families: FamilySet) -> Rib {
    let now = Instant::now();
    let mut reflector = rib(REFLECTOR);
    for (ends, route_reflector_client) in [(clients, true), (others, false)] {
        for End { n, rib } in ends {
            let policy = PeerPolicy { route_reflector_client, ..policy(*n) };
            reflector.peer_up(PeerId((*n).into()), policy, &session(REFLECTOR, *n, families), now);
            rib.peer_up(PEER, rib_pair::policy(REFLECTOR), &session(*n, REFLECTOR, families), now);
        }
    }
    reflector
}

fn settle_all(reflector: &mut Rib, ends: &mut [&mut [End]]) {
    let now = Instant::now();
    for _ in 0..20 {
        let mut is_silent = true;
        for End { n, rib } in ends.iter_mut().flat_map(|ends| ends.iter_mut()) {
            let peer = PeerId((*n).into());
            let (up, down) = (messages(rib, PEER), messages(reflector, peer));
            is_silent &= up.is_empty() && down.is_empty();
            take(reflector, peer, &up, now);
            take(rib, PEER, &down, now);
        }
        if is_silent {
            return;
        }
    }
    panic!("they never fall silent");
}

fn own(n: u8) -> LocalRoute {
    LocalRoute { next_hop: address(n).into(), ..route(&format!("65000:{n}:10.0.0.{n}/32"), 16, &[RED]) }
}

/// Whose routes this end has heard.
fn heard(end: &End) -> Vec<u8> {
    let query = RouteQuery {
        family: Some(Family::Vpnv4),
        scope: RouteScope::Received(PEER),
        ..RouteQuery::default()
    };
    let mut all: Vec<u8> = end
        .rib
        .routes(&query)
        .iter()
        .map(|view| match view.next_hop {
            std::net::IpAddr::V4(next_hop) => next_hop.octets()[3],
            std::net::IpAddr::V6(next_hop) => panic!("{next_hop}"),
        })
        .collect();
    all.sort_unstable();
    all
}

fn vpnv4() -> RouteQuery {
    RouteQuery { family: Some(Family::Vpnv4), ..RouteQuery::default() }
}

fn originate_all(ends: &mut [&mut [End]]) {
    for End { n, rib } in ends.iter_mut().flat_map(|ends| ends.iter_mut()) {
        rib.originate(own(*n), Instant::now());
    }
}

#[test]
fn clients_hear_everyone_others_hear_clients_and_nobody_hears_itself() {
    for families in [vpn(), FamilySet::L3VPN] {
        let (mut clients, mut others) = ([end(1), end(2)], [end(3), end(4)]);
        let mut reflector = reflector(&mut clients, &mut others, families);
        originate_all(&mut [&mut clients, &mut others]);
        settle_all(&mut reflector, &mut [&mut clients, &mut others]);
        assert_eq!([&clients[0], &clients[1]].map(heard), [vec![2, 3, 4], vec![1, 3, 4]], "{families:?}");
        assert_eq!([&others[0], &others[1]].map(heard), [vec![1, 2], vec![1, 2]], "{families:?}");
        assert!(events(&mut reflector).is_empty(), "it imports nothing itself");

        clients[0].rib.withdraw(own(1).prefix, Instant::now());
        reflector.peer_down(PeerId(3), PeerDown::Purge, Instant::now());
        others[0].rib.peer_down(PEER, PeerDown::Purge, Instant::now());
        settle_all(&mut reflector, &mut [&mut clients, &mut others[1..]]);
        assert_eq!([&clients[0], &clients[1]].map(heard), [vec![2, 4], vec![4]]);
        assert_eq!(heard(&others[1]), [2]);
    }
}

#[test]
fn originator_and_cluster_are_added_once_and_the_rest_is_left_alone() {
    let (mut clients, mut others) = ([end(1)], [end(2)]);
    let mut first = reflector(&mut clients, &mut others, vpn());
    originate_all(&mut [&mut clients]);
    settle_all(&mut first, &mut [&mut clients, &mut others]);
    let [view] = &others[0].rib.routes(&vpnv4())[..] else { panic!("one route") };
    assert_eq!((view.originator_id, &view.cluster_list[..]), (Some(address(1)), &[address(REFLECTOR)][..]));
    assert_eq!(view.next_hop, address(1));
    assert_eq!(view.route_targets.iter().map(|rt| rt.to_string()).collect::<Vec<_>>(), [RED]);

    // A second reflector behind the first.
    let now = Instant::now();
    let mut second = rib(200);
    let client = PeerPolicy { route_reflector_client: true, ..policy(REFLECTOR) };
    second.peer_up(PeerId(0), client.clone(), &session(200, REFLECTOR, vpn()), now);
    second.peer_up(PeerId(9), policy(9), &session(200, 9, vpn()), now);
    first.peer_up(
        PeerId(200),
        PeerPolicy { address: address(200).into(), ..client },
        &session(REFLECTOR, 200, vpn()),
        now,
    );
    let messages_up = messages(&mut first, PeerId(200));
    take(&mut second, PeerId(0), &messages_up, now);
    let told = messages(&mut second, PeerId(9));
    let mut last = end(9);
    last.rib.peer_up(PEER, policy(200), &session(9, 200, vpn()), now);
    take(&mut last.rib, PEER, &told, now);
    let [view] = &last.rib.routes(&vpnv4())[..] else { panic!("one route") };
    assert_eq!(view.originator_id, Some(address(1)));
    assert_eq!(view.cluster_list, [address(200), address(REFLECTOR)]);
    assert!(
        !messages(&mut second, PeerId(0)).iter().any(|(kind, body)| *kind == 2 && body.len() > 10),
        "never back"
    );
}

#[test]
fn routes_of_many_clients_with_equal_attributes_leave_packed() {
    let now = Instant::now();
    let mut clients = [end(1), end(2)];
    let mut reflector = reflector(&mut clients, &mut [], vpn());
    // One route per UPDATE in.
    for i in 0..200u8 {
        let route = LocalRoute { prefix: format!("65000:1:10.0.0.{i}/32").parse().unwrap(), ..own(1) };
        clients[0].rib.originate(route, now);
        take(&mut reflector, PeerId(1), &messages(&mut clients[0].rib, PEER), now);
    }
    let told = messages(&mut reflector, PeerId(2));
    let with_routes = told.iter().filter(|(kind, body)| *kind == 2 && body.len() > 10).count();
    assert_eq!(with_routes, 1);
    take(&mut clients[1].rib, PEER, &told, now);
    assert_eq!(heard(&clients[1]).len(), 200);
}

#[test]
fn memberships_are_passed_on_and_routes_go_only_where_they_are_wanted() {
    let now = Instant::now();
    let (mut clients, mut others) = ([end(1), end(2)], [end(3)]);
    clients[1].rib.set_imports(imports(&[(0, &["target:65000:7"])]), now);
    let mut reflector = reflector(&mut clients, &mut others, FamilySet::L3VPN);
    originate_all(&mut [&mut clients, &mut others]);
    settle_all(&mut reflector, &mut [&mut clients, &mut others]);
    assert_eq!([&clients[0], &clients[1], &others[0]].map(heard), [vec![2, 3], vec![], vec![1, 2]]);

    // Nobody else wants red any more: the client is told so and takes its route back.
    clients[0].rib.set_imports(Vec::new(), now);
    others[0].rib.set_imports(Vec::new(), now);
    settle_all(&mut reflector, &mut [&mut clients, &mut others]);
    assert_eq!(reflector.counts().routes, 0);
    clients[1].rib.set_imports(imports(&[(0, &[RED])]), now);
    settle_all(&mut reflector, &mut [&mut clients, &mut others]);
    assert_eq!(heard(&clients[1]), [1, 3]);
}

#[test]
fn who_has_no_route_target_constraint_is_spoken_for() {
    let now = Instant::now();
    let mut with = [end(1)];
    let mut without = end(2);
    let mut reflector = reflector(&mut with, &mut [], FamilySet::L3VPN);
    let client = PeerPolicy { route_reflector_client: true, ..policy(2) };
    reflector.peer_up(PeerId(2), client, &session(REFLECTOR, 2, vpn()), now);
    without.rib.peer_up(PEER, policy(REFLECTOR), &session(2, REFLECTOR, vpn()), now);
    originate_all(&mut [&mut with]);
    let mut without = [without];
    settle_all(&mut reflector, &mut [&mut with, &mut without]);
    assert_eq!(heard(&without[0]), [1]);
    reflector.peer_down(PeerId(2), PeerDown::Purge, now);
    settle_all(&mut reflector, &mut [&mut with]);
    assert_eq!(reflector.counts().routes, 0, "nobody is left who would want it");
}

#[test]
fn a_reflector_keeps_what_it_cannot_use_and_what_came_before_its_first_client() {
    let now = Instant::now();
    let mut reflector = rib(REFLECTOR);
    reflector.set_imports(imports(&[(0, &[RED])]), now);
    let mut source = end(1);
    reflector.peer_up(PeerId(1), policy(1), &session(REFLECTOR, 1, vpn()), now);
    source.rib.peer_up(PEER, policy(REFLECTOR), &session(1, REFLECTOR, vpn()), now);
    source.rib.originate(own(1), now);
    let other = LocalRoute { route_targets: vec!["target:65000:5".parse().unwrap()], ..own(9) };
    source.rib.originate(LocalRoute { next_hop: address(1).into(), ..other }, now);
    take(&mut reflector, PeerId(1), &messages(&mut source.rib, PEER), now);
    assert_eq!(reflector.counts().routes, 1);

    let mut client = end(2);
    client.rib.set_imports(imports(&[(0, &[RED, "target:65000:5"])]), now);
    let policy = PeerPolicy { route_reflector_client: true, ..policy(2) };
    reflector.peer_up(PeerId(2), policy, &session(REFLECTOR, 2, vpn()), now);
    client.rib.peer_up(PEER, rib_pair::policy(REFLECTOR), &session(2, REFLECTOR, vpn()), now);
    let mut ends = [source, client];
    settle_all(&mut reflector, &mut [&mut ends]);
    assert_eq!(heard(&ends[1]), [1, 1], "the rest was asked for");
}
