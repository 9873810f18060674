//! The numbered checklist of the CNI specification: ours fulfils every item, and others show that items can fail.

use std::path::Path;

use vrouter_tests::binaries::binary;
use vrouter_tests::cni_checklist::{Level, Score, Subject, reference_configuration, run};
use vrouter_tests::cni_run::REFERENCE_PLUGINS;
use vrouter_tests::{AgentConfig, Lab, Node, Vrf};

#[test]
fn every_item_of_the_specification_is_fulfilled() {
    let lab = Lab::new();
    let vrf = Vrf::new("open", "target:64512:1").pods("10.98.0.0/24").pods("fd00:98::/64").default();
    let mut node = Node::start(&lab, "gw", 1, &AgentConfig::new(64512).vrf(&vrf));
    let score = run(&Subject::vrouter(&binary("vrouter-cni"), &mut node, &lab));
    println!("{}", score.table());
    let failures: Vec<_> = score.failures().map(|line| line.id).collect();
    assert!(failures.is_empty(), "{failures:?}:\n{}", score.table());
    let ((must, musts), (should, shoulds)) = (score.of(Level::Must), score.of(Level::Should));
    assert_eq!(
        (must + should, musts + shoulds),
        (score.lines.len(), score.lines.len()),
        "items were skipped"
    );
}

fn reference(name: &str) -> Option<Score> {
    let plugin = Path::new(REFERENCE_PLUGINS).join(name);
    if !plugin.exists() {
        eprintln!("SKIPPED: no {}: install containernetworking-plugins", plugin.display());
        return None;
    }
    let lab = Lab::new();
    let configuration = reference_configuration(name, &lab.path("leases")).expect("a configuration");
    let score = run(&Subject::new(name, &plugin, configuration, &lab.namespace("host"), &lab));
    println!("{}", score.table());
    Some(score)
}

#[test]
fn the_reference_plugins_are_held_against_the_same_items() {
    for name in ["ptp", "bridge"] {
        let Some(score) = reference(name) else { continue };
        // What is theirs to fulfil is not ours to assert. But a checklist on which nobody fails, or everybody, is none.
        let (must, musts) = score.of(Level::Must);
        assert!(must > musts / 2, "{}", score.summary());
        assert!(score.failures().count() > 0, "{}", score.summary());
    }
}
