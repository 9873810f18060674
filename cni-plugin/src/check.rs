//! CHECK: what ADD said is still so, in the pod, on the host and at the agent.
//!
//! It looks at what is ours in prevResult and tolerates what chained plugins added: further addresses, other routes.

use std::net::IpAddr;
use std::time::Duration;

use agent_api::{AttachedPort, Client};
use serde_json::Value;
use vrouter_types::MacAddr;

use crate::call::Call;
use crate::conf::parse_address;
use crate::error::Error;
use crate::netns::Netns;
use crate::veth::Links;
use crate::wishes::Wishes;
use crate::{add, ipam, name};

const TIMEOUT: Duration = Duration::from_secs(10);

/// What prevResult says of the pod's interface.
struct Expected {
    mac: Option<MacAddr>,
    addresses: Vec<IpAddr>,
}

/// Fails if something is not as ADD left it.
pub(crate) fn check(call: &Call) -> Result<(), Error> {
    let netns = add::open_netns(call)?;
    let expected = expect(call)?;
    let attached = ask_agent(call, &expected)?;
    if attached.addresses.iter().any(|address| !expected.addresses.contains(address)) {
        let (has, said) = (list(&attached.addresses), list(&expected.addresses));
        return Err(Error::Check(format!("the agent has the port at {has}, but ADD said {said}")));
    }
    check_host(&name::host_interface(&call.key()))?;
    check_pod(call, &netns, &expected, &attached)?;
    ipam::forward(call, "CHECK", ipam::TIMEOUT)
}

fn expect(call: &Call) -> Result<Expected, Error> {
    let Some(previous) = &call.conf.prev_result else {
        return Err(Error::Conf("CHECK needs prevResult".to_owned()));
    };
    let none = Vec::new();
    let interfaces = previous["interfaces"].as_array().unwrap_or(&none);
    let is_ours = |interface: &Value| {
        interface["name"] == call.env.ifname.as_str() && interface["sandbox"] == call.env.netns.as_str()
    };
    let Some(index) = interfaces.iter().position(is_ours) else {
        let (name, netns) = (&call.env.ifname, &call.env.netns);
        return Err(Error::Check(format!("prevResult has no interface {name} in {netns}")));
    };
    let ips = previous["ips"].as_array().unwrap_or(&none);
    let is_on_it = |ip: &&Value| ip.get("interface").is_none_or(|at| at.as_u64() == Some(index as u64));
    let addresses: Result<Vec<_>, _> = ips
        .iter()
        .filter(is_on_it)
        .map(|ip| parse_address(ip["address"].as_str().unwrap_or_default()))
        .collect();
    let mac = interfaces.get(index).and_then(|interface| interface["mac"].as_str());
    Ok(Expected { mac: mac.and_then(|text| text.parse().ok()), addresses: addresses? })
}

fn ask_agent(call: &Call, expected: &Expected) -> Result<AttachedPort, Error> {
    let wishes = Wishes::of(call)?;
    // With a delegate, the addresses are its choice, and prevResult is all that knows them.
    let addresses = match call.conf.ipam {
        Some(_) => expected.addresses.clone(),
        None => wishes.addresses.clone(),
    };
    let request = add::request(call, &wishes, addresses);
    Ok(Client::connect(&call.conf.socket, TIMEOUT)?.check(&request)?)
}

fn check_host(interface: &str) -> Result<(), Error> {
    let mut links = Links::open().map_err(Error::kernel("open netlink"))?;
    match links.find(interface).map_err(Error::kernel(format!("look for {interface}")))? {
        Some(link) if link.is_up => Ok(()),
        Some(_) => Err(Error::Check(format!("{interface} is down"))),
        None => Err(Error::Check(format!("the host has no {interface}"))),
    }
}

fn check_pod(call: &Call, netns: &Netns, expected: &Expected, attached: &AttachedPort) -> Result<(), Error> {
    let ifname = &call.env.ifname;
    let fail = |what: String| Err(Error::Check(what));
    let open = netns.inside(Links::open).and_then(|links| links);
    let mut links = open.map_err(Error::kernel("open netlink in the network namespace"))?;
    let Some(link) = links.find(ifname).map_err(Error::kernel(format!("look for {ifname}")))? else {
        return fail(format!("the container has no {ifname}"));
    };
    if !link.is_up {
        return fail(format!("{ifname} is down"));
    }
    if expected.mac.is_some() && expected.mac != link.mac {
        return fail(format!("{ifname} has another MAC address than ADD gave it"));
    }
    // Those of a delegate are left out: it may give others today, and plugins behind us may move them to another table.
    let destinations = add::destinations(call, &[]);
    let present = links.addresses(link.index).map_err(Error::kernel("list addresses"))?;
    for address in &expected.addresses {
        if !present.contains(address) {
            return fail(format!("{ifname} has lost its address {address}"));
        }
        let gateway = match address {
            IpAddr::V4(_) => IpAddr::V4(attached.gateway4),
            IpAddr::V6(_) => IpAddr::V6(attached.gateway6),
        };
        for to in destinations.iter().filter(|to| to.is_ipv4() == address.is_ipv4()) {
            if !links.has_route(link.index, *to, gateway).map_err(Error::kernel("list routes"))? {
                return fail(format!("{ifname} has lost its route to {to} via {gateway}"));
            }
        }
    }
    Ok(())
}

fn list(addresses: &[IpAddr]) -> String {
    addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::call::Env;
    use crate::conf::{Conf, Version};

    fn expected(previous: Value) -> Result<Expected, Error> {
        let env = Env { container: "c1".into(), ifname: "eth0".into(), netns: "/n".into(), ..Env::default() };
        let conf = serde_json::json!({ "name": "n", "prevResult": previous });
        expect(&Call { env, conf: Conf::parse(Version::V1_0, conf, Vec::new()).unwrap() })
    }

    #[test]
    fn only_the_addresses_of_our_interface_are_expected() {
        let expected = expected(serde_json::json!({
            "interfaces": [{ "name": "vr1" }, { "name": "eth0", "sandbox": "/n", "mac": "02:00:00:00:00:01" },
                           { "name": "eth0", "sandbox": "/other" }],
            "ips": [{ "address": "10.0.0.5/32", "interface": 1 }, { "address": "10.9.9.9/32", "interface": 2 },
                    { "address": "fd00::5/128" }],
        }))
        .unwrap();
        assert_eq!(list(&expected.addresses), "10.0.0.5, fd00::5");
        assert_eq!(expected.mac.unwrap().to_string(), "02:00:00:00:00:01");
    }

    #[test]
    fn nonsense_in_prev_result_is_refused() {
        assert_eq!(expected(Value::Null).err().unwrap().code(), 7);
        for previous in [serde_json::json!(7), serde_json::json!({ "interfaces": [7, null, {}] })] {
            assert_eq!(expected(previous).err().unwrap().code(), 104);
        }
        let ips = serde_json::json!({ "interfaces": [{ "name": "eth0", "sandbox": "/n" }], "ips": [{ "address": 7 }] });
        assert_eq!(expected(ips).err().unwrap().code(), 7);
    }
}
