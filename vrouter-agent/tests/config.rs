//! The configuration file: what is read, and what every mistake is told.
#![allow(clippy::unwrap_used, reason = "a test may")]

use std::net::IpAddr;
use std::path::Path;

use vrouter_agent::config::{
    Community, Config, ExportPolicy, FamilyName, LargeCommunity, PeerAddress, UnderlaySource,
};
use vrouter_types::{Asn, Encap};

/// The example of the design, all keys in it.
const FULL: &str = r#"
[agent]
name      = "gw-12"
socket    = "/run/vrouter/agent.sock"
state-dir = "/var/lib/vrouter"
metrics   = "127.0.0.1:9469"

[underlay]
address        = "192.0.2.11"
encapsulations = ["mpls-over-udp", "mpls-over-gre"]
accept-from    = ["192.0.2.0/24"]

[bgp]
asn       = 64512
router-id = "192.0.2.11"
hold-time = 90
listen    = "0.0.0.0:179"
cluster-id = "192.0.2.200"
graceful-restart = true
restart-time = 60
long-lived-stale-time = 3600
max-paths = 5000

[[bgp.neighbor]]
address              = "192.0.2.1"
default-encapsulation = "mpls-over-gre"
port = 1179
asn = 4200000000
hold-time = 9
passive = true
local-address = "192.0.2.11"
description = "edge 1"
families = ["vpnv4", "rtc"]

[[bgp.neighbor]]
prefix = "198.51.100.0/24"
keepalive-time = 10
ttl-security = 3
route-reflector-client = true
max-prefixes = 1000
max-prefixes-restart = 300
graceful-restart = false

[[bgp.neighbor]]
address = "192.0.2.3"
connect-retry = 20

[dataplane]
workers = 2
entropy-ports = 8
without = ["udp-superframes", "gre-frames"]
max-flows = 8192
max-flows-per-port = 512
snat-ports = "32768-32771"
snat-ports-per-port = 2

[[vrf]]
name       = "smart-city"
rd         = "192.0.2.11:1"
import     = ["target:64512:100"]
export     = ["target:64512:100"]
pods       = ["10.20.11.0/24", "fd00:20:11::/64"]
namespaces = ["city-*"]
default    = true
local-pref = 200
med = 5
as-path-prepend = [64512, 64512]
communities = ["64512:1", "no-export"]
large-communities = ["64512:1:2"]
dscp = 46

[[vrf]]
name = "tenant-b"
pods = ["10.20.11.0/24"]
host = "open"
snat = true
"#;

fn parse(text: &str) -> Result<Config, String> {
    Config::parse(text, Path::new("agent.toml")).map_err(|errors| errors.to_string())
}

#[test]
fn the_whole_example_is_read() {
    let config = parse(FULL).unwrap();
    assert_eq!((config.name.as_str(), config.socket.to_str()), ("gw-12", Some("/run/vrouter/agent.sock")));
    let address: IpAddr = "192.0.2.11".parse().unwrap();
    assert_eq!(config.underlay.source, Some(UnderlaySource::Address(address)));
    assert_eq!(config.underlay.encapsulations, [Encap::MplsOverUdp, Encap::MplsOverGre]);
    assert_eq!(config.bgp.asn, Some(Asn(64512)));
    let neighbor = &config.bgp.neighbors[0];
    assert_eq!((neighbor.port, neighbor.asn, neighbor.hold_time), (1179, Asn(4_200_000_000), Some(9)));
    assert_eq!(neighbor.families, [FamilyName::Vpnv4, FamilyName::Rtc]);
    assert_eq!((config.dataplane.workers, config.dataplane.entropy_ports), (Some(2), 8));
    assert_eq!(config.dataplane.without, ["udp-superframes", "gre-frames"]);
    assert!(config.vrfs[0].default && config.vrfs[0].host_open);
    assert_eq!(config.vrfs[1].rd.to_string(), "192.0.2.11:2");
    assert!(config.vrfs[1].host_open && !config.vrfs[1].default && config.vrfs[1].namespaces.is_none());
}

#[test]
fn what_bgp_carries_and_keeps_is_read() {
    let config = parse(FULL).unwrap();
    let bgp = &config.bgp;
    assert_eq!((bgp.cluster_id.to_string().as_str(), bgp.graceful_restart), ("192.0.2.200", true));
    assert_eq!((bgp.restart_time, bgp.long_lived_stale_time, bgp.max_paths), (60, 3600, 5000));
    let dynamic = &bgp.neighbors[1];
    assert_eq!(dynamic.address, PeerAddress::Any("198.51.100.0/24".parse().unwrap()));
    assert!(dynamic.passive && dynamic.route_reflector_client && dynamic.graceful_restart == Some(false));
    assert_eq!((dynamic.keepalive_time, dynamic.ttl_security), (Some(10), Some(3)));
    assert_eq!((dynamic.max_prefixes, dynamic.max_prefixes_restart), (Some(1000), Some(300)));
    assert_eq!((bgp.neighbors[2].connect_retry, bgp.neighbors[2].passive), (Some(20), false));
    let policy = &config.vrfs[0].policy;
    assert_eq!((policy.local_pref, policy.med, policy.as_path_prepend.len()), (200, Some(5), 2));
    assert_eq!(policy.communities, [Community(64512 << 16 | 1), Community(0xffff_ff01)]);
    assert_eq!(policy.large_communities, [LargeCommunity([64512, 1, 2])]);
    assert_eq!((config.vrfs[0].dscp, config.vrfs[1].dscp), (Some(46), None));
    assert_eq!(config.vrfs[1].policy, ExportPolicy::default());
}

#[test]
fn what_bounds_flows_is_read_and_has_defaults() {
    let config = parse(FULL).unwrap();
    let flows = config.dataplane.flows;
    assert_eq!((flows.max_flows, flows.max_flows_per_port), (8192, 512));
    assert_eq!((flows.node_ports(), flows.snat_ports_per_port), (32768..=32771, 2));
    assert!(!config.vrfs[0].snat && config.vrfs[1].snat);
    let flows = parse("[dataplane]\nmax-flows = 4096\n").unwrap().dataplane.flows;
    assert_eq!((flows.max_flows_per_port, flows.snat_ports), (1024, (40960, 49151)));
}

#[test]
fn what_is_kept_has_defaults() {
    let config = parse("[bgp]\nasn = 1\nrouter-id = \"192.0.2.1\"\n").unwrap();
    assert_eq!(config.bgp.cluster_id, config.bgp.router_id);
    assert_eq!((config.bgp.restart_time, config.bgp.long_lived_stale_time), (120, 86_400));
    assert!(config.bgp.graceful_restart && config.bgp.max_paths == 1_000_000);
}

#[test]
fn an_empty_file_is_a_node_that_stands_alone() {
    let config = parse("").unwrap();
    assert_eq!(config.socket, Path::new(agent_api::DEFAULT_SOCKET));
    assert_eq!((config.bgp.asn, config.underlay.source.as_ref()), (None, None));
    assert!(!config.name.is_empty() && config.vrfs.is_empty());
}

#[test]
fn a_neighbor_has_defaults() {
    let text =
        "[underlay]\naddress=\"192.0.2.11\"\n[bgp]\nasn=64512\n[[bgp.neighbor]]\naddress=\"192.0.2.1\"\n";
    let config = parse(text).unwrap();
    assert_eq!(config.bgp.router_id.to_string(), "192.0.2.11");
    let neighbor = &config.bgp.neighbors[0];
    assert_eq!((neighbor.port, neighbor.asn, neighbor.passive), (179, Asn(64512), false));
    assert_eq!(neighbor.families.len(), 3);
}

#[test]
fn host_is_open_in_the_default_vrf_only_unless_said_otherwise() {
    let text = "[underlay]\naddress=\"192.0.2.11\"\n[[vrf]]\nname=\"a\"\ndefault=true\nhost=\"closed\"\n[[vrf]]\nname=\"b\"\n";
    let config = parse(text).unwrap();
    assert!(!config.vrfs[0].host_open && !config.vrfs[1].host_open);
}

/// Where the example is changed, and what the message must then say. The line is that of the change.
const MISTAKES: &[(&str, &str, &str)] = &[
    ("name      = \"gw-12\"", "nmae = \"gw-12\"", "unknown key \"nmae\" in [agent]; did you mean \"name\"?"),
    ("name      = \"gw-12\"", "colour = 1", "unknown key \"colour\" in [agent]; known keys: name, socket"),
    ("name      = \"gw-12\"", "state_dir = \"/x\"", "did you mean \"state-dir\"?"),
    ("name      = \"gw-12\"", "name = 12", "name in [agent] must be a string, not 12"),
    ("name      = \"gw-12\"", "name = \"gw 12\"", "name \"gw 12\" must be 1 to 64 letters"),
    (
        "socket    = \"/run/vrouter/agent.sock\"",
        "socket = \"agent.sock\"",
        "must be a path that begins with /",
    ),
    (
        "metrics   = \"127.0.0.1:9469\"",
        "metrics = \"localhost\"",
        "no address with a port (like \"127.0.0.1:9469\")",
    ),
    ("address        = \"192.0.2.11\"", "address = \"192.0.2.256\"", "\"192.0.2.256\" is no IP address"),
    ("address        = \"192.0.2.11\"", "address = \"0.0.0.0\"", "must be an address of one host"),
    (
        "encapsulations = [\"mpls-over-udp\", \"mpls-over-gre\"]",
        "encapsulations = [\"vxlan\"]",
        "\"vxlan\" is no encapsulation (want \"mpls-over-udp\" or \"mpls-over-gre\")",
    ),
    (
        "encapsulations = [\"mpls-over-udp\", \"mpls-over-gre\"]",
        "encapsulations = [\"mpls-over-gre\", \"mpls-over-gre\"]",
        "stands twice in encapsulations",
    ),
    (
        "encapsulations = [\"mpls-over-udp\", \"mpls-over-gre\"]",
        "encapsulations = []",
        "encapsulations must name at least one",
    ),
    ("accept-from    = [\"192.0.2.0/24\"]", "accept-from = [\"192.0.2.7/24\"]", "write 192.0.2.0/24"),
    ("accept-from    = [\"192.0.2.0/24\"]", "accept-from = \"192.0.2.0/24\"", "must be a list of strings"),
    ("asn       = 64512", "asn = 0", "asn in [bgp] must be a number from 1 to"),
    ("asn       = 64512", "asn = \"64512\"", "asn in [bgp] must be a number"),
    ("router-id = \"192.0.2.11\"", "router-id = \"fd00::1\"", "\"fd00::1\" is no IPv4 address"),
    ("hold-time = 90", "hold-time = 2", "hold-time 2 must be 0 (none) or at least 3 seconds"),
    ("listen    = \"0.0.0.0:179\"", "listen = \"0.0.0.0\"", "no address with a port (like \"0.0.0.0:179\")"),
    ("port = 1179", "port = 65536", "port in [[bgp.neighbor]] must be a number from 1 to 65535, not 65536"),
    ("passive = true", "passive = \"yes\"", "passive in [[bgp.neighbor]] must be true or false"),
    (
        "passive = true",
        "password-file = \"/nowhere/edge1.key\"",
        "password-file /nowhere/edge1.key: No such file",
    ),
    ("local-address = \"192.0.2.11\"", "local-address = \"fd00::1\"", "of the same family as the neighbor's"),
    ("families = [\"vpnv4\", \"rtc\"]", "families = [\"evpn\"]", "\"evpn\" is no address family here"),
    ("families = [\"vpnv4\", \"rtc\"]", "families = []", "families must name at least one"),
    ("workers = 2", "workers = 0", "workers in [dataplane] must be a number from 1 to 64, not 0"),
    (
        "without = [\"udp-superframes\", \"gre-frames\"]",
        "without = [\"tso\"]",
        "no such offload; there are udp-segmentation, udp-coalescing",
    ),
    ("workers = 2", "workers = -1", "workers in [dataplane] must be a number from 1 to 64, not -1"),
    ("name       = \"smart-city\"", "", "[[vrf]] needs name"),
    ("rd         = \"192.0.2.11:1\"", "rd = \"64512\"", "\"64512\" is no route distinguisher"),
    (
        "import     = [\"target:64512:100\"]",
        "import = [\"64512:100\"]",
        "\"64512:100\" is no route target (want target:",
    ),
    ("export     = [\"target:64512:100\"]", "export = [\"target:4200000000:70000\"]", "is no route target"),
    (
        "pods       = [\"10.20.11.0/24\", \"fd00:20:11::/64\"]",
        "pods = [\"10.20.11.0/24\", \"10.20.0.0/16\"]",
        "pods: 10.20.0.0/16 overlaps 10.20.11.0/24 of the same VRF",
    ),
    (
        "pods       = [\"10.20.11.0/24\", \"fd00:20:11::/64\"]",
        "pods = [\"10.20.11.0\", \"x\"]",
        "\"x\" is no prefix",
    ),
    ("pods       = [\"10.20.11.0/24\", \"fd00:20:11::/64\"]", "pods = [\"224.0.0.0/24\"]", "no pod can have"),
    ("namespaces = [\"city-*\"]", "namespaces = []", "would admit nobody"),
    ("namespaces = [\"city-*\"]", "namespaces = [\"City\"]", "\"City\" is no namespace"),
    ("default    = true", "default = 1", "default in [[vrf]] must be true or false, not 1"),
    ("name = \"tenant-b\"", "name = \"smart-city\"", "two VRFs named \"smart-city\", the first in line 58"),
    (
        "name = \"tenant-b\"",
        "name = \"tenant-b\"\nrd = \"192.0.2.11:1\"",
        "is also that of VRF \"smart-city\", line 59",
    ),
    ("host = \"open\"", "host = \"ajar\"", "host \"ajar\" must be \"open\" or \"closed\""),
    ("host = \"open\"", "default = true", "VRF \"smart-city\", line 64, is the default already"),
    ("cluster-id = \"192.0.2.200\"", "cluster-id = \"0.0.0.0\"", "cluster-id 0.0.0.0 names no cluster"),
    ("restart-time = 60", "restart-time = 4096", "restart-time in [bgp] must be a number from 1 to 4095"),
    (
        "long-lived-stale-time = 3600",
        "long-lived-stale-time = 16777216",
        "long-lived-stale-time in [bgp] must be a number from 0 to 16777215",
    ),
    ("max-paths = 5000", "max-paths = 0", "max-paths in [bgp] must be a number from 1"),
    ("prefix = \"198.51.100.0/24\"", "prefix = \"198.51.100.7/24\"", "write 198.51.100.0/24"),
    (
        "prefix = \"198.51.100.0/24\"",
        "prefix = \"198.51.100.0/24\"\npassive = false",
        "nobody can connect to all of 198.51.100.0/24",
    ),
    ("keepalive-time = 10", "keepalive-time = 90", "keepalive-time 90 must be less than the hold time, 90"),
    (
        "ttl-security = 3",
        "ttl-security = 255",
        "ttl-security in [[bgp.neighbor]] must be a number from 1 to 254",
    ),
    (
        "route-reflector-client = true",
        "asn = 65001\nroute-reflector-client = true",
        "a client is in our own AS, not in 65001",
    ),
    (
        "max-prefixes = 1000\nmax-prefixes-restart = 300",
        "max-prefixes-restart = 300",
        "max-prefixes-restart needs max-prefixes",
    ),
    ("connect-retry = 20", "passive = true\nconnect-retry = 20", "connect-retry means nothing where"),
    ("local-pref = 200", "local-pref = -1", "local-pref in [[vrf]] must be a number from 0"),
    ("as-path-prepend = [64512, 64512]", "as-path-prepend = [64512, 0]", "must be a list of numbers from 1"),
    ("as-path-prepend = [64512, 64512]", "as-path-prepend = 64512", "must be a list of numbers from 1"),
    (
        "communities = [\"64512:1\", \"no-export\"]",
        "communities = [\"64512:70000\"]",
        "\"64512:70000\" is no community (want two numbers below 65536, like 64512:1, or graceful-shutdown",
    ),
    (
        "large-communities = [\"64512:1:2\"]",
        "large-communities = [\"64512:1\"]",
        "\"64512:1\" is no large community (want three numbers, like 64512:1:2",
    ),
    ("dscp = 46", "dscp = 64", "dscp in [[vrf]] must be a number from 0 to 63"),
    ("max-flows = 8192", "max-flows = 100", "max-flows in [dataplane] must be a number from 1024 to 4194304"),
    (
        "snat-ports = \"32768-32771\"",
        "snat-ports = \"32771-32768\"",
        "snat-ports \"32771-32768\" must be two ports from 1024 up, like snat-ports = \"40960-49151\"",
    ),
    (
        "snat-ports-per-port = 2",
        "snat-ports-per-port = 0",
        "snat-ports-per-port in [dataplane] must be a number from 1",
    ),
    ("snat = true", "snat = \"yes\"", "snat in [[vrf]] must be true or false"),
    ("[dataplane]", "[dataplain]", "unknown key \"dataplain\" in the file; did you mean \"dataplane\"?"),
];

#[test]
fn every_mistake_is_told_with_its_line_and_what_to_do() {
    for (written, instead, message) in MISTAKES {
        assert!(FULL.contains(written), "{written}");
        let line =
            1 + FULL[..FULL.find(written).unwrap()].matches('\n').count() + instead.matches('\n').count();
        // A VRF without a name is noted where the VRF begins.
        let line = if instead.is_empty() { line - 1 } else { line };
        let errors = parse(&FULL.replacen(written, instead, 1)).expect_err(instead);
        let told =
            errors.lines().any(|e| e.starts_with(&format!("agent.toml:{line}: ")) && e.contains(message));
        assert!(told, "{instead:?} should say {message:?} in line {line}, but says:\n{errors}");
    }
}

#[test]
fn one_mistake_is_told_once() {
    for (written, instead, _) in MISTAKES {
        let errors = parse(&FULL.replacen(written, instead, 1)).unwrap_err();
        assert!(errors.lines().count() <= 2, "{instead:?} says:\n{errors}");
    }
}

#[test]
fn several_mistakes_are_told_at_once_in_the_order_of_their_lines() {
    let text = FULL.replace("target:64512:100", "64512:100").replace("hold-time = 90", "holdtime = 90");
    let errors = parse(&text).unwrap_err();
    let lines: Vec<&str> = errors.lines().map(|line| line.split(' ').next().unwrap()).collect();
    assert_eq!(lines, ["agent.toml:16:", "agent.toml:60:", "agent.toml:61:"], "{errors}");
}

#[test]
fn broken_toml_is_told_with_its_line() {
    let errors = parse("[agent]\nname = \"gw\n[bgp]\nasn = 1\n").unwrap_err();
    assert!(errors.starts_with("agent.toml:2: "), "{errors}");
    let errors = parse("[agent]\nname = \"a\"\nname = \"b\"\n").unwrap_err();
    assert!(errors.contains("agent.toml:3: ") && errors.contains("duplicate"), "{errors}");
    assert!(parse("\u{0}").is_err());
}

#[test]
fn a_neighbor_twice_is_a_mistake() {
    let again = format!("{FULL}\n[[bgp.neighbor]]\naddress = \"192.0.2.1\"\n");
    let errors = parse(&again).unwrap_err();
    assert!(errors.contains("neighbor 192.0.2.1 is configured twice, first in line 25"), "{errors}");
}

#[test]
fn a_neighbor_is_an_address_or_a_prefix() {
    let head = "[bgp]\nasn = 1\nrouter-id = \"192.0.2.1\"\n[[bgp.neighbor]]\n";
    let errors = parse(&format!("{head}port = 1790\n")).unwrap_err();
    assert!(errors.starts_with("agent.toml:4: [[bgp.neighbor]] needs address"), "{errors}");
    let errors = parse(&format!("{head}address = \"192.0.2.2\"\nprefix = \"192.0.2.0/24\"\n")).unwrap_err();
    assert!(errors.starts_with("agent.toml:6: [[bgp.neighbor]] has both address and prefix"), "{errors}");
    let errors = parse(&format!("{head}prefix = \"192.0.2.0/24\"\n")).unwrap_err();
    assert!(errors.contains("agent.toml:5: prefix: neighbors from 192.0.2.0/24 connect to us"), "{errors}");
}

#[test]
fn an_encapsulation_that_the_underlay_does_not_have_is_no_default() {
    let text = FULL.replace("[\"mpls-over-udp\", \"mpls-over-gre\"]", "[\"mpls-over-udp\"]");
    let errors = parse(&text).unwrap_err();
    assert!(errors.contains("agent.toml:26: default-encapsulation mpls-over-gre is not among"), "{errors}");
}

#[test]
fn overlapping_pods_are_legal_between_tenants_and_not_where_they_meet() {
    assert!(parse(FULL).is_ok(), "smart-city and tenant-b have the same range");
    let meeting = FULL.replace("host = \"open\"", "import = [\"target:64512:100\"]");
    let errors = parse(&meeting).unwrap_err();
    assert!(
        errors.contains("10.20.11.0/24 overlaps 10.20.11.0/24 of VRF \"smart-city\", line 62"),
        "{errors}"
    );
}

#[test]
fn an_identity_is_needed_where_the_underlay_is_an_interface() {
    let wg = "[underlay]\ninterface = \"wg0\"\n[bgp]\nasn = 64512\n";
    let errors = parse(wg).unwrap_err();
    assert!(errors.starts_with("agent.toml:3: [bgp] needs router-id"), "{errors}");
    let config = parse(&format!("{wg}router-id = \"192.0.2.11\"\n")).unwrap();
    assert_eq!(config.underlay.source, Some(UnderlaySource::Interface("wg0".to_owned())));
    let errors = parse("[[vrf]]\nname = \"a\"\n").unwrap_err();
    assert!(errors.starts_with("agent.toml:1: [[vrf]] needs rd"), "{errors}");
    let errors = parse("[underlay]\naddress=\"192.0.2.1\"\ninterface = \"wg0\"\n").unwrap_err();
    assert!(errors.contains("agent.toml:3: [underlay] names both"), "{errors}");
}

#[test]
fn a_password_is_the_first_line_of_its_file_and_never_prints() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("key");
    let text = |file: &Path| {
        FULL.replace("passive = true", &format!("password-file = {:?}", file.to_str().unwrap()))
    };
    std::fs::write(&file, "hunter2\nnot this\n").unwrap();
    let config = parse(&text(&file)).unwrap();
    assert_eq!(config.bgp.neighbors[0].password.as_ref().unwrap().0, b"hunter2");
    assert!(!format!("{config:?}{config}").contains("hunter2"));
    for bad in [String::new(), "\nx".to_owned(), "x".repeat(81)] {
        std::fs::write(&file, bad).unwrap();
        let errors = parse(&text(&file)).unwrap_err();
        assert!(errors.contains("its first line must hold 1 to 80 octets"), "{errors}");
    }
}

#[test]
fn a_good_file_is_summed_up() {
    let summary = parse(FULL).unwrap().to_string();
    assert_eq!(
        summary,
        "  agent     gw-12 at /run/vrouter/agent.sock\n  \
           underlay  192.0.2.11, mpls-over-udp before mpls-over-gre\n  \
           bgp       AS 64512, 3 neighbor(s)\n  \
           vrf       smart-city rd 192.0.2.11:1 pods [10.20.11.0/24, fd00:20:11::/64], default\n  \
           vrf       tenant-b rd 192.0.2.11:2 pods [10.20.11.0/24]\n"
    );
}
