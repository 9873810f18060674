//! Configurations that cannot be meant: `vrouter-agent --check-config` names the file, the line and the reason.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::process::Command;

use vrouter_tests::binaries::binary;

const GOOD: &str = r#"[agent]
name = "gw"

[underlay]
address = "192.0.2.11"

[bgp]
asn = 64512

[[bgp.neighbor]]
address = "192.0.2.1"

[[vrf]]
name = "city"
rd = "192.0.2.11:1"
import = ["target:64512:100"]
export = ["target:64512:100"]
pods = ["10.20.11.0/24", "fd00:20:11::/64"]
default = true
"#;

/// The exit code, and everything printed.
fn check(toml: &str) -> (Option<i32>, String) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("agent.toml");
    std::fs::write(&path, toml).unwrap();
    let output =
        Command::new(binary("vrouter-agent")).arg("--check-config").arg("--config").arg(&path).output();
    let output = output.unwrap();
    let printed = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8_lossy(&printed).into_owned())
}

/// The number of the first line that holds this text.
fn line_of(toml: &str, text: &str) -> usize {
    1 + toml.lines().position(|line| line.contains(text)).expect("the line is there")
}

#[test]
fn a_good_configuration_passes() {
    let (code, printed) = check(GOOD);
    assert_eq!(code, Some(0), "{printed}");
}

#[test]
fn each_mistake_is_named_with_its_line() {
    let second = |more: &str| {
        format!(
            "{GOOD}\n[[vrf]]\nname = \"second\"\nimport = [\"target:64512:200\"]\nexport = [\"target:64512:200\"]\n{more}\n"
        )
    };
    let cases = [
        ("an unknown key", GOOD.replace("asn = 64512", "asn = 64512\nholdtime = 9"), "holdtime", "holdtime"),
        (
            "a duplicate route distinguisher",
            second("rd = \"192.0.2.11:1\" # again"),
            "# again",
            "192.0.2.11:1",
        ),
        (
            "overlapping pools",
            GOOD.replace("\"10.20.11.0/24\",", "\"10.20.11.0/24\", \"10.20.11.128/25\","),
            "10.20.11.128/25",
            "10.20.11.128/25",
        ),
        (
            "a bad route target",
            GOOD.replacen("target:64512:100", "target:64512", 1),
            "target:64512\"",
            "target:64512",
        ),
        ("a VRF twice", second("rd = \"1:1\"").replace("\"second\"", "\"city\" # again"), "# again", "city"),
        ("two defaults", second("rd = \"1:1\"\ndefault = true # too"), "# too", "default"),
        (
            "an unknown encapsulation",
            GOOD.replace("[bgp]", "encapsulations = [\"vxlan\"]\n\n[bgp]"),
            "vxlan",
            "vxlan",
        ),
        (
            "a neighbor twice",
            GOOD.replace("[[vrf]]", "[[bgp.neighbor]]\naddress = \"192.0.2.1\" # again\n\n[[vrf]]"),
            "# again",
            "192.0.2.1",
        ),
    ];
    for (what, toml, marked, reason) in cases {
        let (code, printed) = check(&toml);
        assert_eq!(code, Some(2), "{what}: {printed}");
        let line = line_of(&toml, marked);
        assert!(printed.contains("agent.toml"), "{what}: no file in: {printed}");
        let named = printed.contains(&format!("line {line}")) || printed.contains(&format!(":{line}"));
        assert!(named, "{what}: no line {line} in: {printed}");
        assert!(printed.contains(reason), "{what}: no {reason:?} in: {printed}");
    }
}
