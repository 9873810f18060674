//! From a workload: Ethernet, ARP and neighbour discovery, the source check, then the VRF's routes.

use std::net::IpAddr;

use vrouter_types::{MacAddr, PortId};

use super::services::{self, Served};
use super::translate::{NewEnd, translate};
use super::{ECN, Origin, Pipeline, Refusal, Way, is_link_local, jumbo, rewrite};
use crate::fib::{Gateway, Port, Vrf};
use crate::frame::Frame;
use crate::learned::{self, Learned};
use crate::limiter::Answer;
use crate::nat::is_service_address;
use crate::packet::{Fragment, ICMP, ICMPV6, Packet, UDP};
use crate::reply::{
    ETHERNET_HEADER, ETHERTYPE_ARP, ETHERTYPE_IPV4, ETHERTYPE_IPV6, Ends, arp, icmp, icmp_checksum_is_right,
    nd,
};
use crate::trace::Recorder;
use crate::verdict::{DropReason, Push, ReplyTo, Verdict};

/// VLAN and service VLAN tags, and the old one (IEEE 802.1Q, 802.1ad).
const ETHERTYPE_VLANS: [u16; 3] = [0x8100, 0x88a8, 0x9100];
const DHCP_PORTS: [u16; 4] = [67, 68, 546, 547];

impl<'p, R: Recorder> Pipeline<'p, R> {
    pub(crate) fn port_frame(&mut self, id: PortId, frame: &mut Frame<'_>) -> Verdict {
        let Some(port) = self.fib.port(id) else { return Verdict::Drop(DropReason::UnknownPort) };
        let Some(vrf) = self.fib.vrf(port.vrf) else { return Verdict::Drop(DropReason::UnknownVrf) };
        let Link { ethertype, src, dst } = match read_ethernet(port, frame) {
            Ok(link) => link,
            Err(reason) => {
                if let Some(mac) = learned::of_rarp(reason, port, frame.bytes()) {
                    port.addresses.iter().for_each(|address| self.learn(id, Some((*address, mac))));
                }
                return Verdict::Drop(reason);
            }
        };
        frame.pull(ETHERNET_HEADER);
        if ethertype == ETHERTYPE_ARP {
            return self.arp(port, frame.bytes());
        }
        let packet = match read_ip(ethertype, frame) {
            Ok(packet) => packet,
            Err(reason) => return Verdict::Drop(reason),
        };
        self.steps.note(|| {
            let (len, ttl) = (packet.len, packet.ttl);
            format!(
                "port {id} of VRF {} sends {} to {}: {len} octets, TTL {ttl}",
                vrf.name, packet.src, packet.dst
            )
        });
        let verdict = self.ip_from_port((port, vrf), &packet, (src, dst), frame);
        verdict.unwrap_or_else(|refusal| self.refuse(Origin::Port(port), &packet, frame.bytes(), refusal))
    }

    fn arp(&mut self, port: &Port, bytes: &[u8]) -> Verdict {
        let question = match arp::parse(port, bytes) {
            Ok(question) => question,
            Err(reason) => {
                self.learn(port.id, learned::of_arp(reason, bytes));
                return Verdict::Drop(reason);
            }
        };
        if !self.state.limiter.allow(Answer::Neighbor, port.id, self.state.now_ms) {
            return Verdict::Drop(DropReason::ReplyLimited);
        }
        self.steps.note(|| format!("{} is at the gateway's MAC", question.target));
        match arp::answer(&mut self.state.reply, &self.fib.gateway, question) {
            Some(()) => Verdict::Reply(ReplyTo::Port(port.id)),
            None => Verdict::Drop(DropReason::MalformedArp),
        }
    }

    /// Notes what a workload has shown to be its own.
    fn learn(&mut self, port: PortId, shown: Option<(IpAddr, MacAddr)>) {
        if let Some((address, mac)) = shown {
            self.steps.note(|| format!("control hears that {address} is here"));
            let state = &mut *self.state;
            state.learned.note(Learned { port, address, mac }, &mut state.limiter, state.now_ms);
        }
    }

    fn ip_from_port(
        &mut self,
        (port, vrf): (&'p Port, &'p Vrf),
        packet: &Packet,
        (src_mac, dst_mac): (MacAddr, MacAddr),
        frame: &mut Frame<'_>,
    ) -> Result<Verdict, Refusal> {
        if nd::is_nd(packet, frame.bytes()) {
            return self.neighbor(port, src_mac, packet, frame.bytes());
        }
        if let Some(served) = Served::of(port)
            && served.is_asked(&self.fib.gateway, packet, frame.bytes())
        {
            return self.dhcp(served, packet, src_mac, frame);
        }
        check_addresses(&self.fib.gateway, port, packet, (src_mac, dst_mac), frame.bytes())?;
        self.steps.note(|| format!("{} belongs to the port", packet.src));
        let to_gateway = self.fib.gateway.has(packet.dst) || services::is_gateway(port, vrf, packet.dst);
        if let Some(verdict) = self.ask_service(port, packet, to_gateway, frame) {
            return verdict;
        }
        let (state, bytes) = (&*self.state, frame.bytes());
        if state.host_flows.answers(port.id, packet, bytes, state.now_ms) {
            self.steps.note(|| "it answers a flow that the host began".into());
            return Ok(Verdict::ToHost);
        }
        if to_gateway {
            return self.ask_gateway(port, vrf, packet, frame);
        }
        if is_link_local(packet.src) || (!packet.is_v4() && is_link_local(packet.dst)) {
            return Err(DropReason::LinkLocal.into());
        }
        let flow = self.key().flow(packet, frame.bytes());
        self.route_from_port((port, vrf), packet, flow, frame)
    }

    /// Sends a packet from a workload its way, with another source where it has one.
    pub(super) fn send(
        &mut self,
        (port, vrf): (&'p Port, &'p Vrf),
        way: Way<'p>,
        packet: &Packet,
        source: Option<NewEnd>,
        frame: &mut Frame<'_>,
    ) -> Result<Verdict, Refusal> {
        match way {
            Way::Host if source.is_some() => Err(DropReason::HostClosed.into()),
            Way::Host => self.open_to_host(port, vrf, packet),
            Way::Port(to) => self.forward_to_port((port, to), packet, source, frame),
            Way::Tunnel(tunnel, push) => {
                let tos = port.dscp.map_or(push.tos, |dscp| dscp << 2 | push.tos & ECN);
                let mtu = tunnel.mtu.min(port.mtu);
                self.forward_to_tunnel(packet, mtu, Push { tos, ..push }, source, frame)
            }
        }
    }

    fn neighbor(
        &mut self,
        port: &Port,
        mac: MacAddr,
        packet: &Packet,
        bytes: &[u8],
    ) -> Result<Verdict, Refusal> {
        if let Some(served) = Served::of(port)
            && services::seeks_router(packet, bytes)
        {
            return self.router(served, packet, mac, bytes);
        }
        let question = match nd::parse(port, mac, packet, bytes) {
            Ok(question) => question,
            Err(reason) => {
                self.learn(port.id, learned::of_nd(reason, packet.transport(bytes), mac));
                return Err(reason.into());
            }
        };
        if !self.state.limiter.allow(Answer::Neighbor, port.id, self.state.now_ms) {
            return Err(DropReason::ReplyLimited.into());
        }
        self.steps.note(|| format!("{} is at the gateway's MAC", question.target));
        nd::answer(&mut self.state.reply, &self.fib.gateway, mac, question).ok_or(DropReason::MalformedNd)?;
        Ok(Verdict::Reply(ReplyTo::Port(port.id)))
    }

    /// The gateway's addresses are the host's, but the gateway answers pings itself: a workload may always ask
    /// whether its router is there.
    fn ask_gateway(
        &mut self,
        port: &Port,
        vrf: &Vrf,
        packet: &Packet,
        frame: &mut Frame<'_>,
    ) -> Result<Verdict, Refusal> {
        let icmp = packet.protocol == if packet.is_v4() { ICMP } else { ICMPV6 };
        if icmp && packet.fragment != Fragment::Whole {
            return Err(DropReason::GatewayFragment.into());
        }
        let request = match packet.icmp(frame.bytes()) {
            Some(message @ [8, 0, ..]) if packet.is_v4() => message,
            Some(message @ [128, 0, ..]) if !packet.is_v4() => message,
            _ if is_link_local(packet.src) => return Err(DropReason::LinkLocal.into()),
            // The host does not have the gateway addresses of subnets.
            _ if !self.fib.gateway.has(packet.dst) => return Err(DropReason::HostClosed.into()),
            _ => return self.open_to_host(port, vrf, packet),
        };
        let known_good = frame.vnet().needs_csum || frame.vnet().data_valid;
        let ends = Ends::new(packet.src, packet.dst).ok_or(DropReason::BadIpHeader)?;
        if !known_good && !icmp_checksum_is_right(ends, request) {
            return Err(DropReason::BadIcmpChecksum.into());
        }
        if !self.state.limiter.allow(Answer::Echo, port.id, self.state.now_ms) {
            return Err(DropReason::ReplyLimited.into());
        }
        self.steps.note(|| "the gateway answers the echo request".into());
        let to = icmp::ToPort { gateway: &self.fib.gateway, port };
        icmp::write_echo_reply(&mut self.state.reply, to, packet, request).ok_or(DropReason::BadIpLength)?;
        Ok(Verdict::Reply(ReplyTo::Port(port.id)))
    }

    fn open_to_host(&mut self, port: &Port, vrf: &Vrf, packet: &Packet) -> Result<Verdict, Refusal> {
        if !vrf.host_open {
            self.steps.note(|| format!("VRF {} does not let its workloads open flows to the host", vrf.name));
            let later = matches!(packet.fragment, Fragment::Later(_));
            return Err(if later { DropReason::HostFragment } else { DropReason::HostClosed }.into());
        }
        // The host's answer would go to the port that has the address in its eyes: to another tenant. By an address that
        // stands for a port the agent knows whom it serves.
        if self.fib.host.lookup(packet.src) != Some(port.id) || is_service_address(packet.src) {
            self.steps.note(|| format!("to the host, {} is not this port", packet.src));
            return Err(DropReason::HostAddressTaken.into());
        }
        self.steps.note(|| format!("VRF {} lets its workloads open flows to the host", vrf.name));
        Ok(Verdict::ToHost)
    }

    fn forward_to_port(
        &mut self,
        (from, to): (&Port, &'p Port),
        packet: &Packet,
        source: Option<NewEnd>,
        frame: &mut Frame<'_>,
    ) -> Result<Verdict, Refusal> {
        Refusal::unless_alive(packet.ttl)?;
        self.fit_port(frame, packet, to)?;
        // From here on nobody hears of what goes wrong: the packet is no longer what its sender sent.
        let mut packet = *packet;
        if let Some(source) = source {
            translate(frame, &mut packet, source);
        }
        self.arrive(to, &mut packet, frame)?;
        self.decrement(frame, &packet, packet.ttl);
        self.clamp(frame, &packet, from.mtu.min(to.mtu));
        Ok(Verdict::ToPort(to.id))
    }

    fn forward_to_tunnel(
        &mut self,
        packet: &Packet,
        mtu: u16,
        push: Push,
        source: Option<NewEnd>,
        frame: &mut Frame<'_>,
    ) -> Result<Verdict, Refusal> {
        Refusal::unless_alive(packet.ttl)?;
        self.fit(frame, packet, push.mtu)?;
        let fragment = rewrite::may_fragment(frame, packet);
        let ttl = self.decrement(frame, packet, packet.ttl);
        self.clamp(frame, packet, mtu);
        if let Some(source) = source {
            translate(frame, &mut packet.clone(), source);
        }
        Ok(Verdict::ToUnderlay(Push { ttl, fragment, ..push }))
    }
}

/// An Ethernet header that was checked.
struct Link {
    ethertype: u16,
    src: MacAddr,
    dst: MacAddr,
}

/// Reads and checks the Ethernet header.
fn read_ethernet(port: &Port, frame: &Frame<'_>) -> Result<Link, DropReason> {
    let header: &[u8; ETHERNET_HEADER] = frame.bytes().first_chunk().ok_or(DropReason::TruncatedEthernet)?;
    let [d0, d1, d2, d3, d4, d5, s0, s1, s2, s3, s4, s5, t0, t1] = *header;
    let (dst, src) = (MacAddr([d0, d1, d2, d3, d4, d5]), MacAddr([s0, s1, s2, s3, s4, s5]));
    let ethertype = u16::from_be_bytes([t0, t1]);
    if !port.has_mac(src) {
        return Err(DropReason::SpoofedMac);
    }
    if ETHERTYPE_VLANS.contains(&ethertype) {
        return Err(DropReason::Vlan);
    }
    if !matches!(ethertype, ETHERTYPE_ARP | ETHERTYPE_IPV4 | ETHERTYPE_IPV6) {
        return Err(DropReason::UnknownEthertype);
    }
    Ok(Link { ethertype, src, dst })
}

/// Reads the IP header, cuts padding, and checks what the virtio-net header says about the packet.
fn read_ip(ethertype: u16, frame: &mut Frame<'_>) -> Result<Packet, DropReason> {
    jumbo::take_off(frame);
    let packet = Packet::parse(frame.bytes())?;
    if packet.is_v4() != (ethertype == ETHERTYPE_IPV4) {
        return Err(DropReason::BadIpVersion);
    }
    frame.truncate(packet.len);
    rewrite::check_offload(frame, &packet)?;
    Ok(packet)
}

/// Everything that only addresses decide, most telling name first.
fn check_addresses(
    gateway: &Gateway,
    port: &Port,
    packet: &Packet,
    (src_mac, dst_mac): (MacAddr, MacAddr),
    bytes: &[u8],
) -> Result<(), DropReason> {
    let to_group = icmp::is_group(packet.dst) || dst_mac.is_group();
    let asks_dhcp = packet.protocol == UDP
        && packet.ports(bytes).is_some_and(|(_, dst)| DHCP_PORTS.contains(&dst))
        && (to_group || packet.src.is_unspecified());
    if asks_dhcp {
        return Err(DropReason::Dhcp);
    }
    // Listener reports and the like come from addresses that are not the port's.
    if packet.dst.is_multicast() {
        return Err(DropReason::Multicast);
    }
    let own_link_local = !packet.is_v4() && is_link_local(packet.src);
    if !own_link_local && !port.may_send(packet.src, src_mac) {
        return Err(DropReason::SpoofedSource);
    }
    // Whoever may use a prefix may not use all that is in it.
    if !icmp::is_host(packet.src) {
        return Err(DropReason::MartianSource);
    }
    match (packet.dst, dst_mac) {
        _ if to_group => Err(DropReason::Broadcast),
        _ if dst_mac != gateway.mac => Err(DropReason::NotToGateway),
        (IpAddr::V6(dst), _) if dst.is_unicast_link_local() => Ok(()),
        (dst, _) if !icmp::is_host(dst) => Err(DropReason::MartianDestination),
        _ => Ok(()),
    }
}
