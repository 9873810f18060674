//! Neighbour discovery for workloads (RFC 4861): every address is behind the gateway's MAC.
//!
//! ```text
//!  0     1     2         4           8              24
//!  | type| code| checksum| R S O …   | target       | options: type, length in eights, …
//! ```
//! Never answered: duplicate address detection (source unspecified, RFC 4862 §5.4.3), questions about the asker's
//! own addresses, router solicitations of ports that are configured and not told, advertisements. A workload's
//! advertisement of its own address by one of its own MACs is heard and counted; nobody is flooded with it.

use std::net::{IpAddr, Ipv6Addr};

use vrouter_types::MacAddr;

use super::{
    ETHERNET_HEADER, ETHERTYPE_IPV6, Ends, icmp_checksum_is_right, put_ethernet, put_ip_around_icmp,
};
use crate::fib::{Gateway, Port};
use crate::packet::{Fragment, IPV6_HEADER, Packet};
use crate::state::ReplyBuffer;
use crate::verdict::DropReason;

pub(crate) const ROUTER_SOLICITATION: u8 = 133;
const NEIGHBOR_SOLICITATION: u8 = 135;
const NEIGHBOR_ADVERTISEMENT: u8 = 136;
const REDIRECT: u8 = 137;
const SOLICITATION_LEN: usize = 24;
const ADVERTISEMENT_LEN: usize = 32;
pub(super) const SOURCE_LINK_LAYER_ADDRESS: u8 = 1;
const TARGET_LINK_LAYER_ADDRESS: u8 = 2;
const HOP_LIMIT: u8 = 255;
const FROM_ROUTER: u8 = 0x80;
const SOLICITED: u8 = 0x40;
const OVERRIDE: u8 = 0x20;

/// A solicitation that deserves an answer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Question {
    asker: Ipv6Addr,
    pub(crate) target: Ipv6Addr,
}

/// Whether this is a message of neighbour discovery.
pub(crate) fn is_nd(packet: &Packet, bytes: &[u8]) -> bool {
    !packet.is_v4()
        && packet
            .icmp(bytes)
            .and_then(|message| message.first())
            .is_some_and(|kind| (ROUTER_SOLICITATION..=REDIRECT).contains(kind))
}

/// Reads what a port asks by a frame from this MAC address. `bytes` begin at the IPv6 header.
pub(crate) fn parse(
    port: &Port,
    mac: MacAddr,
    packet: &Packet,
    bytes: &[u8],
) -> Result<Question, DropReason> {
    let message = packet.icmp(bytes).ok_or(DropReason::MalformedNd)?;
    // RFC 4861 §6.1.1, §7.1.1; fragments: RFC 6980 §5.
    let valid = packet.ttl == HOP_LIMIT && message.get(1) == Some(&0) && packet.fragment == Fragment::Whole;
    let ends = Ends::new(packet.src, packet.dst).ok_or(DropReason::MalformedNd)?;
    if !valid || !icmp_checksum_is_right(ends, message) {
        return Err(DropReason::MalformedNd);
    }
    let advertisement = match message.first() {
        Some(&NEIGHBOR_SOLICITATION) => false,
        Some(&NEIGHBOR_ADVERTISEMENT) => true,
        Some(&ROUTER_SOLICITATION) => return Err(DropReason::RouterSolicitation),
        _ => return Err(DropReason::NdIgnored),
    };
    let (fixed, options) = message.split_first_chunk::<SOLICITATION_LEN>().ok_or(DropReason::MalformedNd)?;
    let mut target = [0; 16];
    target.copy_from_slice(&fixed[8..]);
    let target = Ipv6Addr::from(target);
    let IpAddr::V6(asker) = packet.src else { return Err(DropReason::MalformedNd) };
    if target.is_multicast() || !options_are_sound(options) {
        return Err(DropReason::MalformedNd);
    }
    if advertisement {
        return Err(judge_advertisement(port, (asker, mac), target, options));
    }
    if asker.is_unspecified() {
        // RFC 4861 §7.1.1.
        let probe = is_solicited_node(packet.dst) && !has_option(options, SOURCE_LINK_LAYER_ADDRESS);
        return Err(if probe { DropReason::DuplicateAddressProbe } else { DropReason::MalformedNd });
    }
    if !may_be(port, asker, mac) {
        return Err(DropReason::SpoofedSource);
    }
    if asker == target || target.is_unspecified() || port.addresses.contains(&IpAddr::V6(target)) {
        return Err(DropReason::NdIgnored);
    }
    Ok(Question { asker, target })
}

/// What a workload's word about an address is worth, in a frame from this MAC address.
fn judge_advertisement(
    port: &Port,
    (sender, mac): (Ipv6Addr, MacAddr),
    target: Ipv6Addr,
    options: &[u8],
) -> DropReason {
    let at = target_mac(options).unwrap_or(mac);
    if link_layer_addresses(options, TARGET_LINK_LAYER_ADDRESS).any(|mac| !port.has_mac(mac)) {
        DropReason::SpoofedMac
    } else if !may_be(port, sender, mac) || !may_be(port, target, at) {
        DropReason::SpoofedSource
    } else {
        DropReason::NeighborAnnounced
    }
}

/// Whether the workload may be this at this MAC address. Its link-local addresses are its own business.
pub(super) fn may_be(port: &Port, addr: Ipv6Addr, mac: MacAddr) -> bool {
    addr.is_unicast_link_local() || port.may_send(addr.into(), mac)
}

/// RFC 4291 §2.7.1: ff02::1:ff00:0/104.
fn is_solicited_node(addr: IpAddr) -> bool {
    const PREFIX: [u8; 13] = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff];
    matches!(addr, IpAddr::V6(addr) if addr.octets().starts_with(&PREFIX))
}

/// The MAC address that an advertisement's options tell.
pub(crate) fn target_mac(options: &[u8]) -> Option<MacAddr> {
    link_layer_addresses(options, TARGET_LINK_LAYER_ADDRESS).next()
}

/// Whether there is such an option, wherever among them.
pub(super) fn has_option(options: &[u8], kind: u8) -> bool {
    each_option(options).any(|option| option.first() == Some(&kind))
}

fn link_layer_addresses(options: &[u8], kind: u8) -> impl Iterator<Item = MacAddr> {
    each_option(options).filter_map(move |option| match option {
        [found, 1, a, b, c, d, e, f] if *found == kind => Some(MacAddr([*a, *b, *c, *d, *e, *f])),
        _ => None,
    })
}

/// Options, one after the other, until one has no length or runs over the end.
fn each_option(mut options: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let len = usize::from(*options.get(1)?) * 8;
        let (option, rest) = options.split_at_checked(len).filter(|(option, _)| !option.is_empty())?;
        options = rest;
        Some(option)
    })
}

/// Writes the answer, an Ethernet frame for the MAC address that asked.
pub(crate) fn answer(
    reply: &mut ReplyBuffer,
    gateway: &Gateway,
    to: MacAddr,
    question: Question,
) -> Option<()> {
    let frame = reply.start(ETHERNET_HEADER + IPV6_HEADER + ADVERTISEMENT_LEN, None)?;
    put_ethernet(frame, to, gateway.mac, ETHERTYPE_IPV6);
    let packet = frame.get_mut(ETHERNET_HEADER..)?;
    let message = packet.get_mut(IPV6_HEADER..)?.first_chunk_mut::<ADVERTISEMENT_LEN>()?;
    message[0] = NEIGHBOR_ADVERTISEMENT;
    // On behalf of others we advertise without override, and they are no routers (RFC 4861 §7.2.8).
    message[4] = SOLICITED | if question.target == gateway.v6 { FROM_ROUTER | OVERRIDE } else { 0 };
    message[8..24].copy_from_slice(&question.target.octets());
    message[24..26].copy_from_slice(&[TARGET_LINK_LAYER_ADDRESS, 1]);
    message[26..32].copy_from_slice(&gateway.mac.0);
    put_ip_around_icmp(packet, Ends::V6 { src: gateway.v6, dst: question.asker }, 0, HOP_LIMIT);
    Some(())
}

/// Whether every option has a length, and one that ends inside the message (RFC 4861 §7.1.1).
pub(super) fn options_are_sound(options: &[u8]) -> bool {
    each_option(options).map(<[u8]>::len).sum::<usize>() == options.len()
}
