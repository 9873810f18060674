//! Offloads that a virtio-net header cannot carry, switched off on the pod's end (ethtool over generic netlink, 5.6+).
//!
//! The dataplane reads the pod's frames from a packet socket with such a header. It says "TCP over IPv4, TCP over IPv6 or UDP,
//! cut at this size" and nothing else: a superframe of any other kind would be lost, so the pod must not send one. The kernel
//! then cuts such frames itself, in the pod. `tx-checksum-sctp` goes too: the header cannot say "CRC32c is missing here".
//!
//! ```text
//!  nlmsghdr | genlmsghdr(FEATURES_SET) | HEADER { DEV_INDEX, FLAGS } | WANTED { BITS { BIT { NAME } … } }
//! ```
//! A bit in the list without a value is to be cleared. A name that the kernel does not know fails the whole message, so
//! then each is tried by itself.

use std::io;

use netlink_packet_core::Emitable;
use netlink_sys::protocols::NETLINK_GENERIC;

use crate::netlink::Netlink;

/// What no version of Linux can carry in the header.
const UNFIT: [&str; 11] = [
    "tx-gre-segmentation",
    "tx-gre-csum-segmentation",
    "tx-ipxip4-segmentation",
    "tx-ipxip6-segmentation",
    "tx-udp_tnl-segmentation",
    "tx-udp_tnl-csum-segmentation",
    "tx-gso-partial",
    "tx-sctp-segmentation",
    "tx-gso-list",
    "tx-tcp-accecn-segmentation",
    "tx-checksum-sctp",
];
/// What Linux carries since 6.2 (VIRTIO_NET_HDR_GSO_UDP_L4).
const UDP: &str = "tx-udp-segmentation";

const GENL_ID_CTRL: u16 = 16;
const CTRL_CMD_GETFAMILY: u8 = 3;
const CTRL_ATTR_FAMILY_ID: u16 = 1;
const CTRL_ATTR_FAMILY_NAME: u16 = 2;
const ETHTOOL_MSG_FEATURES_SET: u8 = 12;
const ETHTOOL_FLAG_OMIT_REPLY: u32 = 2;
const NESTED: u16 = 0x8000;
/// Octets of the head: command, version, two of nothing.
const HEAD: usize = 4;

/// The ethtool family of the namespace in which it was opened.
#[derive(Debug)]
pub(crate) struct Ethtool {
    netlink: Netlink,
    family: u16,
}

impl Ethtool {
    /// Opens it; kernels before 5.6 have none.
    pub(crate) fn open() -> io::Result<Ethtool> {
        let mut netlink = Netlink::open(NETLINK_GENERIC)?;
        let mut request = Generic::new(CTRL_CMD_GETFAMILY);
        request.put_text(CTRL_ATTR_FAMILY_NAME, "ethtool");
        let replies = netlink.ask(GENL_ID_CTRL, &request, 0)?;
        let id = replies.iter().find_map(|reply| reply.attribute(HEAD, CTRL_ATTR_FAMILY_ID));
        let family = id.and_then(|value| value.try_into().ok()).map(u16::from_ne_bytes);
        let family = family.ok_or_else(|| io::Error::other("the kernel does not say where ethtool is"))?;
        Ok(Ethtool { netlink, family })
    }

    /// Switches off on this link all that does not fit the header.
    pub(crate) fn switch_off_unfit(&mut self, index: u32) -> io::Result<()> {
        let mut names = UNFIT.to_vec();
        if !carries_udp(&std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default()) {
            names.push(UDP);
        }
        if self.clear(index, &names).is_ok() {
            return Ok(());
        }
        for name in names {
            match self.clear(index, &[name]) {
                // "No such feature": then it cannot be on.
                Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => {}
                outcome => outcome?,
            }
        }
        Ok(())
    }

    fn clear(&mut self, index: u32, names: &[&str]) -> io::Result<()> {
        self.netlink.ask(self.family, &clear_features(index, names), 0).map(drop)
    }
}

fn clear_features(index: u32, names: &[&str]) -> Generic {
    let mut request = Generic::new(ETHTOOL_MSG_FEATURES_SET);
    request.nest(1, |header| {
        header.put(1, &index.to_ne_bytes());
        header.put(3, &ETHTOOL_FLAG_OMIT_REPLY.to_ne_bytes());
    });
    request.nest(3, |wanted| {
        wanted.nest(3, |bits| {
            for name in names {
                bits.nest(1, |bit| bit.put_text(2, name));
            }
        });
    });
    request
}

/// Whether this release (`6.18.1-…`) has VIRTIO_NET_HDR_GSO_UDP_L4.
fn carries_udp(release: &str) -> bool {
    let mut numbers =
        release.split(|c: char| !c.is_ascii_digit()).map(|text| text.parse::<u32>().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= (6, 2)
}

/// A message of generic netlink: `command | version | 0 0`, then attributes.
struct Generic(Vec<u8>);

impl Generic {
    fn new(command: u8) -> Generic {
        Generic(vec![command, 1, 0, 0])
    }

    fn put(&mut self, kind: u16, value: &[u8]) {
        // Our values are a few octets.
        let length = u16::try_from(value.len() + 4).unwrap_or(u16::MAX);
        self.0.extend_from_slice(&length.to_ne_bytes());
        self.0.extend_from_slice(&kind.to_ne_bytes());
        self.0.extend_from_slice(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
    }

    fn put_text(&mut self, kind: u16, text: &str) {
        self.put(kind, &[text.as_bytes(), &[0]].concat());
    }

    fn nest(&mut self, kind: u16, fill: impl FnOnce(&mut Generic)) {
        let mut inner = Generic(Vec::new());
        fill(&mut inner);
        self.put(kind | NESTED, &inner.0);
    }
}

impl Emitable for Generic {
    fn buffer_len(&self) -> usize {
        self.0.len()
    }

    fn emit(&self, buffer: &mut [u8]) {
        buffer.copy_from_slice(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_request_is_what_ethtool_sends() {
        let request = clear_features(7, &["tx-gso"]);
        let mut want = vec![12, 1, 0, 0]; // FEATURES_SET, version 1
        want.extend([20, 0, 1, 0x80, 8, 0, 1, 0, 7, 0, 0, 0, 8, 0, 3, 0, 2, 0, 0, 0]); // HEADER { 1: index, 3: flags }
        want.extend([24, 0, 3, 0x80, 20, 0, 3, 0x80]); // WANTED { BITS {
        want.extend([16, 0, 1, 0x80, 11, 0, 2, 0]); // BIT { NAME
        want.extend(b"tx-gso\0\0");
        assert_eq!(request.0, want);
    }

    #[test]
    fn releases_are_compared_as_numbers() {
        assert!(carries_udp("6.2.0") && carries_udp("6.18.44-fc") && carries_udp("10.0"));
        assert!(!carries_udp("6.1.0-28-amd64") && !carries_udp("5.15.0") && !carries_udp(""));
    }
}
