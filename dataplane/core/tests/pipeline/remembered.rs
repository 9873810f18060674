//! What a worker remembers of flows is what the routes say, and no longer than they say it.

use dataplane_core::{DropReason, Route, Verdict};
use proptest::prelude::*;
use vrouter_types::PortId;

use crate::lab::{CITY, CITY_2, Lab, POWER, assert_drop, hop};
use crate::packets::{udp, udp_ports};

/// A lab whose snapshot counts as published.
fn published() -> Lab {
    let mut lab = Lab::new();
    lab.fib.generation = 1;
    lab
}

proptest! {
    #[test]
    fn a_remembered_way_is_the_way(
        sent in prop::collection::vec((1u32..4, 0u8..8, 0u8..4, any::<u16>(), any::<bool>()), 1..300),
        mask in prop::sample::select(vec![0u16, 1, 15, u16::MAX]),
    ) {
        let (mut remembering, mut asking) = (published(), Lab::new());
        for (port, net, host, ports, v6) in sent {
            let (src, dst) = if v6 {
                ("fd00:20:11::2".to_owned(), format!("fd00:20:{}::{}", 10 + net, host))
            } else {
                ("10.20.11.2".to_owned(), format!("10.20.{}.{}", 10 + net, 1 + host))
            };
            let packet = udp_ports(&src, &dst, (ports & mask, 9), 3);
            let (got, want) = (remembering.port(PortId(port), &packet), asking.port(PortId(port), &packet));
            prop_assert_eq!(got.verdict, want.verdict);
            prop_assert_eq!(got.bytes, want.bytes);
        }
    }
}

#[test]
fn a_new_snapshot_forgets_everything_at_once() {
    let mut lab = published();
    let packet = udp("10.20.11.2", "10.20.12.7", 3);
    let label = |verdict| match verdict {
        Verdict::ToUnderlay(push) => push.label.value(),
        other => panic!("{other:?}"),
    };
    assert_eq!(label(lab.port(CITY, &packet).verdict), 100);
    let change = |lab: &mut Lab, route: Option<Route>| {
        let mut vrf = lab.fib.vrfs[0].as_deref().unwrap().clone();
        match route {
            Some(route) => vrf.routes.insert("10.20.12.0/24".parse().unwrap(), route),
            None => vrf.routes.remove("10.20.12.0/24".parse().unwrap()),
        };
        lab.fib.insert_vrf(vrf.into());
        lab.fib.generation += 1;
    };
    change(&mut lab, Some(Route::Tunnel([hop(0, 555)].into())));
    assert_eq!(label(lab.port(CITY, &packet).verdict), 555);
    change(&mut lab, Some(Route::Port(CITY_2)));
    assert_eq!(lab.port(CITY, &packet).verdict, Verdict::ToPort(CITY_2));
    change(&mut lab, Some(Route::Discard));
    assert_drop(&lab.port(CITY, &packet), DropReason::DiscardRoute);
    change(&mut lab, None);
    assert!(matches!(lab.port(CITY, &packet).verdict, Verdict::Reply(_)));
    change(&mut lab, Some(Route::Tunnel([hop(1, 7)].into())));
    assert_eq!(label(lab.port(CITY, &packet).verdict), 7);
}

#[test]
fn a_port_or_tunnel_that_is_gone_is_not_reached_from_memory() {
    let mut lab = published();
    let (far, near) = (udp("10.20.11.2", "10.20.12.7", 3), udp("10.20.11.2", "10.20.11.3", 3));
    for packet in [&far, &near] {
        assert!(!matches!(lab.port(CITY, packet).verdict, Verdict::Drop(_)));
    }
    // Even if nobody had changed the generation.
    lab.fib.tunnels.clear();
    lab.fib.ports[2] = None;
    assert_drop(&lab.port(CITY, &far), DropReason::NoTunnel);
    assert_drop(&lab.port(CITY, &near), DropReason::UnknownPort);
}

#[test]
fn tenants_with_the_same_addresses_and_ports_have_a_memory_each() {
    let mut lab = published();
    let packet = udp("10.20.11.2", "10.20.12.7", 3);
    for _ in 0..3 {
        for (port, want) in [(CITY, 100), (POWER, 200)] {
            let Verdict::ToUnderlay(push) = lab.port(port, &packet).verdict else { panic!() };
            assert_eq!(push.label.value(), want);
        }
    }
}
