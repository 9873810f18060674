//! `vrouter-cni install` as people and the DaemonSet run it, and the DaemonSet's manifest itself.
#![allow(clippy::unwrap_used, reason = "a test may")]

use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::{Value, json};
use vrouter_tests::binaries::binary;
use vrouter_tests::cni_run::{CniCall, files_under};
use vrouter_tests::{AgentConfig, Lab, Node, Vrf};

fn cni(words: &[&str]) -> Output {
    let mut command = Command::new(binary("vrouter-cni"));
    command.env_remove("CNI_COMMAND").args(words).output().expect("start vrouter-cni")
}

fn text(octets: &[u8]) -> String {
    String::from_utf8_lossy(octets).into_owned()
}

/// Runs the installer, which succeeds.
fn done(words: &[&str]) -> String {
    let output = cni(words);
    assert!(output.status.success(), "{words:?}: {}{}", text(&output.stdout), text(&output.stderr));
    text(&output.stdout)
}

/// Where a node's distribution is seen, and where program and list then are.
const NODES: [(&[&str], &str, &str); 4] = [
    (&["etc/kubernetes"], "opt/cni/bin", "etc/cni/net.d"),
    (
        &["var/lib/rancher/k3s/data/cni"],
        "var/lib/rancher/k3s/data/cni",
        "var/lib/rancher/k3s/agent/etc/cni/net.d",
    ),
    (
        &["var/lib/rancher/k3s/data/current/bin"],
        "var/lib/rancher/k3s/data/current/bin",
        "var/lib/rancher/k3s/agent/etc/cni/net.d",
    ),
    (
        &["var/snap/microk8s/current/args"],
        "var/snap/microk8s/current/opt/cni/bin",
        "var/snap/microk8s/current/args/cni-network",
    ),
];

#[test]
fn program_and_list_are_where_each_distribution_looks_and_go_again() {
    for (directories, programs, lists) in NODES {
        let node = tempfile::tempdir().unwrap();
        for directory in directories {
            fs::create_dir_all(node.path().join(directory)).unwrap();
        }
        fs::create_dir_all(node.path().join(lists)).unwrap();
        fs::write(node.path().join(lists).join("99-loopback.conf"), "{}").unwrap();
        let before = files_under(node.path());
        let root = node.path().to_str().unwrap();
        done(&["install", "--root", root]);
        let (program, list) = (
            node.path().join(programs).join("vrouter-cni"),
            node.path().join(lists).join("10-vrouter.conflist"),
        );
        let mut wanted = [before.clone(), vec![program.clone(), list.clone()]].concat();
        let mut there = files_under(node.path());
        wanted.sort();
        there.sort();
        assert_eq!(there, wanted);
        let version = Command::new(&program).env_remove("CNI_COMMAND").output().unwrap();
        assert!(text(&version.stderr).contains("1.1.0"));
        let list: Value = serde_json::from_slice(&fs::read(list).unwrap()).unwrap();
        assert_eq!(
            (list["cniVersion"].as_str(), list["plugins"][0]["type"].as_str()),
            (Some("0.4.0"), Some("vrouter-cni"))
        );
        done(&["uninstall", "--root", root]);
        assert_eq!(files_under(node.path()), before);
    }
}

#[test]
fn an_upgrade_replaces_the_program_while_a_runtime_runs_it() {
    let node = tempfile::tempdir().unwrap();
    let (programs, lists) = (node.path().join("bin"), node.path().join("net.d"));
    let words =
        ["install", "--cni-bin-dir", programs.to_str().unwrap(), "--cni-conf-dir", lists.to_str().unwrap()];
    fs::create_dir_all(&programs).unwrap();
    // The old program, at work: it cannot be written to (ETXTBSY), only replaced.
    let program = programs.join("vrouter-cni");
    fs::copy("/bin/busybox", &program).unwrap();
    let mut old = Command::new(&program).arg0("sleep").arg("60").spawn().unwrap();
    let said = done(&words);
    assert!(said.contains("installed") && old.try_wait().unwrap().is_none(), "{said}");
    old.kill().unwrap();
    old.wait().unwrap();
    assert_eq!(fs::read(&program).unwrap(), fs::read(binary("vrouter-cni")).unwrap());
    assert!(files_under(node.path()).iter().all(|path| !path.to_string_lossy().ends_with(".tmp")));
    assert!(done(&words).lines().all(|line| line.starts_with("unchanged")));
}

#[test]
fn mistakes_are_named_and_change_nothing() {
    let node = tempfile::tempdir().unwrap();
    let root = node.path().to_str().unwrap();
    for (words, code, named) in [
        (&["instal"][..], 2, "instal"),
        (&["install", "--rot", root], 2, "--rot"),
        (&["install", "--root"], 2, "--root"),
        (&["install", "--root", root, "--chain", "portmap"], 1, "portmap"),
        (&["install", "--cni-bin-dir", "/proc/no", "--cni-conf-dir", root], 1, "/proc/no"),
    ] {
        let output = cni(words);
        let said = text(&output.stderr);
        assert_eq!((output.status.code(), said.contains(named)), (Some(code), true), "{words:?}: {said}");
    }
    assert!(files_under(node.path()).is_empty());
    assert!(text(&cni(&["--help"]).stdout).contains("uninstall"));
}

#[test]
fn what_was_installed_serves_pods_and_stays_when_the_agent_stops() {
    let lab = Lab::new();
    let vrf = Vrf::new("open", "target:64512:1").pods("10.20.11.0/24").default();
    let mut node = Node::start(&lab, "gw", 1, &AgentConfig::new(64512).vrf(&vrf));
    let (root, socket) = (lab.path("root"), node.socket());
    done(&["install", "--root", root.to_str().unwrap(), "--socket", socket.to_str().unwrap()]);
    let list = root.join("etc/cni/net.d/10-vrouter.conflist");
    let read: Value = serde_json::from_slice(&fs::read(&list).unwrap()).unwrap();
    let pod = lab.namespace("pod");
    let call =
        CniCall::of(&root.join("opt/cni/bin/vrouter-cni"), node.namespace()).container("c1", pod.path());
    for version in read["cniVersions"].as_array().unwrap() {
        let mut conf = read["plugins"][0].clone();
        conf["cniVersion"] = version.clone();
        conf["name"] = read["name"].clone();
        conf["spool"] = json!(node.directory().join("state/deletes"));
        assert_eq!(call.run("ADD", &conf).result()["cniVersion"], *version);
        call.run("DEL", &conf).done();
    }
    node.stop_agent();
    assert!(list.exists());
}

/// The manifest's documents, by Python's YAML; `None`, said loudly: it is not installed.
fn manifest() -> Option<Vec<Value>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../cni-plugin/deploy/daemonset.yaml");
    let program = "import json, sys, yaml; print(json.dumps(list(yaml.safe_load_all(open(sys.argv[1])))))";
    let output = ["/usr/bin/python3", "python3"].into_iter().find_map(|python| {
        let output = Command::new(python).args(["-c", program]).arg(&path).output().ok()?;
        let is_absent = text(&output.stderr).contains("No module named");
        (!is_absent).then_some(output)
    });
    let Some(output) = output else {
        eprintln!("SKIPPED: no YAML: install python3-yaml");
        return None;
    };
    assert!(output.status.success(), "{}", text(&output.stderr));
    Some(serde_json::from_slice(&output.stdout).unwrap())
}

#[test]
fn the_daemonset_gives_the_agent_two_capabilities_and_no_more() {
    let Some(documents) = manifest() else { return };
    let set = documents.iter().find(|document| document["kind"] == "DaemonSet").unwrap();
    assert_eq!(set["spec"]["selector"]["matchLabels"], set["spec"]["template"]["metadata"]["labels"]);
    let pod = &set["spec"]["template"]["spec"];
    assert_eq!((&pod["hostNetwork"], &pod["automountServiceAccountToken"]), (&json!(true), &json!(false)));
    let (init, agent) = (&pod["initContainers"][0], &pod["containers"][0]);
    assert_eq!(
        agent["securityContext"]["capabilities"],
        json!({ "drop": ["ALL"], "add": ["NET_ADMIN", "NET_RAW"] })
    );
    assert_eq!(init["securityContext"]["capabilities"], json!({ "drop": ["ALL"] }));
    for container in [init, agent] {
        assert!(container["securityContext"].get("privileged").is_none());
        assert_eq!(container["securityContext"]["allowPrivilegeEscalation"], false);
        for mount in container["volumeMounts"].as_array().unwrap() {
            let volumes = pod["volumes"].as_array().unwrap();
            assert!(volumes.iter().any(|volume| volume["name"] == mount["name"]), "{mount}");
        }
    }
    let mounted =
        |path: &str| agent["volumeMounts"].as_array().unwrap().iter().any(|mount| mount["mountPath"] == path);
    let shipped: Value = serde_json::from_str(include_str!("../../cni-plugin/10-vrouter.conflist")).unwrap();
    let socket = PathBuf::from(shipped["plugins"][0]["socket"].as_str().unwrap());
    assert!(mounted(socket.parent().unwrap().to_str().unwrap()) && mounted("/var/lib/vrouter"));
}

#[test]
fn the_daemonsets_commands_and_configuration_are_real() {
    let Some(documents) = manifest() else { return };
    let set = documents.iter().find(|document| document["kind"] == "DaemonSet").unwrap();
    let words = |container: &Value| -> Vec<String> {
        container["command"]
            .as_array()
            .unwrap()
            .iter()
            .map(|word| word.as_str().unwrap().to_owned())
            .collect()
    };
    let host = tempfile::tempdir().unwrap();
    let command = words(&set["spec"]["template"]["spec"]["initContainers"][0]);
    let root = host.path().to_str().unwrap();
    let command: Vec<_> = command[1..].iter().map(|word| if word == "/host" { root } else { word }).collect();
    done(&command);
    assert!(host.path().join("opt/cni/bin/vrouter-cni").exists());
    let map = documents.iter().find(|document| document["kind"] == "ConfigMap").unwrap();
    let file = host.path().join("agent.toml");
    fs::write(&file, map["data"]["agent.toml"].as_str().unwrap()).unwrap();
    let checked = Command::new(binary("vrouter-agent"))
        .arg("--check-config")
        .arg("--config")
        .arg(&file)
        .output()
        .unwrap();
    assert!(checked.status.success(), "{}{}", text(&checked.stdout), text(&checked.stderr));
}
