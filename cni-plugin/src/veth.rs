//! The pod's veth pair, over rtnetlink: made with its far end already in the pod's namespace, then addressed there.
//!
//! ```text
//!   host namespace                      pod's namespace
//!   vr<hash>  up, no address    ═════   eth0  up, A/32 A6/128, no DAD
//!   (the agent's AF_PACKET)                   default (or the routes asked for) via 169.254.1.1 and fe80::1, on link
//!                                             both are permanent neighbours at 00:00:5e:00:01:00
//! ```
//! The gateway's addresses are the same for every pod and belong to no subnet of it; so nothing is asked on the link, and
//! no pod floods.

use std::io;
use std::net::IpAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use netlink_packet_core::{Emitable, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::AddressFamily;
use netlink_packet_route::address::{
    AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage, AddressScope,
};
use netlink_packet_route::link::{
    InfoData, InfoKind, InfoVeth, LinkAttribute, LinkFlags, LinkInfo, LinkMessage,
};
use netlink_packet_route::neighbour::{NeighbourAttribute, NeighbourMessage, NeighbourState};
use netlink_packet_route::route::{
    RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_sys::protocols::NETLINK_ROUTE;
use vrouter_types::{MacAddr, Prefix};

use crate::netlink::{Netlink, Reply};
use crate::netns::Netns;
use crate::shape::{Limit, token_bucket};

/// One superframe of this size, cut into segments with a label and headers for each, still fits one UDP send (65,507).
const GSO_MAX_SIZE: u32 = 60 << 10;
/// The agent refuses superframes of more segments.
const GSO_MAX_SEGMENTS: u32 = 2000;

/// Between two looks at something that the kernel does in a moment.
const PAUSE: Duration = Duration::from_micros(200);
/// RFC 2863 §3.1.14, as Linux numbers it.
const IF_OPER_UP: u8 = 6;

/// An interface as the kernel has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) index: u32,
    pub(crate) name: String,
    pub(crate) mac: Option<MacAddr>,
    pub(crate) is_up: bool,
    /// Whether the kernel uses it: it is up, so is its other end, and the kernel has taken notice.
    pub(crate) is_operational: bool,
    /// What we wrote on it: see [`Links::label`].
    pub(crate) alias: Option<String>,
}

/// A veth pair to be made.
#[derive(Debug)]
pub(crate) struct Pair<'a> {
    pub(crate) host_interface: &'a str,
    pub(crate) host_mac: MacAddr,
    pub(crate) pod_interface: &'a str,
    pub(crate) pod_mac: MacAddr,
    pub(crate) netns: &'a Netns,
}

/// The links, addresses, routes and neighbours of one namespace.
#[derive(Debug)]
pub(crate) struct Links(Netlink);

impl Links {
    /// Those of the calling thread's namespace.
    pub(crate) fn open() -> io::Result<Links> {
        Netlink::open(NETLINK_ROUTE).map(Links)
    }

    /// The link of this name, alternative names included.
    pub(crate) fn find(&mut self, name: &str) -> io::Result<Option<Link>> {
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::IfName(name.to_owned()));
        match self.0.ask(libc::RTM_GETLINK, &message, 0) {
            Ok(replies) => Ok(replies.iter().find_map(read_link)),
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Waits until the kernel uses the link; whether it came to that. The two ends of a pair are up when they have been
    /// brought up, but the kernel takes notice in a task of its own: until then packets are dropped, and IPv6 is not begun.
    pub(crate) fn wait_operational(&mut self, name: &str, deadline: Instant) -> io::Result<bool> {
        loop {
            match self.find(name)? {
                Some(link) if link.is_operational => return Ok(true),
                Some(_) if Instant::now() < deadline => std::thread::sleep(PAUSE),
                _ => return Ok(false),
            }
        }
    }

    /// Waits until the namespace takes packets for this address; whether it came to that. The kernel adds the route that says
    /// so in a task of its own, even where no duplicate is looked for (addrconf_dad_work).
    pub(crate) fn wait_local(&mut self, address: IpAddr, deadline: Instant) -> io::Result<bool> {
        let mut message = RouteMessage::default();
        message.header.address_family = family(address);
        message.header.destination_prefix_length = if address.is_ipv4() { 32 } else { 128 };
        message.attributes = vec![RouteAttribute::Destination(address.into())];
        loop {
            let replies = self.0.ask(libc::RTM_GETROUTE, &message, 0)?;
            if replies.iter().any(is_local_route) {
                return Ok(true);
            }
            if Instant::now() >= deadline {
                return Ok(false);
            }
            std::thread::sleep(PAUSE);
        }
    }

    /// All links.
    pub(crate) fn all(&mut self) -> io::Result<Vec<Link>> {
        let replies = self.0.ask(libc::RTM_GETLINK, &LinkMessage::default(), NLM_F_DUMP)?;
        Ok(replies.iter().filter_map(read_link).collect())
    }

    /// Makes the pair. The host end is up, the pod's end is not.
    pub(crate) fn create_pair(&mut self, pair: &Pair<'_>) -> io::Result<()> {
        let mut peer = LinkMessage::default();
        peer.attributes = vec![
            LinkAttribute::IfName(pair.pod_interface.to_owned()),
            LinkAttribute::Address(pair.pod_mac.0.to_vec()),
            LinkAttribute::NetNsFd(pair.netns.raw_fd()),
        ];
        let mut message = LinkMessage::default();
        message.header.flags = LinkFlags::Up;
        message.header.change_mask = LinkFlags::Up;
        message.attributes = vec![
            LinkAttribute::IfName(pair.host_interface.to_owned()),
            LinkAttribute::Address(pair.host_mac.0.to_vec()),
            LinkAttribute::LinkInfo(vec![
                LinkInfo::Kind(InfoKind::Veth),
                LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer))),
            ]),
        ];
        self.act(libc::RTM_NEWLINK, &message, NLM_F_CREATE | NLM_F_EXCL)
    }

    /// Removes the link; whether there was one.
    pub(crate) fn delete(&mut self, name: &str) -> io::Result<bool> {
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::IfName(name.to_owned()));
        match self.act(libc::RTM_DELLINK, &message, 0) {
            Ok(()) => Ok(true),
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Writes a text on the link (`ip link` shows it as its alias), and sets its MTU.
    pub(crate) fn label(&mut self, name: &str, text: &str, mtu: u16) -> io::Result<()> {
        let mut message = LinkMessage::default();
        message.attributes = vec![
            LinkAttribute::IfName(name.to_owned()),
            LinkAttribute::IfAlias(text.to_owned()),
            LinkAttribute::Mtu(mtu.into()),
        ];
        self.act(libc::RTM_SETLINK, &message, 0)
    }

    /// Brings the pod's end up with this MTU. Its superframes may be as long as the agent takes them.
    pub(crate) fn bring_up(&mut self, index: u32, mtu: u16, superframe: Option<u32>) -> io::Result<()> {
        // What is longer than an IP length field can tell is "BIG TCP", which came with Linux 5.19 for IPv6, and with 6.3
        // for IPv4; kernels before them refuse it. Before 4.16 this cannot be set from here at all: then a superframe
        // costs one more send, nothing else.
        if superframe.is_none_or(|size| self.limit_superframes(index, size).is_err()) {
            let _ = self.limit_superframes(index, GSO_MAX_SIZE);
        }
        let mut message = LinkMessage::default();
        message.header.index = index;
        message.header.flags = LinkFlags::Up;
        message.header.change_mask = LinkFlags::Up;
        message.attributes = vec![LinkAttribute::Mtu(mtu.into())];
        self.act(libc::RTM_SETLINK, &message, 0)
    }

    fn limit_superframes(&mut self, index: u32, size: u32) -> io::Result<()> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        message.attributes = vec![
            LinkAttribute::GsoMaxSize(size),
            LinkAttribute::GsoMaxSegs(GSO_MAX_SEGMENTS),
            LinkAttribute::GsoIpv4MaxSize(size),
        ];
        self.act(libc::RTM_SETLINK, &message, 0)
    }

    /// Gives the link a /32 or /128. Nobody else on the link can have it, so nobody is asked (RFC 4862 §5.4 is for links
    /// with neighbours): the address is usable at once.
    pub(crate) fn add_address(&mut self, index: u32, address: IpAddr) -> io::Result<()> {
        let mut message = AddressMessage::default();
        message.header.family = family(address);
        message.header.prefix_len = if address.is_ipv4() { 32 } else { 128 };
        message.header.scope = AddressScope::Universe;
        message.header.index = index;
        message.attributes = vec![AddressAttribute::Local(address), AddressAttribute::Address(address)];
        if address.is_ipv6() {
            message.header.flags = AddressHeaderFlags::Nodad;
            message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
        }
        self.act(libc::RTM_NEWADDR, &message, NLM_F_CREATE | NLM_F_EXCL)
    }

    /// The gateway's MAC address, for good.
    pub(crate) fn add_neighbour(&mut self, index: u32, gateway: IpAddr, mac: MacAddr) -> io::Result<()> {
        let mut message = NeighbourMessage::default();
        message.header.family = family(gateway);
        message.header.ifindex = index;
        message.header.state = NeighbourState::Permanent;
        message.header.kind = RouteType::Unicast;
        message.attributes = vec![
            NeighbourAttribute::Destination(gateway.into()),
            NeighbourAttribute::LinkLayerAddress(mac.0.to_vec()),
        ];
        self.act(libc::RTM_NEWNEIGH, &message, NLM_F_CREATE | NLM_F_REPLACE)
    }

    /// A route through the gateway.
    pub(crate) fn add_route(&mut self, index: u32, to: Prefix, gateway: IpAddr) -> io::Result<()> {
        let mut message = RouteMessage::default();
        message.header.address_family = family(gateway);
        message.header.table = RouteHeader::RT_TABLE_MAIN;
        message.header.protocol = RouteProtocol::Boot;
        message.header.scope = RouteScope::Universe;
        message.header.kind = RouteType::Unicast;
        message.header.flags = RouteFlags::Onlink;
        message.attributes = vec![RouteAttribute::Gateway(gateway.into()), RouteAttribute::Oif(index)];
        if to.len() > 0 {
            message.header.destination_prefix_length = to.len();
            message.attributes.push(RouteAttribute::Destination(to.addr().into()));
        }
        self.act(libc::RTM_NEWROUTE, &message, NLM_F_CREATE | NLM_F_EXCL)
    }

    /// Lets no more through the link than this.
    pub(crate) fn shape(&mut self, index: u32, limit: Limit) -> io::Result<()> {
        self.act(libc::RTM_NEWQDISC, &token_bucket(index, limit), NLM_F_CREATE | NLM_F_REPLACE)
    }

    /// The addresses of a link.
    pub(crate) fn addresses(&mut self, index: u32) -> io::Result<Vec<IpAddr>> {
        let replies = self.0.ask(libc::RTM_GETADDR, &AddressMessage::default(), NLM_F_DUMP)?;
        Ok(replies.iter().filter_map(|reply| read_address(reply, index)).collect())
    }

    /// Whether there is this route through this gateway over this link.
    pub(crate) fn has_route(&mut self, index: u32, to: Prefix, gateway: IpAddr) -> io::Result<bool> {
        let mut message = RouteMessage::default();
        message.header.address_family = family(gateway);
        let replies = self.0.ask(libc::RTM_GETROUTE, &message, NLM_F_DUMP)?;
        Ok(replies.iter().any(|reply| is_route(reply, index, to, gateway)))
    }

    fn act(&mut self, kind: u16, message: &impl Emitable, flags: u16) -> io::Result<()> {
        self.0.ask(kind, message, flags).map(drop)
    }
}

/// Switches off what a pod's interface must not do by itself, in the calling thread's namespace: duplicate address
/// detection (its link-local address would be unusable for a second), router discovery, and "no IPv6" where the runtime's
/// defaults say so.
pub(crate) fn set_ipv6_sysctls(interface: &str) -> io::Result<()> {
    let directory = Path::new("/proc/sys/net/ipv6/conf").join(interface);
    // Hints only: the addresses carry "no DAD" themselves, and nobody sends router advertisements.
    let _ = std::fs::write(directory.join("accept_dad"), "0");
    let _ = std::fs::write(directory.join("accept_ra"), "0");
    let disabled = directory.join("disable_ipv6");
    match std::fs::read(&disabled)?.first() {
        Some(b'0') => Ok(()),
        _ => std::fs::write(disabled, "0"),
    }
}

fn family(address: IpAddr) -> AddressFamily {
    if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 }
}

/// `ifinfomsg`: family 1 | 1 | type 2 | index 4 | flags 4 | change 4.
fn read_link(reply: &Reply) -> Option<Link> {
    let head: [u8; 16] = reply.head()?;
    let flags = number(head.get(8..12)?)?;
    let attribute = |kind| reply.attribute(head.len(), kind);
    Some(Link {
        index: number(head.get(4..8)?)?,
        name: attribute(libc::IFLA_IFNAME).map(text).unwrap_or_default(),
        mac: attribute(libc::IFLA_ADDRESS).and_then(|octets| octets.try_into().ok()).map(MacAddr),
        is_up: flags & LinkFlags::Up.bits() != 0,
        is_operational: attribute(libc::IFLA_OPERSTATE) == Some(&[IF_OPER_UP]),
        alias: attribute(libc::IFLA_IFALIAS).map(text),
    })
}

/// `ifaddrmsg`: family 1 | length 1 | flags 1 | scope 1 | index 4.
fn read_address(reply: &Reply, index: u32) -> Option<IpAddr> {
    let head: [u8; 8] = reply.head()?;
    let attribute = |kind| reply.attribute(head.len(), kind);
    // An IPv6 address without a peer comes as "address" only.
    let octets = attribute(libc::IFA_LOCAL).or_else(|| attribute(libc::IFA_ADDRESS))?;
    (number(head.get(4..8)?)? == index).then(|| address(octets)).flatten()
}

/// `rtmsg`: family 1 | length of the destination 1 | eight more, flags 4.
fn is_route(reply: &Reply, index: u32, to: Prefix, gateway: IpAddr) -> bool {
    let Some([_, length, ..]) = reply.head::<12>() else { return false };
    let destination = reply.attribute(12, libc::RTA_DST).and_then(address);
    length == to.len()
        && (length == 0 || destination == Some(to.addr()))
        && reply.attribute(12, libc::RTA_OIF).and_then(number) == Some(index)
        && reply.attribute(12, libc::RTA_GATEWAY).and_then(address) == Some(gateway)
}

fn is_local_route(reply: &Reply) -> bool {
    matches!(reply.head::<12>(), Some([_, _, _, _, _, _, _, libc::RTN_LOCAL, ..]))
}

fn number(octets: &[u8]) -> Option<u32> {
    octets.try_into().ok().map(u32::from_ne_bytes)
}

fn text(octets: &[u8]) -> String {
    let end = octets.iter().position(|octet| *octet == 0).unwrap_or(octets.len());
    String::from_utf8_lossy(octets.get(..end).unwrap_or_default()).into_owned()
}

fn address(octets: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(octets).map(IpAddr::from);
    v4.or_else(|_| <[u8; 16]>::try_from(octets).map(IpAddr::from)).ok()
}
