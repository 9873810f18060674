//! Flows: those of ports with a policy and of translated addresses, bounded however many there are.

use std::collections::BTreeMap;

use agent_api::{ApiError, ErrorKind, FlowEntry, FlowTableUse, FlowTranslation, Flows};
use dataplane_core::{Begun, FlowUse, FlowView, Translation};
use vrouter_types::PortId;

use crate::config::Config;
use crate::overlay::{Overlay, Port};

/// More are told to nobody at once.
const MAX_FLOWS: usize = 10_000;
const DEFAULT_FLOWS: usize = 1_000;

/// Which flows are wanted.
#[derive(Debug, Clone, Default)]
pub struct FlowFilter {
    /// Of ports of this VRF.
    pub vrf: Option<String>,
    /// Of this port: its number, its interface, or what its maker calls it.
    pub port: Option<String>,
    /// At most so many.
    pub limit: Option<usize>,
}

/// How full the table is, as the configuration bounds it.
pub fn flow_table_use(config: &Config, usage: FlowUse) -> FlowTableUse {
    FlowTableUse {
        flows: usage.flows,
        slots: usage.slots,
        capacity: usage.capacity,
        node_ports: usage.node_ports,
        max_node_ports: u32::try_from(config.dataplane.flows.node_ports().count()).unwrap_or(u32::MAX),
        refused: usage.refused,
        bytes: usage.octets,
    }
}

/// `show flows`.
pub fn flows(
    overlay: &Overlay,
    flows: impl Iterator<Item = FlowView>,
    table: FlowTableUse,
    filter: &FlowFilter,
) -> Result<Flows, ApiError> {
    let missing = |what: String| ApiError::new(ErrorKind::NotFound, what);
    if let Some(vrf) = &filter.vrf
        && overlay.vrf_by_name(vrf).is_none()
    {
        return Err(missing(format!("there is no VRF {vrf:?}; show vrfs lists them")));
    }
    let is_named = |port: &Port, name: &str| {
        let request = &port.saved.request;
        port.saved.port.to_string() == name
            || request.host_interface == name
            || request.key.to_string() == name
            || request.name.as_deref() == Some(name)
    };
    let wanted: BTreeMap<PortId, &Port> = overlay
        .ports()
        .filter(|port| filter.vrf.as_ref().is_none_or(|vrf| port.saved.vrf == *vrf))
        .filter(|port| filter.port.as_ref().is_none_or(|name| is_named(port, name)))
        .map(|port| (port.saved.port, port))
        .collect();
    if let (Some(name), true) = (&filter.port, wanted.is_empty()) {
        return Err(missing(format!("there is no port {name:?}; show ports lists them")));
    }
    let limit = filter.limit.unwrap_or(DEFAULT_FLOWS).min(MAX_FLOWS);
    let mut reply = Flows { flows: Vec::new(), matching: 0, table };
    for flow in flows {
        let Some(port) = wanted.get(&flow.tuple.port) else { continue };
        reply.matching += 1;
        if reply.flows.len() < limit {
            reply.flows.push(entry(overlay, port, &flow));
        }
    }
    reply.flows.sort_by(|a, b| {
        let key = |flow: &FlowEntry| (flow.port, flow.local, flow.remote, flow.local_port, flow.remote_port);
        key(a).cmp(&key(b))
    });
    Ok(reply)
}

fn entry(overlay: &Overlay, port: &Port, flow: &FlowView) -> FlowEntry {
    let tuple = flow.tuple;
    FlowEntry {
        vrf: port.saved.vrf.clone(),
        port: tuple.port.0,
        name: port.saved.request.key.to_string(),
        protocol: protocol(tuple.protocol),
        local: tuple.local,
        local_port: tuple.local_port,
        remote: tuple.remote,
        remote_port: tuple.remote_port,
        begun: if flow.begun == Begun::Inside { "inside" } else { "outside" }.to_owned(),
        state: flow.state.to_owned(),
        translation: translation(overlay, flow.translation),
        idle_msec: flow.quiet_ms,
        left_msec: flow.left_ms,
    }
}

fn translation(overlay: &Overlay, translation: Translation) -> Option<FlowTranslation> {
    let (kind, address, port, vrf) = match translation {
        Translation::None => return None,
        Translation::Floating(address, vrf) => {
            ("floating", address, None, overlay.vrf(vrf).map(|vrf| vrf.config.name.clone()))
        }
        Translation::Node(address, port) => ("node", address, Some(port), None),
        Translation::Metadata(address, port) => ("metadata", address, Some(port), None),
        Translation::Dns(address, port) => ("dns", address, Some(port), None),
    };
    Some(FlowTranslation { kind: kind.to_owned(), address, port, vrf })
}

fn protocol(number: u8) -> String {
    match number {
        1 => "icmp".to_owned(),
        6 => "tcp".to_owned(),
        17 => "udp".to_owned(),
        58 => "icmpv6".to_owned(),
        132 => "sctp".to_owned(),
        other => other.to_string(),
    }
}
