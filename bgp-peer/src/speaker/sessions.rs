//! Between connections and neighbors: what arrives, and what the neighbors say to do.

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant, SystemTime};

use bgp_core::{ConnId, Direction, DownReason, Family, Input, Negotiated, Output, PeerPolicy};
use bytes::Bytes;
use socket2::SockRef;
use tokio::net::TcpStream;

use super::{SpeakerEvent, Task};
use crate::conn::{self, Conn, ConnEvent};
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

    fn accepted(&mut self, stream: TcpStream, from: SocketAddr, now: Instant) {
        let Some(index) = self.peers.iter().position(|peer| peer.config.address == from.ip()) else {
            if self.strangers.len() < MAX_STRANGERS && self.strangers.insert(from.ip()) {
                tracing::warn!(from = %from.ip(), "refused a connection: the address is no neighbor's");
            }
            return;
        };
        let Some(peer) = self.peers.get(index) else { return };
        if let Err(error) = conn::tune(SockRef::from(&stream), peer.neighbor.config().hold_time) {
            tracing::debug!(%from, %error, "cannot set socket options");
        }
        let conn = self.new_conn();
        self.adopt(index, conn, stream, Direction::Incoming, now);
    }

    fn connected(&mut self, conn: ConnId, result: io::Result<TcpStream>, now: Instant) {
        let is_wanted = |peer: &Peer| matches!(&peer.connecting, Some((wanted, _)) if *wanted == conn);
        let Some(index) = self.peers.iter().position(is_wanted) else { return };
        if let Some(peer) = self.peers.get_mut(index) {
            peer.connecting = None;
        }
        match result {
            Ok(stream) => self.adopt(index, conn, stream, Direction::Outgoing, now),
            Err(error) => self.input(index, Input::ConnectFailed(&format!("cannot connect: {error}")), now),
        }
    }

    fn adopt(&mut self, index: usize, id: ConnId, stream: TcpStream, direction: Direction, now: Instant) {
        let Some(peer) = self.peers.get(index) else { return };
        self.conns.insert(id, (peer.id, Conn::spawn(id, stream, self.conn_events.clone())));
        self.input(index, Input::Opened(id, direction), now);
    }

    fn conn_input(&mut self, conn: ConnId, input: Input<'_>, now: Instant) {
        if let Some(index) = self.conns.get(&conn).map(|(peer, _)| peer.0 as usize) {
            self.input(index, input, now);
        }
    }

    pub(super) fn input(&mut self, index: usize, input: Input<'_>, now: Instant) {
        let Some(peer) = self.peers.get_mut(index) else { return };
        peer.neighbor.handle_input(input, now);
        self.drain(index, now);
    }

    /// Does what the neighbor says.
    pub(super) fn drain(&mut self, index: usize, now: Instant) {
        while let Some(output) = self.peers.get_mut(index).and_then(|peer| peer.neighbor.poll_output()) {
            let Some(peer) = self.peers.get_mut(index) else { return };
            match output {
                Output::Connect => self.connect(index),
                Output::StopConnecting => peer.stop_connecting(),
                Output::Send(conn, octets) => self.send(conn, octets),
                Output::Close(conn) => drop(self.conns.remove(&conn)),
                Output::Up(conn, negotiated) => self.up(index, conn, &negotiated, now),
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
                Output::Down(reason) => self.down(index, &reason, now),
            }
        }
        if let Some(peer) = self.peers.get_mut(index) {
            peer.log_failure();
        }
    }

    fn up(&mut self, index: usize, conn: ConnId, negotiated: &Negotiated, now: Instant) {
        let Some(peer) = self.peers.get_mut(index) else { return };
        let address = peer.config.address;
        tracing::info!(peer = %address, asn = %negotiated.peer_asn, hold_time = negotiated.hold_time, "established");
        peer.established_at = Some(SystemTime::now());
        peer.local_address = self.conns.get(&conn).and_then(|(_, conn)| conn::local_ip(conn));
        peer.memberships_due = negotiated.families.contains(Family::Rtc).then(|| now + MEMBERSHIPS);
        peer.forget_failure();
        let policy = PeerPolicy { address, default_encap: peer.config.default_encap };
        self.rib.peer_up(peer.id, policy, negotiated, now);
        self.tell(SpeakerEvent::NeighborUp(address));
    }

    fn down(&mut self, index: usize, reason: &DownReason, now: Instant) {
        let Some(peer) = self.peers.get_mut(index) else { return };
        let address = peer.config.address;
        tracing::warn!(peer = %address, %reason, "down");
        peer.established_at = None;
        peer.memberships_due = None;
        self.rib.peer_down(peer.id, now);
        self.tell(SpeakerEvent::NeighborDown(address, reason.to_string()));
    }

    /// RFC 4684 §6 lets VPN routes wait a minute for the neighbor's memberships and their End-of-RIB. Some (GoBGP) send
    /// that only to who offers graceful restart (RFC 4724), and a minute is too long for a pod: who has said nothing
    /// for a moment after the session came up has nothing to add.
    pub(super) fn presume_memberships(&mut self, index: usize, now: Instant) {
        let Some(peer) = self.peers.get_mut(index) else { return };
        if peer.memberships_due.take_if(|due| *due <= now).is_none() {
            return;
        }
        if !self.rib.end_of_rib_heard(peer.id).contains(Family::Rtc)
            && let Err(error) = self.rib.handle_update(peer.id, RTC_END_OF_RIB, now)
        {
            tracing::debug!(peer = %peer.config.address, %error, "no end of memberships");
        }
    }

    fn connect(&mut self, index: usize) {
        let conn = self.new_conn();
        let Some(peer) = self.peers.get_mut(index) else { return };
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
/// How long to wait for the neighbor's memberships.
const MEMBERSHIPS: Duration = Duration::from_secs(2);
/// The body of an UPDATE with an empty MP_UNREACH_NLRI for 1/132 (RFC 4724 §2).
const RTC_END_OF_RIB: &[u8] = &[0, 0, 0, 6, 0x80, 15, 3, 0, 1, 132];
