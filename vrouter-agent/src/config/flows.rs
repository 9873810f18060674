//! What `[dataplane]` says of flows and of the node's address for workloads.

use std::ops::RangeInclusive;

use serde::{Deserialize, Serialize};

use super::document::Table;

/// Flows that are remembered, and how many of them may leave with the node's address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowConfig {
    /// Flows in all; a hundred octets each.
    pub max_flows: u32,
    /// Flows of one port.
    pub max_flows_per_port: u32,
    /// The first and last port of the node that workloads' packets leave with.
    pub snat_ports: (u16, u16),
    /// How many of them one workload may hold.
    pub snat_ports_per_port: u32,
}

const DEFAULT: FlowConfig = FlowConfig {
    max_flows: 65_536,
    max_flows_per_port: 65_536 / 4,
    snat_ports: (40_960, 49_151),
    snat_ports_per_port: 1_024,
};

impl Default for FlowConfig {
    fn default() -> FlowConfig {
        DEFAULT
    }
}

impl FlowConfig {
    /// The node's ports for workloads.
    pub fn node_ports(&self) -> RangeInclusive<u16> {
        self.snat_ports.0..=self.snat_ports.1
    }
}

pub(super) fn flows(table: &Table<'_, '_>) -> FlowConfig {
    let mut flows = DEFAULT;
    if let Some(most) = table.number("max-flows", 1_024..=4_194_304) {
        flows.max_flows = most;
    }
    flows.max_flows_per_port = flows.max_flows / 4;
    if let Some(most) = table.number("max-flows-per-port", 16..=4_194_304) {
        flows.max_flows_per_port = most.min(flows.max_flows);
    }
    if let Some(text) = table.text("snat-ports") {
        match range(text) {
            Some(ports) => flows.snat_ports = ports,
            None => {
                let message = format!(
                    "snat-ports {text:?} must be two ports from 1024 up, like snat-ports = \"40960-49151\""
                );
                table.error(table.span_of("snat-ports"), message);
            }
        }
    }
    if let Some(most) = table.number("snat-ports-per-port", 1..=65_535) {
        flows.snat_ports_per_port = most;
    }
    flows
}

fn range(text: &str) -> Option<(u16, u16)> {
    let (first, last) = text.split_once('-')?;
    let (first, last) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
    (first >= 1024 && first <= last).then_some((first, last))
}
