use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// `show flows`: those of ports with a policy and of translated addresses.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Flows {
    /// At most as many as were asked for.
    pub flows: Vec<FlowEntry>,
    /// How many match.
    pub matching: usize,
    /// How full the table is.
    pub table: FlowTableUse,
}

/// How full the flow table is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FlowTableUse {
    /// Flows that are alive.
    pub flows: usize,
    /// Slots in use; a flow whose port is translated takes two.
    pub slots: usize,
    /// Slots in all.
    pub capacity: usize,
    /// Ports of the node in use.
    pub node_ports: u32,
    /// Ports of the node for workloads.
    pub max_node_ports: u32,
    /// Flows that were refused for want of room or of a port.
    pub refused: u64,
    /// Octets of memory.
    pub bytes: usize,
}

/// A flow as the workload sees it, and what others see.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FlowEntry {
    /// The workload's VRF.
    pub vrf: String,
    /// The port's number.
    pub port: u32,
    /// What the port's maker calls it.
    pub name: String,
    /// The protocol, by name where it has one.
    pub protocol: String,
    /// The workload's address.
    pub local: IpAddr,
    /// The workload's port, or the identifier of its echo requests; zero where there is none.
    pub local_port: u16,
    /// The other end's address.
    pub remote: IpAddr,
    /// The other end's port.
    pub remote_port: u16,
    /// Who began it: `inside` is the workload.
    pub begun: String,
    /// How far it has come.
    pub state: String,
    /// What others see instead of the workload's address and port: `floating`, `node`, `metadata`, `dns`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub translation: Option<FlowTranslation>,
    /// Milliseconds since its last packet.
    pub idle_msec: u64,
    /// Milliseconds until it is over if no packet comes.
    pub left_msec: u64,
}

/// What others see of a flow.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FlowTranslation {
    /// Which kind.
    pub kind: String,
    /// The address.
    pub address: IpAddr,
    /// The port, where it may differ.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// The VRF, where it is another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vrf: Option<String>,
}
