use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};
use vrouter_types::{Label, MacAddr, PortId, Prefix};

use crate::VmServices;

/// What a port is called by whoever made it. A second attach with the same key is the same port.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PortKey {
    /// The CNI container ID; for a VM's tap, the name of the tap.
    pub container: String,
    /// The interface's name inside: CNI_IFNAME; for a VM's tap, the name of the tap.
    pub interface: String,
}

impl std::fmt::Display for PortKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.container, self.interface)
    }
}

/// What stands behind a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum PortKind {
    /// The host end of a pod's veth pair. It goes when the pod's namespace goes.
    Pod,
    /// A virtual machine's tap. It may vanish and come back.
    Tap,
}

/// Joins an interface of the host to a VRF. When it is answered, the port is on disk, forwards and is advertised.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AttachPort {
    /// What the port is called.
    pub key: PortKey,
    /// What stands behind it.
    pub kind: PortKind,
    /// The host's interface: the veth's host end, or the tap.
    pub host_interface: String,
    /// The workload's own MAC address.
    pub mac: MacAddr,
    /// The workload's network namespace, for pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub netns: Option<String>,
    /// The Kubernetes namespace, for choosing and admitting the VRF.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// The pod's or VM's name, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The VRF that the workload asks for: the annotation `vrouter.dev/vrf`, or `--vrf`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vrf: Option<String>,
    /// The VRF of the CNI configuration, for workloads that ask for none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub configured_vrf: Option<String>,
    /// The workload's addresses; empty: the agent allocates one per family from the VRF's `pods`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<IpAddr>,
    /// Further prefixes behind the workload.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub prefixes: Vec<Prefix>,
    /// An MTU smaller than the one that fits the tunnels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u16>,
    /// Further MAC addresses that the workload may send from.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub macs: Vec<MacAddr>,
    /// Addresses that the workload may hold beside its own, as a virtual router address. One that is a single address
    /// is advertised: with local preference 200 where the workload showed that it holds it, with 100 elsewhere.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allowed: Vec<AddressPair>,
    /// The DSCP of its tunnel packets, over the VRF's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dscp: Option<u8>,
    /// The local preference of its routes, over the VRF's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub local_pref: Option<u32>,
    /// The port is a sub-port: the frames of the host's interface that carry this 802.1Q tag.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vlan: Option<u16>,
    /// The security groups it is in. Absent: no policy, all may pass. Empty: nothing may, neither in nor out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub security_groups: Option<Vec<String>>,
    /// Addresses of other VRFs that stand for one of its own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub floating_ips: Vec<FloatingIp>,
    /// What DHCP, router advertisements and metadata tell the workload. Absent: these are not served.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vm: Option<VmServices>,
}

impl AttachPort {
    /// A port with nothing but what each must have.
    pub fn new(key: PortKey, kind: PortKind, host_interface: String, mac: MacAddr) -> AttachPort {
        AttachPort {
            key,
            kind,
            host_interface,
            mac,
            netns: None,
            namespace: None,
            name: None,
            vrf: None,
            configured_vrf: None,
            addresses: Vec::new(),
            prefixes: Vec::new(),
            mtu: None,
            macs: Vec::new(),
            allowed: Vec::new(),
            dscp: None,
            local_pref: None,
            vlan: None,
            security_groups: None,
            floating_ips: Vec::new(),
            vm: None,
        }
    }
}

/// Addresses that a workload may send from, as neutron's allowed address pairs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AddressPair {
    /// The addresses.
    pub prefix: Prefix,
    /// The MAC address that it sends them from; absent: any of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<MacAddr>,
}

/// An address of another VRF that stands for one of the workload's own: one to one, both ways.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FloatingIp {
    /// What others see, advertised in `vrf`.
    pub address: IpAddr,
    /// The workload's own address of the same family.
    pub fixed: IpAddr,
    /// The VRF in which others see it.
    pub vrf: String,
}

/// What a port got.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AttachedPort {
    /// Its number in the forwarding state.
    pub port: PortId,
    /// The VRF it is in.
    pub vrf: String,
    /// The label that other provider edges send it traffic with.
    pub label: Label,
    /// Its addresses, IPv4 first.
    pub addresses: Vec<IpAddr>,
    /// The MTU for the workload's interface: what fits the smallest tunnel.
    pub mtu: u16,
    /// The longest superframe of TCP that the workload may send. Absent: 61,440 octets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub superframe: Option<u32>,
    /// The gateway for IPv4, the same in every VRF.
    pub gateway4: Ipv4Addr,
    /// The gateway for IPv6, the same in every VRF.
    pub gateway6: Ipv6Addr,
    /// The gateway's MAC address, for a permanent neighbour entry.
    pub gateway_mac: MacAddr,
    /// Why the port does not forward yet: a virtual machine's tap that is not there. It joins when it appears.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waits: Option<String>,
}

/// Takes a port away. Unknown ports are no error: the caller wants it gone, and it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DetachPort {
    /// What the port is called.
    pub key: PortKey,
}

/// What was taken away.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DetachedPort {
    /// Whether there was such a port.
    pub existed: bool,
    /// The host's interface of the port that was taken away. The caller removes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_interface: Option<String>,
}
