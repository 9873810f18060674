//! Packets that leave with another address than their workload's, and those that come back.
//!
//! ```text
//!  the VRF has a route ─────────────────────────▶ as it is
//!  no route, the source has a floating address ─▶ source: the floating address; then the routes of its VRF
//!  no route, VRF with snat ─────────────────────▶ source: the port's service address; to the host, which masquerades
//!  metadata, DNS ───────────────────────────────▶ source: the port's service address; to the agent's own ports
//! ```

use std::net::IpAddr;

use super::translate::{End, NewEnd, translate};
use super::{Pipeline, Refusal, Way, is_link_local};
use crate::fib::{Port, Vrf};
use crate::flow::FlowHash;
use crate::flow_table::{Class, Direction, Flow, Seen, Translation, classify};
use crate::frame::Frame;
use crate::nat::{METADATA_V4, METADATA_V6, StaticNat, is_service_address, service_address, service_port};
use crate::packet::{Fragment, Packet, TCP, UDP};
use crate::reply::ETHERNET_HEADER;
use crate::state::ReplyBuffer;
use crate::trace::Recorder;
use crate::verdict::{DropReason, Verdict};
use crate::vnet::VnetHeader;

const DNS_PORT: u16 = 53;
const METADATA_PORT: u16 = 80;

/// How a packet leaves its port.
enum Leave<'f> {
    By(Way<'f>),
    Floating(&'f StaticNat),
    Node,
}

impl Port {
    /// Whether its packets need the flow table.
    pub fn is_stateful(&self) -> bool {
        self.policy.is_some() || !self.nat.is_empty()
    }

    /// The floating address of one of its own addresses, or what this floating address of its stands for.
    pub(crate) fn floating(&self, address: IpAddr) -> Option<&StaticNat> {
        self.nat.iter().find(|nat| nat.floating == address)
    }
}

impl<'p, R: Recorder> Pipeline<'p, R> {
    /// Sends a packet from a workload where it belongs.
    pub(super) fn route_from_port(
        &mut self,
        (port, vrf): (&'p Port, &'p Vrf),
        packet: &Packet,
        hash: FlowHash,
        frame: &mut Frame<'_>,
    ) -> Result<Verdict, Refusal> {
        if !port.is_stateful()
            && let Leave::By(way) = self.leave(port, vrf, packet, hash)?
        {
            return self.send((port, vrf), way, packet, None, frame);
        }
        let flow = self.flow_of(port, Direction::Out, (packet, frame.bytes()), |pipeline| {
            pipeline.translation(port, vrf, packet, hash)
        })?;
        let translation = match &flow {
            Some(flow) => flow.translation,
            None => match self.leave(port, vrf, packet, hash)? {
                Leave::By(_) => Translation::None,
                Leave::Floating(nat) => Translation::Floating(nat.floating, nat.vrf),
                Leave::Node if matches!(packet.fragment, Fragment::Later(_)) => {
                    return Err(DropReason::FlowFragment.into());
                }
                Leave::Node => return Err(DropReason::NotTranslatable.into()),
            },
        };
        match translation {
            Translation::None => {
                let way = self.way(vrf, packet, hash)?;
                self.send((port, vrf), way, packet, None, frame)
            }
            Translation::Floating(address, vrf) => {
                let vrf = self.fib.vrf(vrf).ok_or(DropReason::UnknownVrf)?;
                self.steps.note(|| format!("{address} of VRF {} stands for {}", vrf.name, packet.src));
                let seen = Packet { src: address, ..*packet };
                let way = self.way(vrf, &seen, hash)?;
                let source = NewEnd { end: End::Source, address, port: None };
                self.send((port, vrf), way, packet, Some(source), frame)
            }
            Translation::Node(address, number) => {
                self.steps.note(|| {
                    format!("VRF {} has no route: to the host as {address}, for the node's address", vrf.name)
                });
                let source = NewEnd { end: End::Source, address, port: Some(number) };
                let mut packet = *packet;
                translate(frame, &mut packet, source);
                Ok(Verdict::ToHost)
            }
            Translation::Metadata(..) | Translation::Dns(..) => Err(DropReason::FlowClash.into()),
        }
    }

    /// What others are to see of a new flow.
    fn translation(
        &mut self,
        port: &'p Port,
        vrf: &'p Vrf,
        packet: &Packet,
        hash: FlowHash,
    ) -> Result<Translation, Refusal> {
        Ok(match self.leave(port, vrf, packet, hash)? {
            Leave::By(_) => Translation::None,
            Leave::Floating(nat) => Translation::Floating(nat.floating, nat.vrf),
            Leave::Node => {
                let address = service_address(port.id, packet.is_v4()).ok_or(DropReason::SnatExhausted)?;
                Translation::Node(address, 0)
            }
        })
    }

    fn leave(
        &mut self,
        port: &'p Port,
        vrf: &'p Vrf,
        packet: &Packet,
        hash: FlowHash,
    ) -> Result<Leave<'p>, Refusal> {
        let snat = vrf.snat.is_some_and(|snat| snat.covers(packet.dst));
        let refusal = match self.way(vrf, packet, hash) {
            // The host knows somebody else by that address, but nobody else by the one that stands for the port.
            Ok(Way::Host) if snat && vrf.host_open && self.fib.host.lookup(packet.src) != Some(port.id) => {
                return Ok(Leave::Node);
            }
            Ok(way) => return Ok(Leave::By(way)),
            Err(refusal) if refusal == Refusal::NO_ROUTE => refusal,
            Err(refusal) => return Err(refusal),
        };
        if let Some(nat) = port.nat.iter().find(|nat| nat.fixed == packet.src) {
            return Ok(Leave::Floating(nat));
        }
        if !snat {
            return Err(refusal);
        }
        // What is link-local to the node is none of a workload's business: clouds hand out the node's keys there.
        if is_link_local(packet.dst) || is_service_address(packet.dst) {
            return Err(DropReason::LinkLocal.into());
        }
        Ok(Leave::Node)
    }

    /// Metadata and DNS of the agent, where the port is served. `None`: the packet asks for neither.
    pub(super) fn ask_service(
        &mut self,
        port: &'p Port,
        packet: &Packet,
        is_gateway: bool,
        frame: &mut Frame<'_>,
    ) -> Option<Result<Verdict, Refusal>> {
        let services = port.services.as_ref()?;
        let (_, dst_port) = packet.ports(frame.bytes())?;
        let v4 = packet.is_v4();
        let gateway: IpAddr = if v4 { self.fib.gateway.v4.into() } else { self.fib.gateway.v6.into() };
        let metadata = packet.dst == IpAddr::from(METADATA_V4) || packet.dst == IpAddr::from(METADATA_V6);
        let targets = self.fib.services;
        let address = service_address(port.id, v4)?;
        let (target, translation) = match (packet.protocol, dst_port) {
            (TCP, METADATA_PORT) if metadata && services.metadata => {
                (targets.metadata, Translation::Metadata(address, 0))
            }
            (TCP | UDP, DNS_PORT) if is_gateway && services.dns => {
                (targets.dns, Translation::Dns(address, 0))
            }
            _ => return None,
        };
        if target == 0 {
            return None;
        }
        Some(self.pass_to_service(port, packet, translation, (gateway, target), frame))
    }

    fn pass_to_service(
        &mut self,
        port: &'p Port,
        packet: &Packet,
        translation: Translation,
        (gateway, target): (IpAddr, u16),
        frame: &mut Frame<'_>,
    ) -> Result<Verdict, Refusal> {
        let now_ms = self.state.now_ms;
        if packet.fragment != Fragment::Whole {
            return Err(DropReason::GatewayFragment.into());
        }
        let Class::Flow { tuple, flags, .. } = classify(port.id, Direction::Out, packet, frame.bytes())
        else {
            return Err(DropReason::NotTranslatable.into());
        };
        let flow = match self.state.flow_table.find(&tuple, now_ms) {
            Some(flow) => {
                let seen = Seen { sender: Direction::Out.sender(flow.begun), flags };
                self.state.flow_table.note(&flow, seen, now_ms);
                flow
            }
            None => {
                let translation = (translation, Some((gateway, target)));
                self.begin(port, Direction::Out, tuple, flags, translation)?
            }
        };
        let (Translation::Metadata(address, number) | Translation::Dns(address, number)) = flow.translation
        else {
            return Err(DropReason::FlowClash.into());
        };
        self.steps.note(|| format!("the agent serves it at {gateway} port {target}, as of {address}"));
        let mut packet = *packet;
        translate(frame, &mut packet, NewEnd { end: End::Source, address, port: Some(number) });
        translate(frame, &mut packet, NewEnd { end: End::Destination, address: gateway, port: Some(target) });
        Ok(Verdict::ToHost)
    }

    /// A packet from the host for an address that stands for a port.
    pub(super) fn host_to_service(
        &mut self,
        packet: &Packet,
        frame: &mut Frame<'_>,
    ) -> Result<Verdict, Refusal> {
        let port = service_port(packet.dst).and_then(|id| self.fib.port(id)).ok_or(DropReason::HostNoPort)?;
        let (flow, is_error) = self.flow_from_host(port, packet, frame.bytes())?;
        if let Err(refusal) = self.check_again(port, Direction::In, &flow) {
            self.state.refused_by = Some(port.id);
            return Err(refusal);
        }
        self.fit_port(frame, packet, port)?;
        let mut packet = *packet;
        let tuple = flow.tuple;
        let local = NewEnd { end: End::Destination, address: tuple.local, port: Some(tuple.local_port) };
        translate(frame, &mut packet, local);
        let served = matches!(flow.translation, Translation::Metadata(..) | Translation::Dns(..));
        // Errors of others come from where they come; those of the service itself from where it was asked.
        if served && (!is_error || self.fib.gateway.has(packet.src)) {
            let asked = NewEnd { end: End::Source, address: tuple.remote, port: Some(tuple.remote_port) };
            translate(frame, &mut packet, asked);
        }
        self.steps.note(|| format!("it belongs to a flow of {}, port {}", tuple.local, port.id));
        self.clamp(frame, &packet, port.mtu);
        Ok(Verdict::ToPort(port.id))
    }

    /// The flow of which the host saw the other side, and whether the packet is an error about it.
    fn flow_from_host(
        &mut self,
        port: &'p Port,
        packet: &Packet,
        bytes: &[u8],
    ) -> Result<(Flow, bool), Refusal> {
        let now_ms = self.state.now_ms;
        let table = &self.state.flow_table;
        let (flow, seen) = match classify(port.id, Direction::In, packet, bytes) {
            Class::Flow { tuple, flags, .. } => (table.find_alias(&tuple, now_ms), Some(flags)),
            Class::Error(about) => (table.find_alias(&about, now_ms), None),
            Class::Later(datagram) => {
                let flow = table.find_fragment(&datagram, now_ms).ok_or(DropReason::HostFragment)?;
                (Some(flow), None)
            }
            Class::Alone => (None, None),
        };
        let is_error = seen.is_none() && !matches!(packet.fragment, Fragment::Later(_));
        let flow =
            flow.filter(|flow| self.is_translation_valid(port, flow)).ok_or(DropReason::HostUnasked)?;
        if let Some(flags) = seen {
            let seen = Seen { sender: Direction::In.sender(flow.begun), flags };
            self.state.flow_table.note(&flow, seen, now_ms);
            self.expect_fragments(port, packet, &flow)?;
        }
        Ok((flow, is_error))
    }

    /// The last steps before a packet reaches a port with state: the address that it was sent to may stand for another,
    /// and its flow must be allowed.
    pub(super) fn arrive(
        &mut self,
        to: &'p Port,
        packet: &mut Packet,
        frame: &mut Frame<'_>,
    ) -> Result<(), Refusal> {
        if !to.is_stateful() {
            return Ok(());
        }
        let arrived = self.let_in(to, packet, frame);
        if arrived.is_err() {
            self.state.refused_by = Some(to.id);
        }
        arrived
    }

    fn let_in(&mut self, to: &'p Port, packet: &mut Packet, frame: &mut Frame<'_>) -> Result<(), Refusal> {
        let mut arrived = Translation::None;
        if let Some(nat) = to.floating(packet.dst) {
            arrived = Translation::Floating(nat.floating, nat.vrf);
            self.steps.note(|| format!("{} stands for {} of port {}", nat.floating, nat.fixed, to.id));
            translate(frame, packet, NewEnd { end: End::Destination, address: nat.fixed, port: None });
        }
        let flow = self.flow_of(to, Direction::In, (packet, frame.bytes()), |_| Ok(arrived))?;
        match flow {
            // Two other ends with the same address and port, in two VRFs.
            Some(flow) if flow.translation != arrived => Err(DropReason::FlowClash.into()),
            _ => Ok(()),
        }
    }
}

/// An error about a packet that had left with a floating address already, as its sender knows the packet.
pub(super) fn in_own_words(reply: &mut ReplyBuffer, port: &Port, about: &Packet) {
    let Some(nat) = port.floating(about.src) else { return };
    let Some(bytes) = reply.bytes_mut().get_mut(ETHERNET_HEADER..) else { return };
    let mut frame = Frame::new(bytes, VnetHeader::NONE);
    if let Ok(mut error) = Packet::parse(frame.bytes()) {
        translate(&mut frame, &mut error, NewEnd { end: End::Destination, address: nat.fixed, port: None });
    }
}
