//! A port as the incumbent's API and its files write it.
//!
//! Absent and `null` strings are refused in a request, with the incumbent's words; a file may lack what its writer's
//! version did not know. Addresses and UUIDs that are none are refused, but for the literals that stand for "none":
//! `""`, `"None"`, `"0.0.0.0"`, `"::"`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use vrouter_types::MacAddr;

use super::Uuid;
use crate::config::is_interface_name;

const MAX_NAME: usize = 255;
/// Who wrote a file, for whoever reads it.
pub const AUTHOR: &str = "vrouter-agent";

/// What stands behind a plug.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PlugKind {
    /// 0: a virtual machine.
    Vm,
    /// 1: a network namespace.
    Namespace,
    /// 2: a machine elsewhere, behind a VLAN.
    Remote,
}

/// One object of `POST /port`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Plug {
    /// The port's UUID.
    pub id: Uuid,
    /// The machine's.
    pub instance: Uuid,
    /// The network's.
    pub network: Uuid,
    /// The project's; nil: not said.
    pub project: Uuid,
    /// The machine's name.
    pub name: String,
    /// Its first IPv4 address.
    pub ipv4: Option<Ipv4Addr>,
    /// Its first IPv6 address.
    pub ipv6: Option<Ipv6Addr>,
    /// Its MAC address.
    pub mac: MacAddr,
    /// The tap.
    pub interface: String,
    /// What stands behind it.
    pub kind: PlugKind,
    /// VLAN of what it sends; -1: none.
    pub rx_vlan: i32,
    /// VLAN of what it is sent; -1: none.
    pub tx_vlan: i32,
    /// Of vhost-user; only told on.
    pub vhostuser_mode: i64,
    /// Whether it is enabled.
    pub link_up: bool,
    /// Who wrote it.
    pub author: String,
    /// When.
    pub time: String,
}

/// Why an object is no port: the incumbent's words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct PlugError(pub String);

/// Whether the object comes from a caller or from a file of some version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// A caller: all that must be there is.
    Request,
    /// A file: what may be missing is forgiven.
    File,
}

impl Plug {
    /// Reads one object.
    pub fn read(value: &Value, source: Source) -> Result<Plug, PlugError> {
        let object = value.as_object().ok_or_else(|| PlugError("Invalid Json: want an object".to_owned()))?;
        let reader = Reader { object, source };
        let kind = match reader.number("type", 0)? {
            0 => PlugKind::Vm,
            1 => PlugKind::Namespace,
            2 => PlugKind::Remote,
            other => return Err(PlugError(format!("Invalid port type {other}, want 0, 1 or 2"))),
        };
        let plug = Plug {
            id: reader.uuid("id")?,
            instance: reader.uuid("instance-id")?,
            network: reader.uuid("vn-id")?,
            project: reader.uuid("vm-project-id")?,
            name: reader.text("display-name")?.to_owned(),
            ipv4: reader.address("ip-address")?,
            ipv6: reader.address("ip6-address")?,
            mac: mac(reader.text("mac-address")?)?,
            interface: reader.text("system-name")?.to_owned(),
            kind,
            rx_vlan: reader.vlan("rx-vlan-id")?,
            tx_vlan: reader.vlan("tx-vlan-id")?,
            vhostuser_mode: reader.optional_number("vhostuser-mode")?.unwrap_or(0),
            link_up: reader
                .optional_number("link-state")?
                .map_or(kind != PlugKind::Remote, |state| state != 0),
            author: reader.optional_text("author").to_owned(),
            time: reader.optional_text("time").to_owned(),
        };
        plug.check()?;
        Ok(plug)
    }

    fn check(&self) -> Result<(), PlugError> {
        let refuse = |text: String| Err(PlugError(text));
        if self.id.is_nil() {
            return refuse("Invalid or missing data for id".to_owned());
        }
        if self.network.is_nil() && self.kind == PlugKind::Vm {
            return refuse("Invalid VN uuid".to_owned());
        }
        if !is_interface_name(&self.interface) {
            return refuse(format!("Invalid system-name {:?}: no name of an interface", self.interface));
        }
        if self.name.len() > MAX_NAME || self.name.contains(|letter: char| letter.is_control()) {
            return refuse(format!("Invalid display-name: longer than {MAX_NAME} octets, or not text"));
        }
        if self.rx_vlan >= 0 && self.tx_vlan < 0 {
            return refuse(
                "Invalid request. RX (receive) VLAN is valid, but TX (transmit) VLAN is not".to_owned(),
            );
        }
        Ok(())
    }

    /// Its addresses, IPv4 first.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.ipv4.map(IpAddr::V4).into_iter().chain(self.ipv6.map(IpAddr::V6))
    }

    /// The tag of its frames on the interface.
    pub fn vlan(&self) -> Option<u16> {
        u16::try_from(self.rx_vlan).ok().filter(|tag| (1..=4094).contains(tag))
    }

    /// The same port, whoever wrote it when.
    pub fn says_the_same(&self, other: &Plug) -> bool {
        let nameless = |plug: &Plug| Plug { author: String::new(), time: String::new(), ..plug.clone() };
        nameless(self) == nameless(other)
    }

    /// The file, as the incumbent writes it: these keys in this order.
    pub fn file(&self) -> Vec<u8> {
        let remote = self.kind == PlugKind::Remote;
        let file = File {
            id: self.id,
            instance_id: self.instance,
            display_name: &self.name,
            ip_address: self.ipv4.unwrap_or(Ipv4Addr::UNSPECIFIED),
            ip6_address: self.ipv6.unwrap_or(Ipv6Addr::UNSPECIFIED),
            vn_id: self.network,
            vm_project_id: self.project,
            mac_address: self.mac,
            system_name: &self.interface,
            kind: self.kind.number(),
            rx_vlan_id: self.rx_vlan,
            tx_vlan_id: self.tx_vlan,
            vhostuser_mode: self.vhostuser_mode,
            link_state: remote.then_some(u8::from(self.link_up)),
            author: if self.author.is_empty() { AUTHOR } else { &self.author },
            time: &self.time,
        };
        let mut text = serde_json::to_vec_pretty(&file).unwrap_or_default();
        text.push(b'\n');
        text
    }
}

impl PlugKind {
    /// As it is written.
    pub fn number(self) -> u8 {
        match self {
            PlugKind::Vm => 0,
            PlugKind::Namespace => 1,
            PlugKind::Remote => 2,
        }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct File<'p> {
    id: Uuid,
    instance_id: Uuid,
    display_name: &'p str,
    ip_address: Ipv4Addr,
    ip6_address: Ipv6Addr,
    vn_id: Uuid,
    vm_project_id: Uuid,
    mac_address: MacAddr,
    system_name: &'p str,
    #[serde(rename = "type")]
    kind: u8,
    rx_vlan_id: i32,
    tx_vlan_id: i32,
    vhostuser_mode: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    link_state: Option<u8>,
    author: &'p str,
    time: &'p str,
}

fn mac(text: &str) -> Result<MacAddr, PlugError> {
    let refuse = || PlugError("Invalid MAC, Use xx:xx:xx:xx:xx:xx format".to_owned());
    let mac: MacAddr = text.parse().map_err(|_| refuse())?;
    if mac.is_zero() { Err(refuse()) } else { Ok(mac) }
}

struct Reader<'v> {
    object: &'v Map<String, Value>,
    source: Source,
}

impl<'v> Reader<'v> {
    fn text(&self, key: &str) -> Result<&'v str, PlugError> {
        match (self.object.get(key), self.source) {
            (Some(Value::String(text)), _) => Ok(text),
            (None | Some(Value::Null), Source::File) => Ok(""),
            _ => Err(PlugError(format!("Invalid or missing field for <{key}>"))),
        }
    }

    fn optional_text(&self, key: &str) -> &'v str {
        let text = self.object.get(key).and_then(Value::as_str).unwrap_or_default();
        if text.len() <= MAX_NAME { text } else { "" }
    }

    fn uuid(&self, key: &str) -> Result<Uuid, PlugError> {
        let text = self.text(key)?;
        if text.is_empty() {
            return Ok(Uuid::NIL);
        }
        text.parse().map_err(|_| PlugError(format!("Invalid or missing data for <{key}>")))
    }

    fn address<T: std::str::FromStr + Unspecified>(&self, key: &str) -> Result<Option<T>, PlugError> {
        let text = self.text(key)?;
        if matches!(text, "" | "None" | "null") {
            return Ok(None);
        }
        // A literal of the other family means "none" too: the incumbent's clients write 0.0.0.0 for either.
        match text.parse::<T>() {
            Ok(address) => Ok((!address.is_unspecified()).then_some(address)),
            Err(_) if matches!(text, "0.0.0.0" | "::") => Ok(None),
            Err(_) => Err(PlugError(format!("Invalid address {:?} for <{key}>", short(text)))),
        }
    }

    fn optional_number(&self, key: &str) -> Result<Option<i64>, PlugError> {
        match self.object.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => value
                .as_i64()
                .map(Some)
                .ok_or_else(|| PlugError(format!("Invalid or missing field for <{key}>"))),
        }
    }

    fn number(&self, key: &str, in_file: i64) -> Result<i64, PlugError> {
        match (self.optional_number(key)?, self.source) {
            (Some(number), _) => Ok(number),
            (None, Source::File) => Ok(in_file),
            (None, Source::Request) => Err(PlugError(format!("Invalid or missing field for <{key}>"))),
        }
    }

    fn vlan(&self, key: &str) -> Result<i32, PlugError> {
        let number = self.number(key, -1)?;
        let tag = i32::try_from(number).ok().filter(|tag| (-1..=4095).contains(tag));
        // The incumbent's "none" is 65535 in unsigned sixteen bits as well.
        tag.or((number == 0xffff).then_some(-1))
            .ok_or_else(|| PlugError(format!("Invalid {key} {number}, want -1 or a VLAN")))
    }
}

trait Unspecified {
    fn is_unspecified(&self) -> bool;
}

impl Unspecified for Ipv4Addr {
    fn is_unspecified(&self) -> bool {
        Ipv4Addr::is_unspecified(self)
    }
}

impl Unspecified for Ipv6Addr {
    fn is_unspecified(&self) -> bool {
        Ipv6Addr::is_unspecified(self)
    }
}

fn short(text: &str) -> String {
    text.chars().take(64).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn object() -> Value {
        json!({
            "id": "93c2c386-6e79-485e-bfa4-b9daa713133b", "instance-id": "69ce06bd-0000-4000-8000-000000000001",
            "vn-id": "56297dc0-0000-4000-8000-000000000002", "vm-project-id": "9970147c-0000-4000-8000-000000000003",
            "display-name": "vm1", "ip-address": "11.0.0.3", "ip6-address": "None", "mac-address": "02:93:c2:c3:86:6e",
            "system-name": "tap93c2c386-6e", "type": 0, "rx-vlan-id": -1, "tx-vlan-id": -1,
            "author": "/usr/bin/vrouter-port-control", "time": "2026-11-20 10:00:00", "something-new": [1, 2]
        })
    }

    fn with(key: &str, value: Value) -> Result<Plug, PlugError> {
        let mut object = object();
        object[key] = value;
        Plug::read(&object, Source::Request)
    }

    fn without(key: &str, source: Source) -> Result<Plug, PlugError> {
        let mut object = object();
        object.as_object_mut().unwrap().remove(key);
        Plug::read(&object, source)
    }

    #[test]
    fn every_field_of_the_incumbents_object_is_read() {
        let plug = Plug::read(&object(), Source::Request).unwrap();
        assert_eq!(plug.id.to_string(), "93c2c386-6e79-485e-bfa4-b9daa713133b");
        assert_eq!(plug.instance.to_string(), "69ce06bd-0000-4000-8000-000000000001");
        assert_eq!(plug.network.to_string(), "56297dc0-0000-4000-8000-000000000002");
        assert_eq!(plug.project.to_string(), "9970147c-0000-4000-8000-000000000003");
        assert_eq!((plug.name.as_str(), plug.interface.as_str()), ("vm1", "tap93c2c386-6e"));
        assert_eq!((plug.ipv4, plug.ipv6), (Some("11.0.0.3".parse().unwrap()), None));
        assert_eq!(plug.mac.to_string(), "02:93:c2:c3:86:6e");
        assert_eq!((plug.kind, plug.rx_vlan, plug.tx_vlan, plug.link_up), (PlugKind::Vm, -1, -1, true));
    }

    #[test]
    fn what_is_missing_is_refused_in_the_incumbents_words() {
        for key in [
            "id",
            "instance-id",
            "vn-id",
            "vm-project-id",
            "display-name",
            "ip-address",
            "ip6-address",
            "mac-address",
            "system-name",
            "type",
            "rx-vlan-id",
            "tx-vlan-id",
        ] {
            let words = format!("Invalid or missing field for <{key}>");
            assert_eq!(without(key, Source::Request).unwrap_err().to_string(), words);
            assert_eq!(with(key, Value::Null).unwrap_err().to_string(), words, "null");
        }
        for key in ["id", "instance-id", "vn-id", "vm-project-id"] {
            let error = with(key, json!("garbage")).unwrap_err().to_string();
            assert_eq!(error, format!("Invalid or missing data for <{key}>"));
        }
    }

    #[test]
    fn what_cannot_be_is_refused_by_name() {
        for (key, value, words) in [
            ("vn-id", json!(""), "Invalid VN uuid"),
            ("mac-address", json!("02:93:c2:c3:86"), "Invalid MAC"),
            ("mac-address", json!("00:00:00:00:00:00"), "Invalid MAC"),
            ("ip-address", json!("11.0.0.300"), "Invalid address"),
            ("ip6-address", json!("11.0.0.3"), "Invalid address"),
            ("system-name", json!("../../etc/passwd"), "Invalid system-name"),
            ("system-name", json!("a-name-that-is-too-long"), "Invalid system-name"),
            ("display-name", json!("a\u{0}b"), "Invalid display-name"),
            ("type", json!(3), "Invalid port type"),
            ("rx-vlan-id", json!(7), "RX (receive) VLAN"),
            ("rx-vlan-id", json!(70_000), "Invalid rx-vlan-id"),
            ("tx-vlan-id", json!("7"), "Invalid or missing field"),
        ] {
            let error = with(key, value).unwrap_err().to_string();
            assert!(error.contains(words), "{key}: {error}");
        }
        assert!(Plug::read(&json!([]), Source::Request).is_err());
    }

    #[test]
    fn the_literals_for_none_are_none() {
        for text in ["", "None", "0.0.0.0", "::"] {
            assert_eq!(with("ip-address", json!(text)).unwrap().ipv4, None, "{text}");
            assert_eq!(with("ip6-address", json!(text)).unwrap().ipv6, None, "{text}");
        }
        assert!(with("vm-project-id", json!("")).unwrap().project.is_nil());
    }

    #[test]
    fn the_file_has_the_incumbents_keys_in_its_order_and_is_read_back() {
        let mut plug = Plug::read(&object(), Source::Request).unwrap();
        let keys = |plug: &Plug| {
            let text = String::from_utf8(plug.file()).unwrap();
            let keys = text
                .lines()
                .filter_map(|line| Some(line.trim().strip_prefix('"')?.split('"').next()?.to_owned()));
            keys.collect::<Vec<_>>()
        };
        let head = [
            "id",
            "instance-id",
            "display-name",
            "ip-address",
            "ip6-address",
            "vn-id",
            "vm-project-id",
            "mac-address",
            "system-name",
            "type",
            "rx-vlan-id",
            "tx-vlan-id",
            "vhostuser-mode",
        ];
        assert_eq!(keys(&plug), [&head[..], &["author", "time"]].concat());
        let read = Plug::read(&serde_json::from_slice(&plug.file()).unwrap(), Source::File).unwrap();
        assert_eq!(read, plug);
        plug.kind = PlugKind::Remote;
        plug.link_up = false;
        assert_eq!(keys(&plug), [&head[..], &["link-state", "author", "time"]].concat());
        let read = Plug::read(&serde_json::from_slice(&plug.file()).unwrap(), Source::File).unwrap();
        assert_eq!(read, plug);
    }

    #[test]
    fn a_file_of_another_version_may_lack_what_that_did_not_know() {
        for key in ["vm-project-id", "ip6-address", "rx-vlan-id", "tx-vlan-id", "display-name", "type"] {
            assert!(without(key, Source::File).is_ok(), "{key}");
        }
        for key in ["id", "vn-id", "mac-address", "system-name"] {
            assert!(without(key, Source::File).is_err(), "{key}");
        }
    }
}
