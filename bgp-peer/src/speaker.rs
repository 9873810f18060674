//! The task that owns every neighbor and the RIB.
//!
//! It waits for one of: octets and other news from connections, an order from the agent, a deadline, room in the
//! channel to the agent. Then it takes what else has arrived, lets the neighbors and the RIB decide, and gives every
//! idle socket one piece of what its neighbor does not know yet. It never waits for a socket or for the agent.

mod sessions;

use std::collections::{HashMap, HashSet, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use bgp_core::{ConnId, Input, Neighbor, PeerId, Rib, RibConfig, RibEvent, VrfRoute};
use bytes::BytesMut;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};

use crate::config::SpeakerConfig;
use crate::conn::{self, Conn, ConnEvent};
use crate::handle::Command;
use crate::peer::Peer;
use crate::view::{NeighborView, SpeakerSummary};

/// What the speaker tells the agent.
#[derive(Debug, Clone, PartialEq)]
pub enum SpeakerEvent {
    /// The paths of these VRF routes are now these.
    Routes(Vec<VrfRoute>),
    /// A session is established.
    NeighborUp(IpAddr),
    /// It is no more, and why.
    NeighborDown(IpAddr, String),
}

pub(crate) struct Task {
    config: SpeakerConfig,
    rib: Rib,
    peers: Vec<Peer>,
    conns: HashMap<ConnId, (PeerId, Conn)>,
    next_conn: u64,
    conn_events: mpsc::Sender<ConnEvent>,
    arrivals: Option<mpsc::Receiver<ConnEvent>>,
    events: mpsc::Sender<SpeakerEvent>,
    /// Ups and downs that the agent has not been told.
    news: VecDeque<SpeakerEvent>,
    /// The agent's channel was full when there may have been something to tell.
    is_blocked: bool,
    /// Addresses that called and are no neighbors', as far as they were logged.
    strangers: HashSet<IpAddr>,
    is_ending: bool,
    /// Who waits for the end.
    goodbyes: Vec<oneshot::Sender<()>>,
}

impl Task {
    pub(crate) fn new(config: SpeakerConfig, events: mpsc::Sender<SpeakerEvent>, now: Instant) -> Task {
        let (conn_events, arrivals) = mpsc::channel(CONN_EVENTS);
        let seeds = RandomState::new();
        let peers = config.neighbors.iter().zip(0..).map(|(neighbor, index)| {
            let seed = seeds.hash_one(neighbor.address);
            let machine = Neighbor::new(config.session(neighbor), neighbor.passive, seed, now);
            Peer::new(PeerId(index), neighbor.clone(), machine)
        });
        Task {
            peers: peers.collect(),
            rib: Rib::new(RibConfig {
                asn: config.asn,
                router_id: config.router_id,
                cluster_id: config.router_id,
                max_paths: config.max_paths,
            }),
            config,
            conns: HashMap::new(),
            next_conn: 0,
            conn_events,
            arrivals: Some(arrivals),
            events,
            news: VecDeque::new(),
            is_blocked: false,
            strangers: HashSet::new(),
            is_ending: false,
            goodbyes: Vec::new(),
        }
    }

    /// Runs until it is told to shut down, or every handle is gone.
    pub(crate) async fn run(mut self, listener: Option<TcpListener>, mut orders: mpsc::Receiver<Command>) {
        let Some(mut arrivals) = self.arrivals.take() else { return };
        let accepting =
            listener.map(|listener| tokio::spawn(conn::accept(listener, self.conn_events.clone())));
        for index in 0..self.peers.len() {
            self.input(index, Input::Start, Instant::now());
        }
        while !self.is_ending {
            self.advance(Instant::now());
            let (deadline, room, is_blocked) = (self.deadline(), self.events.clone(), self.is_blocked);
            // Octets come before timers: a neighbor whose KEEPALIVE waits in the channel is not silent.
            tokio::select! {
                biased;
                Some(event) = arrivals.recv() => self.take_arrivals(event, &mut arrivals),
                order = orders.recv() => self.take_orders(order, &mut orders),
                () = sleep_until(deadline) => self.timeout(Instant::now()),
                _ = room.reserve(), if is_blocked => {}
            }
        }
        if let Some(task) = accepting {
            task.abort();
        }
        self.shut_down(arrivals).await;
    }

    /// Takes what has arrived, up to a bound: the others want their turn too.
    fn take_arrivals(&mut self, first: ConnEvent, arrivals: &mut mpsc::Receiver<ConnEvent>) {
        let rest = std::iter::from_fn(|| arrivals.try_recv().ok());
        for event in std::iter::once(first).chain(rest.take(BATCH)) {
            self.arrived(event, Instant::now());
        }
    }

    /// Obeys what has been ordered, up to a bound: routes that are announced together leave together.
    fn take_orders(&mut self, first: Option<Command>, orders: &mut mpsc::Receiver<Command>) {
        // No handle is left: nobody can ever say anything again.
        self.is_ending = first.is_none();
        let rest = std::iter::from_fn(|| orders.try_recv().ok());
        for order in first.into_iter().chain(rest.take(BATCH)) {
            self.obey(order, Instant::now());
        }
    }

    fn obey(&mut self, order: Command, now: Instant) {
        // Whoever asked may have gone; that is no reason to stop.
        match order {
            Command::SetImports(imports, reply) => {
                self.rib.set_imports(imports, now);
                let _ = reply.send(());
            }
            Command::Originate(route, reply) => {
                self.rib.originate(*route, now);
                let _ = reply.send(());
            }
            Command::Withdraw(prefix, reply) => {
                self.rib.withdraw(prefix, now);
                let _ = reply.send(());
            }
            Command::Summary(reply) => drop(reply.send(self.summary(now))),
            Command::Neighbors(reply) => drop(reply.send(self.neighbors(now))),
            Command::Routes(query, reply) => drop(reply.send(self.rib.routes(&query))),
            Command::Shutdown(reply) => {
                self.is_ending = true;
                self.goodbyes.push(reply);
            }
        }
    }

    fn timeout(&mut self, now: Instant) {
        for index in 0..self.peers.len() {
            if let Some(peer) = self.peers.get_mut(index) {
                peer.neighbor.handle_timeout(now);
            }
            self.drain(index, now);
            self.presume_memberships(index, now);
        }
        self.rib.handle_timeout(now);
    }

    /// Gives every idle socket one piece of what its neighbor does not know yet, and the agent what it does not know.
    fn advance(&mut self, now: Instant) {
        for index in 0..self.peers.len() {
            self.advertise(index, now);
        }
        self.is_blocked = self.publish();
    }

    /// A change leaves at once, and what follows within a moment leaves together: a thousand routes announced one by
    /// one are a few UPDATEs, not a thousand.
    fn advertise(&mut self, index: usize, now: Instant) {
        let Some(peer) = self.peers.get_mut(index) else { return };
        if peer.rest_until.is_some_and(|end| now < end) {
            return;
        }
        peer.rest_until = None;
        let Some(conn) = peer.neighbor.writable() else { return };
        let mut messages = BytesMut::new();
        while messages.len() < PIECE && self.rib.poll_message(peer.id, &mut messages) {}
        if !messages.is_empty() {
            // A full piece is a table on its way, and is not held up.
            peer.rest_until = (messages.len() < PIECE).then(|| now + REST);
            peer.neighbor.handle_input(Input::Sending(conn, &messages), now);
            self.send(conn, messages.freeze());
            self.drain(index, now);
        }
    }

    /// Tells the agent what there is to tell. `true`: its channel is full.
    fn publish(&mut self) -> bool {
        loop {
            match self.events.try_reserve() {
                Err(mpsc::error::TrySendError::Full(())) => return true,
                Err(mpsc::error::TrySendError::Closed(())) => {
                    self.news.clear();
                    while self.rib.poll_event().is_some() {}
                    return false;
                }
                Ok(permit) => {
                    let routes = || routes(&mut self.rib);
                    let Some(event) = self.news.pop_front().or_else(routes) else { return false };
                    permit.send(event);
                }
            }
        }
    }

    /// The oldest news go when the agent does not listen.
    fn tell(&mut self, event: SpeakerEvent) {
        if self.news.len() >= self.peers.len() * 8 {
            self.news.pop_front();
        }
        self.news.push_back(event);
    }

    fn deadline(&self) -> Option<Instant> {
        let timeouts = |peer: &Peer| [peer.neighbor.poll_timeout(), peer.memberships_due, peer.rest_until];
        let peers = self.peers.iter().flat_map(timeouts).flatten();
        peers.chain(self.rib.poll_timeout()).min()
    }

    /// Says goodbye everywhere and waits a moment for that to be written.
    async fn shut_down(mut self, mut arrivals: mpsc::Receiver<ConnEvent>) {
        let now = Instant::now();
        for index in 0..self.peers.len() {
            self.input(index, Input::Stop(""), now);
        }
        self.publish();
        self.conns.clear();
        drop(self.conn_events);
        // Each connection holds the other end of this channel until it is closed.
        let all_closed = async { while arrivals.recv().await.is_some() {} };
        let _ = tokio::time::timeout(GOODBYE, all_closed).await;
        for reply in self.goodbyes {
            let _ = reply.send(());
        }
    }

    fn summary(&self, now: Instant) -> SpeakerSummary {
        SpeakerSummary {
            router_id: self.config.router_id,
            asn: self.config.asn,
            neighbors: self.neighbors(now),
            routes: self.rib.counts().routes,
        }
    }

    fn neighbors(&self, now: Instant) -> Vec<NeighborView> {
        self.peers.iter().map(|peer| peer.view(&self.rib, now)).collect()
    }
}

/// Some of the VRF routes that have changed.
fn routes(rib: &mut Rib) -> Option<SpeakerEvent> {
    let changed = std::iter::from_fn(|| rib.poll_event()).take(EVENT_ROUTES);
    let routes: Vec<_> = changed.map(|RibEvent::VrfRoute(route)| route).collect();
    (!routes.is_empty()).then_some(SpeakerEvent::Routes(routes))
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

/// News from connections that may wait: with 16 KiB each, half a megabyte.
const CONN_EVENTS: usize = 32;
/// Arrivals or orders taken at once.
const BATCH: usize = 64;
/// Octets of UPDATEs given to an idle socket.
const PIECE: usize = 16 * 1024;
/// How long changes are gathered after a piece that was not full.
const REST: Duration = Duration::from_millis(10);
/// VRF routes told at once.
const EVENT_ROUTES: usize = 1024;
const GOODBYE: Duration = Duration::from_secs(2);
