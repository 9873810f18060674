//! Sockets of the pool's ports that are connected to one far end. The kernel remembers the way of such a socket, where it
//! looks for that of every message of the others: a twelfth of what sending a single datagram costs.
//!
//! A socket is connected before a worker sees it, and never to another far end: a packet must not take the way of
//! somebody else's. There are sockets for some far ends; whoever has none is sent to by the pool itself.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use dataplane_core::Fib;
use socket2::Socket;
use vrouter_types::Encap;

use super::{MPLS_OVER_UDP_PORT, Underlay, open_udp};
use crate::sys;

/// Sockets at most, for all far ends.
const MOST: usize = 256;

/// Sockets that lead to one far end, by their place in the pool.
#[derive(Debug)]
pub(crate) struct Connected {
    source: IpAddr,
    remote: IpAddr,
    sockets: Box<[Socket]>,
}

/// Those of every tunnel, by its id.
pub(crate) type ByTunnel = Vec<Option<Arc<Connected>>>;

impl Connected {
    /// For a far end, if it can be reached now and the pool's ports can be shared.
    fn open(underlay: &Underlay, remote: IpAddr) -> io::Result<Connected> {
        let to = SocketAddr::new(remote, MPLS_OVER_UDP_PORT);
        let open = |place| {
            let from = SocketAddr::new(underlay.address(), underlay.pool_port(place));
            let socket = open_udp(from, underlay.buffer, true)?;
            socket.connect(&to.into())?;
            sys::set_option(socket.as_fd(), libc::SOL_SOCKET, libc::SO_RCVBUF, 0)?;
            Ok(socket)
        };
        let sockets = (0..underlay.pool.len()).map(open).collect::<io::Result<_>>()?;
        Ok(Connected { source: underlay.address(), remote, sockets })
    }

    pub(crate) fn socket(&self, place: usize) -> Option<BorrowedFd<'_>> {
        self.sockets.get(place).map(AsFd::as_fd)
    }
}

/// What the tunnels of this forwarding state are to have: what they had before, and what is missing while there is room.
pub(crate) fn connect(underlay: Option<&Underlay>, fib: &Fib, before: &ByTunnel) -> ByTunnel {
    let Some(underlay) = underlay else { return Vec::new() };
    let still = before.iter().flatten().filter(|it| it.source == underlay.address());
    let mut known: HashMap<IpAddr, Option<Arc<Connected>>> =
        still.map(|it| (it.remote, Some(Arc::clone(it)))).collect();
    let far_end = |tunnel: &dataplane_core::fib::Tunnel| {
        let fits = tunnel.encap == Encap::MplsOverUdp && tunnel.remote.is_ipv6() == underlay.is_v6();
        fits.then_some(tunnel.remote)
    };
    let far_ends = fib.tunnels.iter().map(|tunnel| tunnel.as_ref().and_then(far_end));
    let mut room = (MOST / underlay.pool.len().max(1)).saturating_sub(known.len());
    let mut connect = |remote| {
        let connected = known.entry(remote).or_insert_with(|| {
            room = room.checked_sub(1)?;
            Connected::open(underlay, remote).ok().map(Arc::new)
        });
        connected.clone()
    };
    far_ends.map(|remote| connect(remote?)).collect()
}

#[cfg(test)]
mod tests {
    use dataplane_core::TunnelId;
    use dataplane_core::fib::Tunnel;

    use super::*;
    use crate::adjacency::follow::Bell;
    use crate::adopt::Kept;
    use crate::underlay::Plan;

    fn underlay(address: &str, entropy_ports: u16) -> Underlay {
        let (kept, bell) = (Kept::default(), Arc::new(Bell::new().unwrap()));
        let plan = Plan { workers: 0, entropy_ports, buffer: 4096, kept: &kept, bell: &bell, without: &[] };
        Underlay::open(address.parse().unwrap(), plan).unwrap().0
    }

    fn fib(far_ends: &[(&str, Encap)]) -> Fib {
        let mut fib = Fib::new();
        for (id, (remote, encap)) in (0..).zip(far_ends) {
            let tunnel = Tunnel { remote: remote.parse().unwrap(), encap: *encap, mtu: 1400 };
            fib.insert_tunnel(TunnelId(id), tunnel);
        }
        fib
    }

    fn ends(connected: &Connected, place: usize) -> (SocketAddr, SocketAddr) {
        let socket = &connected.sockets[place];
        let [local, peer] = [socket.local_addr(), socket.peer_addr()];
        (local.unwrap().as_socket().unwrap(), peer.unwrap().as_socket().unwrap())
    }

    #[test]
    fn each_far_end_over_udp_has_a_socket_of_every_port_of_the_pool() {
        let underlay = underlay("127.0.0.41", 4);
        let udp = Encap::MplsOverUdp;
        let fib =
            fib(&[("127.0.0.1", udp), ("127.0.0.2", Encap::MplsOverGre), ("127.0.0.3", udp), ("::1", udp)]);
        let connected = connect(Some(&underlay), &fib, &Vec::new());
        assert_eq!(connected.iter().map(Option::is_some).collect::<Vec<_>>(), [true, false, true, false]);
        for place in 0..4 {
            let (local, peer) = ends(connected[2].as_ref().unwrap(), place);
            assert_eq!(local, SocketAddr::new(underlay.address(), underlay.pool_port(place)));
            assert_eq!(peer, "127.0.0.3:6635".parse().unwrap());
        }
        assert!(connected[0].as_ref().unwrap().socket(4).is_none());
    }

    #[test]
    fn what_stays_keeps_its_sockets_and_another_source_has_others() {
        let first = underlay("127.0.0.42", 2);
        let (one, two) = (("127.0.0.1", Encap::MplsOverUdp), ("127.0.0.2", Encap::MplsOverUdp));
        let before = connect(Some(&first), &fib(&[one]), &Vec::new());
        let after = connect(Some(&first), &fib(&[two, one]), &before);
        assert!(Arc::ptr_eq(before[0].as_ref().unwrap(), after[1].as_ref().unwrap()));
        let moved = connect(Some(&underlay("127.0.0.43", 2)), &fib(&[two, one]), &after);
        assert_eq!(ends(moved[1].as_ref().unwrap(), 0).0.ip().to_string(), "127.0.0.43");
        assert!(connect(None, &fib(&[one]), &after).is_empty());
    }

    #[test]
    fn there_is_an_end_to_them() {
        let underlay = underlay("127.0.0.44", 64);
        let far_ends: Vec<String> = (1..=9).map(|host| format!("127.0.1.{host}")).collect();
        let far_ends: Vec<_> = far_ends.iter().map(|it| (it.as_str(), Encap::MplsOverUdp)).collect();
        let connected = connect(Some(&underlay), &fib(&far_ends), &Vec::new());
        assert_eq!(connected.iter().flatten().count(), MOST / 64);
        // Whoever goes leaves room, once its own are closed.
        let before = connect(Some(&underlay), &fib(&far_ends[3..]), &connected);
        let after = connect(Some(&underlay), &fib(&far_ends[3..]), &before);
        assert_eq!([before, after].map(|it| it.iter().flatten().count()), [1, MOST / 64]);
    }
}
