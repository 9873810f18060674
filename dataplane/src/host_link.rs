//! The way to and from the host itself: a tun interface that belongs to this process. It goes away with it unless
//! somebody keeps its descriptor over a restart (see [`crate::adopt`]).

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};

use crate::adopt::{Kept, Name, is_tun};
use crate::sys;

/// What we take from the host: partial checksums and superframes. Datagram superframes need Linux 6.2.
const TCP_OFFLOADS: u32 = libc::TUN_F_CSUM | libc::TUN_F_TSO4 | libc::TUN_F_TSO6 | libc::TUN_F_TSO_ECN;
const UDP_OFFLOADS: u32 = libc::TUN_F_USO4 | libc::TUN_F_USO6;

#[derive(Debug)]
pub(crate) struct HostLink {
    file: File,
    /// What the kernel agreed to.
    pub(crate) offloads: Vec<String>,
    takes_datagrams: bool,
}

impl HostLink {
    /// Takes over the last run's, or makes it.
    pub(crate) fn open(name: &str, kept: &Kept, datagrams: bool) -> io::Result<HostLink> {
        let outside = Name::Tun.to_string();
        let fd = match kept.adopt(&outside, |fd| is_tun(fd, name)) {
            Some(fd) => fd,
            None => {
                let fd = sys::open_tun(name)?;
                kept.keep(&outside, fd.as_fd());
                fd
            }
        };
        let mut offloads = Vec::new();
        let takes_datagrams =
            datagrams && sys::set_tun_offload(fd.as_fd(), TCP_OFFLOADS | UDP_OFFLOADS).is_ok();
        if takes_datagrams {
            offloads.extend([format!("{name}: TCP superframes"), format!("{name}: UDP superframes")]);
        } else if sys::set_tun_offload(fd.as_fd(), TCP_OFFLOADS).is_ok() {
            offloads.push(format!("{name}: TCP superframes"));
        }
        Ok(HostLink { file: File::from(fd), offloads, takes_datagrams })
    }

    /// Whether the kernel knows superframes of datagrams.
    pub(crate) fn takes_datagrams(&self) -> bool {
        self.takes_datagrams
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// One packet with its virtio-net header, without waiting.
    pub(crate) fn read(&self, octets: &mut [u8]) -> io::Result<usize> {
        (&self.file).read(octets)
    }
}
