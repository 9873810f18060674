//! Whatever happens in whatever order, and whatever fails: what must hold, holds.
#![allow(clippy::unwrap_used, reason = "a test may")]

mod common;

use std::collections::{BTreeMap, BTreeSet};

use common::{CONFIG, Node, ip, label, pod, prefix, tap};
use proptest::prelude::*;
use vrouter_agent::event::{Effect, Event, Millis, VrfPath, VrfRoute};
use vrouter_agent::fib_build::FibBuilder;
use vrouter_agent::overlay::Target;
use vrouter_types::{Encap, EncapSet, VrfId};

#[derive(Debug, Clone)]
enum Step {
    Pod {
        number: u8,
        namespace: u8,
        mac: u8,
    },
    Tap {
        number: u8,
        vrf: u8,
        address: u8,
    },
    Detach(u8),
    LinkGoes(u8),
    LinkComes(u8),
    Time(u16),
    Route {
        vrf: u32,
        to: u8,
        next_hops: Vec<u8>,
    },
    Underlay(Option<u8>),
    /// The next effects of this kind fail, until the step after.
    Fail(u8),
    Restart {
        reboot: bool,
    },
    /// The operator has another file.
    Reload(u8),
    RoutesComplete,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (0u8..6, 0u8..4, 1u8..3).prop_map(|(number, namespace, mac)| Step::Pod { number, namespace, mac }),
        2 => (0u8..6, 0u8..3, 1u8..4).prop_map(|(number, vrf, address)| Step::Tap { number, vrf, address }),
        3 => (0u8..6).prop_map(Step::Detach),
        1 => (0u8..6).prop_map(Step::LinkGoes),
        1 => (0u8..6).prop_map(Step::LinkComes),
        2 => any::<u16>().prop_map(Step::Time),
        3 => (0u32..4, 0u8..4, proptest::collection::vec(1u8..5, 0..3))
            .prop_map(|(vrf, to, next_hops)| Step::Route { vrf, to, next_hops }),
        1 => proptest::option::of(1u8..4).prop_map(Step::Underlay),
        2 => (0u8..7).prop_map(Step::Fail),
        1 => any::<bool>().prop_map(|reboot| Step::Restart { reboot }),
        2 => (0u8..6).prop_map(Step::Reload),
        1 => Just(Step::RoutesComplete),
    ];
    proptest::collection::vec(step, 1..60)
}

const FAILURES: [fn(&Effect) -> bool; 7] = [
    |effect| matches!(effect, Effect::SavePort(_)),
    |effect| matches!(effect, Effect::ForgetPort { .. }),
    |effect| matches!(effect, Effect::OpenPort { .. }),
    |effect| matches!(effect, Effect::AddHostRoute(_)),
    |effect| matches!(effect, Effect::Originate(_)),
    |effect| matches!(effect, Effect::SaveLabels { .. }),
    |effect| matches!(effect, Effect::SetUnderlay(_)),
];

/// Another file: VRFs gone, new, in another order, with other route distinguishers, targets, defaults, encapsulations.
fn file(number: u8) -> String {
    let vrf = |name: &str| {
        let (_, rest) = CONFIG.split_once(&format!("[[vrf]]\nname = \"{name}\"")).unwrap();
        format!("[[vrf]]\nname = \"{name}\"{}", rest.split("[[vrf]]").next().unwrap())
    };
    let head = CONFIG.split("[[vrf]]").next().unwrap();
    match number {
        1 => format!("{head}{}{}", vrf("city"), vrf("main")),
        2 => format!(
            "{head}[[vrf]]\nname = \"new\"\nimport = [\"target:1:1\"]\nhost = \"open\"\n{}{}",
            vrf("main"),
            vrf("city")
        ),
        3 => CONFIG.replacen("name = \"city\"", "name = \"city\"\nrd = \"64512:77\"", 1),
        4 => CONFIG.replace("default = true\n", "").replace("namespaces = [\"b\"]", "default = true"),
        5 => CONFIG
            .replace("accept-from", "encapsulations = [\"mpls-over-gre\"]\naccept-from")
            .replace("512:100", "512:101"),
        _ => CONFIG.to_owned(),
    }
}

fn perform(mut node: Node, step: Step, boot: &mut u32) -> Node {
    let name = |number: u8| format!("c{number}");
    match step {
        Step::Pod { number, namespace, mac } => {
            let namespace = ["city-a", "b", "default", "city-b"][usize::from(namespace)];
            let mut request = pod(&mut node, &name(number), namespace);
            request.mac = format!("02:00:00:00:00:0{mac}").parse().unwrap();
            let _ = node.attach(request);
        }
        Step::Tap { number, vrf, address } => {
            let vrf = ["city", "tenant-b", "main"][usize::from(vrf)];
            let request = tap(&mut node, &name(number), vrf, &[&format!("10.1.1.{address}")]);
            let _ = node.attach(request);
        }
        Step::Detach(number) => drop(node.detach(&name(number))),
        Step::LinkGoes(number) => {
            let link = format!("vr{}", name(number));
            node.links.remove(&link);
            node.handle(Event::LinkRemoved(link));
        }
        Step::LinkComes(number) => {
            let link = format!("vr{}", name(number));
            node.links.insert(link.clone());
            node.handle(Event::LinkAdded(link));
        }
        Step::Time(millis) => {
            node.now += u64::from(millis);
            let now = Millis(node.now);
            node.handle(Event::Tick { now });
        }
        Step::Route { vrf, to, next_hops } => {
            let path = |next_hop: &u8| VrfPath {
                rd: "192.0.2.1:1".parse().unwrap(),
                next_hop: ip(&format!("192.0.2.{next_hop}")),
                label: label(100 + u32::from(*next_hop)),
                encaps: Encap::ALL.into_iter().take(usize::from(next_hop % 3)).collect::<EncapSet>(),
                local: false,
                local_pref: 100,
            };
            let paths = next_hops.iter().map(path).collect();
            let to = prefix(["10.1.1.1/32", "10.20.11.2/32", "10.8.0.0/16", "0.0.0.0/0"][usize::from(to)]);
            node.handle(Event::Routes(vec![VrfRoute { vrf: VrfId(vrf), prefix: to, paths }]));
        }
        Step::Underlay(last) => node.underlay(last.map(|last| format!("203.0.113.{last}")).as_deref(), 1500),
        Step::Fail(kind) => node.fail = Some(FAILURES[usize::from(kind)]),
        Step::Restart { reboot } => {
            if reboot {
                *boot += 1;
                node.links.retain(|link| link.len() % 2 == 0);
            }
            node.saved_routes = node.overlay.saved_routes(100);
            node.stale_for = 20_000;
            node = node.restart(CONFIG, &format!("boot-{boot}"));
        }
        Step::Reload(number) => drop(node.reload(&file(number))),
        Step::RoutesComplete => node.handle(Event::RoutesComplete),
    }
    node
}

/// `heard`: BGP has taken every route that it was told.
fn assert_consistent(node: &Node, heard: bool) {
    let overlay = &node.overlay;
    assert!(node.answers.is_empty(), "every call was answered, once");
    let fib = FibBuilder::new().build(overlay);
    let (mut labels, mut addresses) = (BTreeSet::new(), BTreeSet::new());
    for port in overlay.ports() {
        let saved = &port.saved;
        assert!(labels.insert(saved.label), "label {} twice", saved.label);
        for address in &saved.addresses {
            assert!(addresses.insert((port.vrf, *address)), "{address} twice in VRF {}", port.vrf);
        }
        assert_eq!(node.disk.get(&saved.port), Some(saved), "what is attached is on disk");
        assert_eq!(node.open.contains_key(&saved.port), port.is_up());
        assert_eq!(fib.ilm.lookup(saved.label), port.is_up().then_some(saved.port));
    }
    for route in node.advertised.values() {
        let port = overlay.ports().find(|port| port.saved.label == route.label);
        let port = port.unwrap_or_else(|| panic!("{} is advertised, but nobody's", route.prefix));
        assert!(port.is_up() && port.prefixes().any(|prefix| prefix == route.prefix.prefix));
        let vrf = &overlay.vrf(port.vrf).unwrap().config;
        let is_as_configured = vrf.rd == route.prefix.rd && vrf.export == route.route_targets;
        assert!(is_as_configured || !heard, "{route:?}");
    }
    assert_eq!(node.open.len(), overlay.ports().filter(|port| port.is_up()).count());
    for (address, port) in overlay.host_addresses() {
        assert!(node.host_routes.contains(&address) || overlay.host_failure(address).is_some());
        assert_eq!(fib.host.lookup(address), Some(port));
    }
    assert!(node.host_routes.iter().all(|address| overlay.host_owner(*address).is_some()));
    let mut hops = BTreeMap::new();
    for route in overlay.vrfs().iter().flat_map(|vrf| overlay.routes(vrf.id)) {
        if let Target::Tunnels(ways) = &route.target {
            ways.iter().for_each(|(tunnel, _)| *hops.entry(*tunnel).or_insert(0) += 1);
        }
    }
    let counted: BTreeMap<_, usize> = overlay.tunnels().map(|tunnel| (tunnel.id, tunnel.routes)).collect();
    assert_eq!(counted, hops, "a tunnel counts the ways that lead through it");
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn ports_disk_forwarding_and_advertisements_agree(steps in steps()) {
        let (mut node, mut boot, mut heard) = (Node::new(), 1, true);
        for step in steps {
            let fails = matches!(step, Step::Fail(_));
            let was_failing = node.fail.is_some();
            heard &= !matches!(step, Step::Fail(4));
            node = perform(node, step, &mut boot);
            if was_failing && !fails {
                node.fail = None;
            }
            assert_consistent(&node, heard);
        }
        node.fail = None;
        for number in 0..6 {
            node.detach(&format!("c{number}")).unwrap();
        }
        node.now += 120_000;
        let now = Millis(node.now);
        node.handle(Event::Tick { now });
        assert_consistent(&node, heard);
        prop_assert!(node.disk.is_empty() && node.open.is_empty() && node.advertised.is_empty());
        prop_assert!(node.host_routes.is_empty() && node.overlay.labels().count() == 0);
    }
}
