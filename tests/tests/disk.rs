//! The disk that the state lies on: full, read-only, spoilt. What was acknowledged is served all the same, whoever wants
//! a change is told why there is none, and all is well when the disk is.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

use vrouter_tests::agreement::wait_agreement;
use vrouter_tests::fixture::gateway;
use vrouter_tests::sandbox::Sandbox;
use vrouter_tests::sys::mounts::SmallDisk;
use vrouter_tests::{Answer, Lab, Node, PATIENCE, Probe, wait_for, wait_until};

/// A gateway whose state is on a small disk of its own, with one pod.
struct Scene {
    pods: Vec<Sandbox>,
    node: Node,
    disk: SmallDisk,
    _lab: Lab,
}

impl Scene {
    fn new() -> Scene {
        let lab = Lab::new();
        let mut node = Node::prepare(&lab, "gw-11", 11, &gateway(11, &[]));
        let (state, mount) = (node.directory().join("state"), lab.path("disk"));
        fs::create_dir(&mount).unwrap();
        let disk = SmallDisk::mount(&mount, 256 << 10).unwrap();
        fs::remove_dir(&state).unwrap();
        fs::create_dir(mount.join("state")).unwrap();
        symlink(mount.join("state"), &state).unwrap();
        node.start_agent();
        let mut stays = Sandbox::new(&node, "stays");
        stays.add().unwrap();
        let scene = Scene { pods: vec![stays], node, disk, _lab: lab };
        scene.agrees("before");
        scene
    }

    fn agrees(&self, what: &str) {
        wait_agreement(what, &self.node, 11, &self.pods, None);
    }

    fn problems(&self) -> Vec<String> {
        self.node.status().problems
    }

    fn wait_problem(&self, word: &str) {
        wait_for(&format!("a problem that says {word}"), PATIENCE, || {
            let problems = self.problems();
            if problems.iter().any(|problem| problem.contains(word)) { Ok(()) } else { Err(problems) }
        });
    }

    fn wait_ready(&self) {
        wait_for("a node that is ready", PATIENCE, || {
            let status = self.node.status();
            if status.ready { Ok(()) } else { Err(status.problems) }
        });
    }

    fn stays_reachable(&self) {
        for address in self.pods[0].addresses() {
            let answer = Probe::default().send(self.node.namespace(), address);
            assert_eq!(answer, Answer::Reply, "{address}");
        }
    }

    /// ADD is refused with "try again later" and a reason, and leaves nothing.
    fn add_is_refused(&self, why: &str) {
        let mut pod = Sandbox::new(&self.node, "refused");
        let error = pod.add().unwrap_err().error();
        assert!(error.code == 11 && format!("{error:?}").contains(why), "{error:?}");
        pod.delete().unwrap();
    }
}

#[test]
fn a_full_disk_refuses_pods_and_lets_them_go_until_there_is_room() {
    let mut scene = Scene::new();
    let filler = scene.disk.fill().unwrap();
    for _ in 0..3 {
        scene.add_is_refused("No space left");
        scene.agrees("after a refused ADD");
    }
    scene.wait_problem("No space left");
    let answer = scene.pods[0].status();
    let error = answer.error();
    assert!(error.code == 50 && format!("{error:?}").contains("No space left"), "STATUS: {error:?}");
    scene.node.kill9();
    // A DEL that cannot be kept is not acknowledged.
    let error = scene.pods[0].delete_once().unwrap_err().error();
    assert!(error.code == 11 && format!("{error:?}").contains("No space left"), "{error:?}");
    scene.node.start_agent_until(|_| true);
    scene.wait_problem("No space left");
    // The interrupted DEL has taken the veth, as it may; the next one finishes.
    scene.pods[0].delete().unwrap();
    scene.agrees("after a DEL on a full disk");
    fs::remove_file(filler).unwrap();
    scene.wait_ready();
    scene.pods[0].add().unwrap();
    scene.agrees("when there is room again");
    scene.stays_reachable();
    assert!(scene.problems().iter().all(|problem| !problem.contains("state")), "{:?}", scene.problems());
}

#[test]
fn a_read_only_disk_changes_nothing_and_serves_what_it_holds() {
    let mut scene = Scene::new();
    scene.disk.set_read_only(true).unwrap();
    scene.add_is_refused("Read-only");
    scene.wait_problem("Read-only");
    scene.agrees("after a refused ADD");
    scene.node.kill9();
    scene
        .node
        .start_agent_until(|status| status.problems.iter().any(|problem| problem.contains("Read-only")));
    scene.agrees("after a start from a read-only disk");
    scene.stays_reachable();
    scene.add_is_refused("Read-only");
    // What could come back after a restart is not acknowledged as gone.
    let error = scene.pods[0].delete_once().unwrap_err().error();
    assert!(error.code == 11 && format!("{error:?}").contains("Read-only"), "{error:?}");
    scene.disk.set_read_only(false).unwrap();
    scene.wait_ready();
    scene.pods[0].delete().unwrap();
    scene.agrees("after it can be written again");
    scene.pods[0].add().unwrap();
    scene.agrees("with a pod again");
}

#[test]
fn spoilt_files_are_put_aside_and_said_and_the_other_pods_never_notice() {
    let lab = Lab::new();
    let mut node = Node::start(&lab, "gw-11", 11, &gateway(11, &[]));
    let mut pods: Vec<Sandbox> = (0..8).map(|number| Sandbox::new(&node, &format!("pod-{number}"))).collect();
    pods.iter_mut().for_each(|pod| pod.add().unwrap());
    node.kill9();
    let state = node.directory().join("state");
    let file = |number: usize| state.join(format!("ports/{number}.json"));
    let whole = fs::read(file(1)).unwrap();
    fs::write(file(1), &whole[..whole.len() / 2]).unwrap();
    let mut flipped = fs::read(file(2)).unwrap();
    // A label that is another one, in a file that is as well-formed as before.
    let digit = flipped.windows(8).position(|eight| eight == b"\"label\":").unwrap() + 9;
    flipped[digit] ^= 1;
    fs::write(file(2), &flipped).unwrap();
    fs::write(file(3), vec![0; whole.len()]).unwrap();
    for (number, spoil) in [(4, "mkdir"), (5, "mkfifo")] {
        fs::remove_file(file(number)).unwrap();
        assert!(std::process::Command::new(spoil).arg(file(number)).status().unwrap().success());
    }
    fs::remove_file(file(6)).unwrap();
    symlink("/dev/zero", file(6)).unwrap();
    fs::write(state.join("labels.json"), "{\"version\":2,\"cursor\":").unwrap();
    fs::write(state.join("routes.json"), "\u{0}\u{0}").unwrap();
    fs::write(state.join("ports/9.new"), "half").unwrap();
    node.start_agent();
    let said = node.status().problems;
    for number in 1..=6 {
        assert!(said.iter().any(|said| said.contains(&format!("ports/{number}.json"))), "{said:?}");
    }
    for number in [0, 7] {
        pods[number].check().unwrap_or_else(|said| panic!("pod {number}: {said:?}"));
        for address in pods[number].addresses() {
            assert_eq!(Probe::default().send(node.namespace(), address), Answer::Reply, "{address}");
        }
    }
    // A kubelet that finds a pod without network deletes and makes it anew. Nothing of the old one is in the way.
    for pod in &mut pods[1..7] {
        assert!(pod.check().is_err(), "CHECK says that it has no port");
        pod.delete().unwrap();
        pod.add().unwrap();
    }
    let bad: Vec<PathBuf> = vrouter_tests::cni_run::files_under(&state)
        .into_iter()
        .filter(|path| path.extension().is_some_and(|extension| extension == "bad"))
        .collect();
    assert_eq!(bad.len(), 7, "all but the directory, which has no file in it: {bad:?}");
    bad.iter().for_each(|path| fs::remove_file(path).unwrap());
    fs::remove_dir(state.join("ports/4.json.bad")).unwrap();
    wait_agreement("after the repair", &node, 11, &pods, None);
    node.kill9();
    node.start_agent();
    assert!(node.status().problems.iter().all(|said| !said.contains("state file")));
    wait_agreement("after another start", &node, 11, &pods, None);
}

#[test]
fn a_spoilt_delete_still_finds_its_port_by_the_name_of_its_file() {
    let lab = Lab::new();
    let mut node = Node::start(&lab, "gw-11", 11, &gateway(11, &[]));
    let mut pods: Vec<Sandbox> = (0..4).map(|number| Sandbox::new(&node, &format!("pod-{number}"))).collect();
    pods.iter_mut().for_each(|pod| pod.add().unwrap());
    node.kill9();
    let names: Vec<String> = pods.iter().map(Sandbox::host_interface).collect();
    pods[..3].iter_mut().for_each(|pod| pod.delete().unwrap());
    let spool = node.directory().join("state/deletes");
    let file = |number: usize| spool.join(format!("{}.json", names[number]));
    let mut flipped = fs::read(file(0)).unwrap();
    let place = flipped.windows(4).position(|four| four == b"pod-").unwrap() + 4;
    // "pod-0" would be "pod-3", which must not go.
    flipped[place] = b'3';
    fs::write(file(0), flipped).unwrap();
    fs::write(file(1), "").unwrap();
    fs::write(spool.join("vr0000000000000.json"), "{").unwrap();
    fs::write(spool.join(".77.tmp"), "{").unwrap();
    node.start_agent();
    wait_until("the one that leads nowhere to be put aside", PATIENCE, || {
        fs::remove_file(spool.join("vr0000000000000.json.bad")).is_ok()
    });
    wait_agreement("after deletes of which some were spoilt", &node, 11, &pods, None);
}

/// Each way to spoil a file that a process could stumble over.
const WAYS: [&str; 7] = [
    "true",
    "echo '{}' >",
    "head -c 300 /dev/urandom >",
    "mkdir",
    "mkfifo",
    "ln -s /dev/zero",
    "truncate -s 1T",
];

#[test]
fn whatever_file_is_spoilt_and_however_the_agent_starts_serves_and_stops() {
    let lab = Lab::new();
    let mut node = Node::start(&lab, "gw-11", 11, &gateway(11, &[]));
    let mut pods = vec![Sandbox::new(&node, "stays"), Sandbox::new(&node, "goes")];
    pods.iter_mut().for_each(|pod| pod.add().unwrap());
    pods.pop().unwrap().delete().unwrap();
    node.stop_agent();
    let state = node.directory().join("state");
    let files = vrouter_tests::cni_run::files_under(&state);
    assert!(files.len() >= 3, "{files:?}");
    let shell = |script: &str| {
        assert!(
            std::process::Command::new("sh").args(["-c", script]).status().unwrap().success(),
            "{script}"
        );
    };
    let kept = lab.path("kept");
    shell(&format!("cp -a {} {}", state.display(), kept.display()));
    for file in files {
        let name = file.strip_prefix(&state).unwrap().display().to_string();
        for way in WAYS {
            let what = format!("{name}: {way}");
            shell(&format!("rm -rf {0}; cp -a {1} {0}", state.display(), kept.display()));
            shell(&format!("rm -rf {0}; {way} {0}", file.display()));
            node.start_agent_until(|status| {
                assert!(status.ready, "{what}: {:?}", status.problems);
                true
            });
            let checked = pods[0].check();
            assert!(name.starts_with("ports/") || checked.is_ok(), "{what}: {checked:?}");
            let mut pod = Sandbox::new(&node, "another");
            pod.add().unwrap_or_else(|said| panic!("{what}: {said:?}"));
            pod.delete().unwrap_or_else(|said| panic!("{what}: {said:?}"));
            node.stop_agent();
        }
    }
}
