//! `[openstack]`: what virtual machines are served, and what every mistake is told.
#![allow(clippy::unwrap_used, reason = "a test may")]

use std::path::Path;

use vrouter_agent::config::{Config, VmConfig};

fn parse(text: &str) -> Result<Config, String> {
    Config::parse(text, Path::new("agent.toml")).map_err(|errors| errors.to_string())
}

#[test]
fn metadata_resolvers_and_the_lease_are_read() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("metadata.key");
    std::fs::write(&file, "secret\nnot this\n").unwrap();
    let text = format!(
        "[openstack]\nmetadata = \"http://[2001:db8::5]:8080\"\nmetadata-secret-file = {file:?}\n\
         resolvers = [\"192.0.2.53\", \"2001:db8::53\"]\ndhcp-lease = 600\n"
    );
    let vm = parse(&text).unwrap().vm;
    let metadata = vm.metadata.unwrap();
    assert_eq!((metadata.host.as_str(), metadata.port), ("2001:db8::5", 8080));
    assert_eq!(metadata.secret.as_ref().unwrap().0, b"secret");
    assert!(!format!("{metadata:?}").contains("secret\""), "it never prints");
    assert_eq!((vm.resolvers.len(), vm.lease), (2, 600));
    let named = parse("[openstack]\nmetadata = \"http://controller\"\n").unwrap().vm.metadata.unwrap();
    assert_eq!((named.host.as_str(), named.port), ("controller", 8775), "nova's own port");
    assert_eq!(parse("").unwrap().vm, VmConfig::default());
}

#[test]
fn every_mistake_is_told_with_its_line_and_what_to_write() {
    for (line, message) in [
        ("metadata = \"https://192.0.2.5:8775\"", "plain HTTP, no path"),
        ("metadata = \"http://192.0.2.5:8775/latest\"", "plain HTTP, no path"),
        ("metadata = \"192.0.2.5\"", "plain HTTP, no path"),
        ("metadata = \"http://user@192.0.2.5\"", "plain HTTP, no path"),
        (
            "metadata-secret-file = \"/nonexistent/key\"",
            "metadata-secret-file /nonexistent/key: No such file",
        ),
        ("metadata-secret-file = \"/dev/null\"", "its first line must hold 1 to 1024 octets"),
        ("metadata-secret-file = \"/etc/hostname\"", "metadata-secret-file needs metadata"),
        ("resolvers = [\"0.0.0.0\"]", "0.0.0.0 must be an address of one host"),
        ("resolvers = [\"dns.example\"]", "no IP address"),
        ("dhcp-lease = 5", "a number from 60 to"),
        ("metadata_secret_file = \"x\"", "did you mean \"metadata-secret-file\"?"),
    ] {
        let errors = parse(&format!("[openstack]\n{line}\n")).unwrap_err();
        assert!(errors.starts_with("agent.toml:2: ") && errors.contains(message), "{line}: {errors}");
    }
}
