//! The thread that keeps adjacencies true: it asks the kernel for the way to every GRE far end, again whenever the
//! kernel tells of a change.
//!
//! ```text
//!  routes, links, addresses, neighbours, policies ──multicast──▶ ┐
//!  the forwarding state names other far ends ─────────bell─────▶ ├─ settle ─▶ route? link? neighbour? ─▶ adjacency or none
//!  the raw socket has an error (a path got narrower) ─bell─────▶ ┘
//! ```
//! What goes by the link does not tell the kernel that the neighbour is in use. So this thread does, when an entry
//! becomes stale while packets flow; a stale entry of an idle tunnel is let go, and the raw socket begins anew. IPsec
//! policies see only what the IP stack sends: while there is one, nothing goes past it.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::File;
use std::io::{self, Read, Write};
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use socket2::{Domain, Protocol, Socket, Type};
use tracing::warn;
use vrouter_types::Encap;

use super::Adjacency;
use super::wire::{self, Hop, Neighbour};
use crate::counters::TunnelStats;
use crate::snapshot::Snapshot;
use crate::sys::{self, Epoll, IfIndex};

/// Changes come in bursts.
const SETTLE: Duration = Duration::from_millis(50);
/// A second look at what nobody told us, as expired path MTUs, while there are far ends.
const AGAIN: Duration = Duration::from_secs(30);
const STRAY_ANSWERS: usize = 16;
const ANSWER_IN: Duration = Duration::from_secs(1);
/// Links, neighbours, addresses, routes and rules, of both families, and nexthop objects (RTNLGRP_*).
const GROUPS: [i32; 9] = [1, 3, 5, 7, 8, 9, 11, 19, 32];
/// XFRMNLGRP_POLICY.
const POLICY_GROUP: i32 = 4;
const SOL_NETLINK: i32 = 270;
const NETLINK_ADD_MEMBERSHIP: i32 = 1;

/// Rings when adjacencies are to be looked at again.
#[derive(Debug)]
pub(crate) struct Bell {
    event: File,
    stop: AtomicBool,
    /// Whether a way may have changed though far ends have not.
    changed: AtomicBool,
}

impl Bell {
    pub(crate) fn new() -> io::Result<Bell> {
        let (stop, changed) = (AtomicBool::new(false), AtomicBool::new(false));
        Ok(Bell { event: sys::event_fd()?.into(), stop, changed })
    }

    /// The path to a far end may have changed.
    pub(crate) fn ring_changed(&self) {
        self.changed.store(true, Relaxed);
        self.ring();
    }

    /// Forwarding state or underlay are new.
    pub(crate) fn ring(&self) {
        // One that rings already needs no second.
        let _ = (&self.event).write(&1u64.to_ne_bytes());
    }
}

/// The thread. Ends with it.
#[derive(Debug)]
pub(crate) struct Follower {
    bell: Arc<Bell>,
    thread: Option<JoinHandle<()>>,
}

impl Follower {
    pub(crate) fn start(bell: Arc<Bell>, snapshots: Arc<ArcSwap<Snapshot>>) -> io::Result<Follower> {
        bell.stop.store(false, Relaxed);
        let kernel = Kernel::open()?;
        let heard = Arc::clone(&bell);
        let follow = move || {
            if let Err(error) = follow(&kernel, &heard, &snapshots) {
                warn!(%error, "GRE goes by the raw socket only: cannot follow routes and neighbours any more");
                snapshots.load().remotes.values().for_each(|stats| stats.set_adjacency(None));
            }
        };
        let thread = std::thread::Builder::new().name("adjacency".to_owned()).spawn(follow)?;
        Ok(Follower { bell, thread: Some(thread) })
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.bell.stop.store(true, Relaxed);
        self.bell.ring();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A netlink socket to ask by.
struct Asker {
    socket: Socket,
    number: Cell<u32>,
}

/// Netlink sockets: to ask by, and such that tell.
struct Kernel {
    route: Asker,
    routes: Socket,
    /// Absent where the kernel has no IPsec.
    policy: Option<Asker>,
    policies: Option<Socket>,
}

impl Kernel {
    fn open() -> io::Result<Kernel> {
        let policies = netlink(libc::NETLINK_XFRM, &[POLICY_GROUP]).ok();
        let routes = netlink(libc::NETLINK_ROUTE, &GROUPS)?;
        for socket in policies.iter().chain([&routes]) {
            socket.set_nonblocking(true)?;
        }
        let (route, policy) = (Asker::open(libc::NETLINK_ROUTE)?, Asker::open(libc::NETLINK_XFRM).ok());
        Ok(Kernel { route, routes, policy, policies })
    }

    fn hop(&self, source: IpAddr, remote: IpAddr) -> Option<Hop> {
        self.route.ask(wire::ask_route(source, remote), wire::read_route)
    }

    fn ethernet(&self, link: IfIndex) -> Option<wire::Ethernet> {
        self.route.ask(wire::ask_link(link), wire::read_link)
    }

    fn neighbour(&self, link: IfIndex, address: IpAddr) -> Option<Neighbour> {
        self.route.ask(wire::ask_neighbour(link, address), wire::read_neighbour)
    }

    fn has_policies(&self) -> bool {
        let read = |kind, body: &[u8]| Some(wire::has_policies(kind, body));
        // A kernel without IPsec says so, and has no policies.
        self.policy.as_ref().is_some_and(|asker| asker.ask(wire::ask_policies(), read).unwrap_or(false))
    }

    /// Reads what was told. `true`: it may concern one of these neighbours, or any route.
    fn heard(&self, neighbours: &BTreeSet<(IfIndex, IpAddr)>) -> bool {
        let mut concerns = false;
        let mut buffer = vec![0; 32 * 1024];
        for socket in self.policies.iter().chain([&self.routes]) {
            loop {
                match (&*socket).read(&mut buffer) {
                    Ok(count) => {
                        let told = buffer.get(..count).unwrap_or_default();
                        concerns |= wire::messages(told).any(|(kind, body)| {
                            wire::read_neighbour(kind, body)
                                .is_none_or(|it| neighbours.contains(&(it.link, it.address)))
                        });
                    }
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    // More was told than we had room for.
                    Err(_) => {
                        concerns = true;
                        break;
                    }
                }
            }
        }
        concerns
    }
}

fn netlink(protocol: i32, groups: &[i32]) -> io::Result<Socket> {
    let socket = Socket::new(Domain::from(libc::AF_NETLINK), Type::RAW, Some(Protocol::from(protocol)))?;
    // A socket without a port of its own hears nothing.
    (&socket).write_all(&wire::nothing())?;
    for group in groups {
        sys::set_option(socket.as_fd(), SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, *group)?;
    }
    Ok(socket)
}

impl Asker {
    fn open(protocol: i32) -> io::Result<Asker> {
        let socket = netlink(protocol, &[])?;
        socket.set_read_timeout(Some(ANSWER_IN))?;
        Ok(Asker { socket, number: Cell::new(0) })
    }

    fn tell(&self, mut message: Vec<u8>) -> Option<u32> {
        let number = self.number.get().wrapping_add(1);
        self.number.set(number);
        wire::set_number(&mut message, number);
        (&self.socket).write_all(&message).ok().map(|()| number)
    }

    /// Asks one thing and reads the answer. Errors, of the kernel or on the way to it, are no answer.
    fn ask<T>(&self, question: Vec<u8>, read: impl Fn(u16, &[u8]) -> Option<T>) -> Option<T> {
        let number = self.tell(question)?;
        let mut buffer = vec![0; 32 * 1024];
        // What was told may have been refused, which is an answer that nobody waits for.
        for _ in 0..STRAY_ANSWERS {
            let count = (&self.socket).read(&mut buffer).ok()?;
            let answer = buffer.get(..count)?;
            if wire::number_of(answer) == Some(number) {
                let (kind, body) = wire::messages(answer).next()?;
                return read(kind, body);
            }
        }
        None
    }
}

fn follow(kernel: &Kernel, bell: &Bell, snapshots: &ArcSwap<Snapshot>) -> io::Result<()> {
    let epoll = Epoll::new()?;
    let fds = kernel.policies.iter().chain([&kernel.routes]).map(AsFd::as_fd);
    for fd in fds.chain(std::iter::once::<BorrowedFd<'_>>(bell.event.as_fd())) {
        epoll.add(fd, 0)?;
    }
    let mut resolver = Resolver::default();
    let mut ready = Vec::new();
    while !bell.stop.load(Relaxed) {
        let followed = resolver.resolve(kernel, &snapshots.load_full());
        // What others are told meanwhile puts the second look off no further.
        let again = Instant::now() + AGAIN;
        let mut concerns = false;
        while !concerns && !bell.stop.load(Relaxed) {
            ready.clear();
            let left = again.saturating_duration_since(Instant::now());
            let left = i32::try_from(left.as_millis() + 1).unwrap_or(i32::MAX);
            match epoll.wait(&mut ready, if followed { left } else { -1 }) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                waited => waited?,
            }
            concerns = followed && Instant::now() >= again;
            if !concerns && !bell.stop.load(Relaxed) {
                std::thread::sleep(SETTLE);
            }
            if (&bell.event).read(&mut [0; 8]).is_ok() {
                concerns |= bell.changed.swap(false, Relaxed) || resolver.is_news(&snapshots.load());
            }
            concerns |= kernel.heard(&resolver.neighbours);
        }
    }
    Ok(())
}

/// The address that frames may be sent from.
fn source(snapshot: &Snapshot) -> Option<IpAddr> {
    snapshot.underlay.as_ref().filter(|underlay| underlay.has_link()).map(|underlay| underlay.address())
}

/// What was found last time.
#[derive(Default)]
struct Resolver {
    neighbours: BTreeSet<(IfIndex, IpAddr)>,
    source: Option<IpAddr>,
    /// Packets sent by then, per far end.
    sent: HashMap<IpAddr, u64>,
}

impl Resolver {
    /// Whether this forwarding state has another source, or other far ends than were seen to.
    fn is_news(&self, snapshot: &Snapshot) -> bool {
        let far_ends = snapshot.remotes.keys().filter(|(_, encap)| *encap == Encap::MplsOverGre);
        let known = far_ends.clone().filter(|(remote, _)| self.sent.contains_key(remote)).count();
        source(snapshot) != self.source || known != self.sent.len() || known != far_ends.count()
    }

    /// Sees to every far end. `false`: there is none.
    fn resolve(&mut self, kernel: &Kernel, snapshot: &Snapshot) -> bool {
        self.neighbours.clear();
        let far_ends = snapshot.remotes.iter().filter(|((_, encap), _)| *encap == Encap::MplsOverGre);
        let far_ends: Vec<_> = far_ends.map(|((remote, _), stats)| (*remote, stats)).collect();
        self.source = source(snapshot);
        let source = self.source.filter(|_| !far_ends.is_empty() && !kernel.has_policies());
        let mut links = BTreeMap::new();
        for (remote, stats) in &far_ends {
            let found = source.and_then(|source| self.adjacency(kernel, &mut links, source, *remote, stats));
            stats.set_adjacency(found);
        }
        self.sent = far_ends.iter().map(|(remote, stats)| (*remote, stats.sent_packets())).collect();
        !far_ends.is_empty() && source.is_some()
    }

    fn adjacency(
        &mut self,
        kernel: &Kernel,
        links: &mut BTreeMap<IfIndex, Option<wire::Ethernet>>,
        source: IpAddr,
        remote: IpAddr,
        stats: &TunnelStats,
    ) -> Option<Adjacency> {
        let hop = kernel.hop(source, remote).filter(|_| source.is_ipv4() == remote.is_ipv4())?;
        let ethernet = (*links.entry(hop.link).or_insert_with(|| kernel.ethernet(hop.link)))?;
        let address = hop.gateway.unwrap_or(remote);
        // Told of from now on, whatever becomes of it.
        self.neighbours.insert((hop.link, address));
        let neighbour = kernel.neighbour(hop.link, address)?;
        if neighbour.is_stale {
            let sent = self.sent.get(&remote).copied().unwrap_or(0);
            if stats.sent_packets() == sent {
                return None;
            }
            kernel.route.tell(wire::use_neighbour(hop.link, address));
        } else if !neighbour.is_usable {
            return None;
        }
        let mtu = hop.mtu.filter(|mtu| *mtu != 0).map_or(ethernet.mtu, |mtu| mtu.min(ethernet.mtu));
        let mtu = u16::try_from(mtu).unwrap_or(u16::MAX);
        Adjacency::new(hop.link, mtu, [neighbour.mac?, ethernet.mac], source, remote)
    }
}
