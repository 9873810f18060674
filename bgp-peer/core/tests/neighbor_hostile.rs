//! One neighbor against somebody who does not follow the rules.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::time::{Duration, Instant};

use bgp_core::wire::header::{self, MessageType};
use bgp_core::{ConnId, Direction, DownReason, Input, Neighbor, Notification, Output, SessionConfig, State};
use bytes::{BufMut, BytesMut};
use proptest::prelude::*;
use vrouter_types::Asn;

const CONN: ConnId = ConnId(1);
const SECOND: Duration = Duration::from_secs(1);

fn config(router_id: u8) -> SessionConfig {
    SessionConfig {
        local_asn: Asn(65000),
        local_router_id: [192, 0, 2, router_id].into(),
        peer_asn: Asn(65000),
        ..SessionConfig::default()
    }
}

fn message(kind: MessageType, body: &[u8]) -> Vec<u8> {
    let mut out = BytesMut::new();
    let start = header::begin(&mut out, kind);
    out.put_slice(body);
    header::finish(&mut out, start);
    out.to_vec()
}

fn open() -> Vec<u8> {
    let mut out = BytesMut::new();
    config(1).open().encode(&mut out);
    out.to_vec()
}

fn keepalive() -> Vec<u8> {
    message(MessageType::Keepalive, &[])
}

fn update() -> Vec<u8> {
    message(MessageType::Update, &[0, 0, 0, 0])
}

fn outputs(neighbor: &mut Neighbor) -> Vec<Output> {
    std::iter::from_fn(|| neighbor.poll_output()).collect()
}

fn notification(outputs: &[Output]) -> Option<Notification> {
    outputs.iter().find_map(|output| match output {
        Output::Send(_, octets) if octets[18] == 3 => Some(Notification::decode(&octets[header::LEN..])),
        _ => None,
    })
}

fn listening(now: Instant) -> Neighbor {
    let mut neighbor = Neighbor::new(config(254), true, 1, now);
    neighbor.handle_input(Input::Start, now);
    neighbor
}

/// A neighbor that has been called, and has read this.
fn after(messages: &[Vec<u8>], now: Instant) -> Neighbor {
    let mut neighbor = listening(now);
    neighbor.handle_input(Input::Opened(CONN, Direction::Incoming), now);
    outputs(&mut neighbor);
    for message in messages {
        neighbor.handle_input(Input::Bytes(CONN, message), now);
    }
    neighbor
}

#[test]
fn garbage_instead_of_an_open_is_answered_and_kept_as_the_reason() {
    let now = Instant::now();
    let mut neighbor = after(&[b"GET / HTTP/1.1\r\nHost: example.com\r\n\r\n".to_vec()], now);
    let outputs = outputs(&mut neighbor);
    assert_eq!(notification(&outputs), Some(Notification::connection_not_synchronized()));
    assert_eq!(outputs.last(), Some(&Output::Close(CONN)));
    let error = neighbor.last_error().unwrap();
    assert_eq!(error.reason.to_string(), "sent Message Header Error, Connection Not Synchronized (1/1)");
    assert!(error.octets.starts_with(b"GET / HTTP/1.1"));
}

#[test]
fn unexpected_messages_are_errors_that_name_the_state() {
    let now = Instant::now();
    let refresh = message(MessageType::RouteRefresh, &[0, 1, 0, 128]);
    for (before, wrong, subcode) in [
        (vec![], keepalive(), 1),
        (vec![], update(), 1),
        (vec![], refresh.clone(), 1),
        (vec![open()], open(), 2),
        (vec![open()], update(), 2),
        (vec![open()], refresh, 2),
        (vec![open(), keepalive()], open(), 3),
    ] {
        let mut neighbor = after(&before, now);
        outputs(&mut neighbor);
        neighbor.handle_input(Input::Bytes(CONN, &wrong), now);
        let sent = notification(&outputs(&mut neighbor)).unwrap();
        assert_eq!((sent.code, sent.subcode), (5, subcode), "{before:?}");
    }
}

#[test]
fn nothing_behind_the_end_of_a_session_is_heard() {
    let now = Instant::now();
    let last_word = message(MessageType::Notification, &[6, 2]);
    let mut neighbor = after(&[[open(), keepalive(), update(), last_word, update(), open()].concat()], now);
    let outputs = outputs(&mut neighbor);
    assert!(outputs.iter().any(|output| matches!(output, Output::Up(..))));
    // Its routes go with it: to hand up the UPDATE before would be work for nothing.
    assert!(!outputs.iter().any(|output| matches!(output, Output::Update(_))));
    assert!(matches!(outputs.last(), Some(Output::Close(CONN))));
    assert_eq!(notification(&outputs), None, "a NOTIFICATION is not answered");
    assert_eq!(neighbor.received().updates, 1);
}

#[test]
fn a_close_in_mid_message_is_named() {
    let now = Instant::now();
    let mut neighbor = after(&[open(), keepalive(), update()[..20].to_vec()], now);
    neighbor.handle_input(Input::Closed(CONN, "connection closed by the neighbor"), now);
    let outputs = outputs(&mut neighbor);
    let why = "connection closed by the neighbor, in the middle of a message";
    assert!(outputs.contains(&Output::Down(DownReason::Lost(why.to_owned()))), "{outputs:?}");
    assert_eq!(neighbor.last_error().unwrap().octets, update()[..20]);
    assert_eq!(neighbor.dropped(), 1);
}

#[test]
fn an_update_that_no_one_can_go_on_after_ends_the_session_with_its_octets() {
    let now = Instant::now();
    let mut neighbor = after(&[open(), keepalive(), [update(), update()].concat()], now);
    while !matches!(neighbor.poll_output(), Some(Output::Update(_))) {}
    neighbor.handle_input(Input::Reset(Notification::malformed_attribute_list(), b"the body"), now);
    let outputs = outputs(&mut neighbor);
    assert_eq!(notification(&outputs), Some(Notification::malformed_attribute_list()));
    assert!(!outputs.iter().any(|output| matches!(output, Output::Update(_))), "the second is void");
    assert_eq!(neighbor.last_error().unwrap().octets, "the body");
}

#[test]
fn who_breaks_the_protocol_again_and_again_is_listened_to_less_and_less() {
    let mut now = Instant::now();
    let mut neighbor = listening(now);
    let (mut heard, end) = (0, now + 600 * SECOND);
    let mut conn = 0;
    // It calls every 100 ms and sends garbage each time.
    while now < end {
        conn += 1;
        neighbor.handle_timeout(now);
        neighbor.handle_input(Input::Opened(ConnId(conn), Direction::Incoming), now);
        neighbor.handle_input(Input::Bytes(ConnId(conn), &[0; 19]), now);
        heard += u32::from(notification(&outputs(&mut neighbor)).is_some());
        now += SECOND / 10;
    }
    assert!((5..45).contains(&heard), "answered {heard} of {conn} times in ten minutes");
}

#[test]
fn who_only_lost_the_connection_is_let_in_at_once() {
    let now = Instant::now();
    let mut neighbor = after(&[open(), keepalive()], now);
    neighbor.handle_input(Input::Closed(CONN, "connection closed by the neighbor"), now);
    neighbor.handle_input(Input::Opened(ConnId(2), Direction::Incoming), now);
    assert_eq!(neighbor.state(), State::OpenSent);
}

#[test]
fn a_second_connection_never_disturbs_an_established_session() {
    let now = Instant::now();
    let mut neighbor = after(&[open(), keepalive()], now);
    outputs(&mut neighbor);
    neighbor.handle_input(Input::Opened(ConnId(2), Direction::Incoming), now);
    let outputs = outputs(&mut neighbor);
    assert_eq!(notification(&outputs), Some(Notification::connection_rejected()));
    assert!(outputs.contains(&Output::Close(ConnId(2))));
    assert!(
        outputs.iter().any(|output| matches!(output, Output::Send(CONN, octets) if octets[18] == 4)),
        "a keepalive finds out whether the old connection is dead"
    );
    assert_eq!(neighbor.state(), State::Established);
}

#[test]
fn a_caller_that_says_nothing_is_sent_away_after_a_minute() {
    let now = Instant::now();
    let mut neighbor = after(&[], now);
    assert_eq!(neighbor.poll_timeout(), Some(now + 60 * SECOND));
    neighbor.handle_timeout(now + 60 * SECOND);
    assert_eq!(notification(&outputs(&mut neighbor)), Some(Notification::hold_timer_expired()));
    assert_eq!(neighbor.state(), State::Active);
}

#[test]
fn a_neighbor_that_reads_nothing_is_given_up() {
    let mut now = Instant::now();
    let mut neighbor = after(&[open(), keepalive()], now);
    neighbor.handle_input(Input::Sent(CONN), now);
    neighbor.handle_input(Input::Sent(CONN), now);
    assert_eq!(neighbor.writable(), Some(CONN));
    outputs(&mut neighbor);
    neighbor.handle_input(Input::Sending(CONN, &update()), now);
    assert_eq!(neighbor.writable(), None, "there is no room until the write is finished");
    let (end, mut keepalives) = (now + 481 * SECOND, 0);
    // It keeps sending, so the hold timer never expires, but it takes nothing.
    while now < end && neighbor.state() == State::Established {
        now += SECOND;
        neighbor.handle_timeout(now);
        neighbor.handle_input(Input::Bytes(CONN, &keepalive()), now);
        let outputs = outputs(&mut neighbor);
        keepalives += outputs
            .iter()
            .filter(|output| matches!(output, Output::Send(_, octets) if octets[18] == 4))
            .count();
    }
    assert_eq!(
        neighbor.last_error().unwrap().reason,
        DownReason::Sent(Notification::send_hold_timer_expired())
    );
    assert!(keepalives <= 4, "{keepalives} keepalives were piled up behind what is not read");
}

#[test]
fn a_host_that_does_not_answer_at_all_is_named_as_the_reason() {
    let mut now = Instant::now();
    let mut neighbor = Neighbor::new(config(254), false, 1, now);
    neighbor.handle_input(Input::Start, now);
    assert_eq!(outputs(&mut neighbor), [Output::Connect]);
    for _ in 0..3 {
        now = neighbor.poll_timeout().unwrap();
        neighbor.handle_timeout(now);
        assert_eq!(outputs(&mut neighbor), [Output::StopConnecting, Output::Connect]);
    }
    assert_eq!(neighbor.state(), State::Connect);
    let reason = &neighbor.last_error().unwrap().reason;
    assert_eq!(*reason, DownReason::Lost("cannot connect: no answer".to_owned()));
}

#[derive(Debug, Clone)]
enum Step {
    Open(bool),
    Fail,
    Octets(Vec<u8>),
    Close,
    Timeout(u64),
    Stop,
    Start,
    Reset,
    Sent,
}

fn octets() -> impl Strategy<Value = Vec<u8>> {
    let good =
        prop_oneof![Just(open()), Just(keepalive()), Just(update()), Just([open(), keepalive()].concat())];
    let bad = proptest::collection::vec(any::<u8>(), 0..64);
    let cut = (good.clone(), any::<proptest::sample::Index>())
        .prop_map(|(message, end)| message[..end.index(message.len())].to_vec());
    prop_oneof![4 => good, 1 => bad, 1 => cut]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        any::<bool>().prop_map(Step::Open),
        Just(Step::Fail),
        octets().prop_map(Step::Octets),
        octets().prop_map(Step::Octets),
        Just(Step::Close),
        (0..200u64).prop_map(Step::Timeout),
        Just(Step::Stop),
        Just(Step::Start),
        Just(Step::Reset),
        Just(Step::Sent),
    ]
}

proptest! {
    #[test]
    fn ups_and_downs_alternate_and_no_timer_is_forgotten_whatever_happens(steps in proptest::collection::vec(step(), 0..60)) {
        let mut now = Instant::now();
        let mut neighbor = Neighbor::new(config(254), false, 1, now);
        let (mut conn, mut is_up, mut running) = (0, false, false);
        for step in steps {
            match step {
                Step::Open(outgoing) => {
                    conn += 1;
                    let direction = if outgoing { Direction::Outgoing } else { Direction::Incoming };
                    neighbor.handle_input(Input::Opened(ConnId(conn), direction), now);
                }
                Step::Fail => neighbor.handle_input(Input::ConnectFailed("refused"), now),
                Step::Octets(octets) => neighbor.handle_input(Input::Bytes(ConnId(conn), &octets), now),
                Step::Close => neighbor.handle_input(Input::Closed(ConnId(conn), "gone"), now),
                Step::Timeout(seconds) => {
                    now += Duration::from_secs(seconds);
                    neighbor.handle_timeout(now);
                }
                Step::Stop => { neighbor.handle_input(Input::Stop(""), now); running = false; }
                Step::Start => { neighbor.handle_input(Input::Start, now); running = true; }
                Step::Reset => neighbor.handle_input(Input::Reset(Notification::malformed_attribute_list(), &[]), now),
                Step::Sent => neighbor.handle_input(Input::Sent(ConnId(conn)), now),
            }
            for output in outputs(&mut neighbor) {
                match output {
                    Output::Up(..) => { prop_assert!(!is_up); is_up = true; }
                    Output::Down(_) => { prop_assert!(is_up); is_up = false; }
                    Output::Update(_) => prop_assert!(is_up),
                    _ => {}
                }
            }
            prop_assert_eq!(is_up, neighbor.state() == State::Established);
            prop_assert_eq!(is_up, neighbor.negotiated().is_some());
            if running {
                prop_assert!(neighbor.poll_timeout().is_some(), "{} and nothing to wait for", neighbor.state());
            } else {
                prop_assert_eq!(neighbor.state(), State::Idle);
            }
        }
    }
}
