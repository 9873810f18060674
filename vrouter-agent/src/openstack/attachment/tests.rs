use super::*;
use agent_api::ErrorKind;
use serde_json::json;

fn body() -> Value {
    json!({
        "vpn_instance_id": "ipvpn-red", "vpn_type": "ipvpn", "import_rt": ["64512:100"], "export_rt": ["64512:101"],
        "mac_address": "52:54:00:00:00:01", "ip_address": "10.100.0.5", "gateway_ip": "10.100.0.1",
        "local_port": { "linuxif": "tap0" }
    })
}

fn with(key: &str, value: Value) -> Result<Attachment, ApiError> {
    let mut body = body();
    body[key] = value;
    Attachment::read(&body)
}

fn target(text: &str) -> RouteTarget {
    text.parse().unwrap()
}

#[test]
fn every_field_of_bagpipes_attach_is_read() {
    let plain = Attachment::read(&body()).unwrap();
    assert_eq!((plain.instance.as_str(), plain.interface.as_str()), ("ipvpn-red", "tap0"));
    assert_eq!(plain.mac.to_string(), "52:54:00:00:00:01");
    assert_eq!(
        (plain.import, plain.export),
        (vec![target("target:64512:100")], vec![target("target:64512:101")])
    );
    assert_eq!((plain.local_pref, plain.hash_order, plain.direction), (None, None, Direction::Both));
    assert_eq!(plain.gateway, Some("10.100.0.1".parse().unwrap()));
    let full = json!({
        "vpn_instance_id": "ipvpn-red", "vpn_type": "ipvpn", "import_rt": "64512:100, 64512:7", "export_rt": "",
        "mac_address": "52:54:00:00:00:01", "ip_address": "10.100.0.5/24", "gateway_ip": "10.100.0.1",
        "local_port": "tap0", "advertise_subnet": true, "local_pref": 150, "lb_consistent_hash_order": 3,
        "direction": "both", "instance_description": "a net", "description": { "port": "x" }, "linuxbr": "br0",
        "readvertise": { "from_rt": ["64512:8"], "to_rt": ["64512:9"] }, "vni": 0, "attract_traffic": {},
        "fallback": { "src_mac": "00:00:00:00:00:01" }, "nobody-knows-this": 7
    });
    let full = Attachment::read(&full).unwrap();
    assert_eq!(full.import.len(), 2, "a string with commas");
    assert!(full.export.is_empty());
    assert_eq!(full.prefix(), "10.100.0.0/24".parse().unwrap());
    assert_eq!(full.own_address(), Some("10.100.0.5".parse().unwrap()));
    assert_eq!((full.local_pref, full.hash_order), (Some(150), Some(3)));
    assert_eq!(full.description.as_deref(), Some("{\"port\":\"x\"}"));
    let readvertise = full.readvertise.unwrap();
    assert_eq!(
        (readvertise.from, readvertise.to),
        (vec![target("target:64512:8")], vec![target("target:64512:9")])
    );
}

#[test]
fn route_targets_of_all_three_forms_are_taken() {
    let texts = json!(["64512:100", "4200000000:6", "192.0.2.1:7", "target:64512:8"]);
    let attachment = with("import_rt", texts).unwrap();
    let wanted = ["target:64512:100", "target:64512:8", "target:192.0.2.1:7", "target:4200000000:6"];
    let mut wanted: Vec<RouteTarget> = wanted.into_iter().map(target).collect();
    wanted.sort_unstable();
    assert_eq!(attachment.import, wanted);
}

#[test]
fn ipv6_is_as_good_as_ipv4() {
    let mut body = body();
    body["ip_address"] = json!("2001:db8::6/64");
    body["gateway_ip"] = json!("2001:db8::1");
    let attachment = Attachment::read(&body).unwrap();
    assert_eq!(attachment.prefix(), "2001:db8::6/128".parse().unwrap(), "announced as one address");
    assert_eq!(attachment.subnet(), Some("2001:db8::/64".parse().unwrap()));
    body["advertise_subnet"] = json!(true);
    assert_eq!(Attachment::read(&body).unwrap().prefix(), "2001:db8::/64".parse().unwrap());
}

#[test]
fn a_prefix_that_is_its_own_name_is_nobodys_address() {
    let mut body = body();
    body["ip_address"] = json!("10.9.0.0/16");
    body["advertise_subnet"] = json!(true);
    body["direction"] = json!("to-port");
    let attachment = Attachment::read(&body).unwrap();
    assert_eq!(attachment.own_address(), None);
    assert!(!attachment.takes_packets() && attachment.announces());
}

#[test]
fn what_is_missing_or_wrong_is_refused_with_its_name() {
    for key in [
        "vpn_instance_id",
        "vpn_type",
        "import_rt",
        "export_rt",
        "mac_address",
        "ip_address",
        "gateway_ip",
        "local_port",
    ] {
        let mut body = body();
        body.as_object_mut().unwrap().remove(key);
        let error = Attachment::read(&body).unwrap_err();
        assert_eq!(error.kind, ErrorKind::BadRequest);
        assert!(error.message.contains(&format!("{key} is missing")), "{error}");
    }
    for (key, value) in [
        ("vpn_type", json!("evpn")),
        ("vpn_type", json!(7)),
        ("vpn_instance_id", json!("../../etc/passwd")),
        ("vpn_instance_id", json!("")),
        ("vpn_instance_id", json!("a".repeat(256))),
        ("vpn_instance_id", json!("(x)")),
        ("mac_address", json!("52:54:00:00:00")),
        ("mac_address", json!("ff:ff:ff:ff:ff:ff")),
        ("ip_address", json!("10.0.0.256")),
        ("ip_address", json!("10.0.0.5/33")),
        ("ip_address", json!("10.0.0.5/")),
        ("ip_address", json!(["10.0.0.5"])),
        ("import_rt", json!(["64512"])),
        ("import_rt", json!(["4200000000:70000"])),
        ("export_rt", json!([7])),
        ("export_rt", json!({})),
        ("local_port", json!({ "ovs": {} })),
        ("local_port", json!({ "linuxif": "../tap0" })),
        ("local_port", json!({ "evpn": { "id": "x" } })),
        ("local_port", json!(7)),
        ("local_pref", json!(-1)),
        ("local_pref", json!(4_294_967_296_u64)),
        ("lb_consistent_hash_order", json!("many")),
        ("direction", json!("up")),
        ("advertise_subnet", json!("yes")),
        ("gateway_ip", json!("nowhere")),
        ("readvertise", json!({ "from_rt": ["64512:1"] })),
        ("readvertise", json!({ "from_rt": ["64512:1"], "to_rt": ["64512:1"] })),
        ("attract_traffic", json!({ "redirect_rts": ["64512:1"] })),
        ("vni", json!(5)),
        ("description", json!("x".repeat(513))),
        ("allowed_address_pairs", json!([{ "ip_address": "x" }])),
        ("floating_ips", json!({})),
    ] {
        let error = with(key, value.clone()).expect_err(&format!("{key}: {value}"));
        assert_eq!(error.kind, ErrorKind::BadRequest);
        assert!(error.message.contains(key), "{key}: {error}");
    }
    assert!(Attachment::read(&json!("tap0")).is_err());
}

#[test]
fn what_bagpipes_own_client_sends_for_options_not_given_is_absent() {
    let mut body = body();
    for key in
        ["vni", "readvertise", "local_pref", "direction", "instance_description", "lb_consistent_hash_order"]
    {
        body[key] = Value::Null;
    }
    body["lb_consistent_hash_order"] = json!("2");
    body["readvertise"] = json!({});
    body["gateway_ip"] = Value::Null;
    let attachment = Attachment::read(&body).unwrap();
    assert_eq!((attachment.hash_order, attachment.readvertise, attachment.gateway), (Some(2), None, None));
    for nobody in ["", "0.0.0.0", "::", "0.0.0.0/0"] {
        body["gateway_ip"] = json!(nobody);
        assert_eq!(Attachment::read(&body).unwrap().gateway, None, "{nobody:?}");
    }
}

#[test]
fn neutrons_patch_port_is_a_name_of_nothing_and_taken() {
    let port =
        json!({ "linuxif": "patch2tun:5", "ovs": { "plugged": true, "port_number": "7", "vlan": "5" } });
    assert_eq!(with("local_port", port).unwrap().interface, "patch2tun:5");
}

#[test]
fn a_detach_means_the_address_or_all_of_the_mac() {
    let key = Attachment::read(&body()).unwrap().key();
    let mut asked = json!({
        "vpn_instance_id": "ipvpn-red", "vpn_type": "ipvpn", "mac_address": "52:54:00:00:00:01",
        "ip_address": "10.100.0.5", "local_port": { "linuxif": "tap0" }
    });
    assert!(Detachment::read(&asked).unwrap().means(&key));
    asked["ip_address"] = json!("10.100.0.6");
    assert!(!Detachment::read(&asked).unwrap().means(&key));
    asked.as_object_mut().unwrap().remove("ip_address");
    assert!(Detachment::read(&asked).unwrap().means(&key), "a wildcard");
    asked["vpn_instance_id"] = json!("other");
    assert!(!Detachment::read(&asked).unwrap().means(&key));
    asked.as_object_mut().unwrap().remove("mac_address");
    assert!(Detachment::read(&asked).is_err());
}
