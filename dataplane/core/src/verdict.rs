//! What becomes of a packet, and why not.
//!
//! Every packet ends in one [`Verdict`]; every [`DropReason`] is one counter. An ICMP error is a [`Verdict::Reply`]
//! about a packet that did not arrive: [`ReplyBuffer::reason`](crate::ReplyBuffer::reason) says which counter that is.

use vrouter_types::{Label, PortId};

use crate::fib::TunnelId;

/// What the shell does with a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Verdict {
    /// Put an Ethernet header in front (from the gateway's MAC to the port's) and send it to the port. An IPv4 packet
    /// without DF, or a datagram of a superframe of such, may still be larger than the port's MTU: it is to be
    /// fragmented, as with [`Push::fragment`].
    ToPort(PortId),
    /// Give it to the host as it is.
    ToHost,
    /// Put a label in front and send it through a tunnel.
    ToUnderlay(Push),
    /// Drop it, and send `state.reply` instead.
    Reply(ReplyTo),
    /// Drop and count it.
    Drop(DropReason),
}

/// How a packet leaves through a tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Push {
    /// Which tunnel.
    pub tunnel: TunnelId,
    /// The one label, bottom of stack.
    pub label: Label,
    /// The label's TTL: that of the inner packet (RFC 3443 §3, uniform).
    pub ttl: u8,
    /// The outer header's TOS or traffic class, DSCP and ECN (RFC 2983, RFC 6040 §4.1).
    pub tos: u8,
    /// Equal for the packets of one flow (RFC 7510 §3): the source port comes of it.
    pub entropy: u16,
    /// The largest inner packet that the tunnel takes. Superframes are cut to it.
    pub mtu: u16,
    /// Where the inner packet is larger than `mtu`, it may be fragmented: IPv4 without DF, and no superframe of TCP.
    pub fragment: bool,
}

/// Where the reply in `state.reply` goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReplyTo {
    /// An Ethernet frame for a port.
    Port(PortId),
    /// An IP packet for the host.
    Host,
    /// An IP packet through a tunnel.
    Underlay(Push),
}

macro_rules! drop_reasons {
    ($($variant:ident $name:literal $description:literal;)*) => {
        /// Why a packet was dropped: one counter each.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum DropReason { $(#[doc = $description] $variant,)* }

        impl DropReason {
            /// Every reason, in the order of their indexes.
            pub const ALL: &'static [DropReason] = &[$(DropReason::$variant,)*];
            /// How many there are.
            pub const COUNT: usize = DropReason::ALL.len();

            /// The name that operators and scripts see.
            pub const fn name(self) -> &'static str {
                match self { $(DropReason::$variant => $name,)* }
            }

            /// What it means, in a sentence.
            pub const fn description(self) -> &'static str {
                match self { $(DropReason::$variant => $description,)* }
            }
        }
    };
}

drop_reasons! {
    // From a port: Ethernet
    UnknownPort "unknown-port" "The port is not in the forwarding state, or no longer.";
    TruncatedEthernet "truncated-ethernet" "The frame is shorter than an Ethernet header.";
    SpoofedMac "spoofed-mac" "The source MAC address is none of the port's.";
    NotToGateway "not-to-gateway" "The destination MAC address is neither the gateway's nor a group's.";
    Vlan "vlan" "The frame carries a VLAN tag that is no sub-port's.";
    UnknownEthertype "unknown-ethertype" "The frame carries neither IPv4 nor IPv6 nor ARP.";
    // ARP and neighbour discovery
    MalformedArp "malformed-arp" "An ARP packet that is truncated or not for IPv4 over Ethernet.";
    ArpIgnored "arp-ignored" "An ARP packet that wants no answer: a reply, or about the asker itself.";
    DuplicateAddressProbe "duplicate-address-probe" "A workload probed whether its address is in use (RFC 5227, RFC 4862): silence says no.";
    MalformedNd "malformed-nd" "A neighbour discovery message that RFC 4861 says to discard: hop limit, length, checksum or options.";
    NdIgnored "nd-ignored" "A neighbour discovery message that wants no answer: a router's, a redirect, or about the asker itself.";
    NeighborAnnounced "neighbor-announced" "A workload announced one of its own addresses: heard, and nobody is flooded with it.";
    RouterSolicitation "router-solicitation" "A workload looked for routers; addresses and routes are configured, not advertised.";
    // IP headers
    TruncatedIp "truncated-ip" "The packet ends inside its IP header.";
    BadIpVersion "bad-ip-version" "What should be an IP packet is neither IPv4 nor IPv6, or not what the Ethernet type says.";
    BadIpHeader "bad-ip-header" "The IPv4 header is malformed: its length field lies about options.";
    BadIpLength "bad-ip-length" "The IP header claims more octets than there are, or fewer than its header, or a fragment runs over the longest datagram.";
    BadIpChecksum "bad-ip-checksum" "The IPv4 header checksum is wrong.";
    BadIcmpChecksum "bad-icmp-checksum" "An echo request to the gateway with a wrong checksum.";
    BadOffload "bad-offload" "The virtio-net header asks for a checksum or a segmentation that the packet does not allow, or for thousands of segments.";
    // Addresses
    SpoofedSource "spoofed-source" "The source address does not belong to the port.";
    MartianSource "martian-source" "The source address is none that a host may have: unspecified, loopback, multicast or broadcast.";
    MartianDestination "martian-destination" "The destination address is none that can be routed: unspecified, loopback or reserved.";
    LinkLocal "link-local" "A link-local address does not leave its link.";
    Multicast "multicast" "Multicast is not forwarded.";
    Broadcast "broadcast" "Broadcast is not forwarded.";
    Dhcp "dhcp" "A DHCP message; addresses are configured, not leased.";
    DhcpMalformed "dhcp-malformed" "A DHCP message that is truncated, has options that lie about their length, or lacks what its kind must have.";
    DhcpWrongClient "dhcp-wrong-client" "A DHCP message about another hardware address than the port's.";
    DhcpRelayed "dhcp-relayed" "A DHCP message that came through a relay: workloads are none.";
    DhcpIgnored "dhcp-ignored" "A DHCP message that wants no answer of ours: a release, or one for another server.";
    DhcpDeclined "dhcp-declined" "The workload says that somebody else uses its address.";
    DhcpRefused "dhcp-refused" "A DHCP request for an address that is not the port's; the workload was told so (NAK).";
    DhcpNoAddress "dhcp-no-address" "A DHCP message on a port without an address of that family.";
    // Routing
    UnknownVrf "unknown-vrf" "The port's VRF is not in the forwarding state, or no longer.";
    NoRoute "no-route" "The VRF has no route to the destination.";
    NoTunnel "no-tunnel" "The route's tunnel is not in the forwarding state, or no longer.";
    DiscardRoute "discard-route" "The route says to discard.";
    TtlExceeded "ttl-exceeded" "The TTL or hop limit ran out here.";
    TooBig "too-big" "The packet is larger than the way ahead and may not be fragmented.";
    // Flows
    PolicyEgress "policy-egress" "No rule of the port's security groups lets the workload send this.";
    PolicyIngress "policy-ingress" "No rule of the port's security groups lets this in to the workload.";
    FlowTableFull "flow-table-full" "A new flow, and no room to remember it: established flows are never given up for new ones.";
    FlowLimitPort "flow-limit-port" "A new flow of a port that holds its share of the flow table already: a small one where the table is nearly full.";
    FlowFragment "flow-fragment" "A later fragment whose first fragment was not seen, where ports decide.";
    FlowClash "flow-clash" "The flow's addresses and ports mean another flow already, once translated.";
    SnatExhausted "snat-ports-exhausted" "A new flow with the node's address, and the workload or the node has no port left for it.";
    NotTranslatable "not-translatable" "The packet is of no flow, so that no other address can stand for its own.";
    // The host
    HostUnasked "host-unasked" "The host sent to an address that stands for a workload only while it talks to the host, and no such talk is known.";
    HostToStranger "host-to-stranger" "A workload's packet for the outside came back: the host leads its destination to another workload.";
    HostClosed "host-closed" "The VRF's workloads may not open flows to the host, and the host began none like this.";
    HostAddressTaken "host-address-taken" "The host knows another port by the workload's address, so its answer would go astray.";
    HostNoPort "host-no-port" "The host sent to an address that no local port has.";
    HostFragment "host-fragment" "A fragment for the host whose first fragment was not seen.";
    GatewayFragment "gateway-fragment" "A fragmented echo request to the gateway, which does not reassemble.";
    // From the underlay
    UnknownSource "unknown-source" "A tunnel packet from an address that is no known provider edge.";
    TruncatedLabel "truncated-label" "A tunnel packet shorter than a label.";
    LabelStack "label-stack" "The label is not the bottom of its stack: an L3VPN packet here has one label.";
    ReservedLabel "reserved-label" "The label is one of those that RFC 3032 reserves, explicit null included.";
    UnknownLabel "unknown-label" "No port has the label.";
    LabelTtl "label-ttl" "The label arrived with TTL zero.";
    WrongDestination "wrong-destination" "The inner packet is for an address that the label's port does not have.";
    EcnNotCapable "ecn-not-capable" "The underlay marked congestion on a packet whose sender cannot hear of it (RFC 6040 §4.2).";
    // Replies
    ReplyLimited "reply-limited" "Too many ARP, ND or ICMP answers were due at once.";
    // Counted by the shell
    TruncatedReceive "truncated-receive" "The packet was larger than the receive buffer.";
    UnknownOffload "unknown-offload" "The virtio-net header names a segmentation that we cannot carry.";
    TruncatedGre "truncated-gre" "A GRE packet that ends inside its header.";
    UnsupportedGre "unsupported-gre" "A GRE packet with a version, flags or a protocol that is not MPLS over GRE.";
    SegmentFailed "segment-failed" "The superframe or packet could not be cut to what the way ahead takes.";
    PortNotOpen "port-not-open" "The port's interface is not open.";
    NoUnderlay "no-underlay" "There is no uplink to send through.";
    QueueFull "queue-full" "The kernel's queue was full.";
    SendFailed "send-failed" "The kernel refused to send.";
}

impl DropReason {
    /// Its place in a table of counters.
    pub const fn index(self) -> usize {
        self as usize
    }
}

impl std::fmt::Display for DropReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_reason_has_its_own_index_and_kebab_case_name_and_a_sentence() {
        let mut names = BTreeSet::new();
        for (index, reason) in DropReason::ALL.iter().enumerate() {
            assert_eq!(reason.index(), index);
            let name = reason.name();
            assert!(names.insert(name), "{name} twice");
            assert!(name.bytes().all(|b| b.is_ascii_lowercase() || b == b'-'), "{name}");
            assert!(reason.description().ends_with('.'), "{name}");
        }
        assert_eq!(names.len(), DropReason::COUNT);
    }
}
