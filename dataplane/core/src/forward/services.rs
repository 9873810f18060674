//! What a workload asks of us instead of others: an address, a router.

use std::net::{IpAddr, Ipv4Addr};

use vrouter_types::MacAddr;

use super::{Pipeline, Refusal};
use crate::fib::{Gateway, Lease, Port, Services, Vrf};
use crate::frame::Frame;
use crate::limiter::Answer;
use crate::packet::{Fragment, Packet, UDP};
use crate::reply::{Ends, dhcp4, dhcp6, nd, router, write};
use crate::state::{ReplyBuffer, Service};
use crate::trace::Recorder;
use crate::verdict::{DropReason, ReplyTo, Verdict};

/// Whom a port's DHCP messages and router solicitations are answered from.
#[derive(Debug, Clone, Copy)]
pub(super) struct Served<'f> {
    port: &'f Port,
    services: &'f Services,
    lease: &'f Lease,
}

impl<'f> Served<'f> {
    /// `None`: the port's addresses are configured, not leased.
    pub(super) fn of(port: &'f Port) -> Option<Served<'f>> {
        let services = port.services.as_deref()?;
        Some(Served { port, services, lease: services.lease.as_ref()? })
    }

    fn all(self) -> (&'f Port, &'f Services, &'f Lease) {
        (self.port, self.services, self.lease)
    }

    /// Whether this is a DHCP message of a client for a server on its link. Those for servers elsewhere are packets
    /// like others.
    pub(super) fn is_asked(self, gateway: &Gateway, packet: &Packet, bytes: &[u8]) -> bool {
        let ports = if packet.protocol == UDP { packet.ports(bytes) } else { None };
        match (packet.dst, ports) {
            (IpAddr::V4(dst), Some((_, dhcp4::SERVER_PORT))) => {
                dst == Ipv4Addr::BROADCAST || dst == gateway.v4 || self.services.is_gateway(dst.into())
            }
            (IpAddr::V6(dst), Some((_, dhcp6::SERVER_PORT))) => dst == dhcp6::SERVERS || dst == gateway.v6,
            _ => false,
        }
    }
}

/// Whether a port knows its router by this address. Where a workload has the address itself, it is the router.
pub(super) fn is_gateway(port: &Port, vrf: &Vrf, addr: IpAddr) -> bool {
    let known = port.services.as_ref().is_some_and(|services| services.is_gateway(addr));
    known && !vrf.routes.lookup_prefix(addr).is_some_and(|(prefix, _)| prefix.is_host())
}

/// Whether this neighbour discovery message is a router solicitation.
pub(super) fn seeks_router(packet: &Packet, bytes: &[u8]) -> bool {
    packet.icmp(bytes).and_then(|message| message.first()) == Some(&nd::ROUTER_SOLICITATION)
}

impl<R: Recorder> Pipeline<'_, R> {
    /// Answers a DHCP message.
    pub(super) fn dhcp(
        &mut self,
        served: Served<'_>,
        packet: &Packet,
        mac: MacAddr,
        frame: &Frame<'_>,
    ) -> Result<Verdict, Refusal> {
        let checked = frame.vnet().needs_csum || frame.vnet().data_valid;
        let ends = Ends::new(packet.src, packet.dst).ok_or(DropReason::DhcpMalformed)?;
        if packet.fragment != Fragment::Whole {
            return Err(DropReason::DhcpMalformed.into());
        }
        let message = write::payload(ends, packet.transport(frame.bytes()), checked);
        let message = message.ok_or(DropReason::DhcpMalformed)?;
        match packet.src {
            IpAddr::V4(src) => {
                self.dhcp4(served, src, message)?;
                self.state.reply.serve(Service::Dhcp);
            }
            IpAddr::V6(_) => {
                self.dhcp6(served, packet, mac, message)?;
                self.state.reply.serve(Service::Dhcp6);
            }
        }
        Ok(Verdict::Reply(ReplyTo::Port(served.port.id)))
    }

    fn dhcp4(&mut self, served: Served<'_>, src: Ipv4Addr, message: &[u8]) -> Result<(), Refusal> {
        let question = dhcp4::parse(served.port, message)?;
        // A client whose address has changed asks once more with the old one, and must hear that it is no more.
        if !src.is_unspecified() && src != question.held() && !served.port.has(src.into()) {
            return Err(DropReason::SpoofedSource.into());
        }
        self.may_serve(served.port)?;
        let answer = dhcp4::decide(&self.fib.gateway, served.port, served.services, &question)?;
        self.steps.note(|| format!("DHCP is answered: {answer:?}"));
        dhcp4::answer(&mut self.state.reply, &self.fib.gateway, served.all(), &question, answer)
            .ok_or_else(|| DropReason::DhcpMalformed.into())
    }

    fn dhcp6(
        &mut self,
        served: Served<'_>,
        packet: &Packet,
        mac: MacAddr,
        message: &[u8],
    ) -> Result<(), Refusal> {
        let IpAddr::V6(client) = packet.src else { return Err(DropReason::DhcpMalformed.into()) };
        let question = dhcp6::parse(message)?;
        if !client.is_unicast_link_local() && !served.port.has(packet.src) {
            return Err(DropReason::SpoofedSource.into());
        }
        if !packet.dst.is_multicast() {
            return Err(DropReason::DhcpIgnored.into());
        }
        self.may_serve(served.port)?;
        let answer = dhcp6::decide(&self.fib.gateway, served.port, &question)?;
        self.steps.note(|| format!("DHCPv6 is answered: {answer:?}"));
        let to = (client, mac);
        dhcp6::answer(&mut self.state.reply, &self.fib.gateway, served.all(), to, &question, answer)
            .ok_or_else(|| DropReason::DhcpMalformed.into())
    }

    /// Answers a router solicitation.
    pub(super) fn router(
        &mut self,
        served: Served<'_>,
        packet: &Packet,
        mac: MacAddr,
        bytes: &[u8],
    ) -> Result<Verdict, Refusal> {
        let asker = router::parse(served.port, mac, packet, bytes)?;
        self.may_serve(served.port)?;
        self.steps.note(|| "we are its router".into());
        router::advertise(&mut self.state.reply, &self.fib.gateway, served.all(), (asker, mac))
            .ok_or(DropReason::MalformedNd)?;
        self.state.reply.serve(Service::RouterAdvertisement);
        Ok(Verdict::Reply(ReplyTo::Port(served.port.id)))
    }

    fn may_serve(&mut self, port: &Port) -> Result<(), Refusal> {
        let allowed = self.state.limiter.allow(Answer::Service, port.id, self.state.now_ms);
        if allowed { Ok(()) } else { Err(DropReason::ReplyLimited.into()) }
    }
}

/// A router advertisement that nobody asked for, an Ethernet frame for the port; `None` where the port is not told of
/// routers, or has no IPv6 address. It allocates: it is control that sends it, now and then.
pub fn unsolicited_advertisement(gateway: &Gateway, port: &Port) -> Option<Vec<u8>> {
    let served = Served::of(port)?;
    port.addresses.iter().find(|addr| addr.is_ipv6())?;
    let mut reply = ReplyBuffer::new();
    let to = (router::ALL_NODES, router::ALL_NODES_MAC);
    router::advertise(&mut reply, gateway, served.all(), to)?;
    Some(reply.bytes().to_vec())
}
