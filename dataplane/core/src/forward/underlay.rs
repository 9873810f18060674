//! From a tunnel: one label, which means one port, and an inner packet that must be for it.
//!
//! ```text
//!  0                   20  23 24      32
//!  | label             | TC |S| TTL   |   one label stack entry (RFC 3032 §2.1)
//! ```
//! One label, bottom of stack: an L3VPN packet inside an IP tunnel has no other. Explicit null at the bottom says "by
//! the IP header alone" (RFC 3032 §2.1), and there is no table that this could mean: the label that we gave a route is
//! what names its VRF (RFC 4364 §4.3.2), and we never give null, explicit or implicit. To guess would let a provider
//! edge that is set up wrongly choose the tenant, so it is refused by name like every reserved label.

use std::net::IpAddr;

use vrouter_types::{Encap, Label, VrfId};

use super::{Origin, Pipeline, Refusal, Way, is_link_local, rewrite};
use crate::fib::Port;
use crate::frame::Frame;
use crate::packet::Packet;
use crate::reply::icmp;
use crate::trace::Recorder;
use crate::verdict::{DropReason, Verdict};

const LABEL_ENTRY: usize = 4;

/// What the tunnel's headers said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outer {
    /// Who sent the packet.
    pub src: IpAddr,
    /// How it came.
    pub encap: Encap,
    /// The outer TOS or traffic class: its ECN field counts.
    pub tos: u8,
}

impl<'p, R: Recorder> Pipeline<'p, R> {
    pub(crate) fn tunnel_packet(&mut self, outer: Outer, frame: &mut Frame<'_>) -> Verdict {
        let (port, label_ttl) = match self.label(outer, frame) {
            Ok(found) => found,
            Err(reason) => return Verdict::Drop(reason),
        };
        frame.pull(LABEL_ENTRY);
        let packet = match read_inner(port, frame) {
            Ok(packet) => packet,
            Err(reason) => return Verdict::Drop(reason),
        };
        self.steps.note(|| format!("inside: {} to {}, {} octets", packet.src, packet.dst, packet.len));
        let verdict = self.deliver(port, &packet, (outer.tos, label_ttl), frame);
        verdict.unwrap_or_else(|refusal| self.refuse(Origin::Underlay(port), &packet, frame.bytes(), refusal))
    }

    /// The port that the label means, and the label's TTL.
    fn label(&mut self, outer: Outer, frame: &Frame<'_>) -> Result<(&'p Port, u8), DropReason> {
        if !self.fib.sources.contains(outer.src) {
            return Err(DropReason::UnknownSource);
        }
        let &[a, b, c, ttl] = frame.bytes().first_chunk().ok_or(DropReason::TruncatedLabel)?;
        let label = Label::from_nlri([a, b, c]);
        self.steps.note(|| format!("{} sends label {label} over {}, TTL {ttl}", outer.src, outer.encap));
        if c & 1 == 0 {
            return Err(DropReason::LabelStack);
        }
        if label.is_reserved() {
            return Err(DropReason::ReservedLabel);
        }
        if ttl == 0 {
            return Err(DropReason::LabelTtl);
        }
        let id = self.fib.ilm.lookup(label).ok_or(DropReason::UnknownLabel)?;
        self.steps.note(|| format!("label {label} means port {id}"));
        Ok((self.fib.port(id).ok_or(DropReason::UnknownPort)?, ttl))
    }

    fn deliver(
        &mut self,
        port: &'p Port,
        packet: &Packet,
        (outer_tos, label_ttl): (u8, u8),
        frame: &mut Frame<'_>,
    ) -> Result<Verdict, Refusal> {
        let ecn = rewrite::combined_ecn(packet.tos, outer_tos)?;
        // RFC 3443 §3: the smaller of the two is right whether the far side copied its TTL into the label or not.
        let ttl = packet.ttl.min(label_ttl);
        Refusal::unless_alive(ttl)?;
        self.fit_port(frame, packet, port)?;
        let packet = &mut packet.clone();
        let back = self.vrf_of(port, packet.dst);
        self.arrive(port, packet, frame)?;
        self.decrement(frame, packet, ttl);
        if ecn != packet.tos & 0b11 {
            self.steps.note(|| "the outer header's congestion mark is kept".into());
            rewrite::set_ecn(frame, packet, ecn);
        }
        if rewrite::is_syn(frame, packet) {
            let mtu = self.return_mtu(port, back, packet);
            self.clamp(frame, packet, mtu);
        }
        Ok(Verdict::ToPort(port.id))
    }

    /// What packets from the port back to this one's sender may have.
    fn return_mtu(&mut self, port: &'p Port, back_by: VrfId, packet: &Packet) -> u16 {
        let back = Packet { src: packet.dst, dst: packet.src, ..*packet };
        let flow = self.key().hash([0]);
        let way = self.fib.vrf(back_by).and_then(|vrf| self.way(vrf, &back, flow).ok());
        match way {
            Some(Way::Tunnel(tunnel, _)) => tunnel.mtu.min(port.mtu),
            _ => port.mtu,
        }
    }
}

/// Reads the inner packet, cuts padding, and checks that it is for the port.
fn read_inner(port: &Port, frame: &mut Frame<'_>) -> Result<Packet, DropReason> {
    let packet = Packet::parse(frame.bytes())?;
    frame.truncate(packet.len);
    rewrite::check_offload(frame, &packet)?;
    if !port.has(packet.dst) && port.floating(packet.dst).is_none() {
        return Err(DropReason::WrongDestination);
    }
    check_destination(packet.dst)?;
    if !icmp::is_host(packet.src) {
        return Err(DropReason::MartianSource);
    }
    if is_link_local(packet.src) && !is_error_of_router(&packet, frame.bytes()) {
        return Err(DropReason::LinkLocal);
    }
    Ok(packet)
}

/// Whoever has a prefix does not have all that is in it: a workload may have the default route.
fn check_destination(dst: IpAddr) -> Result<(), DropReason> {
    match dst {
        _ if icmp::is_host(dst) && !is_link_local(dst) => Ok(()),
        _ if dst.is_multicast() => Err(DropReason::Multicast),
        _ if icmp::is_group(dst) => Err(DropReason::Broadcast),
        _ if is_link_local(dst) => Err(DropReason::LinkLocal),
        _ => Err(DropReason::MartianDestination),
    }
}

/// Routers at the far end report errors from 169.254.1.1, as we do. Nothing else of a link leaves it (RFC 3927 §7): what
/// says that it comes from there would pass for the workload's own router, or for a service of this node.
fn is_error_of_router(packet: &Packet, bytes: &[u8]) -> bool {
    packet.is_v4() && packet.icmp(bytes).is_some_and(|message| matches!(message.first(), Some(3 | 11 | 12)))
}
