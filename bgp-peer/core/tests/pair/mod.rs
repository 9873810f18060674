//! Two neighbors, one virtual clock, and connections that are queues. No octet is lost unless a test says so, and what
//! is delivered next is a matter of chance: a seed is a schedule.
#![allow(dead_code, reason = "each test binary uses its part")]

use std::collections::VecDeque;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use bgp_core::{
    ConnId, Direction, DownReason, Input, Negotiated, Neighbor, Output, PeerId, PeerPolicy, Rib, RibEvent,
    SessionConfig, State,
};
use bytes::{Bytes, BytesMut};
use vrouter_types::Asn;

/// What is under way from one end of a link to the other.
enum Cargo {
    Octets(Bytes),
    End,
}

struct Link {
    /// By node: the number of the connection there, while that end is open.
    ends: [Option<ConnId>; 2],
    /// By receiving node.
    queues: [VecDeque<Cargo>; 2],
}

pub(crate) struct Pair {
    pub(crate) now: Instant,
    pub(crate) nodes: [Neighbor; 2],
    pub(crate) ups: [u32; 2],
    pub(crate) downs: [Vec<DownReason>; 2],
    pub(crate) updates: [Vec<Bytes>; 2],
    /// When each node asked for a connection.
    pub(crate) attempts: [Vec<Instant>; 2],
    /// By node: whether others reach it.
    pub(crate) reachable: [bool; 2],
    /// Octets are taken and never delivered: the link is cut and nobody knows.
    pub(crate) is_cut: bool,
    /// What stands behind each node, if the test is about routes.
    pub(crate) ribs: Option<[Rib; 2]>,
    /// By node: how many paths its VRF's route had, each time that was told.
    pub(crate) told: [Vec<usize>; 2],
    agreed: [Option<Negotiated>; 2],
    connecting: [bool; 2],
    links: Vec<Link>,
    next_conn: u64,
    chance: u64,
}

/// The other node, as its RIB knows it.
const PEER: PeerId = PeerId(0);

pub(crate) fn config(asn: u32, router_id: u8) -> SessionConfig {
    SessionConfig {
        local_asn: Asn(asn),
        local_router_id: Ipv4Addr::new(192, 0, 2, router_id),
        peer_asn: Asn(asn),
        ..SessionConfig::default()
    }
}

impl Pair {
    pub(crate) fn new(configs: [SessionConfig; 2], passive: [bool; 2], seed: u64) -> Pair {
        let now = Instant::now();
        let [a, b] = configs;
        Pair {
            now,
            nodes: [Neighbor::new(a, passive[0], seed, now), Neighbor::new(b, passive[1], !seed, now)],
            ups: [0; 2],
            downs: [Vec::new(), Vec::new()],
            updates: [Vec::new(), Vec::new()],
            attempts: [Vec::new(), Vec::new()],
            reachable: [true; 2],
            is_cut: false,
            ribs: None,
            told: [Vec::new(), Vec::new()],
            agreed: [None, None],
            connecting: [false; 2],
            links: Vec::new(),
            next_conn: 0,
            chance: seed,
        }
    }

    /// Two speakers of one AS that both connect, started.
    pub(crate) fn started(seed: u64) -> Pair {
        let mut pair = Pair::new([config(65000, 1), config(65000, 2)], [false; 2], seed);
        pair.input(0, Input::Start);
        pair.input(1, Input::Start);
        pair
    }

    pub(crate) fn input(&mut self, node: usize, input: Input<'_>) {
        self.nodes[node].handle_input(input, self.now);
        self.drain(node);
    }

    /// Lets time pass, and delivers all that is delivered in that time.
    pub(crate) fn run(&mut self, time: Duration) {
        let end = self.now + time;
        for _ in 0..100_000 {
            if self.advertise() || self.deliver() {
                continue;
            }
            let ribs = self.ribs.iter().flatten().filter_map(Rib::poll_timeout);
            let next = self.nodes.iter().filter_map(Neighbor::poll_timeout).chain(ribs).min();
            match next.filter(|at| *at <= end) {
                Some(at) => {
                    self.now = at;
                    for node in 0..2 {
                        self.nodes[node].handle_timeout(at);
                        self.drain(node);
                        if let Some(ribs) = &mut self.ribs {
                            ribs[node].handle_timeout(at);
                        }
                    }
                }
                None => {
                    self.now = end;
                    return;
                }
            }
        }
        panic!("this never ends");
    }

    /// Delivers one thing that is under way, whichever chance picks. `false`: nothing is.
    pub(crate) fn deliver(&mut self) -> bool {
        let mut choices: Vec<(Option<usize>, usize)> =
            (0..2).filter(|node| self.connecting[*node]).map(|node| (None, node)).collect();
        for (index, link) in self.links.iter().enumerate() {
            choices
                .extend((0..2).filter(|node| !link.queues[*node].is_empty()).map(|node| (Some(index), node)));
        }
        if choices.is_empty() {
            return false;
        }
        self.chance =
            self.chance.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let pick = (self.chance >> 33) as usize % choices.len();
        match choices[pick] {
            (None, node) => self.connect(node),
            (Some(link), node) => self.arrive(link, node),
        }
        true
    }

    pub(crate) fn is_established(&self) -> bool {
        self.nodes.iter().all(|node| node.state() == State::Established)
    }

    /// Both ends of exactly one link.
    pub(crate) fn open_links(&self) -> usize {
        self.links.iter().filter(|link| link.ends.iter().any(Option::is_some)).count()
    }

    /// The connection of a node's established session.
    pub(crate) fn conn(&self, node: usize) -> ConnId {
        self.nodes[node].writable().unwrap()
    }

    /// Closes every connection, as a crash of something between would.
    pub(crate) fn break_links(&mut self) {
        for link in &mut self.links {
            for node in 0..2 {
                if link.ends[node].is_some() {
                    link.queues[node].push_back(Cargo::End);
                }
            }
        }
    }

    /// Gives what the RIBs have to say to the sessions, and takes what they tell. `false`: nothing is new.
    fn advertise(&mut self) -> bool {
        let mut is_new = false;
        for node in 0..2 {
            let Some(ribs) = &mut self.ribs else { return false };
            while let Some(event) = ribs[node].poll_event() {
                if let RibEvent::VrfRoute(route) = event {
                    self.told[node].push(route.paths.len());
                }
            }
            let Some(conn) = self.nodes[node].writable() else { continue };
            let mut message = BytesMut::new();
            if ribs[node].poll_message(PEER, &mut message) {
                is_new = true;
                self.nodes[node].handle_input(Input::Sending(conn, &message), self.now);
                self.push(node, conn, Cargo::Octets(message.freeze()));
                self.input(node, Input::Sent(conn));
            }
        }
        is_new
    }

    fn connect(&mut self, node: usize) {
        self.connecting[node] = false;
        if !self.reachable[1 - node] {
            return self.input(node, Input::ConnectFailed("connection refused"));
        }
        let mut ends = [None; 2];
        ends[node] = Some(self.new_conn());
        ends[1 - node] = Some(self.new_conn());
        self.links.push(Link { ends, queues: [VecDeque::new(), VecDeque::new()] });
        self.input(1 - node, Input::Opened(ends[1 - node].unwrap(), Direction::Incoming));
        self.input(node, Input::Opened(ends[node].unwrap(), Direction::Outgoing));
    }

    fn arrive(&mut self, link: usize, node: usize) {
        let cargo = self.links[link].queues[node].pop_front().unwrap();
        let Some(conn) = self.links[link].ends[node] else { return };
        match cargo {
            Cargo::Octets(octets) => self.input(node, Input::Bytes(conn, &octets)),
            Cargo::End => {
                self.links[link].ends[node] = None;
                self.links[link].queues[1 - node].push_back(Cargo::End);
                self.input(node, Input::Closed(conn, "connection closed by the neighbor"));
            }
        }
    }

    fn drain(&mut self, node: usize) {
        while let Some(output) = self.nodes[node].poll_output() {
            match output {
                Output::Connect => {
                    self.connecting[node] = true;
                    self.attempts[node].push(self.now);
                }
                Output::StopConnecting => self.connecting[node] = false,
                Output::Send(conn, octets) => {
                    self.push(node, conn, Cargo::Octets(octets));
                    self.nodes[node].handle_input(Input::Sent(conn), self.now);
                }
                Output::Close(conn) => {
                    self.push(node, conn, Cargo::End);
                    for link in &mut self.links {
                        if link.ends[node] == Some(conn) {
                            link.ends[node] = None;
                            link.queues[node].clear();
                        }
                    }
                }
                Output::Up(_, agreed) => {
                    self.ups[node] += 1;
                    if let Some(ribs) = &mut self.ribs {
                        let policy = PeerPolicy::new(agreed.peer_router_id.into());
                        ribs[node].peer_up(PEER, policy, &agreed, self.now);
                    }
                    self.agreed[node] = Some(agreed);
                }
                Output::Down(reason) => {
                    if let (Some(ribs), Some(agreed)) = (&mut self.ribs, &self.agreed[node]) {
                        ribs[node].peer_down(PEER, agreed.after(&reason, self.now), self.now);
                    }
                    self.downs[node].push(reason);
                }
                Output::Update(body) => {
                    if let Some(ribs) = &mut self.ribs
                        && let Err(refusal) = ribs[node].handle_update(PEER, &body, self.now)
                    {
                        self.nodes[node].handle_input(Input::Reset(refusal, &body), self.now);
                    }
                    self.updates[node].push(body);
                }
                Output::RouteRefresh(body) => self.updates[node].push(body),
            }
        }
    }

    /// Puts something on its way. Octets are cut in two, so that no message arrives whole.
    fn push(&mut self, from: usize, conn: ConnId, cargo: Cargo) {
        if self.is_cut {
            return;
        }
        for link in &mut self.links {
            if link.ends[from] == Some(conn) {
                match cargo {
                    Cargo::Octets(octets) => {
                        let middle = octets.len() / 2;
                        let halves = [octets.slice(..middle), octets.slice(middle..)];
                        link.queues[1 - from].extend(halves.map(Cargo::Octets));
                    }
                    Cargo::End => link.queues[1 - from].push_back(Cargo::End),
                }
                return;
            }
        }
    }

    fn new_conn(&mut self) -> ConnId {
        self.next_conn += 1;
        ConnId(self.next_conn)
    }
}
