//! What workloads show of their own addresses: a gratuitous ARP, an answer to somebody's ARP request, an advertisement,
//! a RARP request of a machine that has moved.
//!
//! Control hears of it, so that an address which several workloads may use is advertised by the one that has it. Heard
//! is only what the port may use anyway: everything else was refused before. Bounded threefold: a place per address
//! and second, a token bucket per port, and a ring that the shell empties after each batch. What is too much is counted.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use vrouter_types::{MacAddr, PortId};

use crate::fib::Port;
use crate::limiter::{Answer, Limiter};
use crate::reply::nd;
use crate::verdict::DropReason;

/// Told at most, between two looks of the shell.
const RING: usize = 64;
/// Addresses whose last second is remembered; those that fall on one place share it.
const PLACES: usize = 256;
/// As often as one address of one port is told.
const AGAIN_MS: u64 = 1000;

/// A workload has shown that it has this address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Learned {
    /// The workload's port.
    pub port: PortId,
    /// The address, one that the port may use.
    pub address: IpAddr,
    /// The MAC address that it is at.
    pub mac: MacAddr,
}

/// What was heard and is not yet told. Part of a worker's state.
#[derive(Debug)]
pub struct Announcements {
    ring: Vec<Learned>,
    places: Box<[Option<(PortId, IpAddr, u64)>]>,
    lost: u64,
}

impl Announcements {
    pub(crate) fn new() -> Announcements {
        Announcements { ring: Vec::with_capacity(RING), places: vec![None; PLACES].into(), lost: 0 }
    }

    /// Whether there is nothing to tell.
    pub fn is_empty(&self) -> bool {
        self.ring.is_empty()
    }

    /// Takes what there is to tell, oldest first.
    pub fn drain(&mut self) -> impl Iterator<Item = Learned> + '_ {
        self.ring.drain(..)
    }

    /// How many were not told because there were too many at once.
    pub fn lost(&self) -> u64 {
        self.lost
    }

    pub(crate) fn note(&mut self, learned: Learned, limiter: &mut Limiter, now_ms: u64) {
        let Learned { port, address, .. } = learned;
        let Some(place) = self.places.get_mut(place(port, address)) else { return };
        if place.is_some_and(|(p, a, at)| (p, a) == (port, address) && now_ms.wrapping_sub(at) < AGAIN_MS) {
            return;
        }
        if self.ring.len() >= RING || !limiter.allow(Answer::Learn, port, now_ms) {
            self.lost += 1;
            return;
        }
        *place = Some((port, address, now_ms));
        self.ring.push(learned);
    }
}

/// Where an address of a port is remembered.
fn place(port: PortId, address: IpAddr) -> usize {
    let [a, b] = crate::flow::words(address);
    let mixed = (a ^ b.rotate_left(32) ^ u64::from(port.0)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    usize::try_from(mixed >> 56).unwrap_or(0) % PLACES
}

/// The address that an ARP packet shows to be the workload's, which [`arp::parse`](crate::reply::arp::parse) refused
/// to answer for this reason. `arp` begins behind the Ethernet header.
pub(crate) fn of_arp(reason: DropReason, arp: &[u8]) -> Option<(IpAddr, MacAddr)> {
    const REPLY: [u8; 2] = [0, 2];
    let told = match reason {
        DropReason::NeighborAnnounced => true,
        DropReason::ArpIgnored => arp.get(6..8) == Some(&REPLY),
        _ => false,
    };
    let &[m0, m1, m2, m3, m4, m5, a, b, c, d] = arp.get(8..18)?.first_chunk()?;
    let address = Ipv4Addr::new(a, b, c, d);
    told.then_some((address.into(), MacAddr([m0, m1, m2, m3, m4, m5])))
}

/// The MAC address that asks by RARP (RFC 903) who it is, as QEMU does for a machine that has just moved here. It says
/// nothing of addresses: all of the port's own are where it is. `frame` begins at its Ethernet header, whose source was
/// found to be the port's.
pub(crate) fn of_rarp(reason: DropReason, port: &Port, frame: &[u8]) -> Option<MacAddr> {
    /// RARP, for IPv4 over Ethernet, a request.
    const HEAD: [u8; 10] = [0x80, 0x35, 0, 1, 8, 0, 6, 4, 0, 3];
    let mac = |at: usize| frame.get(at..at + 6)?.first_chunk().map(|octets| MacAddr(*octets));
    let is_request = reason == DropReason::UnknownEthertype && frame.get(12..22) == Some(&HEAD);
    let (sender, target) = (mac(22)?, mac(32)?);
    (is_request && sender == target && port.has_mac(sender)).then_some(sender)
}

/// The address that a neighbour advertisement shows to be the workload's, refused for this reason. `message` begins at
/// its ICMPv6 header; `src` sent the frame. Link-local addresses are nobody's business.
pub(crate) fn of_nd(reason: DropReason, message: &[u8], src: MacAddr) -> Option<(IpAddr, MacAddr)> {
    if reason != DropReason::NeighborAnnounced {
        return None;
    }
    let target = Ipv6Addr::from(*message.get(8..24)?.first_chunk::<16>()?);
    let mac = message.get(24..).and_then(nd::target_mac).unwrap_or(src);
    (!target.is_unicast_link_local()).then_some((target.into(), mac))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn learned(port: u32, address: &str) -> Learned {
        Learned { port: PortId(port), address: address.parse().unwrap(), mac: MacAddr([2, 0, 0, 0, 0, 1]) }
    }

    fn tell(heard: &mut Announcements) -> Vec<Learned> {
        heard.drain().collect()
    }

    #[test]
    fn an_address_is_told_once_in_a_second() {
        let (mut heard, mut limiter) = (Announcements::new(), Limiter::new());
        let one = learned(1, "10.0.0.1");
        for now in [5000, 5001, 5999] {
            heard.note(one, &mut limiter, now);
        }
        assert_eq!(tell(&mut heard), [one]);
        heard.note(one, &mut limiter, 6000);
        assert_eq!(tell(&mut heard), [one]);
        assert_eq!(heard.lost(), 0, "the same again is no loss");
    }

    #[test]
    fn a_flood_is_bounded_and_counted() {
        let (mut heard, mut limiter) = (Announcements::new(), Limiter::new());
        for last in 0..1000 {
            heard.note(learned(1, &format!("fd00::{last:x}")), &mut limiter, 7000);
        }
        let told = tell(&mut heard);
        assert!(told.len() <= RING && !told.is_empty());
        assert!(heard.lost() >= 1000 - RING as u64);
        heard.note(learned(2, "10.0.0.1"), &mut limiter, 7000);
        assert_eq!(tell(&mut heard).len(), 1, "another port is heard meanwhile");
    }

    #[test]
    fn short_messages_show_nothing() {
        for len in 0..18 {
            assert_eq!(of_arp(DropReason::NeighborAnnounced, &[0; 18][..len]), None, "{len}");
        }
        for len in 0..24 {
            let src = MacAddr([2; 6]);
            assert_eq!(of_nd(DropReason::NeighborAnnounced, &[0x20; 24][..len], src), None, "{len}");
        }
    }
}
