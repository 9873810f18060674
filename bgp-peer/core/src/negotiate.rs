//! What two OPEN messages agree on (RFC 4271 §4.2 and §6.2, RFC 5492, RFC 6286, RFC 6793), and what of it outlives the
//! session (RFC 4724, RFC 8538, RFC 9494).

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use vrouter_types::Asn;

use crate::rib::PeerDown;
use crate::session::DownReason;
use crate::wire::capability::{self, Capability, Offer};
use crate::wire::graceful::{GracefulRestart, LongLived};
use crate::wire::notification::Notification;
use crate::wire::open::Open;
use crate::{Family, FamilySet};

/// A configured neighbor: its index in the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerId(pub u32);

/// What is in force on a session: everything that both ends offered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Negotiated {
    /// Our AS number.
    pub local_asn: Asn,
    /// The neighbor's AS number.
    pub peer_asn: Asn,
    /// Our BGP identifier.
    pub local_router_id: Ipv4Addr,
    /// The neighbor's BGP identifier.
    pub peer_router_id: Ipv4Addr,
    /// Whether both are in one AS.
    pub is_ibgp: bool,
    /// Whether AS numbers take four octets (RFC 6793).
    pub as4: bool,
    /// The smaller of the two hold times, in seconds; 0: no keepalives (RFC 4271 §4.2).
    pub hold_time: u16,
    /// Families that both offered (RFC 4760 §8).
    pub families: FamilySet,
    /// Whether messages may be up to 65,535 octets long (RFC 8654).
    pub extended_message: bool,
    /// Whether the neighbor answers ROUTE-REFRESH (RFC 2918).
    pub route_refresh: bool,
    /// Whether refreshes are delimited (RFC 7313).
    pub enhanced_route_refresh: bool,
    /// IPv4 families whose next hop may be IPv6 (RFC 8950).
    pub extended_nexthop: FamilySet,
    /// What both ends said about restarts.
    pub restart: RestartTerms,
}

/// What both ends of a session said about restarts; whatever only one said is not in force.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RestartTerms {
    /// What we said.
    pub ours: Option<GracefulRestart>,
    /// What the neighbor said.
    pub theirs: Option<GracefulRestart>,
}

impl Negotiated {
    /// Whether a NOTIFICATION other than a hard reset leaves the routes (RFC 8538 §2): both ends must have said so.
    pub fn survives_notifications(&self) -> bool {
        [&self.restart.ours, &self.restart.theirs]
            .into_iter()
            .all(|end| end.as_ref().is_some_and(|end| end.notification))
    }

    /// Families whose routes the neighbor keeps while we are away.
    pub fn kept_by_peer(&self) -> FamilySet {
        match (&self.restart.ours, &self.restart.theirs) {
            (Some(ours), Some(_)) => ours.families.intersection(self.families),
            _ => FamilySet::EMPTY,
        }
    }

    /// Families of which the neighbor kept the forwarding state: F.
    pub fn forwarding_kept(&self) -> FamilySet {
        let theirs = self.restart.theirs.as_ref().filter(|_| self.restart.ours.is_some());
        theirs.map_or(FamilySet::EMPTY, |theirs| theirs.forwarding_kept.intersection(self.families))
    }

    /// Families of which stale routes are kept for long, and for how long: the shorter of what the neighbor asks for
    /// and what we would ask for.
    pub fn long_lived(&self) -> Vec<LongLived> {
        let (Some(ours), Some(theirs)) = (&self.restart.ours, &self.restart.theirs) else {
            return Vec::new();
        };
        let in_force = theirs.long_lived.iter().filter(|entry| self.families.contains(entry.family));
        let both = in_force.filter_map(|entry| {
            let own = ours.long_lived.iter().find(|own| own.family == entry.family)?;
            Some(LongLived { stale_time: entry.stale_time.min(own.stale_time), ..*entry })
        });
        both.collect()
    }

    /// What becomes of the neighbor's routes when the session ends for this reason.
    pub fn after(&self, reason: &DownReason, now: Instant) -> PeerDown {
        let is_survived = match reason {
            DownReason::Lost(_) => true,
            DownReason::Sent(said) | DownReason::Refused(said, _) | DownReason::Received(said) => {
                self.survives_notifications() && !said.is_hard_reset()
            }
        };
        let (Some(_), Some(theirs), true) = (&self.restart.ours, &self.restart.theirs, is_survived) else {
            return PeerDown::Purge;
        };
        let families = theirs.families.intersection(self.families);
        if families.is_empty() {
            return PeerDown::Purge;
        }
        let long_lived = self.long_lived().into_iter().filter(|entry| families.contains(entry.family));
        PeerDown::Restarting {
            families,
            until: now + Duration::from_secs(theirs.restart_time.into()),
            long_lived: long_lived
                .map(|entry| (entry.family, Duration::from_secs(entry.stale_time.into())))
                .collect(),
        }
    }
}

/// What we offer about restarts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RestartOffer {
    /// Whether we have just started: R.
    pub restarting: bool,
    /// Whether our forwarding went on while there was no session: F.
    pub forwarding_kept: bool,
    /// How long neighbors are asked to wait for us, in seconds.
    pub restart_time: u16,
    /// How long they are asked to keep our routes after that, in seconds; 0: RFC 9494 is not offered.
    pub long_lived_stale_time: u32,
}

/// What we bring to a session with one neighbor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionConfig {
    /// Our AS number.
    pub local_asn: Asn,
    /// Our BGP identifier.
    pub local_router_id: Ipv4Addr,
    /// The AS number that the neighbor must have.
    pub peer_asn: Asn,
    /// The hold time that we propose, in seconds: 0, or at least 3.
    pub hold_time: u16,
    /// The families that we offer.
    pub families: FamilySet,
    /// The time between KEEPALIVEs that we would like, in seconds; a third of the hold time is the most.
    pub keepalive_time: Option<u16>,
    /// About how long to wait between attempts to connect, in seconds; absent: rising to half a minute.
    pub connect_retry: Option<u16>,
    /// What we offer about restarts; absent: sessions do not restart, they begin anew.
    pub restart: Option<RestartOffer>,
}

impl Default for SessionConfig {
    /// Without AS numbers and an identifier, which every session must have.
    fn default() -> SessionConfig {
        SessionConfig {
            local_asn: Asn(0),
            local_router_id: Ipv4Addr::UNSPECIFIED,
            peer_asn: Asn(0),
            hold_time: 90,
            families: FamilySet::L3VPN,
            keepalive_time: None,
            connect_retry: None,
            restart: None,
        }
    }
}

impl SessionConfig {
    /// Our OPEN.
    ///
    /// Enhanced route refresh (RFC 7313) is offered with graceful restart and not without: where it is in force, FRR
    /// 8.4 answers no ROUTE-REFRESH before it has sent its End-of-RIB, and that it sends only to who offers the latter.
    pub fn open(&self) -> Open {
        let mut capabilities: Vec<_> = self.families.iter().map(Capability::multiprotocol).collect();
        capabilities.push(Capability::empty(capability::ROUTE_REFRESH));
        capabilities.push(Capability::empty(capability::EXTENDED_MESSAGE));
        capabilities.push(Capability::four_octet_as(self.local_asn));
        if !self.extended_nexthop().is_empty() {
            capabilities.push(Capability::extended_nexthop(self.extended_nexthop()));
        }
        if let Some(restart) = self.graceful_restart() {
            capabilities.push(Capability::empty(capability::ENHANCED_ROUTE_REFRESH));
            capabilities.extend(restart.capabilities());
        }
        Open {
            my_as: self.local_asn.to_two_octets(),
            hold_time: self.hold_time,
            router_id: self.local_router_id,
            capabilities,
        }
    }

    /// Every family that we carry is worth keeping: what they say is held by one RIB and one forwarding table.
    fn graceful_restart(&self) -> Option<GracefulRestart> {
        let offer = self.restart?;
        let long_lived = |family| LongLived {
            family,
            forwarding_kept: offer.forwarding_kept,
            stale_time: offer.long_lived_stale_time,
        };
        let is_long = offer.long_lived_stale_time > 0;
        Some(GracefulRestart {
            restarting: offer.restarting,
            notification: true,
            restart_time: offer.restart_time,
            families: self.families,
            forwarding_kept: if offer.forwarding_kept { self.families } else { FamilySet::EMPTY },
            long_lived: self.families.iter().filter(|_| is_long).map(long_lived).collect(),
        })
    }

    /// The families whose next hop we read in either IP version: VPNv4. VPNv6 has both without a capability.
    fn extended_nexthop(&self) -> FamilySet {
        self.families.intersection(FamilySet::from_iter([Family::Vpnv4]))
    }
}

/// What is in force between us and the neighbor that sent this OPEN.
///
/// # Errors
/// The NOTIFICATION that the OPEN deserves: wrong AS, an identifier that cannot be, no family in common.
pub fn negotiate(config: &SessionConfig, open: &Open) -> Result<Negotiated, Notification> {
    let offer = Offer::from_capabilities(&open.capabilities)?;
    let ours = Offer::from_capabilities(&config.open().capabilities)?;
    let peer_asn = offer.four_octet_as.unwrap_or(Asn(u32::from(open.my_as)));
    // RFC 6793 §4.1: the two-octet field of a neighbor with the capability says nothing that counts.
    if peer_asn != config.peer_asn || peer_asn.0 == 0 {
        return Err(Notification::bad_peer_as());
    }
    let is_ibgp = peer_asn == config.local_asn;
    // RFC 6286 §2.2: unique within an AS only.
    if is_ibgp && open.router_id == config.local_router_id {
        return Err(Notification::bad_bgp_identifier());
    }
    let families = ours.families.intersection(offer.families);
    if families.is_empty() {
        let mut missing = BytesMut::new();
        config.families.iter().for_each(|family| Capability::multiprotocol(family).encode(&mut missing));
        return Err(Notification::unsupported_capability(&missing));
    }
    Ok(Negotiated {
        local_asn: config.local_asn,
        peer_asn,
        local_router_id: config.local_router_id,
        peer_router_id: open.router_id,
        is_ibgp,
        as4: ours.four_octet_as.is_some() && offer.four_octet_as.is_some(),
        hold_time: config.hold_time.min(open.hold_time),
        families,
        extended_message: ours.extended_message && offer.extended_message,
        route_refresh: ours.route_refresh && offer.route_refresh,
        enhanced_route_refresh: ours.enhanced_route_refresh && offer.enhanced_route_refresh,
        extended_nexthop: ours.extended_nexthop.intersection(offer.extended_nexthop),
        restart: RestartTerms { ours: ours.graceful, theirs: offer.graceful },
    })
}

/// What a refusal of [`negotiate`] means, for people: two neighbors that disagree are two configurations that do.
pub(crate) fn explain(config: &SessionConfig, open: &Open, refusal: &Notification) -> String {
    let offer = Offer::from_capabilities(&open.capabilities).unwrap_or_default();
    match (refusal.code, refusal.subcode) {
        (2, 2) => {
            let asn = offer.four_octet_as.unwrap_or(Asn(u32::from(open.my_as)));
            format!("the neighbor is in AS {asn}, configured is AS {}", config.peer_asn)
        }
        (2, 3) => format!("the neighbor's identifier {} is our own", open.router_id),
        (2, 7) => {
            let names = |families: FamilySet| families.iter().map(Family::name).collect::<Vec<_>>().join(" ");
            let (theirs, ours) = (names(offer.families), names(config.families));
            let theirs = if theirs.is_empty() { "no family that we know" } else { &theirs };
            format!("no family in common: the neighbor offers {theirs}, configured is {ours}")
        }
        _ => "a capability has the wrong length".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(asn: u32, router_id: [u8; 4]) -> SessionConfig {
        SessionConfig {
            local_asn: Asn(asn),
            local_router_id: router_id.into(),
            peer_asn: Asn(asn),
            ..SessionConfig::default()
        }
    }

    const OFFER: RestartOffer = RestartOffer {
        restarting: false,
        forwarding_kept: true,
        restart_time: 120,
        long_lived_stale_time: 3600,
    };

    /// What is in force between us and a neighbor that offers this about restarts.
    fn with_restart(theirs: Option<RestartOffer>) -> Negotiated {
        let ours = SessionConfig { restart: Some(OFFER), ..config(65000, [192, 0, 2, 1]) };
        let theirs = SessionConfig { restart: theirs, ..config(65000, [192, 0, 2, 2]) };
        negotiate(&ours, &theirs.open()).unwrap()
    }

    #[test]
    fn lost_sessions_and_notifications_leave_routes_and_hard_resets_do_not() {
        let now = Instant::now();
        let lost = DownReason::Lost("cable".to_owned());
        let shut = DownReason::Received(Notification::administrative_shutdown(""));
        let hard = Notification::administrative_shutdown("").into_hard_reset();
        let agreed = with_restart(Some(RestartOffer { long_lived_stale_time: 60, ..OFFER }));
        assert!(agreed.enhanced_route_refresh);
        let minute = Duration::from_secs(60);
        let kept = PeerDown::Restarting {
            families: FamilySet::L3VPN,
            until: now + 2 * minute,
            long_lived: FamilySet::L3VPN.iter().map(|family| (family, minute)).collect(),
        };
        let hold = DownReason::Sent(Notification::hold_timer_expired());
        for reason in [&lost, &shut, &hold] {
            assert_eq!(agreed.after(reason, now), kept, "{reason}");
        }
        for reason in [DownReason::Received(hard.clone()), DownReason::Sent(hard)] {
            assert_eq!(agreed.after(&reason, now), PeerDown::Purge, "{reason}");
        }

        let mut without_n = agreed.clone();
        without_n.restart.theirs.as_mut().unwrap().notification = false;
        assert_eq!(without_n.after(&lost, now), kept);
        assert_eq!(without_n.after(&shut, now), PeerDown::Purge);
        assert_eq!(without_n.after(&hold, now), PeerDown::Purge);

        let mut helper_only = agreed;
        helper_only.restart.theirs.as_mut().unwrap().families = FamilySet::EMPTY;
        assert_eq!(helper_only.after(&lost, now), PeerDown::Purge);
        assert_eq!(helper_only.kept_by_peer(), FamilySet::L3VPN, "it keeps ours all the same");
        assert_eq!(with_restart(None).after(&lost, now), PeerDown::Purge);
        assert!(with_restart(None).kept_by_peer().is_empty());
    }

    #[test]
    fn what_a_neighbor_kept_is_what_its_f_bits_say() {
        assert_eq!(with_restart(Some(OFFER)).forwarding_kept(), FamilySet::L3VPN);
        let lost_it = RestartOffer { forwarding_kept: false, restarting: true, ..OFFER };
        let agreed = with_restart(Some(lost_it));
        assert!(agreed.forwarding_kept().is_empty() && agreed.restart.theirs.unwrap().restarting);
        let short = RestartOffer { long_lived_stale_time: 0, ..OFFER };
        assert!(with_restart(Some(short)).long_lived().is_empty());
    }

    #[test]
    fn two_of_us_agree_on_everything() {
        let (a, b) = (config(4_200_000_001, [192, 0, 2, 1]), config(4_200_000_001, [192, 0, 2, 2]));
        let agreed = negotiate(&a, &b.open()).unwrap();
        assert!(agreed.is_ibgp && agreed.as4 && agreed.extended_message && agreed.route_refresh);
        assert_eq!(agreed.families, FamilySet::L3VPN);
        assert_eq!(agreed.extended_nexthop, FamilySet::from_iter([Family::Vpnv4]));
        assert_eq!(b.open().my_as, 23456);
    }

    #[test]
    fn what_only_the_neighbor_offers_is_not_in_force() {
        let mut open = config(65000, [192, 0, 2, 2]).open();
        open.capabilities.push(Capability::empty(capability::ENHANCED_ROUTE_REFRESH));
        assert!(!negotiate(&config(65000, [192, 0, 2, 1]), &open).unwrap().enhanced_route_refresh);
    }

    #[test]
    fn smaller_hold_time_wins_and_zero_is_smallest() {
        let local = config(65000, [192, 0, 2, 1]);
        for (theirs, agreed) in [(180, 90), (3, 3), (0, 0), (90, 90)] {
            let open = SessionConfig { hold_time: theirs, ..config(65000, [192, 0, 2, 2]) }.open();
            assert_eq!(negotiate(&local, &open).unwrap().hold_time, agreed);
        }
    }

    #[test]
    fn wrong_as_zero_as_and_our_own_identifier_are_refused() {
        let local = config(65000, [192, 0, 2, 1]);
        assert_eq!(
            negotiate(&local, &config(65001, [192, 0, 2, 2]).open()),
            Err(Notification::bad_peer_as())
        );
        assert_eq!(
            negotiate(&local, &config(65000, [192, 0, 2, 1]).open()),
            Err(Notification::bad_bgp_identifier())
        );
        let zero = SessionConfig { peer_asn: Asn(0), ..config(65000, [192, 0, 2, 1]) };
        assert_eq!(negotiate(&zero, &config(0, [192, 0, 2, 2]).open()), Err(Notification::bad_peer_as()));
        let external = SessionConfig { peer_asn: Asn(65001), ..config(65000, [192, 0, 2, 1]) };
        assert!(
            negotiate(&external, &config(65001, [192, 0, 2, 1]).open()).is_ok_and(|agreed| !agreed.is_ibgp)
        );
    }

    #[test]
    fn as_trans_without_the_capability_is_not_our_neighbor() {
        let local = config(4_200_000_001, [192, 0, 2, 1]);
        let mut open = config(4_200_000_001, [192, 0, 2, 2]).open();
        open.capabilities.retain(|capability| capability.code != capability::FOUR_OCTET_AS);
        assert_eq!(negotiate(&local, &open), Err(Notification::bad_peer_as()));
    }

    #[test]
    fn no_common_family_names_what_is_missing() {
        let other = SessionConfig {
            families: FamilySet::from_iter([Family::Ipv6Unicast]),
            ..config(65000, [192, 0, 2, 2])
        };
        let refusal = negotiate(&config(65000, [192, 0, 2, 1]), &other.open()).unwrap_err();
        assert_eq!((refusal.code, refusal.subcode, refusal.data.len()), (2, 7, 18));
    }
}
