//! The agent, and the plugin, killed at every step of ADD and of DEL: what was acknowledged is kept, what was not leaves
//! nothing, and after what a kubelet does then (DEL, and ADD anew) everything agrees with the pods that exist.
//!
//! A step is a system call that others can notice; see `vrouter_tests::killer`.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use vrouter_tests::agreement::wait_agreement;
use vrouter_tests::fixture::{ASN, gateway};
use vrouter_tests::killer::{Killer, Outcome};
use vrouter_tests::lab::underlay_v4;
use vrouter_tests::sandbox::Sandbox;
use vrouter_tests::{GoBgp, GoBgpPeer, Lab, Node};

/// More steps than ADD or DEL has.
const LIMIT: usize = 500;
/// The agent's threads that move packets. They change nothing that lasts.
const WORKERS: Option<&str> = Some("dataplane");

struct Scene {
    pods: Vec<Sandbox>,
    node: Node,
    reflector: GoBgp,
    _lab: Lab,
}

impl Scene {
    /// A gateway with one pod, and a route reflector that knows it.
    fn new() -> Scene {
        let lab = Lab::new();
        let reflector =
            GoBgp::start(&lab, "gobgp", 1, ASN, &[GoBgpPeer::client(underlay_v4(11).into(), ASN)]);
        let node = Node::start(&lab, "gw-11", 11, &gateway(11, &[1]));
        let mut stays = Sandbox::new(&node, "stays");
        stays.add().unwrap();
        let scene = Scene { pods: vec![stays], node, reflector, _lab: lab };
        scene.agrees_with_the_reflector("before");
        scene
    }

    fn agrees(&self, what: &str) {
        wait_agreement(what, &self.node, 11, &self.pods, None);
    }

    fn agrees_with_the_reflector(&self, what: &str) {
        wait_agreement(what, &self.node, 11, &self.pods, Some(&self.reflector));
    }

    /// Lets `work` be done by an agent that is killed before its step of this number.
    fn killed_agent<T>(&mut self, step: usize, work: impl FnOnce() -> T) -> (T, Outcome) {
        let killer = Killer::follow(self.node.pid(), step, WORKERS);
        let done = work();
        let outcome = killer.end();
        if outcome.killed {
            self.node.kill9();
        }
        (done, outcome)
    }
}

fn count(what: &str, steps: usize, last: &str) {
    println!("{what}: killed before each of {steps} steps, the last of them: {last}");
    assert!(steps > 4, "too few steps to be true");
    assert!(steps < LIMIT - 2, "there are more steps than this test takes");
}

#[test]
fn an_agent_killed_at_any_step_of_add_keeps_what_it_acknowledged_and_leaves_nothing_else() {
    let mut scene = Scene::new();
    let mut last = String::new();
    for step in 1..LIMIT {
        let mut pod = Sandbox::new(&scene.node, &format!("pod-{step}"));
        let (answer, outcome) = scene.killed_agent(step, || pod.add());
        let what = format!("step {step}, {}, ADD said {}", outcome.last, answer.is_ok());
        if !outcome.killed {
            answer.unwrap();
            scene.pods.push(pod);
            count("ADD", step - 1, &last);
            break;
        }
        last = outcome.last;
        // The runtime does not wait for the agent to come back, or it does.
        let is_early = step % 2 == 0;
        if answer.is_err() && is_early {
            pod.delete().unwrap();
        }
        scene.node.start_agent();
        match answer {
            Ok(()) => pod.check().unwrap_or_else(|said| panic!("{what}: {said:?}")),
            Err(_) => {
                if !is_early {
                    pod.delete().unwrap();
                }
                pod.add().unwrap_or_else(|said| panic!("{what}: {said:?}"));
            }
        }
        scene.pods.push(pod);
        scene.agrees(&what);
        scene.pods.pop().unwrap().delete().unwrap();
    }
    scene.agrees_with_the_reflector("after all");
}

#[test]
fn an_agent_killed_at_any_step_of_delete_finishes_it_when_it_is_back() {
    let mut scene = Scene::new();
    let mut last = String::new();
    for step in 1..LIMIT {
        let mut pod = Sandbox::new(&scene.node, &format!("pod-{step}"));
        pod.add().unwrap();
        let (answer, outcome) = scene.killed_agent(step, || pod.delete_once());
        let what = format!("step {step}, {}", outcome.last);
        answer.unwrap_or_else(|said| panic!("{what}: {said:?}"));
        if !outcome.killed {
            count("DEL", step - 1, &last);
            break;
        }
        last = outcome.last;
        scene.node.start_agent();
        // Half of the runtimes are killed themselves, and never make the second one.
        if step % 2 == 0 {
            pod.delete().unwrap();
        }
        scene.agrees(&what);
    }
    scene.agrees_with_the_reflector("after all");
}

#[test]
fn an_agent_killed_at_any_step_of_its_start_finds_the_same_at_the_next() {
    let mut scene = Scene::new();
    let mut goes = Sandbox::new(&scene.node, "goes");
    let (mut last, mut gone) = (String::new(), 0);
    for step in 1..LIMIT {
        if !goes.is_wired() {
            goes.add().unwrap();
        }
        scene.node.kill9();
        // Every fifth start has a DEL to make up for.
        if step % 5 == 0 {
            goes.delete().unwrap();
            gone += 1;
        }
        let outcome = scene.node.start_agent_killed(step);
        let what = format!("step {step}, {}", outcome.last);
        if outcome.killed {
            last = outcome.last;
            scene.node.start_agent();
        }
        if goes.is_wired() {
            scene.pods.push(goes);
            scene.agrees(&what);
            goes = scene.pods.pop().unwrap();
        } else {
            scene.agrees(&what);
        }
        if !outcome.killed {
            count("start", step - 1, &last);
            break;
        }
    }
    assert!(gone > 3, "too few starts had a DEL to make up for");
    goes.delete().unwrap();
    scene.agrees_with_the_reflector("after all");
}

#[test]
fn a_plugin_killed_at_any_step_of_add_leaves_nothing_after_the_delete_that_follows() {
    let mut scene = Scene::new();
    let mut last = String::new();
    for step in 1..LIMIT {
        let mut pod = Sandbox::new(&scene.node, "pod");
        let (answer, outcome) = pod.add_killed(step);
        let what = format!("step {step}, {}", outcome.last);
        if outcome.killed {
            last = outcome.last;
        } else {
            answer.unwrap();
            count("vrouter-cni ADD", step - 1, &last);
        }
        pod.delete().unwrap_or_else(|said| panic!("{what}: {said:?}"));
        scene.agrees(&what);
        pod.add().unwrap_or_else(|said| panic!("{what}, again: {said:?}"));
        scene.pods.push(pod);
        scene.agrees(&format!("{what}, again"));
        scene.pods.pop().unwrap().delete().unwrap();
        if !outcome.killed {
            break;
        }
    }
    scene.agrees_with_the_reflector("after all");
}

#[test]
fn a_plugin_killed_at_any_step_of_delete_leaves_nothing_after_the_next() {
    let mut scene = Scene::new();
    // Without an agent it leaves a file for it.
    for is_away in [false, true] {
        let mut last = String::new();
        for step in 1..LIMIT {
            let mut pod = Sandbox::new(&scene.node, "pod");
            pod.add().unwrap();
            if is_away {
                scene.node.kill9();
            }
            let (answer, outcome) = pod.delete_killed(step);
            let what = format!("step {step}, {}, away {is_away}", outcome.last);
            if outcome.killed {
                last = outcome.last;
            } else {
                assert_eq!(answer.code, Some(0), "{what}: {answer:?}");
            }
            pod.delete().unwrap_or_else(|said| panic!("{what}: {said:?}"));
            if is_away {
                scene.node.start_agent();
            }
            scene.agrees(&what);
            if !outcome.killed {
                count(&format!("vrouter-cni DEL, agent away {is_away}"), step - 1, &last);
                break;
            }
        }
    }
    scene.agrees_with_the_reflector("after all");
}
