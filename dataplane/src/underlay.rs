//! The tunnel's sockets: UDP for MPLS-over-UDP (RFC 7510), raw IP for MPLS-over-GRE (RFC 4023).
//!
//! ```text
//!  in    UDP :6635 and :51234, one pair per worker (SO_REUSEPORT spreads flows)  UDP_GRO
//!  out   a pool of UDP sockets on ports 49152-65535: a flow's hash chooses one   UDP_SEGMENT
//!        and for the first far ends others on the same ports, connected: see `connected`
//!  both  one raw socket, protocol 47
//!  out   one packet socket, for GRE where the way out is Ethernet and the neighbour known
//! ```
//! Outer headers belong to the kernel: it routes, resolves and reassembles. It does not fragment what we send: "don't
//! fragment" is set, and what is too big for the path comes back as an error. Only where the path takes less than the
//! 1280 octets that IPv6 inside may count on, it does: while such packets are sent, the socket allows it. The outer UDP
//! checksum stays on, since segmentation and the far end's coalescing need it; datagrams that arrive without one are
//! accepted.

pub(crate) mod connected;

use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};

use socket2::{Domain, Protocol, Socket, Type};

use crate::adjacency::follow::Bell;
use crate::adopt::{Kept, Name, is_bound};
use crate::error::DataplaneError;
use crate::offload::Offload;
use crate::port_link::{PACKET_VNET_HDR, set_buffers};
use crate::sys;

/// RFC 7510 §7.
pub(crate) const MPLS_OVER_UDP_PORT: u16 = 6635;
/// What some routers sent before the port was assigned, and still send.
const OLD_MPLS_OVER_UDP_PORT: u16 = 51234;
const PORTS: [u16; 2] = [MPLS_OVER_UDP_PORT, OLD_MPLS_OVER_UDP_PORT];
const GRE_PROTOCOL: i32 = 47;
/// Source ports for entropy (RFC 7510 §3): the dynamic range.
const FIRST_ENTROPY_PORT: u16 = 49_152;
const ENTROPY_RANGE: u16 = 16_384;

/// The sockets of one tunnel source address.
#[derive(Debug)]
pub(crate) struct Underlay {
    address: IpAddr,
    /// Per worker, per port.
    receivers: Vec<Vec<UdpReceiver>>,
    pool: Vec<Socket>,
    buffer: usize,
    gre: Option<Socket>,
    /// Sends GRE past the IP stack where that is possible.
    link: Option<Socket>,
    /// Rings where the ways of GRE may have changed.
    pub(crate) bell: Arc<Bell>,
    /// Mean octets per GRE packet lately.
    pub(crate) gre_frame_size: AtomicUsize,
    /// Cleared where the kernel refuses to segment for us.
    pub(crate) segments: AtomicBool,
}

/// A socket that datagrams arrive at.
#[derive(Debug)]
pub(crate) struct UdpReceiver {
    socket: Socket,
    /// Mean octets per message lately.
    pub(crate) frame_size: AtomicUsize,
}

impl UdpReceiver {
    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// How an underlay is to be opened.
pub(crate) struct Plan<'p> {
    pub(crate) workers: usize,
    pub(crate) entropy_ports: u16,
    pub(crate) buffer: usize,
    pub(crate) kept: &'p Kept,
    pub(crate) bell: &'p Arc<Bell>,
    pub(crate) without: &'p [Offload],
}

impl Underlay {
    /// Opens everything for this source address. Without the right to raw sockets there is no GRE; the reason is
    /// returned beside.
    pub(crate) fn open(
        address: IpAddr,
        Plan { workers, entropy_ports, buffer, kept, bell, without }: Plan<'_>,
    ) -> Result<(Underlay, Option<io::Error>), DataplaneError> {
        let has = |offload| !without.contains(&offload);
        let failed = |what: &str| {
            let what = what.to_owned();
            move |source| DataplaneError::Underlay { what, address, source }
        };
        let mut receivers = Vec::new();
        for worker in 0..workers {
            let pair = PORTS.iter().map(|port| {
                let opened = open_receiver(
                    SocketAddr::new(address, *port),
                    worker,
                    buffer,
                    kept,
                    has(Offload::UdpCoalescing),
                );
                opened.map_err(failed(&format!("UDP {port}")))
            });
            receivers.push(pair.collect::<Result<Vec<_>, _>>()?);
        }
        let pool =
            open_pool(address, entropy_ports.max(1), buffer, kept).map_err(failed("UDP source ports"))?;
        let (gre, without_gre) = match open_gre(address, buffer, kept) {
            Ok(socket) => (Some(socket), None),
            Err(error) => (None, Some(error)),
        };
        let link = gre.as_ref().filter(|_| has(Offload::GreFrames)).and_then(|_| open_link(buffer).ok());
        let segments = has(Offload::UdpSegmentation)
            && pool
                .first()
                .is_some_and(|socket| sys::option(socket.as_fd(), libc::SOL_UDP, libc::UDP_SEGMENT).is_ok());
        let (segments, gre_frame_size) = (AtomicBool::new(segments), AtomicUsize::new(0));
        let bell = Arc::clone(bell);
        let underlay =
            Underlay { address, receivers, pool, buffer, gre, link, bell, gre_frame_size, segments };
        Ok((underlay, without_gre))
    }

    pub(crate) fn receivers(&self, worker: usize) -> &[UdpReceiver] {
        self.receivers.get(worker).map_or(&[], Vec::as_slice)
    }

    /// The socket for packets of this entropy, by its place in the pool.
    pub(crate) fn pool_index(&self, entropy: u16) -> usize {
        usize::from(entropy) % self.pool.len().max(1)
    }

    /// The source port of a place in the pool. Asks the kernel: for whoever looks on, not for sending.
    pub(crate) fn pool_port(&self, index: usize) -> u16 {
        let address = self.pool.get(index).and_then(|socket| socket.local_addr().ok());
        address.and_then(|address| address.as_socket()).map_or(0, |address| address.port())
    }

    pub(crate) fn pool(&self, index: usize) -> Option<BorrowedFd<'_>> {
        self.pool.get(index).map(AsFd::as_fd)
    }

    pub(crate) fn gre(&self) -> Option<BorrowedFd<'_>> {
        self.gre.as_ref().map(AsFd::as_fd)
    }

    /// All of them, by the names that they are kept under.
    pub(crate) fn named(&self) -> impl Iterator<Item = (Name<'static>, BorrowedFd<'_>)> {
        let receivers = self.receivers.iter().enumerate().flat_map(|(worker, pair)| {
            let pair = PORTS.into_iter().zip(pair);
            pair.map(move |(port, receiver)| (Name::Udp { port, worker }, receiver.fd()))
        });
        let pool = self.pool.iter().enumerate().map(|(place, socket)| (Name::Entropy(place), socket.as_fd()));
        receivers.chain(pool).chain(self.gre().map(|fd| (Name::Gre, fd)))
    }

    /// The packet socket; protocol zero, so nothing arrives at it.
    pub(crate) fn link(&self) -> Option<BorrowedFd<'_>> {
        self.link.as_ref().map(AsFd::as_fd)
    }

    pub(crate) fn has_link(&self) -> bool {
        self.link.is_some()
    }

    pub(crate) fn address(&self) -> IpAddr {
        self.address
    }

    pub(crate) fn is_v6(&self) -> bool {
        self.address.is_ipv6()
    }

    /// What the kernel does for us here.
    pub(crate) fn offloads(&self) -> Vec<String> {
        let mut offloads = Vec::new();
        offloads.push(if self.segments.load(Relaxed) {
            "underlay: UDP segmentation".to_owned()
        } else {
            "underlay: no UDP segmentation, each datagram is sent by itself".to_owned()
        });
        let coalesces = |receiver: &UdpReceiver| {
            sys::option(receiver.fd(), libc::SOL_UDP, libc::UDP_GRO).is_ok_and(|on| on != 0)
        };
        offloads.push(if self.receivers.iter().flatten().any(coalesces) {
            "underlay: UDP coalescing".to_owned()
        } else {
            "underlay: no UDP coalescing, datagrams are joined across a batch".to_owned()
        });
        offloads
    }

    /// Whether what this socket sends may be fragmented, from now on. Another worker that sends by it meanwhile sends
    /// packets that fit, and some without "don't fragment", which does no harm.
    pub(crate) fn may_fragment(&self, fd: BorrowedFd<'_>, may: bool) {
        let (level, name, never, always) = if self.is_v6() {
            (libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_DO, libc::IPV6_PMTUDISC_DONT)
        } else {
            (libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_DO, libc::IP_PMTUDISC_DONT)
        };
        // A refusal shows in what is sent: it comes back as too big.
        let _ = sys::set_option(fd, level, name, if may { always } else { never });
    }

    /// The outer MTU of the path as the kernel knows it now.
    pub(crate) fn path_mtu(&self, remote: IpAddr) -> io::Result<u16> {
        let probe = UdpSocket::bind(SocketAddr::new(self.address, 0))?;
        probe.connect(SocketAddr::new(remote, MPLS_OVER_UDP_PORT))?;
        let mtu = if self.is_v6() {
            sys::option(probe.as_fd(), libc::IPPROTO_IPV6, libc::IPV6_MTU)?
        } else {
            sys::option(probe.as_fd(), libc::IPPROTO_IP, libc::IP_MTU)?
        };
        Ok(u16::try_from(mtu).unwrap_or(u16::MAX))
    }
}

/// The port of a worker's receiver, by its place.
pub(crate) fn receiver_port(place: usize) -> u16 {
    PORTS.get(place).copied().unwrap_or(0)
}

fn domain(address: IpAddr) -> Domain {
    if address.is_ipv6() { Domain::IPV6 } else { Domain::IPV4 }
}

/// What all tunnel sockets have in common.
fn prepare(socket: &Socket, address: IpAddr, buffer: usize) -> io::Result<()> {
    let fd = socket.as_fd();
    socket.set_nonblocking(true)?;
    set_buffers(fd, buffer);
    if address.is_ipv6() {
        // The address may come later, or be tentative still.
        sys::set_option(fd, libc::IPPROTO_IPV6, libc::IPV6_FREEBIND, 1)?;
        sys::set_option(fd, libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_DO)?;
        sys::set_option(fd, libc::IPPROTO_IPV6, libc::IPV6_RECVTCLASS, 1)
    } else {
        sys::set_option(fd, libc::IPPROTO_IP, libc::IP_FREEBIND, 1)?;
        sys::set_option(fd, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_DO)?;
        sys::set_option(fd, libc::IPPROTO_IP, libc::IP_RECVTOS, 1)
    }
}

fn open_udp(address: SocketAddr, buffer: usize, share: bool) -> io::Result<Socket> {
    let socket = Socket::new(domain(address.ip()), Type::DGRAM, Some(Protocol::UDP))?;
    prepare(&socket, address.ip(), buffer)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    if share {
        socket.set_reuse_port(true)?;
    }
    socket.bind(&address.into())?;
    Ok(socket)
}

fn open_receiver(
    address: SocketAddr,
    worker: usize,
    buffer: usize,
    kept: &Kept,
    coalesce: bool,
) -> io::Result<UdpReceiver> {
    let name = Name::Udp { port: address.port(), worker }.to_string();
    let socket = match adopt_udp(&name, buffer, kept, |at| at == address) {
        Some(socket) => socket,
        None => open_udp(address, buffer, true)?,
    };
    if address.is_ipv6() {
        // RFC 7510 §3.1 with RFC 6936: a known far end may leave the checksum out.
        sys::set_option(socket.as_fd(), libc::SOL_UDP, libc::UDP_NO_CHECK6_RX, 1)?;
    }
    // Kernels without it hand over one datagram at a time.
    let _ = sys::set_option(socket.as_fd(), libc::SOL_UDP, libc::UDP_GRO, i32::from(coalesce));
    Ok(UdpReceiver { socket, frame_size: AtomicUsize::new(0) })
}

/// A UDP socket of the last run, where it is bound as wanted.
fn adopt_udp(name: &str, buffer: usize, kept: &Kept, wanted: impl Fn(SocketAddr) -> bool) -> Option<Socket> {
    let mut address = None;
    let verify = |fd: BorrowedFd<'_>| {
        is_bound(fd, Type::DGRAM, libc::IPPROTO_UDP, |at| {
            address = Some(at.ip());
            wanted(at)
        })
    };
    let socket = Socket::from(kept.adopt(name, verify)?);
    // What this build wants set, the last one may not have known.
    prepare(&socket, address?, buffer).is_ok().then_some(socket)
}

/// Sockets on ports spread over the range. A port that somebody has is passed over.
fn open_pool(address: IpAddr, count: u16, buffer: usize, kept: &Kept) -> io::Result<Vec<Socket>> {
    let count = count.min(ENTROPY_RANGE);
    let step = ENTROPY_RANGE / count;
    let mut pool = Vec::with_capacity(usize::from(count));
    for place in 0..count {
        let first = FIRST_ENTROPY_PORT + place * step;
        let mut tries = (0..step).map(|offset| first + offset);
        let name = Name::Entropy(usize::from(place)).to_string();
        let is_ours =
            |at: SocketAddr| at.ip() == address && (first..=first + (step - 1)).contains(&at.port());
        if let Some(socket) = adopt_udp(&name, buffer, kept, is_ours) {
            pool.push(socket);
            continue;
        }
        let socket = tries.find_map(|port| match open_udp(SocketAddr::new(address, port), buffer, false) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => None,
            opened => Some(opened),
        });
        let socket = socket.unwrap_or_else(|| Err(io::ErrorKind::AddrInUse.into()))?;
        pool.push(socket);
    }
    for socket in &pool {
        // Nothing is ever read here: what a stranger sends to it takes no memory.
        let _ = sys::set_option(socket.as_fd(), libc::SOL_SOCKET, libc::SO_RCVBUF, 0);
        // From here on those that are connected may have the same port.
        let _ = socket.set_reuse_port(true);
    }
    Ok(pool)
}

/// A packet socket of no protocol, bound to no interface: it only sends.
fn open_link(buffer: usize) -> io::Result<Socket> {
    let socket = Socket::new(Domain::PACKET, Type::RAW, Some(Protocol::from(0)))?;
    socket.set_nonblocking(true)?;
    set_buffers(socket.as_fd(), buffer);
    sys::set_option(socket.as_fd(), libc::SOL_PACKET, PACKET_VNET_HDR, 1)?;
    Ok(socket)
}

fn open_gre(address: IpAddr, buffer: usize, kept: &Kept) -> io::Result<Socket> {
    let verify = |fd: BorrowedFd<'_>| is_bound(fd, Type::RAW, GRE_PROTOCOL, |at| at.ip() == address);
    if let Some(fd) = kept.adopt(&Name::Gre.to_string(), verify) {
        let socket = Socket::from(fd);
        prepare(&socket, address, buffer)?;
        return Ok(socket);
    }
    let socket = Socket::new(domain(address), Type::RAW, Some(Protocol::from(GRE_PROTOCOL)))?;
    prepare(&socket, address, buffer)?;
    socket.bind(&SocketAddr::new(address, 0).into())?;
    Ok(socket)
}
