//! Which way a packet takes into its tunnel, and what stands in front of it there.
//!
//! ```text
//!  MPLS-over-UDP        │ label │ packet      a pool socket, by entropy; the kernel writes IP and UDP
//!  MPLS-over-GRE  │ GRE │ label │ packet      the raw socket; the kernel writes IP
//!  │ Ethernet │ IP │ GRE │ label │ packet     the packet socket, where the neighbour is known
//! ```

use std::ops::Range;
use std::sync::Arc;

use dataplane_core::segment::{MAX_PREFIX, label_entry};
use dataplane_core::{DropReason, Push};
use vrouter_types::Encap;

use crate::adjacency::Adjacency;
use crate::cmsg::To;
use crate::egress::{Target, TunnelSlice, overhead};
use crate::gre;
use crate::snapshot::Snapshot;
use crate::underlay::MPLS_OVER_UDP_PORT;

/// A way.
pub(super) struct Way {
    pub(super) slice: TunnelSlice,
    /// The longest inner packet that this way takes, as far as it knows.
    pub(super) mtu: u16,
    prefix: [u8; MAX_PREFIX],
    len: usize,
    /// Where we write the outer headers ourselves.
    adjacency: Option<Arc<Adjacency>>,
    /// Whether the path may cut it.
    pub(super) in_fragments: bool,
}

impl Way {
    pub(super) fn of(snapshot: &Snapshot, push: Push) -> Result<Way, DropReason> {
        let tunnel = snapshot.fib.tunnel(push.tunnel).ok_or(DropReason::NoTunnel)?;
        let underlay = snapshot.underlay.as_deref().filter(|it| it.is_v6() == tunnel.remote.is_ipv6());
        let underlay = underlay.ok_or(DropReason::NoUnderlay)?;
        let slice = |target, to, outer| TunnelSlice { target, tunnel: push.tunnel, to, outer, tos: push.tos };
        let mut way = match tunnel.encap {
            Encap::MplsOverUdp => {
                let place = underlay.pool_index(push.entropy);
                let (target, to) = if snapshot.connected(push.tunnel, place).is_some() {
                    (Target::Connected(push.tunnel, place), To::Connected(tunnel.remote))
                } else {
                    (Target::Udp(place), To::Address(tunnel.remote, MPLS_OVER_UDP_PORT))
                };
                Way::new(slice(target, to, 0), &[])
            }
            Encap::MplsOverGre => {
                let adjacency = snapshot.tunnel(push.tunnel).and_then(|stats| stats.adjacency().clone());
                match adjacency.filter(|_| underlay.link().is_some()) {
                    Some(adjacency) => {
                        let header = adjacency.header();
                        let to = To::Link(adjacency.link, tunnel.remote);
                        let mtu = adjacency.mtu.saturating_sub(overhead(tunnel.remote, tunnel.encap));
                        let way = Way::new(slice(Target::Link, to, header.len()), header);
                        Way { mtu, adjacency: Some(adjacency), ..way }
                    }
                    None => {
                        let to = To::Address(tunnel.remote, 0);
                        Way::new(slice(Target::Gre, to, gre::HEADER.len()), &gre::HEADER)
                    }
                }
            }
        };
        way.push(&label_entry(push.label, push.tos >> 5, push.ttl));
        Ok(way)
    }

    /// The same way, by the kernel's own headers, which may be those of fragments.
    pub(super) fn in_fragments(snapshot: &Snapshot, push: Push) -> Result<Way, DropReason> {
        let mut way = Way::of(snapshot, push)?;
        let tunnel = snapshot.fib.tunnel(push.tunnel).ok_or(DropReason::NoTunnel)?;
        if tunnel.encap == Encap::MplsOverGre {
            let to = To::Address(tunnel.remote, 0);
            let slice =
                TunnelSlice { target: Target::GreInFragments, to, outer: gre::HEADER.len(), ..way.slice };
            way = Way::new(slice, &gre::HEADER);
            way.push(&label_entry(push.label, push.tos >> 5, push.ttl));
        } else if let Target::Udp(place) | Target::Connected(_, place) = way.slice.target {
            way.slice.target = Target::UdpInFragments(place);
            way.slice.to = To::Address(tunnel.remote, MPLS_OVER_UDP_PORT);
        }
        Ok(Way { in_fragments: true, ..way })
    }

    fn new(slice: TunnelSlice, front: &[u8]) -> Way {
        let (prefix, mtu, adjacency) = ([0; MAX_PREFIX], u16::MAX, None);
        let mut way = Way { slice, mtu, prefix, len: 0, adjacency, in_fragments: false };
        way.push(front);
        way
    }

    fn push(&mut self, octets: &[u8]) {
        if let Some(room) = self.prefix.get_mut(self.len..self.len + octets.len()) {
            room.copy_from_slice(octets);
            self.len += octets.len();
        }
    }

    pub(super) fn prefix(&self) -> &[u8] {
        self.prefix.get(..self.len).unwrap_or_default()
    }

    /// Completes the outer headers of a packet that begins with the prefix.
    pub(super) fn finish(&self, memory: &mut [u8], pieces: &[Range<usize>; 2]) {
        if let Some(adjacency) = &self.adjacency
            && let Some(header) = memory.get_mut(pieces[0].clone())
        {
            adjacency.finish(header, pieces.iter().map(Range::len).sum(), self.slice.tos);
        }
    }
}
