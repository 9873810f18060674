//! A port: a packet socket on the host's end of a pod's veth, or on a VM's tap.
//!
//! `PACKET_VNET_HDR` lets superframes and partial checksums through both ways, which is what makes bulk fast.
//! `PACKET_IGNORE_OUTGOING` keeps our own frames from coming back.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};

use socket2::{Domain, Protocol, Socket, Type};

use crate::adopt::{Kept, Name, is_packet};
use crate::cmsg::PACKET_AUXDATA;
use crate::counters::PortStats;
use crate::sys::{self, IfIndex};
use crate::vlan;

/// Not in the libc crate: uapi linux/if_packet.h.
pub(crate) const PACKET_VNET_HDR: i32 = 15;
const PACKET_QDISC_BYPASS: i32 = 20;
const PACKET_IGNORE_OUTGOING: i32 = 23;

/// An open port.
#[derive(Debug)]
pub(crate) struct PortLink {
    socket: Socket,
    interface: String,
    index: IfIndex,
    /// The tag of a sub-port's frames.
    pub(crate) vlan: Option<u16>,
    down: AtomicBool,
    /// Whether frames go past the interface's queue.
    bypass: AtomicBool,
    /// Mean octets per frame lately: decides how many frames one call receives.
    pub(crate) frame_size: AtomicUsize,
    pub(crate) stats: Arc<PortStats>,
}

impl PortLink {
    /// Opens a socket on the interface, unless the last run left one: what has come meanwhile queues in it.
    pub(crate) fn open(
        name: Name<'_>,
        (interface, vlan): (&str, Option<u16>),
        buffer: usize,
        stats: Arc<PortStats>,
        kept: &Kept,
    ) -> io::Result<PortLink> {
        let index = sys::if_index(interface)?;
        let inherited = kept.adopt(&name.to_string(), |fd| is_packet(fd, index)).map(Socket::from);
        let is_adopted = inherited.is_some();
        let socket = match inherited {
            Some(socket) => socket,
            // Protocol zero: nothing arrives, from any interface, before it is bound to the one.
            None => Socket::new(Domain::PACKET, Type::RAW, Some(Protocol::from(0)))?,
        };
        let fd = socket.as_fd();
        sys::set_option(fd, libc::SOL_PACKET, PACKET_VNET_HDR, 1)?;
        sys::set_option(fd, libc::SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)?;
        // The kernel takes VLAN tags off; only this tells that there was one.
        sys::set_option(fd, libc::SOL_PACKET, PACKET_AUXDATA, 1)?;
        // A veth has no queue to honour; where there is one, skipping it costs nothing but its shaping.
        let bypass = sys::set_option(fd, libc::SOL_PACKET, PACKET_QDISC_BYPASS, 1).is_ok();
        set_buffers(fd, buffer);
        // Before it is bound, so that no other frame ever enters it.
        if let Some(number) = vlan {
            vlan::accept_only(fd, number)?;
        }
        // Binding anew would wait for the kernel to be done with the old binding.
        if !is_adopted {
            sys::bind_packet(fd, index)?;
        }
        Ok(PortLink {
            socket,
            interface: interface.to_owned(),
            index,
            vlan,
            down: AtomicBool::new(false),
            bypass: AtomicBool::new(bypass),
            frame_size: AtomicUsize::new(0),
            stats,
        })
    }

    /// A link that is no interface: frames come and go by this socket.
    pub(crate) fn over(socket: Socket) -> PortLink {
        PortLink {
            socket,
            interface: String::new(),
            index: 0,
            vlan: None,
            down: AtomicBool::new(false),
            bypass: AtomicBool::new(false),
            frame_size: AtomicUsize::new(0),
            stats: Arc::default(),
        }
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Sends one message, without waiting: a virtio-net header and a frame.
    pub(crate) fn send(&self, message: &[u8]) -> io::Result<()> {
        self.socket.send_with_flags(message, libc::MSG_DONTWAIT).map(drop)
    }

    pub(crate) fn interface(&self) -> &str {
        &self.interface
    }

    /// Whether the interface has gone. A socket does not find its way to a new one of the same name.
    pub(crate) fn is_down(&self) -> bool {
        self.down.load(Relaxed)
    }

    /// Lets frames go through the interface's queue from now on: `false` where they did already. Past it, the kernel
    /// drops a superframe that the interface cannot take, as a VM's tap without offloads, instead of cutting it.
    pub(crate) fn end_bypass(&self) -> bool {
        let ended = || sys::set_option(self.fd(), libc::SOL_PACKET, PACKET_QDISC_BYPASS, 0).is_ok();
        self.bypass.swap(false, Relaxed) && ended()
    }

    /// Clears a pending error, and looks whether the interface has gone for good: `true` the first time that it has.
    pub(crate) fn check_interface(&self) -> bool {
        let _ = sys::option(self.fd(), libc::SOL_SOCKET, libc::SO_ERROR);
        let gone = sys::if_index(&self.interface).map_or(true, |index| index != self.index);
        gone && !self.down.swap(true, Relaxed)
    }
}

/// Sets both buffers, beyond the system's limit where that is allowed.
pub(crate) fn set_buffers(fd: BorrowedFd<'_>, octets: usize) {
    let octets = i32::try_from(octets).unwrap_or(i32::MAX);
    let pairs = [(libc::SO_RCVBUFFORCE, libc::SO_RCVBUF), (libc::SO_SNDBUFFORCE, libc::SO_SNDBUF)];
    for (force, ask) in pairs {
        if sys::set_option(fd, libc::SOL_SOCKET, force, octets).is_err() {
            let _ = sys::set_option(fd, libc::SOL_SOCKET, ask, octets);
        }
    }
}
