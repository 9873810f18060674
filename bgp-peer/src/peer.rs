//! What the speaker keeps about one neighbor beside its state machine.

use std::net::IpAddr;
use std::time::{Duration, Instant, SystemTime};

use bgp_core::{ConnId, LastError, Neighbor, PeerId, Rib};
use tokio::task::AbortHandle;

use crate::config::NeighborConfig;
use crate::view::NeighborView;

pub(crate) struct Peer {
    pub(crate) id: PeerId,
    pub(crate) config: NeighborConfig,
    pub(crate) neighbor: Neighbor,
    /// The attempt to connect that is under way.
    pub(crate) connecting: Option<(ConnId, AbortHandle)>,
    /// Our end of the last established connection.
    pub(crate) local_address: Option<IpAddr>,
    pub(crate) established_at: Option<SystemTime>,
    /// When to take for granted that the neighbor has said which routes it wants.
    pub(crate) memberships_due: Option<Instant>,
    /// Until when to gather changes before the next piece.
    pub(crate) rest_until: Option<Instant>,
    /// The last failure that was logged.
    logged: Option<LastError>,
}

impl Peer {
    pub(crate) fn new(id: PeerId, config: NeighborConfig, neighbor: Neighbor) -> Peer {
        Peer {
            id,
            config,
            neighbor,
            connecting: None,
            local_address: None,
            established_at: None,
            memberships_due: None,
            rest_until: None,
            logged: None,
        }
    }

    /// Gives up connecting.
    pub(crate) fn stop_connecting(&mut self) {
        if let Some((_, task)) = self.connecting.take() {
            task.abort();
        }
    }

    /// Says once why attempts fail, and again when the reason changes: a neighbor that is away for a week is no news.
    pub(crate) fn log_failure(&mut self) {
        let Some(error) = self.neighbor.last_error() else { return };
        match &self.logged {
            Some(logged) if logged.at == error.at => return,
            Some(logged) if logged.reason == error.reason => {
                tracing::debug!(peer = %self.config.address, reason = %error.reason, "no session");
            }
            _ => tracing::warn!(peer = %self.config.address, reason = %error.reason, "no session"),
        }
        self.logged = Some(error.clone());
    }

    /// Begins to say why attempts fail anew.
    pub(crate) fn forget_failure(&mut self) {
        self.logged = None;
    }

    pub(crate) fn view(&self, rib: &Rib, now: Instant) -> NeighborView {
        let neighbor = &self.neighbor;
        let negotiated = neighbor.negotiated();
        let routes = rib.peer_counts(self.id).unwrap_or_default();
        let lines =
            |open: &bgp_core::wire::open::Open| open.capabilities.iter().map(ToString::to_string).collect();
        NeighborView {
            address: self.config.address,
            port: self.config.port,
            asn: self.config.asn,
            local_asn: neighbor.config().local_asn,
            description: self.config.description.clone(),
            default_encap: self.config.default_encap,
            state: neighbor.state(),
            uptime: now.saturating_duration_since(neighbor.since()),
            established_at: self.established_at,
            connections_established: neighbor.established(),
            connections_dropped: neighbor.dropped(),
            routes,
            remote_router_id: neighbor.last_open().map(|open| open.router_id),
            local_address: self.local_address,
            hold_time: Duration::from_secs(negotiated.map_or(0, |agreed| agreed.hold_time.into())),
            keepalive_time: neighbor.keepalive_time(),
            capabilities_advertised: lines(&neighbor.config().open()),
            capabilities_received: neighbor.last_open().map(lines).unwrap_or_default(),
            families: negotiated.map(|agreed| agreed.families).unwrap_or_default(),
            received: neighbor.received(),
            sent: neighbor.sent(),
            last_error: neighbor.last_error().map(|error| error.reason.to_string()),
            last_error_octets: neighbor.last_error().map(|error| error.octets.to_vec()).unwrap_or_default(),
        }
    }
}
