//! What ADD prints, in the form of each version.
//!
//! ```text
//!              0.3.1, 0.4.0        1.0.0           1.1.0
//!  ips[]       version "4" | "6"   no version      no version
//!  interfaces  name mac sandbox    same            + mtu
//!  dns         always              if not empty    if not empty
//! ```
//! When a plugin ran before us, its result is kept and ours is appended: `ips[].interface` counts on from what is there.

use std::net::IpAddr;

use serde_json::{Map, Value, json};
use vrouter_types::{MacAddr, Prefix};

use crate::conf::Version;

/// What ADD made.
#[derive(Debug, Clone)]
pub(crate) struct Made {
    pub(crate) host_interface: String,
    pub(crate) host_mac: MacAddr,
    pub(crate) pod_interface: String,
    pub(crate) pod_mac: MacAddr,
    /// CNI_NETNS, as the runtime wrote it.
    pub(crate) sandbox: String,
    pub(crate) mtu: u16,
    /// Each address with its gateway, IPv4 first.
    pub(crate) addresses: Vec<(IpAddr, IpAddr)>,
    /// Each route with its gateway.
    pub(crate) routes: Vec<(Prefix, IpAddr)>,
    pub(crate) dns: Option<Map<String, Value>>,
}

impl Made {
    /// The result object, after that of the plugins before us.
    pub(crate) fn to_json(&self, version: Version, previous: Option<&Value>) -> Value {
        let list =
            |key: &str| previous.and_then(|result| result[key].as_array()).cloned().unwrap_or_default();
        let (mut interfaces, mut ips, mut routes) = (list("interfaces"), list("ips"), list("routes"));
        let pod_index = interfaces.len() + 1;
        interfaces.push(self.interface(version, &self.host_interface, self.host_mac, None));
        interfaces.push(self.interface(version, &self.pod_interface, self.pod_mac, Some(&self.sandbox)));
        for (address, gateway) in &self.addresses {
            ips.push(ip(version, *address, *gateway, pod_index));
        }
        let route =
            |(to, gateway): &(Prefix, IpAddr)| json!({ "dst": to.to_string(), "gw": gateway.to_string() });
        routes.extend(self.routes.iter().map(route));
        let mut result = json!({ "cniVersion": version.text(), "interfaces": interfaces, "ips": ips });
        result["routes"] = Value::Array(routes);
        let dns = self.dns.clone().or_else(|| previous.and_then(|result| result["dns"].as_object().cloned()));
        let dns = dns.unwrap_or_default();
        if version < Version::V1_0 || !dns.is_empty() {
            result["dns"] = Value::Object(dns);
        }
        result
    }

    fn interface(&self, version: Version, name: &str, mac: MacAddr, sandbox: Option<&str>) -> Value {
        let mut interface = json!({ "name": name, "mac": mac.to_string() });
        if version >= Version::V1_1 {
            interface["mtu"] = json!(self.mtu);
        }
        if let Some(sandbox) = sandbox {
            interface["sandbox"] = json!(sandbox);
        }
        interface
    }
}

/// VERSION's answer, with the version that it was asked in.
pub(crate) fn versions(asked: &str) -> Value {
    let supported = crate::conf::SUPPORTED.map(Version::text);
    json!({ "cniVersion": asked, "supportedVersions": supported })
}

fn ip(version: Version, address: IpAddr, gateway: IpAddr, interface: usize) -> Value {
    let (length, family) = if address.is_ipv4() { (32, "4") } else { (128, "6") };
    let mut ip = json!({
        "address": format!("{address}/{length}"), "gateway": gateway.to_string(), "interface": interface,
    });
    if version < Version::V1_0 {
        ip["version"] = json!(family);
    }
    ip
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conf::SUPPORTED;

    fn made() -> Made {
        let ip = |text: &str| text.parse().unwrap();
        Made {
            host_interface: "vr0123".to_owned(),
            host_mac: MacAddr([6, 0, 0, 0, 0, 1]),
            pod_interface: "eth0".to_owned(),
            pod_mac: MacAddr([2, 0, 0, 0, 0, 1]),
            sandbox: "/run/netns/x".to_owned(),
            mtu: 1468,
            addresses: vec![(ip("10.20.11.5"), ip("169.254.1.1")), (ip("fd00:20:11::5"), ip("fe80::1"))],
            routes: vec![
                ("0.0.0.0/0".parse().unwrap(), ip("169.254.1.1")),
                ("::/0".parse().unwrap(), ip("fe80::1")),
            ],
            dns: None,
        }
    }

    #[test]
    fn version_0_3_1_and_0_4_0_name_the_family() {
        for version in [Version::V0_3, Version::V0_4] {
            let want = json!({
                "cniVersion": version.text(),
                "interfaces": [
                    { "name": "vr0123", "mac": "06:00:00:00:00:01" },
                    { "name": "eth0", "mac": "02:00:00:00:00:01", "sandbox": "/run/netns/x" },
                ],
                "ips": [
                    { "version": "4", "address": "10.20.11.5/32", "gateway": "169.254.1.1", "interface": 1 },
                    { "version": "6", "address": "fd00:20:11::5/128", "gateway": "fe80::1", "interface": 1 },
                ],
                "routes": [
                    { "dst": "0.0.0.0/0", "gw": "169.254.1.1" },
                    { "dst": "::/0", "gw": "fe80::1" },
                ],
                "dns": {},
            });
            assert_eq!(made().to_json(version, None), want);
        }
    }

    #[test]
    fn version_1_0_0_has_neither_family_nor_empty_dns() {
        let json = made().to_json(Version::V1_0, None);
        assert_eq!(json["cniVersion"], "1.0.0");
        assert_eq!(
            json["ips"][0],
            json!({ "address": "10.20.11.5/32", "gateway": "169.254.1.1", "interface": 1 })
        );
        assert!(json.get("dns").is_none() && json["interfaces"][1].get("mtu").is_none());
    }

    #[test]
    fn version_1_1_0_says_the_mtu() {
        let json = made().to_json(Version::V1_1, None);
        assert_eq!(
            (json["interfaces"][0]["mtu"].as_u64(), json["interfaces"][1]["mtu"].as_u64()),
            (Some(1468), Some(1468))
        );
    }

    #[test]
    fn dns_of_the_configuration_is_passed_on() {
        let mut made = made();
        made.dns = json!({ "nameservers": ["10.0.0.1"] }).as_object().cloned();
        for version in SUPPORTED {
            assert_eq!(made.to_json(version, None)["dns"]["nameservers"][0], "10.0.0.1");
        }
    }

    #[test]
    fn what_others_made_before_us_stays() {
        let previous = json!({
            "cniVersion": "1.0.0",
            "interfaces": [{ "name": "other0", "sandbox": "/run/netns/x" }],
            "ips": [{ "address": "192.0.2.1/24", "interface": 0 }],
            "routes": [{ "dst": "198.51.100.0/24" }],
            "dns": { "domain": "example" },
        });
        let json = made().to_json(Version::V1_0, Some(&previous));
        assert_eq!(json["interfaces"][0]["name"], "other0");
        assert_eq!(json["interfaces"][2]["name"], "eth0");
        assert_eq!(
            (json["ips"][0]["interface"].as_u64(), json["ips"][1]["interface"].as_u64()),
            (Some(0), Some(2))
        );
        assert_eq!(json["routes"].as_array().unwrap().len(), 3);
        assert_eq!(json["dns"]["domain"], "example");
    }

    #[test]
    fn version_echoes_what_it_was_asked_in() {
        let want =
            json!({ "cniVersion": "9.9.9", "supportedVersions": ["0.3.1", "0.4.0", "1.0.0", "1.1.0"] });
        assert_eq!(versions("9.9.9"), want);
    }
}
