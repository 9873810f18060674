//! An attachment's body, key by key: every mistake by the key's name.

use std::net::IpAddr;

use agent_api::{AddressPair, ApiError, ErrorKind, FloatingIp};
use serde_json::{Map, Value};
use vrouter_types::{MacAddr, RouteTarget};

use super::{Direction, Readvertise};
use crate::config::is_interface_name;

const MAX_ID: usize = 255;
const MAX_TARGETS: usize = 64;
const MAX_TEXT: usize = 512;
const MAX_PAIRS: usize = 64;

pub(super) fn bad(message: impl Into<String>) -> ApiError {
    ApiError::new(ErrorKind::BadRequest, message)
}

/// The object of a request.
pub(super) struct Body<'v>(&'v Map<String, Value>);

impl<'v> Body<'v> {
    pub(super) fn of(value: &'v Value) -> Result<Body<'v>, ApiError> {
        value.as_object().map(Body).ok_or_else(|| bad("the body is no JSON object"))
    }

    /// `null` is absent: bagpipe's own client sends it for options that were not given.
    pub(super) fn get(&self, key: &str) -> Option<&'v Value> {
        self.0.get(key).filter(|value| !value.is_null())
    }

    pub(super) fn text(&self, key: &str) -> Result<&'v str, ApiError> {
        let value = self.get(key).ok_or_else(|| bad(format!("{key} is missing")))?;
        value.as_str().ok_or_else(|| bad(format!("{key} must be a string")))
    }

    pub(super) fn check_type(&self) -> Result<(), ApiError> {
        match self.text("vpn_type")? {
            "ipvpn" => Ok(()),
            "evpn" => Err(bad("vpn_type evpn is not served by this agent: it routes, and bridges nothing")),
            _ => Err(bad("vpn_type must be \"ipvpn\"")),
        }
    }

    pub(super) fn refuse_what_is_not_done(&self) -> Result<(), ApiError> {
        let says = |key: &str| {
            self.get(key).is_some_and(|value| match value {
                Value::Object(object) => !object.is_empty(),
                Value::Bool(truth) => *truth,
                _ => true,
            })
        };
        if says("attract_traffic") {
            return Err(bad("attract_traffic is not served by this agent: it sends no FlowSpec routes"));
        }
        if self.get("vni").is_some_and(|vni| vni.as_u64() != Some(0)) {
            return Err(bad("vni is not served by this agent: its tunnels carry MPLS labels"));
        }
        Ok(())
    }

    pub(super) fn instance(&self) -> Result<String, ApiError> {
        let id = self.text("vpn_instance_id")?;
        if !is_instance(id) {
            return Err(bad(format!(
                "vpn_instance_id must be 1 to {MAX_ID} letters, digits, '.', '_', '-' or ':'"
            )));
        }
        Ok(id.to_owned())
    }

    pub(super) fn mac(&self) -> Result<MacAddr, ApiError> {
        let mac: MacAddr =
            self.text("mac_address")?.parse().map_err(|error| bad(format!("mac_address: {error}")))?;
        if mac.is_zero() || mac.is_group() || mac == MacAddr::GATEWAY {
            return Err(bad(format!("mac_address {mac} is none that a machine can have")));
        }
        Ok(mac)
    }

    /// A string, or a dict with `linuxif`. What Open vSwitch would need is ignored.
    pub(super) fn interface(&self) -> Result<String, ApiError> {
        let value = self.get("local_port").ok_or_else(|| bad("local_port is missing"))?;
        let name = match value {
            Value::String(name) => name.as_str(),
            Value::Object(port) if port.get("evpn").is_some_and(|evpn| !evpn.is_null()) => {
                return Err(bad("local_port.evpn is not served by this agent: it bridges nothing"));
            }
            Value::Object(port) => port
                .get("linuxif")
                .and_then(Value::as_str)
                .ok_or_else(|| bad("local_port must name its interface in linuxif"))?,
            _ => return Err(bad("local_port must be a string or an object with linuxif")),
        };
        // Neutron's agent names a patch port `patch2tun:<vlan>`, which is the name of nothing; the MAC address tells.
        let is_patch = name.split_once(':').is_some_and(|(port, vlan)| {
            is_interface_name(port) && !vlan.is_empty() && vlan.bytes().all(|octet| octet.is_ascii_digit())
        });
        if is_interface_name(name) || (is_patch && name.len() <= MAX_ID) {
            return Ok(name.to_owned());
        }
        Err(bad("local_port names no interface (1 to 15 letters, no '/')"))
    }

    pub(super) fn address(&self) -> Result<Option<(IpAddr, u8)>, ApiError> {
        let Some(value) = self.get("ip_address") else { return Ok(None) };
        let text = value.as_str().ok_or_else(|| bad("ip_address must be a string"))?;
        let refuse = || bad("ip_address must be an IPv4 or IPv6 address, with or without its length");
        let (address, length) = match text.split_once('/') {
            Some((address, length)) => (address, Some(length.parse::<u8>().map_err(|_| refuse())?)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| refuse())?;
        let whole = if address.is_ipv4() { 32 } else { 128 };
        let length = length.unwrap_or(whole);
        if length > whole {
            return Err(refuse());
        }
        Ok(Some((address, length)))
    }

    /// It must be named, though an empty one will do: every VRF's gateway is ours.
    pub(super) fn gateway(&self) -> Result<Option<IpAddr>, ApiError> {
        match self.0.get("gateway_ip") {
            None => Err(bad("gateway_ip is missing")),
            Some(Value::Null) => Ok(None),
            Some(Value::String(text)) if text.is_empty() => Ok(None),
            Some(Value::String(text)) => {
                let address = text.split('/').next().and_then(|address| address.parse::<IpAddr>().ok());
                let address = address.ok_or_else(|| bad("gateway_ip must be an IPv4 or IPv6 address"))?;
                // No machine can ask a router of that address.
                Ok(Some(address).filter(|address| !address.is_unspecified()))
            }
            Some(_) => Err(bad("gateway_ip must be a string")),
        }
    }

    pub(super) fn flag(&self, key: &str) -> Result<bool, ApiError> {
        match self.get(key) {
            None => Ok(false),
            Some(value) => value.as_bool().ok_or_else(|| bad(format!("{key} must be true or false"))),
        }
    }

    pub(super) fn number(&self, key: &str) -> Result<Option<u32>, ApiError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        // Bagpipe's own client sends numbers as text.
        let number = value.as_u64().or_else(|| value.as_str()?.parse().ok());
        let number = number.and_then(|number| u32::try_from(number).ok());
        number.map(Some).ok_or_else(|| bad(format!("{key} must be a number from 0 to {}", u32::MAX)))
    }

    pub(super) fn direction(&self) -> Result<Direction, ApiError> {
        match self.get("direction").map(Value::as_str) {
            None | Some(Some("both")) => Ok(Direction::Both),
            Some(Some("to-port")) => Ok(Direction::ToPort),
            Some(Some("from-port")) => Ok(Direction::FromPort),
            Some(_) => Err(bad("direction must be \"both\", \"to-port\" or \"from-port\"")),
        }
    }

    pub(super) fn targets(&self, key: &str) -> Result<Option<Vec<RouteTarget>>, ApiError> {
        self.get(key).map(|value| targets(key, value)).transpose()
    }

    pub(super) fn readvertise(&self) -> Result<Option<Readvertise>, ApiError> {
        let Some(value) = self.get("readvertise") else { return Ok(None) };
        let object = value.as_object().ok_or_else(|| bad("readvertise must be an object"))?;
        if object.is_empty() {
            return Ok(None);
        }
        let of = |key: &str, name: &str| {
            object.get(key).filter(|value| !value.is_null()).map(|value| targets(name, value)).transpose()
        };
        let to = of("to_rt", "readvertise.to_rt")?;
        let to = to.ok_or_else(|| bad("readvertise needs to_rt"))?;
        let from = of("from_rt", "readvertise.from_rt")?.unwrap_or_default();
        if from.iter().any(|target| to.contains(target)) {
            return Err(bad("readvertise: a route target in both from_rt and to_rt would go round for ever"));
        }
        Ok(Some(Readvertise { from, to }))
    }

    /// Free text; whatever else it is, it is told as JSON.
    pub(super) fn words(&self, key: &str) -> Result<Option<String>, ApiError> {
        let text = match self.get(key) {
            None => return Ok(None),
            Some(Value::String(text)) => text.clone(),
            Some(value) => value.to_string(),
        };
        if text.len() > MAX_TEXT {
            return Err(bad(format!("{key} is longer than {MAX_TEXT} octets")));
        }
        Ok(Some(text))
    }

    pub(super) fn list<T>(
        &self,
        key: &str,
        read: impl Fn(&Value) -> Option<T>,
        want: &str,
    ) -> Result<Option<Vec<T>>, ApiError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let wrong = || bad(format!("{key} must be a list of {want}, {MAX_PAIRS} at most"));
        let items = value.as_array().filter(|items| items.len() <= MAX_PAIRS).ok_or_else(wrong)?;
        items.iter().map(|item| read(item).ok_or_else(wrong)).collect::<Result<_, _>>().map(Some)
    }

    /// Neutron's words.
    pub(super) fn pairs(&self) -> Result<Vec<AddressPair>, ApiError> {
        let pair = |item: &Value| {
            let prefix = item.get("ip_address")?.as_str()?.parse().ok()?;
            let mac = match item.get("mac_address").filter(|mac| !mac.is_null()) {
                Some(mac) => Some(mac.as_str()?.parse().ok()?),
                None => None,
            };
            Some(AddressPair { prefix, mac })
        };
        let want = "{\"ip_address\": …, \"mac_address\": …}";
        Ok(self.list("allowed_address_pairs", pair, want)?.unwrap_or_default())
    }

    pub(super) fn floating(&self) -> Result<Vec<FloatingIp>, ApiError> {
        let text = |item: &Value, key: &str| Some(item.get(key)?.as_str()?.to_owned());
        let floating = |item: &Value| {
            Some(FloatingIp {
                address: text(item, "floating_ip_address")?.parse().ok()?,
                fixed: text(item, "fixed_ip_address")?.parse().ok()?,
                vrf: text(item, "vpn_instance_id").filter(|id| is_instance(id))?,
            })
        };
        let want = "{\"floating_ip_address\": …, \"fixed_ip_address\": …, \"vpn_instance_id\": …}";
        Ok(self.list("floating_ips", floating, want)?.unwrap_or_default())
    }

    pub(super) fn names(&self, key: &str) -> Result<Option<Vec<String>>, ApiError> {
        let name = |item: &Value| item.as_str().filter(|name| name.len() <= MAX_ID).map(str::to_owned);
        self.list(key, name, "names")
    }
}

/// Whether an instance may have this name: VRFs that stand for something else have others.
fn is_instance(id: &str) -> bool {
    let legal = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '.' | '_' | '-' | ':');
    !id.is_empty() && id.len() <= MAX_ID && id.chars().all(legal) && !id.starts_with('.')
}

/// A list, or a string with commas; each with or without `target:`.
fn targets(key: &str, value: &Value) -> Result<Vec<RouteTarget>, ApiError> {
    let texts: Vec<&str> = match value {
        Value::String(text) => text.split(',').map(str::trim).filter(|text| !text.is_empty()).collect(),
        Value::Array(items) => items
            .iter()
            .map(|item| item.as_str().ok_or_else(|| bad(format!("{key} must be a list of strings"))))
            .collect::<Result<_, _>>()?,
        _ => return Err(bad(format!("{key} must be a list, or a string with commas"))),
    };
    if texts.len() > MAX_TARGETS {
        return Err(bad(format!("{key} has more than {MAX_TARGETS} route targets")));
    }
    let read = |text: &str| {
        let text = text.trim();
        let whole = if text.starts_with("target:") { text.to_owned() } else { format!("target:{text}") };
        whole.parse().map_err(|_| {
            let text: String = text.chars().take(64).collect();
            bad(format!(
                "{key}: {text:?} is no route target (want AS:number, as 64512:100 or 4200000000:7, or IPv4:number)"
            ))
        })
    };
    let mut targets: Vec<RouteTarget> = texts.into_iter().map(read).collect::<Result<_, _>>()?;
    targets.sort_unstable();
    targets.dedup();
    Ok(targets)
}
