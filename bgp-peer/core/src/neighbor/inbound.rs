//! What comes in: connections, and octets on them.

use std::time::Instant;

use bytes::{Bytes, BytesMut};

use super::{BOTH, ConnId, Neighbor, Output, opposite, sent};
use crate::collision::{self, Direction, Verdict};
use crate::fsm::{Event, State};
use crate::negotiate::{explain, negotiate};
use crate::session::{Detail, DownReason, Message};
use crate::wire::header::MessageType;
use crate::wire::notification::Notification;
use crate::wire::open::Open;

impl Neighbor {
    pub(super) fn connected(&mut self, conn: ConnId, now: Instant) {
        if self.outgoing.state != State::Connect {
            self.out.push_back(Output::Close(conn));
            return;
        }
        self.outgoing.conn = Some(conn);
        self.step(Direction::Outgoing, Event::Opened, Detail::Nothing, &[], now);
    }

    pub(super) fn accepted(&mut self, conn: ConnId, now: Instant) {
        // Who has a session and calls again has perhaps lost it, and we have not noticed: its answer to a KEEPALIVE
        // on the old connection tells, long before the hold timer would.
        for direction in BOTH {
            if self.session(direction).state == State::Established {
                if self.has_restarted(direction, now) {
                    let reason = DownReason::Lost("the neighbor connected anew".to_owned());
                    self.step(direction, Event::ConnectionFails, Detail::Reason(reason), &[], now);
                    self.settle(now);
                    continue;
                }
                self.step(direction, Event::KeepaliveExpires, Detail::Nothing, &[], now);
            }
        }
        match self.incoming.state {
            State::Active => {}
            State::Idle | State::Connect => return self.out.push_back(Output::Close(conn)),
            // The neighbor has one connection of its own at a time: the newer one counts.
            State::OpenSent | State::OpenConfirm => {
                let reason = sent(Notification::connection_collision());
                self.step(Direction::Incoming, Event::CollisionDump, reason, &[], now);
                self.settle(now);
            }
            State::Established => {
                let mut message = BytesMut::new();
                Notification::connection_rejected().encode(&mut message);
                return self.out.extend([Output::Send(conn, message.freeze()), Output::Close(conn)]);
            }
        }
        self.incoming.conn = Some(conn);
        self.step(Direction::Incoming, Event::Opened, Detail::Nothing, &[], now);
    }

    /// RFC 4724 §5: who restarts gracefully and connects while we think there is a session has lost it. A connection
    /// that comes soon after the session did may have been made before.
    fn has_restarted(&self, direction: Direction, now: Instant) -> bool {
        let session = self.session(direction);
        let agreed = session.negotiated.as_ref();
        let is_graceful =
            agreed.is_some_and(|agreed| agreed.restart.ours.is_some() && agreed.restart.theirs.is_some());
        is_graceful && session.is_settled(now)
    }

    pub(super) fn closed(&mut self, conn: ConnId, why: &str, now: Instant) {
        let Some(direction) = self.owner(conn) else { return };
        let rest = self.session_mut(direction).buffer.split();
        let why = if rest.is_empty() { why.to_owned() } else { format!("{why}, in the middle of a message") };
        self.step(direction, Event::ConnectionFails, Detail::Reason(DownReason::Lost(why)), &rest, now);
    }

    pub(super) fn read(&mut self, conn: ConnId, octets: &[u8], now: Instant) {
        let Some(direction) = self.owner(conn) else { return };
        self.session_mut(direction).buffer.extend_from_slice(octets);
        // A message may end the session, and with it what was read behind that message.
        while self.session(direction).conn == Some(conn) {
            match self.session_mut(direction).next_message() {
                None => return,
                Some(Ok(message)) => self.receive(direction, &message, now),
                Some(Err((notification, octets))) => {
                    self.step(direction, Event::HeaderError, sent(notification), &octets, now);
                }
            }
        }
    }

    fn receive(&mut self, direction: Direction, message: &Message, now: Instant) {
        self.received.count(message.header);
        let (event, detail) = match message.header.kind {
            MessageType::Open => return self.receive_open(direction, message, now),
            MessageType::Keepalive => (Event::KeepaliveReceived, Detail::Nothing),
            MessageType::Update => (Event::UpdateReceived, Detail::Message(Output::Update(message.body()))),
            MessageType::RouteRefresh => {
                (Event::RefreshReceived, Detail::Message(Output::RouteRefresh(message.body())))
            }
            MessageType::Notification => {
                let reason = DownReason::Received(Notification::decode(&message.body()));
                (Event::NotificationReceived, Detail::Reason(reason))
            }
        };
        self.step(direction, event, detail, &message.octets, now);
    }

    fn receive_open(&mut self, direction: Direction, message: &Message, now: Instant) {
        if self.session(direction).state != State::OpenSent {
            return self.step(direction, Event::OpenReceived, Detail::Nothing, &message.octets, now);
        }
        // A copy: what is kept of an OPEN would otherwise keep all that was read with it.
        let open = match Open::decode(Bytes::copy_from_slice(&message.body())) {
            Ok(open) => open,
            Err(refusal) => {
                return self.step(direction, Event::OpenError, sent(refusal), &message.octets, now);
            }
        };
        let negotiated = match negotiate(&self.config, &open) {
            Ok(negotiated) => negotiated,
            Err(refusal) => {
                let why = explain(&self.config, &open, &refusal);
                let reason = Detail::Reason(DownReason::Refused(refusal, why));
                return self.step(direction, Event::OpenError, reason, &message.octets, now);
            }
        };
        let other = opposite(direction);
        let local = (negotiated.local_router_id, negotiated.local_asn);
        let peer = (negotiated.peer_router_id, negotiated.peer_asn);
        let collision = || sent(Notification::connection_collision());
        match collision::resolve(direction, self.session(other).state, local, peer) {
            Verdict::KeepBoth => {}
            Verdict::DropThis => return self.step(direction, Event::CollisionDump, collision(), &[], now),
            Verdict::DropOther => self.step(other, Event::CollisionDump, collision(), &[], now),
        }
        self.last_open = Some(open);
        self.step(direction, Event::OpenReceived, Detail::Agreed(negotiated), &[], now);
    }
}
