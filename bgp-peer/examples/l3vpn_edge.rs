//! A provider edge in front of one route reflector, for a look at the protocol without the rest: it advertises one
//! route of each IP version, imports one route target, and prints what it is told until it is interrupted.
//!
//! `cargo run -p bgp-peer --example l3vpn_edge -- LOCAL:PORT PEER:PORT ASN NUMBER [PASSWORD]`
//!
//! NUMBER makes the routes of several edges differ: 10.20.NUMBER.5/32 and fd00:20:NUMBER::5/128.

use std::net::{IpAddr, SocketAddr};

use bgp_peer::{LocalRoute, NeighborConfig, RouteQuery, Speaker, SpeakerConfig, SpeakerEvent, VrfImport};
use tokio::sync::mpsc;
use vrouter_types::{Asn, Encap, EncapSet, Label, VrfId};

type Failure = Box<dyn std::error::Error>;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [local, peer, asn, number, rest @ ..] = &arguments[..] else {
        return Err("want: LOCAL:PORT PEER:PORT ASN NUMBER [PASSWORD]".into());
    };
    let (local, peer): (SocketAddr, SocketAddr) = (local.parse()?, peer.parse()?);
    let (asn, number): (u32, u8) = (asn.parse()?, number.parse()?);
    let router_id = match local.ip() {
        IpAddr::V4(address) => address,
        IpAddr::V6(_) => [192, 0, 2, number].into(),
    };
    let neighbor = NeighborConfig {
        address: peer.ip(),
        port: peer.port(),
        asn: Asn(asn),
        password: rest.first().map(|password| password.clone().into_bytes()),
        local_address: Some(local.ip()),
        default_encap: Some(Encap::MplsOverGre),
        ..NeighborConfig::default()
    };
    let (sender, mut events) = mpsc::channel(64);
    let config = SpeakerConfig {
        asn: Asn(asn),
        router_id,
        listen: Some(local),
        neighbors: vec![neighbor],
        ..SpeakerConfig::default()
    };
    let speaker = Speaker::spawn(config, sender)?;
    let target = format!("target:{asn}:7").parse()?;
    speaker.set_imports(vec![VrfImport { vrf: VrfId(0), import: vec![target] }]).await;
    for (prefix, label) in [(format!("10.20.{number}.5/32"), 100), (format!("fd00:20:{number}::5/128"), 101)]
    {
        let route = LocalRoute {
            prefix: format!("{router_id}:1:{prefix}").parse()?,
            label: Label::new(label)?,
            next_hop: IpAddr::from([192, 0, 2, number]),
            route_targets: vec![target],
            encaps: EncapSet::from_iter(Encap::ALL),
            local_pref: 100,
            med: None,
            as_path_prepend: Vec::new(),
            communities: Vec::new(),
            large_communities: Vec::new(),
            hash_order: None,
        };
        speaker.originate(route).await;
    }
    while let Some(event) = events.recv().await {
        match event {
            SpeakerEvent::Routes(routes) => routes.iter().for_each(|route| println!("{route:?}")),
            other => println!("{other:?}"),
        }
        for neighbor in speaker.neighbors().await {
            println!("{neighbor:#?}");
        }
        for route in speaker.routes(RouteQuery::default()).await {
            println!("{} label {:?} via {} best {}", route.key, route.label, route.next_hop, route.is_best);
        }
    }
    Ok(())
}
