//! What is wanted for this one pod: by the runtime (`runtimeConfig`, CNI_ARGS, `args`) and by the pod's annotations.
//!
//! ```text
//!              first                 then                then              last
//!  addresses   runtimeConfig.ips     CNI_ARGS IP         args.cni.ips      vrouter.dev/ips
//!  MAC         runtimeConfig.mac     CNI_ARGS MAC                          vrouter.dev/mac
//!  VRF                                                                     vrouter.dev/vrf (then the configuration's)
//!  DNS         runtimeConfig.dns                                           (then the configuration's, the delegate's)
//! ```
//! Capabilities are read in either case, since containerd writes `CapitalCase` where CRI-O writes `lowerCamel`. The
//! annotations speak of the interface with the default route; of another one, as of `net1`, speaks `vrouter.dev/vrf.net1`.
//! Port mappings and cgroup paths are others' business, whatever stands in them.

use std::net::IpAddr;

use serde_json::{Map, Value};
use vrouter_types::MacAddr;

use crate::call::Call;
use crate::conf::{parse_address, parse_mac};
use crate::error::Error;
use crate::shape::Bandwidth;

const ANNOTATIONS: &str = "io.kubernetes.cri.pod-annotations";
const VRF: &str = "vrouter.dev/vrf";
const IPS: &str = "vrouter.dev/ips";
const MAC: &str = "vrouter.dev/mac";

/// All that is wanted; what nobody asks for is absent.
#[derive(Debug, Default)]
pub(crate) struct Wishes {
    pub(crate) vrf: Option<String>,
    pub(crate) addresses: Vec<IpAddr>,
    pub(crate) mac: Option<MacAddr>,
    /// In a result's form.
    pub(crate) dns: Option<Map<String, Value>>,
    pub(crate) bandwidth: Bandwidth,
}

impl Wishes {
    /// Reads them.
    pub(crate) fn of(call: &Call) -> Result<Wishes, Error> {
        Ok(Wishes {
            vrf: annotation(call, VRF)?,
            addresses: addresses(call)?,
            mac: mac(call)?,
            dns: dns(call),
            bandwidth: get(&call.conf.runtime, "bandwidth")
                .and_then(Value::as_object)
                .map_or_else(Bandwidth::default, Bandwidth::read),
        })
    }
}

fn addresses(call: &Call) -> Result<Vec<IpAddr>, Error> {
    let list = |texts: &str| {
        texts.split(',').map(str::trim).filter(|text| !text.is_empty()).map(parse_address).collect()
    };
    for (what, value) in
        [("runtimeConfig.ips", get(&call.conf.runtime, "ips")), ("args.cni.ips", call.conf.args_ips.as_ref())]
    {
        let argument = call.env.args.get("IP").filter(|text| !text.is_empty());
        match (value, argument) {
            (Some(Value::Array(entries)), _) if !entries.is_empty() => {
                return entries
                    .iter()
                    .map(|entry| parse_address(entry.as_str().unwrap_or_default()))
                    .collect();
            }
            (Some(Value::Array(_)) | None, None) => {}
            (Some(Value::Array(_)) | None, Some(texts)) => return list(texts),
            (Some(_), _) => return Err(Error::Conf(format!("{what} must be a list"))),
        }
    }
    list(annotation(call, IPS)?.as_deref().unwrap_or_default())
}

fn mac(call: &Call) -> Result<Option<MacAddr>, Error> {
    let capability = match get(&call.conf.runtime, "mac") {
        None => None,
        Some(Value::String(text)) => parse_mac(text)?,
        Some(_) => return Err(Error::Conf("runtimeConfig.mac must be text".to_owned())),
    };
    let argument = || parse_mac(call.env.args.get("MAC").map_or("", String::as_str));
    if let Some(mac) = capability.map_or_else(argument, |mac| Ok(Some(mac)))? {
        return Ok(Some(mac));
    }
    parse_mac(annotation(call, MAC)?.as_deref().unwrap_or_default())
}

/// What a kubelet says of the pod's DNS. Nothing hangs on it: what is of another form is left out.
fn dns(call: &Call) -> Option<Map<String, Value>> {
    let dns = get(&call.conf.runtime, "dns")?.as_object()?;
    let list = |name: &str| get(dns, name)?.as_array().filter(|entries| !entries.is_empty()).cloned();
    let names = [("servers", "nameservers"), ("searches", "search"), ("options", "options")];
    let found =
        names.into_iter().filter_map(|(theirs, ours)| Some((ours.to_owned(), Value::Array(list(theirs)?))));
    let found: Map<String, Value> = found.collect();
    (!found.is_empty()).then_some(found)
}

fn annotation(call: &Call, name: &str) -> Result<Option<String>, Error> {
    let Some(annotations) = get(&call.conf.runtime, ANNOTATIONS) else { return Ok(None) };
    let of_interface = format!("{name}.{}", call.env.ifname);
    let plain = annotations.get(name).filter(|_| call.is_default());
    match annotations.get(&of_interface).or(plain) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone()).filter(|text| !text.is_empty())),
        Some(_) => Err(Error::Conf(format!("the annotation {name} must be text"))),
    }
}

/// The value of a key in whatever case; null is none.
fn get<'a>(map: &'a Map<String, Value>, name: &str) -> Option<&'a Value> {
    let (_, value) = map.iter().find(|(key, _)| key.eq_ignore_ascii_case(name))?;
    (!value.is_null()).then_some(value)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::call::Env;
    use crate::conf::{Conf, Version};

    fn wishes(ifname: &str, rest: Value, args: &[(&str, &str)]) -> Result<Wishes, Error> {
        let mut conf = json!({ "name": "n" });
        conf.as_object_mut().unwrap().extend(rest.as_object().unwrap().clone());
        let args = args.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        let env = Env { ifname: ifname.to_owned(), args, ..Env::default() };
        Wishes::of(&Call { env, conf: Conf::parse(Version::V1_0, conf, Vec::new()).unwrap() })
    }

    fn list(wishes: &Wishes) -> Vec<String> {
        wishes.addresses.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn what_containerd_really_sends_is_read() {
        let runtime = json!({ "runtimeConfig": {
            "portMappings": [{ "HostPort": 8080, "ContainerPort": 80, "Protocol": "tcp", "HostIP": "" }],
            "bandwidth": { "IngressRate": 0 }, "cgroupPath": "/kubepods/x",
            "dns": { "Servers": ["10.0.0.10"], "Searches": ["a.local"], "Options": null },
            "io.kubernetes.cri.pod-annotations": { "vrouter.dev/vrf": "smart-city", "x": "y" } } });
        let wishes = wishes("eth0", runtime, &[]).unwrap();
        assert_eq!(wishes.vrf.as_deref(), Some("smart-city"));
        let dns = json!({ "nameservers": ["10.0.0.10"], "search": ["a.local"] });
        assert_eq!(Value::Object(wishes.dns.unwrap()), dns);
    }

    #[test]
    fn capabilities_are_read_in_either_case() {
        for (ips, mac) in [("ips", "mac"), ("Ips", "Mac"), ("IPs", "MAC")] {
            let runtime =
                json!({ "runtimeConfig": { ips: ["10.0.0.5/24", "fd00::5"], mac: "02:00:00:00:00:05" } });
            let wishes = wishes("eth0", runtime, &[]).unwrap();
            assert_eq!(
                (list(&wishes), wishes.mac.unwrap().to_string()),
                (vec!["10.0.0.5".to_owned(), "fd00::5".to_owned()], "02:00:00:00:00:05".to_owned())
            );
        }
    }

    #[test]
    fn the_nearest_wish_counts() {
        let annotations =
            json!({ "vrouter.dev/ips": "10.0.0.4, fd00::4", "vrouter.dev/mac": "02:00:00:00:00:04" });
        let with = |runtime: Value, arguments: bool| {
            let mut runtime = runtime;
            runtime[ANNOTATIONS] = annotations.clone();
            let conf = json!({ "runtimeConfig": runtime, "args": { "cni": { "ips": ["10.0.0.3"] } } });
            let arguments: &[_] =
                if arguments { &[("IP", "10.0.0.2"), ("MAC", "02:00:00:00:00:02")] } else { &[] };
            let wishes = wishes("eth0", conf, arguments).unwrap();
            (list(&wishes), wishes.mac.unwrap().0[5])
        };
        assert_eq!(
            with(json!({ "ips": ["10.0.0.1"], "mac": "02:00:00:00:00:01" }), true),
            (vec!["10.0.0.1".to_owned()], 1)
        );
        assert_eq!(with(json!({ "ips": [], "mac": "" }), true), (vec!["10.0.0.2".to_owned()], 2));
        assert_eq!(with(json!({}), false), (vec!["10.0.0.3".to_owned()], 4));
        let conf = json!({ "runtimeConfig": { ANNOTATIONS: annotations } });
        assert_eq!(list(&wishes("eth0", conf, &[]).unwrap()), ["10.0.0.4", "fd00::4"]);
    }

    #[test]
    fn a_further_interface_has_annotations_of_its_own() {
        let runtime = json!({ "runtimeConfig": { ANNOTATIONS: {
            "vrouter.dev/vrf": "city", "vrouter.dev/ips": "10.0.0.4", "vrouter.dev/vrf.net1": "tenant" } } });
        let (eth0, net1) =
            (wishes("eth0", runtime.clone(), &[]).unwrap(), wishes("net1", runtime, &[]).unwrap());
        assert_eq!((eth0.vrf.as_deref(), eth0.addresses.len()), (Some("city"), 1));
        assert_eq!((net1.vrf.as_deref(), net1.addresses.len()), (Some("tenant"), 0));
    }

    #[test]
    fn wishes_that_make_no_sense_are_code_7() {
        for runtime in [
            json!({ "ips": ["nonsense"] }),
            json!({ "ips": "10.0.0.1" }),
            json!({ "mac": "01:00:00:00:00:01" }),
            json!({ "mac": 7 }),
            json!({ ANNOTATIONS: { "vrouter.dev/vrf": 7 } }),
            json!({ ANNOTATIONS: { "vrouter.dev/ips": "10.0.0.1;10.0.0.2" } }),
        ] {
            let error = wishes("eth0", json!({ "runtimeConfig": runtime }), &[]).unwrap_err();
            assert_eq!(error.code(), 7, "{runtime}");
        }
        assert!(
            wishes("eth0", json!({}), &[("MAC", "x")]).is_err()
                && wishes("eth0", json!({}), &[("IP", "x")]).is_err()
        );
    }

    #[test]
    fn capabilities_of_others_may_hold_anything() {
        let runtime = json!({ "portMappings": 7, "bandwidth": [], "dns": "x", "cgroupPath": {}, "aliases": null, "ipRanges": 1 });
        assert!(wishes("eth0", json!({ "runtimeConfig": runtime }), &[]).unwrap().dns.is_none());
    }
}
