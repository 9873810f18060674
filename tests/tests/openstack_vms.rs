//! Two virtual machines under QEMU as nova would plug them, with all that they need, behind a route reflector: the port
//! API of the incumbent says what they are, the VPN API says where they belong.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::net::IpAddr;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};
use vrouter_tests::echo::web_page;
use vrouter_tests::fixture::{ASN, gateway, wait_routes};
use vrouter_tests::lab::underlay_v4;
use vrouter_tests::process::run_ok;
use vrouter_tests::vm::{Nova, Resolver};
use vrouter_tests::{Answer, GoBgp, GoBgpPeer, Guest, Lab, Node, Probe};
use vrouter_types::MacAddr;

const SECRET: &str = "between nova and us";

/// A machine as nova knows it. Its IPv6 address is the one that it makes of its MAC address.
struct Vm {
    port: &'static str,
    instance: &'static str,
    tap: &'static str,
    mac: &'static str,
    v4: &'static str,
    v6: &'static str,
    groups: &'static [&'static str],
}

const VMS: [Vm; 2] = [
    Vm {
        port: "93c2c386-6e79-485e-bfa4-b9daa7131001",
        instance: "69ce06bd-0000-4000-8000-000000000001",
        tap: "tap93c2c386-01",
        mac: "52:54:00:00:00:11",
        v4: "10.50.0.11",
        v6: "fd00:50::5054:ff:fe00:11",
        groups: &["web"],
    },
    Vm {
        port: "93c2c386-6e79-485e-bfa4-b9daa7131002",
        instance: "69ce06bd-0000-4000-8000-000000000002",
        tap: "tap93c2c386-02",
        mac: "52:54:00:00:00:12",
        v4: "10.50.0.12",
        v6: "fd00:50::5054:ff:fe00:12",
        groups: &[],
    },
];

impl Vm {
    fn addresses(&self) -> [IpAddr; 2] {
        [self.v4.parse().unwrap(), self.v6.parse().unwrap()]
    }

    /// What the os-vif plugin's `vrouter-port-control` posts.
    fn plug(&self) -> Value {
        json!({
            "id": self.port, "instance-id": self.instance, "display-name": self.tap,
            "ip-address": self.v4, "ip6-address": self.v6, "mac-address": self.mac,
            "vn-id": "56297dc0-2b8c-4d5f-8f0e-000000000002",
            "vm-project-id": "9970147c-0000-4000-8000-000000000003",
            "system-name": self.tap, "type": 0, "rx-vlan-id": -1, "tx-vlan-id": -1,
        })
    }

    /// What says where it belongs.
    fn attachment(&self, address: &str, gateway: &str) -> Value {
        let mut body = json!({
            "vpn_instance_id": "city-net", "vpn_type": "ipvpn", "mac_address": self.mac,
            "ip_address": address, "gateway_ip": gateway, "local_port": {"linuxif": self.tap},
            "import_rt": ["4200000000:100"], "export_rt": ["4200000000:100"],
        });
        if !self.groups.is_empty() {
            body["security_groups"] = json!(self.groups);
        }
        body
    }
}

/// Says something to one of the APIs on the node's loopback, and hears the answer and its status.
fn post(node: &Node, url: &str, body: &Value) -> (u16, String) {
    call(node, &["-X", "POST", "-H", "Content-Type: application/json", "-d", &body.to_string(), url])
}

fn call(node: &Node, words: &[&str]) -> (u16, String) {
    let mut command = Command::new("curl");
    command
        .args(["--silent", "--show-error", "--max-time", "30", "--write-out", "\n%{http_code}"])
        .args(words);
    let said = run_ok(node.namespace(), &mut command);
    let (body, status) = said.rsplit_once('\n').unwrap();
    (status.parse().unwrap(), body.to_owned())
}

fn config(host: u8, secret: &Path, ports: &Path) -> vrouter_tests::AgentConfig {
    let section = format!(
        "[openstack]\nport-api = \"127.0.0.1:9091\"\nvpn-api = \"127.0.0.1:8082\"\nports-dir = {ports:?}\n\
         metadata = \"http://192.0.2.5:8775\"\nmetadata-secret-file = {secret:?}\nresolvers = [\"192.0.2.5\"]\n"
    );
    gateway(host, &[1]).section(&section)
}

/// Web pages for everybody, and nothing else in.
fn web_group(rules: &Value) -> Value {
    json!({"name": "web", "rules": rules})
}

fn set_group(lab: &Lab, node: &Node, group: &Value) {
    let file = lab.path("group.json");
    std::fs::write(&file, group.to_string()).unwrap();
    node.ctl(&["security-group", "set", &file.to_string_lossy()]);
}

/// The instance's own identifier, by metadata. Debian's static busybox looks services up by name in its wget, and falls.
fn metadata(vm: &mut Guest) -> String {
    let request = "GET /latest/meta-data/instance-id HTTP/1.1\\r\\nHost: 169.254.169.254\\r\\nConnection: close\\r\\n\\r\\n";
    vm.run(&format!(
        "printf '{request}' >/tmp/request && nc -w 10 169.254.169.254 80 </tmp/request | tail -n 1"
    ))
}

/// What every machine of a cloud does when it boots.
fn come_up(vm: &mut Guest, what: &Vm) {
    vm.serve_web();
    let lease = vm.udhcpc("eth0");
    assert_eq!((lease["ip"].as_str(), lease["mask"].as_str()), (what.v4, "24"), "{lease:#?}");
    assert_eq!(lease["mtu"], "1468");
    assert_eq!(metadata(vm), what.instance);
    let names = vm.run(&format!("nslookup db.example.org {}", lease["dns"]));
    assert!(names.contains("10.9.9.9"), "{names}");
    // The kernel asked for a router when the link came up, and made the address of what it heard.
    vm.run(&format!(
        "made=; for i in $(seq 60); do /sbin/ip -6 address show dev eth0 | grep -q {}/64 && made=yes && break; \
         sleep 0.5; done; /sbin/ip -6 address; test -n \"$made\"",
        what.v6
    ));
}

#[test]
fn two_machines_plugged_by_novas_requests_have_all_they_need_and_survive_the_agent() {
    let lab = Lab::new();
    let services = lab.site("services", 5);
    let nova = Nova::start(&services, lab.directory(), 8775, SECRET);
    let _resolver = Resolver::start(&services, &[("db.example.org", "10.9.9.9".parse().unwrap())]);
    let peers = [11, 12].map(|host| GoBgpPeer::client(underlay_v4(host).into(), ASN));
    let gobgp = GoBgp::start(&lab, "gobgp", 1, ASN, &peers);
    let one = Node::start(&lab, "gw-11", 11, &gateway(11, &[1]));
    let ports = lab.path("ports");
    let mut hypervisor = Node::start(&lab, "gw-12", 12, &config(12, nova.secret_file(), &ports));
    one.wait_established(gobgp.address());
    hypervisor.wait_established(gobgp.address());
    let pod = one.add_pod("sensor");

    let all_web = json!([
        {"direction": "ingress", "family": "ipv4", "protocol": "tcp", "portMin": 80},
        {"direction": "ingress", "family": "ipv6", "protocol": "tcp", "portMin": 80},
        {"direction": "egress", "family": "ipv4"}, {"direction": "egress", "family": "ipv6"},
    ]);
    set_group(&lab, &hypervisor, &web_group(&all_web));
    for vm in &VMS {
        hypervisor.namespace().add_tap(vm.tap);
    }
    let plugs = Value::Array(VMS.iter().map(Vm::plug).collect());
    assert_eq!(post(&hypervisor, "http://127.0.0.1:9091/port", &plugs).0, 200);
    for vm in &VMS {
        for (address, gateway) in
            [(format!("{}/24", vm.v4), "10.50.0.1"), (format!("{}/64", vm.v6), "fd00:50::1")]
        {
            let (status, said) = post(
                &hypervisor,
                "http://127.0.0.1:8082/attach_localport",
                &vm.attachment(&address, gateway),
            );
            assert_eq!(status, 200, "{said}");
        }
    }
    let addresses: Vec<IpAddr> = VMS.iter().flat_map(Vm::addresses).collect();
    wait_routes(&one, &addresses);

    let mut guests: Vec<Guest> = VMS
        .iter()
        .map(|vm| {
            let mac: MacAddr = vm.mac.parse().unwrap();
            Guest::boot(&lab, vm.tap, hypervisor.namespace(), vm.tap, mac)
        })
        .collect();
    for (guest, vm) in guests.iter_mut().zip(&VMS) {
        come_up(guest, vm);
        for address in pod.addresses() {
            guest.run(&format!("ping -c 3 -W 5 {address}"));
        }
        for address in vm.addresses() {
            assert_eq!(web_page(pod.namespace(), address).unwrap(), vm.tap, "{address}");
        }
    }
    // The first is in a group that lets in nobody but for the web.
    let ping = |vm: &Vm| Probe::default().send(pod.namespace(), vm.addresses()[0]);
    assert_ne!(Probe::hopeless().send(pod.namespace(), VMS[0].addresses()[0]), Answer::Reply);
    assert_eq!(ping(&VMS[1]), Answer::Reply);
    assert!(hypervisor.drops().keys().any(|name| name.contains("policy") || name.contains("security")));

    // A restart in the middle of a transfer: nothing is plugged again, and nothing is lost.
    let plugged = || {
        serde_json::from_str::<Value>(
            &call(&hypervisor, &["http://127.0.0.1:9091/port/93c2c386-6e79-485e-bfa4-b9daa7131002"]).1,
        )
        .unwrap()
    };
    let before = plugged();
    guests[1].run("dd if=/dev/urandom of=/tmp/www/noise bs=1M count=16 2>/dev/null");
    let (wanted, noise) = (guests[1].run("sha256sum </tmp/www/noise"), lab.path("noise"));
    let mut fetch = Command::new("curl");
    fetch.args(["--silent", "--show-error", "--limit-rate", "3M", "--max-time", "120", "-o"]).arg(&noise);
    fetch.arg(format!("http://{}/noise", VMS[1].v4));
    let pod_namespace = pod.namespace().clone();
    let transfer = std::thread::spawn(move || run_ok(&pod_namespace, &mut fetch));
    vrouter_tests::wait_until("the transfer to be under way", vrouter_tests::PATIENCE, || {
        std::fs::metadata(&noise).is_ok_and(|file| file.len() > 1 << 20)
    });
    hypervisor.kill9();
    assert!(!transfer.is_finished(), "it was to be in the middle");
    hypervisor.start_agent();
    assert!(transfer.join().is_ok(), "the transfer broke off");
    let arrived = run_ok(pod.namespace(), Command::new("sha256sum").arg(&noise));
    assert_eq!(arrived.split_whitespace().next(), wanted.split_whitespace().next());
    let plugged = || {
        serde_json::from_str::<Value>(
            &call(&hypervisor, &["http://127.0.0.1:9091/port/93c2c386-6e79-485e-bfa4-b9daa7131002"]).1,
        )
        .unwrap()
    };
    assert_eq!(plugged(), before);
    wait_routes(&one, &addresses);
    for (guest, vm) in guests.iter_mut().zip(&VMS) {
        come_up_again(guest, vm);
    }

    // The group closes its last door: who is inside hears nothing from outside, the other machine goes on.
    set_group(&lab, &hypervisor, &web_group(&json!([])));
    vrouter_tests::wait_until("the web to be closed", vrouter_tests::PATIENCE, || {
        web_page(pod.namespace(), VMS[0].addresses()[0]).is_err()
    });
    assert_eq!(web_page(pod.namespace(), VMS[1].addresses()[0]).unwrap(), VMS[1].tap);

    for vm in &VMS {
        let url = format!("http://127.0.0.1:9091/port/{}", vm.port);
        assert_eq!(call(&hypervisor, &["-X", "DELETE", &url]).0, 200);
        let attached = vm.attachment(&format!("{}/24", vm.v4), "10.50.0.1");
        assert_eq!(post(&hypervisor, "http://127.0.0.1:8082/detach_localport", &attached).0, 200);
    }
    one.wait_no_route("city", "10.50.0.11/32");
    assert_eq!(nova.heard().iter().filter(|heard| heard.line.contains("instance-id")).count(), 4);
}

/// After the restart: what it has it keeps, and what it asks for it gets.
fn come_up_again(vm: &mut Guest, what: &Vm) {
    assert_eq!(metadata(vm), what.instance);
    assert_eq!(vm.udhcpc("eth0")["ip"], what.v4);
}
