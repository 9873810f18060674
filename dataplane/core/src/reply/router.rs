//! Router advertisements (RFC 4861 §4.2): who the router is, and how a workload comes by its addresses.
//!
//! ```text
//!  0     1     2         4    5      6          8         12        16
//!  | type| code| checksum| hop| flags| lifetime | reachable| retrans | options: link-layer address, MTU, prefixes,
//!                                                                      routes, DNS servers, search list
//! ```
//! The mode follows from the address: one that ends in the interface identifier which the workload makes of its own MAC
//! is to be made by itself (RFC 4862), any other comes by DHCP. Both are what neutron calls SLAAC and stateful, and a
//! workload with an address of each kind is told of both. No prefix is on-link, so that everything goes through us.

use std::net::{IpAddr, Ipv6Addr};

use vrouter_types::{MacAddr, Prefix};

use super::nd::SOURCE_LINK_LAYER_ADDRESS as SOURCE_LINK_LAYER;
use super::write::Writer;
use super::{
    ETHERNET_HEADER, ETHERTYPE_IPV6, Ends, icmp_checksum_is_right, nd, put_ethernet, put_ip_around_icmp,
};
use crate::fib::{Gateway, Lease, Port, Services};
use crate::packet::{Fragment, IPV6_HEADER, Packet};
use crate::state::ReplyBuffer;
use crate::verdict::DropReason;

const SOLICITATION: usize = 8;
const ADVERTISEMENT: u8 = 134;
const HOP_LIMIT: u8 = 255;
/// How long we are a router, seconds; advertisements come far more often.
const LIFETIME: u16 = 1800;
/// What every link takes (RFC 8200 §5).
const MOST: usize = 1280;
const MANAGED: u8 = 0x80;
const OTHER: u8 = 0x40;
const AUTONOMOUS: u8 = 0x40;
pub(crate) const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
pub(crate) const ALL_NODES_MAC: MacAddr = MacAddr([0x33, 0x33, 0, 0, 0, 1]);

const PREFIX: u8 = 3;
const MTU: u8 = 5;
const ROUTE: u8 = 24;
const DNS: u8 = 25;
const SEARCH: u8 = 31;

/// Reads a router solicitation in a frame from this MAC address, and tells who is to be answered. `bytes` begin at the
/// IPv6 header.
pub(crate) fn parse(
    port: &Port,
    mac: MacAddr,
    packet: &Packet,
    bytes: &[u8],
) -> Result<Ipv6Addr, DropReason> {
    let message = packet.icmp(bytes).ok_or(DropReason::MalformedNd)?;
    let ends = Ends::new(packet.src, packet.dst).ok_or(DropReason::MalformedNd)?;
    let IpAddr::V6(asker) = packet.src else { return Err(DropReason::MalformedNd) };
    // RFC 4861 §6.1.1; fragments: RFC 6980 §5.
    let valid = packet.ttl == HOP_LIMIT && message.get(1) == Some(&0) && packet.fragment == Fragment::Whole;
    let options = message.get(SOLICITATION..).unwrap_or(&[]);
    let sound = nd::options_are_sound(options);
    let nobody_with_address = asker.is_unspecified() && nd::has_option(options, SOURCE_LINK_LAYER);
    if !valid || !sound || nobody_with_address || !icmp_checksum_is_right(ends, message) {
        return Err(DropReason::MalformedNd);
    }
    match asker {
        nobody if nobody.is_unspecified() => Ok(ALL_NODES),
        own if nd::may_be(port, own, mac) => Ok(own),
        _ => Err(DropReason::SpoofedSource),
    }
}

/// Writes an advertisement, an Ethernet frame for the port.
pub(crate) fn advertise(
    reply: &mut ReplyBuffer,
    gateway: &Gateway,
    (port, services, lease): (&Port, &Services, &Lease),
    (to, mac): (Ipv6Addr, MacAddr),
) -> Option<()> {
    let frame = reply.start(ETHERNET_HEADER + MOST, None)?;
    let mut writer = Writer::new(frame.get_mut(ETHERNET_HEADER + IPV6_HEADER..)?);
    put_message(&mut writer, gateway, port, services, lease)?;
    let len = writer.len();
    reply.shorten(ETHERNET_HEADER + IPV6_HEADER + len);
    let frame = reply.bytes_mut();
    put_ethernet(frame, mac, gateway.mac, ETHERTYPE_IPV6);
    let packet = frame.get_mut(ETHERNET_HEADER..)?;
    put_ip_around_icmp(packet, Ends::V6 { src: gateway.v6, dst: to }, 0, HOP_LIMIT);
    Some(())
}

fn put_message(
    writer: &mut Writer<'_>,
    gateway: &Gateway,
    port: &Port,
    services: &Services,
    lease: &Lease,
) -> Option<()> {
    let addresses = || port.addresses.iter().filter(|addr| addr.is_ipv6());
    let managed = addresses().any(|addr| !makes_itself(port, *addr, services));
    let flags = if managed { MANAGED | OTHER } else { OTHER };
    let subnets = || services.subnets.iter().filter(|subnet| !subnet.prefix.is_ipv4());
    // A router for everything, unless every subnet says that it has none.
    let is_router = subnets().next().is_none() || subnets().any(|subnet| subnet.gateway.is_some());
    let [l0, l1] = if is_router { LIFETIME } else { 0 }.to_be_bytes();
    writer.put(&[ADVERTISEMENT, 0, 0, 0, 64, flags, l0, l1, 0, 0, 0, 0, 0, 0, 0, 0])?;
    writer.put(&[SOURCE_LINK_LAYER, 1])?;
    writer.put(&gateway.mac.0)?;
    writer.put(&[MTU, 1, 0, 0])?;
    writer.put(&u32::from(port.mtu.max(1280)).to_be_bytes())?;
    // From here on each is left out where it does not fit.
    for prefix in subnets().map(|subnet| subnet.prefix) {
        let own = |addr: &IpAddr| prefix.len() == 64 && prefix.contains(*addr) && is_of_mac(port, *addr);
        put_prefix(writer, prefix, lease, addresses().any(own));
    }
    // Where nobody has told the subnet: such an address is of one of 64 bits, whatever else is known.
    for addr in addresses().filter(|addr| services.subnet(**addr).is_none() && is_of_mac(port, **addr)) {
        put_prefix(writer, Prefix::new(*addr, 64)?, lease, true);
    }
    for (prefix, _) in subnets().flat_map(|subnet| &subnet.routes).filter(|(prefix, _)| !prefix.is_ipv4()) {
        put_route(writer, *prefix);
    }
    put_dns(writer, gateway, services, lease);
    if let Some(domain) = &lease.domain {
        put_search(writer, domain);
    }
    Some(())
}

/// Whether the workload makes this address itself, of a prefix of 64 bits and its MAC address (RFC 4291 appendix A).
fn makes_itself(port: &Port, addr: IpAddr, services: &Services) -> bool {
    services.subnet(addr).is_none_or(|subnet| subnet.prefix.len() == 64) && is_of_mac(port, addr)
}

fn is_of_mac(port: &Port, addr: IpAddr) -> bool {
    let IpAddr::V6(addr) = addr else { return false };
    let [a, b, c, d, e, f] = port.mac.0;
    addr.octets()[8..] == [a ^ 0x02, b, c, 0xff, 0xfe, d, e, f]
}

fn put_prefix(writer: &mut Writer<'_>, prefix: Prefix, lease: &Lease, autonomous: bool) -> Option<()> {
    let IpAddr::V6(addr) = prefix.addr() else { return Some(()) };
    // Nobody renews such an address but the next advertisement: a shorter lease would end before that comes.
    let lifetime = lease.seconds.max(LIFETIME.into()).to_be_bytes();
    writer.whole(|writer| {
        writer.put(&[PREFIX, 4, prefix.len(), if autonomous { AUTONOMOUS } else { 0 }])?;
        writer.put(&lifetime)?;
        writer.put(&lifetime)?;
        writer.put(&[0; 4])?;
        writer.put(&addr.octets())
    })
}

/// RFC 4191 §2.3.
fn put_route(writer: &mut Writer<'_>, prefix: Prefix) -> Option<()> {
    let IpAddr::V6(addr) = prefix.addr() else { return Some(()) };
    writer.whole(|writer| {
        writer.put(&[ROUTE, 3, prefix.len(), 0])?;
        writer.put(&u32::from(LIFETIME).to_be_bytes())?;
        writer.put(&addr.octets())
    })
}

/// RFC 8106 §5.1.
fn put_dns(writer: &mut Writer<'_>, gateway: &Gateway, services: &Services, lease: &Lease) -> Option<()> {
    let own = (lease.dns.is_empty() && services.dns).then_some(gateway.v6);
    let named = lease.dns.iter().filter_map(|addr| match addr {
        IpAddr::V6(addr) => Some(*addr),
        IpAddr::V4(_) => None,
    });
    let servers = || own.into_iter().chain(named.clone());
    let eights = u8::try_from(1 + 2 * servers().count()).ok().filter(|eights| *eights > 1)?;
    writer.whole(|writer| {
        writer.put(&[DNS, eights, 0, 0])?;
        writer.put(&u32::from(LIFETIME).to_be_bytes())?;
        servers().try_for_each(|addr| writer.put(&addr.octets()))
    })
}

/// RFC 8106 §5.2.
fn put_search(writer: &mut Writer<'_>, domain: &str) -> Option<()> {
    let mut name = [0; 256];
    let mut scratch = Writer::new(&mut name);
    scratch.name(domain)?;
    let padded = scratch.len().next_multiple_of(8);
    writer.whole(|writer| {
        writer.put(&[SEARCH, u8::try_from(1 + padded / 8).ok()?, 0, 0])?;
        writer.put(&u32::from(LIFETIME).to_be_bytes())?;
        writer.put(scratch.written())?;
        writer.put([0; 8].get(..padded - scratch.len())?)
    })
}
