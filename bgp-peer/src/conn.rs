//! One TCP connection: made, read and written, with no idea of BGP.
//!
//! ```text
//!   socket ──read──▶ ConnEvent::Bytes ──▶ speaker ──writes (8)──▶ write ──▶ socket
//!                                                                   └──▶ ConnEvent::Sent
//! ```
//! When the speaker drops its end, what was given before is still written, the connection is shut down, and what the
//! neighbor still sends is read and thrown away for a moment: closing with unread octets would reset the connection
//! and take the NOTIFICATION with it.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use bgp_core::ConnId;
use bytes::{Bytes, BytesMut};
use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{mpsc, oneshot};
use vrouter_types::Prefix;

use crate::config::{NeighborConfig, SpeakerConfig, SpeakerError};
use crate::sockopt::{set_md5_key, set_min_ttl};

/// What the tasks around the speaker tell it.
pub(crate) enum ConnEvent {
    /// Somebody connected.
    Accepted(TcpStream, SocketAddr),
    /// An attempt to connect ended.
    Connected(ConnId, io::Result<TcpStream>),
    /// Octets from the neighbor.
    Bytes(ConnId, Bytes),
    /// One write is finished.
    Sent(ConnId),
    /// The connection is gone.
    Closed(ConnId, String),
}

/// The speaker's end of a connection. Dropping it closes the connection, gently.
pub(crate) struct Conn {
    pub(crate) local: Option<SocketAddr>,
    writes: mpsc::Sender<Bytes>,
    /// The same socket once more, for its options.
    socket: Option<OwnedFd>,
    /// Dropped with the rest: the task learns of it even while it waits for the socket.
    _closing: oneshot::Sender<()>,
}

impl Conn {
    /// Begins to read, and to write what is sent.
    pub(crate) fn spawn(id: ConnId, stream: TcpStream, events: mpsc::Sender<ConnEvent>) -> Conn {
        let local = stream.local_addr().ok();
        let socket = stream.as_fd().try_clone_to_owned().ok();
        let (writes, pending_writes) = mpsc::channel(WRITES);
        let (closing, closed) = oneshot::channel();
        tokio::spawn(async move {
            let (reader, writer) = stream.into_split();
            let linger = async {
                // It only ever ends by being dropped.
                let _ = closed.await;
                tokio::time::sleep(LINGER).await;
            };
            let work =
                async { tokio::join!(read(id, reader, &events), write(id, writer, pending_writes, &events)) };
            tokio::select! {
                _ = work => {}
                () = linger => {}
            }
        });
        Conn { local, writes, socket, _closing: closing }
    }

    /// From now on signs with this key.
    pub(crate) fn rekey(&self, neighbor: IpAddr, key: &[u8]) -> io::Result<()> {
        let (Some(socket), Some(local)) = (&self.socket, self.local) else { return Ok(()) };
        set_md5_key(socket.as_fd(), Prefix::host(neighbor), local.is_ipv6(), key)
    }

    /// Gives it octets to write; `false`: it has too many already, or is gone.
    pub(crate) fn send(&self, octets: Bytes) -> bool {
        self.writes.try_send(octets).is_ok()
    }
}

async fn read(id: ConnId, mut reader: OwnedReadHalf, events: &mpsc::Sender<ConnEvent>) {
    let mut buffer = BytesMut::new();
    let why = loop {
        buffer.reserve(READ_SIZE);
        match reader.read_buf(&mut buffer).await {
            Ok(0) => break "connection closed by the neighbor".to_owned(),
            Ok(_) if events.send(ConnEvent::Bytes(id, buffer.split().freeze())).await.is_err() => return,
            Ok(_) => {}
            Err(error) => break format!("connection lost: {error}"),
        }
    };
    let _ = events.send(ConnEvent::Closed(id, why)).await;
}

async fn write(
    id: ConnId,
    mut writer: OwnedWriteHalf,
    mut writes: mpsc::Receiver<Bytes>,
    events: &mpsc::Sender<ConnEvent>,
) {
    while let Some(octets) = writes.recv().await {
        // If this fails, reading fails as well, and that is where it is told.
        if writer.write_all(&octets).await.is_err() || events.send(ConnEvent::Sent(id)).await.is_err() {
            return;
        }
    }
    let _ = writer.shutdown().await;
}

/// Connects to a neighbor.
pub(crate) async fn connect(neighbor: &NeighborConfig, hold_time: u16) -> io::Result<TcpStream> {
    let target = SocketAddr::new(neighbor.address, neighbor.port);
    let socket = if target.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    if let Some(key) = &neighbor.password {
        set_md5_key(socket.as_fd(), Prefix::host(neighbor.address), target.is_ipv6(), key)?;
    }
    if let Some(local) = neighbor.local_address {
        socket.set_reuseaddr(true)?;
        socket.bind(SocketAddr::new(local, 0))?;
    }
    tune(SockRef::from(&socket), hold_time)?;
    secure_ttl(SockRef::from(&socket), target.is_ipv6(), neighbor.ttl_security)?;
    socket.connect(target).await
}

/// For a slow link: what the socket has taken cannot be taken back, so it takes little; and what is not acknowledged
/// within the hold time never will be.
pub(crate) fn tune(socket: SockRef<'_>, hold_time: u16) -> io::Result<()> {
    socket.set_send_buffer_size(SEND_BUFFER)?;
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_user_timeout((hold_time > 0).then(|| Duration::from_secs(hold_time.into())))
}

/// RFC 5082: what we send can come from nowhere further, and what comes from further away is not for us.
pub(crate) fn secure_ttl(socket: SockRef<'_>, is_ipv6: bool, hops: Option<u8>) -> io::Result<()> {
    let Some(hops) = hops else { return Ok(()) };
    match is_ipv6 {
        true => socket.set_unicast_hops_v6(MAX_TTL.into())?,
        false => socket.set_ttl_v4(MAX_TTL.into())?,
    }
    set_min_ttl(socket.as_fd(), is_ipv6, min_ttl(hops))
}

/// Listens where the configuration says, with the keys of all neighbors. The address may come later: an uplink that is
/// not there yet is no reason not to begin.
pub(crate) fn listen(config: &SpeakerConfig, address: SocketAddr) -> Result<Arc<TcpListener>, SpeakerError> {
    let refuse = |source| SpeakerError::Listen { address, source };
    let domain = socket2::Domain::for_address(address);
    let socket =
        socket2::Socket::new(domain, socket2::Type::STREAM.nonblocking().cloexec(), None).map_err(refuse)?;
    socket.set_reuse_address(true).map_err(refuse)?;
    if address.is_ipv6() {
        socket.set_only_v6(address.ip() != IpAddr::V6(Ipv6Addr::UNSPECIFIED)).map_err(refuse)?;
        socket.set_freebind_v6(true).map_err(refuse)?;
    } else {
        socket.set_freebind_v4(true).map_err(refuse)?;
    }
    socket.bind(&address.into()).map_err(refuse)?;
    secure_listener(&socket, address, &config.neighbors).map_err(refuse)?;
    // Before anybody can connect.
    for neighbor in config.neighbors.iter().filter(|neighbor| neighbor.password.is_some()) {
        set_listener_key(socket.as_fd(), address, neighbor)?;
    }
    socket.listen(BACKLOG).map_err(refuse)?;
    TcpListener::from_std(socket.into()).map(Arc::new).map_err(refuse)
}

/// RFC 5082 for the answers to connections, which come from the listener; and for what arrives before a connection is
/// taken, as far as all neighbors agree.
pub(crate) fn secure_listener(
    socket: &impl AsFd,
    address: SocketAddr,
    neighbors: &[NeighborConfig],
) -> io::Result<()> {
    let smallest =
        neighbors.iter().map(|neighbor| neighbor.ttl_security.map_or(0, min_ttl)).min().unwrap_or(0);
    if address.is_ipv6() {
        SockRef::from(socket).set_unicast_hops_v6(MAX_TTL.into())?;
        set_min_ttl(socket.as_fd(), true, smallest)?;
    }
    if address.is_ipv4() || address.ip() == Ipv6Addr::UNSPECIFIED {
        SockRef::from(socket).set_ttl_v4(MAX_TTL.into())?;
        set_min_ttl(socket.as_fd(), false, smallest)?;
    }
    Ok(())
}

/// The TTL that is left of 255 after so many hops.
fn min_ttl(hops: u8) -> u8 {
    MAX_TTL - hops.saturating_sub(1)
}

/// Takes connections of this neighbor, or of this prefix, with its key only; or, where it has none, without.
pub(crate) fn set_listener_key(
    socket: impl AsFd,
    address: SocketAddr,
    neighbor: &NeighborConfig,
) -> Result<(), SpeakerError> {
    let prefix = neighbor.prefix.unwrap_or(Prefix::host(neighbor.address));
    let can_come = prefix.is_ipv4() == address.is_ipv4() || address.ip() == Ipv6Addr::UNSPECIFIED;
    if !can_come {
        return Ok(());
    }
    let key = neighbor.password.as_deref().unwrap_or_default();
    match set_md5_key(socket.as_fd(), prefix, address.is_ipv6(), key) {
        // There was none to take away.
        Err(error) if key.is_empty() && error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
        Err(source) => Err(SpeakerError::Password { neighbor: prefix.addr(), source }),
        Ok(()) => Ok(()),
    }
}

/// Hands every connection to the speaker, until that is gone.
pub(crate) async fn accept(listener: Arc<TcpListener>, events: mpsc::Sender<ConnEvent>) {
    loop {
        match listener.accept().await {
            Ok((stream, from)) => {
                let from = SocketAddr::new(from.ip().to_canonical(), from.port());
                if events.send(ConnEvent::Accepted(stream, from)).await.is_err() {
                    return;
                }
            }
            // Out of descriptors, most likely: trying again at once would only burn the processor.
            Err(error) => {
                tracing::warn!(%error, "cannot accept a BGP connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// The address at our end, as an operator would write it.
pub(crate) fn local_ip(conn: &Conn) -> Option<IpAddr> {
    conn.local
        .map(|address| address.ip().to_canonical())
        .filter(|address| *address != IpAddr::V4(Ipv4Addr::UNSPECIFIED))
}

/// Writes that may wait: an OPEN, some KEEPALIVEs, one piece of UPDATEs, a NOTIFICATION.
const WRITES: usize = 8;
const READ_SIZE: usize = 16 * 1024;
const SEND_BUFFER: usize = 16 * 1024;
const BACKLOG: i32 = 64;
const MAX_TTL: u8 = 255;
const LINGER: Duration = Duration::from_secs(1);
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);
