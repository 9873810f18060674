//! Speakers on loopback addresses, each with a real socket.
#![allow(dead_code, reason = "each test file uses its part")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on fails")]

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use bgp_peer::{
    LocalRoute, NeighborConfig, NeighborView, Speaker, SpeakerConfig, SpeakerEvent, SpeakerHandle, State,
    VrfImport, VrfRoute,
};
use tokio::sync::mpsc;
use vrouter_types::{Asn, Encap, EncapSet, Label, VrfId};

pub(crate) const ASN: Asn = Asn(4_200_000_100);

/// A speaker, what it tells, and where it is.
pub(crate) struct Node {
    pub(crate) handle: SpeakerHandle,
    pub(crate) events: mpsc::Receiver<SpeakerEvent>,
}

pub(crate) fn neighbor(address: SocketAddr, local: IpAddr) -> NeighborConfig {
    NeighborConfig {
        address: address.ip(),
        port: address.port(),
        asn: ASN,
        local_address: Some(local),
        ..NeighborConfig::default()
    }
}

pub(crate) fn config(listen: SocketAddr, router_id: u8, neighbors: Vec<NeighborConfig>) -> SpeakerConfig {
    SpeakerConfig {
        asn: ASN,
        router_id: Ipv4Addr::new(192, 0, 2, router_id),
        listen: Some(listen),
        neighbors,
        max_paths: 10_000,
        ..SpeakerConfig::default()
    }
}

pub(crate) fn spawn(config: SpeakerConfig) -> Node {
    let (sender, events) = mpsc::channel(16);
    Node { handle: Speaker::spawn(config, sender).unwrap(), events }
}

/// An address of this process's own on loopback, with a port that is free there. Tests run in processes of their own,
/// so the process's number keeps them apart.
pub(crate) fn address(host: u8) -> SocketAddr {
    let [_, _, high, low] = std::process::id().to_be_bytes();
    let ip = Ipv4Addr::new(127, high, low, host);
    let probe = std::net::TcpListener::bind((ip, 0)).unwrap();
    probe.local_addr().unwrap()
}

/// Two that know each other, with changes to the configuration of each.
pub(crate) fn pair(change: impl Fn(&mut SpeakerConfig, &mut SpeakerConfig)) -> (Node, Node) {
    let (a, b) = (address(1), address(2));
    let mut first = config(a, 1, vec![neighbor(b, a.ip())]);
    let mut second = config(b, 2, vec![neighbor(a, b.ip())]);
    change(&mut first, &mut second);
    (spawn(first), spawn(second))
}

pub(crate) fn route(prefix: &str, label: u32) -> LocalRoute {
    LocalRoute {
        prefix: prefix.parse().unwrap(),
        label: Label::new(label).unwrap(),
        // That of the router that the distinguisher names.
        next_hop: prefix.split(':').next().unwrap().parse().unwrap(),
        route_targets: vec!["target:4200000100:7".parse().unwrap()],
        encaps: EncapSet::from_iter([Encap::MplsOverUdp]),
        local_pref: 100,
        med: None,
        as_path_prepend: Vec::new(),
        communities: Vec::new(),
        large_communities: Vec::new(),
        hash_order: None,
    }
}

pub(crate) fn import() -> Vec<VrfImport> {
    vec![VrfImport { vrf: VrfId(0), import: vec!["target:4200000100:7".parse().unwrap()] }]
}

/// Waits until it is true of what the node says of itself.
pub(crate) async fn until(node: &Node, what: &str, is_so: impl Fn(&NeighborView) -> bool) -> NeighborView {
    for _ in 0..3000 {
        let view = node.handle.neighbors().await.remove(0);
        if is_so(&view) {
            return view;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("never {what}: {:?}", node.handle.neighbors().await);
}

pub(crate) async fn until_established(node: &Node) -> NeighborView {
    until(node, "established", |view| view.state == State::Established).await
}

/// Waits for news of one of these VRF routes.
pub(crate) async fn next_route(node: &mut Node, prefix: &str) -> VrfRoute {
    let wanted = prefix.parse().unwrap();
    let search = async {
        loop {
            if let SpeakerEvent::Routes(routes) = node.events.recv().await.expect("the speaker ended")
                && let Some(route) = routes.into_iter().rfind(|route| route.prefix == wanted)
            {
                return route;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(30), search).await.expect("no news of the route")
}
