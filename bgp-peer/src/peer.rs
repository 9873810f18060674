//! What the speaker keeps about one neighbor beside its state machine.

use std::net::IpAddr;
use std::time::{Duration, Instant, SystemTime};

use bgp_core::{ConnId, FamilySet, LastError, Negotiated, Neighbor, PeerDown, PeerId, Rib, State};
use tokio::task::AbortHandle;
use vrouter_types::Prefix;

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
    /// The prefix that brought it.
    pub(crate) dynamic: Option<Prefix>,
    /// When a neighbor that a prefix brought is forgotten, unless it has a session.
    pub(crate) forget_at: Option<Instant>,
    /// What was in force in the last session; what it said of restarts holds on.
    pub(crate) agreed: Option<Negotiated>,
    /// Until when the routes of the last session are kept.
    pub(crate) restart_until: Option<Instant>,
    /// It has sent too many routes, and is left alone.
    pub(crate) is_over_limit: bool,
    /// Until when.
    pub(crate) limit_ends: Option<Instant>,
    /// Families to ask for once more.
    pub(crate) refresh_due: FamilySet,
    /// The state that was told last.
    pub(crate) told: State,
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
            dynamic: None,
            forget_at: None,
            agreed: None,
            restart_until: None,
            is_over_limit: false,
            limit_ends: None,
            refresh_due: FamilySet::EMPTY,
            told: State::Idle,
            logged: None,
        }
    }

    /// The session has ended like this.
    pub(crate) fn went_down(&mut self, how: &PeerDown, now: Instant) {
        self.established_at = None;
        self.memberships_due = None;
        self.refresh_due = FamilySet::EMPTY;
        (self.restart_until, self.forget_at) = match how {
            PeerDown::Purge => (None, Some(now + FORGET)),
            PeerDown::Restarting { until, long_lived, .. } => {
                let longest = long_lived.iter().map(|(_, time)| *time).max().unwrap_or_default();
                (Some(*until), Some(*until + longest + FORGET))
            }
        };
    }

    /// Whether a prefix brought it and nothing of it is left.
    pub(crate) fn is_forgotten(&self, now: Instant) -> bool {
        self.dynamic.is_some()
            && self.neighbor.state() < State::OpenSent
            && self.forget_at.is_some_and(|at| at <= now)
            && !self.is_over_limit
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
            // The other connection does well: of two that are made at once, one always fails.
            _ if self.neighbor.state() >= State::OpenSent => {
                tracing::debug!(peer = %self.config.address, reason = %error.reason, "another connection is used");
                return;
            }
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
            id: self.id,
            dynamic: self.dynamic,
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
            restart: self.agreed.as_ref().map(|agreed| agreed.restart.clone()),
            restart_until: self.restart_until.map(|at| at.saturating_duration_since(now)),
            is_over_limit: self.is_over_limit,
            limit_ends_in: self.limit_ends.map(|at| at.saturating_duration_since(now)),
            received: neighbor.received(),
            sent: neighbor.sent(),
            last_error: neighbor.last_error().map(|error| error.reason.to_string()),
            last_error_octets: neighbor.last_error().map(|error| error.octets.to_vec()).unwrap_or_default(),
        }
    }
}

/// How long a neighbor that a prefix brought is remembered when nothing of it is left: for whoever looks why.
const FORGET: Duration = Duration::from_secs(60);
