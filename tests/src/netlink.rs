//! rtnetlink for the lab: links, addresses, routes and permanent neighbours of the calling thread's namespace, one
//! request and one answer at a time. Not for the products: they have their own.

use std::io;
use std::net::IpAddr;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkMessage,
    NetlinkPayload,
};
use netlink_packet_route::address::{AddressAttribute, AddressHeaderFlags, AddressMessage};
use netlink_packet_route::link::{
    InfoData, InfoKind, InfoVeth, LinkAttribute, LinkFlags, LinkInfo, LinkMessage,
};
use netlink_packet_route::neighbour::{NeighbourAttribute, NeighbourMessage, NeighbourState};
use netlink_packet_route::route::{
    RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};
use vrouter_types::{MacAddr, Prefix};

/// A link as the kernel shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Its number.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Its MAC address, where it has one.
    pub mac: Option<MacAddr>,
    /// Its MTU.
    pub mtu: u32,
    /// Whether it is switched on.
    pub up: bool,
}

/// The longest superframes of a link, in octets and in segments; `None` where the kernel does not say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Superframes {
    /// Of every kind but those below.
    pub size: Option<u32>,
    /// Of IPv4, since Linux 6.3.
    pub ipv4: Option<u32>,
    /// Segments.
    pub segments: Option<u32>,
}

/// An rtnetlink socket of one namespace: the one that the thread was in when it was opened.
pub struct Netlink(Socket);

impl Netlink {
    /// Opens a socket in the calling thread's namespace.
    pub fn open() -> io::Result<Netlink> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(Netlink(socket))
    }

    /// Makes a veth pair, the far end directly in another namespace.
    pub fn add_veth(&self, name: &str, peer: &str, peer_netns: &std::fs::File) -> io::Result<()> {
        use std::os::fd::AsRawFd;
        let mut far = LinkMessage::default();
        far.attributes.push(LinkAttribute::IfName(peer.to_owned()));
        far.attributes.push(LinkAttribute::NetNsFd(peer_netns.as_raw_fd()));
        self.add_link(name, InfoKind::Veth, Some(InfoData::Veth(InfoVeth::Peer(far))))
    }

    /// Makes a bridge.
    pub fn add_bridge(&self, name: &str) -> io::Result<()> {
        self.add_link(name, InfoKind::Bridge, None)
    }

    fn add_link(&self, name: &str, kind: InfoKind, data: Option<InfoData>) -> io::Result<()> {
        let mut info = vec![LinkInfo::Kind(kind)];
        info.extend(data.map(LinkInfo::Data));
        let mut link = LinkMessage::default();
        link.attributes = vec![LinkAttribute::IfName(name.to_owned()), LinkAttribute::LinkInfo(info)];
        self.request(RouteNetlinkMessage::NewLink(link), NLM_F_CREATE | NLM_F_EXCL)
    }

    /// Removes a link.
    pub fn delete_link(&self, name: &str) -> io::Result<()> {
        let mut link = LinkMessage::default();
        link.header.index = self.index(name)?;
        self.request(RouteNetlinkMessage::DelLink(link), 0)
    }

    /// Switches a link on or off.
    pub fn set_up(&self, name: &str, up: bool) -> io::Result<()> {
        let mut link = LinkMessage::default();
        link.header.index = self.index(name)?;
        link.header.flags = if up { LinkFlags::Up } else { LinkFlags::empty() };
        link.header.change_mask = LinkFlags::Up;
        self.request(RouteNetlinkMessage::SetLink(link), 0)
    }

    /// Puts a link into a bridge.
    pub fn set_bridge(&self, name: &str, bridge: &str) -> io::Result<()> {
        self.set_link(name, LinkAttribute::Controller(self.index(bridge)?))
    }

    /// Sets a link's MTU.
    pub fn set_mtu(&self, name: &str, mtu: u32) -> io::Result<()> {
        self.set_link(name, LinkAttribute::Mtu(mtu))
    }

    /// Sets a link's MAC address.
    pub fn set_mac(&self, name: &str, mac: MacAddr) -> io::Result<()> {
        self.set_link(name, LinkAttribute::Address(mac.0.to_vec()))
    }

    fn set_link(&self, name: &str, attribute: LinkAttribute) -> io::Result<()> {
        let mut link = LinkMessage::default();
        link.header.index = self.index(name)?;
        link.attributes.push(attribute);
        self.request(RouteNetlinkMessage::SetLink(link), 0)
    }

    /// Gives a link an address, without duplicate address detection.
    pub fn add_address(&self, name: &str, address: IpAddr, length: u8) -> io::Result<()> {
        let mut message = AddressMessage::default();
        message.header.family = family(address);
        message.header.prefix_len = length;
        message.header.flags = AddressHeaderFlags::Nodad;
        message.header.index = self.index(name)?;
        message.attributes = vec![AddressAttribute::Local(address), AddressAttribute::Address(address)];
        self.request(RouteNetlinkMessage::NewAddress(message), NLM_F_CREATE | NLM_F_REPLACE)
    }

    /// Takes an address away from a link.
    pub fn delete_address(&self, name: &str, address: IpAddr, length: u8) -> io::Result<()> {
        let mut message = AddressMessage::default();
        message.header.family = family(address);
        message.header.prefix_len = length;
        message.header.index = self.index(name)?;
        message.attributes = vec![AddressAttribute::Local(address), AddressAttribute::Address(address)];
        self.request(RouteNetlinkMessage::DelAddress(message), 0)
    }

    /// Adds a route through a link, by a gateway where one is named.
    pub fn add_route(&self, to: Prefix, via: Option<IpAddr>, link: &str) -> io::Result<()> {
        let mut route = RouteMessage::default();
        route.header = RouteHeader {
            address_family: family(to.addr()),
            destination_prefix_length: to.len(),
            table: RouteHeader::RT_TABLE_MAIN,
            protocol: RouteProtocol::Static,
            scope: if via.is_some() { RouteScope::Universe } else { RouteScope::Link },
            kind: RouteType::Unicast,
            ..RouteHeader::default()
        };
        route.attributes.push(RouteAttribute::Destination(to.addr().into()));
        route.attributes.extend(via.map(|gateway| RouteAttribute::Gateway(gateway.into())));
        route.attributes.push(RouteAttribute::Oif(self.index(link)?));
        self.request(RouteNetlinkMessage::NewRoute(route), NLM_F_CREATE | NLM_F_REPLACE)
    }

    /// Fixes the MAC address of a neighbour for ever.
    pub fn add_neighbour(&self, link: &str, address: IpAddr, mac: MacAddr) -> io::Result<()> {
        let mut message = NeighbourMessage::default();
        message.header.family = family(address);
        message.header.ifindex = self.index(link)?;
        message.header.state = NeighbourState::Permanent;
        message.attributes = vec![
            NeighbourAttribute::Destination(address.into()),
            NeighbourAttribute::LinkLayerAddress(mac.0.to_vec()),
        ];
        self.request(RouteNetlinkMessage::NewNeighbour(message), NLM_F_CREATE | NLM_F_REPLACE)
    }

    /// Every link of the namespace.
    pub fn links(&self) -> io::Result<Vec<Link>> {
        let mut links = Vec::new();
        self.exchange(RouteNetlinkMessage::GetLink(LinkMessage::default()), NLM_F_DUMP, |answer| {
            if let RouteNetlinkMessage::NewLink(link) = answer {
                links.push(show(&link));
            }
        })?;
        Ok(links)
    }

    /// Every address of the namespace, by the name of its link.
    pub fn addresses(&self) -> io::Result<Vec<(String, IpAddr)>> {
        let links = self.links()?;
        let mut addresses = Vec::new();
        self.exchange(RouteNetlinkMessage::GetAddress(AddressMessage::default()), NLM_F_DUMP, |answer| {
            let RouteNetlinkMessage::NewAddress(message) = answer else { return };
            let name = links.iter().find(|link| link.index == message.header.index).map(|link| &link.name);
            let own = message.attributes.iter().find_map(|attribute| match attribute {
                AddressAttribute::Address(address) => Some(*address),
                _ => None,
            });
            addresses.extend(name.cloned().zip(own));
        })?;
        Ok(addresses)
    }

    /// The link of this name.
    pub fn link(&self, name: &str) -> io::Result<Link> {
        let found = self.links()?.into_iter().find(|link| link.name == name);
        found.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, format!("no link {name}")))
    }

    /// The longest superframes that may be sent by a link.
    pub fn superframes(&self, name: &str) -> io::Result<Superframes> {
        let (index, mut superframes) = (self.index(name)?, Superframes::default());
        self.exchange(RouteNetlinkMessage::GetLink(LinkMessage::default()), NLM_F_DUMP, |answer| {
            let RouteNetlinkMessage::NewLink(link) = answer else { return };
            for attribute in link.attributes.iter().filter(|_| link.header.index == index) {
                match attribute {
                    LinkAttribute::GsoMaxSize(size) => superframes.size = Some(*size),
                    LinkAttribute::GsoIpv4MaxSize(size) => superframes.ipv4 = Some(*size),
                    LinkAttribute::GsoMaxSegs(segments) => superframes.segments = Some(*segments),
                    _ => {}
                }
            }
        })?;
        Ok(superframes)
    }

    fn index(&self, name: &str) -> io::Result<u32> {
        self.link(name).map(|link| link.index)
    }

    fn request(&self, message: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
        self.exchange(message, NLM_F_ACK | flags, |_| {})
    }

    fn exchange(
        &self,
        message: RouteNetlinkMessage,
        flags: u16,
        mut each: impl FnMut(RouteNetlinkMessage),
    ) -> io::Result<()> {
        let mut request = NetlinkMessage::from(message);
        request.header.flags = NLM_F_REQUEST | flags;
        request.finalize();
        let mut bytes = vec![0; request.buffer_len()];
        request.serialize(&mut bytes);
        self.0.send(&bytes, 0)?;
        loop {
            let (datagram, _) = self.0.recv_from_full()?;
            let mut rest = datagram.as_slice();
            while !rest.is_empty() {
                let answer =
                    NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest).map_err(io::Error::other)?;
                let length = usize::try_from(answer.header.length).map_err(io::Error::other)?;
                match answer.payload {
                    NetlinkPayload::Done(_) => return Ok(()),
                    NetlinkPayload::Error(error) if error.code.is_none() => return Ok(()),
                    NetlinkPayload::Error(error) => return Err(error.to_io()),
                    NetlinkPayload::InnerMessage(inner) => each(inner),
                    _ => {}
                }
                rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
            }
        }
    }
}

fn family(address: IpAddr) -> AddressFamily {
    if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 }
}

fn show(message: &LinkMessage) -> Link {
    let mut link = Link {
        index: message.header.index,
        name: String::new(),
        mac: None,
        mtu: 0,
        up: message.header.flags.contains(LinkFlags::Up),
    };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name.clone_from(name),
            LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
            LinkAttribute::Address(octets) => link.mac = <[u8; 6]>::try_from(&octets[..]).ok().map(MacAddr),
            _ => {}
        }
    }
    link
}
