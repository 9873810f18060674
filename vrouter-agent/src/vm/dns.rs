//! The name forwarder: a machine's DNS message goes to the node's resolvers and the answer comes back. Messages are
//! opaque: only their header is looked at, and whether an answer is about what was asked.
//!
//! ```text
//!  0    2                  4         6         8        10       12
//!  | id | QR opcode … rcode| questions| answers| authority| more | question …
//! ```
//! Each query has a socket of its own, so that its port is the kernel's random choice, and a number of its own: an
//! answer that a stranger makes up must guess both (RFC 5452), and come from the resolver's address.
//!
//! What it refuses, by silence: anything that is no query with one question, more queries than a port may have
//! outstanding or send in a second. When no resolver answers in time, the machine is told so (SERVFAIL).

mod message;
mod stream;

use std::hash::{BuildHasher, RandomState};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use tokio::net::UdpSocket;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tracing::{debug, warn};
use vrouter_types::PortId;

use super::directory::Directory;
use super::resolvers::Resolvers;
use super::shares::{Rates, Share, Shares};

pub use stream::serve_streams;

/// Queries on their way, all together and of one port.
const OUTSTANDING: usize = 512;
const OUTSTANDING_EACH: usize = 64;
/// Queries of one port in a second, and at once.
const RATE: u32 = 200;
const BURST: u32 = 400;
/// Connections, all together and of one port.
const CONNECTIONS: usize = 128;
const CONNECTIONS_EACH: usize = 8;
/// How long one resolver is waited for.
const PATIENCE: Duration = Duration::from_secs(2);
/// The largest that EDNS commonly asks for.
const LONGEST: usize = 4096;

/// What the forwarder knows.
#[derive(Debug)]
pub struct Forwarder {
    resolvers: Arc<Resolvers>,
    directory: Directory,
    queries: Shares,
    connections: Shares,
    rates: Rates,
    random: RandomState,
    count: AtomicU64,
    patience: Duration,
}

impl Forwarder {
    /// Asks these resolvers for the machines of this directory.
    pub fn new(resolvers: Arc<Resolvers>, directory: Directory) -> Forwarder {
        Forwarder {
            resolvers,
            directory,
            queries: Shares::new(OUTSTANDING, OUTSTANDING_EACH),
            connections: Shares::new(CONNECTIONS, CONNECTIONS_EACH),
            rates: Rates::new(RATE, BURST),
            random: RandomState::new(),
            count: AtomicU64::new(0),
            patience: PATIENCE,
        }
    }

    /// The port that a message came from, if it may ask.
    fn asker(&self, peer: IpAddr) -> Option<PortId> {
        Some(self.directory.find(peer)?.0)
    }

    /// A place for one more query of a port.
    fn admit(&self, port: PortId) -> Option<Share> {
        if !self.rates.allow(port, Instant::now()) {
            return None;
        }
        self.queries.take(port)
    }

    /// A number that nobody can guess: a keyed hash of a counter.
    fn number(&self) -> [u8; 2] {
        let [a, b, ..] = self.random.hash_one(self.count.fetch_add(1, Relaxed)).to_ne_bytes();
        [a, b]
    }

    /// The first answer of a resolver, for the machine; where there is none, that there is none.
    async fn resolve(&self, query: &[u8]) -> Vec<u8> {
        for resolver in self.resolvers.current(Instant::now()) {
            match timeout(self.patience, self.ask(resolver, query)).await {
                Ok(Ok(answer)) => return answer,
                Ok(Err(error)) => debug!(%resolver, %error, "a resolver cannot be asked"),
                Err(_) => debug!(%resolver, "a resolver does not answer"),
            }
        }
        message::failure(query)
    }

    async fn ask(&self, resolver: SocketAddr, query: &[u8]) -> io::Result<Vec<u8>> {
        let any: IpAddr = match resolver {
            SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let socket = UdpSocket::bind((any, 0)).await?;
        socket.connect(resolver).await?;
        let sent = message::numbered(query, self.number());
        socket.send(&sent).await?;
        let mut buffer = vec![0; LONGEST];
        loop {
            let len = socket.recv(&mut buffer).await?;
            let answer = buffer.get(..len).unwrap_or_default();
            if message::answers(answer, &sent) {
                return Ok(message::numbered(answer, message::number(query)));
            }
        }
    }
}

/// Serves datagrams until it is dropped.
pub async fn serve_datagrams(socket: UdpSocket, forwarder: Arc<Forwarder>) {
    let socket = Arc::new(socket);
    let mut queries = JoinSet::new();
    let mut buffer = vec![0; LONGEST];
    loop {
        tokio::select! {
            received = socket.recv_from(&mut buffer) => match received {
                Ok((len, peer)) => {
                    let query = buffer.get(..len).unwrap_or_default();
                    let Some(port) = forwarder.asker(peer.ip()) else { continue };
                    if !message::is_query(query) {
                        continue;
                    }
                    let Some(share) = forwarder.admit(port) else { continue };
                    let (query, socket) = (query.to_vec(), Arc::clone(&socket));
                    queries.spawn(answer(Arc::clone(&forwarder), socket, query, peer, share));
                }
                Err(error) => {
                    warn!(%error, "cannot receive name queries");
                    sleep(Duration::from_millis(100)).await;
                }
            },
            Some(_) = queries.join_next() => {}
        }
    }
}

async fn answer(
    forwarder: Arc<Forwarder>,
    socket: Arc<UdpSocket>,
    query: Vec<u8>,
    peer: SocketAddr,
    _share: Share,
) {
    let answer = forwarder.resolve(&query).await;
    if let Err(error) = socket.send_to(&answer, peer).await {
        debug!(%peer, %error, "cannot answer a name query");
    }
}

#[cfg(test)]
mod tests;
