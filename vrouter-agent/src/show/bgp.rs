//! BGP's views as the API has them.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Instant, UNIX_EPOCH};

use agent_api::{
    ApiError, BgpMessageCounts, BgpNeighbor, BgpNeighbors, BgpPath, BgpPeer, BgpRestart, BgpRestartEnd,
    BgpRoutes, BgpRtc, BgpSummary, BgpUpdateCounts, ErrorKind, RouteFilter, RtcMembership,
};
use bgp_peer::bgp_core::RtcView;
use bgp_peer::bgp_core::wire::graceful::GracefulRestart;
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
pub fn route_query(neighbors: &[NeighborView], filter: &RouteFilter) -> Result<RouteQuery, ApiError> {
    let family = filter.family.as_deref().map(str::parse::<Family>).transpose();
    let family = family.map_err(|error| ApiError::new(ErrorKind::BadRequest, error.to_string()))?;
    let scope = match filter.neighbor {
        None => RouteScope::All,
        Some(address) => {
            let id = peer_id(neighbors, address).ok_or_else(|| no_neighbor(address))?;
            if filter.received == Some(false) { RouteScope::Advertised(id) } else { RouteScope::Received(id) }
        }
    };
    Ok(RouteQuery { family, rd: filter.rd, rt: filter.rt, prefix: filter.prefix, scope })
}

/// What is wrong with sessions, a sentence each.
pub fn bgp_problems(views: &[NeighborView]) -> Vec<String> {
    let down = views.iter().filter(|view| view.state != State::Established);
    let problem = |view: &NeighborView| {
        let why = view.last_error.as_ref().map(|error| format!(": {error}")).unwrap_or_default();
        format!("BGP neighbor {} is {}{why}", view.address, state_name(view.state))
    };
    down.map(problem).collect()
}

/// `show bgp rtc`.
pub fn bgp_rtc(neighbors: &[NeighborView], views: &[RtcView]) -> BgpRtc {
    let entry = |view: &RtcView| {
        let mut it = RtcMembership::default();
        for source in &view.sources {
            match source {
                PathSource::Local => it.local = true,
                PathSource::Peer(id) => it.received_from.extend(neighbor_address(neighbors, *id)),
            }
        }
        it.advertised_to = view.told.iter().filter_map(|id| neighbor_address(neighbors, *id)).collect();
        (view.membership.to_string(), it)
    };
    BgpRtc { memberships: views.iter().map(entry).collect() }
}

pub(super) fn neighbor_address(neighbors: &[NeighborView], id: PeerId) -> Option<IpAddr> {
    neighbors.iter().find(|view| view.id == id).map(|view| view.address)
}

fn peer_id(neighbors: &[NeighborView], address: IpAddr) -> Option<PeerId> {
    neighbors.iter().find(|view| view.address == address).map(|view| view.id)
}

/// `show bgp routes`.
pub fn bgp_routes(
    overlay: &Overlay,
    neighbors: &[NeighborView],
    views: &[RouteView],
    now: Instant,
) -> BgpRoutes {
    let mut routes: BTreeMap<String, Vec<BgpPath>> = BTreeMap::new();
    for view in views {
        routes.entry(view.key.to_string()).or_default().push(path(overlay, neighbors, view, now));
    }
    // The best first; the others as the speaker ranks them.
    routes.values_mut().for_each(|paths| paths.sort_by_key(|path| !path.bestpath));
    BgpRoutes { total_prefix_counter: routes.len(), total_path_counter: views.len(), routes }
}

pub(super) fn path(overlay: &Overlay, neighbors: &[NeighborView], view: &RouteView, now: Instant) -> BgpPath {
    let route = match view.key {
        RouteKey::Vpn(route) => Some(route),
        RouteKey::Rtc(_) => None,
    };
    let name = |vrf| overlay.vrf(vrf).map(|vrf| vrf.config.name.clone());
    BgpPath {
        route,
        bestpath: view.is_best,
        stale: view.is_stale,
        peer: source(neighbors, view.source),
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

fn source(neighbors: &[NeighborView], source: PathSource) -> String {
    match source {
        PathSource::Local => "local".to_owned(),
        PathSource::Peer(id) => {
            let address = neighbor_address(neighbors, id);
            address.map_or_else(|| format!("neighbor {}", id.0), |address| address.to_string())
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
        state: state_name(view.state).to_owned(),
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
        dynamic: view.dynamic,
        graceful_restart: restart(view),
        prefix_limit: limit(view),
        updates: updates(view),
        received: counts(&view.received),
        sent: counts(&view.sent),
        last_error: view.last_error.clone(),
        last_error_bytes: (!view.last_error_octets.is_empty()).then(|| hexadecimal(&view.last_error_octets)),
    }
}

/// As RFC 4271 §8.2.2 and FRR spell them.
pub fn state_name(state: State) -> &'static str {
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

/// In force are families that both ends named; what one end alone said is shown all the same.
fn restart(view: &NeighborView) -> Option<BgpRestart> {
    let terms = view.restart.as_ref()?;
    let end = |end: &GracefulRestart| BgpRestartEnd {
        restarting: end.restarting,
        survives_notifications: end.notification,
        restart_time_msec: u64::from(end.restart_time) * 1000,
        families: end.families.iter().map(|family| family.to_string()).collect(),
        forwarding_kept: end.forwarding_kept.iter().map(|family| family.to_string()).collect(),
        long_lived: end
            .long_lived
            .iter()
            .map(|entry| (entry.family.to_string(), u64::from(entry.stale_time) * 1000))
            .collect(),
    };
    Some(BgpRestart {
        local: terms.ours.as_ref().map(end),
        remote: terms.theirs.as_ref().map(end),
        routes_kept_for_msec: view.restart_until.map(msec),
    })
}

fn limit(view: &NeighborView) -> Option<String> {
    let ends = |left: std::time::Duration| format!("tried again in {} s", left.as_secs());
    view.is_over_limit.then(|| {
        let ends = view.limit_ends_in.map_or("stays down until cleared".to_owned(), ends);
        format!("it sent more routes than it may; {ends}")
    })
}

fn updates(view: &NeighborView) -> BgpUpdateCounts {
    let counts = &view.routes;
    BgpUpdateCounts {
        malformed: counts.updates_malformed,
        last_malformed: counts.last_malformed.as_ref().map(ToString::to_string),
        attributes_discarded: counts.attributes_discarded,
        looped: counts.updates_looped,
        not_imported: counts.updates_not_imported,
        memberships_received: counts.memberships_received,
        memberships_advertised: counts.memberships_advertised,
    }
}

fn hexadecimal(octets: &[u8]) -> String {
    octets.iter().map(|octet| format!("{octet:02x}")).collect()
}

fn no_neighbor(address: IpAddr) -> ApiError {
    ApiError::new(ErrorKind::NotFound, format!("no BGP neighbor {address} is configured"))
}
