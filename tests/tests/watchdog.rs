//! A worker that lives and moves nothing is found, named, and well again when it moves.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;

use vrouter_tests::fixture::gateway;
use vrouter_tests::sys::hold::hold;
use vrouter_tests::{Lab, Node, PATIENCE, wait_until};

/// The numbers of the threads of this name.
fn threads(pid: u32, name: &str) -> Vec<u32> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap().map(|task| task.unwrap().path());
    let named =
        tasks.filter(|task| fs::read_to_string(task.join("comm")).is_ok_and(|comm| comm.trim() == name));
    named.map(|task| task.file_name().unwrap().to_str().unwrap().parse().unwrap()).collect()
}

#[test]
fn a_worker_that_lives_and_moves_nothing_is_named_and_one_that_moves_again_is_well() {
    let lab = Lab::new();
    let node = Node::start(&lab, "gw-11", 11, &gateway(11, &[]));
    let workers = threads(node.pid(), "dataplane-0");
    let [worker] = workers.as_slice() else { panic!("{workers:?}") };
    let moves = || node.ctl_json(&["show", "status"])["run"]["workers"][0]["moves"] == true;
    wait_until("the worker to move packets", PATIENCE, moves);
    let held = hold(*worker).unwrap();
    wait_until("the worker to be seen as stuck", PATIENCE, || !moves());
    let status = node.try_ctl(&["status"]);
    let text = String::from_utf8_lossy(&status.stdout);
    assert_eq!(status.status.code(), Some(1), "{text}");
    assert!(text.contains("worker 0 has moved no packet"), "{text}");
    drop(held);
    wait_until("the worker to move packets again", PATIENCE, moves);
    assert!(node.faults().is_empty(), "what the watchdog sends counts nowhere: {:?}", node.faults());
}
