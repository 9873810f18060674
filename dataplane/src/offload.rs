//! What newer kernels do for us, and what becomes of packets where they do not.
//!
//! | offload | since | without it |
//! |---|---|---|
//! | UDP segmentation | Linux 4.18 | every datagram of a tunnel is a message of its own |
//! | UDP coalescing | Linux 5.0 | datagrams arrive one by one, and are joined by us across a batch |
//! | UDP superframes | Linux 6.2 | workloads get and give datagrams one by one |
//! | GRE frames | Ethernet | GRE leaves by a raw socket, through the kernel's IP stack |
//! | nftables | its netdev ingress hook | two locks instead of three keep the host out of workloads' frames |
//!
//! Each is tried when it is first needed, and `without` says to act as if the kernel had it not: for tests, and for
//! kernels and drivers that promise what they do not keep.

use std::fmt;
use std::str::FromStr;

/// Something that the kernel may do for us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Offload {
    /// One message for many datagrams of a tunnel (`UDP_SEGMENT`).
    UdpSegmentation,
    /// One message from many datagrams of a tunnel (`UDP_GRO`).
    UdpCoalescing,
    /// One frame for many datagrams of a workload (USO).
    UdpSuperframes,
    /// GRE past the IP stack, on Ethernet.
    GreFrames,
    /// The ingress chain that shuts the host out.
    Nftables,
}

impl Offload {
    /// All of them.
    pub const ALL: [Offload; 5] = [
        Offload::UdpSegmentation,
        Offload::UdpCoalescing,
        Offload::UdpSuperframes,
        Offload::GreFrames,
        Offload::Nftables,
    ];

    /// Its name in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            Offload::UdpSegmentation => "udp-segmentation",
            Offload::UdpCoalescing => "udp-coalescing",
            Offload::UdpSuperframes => "udp-superframes",
            Offload::GreFrames => "gre-frames",
            Offload::Nftables => "nftables",
        }
    }
}

impl fmt::Display for Offload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// No offload has this name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no such offload; there are udp-segmentation, udp-coalescing, udp-superframes, gre-frames, nftables")]
pub struct UnknownOffload;

impl FromStr for Offload {
    type Err = UnknownOffload;

    fn from_str(name: &str) -> Result<Offload, UnknownOffload> {
        Offload::ALL.into_iter().find(|offload| offload.name() == name).ok_or(UnknownOffload)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip_and_the_refusal_lists_them_all() {
        for offload in Offload::ALL {
            assert_eq!(offload.name().parse(), Ok(offload));
            assert!(UnknownOffload.to_string().contains(offload.name()));
        }
        assert_eq!("tso".parse::<Offload>(), Err(UnknownOffload));
    }
}
