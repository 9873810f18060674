//! ARP for workloads (RFC 826): every address is behind the gateway's MAC.
//!
//! ```text
//!  0      2      4    5    6    8          14        18         24        28
//!  | htype| ptype| 6  | 4  | op | sender MAC| sender IP| target MAC| target IP|
//! ```
//! Never answered: what asks whether its own address is in use (RFC 5227 §2.1.1), announcements, replies. Nothing is
//! flooded either: an announcement of a workload's own address by one of its own MACs is heard and counted, and changes
//! nothing, since every other workload reaches it through the gateway.

use std::net::{IpAddr, Ipv4Addr};

use vrouter_types::MacAddr;

use super::{ETHERNET_HEADER, ETHERTYPE_ARP, ETHERTYPE_IPV4, put_ethernet};
use crate::fib::{Gateway, Port};
use crate::state::ReplyBuffer;
use crate::verdict::DropReason;

const ARP_LEN: usize = 28;
const HARDWARE_ETHERNET: u16 = 1;
const REQUEST: u16 = 1;
const REPLY: u16 = 2;

/// A request that deserves an answer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Question {
    asker: Ipv4Addr,
    asker_mac: MacAddr,
    pub(crate) target: Ipv4Addr,
}

/// Reads what a port asks. `arp` begins behind the Ethernet header.
pub(crate) fn parse(port: &Port, arp: &[u8]) -> Result<Question, DropReason> {
    let arp: &[u8; ARP_LEN] = arp.first_chunk().ok_or(DropReason::MalformedArp)?;
    let word = |at: usize| u16::from_be_bytes([arp[at], arp[at + 1]]);
    let address = |at: usize| Ipv4Addr::new(arp[at], arp[at + 1], arp[at + 2], arp[at + 3]);
    if word(0) != HARDWARE_ETHERNET || word(2) != ETHERTYPE_IPV4 || arp[4..6] != [6, 4] {
        return Err(DropReason::MalformedArp);
    }
    let (asker, target) = (address(14), address(24));
    let asker_mac = MacAddr([arp[8], arp[9], arp[10], arp[11], arp[12], arp[13]]);
    let operation = word(6);
    if !matches!(operation, REQUEST | REPLY) {
        return Err(DropReason::MalformedArp);
    }
    if !port.has_mac(asker_mac) {
        return Err(DropReason::SpoofedMac);
    }
    if operation == REQUEST && asker.is_unspecified() {
        return Err(DropReason::DuplicateAddressProbe);
    }
    if !port.may_send(IpAddr::V4(asker), asker_mac) {
        return Err(DropReason::SpoofedSource);
    }
    // RFC 5227 §2.3, and the replies that some send instead.
    if asker == target {
        return Err(DropReason::NeighborAnnounced);
    }
    if operation == REPLY || target.is_unspecified() || port.addresses.contains(&IpAddr::V4(target)) {
        return Err(DropReason::ArpIgnored);
    }
    Ok(Question { asker, asker_mac, target })
}

/// Writes the answer, an Ethernet frame for the port.
pub(crate) fn answer(reply: &mut ReplyBuffer, gateway: &Gateway, question: Question) -> Option<()> {
    let frame = reply.start(ETHERNET_HEADER + ARP_LEN, None)?;
    put_ethernet(frame, question.asker_mac, gateway.mac, ETHERTYPE_ARP);
    let arp = frame.get_mut(ETHERNET_HEADER..)?.first_chunk_mut::<ARP_LEN>()?;
    arp[..2].copy_from_slice(&HARDWARE_ETHERNET.to_be_bytes());
    arp[2..4].copy_from_slice(&ETHERTYPE_IPV4.to_be_bytes());
    arp[4..6].copy_from_slice(&[6, 4]);
    arp[6..8].copy_from_slice(&REPLY.to_be_bytes());
    arp[8..14].copy_from_slice(&gateway.mac.0);
    arp[14..18].copy_from_slice(&question.target.octets());
    arp[18..24].copy_from_slice(&question.asker_mac.0);
    arp[24..].copy_from_slice(&question.asker.octets());
    Some(())
}
