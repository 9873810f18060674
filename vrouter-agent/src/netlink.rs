//! The host's network by rtnetlink: what the agent watches, and the little that it changes.
//!
//! ```text
//!  kernel ──multicast──▶ watch (one task) ──▶ Tables (pure) ──NetlinkEvent──▶ the agent's loop
//!     ▲                                                                            │
//!     └───── requests: vrouter0's addresses, host routes, does a link exist ◀──────┘
//! ```
//! It never creates, moves or deletes a link, never enters a namespace and needs CAP_NET_ADMIN only: veths belong to
//! `vrouter-cni`, taps to whoever runs the VM, both are only observed. Host routes are marked with a protocol number
//! of our own, and a route that is not so marked is never replaced or removed.

mod host_routes;
mod tables;
mod watch;

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use futures_util::{Stream, StreamExt};
use netlink_packet_route::address::{AddressAttribute, AddressHeaderFlags, AddressScope, CacheInfo};
use netlink_packet_route::link::{AfSpecInet6, AfSpecUnspec, In6AddrGenMode, LinkAttribute};
use netlink_packet_route::route::{RouteMessage, RouteProtocol, RouteScope};
use rtnetlink::{Handle, LinkUnspec, RouteMessageBuilder};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tracing::warn;

use dataplane_core::nat::{SERVICE_V4, SERVICE_V6};

use crate::config::UnderlaySource;
use crate::event::Underlay;

/// Events that wait for the agent's loop. While it is full the kernel holds further messages, and when those are too
/// many it says so and everything is read afresh: nothing grows.
const EVENTS: usize = 64;
/// Packets from the host that wait while an agent takes over from another: four times the kernel's own number.
const HOST_QUEUE: u32 = 2000;
/// Marks our routes, as `proto 118` in `ip route`. Of the numbers that /etc/iproute2/rt_protos leaves free.
const PROTOCOL: RouteProtocol = RouteProtocol::Other(118);

/// The host's network changed. At first everything that is there comes as if it had just appeared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NetlinkEvent {
    /// The way to the other provider edges came, changed or went. Comes once at the start, even if there is none.
    Underlay(Option<Underlay>),
    /// The host's own addresses, in order, without loopback, link-local and `vrouter0`'s. Comes once at the start.
    HostAddresses(Vec<IpAddr>),
    /// An interface appeared, or got this name.
    LinkAdded(String),
    /// An interface went, or has another name now.
    LinkRemoved(String),
    /// Somebody has put a queue on the interface that holds packets back.
    LinkShaped(String),
}

/// Why the host's network could not be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    /// No netlink socket.
    #[error("cannot open an rtnetlink socket: {0}")]
    Open(#[source] io::Error),
    /// The interface is absent.
    #[error("there is no interface {0}")]
    NoLink(String),
    /// The interface took no IPv6 address.
    #[error("{0} has no IPv6: the kernel has none, or net.ipv6.conf.{0}.disable_ipv6 is set")]
    NoIpv6(String),
    /// A route that is not ours leads there.
    #[error("the host has a route of its own to {0}")]
    RouteTaken(IpAddr),
    /// The kernel said no.
    #[error("cannot {action}: {source}")]
    Kernel {
        /// What we wanted.
        action: String,
        /// What it said.
        source: io::Error,
    },
}

/// What the host's IPv6 packets to workloads come from. Not fe80::1, the gateway's: to a link-local address a workload
/// answers from its own (RFC 6724 rule 2), which is another than it was asked at. A unique local address (RFC 4193)
/// beside those that stand for ports; nobody else is told of it, and every node has the same.
pub const HOST_SOURCE_V6: Ipv6Addr = Ipv6Addr::new(0xfd76, 0x7274, 0, 1, 0, 0, 0, 1);

/// A connection to the kernel's routing tables. Its tasks end with it.
#[derive(Debug)]
pub struct Netlink {
    handle: Handle,
    connection: JoinHandle<()>,
    watcher: Option<JoinHandle<()>>,
    events: mpsc::Sender<NetlinkEvent>,
    host_ipv6: bool,
    left: host_routes::Left,
}

impl Drop for Netlink {
    fn drop(&mut self) {
        self.connection.abort();
        if let Some(watcher) = &self.watcher {
            watcher.abort();
        }
    }
}

impl Netlink {
    /// Opens a connection in this thread's network namespace, and the channel that [`Netlink::watch`] will fill.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn new() -> Result<(Netlink, mpsc::Receiver<NetlinkEvent>), NetlinkError> {
        let (connection, handle, _) = rtnetlink::new_connection().map_err(NetlinkError::Open)?;
        let (events, receiver) = mpsc::channel(EVENTS);
        let connection = tokio::spawn(connection);
        Ok((
            Netlink {
                handle,
                connection,
                watcher: None,
                events,
                host_ipv6: true,
                left: host_routes::Left::default(),
            },
            receiver,
        ))
    }

    /// Watches links and addresses from now on, and the underlay that `source` names. A second call replaces the
    /// first.
    pub fn watch(
        &mut self,
        source: Option<UnderlaySource>,
        host_interface: &str,
    ) -> Result<(), NetlinkError> {
        let socket = watch::subscribe().map_err(NetlinkError::Open)?;
        let task =
            watch::Watch::new(socket, self.handle.clone(), source, host_interface, self.events.clone());
        if let Some(previous) = self.watcher.replace(tokio::spawn(task.run())) {
            previous.abort();
        }
        Ok(())
    }

    /// Whether there is an interface of this name.
    pub async fn link_exists(&self, name: &str) -> Result<bool, NetlinkError> {
        match self.link_index(name).await {
            Ok(_) => Ok(true),
            Err(NetlinkError::NoLink(_)) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Whether somebody has put a queue on the interface that holds packets back. The kernel's own kinds do not count.
    pub async fn is_shaped(&self, name: &str) -> bool {
        let links = self.handle.link().get().match_name(name.to_owned()).execute();
        let links = collect(links).await.unwrap_or_default();
        links.first().is_some_and(tables::is_shaped)
    }

    /// Gives `vrouter0` its two addresses and sets it up. What is there already stays. On a host without IPv6 it goes
    /// without.
    pub async fn set_up_host_interface(
        &mut self,
        name: &str,
        v4: Ipv4Addr,
        v6: Ipv6Addr,
    ) -> Result<(), NetlinkError> {
        let index = self.link_index(name).await?;
        // The kernel's own link-local address would only bring router solicitations. Absent without IPv6.
        let mode = AfSpecUnspec::Inet6(vec![AfSpecInet6::AddrGenMode(In6AddrGenMode::None)]);
        let quiet = LinkUnspec::new_with_index(index)
            .append_extra_attribute(LinkAttribute::AfSpecUnspec(vec![mode]))
            .build();
        let _ = self.handle.link().set(quiet).execute().await;
        let long = LinkUnspec::new_with_index(index)
            .append_extra_attribute(LinkAttribute::TxQueueLen(HOST_QUEUE))
            .build();
        let _ = self.handle.link().set(long).execute().await;
        // Containers often switch IPv6 off for new interfaces; this one is ours. Absent without IPv6.
        let _ = std::fs::write(format!("/proc/sys/net/ipv6/conf/{name}/disable_ipv6"), "0");
        let up = LinkUnspec::new_with_index(index).up().build();
        let result = self.handle.link().set(up).execute().await;
        result.map_err(|error| kernel(format!("set {name} up"), error))?;
        let result = self.add_address(index, v4.into(), 32).await;
        result.map_err(|error| kernel(format!("add {v4}/32 to {name}"), error))?;
        let result = self.add_address(index, v6.into(), 64).await;
        self.host_ipv6 = result.is_ok();
        if self.host_ipv6 {
            let result = self.add_address(index, HOST_SOURCE_V6.into(), 128).await;
            result.map_err(|error| kernel(format!("add {HOST_SOURCE_V6}/128 to {name}"), error))?;
        }
        self.lead_service_addresses(index, (v4, v6)).await?;
        if let Err(error) = result {
            warn!(interface = name, error = %to_io(error), "no IPv6 between host and workloads");
        }
        Ok(())
    }

    /// The addresses that stand for ports towards the host lead there: to `interface`.
    async fn lead_service_addresses(
        &self,
        index: u32,
        (v4, v6): (Ipv4Addr, Ipv6Addr),
    ) -> Result<(), NetlinkError> {
        let (net, len) = SERVICE_V4;
        let route = RouteMessageBuilder::<Ipv4Addr>::new().destination_prefix(net, len).pref_source(v4);
        let route = route.output_interface(index).protocol(PROTOCOL).scope(RouteScope::Link).build();
        let result = self.handle.route().add(route).replace().execute().await;
        result.map_err(|error| kernel(format!("add the route to {net}/{len}"), error))?;
        if !self.host_ipv6 {
            return Ok(());
        }
        let (net, len) = SERVICE_V6;
        let route = RouteMessageBuilder::<Ipv6Addr>::new().destination_prefix(net, len).pref_source(v6);
        let route = route.output_interface(index).protocol(PROTOCOL).build();
        let result = self.handle.route().add(route).replace().execute().await;
        result.map_err(|error| kernel(format!("add the route to {net}/{len}"), error))
    }

    async fn add_address(&self, index: u32, address: IpAddr, len: u8) -> Result<(), rtnetlink::Error> {
        let mut request = self.handle.address().add(index, address, len).replace();
        let message = request.message_mut();
        // Of link scope, so that the kernel never picks it as the source towards the rest of the world.
        message.header.scope = AddressScope::Link;
        if address.is_ipv6() {
            message.header.flags = AddressHeaderFlags::Nodad;
        }
        if address == IpAddr::V6(HOST_SOURCE_V6) {
            // Deprecated: a source where a route names it, and nowhere else.
            let mut lifetimes = CacheInfo::default();
            (lifetimes.ifa_preferred, lifetimes.ifa_valid) = (0, u32::MAX);
            message.attributes.push(AddressAttribute::CacheInfo(lifetimes));
        }
        match request.execute().await {
            Err(error) if is(&error, libc::EEXIST) => Ok(()),
            result => result,
        }
    }

    /// Leads the host's packets for this address into `interface`, with this source.
    pub async fn add_host_route(
        &self,
        address: IpAddr,
        interface: &str,
        source: IpAddr,
    ) -> Result<(), NetlinkError> {
        if address.is_ipv6() && !self.host_ipv6 {
            return Err(NetlinkError::NoIpv6(interface.to_owned()));
        }
        if self.left.is_so(address, source) {
            return Ok(());
        }
        let index = self.link_index(interface).await?;
        let failed = |error| kernel(format!("add a route to {address} by {interface}"), error);
        match self.handle.route().add(host_route(address, index, Some(source))).execute().await {
            Err(error) if is(&error, libc::EEXIST) => {}
            result => return result.map_err(failed),
        }
        // One of ours, perhaps with another source: replaced. One of others: theirs.
        self.delete_route(address, index).await?;
        match self.handle.route().add(host_route(address, index, Some(source))).execute().await {
            Err(error) if is(&error, libc::EEXIST) => Err(NetlinkError::RouteTaken(address)),
            result => result.map_err(failed),
        }
    }

    /// The reverse. Absent routes, also for want of the interface, are no error.
    pub async fn remove_host_route(&self, address: IpAddr, interface: &str) -> Result<(), NetlinkError> {
        match self.link_index(interface).await {
            Ok(index) => self.delete_route(address, index).await,
            // Its routes went with it.
            Err(NetlinkError::NoLink(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    async fn delete_route(&self, address: IpAddr, index: u32) -> Result<(), NetlinkError> {
        match self.handle.route().del(host_route(address, index, None)).execute().await {
            Err(error) if is(&error, libc::ESRCH) || is(&error, libc::ENODEV) => Ok(()),
            result => result.map_err(|error| kernel(format!("remove the route to {address}"), error)),
        }
    }

    async fn link_index(&self, name: &str) -> Result<u32, NetlinkError> {
        // The kernel refuses longer names with another error than absence.
        if name.is_empty() || name.len() >= libc::IFNAMSIZ {
            return Err(NetlinkError::NoLink(name.to_owned()));
        }
        let links = self.handle.link().get().match_name(name).execute();
        match collect(links).await {
            Ok(links) => match links.first() {
                Some(link) => Ok(link.header.index),
                None => Err(NetlinkError::NoLink(name.to_owned())),
            },
            Err(error) if is(&error, libc::ENODEV) => Err(NetlinkError::NoLink(name.to_owned())),
            Err(error) => Err(kernel(format!("read interface {name}"), error)),
        }
    }
}

/// A /32 or /128 by this interface. Without a source it names the route for deletion.
fn host_route(address: IpAddr, index: u32, source: Option<IpAddr>) -> RouteMessage {
    match address {
        IpAddr::V4(address) => {
            let mut route = RouteMessageBuilder::<Ipv4Addr>::new()
                .destination_prefix(address, 32)
                .output_interface(index)
                .protocol(PROTOCOL)
                .scope(RouteScope::Link);
            if let Some(IpAddr::V4(source)) = source {
                route = route.pref_source(source);
            }
            route.build()
        }
        IpAddr::V6(address) => {
            let mut route = RouteMessageBuilder::<Ipv6Addr>::new()
                .destination_prefix(address, 128)
                .output_interface(index)
                .protocol(PROTOCOL);
            if let Some(IpAddr::V6(source)) = source {
                route = route.pref_source(source);
            }
            route.build()
        }
    }
}

/// All that a dump brings.
async fn collect<T>(
    replies: impl Stream<Item = Result<T, rtnetlink::Error>>,
) -> Result<Vec<T>, rtnetlink::Error> {
    let mut replies = std::pin::pin!(replies);
    let mut all = Vec::new();
    while let Some(reply) = replies.next().await {
        all.push(reply?);
    }
    Ok(all)
}

fn is(error: &rtnetlink::Error, errno: i32) -> bool {
    matches!(error, rtnetlink::Error::NetlinkError(message) if message.raw_code() == -errno)
}

fn to_io(error: rtnetlink::Error) -> io::Error {
    match error {
        rtnetlink::Error::NetlinkError(message) => message.to_io(),
        other => io::Error::other(other),
    }
}

fn kernel(action: String, error: rtnetlink::Error) -> NetlinkError {
    NetlinkError::Kernel { action, source: to_io(error) }
}
