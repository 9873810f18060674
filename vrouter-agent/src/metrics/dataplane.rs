//! The dataplane's own metrics: its workers, why each port's packets were dropped, who looks on.

use ::dataplane::WorkerHealth;
use dataplane_core::{DropReason, FlowUse};
use vrouter_types::PortId;

use super::{Page, Sources};

/// What the dataplane says of itself.
pub struct Workings<'a> {
    /// How its workers do.
    pub health: Vec<WorkerHealth>,
    /// Why a port's packets were dropped.
    pub port_drops: &'a dyn Fn(PortId) -> Vec<(DropReason, u64)>,
    /// Captures that run.
    pub captures: usize,
    /// Addresses that workloads showed and that were too many to be told.
    pub unlearned: u64,
    /// How full the flow table is.
    pub flows: FlowUse,
    /// Ports of the node for workloads.
    pub node_ports: usize,
}

pub(super) fn dataplane(page: &mut Page, sources: &Sources<'_>) {
    type Read = fn(&WorkerHealth) -> u64;
    let workings = &sources.workings;
    let families: [(&str, &str, &str, Read); 3] = [
        ("vrouter_worker_moves", "gauge", "Whether the worker moves packets, as the watchdog finds", |it| {
            u64::from(it.moves)
        }),
        (
            "vrouter_worker_stuck_milliseconds",
            "gauge",
            "For how long the worker has not moved a packet",
            |it| it.stuck_for_ms,
        ),
        ("vrouter_worker_turns_total", "counter", "Times that the worker woke up for something", |it| {
            it.turns
        }),
    ];
    for (name, kind, help, read) in families {
        page.family(name, kind, help);
        for worker in &workings.health {
            page.sample(name, &[("worker", &worker.worker.to_string())], read(worker));
        }
    }
    let name = "vrouter_port_drop_reasons_total";
    page.family(name, "counter", "Dropped packets by port and reason; reasons that counted something");
    for port in sources.overlay.ports() {
        let (id, request) = (port.saved.port.to_string(), &port.saved.request);
        for (reason, packets) in (workings.port_drops)(port.saved.port) {
            let labels = [
                ("port", id.as_str()),
                ("interface", request.host_interface.as_str()),
                ("vrf", port.saved.vrf.as_str()),
                ("reason", reason.name()),
            ];
            page.sample(name, &labels, packets);
        }
    }
    let flows = &workings.flows;
    for (name, kind, help, value) in [
        ("vrouter_flows", "gauge", "Flows that are remembered", flows.flows as u64),
        ("vrouter_flow_slots", "gauge", "Slots of the flow table in use", flows.slots as u64),
        ("vrouter_flow_slots_max", "gauge", "Slots of the flow table", flows.capacity as u64),
        (
            "vrouter_flows_refused_total",
            "counter",
            "Flows refused for want of room or of a port",
            flows.refused,
        ),
        ("vrouter_flow_table_bytes", "gauge", "Memory of the flow table", flows.octets as u64),
        (
            "vrouter_node_ports",
            "gauge",
            "Ports of the node that workloads' flows leave with",
            flows.node_ports.into(),
        ),
        ("vrouter_node_ports_max", "gauge", "Ports of the node for workloads", workings.node_ports as u64),
    ] {
        page.single(name, kind, help, value);
    }
    page.single("vrouter_captures", "gauge", "Captures that run", workings.captures);
    let help = "Addresses that workloads showed and that were too many to be told";
    page.single("vrouter_unlearned_total", "counter", help, workings.unlearned);
}
