//! Two provider edges on loopback trade one VPN route, lose sight of each other, and meet again.
//!
//! `cargo run -p bgp-peer --example l3vpn_pair`

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use bgp_peer::{LocalRoute, NeighborConfig, Speaker, SpeakerConfig, SpeakerEvent, SpeakerHandle, VrfImport};
use tokio::sync::mpsc;
use vrouter_types::{Asn, Encap, EncapSet, Label, VrfId};

type Failure = Box<dyn std::error::Error>;

const ASN: Asn = Asn(4_200_000_100);

fn speaker(
    own: SocketAddr,
    other: SocketAddr,
) -> Result<(SpeakerHandle, mpsc::Receiver<SpeakerEvent>), Failure> {
    let IpAddr::V4(router_id) = own.ip() else { return Err("an IPv4 address is the router ID".into()) };
    let neighbor = NeighborConfig {
        address: other.ip(),
        port: other.port(),
        asn: ASN,
        local_address: Some(own.ip()),
        ..NeighborConfig::default()
    };
    let (sender, events) = mpsc::channel(16);
    let config = SpeakerConfig {
        asn: ASN,
        router_id,
        listen: Some(own),
        neighbors: vec![neighbor],
        ..SpeakerConfig::default()
    };
    Ok((Speaker::spawn(config, sender)?, events))
}

/// Prints what a speaker tells until it tells a route of a VRF.
async fn print_until_route(name: &str, events: &mut mpsc::Receiver<SpeakerEvent>) {
    while let Some(event) = events.recv().await {
        match event {
            SpeakerEvent::NeighborUp(peer) => println!("{name}: session with {peer} is established"),
            SpeakerEvent::NeighborDown(peer, why) => println!("{name}: session with {peer} is down: {why}"),
            SpeakerEvent::Routes(routes) => {
                for route in &routes {
                    println!("{name}: VRF {} {}", route.vrf, route.prefix);
                    if route.paths.is_empty() {
                        println!("{name}:     gone");
                    }
                    for path in &route.paths {
                        println!("{name}:     via {} label {} {:?}", path.next_hop, path.label, path.encaps);
                    }
                }
                return;
            }
        }
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Failure> {
    let gateway = SocketAddr::from((Ipv4Addr::new(127, 0, 0, 11), 1790));
    let datacenter = SocketAddr::from((Ipv4Addr::new(127, 0, 0, 12), 1790));
    let target = "target:4200000100:7".parse()?;

    let (sensor, _sensor_events) = speaker(gateway, datacenter)?;
    let (collector, mut events) = speaker(datacenter, gateway)?;
    collector.set_imports(vec![VrfImport { vrf: VrfId(0), import: vec![target] }]).await;
    sensor
        .originate(LocalRoute {
            prefix: "127.0.0.11:1:10.20.11.5/32".parse()?,
            label: Label::new(100)?,
            next_hop: IpAddr::from([192, 0, 2, 11]),
            route_targets: vec![target],
            encaps: EncapSet::from_iter(Encap::ALL),
            local_pref: 100,
            med: None,
            as_path_prepend: Vec::new(),
            communities: Vec::new(),
            large_communities: Vec::new(),
            hash_order: None,
        })
        .await;
    print_until_route("datacenter", &mut events).await;

    println!("the gateway shuts down");
    sensor.shutdown(false).await;
    print_until_route("datacenter", &mut events).await;
    collector.shutdown(false).await;
    Ok(())
}
