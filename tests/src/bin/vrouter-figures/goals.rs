//! The floors and goals of the design's table of figures.

use crate::contender::{DIRECT, GRE, OVS, UDP};
use crate::measure::Test;
use crate::throughput::Scene;

/// What a ratio must reach, and what it should. For round trips less is better.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Aim {
    pub(crate) floor: f64,
    pub(crate) goal: f64,
    pub(crate) less: bool,
}

impl Aim {
    /// In words, as the table says it.
    pub(crate) fn judge(&self, ratio: f64) -> &'static str {
        let met = |aim: f64| if self.less { ratio <= aim } else { ratio >= aim };
        match (met(self.floor), met(self.goal)) {
            (_, true) => "goal met",
            (true, false) => "floor met",
            (false, false) => "FLOOR MISSED",
        }
    }
}

/// What the design asks of this row, ours beside the peer.
pub(crate) fn aim(scene: Scene, test: Test, ours: &str, peer: &str) -> Option<Aim> {
    let more = |floor, goal| Some(Aim { floor, goal, less: false });
    if peer == OVS {
        // Ahead on every row.
        let less = test == Test::Rtt;
        return Some(Aim { floor: 1.0, goal: if less { 1.0 / 1.5 } else { 1.5 }, less });
    }
    if peer == DIRECT {
        // No router can be as fast as none: for comparison only.
        return None;
    }
    // Another build of ours is held to the same.
    let kind = ours.split('-').next().unwrap_or(ours);
    match (scene, test, kind) {
        (Scene::On, Test::Tcp { streams: 1 }, UDP) => more(0.75, 0.9),
        (Scene::On, Test::Tcp { streams: 4 }, UDP) => more(0.55, 0.75),
        (Scene::Nic, Test::Tcp { streams: 1 }, UDP) => more(0.9, 1.1),
        (Scene::Nic, Test::Tcp { streams: 4 }, UDP) => more(0.7, 0.9),
        (Scene::Off, Test::Tcp { .. }, UDP) => more(0.65, 0.8),
        (Scene::Off, Test::Tcp { .. }, GRE) => more(0.6, 0.8),
        (Scene::On, Test::Udp { flows: 1, mixed: false }, UDP) => more(2.0, 3.0),
        (Scene::On, Test::Udp { flows: 1000, mixed: true }, UDP) => more(0.9, 1.3),
        (Scene::On, Test::Rtt, UDP) => Some(Aim { floor: 1.6, goal: 1.0, less: true }),
        (Scene::Node, Test::Tcp { streams: 1 }, _) => more(0.65, 0.8),
        (Scene::Node, Test::Tcp { streams: 4 }, _) => more(0.5, 0.65),
        (Scene::Node, Test::Udp { flows: 1, mixed: false }, _) => more(0.85, 1.4),
        (Scene::Node, Test::Rtt, _) => Some(Aim { floor: 1.1, goal: 0.7, less: true }),
        _ => None,
    }
}
