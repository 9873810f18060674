//! `[openstack]` and what a VRF says of OpenStack.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;

use vrouter_agent::config::Config;

#[test]
fn openstack_is_served_on_the_loopback_address_alone_and_a_network_has_one_vrf() {
    const NETWORK: &str = "56297dc0-0000-4000-8000-000000000002";
    let parse = |text: &str| Config::parse(text, Path::new("agent.toml"));
    let vrf =
        |more: &str| format!("[bgp]\nasn = 64512\nrouter-id = \"192.0.2.11\"\n[[vrf]]\nname = \"a\"\n{more}");
    let config = parse(&vrf("")).unwrap();
    assert_eq!((config.openstack.port_api, config.openstack.vpn_api), (None, None), "off unless asked for");
    let on =
        "[openstack]\nport-api = \"127.0.0.1:9091\"\nvpn-api = \"[::1]:8082\"\nports-dir = \"/srv/ports\"\n";
    let networks = format!("openstack-networks = [\"{NETWORK}\"]\n");
    let config = parse(&format!("{on}{}", vrf(&networks))).unwrap();
    assert_eq!(config.openstack.port_api, Some("127.0.0.1:9091".parse().unwrap()));
    assert_eq!(config.openstack.ports_dir, Path::new("/srv/ports"));
    assert_eq!(config.vrfs[0].openstack_networks[0].to_string(), NETWORK);
    let twice = format!("{networks}[[vrf]]\nname = \"b\"\n{networks}");
    for (text, line, words) in [
        ("[openstack]\nport-api = \"0.0.0.0:9091\"\n".to_owned(), 2, "of this host alone"),
        ("[openstack]\nvpn-api = \"192.0.2.11:8082\"\n".to_owned(), 2, "of this host alone"),
        ("[openstack]\nvpn-api = \"8082\"\n".to_owned(), 2, "like \"127.0.0.1:8082\""),
        ("[openstack]\nports-dir = \"ports\"\n".to_owned(), 2, "begins with /"),
        (
            "[openstack]\nport-api = \"127.0.0.1:1\"\nvpn-api = \"127.0.0.1:1\"\n".to_owned(),
            3,
            "cannot share",
        ),
        ("[openstack]\nport_api = 1\n".to_owned(), 2, "did you mean \"port-api\""),
        (vrf("openstack-networks = [\"net1\"]\n"), 6, "is no UUID"),
        (vrf(&twice), 9, "one VRF can have it"),
    ] {
        let errors = parse(&text).unwrap_err();
        let found = errors.errors().iter().any(|it| it.line == line && it.message.contains(words));
        assert!(found, "{text}\nshould say {words:?} in line {line}, but says:\n{errors}");
    }
}
