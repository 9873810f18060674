use super::*;
use crate::config::Config;
use crate::openstack::plug::Source;
use crate::openstack::wanted::Wanted;
use agent_api::AttachPort;
use serde_json::{Value, json};

const NETWORK: &str = "56297dc0-0000-4000-8000-000000000002";
const PROJECT: &str = "9970147c-0000-4000-8000-000000000003";

fn config(more: &str) -> Config {
    let text = format!("[bgp]\nasn = 64512\nrouter-id = \"192.0.2.11\"\n[[vrf]]\nname = \"city\"\n{more}");
    Config::parse(&text, std::path::Path::new("agent.toml")).unwrap_or_else(|errors| panic!("{errors}"))
}

pub(super) fn plug(n: u8, network: &str) -> Plug {
    let object = json!({
        "id": format!("93c2c386-6e79-485e-bfa4-0000000000{n:02x}"), "instance-id": format!("69ce06bd-0000-4000-8000-0000000000{n:02x}"),
        "vn-id": network, "vm-project-id": PROJECT, "display-name": format!("VM {n}"), "ip-address": format!("10.0.0.{n}"),
        "ip6-address": "None", "mac-address": format!("02:00:00:00:00:{n:02x}"), "system-name": format!("tap{n}"),
        "type": 0, "rx-vlan-id": -1, "tx-vlan-id": -1
    });
    Plug::read(&object, Source::Request).unwrap()
}

fn attachment(n: u8, more: Value) -> Attachment {
    let mut body = json!({
        "vpn_instance_id": "red", "vpn_type": "ipvpn", "import_rt": "64512:1", "export_rt": "64512:1",
        "mac_address": format!("02:00:00:00:00:{n:02x}"), "ip_address": format!("10.0.0.{n}/24"), "gateway_ip": "10.0.0.254",
        "local_port": { "linuxif": format!("tap{n}") }
    });
    if let (Value::Object(body), Value::Object(more)) = (&mut body, more) {
        body.extend(more);
    }
    Attachment::read(&body).unwrap()
}

fn change(ledger: &mut Ledger, change: Change) -> Touched {
    ledger.change(change, Millis(0)).unwrap()
}

fn port(ledger: &Ledger, tap: &str, config: &Config) -> (AttachPort, crate::openstack::RouteExtras) {
    match ledger.wanted(tap, config) {
        Some(Wanted::Port(request, extras)) => (*request, extras),
        other => panic!("{tap}: {other:?}"),
    }
}

fn waits(ledger: &Ledger, tap: &str, config: &Config) -> String {
    match ledger.wanted(tap, config) {
        Some(Wanted::Waits(why)) => why,
        other => panic!("{tap}: {other:?}"),
    }
}

#[test]
fn a_ports_vrf_is_that_of_its_network_before_that_of_its_project() {
    let mut ledger = Ledger::default();
    change(&mut ledger, Change::Plug(vec![plug(1, NETWORK)]));
    let network = config(&format!(
        "openstack-networks = [\"{NETWORK}\"]\n[[vrf]]\nname = \"b\"\nopenstack-projects = [\"{PROJECT}\"]"
    ));
    assert_eq!(port(&ledger, "tap1", &network).0.vrf.as_deref(), Some("city"));
    let project = config(&format!("openstack-projects = [\"{PROJECT}\"]"));
    assert_eq!(port(&ledger, "tap1", &project).0.vrf.as_deref(), Some("city"));
    assert!(waits(&ledger, "tap1", &config("")).contains(NETWORK), "visibly");
    assert_eq!(ledger.wanted("tap2", &network), None);
}

#[test]
fn plug_and_attachment_make_the_same_port_in_either_order_by_tap_or_by_mac() {
    for local_port in ["tap1", "patch2tun:5"] {
        let attach = || {
            Change::Attach(vec![attachment(
                1,
                json!({ "local_port": local_port, "ip_address": "10.0.0.1/24" }),
            )])
        };
        let (mut one, mut other) = (Ledger::default(), Ledger::default());
        change(&mut one, Change::Plug(vec![plug(1, NETWORK)]));
        let touched = change(&mut one, attach());
        assert!(touched.taps.contains("tap1") && touched.instances.contains("red"));
        change(&mut other, attach());
        let touched = change(&mut other, Change::Plug(vec![plug(1, NETWORK)]));
        assert!(touched.taps.contains("tap1") && touched.taps.contains(local_port));
        let config = config("");
        assert_eq!(one.wanted("tap1", &config), other.wanted("tap1", &config));
        let (request, extras) = port(&one, "tap1", &config);
        assert_eq!((request.vrf.as_deref(), request.addresses.len()), (Some("red"), 1));
        assert_eq!(request.name.as_deref(), Some("VM 1"));
        assert!(extras.silent.is_empty() && extras.adverts.is_empty());
        let vm = request.vm.unwrap();
        assert_eq!(vm.subnets[0].prefix, "10.0.0.0/24".parse().unwrap());
        assert_eq!(vm.host_name.as_deref(), Some("vm-1"));
        assert_eq!(one.wanted("patch2tun:5", &config), None, "no second port");
        change(&mut one, Change::Unplug(plug(1, NETWORK).id));
        assert!(one.wanted(local_port, &config).is_some(), "the attachment alone is a port too");
    }
}

#[test]
fn a_second_address_joins_the_first_and_leaves_it() {
    let mut ledger = Ledger::default();
    let six = attachment(1, json!({ "ip_address": "2001:db8::1/64", "gateway_ip": "2001:db8::ff" }));
    change(&mut ledger, Change::Attach(vec![attachment(1, json!({})), six]));
    let config = config("");
    assert_eq!(port(&ledger, "tap1", &config).0.addresses.len(), 2);
    let gone = Detachment {
        instance: "red".into(),
        mac: plug(1, NETWORK).mac,
        address: Some("2001:db8::1/128".parse().unwrap()),
    };
    let touched = change(&mut ledger, Change::Detach(vec![gone.clone()]));
    assert_eq!(touched.writes.len(), 1);
    assert_eq!(port(&ledger, "tap1", &config).0.addresses.len(), 1);
    assert_eq!(
        change(&mut ledger, Change::Detach(vec![gone])),
        Touched::default(),
        "the unknown is detached already"
    );
    let all = Detachment { instance: "red".into(), mac: plug(1, NETWORK).mac, address: None };
    let touched = change(&mut ledger, Change::Detach(vec![all]));
    assert!(touched.instances.contains("red"), "the last one takes the instance with it");
    assert_eq!(ledger.instances().count(), 0);
    assert!(
        ledger.attached_by_tap.is_empty() && ledger.attached_by_mac.is_empty() && ledger.numbers.is_empty()
    );
}

#[test]
fn the_same_again_changes_nothing_and_the_last_word_on_route_targets_holds() {
    let mut ledger = Ledger::default();
    change(&mut ledger, Change::Attach(vec![attachment(1, json!({}))]));
    assert_eq!(change(&mut ledger, Change::Attach(vec![attachment(1, json!({}))])), Touched::default());
    let touched = change(
        &mut ledger,
        Change::Attach(vec![attachment(2, json!({ "import_rt": "64512:2,4200000000:1" }))]),
    );
    assert!(touched.instances.contains("red"));
    assert_eq!(ledger.instance("red").unwrap().import.len(), 2);
    let preferred = change(
        &mut ledger,
        Change::Attach(vec![attachment(2, json!({ "import_rt": "64512:2,4200000000:1", "local_pref": 50 }))]),
    );
    assert!(preferred.taps.contains("tap2") && preferred.instances.is_empty());
}

#[test]
fn what_contradicts_is_refused_and_changes_nothing() {
    let mut ledger = Ledger::default();
    change(&mut ledger, Change::Attach(vec![attachment(1, json!({}))]));
    let same_address = attachment(2, json!({ "ip_address": "10.0.0.1" }));
    let error =
        ledger.change(Change::Attach(vec![attachment(3, json!({})), same_address]), Millis(0)).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Conflict);
    let elsewhere = attachment(1, json!({ "vpn_instance_id": "blue" }));
    let error = ledger.change(Change::Attach(vec![elsewhere]), Millis(0)).unwrap_err();
    assert!(error.message.contains("to-port"), "{error}");
    assert_eq!((ledger.attachments().count(), ledger.instances().count()), (1, 1), "none of it");
    let other_tap = Plug { interface: "tap1".into(), ..plug(2, NETWORK) };
    change(&mut ledger, Change::Plug(vec![plug(1, NETWORK)]));
    assert_eq!(
        ledger.change(Change::Plug(vec![other_tap]), Millis(0)).unwrap_err().kind,
        ErrorKind::Conflict
    );
    let remote = Change::Link { id: plug(1, NETWORK).id, up: false };
    assert!(ledger.change(remote, Millis(0)).unwrap_err().message.contains("Incorrect Port type"));
    let unknown = Change::Link { id: plug(9, NETWORK).id, up: false };
    assert!(ledger.change(unknown, Millis(0)).unwrap_err().message.contains("Port Not found"));
}

#[test]
fn in_one_array_too_packets_of_a_tap_enter_one_instance() {
    let mut ledger = Ledger::default();
    change(&mut ledger, Change::Plug(vec![plug(1, NETWORK), plug(2, NETWORK)]));
    let by_mac = |n, instance: &str, patch: &str| {
        attachment(n, json!({ "vpn_instance_id": instance, "local_port": { "linuxif": patch } }))
    };
    let twice = Change::Attach(vec![by_mac(1, "red", "patch2tun:1"), by_mac(1, "blue", "patch2tun:2")]);
    let error = ledger.change(twice, Millis(0)).unwrap_err();
    assert_eq!(
        (error.kind, error.message.contains("packets of tap1")),
        (ErrorKind::Conflict, true),
        "{error}"
    );
    // Two machines behind one patch port are two taps.
    change(
        &mut ledger,
        Change::Attach(vec![by_mac(1, "red", "patch2tun:1"), by_mac(2, "blue", "patch2tun:1")]),
    );
    assert_eq!(ledger.attachments().map(|(tap, _)| tap).collect::<Vec<_>>(), ["tap2", "tap1"]);
}

#[test]
fn directions_decide_where_packets_enter_and_what_is_announced() {
    let config = config("");
    let mut ledger = Ledger::default();
    let to_port =
        attachment(1, json!({ "vpn_instance_id": "blue", "direction": "to-port", "local_pref": 70 }));
    change(&mut ledger, Change::Attach(vec![to_port]));
    let (request, extras) = port(&ledger, "tap1", &config);
    assert_eq!(request.vrf.as_deref(), Some("(to-port)"), "its own packets enter nowhere");
    assert!(extras.silent.contains(&"10.0.0.1".parse().unwrap()));
    assert_eq!((extras.adverts[0].vrf.as_str(), extras.adverts[0].merits.local_pref), ("blue", Some(70)));
    assert!(ledger.vrfs(&config).iter().any(|vrf| vrf.name == "(to-port)"));
    change(&mut ledger, Change::Attach(vec![attachment(1, json!({ "direction": "from-port" }))]));
    let (request, extras) = port(&ledger, "tap1", &config);
    assert_eq!(request.vrf.as_deref(), Some("red"));
    assert!(
        extras.silent.contains(&"10.0.0.1".parse().unwrap()),
        "announced in the one, silent in the other"
    );
    assert_eq!(extras.adverts.len(), 1);
}

#[test]
fn a_subnet_has_a_distinguisher_of_its_own_and_a_leak_its_targets() {
    let config = config("");
    let mut ledger = Ledger::default();
    let subnet = attachment(1, json!({ "advertise_subnet": true }));
    let leak = attachment(
        1,
        json!({ "vpn_instance_id": "leak", "direction": "to-port",
        "readvertise": { "from_rt": ["64512:8"], "to_rt": ["64512:9"] } }),
    );
    change(&mut ledger, Change::Attach(vec![subnet, leak]));
    let (request, extras) = port(&ledger, "tap1", &config);
    assert_eq!(request.addresses, ["10.0.0.1".parse::<std::net::IpAddr>().unwrap()]);
    let advert = extras.adverts.iter().find(|advert| advert.vrf == "red").unwrap();
    assert!(advert.own_rd && advert.prefix == "10.0.0.0/24".parse().unwrap());
    assert_eq!(extras.leaks[0].from, ["target:64512:8".parse::<RouteTarget>().unwrap()]);
}

#[test]
fn route_distinguishers_never_clash_with_each_other_or_the_operators() {
    let mut ledger = Ledger::default();
    for n in 1..=9 {
        change(
            &mut ledger,
            Change::Attach(vec![attachment(n, json!({ "vpn_instance_id": format!("v{n}") }))]),
        );
    }
    let config = config("rd = \"192.0.2.11:32770\"");
    let mut rds: Vec<_> =
        ledger.vrfs(&config).into_iter().map(|vrf| vrf.rd).chain([config.vrfs[0].rd]).collect();
    let all = rds.len();
    rds.sort_unstable();
    rds.dedup();
    assert_eq!((rds.len(), all), (10, 10));
    let named = Config {
        vrfs: vec![crate::config::VrfConfig { name: "v3".into(), ..config.vrfs[0].clone() }],
        ..config.clone()
    };
    assert_eq!(ledger.vrfs(&named).len(), 8, "the operator's VRF of that name is the instance's");
    assert_eq!(ledger.vrf("v3", &named), None);
}

#[test]
fn the_disk_gives_back_what_was_said() {
    let mut ledger = Ledger::default();
    let mut records = Records::default();
    for change in [
        Change::Plug(vec![plug(1, NETWORK), plug(2, NETWORK)]),
        Change::Attach(vec![attachment(1, json!({})), attachment(3, json!({ "vpn_instance_id": "blue" }))]),
    ] {
        for write in self::change(&mut ledger, change).writes {
            match write {
                Write::Plug(plug) => records.plugs.push(*plug),
                Write::Attachment(number, it) => records.attachments.push((number, *it)),
                Write::Instance(it) => records.instances.push(*it),
                other => panic!("{other:?}"),
            }
        }
    }
    let mut restored = Ledger::restore(records);
    let config = config("");
    for tap in ["tap1", "tap2", "tap3"] {
        assert_eq!(restored.wanted(tap, &config), ledger.wanted(tap, &config), "{tap}");
    }
    assert_eq!(restored.vrfs(&config), ledger.vrfs(&config));
    let touched = change(&mut restored, Change::Attach(vec![attachment(4, json!({}))]));
    let Some(Write::Attachment(number, _)) = touched.writes.last() else { panic!() };
    assert_eq!(*number, 2, "numbers go on behind those that are taken");
}

#[test]
fn what_is_not_plugged_again_after_syncports_goes_and_the_rest_stays() {
    let mut ledger = Ledger::default();
    change(&mut ledger, Change::Plug(vec![plug(1, NETWORK), plug(2, NETWORK)]));
    assert_eq!(change(&mut ledger, Change::Sync).writes.len(), 2, "a restart knows it");
    let [one, two] = [1, 2].map(|n| plug(n, NETWORK).id);
    let touched = change(&mut ledger, Change::Plug(vec![plug(1, NETWORK)]));
    assert_eq!(touched.writes[0], Write::ForgetAwaited(one));
    assert_eq!(ledger.tick(Millis(STALE_MILLIS - 1)), Touched::default());
    let touched = ledger.tick(Millis(STALE_MILLIS));
    assert_eq!(touched.writes, [Write::ForgetPlug(two), Write::ForgetAwaited(two)]);
    assert_eq!(ledger.plugs().count(), 1);
    assert_eq!(ledger.tick(Millis(10 * STALE_MILLIS)), Touched::default());
}

#[test]
fn everything_is_bounded() {
    let mut ledger = Ledger::default();
    let many = |count: usize| -> Vec<Plug> {
        let one =
            |n: usize| Plug { id: Uuid(1 + n as u128), interface: format!("tap{n}"), ..plug(1, NETWORK) };
        (0..count).map(one).collect()
    };
    assert_eq!(
        ledger.change(Change::Plug(many(LIMITS.ports + 1)), Millis(0)).unwrap_err().kind,
        ErrorKind::Exhausted
    );
    assert_eq!(ledger.plugs().count(), 0);
    change(&mut ledger, Change::Plug(many(LIMITS.ports)));
    let one_more = Plug { id: Uuid(u128::MAX), interface: "more".into(), ..plug(1, NETWORK) };
    assert_eq!(
        ledger.change(Change::Plug(vec![one_more]), Millis(0)).unwrap_err().kind,
        ErrorKind::Exhausted
    );
}

#[test]
fn every_port_of_a_machine_goes_with_it() {
    let mut ledger = Ledger::default();
    let second = Plug { instance: plug(1, NETWORK).instance, ..plug(2, NETWORK) };
    change(&mut ledger, Change::Plug(vec![plug(1, NETWORK), second, plug(3, NETWORK)]));
    change(&mut ledger, Change::UnplugInstance(plug(1, NETWORK).instance));
    assert_eq!(ledger.plugs().map(|plug| plug.interface.as_str()).collect::<Vec<_>>(), ["tap3"]);
    change(&mut ledger, Change::UnplugInstance(plug(1, NETWORK).instance));
}

#[test]
fn behind_the_greatest_number_of_all_the_smallest_that_is_free_is_next() {
    let records = Records {
        attachments: vec![
            (0, attachment(1, json!({}))),
            (2, attachment(2, json!({}))),
            (u32::MAX, attachment(3, json!({}))),
        ],
        ..Records::default()
    };
    let mut ledger = Ledger::restore(records);
    let numbers: Vec<u32> = [4, 5, 6]
        .map(|n| match change(&mut ledger, Change::Attach(vec![attachment(n, json!({}))])).writes.last() {
            Some(Write::Attachment(number, _)) => *number,
            other => panic!("{other:?}"),
        })
        .into();
    assert_eq!(numbers, [1, 3, 4], "no file is written over");
    assert_eq!(ledger.attachments().count(), 6);
}

#[test]
fn files_that_contradict_each_other_are_said_until_one_is_gone() {
    let double = Plug { interface: "tap1".into(), ..plug(2, NETWORK) };
    let records = Records {
        plugs: vec![plug(1, NETWORK), double.clone()],
        attachments: vec![(3, attachment(1, json!({}))), (7, attachment(1, json!({ "local_pref": 7 })))],
        skipped: vec![("a-file".into(), "it is no regular file".into())],
        ..Records::default()
    };
    let mut ledger = Ledger::restore(records);
    assert_eq!(ledger.plugs().map(|plug| plug.id).collect::<Vec<_>>(), [plug(1, NETWORK).id]);
    assert_eq!(ledger.attachments().next().unwrap().1.local_pref, None, "the later wins nothing");
    let said = |ledger: &Ledger, of: &str| ledger.problems().iter().filter(|it| it.contains(of)).count();
    let id = double.id.to_string();
    assert_eq!([&*id, "tap1", "attachments/7.json", "a-file"].map(|of| said(&ledger, of)), [1; 4]);
    change(&mut ledger, Change::Unplug(double.id));
    assert_eq!(said(&ledger, &id), 0, "its file is gone");
    let many = (0..100).map(|n| (format!("file {n}"), "it is torn".to_owned())).collect();
    let ledger = Ledger::restore(Records { skipped: many, ..Records::default() });
    assert!(ledger.problems().len() == 9 && said(&ledger, "92 more") == 1, "{:?}", ledger.problems());
}
