//! One session: one state machine over one connection. It cuts the stream into messages, keeps the timers, and turns
//! the actions of [`fsm`] into outputs.
//!
//! It never looks into an UPDATE or a ROUTE-REFRESH: those go up as they came.

use std::collections::VecDeque;
use std::fmt;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};

use crate::collision::Direction;
use crate::fsm::{self, Action, Event, State};
use crate::negotiate::{Negotiated, SessionConfig};
use crate::neighbor::{ConnId, Output};
use crate::timers::{Jitter, Timer, TimerTable};
use crate::wire::header::{self, Header, MessageType};
use crate::wire::notification::Notification;

/// Why a session ended, or an attempt failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DownReason {
    /// We ended it, and said why.
    Sent(Notification),
    /// We refused its OPEN, and said why; and what that means here.
    Refused(Notification, String),
    /// The neighbor ended it, and said why.
    Received(Notification),
    /// The connection could not be made, or went away.
    Lost(String),
}

impl fmt::Display for DownReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DownReason::Sent(notification) => write!(f, "sent {notification}"),
            DownReason::Refused(notification, why) => write!(f, "sent {notification}: {why}"),
            DownReason::Received(notification) => write!(f, "received {notification}"),
            DownReason::Lost(why) => f.write_str(why),
        }
    }
}

/// Messages by type, and their octets.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MessageCounts {
    /// OPEN messages.
    pub opens: u64,
    /// UPDATE messages.
    pub updates: u64,
    /// NOTIFICATION messages.
    pub notifications: u64,
    /// KEEPALIVE messages.
    pub keepalives: u64,
    /// ROUTE-REFRESH messages.
    pub route_refreshes: u64,
    /// Octets of all of them.
    pub bytes: u64,
}

impl MessageCounts {
    /// Messages of all types.
    pub const fn messages(&self) -> u64 {
        self.opens + self.updates + self.notifications + self.keepalives + self.route_refreshes
    }

    pub(crate) fn count(&mut self, header: Header) {
        match header.kind {
            MessageType::Open => self.opens += 1,
            MessageType::Update => self.updates += 1,
            MessageType::Notification => self.notifications += 1,
            MessageType::Keepalive => self.keepalives += 1,
            MessageType::RouteRefresh => self.route_refreshes += 1,
        }
        self.bytes += header.length as u64;
    }
}

/// What a session works with and does not own.
pub(crate) struct Env<'a> {
    pub(crate) config: &'a SessionConfig,
    pub(crate) out: &'a mut VecDeque<Output>,
    pub(crate) sent: &'a mut MessageCounts,
    pub(crate) jitter: &'a mut Jitter,
    pub(crate) now: Instant,
}

/// What comes with an event.
#[derive(Debug)]
pub(crate) enum Detail {
    Nothing,
    Reason(DownReason),
    Agreed(Negotiated),
    Message(Output),
}

/// How long to leave the neighbor alone after an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wait {
    /// Do not connect for a while.
    Retry,
    /// Do not listen either.
    Damp,
}

/// What the neighbor has to know about an event.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) wait: Option<Wait>,
    pub(crate) reason: Option<DownReason>,
    pub(crate) up: bool,
    pub(crate) down: bool,
}

/// A message, whole.
pub(crate) struct Message {
    pub(crate) header: Header,
    pub(crate) octets: Bytes,
}

impl Message {
    /// What follows the header.
    pub(crate) fn body(&self) -> Bytes {
        self.octets.slice(header::LEN..)
    }
}

pub(crate) struct Session {
    direction: Direction,
    pub(crate) state: State,
    pub(crate) timers: TimerTable,
    pub(crate) conn: Option<ConnId>,
    pub(crate) negotiated: Option<Negotiated>,
    /// Octets that are no whole message yet.
    pub(crate) buffer: BytesMut,
    /// Writes that the shell has not finished.
    unsent: u32,
    /// The time between KEEPALIVEs that is configured.
    keepalive: Option<Duration>,
    /// Since when it is established.
    up_since: Option<Instant>,
}

impl Session {
    pub(crate) fn new(direction: Direction) -> Session {
        Session {
            direction,
            state: State::Idle,
            timers: TimerTable::default(),
            conn: None,
            negotiated: None,
            buffer: BytesMut::new(),
            unsent: 0,
            keepalive: None,
            up_since: None,
        }
    }

    /// Lets the state machine take one step and does what it says.
    pub(crate) fn step(&mut self, event: Event, detail: Detail, env: &mut Env<'_>) -> Outcome {
        let from = self.state;
        let (to, actions) = fsm::step(from, event);
        self.state = to;
        let mut outcome = Outcome::default();
        let mut message = None;
        match detail {
            Detail::Nothing => {}
            Detail::Reason(reason) => outcome.reason = Some(reason),
            Detail::Agreed(negotiated) => self.negotiated = Some(negotiated),
            Detail::Message(output) => message = Some(output),
        }
        for action in actions {
            match action {
                Action::StartConnecting => self.start_connecting(env),
                Action::StopConnecting => self.stop_connecting(env),
                Action::SendOpen => self.send_open(env),
                Action::SendKeepalive => self.send_keepalive(env),
                Action::Notify => self.notify(from, event, &mut outcome, env),
                Action::StartHold if self.hold_time().is_zero() => {}
                Action::StartHold => self.timers.set(Timer::Hold, env.now + self.hold_time()),
                Action::RestartHold if self.hold_time().is_zero() => self.timers.stop(Timer::Hold),
                Action::RestartHold => self.timers.set(Timer::Hold, env.now + self.hold_time()),
                Action::Close => self.close(env),
                Action::Up => outcome.up = self.up(env),
                Action::Down => {
                    outcome.down = true;
                    down(&outcome, env);
                }
                Action::Deliver => env.out.extend(message.take()),
                Action::Retry => outcome.wait = Some(Wait::Retry),
                Action::Damp => outcome.wait = Some(Wait::Damp),
            }
        }
        outcome
    }

    /// Takes the next message from what has been read.
    pub(crate) fn next_message(&mut self) -> Option<Result<Message, (Notification, Bytes)>> {
        let extended = self.negotiated.as_ref().is_some_and(|agreed| agreed.extended_message);
        match Header::decode(&self.buffer, extended) {
            Err(notification) => Some(Err((notification, self.buffer.split().freeze()))),
            Ok(Some(header)) if header.length <= self.buffer.len() => {
                Some(Ok(Message { header, octets: self.buffer.split_to(header.length).freeze() }))
            }
            Ok(_) => None,
        }
    }

    /// Messages that the RIB built are on their way: counts them, and they serve as keepalives (RFC 4271 §8.2.2).
    pub(crate) fn sending(&mut self, messages: &[u8], env: &mut Env<'_>) {
        let mut rest = messages;
        while let Ok(Some(header)) = Header::decode(rest, true) {
            env.sent.count(header);
            rest = rest.get(header.length..).unwrap_or_default();
        }
        self.await_write(env.now);
        self.start_keepalive(env);
    }

    /// The shell has written what it was given first.
    pub(crate) fn sent(&mut self, now: Instant) {
        self.unsent = self.unsent.saturating_sub(1);
        match self.unsent {
            0 => self.timers.stop(Timer::SendHold),
            _ => self.timers.set(Timer::SendHold, now + self.send_hold_time()),
        }
    }

    /// Whether all that was to be sent is written.
    pub(crate) fn is_drained(&self) -> bool {
        self.unsent == 0
    }

    /// The agreed time between KEEPALIVEs; zero: none are sent.
    pub(crate) fn keepalive_time(&self) -> Duration {
        let longest = self.hold_time() / 3;
        self.keepalive.map_or(longest, |configured| configured.min(longest))
    }

    /// Whether it has been established for so long that a new connection of the neighbor cannot be one that it made
    /// before it knew.
    pub(crate) fn is_settled(&self, now: Instant) -> bool {
        self.up_since.is_some_and(|since| now.saturating_duration_since(since) >= CONNECT_TIME)
    }

    fn hold_time(&self) -> Duration {
        Duration::from_secs(self.negotiated.as_ref().map_or(0, |agreed| agreed.hold_time.into()))
    }

    /// RFC 9687 §4: eight minutes, or twice the hold time if that is more.
    fn send_hold_time(&self) -> Duration {
        SEND_HOLD.max(self.hold_time() * 2)
    }

    fn start_connecting(&mut self, env: &mut Env<'_>) {
        env.out.push_back(Output::Connect);
        self.timers.stop_all();
        self.timers.set(Timer::ConnectRetry, env.now + CONNECT_TIME);
    }

    fn stop_connecting(&mut self, env: &mut Env<'_>) {
        env.out.push_back(Output::StopConnecting);
        self.timers.stop_all();
    }

    fn send_open(&mut self, env: &mut Env<'_>) {
        self.timers.stop_all();
        self.timers.set(Timer::Hold, env.now + OPEN_HOLD);
        let configured = env.config.keepalive_time.filter(|seconds| *seconds > 0);
        self.keepalive = configured.map(|seconds| Duration::from_secs(seconds.into()));
        let mut message = BytesMut::new();
        env.config.open().encode(&mut message);
        self.send(message.freeze(), env);
    }

    fn send_keepalive(&mut self, env: &mut Env<'_>) {
        // What is still unwritten says that we live as soon as the neighbor reads it; another KEEPALIVE adds nothing.
        if self.unsent < MAX_UNSENT {
            let mut message = BytesMut::new();
            let start = header::begin(&mut message, MessageType::Keepalive);
            header::finish(&mut message, start);
            self.send(message.freeze(), env);
        }
        self.start_keepalive(env);
    }

    fn start_keepalive(&mut self, env: &mut Env<'_>) {
        if !self.keepalive_time().is_zero() {
            let time = env.jitter.shorten(self.keepalive_time());
            self.timers.set(Timer::Keepalive, env.now + time);
        }
    }

    /// The reason for it stays in the outcome; where the event brought none, it is a finite state machine error.
    fn notify(&mut self, from: State, event: Event, outcome: &mut Outcome, env: &mut Env<'_>) {
        let reason = outcome.reason.get_or_insert_with(|| {
            let subcode = match from {
                State::Idle | State::Connect | State::Active => 0,
                State::OpenSent => 1,
                State::OpenConfirm => 2,
                State::Established => 3,
            };
            DownReason::Sent(Notification::fsm_error(subcode, message_of(event)))
        });
        if let DownReason::Sent(notification) | DownReason::Refused(notification, _) = reason {
            let mut message = BytesMut::new();
            notification.encode(&mut message);
            self.send(message.freeze(), env);
        }
    }

    fn up(&mut self, env: &mut Env<'_>) -> bool {
        let (Some(conn), Some(negotiated)) = (self.conn, &self.negotiated) else { return false };
        env.out.push_back(Output::Up(conn, negotiated.clone()));
        self.timers.set(Timer::Settle, env.now + SETTLE);
        self.up_since = Some(env.now);
        true
    }

    fn close(&mut self, env: &mut Env<'_>) {
        env.out.extend(self.conn.map(Output::Close));
        *self = Session { state: self.state, ..Session::new(self.direction) };
    }

    fn send(&mut self, message: Bytes, env: &mut Env<'_>) {
        let (Some(conn), Ok(Some(header))) = (self.conn, Header::decode(&message, false)) else { return };
        env.sent.count(header);
        env.out.push_back(Output::Send(conn, message));
        self.await_write(env.now);
    }

    fn await_write(&mut self, now: Instant) {
        self.unsent = self.unsent.saturating_add(1);
        if self.state == State::Established && !self.timers.is_running(Timer::SendHold) {
            self.timers.set(Timer::SendHold, now + self.send_hold_time());
        }
    }
}

/// What was read from the neighbor and not yet handed up is void: its routes are about to go.
fn down(outcome: &Outcome, env: &mut Env<'_>) {
    env.out.retain(|output| !matches!(output, Output::Update(_) | Output::RouteRefresh(_)));
    let reason = outcome.reason.clone().unwrap_or_else(|| DownReason::Lost("connection lost".into()));
    env.out.push_back(Output::Down(reason));
}

fn message_of(event: Event) -> Option<MessageType> {
    match event {
        Event::OpenReceived | Event::OpenError => Some(MessageType::Open),
        Event::KeepaliveReceived => Some(MessageType::Keepalive),
        Event::UpdateReceived | Event::UpdateError => Some(MessageType::Update),
        Event::RefreshReceived => Some(MessageType::RouteRefresh),
        Event::NotificationReceived => Some(MessageType::Notification),
        Event::Start | Event::StartPassive | Event::Stop | Event::Opened | Event::ConnectionFails => None,
        Event::ConnectRetryExpires
        | Event::HoldExpires
        | Event::KeepaliveExpires
        | Event::SendHoldExpires => None,
        Event::HeaderError | Event::CollisionDump => None,
    }
}

/// How long an attempt to connect may take.
const CONNECT_TIME: Duration = Duration::from_secs(30);
/// How long the neighbor's OPEN may take. RFC 4271 §8.2.2 suggests four minutes; a connection that says nothing for
/// one minute is not worth the place it takes.
const OPEN_HOLD: Duration = Duration::from_secs(60);
const SEND_HOLD: Duration = Duration::from_secs(480);
/// Longer than the longest wait between attempts, or a neighbor that breaks down soon after it comes up would be
/// called at the shortest interval for ever.
const SETTLE: Duration = Duration::from_secs(60);
/// Writes in flight beyond which a KEEPALIVE is not worth sending.
pub(crate) const MAX_UNSENT: u32 = 4;
