//! OPENs, headers and NOTIFICATIONs that nobody here wrote, read by a neighbor as they would come from a connection.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::path::PathBuf;
use std::time::Instant;

use bgp_core::wire::header;
use bgp_core::wire::open::Open;
use bgp_core::{
    ConnId, Direction, Family, FamilySet, Input, Neighbor, Notification, Output, SessionConfig, State,
};
use bytes::{Bytes, BytesMut};
use serde::Deserialize;
use vrouter_types::Asn;

#[derive(Deserialize)]
struct Case {
    id: String,
    message_hex: String,
    expect: String,
    #[serde(default)]
    also_ok: Vec<String>,
    notification: Option<Code>,
    #[serde(default)]
    notification_also_ok: Vec<Code>,
    #[serde(default)]
    strict: bool,
    /// Of OPENs.
    peer_as: Option<u32>,
    decoded: Option<serde_json::Value>,
    /// Of the others.
    kind: Option<String>,
    #[serde(default)]
    header_only: bool,
}

impl Case {
    /// What an OPEN holds.
    fn open(&self) -> Option<Decoded> {
        self.decoded.clone().map(|decoded| serde_json::from_value(decoded).unwrap())
    }
}

#[derive(Deserialize, PartialEq, Debug, Clone, Copy)]
struct Code {
    code: u8,
    subcode: u8,
}

#[derive(Deserialize)]
struct Decoded {
    my_as: u16,
    as4: Option<u32>,
    hold_time: u16,
    bgp_id: std::net::Ipv4Addr,
    capabilities: Vec<CapabilityHex>,
    families: Vec<String>,
}

#[derive(Deserialize)]
struct CapabilityHex {
    code: u8,
    value_hex: String,
}

/// The cases of a file; none where the vectors are not at hand, and that is said.
fn cases(file: &str) -> Vec<Case> {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let path =
        root.ancestors().map(|folder| folder.join("shared/vectors").join(file)).find(|path| path.exists());
    let Some(path) = path else {
        eprintln!("SKIPPED: there is no shared/vectors/{file} beside the workspace");
        return Vec::new();
    };
    let cases: Vec<Case> = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    assert!(cases.len() > 50, "{file} is too short to be true");
    cases
}

fn octets(hex: &str) -> Vec<u8> {
    (0..hex.len() / 2).map(|at| u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).unwrap()).collect()
}

fn config(peer_asn: u32) -> SessionConfig {
    SessionConfig {
        local_asn: Asn(65000),
        local_router_id: [192, 0, 2, 254].into(),
        peer_asn: Asn(peer_asn),
        families: FamilySet::from_iter(Family::ALL),
        ..SessionConfig::default()
    }
}

const CONN: ConnId = ConnId(1);

/// A neighbor that has sent its OPEN.
fn open_sent(config: SessionConfig) -> Neighbor {
    let mut neighbor = Neighbor::new(config, true, 1, Instant::now());
    neighbor.handle_input(Input::Start, Instant::now());
    neighbor.handle_input(Input::Opened(CONN, Direction::Incoming), Instant::now());
    while neighbor.poll_output().is_some() {}
    assert_eq!(neighbor.state(), State::OpenSent);
    neighbor
}

/// A neighbor with an established session, with neither long messages nor anything else that is optional.
fn established() -> Neighbor {
    let mut neighbor = open_sent(config(65000));
    let mut peer = SessionConfig { local_router_id: [192, 0, 2, 1].into(), ..config(65000) }.open();
    peer.capabilities.retain(|capability| matches!(capability.code, 1 | 65));
    let mut messages = BytesMut::new();
    peer.encode(&mut messages);
    let start = header::begin(&mut messages, header::MessageType::Keepalive);
    header::finish(&mut messages, start);
    neighbor.handle_input(Input::Bytes(CONN, &messages), Instant::now());
    while neighbor.poll_output().is_some() {}
    assert_eq!(neighbor.state(), State::Established);
    neighbor
}

/// What came of it.
#[derive(Debug, PartialEq)]
enum Verdict {
    Kept,
    Refused(Notification),
    Closed,
}

fn verdict(neighbor: &mut Neighbor) -> Verdict {
    let (mut refusal, mut closed) = (None, false);
    while let Some(output) = neighbor.poll_output() {
        match output {
            Output::Send(_, octets) if octets[18] == 3 => {
                refusal = Some(Notification::decode(&octets[header::LEN..]))
            }
            Output::Close(_) => closed = true,
            _ => {}
        }
    }
    match (refusal, closed) {
        (None, false) => Verdict::Kept,
        (Some(notification), true) => Verdict::Refused(notification),
        (None, true) => Verdict::Closed,
        (Some(notification), false) => panic!("{notification}, and still open"),
    }
}

fn feed(mut neighbor: Neighbor, message: &[u8], step: usize) -> Verdict {
    for piece in message.chunks(step) {
        neighbor.handle_input(Input::Bytes(CONN, piece), Instant::now());
    }
    let verdict = verdict(&mut neighbor);
    if verdict != Verdict::Kept {
        assert!(neighbor.last_error().is_some(), "no reason is kept");
    }
    verdict
}

/// Whether what came of it is what the case allows.
fn is_allowed(case: &Case, verdict: &Verdict) -> bool {
    let allows = |outcome: &str| case.expect == outcome || case.also_ok.iter().any(|other| other == outcome);
    match verdict {
        Verdict::Kept => ["accept", "accept-without-capability", "ignore"].into_iter().any(allows),
        Verdict::Closed => allows("close"),
        Verdict::Refused(_) if !(allows("reject") || allows("reset")) => false,
        Verdict::Refused(sent) => {
            let sent = Code { code: sent.code, subcode: sent.subcode };
            case.notification.is_none_or(|wanted| wanted == sent) || case.notification_also_ok.contains(&sent)
        }
    }
}

/// An OPEN that is fine by itself, of a speaker that shares no family with us: refusing it is our choice.
fn shares_no_family(case: &Case, verdict: &Verdict) -> bool {
    let ours = |family: &String| {
        let (afi, safi) = family.split_once('/').unwrap();
        Family::from_code(afi.parse().unwrap(), safi.parse().unwrap()).is_some()
    };
    let names_others =
        case.open().is_some_and(|open| !open.families.is_empty() && !open.families.iter().any(ours));
    names_others && matches!(verdict, Verdict::Refused(Notification { code: 2, subcode: 7, .. }))
}

#[test]
fn opens_are_taken_and_refused_as_the_vectors_say() {
    let (mut taken, mut refused) = (0, 0);
    for case in cases("opens.json") {
        let message = octets(&case.message_hex);
        for step in [1, 7, message.len()] {
            let verdict = feed(open_sent(config(case.peer_as.unwrap())), &message, step);
            if case.expect != "any" && !shares_no_family(&case, &verdict) {
                assert!(is_allowed(&case, &verdict), "{} (strict: {}): {verdict:?}", case.id, case.strict);
            }
            match verdict {
                Verdict::Kept => taken += 1,
                Verdict::Refused(_) => refused += 1,
                Verdict::Closed => panic!("{}: closed without a word", case.id),
            }
        }
    }
    if taken + refused > 0 {
        assert!(taken > 150 && refused > 90, "{taken} taken, {refused} refused");
    }
}

#[test]
fn opens_are_read_as_the_vectors_say() {
    for case in cases("opens.json").into_iter().filter(|case| case.expect == "accept") {
        let Some(wanted) = case.open() else { panic!("{} has no decoding", case.id) };
        let read = Open::decode(Bytes::from(octets(&case.message_hex)).slice(header::LEN..)).expect(&case.id);
        assert_eq!(
            (read.my_as, read.hold_time, read.router_id),
            (wanted.my_as, wanted.hold_time, wanted.bgp_id),
            "{}",
            case.id
        );
        let capabilities: Vec<_> =
            read.capabilities.iter().map(|found| (found.code, found.value.to_vec())).collect();
        let expected: Vec<_> =
            wanted.capabilities.iter().map(|wanted| (wanted.code, octets(&wanted.value_hex))).collect();
        assert_eq!(capabilities, expected, "{}", case.id);
        if let Ok(agreed) = bgp_core::negotiate(&config(case.peer_as.unwrap()), &read) {
            assert_eq!(agreed.as4, wanted.as4.is_some(), "{}", case.id);
        }
    }
}

#[test]
fn headers_and_notifications_end_a_session_as_the_vectors_say() {
    let mut decided = 0;
    for case in cases("malformed.json") {
        let kind = case.kind.as_deref().unwrap();
        if !case.header_only && matches!(kind, "update" | "route-refresh") {
            continue;
        }
        let message = octets(&case.message_hex);
        for step in [1, 7, message.len()] {
            let verdict = feed(established(), &message, step);
            assert!(case.expect == "any" || is_allowed(&case, &verdict), "{}: {verdict:?}", case.id);
        }
        decided += 1;
    }
    assert!(decided == 0 || decided >= 27, "{decided}");
}

#[test]
fn no_cut_and_no_flipped_bit_of_an_open_is_dangerous() {
    for case in cases("opens.json") {
        let message = octets(&case.message_hex);
        for end in 0..message.len() {
            feed(open_sent(config(case.peer_as.unwrap())), &message[..end], message.len());
        }
        for bit in (0..message.len() * 8).step_by(3) {
            let mut flipped = message.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            feed(open_sent(config(case.peer_as.unwrap())), &flipped, flipped.len());
        }
    }
}
