//! Looking at a speaker.

use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, SystemTime};

use bgp_core::{FamilySet, MessageCounts, PeerCounts, PeerId, RestartTerms, State};
use vrouter_types::{Asn, Encap, Prefix};

/// The speaker in one screen.
#[derive(Debug, Clone, PartialEq)]
pub struct SpeakerSummary {
    /// The BGP identifier.
    pub router_id: Ipv4Addr,
    /// The local AS number.
    pub asn: Asn,
    /// In the order of the configuration.
    pub neighbors: Vec<NeighborView>,
    /// VPN routes held: received and kept, and our own.
    pub routes: usize,
}

/// All about one neighbor.
#[derive(Debug, Clone, PartialEq)]
pub struct NeighborView {
    /// Its number: that of its routes' [`PathSource`](crate::PathSource). It stays while the neighbor is configured.
    pub id: PeerId,
    /// The prefix that brought it, if it is not configured by its address.
    pub dynamic: Option<Prefix>,
    /// Its address.
    pub address: IpAddr,
    /// The TCP port that it listens on.
    pub port: u16,
    /// Its AS number.
    pub asn: Asn,
    /// The local AS number.
    pub local_asn: Asn,
    /// As configured.
    pub description: Option<String>,
    /// For routes that name no encapsulation.
    pub default_encap: Option<Encap>,
    /// The state of the session that has come further.
    pub state: State,
    /// Time in that state.
    pub uptime: Duration,
    /// When the session was established; absent when it is not.
    pub established_at: Option<SystemTime>,
    /// How often a session was established.
    pub connections_established: u64,
    /// How often an established session ended.
    pub connections_dropped: u64,
    /// Routes held from it and advertised to it, and what was wrong with others; all zero without a session.
    pub routes: PeerCounts,
    /// The neighbor's BGP identifier, once its OPEN has been read.
    pub remote_router_id: Option<Ipv4Addr>,
    /// Our end of the connection.
    pub local_address: Option<IpAddr>,
    /// The agreed hold time; zero: none, or no session.
    pub hold_time: Duration,
    /// The agreed time between KEEPALIVEs; zero: none, or no session.
    pub keepalive_time: Duration,
    /// What we offer, one line each.
    pub capabilities_advertised: Vec<String>,
    /// What the neighbor offered last, one line each.
    pub capabilities_received: Vec<String>,
    /// The families in force.
    pub families: FamilySet,
    /// What both ends said about restarts, while a session is established or its routes are kept.
    pub restart: Option<RestartTerms>,
    /// For how much longer its routes are kept without a session, unless they are long-lived.
    pub restart_until: Option<Duration>,
    /// It sent more routes than it may, and is left alone.
    pub is_over_limit: bool,
    /// How long it is left alone; absent: until somebody clears it.
    pub limit_ends_in: Option<Duration>,
    /// Messages received since the beginning.
    pub received: MessageCounts,
    /// Messages sent since the beginning.
    pub sent: MessageCounts,
    /// Why the last session ended or the last attempt failed.
    pub last_error: Option<String>,
    /// The octets that caused it, the first 64 of them.
    pub last_error_octets: Vec<u8>,
}
