//! Replies as people read them. Empty tables say so in words.

pub(crate) mod agent;
pub(crate) mod bgp;
pub(crate) mod explain;
mod flows;
mod forwarding;
mod openstack;
mod ports;

use std::fmt::Write as _;

use agent_api::{TraceReply, Vrfs};

pub(crate) use agent::{monitored, reloaded, status};
pub(crate) use flows::flows;
pub(crate) use forwarding::{drops, drops_all, labels, routes, tunnels};
pub(crate) use openstack::openstack;
pub(crate) use ports::{attached, detached, ports};

use crate::table::{Table, list};

/// `show vrfs`.
pub(crate) fn vrfs(reply: &Vrfs) -> String {
    if reply.vrfs.is_empty() {
        return "No VRFs are configured.\n".to_owned();
    }
    let mut table = Table::new([
        "Name",
        "RD",
        "Import",
        "Export",
        ">Ports",
        ">Routes",
        "Pods (used of size)",
        "Namespaces",
        "Default",
    ]);
    for (name, vrf) in &reply.vrfs {
        let pods = vrf.pods.iter().map(|pool| format!("{} ({} of {})", pool.range, pool.used, pool.size));
        let namespaces = if vrf.namespaces.is_empty() { "all".to_owned() } else { list(&vrf.namespaces) };
        table.row([
            name.clone(),
            vrf.rd.to_string(),
            list(&vrf.import),
            list(&vrf.export),
            vrf.ports.to_string(),
            vrf.routes.to_string(),
            list(pods),
            namespaces,
            if vrf.default { "yes" } else { "no" }.to_owned(),
        ]);
    }
    table.render()
}

/// `trace`.
pub(crate) fn trace(reply: &TraceReply) -> String {
    let mut text = String::new();
    for (number, step) in reply.steps.iter().enumerate() {
        let _ = writeln!(text, "{:>2}. {step}", number + 1);
    }
    let outcome = if reply.forwarded { "Forwarded" } else { "Not forwarded" };
    let _ = writeln!(text, "{outcome}: {}", reply.verdict);
    text
}

#[cfg(test)]
mod tests {
    use agent_api::{PoolUse, VrfSummary};

    use super::*;

    #[test]
    fn vrfs_show_targets_and_pools() {
        let vrf = VrfSummary {
            rd: "192.0.2.11:1".parse().unwrap(),
            import: vec!["target:64512:100".parse().unwrap()],
            export: vec!["target:64512:100".parse().unwrap(), "target:64512:101".parse().unwrap()],
            pods: vec![PoolUse { range: "10.20.11.0/24".parse().unwrap(), used: 2, size: 254 }],
            namespaces: vec![],
            default: true,
            ports: 2,
            routes: 5,
        };
        let empty = VrfSummary {
            pods: vec![],
            export: vec![],
            namespaces: vec!["city-*".into()],
            default: false,
            ..vrf.clone()
        };
        let reply = Vrfs { vrfs: [("smart".to_owned(), vrf), ("b".to_owned(), empty)].into() };
        let expected = "\
Name   RD            Import            Export                              Ports  Routes  Pods (used of size)       Namespaces  Default
b      192.0.2.11:1  target:64512:100  -                                       2       5  -                         city-*      no
smart  192.0.2.11:1  target:64512:100  target:64512:100, target:64512:101      2       5  10.20.11.0/24 (2 of 254)  all         yes
";
        assert_eq!(vrfs(&reply), expected);
        assert_eq!(vrfs(&Vrfs { vrfs: [].into() }), "No VRFs are configured.\n");
    }

    #[test]
    fn trace_numbers_its_steps() {
        let steps = vec!["in from port 3".to_owned(), "route 10.0.0.0/8".to_owned()];
        let reply = TraceReply { steps, verdict: "dropped: no-route".into(), forwarded: false };
        assert_eq!(
            trace(&reply),
            " 1. in from port 3\n 2. route 10.0.0.0/8\nNot forwarded: dropped: no-route\n"
        );
    }
}
