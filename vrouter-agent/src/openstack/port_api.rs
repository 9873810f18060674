//! The incumbent's port API: from method, path and body to what is asked, and what is answered.
//!
//! | method and path | asks |
//! |---|---|
//! | `POST /port` | plug one, or an array: all or none |
//! | `DELETE /port/<uuid>`, `GET /port/<uuid>` | unplug; the operational view |
//! | `POST /syncports` | what is not plugged again within a minute goes |
//! | `PUT /enable-port/<uuid>`, `/disable-port/<uuid>` | ports of type 2 |
//! | `POST /vm`, `DELETE /vm/<uuid>`, `GET /vm/<uuid>[/<uuid>]` | the incumbent's CNI plugin |
//! | `GET /vm-cfg/<name>` | what that plugin polls before it makes interfaces |
//! | `POST`, `DELETE /gateway` | refused: a host's interface is no port here |
//!
//! Anything else, another method included, is 404 `Unknown Request`, as is a UUID that is not written in small letters.
//! Failures are 500 with a reason. Unlike the incumbent, an array of which one element is wrong is a failure too.

use std::net::IpAddr;

use agent_api::{ApiError, ErrorKind};
use serde_json::{Map, Value, json};
use vrouter_types::MacAddr;

use super::plug::{Plug, PlugKind, Source};
use super::{Change, LIMITS, Uuid};
use crate::config::is_interface_name;

/// What is asked.
#[derive(Debug, Clone, PartialEq)]
pub enum PortCall {
    /// Something is to change.
    Change(Change),
    /// `GET /port/<uuid>`.
    Port(Uuid),
    /// `GET /vm/<uuid>[/<uuid>]`.
    Vm(Uuid, Option<Uuid>),
    /// `GET /vm-cfg/<name>`.
    VmConfig(VmName),
}

/// What is answered: the code and the body.
#[derive(Debug, Clone, PartialEq)]
pub struct PortReply {
    /// 200, 404 or 500.
    pub status: u16,
    /// The JSON.
    pub body: Value,
}

/// `<cluster>__<namespace>__<pod>`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VmName {
    /// All of it.
    pub name: String,
    /// The cluster.
    pub cluster: String,
    /// The Kubernetes namespace.
    pub namespace: String,
    /// The pod.
    pub pod: String,
}

impl PortReply {
    /// It is done.
    pub fn done() -> PortReply {
        PortReply { status: 200, body: json!({}) }
    }

    /// The JSON that was asked for.
    pub fn found(body: Value) -> PortReply {
        PortReply { status: 200, body }
    }

    /// There is no such thing.
    pub fn not_found() -> PortReply {
        PortReply { status: 404, body: json!({ "error": "{ Not Found }" }) }
    }

    /// No such path, or no such method there.
    pub fn unknown() -> PortReply {
        PortReply { status: 404, body: json!({ "error": "Unknown Request" }) }
    }

    /// It cannot be done.
    pub fn failed(why: &str) -> PortReply {
        PortReply { status: 500, body: json!({ "error": format!("{{ {why} }}") }) }
    }
}

/// An error of ours in the incumbent's form. It knows no conflict and no "later": both are failures.
impl From<&ApiError> for PortReply {
    fn from(error: &ApiError) -> PortReply {
        match error.kind {
            ErrorKind::NotFound => PortReply::not_found(),
            _ => PortReply::failed(&error.message),
        }
    }
}

/// What a request asks.
pub fn read(method: &str, path: &str, body: &[u8]) -> Result<PortCall, PortReply> {
    let segments: Vec<&str> = path.strip_prefix('/').unwrap_or_default().split('/').collect();
    let uuid = |text: &str| Uuid::in_path(text).ok_or_else(PortReply::unknown);
    Ok(match (method, segments.as_slice()) {
        ("POST", ["port"]) => PortCall::Change(Change::Plug(plugs(body)?)),
        ("DELETE", ["port", id]) => PortCall::Change(Change::Unplug(uuid(id)?)),
        ("GET", ["port", id]) => PortCall::Port(uuid(id)?),
        ("POST", ["syncports"]) => PortCall::Change(Change::Sync),
        ("PUT", ["enable-port", id]) => PortCall::Change(Change::Link { id: uuid(id)?, up: true }),
        ("PUT", ["disable-port", id]) => PortCall::Change(Change::Link { id: uuid(id)?, up: false }),
        ("POST", ["vm"]) => PortCall::Change(Change::Plug(vec![vm(&json_body(body)?)?])),
        ("DELETE", ["vm", id]) => PortCall::Change(Change::UnplugInstance(uuid(id)?)),
        ("GET", ["vm", id]) => PortCall::Vm(uuid(id)?, None),
        ("GET", ["vm", id, port]) => PortCall::Vm(uuid(id)?, Some(uuid(port)?)),
        ("GET", ["vm-cfg", name]) => PortCall::VmConfig(vm_name(name).ok_or_else(PortReply::not_found)?),
        ("POST" | "DELETE", ["gateway"]) => {
            return Err(PortReply::failed(
                "Operation Not Supported: an interface of the host is no port here, since whatever stands behind it \
                 has many MAC addresses",
            ));
        }
        _ => return Err(PortReply::unknown()),
    })
}

fn json_body(body: &[u8]) -> Result<Value, PortReply> {
    serde_json::from_slice(body).map_err(|error| PortReply::failed(&format!("Invalid Json: {error}")))
}

/// One object, or an array of them. The first mistake refuses all.
fn plugs(body: &[u8]) -> Result<Vec<Plug>, PortReply> {
    let refused = |error: super::plug::PlugError| PortReply::failed(&error.to_string());
    match json_body(body)? {
        Value::Array(items) if items.len() > LIMITS.batch => {
            Err(PortReply::failed(&format!("at most {} ports at once", LIMITS.batch)))
        }
        Value::Array(items) => {
            let read = |(at, item): (usize, &Value)| {
                Plug::read(item, Source::Request)
                    .map_err(|error| PortReply::failed(&format!("element {at}: {error}; none was added")))
            };
            items.iter().enumerate().map(read).collect()
        }
        object => Ok(vec![Plug::read(&object, Source::Request).map_err(refused)?]),
    }
}

/// `POST /vm`: a pod's interface. It names no address; it gets one of its VRF's `pods`.
fn vm(value: &Value) -> Result<Plug, PortReply> {
    let object =
        value.as_object().ok_or_else(|| PortReply::failed("Invalid Json: /vm takes one object, no array"))?;
    let missing = |key: &str| PortReply::failed(&format!("Invalid or missing field for <{key}>"));
    let text = |key: &'static str| object.get(key).and_then(Value::as_str).ok_or_else(|| missing(key));
    let uuid = |key: &'static str| {
        let parsed = text(key)?.parse::<Uuid>().ok().filter(|uuid| !uuid.is_nil());
        parsed.ok_or_else(|| PortReply::failed(&format!("Invalid or missing data for <{key}>")))
    };
    let (name, interface) = (text("vm-name")?, text("host-ifname")?);
    if !is_interface_name(interface) {
        return Err(PortReply::failed(&format!(
            "Invalid host-ifname {interface:?}: no name of an interface"
        )));
    }
    if !is_plain(name) {
        return Err(PortReply::failed("Invalid vm-name: want letters, digits, '.', '_' and '-'"));
    }
    let id = uuid("vmi-uuid")?;
    Ok(Plug {
        id,
        instance: uuid("vm-uuid")?,
        network: uuid("vn-uuid")?,
        project: Uuid::NIL,
        name: name.to_owned(),
        ipv4: None,
        ipv6: None,
        mac: mac_of(id),
        interface: interface.to_owned(),
        kind: PlugKind::Namespace,
        rx_vlan: -1,
        tx_vlan: -1,
        vhostuser_mode: 0,
        link_up: true,
        author: String::new(),
        time: object.get("time").and_then(Value::as_str).unwrap_or_default().chars().take(64).collect(),
    })
}

/// The incumbent makes a port's MAC address of its UUID: `02` and the first five octets.
pub fn mac_of(id: Uuid) -> MacAddr {
    let [a, b, c, d, e, ..] = id.octets();
    MacAddr([0x02, a, b, c, d, e])
}

fn vm_name(text: &str) -> Option<VmName> {
    let mut parts = text.splitn(3, "__");
    let (cluster, namespace, pod) = (parts.next()?, parts.next()?, parts.next()?);
    let whole = [cluster, namespace, pod].iter().all(|part| !part.is_empty());
    (whole && is_plain(text)).then(|| VmName {
        name: text.to_owned(),
        cluster: cluster.to_owned(),
        namespace: namespace.to_owned(),
        pod: pod.to_owned(),
    })
}

/// Nothing that could lead elsewhere in a file system.
fn is_plain(name: &str) -> bool {
    let legal = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '.' | '_' | '-');
    !name.is_empty() && name.len() <= 255 && name.chars().all(legal) && !name.starts_with('.')
}

/// What is configured for a pod that does not exist yet: one interface, in this VRF. The UUIDs follow from the names, so
/// that every poll says the same.
pub fn vm_config(name: &VmName, vrf: &str) -> Value {
    let id = Uuid::of_name(&format!("{}/0", name.name));
    let pair = |key: &str, value: &str| format!("{{{key}:{value}}}");
    let annotations = [
        pair("cluster", &name.cluster),
        pair("kind", "Pod"),
        pair("name", &name.pod),
        pair("namespace", &name.namespace),
        pair("network", vrf),
        pair("owner", "k8s"),
        pair("project", &name.namespace),
        pair("index", "0/1"),
        pair("interface", "eth0"),
    ];
    json!([{
        "id": id,
        "vm-uuid": Uuid::of_name(&name.name),
        "vn-id": Uuid::of_name(&format!("vrf/{vrf}")),
        "vn-name": vrf,
        "mac-address": mac_of(id),
        "sub-interface": false,
        "vlan-id": 65535,
        "annotations": annotations,
    }])
}

/// What the operational view says beside the plug.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Operational {
    /// Its address of each family with the length of its subnet and the gateway there.
    pub ipv4: Option<(IpAddr, u8, IpAddr)>,
    /// The same.
    pub ipv6: Option<(IpAddr, u8, IpAddr)>,
}

/// `GET /port/<uuid>`.
pub fn port_view(plug: &Plug, now: &Operational) -> Value {
    let mut view = Map::new();
    let mut put = |key: &str, value: Value| view.insert(key.to_owned(), value);
    put("id", json!(plug.id));
    put("instance-id", json!(plug.instance));
    put("vn-id", json!(plug.network));
    put("vm-project-id", json!(plug.project));
    put("mac-address", json!(plug.mac));
    put("system-name", json!(plug.interface));
    put("rx-vlan-id", json!(plug.rx_vlan));
    put("tx-vlan-id", json!(plug.tx_vlan));
    put("vhostuser-mode", json!(plug.vhostuser_mode));
    if let Some((address, length, gateway)) = now.ipv4 {
        put("ip-address", json!(address));
        put("plen", json!(length));
        put("dns-server", json!(gateway));
        put("gateway", json!(gateway));
    }
    if let Some((address, _, gateway)) = now.ipv6 {
        put("v6-ip-address", json!(address));
        put("v6-dns-server", json!(gateway));
        put("v6-gateway", json!(gateway));
    }
    put("author", json!(if plug.author.is_empty() { super::plug::AUTHOR } else { &plug.author }));
    put("time", json!(plug.time));
    Value::Object(view)
}

#[cfg(test)]
mod tests;
