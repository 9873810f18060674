//! The state machine as a table: one row per state, one column per event, in the order of RFC 4271 §8.2.2.

use bgp_core::State;
use bgp_core::fsm::{Action, Event, step};

use Action::*;
use State::*;

/// The next state for every event, in the order of `Event::ALL`: Start, StartPassive, Stop, ConnectRetryExpires,
/// HoldExpires, KeepaliveExpires, SendHoldExpires, Opened, ConnectionFails, OpenReceived, HeaderError, OpenError,
/// CollisionDump, NotificationReceived, KeepaliveReceived, UpdateReceived, UpdateError, RefreshReceived.
#[rustfmt::skip]
const NEXT: [(State, [State; 18]); 6] = [
    (Idle, [Connect, Active, Idle, Idle, Idle, Idle, Idle, Idle, Idle, Idle, Idle, Idle, Idle, Idle, Idle, Idle, Idle, Idle]),
    (Connect, [Connect, Connect, Idle, Connect, Idle, Idle, Idle, OpenSent, Active, Idle, Idle, Idle, Idle, Idle, Idle, Idle, Idle, Idle]),
    (Active, [Active, Active, Idle, Connect, Idle, Idle, Idle, OpenSent, Idle, Idle, Idle, Idle, Idle, Idle, Idle, Idle, Idle, Idle]),
    (OpenSent, [OpenSent, OpenSent, Idle, Idle, Idle, Idle, Idle, OpenSent, Active, OpenConfirm, Idle, Idle, Idle, Idle, Idle, Idle, Idle, Idle]),
    (OpenConfirm, [OpenConfirm, OpenConfirm, Idle, Idle, Idle, OpenConfirm, Idle, OpenConfirm, Idle, Idle, Idle, Idle, Idle, Idle, Established, Idle, Idle, Idle]),
    (Established, [Established, Established, Idle, Idle, Idle, Established, Idle, Established, Idle, Idle, Idle, Idle, Idle, Idle, Established, Established, Idle, Established]),
];

#[test]
fn every_cell_goes_where_the_table_says() {
    for (state, row) in NEXT {
        for (event, next) in Event::ALL.into_iter().zip(row) {
            assert_eq!(step(state, event).0, next, "{state} on {event:?}");
        }
    }
}

#[test]
fn a_connection_is_closed_exactly_when_its_states_are_left() {
    let has_connection = |state: State| state >= OpenSent;
    for state in State::ALL {
        for event in Event::ALL {
            let (next, actions) = step(state, event);
            let is_left = has_connection(state) && !has_connection(next);
            // In Idle a connection is refused that never belonged to the session.
            let is_refused = (state, event) == (Idle, Event::Opened);
            assert_eq!(actions.contains(&Close), is_left || is_refused, "{state} on {event:?}");
        }
    }
}

#[test]
fn up_and_down_come_in_pairs() {
    for state in State::ALL {
        for event in Event::ALL {
            let (next, actions) = step(state, event);
            assert_eq!(
                actions.contains(&Up),
                state != Established && next == Established,
                "{state} on {event:?}"
            );
            assert_eq!(
                actions.contains(&Down),
                state == Established && next != Established,
                "{state} on {event:?}"
            );
        }
    }
}

#[test]
fn only_a_lost_connection_or_the_neighbors_last_word_goes_unanswered() {
    for state in [OpenSent, OpenConfirm, Established] {
        for event in Event::ALL {
            let (next, actions) = step(state, event);
            let is_end = next < OpenSent;
            let is_silent = matches!(event, Event::ConnectionFails | Event::NotificationReceived);
            assert_eq!(actions.contains(&Notify), is_end && !is_silent, "{state} on {event:?}");
        }
    }
}

#[test]
fn a_notification_leaves_before_its_connection_closes() {
    for state in State::ALL {
        for event in Event::ALL {
            let (_, actions) = step(state, event);
            let place = |wanted| actions.iter().position(|action| *action == wanted);
            if let (Some(notify), Some(close)) = (place(Notify), place(Close)) {
                assert!(notify < close, "{state} on {event:?}");
            }
        }
    }
}

#[test]
fn every_failure_waits_before_the_next_attempt() {
    for state in [Connect, OpenSent, OpenConfirm, Established] {
        for event in Event::ALL {
            let (next, actions) = step(state, event);
            let is_wanted = matches!(event, Event::Stop | Event::CollisionDump);
            if next < state && next != Connect && !(is_wanted && state > Connect) && event != Event::Stop {
                assert!(actions.contains(&Retry) || actions.contains(&Damp), "{state} on {event:?}");
            }
        }
    }
}
