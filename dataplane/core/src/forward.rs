//! The pipeline: three ways in, one verdict out.
//!
//! Each way in is a function from bytes to `Result<Verdict, Refusal>`; a refusal becomes a drop or, where the sender
//! ought to know, an ICMP error that goes back the way the packet came.

mod host;
mod jumbo;
mod outside;
mod port;
mod rewrite;
mod services;
mod tracking;
mod translate;
mod underlay;

pub use services::unsolicited_advertisement;
pub use underlay::Outer;

use std::net::IpAddr;

use vrouter_types::{PortId, VrfId};

use crate::fib::{Fib, Hop, Port, Route, Tunnel, Vrf};
use crate::flow::{FlowHash, FlowKey};
use crate::flow_cache::{Key, Place};
use crate::frame::Frame;
use crate::limiter::Answer;
use crate::packet::Packet;
use crate::reply::icmp::{self, Error};
use crate::state::State;
use crate::trace::{Recorder, Silent};
use crate::verdict::{DropReason, Push, ReplyTo, Verdict};
use crate::vnet::Gso;

/// The part of a TOS or traffic class that is not DSCP (RFC 3168 §5).
const ECN: u8 = 0b11;

/// What becomes of an Ethernet frame from a workload.
pub fn from_port(fib: &Fib, state: &mut State, port: PortId, frame: &mut Frame<'_>) -> Verdict {
    Pipeline { fib, state, steps: &mut Silent }.port_frame(port, frame)
}

/// What becomes of a tunnel's packet, which begins at its label.
pub fn from_underlay(fib: &Fib, state: &mut State, outer: Outer, frame: &mut Frame<'_>) -> Verdict {
    Pipeline { fib, state, steps: &mut Silent }.tunnel_packet(outer, frame)
}

/// What becomes of an IP packet from the host.
pub fn from_host(fib: &Fib, state: &mut State, frame: &mut Frame<'_>) -> Verdict {
    Pipeline { fib, state, steps: &mut Silent }.host_packet(frame)
}

/// What becomes of a packet that a port sent ([`Verdict::ToUnderlay`]) when the path turns out to take only `mtu`
/// octets, which the snapshot does not know: its sender hears of it. `frame` is as that verdict left it.
pub fn too_big(fib: &Fib, state: &mut State, port: PortId, frame: &Frame<'_>, mtu: u16) -> Verdict {
    let Some(port) = fib.port(port) else { return Verdict::Drop(DropReason::UnknownPort) };
    match Packet::parse(frame.bytes()) {
        Ok(packet) => {
            let refusal = Refusal::too_big(room(packet.is_v4(), mtu));
            let mut pipeline = Pipeline { fib, state, steps: &mut Silent };
            let verdict = pipeline.refuse(Origin::Port(port), &packet, frame.bytes(), refusal);
            outside::in_own_words(&mut state.reply, port, &packet);
            verdict
        }
        Err(reason) => Verdict::Drop(reason),
    }
}

/// One packet on its way. `steps` hears what happens, and compiles to nothing where nobody listens.
pub(crate) struct Pipeline<'p, R> {
    pub(crate) fib: &'p Fib,
    pub(crate) state: &'p mut State,
    pub(crate) steps: &'p mut R,
}

/// Why a packet does not go on, and what its sender should hear.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Refusal {
    reason: DropReason,
    error: Option<Error>,
}

impl From<DropReason> for Refusal {
    fn from(reason: DropReason) -> Refusal {
        Refusal { reason, error: None }
    }
}

impl Refusal {
    const NO_ROUTE: Refusal = Refusal { reason: DropReason::NoRoute, error: Some(Error::NetUnreachable) };
    const TTL_EXCEEDED: Refusal =
        Refusal { reason: DropReason::TtlExceeded, error: Some(Error::TimeExceeded) };

    /// RFC 1812 §5.3.1: a packet whose TTL would become zero goes no further.
    fn unless_alive(ttl: u8) -> Result<(), Refusal> {
        if ttl > 1 { Ok(()) } else { Err(Refusal::TTL_EXCEEDED) }
    }

    fn too_big(mtu: u16) -> Refusal {
        Refusal { reason: DropReason::TooBig, error: Some(Error::TooBig(mtu)) }
    }
}

/// Where a packet came from, which is where an error about it goes.
#[derive(Debug, Clone, Copy)]
enum Origin<'f> {
    /// Straight back to the workload.
    Port(&'f Port),
    /// By the routes of the VRF of the port that the packet was for.
    Underlay(&'f Port),
    /// To the host; the packet was for this port, if for any.
    Host(Option<&'f Port>),
}

/// Where a route leads, with the references resolved.
enum Way<'f> {
    Port(&'f Port),
    Tunnel(&'f Tunnel, Push),
    Host,
}

impl<'p, R: Recorder> Pipeline<'p, R> {
    /// The way of a destination.
    fn way(&mut self, vrf: &'p Vrf, packet: &Packet, flow: FlowHash) -> Result<Way<'p>, Refusal> {
        let key = Key { generation: self.fib.generation, vrf: vrf.id, dst: packet.dst, flow };
        let place = match self.state.flows.get(&key) {
            Some(place) => place,
            None => {
                let place = self.place(vrf, packet.dst, flow)?;
                self.state.flows.insert(key, place);
                place
            }
        };
        match place {
            Place::Host => Ok(Way::Host),
            Place::Port(id) => Ok(Way::Port(self.fib.port(id).ok_or(DropReason::UnknownPort)?)),
            Place::Tunnel(Hop { tunnel: id, label }) => {
                let tunnel = self.fib.tunnel(id).ok_or(DropReason::NoTunnel)?;
                let mtu = room(packet.is_v4(), tunnel.mtu);
                let tos = vrf.dscp.map_or(packet.tos, |dscp| dscp << 2 | packet.tos & ECN);
                let (ttl, entropy) = (packet.ttl, flow.entropy());
                let push = Push { tunnel: id, label, ttl, tos, entropy, mtu, fragment: false };
                Ok(Way::Tunnel(tunnel, push))
            }
        }
    }

    /// Where the routes lead a flow.
    fn place(&mut self, vrf: &'p Vrf, dst: IpAddr, flow: FlowHash) -> Result<Place, Refusal> {
        let Some(route) = vrf.routes.lookup(dst) else {
            self.steps.note(|| format!("VRF {} has no route to {dst}", vrf.name));
            return Err(Refusal::NO_ROUTE);
        };
        self.steps.note(|| describe_route(vrf, dst));
        match route {
            Route::Discard => Err(DropReason::DiscardRoute.into()),
            Route::Host => Ok(Place::Host),
            Route::Port(id) => Ok(Place::Port(*id)),
            // RFC 3927 §7: a router does not forward link-local addresses. The node's own are another matter.
            Route::Tunnel(_) if is_link_local(dst) => Err(DropReason::LinkLocal.into()),
            Route::Tunnel(hops) => {
                let (hop, tunnel) = self.key().choose(self.fib, hops, flow).ok_or(DropReason::NoTunnel)?;
                self.steps.note(|| {
                    let among = if hops.len() > 1 { "one flow's way" } else { "the way" };
                    format!("{among} is {} over {}, label {}", tunnel.remote, tunnel.encap, hop.label)
                });
                Ok(Place::Tunnel(hop))
            }
        }
    }

    /// Ends a packet that was read, but does not go on.
    fn refuse(&mut self, from: Origin<'p>, packet: &Packet, bytes: &[u8], refusal: Refusal) -> Verdict {
        let Refusal { reason, error: Some(error) } = refusal else { return Verdict::Drop(refusal.reason) };
        if !icmp::may_answer(packet, bytes) {
            self.steps.note(|| "no ICMP error is sent about such a packet".into());
            return Verdict::Drop(reason);
        }
        let port = match from {
            Origin::Port(port) | Origin::Underlay(port) | Origin::Host(Some(port)) => port.id,
            Origin::Host(None) => PortId(u32::MAX),
        };
        let answer = match from {
            Origin::Port(_) => Answer::Error,
            Origin::Underlay(_) | Origin::Host(_) => Answer::ErrorToOthers,
        };
        if !self.state.limiter.allow(answer, port, self.state.now_ms) {
            return Verdict::Drop(DropReason::ReplyLimited);
        }
        let written = match from {
            Origin::Port(port) => self.error_to_port(port, packet, bytes, (error, reason)),
            Origin::Host(_) => self.error_to_host(packet, bytes, (error, reason)),
            Origin::Underlay(port) => self.error_by_routes(port, packet, bytes, (error, reason)),
        };
        self.steps.note(|| format!("{} hears of it: {error}", packet.src));
        written.map_or(Verdict::Drop(reason), Verdict::Reply)
    }

    fn error_to_port(
        &mut self,
        port: &Port,
        packet: &Packet,
        bytes: &[u8],
        what: (Error, DropReason),
    ) -> Option<ReplyTo> {
        let gateway = &self.fib.gateway;
        let src = if packet.is_v4() { IpAddr::V4(gateway.v4) } else { IpAddr::V6(gateway.v6) };
        let to = icmp::ToPort { gateway, port };
        let room = room(packet.is_v4(), port.mtu);
        icmp::write_error(&mut self.state.reply, Some(to), src, (packet, bytes), what, room)?;
        Some(ReplyTo::Port(port.id))
    }

    /// The gateway's addresses are the host's own, which it would not believe: the error comes from where the
    /// packet was going.
    fn error_to_host(&mut self, packet: &Packet, bytes: &[u8], what: (Error, DropReason)) -> Option<ReplyTo> {
        icmp::write_error(&mut self.state.reply, None, packet.dst, (packet, bytes), what, u16::MAX)?;
        Some(ReplyTo::Host)
    }

    fn error_by_routes(
        &mut self,
        port: &'p Port,
        packet: &Packet,
        bytes: &[u8],
        what: (Error, DropReason),
    ) -> Option<ReplyTo> {
        // A link-local source does not get through a router (RFC 4291 §2.5.6), so the error about an IPv6 packet
        // comes from the address that the packet was for, as with an unnumbered interface (RFC 1812 §4.3.2.4).
        let src = if packet.is_v4() { IpAddr::V4(self.fib.gateway.v4) } else { packet.dst };
        let back = Packet { src, dst: packet.src, ..*packet };
        let [s, d] = [src, packet.src].map(crate::flow::words);
        let flow = self.key().hash([s[0], s[1], d[0], d[1]]);
        match self.way(self.fib.vrf(self.vrf_of(port, packet.dst))?, &back, flow).ok()? {
            Way::Port(to) => self.error_to_port(to, packet, bytes, what),
            // It came through a tunnel in the host's name. The host would believe what tenants tell it of its own paths.
            Way::Host => None,
            Way::Tunnel(_, push) => {
                icmp::write_error(&mut self.state.reply, None, src, (packet, bytes), what, push.mtu)?;
                let tos = icmp::error_tos(packet.is_v4());
                Some(ReplyTo::Underlay(Push { ttl: crate::reply::REPLY_TTL, tos, ..push }))
            }
        }
    }

    /// The VRF that a packet to this address of the port came from: that of a floating address, or the port's own.
    fn vrf_of(&self, port: &Port, address: IpAddr) -> VrfId {
        port.floating(address).map_or(port.vrf, |nat| nat.vrf)
    }

    /// Takes one from the TTL, which is more than one.
    fn decrement(&mut self, frame: &mut Frame<'_>, packet: &Packet, ttl: u8) -> u8 {
        let left = ttl.saturating_sub(1);
        self.steps.note(|| format!("TTL {ttl} becomes {left}"));
        rewrite::set_ttl(frame, packet, left);
        left
    }

    /// Whether the packet, or what it may be cut into, fits a way that takes packets of `mtu` octets.
    fn fit(&mut self, frame: &Frame<'_>, packet: &Packet, mtu: u16) -> Result<(), Refusal> {
        let len = rewrite::packet_len(frame, packet);
        if len <= usize::from(mtu) {
            self.steps.note(|| format!("{len} octets fit the {mtu} that the way ahead takes"));
            return Ok(());
        }
        match frame.vnet().gso {
            // A superframe is cut anew: its segments become what fits.
            Gso::TcpV4 | Gso::TcpV6 => Ok(()),
            Gso::None | Gso::UdpL4 if rewrite::may_fragment(frame, packet) => {
                self.steps.note(|| format!("{len} octets are cut into fragments of at most {mtu}"));
                Ok(())
            }
            Gso::None | Gso::UdpL4 => {
                self.steps.note(|| format!("{len} octets do not fit the {mtu} that the way ahead takes"));
                Err(Refusal::too_big(mtu))
            }
        }
    }

    /// The last steps towards a port: its MTU. The packet's octets change only after this.
    fn fit_port(&mut self, frame: &mut Frame<'_>, packet: &Packet, to: &Port) -> Result<(), Refusal> {
        let mtu = room(packet.is_v4(), to.mtu);
        self.fit(frame, packet, mtu)?;
        let is_stream = matches!(frame.vnet().gso, Gso::TcpV4 | Gso::TcpV6);
        if is_stream
            && rewrite::packet_len(frame, packet) > usize::from(mtu)
            && !rewrite::reslice(frame, packet, mtu)
        {
            return Err(Refusal::too_big(mtu));
        }
        Ok(())
    }

    /// Lowers a SYN's MSS.
    fn clamp(&mut self, frame: &mut Frame<'_>, packet: &Packet, mtu: u16) {
        if let Some(mss) = rewrite::clamp_mss(frame, packet, mtu) {
            self.steps.note(|| format!("the SYN's MSS becomes {mss}"));
        }
    }

    fn key(&self) -> FlowKey {
        self.state.host_flows.key()
    }
}

/// What a way takes. IPv6 counts on 1280 octets everywhere (RFC 8200 §5): a tunnel that takes less has its outer
/// packets fragmented by the kernel.
fn room(v4: bool, mtu: u16) -> u16 {
    if v4 { mtu } else { mtu.max(1280) }
}

fn is_link_local(addr: IpAddr) -> bool {
    match addr {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    }
}

fn describe_route(vrf: &Vrf, dst: IpAddr) -> String {
    let Some((prefix, route)) = vrf.routes.lookup_prefix(dst) else { return String::new() };
    let leads = match route {
        Route::Port(port) => format!("leads to port {port}"),
        Route::Host => "leads to the host".into(),
        Route::Discard => "says to discard".into(),
        Route::Tunnel(hops) => match hops.len() {
            1 => "leads through a tunnel".into(),
            n => format!("leads through {n} tunnels of equal cost"),
        },
    };
    format!("route {prefix} of VRF {} {leads}", vrf.name)
}
