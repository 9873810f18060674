//! Sockets that outlive the process: while no agent runs, somebody else holds them and packets queue in the kernel.
//!
//! ```text
//!   open ──▶ Keeper::keep(name, fd)        systemd's fd store, or whoever speaks its protocol
//!   close ─▶ Keeper::forget(name)                     │
//!   start ◀─ Inherited { name → fd } ◀────────────────┘  each is checked against what its name says, then served
//! ```
//! | name                  | what it must be                                                                          |
//! |-----------------------|------------------------------------------------------------------------------------------|
//! | `tun`                 | the host interface, without packet information, with virtio-net headers                  |
//! | `port-<id>-<name>`    | a raw packet socket with virtio-net headers, bound to that interface as it is now        |
//! | `udp-<port>-<worker>` | a UDP socket bound to that port of the tunnel source                                     |
//! | `entropy-<place>`     | a UDP socket bound to a port of that place's part of the dynamic range                   |
//! | `gre`                 | a raw socket for protocol 47, bound to the tunnel source                                 |
//! | `flows`               | no socket: memory with the flows of a run that ended on purpose                          |
//!
//! Whatever is something else, belongs to another network namespace, or has a name that nothing asks for, is closed.

use std::collections::BTreeMap;
use std::fmt::{self, Debug};
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use socket2::{SockRef, Type};
use tracing::warn;
use vrouter_types::PortId;

use crate::port_link::PACKET_VNET_HDR;
use crate::sys::{self, IfIndex};

/// Holds descriptors while no process of ours runs.
pub trait Keeper: Send + Sync + Debug {
    /// Holds this one too, under this name.
    fn keep(&self, name: &str, fd: BorrowedFd<'_>);
    /// Lets go of what has this name.
    fn forget(&self, name: &str);
}

/// What the last process left, and who is to hold what this one opens.
#[derive(Debug)]
pub struct Kept {
    inherited: Mutex<BTreeMap<String, OwnedFd>>,
    keeper: Arc<dyn Keeper>,
    adopted: AtomicUsize,
    /// Where the kernel can say.
    namespace: Option<u64>,
}

impl Default for Kept {
    /// Nothing was left, and nobody keeps.
    fn default() -> Kept {
        Kept::new(BTreeMap::new(), Arc::new(Nobody))
    }
}

#[derive(Debug)]
struct Nobody;

impl Keeper for Nobody {
    fn keep(&self, _: &str, _: BorrowedFd<'_>) {}
    fn forget(&self, _: &str) {}
}

impl Kept {
    /// Sockets of the last process by name, and a keeper for those of this one.
    pub fn new(inherited: BTreeMap<String, OwnedFd>, keeper: Arc<dyn Keeper>) -> Kept {
        let namespace = sys::own_namespace();
        Kept { inherited: Mutex::new(inherited), keeper, adopted: AtomicUsize::new(0), namespace }
    }

    /// How many sockets of the last process are served.
    pub(crate) fn adopted(&self) -> usize {
        self.adopted.load(Relaxed)
    }

    /// Whether something was left under this name, and not yet asked for.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.lock().contains_key(name)
    }

    /// What was left under this name, if it is what it should be. If not, it is closed.
    pub(crate) fn adopt(&self, name: &str, verify: impl FnOnce(BorrowedFd<'_>) -> bool) -> Option<OwnedFd> {
        let fd = self.lock().remove(name)?;
        // A tun is no socket, and has no say in this.
        let theirs = sys::namespace(fd.as_fd());
        if verify(fd.as_fd()) && theirs.is_none_or(|theirs| Some(theirs) == self.namespace) {
            self.adopted.fetch_add(1, Relaxed);
            return Some(fd);
        }
        warn!(name, "a socket of the last run is not what its name says, and is closed");
        self.keeper.forget(name);
        None
    }

    /// What was left under this name and is no socket; only once, for the next run leaves its own.
    pub(crate) fn take(&self, name: &str) -> Option<OwnedFd> {
        let fd = self.lock().remove(name)?;
        self.keeper.forget(name);
        Some(fd)
    }

    pub(crate) fn keep(&self, name: &str, fd: BorrowedFd<'_>) {
        self.keeper.keep(name, fd);
    }

    pub(crate) fn forget(&self, name: &str) {
        self.keeper.forget(name);
    }

    /// Closes what nothing asked for, and says what that was.
    pub(crate) fn close_rest(&self) -> Vec<String> {
        let rest = std::mem::take(&mut *self.lock());
        rest.keys().for_each(|name| self.keeper.forget(name));
        rest.into_keys().collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, OwnedFd>> {
        self.inherited.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a socket is called outside.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Name<'n> {
    Tun,
    Port(PortId, &'n str),
    Udp { port: u16, worker: usize },
    Entropy(usize),
    Gre,
}

impl fmt::Display for Name<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Name::Tun => f.write_str("tun"),
            Name::Port(port, interface) => write!(f, "port-{port}-{interface}"),
            Name::Udp { port, worker } => write!(f, "udp-{port}-{worker}"),
            Name::Entropy(place) => write!(f, "entropy-{place}"),
            Name::Gre => f.write_str("gre"),
        }
    }
}

/// Whether this is the tun interface of this name, as we make it.
pub(crate) fn is_tun(fd: BorrowedFd<'_>, name: &str) -> bool {
    let wanted = libc::IFF_TUN | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
    let mode = wanted | libc::IFF_TAP;
    sys::tun_interface(fd).is_ok_and(|(is, flags)| is == name && flags & mode == wanted)
}

/// Whether this is a port's socket on the interface of this index.
pub(crate) fn is_packet(fd: BorrowedFd<'_>, index: IfIndex) -> bool {
    let is = |name, value| sys::option(fd, libc::SOL_SOCKET, name).is_ok_and(|is| is == value);
    is(libc::SO_DOMAIN, libc::AF_PACKET)
        && is(libc::SO_TYPE, libc::SOCK_RAW)
        && sys::packet_binding(fd).is_ok_and(|bound| bound == Some(index))
        && sys::option(fd, libc::SOL_PACKET, PACKET_VNET_HDR).is_ok_and(|on| on != 0)
}

/// Whether this is a socket of this type and protocol, bound to an address that is wanted.
pub(crate) fn is_bound(
    fd: BorrowedFd<'_>,
    kind: Type,
    protocol: i32,
    wanted: impl FnOnce(SocketAddr) -> bool,
) -> bool {
    let socket = SockRef::from(&fd);
    let bound = socket.local_addr().ok().and_then(|address| address.as_socket());
    socket.r#type().is_ok_and(|is| is == kind)
        && sys::option(fd, libc::SOL_SOCKET, libc::SO_PROTOCOL).is_ok_and(|is| is == protocol)
        && bound.is_some_and(wanted)
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::net::UdpSocket;

    use super::*;

    #[derive(Debug, Default)]
    struct Notes(Mutex<Vec<String>>);

    impl Keeper for Notes {
        fn keep(&self, name: &str, _: BorrowedFd<'_>) {
            self.0.lock().unwrap().push(format!("keep {name}"));
        }
        fn forget(&self, name: &str) {
            self.0.lock().unwrap().push(format!("forget {name}"));
        }
    }

    fn null() -> OwnedFd {
        File::open("/dev/null").unwrap().into()
    }

    #[test]
    fn what_is_not_what_its_name_says_is_closed_and_forgotten() {
        let notes = Arc::new(Notes::default());
        let names = ["gre", "port-3-veth", "tun", "unknown"];
        let inherited = names.iter().map(|name| ((*name).to_owned(), null())).collect();
        let kept = Kept::new(inherited, Arc::<Notes>::clone(&notes));
        assert!(kept.adopt("gre", |_| true).is_some());
        assert!(kept.adopt("gre", |_| true).is_none(), "only once");
        assert!(kept.adopt("tun", |fd| is_tun(fd, "vrouter0")).is_none());
        assert!(kept.adopt("port-3-veth", |fd| is_packet(fd, 1)).is_none());
        assert_eq!(kept.adopted(), 1);
        assert_eq!(kept.close_rest(), ["unknown"]);
        assert_eq!(*notes.0.lock().unwrap(), ["forget tun", "forget port-3-veth", "forget unknown"]);
    }

    #[test]
    fn a_udp_socket_is_known_by_type_protocol_and_address() {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap();
        let is = |kind, protocol, port| {
            is_bound(socket.as_fd(), kind, protocol, |at| at == SocketAddr::new(address.ip(), port))
        };
        assert!(is(Type::DGRAM, libc::IPPROTO_UDP, address.port()));
        assert!(!is(Type::RAW, libc::IPPROTO_UDP, address.port()));
        assert!(!is(Type::DGRAM, libc::IPPROTO_TCP, address.port()));
        assert!(!is(Type::DGRAM, libc::IPPROTO_UDP, address.port() ^ 1));
        assert!(!is_bound(null().as_fd(), Type::DGRAM, libc::IPPROTO_UDP, |_| true));
        assert!(!is_packet(socket.as_fd(), 1));
    }

    #[test]
    fn names_hold_nothing_that_separates_them() {
        let names = [
            Name::Tun,
            Name::Port(PortId(7), "vr0123456789ab"),
            Name::Udp { port: 6635, worker: 1 },
            Name::Entropy(15),
            Name::Gre,
        ];
        let names: Vec<String> = names.iter().map(Name::to_string).collect();
        assert_eq!(names, ["tun", "port-7-vr0123456789ab", "udp-6635-1", "entropy-15", "gre"]);
        assert!(names.iter().all(|name| !name.contains(':')));
    }
}
