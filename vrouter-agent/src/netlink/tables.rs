//! Links and addresses as the kernel last told them, and what follows from them. Pure.
//!
//! Every message states what is, so applying one twice, or one that a fresh dump has overtaken, does no harm: the
//! messages behind it set it right.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage, AddressScope};
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};
use netlink_packet_route::tc::{TcAttribute, TcHandle, TcMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::NetlinkEvent;
use crate::config::UnderlaySource;
use crate::event::Underlay;

/// For an underlay of which no link tells its MTU.
const ETHERNET_MTU: u16 = 1500;
/// Queues that hold packets back. The kernel's own kinds do not.
const SHAPING: [&str; 4] = ["tbf", "htb", "hfsc", "cake"];

/// Links and addresses by interface index.
#[derive(Debug, Default)]
pub(super) struct Tables {
    links: BTreeMap<u32, Link>,
    /// In the kernel's order, in which the primary address is the first.
    addresses: BTreeMap<u32, Vec<Address>>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Link {
    name: String,
    mtu: u16,
    up: bool,
    loopback: bool,
    shaped: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Address {
    ip: IpAddr,
    global: bool,
    /// Not (yet) ours: duplicate address detection is under way or has failed.
    tentative: bool,
    /// Not one to be known by: secondary, temporary or deprecated.
    minor: bool,
}

impl Tables {
    /// Takes one message. Says which links came, went and got a queue by it.
    pub(super) fn apply(&mut self, message: &RouteNetlinkMessage) -> Vec<NetlinkEvent> {
        match message {
            RouteNetlinkMessage::NewLink(link) if is_own(link) => return self.new_link(link),
            RouteNetlinkMessage::DelLink(link) if is_own(link) => return self.del_link(link.header.index),
            RouteNetlinkMessage::NewQueueDiscipline(queue) => return self.new_queue(queue),
            RouteNetlinkMessage::NewAddress(address) => self.new_address(address),
            RouteNetlinkMessage::DelAddress(address) => self.del_address(address),
            // A bridge's word on its ports, and what the groups that we join do not carry.
            _ => {}
        }
        Vec::new()
    }

    /// Takes a fresh dump instead of what was known. Says which links came, went and got a queue meanwhile.
    pub(super) fn replace(&mut self, fresh: Tables) -> Vec<NetlinkEvent> {
        let stays = |(index, link): &(&u32, &Link), other: &Tables| {
            other.links.get(index).is_some_and(|known| known.name == link.name)
        };
        let gone = self.links.iter().filter(|link| !stays(link, &fresh));
        let come = fresh.links.iter().filter(|link| !stays(link, self));
        let was_shaped = |index: &u32| self.links.get(index).is_some_and(|known| known.shaped);
        let shaped = fresh.links.iter().filter(|(index, link)| link.shaped && !was_shaped(index));
        let events = gone
            .map(|(_, link)| NetlinkEvent::LinkRemoved(link.name.clone()))
            .chain(come.map(|(_, link)| NetlinkEvent::LinkAdded(link.name.clone())))
            .chain(shaped.map(|(_, link)| NetlinkEvent::LinkShaped(link.name.clone())))
            .collect();
        *self = fresh;
        events
    }

    /// The tunnel source that the operator named, if the host has it now.
    pub(super) fn underlay(&self, source: &UnderlaySource) -> Option<Underlay> {
        let (index, address) = match source {
            UnderlaySource::Address(wanted) => self.holder_of(*wanted)?,
            UnderlaySource::Interface(name) => self.address_of(name)?,
        };
        let link = self.links.get(&index)?;
        let mtu = if link.loopback { self.uplink_mtu(address) } else { link.mtu };
        Some(Underlay { address, interface: link.name.clone(), mtu })
    }

    /// The host's own addresses, but for those of this interface, loopback and link-local ones.
    pub(super) fn host_addresses(&self, without: &str) -> Vec<IpAddr> {
        let own = self
            .addresses
            .iter()
            .filter(|(index, _)| self.links.get(index).is_none_or(|link| link.name != without));
        let usable = own.flat_map(|(_, addresses)| addresses).filter(|a| a.global && !a.tentative);
        // A set: the same address may stand on two interfaces.
        usable.map(|address| address.ip).collect::<BTreeSet<_>>().into_iter().collect()
    }

    fn holder_of(&self, wanted: IpAddr) -> Option<(u32, IpAddr)> {
        let holders = self.addresses.iter().filter(|(_, addresses)| {
            addresses.iter().any(|address| address.ip == wanted && !address.tentative)
        });
        let index = holders.map(|(index, _)| *index).find(|index| self.is_up(*index))?;
        Some((index, wanted))
    }

    /// IPv4 before IPv6, the primary address before others.
    fn address_of(&self, name: &str) -> Option<(u32, IpAddr)> {
        let (index, _) = self.links.iter().find(|(_, link)| link.name == name && link.up)?;
        let usable = self.addresses.get(index)?.iter().filter(|a| a.global && !a.tentative);
        let best = usable.min_by_key(|address| (address.ip.is_ipv6(), address.minor))?;
        Some((*index, best.ip))
    }

    /// For a tunnel source on the loopback interface: packets may leave by any uplink, so the smallest MTU counts.
    fn uplink_mtu(&self, address: IpAddr) -> u16 {
        let uplinks = self.links.iter().filter(|(index, link)| {
            let addresses = self.addresses.get(index).map(Vec::as_slice).unwrap_or_default();
            link.up
                && !link.loopback
                && addresses.iter().any(|other| other.global && other.ip.is_ipv4() == address.is_ipv4())
        });
        uplinks.map(|(_, link)| link.mtu).min().unwrap_or(ETHERNET_MTU)
    }

    fn is_up(&self, index: u32) -> bool {
        self.links.get(&index).is_some_and(|link| link.up)
    }

    fn new_link(&mut self, message: &LinkMessage) -> Vec<NetlinkEvent> {
        let known = self.links.get(&message.header.index);
        // Some messages (wireless events) carry the name only: what they leave out has not changed.
        let mut link = known.cloned().unwrap_or_default();
        link.up = message.header.flags.contains(LinkFlags::Up);
        link.loopback = message.header.flags.contains(LinkFlags::Loopback);
        for attribute in &message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => link.name.clone_from(name),
                LinkAttribute::Mtu(mtu) => link.mtu = u16::try_from(*mtu).unwrap_or(u16::MAX),
                LinkAttribute::Qdisc(kind) => link.shaped = SHAPING.contains(&kind.as_str()),
                _ => {}
            }
        }
        let mut events = Vec::new();
        if known.map(|known| &known.name) != Some(&link.name) {
            events.extend(known.map(|known| NetlinkEvent::LinkRemoved(known.name.clone())));
            events.push(NetlinkEvent::LinkAdded(link.name.clone()));
        }
        if link.shaped && known.is_none_or(|known| !known.shaped) {
            events.push(NetlinkEvent::LinkShaped(link.name.clone()));
        }
        self.links.insert(message.header.index, link);
        events
    }

    /// No link message tells of a queue that is put on a link.
    fn new_queue(&mut self, message: &TcMessage) -> Vec<NetlinkEvent> {
        let index = u32::try_from(message.header.index).ok();
        let Some(link) = index.and_then(|index| self.links.get_mut(&index)) else { return Vec::new() };
        if message.header.parent != TcHandle::ROOT {
            return Vec::new();
        }
        let is_shaping =
            |it: &TcAttribute| matches!(it, TcAttribute::Kind(kind) if SHAPING.contains(&kind.as_str()));
        let is_shaped = message.attributes.iter().any(is_shaping);
        let was_shaped = std::mem::replace(&mut link.shaped, is_shaped);
        let event = (is_shaped && !was_shaped).then(|| NetlinkEvent::LinkShaped(link.name.clone()));
        event.into_iter().collect()
    }

    fn del_link(&mut self, index: u32) -> Vec<NetlinkEvent> {
        self.addresses.remove(&index);
        let link = self.links.remove(&index);
        link.map(|link| NetlinkEvent::LinkRemoved(link.name)).into_iter().collect()
    }

    fn new_address(&mut self, message: &AddressMessage) {
        let Some(address) = read_address(message) else { return };
        let known = self.addresses.entry(message.header.index).or_default();
        match known.iter_mut().find(|known| known.ip == address.ip) {
            Some(known) => *known = address,
            None => known.push(address),
        }
    }

    fn del_address(&mut self, message: &AddressMessage) {
        let (Some(address), Some(known)) =
            (read_address(message), self.addresses.get_mut(&message.header.index))
        else {
            return;
        };
        known.retain(|known| known.ip != address.ip);
    }
}

/// Whether the link's queue holds packets back.
pub(super) fn is_shaped(message: &LinkMessage) -> bool {
    let is_shaping =
        |it: &LinkAttribute| matches!(it, LinkAttribute::Qdisc(kind) if SHAPING.contains(&kind.as_str()));
    message.attributes.iter().any(is_shaping)
}

/// Bridges tell of their ports by link messages of their own family; a port that leaves a bridge is no link that went.
fn is_own(message: &LinkMessage) -> bool {
    message.header.interface_family == AddressFamily::Unspec
}

fn read_address(message: &AddressMessage) -> Option<Address> {
    let (mut own, mut either) = (None, None);
    let mut flags = AddressFlags::from_bits_retain(u32::from(message.header.flags.bits()));
    for attribute in &message.attributes {
        match attribute {
            // On a point-to-point link `Address` is the far end.
            AddressAttribute::Local(ip) => own = Some(*ip),
            AddressAttribute::Address(ip) => either = Some(*ip),
            AddressAttribute::Flags(all) => flags = *all,
            _ => {}
        }
    }
    let ip = own.or(either)?;
    Some(Address {
        ip,
        global: message.header.scope == AddressScope::Universe && !ip.is_loopback(),
        tentative: flags.intersects(AddressFlags::Tentative | AddressFlags::Dadfailed),
        minor: flags.intersects(AddressFlags::Secondary | AddressFlags::Deprecated),
    })
}

#[cfg(test)]
mod tests {
    use std::iter::once;

    use netlink_packet_route::link::LinkHeader;

    use super::*;

    fn link(index: u32, name: &str, mtu: u32, flags: LinkFlags) -> LinkMessage {
        let mut message = LinkMessage::default();
        message.header = LinkHeader { index, flags, ..LinkHeader::default() };
        message.attributes = vec![LinkAttribute::IfName(name.into()), LinkAttribute::Mtu(mtu)];
        message
    }

    fn up(index: u32, name: &str, mtu: u32) -> RouteNetlinkMessage {
        RouteNetlinkMessage::NewLink(link(index, name, mtu, LinkFlags::Up))
    }

    fn address(index: u32, ip: &str, flags: AddressFlags) -> AddressMessage {
        let mut message = AddressMessage::default();
        message.header.index = index;
        let ip: IpAddr = ip.parse().unwrap();
        if matches!(ip, IpAddr::V6(v6) if v6.is_unicast_link_local()) {
            message.header.scope = AddressScope::Link;
        }
        message.attributes = vec![AddressAttribute::Address(ip), AddressAttribute::Flags(flags)];
        message
    }

    fn has(index: u32, ip: &str) -> RouteNetlinkMessage {
        RouteNetlinkMessage::NewAddress(address(index, ip, AddressFlags::Permanent))
    }

    fn tables(messages: impl IntoIterator<Item = RouteNetlinkMessage>) -> Tables {
        let mut tables = Tables::default();
        for message in messages {
            tables.apply(&message);
        }
        tables
    }

    fn by_address(ip: &str) -> UnderlaySource {
        UnderlaySource::Address(ip.parse().unwrap())
    }

    fn by_interface(name: &str) -> UnderlaySource {
        UnderlaySource::Interface(name.into())
    }

    fn found(tables: &Tables, source: &UnderlaySource) -> Option<(String, String, u16)> {
        tables.underlay(source).map(|it| (it.address.to_string(), it.interface, it.mtu))
    }

    fn is(ip: &str, interface: &str, mtu: u16) -> Option<(String, String, u16)> {
        Some((ip.into(), interface.into(), mtu))
    }

    fn added(name: &str) -> NetlinkEvent {
        NetlinkEvent::LinkAdded(name.into())
    }

    fn removed(name: &str) -> NetlinkEvent {
        NetlinkEvent::LinkRemoved(name.into())
    }

    #[test]
    fn underlay_by_address_follows_the_address() {
        let source = by_address("192.0.2.11");
        let mut tables = tables([up(2, "eth0", 1500), up(3, "wwan0", 1428)]);
        assert_eq!(found(&tables, &source), None);
        tables.apply(&has(2, "192.0.2.11"));
        assert_eq!(found(&tables, &source), is("192.0.2.11", "eth0", 1500));
        tables.apply(&RouteNetlinkMessage::DelAddress(address(2, "192.0.2.11", AddressFlags::empty())));
        assert_eq!(found(&tables, &source), None);
        tables.apply(&has(3, "192.0.2.11"));
        assert_eq!(found(&tables, &source), is("192.0.2.11", "wwan0", 1428));
        tables.apply(&up(3, "wwan0", 1300));
        assert_eq!(found(&tables, &source), is("192.0.2.11", "wwan0", 1300));
    }

    fn queue(index: i32, parent: TcHandle, kind: &str) -> RouteNetlinkMessage {
        let mut message = TcMessage::default();
        (message.header.index, message.header.parent) = (index, parent);
        message.attributes = vec![TcAttribute::Kind(kind.into())];
        RouteNetlinkMessage::NewQueueDiscipline(message)
    }

    #[test]
    fn a_queue_that_shapes_is_told_of_once_however_it_is_heard_of() {
        let shaped = [NetlinkEvent::LinkShaped("tap1".into())];
        let mut tables = tables([up(2, "tap1", 1500)]);
        assert_eq!(tables.apply(&queue(2, TcHandle::ROOT, "fq_codel")), []);
        assert_eq!(tables.apply(&queue(2, TcHandle { major: 1, minor: 1 }, "tbf")), []);
        assert_eq!(tables.apply(&queue(7, TcHandle::ROOT, "tbf")), []);
        assert_eq!(tables.apply(&queue(2, TcHandle::ROOT, "tbf")), shaped);
        assert_eq!(tables.apply(&queue(2, TcHandle::ROOT, "tbf")), []);
        assert_eq!(tables.apply(&queue(2, TcHandle::ROOT, "noqueue")), []);
        let mut message = link(2, "tap1", 1500, LinkFlags::Up);
        message.attributes.push(LinkAttribute::Qdisc("htb".into()));
        let mut fresh = self::tables([RouteNetlinkMessage::NewLink(message.clone())]);
        assert_eq!(tables.apply(&RouteNetlinkMessage::NewLink(message)), shaped);
        assert_eq!(tables.replace(std::mem::take(&mut fresh)), []);
        let mut before = self::tables([up(2, "tap1", 1500)]);
        assert_eq!(before.replace(tables), shaped);
    }

    #[test]
    fn link_that_is_down_is_no_underlay() {
        let mut tables = tables([up(2, "eth0", 1500), has(2, "192.0.2.11")]);
        tables.apply(&RouteNetlinkMessage::NewLink(link(2, "eth0", 1500, LinkFlags::empty())));
        assert_eq!(found(&tables, &by_address("192.0.2.11")), None);
        assert_eq!(found(&tables, &by_interface("eth0")), None);
    }

    #[test]
    fn underlay_by_interface_prefers_primary_ipv4() {
        let secondary = RouteNetlinkMessage::NewAddress(address(2, "10.9.9.9", AddressFlags::Secondary));
        let mut tables = tables([up(2, "wg0", 1420), has(2, "fe80::1"), has(2, "2001:db8::1"), secondary]);
        assert_eq!(found(&tables, &by_interface("wg0")), is("10.9.9.9", "wg0", 1420));
        tables.apply(&has(2, "10.0.0.1"));
        assert_eq!(found(&tables, &by_interface("wg0")), is("10.0.0.1", "wg0", 1420));
        for ip in ["10.0.0.1", "10.9.9.9"] {
            tables.apply(&RouteNetlinkMessage::DelAddress(address(2, ip, AddressFlags::empty())));
        }
        assert_eq!(found(&tables, &by_interface("wg0")), is("2001:db8::1", "wg0", 1420));
    }

    #[test]
    fn address_under_duplicate_detection_is_not_ours_yet() {
        let tentative = RouteNetlinkMessage::NewAddress(address(2, "2001:db8::1", AddressFlags::Tentative));
        let mut tables = tables([up(2, "eth0", 1500), tentative]);
        assert_eq!(found(&tables, &by_address("2001:db8::1")), None);
        tables.apply(&has(2, "2001:db8::1"));
        assert_eq!(found(&tables, &by_address("2001:db8::1")), is("2001:db8::1", "eth0", 1500));
    }

    #[test]
    fn underlay_on_loopback_has_the_smallest_uplink_mtu() {
        let lo = RouteNetlinkMessage::NewLink(link(1, "lo", 65536, LinkFlags::Up | LinkFlags::Loopback));
        let mut tables = tables([lo, has(1, "127.0.0.1"), has(1, "192.0.2.11"), up(9, "vethx", 600)]);
        assert_eq!(found(&tables, &by_address("192.0.2.11")), is("192.0.2.11", "lo", 1500));
        for message in [up(2, "eth0", 1500), has(2, "10.0.0.1"), up(3, "wg0", 1420), has(3, "10.1.0.1")] {
            tables.apply(&message);
        }
        assert_eq!(found(&tables, &by_address("192.0.2.11")), is("192.0.2.11", "lo", 1420));
    }

    #[test]
    fn mtu_beyond_sixteen_bits_is_the_largest() {
        let tables = tables([up(2, "big0", 65536), has(2, "10.0.0.1")]);
        assert_eq!(found(&tables, &by_interface("big0")), is("10.0.0.1", "big0", 65535));
    }

    #[test]
    fn far_end_of_a_point_to_point_link_is_not_ours() {
        let mut message = address(2, "10.0.0.2", AddressFlags::Permanent);
        message.attributes.insert(0, AddressAttribute::Local("10.0.0.1".parse().unwrap()));
        let tables = tables([up(2, "ppp0", 1492), RouteNetlinkMessage::NewAddress(message)]);
        assert_eq!(found(&tables, &by_interface("ppp0")), is("10.0.0.1", "ppp0", 1492));
        assert_eq!(found(&tables, &by_address("10.0.0.2")), None);
    }

    #[test]
    fn host_addresses_leave_out_what_is_no_hosts() {
        let lo = RouteNetlinkMessage::NewLink(link(1, "lo", 65536, LinkFlags::Up | LinkFlags::Loopback));
        let tables = tables([
            lo,
            has(1, "127.0.0.1"),
            has(1, "::1"),
            has(1, "192.0.2.1"),
            up(2, "eth0", 1500),
            has(2, "10.0.0.1"),
            has(2, "fe80::1"),
            up(3, "vrouter0", 1500),
            has(3, "169.254.1.1"),
        ]);
        let expected: Vec<IpAddr> = ["10.0.0.1", "192.0.2.1"].map(|ip| ip.parse().unwrap()).into();
        assert_eq!(tables.host_addresses("vrouter0"), expected);
    }

    #[test]
    fn links_come_go_and_change_their_names() {
        let mut tables = Tables::default();
        assert_eq!(tables.apply(&up(2, "tap0", 1500)), [added("tap0")]);
        assert_eq!(tables.apply(&up(2, "tap0", 1400)), []);
        assert_eq!(tables.apply(&up(2, "tap1", 1400)), [removed("tap0"), added("tap1")]);
        let gone = RouteNetlinkMessage::DelLink(link(2, "tap1", 1400, LinkFlags::empty()));
        assert_eq!(tables.apply(&gone), [removed("tap1")]);
        assert_eq!(tables.apply(&gone), []);
    }

    #[test]
    fn port_that_leaves_a_bridge_is_no_link_that_went() {
        let mut tables = tables([up(2, "tap0", 1500)]);
        let mut message = link(2, "tap0", 1500, LinkFlags::Up);
        message.header.interface_family = AddressFamily::Bridge;
        assert_eq!(tables.apply(&RouteNetlinkMessage::DelLink(message)), []);
        let gone = RouteNetlinkMessage::DelLink(link(2, "tap0", 1500, LinkFlags::empty()));
        assert_eq!(tables.apply(&gone), [removed("tap0")]);
    }

    #[test]
    fn message_without_an_mtu_leaves_it() {
        let mut tables = tables([up(2, "wlan0", 1492), has(2, "10.0.0.1")]);
        let mut message = link(2, "wlan0", 0, LinkFlags::Up);
        message.attributes.truncate(1);
        assert_eq!(tables.apply(&RouteNetlinkMessage::NewLink(message)), []);
        assert_eq!(found(&tables, &by_interface("wlan0")), is("10.0.0.1", "wlan0", 1492));
    }

    #[test]
    fn address_without_a_link_waits_for_it() {
        let mut tables = tables(once(has(2, "10.0.0.1")));
        assert_eq!(found(&tables, &by_address("10.0.0.1")), None);
        tables.apply(&up(2, "eth0", 1500));
        assert_eq!(found(&tables, &by_address("10.0.0.1")), is("10.0.0.1", "eth0", 1500));
    }

    #[test]
    fn fresh_dump_tells_the_difference_only() {
        let mut tables = tables([up(2, "tap0", 1500), up(3, "tap1", 1500), up(4, "tap2", 1500)]);
        // tap1 went, tap2 was made anew, tap3 came.
        let fresh = self::tables([up(2, "tap0", 9000), up(7, "tap2", 1500), up(8, "tap3", 1500)]);
        let events = tables.replace(fresh);
        assert_eq!(events, [removed("tap1"), removed("tap2"), added("tap2"), added("tap3")]);
    }
}
