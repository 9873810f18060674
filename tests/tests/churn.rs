//! Many pods, at once, again and again, and an agent that is killed in the middle of it: nothing leaks, nothing that was
//! acknowledged is lost.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use agent_api::{AttachPort, Client, DetachPort, PortKey, PortKind};
use serde_json::Value;
use vrouter_tests::fixture::{gateway, pair};
use vrouter_tests::process::{command, run_ok};
use vrouter_tests::{Answer, Lab, Node, PATIENCE, Pod, Probe, wait_for};
use vrouter_types::MacAddr;

/// The containers that the agent has ports for.
fn containers(node: &Node) -> BTreeSet<String> {
    let ports = node.ctl_json(&["show", "ports"]);
    let ports = ports["ports"].as_array().cloned().unwrap_or_default();
    ports.iter().filter_map(|port| port["key"]["container"].as_str().map(str::to_owned)).collect()
}

/// What the agent and the node hold that a pod could leave behind: open files, links, state files, host routes.
fn held(node: &Node) -> [usize; 4] {
    let files =
        |path: String| std::fs::read_dir(path).map(|entries| entries.flatten().count()).unwrap_or_default();
    let state = files(node.directory().join("state/ports").display().to_string());
    let links = node.namespace().netlink(|netlink| netlink.links()).len();
    let routes = node.namespace().run(|| {
        let tables = ["route", "ipv6_route"]
            .map(|table| std::fs::read_to_string(format!("/proc/thread-self/net/{table}")));
        let tables = tables.map(|table| table.expect("the kernel's routes"));
        tables.iter().flat_map(|table| table.lines()).filter(|line| line.contains("vrouter0")).count()
    });
    assert!(routes > 0, "the host has no route to the pod that stays");
    [files(format!("/proc/{}/fd", node.pid())), links, state, routes]
}

#[test]
fn pods_that_come_and_go_leave_nothing_behind() {
    let lab = Lab::new();
    let node = Node::start(&lab, "gw-11", 11, &gateway(11, &[]));
    let stays = node.add_pod("stays");
    let before = held(&node);
    for round in 0..40 {
        let pod = node.add_pod("guest");
        if round % 10 == 0 {
            assert_eq!(Probe::default().send(stays.namespace(), pod.v4().into()), Answer::Reply);
        }
        pod.delete();
    }
    wait_for("open files, links, state files and host routes to be as before", PATIENCE, || {
        let after = held(&node);
        // A connection of before may have been open still.
        let is_more = after.iter().zip(&before).any(|(after, before)| after > before);
        if is_more { Err((before, after)) } else { Ok(()) }
    });
    let labels = node.ctl_json(&["show", "labels"]);
    let labels = labels["labels"].as_array().cloned().unwrap_or_default();
    let values: BTreeSet<u64> = labels.iter().filter_map(|label| label["label"].as_u64()).collect();
    assert_eq!(values.len(), 41, "each pod had a label of its own, and forty of them rest: {labels:#?}");
}

#[test]
fn a_label_rests_after_its_pod_even_over_a_restart() {
    let lab = Lab::new();
    let mut node = Node::start(&lab, "gw-11", 11, &gateway(11, &[]));
    let label =
        |node: &Node| node.ctl_json(&["show", "ports"])["ports"][0]["label"].as_u64().expect("a port");
    let mut used = BTreeSet::new();
    for round in 0..4 {
        let pod = node.add_pod(&format!("pod-{round}"));
        assert!(used.insert(label(&node)), "a label is used again at once: {used:?}");
        pod.delete();
        match round {
            0 => {}
            1 => {
                node.stop_agent();
                node.start_agent();
            }
            _ => {
                node.kill9();
                node.start_agent();
            }
        }
    }
}

#[test]
fn pods_added_at_once_get_addresses_and_labels_of_their_own() {
    const PODS: usize = 24;
    let lab = Lab::new();
    let node = Node::start(&lab, "gw-11", 11, &gateway(11, &[]));
    let requests: Vec<_> = (0..PODS).map(|number| node.pod(&format!("pod-{number}"))).collect();
    let adding: Vec<_> = requests.into_iter().map(|request| thread::spawn(move || request.add())).collect();
    let pods: Vec<Pod> = adding.into_iter().map(|pod| pod.join().expect("ADD succeeds")).collect();
    let addresses: BTreeSet<_> = pods.iter().flat_map(Pod::addresses).collect();
    assert_eq!(addresses.len(), 2 * PODS);
    let ports = node.ctl_json(&["show", "ports"]);
    let ports = ports["ports"].as_array().cloned().unwrap_or_default();
    let labels: BTreeSet<_> = ports.iter().filter_map(|port| port["label"].as_u64()).collect();
    assert_eq!((ports.len(), labels.len()), (PODS, PODS), "{ports:#?}");
    for pod in &pods[1..] {
        assert_eq!(Probe::default().send(pods[0].namespace(), pod.v4().into()), Answer::Reply);
    }
}

/// Interfaces that the host's own stack is shut out of.
fn guarded(node: &Node) -> BTreeSet<String> {
    let shown = run_ok(node.namespace(), &mut command("nft", &["-j", "list", "chains", "netdev"]));
    let shown: Value = serde_json::from_str(&shown).expect("nft writes JSON");
    let chains = shown["nftables"].as_array().cloned().unwrap_or_default();
    chains.iter().filter_map(|chain| chain["chain"]["name"].as_str().map(str::to_owned)).collect()
}

#[test]
fn taps_that_go_all_at_once_are_the_hosts_again_and_those_that_come_back_are_not() {
    const TAPS: u8 = 60;
    let lab = Lab::new();
    let mut node = Node::start(&lab, "gw-11", 11, &gateway(11, &[]));
    let name = |number: u8| format!("tap{number}");
    let key = |number: u8| PortKey { container: name(number), interface: name(number) };
    let attach = |node: &Node, number: u8| {
        let request = AttachPort {
            vrf: Some("city".to_owned()),
            addresses: vec![[10, 50, 0, number].into()],
            ..AttachPort::new(key(number), PortKind::Tap, name(number), MacAddr([2, 0, 0, 0, 0, number]))
        };
        Client::connect(node.socket(), PATIENCE).unwrap().attach(&request).unwrap();
    };
    let detach = |node: &Node, number: u8| {
        let request = DetachPort { key: key(number) };
        Client::connect(node.socket(), PATIENCE).unwrap().detach(&request).unwrap();
    };
    let wait_guarded = |node: &Node, wanted: &BTreeSet<String>| {
        wait_for("guards of exactly the taps that are served", PATIENCE, || match guarded(node) {
            guarded if guarded == *wanted => Ok(()),
            guarded => Err(guarded),
        });
    };
    let descriptors = |node: &Node| std::fs::read_dir(format!("/proc/{}/fd", node.pid())).unwrap().count();
    (1..=TAPS).for_each(|number| node.namespace().add_tap(&name(number)));
    let before = descriptors(&node);
    for number in 1..=TAPS {
        attach(&node, number);
    }
    wait_guarded(&node, &(1..=TAPS).map(name).collect());
    // A third of them comes back while what was theirs is still being taken away.
    for number in 1..=TAPS {
        detach(&node, number);
        if number % 3 == 0 {
            attach(&node, number);
        }
    }
    let stay: BTreeSet<String> = (1..=TAPS).filter(|number| number % 3 == 0).map(name).collect();
    wait_guarded(&node, &stay);
    wait_for("no more sockets than taps", PATIENCE, || match descriptors(&node) {
        now if now <= before + stay.len() => Ok(()),
        now => Err((before, now)),
    });
    // Killed before it has given them back: the next run does.
    for number in 1..=TAPS / 2 {
        detach(&node, number);
    }
    node.kill9();
    node.start_agent();
    let stay: BTreeSet<String> = (1 + TAPS / 2..=TAPS).filter(|number| number % 3 == 0).map(name).collect();
    wait_guarded(&node, &stay);
}

#[test]
fn what_was_acknowledged_survives_a_kill_at_any_moment() {
    let lab = Lab::new();
    let (mut node, _two) = pair(&lab);
    let mut kept: Vec<Pod> = Vec::new();
    for round in 0..6_u64 {
        let requests: Vec<_> = (0..40).map(|number| node.pod(&format!("pod-{round}-{number}"))).collect();
        let enough = std::sync::Arc::new(AtomicBool::new(false));
        let stop = std::sync::Arc::clone(&enough);
        // Adds pods until told to stop; every third is deleted again. Failures are the killed agent's.
        let adding = thread::spawn(move || {
            let mut kept = Vec::new();
            for (number, request) in requests.into_iter().enumerate() {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                let Ok(pod) = request.try_add() else { continue };
                if number % 3 == 2 { pod.delete() } else { kept.push(pod) }
            }
            kept
        });
        // A moment of this round's own, so that the kill finds the agent at another step each time.
        thread::sleep(Duration::from_millis(60 + 37 * round));
        node.kill9();
        thread::sleep(Duration::from_millis(20));
        node.start_agent();
        enough.store(true, Ordering::Relaxed);
        kept.extend(adding.join().expect("no panic"));
        let wanted: BTreeSet<String> = kept.iter().map(|pod| pod.container().to_owned()).collect();
        wait_for(&format!("round {round}: exactly the acknowledged pods"), PATIENCE, || {
            let there = containers(&node);
            let lost: Vec<_> = wanted.difference(&there).cloned().collect();
            let left: Vec<_> = there.difference(&wanted).cloned().collect();
            if lost.is_empty() && left.is_empty() { Ok(()) } else { Err((lost, left)) }
        });
    }
    assert!(kept.len() > 6, "the agent was killed while there was something to lose");
    let (first, last) = (&kept[0], &kept[kept.len() - 1]);
    assert_eq!(Probe::default().send(first.namespace(), last.v4().into()), Answer::Reply);
    let links = node.namespace().netlink(|netlink| netlink.links());
    let veths = links.iter().filter(|link| link.name.starts_with("vr") && link.name != "vrouter0").count();
    assert_eq!(veths, kept.len(), "veths of pods that never were are left: {links:#?}");
}
