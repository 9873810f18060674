//! The systemd unit as `vrouter-agent install` writes it, judged by systemd's own tools. Skipped, loudly, where they
//! are not installed.
#![allow(clippy::unwrap_used, reason = "a test may")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// As printed, times ten: what systemd calls "OK" ends at 5.0.
const MOST_EXPOSED: u32 = 25;

/// Installs into a scratch root and answers with the unit's path there.
fn installed(root: &Path) -> PathBuf {
    let output = Command::new(env!("CARGO_BIN_EXE_vrouter-agent"))
        .args(["install", "--no-start", "--root"])
        .arg(root)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", text(&output));
    root.join("etc/systemd/system/vrouter-agent.service")
}

fn text(output: &Output) -> String {
    [&output.stdout[..], &output.stderr].map(String::from_utf8_lossy).concat()
}

fn analyze(words: &[&str], unit: &Path) -> Option<Output> {
    match Command::new("systemd-analyze").args(words).arg(unit).output() {
        Ok(output) => Some(output),
        Err(error) => {
            eprintln!("SKIPPED: systemd-analyze: {error} (apt-get install systemd)");
            None
        }
    }
}

#[test]
fn install_into_a_root_says_what_it_did_and_uninstall_takes_it_back() {
    let root = tempfile::tempdir().unwrap();
    let unit = installed(root.path());
    assert!(unit.exists() && root.path().join("usr/local/bin/vrouter-agent").exists());
    let program = root.path().join("usr/local/bin/vrouter-agent");
    let version = Command::new(&program).arg("--version").output().unwrap();
    assert!(text(&version).starts_with("vrouter-agent "), "{}", text(&version));
    // The installed program takes itself away.
    let output = Command::new(&program).args(["uninstall", "--root"]).arg(root.path()).output().unwrap();
    assert!(output.status.success(), "{}", text(&output));
    assert!(text(&output).contains("removed ") && text(&output).contains("kept "), "{}", text(&output));
    assert!(!unit.exists() && !program.exists());
    assert!(root.path().join("etc/vrouter/agent.toml").exists());
}

#[test]
fn the_unit_is_as_little_exposed_as_promised() {
    let root = tempfile::tempdir().unwrap();
    let unit = installed(root.path());
    let threshold = format!("--threshold={MOST_EXPOSED}");
    let words = ["security", "--offline=true", "--no-pager", threshold.as_str()];
    let Some(output) = analyze(&words, &unit) else { return };
    assert!(output.status.success(), "{}", text(&output));
    assert!(text(&output).contains("Overall exposure level"), "{}", text(&output));
}

#[test]
fn systemd_reads_every_line_of_the_unit() {
    let root = tempfile::tempdir().unwrap();
    let unit = installed(root.path());
    // `verify` wants to find the program where the unit says.
    let there = root.path().join("usr/local/bin");
    let here = std::fs::read_to_string(&unit).unwrap().replace("/usr/local/bin", there.to_str().unwrap());
    std::fs::write(&unit, here).unwrap();
    let Some(output) = analyze(&["verify", "--man=no"], &unit) else { return };
    assert!(output.status.success(), "{}", text(&output));
    // It also complains of others' units; those are none of our business.
    let ours: Vec<String> =
        text(&output).lines().filter(|line| line.contains("vrouter")).map(str::to_owned).collect();
    assert!(ours.is_empty(), "{ours:#?}");
}

#[test]
fn the_unit_lets_the_agent_have_two_capabilities_and_no_uplink_to_wait_for() {
    let root = tempfile::tempdir().unwrap();
    let unit = std::fs::read_to_string(installed(root.path())).unwrap();
    let values = |key: &str| -> BTreeSet<String> {
        let lines = unit.lines().filter_map(|line| line.strip_prefix(key)?.strip_prefix('='));
        lines.flat_map(str::split_whitespace).map(str::to_owned).collect()
    };
    assert_eq!(values("CapabilityBoundingSet"), ["CAP_NET_ADMIN", "CAP_NET_RAW"].map(str::to_owned).into());
    assert_eq!(values("Type"), ["notify".to_owned()].into());
    for waiter in ["kubelet.service", "k3s.service", "containerd.service", "crio.service"] {
        assert!(values("Before").contains(waiter), "{waiter} may start before us");
    }
    for key in ["After", "Wants", "Requires"] {
        assert!(!values(key).iter().any(|unit| unit.starts_with("network-online")), "{key}");
    }
    assert!(!values("WatchdogSec").is_empty() && !values("FileDescriptorStoreMax").is_empty());
}
