//! A neighbor as the one who said things: what is known of it outlives its session while its routes do.

use std::net::Ipv4Addr;

use vrouter_types::Asn;

use crate::{Negotiated, PeerId};

use super::config::PeerPolicy;
use super::rtc::Memberships;
use super::stale::StaleFamily;

#[derive(Debug)]
pub(super) struct Sender {
    pub(super) policy: PeerPolicy,
    pub(super) asn: Asn,
    pub(super) router_id: Ipv4Addr,
    pub(super) is_ibgp: bool,
    /// VPN paths held from it.
    pub(super) paths: usize,
    /// Its route target memberships, if the family is in force.
    pub(super) memberships: Option<Memberships>,
    /// Families whose paths wait for the neighbor to come back or to say them again.
    pub(super) stale: Vec<StaleFamily>,
    /// The same router at other addresses, where it is no more; what waits of that it says again here.
    pub(super) formerly: Vec<PeerId>,
    pub(super) is_over_limit: bool,
}

impl Sender {
    pub(super) fn new(policy: PeerPolicy, session: &Negotiated) -> Sender {
        Sender {
            policy,
            asn: session.peer_asn,
            router_id: session.peer_router_id,
            is_ibgp: session.is_ibgp,
            paths: 0,
            memberships: None,
            stale: Vec::new(),
            formerly: Vec::new(),
            is_over_limit: false,
        }
    }

    /// RFC 4456 §6: what one internal neighbor says goes to another if either is a client. Never back.
    pub(super) fn is_reflected_to(&self, to: &Sender) -> bool {
        let has_client = self.policy.route_reflector_client || to.policy.route_reflector_client;
        self.is_ibgp && to.is_ibgp && has_client
    }
}
