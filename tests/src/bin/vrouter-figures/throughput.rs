//! TCP bulk, UDP packets and round trips between two pods, ours beside the kernel's own ways and Open vSwitch.

use vrouter_tests::lab::Lab;

use crate::contender::{self, Contender, GRE, UDP};
use crate::goals::aim;
use crate::measure::{Run, Test, run};
use crate::report::{Figures, median};
use crate::{Options, listed, peers};

/// Where the two pods stand, and what the link between their nodes does by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scene {
    On,
    Nic,
    Off,
    Node,
}

impl Scene {
    const ALL: [(Scene, &str, &str); 4] = [
        (Scene::On, "on", "two nodes, underlay offloads on"),
        (Scene::Nic, "nic", "two nodes, underlay like a NIC: sending offloads off, GRO on"),
        (Scene::Off, "off", "two nodes, all underlay offloads off"),
        (Scene::Node, "node", "one node"),
    ];

    /// What ethtool is told about both ends of the underlay.
    pub(crate) fn features(self) -> &'static [&'static str] {
        match self {
            Scene::On | Scene::Node => &[],
            Scene::Nic => {
                &["tso", "off", "gso", "off", "tx-udp-segmentation", "off", "tx", "off", "gro", "on"]
            }
            Scene::Off => {
                &["tso", "off", "gso", "off", "tx-udp-segmentation", "off", "tx", "off", "gro", "off"]
            }
        }
    }

    /// The tests that say something here.
    fn tells(self, test: Test) -> bool {
        match self {
            Scene::On => true,
            Scene::Nic | Scene::Off => {
                matches!(
                    test,
                    Test::Tcp { .. } | Test::Udp { flows: 1, .. } | Test::Udp { flows: 1000, mixed: true }
                )
            }
            Scene::Node => {
                matches!(test, Test::Tcp { .. } | Test::Udp { mixed: false, flows: 1 | 1000 } | Test::Rtt)
            }
        }
    }
}

/// Measures everything that was asked for, contenders interleaved.
pub(crate) fn compare(figures: &mut Figures, options: &Options) {
    for (scene, name, words) in Scene::ALL {
        if !listed(&options.underlay, name) {
            continue;
        }
        let tests: Vec<_> = Test::ALL
            .into_iter()
            .filter(|(row, .., test)| listed(&options.row, row) && scene.tells(*test))
            .collect();
        if tests.is_empty() {
            continue;
        }
        let lab = Lab::new();
        let contenders = contenders(&lab, scene, options);
        println!(
            "\n{words}; receivers verify checksums; median of {} interleaved runs (range)",
            options.runs
        );
        for (_, what, unit, test) in tests {
            compare_one(figures, (scene, name), (what, unit, test), &contenders, options.runs.into());
        }
    }
}

/// Makes a peer, where it is installed.
type Make = fn(&Lab) -> Option<Contender>;

fn contenders(lab: &Lab, scene: Scene, options: &Options) -> Vec<Contender> {
    let wanted = |name: &str| listed(&options.contender, name);
    let mut contenders = Vec::new();
    let mut host = 20;
    let mut own = |kind: &'static str, encapsulation: &str| {
        for agent in std::iter::once(None).chain(options.beside.iter().map(Some)) {
            let name = agent
                .and_then(|agent| agent.file_stem())
                .map_or(kind.to_owned(), |file| format!("{kind}-{}", file.to_string_lossy()));
            if wanted(&name) {
                host += 2;
                let agent = agent.map(|agent| agent.as_path());
                contenders.push(contender::ours(lab, name, [host, host + 1], encapsulation, scene, agent));
            }
        }
    };
    match scene {
        Scene::Node => {
            own(contender::OURS, "mpls-over-udp");
            let peers: [(_, Make); 3] = [
                (contender::OVS, peers::open_vswitch),
                (contender::DIRECT, |lab| Some(peers::direct_veth(lab))),
                (contender::FORWARD, |lab| Some(peers::kernel_forwarding(lab))),
            ];
            let peers = peers.into_iter().filter(|(name, _)| wanted(name));
            contenders.extend(peers.filter_map(|(_, make)| make(lab)));
        }
        Scene::On | Scene::Nic | Scene::Off => {
            own(UDP, "mpls-over-udp");
            own(GRE, "mpls-over-gre");
            if wanted(contender::VXLAN) {
                contenders.push(peers::kernel_vxlan(lab, scene));
            }
        }
    }
    contenders
}

fn compare_one(
    figures: &mut Figures,
    (scene, scene_name): (Scene, &str),
    (what, unit, test): (&str, &str, Test),
    contenders: &[Contender],
    runs: usize,
) {
    let mut series: Vec<Vec<Run>> = contenders.iter().map(|_| Vec::new()).collect();
    for _ in 0..runs {
        for (contender, series) in contenders.iter().zip(&mut series) {
            series.push(run(contender, test));
        }
    }
    let of = |runs: &[Run], value: fn(&Run) -> f64| runs.iter().map(value).collect::<Vec<_>>();
    println!("{what}");
    for (contender, runs) in contenders.iter().zip(&series) {
        figures.series(
            &format!("{scene_name}: {what}, {}", contender.name),
            &contender.name,
            unit,
            &of(runs, |run| run.figure),
            median(&of(runs, |run| run.p99)),
            median(&of(runs, |run| run.cpu)),
        );
    }
    for (contender, runs) in contenders.iter().zip(&series).filter(|(contender, _)| contender.is_ours) {
        for (peer, theirs) in contenders.iter().zip(&series).filter(|(peer, _)| !peer.is_ours) {
            figures.ratio(
                &format!("{scene_name}: {what}"),
                (&contender.name, &of(runs, |run| run.figure)),
                (&peer.name, &of(theirs, |run| run.figure)),
                aim(scene, test, &contender.name, &peer.name),
            );
        }
    }
}
