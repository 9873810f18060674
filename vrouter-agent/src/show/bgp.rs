//! BGP's views as the API has them.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Instant, UNIX_EPOCH};

use agent_api::{
    ApiError, BgpMessageCounts, BgpNeighbor, BgpNeighbors, BgpPath, BgpPeer, BgpRoutes, BgpSummary,
    ErrorKind, RouteFilter,
};
use bgp_peer::{
    Family, MessageCounts, NeighborView, PathSource, PeerId, RouteKey, RouteQuery, RouteScope, RouteView,
    SpeakerSummary, State,
};
use vrouter_types::Asn;

use super::msec;
use crate::config::Config;
use crate::overlay::Overlay;

/// `show bgp summary`. Without a speaker (no `[bgp]` in the configuration) it is empty, with AS 0.
pub fn bgp_summary(config: &Config, speaker: Option<&SpeakerSummary>) -> BgpSummary {
    let neighbors = speaker.map(|summary| summary.neighbors.as_slice()).unwrap_or_default();
    BgpSummary {
        router_id: speaker.map_or(config.bgp.router_id, |summary| summary.router_id),
        asn: speaker.map_or(Asn(0), |summary| summary.asn),
        peers: neighbors.iter().map(|view| (view.address, peer(view))).collect(),
        total_peers: neighbors.len(),
        rib_count: speaker.map_or(0, |summary| summary.routes),
    }
}

/// `show bgp neighbors`: all, or the one that is asked for.
pub fn bgp_neighbors(views: &[NeighborView], wanted: Option<IpAddr>) -> Result<BgpNeighbors, ApiError> {
    let chosen = views.iter().filter(|view| wanted.is_none_or(|wanted| wanted == view.address));
    let neighbors: BTreeMap<IpAddr, BgpNeighbor> =
        chosen.map(|view| (view.address, neighbor(view))).collect();
    match wanted {
        Some(wanted) if neighbors.is_empty() => Err(no_neighbor(wanted)),
        _ => Ok(BgpNeighbors { neighbors }),
    }
}

/// What `show bgp routes` asks the speaker.
pub fn route_query(config: &Config, filter: &RouteFilter) -> Result<RouteQuery, ApiError> {
    let family = filter.family.as_deref().map(str::parse::<Family>).transpose();
    let family = family.map_err(|error| ApiError::new(ErrorKind::BadRequest, error.to_string()))?;
    let scope = match filter.neighbor {
        None => RouteScope::All,
        Some(address) => {
            let id = peer_id(config, address).ok_or_else(|| no_neighbor(address))?;
            if filter.received == Some(false) { RouteScope::Advertised(id) } else { RouteScope::Received(id) }
        }
    };
    Ok(RouteQuery { family, rd: filter.rd, rt: filter.rt, prefix: filter.prefix, scope })
}

/// A speaker numbers its neighbors in the order of the configuration.
fn peer_id(config: &Config, address: IpAddr) -> Option<PeerId> {
    let at = config.bgp.neighbors.iter().position(|neighbor| neighbor.address == address)?;
    u32::try_from(at).ok().map(PeerId)
}

/// `show bgp routes`.
pub fn bgp_routes(overlay: &Overlay, views: &[RouteView], now: Instant) -> BgpRoutes {
    let mut routes: BTreeMap<String, Vec<BgpPath>> = BTreeMap::new();
    for view in views {
        routes.entry(view.key.to_string()).or_default().push(path(overlay, view, now));
    }
    // The best first; the others as the speaker ranks them.
    routes.values_mut().for_each(|paths| paths.sort_by_key(|path| !path.bestpath));
    BgpRoutes { total_prefix_counter: routes.len(), total_path_counter: views.len(), routes }
}

fn path(overlay: &Overlay, view: &RouteView, now: Instant) -> BgpPath {
    let route = match view.key {
        RouteKey::Vpn(route) => Some(route),
        RouteKey::Rtc(_) => None,
    };
    let name = |vrf| overlay.vrf(vrf).map(|vrf| vrf.config.name.clone());
    BgpPath {
        route,
        bestpath: view.is_best,
        stale: view.is_stale,
        peer: source(overlay, view.source),
        nexthop: view.next_hop,
        remote_label: view.label,
        loc_prf: route.map(|_| view.local_pref),
        med: view.med,
        aspath: view.as_path.clone(),
        origin: view.origin.to_string(),
        route_targets: view.route_targets.clone(),
        encapsulations: view.encaps.iter().collect(),
        originator_id: view.originator_id,
        imported_by: view.imported_by.iter().copied().filter_map(name).collect(),
        age_msec: view.since.map(|since| msec(now.saturating_duration_since(since))),
    }
}

fn source(overlay: &Overlay, source: PathSource) -> String {
    match source {
        PathSource::Local => "local".to_owned(),
        PathSource::Peer(id) => {
            let neighbor = overlay.config().bgp.neighbors.get(id.0 as usize);
            neighbor.map_or_else(|| format!("neighbor {}", id.0), |neighbor| neighbor.address.to_string())
        }
    }
}

fn peer(view: &NeighborView) -> BgpPeer {
    let epoch = view.established_at.and_then(|at| at.duration_since(UNIX_EPOCH).ok());
    BgpPeer {
        remote_as: view.asn,
        msg_rcvd: view.received.messages(),
        msg_sent: view.sent.messages(),
        peer_uptime_msec: msec(view.uptime),
        peer_uptime_established_epoch: epoch.map(|since| since.as_secs()),
        pfx_rcd: view.routes.received,
        pfx_snt: view.routes.advertised,
        state: state(view.state).to_owned(),
        connections_established: view.connections_established,
        connections_dropped: view.connections_dropped,
        desc: view.description.clone(),
    }
}

fn neighbor(view: &NeighborView) -> BgpNeighbor {
    BgpNeighbor {
        peer: peer(view),
        local_as: view.local_asn,
        port: view.port,
        remote_router_id: view.remote_router_id,
        local_address: view.local_address,
        hold_time_msec: msec(view.hold_time),
        keepalive_interval_msec: msec(view.keepalive_time),
        capabilities_advertised: view.capabilities_advertised.clone(),
        capabilities_received: view.capabilities_received.clone(),
        families: view.families.iter().map(|family| family.to_string()).collect(),
        default_encapsulation: view.default_encap,
        received: counts(&view.received),
        sent: counts(&view.sent),
        last_error: view.last_error.clone(),
        last_error_bytes: (!view.last_error_octets.is_empty()).then(|| hexadecimal(&view.last_error_octets)),
    }
}

/// As RFC 4271 §8.2.2 and FRR spell them.
fn state(state: State) -> &'static str {
    match state {
        State::Idle => "Idle",
        State::Connect => "Connect",
        State::Active => "Active",
        State::OpenSent => "OpenSent",
        State::OpenConfirm => "OpenConfirm",
        State::Established => "Established",
    }
}

fn counts(counts: &MessageCounts) -> BgpMessageCounts {
    BgpMessageCounts {
        opens: counts.opens,
        updates: counts.updates,
        keepalives: counts.keepalives,
        notifications: counts.notifications,
        route_refreshes: counts.route_refreshes,
        bytes: counts.bytes,
    }
}

fn hexadecimal(octets: &[u8]) -> String {
    octets.iter().map(|octet| format!("{octet:02x}")).collect()
}

fn no_neighbor(address: IpAddr) -> ApiError {
    ApiError::new(ErrorKind::NotFound, format!("no BGP neighbor {address} is configured"))
}
