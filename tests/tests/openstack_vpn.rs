//! Bagpipe's VPN API on a hypervisor, with GoBGP as route reflector: what is attached is announced as asked, and what
//! bagpipe failed at does not fail.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use serde_json::{Value, json};
use vrouter_tests::cni_run::ip_json;
use vrouter_tests::fixture::{ASN, gateway, wait_routes};
use vrouter_tests::lab::underlay_v4;
use vrouter_tests::openstack::{Machine, Port, reaches, vpn_api, with_openstack};
use vrouter_tests::{AgentConfig, GoBgp, GoBgpPeer, Lab, Node, PATIENCE, wait_for, wait_until};

struct Stage {
    lab: Lab,
    gobgp: GoBgp,
    one: Node,
    hypervisor: Node,
}

/// A gateway with pods of the city (`4200000000:100`), a hypervisor without any VRF of its own, GoBGP between.
fn stage() -> Stage {
    let lab = Lab::new();
    // Without RT constraint: GoBGP has our routes whether or not anybody wants them, and tells when their targets change.
    let peers = [11, 12].map(|host| GoBgpPeer::client_without_rtc(underlay_v4(host).into(), ASN));
    let gobgp = GoBgp::start(&lab, "gobgp", 1, ASN, &peers);
    let one = Node::start(&lab, "gw-11", 11, &gateway(11, &[1]));
    let config = with_openstack(AgentConfig::new(ASN).neighbor(gobgp.address()), &lab.path("ports"));
    let hypervisor = Node::start(&lab, "hv-12", 12, &config);
    one.wait_established(gobgp.address());
    hypervisor.wait_established(gobgp.address());
    Stage { lab, gobgp, one, hypervisor }
}

impl Stage {
    fn attach(&self, body: &Value) {
        let reply = vpn_api(self.hypervisor.namespace(), "POST", "/attach_localport", Some(body));
        assert_eq!((reply.status, &reply.body), (200, &Value::Null), "{reply:?}");
    }

    fn refused(&self, body: &Value) -> (u16, String) {
        let reply = vpn_api(self.hypervisor.namespace(), "POST", "/attach_localport", Some(body));
        (reply.status, reply.body["error"].as_str().unwrap_or_default().to_owned())
    }

    /// What GoBGP has for a prefix of the hypervisor, whatever its distinguisher: the text of its routes.
    fn heard(&self, family: &str, prefix: &str) -> Vec<String> {
        let rib = self.gobgp.cli(&format!("global rib -a {family}"));
        rib.lines().filter(|line| line.contains(&format!(":{prefix} "))).map(str::to_owned).collect()
    }

    fn wait_heard(&self, family: &str, prefix: &str, what: &[&str]) {
        wait_for(&format!("{prefix} with {what:?} at GoBGP"), PATIENCE, || {
            let heard = self.heard(family, prefix);
            let fits = |line: &String| what.iter().all(|what| line.contains(what));
            if heard.iter().any(fits) { Ok(()) } else { Err(heard) }
        });
    }
}

/// What is attached, whatever its tap waits for.
fn without_state(mut list: Value) -> Value {
    for it in list["attachments"].as_array_mut().unwrap() {
        it.as_object_mut().unwrap().remove("state");
    }
    list
}

fn with(mut body: Value, more: &Value) -> Value {
    for (key, value) in more.as_object().unwrap() {
        body[key] = value.clone();
    }
    body
}

#[test]
fn an_attached_machine_meets_pods_of_a_gateway_and_its_routes_say_what_was_asked() {
    let stage = stage();
    let pod = stage.one.add_pod("sensor");
    let port = Port::new(7);
    let machine = Machine::boot(
        "vm",
        stage.hypervisor.namespace(),
        &port.tap,
        port.mac,
        &[port.ipv4.into(), "2001:db8::7".parse().unwrap()],
    );
    let attach = port.attach("ipvpn-net", "4200000000:100");
    stage.attach(&attach);
    stage.attach(&with(
        attach.clone(),
        &json!({ "ip_address": "2001:db8::7/64", "gateway_ip": "2001:db8::1" }),
    ));
    wait_routes(&stage.one, &[port.ipv4.into(), "2001:db8::7".parse().unwrap()]);
    for address in [port.ipv4.into(), "2001:db8::7".parse().unwrap()] {
        reaches(pod.namespace(), address);
    }
    for address in pod.addresses() {
        reaches(&machine.namespace, address);
    }
    let v4 = format!("{}/32", port.ipv4);
    stage.wait_heard("vpnv4", &v4, &["LocalPref: 100", "192.0.2.12"]);
    // Live: preference, targets; nothing is attached anew.
    let label = |node: &Node| node.ctl_json(&["show", "ports"])["ports"][0]["label"].clone();
    let before = label(&stage.hypervisor);
    stage.attach(&with(attach.clone(), &json!({ "local_pref": 150, "lb_consistent_hash_order": 3 })));
    stage.wait_heard("vpnv4", &v4, &["LocalPref: 150"]);
    assert!(
        stage.gobgp.cli("global rib -a vpnv4 -j").contains("\"subtype\":20"),
        "{}",
        stage.gobgp.cli("global rib -a vpnv4 -j")
    );
    let elsewhere = json!({ "import_rt": ["64512:77"], "export_rt": "64512:77,192.0.2.9:5" });
    stage.attach(&with(attach.clone(), &elsewhere));
    stage.wait_heard("vpnv4", &v4, &["64512:77", "192.0.2.9:5"]);
    stage.one.wait_no_route("city", &v4);
    let unseen = format!("{}/32", pod.v4());
    wait_until("the pod's route to leave the instance", PATIENCE, || {
        stage.hypervisor.route("ipvpn-net", &unseen).is_empty()
    });
    stage.attach(&attach);
    wait_routes(&stage.one, &[port.ipv4.into()]);
    assert_eq!(label(&stage.hypervisor), before);
    reaches(pod.namespace(), port.ipv4.into());
    // Detach: one address, then all; the unknown is detached already.
    let host = stage.hypervisor.namespace();
    for body in [with(attach.clone(), &json!({ "ip_address": "2001:db8::7" })), attach.clone(), attach] {
        assert_eq!(vpn_api(host, "POST", "/detach_localport", Some(&body)).ok(), Value::Null);
    }
    stage.one.wait_no_route("city", &v4);
    stage.one.wait_no_route("city", "2001:db8::7/128");
    let left = stage.hypervisor.ctl_json(&["show", "vrfs"]);
    assert!(left["vrfs"].as_object().unwrap().is_empty(), "{left}");
}

#[test]
fn subnets_prefixes_and_routes_of_another_network_lead_through_a_machine() {
    let stage = stage();
    let pod = stage.one.add_pod("sensor");
    let port = Port::new(7);
    let machine = Machine::boot("vm", stage.hypervisor.namespace(), &port.tap, port.mac, &[port.ipv4.into()]);
    machine.namespace.netlink(|netlink| netlink.add_address("eth0", "172.30.1.1".parse().unwrap(), 32));
    let attach = port.attach("ipvpn-net", "4200000000:100");
    stage.attach(&attach);
    // As neutron's agent says a prefix route of a port association.
    let prefix = json!({ "vpn_instance_id": "ipvpn_portassoc_1_prefix_172_30_0_0_16", "ip_address": "172.30.0.0/16",
        "advertise_subnet": true, "direction": "to-port", "local_pref": 70 });
    stage.attach(&with(attach.clone(), &prefix));
    stage.one.wait_route("city", "172.30.0.0/16");
    stage.wait_heard("vpnv4", "172.30.0.0/16", &["LocalPref: 70"]);
    reaches(pod.namespace(), "172.30.1.1".parse().unwrap());
    // A leak: what the city has is announced to another network, through the machine.
    let leak = json!({ "vpn_instance_id": "ipvpn_portassoc_1_bgpvpn_2", "direction": "to-port",
        "import_rt": [], "export_rt": [], "readvertise": { "from_rt": ["4200000000:100"], "to_rt": ["64512:99"] } });
    stage.attach(&with(attach.clone(), &leak));
    let leaked = format!("{}/32", pod.v4());
    stage.wait_heard("vpnv4", &leaked, &["64512:99", "192.0.2.12"]);
    pod.delete();
    wait_until("the leak to end with its route", PATIENCE, || stage.heard("vpnv4", &leaked).is_empty());
    for instance in ["ipvpn_portassoc_1_bgpvpn_2", "ipvpn_portassoc_1_prefix_172_30_0_0_16"] {
        let gone = with(port.detach(instance), &json!({ "ip_address": null }));
        vpn_api(stage.hypervisor.namespace(), "POST", "/detach_localport", Some(&gone)).ok();
    }
    stage.one.wait_no_route("city", "172.30.0.0/16");
    assert!(!stage.hypervisor.route("ipvpn-net", &format!("{}/32", port.ipv4)).is_empty());
}

#[test]
fn what_bagpipe_failed_at_is_refused_with_a_reason_or_done() {
    let stage = stage();
    let host = stage.hypervisor.namespace();
    let attach = Port::new(7).attach("ipvpn-net", "64512:100");
    for (more, word) in [
        (json!({ "mac_address": "x" }), "mac_address"),
        (json!({ "import_rt": ["64512"] }), "import_rt"),
        (json!({ "ip_address": "10.0.0.300" }), "ip_address"),
        (json!({ "vpn_type": "evpn" }), "evpn"),
        (json!({ "vpn_instance_id": "../../x" }), "vpn_instance_id"),
        (json!({ "attract_traffic": { "redirect_rts": ["64512:1"] } }), "FlowSpec"),
    ] {
        let (status, why) = stage.refused(&with(attach.clone(), &more));
        assert!(status == 400 && why.contains(word), "{status} {why}");
    }
    stage.attach(&attach);
    let same = with(attach.clone(), &json!({ "mac_address": "02:93:c2:00:00:99" }));
    let (status, why) = stage.refused(&same);
    assert!(status == 409 && why.contains("02:93:c2:00:00:07"), "{status} {why}");
    assert_eq!(vpn_api(host, "PUT", "/attach_localport", None).status, 405);
    assert_eq!(vpn_api(host, "GET", "/attach_localport", None).ok(), json!({}));
    assert_eq!(vpn_api(host, "GET", "/nothing", None).status, 404);
    let unknown = with(attach.clone(), &json!({ "vpn_instance_id": "nobody-knows" }));
    assert_eq!(vpn_api(host, "POST", "/detach_localport", Some(&unknown)).ok(), Value::Null);
    let listed = vpn_api(host, "GET", "/attachments", None).ok();
    assert_eq!(listed["attachments"].as_array().unwrap().len(), 1, "{listed}");
    assert_eq!(listed["attachments"][0]["import_rt"], json!(["64512:100"]));
    for place in [
        "",
        "/summary",
        "/config",
        "/logs",
        "/bgp",
        "/bgp/route_counts",
        "/bgp/routes",
        "/bgp/peers",
        "/vpns",
        "/vpns/instances",
        "/vpns/instances/ipvpn-net",
        "/vpns/instances/ipvpn-net/ports",
        "/vpns/dataplane/drivers",
        "/vpns/instances/ipvpn-net/best_routes",
        "/vpns/dataplane/ids",
        "/vpns/instances_per_vni",
    ] {
        assert_eq!(vpn_api(host, "GET", &format!("/looking-glass{place}"), None).status, 200, "{place}");
    }
    let summary = vpn_api(host, "GET", "/looking-glass/summary", None).ok();
    assert_eq!(
        (&summary["BGP_established_peers"], &summary["vpn_instances_count"]),
        (&json!(1), &json!(1)),
        "{summary}"
    );
    assert_eq!(vpn_api(host, "GET", "/looking-glass/vpns/instances/x", None).status, 404);
}

#[test]
fn a_crash_in_the_middle_of_attachments_loses_none_that_was_acknowledged() {
    let mut stage = stage();
    let ping = |stage: &Stage| vpn_api(stage.hypervisor.namespace(), "GET", "/ping", None).ok();
    let number = ping(&stage);
    let pod = stage.one.add_pod("sensor");
    let port = Port::new(7);
    let _machine =
        Machine::boot("vm", stage.hypervisor.namespace(), &port.tap, port.mac, &[port.ipv4.into()]);
    stage.attach(&port.attach("ipvpn-net", "4200000000:100"));
    let many: Vec<Value> =
        (100..140).map(|n| Port::new(n).attach(&format!("i{}", n % 5), "4200000000:7")).collect();
    stage.attach(&json!(many));
    wait_routes(&stage.one, &[port.ipv4.into()]);
    let list = |stage: &Stage| vpn_api(stage.hypervisor.namespace(), "GET", "/attachments", None).ok();
    let before = list(&stage);
    let labels = |node: &Node| node.ctl_json(&["show", "labels"]);
    let (known, rds) =
        (labels(&stage.hypervisor), stage.hypervisor.ctl_json(&["show", "openstack"])["instances"].clone());
    stage.hypervisor.kill9();
    stage.hypervisor.start_agent();
    wait_until("both APIs to be served again", PATIENCE, || {
        stage.hypervisor.log().matches("serving OpenStack").count() >= 2
    });
    assert_eq!(without_state(list(&stage)), without_state(before));
    assert_eq!(labels(&stage.hypervisor), known);
    assert_eq!(stage.hypervisor.ctl_json(&["show", "openstack"])["instances"], rds);
    assert_eq!(ping(&stage), number, "clients need not send anything again");
    wait_routes(&stage.one, &[port.ipv4.into()]);
    reaches(pod.namespace(), port.ipv4.into());
    let gone: Vec<Value> = (100..140).map(|n| Port::new(n).detach(&format!("i{}", n % 5))).collect();
    assert_eq!(
        vpn_api(stage.hypervisor.namespace(), "POST", "/detach_localport", Some(&json!(gone))).ok(),
        Value::Null
    );
    assert_eq!(list(&stage)["attachments"].as_array().unwrap().len(), 1);
    let _ = &stage.lab;
}

#[test]
fn a_thousand_ports_in_a_thousand_vrfs_are_announced_and_cost_no_thread_and_no_descriptor() {
    const PORTS: u16 = 1_000;
    let stage = stage();
    let host = stage.hypervisor.namespace();
    let process = || {
        let status = std::fs::read_to_string(format!("/proc/{}/status", stage.hypervisor.pid())).unwrap();
        let threads = status.lines().find(|line| line.starts_with("Threads")).unwrap().to_owned();
        (threads, std::fs::read_dir(format!("/proc/{}/fd", stage.hypervisor.pid())).unwrap().count())
    };
    let (_, before) = process();
    for per_instance in [PORTS, 1] {
        let all: Vec<Value> = (0..PORTS)
            .map(|n| {
                Port::new(n)
                    .attach(&format!("i{}", n / per_instance), &format!("64512:{}", 1000 + n / per_instance))
            })
            .collect();
        assert_eq!(vpn_api(host, "POST", "/attach_localport", Some(&json!(all))).ok(), Value::Null);
        let shown = stage.hypervisor.ctl_json(&["show", "openstack"]);
        assert_eq!(shown["taps"].as_array().unwrap().len(), usize::from(PORTS));
        assert_eq!(shown["instances"].as_array().unwrap().len(), usize::from(PORTS / per_instance));
        let mut rds: Vec<&str> =
            shown["instances"].as_array().unwrap().iter().map(|it| it["rd"].as_str().unwrap()).collect();
        rds.sort_unstable();
        rds.dedup();
        assert_eq!(rds.len(), usize::from(PORTS / per_instance), "each has its own distinguisher");
        let (threads, now) = process();
        assert!(now <= before + 8, "{threads}, {now} descriptors, {before} before");
        let gone: Vec<Value> =
            (0..PORTS).map(|n| Port::new(n).detach(&format!("i{}", n / per_instance))).collect();
        assert_eq!(vpn_api(host, "POST", "/detach_localport", Some(&json!(gone))).ok(), Value::Null);
        assert_eq!(stage.hypervisor.ctl_json(&["show", "openstack"])["taps"].as_array().unwrap().len(), 0);
    }
    let left = std::fs::read_dir(stage.hypervisor.directory().join("state/ports")).unwrap();
    assert_eq!(
        left.filter(|entry| entry.as_ref().unwrap().path().extension().is_some_and(|it| it == "json"))
            .count(),
        0
    );
}

#[test]
fn a_tenants_machine_with_the_addresses_of_a_neighbor_and_a_provider_edge_takes_nothing_from_others() {
    let stage = stage();
    let pod = stage.one.add_pod("sensor");
    let port = Port::new(7);
    let own = [port.ipv4.into()];
    let machine = Machine::boot("vm", stage.hypervisor.namespace(), &port.tap, port.mac, &own);
    stage.attach(&port.attach("ipvpn-net", "4200000000:100"));
    wait_routes(&stage.one, &own);
    reaches(pod.namespace(), port.ipv4.into());
    // Another tenant names its machine after the reflector, the gateway, and one that is neither.
    let other = Port::new(8);
    let free: std::net::IpAddr = "192.0.2.200".parse().unwrap();
    let taken = [stage.gobgp.address(), underlay_v4(11).into()];
    let theirs = [taken[0], taken[1], free];
    let _their_machine =
        Machine::boot("their-vm", stage.hypervisor.namespace(), &other.tap, other.mac, &theirs);
    for address in &theirs {
        let attach = other.attach("ipvpn-other", "4200000000:200");
        stage.attach(&with(attach, &json!({ "ip_address": format!("{address}/32") })));
    }
    wait_until("the other tenant's machine to be served", PATIENCE, || {
        let ports = stage.hypervisor.ctl_json(&["show", "ports"]);
        ports["ports"].as_array().unwrap().iter().all(|port| port["state"] == "up")
    });
    let routes = ip_json(stage.hypervisor.namespace(), &["route", "show", "dev", "vrouter0"]);
    let to: Vec<&str> = routes.as_array().unwrap().iter().filter_map(|route| route["dst"].as_str()).collect();
    assert!(to.contains(&free.to_string().as_str()), "it is reached like any other: {to:?}");
    assert!(taken.iter().all(|address| !to.contains(&address.to_string().as_str())), "{to:?}");
    // Tunnels and sessions go where they went.
    for _ in 0..3 {
        reaches(pod.namespace(), port.ipv4.into());
        pod.addresses()
            .into_iter()
            .filter(std::net::IpAddr::is_ipv4)
            .for_each(|address| reaches(&machine.namespace, address));
    }
    let problems = stage.hypervisor.status().problems.join("\n");
    assert!(taken.iter().all(|address| problems.contains(&format!("{address}:"))), "{problems}");
    stage.attach(&with(port.attach("ipvpn-net", "4200000000:100"), &json!({ "local_pref": 150 })));
    stage.wait_heard("vpnv4", &format!("{}/32", port.ipv4), &["LocalPref: 150"]);
}
