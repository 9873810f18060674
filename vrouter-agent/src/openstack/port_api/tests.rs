use super::*;

const ID: &str = "93c2c386-6e79-485e-bfa4-b9daa713133b";

fn object(id: &str) -> Value {
    json!({
        "id": id, "instance-id": ID, "vn-id": ID, "vm-project-id": "", "display-name": "vm1",
        "ip-address": "11.0.0.3", "ip6-address": "None", "mac-address": "02:93:c2:c3:86:6e",
        "system-name": "tap93c2c386-6e", "type": 0, "rx-vlan-id": -1, "tx-vlan-id": -1
    })
}

fn ask(method: &str, path: &str, body: &Value) -> Result<PortCall, PortReply> {
    read(method, path, body.to_string().as_bytes())
}

#[test]
fn every_endpoint_of_the_incumbent_is_understood() {
    let id: Uuid = ID.parse().unwrap();
    let none = json!(null);
    let is = |method: &str, path: &str, wanted: PortCall| {
        assert_eq!(ask(method, path, &none), Ok(wanted), "{method} {path}");
    };
    is("DELETE", &format!("/port/{ID}"), PortCall::Change(Change::Unplug(id)));
    is("GET", &format!("/port/{ID}"), PortCall::Port(id));
    is("POST", "/syncports", PortCall::Change(Change::Sync));
    is("PUT", &format!("/enable-port/{ID}"), PortCall::Change(Change::Link { id, up: true }));
    is("PUT", &format!("/disable-port/{ID}"), PortCall::Change(Change::Link { id, up: false }));
    is("DELETE", &format!("/vm/{ID}"), PortCall::Change(Change::UnplugInstance(id)));
    is("GET", &format!("/vm/{ID}"), PortCall::Vm(id, None));
    is("GET", &format!("/vm/{ID}/{ID}"), PortCall::Vm(id, Some(id)));
    let Ok(PortCall::Change(Change::Plug(one))) = ask("POST", "/port", &object(ID)) else { panic!() };
    assert_eq!(one.len(), 1);
    let Ok(PortCall::Change(Change::Plug(none))) = ask("POST", "/port", &json!([])) else { panic!() };
    assert!(none.is_empty(), "an empty array is no mistake");
}

#[test]
fn other_paths_and_methods_are_unknown_requests() {
    for (method, path) in [
        ("GET", "/"),
        ("GET", "/port"),
        ("PUT", "/port"),
        ("GET", "/syncports"),
        ("POST", &format!("/port/{ID}")),
        ("GET", &format!("/enable-port/{ID}")),
        ("GET", &format!("/port/{}", ID.to_uppercase())),
        ("GET", "/port/..%2f..%2fetc%2fpasswd"),
        ("DELETE", "/port/../vm"),
        ("GET", &format!("/port/{ID}/")),
        ("GET", "/v1/status"),
    ] {
        let reply = ask(method, path, &json!({})).unwrap_err();
        assert_eq!(
            (reply.status, &reply.body),
            (404, &json!({ "error": "Unknown Request" })),
            "{method} {path}"
        );
    }
}

#[test]
fn an_array_with_one_bad_element_is_refused_as_a_whole_and_says_which() {
    let mut bad = object(ID);
    bad["mac-address"] = json!("x");
    let reply = ask("POST", "/port", &json!([object(ID), bad])).unwrap_err();
    assert_eq!(reply.status, 500);
    let error = reply.body["error"].as_str().unwrap();
    assert!(error.starts_with("{ element 1: Invalid MAC") && error.ends_with(" }"), "{error}");
    let many: Vec<Value> = (0..=LIMITS.batch).map(|_| object(ID)).collect();
    assert_eq!(ask("POST", "/port", &json!(many)).unwrap_err().status, 500, "bounded");
    assert_eq!(read("POST", "/port", b"{").unwrap_err().status, 500, "no JSON");
    assert_eq!(read("POST", "/port", b"").unwrap_err().status, 500, "nothing");
}

#[test]
fn the_cni_plugins_object_becomes_a_port_without_addresses() {
    let vm = json!({
        "time": "t", "vm-id": "abc", "vm-uuid": ID, "vm-name": "k8s__default__web", "host-ifname": "tapeth0-1b2c3d",
        "vm-ifname": "eth0", "vm-namespace": "/proc/1/ns/net", "vn-uuid": ID, "vmi-uuid": ID
    });
    let Ok(PortCall::Change(Change::Plug(plugs))) = ask("POST", "/vm", &vm) else { panic!() };
    assert_eq!(plugs[0].kind, PlugKind::Namespace);
    assert_eq!(plugs[0].addresses().count(), 0);
    assert_eq!(plugs[0].mac.to_string(), "02:93:c2:c3:86:6e");
    assert_eq!(ask("POST", "/vm", &json!([vm.clone()])).unwrap_err().status, 500, "no arrays");
    for key in ["vm-uuid", "vm-name", "host-ifname", "vn-uuid", "vmi-uuid"] {
        let mut lacking = vm.clone();
        lacking.as_object_mut().unwrap().remove(key);
        let error = ask("POST", "/vm", &lacking).unwrap_err().body["error"].as_str().unwrap().to_owned();
        assert!(error.contains(&format!("<{key}>")), "{error}");
    }
    for (key, value) in [("vm-name", "../../x"), ("host-ifname", "a/b"), ("vmi-uuid", "../x")] {
        let mut odd = vm.clone();
        odd[key] = json!(value);
        assert_eq!(ask("POST", "/vm", &odd).unwrap_err().status, 500, "{key}");
    }
}

#[test]
fn a_pods_configuration_is_the_same_at_every_poll() {
    let Ok(PortCall::VmConfig(name)) = ask("GET", "/vm-cfg/k8s__default__web-0", &json!(null)) else {
        panic!()
    };
    assert_eq!((name.namespace.as_str(), name.pod.as_str()), ("default", "web-0"));
    let config = vm_config(&name, "smart-city");
    assert_eq!(config, vm_config(&name, "smart-city"));
    let element = &config[0];
    assert_eq!(element["vn-name"], "smart-city");
    assert_eq!(element["sub-interface"], false);
    assert!(element["annotations"].as_array().unwrap().contains(&json!("{index:0/1}")));
    for name in ["web", "k8s__default", "k8s____web", "..", "k8s__default__a%2fb"] {
        assert_eq!(ask("GET", &format!("/vm-cfg/{name}"), &json!(null)).unwrap_err().status, 404, "{name}");
    }
}

#[test]
fn the_operational_view_has_the_incumbents_keys_and_types() {
    let Ok(PortCall::Change(Change::Plug(plugs))) = ask("POST", "/port", &object(ID)) else { panic!() };
    let gateway: IpAddr = "11.0.0.1".parse().unwrap();
    let gateway6: IpAddr = "fe80::1".parse().unwrap();
    let now = Operational {
        ipv4: Some(("11.0.0.3".parse().unwrap(), 24, gateway)),
        ipv6: Some(("2001:db8::3".parse().unwrap(), 64, gateway6)),
    };
    let view = port_view(&plugs[0], &now);
    for key in [
        "id",
        "instance-id",
        "vn-id",
        "vm-project-id",
        "mac-address",
        "system-name",
        "ip-address",
        "dns-server",
        "gateway",
        "v6-ip-address",
        "v6-dns-server",
        "v6-gateway",
        "author",
        "time",
    ] {
        assert!(view[key].is_string(), "{key}");
    }
    for key in ["rx-vlan-id", "tx-vlan-id", "vhostuser-mode", "plen"] {
        assert!(view[key].is_i64(), "{key}");
    }
    let bare = port_view(&plugs[0], &Operational::default());
    assert!(bare.get("ip-address").is_none() && bare.get("v6-gateway").is_none());
}

#[test]
fn a_gateway_is_refused_with_a_reason() {
    for method in ["POST", "DELETE"] {
        let reply = ask(method, "/gateway", &json!([])).unwrap_err();
        assert_eq!(reply.status, 500);
        assert!(reply.body["error"].as_str().unwrap().contains("Not Supported"));
    }
}
