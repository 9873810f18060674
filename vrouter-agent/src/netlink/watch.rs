//! The task that reads the kernel's messages into [`Tables`] and tells the agent what follows.
//!
//! The socket is read directly: a queue of our own between kernel and tables would be one more thing that can grow.
//! When the kernel had to drop messages it says ENOBUFS, and everything is read afresh.

use std::io;
use std::net::IpAddr;
use std::time::Duration;

use netlink_packet_route::RouteNetlinkMessage;
use rtnetlink::packet_core::{NetlinkMessage, NetlinkPayload};
use rtnetlink::sys::protocols::NETLINK_ROUTE;
use rtnetlink::sys::{AsyncSocket, AsyncSocketExt, SocketAddr, TokioSocket};
use rtnetlink::{Handle, MulticastGroup};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until};
use tracing::{debug, warn};

use super::tables::Tables;
use super::{NetlinkEvent, collect};
use crate::config::UnderlaySource;
use crate::event::Underlay;

/// Addresses come and go in bursts (a DHCP client removes before it adds), and each change of the underlay costs
/// sockets: wait for the end of the burst.
const SETTLE: Duration = Duration::from_millis(20);
const RETRY: Duration = Duration::from_secs(1);
const GROUPS: [MulticastGroup; 4] =
    [MulticastGroup::Link, MulticastGroup::Ipv4Ifaddr, MulticastGroup::Ipv6Ifaddr, MulticastGroup::Tc];

/// A socket that hears of links, addresses and queues.
pub(super) fn subscribe() -> io::Result<TokioSocket> {
    let mut socket = TokioSocket::new(NETLINK_ROUTE)?;
    // Group n is bit n-1; all of ours are below 32.
    let groups = GROUPS.iter().fold(0, |bits, group| bits | 1 << (*group as u32 - 1));
    socket.socket_mut().bind(&SocketAddr::new(0, groups))?;
    Ok(socket)
}

/// Reads until nobody wants events any more.
pub(super) struct Watch {
    socket: TokioSocket,
    handle: Handle,
    source: Option<UnderlaySource>,
    host_interface: String,
    events: mpsc::Sender<NetlinkEvent>,
    tables: Tables,
    underlay: Option<Option<Underlay>>,
    host_addresses: Option<Vec<IpAddr>>,
}

/// The agent's loop is gone.
struct Gone;

impl Watch {
    pub(super) fn new(
        socket: TokioSocket,
        handle: Handle,
        source: Option<UnderlaySource>,
        host_interface: &str,
        events: mpsc::Sender<NetlinkEvent>,
    ) -> Watch {
        Watch {
            socket,
            handle,
            source,
            host_interface: host_interface.to_owned(),
            events,
            tables: Tables::default(),
            underlay: None,
            host_addresses: None,
        }
    }

    pub(super) async fn run(mut self) {
        // Ends when the receiver is dropped, which needs no word.
        let _ = self.follow().await;
    }

    async fn follow(&mut self) -> Result<(), Gone> {
        // The groups are joined already, so nothing falls between the dump and the first message.
        self.refresh().await?;
        self.settle().await?;
        let mut due: Option<Instant> = None;
        loop {
            tokio::select! {
                received = self.socket.recv_from_full() => {
                    match received {
                        // Port 0 is the kernel; other processes have nothing to say here.
                        Ok((bytes, sender)) if sender.port_number() == 0 => self.take(&bytes).await?,
                        Ok(_) => continue,
                        Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => self.refresh().await?,
                        Err(error) => {
                            warn!(%error, "cannot read netlink messages");
                            sleep(RETRY).await;
                            self.refresh().await?;
                        }
                    }
                    due.get_or_insert_with(|| Instant::now() + SETTLE);
                }
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                    due = None;
                    self.settle().await?;
                }
            }
        }
    }

    async fn take(&mut self, bytes: &[u8]) -> Result<(), Gone> {
        for message in messages(bytes) {
            for event in self.tables.apply(&message) {
                self.tell(event).await?;
            }
        }
        Ok(())
    }

    /// Reads all links and addresses, as often as it takes.
    async fn refresh(&mut self) -> Result<(), Gone> {
        let fresh = loop {
            match dump(&self.handle).await {
                Ok(fresh) => break fresh,
                Err(error) => warn!(%error, "cannot read links and addresses; trying again"),
            }
            if self.events.is_closed() {
                return Err(Gone);
            }
            sleep(RETRY).await;
        };
        for event in self.tables.replace(fresh) {
            self.tell(event).await?;
        }
        Ok(())
    }

    /// Tells what the tables mean now, if it is not what they meant before.
    async fn settle(&mut self) -> Result<(), Gone> {
        let underlay = self.source.as_ref().and_then(|source| self.tables.underlay(source));
        if self.underlay.as_ref() != Some(&underlay) {
            self.underlay = Some(underlay.clone());
            self.tell(NetlinkEvent::Underlay(underlay)).await?;
        }
        let addresses = self.tables.host_addresses(&self.host_interface);
        if self.host_addresses.as_ref() != Some(&addresses) {
            self.host_addresses = Some(addresses.clone());
            self.tell(NetlinkEvent::HostAddresses(addresses)).await?;
        }
        Ok(())
    }

    async fn tell(&self, event: NetlinkEvent) -> Result<(), Gone> {
        self.events.send(event).await.map_err(|_| Gone)
    }
}

async fn dump(handle: &Handle) -> Result<Tables, rtnetlink::Error> {
    let mut tables = Tables::default();
    for link in collect(handle.link().get().execute()).await? {
        tables.apply(&RouteNetlinkMessage::NewLink(link));
    }
    for address in collect(handle.address().get().execute()).await? {
        tables.apply(&RouteNetlinkMessage::NewAddress(address));
    }
    Ok(tables)
}

/// The messages of one datagram. What this library cannot read is left out.
fn messages(bytes: &[u8]) -> Vec<RouteNetlinkMessage> {
    let mut messages = Vec::new();
    let mut rest = bytes;
    // A message begins with its length, and the next one at a multiple of four (netlink(7)).
    while let Some(&[a, b, c, d]) = rest.first_chunk() {
        let length = usize::try_from(u32::from_ne_bytes([a, b, c, d])).unwrap_or(usize::MAX);
        let Some(message) = rest.get(..length).filter(|message| message.len() >= 16) else { break };
        match NetlinkMessage::<RouteNetlinkMessage>::deserialize(message) {
            Ok(NetlinkMessage { payload: NetlinkPayload::InnerMessage(message), .. }) => {
                messages.push(message)
            }
            Ok(_) => {}
            Err(error) => debug!(%error, "netlink message that cannot be read"),
        }
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    messages
}

#[cfg(test)]
mod tests {
    use netlink_packet_route::address::AddressMessage;

    use super::*;

    fn encoded(index: u32) -> Vec<u8> {
        let mut address = AddressMessage::default();
        address.header.index = index;
        let mut message = NetlinkMessage::from(RouteNetlinkMessage::NewAddress(address));
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        bytes
    }

    fn indices(bytes: &[u8]) -> Vec<u32> {
        messages(bytes)
            .iter()
            .map(|message| match message {
                RouteNetlinkMessage::NewAddress(address) => address.header.index,
                other => panic!("{other:?}"),
            })
            .collect()
    }

    #[test]
    fn all_messages_of_a_datagram_are_read() {
        assert_eq!(indices(&[encoded(7), encoded(8)].concat()), [7, 8]);
    }

    #[test]
    fn lying_lengths_end_the_reading() {
        let good = encoded(7);
        for length in [0, 1, 15, u32::MAX, u32::MAX - 3] {
            let mut bad = encoded(8);
            bad[..4].copy_from_slice(&length.to_ne_bytes());
            assert_eq!(indices(&[good.clone(), bad].concat()), [7], "{length}");
        }
        for cut in 0..good.len() {
            assert!(indices(&good[..cut]).is_empty(), "{cut}");
        }
    }
}
