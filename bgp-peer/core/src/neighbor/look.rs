//! Looking at a neighbor.

use std::time::{Duration, Instant};

use bytes::Bytes;

use super::{ConnId, Neighbor};
use crate::fsm::State;
use crate::negotiate::{Negotiated, SessionConfig};
use crate::session::{DownReason, MessageCounts, Session};
use crate::wire::open::Open;

/// Why the last session ended or the last attempt failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LastError {
    /// The cause.
    pub reason: DownReason,
    /// The octets that caused it, the first 64 of them; empty where none did.
    pub octets: Bytes,
    /// When.
    pub at: Instant,
}

impl Neighbor {
    /// The state of the session that has come further.
    pub fn state(&self) -> State {
        match (self.outgoing.state, self.incoming.state) {
            // Who listens is Active; that we connect as well says more.
            (State::Connect, State::Idle | State::Connect | State::Active) => State::Connect,
            (outgoing, incoming) => outgoing.max(incoming),
        }
    }

    /// Since when [`Neighbor::state`] is what it is.
    pub fn since(&self) -> Instant {
        self.since
    }

    /// The connection of the established session, if all that was to be written to it is written: there is room for
    /// routes.
    pub fn writable(&self) -> Option<ConnId> {
        self.live().filter(|session| session.is_drained()).and_then(|session| session.conn)
    }

    /// What is in force, while a session is established.
    pub fn negotiated(&self) -> Option<&Negotiated> {
        self.live().and_then(|session| session.negotiated.as_ref())
    }

    /// The time between KEEPALIVEs; zero: none.
    pub fn keepalive_time(&self) -> Duration {
        self.live().map_or(Duration::ZERO, Session::keepalive_time)
    }

    /// What we bring to a session.
    pub fn config(&self) -> &SessionConfig {
        &self.config
    }

    /// The last good OPEN of the neighbor.
    pub fn last_open(&self) -> Option<&Open> {
        self.last_open.as_ref()
    }

    /// Why the last session ended or the last attempt failed.
    pub fn last_error(&self) -> Option<&LastError> {
        self.last_error.as_ref()
    }

    /// Messages sent since the beginning.
    pub fn sent(&self) -> MessageCounts {
        self.sent
    }

    /// Messages received since the beginning.
    pub fn received(&self) -> MessageCounts {
        self.received
    }

    /// How often a session was established.
    pub fn established(&self) -> u64 {
        self.established
    }

    /// How often an established session ended.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    fn live(&self) -> Option<&Session> {
        [&self.outgoing, &self.incoming].into_iter().find(|session| session.state == State::Established)
    }
}
