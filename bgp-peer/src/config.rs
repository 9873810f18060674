//! What a speaker is told: its own side, and each neighbor. Parsing is elsewhere; what no session could work with is
//! refused here.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use bgp_core::{FamilySet, PeerPolicy, RestartOffer, SessionConfig};
use vrouter_types::{Asn, Encap, Prefix};

/// Our side of all sessions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpeakerConfig {
    /// The local AS number.
    pub asn: Asn,
    /// The BGP identifier.
    pub router_id: Ipv4Addr,
    /// The cluster identifier (RFC 4456 §7); absent: the BGP identifier.
    pub cluster_id: Option<Ipv4Addr>,
    /// The hold time that we propose, in seconds: 0, or at least 3.
    pub hold_time: u16,
    /// Where to listen; absent: only connect. `[::]:179` takes both IP versions. The address may be one that the host
    /// does not have yet.
    pub listen: Option<SocketAddr>,
    /// Who may be spoken to.
    pub neighbors: Vec<NeighborConfig>,
    /// How many received paths are kept at most.
    pub max_paths: usize,
    /// Whether routes outlive a session (RFC 4724, RFC 8538, RFC 9494), unless a neighbor's entry says otherwise.
    pub graceful_restart: bool,
    /// How long neighbors are asked to wait for us, in seconds: at most 4,095.
    pub restart_time: u16,
    /// How long they are asked to keep our routes after that, in seconds, and how long we keep theirs at most; 0: not.
    pub long_lived_stale_time: u32,
    /// Whether forwarding went on while this speaker was not there: it is told to neighbors until the restart time is
    /// over. Later it always did.
    pub forwarding_kept: bool,
    /// Whether [`SpeakerHandle::local_routes_complete`](crate::SpeakerHandle::local_routes_complete) will be called:
    /// until then, or the end of the restart time, neighbors are not told that they know all our routes.
    pub await_local_routes: bool,
}

impl Default for SpeakerConfig {
    /// Without an AS number and an identifier, which every speaker must have.
    fn default() -> SpeakerConfig {
        SpeakerConfig {
            asn: Asn(0),
            router_id: Ipv4Addr::UNSPECIFIED,
            cluster_id: None,
            hold_time: 90,
            listen: None,
            neighbors: Vec::new(),
            max_paths: 1_000_000,
            graceful_restart: true,
            restart_time: 120,
            long_lived_stale_time: 86_400,
            forwarding_kept: false,
            await_local_routes: false,
        }
    }
}

/// One neighbor, or all neighbors of a prefix.
#[derive(Clone, PartialEq, Eq)]
pub struct NeighborConfig {
    /// Its address: where we connect to, and where its connections come from.
    pub address: IpAddr,
    /// Whoever connects from here is a neighbor with this configuration, and forgotten soon after its session is gone;
    /// the address does not count, and we never connect.
    pub prefix: Option<Prefix>,
    /// How many neighbors the prefix may bring at a time.
    pub max_dynamic: usize,
    /// The TCP port that it listens on.
    pub port: u16,
    /// The AS number that it must have.
    pub asn: Asn,
    /// The key for TCP MD5 signatures (RFC 2385), 1 to 80 octets.
    pub password: Option<Vec<u8>>,
    /// How many hops away it is at most (RFC 5082): 1 for a neighbor on the same link.
    pub ttl_security: Option<u8>,
    /// Instead of the speaker's.
    pub hold_time: Option<u16>,
    /// Seconds between KEEPALIVEs; absent, or more than that: a third of the agreed hold time.
    pub keepalive_time: Option<u16>,
    /// About how many seconds between attempts to connect; absent: rising to half a minute.
    pub connect_retry: Option<u16>,
    /// Never connect, only listen.
    pub passive: bool,
    /// The address that we connect from. It may be one that the host does not have yet.
    pub local_address: Option<IpAddr>,
    /// For people.
    pub description: Option<String>,
    /// For routes that name no encapsulation.
    pub default_encap: Option<Encap>,
    /// The families that we offer.
    pub families: FamilySet,
    /// Whether we are its route reflector (RFC 4456).
    pub route_reflector_client: bool,
    /// How many of its routes are taken; one more ends the session.
    pub max_prefixes: Option<u32>,
    /// When a session that ended so is tried again, in seconds; absent: once somebody clears it.
    pub max_prefixes_restart: Option<u32>,
    /// Instead of the speaker's.
    pub graceful_restart: Option<bool>,
}

impl Default for NeighborConfig {
    /// Without an address and an AS number, which every neighbor must have.
    fn default() -> NeighborConfig {
        NeighborConfig {
            address: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            prefix: None,
            max_dynamic: 100,
            port: 179,
            asn: Asn(0),
            password: None,
            ttl_security: None,
            hold_time: None,
            keepalive_time: None,
            connect_retry: None,
            passive: false,
            local_address: None,
            description: None,
            default_encap: None,
            families: FamilySet::L3VPN,
            route_reflector_client: false,
            max_prefixes: None,
            max_prefixes_restart: None,
            graceful_restart: None,
        }
    }
}

impl fmt::Debug for NeighborConfig {
    /// What tells neighbors apart; never the key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NeighborConfig")
            .field("address", &self.address)
            .field("prefix", &self.prefix)
            .field("port", &self.port)
            .field("asn", &self.asn)
            .field("password", &self.password.as_ref().map(|_| "…"))
            .field("passive", &self.passive)
            .field("description", &self.description)
            .field("families", &self.families)
            .finish_non_exhaustive()
    }
}

impl NeighborConfig {
    /// Its key in the configuration.
    pub(crate) fn name(&self) -> (IpAddr, Option<Prefix>) {
        (self.prefix.map_or(self.address, Prefix::addr), self.prefix)
    }

    /// This entry for one neighbor of its prefix.
    pub(crate) fn for_dynamic(&self, address: IpAddr) -> NeighborConfig {
        NeighborConfig { address, passive: true, ..self.clone() }
    }

    /// What concerns its routes and not its session.
    pub(crate) fn policy(&self) -> PeerPolicy {
        PeerPolicy {
            default_encap: self.default_encap,
            route_reflector_client: self.route_reflector_client,
            max_prefixes: self.max_prefixes.and_then(|most| usize::try_from(most).ok()),
            ..PeerPolicy::new(self.address)
        }
    }
}

/// Why a speaker cannot begin.
#[derive(Debug, thiserror::Error)]
pub enum SpeakerError {
    /// The listen address is taken, or is not ours.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The kernel takes no key for this neighbor.
    #[error("cannot set the TCP MD5 key of neighbor {neighbor}: {source}")]
    Password {
        /// Whose.
        neighbor: IpAddr,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A key that TCP MD5 cannot hold.
    #[error("the TCP MD5 key of neighbor {neighbor} has {length} octets (want 1 to 80)")]
    PasswordLength {
        /// Whose.
        neighbor: IpAddr,
        /// Its octets.
        length: usize,
    },
    /// Two neighbors with one address.
    #[error("neighbor {0} is configured twice")]
    Duplicate(IpAddr),
    /// A neighbor with which nothing could be exchanged.
    #[error("neighbor {0} has no address family")]
    NoFamily(IpAddr),
    /// A number of hops that no packet can make.
    #[error("neighbor {0}: no TTL security over 0 hops (want 1 to 255)")]
    TtlSecurity(IpAddr),
    /// Something that a running speaker cannot change.
    #[error("{0} cannot change while the speaker runs")]
    Fixed(&'static str),
    /// The speaker has ended.
    #[error("the speaker has ended")]
    Ended,
    /// A hold time that RFC 4271 forbids.
    #[error("hold time {0} is neither 0 nor at least 3")]
    HoldTime(u16),
    /// The AS number 0 (RFC 7607).
    #[error("AS number 0 is reserved")]
    ZeroAsn,
    /// The BGP identifier 0.0.0.0.
    #[error("router ID 0.0.0.0 is not valid")]
    ZeroRouterId,
    /// There is no runtime to spawn on.
    #[error("a speaker needs a tokio runtime")]
    NoRuntime,
}

impl SpeakerConfig {
    /// Refuses what no session could work with.
    pub(crate) fn check(&self) -> Result<(), SpeakerError> {
        if self.router_id.is_unspecified() {
            return Err(SpeakerError::ZeroRouterId);
        }
        if self.asn.0 == 0 || self.neighbors.iter().any(|neighbor| neighbor.asn.0 == 0) {
            return Err(SpeakerError::ZeroAsn);
        }
        let hold_times = self.neighbors.iter().filter_map(|neighbor| neighbor.hold_time);
        if let Some(wrong) = hold_times.chain([self.hold_time]).find(|seconds| matches!(seconds, 1 | 2)) {
            return Err(SpeakerError::HoldTime(wrong));
        }
        for (index, neighbor) in self.neighbors.iter().enumerate() {
            if neighbor.families.is_empty() {
                return Err(SpeakerError::NoFamily(neighbor.address));
            }
            if neighbor.ttl_security == Some(0) {
                return Err(SpeakerError::TtlSecurity(neighbor.address));
            }
            let length = neighbor.password.as_ref().map_or(1, Vec::len);
            if !(1..=80).contains(&length) {
                return Err(SpeakerError::PasswordLength { neighbor: neighbor.address, length });
            }
            if self.neighbors.iter().take(index).any(|earlier| earlier.name() == neighbor.name()) {
                return Err(SpeakerError::Duplicate(neighbor.name().0));
            }
        }
        Ok(())
    }

    /// Whether any neighbor is a client of ours (RFC 4456).
    pub(crate) fn is_reflector(&self) -> bool {
        self.neighbors.iter().any(|neighbor| neighbor.route_reflector_client)
    }

    /// What we bring to the session with this neighbor; `restarting`: we have not been here for long.
    pub(crate) fn session(&self, neighbor: &NeighborConfig, restarting: bool) -> SessionConfig {
        SessionConfig {
            local_asn: self.asn,
            local_router_id: self.router_id,
            peer_asn: neighbor.asn,
            hold_time: neighbor.hold_time.unwrap_or(self.hold_time),
            families: neighbor.families,
            keepalive_time: neighbor.keepalive_time,
            connect_retry: neighbor.connect_retry,
            restart: neighbor.graceful_restart.unwrap_or(self.graceful_restart).then_some(RestartOffer {
                restarting,
                forwarding_kept: self.forwarding_kept || !restarting,
                restart_time: self.restart_time,
                long_lived_stale_time: self.long_lived_stale_time,
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> SpeakerConfig {
        let neighbor = NeighborConfig {
            address: IpAddr::from([192, 0, 2, 1]),
            asn: Asn(64512),
            ..NeighborConfig::default()
        };
        SpeakerConfig {
            asn: Asn(64512),
            router_id: Ipv4Addr::new(192, 0, 2, 11),
            neighbors: vec![neighbor],
            ..SpeakerConfig::default()
        }
    }

    #[test]
    fn what_no_session_could_work_with_is_refused() {
        assert!(config().check().is_ok());
        let wrong = |change: fn(&mut SpeakerConfig)| {
            let mut config = config();
            change(&mut config);
            config.check().unwrap_err()
        };
        assert!(matches!(wrong(|c| c.asn = Asn(0)), SpeakerError::ZeroAsn));
        assert!(matches!(wrong(|c| c.neighbors[0].asn = Asn(0)), SpeakerError::ZeroAsn));
        assert!(matches!(wrong(|c| c.hold_time = 2), SpeakerError::HoldTime(2)));
        assert!(matches!(wrong(|c| c.neighbors[0].hold_time = Some(1)), SpeakerError::HoldTime(1)));
        assert!(matches!(wrong(|c| c.router_id = Ipv4Addr::UNSPECIFIED), SpeakerError::ZeroRouterId));
        assert!(matches!(wrong(|c| c.neighbors.push(c.neighbors[0].clone())), SpeakerError::Duplicate(_)));
        assert!(matches!(wrong(|c| c.neighbors[0].families = FamilySet::EMPTY), SpeakerError::NoFamily(_)));
        assert!(matches!(wrong(|c| c.neighbors[0].ttl_security = Some(0)), SpeakerError::TtlSecurity(_)));
        let password = wrong(|c| c.neighbors[0].password = Some(vec![b'x'; 81]));
        assert!(matches!(password, SpeakerError::PasswordLength { length: 81, .. }));
    }

    #[test]
    fn the_key_is_never_printed() {
        let mut config = config();
        config.neighbors[0].password = Some(b"hunter2".to_vec());
        assert!(!format!("{config:?}").contains("hunter2"));
        assert!(!format!("{config:?}").contains("104, 117"));
    }
}
