//! The agent's command line, without an agent: what it prints and how it exits.
#![allow(clippy::unwrap_used, reason = "a test may")]

use std::path::Path;
use std::process::{Command, Output};

fn agent(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_vrouter-agent")).args(arguments).env_remove("RUST_LOG").output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn check(config: &str) -> (Option<i32>, String, String) {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("agent.toml");
    std::fs::write(&file, config).unwrap();
    let output = agent(&["--config", file.to_str().unwrap(), "--check-config"]);
    let name = |text: String| text.replace(file.to_str().unwrap(), "agent.toml");
    (output.status.code(), name(text(&output.stdout)), name(text(&output.stderr)))
}

#[test]
fn a_good_configuration_is_ok_and_summed_up() {
    let (code, out, err) =
        check("[underlay]\naddress = \"192.0.2.11\"\n[bgp]\nasn = 64512\n[[vrf]]\nname = \"a\"\n");
    assert_eq!((code, err.as_str()), (Some(0), ""));
    assert!(out.starts_with("configuration ok\n") && out.contains("vrf       a rd 192.0.2.11:1"), "{out}");
}

#[test]
fn a_bad_configuration_exits_with_two_and_says_each_line() {
    let (code, out, err) =
        check("[agent]\nnmae = \"a\"\n[[vrf]]\nname = \"a\"\nrd = \"1:1\"\nimport = [\"x\"]\n");
    assert_eq!((code, out.as_str()), (Some(2), ""));
    let lines: Vec<&str> = err.lines().collect();
    assert_eq!(lines.len(), 2, "{err}");
    assert!(lines[0].starts_with("agent.toml:2: unknown key \"nmae\" in [agent]"), "{err}");
    assert!(lines[1].starts_with("agent.toml:6: import in [[vrf]]: \"x\" is no route target"), "{err}");
}

#[test]
fn a_bad_configuration_starts_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (file, state) = (dir.path().join("agent.toml"), dir.path().join("state"));
    std::fs::write(&file, format!("[agent]\nstate-dir = {:?}\nx = 1\n", state.to_str().unwrap())).unwrap();
    let output = agent(&["--config", file.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(2));
    assert!(!state.exists());
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let output = agent(&["--config", "/nowhere/agent.toml", "--check-config"]);
    assert_eq!(output.status.code(), Some(2));
    let err = text(&output.stderr);
    assert!(err.contains("vrouter-agent: read /nowhere/agent.toml: No such file"), "{err}");
}

#[test]
fn a_log_level_that_is_none_is_refused() {
    let output = agent(&["--config", "/nowhere/agent.toml", "--log", "vrouter_agent=loud"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("--log or RUST_LOG"));
}

#[test]
fn help_has_examples() {
    let help = text(&agent(&["--help"]).stdout);
    assert!(help.contains("Examples:") && help.contains("--check-config"), "{help}");
    assert!(Path::new(env!("CARGO_BIN_EXE_vrouter-agent")).exists());
}
