//! The network configuration on stdin. Parsing it is checking it; versions that we do not speak are refused here.
//!
//! Keys of ours: `socket`, `spool`, `vrf`, `mtu`, `ipam`, `dns`, `routes`, `isDefaultGateway`. Keys of others
//! (`capabilities`, chained plugins' own) are passed over: runtimes and delegates add theirs. What the runtime wants for
//! this one pod (`runtimeConfig`, `args`) is read by [`crate::wishes`], and only where a verb needs it: a pod whose wishes
//! make no sense must still be removable. A list to install stands in `10-vrouter.conflist`: its `cniVersion` is low because
//! containerd 1.x ignores `cniVersions` and fails every pod on results of 1.1.0.

use std::io::Read;
use std::net::IpAddr;
use std::path::PathBuf;

use agent_api::PortKey;
use serde::Deserialize;
use serde_json::{Map, Value};
use vrouter_types::{MacAddr, Prefix};

use crate::call::{Verb, is_identifier};
use crate::error::Error;

const MAX_STDIN: u64 = 1 << 20;
/// What Linux wants of an interface that speaks IPv6 (RFC 8200 §5), and the least that an operator may ask for.
pub(crate) const MIN_IPV6_MTU: u16 = 1280;

/// A version of the specification, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Version {
    V0_3,
    V0_4,
    V1_0,
    V1_1,
}

/// All that we speak.
pub(crate) const SUPPORTED: [Version; 4] = [Version::V0_3, Version::V0_4, Version::V1_0, Version::V1_1];

impl Version {
    /// As configurations write it.
    pub(crate) fn text(self) -> &'static str {
        match self {
            Version::V0_3 => "0.3.1",
            Version::V0_4 => "0.4.0",
            Version::V1_0 => "1.0.0",
            Version::V1_1 => "1.1.0",
        }
    }

    /// One that we speak.
    pub(crate) fn parse(text: &str) -> Result<Version, Error> {
        let known = SUPPORTED.into_iter().find(|version| version.text() == text);
        known.ok_or_else(|| Error::Version(text.chars().take(32).collect()))
    }
}

/// The configuration of one call.
#[derive(Debug)]
pub(crate) struct Conf {
    pub(crate) version: Version,
    /// The network's name.
    pub(crate) name: String,
    pub(crate) socket: PathBuf,
    pub(crate) spool: PathBuf,
    /// The VRF for pods whose annotation names none.
    pub(crate) vrf: Option<String>,
    pub(crate) mtu: Option<u16>,
    /// The delegated IPAM plugin.
    pub(crate) ipam: Option<String>,
    pub(crate) dns: Option<Map<String, Value>>,
    pub(crate) prev_result: Option<Value>,
    /// GC: attachments that stay. Absent is not empty: then nothing is known and nothing goes.
    pub(crate) valid_attachments: Option<Vec<PortKey>>,
    /// Whether the pod's default route goes here; absent: it does on `eth0`.
    pub(crate) is_default: Option<bool>,
    /// What the pod reaches through this interface beside, or instead of, the default.
    pub(crate) routes: Vec<Prefix>,
    /// `runtimeConfig`: the capabilities that the operator declared and the runtime filled.
    pub(crate) runtime: Map<String, Value>,
    /// `args.cni.ips`: addresses as some orchestrators ask for them.
    pub(crate) args_ips: Option<Value>,
    /// All of it as it came, for delegates.
    pub(crate) bytes: Vec<u8>,
}

#[derive(Deserialize)]
struct Keys {
    name: Option<String>,
    socket: Option<PathBuf>,
    spool: Option<PathBuf>,
    vrf: Option<String>,
    mtu: Option<u16>,
    ipam: Option<IpamKeys>,
    dns: Option<Map<String, Value>>,
    #[serde(rename = "prevResult")]
    prev_result: Option<Value>,
    #[serde(rename = "runtimeConfig")]
    runtime: Option<Map<String, Value>>,
    args: Option<Value>,
    routes: Option<Vec<RouteKeys>>,
    #[serde(rename = "isDefaultGateway")]
    is_default: Option<bool>,
    // libcni sends both names, since it once misspelt it (cni#1101).
    #[serde(rename = "cni.dev/valid-attachments")]
    valid: Option<Vec<AttachmentKeys>>,
    #[serde(rename = "cni.dev/attachments")]
    valid_misspelt: Option<Vec<AttachmentKeys>>,
}

#[derive(Deserialize)]
struct IpamKeys {
    #[serde(rename = "type")]
    kind: Option<String>,
}

/// A route as CNI writes it. There is one gateway on the link, so `gw` says nothing.
#[derive(Deserialize)]
pub(crate) struct RouteKeys {
    pub(crate) dst: String,
}

#[derive(Deserialize)]
struct AttachmentKeys {
    #[serde(rename = "containerID")]
    container: String,
    ifname: String,
}

/// Reads all of stdin, within reason.
pub(crate) fn read(stdin: impl Read) -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::new();
    stdin.take(MAX_STDIN + 1).read_to_end(&mut bytes).map_err(Error::Stdin)?;
    if bytes.len() as u64 > MAX_STDIN {
        return Err(Error::Decode(format!("it is longer than {MAX_STDIN} octets")));
    }
    Ok(bytes)
}

/// The object, and the version text in it; without one it is 0.1.0, by the specification.
pub(crate) fn decode(bytes: &[u8]) -> Result<(Value, String), Error> {
    let value: Value = serde_json::from_slice(bytes).map_err(|error| Error::Decode(error.to_string()))?;
    let Value::Object(object) = &value else {
        return Err(Error::Decode("it is no JSON object".to_owned()));
    };
    let version = match object.get("cniVersion") {
        None => "0.1.0".to_owned(),
        Some(Value::String(text)) if text.is_empty() => "0.1.0".to_owned(),
        Some(Value::String(text)) => text.clone(),
        Some(other) => return Err(Error::Decode(format!("cniVersion must be text, not {other}"))),
    };
    Ok((value, version))
}

/// Whether the verb exists in this version.
pub(crate) fn require(verb: Verb, version: Version) -> Result<(), Error> {
    let (verb, since) = verb.since();
    if version < since {
        return Err(Error::TooOld { verb, since: since.text(), asked: version.text() });
    }
    Ok(())
}

impl Conf {
    /// Reads our keys.
    pub(crate) fn parse(version: Version, value: Value, bytes: Vec<u8>) -> Result<Conf, Error> {
        let keys: Keys = serde_json::from_value(value).map_err(|error| Error::Conf(error.to_string()))?;
        let name = keys.name.unwrap_or_default();
        if !is_identifier(&name) {
            return Err(Error::Conf(match name.as_str() {
                "" => "missing network name".to_owned(),
                _ => format!("invalid characters in network name {name:?}"),
            }));
        }
        if keys.mtu.is_some_and(|mtu| mtu < MIN_IPV6_MTU) {
            return Err(Error::Conf(format!("mtu must be {MIN_IPV6_MTU} or more")));
        }
        let ipam = keys.ipam.and_then(|ipam| ipam.kind).filter(|kind| !kind.is_empty());
        if ipam.as_ref().is_some_and(|kind| kind.contains('/') || kind.starts_with('.')) {
            return Err(Error::Conf(
                "ipam.type must be the name of a plugin, without a directory".to_owned(),
            ));
        }
        let routes = keys.routes.unwrap_or_default();
        let routes: Result<_, Error> = routes.iter().map(|route| parse_route(&route.dst)).collect();
        let valid = keys.valid.or(keys.valid_misspelt).map(|list| {
            let key = |keys: AttachmentKeys| PortKey { container: keys.container, interface: keys.ifname };
            list.into_iter().map(key).collect()
        });
        Ok(Conf {
            version,
            name,
            socket: keys.socket.unwrap_or_else(|| agent_api::DEFAULT_SOCKET.into()),
            spool: keys.spool.unwrap_or_else(|| agent_api::DEFAULT_SPOOL.into()),
            vrf: keys.vrf.filter(|vrf| !vrf.is_empty()),
            mtu: keys.mtu,
            ipam,
            dns: keys.dns,
            prev_result: keys.prev_result.filter(|result| !result.is_null()),
            valid_attachments: valid,
            is_default: keys.is_default,
            routes: routes?,
            runtime: keys.runtime.unwrap_or_default(),
            args_ips: keys
                .args
                .and_then(|args| args.get("cni")?.get("ips").filter(|ips| !ips.is_null()).cloned()),
            bytes,
        })
    }
}

/// An address, with or without a prefix length.
pub(crate) fn parse_address(text: &str) -> Result<IpAddr, Error> {
    let (address, _) = text.split_once('/').unwrap_or((text, ""));
    address.parse().map_err(|_| Error::Conf(format!("{text:?} is no IP address")))
}

/// Where a route leads.
pub(crate) fn parse_route(text: &str) -> Result<Prefix, Error> {
    text.parse().map_err(|_| Error::Conf(format!("{text:?} is no prefix that a route can lead to")))
}

/// The MAC address of an interface; empty text: none is asked for.
pub(crate) fn parse_mac(text: &str) -> Result<Option<MacAddr>, Error> {
    if text.is_empty() {
        return Ok(None);
    }
    let mac: MacAddr = text.parse().map_err(|error| Error::Conf(format!("{error}")))?;
    if mac.is_group() || mac.is_zero() || mac == MacAddr::GATEWAY {
        return Err(Error::Conf(format!("an interface cannot have the MAC address {mac}")));
    }
    Ok(Some(mac))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Conf, Error> {
        let (value, version) = decode(text.as_bytes())?;
        Conf::parse(Version::parse(&version)?, value, text.as_bytes().to_vec())
    }

    #[test]
    fn malformed_json_is_code_6() {
        let deep = "[".repeat(1000);
        for text in ["", "{", "[]", "null", "{\"cniVersion\":1}", "{\"name\":\"n\"}}", "\u{0}", &deep] {
            assert_eq!(parse(text).unwrap_err().code(), 6, "{text:.20}");
        }
        let endless = std::io::repeat(b'{');
        assert_eq!(read(endless).unwrap_err().code(), 6);
    }

    #[test]
    fn unknown_versions_are_code_1() {
        for text in ["{\"name\":\"n\"}", "{\"cniVersion\":\"2.0.0\"}", "{\"cniVersion\":\"0.3.0\"}"] {
            assert_eq!(parse(text).unwrap_err().code(), 1, "{text}");
        }
        assert_eq!(require(Verb::Check, Version::V0_3).unwrap_err().code(), 1);
        assert_eq!(require(Verb::Gc, Version::V1_0).unwrap_err().code(), 1);
        assert!(require(Verb::Status, Version::V1_1).is_ok() && require(Verb::Del, Version::V0_3).is_ok());
    }

    #[test]
    fn bad_values_are_code_7() {
        for rest in [
            r#""x":1"#,
            r#""name":"""#,
            r#""name":"a/b""#,
            r#""name":"n","mtu":"x""#,
            r#""name":"n","mtu":70000"#,
            r#""name":"n","mtu":500"#,
            r#""name":"n","vrf":7"#,
            r#""name":"n","ipam":{"type":"../x"}"#,
            r#""name":"n","routes":[{"dst":"10.0.0.0/99"}]"#,
            r#""name":"n","routes":{"dst":"10.0.0.0/8"}"#,
        ] {
            let text = format!("{{\"cniVersion\":\"1.0.0\",{rest}}}");
            assert_eq!(parse(&text).unwrap_err().code(), 7, "{text}");
        }
    }

    #[test]
    fn defaults_are_the_agents() {
        let conf = parse(r#"{"cniVersion":"0.3.1","name":"n","type":"vrouter-cni","ipam":{}}"#).unwrap();
        assert_eq!(conf.socket.to_str(), Some(agent_api::DEFAULT_SOCKET));
        assert_eq!(conf.spool.to_str(), Some(agent_api::DEFAULT_SPOOL));
        assert!(conf.ipam.is_none() && conf.vrf.is_none() && conf.valid_attachments.is_none());
    }

    #[test]
    fn the_list_that_we_ship_is_one_that_we_read() {
        let list: Value = serde_json::from_str(include_str!("../10-vrouter.conflist")).unwrap();
        for version in SUPPORTED {
            // What a runtime makes of it.
            let mut plugin = list["plugins"][0].clone();
            plugin["cniVersion"] = version.text().into();
            plugin["name"] = list["name"].clone();
            assert_eq!(parse(&plugin.to_string()).unwrap().version, version);
            assert!(list["cniVersions"].as_array().unwrap().contains(&version.text().into()));
        }
        assert_eq!(list["cniVersion"], "0.4.0");
    }

    #[test]
    fn absent_attachments_are_not_empty_attachments() {
        let with = |rest: &str| {
            let text = format!(r#"{{"cniVersion":"1.1.0","name":"n"{rest}}}"#);
            parse(&text).unwrap().valid_attachments
        };
        assert_eq!(with(""), None);
        assert_eq!(with(r#","cni.dev/valid-attachments":[]"#), Some(Vec::new()));
        for key in ["cni.dev/valid-attachments", "cni.dev/attachments"] {
            let list = with(&format!(r#","{key}":[{{"containerID":"c1","ifname":"eth0"}}]"#)).unwrap();
            assert_eq!(list[0].to_string(), "c1/eth0");
        }
    }
}
