//! One configured neighbor: at most two sessions until one of them wins, and the wait between attempts.
//!
//! ```text
//!   Input ──▶ handle_input ──▶ ┌──────────────────────────────┐
//!                              │ outgoing: Session (we call)  │ ──▶ poll_output ──▶ Output
//!    time ──▶ handle_timeout ▶ │ incoming: Session (we listen)│ ──▶ poll_timeout ─▶ deadline
//!                              └──────────────────────────────┘
//! ```
//! It reads no clock and opens no socket: it is told `now` and says what to do. Drain `poll_output` after every
//! `handle_*`; all outputs of one call belong together.

mod inbound;
mod look;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::collision::Direction;
use crate::fsm::{Event, State};
use crate::negotiate::{Negotiated, RestartOffer, SessionConfig};
use crate::session::{Detail, DownReason, Env, MessageCounts, Outcome, Session, Wait};
use crate::timers::{Backoff, Jitter, Timer};
use crate::wire::notification::Notification;
use crate::wire::open::Open;

pub use look::LastError;

/// A connection, as the shell numbers them. A number is never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnId(pub u64);

/// What can happen to a neighbor.
#[derive(Debug)]
pub enum Input<'a> {
    /// Begin: connect, unless passive, and listen.
    Start,
    /// End, with a message for the people at the other end (RFC 9003). The routes go, at both ends.
    Stop(&'a str),
    /// End, and say this; where it is not about the configuration alone, the routes go (RFC 8538 §3).
    End(Notification),
    /// End without a word where the neighbor keeps our routes meanwhile (RFC 4724 §4); elsewhere as [`Input::Stop`].
    Leave(&'a str),
    /// There is a connection: the one that we asked for, or one that the neighbor made.
    Opened(ConnId, Direction),
    /// The connection that we asked for cannot be made.
    ConnectFailed(&'a str),
    /// Octets from the neighbor.
    Bytes(ConnId, &'a [u8]),
    /// The connection is gone.
    Closed(ConnId, &'a str),
    /// Whole messages that the RIB built are about to be written to the established session's connection.
    Sending(ConnId, &'a [u8]),
    /// One write (of one [`Output::Send`] or one [`Input::Sending`]) is finished.
    Sent(ConnId),
    /// A message of the neighbor was so wrong that the session must end; and that message.
    Reset(Notification, &'a [u8]),
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Connect; answer with [`Input::Opened`] or [`Input::ConnectFailed`].
    Connect,
    /// Give that up; no answer is wanted any more.
    StopConnecting,
    /// Write these octets.
    Send(ConnId, Bytes),
    /// Write what is left, then close. Nothing of this connection is wanted any more.
    Close(ConnId),
    /// The session on this connection is established.
    Up(ConnId, Negotiated),
    /// The body of an UPDATE.
    Update(Bytes),
    /// The body of a ROUTE-REFRESH.
    RouteRefresh(Bytes),
    /// The session is not established any more.
    Down(DownReason),
}

/// One configured neighbor.
pub struct Neighbor {
    config: SessionConfig,
    passive: bool,
    started: bool,
    outgoing: Session,
    incoming: Session,
    out: VecDeque<Output>,
    backoff: Backoff,
    jitter: Jitter,
    sent: MessageCounts,
    received: MessageCounts,
    established: u64,
    dropped: u64,
    last_error: Option<LastError>,
    last_open: Option<Open>,
    shown: State,
    since: Instant,
}

impl Neighbor {
    /// One that rests until [`Input::Start`]. A passive one never connects. The seed spreads its waits in time.
    pub fn new(config: SessionConfig, passive: bool, seed: u64, now: Instant) -> Neighbor {
        Neighbor {
            config,
            passive,
            started: false,
            outgoing: Session::new(Direction::Outgoing),
            incoming: Session::new(Direction::Incoming),
            out: VecDeque::new(),
            backoff: Backoff::new(),
            jitter: Jitter::new(seed),
            sent: MessageCounts::default(),
            received: MessageCounts::default(),
            established: 0,
            dropped: 0,
            last_error: None,
            last_open: None,
            shown: State::Idle,
            since: now,
        }
    }

    /// Something happened.
    pub fn handle_input(&mut self, input: Input<'_>, now: Instant) {
        match input {
            Input::Start => self.begin(),
            Input::Stop(message) => self.end(&Notification::administrative_shutdown(message), now),
            Input::End(notification) => self.end(&notification, now),
            Input::Leave(message) => self.leave(message, now),
            Input::Opened(conn, Direction::Outgoing) => self.connected(conn, now),
            Input::Opened(conn, Direction::Incoming) => self.accepted(conn, now),
            Input::ConnectFailed(why) => {
                if self.outgoing.state == State::Connect {
                    let reason = Detail::Reason(DownReason::Lost(why.to_owned()));
                    self.step(Direction::Outgoing, Event::ConnectionFails, reason, &[], now);
                }
            }
            Input::Bytes(conn, octets) => self.read(conn, octets, now),
            Input::Closed(conn, why) => self.closed(conn, why, now),
            Input::Sending(conn, messages) => {
                self.with_session(conn, now, |session, env| session.sending(messages, env))
            }
            Input::Sent(conn) => self.with_session(conn, now, |session, _| session.sent(now)),
            Input::Reset(notification, octets) => {
                for direction in BOTH {
                    if self.session(direction).state == State::Established {
                        let reason = Detail::Reason(DownReason::Sent(notification.clone()));
                        self.step(direction, Event::UpdateError, reason, octets, now);
                    }
                }
            }
        }
        self.settle(now);
    }

    /// The time of [`Neighbor::poll_timeout`] has come.
    pub fn handle_timeout(&mut self, now: Instant) {
        for direction in BOTH {
            while let Some(timer) = self.session_mut(direction).timers.take_due(now) {
                let (event, detail) = match timer {
                    Timer::ConnectRetry if self.session(direction).state == State::Connect => {
                        let reason = DownReason::Lost("cannot connect: no answer".to_owned());
                        (Event::ConnectRetryExpires, Detail::Reason(reason))
                    }
                    Timer::ConnectRetry => (Event::ConnectRetryExpires, Detail::Nothing),
                    // What follows from it is decided below.
                    Timer::IdleHold => continue,
                    Timer::Hold => (Event::HoldExpires, sent(Notification::hold_timer_expired())),
                    Timer::Keepalive => (Event::KeepaliveExpires, Detail::Nothing),
                    Timer::SendHold => {
                        (Event::SendHoldExpires, sent(Notification::send_hold_timer_expired()))
                    }
                    Timer::Settle => {
                        self.backoff.reset();
                        continue;
                    }
                };
                self.step(direction, event, detail, &[], now);
            }
        }
        self.settle(now);
    }

    /// When [`Neighbor::handle_timeout`] is to be called.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.outgoing.timers.next().into_iter().chain(self.incoming.timers.next()).min()
    }

    /// The next thing to do.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.out.pop_front()
    }

    fn session(&self, direction: Direction) -> &Session {
        match direction {
            Direction::Outgoing => &self.outgoing,
            Direction::Incoming => &self.incoming,
        }
    }

    fn session_mut(&mut self, direction: Direction) -> &mut Session {
        match direction {
            Direction::Outgoing => &mut self.outgoing,
            Direction::Incoming => &mut self.incoming,
        }
    }

    fn owner(&self, conn: ConnId) -> Option<Direction> {
        BOTH.into_iter().find(|direction| self.session(*direction).conn == Some(conn))
    }

    /// Whoever starts it wants it now, whatever failed before.
    fn begin(&mut self) {
        if !self.started {
            self.backoff.reset();
        }
        self.started = true;
    }

    /// Where restarts are graceful, only a hard reset takes the routes along (RFC 8538 §3).
    fn end(&mut self, notification: &Notification, now: Instant) {
        self.started = false;
        for direction in BOTH {
            let session = self.session(direction);
            let is_live = session.state == State::Established;
            let is_graceful = session.negotiated.as_ref().is_some_and(Negotiated::survives_notifications);
            let is_kept = *notification == Notification::configuration_change();
            let said = notification.clone();
            let said = if is_live && is_graceful && !is_kept { said.into_hard_reset() } else { said };
            if is_live {
                let reason = DownReason::Sent(said.clone());
                self.last_error = Some(LastError { reason, octets: Bytes::new(), at: now });
            }
            self.step(direction, Event::Stop, sent(said), &[], now);
            self.session_mut(direction).timers.stop_all();
        }
    }

    fn leave(&mut self, message: &str, now: Instant) {
        for direction in BOTH {
            let session = self.session(direction);
            let agreed = session.negotiated.as_ref().filter(|_| session.state == State::Established);
            if agreed.is_some_and(|agreed| !agreed.kept_by_peer().is_empty()) {
                let reason = Detail::Reason(DownReason::Lost("we leave, and come back".to_owned()));
                self.step(direction, Event::ConnectionFails, reason, &[], now);
            }
        }
        self.end(&Notification::administrative_shutdown(message), now);
    }

    /// Another configuration, in force from the next connection on.
    pub fn reconfigure(&mut self, config: SessionConfig, passive: bool) {
        (self.config, self.passive) = (config, passive);
    }

    /// What we offer about restarts from the next OPEN on.
    pub fn offer_restart(&mut self, offer: Option<RestartOffer>) {
        self.config.restart = offer;
    }

    fn step(&mut self, direction: Direction, event: Event, detail: Detail, octets: &[u8], now: Instant) {
        let dumped = event == Event::CollisionDump || event == Event::Stop;
        let outcome = self.with_env(direction, now, |session, env| session.step(event, detail, env));
        self.established += u64::from(outcome.up);
        self.dropped += u64::from(outcome.down);
        if !dumped {
            self.learn(direction, outcome, octets, now);
        }
    }

    /// Keeps why an attempt failed, and for how long to leave the neighbor alone. While the other session does well, a
    /// failure of this one means nothing.
    fn learn(&mut self, direction: Direction, outcome: Outcome, octets: &[u8], now: Instant) {
        if self.session(opposite(direction)).state >= State::OpenConfirm {
            return;
        }
        if let Some(reason) = outcome.reason {
            let octets = Bytes::copy_from_slice(octets.get(..64).unwrap_or(octets));
            self.last_error = Some(LastError { reason, octets, at: now });
        }
        let Some(wait) = outcome.wait else { return };
        let until = now
            + match self.config.connect_retry.filter(|_| wait == Wait::Retry) {
                Some(seconds) => self.backoff.fail_at(Duration::from_secs(seconds.into()), &mut self.jitter),
                None => self.backoff.fail(&mut self.jitter),
            };
        if wait == Wait::Damp && self.incoming.state == State::Active {
            self.step(Direction::Incoming, Event::Stop, Detail::Nothing, &[], now);
        }
        if wait == Wait::Damp && self.incoming.state == State::Idle {
            self.incoming.timers.set(Timer::IdleHold, until);
        }
        match self.outgoing.state {
            State::Idle => self.outgoing.timers.set(Timer::IdleHold, until),
            State::Active => self.outgoing.timers.set(Timer::ConnectRetry, until),
            State::Connect | State::OpenSent | State::OpenConfirm | State::Established => {}
        }
    }

    /// Starts what should run and stops what need not: no event is needed for that, the states say it.
    fn settle(&mut self, now: Instant) {
        let is_served = self.incoming.state >= State::OpenConfirm;
        match self.outgoing.state {
            State::Idle if self.started && !self.passive && !is_served => {
                self.start(Direction::Outgoing, now)
            }
            State::Connect | State::Active if is_served => {
                self.step(Direction::Outgoing, Event::Stop, Detail::Nothing, &[], now);
                self.outgoing.timers.stop_all();
            }
            _ => {}
        }
        if self.started && self.incoming.state == State::Idle {
            self.start(Direction::Incoming, now);
        }
        if self.state() != self.shown {
            (self.shown, self.since) = (self.state(), now);
        }
    }

    fn start(&mut self, direction: Direction, now: Instant) {
        if !self.session(direction).timers.is_running(Timer::IdleHold) {
            let event = match direction {
                Direction::Outgoing => Event::Start,
                Direction::Incoming => Event::StartPassive,
            };
            self.step(direction, event, Detail::Nothing, &[], now);
        }
    }

    fn with_session(&mut self, conn: ConnId, now: Instant, work: impl FnOnce(&mut Session, &mut Env<'_>)) {
        if let Some(direction) = self.owner(conn) {
            self.with_env(direction, now, work);
        }
    }

    fn with_env<T>(
        &mut self,
        direction: Direction,
        now: Instant,
        work: impl FnOnce(&mut Session, &mut Env<'_>) -> T,
    ) -> T {
        let session = match direction {
            Direction::Outgoing => &mut self.outgoing,
            Direction::Incoming => &mut self.incoming,
        };
        let mut env = Env {
            config: &self.config,
            out: &mut self.out,
            sent: &mut self.sent,
            jitter: &mut self.jitter,
            now,
        };
        work(session, &mut env)
    }
}

fn sent(notification: Notification) -> Detail {
    Detail::Reason(DownReason::Sent(notification))
}

const fn opposite(direction: Direction) -> Direction {
    match direction {
        Direction::Outgoing => Direction::Incoming,
        Direction::Incoming => Direction::Outgoing,
    }
}

const BOTH: [Direction; 2] = [Direction::Outgoing, Direction::Incoming];
