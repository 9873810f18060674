//! The task that owns every neighbor and the RIB.
//!
//! It waits for one of: octets and other news from connections, an order from the agent, a deadline, room in the
//! channel to the agent. Then it takes what else has arrived, lets the neighbors and the RIB decide, and gives every
//! idle socket one piece of what its neighbor does not know yet. It never waits for a socket or for the agent.

mod reconfigure;
mod sessions;

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bgp_core::wire::route_refresh::RouteRefresh;
use bgp_core::{ConnId, Input, Neighbor, PeerId, Rib, RibConfig, RibEvent, VrfRoute};
use bytes::BytesMut;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};
use tokio::task::AbortHandle;

use crate::config::{NeighborConfig, SpeakerConfig};
use crate::conn::{self, Conn, ConnEvent};
use crate::handle::Command;
use crate::monitor::{Monitor, MonitorKind};
use crate::peer::Peer;
use crate::sockopt;
use crate::view::{NeighborView, SpeakerSummary};

pub use reconfigure::{Change, ChangeKind, ClearError, ClearKind};

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
    /// Those that are configured by their address, and those that prefixes have brought.
    peers: BTreeMap<PeerId, Peer>,
    conns: HashMap<ConnId, (PeerId, Conn)>,
    next_conn: u64,
    conn_events: mpsc::Sender<ConnEvent>,
    arrivals: Option<mpsc::Receiver<ConnEvent>>,
    listener: Option<Arc<TcpListener>>,
    accepting: Option<AbortHandle>,
    events: mpsc::Sender<SpeakerEvent>,
    monitor: Monitor,
    /// Ups and downs that the agent has not been told.
    news: VecDeque<SpeakerEvent>,
    /// The agent's channel was full when there may have been something to tell.
    is_blocked: bool,
    /// Addresses that called and are no neighbors', as far as they were logged.
    strangers: HashSet<IpAddr>,
    /// Until when neighbors are told that we have restarted (RFC 4724 §3).
    restarting_until: Option<Instant>,
    /// Spreads the waits of neighbors.
    seeds: RandomState,
    is_ending: bool,
    /// Whether neighbors may keep our routes after the end.
    keep_routes: bool,
    /// Who waits for the end.
    goodbyes: Vec<oneshot::Sender<()>>,
}

impl Task {
    pub(crate) fn new(
        config: SpeakerConfig,
        events: mpsc::Sender<SpeakerEvent>,
        listener: Option<Arc<TcpListener>>,
        now: Instant,
    ) -> Task {
        let (conn_events, arrivals) = mpsc::channel(CONN_EVENTS);
        let restarting_until = now + Duration::from_secs(config.restart_time.into());
        let mut rib = Rib::new(RibConfig {
            asn: config.asn,
            router_id: config.router_id,
            cluster_id: config.cluster_id.unwrap_or(config.router_id),
            max_paths: config.max_paths,
        });
        rib.set_reflector(config.is_reflector(), now);
        if config.await_local_routes {
            rib.defer_end_of_rib(restarting_until);
        }
        let mut task = Task {
            peers: BTreeMap::new(),
            rib,
            conns: HashMap::new(),
            next_conn: 0,
            conn_events,
            arrivals: Some(arrivals),
            listener,
            accepting: None,
            events,
            monitor: Monitor::default(),
            news: VecDeque::new(),
            is_blocked: false,
            strangers: HashSet::new(),
            restarting_until: Some(restarting_until),
            seeds: RandomState::new(),
            is_ending: false,
            keep_routes: false,
            goodbyes: Vec::new(),
            config: SpeakerConfig { neighbors: Vec::new(), ..config.clone() },
        };
        for (neighbor, id) in config.neighbors.iter().zip(0..) {
            task.add_peer(PeerId(id), neighbor, now);
        }
        task.config = config;
        task
    }

    /// A neighbor that is configured by its address, or that a prefix has brought. Not started.
    fn add_peer(&mut self, id: PeerId, neighbor: &NeighborConfig, now: Instant) {
        // A prefix is no neighbor.
        if neighbor.prefix.is_some() {
            return;
        }
        let session = self.config.session(neighbor, self.restarting_until.is_some());
        let seed = self.seeds.hash_one((neighbor.address, self.next_conn));
        let machine = Neighbor::new(session, neighbor.passive, seed, now);
        self.peers.insert(id, Peer::new(id, neighbor.clone(), machine));
    }

    fn ids(&self) -> Vec<PeerId> {
        self.peers.keys().copied().collect()
    }

    /// Runs until it is told to shut down, or every handle is gone.
    pub(crate) async fn run(mut self, mut orders: mpsc::Receiver<Command>) {
        let Some(mut arrivals) = self.arrivals.take() else { return };
        self.accept();
        for id in self.ids() {
            self.input(id, Input::Start, Instant::now());
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
        if let Some(task) = self.accepting.take() {
            task.abort();
        }
        self.shut_down(arrivals).await;
    }

    /// Takes connections from the listener, and from no other any more.
    fn accept(&mut self) {
        if let Some(task) = self.accepting.take() {
            task.abort();
        }
        let Some(listener) = &self.listener else { return };
        let task = tokio::spawn(conn::accept(Arc::clone(listener), self.conn_events.clone()));
        self.accepting = Some(task.abort_handle());
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
            Command::Clear(neighbor, kind, reply) => drop(reply.send(self.clear(neighbor, kind, now))),
            Command::Reconfigure(config, reply) => drop(reply.send(self.reconfigure(*config, now))),
            Command::Subscribe(reply) => drop(reply.send(self.monitor.subscribe())),
            Command::AddressesGone(addresses, reply) => {
                self.addresses_gone(&addresses, now);
                let _ = reply.send(());
            }
            Command::LocalRoutesComplete(reply) => {
                self.rib.local_routes_complete();
                let _ = reply.send(());
            }
            Command::WithRib(work) => work(&mut self.rib, now),
            Command::Shutdown { keep_routes, reply } => {
                self.is_ending = true;
                self.keep_routes = keep_routes;
                self.goodbyes.push(reply);
            }
        }
    }

    fn timeout(&mut self, now: Instant) {
        if self.restarting_until.take_if(|until| *until <= now).is_some() {
            self.restart_is_over();
        }
        for id in self.ids() {
            if let Some(peer) = self.peers.get_mut(&id) {
                peer.neighbor.handle_timeout(now);
            }
            self.drain(id, now);
            self.presume_memberships(id, now);
            self.try_again(id, now);
            if self.peers.get(&id).is_some_and(|peer| peer.is_forgotten(now)) {
                self.remove_peer(id, now);
            }
        }
        self.rib.handle_timeout(now);
    }

    /// Gives every idle socket one piece of what its neighbor does not know yet, and the agent what it does not know.
    fn advance(&mut self, now: Instant) {
        for id in self.ids() {
            self.advertise(id, now);
        }
        self.is_blocked = self.publish(now);
        if self.rib.has_shrunk() {
            sockopt::give_memory_back();
        }
    }

    /// A change leaves at once, and what follows within a moment leaves together: a thousand routes announced one by
    /// one are a few UPDATEs, not a thousand.
    fn advertise(&mut self, id: PeerId, now: Instant) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        if peer.rest_until.is_some_and(|end| now < end) {
            return;
        }
        peer.rest_until = None;
        let Some(conn) = peer.neighbor.writable() else { return };
        let mut messages = BytesMut::new();
        for family in std::mem::take(&mut peer.refresh_due).iter() {
            RouteRefresh::Request(family).encode(&mut messages);
        }
        while messages.len() < PIECE && self.rib.poll_message(peer.id, &mut messages) {}
        if !messages.is_empty() {
            // A full piece is a table on its way, and is not held up.
            peer.rest_until = (messages.len() < PIECE).then(|| now + REST);
            peer.neighbor.handle_input(Input::Sending(conn, &messages), now);
            self.send(conn, messages.freeze());
            self.drain(id, now);
        }
    }

    /// Tells the agent what there is to tell. `true`: its channel is full.
    fn publish(&mut self, now: Instant) -> bool {
        let events = self.events.clone();
        loop {
            match events.try_reserve() {
                Err(mpsc::error::TrySendError::Full(())) => return true,
                Err(mpsc::error::TrySendError::Closed(())) => {
                    self.news.clear();
                    while self.routes(now).is_some() {}
                    return false;
                }
                Ok(permit) => {
                    let Some(event) = self.news.pop_front().or_else(|| self.routes(now)) else {
                        return false;
                    };
                    permit.send(event);
                }
            }
        }
    }

    /// Some of the VRF routes that have changed.
    fn routes(&mut self, now: Instant) -> Option<SpeakerEvent> {
        let mut routes: Vec<VrfRoute> = Vec::new();
        while routes.len() < EVENT_ROUTES
            && let Some(event) = self.rib.poll_event()
        {
            match event {
                RibEvent::VrfRoute(route) => {
                    self.monitor.tell(|| MonitorKind::Route(Arc::new(route.clone())));
                    routes.push(route);
                }
                RibEvent::PrefixLimit(peer) => self.over_limit(peer, now),
            }
        }
        (!routes.is_empty()).then_some(SpeakerEvent::Routes(routes))
    }

    /// The oldest news go when the agent does not listen.
    fn tell(&mut self, event: SpeakerEvent) {
        if self.news.len() >= self.peers.len() * 8 {
            self.news.pop_front();
        }
        self.news.push_back(event);
    }

    fn deadline(&self) -> Option<Instant> {
        let timeouts = |peer: &Peer| {
            let is_down = peer.dynamic.is_some() && peer.told < bgp_core::State::OpenSent;
            [
                peer.neighbor.poll_timeout(),
                peer.memberships_due,
                peer.rest_until,
                peer.limit_ends,
                peer.forget_at.filter(|_| is_down && !peer.is_over_limit),
            ]
        };
        let peers = self.peers.values().flat_map(timeouts).flatten();
        peers.chain(self.rib.poll_timeout()).chain(self.restarting_until).min()
    }

    /// Says goodbye everywhere and waits a moment for that to be written.
    async fn shut_down(mut self, mut arrivals: mpsc::Receiver<ConnEvent>) {
        let now = Instant::now();
        let goodbye = |keep| if keep { Input::Leave("") } else { Input::Stop("") };
        for id in self.ids() {
            self.input(id, goodbye(self.keep_routes), now);
        }
        self.publish(now);
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
        self.peers.values().map(|peer| peer.view(&self.rib, now)).collect()
    }
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
