//! ADD: a veth pair, a port at the agent, addresses and routes in the pod. All of it, or nothing.
//!
//! ```text
//!  agent there? ─▶ name free? ─▶ IPAM delegate ─▶ veth pair ─▶ AttachPort ─▶ addresses, routes, offloads ─▶ result
//!   no: code 11     no: 102          │               │            │
//!                                    └──── Undo ◀────┴────────────┘   in the opposite order, on any failure
//! ```
//! The agent is tried first, so that without one nothing was done. When it answers AttachPort, the port is on disk, forwards
//! and is advertised; the pod's side is all that is left.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

use agent_api::client::ClientError;
use agent_api::{AttachPort, AttachedPort, Client, PortKind};
use serde_json::Value;
use vrouter_types::{MacAddr, Prefix};

use crate::call::Call;
use crate::conf::MIN_IPV6_MTU;
use crate::error::Error;
use crate::ipam::Leased;
use crate::netns::Netns;
use crate::offload::Ethtool;
use crate::result::Made;
use crate::shape::Limit;
use crate::undo::Undo;
use crate::veth::{Links, Pair};
use crate::wishes::Wishes;
use crate::{detach, ipam, name};

/// For the agent's answer; with a delegate's ten seconds all of ADD stays far below the runtime's two minutes.
const TIMEOUT: Duration = Duration::from_secs(15);
const MAX_REPLY: usize = 64 << 10;
/// For the kernel to take notice that the pair is up. It does in a millisecond, or (where both ends have the same number,
/// each in its namespace) in a second, which is not worth waiting for.
const NOTICE: Duration = Duration::from_millis(200);

/// The sockets that stand in the pod's namespace.
struct Pod {
    links: Links,
    /// Kernels before 5.6 have none.
    ethtool: Option<Ethtool>,
}

/// Makes the pod's interface and says what it is.
pub(crate) fn add(call: &Call) -> Result<Value, Error> {
    let mut agent = Client::connect(&call.conf.socket, TIMEOUT)?.with_max_reply(MAX_REPLY);
    let netns = open_netns(call)?;
    let mut pod = enter(&netns)?;
    let ifname = &call.env.ifname;
    let taken = pod.links.find(ifname).map_err(Error::kernel(format!("look for {ifname}")))?;
    if taken.is_some() {
        return Err(Error::NameTaken(ifname.clone()));
    }
    detach::forget(&call.conf, &call.key());
    let mut undo = Undo::new(call);
    let made = wire(call, &mut agent, &netns, &mut pod, &mut undo);
    match made {
        Ok(made) => Ok(made.to_json(call.conf.version, call.conf.prev_result.as_ref())),
        Err(error) => {
            undo.run();
            Err(error)
        }
    }
}

/// The pod's namespace, which must not be ours.
pub(crate) fn open_netns(call: &Call) -> Result<Netns, Error> {
    let netns = Netns::open(&call.env.netns)?;
    if netns.is_own() && !call.env.own_netns_allowed {
        let reason = "it is the one that the plugin runs in".to_owned();
        return Err(Error::Netns { path: netns.path().to_path_buf(), reason });
    }
    Ok(netns)
}

/// What the agent is asked for; CHECK asks for the same.
pub(crate) fn request(call: &Call, wishes: &Wishes, addresses: Vec<IpAddr>) -> AttachPort {
    let key = call.key();
    let arg = |name: &str| call.env.args.get(name).filter(|value| !value.is_empty()).cloned();
    let host_interface = name::host_interface(&key);
    let mac = wishes.mac.unwrap_or_else(|| name::pod_mac(&key));
    AttachPort {
        netns: Some(call.env.netns.clone()),
        namespace: arg("K8S_POD_NAMESPACE"),
        name: arg("K8S_POD_NAME"),
        vrf: wishes.vrf.clone(),
        configured_vrf: call.conf.vrf.clone(),
        addresses,
        mtu: call.conf.mtu,
        ..AttachPort::new(key, PortKind::Pod, host_interface, mac)
    }
}

/// What the pod reaches through the interface: all, where it is the default one, and what is configured.
pub(crate) fn destinations(call: &Call, leased: &[Prefix]) -> Vec<Prefix> {
    let everywhere =
        [Prefix::new(Ipv4Addr::UNSPECIFIED.into(), 0), Prefix::new(Ipv6Addr::UNSPECIFIED.into(), 0)];
    let mut to: Vec<Prefix> =
        if call.is_default() { everywhere.into_iter().flatten().collect() } else { Vec::new() };
    for prefix in call.conf.routes.iter().chain(leased) {
        if prefix.is_default() && !call.is_default() {
            eprintln!(
                "vrouter-cni: {} is not the default interface and gets no route to {prefix}",
                call.env.ifname
            );
        } else if !to.contains(prefix) {
            to.push(*prefix);
        }
    }
    to
}

fn enter(netns: &Netns) -> Result<Pod, Error> {
    let open = || Ok(Pod { links: Links::open()?, ethtool: Ethtool::open().ok() });
    netns.inside(open).and_then(|pod| pod).map_err(Error::kernel("open netlink in the network namespace"))
}

fn wire(
    call: &Call,
    agent: &mut Client,
    netns: &Netns,
    pod: &mut Pod,
    undo: &mut Undo<'_>,
) -> Result<Made, Error> {
    let wishes = Wishes::of(call)?;
    let leased = match &call.conf.ipam {
        Some(plugin) => {
            undo.delegated = true;
            ipam::add(call, plugin)?
        }
        None => Leased { addresses: wishes.addresses.clone(), ..Leased::default() },
    };
    let request = request(call, &wishes, leased.addresses);
    let host_mac = name::host_mac(&request.key);
    let mut host = Links::open().map_err(Error::kernel("open netlink"))?;
    undo.made_link = true;
    create_pair(&mut host, &request, host_mac, call, netns)?;
    // Before the agent opens it: then it sees that there is a queue to honour.
    limit(&mut host, &request.host_interface, wishes.bandwidth.to_pod)?;
    let attached = attach(agent, &request, undo)?;
    let ifname = &call.env.ifname;
    let addresses = configure(call, netns, pod, &attached)?;
    let routes = add_routes(call, pod, &addresses, &destinations(call, &leased.routes))?;
    limit(&mut pod.links, ifname, wishes.bandwidth.from_pod)?;
    let alias = alias(&call.conf.name, &request.key.to_string());
    host.label(&request.host_interface, &alias, attached.mtu)
        .map_err(Error::kernel(format!("set the MTU of {}", request.host_interface)))?;
    await_notice(&mut host, pod, &request.host_interface, ifname, &addresses)?;
    Ok(Made {
        host_interface: request.host_interface,
        host_mac,
        pod_interface: ifname.clone(),
        pod_mac: request.mac,
        sandbox: call.env.netns.clone(),
        mtu: attached.mtu,
        addresses,
        routes,
        dns: wishes.dns.or_else(|| call.conf.dns.clone()).or(leased.dns),
    })
}

/// Lets no more through this end of the pair than the runtime asks for.
fn limit(links: &mut Links, name: &str, limit: Option<Limit>) -> Result<(), Error> {
    let Some(limit) = limit else { return Ok(()) };
    let doing = || Error::kernel(format!("limit the bandwidth of {name}"));
    let link = links.find(name).map_err(doing())?;
    let index = link.ok_or_else(|| Error::Answer(format!("{name} has vanished")))?.index;
    links.shape(index, limit).map_err(doing())
}

/// What stands on the host end, for people and for GC: which network's it is.
pub(crate) fn alias(network: &str, key: &str) -> String {
    format!("{}{key}", alias_prefix(network)).chars().take(255).collect()
}

/// How the aliases of all ports of a network begin.
pub(crate) fn alias_prefix(network: &str) -> String {
    format!("vrouter:{network}:")
}

fn create_pair(
    host: &mut Links,
    request: &AttachPort,
    host_mac: MacAddr,
    call: &Call,
    netns: &Netns,
) -> Result<(), Error> {
    let pair = Pair {
        host_interface: &request.host_interface,
        host_mac,
        pod_interface: &call.env.ifname,
        pod_mac: request.mac,
        netns,
    };
    let mut made = host.create_pair(&pair);
    if made.as_ref().is_err_and(|error| error.raw_os_error() == Some(libc::EEXIST)) {
        // The pod's name is free, so it is ours: left by an ADD of this very port that was killed half-way.
        made = host.delete(&request.host_interface).and_then(|_| host.create_pair(&pair));
    }
    made.map_err(Error::kernel(format!(
        "create the veth pair {}/{}",
        request.host_interface, call.env.ifname
    )))
}

fn attach(agent: &mut Client, request: &AttachPort, undo: &mut Undo<'_>) -> Result<AttachedPort, Error> {
    undo.attached = true;
    let attached = agent.attach(request).inspect_err(|error| {
        // After a clear no there is no port. After silence there may be one.
        undo.attached = !matches!(error, ClientError::Refused(_));
    })?;
    if attached.addresses.is_empty() {
        return Err(Error::Answer("it gave no address".to_owned()));
    }
    if attached.mtu < MIN_IPV6_MTU && attached.addresses.iter().any(IpAddr::is_ipv6) {
        let mtu = attached.mtu;
        return Err(Error::Answer(format!(
            "IPv6 needs an MTU of {MIN_IPV6_MTU}, but only {mtu} fits the tunnels"
        )));
    }
    Ok(attached)
}

/// The first packet must arrive, and what the kernel has been told it does a moment later. Where the moment is long, the pod
/// is not failed for it.
fn await_notice(
    host: &mut Links,
    pod: &mut Pod,
    host_interface: &str,
    ifname: &str,
    addresses: &[(IpAddr, IpAddr)],
) -> Result<(), Error> {
    let deadline = Instant::now() + NOTICE;
    let look = |what: &str| Error::kernel(format!("look at {what}"));
    let mut done = host.wait_operational(host_interface, deadline).map_err(look(host_interface))?;
    done &= pod.links.wait_operational(ifname, deadline).map_err(look(ifname))?;
    for (address, _) in addresses {
        done &= pod.links.wait_local(*address, deadline).map_err(look(&address.to_string()))?;
    }
    if !done {
        eprintln!("vrouter-cni: the kernel does not say that {ifname} works; it may lose its first packets");
    }
    Ok(())
}

/// Sets up the pod's end; each address with its gateway.
fn configure(
    call: &Call,
    netns: &Netns,
    pod: &mut Pod,
    attached: &AttachedPort,
) -> Result<Vec<(IpAddr, IpAddr)>, Error> {
    let ifname = &call.env.ifname;
    let doing = |what: &str| Error::kernel(format!("{what} {ifname}"));
    let link = pod.links.find(ifname).map_err(doing("look for"))?;
    let index = link.ok_or_else(|| Error::Answer(format!("{ifname} has vanished")))?.index;
    if attached.addresses.iter().any(IpAddr::is_ipv6) {
        let set = netns.inside(|| crate::veth::set_ipv6_sysctls(ifname));
        set.and_then(|set| set).map_err(doing("enable IPv6 on"))?;
    }
    // A frame that does not fit would be lost only if the pod sends such; ADD does not fail for it.
    let switched = pod.ethtool.as_mut().map(|ethtool| ethtool.switch_off_unfit(index));
    if !matches!(switched, Some(Ok(()))) {
        eprintln!("vrouter-cni: cannot switch off offloads of {ifname}: {switched:?}");
    }
    pod.links.bring_up(index, attached.mtu, attached.superframe).map_err(doing("bring up"))?;
    let mut addresses = attached.addresses.clone();
    addresses.sort_by_key(IpAddr::is_ipv6);
    for address in &addresses {
        pod.links.add_address(index, *address).map_err(doing(&format!("add the address {address} to")))?;
    }
    let gateway = |address: &IpAddr| match address {
        IpAddr::V4(_) => IpAddr::V4(attached.gateway4),
        IpAddr::V6(_) => IpAddr::V6(attached.gateway6),
    };
    let mut gateways: Vec<_> = addresses.iter().map(gateway).collect();
    gateways.dedup();
    for gateway in gateways {
        pod.links.add_neighbour(index, gateway, attached.gateway_mac).map_err(doing("add the gateway of"))?;
    }
    Ok(addresses.iter().map(|address| (*address, gateway(address))).collect())
}

/// Through the gateway of each destination's family; of a family without an address there are none.
fn add_routes(
    call: &Call,
    pod: &mut Pod,
    addresses: &[(IpAddr, IpAddr)],
    destinations: &[Prefix],
) -> Result<Vec<(Prefix, IpAddr)>, Error> {
    let ifname = &call.env.ifname;
    let link = pod.links.find(ifname).map_err(Error::kernel(format!("look for {ifname}")))?;
    let index = link.ok_or_else(|| Error::Answer(format!("{ifname} has vanished")))?.index;
    let mut routes = Vec::new();
    for to in destinations {
        let gateway = addresses.iter().find(|(_, gateway)| gateway.is_ipv4() == to.is_ipv4());
        let Some((_, gateway)) = gateway else { continue };
        let doing = Error::kernel(format!("add the route to {to} through {ifname}"));
        pod.links.add_route(index, *to, *gateway).map_err(doing)?;
        routes.push((*to, *gateway));
    }
    Ok(routes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::call::Env;
    use crate::conf::{Conf, Version};

    fn call(ifname: &str, conf: serde_json::Value) -> Call {
        let args = [("K8S_POD_NAMESPACE", "city"), ("K8S_POD_NAME", "sensor")];
        let args = args.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
        let env =
            Env { container: "c1".into(), ifname: ifname.into(), netns: "/n".into(), args, ..Env::default() };
        Call { env, conf: Conf::parse(Version::V1_0, conf, Vec::new()).unwrap() }
    }

    #[test]
    fn annotation_and_configuration_are_told_apart() {
        let conf = serde_json::json!({ "name": "n", "vrf": "conf", "mtu": 1400, "runtimeConfig":
            { "io.kubernetes.cri.pod-annotations": { "vrouter.dev/vrf": "annotated" } } });
        let call = call("eth0", conf);
        let request = request(&call, &Wishes::of(&call).unwrap(), Vec::new());
        assert_eq!(
            (request.vrf.as_deref(), request.configured_vrf.as_deref()),
            (Some("annotated"), Some("conf"))
        );
        assert_eq!((request.namespace.as_deref(), request.name.as_deref()), (Some("city"), Some("sensor")));
        assert_eq!((request.mtu, request.kind), (Some(1400), PortKind::Pod));
    }

    #[test]
    fn one_interface_has_the_default_route_and_the_others_what_is_configured() {
        let to = |ifname: &str, rest: serde_json::Value| {
            let mut conf =
                serde_json::json!({ "name": "n", "routes": [{ "dst": "10.9.0.0/16", "gw": "10.9.0.1" }] });
            conf.as_object_mut().unwrap().extend(rest.as_object().unwrap().clone());
            let leased = ["0.0.0.0/0", "10.9.0.0/16", "fd09::/48"].map(|text| text.parse().unwrap());
            let to = destinations(&call(ifname, conf), &leased);
            to.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(to("eth0", serde_json::json!({})), ["0.0.0.0/0", "::/0", "10.9.0.0/16", "fd09::/48"]);
        assert_eq!(to("net1", serde_json::json!({})), ["10.9.0.0/16", "fd09::/48"]);
        assert_eq!(to("net1", serde_json::json!({ "isDefaultGateway": true })).len(), 4);
        assert_eq!(to("eth0", serde_json::json!({ "isDefaultGateway": false })).len(), 2);
    }
}
