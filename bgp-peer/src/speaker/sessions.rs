//! Between connections and neighbors: what arrives, and what the neighbors say to do.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant, SystemTime};

use bgp_core::{ConnId, Direction, DownReason, Family, Input, Negotiated, Output, PeerDown, PeerId};
use bytes::Bytes;
use socket2::SockRef;
use tokio::net::TcpStream;
use vrouter_types::Prefix;

use super::{SpeakerEvent, Task};
use crate::config::NeighborConfig;
use crate::conn::{self, Conn, ConnEvent};
use crate::monitor::MonitorKind;
use crate::peer::Peer;

impl Task {
    pub(super) fn arrived(&mut self, event: ConnEvent, now: Instant) {
        match event {
            ConnEvent::Accepted(stream, from) => self.accepted(stream, from, now),
            ConnEvent::Connected(conn, result) => self.connected(conn, result, now),
            ConnEvent::Bytes(conn, octets) => self.conn_input(conn, Input::Bytes(conn, &octets), now),
            ConnEvent::Sent(conn) => self.conn_input(conn, Input::Sent(conn), now),
            ConnEvent::Closed(conn, why) => {
                self.conn_input(conn, Input::Closed(conn, &why), now);
                self.conns.remove(&conn);
            }
        }
    }

    /// Ends what is connected from an address that the host no longer has. To the neighbor that is a lost link, so with
    /// graceful restart routes stay at both ends.
    pub(super) fn addresses_gone(&mut self, addresses: &[IpAddr], now: Instant) {
        let is_gone = |conn: &Conn| conn::local_ip(conn).is_some_and(|local| addresses.contains(&local));
        let gone = self.conns.iter().filter(|(_, (_, conn))| is_gone(conn)).map(|(id, _)| *id);
        for conn in gone.collect::<Vec<_>>() {
            self.conn_input(conn, Input::Closed(conn, "our address has gone from the host"), now);
            self.conns.remove(&conn);
        }
    }

    fn accepted(&mut self, stream: TcpStream, from: SocketAddr, now: Instant) {
        let Some(id) = self.neighbor_at(from.ip()).or_else(|| self.welcome(from.ip(), now)) else {
            if self.strangers.len() < MAX_STRANGERS && self.strangers.insert(from.ip()) {
                tracing::warn!(from = %from.ip(), "refused a connection: the address is no neighbor's");
            }
            return;
        };
        let Some(peer) = self.peers.get(&id) else { return };
        let socket = SockRef::from(&stream);
        if let Err(error) = conn::tune(socket, peer.neighbor.config().hold_time) {
            tracing::debug!(%from, %error, "cannot set socket options");
        }
        // A neighbor of IPv4 may have come to an IPv6 socket; its packets have a TTL all the same.
        let hops = peer.config.ttl_security;
        if let Err(error) = conn::secure_ttl(SockRef::from(&stream), from.is_ipv6(), hops) {
            tracing::warn!(%from, %error, "refused a connection: no TTL security");
            return;
        }
        let conn = self.new_conn();
        self.adopt(id, conn, stream, Direction::Incoming, now);
    }

    pub(super) fn neighbor_at(&self, address: IpAddr) -> Option<PeerId> {
        self.peers.values().find(|peer| peer.config.address == address).map(|peer| peer.id)
    }

    /// A neighbor of a prefix: the longest that holds its address.
    fn welcome(&mut self, address: IpAddr, now: Instant) -> Option<PeerId> {
        let holds = |prefix: Prefix| prefix.is_ipv4() == address.is_ipv4() && prefix.contains(address);
        let entries = self.config.neighbors.iter().filter(|entry| entry.prefix.is_some_and(holds));
        let entry = entries.max_by_key(|entry| entry.prefix.map(Prefix::len))?;
        let brought = self.peers.values().filter(|peer| peer.dynamic == entry.prefix);
        if brought.count() >= entry.max_dynamic {
            tracing::debug!(%address, "the prefix has brought as many neighbors as it may");
            return None;
        }
        let (prefix, neighbor) = (entry.prefix, entry.for_dynamic(address));
        let id = self.free_id();
        self.add_peer(id, &NeighborConfig { prefix: None, ..neighbor }, now);
        let peer = self.peers.get_mut(&id)?;
        peer.dynamic = prefix;
        peer.forget_at = Some(now + FIRST_SESSION);
        self.input(id, Input::Start, now);
        Some(id)
    }

    fn connected(&mut self, conn: ConnId, result: io::Result<TcpStream>, now: Instant) {
        let is_wanted = |peer: &&mut Peer| matches!(&peer.connecting, Some((wanted, _)) if *wanted == conn);
        let Some(peer) = self.peers.values_mut().find(is_wanted) else { return };
        peer.connecting = None;
        let id = peer.id;
        match result {
            Ok(stream) => self.adopt(id, conn, stream, Direction::Outgoing, now),
            Err(error) => self.input(id, Input::ConnectFailed(&format!("cannot connect: {error}")), now),
        }
    }

    fn adopt(&mut self, id: PeerId, conn: ConnId, stream: TcpStream, direction: Direction, now: Instant) {
        self.conns.insert(conn, (id, Conn::spawn(conn, stream, self.conn_events.clone())));
        self.input(id, Input::Opened(conn, direction), now);
    }

    fn conn_input(&mut self, conn: ConnId, input: Input<'_>, now: Instant) {
        if let Some(id) = self.conns.get(&conn).map(|(peer, _)| *peer) {
            self.input(id, input, now);
        }
    }

    pub(super) fn input(&mut self, id: PeerId, input: Input<'_>, now: Instant) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        peer.neighbor.handle_input(input, now);
        self.drain(id, now);
    }

    /// Does what the neighbor says.
    pub(super) fn drain(&mut self, id: PeerId, now: Instant) {
        while let Some(output) = self.peers.get_mut(&id).and_then(|peer| peer.neighbor.poll_output()) {
            let Some(peer) = self.peers.get_mut(&id) else { return };
            match output {
                Output::Connect => self.connect(id),
                Output::StopConnecting => peer.stop_connecting(),
                Output::Send(conn, octets) => self.send(conn, octets),
                Output::Close(conn) => drop(self.conns.remove(&conn)),
                Output::Up(conn, negotiated) => self.up(id, conn, &negotiated, now),
                Output::Update(body) => {
                    if let Err(notification) = self.rib.handle_update(peer.id, &body, now) {
                        peer.neighbor.handle_input(Input::Reset(notification, &body), now);
                    }
                }
                Output::RouteRefresh(body) => {
                    if let Err(notification) = self.rib.handle_route_refresh(peer.id, &body, now) {
                        peer.neighbor.handle_input(Input::Reset(notification, &body), now);
                    }
                }
                Output::Down(reason) => self.down(id, &reason, now),
            }
        }
        if let Some(peer) = self.peers.get_mut(&id) {
            peer.log_failure();
            let (from, to) =
                (std::mem::replace(&mut peer.told, peer.neighbor.state()), peer.neighbor.state());
            let error = peer.neighbor.last_error().filter(|_| to < from);
            if from != to {
                let (neighbor, cause) = (peer.config.address, error.map(|error| error.reason.to_string()));
                self.monitor.tell(|| MonitorKind::Session { neighbor, from, to, cause });
            }
        }
    }

    fn up(&mut self, id: PeerId, conn: ConnId, negotiated: &Negotiated, now: Instant) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        let address = peer.config.address;
        tracing::info!(peer = %address, asn = %negotiated.peer_asn, hold_time = negotiated.hold_time, "established");
        peer.established_at = Some(SystemTime::now());
        peer.local_address = self.conns.get(&conn).and_then(|(_, conn)| conn::local_ip(conn));
        // Who restarts gracefully says when it has said everything.
        let says_end = negotiated.restart.theirs.is_some() && negotiated.restart.ours.is_some();
        let is_filtering = negotiated.families.contains(Family::Rtc);
        peer.memberships_due = (is_filtering && !says_end).then(|| now + MEMBERSHIPS);
        peer.restart_until = None;
        peer.forget_failure();
        peer.agreed = Some(negotiated.clone());
        let policy = peer.config.policy();
        // If the session is lost now, that is no restart, and forwarding goes on.
        peer.neighbor.offer_restart(self.config.session(&peer.config, false).restart);
        self.rib.peer_up(peer.id, policy, negotiated, now);
        self.tell(SpeakerEvent::NeighborUp(address));
    }

    fn down(&mut self, id: PeerId, reason: &DownReason, now: Instant) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        let address = peer.config.address;
        let how = peer.agreed.as_ref().map(|agreed| agreed.after(reason, now)).unwrap_or_default();
        let routes = if how == PeerDown::Purge { "gone" } else { "kept" };
        tracing::warn!(peer = %address, %reason, routes, "down");
        peer.went_down(&how, now);
        if how == PeerDown::Purge {
            peer.agreed = None;
        }
        self.rib.peer_down(peer.id, how, now);
        self.tell(SpeakerEvent::NeighborDown(address, reason.to_string()));
    }

    /// RFC 4684 §6 lets VPN routes wait a minute for the neighbor's memberships and their End-of-RIB. Some (GoBGP) send
    /// that only to who offers graceful restart (RFC 4724), and a minute is too long for a pod: who has said nothing
    /// for a moment after the session came up has nothing to add.
    pub(super) fn presume_memberships(&mut self, id: PeerId, now: Instant) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        if peer.memberships_due.take_if(|due| *due <= now).is_none() {
            return;
        }
        if !self.rib.end_of_rib_heard(peer.id).contains(Family::Rtc)
            && let Err(error) = self.rib.handle_update(peer.id, RTC_END_OF_RIB, now)
        {
            tracing::debug!(peer = %peer.config.address, %error, "no end of memberships");
        }
    }

    fn connect(&mut self, id: PeerId) {
        let conn = self.new_conn();
        let Some(peer) = self.peers.get_mut(&id) else { return };
        let (neighbor, hold_time) = (peer.config.clone(), peer.neighbor.config().hold_time);
        let events = self.conn_events.clone();
        let task = tokio::spawn(async move {
            let result = conn::connect(&neighbor, hold_time).await;
            let _ = events.send(ConnEvent::Connected(conn, result)).await;
        });
        peer.stop_connecting();
        peer.connecting = Some((conn, task.abort_handle()));
    }

    pub(super) fn send(&mut self, conn: ConnId, octets: Bytes) {
        if self.conns.get(&conn).is_none_or(|(_, conn)| conn.send(octets)) {
            return;
        }
        // A neighbor gives a connection no more than it can hold, so its task has ended, and has said so or will.
        tracing::debug!(conn = conn.0, "connection takes no more");
    }

    fn new_conn(&mut self) -> ConnId {
        self.next_conn += 1;
        ConnId(self.next_conn)
    }
}

/// Strangers that are logged, each once.
const MAX_STRANGERS: usize = 64;
/// How long a neighbor that a prefix brought may take for its first session.
const FIRST_SESSION: Duration = Duration::from_secs(120);
/// How long to wait for the neighbor's memberships.
const MEMBERSHIPS: Duration = Duration::from_secs(2);
/// The body of an UPDATE with an empty MP_UNREACH_NLRI for 1/132 (RFC 4724 §2).
const RTC_END_OF_RIB: &[u8] = &[0, 0, 0, 6, 0x80, 15, 3, 0, 1, 132];
