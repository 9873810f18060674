//! What must hold whatever a neighbor sends, as functions of arbitrary octets. The fuzz targets call them, and so does
//! `tests/fuzz_briefly.rs`, which needs neither nightly nor libFuzzer.
#![allow(
    unreachable_pub,
    clippy::unwrap_used,
    clippy::missing_panics_doc,
    reason = "a broken promise is a panic"
)]

use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use bgp_core::wire::attr::set::AttrSet;
use bgp_core::wire::header::{self, Header, MessageType};
use bgp_core::wire::nlri::Nlri;
use bgp_core::wire::notification::Notification;
use bgp_core::wire::open::Open;
use bgp_core::wire::route_refresh::RouteRefresh;
use bgp_core::wire::update::Update;
use bgp_core::wire::update::writer::{UpdateWriter, message_limit};
use bgp_core::{
    ConnId, Direction, DownReason, Family, FamilySet, Input, Negotiated, Neighbor, Output, PeerId,
    PeerPolicy, RestartOffer, Rib, RibConfig, RouteKey, RouteQuery, RouteScope, SessionConfig, State,
    VrfImport, negotiate,
};
use bytes::{Bytes, BytesMut};
use vrouter_types::{Asn, RouteTarget, VrfId};

const ASN: Asn = Asn(65000);
const OURS: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 254);
const MOST_PATHS: usize = 20;

/// Octets as whole messages, read by everything that reads messages.
pub fn message(input: &[u8]) {
    let Some((flags, octets)) = input.split_first() else { return };
    for extended in [false, true] {
        if let Ok(Some(header)) = Header::decode(octets, extended) {
            assert!((header::LEN..=header::MAX_EXTENDED_LEN).contains(&header.length));
        }
    }
    let body = octets.get(header::LEN..).unwrap_or_default();
    let session = session(*flags);
    if let Ok(open) = Open::decode(Bytes::copy_from_slice(body)) {
        let mut again = BytesMut::new();
        open.encode(&mut again);
        assert_eq!(
            Open::decode(again.split_off(header::LEN).freeze()),
            Ok(open.clone()),
            "an OPEN reads back"
        );
        let _ = negotiate(&config(ASN, FamilySet::L3VPN), &open);
    }
    let notification = Notification::decode(body);
    let _ = (notification.to_string(), notification.shutdown_communication());
    let _ = RouteRefresh::decode(body, &session);
    read(body, &session);
}

/// Bodies of UPDATEs, each read by the codec and then by a RIB with two neighbors.
pub fn update(input: &[u8]) {
    let [flags, rest @ ..] = input else { return };
    let session = session(*flags);
    let mut life = Life::new(&session);
    for body in pieces(rest) {
        read(body, &session);
        life.hear(body);
    }
}

/// The life of one neighbor: a list of steps, one octet each and what it needs behind it.
pub fn neighbor(input: &[u8]) {
    let [flags, rest @ ..] = input else { return };
    let mut now = Instant::now();
    let mut neighbor = Neighbor::new(config(ASN, FamilySet::L3VPN), flags & 1 == 1, 7, now);
    let mut world = World::default();
    let mut steps = rest;
    while let [step, rest @ ..] = steps {
        steps = rest;
        let conn = ConnId(world.conn);
        match step % 16 {
            0 => neighbor.handle_input(Input::Start, now),
            1 => neighbor.handle_input(Input::Stop("maintenance"), now),
            direction @ (2 | 3) => {
                world.conn += 1;
                let direction = if direction == 2 { Direction::Outgoing } else { Direction::Incoming };
                neighbor.handle_input(Input::Opened(ConnId(world.conn), direction), now);
            }
            4 => neighbor.handle_input(Input::ConnectFailed("refused"), now),
            5 => neighbor.handle_input(Input::Closed(conn, "gone"), now),
            6 => neighbor.handle_input(Input::Sent(conn), now),
            7 => {
                let reset = Notification::malformed_attribute_list();
                neighbor.handle_input(Input::Reset(reset, &[]), now);
            }
            // Before, the one before that: its octets and its end may come late.
            8 => neighbor.handle_input(Input::Closed(ConnId(world.conn.saturating_sub(1)), "gone"), now),
            9 => {
                now += Duration::from_secs(u64::from(step / 16) * 10);
                neighbor.handle_timeout(now);
                world.pass_time(now);
            }
            10 => {
                now = neighbor.poll_timeout().unwrap_or(now).max(now);
                neighbor.handle_timeout(now);
            }
            11 => neighbor.handle_input(Input::Bytes(conn, &open(*step)), now),
            12 => neighbor.handle_input(Input::Bytes(conn, &whole(MessageType::Keepalive, &[])), now),
            13 => world.send(&mut neighbor, now),
            framed => {
                let (piece, rest) = take_piece(steps);
                steps = rest;
                let octets = match framed {
                    14 => whole(MessageType::Update, piece),
                    _ => piece.to_vec(),
                };
                neighbor.handle_input(Input::Bytes(conn, &octets), now);
            }
        }
        world.drain(&mut neighbor, now);
    }
}

/// What surrounds a neighbor: its connections, and the RIB, which outlives its sessions.
#[derive(Default)]
struct World {
    conn: u64,
    life: Option<Life>,
    is_up: bool,
}

impl World {
    fn drain(&mut self, neighbor: &mut Neighbor, now: Instant) {
        while let Some(output) = neighbor.poll_output() {
            match output {
                Output::Up(_, negotiated) => self.up(&negotiated, now),
                Output::Down(reason) => {
                    assert!(std::mem::take(&mut self.is_up), "down, and was not up");
                    let life = self.life.as_mut().unwrap();
                    let how = life.session.after(&reason, now);
                    life.rib.peer_down(LEFT, how, now);
                    life.look();
                }
                Output::Update(body) => {
                    assert!(self.is_up, "an UPDATE without a session");
                    if let Err(refusal) = self.life.as_mut().unwrap().rib.handle_update(LEFT, &body, now) {
                        neighbor.handle_input(Input::Reset(refusal, &body), now);
                    }
                }
                Output::RouteRefresh(body) => {
                    assert!(self.is_up, "a ROUTE-REFRESH without a session");
                    if let Err(refusal) =
                        self.life.as_mut().unwrap().rib.handle_route_refresh(LEFT, &body, now)
                    {
                        neighbor.handle_input(Input::Reset(refusal, &body), now);
                    }
                }
                Output::Send(_, octets) => {
                    let header = Header::decode(&octets, true).unwrap().unwrap();
                    assert_eq!(header.length, octets.len(), "one whole message");
                }
                Output::Connect | Output::StopConnecting | Output::Close(_) => {}
            }
        }
        assert_eq!(self.is_up, neighbor.state() == State::Established);
        assert_eq!(self.is_up, neighbor.negotiated().is_some());
    }

    fn up(&mut self, negotiated: &Negotiated, now: Instant) {
        assert!(!std::mem::replace(&mut self.is_up, true), "up twice");
        match &mut self.life {
            None => self.life = Some(Life::new(negotiated)),
            Some(life) => {
                life.session = negotiated.clone();
                life.rib.peer_up(LEFT, policy(1), negotiated, now);
            }
        }
    }

    fn pass_time(&mut self, now: Instant) {
        if let Some(life) = &mut self.life {
            // A leap in time may end several waits, one after another.
            for _ in 0..8 {
                life.rib.handle_timeout(now);
            }
            assert!(life.rib.poll_timeout().is_none_or(|due| due > now), "a timer that is never done");
            life.look();
        }
    }

    fn send(&mut self, neighbor: &mut Neighbor, now: Instant) {
        let (Some(life), Some(conn)) = (&mut self.life, neighbor.writable()) else { return };
        let mut out = BytesMut::new();
        if life.rib.poll_message(LEFT, &mut out) {
            check_sent(&out, &life.session);
            neighbor.handle_input(Input::Sending(conn, &out), now);
        }
    }
}

const LEFT: PeerId = PeerId(0);
const RIGHT: PeerId = PeerId(1);

/// A RIB with a neighbor that says anything, and one that only listens.
struct Life {
    rib: Rib,
    session: Negotiated,
    listener: Negotiated,
    now: Instant,
}

impl Life {
    fn new(session: &Negotiated) -> Life {
        let now = Instant::now();
        let mut rib = Rib::new(rib_config());
        let targets =
            (0..=255).map(|n| RouteTarget::from_ext_community([0, 2, 0xfd, 0xe8, 0, 0, 0, n]).unwrap());
        rib.set_imports(vec![VrfImport { vrf: VrfId(1), import: targets.collect() }], now);
        let listener = self::session(0b0000_1111);
        rib.peer_up(LEFT, policy(1), session, now);
        rib.peer_up(RIGHT, policy(2), &listener, now);
        Life { rib, session: session.clone(), listener, now }
    }

    /// The RIB takes it, stays within its bounds, and tells others nothing that they could not read.
    fn hear(&mut self, body: &[u8]) {
        let outcome = self.rib.handle_update(LEFT, body, self.now);
        if let Err(refusal) = outcome {
            let how = self.session.after(&DownReason::Sent(refusal), self.now);
            self.rib.peer_down(LEFT, how, self.now);
            self.look();
            self.rib.peer_up(LEFT, policy(1), &self.session, self.now);
        }
        let _ = self.rib.handle_route_refresh(LEFT, body, self.now);
        self.look();
        for (peer, session) in [(LEFT, &self.session), (RIGHT, &self.listener)] {
            let mut messages = 0;
            let mut out = BytesMut::new();
            while self.rib.poll_message(peer, &mut out) {
                check_sent(&out, session);
                out.clear();
                messages += 1;
                assert!(messages < 10_000, "it never ends");
            }
        }
        self.now += Duration::from_millis(100);
    }
}

impl Life {
    /// Every view may be asked for at any time, and what is stored stays within its bound.
    fn look(&mut self) {
        while self.rib.poll_event().is_some() {}
        let held =
            self.rib.routes(&RouteQuery { scope: RouteScope::Received(LEFT), ..RouteQuery::default() });
        let vpn: Vec<_> = held.iter().filter(|view| view.key.family() != Family::Rtc).collect();
        assert!(vpn.len() <= MOST_PATHS, "{} paths are more than may be stored", vpn.len());
        let _ = (self.rib.counts(), self.rib.peer_counts(LEFT), self.rib.rtc(), self.rib.memory().octets());
        if let Some(RouteKey::Vpn(route)) = vpn.first().map(|view| view.key) {
            let _ = self.rib.explain(VrfId(1), route.prefix);
        }
    }
}

/// A message of ours: whole, not longer than agreed, and free of every fault that we see in others.
fn check_sent(octets: &[u8], session: &Negotiated) {
    assert!(octets.len() <= message_limit(session));
    let header = Header::decode(octets, session.extended_message).unwrap().unwrap();
    assert_eq!(header.length, octets.len(), "one whole message");
    let body = &octets[header::LEN..];
    let theirs = mirrored(session);
    match header.kind {
        MessageType::Update => {
            let update = Update::decode(body, &theirs).unwrap();
            assert_eq!(update.malformed, None);
            assert_eq!(update.attributes.discarded, 0);
        }
        MessageType::RouteRefresh => assert!(RouteRefresh::decode(body, &theirs).is_ok()),
        other => panic!("the RIB sent {other:?}"),
    }
}

/// The codec alone: what it accepts, it can write, and reads back as the same.
fn read(body: &[u8], session: &Negotiated) {
    let Ok(update) = Update::decode(body, session) else { return };
    let mut canonical = Vec::new();
    let fallback = IpAddr::V4(update.attributes.next_hop.unwrap_or(OURS));
    let next_hop = update.reach.map_or(fallback, |reach| reach.next_hop);
    update.attributes.canonical(next_hop, &mut canonical);
    let set = AttrSet::new(&canonical);
    assert_eq!(set.next_hop(), next_hop);
    assert_eq!(set.iter().map(|attribute| attribute.octets.len()).sum::<usize>(), canonical.len());
    let _ = (set.origin(), set.med(), set.local_pref(), set.named_encaps().is_usable());
    let _ = (set.as_path().length(), set.cluster_list().count(), set.route_targets().count());
    let withdrawn: Vec<Nlri> = update.withdrawn.chain(update.unreach.into_iter().flatten()).collect();
    assert!(withdrawn.len() <= body.len());
    let Some(reach) = update.reach.filter(|_| update.malformed.is_none()) else { return };
    let routes: Vec<Nlri> = reach.routes.collect();
    let mut exported = Vec::new();
    set.export(reach.routes.family(), session, &mut exported);
    let mut out = BytesMut::new();
    let limit = header::MAX_EXTENDED_LEN;
    let mut message = UpdateWriter::announce(&mut out, reach.routes.family(), next_hop, &exported, limit);
    let fitting = routes.iter().take_while(|route| message.push(route)).count();
    assert_eq!(message.finish(), fitting);
    if fitting > 0 {
        let again = Update::decode(&out[header::LEN..], &mirrored(session)).unwrap();
        let reach = again.reach.map(|reach| reach.routes);
        let again: Vec<Nlri> = again.announced.chain(reach.into_iter().flatten()).collect();
        assert_eq!(again, routes[..fitting], "routes read back as they were written");
    }
}

/// The session as the other end sees it.
fn mirrored(session: &Negotiated) -> Negotiated {
    Negotiated {
        local_asn: session.peer_asn,
        peer_asn: session.local_asn,
        local_router_id: session.peer_router_id,
        peer_router_id: session.local_router_id,
        ..session.clone()
    }
}

/// One of 128 sessions: internal or not, with or without four-octet AS numbers, and so on.
fn session(flags: u8) -> Negotiated {
    let has = |bit: u8| flags & (1 << bit) != 0;
    let peer_asn = if has(0) { ASN } else { Asn(65001) };
    let families = match flags >> 5 & 3 {
        0 => FamilySet::L3VPN,
        1 => Family::ALL.into_iter().collect(),
        2 => [Family::Vpnv4].into_iter().collect(),
        _ => [Family::Ipv4Unicast, Family::Vpnv6].into_iter().collect(),
    };
    let theirs = SessionConfig {
        local_asn: peer_asn,
        local_router_id: [192, 0, 2, 1].into(),
        ..config(ASN, families)
    };
    let agreed = negotiate(&config(peer_asn, families), &theirs.open()).unwrap();
    Negotiated {
        as4: has(1),
        extended_message: has(2),
        route_refresh: has(3),
        enhanced_route_refresh: has(3) && has(4),
        ..agreed
    }
}

/// The OPEN of somebody who could be our neighbor, or could not.
fn open(flavour: u8) -> Vec<u8> {
    let local_asn = if flavour & 0x10 == 0 { ASN } else { Asn(65001) };
    let families =
        if flavour & 0x20 == 0 { FamilySet::L3VPN } else { [Family::Ipv6Unicast].into_iter().collect() };
    let last = if flavour & 0x40 == 0 { 1 } else { 255 };
    let router_id = Ipv4Addr::new(192, 0, 2, last);
    let mut out = BytesMut::new();
    // With graceful restart, or without.
    let restart = config(ASN, families).restart.filter(|_| flavour & 0x80 == 0);
    SessionConfig { local_asn, local_router_id: router_id, restart, ..config(ASN, families) }
        .open()
        .encode(&mut out);
    out.to_vec()
}

fn whole(kind: MessageType, body: &[u8]) -> Vec<u8> {
    let mut out = BytesMut::new();
    let start = header::begin(&mut out, kind);
    out.extend_from_slice(body);
    header::finish(&mut out, start);
    out.to_vec()
}

/// A length in one octet, and that many octets or what is left.
fn take_piece(octets: &[u8]) -> (&[u8], &[u8]) {
    let Some((length, rest)) = octets.split_first() else { return (&[], &[]) };
    rest.split_at(usize::from(*length).min(rest.len()))
}

/// Bodies with a length of two octets in front, of which only nine bits count.
fn pieces(mut octets: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let (length, rest) = octets.split_first_chunk::<2>()?;
        let length = usize::from(u16::from_be_bytes(*length) & 0x1ff).min(rest.len());
        let (piece, rest) = rest.split_at(length);
        octets = rest;
        Some(piece)
    })
}

fn config(peer_asn: Asn, families: FamilySet) -> SessionConfig {
    let restart = RestartOffer {
        restarting: false,
        forwarding_kept: true,
        restart_time: 60,
        long_lived_stale_time: 600,
    };
    SessionConfig {
        local_asn: ASN,
        local_router_id: OURS,
        peer_asn,
        families,
        restart: Some(restart),
        ..SessionConfig::default()
    }
}

fn rib_config() -> RibConfig {
    RibConfig { asn: ASN, router_id: OURS, cluster_id: OURS, max_paths: MOST_PATHS }
}

fn policy(last: u8) -> PeerPolicy {
    PeerPolicy { route_reflector_client: true, ..PeerPolicy::new(IpAddr::from([192, 0, 2, last])) }
}
