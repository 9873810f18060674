use std::path::Path;
use std::sync::Arc;

use agent_api::{AttachPort, PortKey, PortKind};
use vrouter_types::{EncapSet, VrfId};

use super::*;
use crate::config::Config;
use crate::event::{CallId, Event, Millis, Restore, Underlay, VrfPath};
use crate::fib_build::FibBuilder;

const CONFIG: &str = r#"
[agent]
name = "gw-12"
[underlay]
address = "192.0.2.11"
encapsulations = ["mpls-over-udp", "mpls-over-gre"]
[bgp]
asn = 64512
[[bgp.neighbor]]
address = "192.0.2.1"
[[vrf]]
name = "smart"
rd = "192.0.2.11:1"
import = ["target:64512:100"]
export = ["target:64512:100"]
pods = ["10.20.11.0/24", "fd00:20:11::/64"]
default = true
[[vrf]]
name = "tenant-b"
rd = "192.0.2.11:2"
import = ["target:64512:200"]
export = ["target:64512:200"]
namespaces = ["b-*"]
"#;

/// An agent without ports.
fn empty() -> Overlay {
    let mut overlay = Overlay::new(Arc::new(Config::parse(CONFIG, Path::new("agent.toml")).unwrap()));
    overlay.apply(Event::Restore(Restore { boot_id: "boot".into(), ..Restore::default() }));
    overlay
}

fn attach(overlay: &mut Overlay, interface: &str, vrf: &str, address: &str) {
    let key = PortKey { container: interface.into(), interface: "eth0".into() };
    let mac = "02:00:00:00:00:01".parse().unwrap();
    let request = AttachPort {
        namespace: Some("city-1".into()),
        name: Some("sensor".into()),
        vrf: Some(vrf.into()),
        addresses: vec![address.parse().unwrap()],
        ..AttachPort::new(key, PortKind::Tap, interface.into(), mac)
    };
    overlay.apply(Event::Attach { call: CallId(1), request, now: Millis(1) });
}

/// Two tenants with the same address, an underlay, and a route over two provider edges.
fn busy() -> Overlay {
    let mut overlay = empty();
    let underlay = Underlay { address: ip("192.0.2.11"), interface: "eth0".into(), mtu: 1500 };
    overlay.apply(Event::Underlay(Some(underlay)));
    attach(&mut overlay, "tap0", "smart", "10.20.11.2");
    attach(&mut overlay, "tap1", "tenant-b", "10.20.11.2");
    let path = |next_hop: &str, label, encaps: &[Encap]| VrfPath {
        rd: "64512:1".parse().unwrap(),
        next_hop: ip(next_hop),
        label: vrouter_types::Label::new(label).unwrap(),
        encaps: encaps.iter().copied().collect::<EncapSet>(),
        local: false,
        local_pref: 100,
    };
    let paths = vec![path("192.0.2.1", 17, &[]), path("192.0.2.2", 18, &[Encap::MplsOverGre])];
    let route = crate::event::VrfRoute { vrf: VrfId(0), prefix: prefix("10.30.0.0/16"), paths };
    overlay.apply(Event::Routes(vec![route]));
    overlay
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn prefix(text: &str) -> Prefix {
    text.parse().unwrap()
}

fn prefixes(overlay: &Overlay, wanted: &str) -> Vec<String> {
    let reply = routes(overlay, Some("smart"), Some(prefix(wanted))).unwrap();
    reply.vrfs["smart"].keys().cloned().collect()
}

#[test]
fn status_counts_and_carries_the_problems() {
    let reply = status(&empty(), None, Duration::from_secs(61), true, vec!["no tun".into()]);
    assert_eq!(
        (reply.name.as_str(), reply.uptime_msec, reply.ports, reply.neighbors),
        ("gw-12", 61_000, 0, 0)
    );
    assert_eq!(reply.problems, ["no tun"]);
    assert_eq!(status(&busy(), None, Duration::ZERO, true, vec![]).ports, 2);
}

#[test]
fn vrfs_show_what_is_used_of_their_pools() {
    let reply = vrfs(&busy());
    let smart = &reply.vrfs["smart"];
    assert!(smart.default && smart.namespaces.is_empty());
    assert_eq!((smart.ports, smart.pods[0].used), (1, 1));
    assert_eq!(smart.pods[0].range, prefix("10.20.11.0/24"));
    assert_eq!(reply.vrfs["tenant-b"].namespaces, ["b-*"]);
}

#[test]
fn routes_lead_to_ports_and_through_tunnels() {
    let reply = routes(&busy(), Some("smart"), None).unwrap();
    let smart = &reply.vrfs["smart"];
    let local = &smart["10.20.11.2/32"];
    assert_eq!(local.protocol, "local");
    assert_eq!(local.nexthops[0].interface.as_deref(), Some("tap0"));
    let shared = &smart["10.30.0.0/16"];
    assert_eq!(shared.protocol, "bgp");
    let ways: Vec<_> =
        shared.nexthops.iter().map(|hop| (hop.ip.unwrap(), hop.encapsulation.unwrap())).collect();
    assert_eq!(ways, [(ip("192.0.2.1"), Encap::MplsOverUdp), (ip("192.0.2.2"), Encap::MplsOverGre)]);
    assert_eq!(shared.nexthops[1].label.map(|label| label.value()), Some(18));
    assert_eq!(routes(&busy(), None, None).unwrap().vrfs.len(), 2);
}

#[test]
fn prefix_finds_itself_what_is_inside_or_what_covers_it() {
    let overlay = busy();
    assert_eq!(prefixes(&overlay, "10.0.0.0/8"), ["10.20.11.2/32", "10.30.0.0/16"]);
    assert_eq!(prefixes(&overlay, "10.30.0.0/16"), ["10.30.0.0/16"]);
    assert_eq!(prefixes(&overlay, "10.30.7.9/32"), ["10.30.0.0/16"]);
    assert!(prefixes(&overlay, "172.16.0.0/12").is_empty());
}

#[test]
fn unknown_vrf_is_answered_with_those_there_are() {
    let overlay = busy();
    let error = routes(&overlay, Some("blue"), None).unwrap_err();
    assert_eq!(error.kind, ErrorKind::NotFound);
    assert!(error.message.contains("smart, tenant-b"), "{error}");
}

#[test]
fn ports_tell_who_the_host_reaches() {
    let counters =
        |port: PortId| dataplane::PortCounters { rx_packets: 7 + u64::from(port.0), ..Default::default() };
    let rate = Rate { rx_packets: 2.5, ..Rate::default() };
    let reply = ports(&busy(), |port| (counters(port), (port == PortId(0)).then_some(rate)));
    let [first, second] = reply.ports.as_slice() else { panic!("{reply:?}") };
    assert_eq!((first.vrf.as_str(), second.vrf.as_str()), ("smart", "tenant-b"));
    assert_eq!((first.state.as_str(), first.counters.rx_packets), ("up", 7));
    assert_eq!(first.rates.map(|rates| rates.rx_packets_per_second), Some(2.5));
    assert_eq!(second.rates, None);
    assert_eq!(first.host_reachable, [ip("10.20.11.2")]);
    assert_eq!(second.addresses, [ip("10.20.11.2")]);
    assert!(second.host_reachable.is_empty());
}

#[test]
fn label_of_a_port_that_went_rests() {
    let mut overlay = busy();
    let key = PortKey { container: "tap0".into(), interface: "eth0".into() };
    let request = agent_api::DetachPort { key };
    overlay.apply(Event::Detach { call: CallId(2), request, now: Millis(2) });
    let reply = labels(&overlay);
    let shown: Vec<_> = reply.labels.iter().map(|it| (it.state.as_str(), it.interface.as_deref())).collect();
    assert_eq!(shown, [("resting", None), ("in use", Some("tap1"))]);
}

#[test]
fn tunnels_show_the_smaller_mtu() {
    let counters = |remote: IpAddr, _| TunnelCounters {
        tx_packets: 5,
        path_mtu: (remote == ip("192.0.2.2")).then_some(1400),
        ..TunnelCounters::default()
    };
    let reply = tunnels(&busy(), vec!["UDP_GRO".into()], |remote, encap| (counters(remote, encap), None));
    assert_eq!((reply.local, reply.underlay_mtu), (Some(ip("192.0.2.11")), 1500));
    let shown: Vec<_> =
        reply.tunnels.iter().map(|it| (it.remote, it.mtu, it.routes, it.tx_packets)).collect();
    assert_eq!(shown, [(ip("192.0.2.1"), 1468, 1, 5), (ip("192.0.2.2"), 1400, 1, 5)]);
}

#[test]
fn drops_hold_every_reason_and_only_ports_that_dropped() {
    let counted = [(DropReason::NoRoute, 7)];
    let of_port = |port: PortId| {
        if port.0 == 1 { vec![(DropReason::NoRoute, 7), (DropReason::Vlan, 0)] } else { vec![] }
    };
    let rate = |_, packets| (packets > 0).then_some(1.5);
    let reply = drops(&busy(), &counted, rate, of_port, |port, _, _| (port.0 == 1).then_some(0.5));
    assert_eq!(reply.drops["no-route"].packets_per_second, Some(1.5));
    assert_eq!(reply.port_rates[&1]["no-route"], 0.5);
    assert_eq!(reply.drops.len(), DropReason::COUNT);
    assert_eq!((reply.drops["no-route"].packets, reply.drops["vlan"].packets), (7, 0));
    assert_eq!(reply.ports, [(1, [("no-route".to_owned(), 7)].into())].into());
}

#[test]
fn trace_runs_the_pipeline_and_names_the_interface() {
    let overlay = busy();
    let fib = FibBuilder::new().build(&overlay);
    let ask = |dst: &str| {
        let request = TraceRequest { vrf: "smart".into(), src: ip("10.20.11.2"), dst: ip(dst) };
        trace(&overlay, &fib, &request)
    };
    let reply = ask("10.30.0.5").unwrap();
    assert!(reply.forwarded && reply.verdict.contains("over mpls-over-"), "{reply:?}");
    assert!(!ask("172.16.0.1").unwrap().forwarded);
    assert_eq!(ask("fd00::1").unwrap_err().kind, ErrorKind::BadRequest);
    let request = TraceRequest { vrf: "smart".into(), src: ip("10.30.0.5"), dst: ip("10.20.11.2") };
    let reply = trace(&overlay, &fib, &request).unwrap();
    assert_eq!(reply.verdict, "to port 0 (tap0)");
}

#[tokio::test]
async fn bgp_views_become_frrs_words() {
    let overlay = busy();
    let config = overlay.config();
    let neighbor = bgp_peer::NeighborConfig {
        address: ip("192.0.2.1"),
        port: 179,
        asn: vrouter_types::Asn(64512),
        password: None,
        hold_time: None,
        passive: true,
        local_address: None,
        description: Some("edge 1".into()),
        default_encap: None,
        families: [bgp_peer::Family::Vpnv4, bgp_peer::Family::Rtc].into_iter().collect(),
        ..bgp_peer::NeighborConfig::default()
    };
    let (events, _receiver) = tokio::sync::mpsc::channel(16);
    let speaker = bgp_peer::Speaker::spawn(
        bgp_peer::SpeakerConfig {
            asn: vrouter_types::Asn(64512),
            router_id: "192.0.2.11".parse().unwrap(),
            hold_time: 90,
            listen: None,
            neighbors: vec![neighbor],
            max_paths: 1000,
            ..bgp_peer::SpeakerConfig::default()
        },
        events,
    )
    .unwrap();
    let own = bgp_peer::LocalRoute {
        prefix: "192.0.2.11:1:10.20.11.2/32".parse().unwrap(),
        label: vrouter_types::Label::new(16).unwrap(),
        next_hop: ip("192.0.2.11"),
        route_targets: vec!["target:64512:100".parse().unwrap()],
        encaps: Encap::ALL.into_iter().collect(),
        local_pref: 100,
        med: None,
        as_path_prepend: Vec::new(),
        communities: Vec::new(),
        large_communities: Vec::new(),
        hash_order: None,
    };
    let imports = vec![bgp_peer::VrfImport { vrf: VrfId(0), import: own.route_targets.clone() }];
    speaker.set_imports(imports).await;
    speaker.originate(own).await;

    let summary = bgp_summary(config, Some(&speaker.summary().await));
    let peer = &summary.peers[&ip("192.0.2.1")];
    assert_eq!((summary.total_peers, summary.rib_count, peer.desc.as_deref()), (1, 1, Some("edge 1")));
    assert_ne!(peer.state, "Established");
    let views = speaker.neighbors().await;
    assert_eq!(bgp_neighbors(&views, None).unwrap().neighbors.len(), 1);
    assert_eq!(bgp_neighbors(&views, Some(ip("192.0.2.9"))).unwrap_err().kind, ErrorKind::NotFound);

    let filter = agent_api::RouteFilter { family: Some("vpnv4".into()), ..Default::default() };
    let found = speaker.routes(route_query(&views, &filter).unwrap()).await;
    let reply = bgp_routes(&overlay, &views, &found, std::time::Instant::now());
    let path = &reply.routes["192.0.2.11:1:10.20.11.2/32"][0];
    assert_eq!((path.peer.as_str(), path.origin.as_str(), path.bestpath), ("local", "IGP", true));
    assert_eq!((path.loc_prf, path.remote_label.map(|label| label.value())), (Some(100), Some(16)));
    assert_eq!(path.imported_by, ["smart"]);
    assert_eq!(path.encapsulations, Encap::ALL);
    let filter = agent_api::RouteFilter { family: Some("rtc".into()), ..Default::default() };
    let found = speaker.routes(route_query(&views, &filter).unwrap()).await;
    let reply = bgp_routes(&overlay, &views, &found, std::time::Instant::now());
    assert!(reply.routes.contains_key("64512:target:64512:100"), "{reply:?}");
    let rtc = bgp_rtc(&views, &speaker.with_rib(|rib, _| rib.rtc()).await.unwrap());
    assert!(rtc.memberships["64512:target:64512:100"].local, "{rtc:?}");
    assert!(bgp_problems(&views)[0].starts_with("BGP neighbor 192.0.2.1 is "));

    let explain = async |vrf: &str, prefix: &str| {
        let (vrf, prefix) = (explained_vrf(&overlay, vrf).unwrap(), prefix.parse().unwrap());
        let reasons = speaker.with_rib(move |rib, _| rib.explain(vrf, prefix)).await.unwrap();
        explanation(&overlay, &views, &reasons, std::time::Instant::now())
    };
    let here = explain("smart", "10.20.11.2/32").await;
    let path = &here.candidates[0];
    assert_eq!((here.vrf.as_str(), path.imported, path.not_used.as_deref()), ("smart", true, None));
    assert_eq!(path.network, "192.0.2.11:1:10.20.11.2/32");
    let elsewhere = explain("tenant-b", "10.20.11.2/32").await;
    let why = elsewhere.candidates[0].not_used.as_deref().unwrap();
    assert!(why.starts_with("not imported"), "{elsewhere:?}");
    let nowhere = explain("smart", "10.99.0.0/16").await;
    assert!(
        nowhere.candidates.is_empty() && nowhere.verdict[1].starts_with("no path is held"),
        "{nowhere:?}"
    );
    assert_eq!(explained_vrf(&overlay, "none").unwrap_err().kind, ErrorKind::NotFound);
}

#[tokio::test]
async fn routes_of_a_stranger_are_refused() {
    let neighbor = bgp_peer::NeighborConfig {
        address: ip("192.0.2.1"),
        asn: vrouter_types::Asn(64512),
        passive: true,
        ..bgp_peer::NeighborConfig::default()
    };
    let config = bgp_peer::SpeakerConfig {
        asn: vrouter_types::Asn(64512),
        router_id: "192.0.2.11".parse().unwrap(),
        neighbors: vec![neighbor],
        ..bgp_peer::SpeakerConfig::default()
    };
    let (events, _receiver) = tokio::sync::mpsc::channel(16);
    let views = bgp_peer::Speaker::spawn(config, events).unwrap().neighbors().await;
    let ask = |neighbor: &str, received| {
        let neighbor = Some(ip(neighbor));
        route_query(&views, &agent_api::RouteFilter { neighbor, received, ..Default::default() })
    };
    assert_eq!(ask("192.0.2.9", None).unwrap_err().kind, ErrorKind::NotFound);
    let scope = |received| ask("192.0.2.1", received).unwrap().scope;
    assert_eq!(scope(Some(false)), bgp_peer::RouteScope::Advertised(views[0].id));
    assert_eq!(scope(Some(true)), bgp_peer::RouteScope::Received(views[0].id));
    assert_eq!(scope(None), scope(Some(true)));
}
