//! The state machine of one connection: RFC 4271 §8.2.2 as one `match`, with no clock and no octets.
//!
//! Every cell of the table is here, those included that cannot happen: an event that a state has no use for ends the
//! attempt, it never passes unnoticed. Where we differ from the RFC:
//! * Connect and OpenSent go to Active when the connection fails, and try again after a growing wait; in the RFC some
//!   of these cells go to Idle first. An operator sees `Active` for a neighbor that cannot be reached, as everywhere.
//! * DelayOpen and the optional events around it do not exist.
//! * A session that we listen with starts in Active and, but for errors of the protocol, listens again at once.

use std::fmt;

/// The states of RFC 4271 §8.2.2.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum State {
    /// Neither connects nor listens.
    Idle,
    /// A connection is being made.
    Connect,
    /// Waits: for the neighbor to connect, or for the time to try again.
    Active,
    /// Our OPEN is sent, the neighbor's awaited.
    OpenSent,
    /// Both OPENs are good, the neighbor's KEEPALIVE is awaited.
    OpenConfirm,
    /// Routes flow.
    Established,
}

impl State {
    /// All of them.
    pub const ALL: [State; 6] =
        [State::Idle, State::Connect, State::Active, State::OpenSent, State::OpenConfirm, State::Established];
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            State::Idle => "Idle",
            State::Connect => "Connect",
            State::Active => "Active",
            State::OpenSent => "OpenSent",
            State::OpenConfirm => "OpenConfirm",
            State::Established => "Established",
        })
    }
}

/// What can happen. The numbers are those of RFC 4271 §8.1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// 1, 3: connect.
    Start,
    /// 4, 5: listen.
    StartPassive,
    /// 2: an operator ends it, or it is not needed any more.
    Stop,
    /// 9.
    ConnectRetryExpires,
    /// 10.
    HoldExpires,
    /// 11.
    KeepaliveExpires,
    /// 29 (RFC 9687).
    SendHoldExpires,
    /// 16, 17: there is a connection.
    Opened,
    /// 18: the connection cannot be made, or is lost.
    ConnectionFails,
    /// 19: a good OPEN.
    OpenReceived,
    /// 21: a bad header.
    HeaderError,
    /// 22: a bad OPEN.
    OpenError,
    /// 23: this connection lost against another.
    CollisionDump,
    /// 24, 25.
    NotificationReceived,
    /// 26.
    KeepaliveReceived,
    /// 27: not yet looked into.
    UpdateReceived,
    /// 28: an UPDATE or ROUTE-REFRESH that no one can go on after.
    UpdateError,
    /// A ROUTE-REFRESH (RFC 2918), not yet looked into.
    RefreshReceived,
}

impl Event {
    /// All of them.
    pub const ALL: [Event; 18] = [
        Event::Start,
        Event::StartPassive,
        Event::Stop,
        Event::ConnectRetryExpires,
        Event::HoldExpires,
        Event::KeepaliveExpires,
        Event::SendHoldExpires,
        Event::Opened,
        Event::ConnectionFails,
        Event::OpenReceived,
        Event::HeaderError,
        Event::OpenError,
        Event::CollisionDump,
        Event::NotificationReceived,
        Event::KeepaliveReceived,
        Event::UpdateReceived,
        Event::UpdateError,
        Event::RefreshReceived,
    ];
}

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Ask for a connection.
    StartConnecting,
    /// Give that up.
    StopConnecting,
    /// Send our OPEN and wait for the neighbor's.
    SendOpen,
    /// Send a KEEPALIVE and wait for the time of the next.
    SendKeepalive,
    /// Send the NOTIFICATION that goes with the event; if none does, a finite state machine error.
    Notify,
    /// Start the hold timer with the agreed time.
    StartHold,
    /// The neighbor lives: start the hold timer anew.
    RestartHold,
    /// Close the connection and forget all about it.
    Close,
    /// Tell that the session is established.
    Up,
    /// Tell that it is no more.
    Down,
    /// Hand the message up.
    Deliver,
    /// Connect again after a growing wait; listen again at once.
    Retry,
    /// Neither connect nor listen for a growing wait: the neighbor does not speak as it should.
    Damp,
}

/// What follows from an event: the next state, and what to do, in order.
pub fn step(state: State, event: Event) -> (State, &'static [Action]) {
    use Action::*;
    use Event::*;
    use State::*;
    match (state, event) {
        (Idle, Start) => (Connect, &[StartConnecting]),
        (Idle, StartPassive) => (Active, &[]),
        (Idle, Opened) => (Idle, &[Close]),
        (Idle, Stop | ConnectRetryExpires | HoldExpires | KeepaliveExpires | SendHoldExpires) => (Idle, &[]),
        (Idle, ConnectionFails | OpenReceived | HeaderError | OpenError | CollisionDump) => (Idle, &[]),
        (Idle, NotificationReceived | KeepaliveReceived | UpdateReceived | UpdateError) => (Idle, &[]),
        (Idle, RefreshReceived) => (Idle, &[]),

        (Connect, Start | StartPassive) => (Connect, &[]),
        (Connect, Stop) => (Idle, &[StopConnecting]),
        (Connect, ConnectRetryExpires) => (Connect, &[StopConnecting, StartConnecting]),
        (Connect, Opened) => (OpenSent, &[SendOpen]),
        (Connect, ConnectionFails) => (Active, &[Retry]),
        (Connect, HoldExpires | KeepaliveExpires | SendHoldExpires) => (Idle, &[StopConnecting, Retry]),
        (Connect, OpenReceived | HeaderError | OpenError | CollisionDump) => (Idle, &[StopConnecting, Retry]),
        (Connect, NotificationReceived | KeepaliveReceived) => (Idle, &[StopConnecting, Retry]),
        (Connect, UpdateReceived | UpdateError | RefreshReceived) => (Idle, &[StopConnecting, Retry]),

        (Active, Start | StartPassive) => (Active, &[]),
        (Active, Stop) => (Idle, &[]),
        (Active, ConnectRetryExpires) => (Connect, &[StartConnecting]),
        (Active, Opened) => (OpenSent, &[SendOpen]),
        (Active, ConnectionFails | HoldExpires | KeepaliveExpires | SendHoldExpires) => (Idle, &[Retry]),
        (Active, OpenReceived | HeaderError | OpenError | CollisionDump) => (Idle, &[Retry]),
        (Active, NotificationReceived | KeepaliveReceived) => (Idle, &[Retry]),
        (Active, UpdateReceived | UpdateError | RefreshReceived) => (Idle, &[Retry]),

        (OpenSent, Start | StartPassive | Opened) => (OpenSent, &[]),
        (OpenSent, Stop) => (Idle, &[Notify, Close]),
        (OpenSent, OpenReceived) => (OpenConfirm, &[SendKeepalive, StartHold]),
        (OpenSent, ConnectionFails) => (Active, &[Close, Retry]),
        (OpenSent, CollisionDump) => (Idle, &[Notify, Close]),
        (OpenSent, NotificationReceived) => (Idle, &[Close, Retry]),
        (OpenSent, HoldExpires) => (Idle, &[Notify, Close, Retry]),
        (OpenSent, HeaderError | OpenError) => (Idle, &[Notify, Close, Damp]),
        (OpenSent, ConnectRetryExpires | KeepaliveExpires | SendHoldExpires) => {
            (Idle, &[Notify, Close, Retry])
        }
        (OpenSent, KeepaliveReceived | UpdateReceived | UpdateError) => (Idle, &[Notify, Close, Damp]),
        (OpenSent, RefreshReceived) => (Idle, &[Notify, Close, Damp]),

        (OpenConfirm, Start | StartPassive | Opened) => (OpenConfirm, &[]),
        (OpenConfirm, Stop) => (Idle, &[Notify, Close]),
        (OpenConfirm, KeepaliveExpires) => (OpenConfirm, &[SendKeepalive]),
        (OpenConfirm, KeepaliveReceived) => (Established, &[RestartHold, Up]),
        (OpenConfirm, ConnectionFails) => (Idle, &[Close, Retry]),
        (OpenConfirm, CollisionDump) => (Idle, &[Notify, Close]),
        (OpenConfirm, NotificationReceived) => (Idle, &[Close, Retry]),
        (OpenConfirm, HoldExpires) => (Idle, &[Notify, Close, Retry]),
        (OpenConfirm, HeaderError | OpenError) => (Idle, &[Notify, Close, Damp]),
        (OpenConfirm, ConnectRetryExpires | SendHoldExpires) => (Idle, &[Notify, Close, Retry]),
        (OpenConfirm, OpenReceived | UpdateReceived | UpdateError) => (Idle, &[Notify, Close, Damp]),
        (OpenConfirm, RefreshReceived) => (Idle, &[Notify, Close, Damp]),

        (Established, Start | StartPassive | Opened) => (Established, &[]),
        (Established, Stop) => (Idle, &[Notify, Down, Close]),
        (Established, KeepaliveExpires) => (Established, &[SendKeepalive]),
        (Established, KeepaliveReceived) => (Established, &[RestartHold]),
        (Established, UpdateReceived | RefreshReceived) => (Established, &[RestartHold, Deliver]),
        (Established, ConnectionFails) => (Idle, &[Down, Close, Retry]),
        (Established, CollisionDump) => (Idle, &[Notify, Down, Close]),
        (Established, NotificationReceived) => (Idle, &[Down, Close, Retry]),
        (Established, HoldExpires | SendHoldExpires) => (Idle, &[Notify, Down, Close, Retry]),
        (Established, HeaderError | OpenError | UpdateError) => (Idle, &[Notify, Down, Close, Damp]),
        (Established, ConnectRetryExpires) => (Idle, &[Notify, Down, Close, Retry]),
        (Established, OpenReceived) => (Idle, &[Notify, Down, Close, Damp]),
    }
}
