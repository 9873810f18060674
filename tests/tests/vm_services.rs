//! What a virtual machine needs, each with real clients: addresses by DHCP and router advertisements, metadata, names.
//! The machine is a namespace, so that this takes no boot; `openstack_vms` is the same with QEMU.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::net::IpAddr;
use std::process::Command;

use vrouter_tests::fixture::{gateway, pair_with, vrf, wait_routes};
use vrouter_tests::process::{run, run_ok};
use vrouter_tests::vm::{Machine, Nova, Resolver};
use vrouter_tests::{Answer, Lab, Node, PATIENCE, Probe, wait_for, wait_until};
use vrouter_types::MacAddr;

const SUBNET: &str = "10.50.0.0/24=10.50.0.1";
const SUBNET6: &str = "fd00:50::/64=fd00:50::1";
const GATEWAY: &str = "10.50.0.1";
const INSTANCE: &str = "4fb2dd5e-33c7-4f2c-a9a1-c8e2f4f2e1b0";
const PROJECT: &str = "0c7d3f4c8e6b4f0f9d2f6e3a5b1c9d77";
const SECRET: &str = "between nova and us";

fn mac(last: u8) -> MacAddr {
    MacAddr([0x52, 0x54, 0, 0, 0, last])
}

/// What the configuration says of the services at host 5.
fn openstack(secret_file: &std::path::Path) -> String {
    format!(
        "[openstack]\nmetadata = \"http://192.0.2.5:8775\"\nmetadata-secret-file = {secret_file:?}\n\
         resolvers = [\"192.0.2.5\"]\n"
    )
}

/// A gateway with a pod, a hypervisor, and what both need around them.
struct Site {
    one: Node,
    hypervisor: Node,
    nova: Nova,
    resolver: Resolver,
}

fn site(lab: &Lab) -> Site {
    let services = lab.site("services", 5);
    let nova = Nova::start(&services, lab.directory(), 8775, SECRET);
    let names =
        [("db.example.org", "10.9.9.9".parse().unwrap()), ("db.example.org", "fd00:9::9".parse().unwrap())];
    let resolver = Resolver::start(&services, &names);
    let power = vrf("power", "target:4200000000:300", 30, 12);
    let config = gateway(12, &[11]).vrf(&power).section(&openstack(nova.secret_file()));
    let (one, hypervisor) = pair_with(lab, &gateway(11, &[12]), &config);
    Site { one, hypervisor, nova, resolver }
}

/// A machine with both families, all services and an instance.
fn machine(lab: &Lab, hypervisor: &Node) -> Machine {
    let machine = Machine::plug(lab, hypervisor, "vm", mac(2));
    let words =
        "--vrf city --address 10.50.0.2 --address fd00:50::2 --dhcp --host-name vm-1 --domain example.org";
    let words: Vec<&str> = words.split(' ').collect();
    let more = ["--subnet", SUBNET, "--subnet", SUBNET6, "--instance", INSTANCE, "--project", PROJECT];
    machine.add_port(hypervisor, &[&words[..], &more].concat());
    machine
}

#[test]
fn busybox_gets_its_address_and_all_that_goes_with_it_and_reaches_a_pod() {
    let lab = Lab::new();
    let Site { one, hypervisor, .. } = site(&lab);
    let pod = one.add_pod("sensor");
    let machine = machine(&lab, &hypervisor);
    wait_routes(&one, &["10.50.0.2".parse().unwrap()]);
    wait_routes(&hypervisor, &pod.addresses());
    let lease = machine.udhcpc(&[]);
    for (key, value) in [
        ("ip", "10.50.0.2"),
        ("mask", "24"),
        ("router", GATEWAY),
        ("serverid", GATEWAY),
        ("dns", GATEWAY),
        ("hostname", "vm-1"),
        ("domain", "example.org"),
        ("search", "example.org"),
        ("lease", "86400"),
        ("mtu", "1468"),
        ("staticroutes", "169.254.169.254/32 10.50.0.1 0.0.0.0/0 10.50.0.1"),
    ] {
        assert_eq!(lease.get(key).map(String::as_str), Some(value), "{key}: {lease:#?}");
    }
    assert_eq!(Probe::default().send(machine.namespace(), pod.v4().into()), Answer::Reply, "the pod");
    assert_eq!(
        Probe::default().send(machine.namespace(), GATEWAY.parse().unwrap()),
        Answer::Reply,
        "its router"
    );
    assert_eq!(
        Probe::default().send(pod.namespace(), "10.50.0.2".parse().unwrap()),
        Answer::Reply,
        "from the pod"
    );
    let ports = hypervisor.ctl_json(&["show", "ports"]);
    let served = &ports["ports"][0]["counters"]["served"];
    assert!(served["dhcp"].as_u64() >= Some(2), "an offer and an acknowledgement: {ports:#?}");
}

#[test]
fn a_client_that_wants_another_address_is_refused_and_gets_its_own() {
    let lab = Lab::new();
    let Site { hypervisor, .. } = site(&lab);
    let machine = machine(&lab, &hypervisor);
    assert_eq!(machine.udhcpc(&["-r", "10.50.0.77"])["ip"], "10.50.0.2", "offered its own");
    // A machine that comes back with an address of before: it asks for that at once, without discovering.
    let leases = lab.path("old-lease");
    std::fs::write(
        &leases,
        "lease {\n interface \"eth0\";\n fixed-address 10.50.0.77;\n option subnet-mask 255.255.255.0;\n\
         option dhcp-server-identifier 10.50.0.1;\n renew 0 2037/01/01 00:00:00;\n rebind 0 2037/01/01 00:00:00;\n \
         expire 0 2037/01/01 00:00:00;\n}\n",
    )
    .unwrap();
    let refused = hypervisor.faults_of("dhcp-refused", || {
        let output = run(
            machine.namespace(),
            Command::new("timeout")
                .args(["10", "/usr/sbin/dhclient", "-4", "-1", "-d", "--no-pid", "-sf", "/bin/true"])
                .args(["-cf", "/dev/null", "-lf"])
                .arg(&leases)
                .arg("eth0"),
        );
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(said.contains("DHCPNAK") && said.contains("bound to 10.50.0.2"), "{said}");
    });
    assert_eq!(refused.keys().collect::<Vec<_>>(), ["dhcp-refused"], "{refused:#?}");
}

#[test]
fn iscs_client_gets_both_families_and_the_kernel_makes_its_own_address() {
    let lab = Lab::new();
    let Site { one, hypervisor, .. } = site(&lab);
    let pod = one.add_pod("sensor");
    let machine = machine(&lab, &hypervisor);
    wait_routes(&one, &["fd00:50::2".parse().unwrap()]);
    wait_routes(&hypervisor, &pod.addresses());
    let lease = machine.dhclient("-4");
    for wanted in ["fixed-address 10.50.0.2;", "option interface-mtu 1468;", "option host-name \"vm-1\";"] {
        assert!(lease.contains(wanted), "{wanted}: {lease}");
    }
    let lease = machine.dhclient("-6");
    for wanted in
        ["iaaddr fd00:50::2", "dhcp6.name-servers fd00:50::1;", "dhcp6.domain-search \"example.org.\""]
    {
        assert!(lease.contains(wanted), "{wanted}: {lease}");
    }
    // The router came by itself, by an advertisement that the kernel asked for.
    let routes = wait_for("the kernel's default route", PATIENCE, || {
        let routes = machine.routes("-6");
        if routes.contains("default via fe80::1") { Ok(routes) } else { Err(routes) }
    });
    assert!(routes.contains("mtu 1468"), "{routes}");
    assert_eq!(Probe::default().send(machine.namespace(), pod.v6().into()), Answer::Reply);
    assert!(
        !machine.addresses().iter().any(|addr| addr.to_string().starts_with("fd00:50::5054")),
        "not by itself"
    );

    // The address of this one is what its MAC address makes: it needs no client at all.
    let own: IpAddr = "fd00:50::5054:ff:fe00:3".parse().unwrap();
    let second = Machine::plug(&lab, &hypervisor, "slaac", mac(3));
    second.add_port(
        &hypervisor,
        &["--vrf", "city", "--address", &own.to_string(), "--dhcp", "--subnet", SUBNET6],
    );
    // Its kernel asked before there was a port, and does so again when the link comes up.
    second.namespace().netlink(|netlink| netlink.set_up("eth0", false));
    second.namespace().netlink(|netlink| netlink.set_up("eth0", true));
    wait_until("the kernel to make its address", PATIENCE, || second.addresses().contains(&own));
    wait_routes(&one, &[own]);
    assert_eq!(Probe::default().send(second.namespace(), pod.v6().into()), Answer::Reply);
    let ports = hypervisor.ctl_json(&["show", "ports"]);
    let served = |index: usize, what: &str| ports["ports"][index]["counters"]["served"][what].as_u64();
    assert!(served(0, "dhcp6") >= Some(2) && served(1, "routerAdvertisement") >= Some(1), "{ports:#?}");
}

#[test]
fn metadata_is_the_machines_own_by_both_families_whatever_it_says_of_itself() {
    let lab = Lab::new();
    let Site { hypervisor, nova, .. } = site(&lab);
    let machine = machine(&lab, &hypervisor);
    machine.udhcpc(&[]);
    let url = "http://169.254.169.254/openstack/latest/meta_data.json";
    let answer = machine.curl(url, &["-H", "X-Instance-ID: forged", "-H", "X_Instance_ID: forged"]);
    assert_eq!(answer, format!("{{\"uuid\": \"{INSTANCE}\"}}\n200"));
    let heard = nova.heard();
    let headers = &heard.last().unwrap().headers;
    assert_eq!(headers["x-tenant-id"], [PROJECT]);
    assert_eq!(headers["x-forwarded-for"], ["10.50.0.2"]);
    assert!(!headers.contains_key("x_instance_id"), "{headers:#?}");
    let v6 = machine.curl("http://[fe80::a9fe:a9fe%25eth0]/latest/meta-data/instance-id", &[]);
    assert_eq!(v6, format!("{INSTANCE}\n200"));
    assert_eq!(
        machine.curl("http://169.254.169.254/nothing", &[]),
        "no such metadata\n404",
        "nova's own words"
    );

    // A tenant with the same address in another VRF is somebody else.
    let twin = Machine::plug(&lab, &hypervisor, "twin", mac(2));
    let words =
        ["--vrf", "power", "--address", "10.50.0.2", "--dhcp", "--subnet", SUBNET, "--instance", "the-twin"];
    twin.add_port(&hypervisor, &[&words[..], &["--project", "another"]].concat());
    twin.udhcpc(&[]);
    assert_eq!(twin.curl("http://169.254.169.254/latest/meta-data/instance-id", &[]), "the-twin\n200");

    // Without a service behind it the proxy says so itself.
    drop(nova);
    let gone = wait_for("the proxy to notice", PATIENCE, || {
        let answer = machine.curl(url, &[]);
        if answer.ends_with("\n503") { Ok(answer) } else { Err(answer) }
    });
    assert!(gone.contains("cannot") && gone.contains("192.0.2.5:8775"), "{gone}");
}

#[test]
fn a_machine_without_an_instance_or_a_pod_has_no_metadata() {
    let lab = Lab::new();
    let Site { hypervisor, nova, .. } = site(&lab);
    let machine = Machine::plug(&lab, &hypervisor, "vm", mac(2));
    machine.add_port(&hypervisor, &["--vrf", "city", "--address", "10.50.0.2", "--dhcp", "--subnet", SUBNET]);
    machine.udhcpc(&[]);
    let url = "http://169.254.169.254/latest/meta-data/instance-id";
    let output = run(machine.namespace(), Command::new("curl").args(["--silent", "--max-time", "3", url]));
    assert!(!output.status.success(), "{output:?}");
    let pod = hypervisor.add_pod("pod");
    let output = run(pod.namespace(), Command::new("curl").args(["--silent", "--max-time", "3", url]));
    assert!(!output.status.success(), "{output:?}");
    assert!(nova.heard().is_empty());
}

#[test]
fn names_are_forwarded_at_the_gateways_addresses_by_udp_and_tcp() {
    let lab = Lab::new();
    let Site { hypervisor, resolver, .. } = site(&lab);
    let machine = machine(&lab, &hypervisor);
    machine.udhcpc(&[]);
    let ns = machine.namespace();
    run_ok(ns, Command::new("ip").args(["-6", "address", "add", "fd00:50::2/128", "dev", "eth0", "nodad"]));
    run_ok(
        ns,
        Command::new("ip").args(["-6", "route", "replace", "default", "via", "fe80::1", "dev", "eth0"]),
    );
    for server in [GATEWAY, "169.254.1.1", "fd00:50::1"] {
        let output = machine.nslookup("db.example.org", server.parse().unwrap());
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(said.contains("10.9.9.9") && said.contains("fd00:9::9"), "{server}: {output:?}");
    }
    let missing = machine.nslookup("nothing.example.org", GATEWAY.parse().unwrap());
    assert!(String::from_utf8_lossy(&missing.stdout).contains("NXDOMAIN"), "{missing:?}");
    assert!(resolver.asked() >= 4);
    // By TCP: the same message behind its length.
    let query = b"\x124\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x02db\x07example\x03org\x00\x00\x01\x00\x01";
    let answer = ask_tcp(ns, GATEWAY.parse().unwrap(), query);
    assert_eq!((&answer[..2], &answer[answer.len() - 4..]), (&query[..2], &[10, 9, 9, 9][..]));

    // One that names its own servers is not served here.
    let other = Machine::plug(&lab, &hypervisor, "own", mac(4));
    let words =
        ["--vrf", "city", "--address", "10.50.0.4", "--dhcp", "--subnet", SUBNET, "--dns", "192.0.2.99"];
    other.add_port(&hypervisor, &words);
    assert_eq!(other.udhcpc(&[])["dns"], "192.0.2.99");
    let before = resolver.asked();
    assert!(!other.nslookup("db.example.org", GATEWAY.parse().unwrap()).status.success());
    assert_eq!(resolver.asked(), before);
}

fn ask_tcp(from: &vrouter_tests::Namespace, server: IpAddr, query: &[u8]) -> Vec<u8> {
    use std::io::{Read, Write};
    let mut stream = vrouter_tests::echo::connect_tcp(from, (server, 53).into()).unwrap();
    stream.write_all(&[&u16::try_from(query.len()).unwrap().to_be_bytes(), query].concat()).unwrap();
    let mut length = [0; 2];
    stream.read_exact(&mut length).unwrap();
    let mut answer = vec![0; u16::from_be_bytes(length).into()];
    stream.read_exact(&mut answer).unwrap();
    answer
}

#[test]
fn a_machine_keeps_its_services_while_the_agent_restarts_and_when_its_tap_comes_back() {
    let lab = Lab::new();
    let Site { one, mut hypervisor, nova, .. } = site(&lab);
    let pod = one.add_pod("sensor");
    let machine = machine(&lab, &hypervisor);
    wait_routes(&one, &["10.50.0.2".parse().unwrap()]);
    wait_routes(&hypervisor, &pod.addresses());
    machine.udhcpc(&[]);
    hypervisor.kill9();
    hypervisor.start_agent();
    wait_routes(&hypervisor, &pod.addresses());
    assert_eq!(machine.udhcpc(&[])["ip"], "10.50.0.2", "nothing was plugged again");
    let url = "http://169.254.169.254/latest/meta-data/instance-id";
    assert_eq!(machine.curl(url, &[]), format!("{INSTANCE}\n200"));
    let patient = Probe { attempts: 20, ..Probe::default() };
    assert_eq!(patient.send(machine.namespace(), pod.v4().into()), Answer::Reply);

    // The machine reboots: its tap goes, with its routes, and one of the same name comes back.
    let label = || hypervisor.ctl_json(&["show", "ports"])["ports"][0]["label"].clone();
    let before = label();
    drop(machine);
    hypervisor.namespace().netlink(|netlink| match netlink.delete_link("tapvm") {
        Err(error) if error.raw_os_error() != Some(19) => Err(error),
        _ => Ok(()),
    });
    one.wait_no_route("city", "10.50.0.2/32");
    let again = Machine::plug(&lab, &hypervisor, "vm", mac(2));
    wait_routes(&one, &["10.50.0.2".parse().unwrap()]);
    assert_eq!(again.udhcpc(&[])["ip"], "10.50.0.2");
    assert_eq!(patient.send(again.namespace(), pod.v4().into()), Answer::Reply);
    assert_eq!(again.curl(url, &[]), format!("{INSTANCE}\n200"));
    assert_eq!(label(), before, "what it is known by does not change");
    assert!(nova.heard().len() >= 2);
}
