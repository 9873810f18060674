//! What an operator changes while sessions run: one is cleared, or the configuration is another.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bgp_core::wire::header;
use bgp_core::wire::route_refresh::RouteRefresh;
use bgp_core::{Family, Input, Notification, PeerDown, PeerId};
use bytes::BytesMut;
use vrouter_types::Prefix;

use super::Task;
use crate::config::{NeighborConfig, SpeakerConfig, SpeakerError};
use crate::conn;

/// What to do anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClearKind {
    /// The session, and with it all routes; also one that a prefix limit ended.
    Hard,
    /// What the neighbor tells us.
    SoftIn,
    /// What we tell the neighbor.
    SoftOut,
}

/// Why a neighbor cannot be cleared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ClearError {
    /// Nobody has this address.
    #[error("{0} is no neighbor")]
    NoNeighbor(IpAddr),
    /// There is no session.
    #[error("there is no session with {0}")]
    NoSession(IpAddr),
    /// It knows no ROUTE-REFRESH (RFC 2918).
    #[error("{0} cannot be asked for its routes once more: it knows no route refresh")]
    NoRefresh(IpAddr),
    /// The speaker has ended.
    #[error("the speaker has ended")]
    Ended,
}

/// What another configuration has changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// For which neighbor, or all of a prefix; absent: where we listen.
    pub neighbor: Option<IpAddr>,
    /// The prefix.
    pub prefix: Option<Prefix>,
    /// What.
    pub kind: ChangeKind,
}

/// The kinds of change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChangeKind {
    /// It is new.
    Added,
    /// It is a neighbor no more.
    Removed,
    /// Its session begins anew; with graceful restart, its routes stay meanwhile.
    Reset,
    /// Its session goes on with another key.
    Rekeyed,
    /// Its session goes on.
    Updated,
    /// We listen elsewhere.
    Listen,
}

impl Task {
    pub(super) fn clear(&mut self, address: IpAddr, kind: ClearKind, now: Instant) -> Result<(), ClearError> {
        let id = self.neighbor_at(address).ok_or(ClearError::NoNeighbor(address))?;
        let peer = self.peers.get_mut(&id).ok_or(ClearError::NoNeighbor(address))?;
        if kind == ClearKind::Hard {
            (peer.is_over_limit, peer.limit_ends, peer.restart_until) = (false, None, None);
            self.restart(id, Notification::administrative_reset(), now);
            // Whatever is kept of an earlier session goes too.
            self.rib.peer_down(id, PeerDown::Purge, now);
            return Ok(());
        }
        let agreed = peer.neighbor.negotiated().ok_or(ClearError::NoSession(address))?;
        if !agreed.route_refresh {
            return Err(ClearError::NoRefresh(address));
        }
        match kind {
            ClearKind::SoftIn => peer.refresh_due = agreed.families,
            ClearKind::Hard | ClearKind::SoftOut => {
                let families: Vec<Family> = agreed.families.iter().collect();
                families.into_iter().for_each(|family| self.tell_again(id, family, now));
            }
        }
        Ok(())
    }

    /// As if the neighbor had asked for it.
    fn tell_again(&mut self, id: PeerId, family: Family, now: Instant) {
        let mut message = BytesMut::new();
        RouteRefresh::Request(family).encode(&mut message);
        if let Err(error) =
            self.rib.handle_route_refresh(id, message.get(header::LEN..).unwrap_or_default(), now)
        {
            tracing::debug!(%error, "not told again");
        }
    }

    fn restart(&mut self, id: PeerId, why: Notification, now: Instant) {
        self.input(id, Input::End(why), now);
        self.input(id, Input::Start, now);
    }

    /// RFC 4486 §4: the neighbor is told, and left alone.
    pub(super) fn over_limit(&mut self, id: PeerId, now: Instant) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        let wait = peer.config.max_prefixes_restart;
        tracing::warn!(peer = %peer.config.address, most = peer.config.max_prefixes, "sends more routes than it may");
        peer.is_over_limit = true;
        peer.limit_ends = wait.map(|seconds| now + Duration::from_secs(seconds.into()));
        self.input(id, Input::End(Notification::maximum_prefixes()), now);
    }

    /// It has been left alone for long enough.
    pub(super) fn try_again(&mut self, id: PeerId, now: Instant) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        if peer.limit_ends.take_if(|ends| *ends <= now).is_some() {
            peer.is_over_limit = false;
            self.input(id, Input::Start, now);
        }
    }

    /// From the next OPEN on, we have not just started.
    pub(super) fn restart_is_over(&mut self) {
        for peer in self.peers.values_mut() {
            peer.neighbor.offer_restart(self.config.session(&peer.config, false).restart);
        }
    }

    pub(super) fn free_id(&self) -> PeerId {
        // Numbers up to that of the configuration's last entry are those of its neighbors.
        let configured = u32::try_from(self.config.neighbors.len()).unwrap_or(u32::MAX);
        let free = (configured..u32::MAX).map(PeerId).find(|id| !self.peers.contains_key(id));
        free.unwrap_or(PeerId(u32::MAX))
    }

    pub(super) fn remove_peer(&mut self, id: PeerId, now: Instant) {
        self.input(id, Input::End(Notification::peer_deconfigured()), now);
        self.rib.peer_down(id, PeerDown::Purge, now);
        if let Some(mut peer) = self.peers.remove(&id) {
            peer.stop_connecting();
        }
        self.conns.retain(|_, (owner, _)| *owner != id);
    }

    /// What the RIB and every session are built on.
    fn check_fixed(&self, new: &SpeakerConfig) -> Result<(), SpeakerError> {
        let old = &self.config;
        if new.asn != old.asn {
            return Err(SpeakerError::Fixed("the AS number"));
        }
        let cluster = |config: &SpeakerConfig| config.cluster_id.unwrap_or(config.router_id);
        if new.router_id != old.router_id || cluster(new) != cluster(old) {
            return Err(SpeakerError::Fixed("the identifier of the router or its cluster"));
        }
        if new.max_paths != old.max_paths {
            return Err(SpeakerError::Fixed("the limit of paths"));
        }
        Ok(())
    }

    /// Listens where and to whom the new configuration says. `true`: elsewhere. A new address that the old one covers
    /// (192.0.2.1 after 0.0.0.0) is taken until the speaker ends.
    fn listen_as(&mut self, new: &SpeakerConfig) -> Result<bool, SpeakerError> {
        if new.listen != self.config.listen {
            self.listener = new.listen.map(|address| conn::listen(new, address)).transpose()?;
            self.accept();
            return Ok(true);
        }
        if let (Some(listener), Some(address)) = (&self.listener, new.listen) {
            rekey_listener(listener, address, &self.config.neighbors, &new.neighbors)?;
            conn::secure_listener(listener, address, &new.neighbors)
                .map_err(|source| SpeakerError::Listen { address, source })?;
        }
        Ok(false)
    }

    pub(super) fn reconfigure(
        &mut self,
        new: SpeakerConfig,
        now: Instant,
    ) -> Result<Vec<Change>, SpeakerError> {
        new.check()?;
        self.check_fixed(&new)?;
        let mut changes = Vec::new();
        if self.listen_as(&new)? {
            changes.push(Change { neighbor: None, prefix: None, kind: ChangeKind::Listen });
        }
        let old = std::mem::replace(&mut self.config, new);
        if self.config.is_reflector() != old.is_reflector() {
            self.rib.set_reflector(self.config.is_reflector(), now);
        }
        let names =
            |config: &SpeakerConfig| config.neighbors.iter().map(NeighborConfig::name).collect::<Vec<_>>();
        let after = names(&self.config);
        for entry in old.neighbors.iter().filter(|entry| !after.contains(&entry.name())) {
            for id in self.peers_of(entry) {
                self.remove_peer(id, now);
            }
            changes.push(change(entry, ChangeKind::Removed));
        }
        let entries = self.config.neighbors.clone();
        for entry in &entries {
            let earlier = old.neighbors.iter().find(|earlier| earlier.name() == entry.name());
            let kind = match earlier {
                Some(earlier) => self.reconfigure_entry(&old, earlier, entry, now),
                None => {
                    self.add_entry(entry, now);
                    Some(ChangeKind::Added)
                }
            };
            changes.extend(kind.map(|kind| change(entry, kind)));
        }
        Ok(changes)
    }

    fn add_entry(&mut self, entry: &NeighborConfig, now: Instant) {
        if entry.prefix.is_none() {
            // Perhaps a prefix brought it before.
            if let Some(id) = self.neighbor_at(entry.address) {
                self.remove_peer(id, now);
            }
            let id = self.free_id();
            self.add_peer(id, entry, now);
            self.input(id, Input::Start, now);
        }
    }

    /// The neighbors that an entry of the configuration stands for.
    fn peers_of(&self, entry: &NeighborConfig) -> Vec<PeerId> {
        let peers = self.peers.values().filter(|peer| match entry.prefix {
            Some(prefix) => peer.dynamic == Some(prefix),
            None => peer.dynamic.is_none() && peer.config.address == entry.address,
        });
        peers.map(|peer| peer.id).collect()
    }

    /// Touches a session only if it could not have become what it is with the new configuration.
    fn reconfigure_entry(
        &mut self,
        old: &SpeakerConfig,
        earlier: &NeighborConfig,
        entry: &NeighborConfig,
        now: Instant,
    ) -> Option<ChangeKind> {
        let session = self.config.session(entry, false);
        let is_other_session = session != old.session(earlier, false)
            || earlier.policy() != entry.policy()
            || earlier.passive != entry.passive
            || earlier.port != entry.port
            || earlier.local_address != entry.local_address
            || earlier.ttl_security != entry.ttl_security
            || earlier.password.is_some() != entry.password.is_some();
        let is_rekeyed = !is_other_session && earlier.password != entry.password;
        for id in self.peers_of(entry) {
            let Some(peer) = self.peers.get_mut(&id) else { continue };
            let config = match entry.prefix {
                Some(_) => NeighborConfig { prefix: None, ..entry.for_dynamic(peer.config.address) },
                None => entry.clone(),
            };
            let address = config.address;
            peer.config = config;
            if is_rekeyed && let Some(key) = &entry.password {
                let conns = self.conns.values().filter(|(owner, _)| *owner == id);
                for (_, conn) in conns {
                    if let Err(error) = conn.rekey(address, key) {
                        tracing::warn!(peer = %address, %error, "cannot change the key");
                    }
                }
            }
            if is_other_session {
                peer.neighbor.reconfigure(session.clone(), entry.passive || entry.prefix.is_some());
                let is_silent = peer.is_over_limit;
                self.input(id, Input::End(Notification::configuration_change()), now);
                if !is_silent {
                    self.input(id, Input::Start, now);
                }
            }
        }
        match (is_other_session, is_rekeyed, earlier == entry) {
            (true, _, _) => Some(ChangeKind::Reset),
            (false, true, _) => Some(ChangeKind::Rekeyed),
            (false, false, false) => Some(ChangeKind::Updated),
            (false, false, true) => None,
        }
    }
}

fn change(entry: &NeighborConfig, kind: ChangeKind) -> Change {
    Change { neighbor: Some(entry.name().0), prefix: entry.prefix, kind }
}

/// Gives the listener the keys that have changed, and takes those away that are not wanted any more.
fn rekey_listener(
    listener: &Arc<tokio::net::TcpListener>,
    address: std::net::SocketAddr,
    old: &[NeighborConfig],
    new: &[NeighborConfig],
) -> Result<(), SpeakerError> {
    let find = |list: &[NeighborConfig], name| list.iter().find(|entry| entry.name() == name).cloned();
    for entry in old.iter().filter(|entry| entry.password.is_some()) {
        if find(new, entry.name()).is_none_or(|now| now.password.is_none()) {
            conn::set_listener_key(listener, address, &NeighborConfig { password: None, ..entry.clone() })?;
        }
    }
    for entry in new.iter().filter(|entry| entry.password.is_some()) {
        if find(old, entry.name()).is_none_or(|before| before.password != entry.password) {
            conn::set_listener_key(listener, address, entry)?;
        }
    }
    Ok(())
}
