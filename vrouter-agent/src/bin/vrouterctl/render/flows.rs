use std::fmt::Write as _;
use std::net::IpAddr;

use agent_api::{FlowEntry, Flows};

use crate::table::Table;

/// `show flows`.
pub(crate) fn flows(reply: &Flows) -> String {
    let table = &reply.table;
    let mut text = format!(
        "{} flows, {} of {} slots in use, {} refused; {} of {} node ports\n",
        table.flows, table.slots, table.capacity, table.refused, table.node_ports, table.max_node_ports
    );
    if reply.flows.is_empty() {
        return text + "\nNo flow of a port with a policy or of a translated address is known.\n";
    }
    let mut rows = Table::new([
        ">Port",
        "VRF",
        "Protocol",
        "Workload",
        "Begun",
        "Other end",
        "Seen as",
        "State",
        ">Idle",
        ">Left",
    ]);
    for flow in &reply.flows {
        rows.row([
            flow.port.to_string(),
            flow.vrf.clone(),
            flow.protocol.clone(),
            end(flow.local, flow.local_port),
            if flow.begun == "inside" { "->" } else { "<-" }.to_owned(),
            end(flow.remote, flow.remote_port),
            seen_as(flow),
            flow.state.clone(),
            seconds(flow.idle_msec),
            seconds(flow.left_msec),
        ]);
    }
    text.push('\n');
    text += &rows.render();
    if reply.matching > reply.flows.len() {
        let _ = writeln!(
            text,
            "\n{} of {} that match; --limit shows more, --vrf and --port fewer",
            reply.flows.len(),
            reply.matching
        );
    }
    text
}

fn end(address: IpAddr, port: u16) -> String {
    match (address, port) {
        (address, 0) => address.to_string(),
        (IpAddr::V4(v4), port) => format!("{v4}:{port}"),
        (IpAddr::V6(v6), port) => format!("[{v6}]:{port}"),
    }
}

fn seen_as(flow: &FlowEntry) -> String {
    let Some(translation) = &flow.translation else { return String::new() };
    let address = match translation.port {
        Some(port) => end(translation.address, port),
        None => translation.address.to_string(),
    };
    match &translation.vrf {
        Some(vrf) => format!("{} {address} in {vrf}", translation.kind),
        None => format!("{} {address}", translation.kind),
    }
}

fn seconds(msec: u64) -> String {
    format!("{} s", msec / 1000)
}

#[cfg(test)]
mod tests {
    use agent_api::{FlowTableUse, FlowTranslation};

    use super::*;

    #[test]
    fn a_flow_is_a_line_and_what_was_left_out_is_said() {
        let flow = FlowEntry {
            vrf: "smart-city".into(),
            port: 3,
            name: "c1/eth0".into(),
            protocol: "tcp".into(),
            local: "10.20.11.2".parse().unwrap(),
            local_port: 40000,
            remote: "2001:db8::1".parse().unwrap(),
            remote_port: 443,
            begun: "inside".into(),
            state: "established".into(),
            translation: Some(FlowTranslation {
                kind: "node".into(),
                address: "169.254.64.4".parse().unwrap(),
                port: Some(40000),
                vrf: None,
            }),
            idle_msec: 2_500,
            left_msec: 7_437_000,
        };
        let table = FlowTableUse { flows: 9, slots: 12, capacity: 65536, ..FlowTableUse::default() };
        let text = flows(&Flows { flows: vec![flow], matching: 9, table });
        for part in [
            "9 flows, 12 of 65536 slots",
            "[2001:db8::1]:443",
            "node 169.254.64.4:40000",
            "1 of 9 that match",
        ] {
            assert!(text.contains(part), "{text}");
        }
        let nothing = flows(&Flows { table, ..Flows::default() });
        assert!(nothing.contains("No flow of a port"), "{nothing}");
    }
}
