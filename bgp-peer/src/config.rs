use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use bgp_core::{FamilySet, SessionConfig};
use vrouter_types::{Asn, Encap};

/// Our side of all sessions.
#[derive(Debug, Clone)]
pub struct SpeakerConfig {
    /// The local AS number.
    pub asn: Asn,
    /// The BGP identifier.
    pub router_id: Ipv4Addr,
    /// The hold time that we propose, in seconds: 0, or at least 3.
    pub hold_time: u16,
    /// Where to listen; absent: only connect. `[::]:179` takes both IP versions.
    pub listen: Option<SocketAddr>,
    /// Who may be spoken to.
    pub neighbors: Vec<NeighborConfig>,
    /// How many received paths are kept at most.
    pub max_paths: usize,
}

/// One neighbor.
#[derive(Clone)]
pub struct NeighborConfig {
    /// Its address: where we connect to, and where its connections come from.
    pub address: IpAddr,
    /// The TCP port that it listens on.
    pub port: u16,
    /// The AS number that it must have.
    pub asn: Asn,
    /// The key for TCP MD5 signatures (RFC 2385), 1 to 80 octets.
    pub password: Option<Vec<u8>>,
    /// Instead of the speaker's.
    pub hold_time: Option<u16>,
    /// Never connect, only listen.
    pub passive: bool,
    /// The address that we connect from.
    pub local_address: Option<IpAddr>,
    /// For people.
    pub description: Option<String>,
    /// For routes that name no encapsulation.
    pub default_encap: Option<Encap>,
    /// The families that we offer.
    pub families: FamilySet,
}

impl fmt::Debug for NeighborConfig {
    /// Everything but the key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NeighborConfig")
            .field("address", &self.address)
            .field("port", &self.port)
            .field("asn", &self.asn)
            .field("password", &self.password.as_ref().map(|_| "…"))
            .field("hold_time", &self.hold_time)
            .field("passive", &self.passive)
            .field("local_address", &self.local_address)
            .field("description", &self.description)
            .field("default_encap", &self.default_encap)
            .field("families", &self.families)
            .finish()
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
            let length = neighbor.password.as_ref().map_or(1, Vec::len);
            if !(1..=80).contains(&length) {
                return Err(SpeakerError::PasswordLength { neighbor: neighbor.address, length });
            }
            if self.neighbors.iter().take(index).any(|earlier| earlier.address == neighbor.address) {
                return Err(SpeakerError::Duplicate(neighbor.address));
            }
        }
        Ok(())
    }

    /// What we bring to the session with this neighbor.
    pub(crate) fn session(&self, neighbor: &NeighborConfig) -> SessionConfig {
        SessionConfig {
            local_asn: self.asn,
            local_router_id: self.router_id,
            peer_asn: neighbor.asn,
            hold_time: neighbor.hold_time.unwrap_or(self.hold_time),
            families: neighbor.families,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> SpeakerConfig {
        let neighbor = NeighborConfig {
            address: IpAddr::from([192, 0, 2, 1]),
            port: 179,
            asn: Asn(64512),
            password: None,
            hold_time: None,
            passive: false,
            local_address: None,
            description: None,
            default_encap: None,
            families: FamilySet::L3VPN,
        };
        SpeakerConfig {
            asn: Asn(64512),
            router_id: Ipv4Addr::new(192, 0, 2, 11),
            hold_time: 90,
            listen: None,
            neighbors: vec![neighbor],
            max_paths: 1000,
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
