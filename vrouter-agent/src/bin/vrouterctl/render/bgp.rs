//! BGP views, in the order and the words that FRR's users know.

use std::fmt::Write as _;
use std::net::IpAddr;

use agent_api::{
    BgpClear, BgpClearKind, BgpMessageCounts, BgpNeighbor, BgpNeighbors, BgpPath, BgpPeer, BgpRestart,
    BgpRestartEnd, BgpRoutes, BgpRtc, BgpSummary, BgpUpdateCounts,
};

use vrouter_types::VpnPrefix;

use crate::table::{Table, duration, in_order, list, maybe};

const ESTABLISHED: &str = "Established";

/// `show bgp summary`.
pub(crate) fn summary(reply: &BgpSummary) -> String {
    let mut text = format!(
        "BGP router identifier {}, local AS number {}\nRIB entries {}\n\n",
        reply.router_id, reply.asn, reply.rib_count
    );
    if reply.peers.is_empty() {
        text.push_str("No BGP neighbors are configured.\n");
        return text;
    }
    let mut table = Table::new([
        "Neighbor",
        ">V",
        ">AS",
        ">MsgRcvd",
        ">MsgSent",
        ">Up/Down",
        ">State/PfxRcd",
        ">PfxSnt",
        "Desc",
    ]);
    for (address, peer) in &reply.peers {
        table.row([
            address.to_string(),
            "4".to_owned(),
            peer.remote_as.to_string(),
            peer.msg_rcvd.to_string(),
            peer.msg_sent.to_string(),
            up_down(peer),
            if peer.state == ESTABLISHED { peer.pfx_rcd.to_string() } else { peer.state.clone() },
            peer.pfx_snt.to_string(),
            peer.desc.clone().unwrap_or_default(),
        ]);
    }
    let _ = write!(text, "{}\nTotal number of neighbors {}\n", table.render(), reply.total_peers);
    text
}

fn up_down(peer: &BgpPeer) -> String {
    if peer.state != ESTABLISHED && peer.connections_established == 0 {
        return "never".to_owned();
    }
    duration(peer.peer_uptime_msec)
}

/// `show bgp neighbors`.
pub(crate) fn neighbors(reply: &BgpNeighbors) -> String {
    if reply.neighbors.is_empty() {
        return "No BGP neighbors are configured.\n".to_owned();
    }
    let all: Vec<String> = reply.neighbors.iter().map(|(address, it)| neighbor(*address, it)).collect();
    all.join("\n")
}

fn neighbor(address: IpAddr, it: &BgpNeighbor) -> String {
    let link = if it.peer.remote_as == it.local_as { "internal" } else { "external" };
    let mut lines = vec![format!(
        "BGP neighbor is {address} port {}, remote AS {}, local AS {}, {link} link",
        it.port, it.peer.remote_as, it.local_as
    )];
    lines.extend(it.peer.desc.as_ref().map(|desc| format!("  Description: {desc}")));
    let known = |ip: Option<String>| if let Some(ip) = ip { ip } else { "not known".to_owned() };
    lines.push(format!(
        "  Remote router ID {}, local address {}",
        known(it.remote_router_id.map(|id| id.to_string())),
        known(it.local_address.map(|ip| ip.to_string()))
    ));
    lines.extend(it.dynamic.map(|prefix| format!("  Came from {prefix}, and is forgotten with its session")));
    lines.push(state_line(&it.peer));
    lines.extend(it.prefix_limit.as_ref().map(|limit| format!("  Prefix limit: {limit}")));
    lines.push(format!(
        "  Hold time {} seconds, keepalive interval {} seconds",
        it.hold_time_msec / 1000,
        it.keepalive_interval_msec / 1000
    ));
    let families = if it.families.is_empty() { "none".to_owned() } else { list(&it.families) };
    lines.push(format!("  Address families in force: {families}"));
    let default = it.default_encapsulation;
    lines.extend(default.map(|encap| format!("  Routes that name no encapsulation use {encap}")));
    lines.push(format!("  Prefixes: {} held from it, {} advertised to it", it.peer.pfx_rcd, it.peer.pfx_snt));
    for (title, capabilities) in
        [("advertised", &it.capabilities_advertised), ("received", &it.capabilities_received)]
    {
        if capabilities.is_empty() {
            lines.push(format!("  Capabilities {title}: none"));
        } else {
            lines.push(format!("  Capabilities {title}:"));
            lines.extend(capabilities.iter().map(|capability| format!("    {capability}")));
        }
    }
    lines.extend(it.graceful_restart.iter().flat_map(restart));
    lines.push("  Message statistics:".to_owned());
    lines.extend(messages(&it.sent, &it.received).lines().map(|line| format!("    {line}")));
    lines.extend(updates(&it.updates));
    lines.push(format!(
        "  Connections established {}; dropped {}",
        it.peer.connections_established, it.peer.connections_dropped
    ));
    lines.extend(it.last_error.as_ref().map(|error| format!("  Last error: {error}")));
    lines.extend(it.last_error_bytes.as_ref().map(|bytes| format!("    caused by octets {bytes}")));
    lines.join("\n") + "\n"
}

/// Only what happened: an UPDATE that no VRF imports is no fault, but one wonders.
fn updates(counts: &BgpUpdateCounts) -> Vec<String> {
    let mut lines = vec![format!(
        "  Route target memberships: {} held from it, {} advertised to it",
        counts.memberships_received, counts.memberships_advertised
    )];
    let why = counts.last_malformed.as_ref().map(|why| format!(", the last: {why}")).unwrap_or_default();
    for (number, what) in [
        (counts.malformed, format!("malformed, their routes treated as withdrawn{why}")),
        (counts.attributes_discarded, "attributes discarded".to_owned()),
        (counts.looped, "had been here before".to_owned()),
        (counts.not_imported, "that no VRF imports".to_owned()),
    ] {
        if number > 0 {
            lines.push(format!("  Updates: {number} {what}"));
        }
    }
    lines
}

fn state_line(peer: &BgpPeer) -> String {
    let time = duration(peer.peer_uptime_msec);
    if peer.state == ESTABLISHED {
        format!("  BGP state {}, up for {time}", peer.state)
    } else {
        format!("  BGP state {} for {time}", peer.state)
    }
}

fn messages(sent: &BgpMessageCounts, received: &BgpMessageCounts) -> String {
    let mut table = Table::new(["Type", ">Sent", ">Received"]);
    for (name, sent, received) in [
        ("Open", sent.opens, received.opens),
        ("Update", sent.updates, received.updates),
        ("Keepalive", sent.keepalives, received.keepalives),
        ("Notification", sent.notifications, received.notifications),
        ("Route refresh", sent.route_refreshes, received.route_refreshes),
        ("Octets", sent.bytes, received.bytes),
    ] {
        table.row([name.to_owned(), sent.to_string(), received.to_string()]);
    }
    table.render()
}

/// `clear bgp`.
pub(crate) fn cleared(reply: &BgpClear) -> String {
    let done = match reply.kind {
        BgpClearKind::Hard => "the session begins anew",
        BgpClearKind::SoftIn => "asked for its routes once more",
        BgpClearKind::SoftOut => "is told our routes once more",
    };
    format!("{}: {done}\n", reply.address)
}

/// What both ends offered, and what is kept without a session.
fn restart(it: &BgpRestart) -> Vec<String> {
    let end = |who: &str, end: Option<&BgpRestartEnd>| {
        let Some(end) = end else { return format!("  Graceful restart {who}: not offered") };
        let flag = |is_set: bool, text: &str| if is_set { format!(", {text}") } else { String::new() };
        let long = end.long_lived.iter().map(|(family, msec)| format!("{family} {} s", msec / 1000));
        let long =
            if end.long_lived.is_empty() { String::new() } else { format!(", long-lived {}", list(long)) };
        let kept =
            if end.forwarding_kept.is_empty() { "none".to_owned() } else { list(&end.forwarding_kept) };
        format!(
            "  Graceful restart {who}: {} for {} s, forwarding kept {kept}{long}{}{}",
            list(&end.families),
            end.restart_time_msec / 1000,
            flag(end.survives_notifications, "survives NOTIFICATION"),
            flag(end.restarting, "has just restarted")
        )
    };
    let mut lines = vec![end("advertised", it.local.as_ref()), end("received", it.remote.as_ref())];
    let kept = it.routes_kept_for_msec;
    lines.extend(
        kept.map(|msec| format!("  Its routes are kept for {} s more without a session", msec / 1000)),
    );
    lines
}

/// `show bgp rtc`.
pub(crate) fn rtc(reply: &BgpRtc) -> String {
    if reply.memberships.is_empty() {
        return "Nobody has asked for routes by route target.\n".to_owned();
    }
    let mut table = Table::new(["Membership", "Imported Here", "Asked For By", "Asked From"]);
    for (membership, it) in &reply.memberships {
        let local = if it.local { "yes" } else { "no" };
        table.row([membership.clone(), local.to_owned(), list(&it.received_from), list(&it.advertised_to)]);
    }
    table.render()
}

/// `show bgp routes`.
pub(crate) fn routes(reply: &BgpRoutes) -> String {
    if reply.routes.is_empty() {
        return "There are no such routes.\n".to_owned();
    }
    let mut table = Table::new([
        "  ",
        "Network",
        "Next Hop",
        ">Label",
        ">LocPrf",
        ">MED",
        "Path",
        "From",
        ">Age",
        "Encapsulations",
        "Route Targets",
        "Imported By",
    ]);
    for (network, paths) in in_order::<VpnPrefix, _>(&reply.routes) {
        for path in paths {
            table.row(path_row(network, path));
        }
    }
    let mut text =
        "Status codes: * valid, > best, S stale; origin codes: i IGP, e EGP, ? incomplete\n\n".to_owned();
    let _ = write!(
        text,
        "{}\nDisplayed {} routes and {} total paths\n",
        table.render(),
        reply.total_prefix_counter,
        reply.total_path_counter
    );
    text
}

fn path_row(network: &str, path: &BgpPath) -> [String; 12] {
    let stale = if path.stale { "S" } else { "" };
    let best = if path.bestpath { ">" } else { "" };
    let origin = match path.origin.as_str() {
        "IGP" => "i",
        "EGP" => "e",
        _ => "?",
    };
    [
        format!("{stale}*{best}"),
        network.to_owned(),
        path.nexthop.to_string(),
        maybe(path.remote_label),
        maybe(path.loc_prf),
        maybe(path.med),
        format!("{} {origin}", path.aspath).trim_start().to_owned(),
        path.peer.clone(),
        path.age_msec.map(duration).unwrap_or_default(),
        list(&path.encapsulations),
        list(&path.route_targets),
        list(&path.imported_by),
    ]
}

#[cfg(test)]
mod tests {
    use vrouter_types::{Asn, Encap, Label};

    use super::*;

    fn peer(state: &str) -> BgpPeer {
        BgpPeer {
            remote_as: Asn(4_200_000_000),
            msg_rcvd: 12,
            msg_sent: 10,
            peer_uptime_msec: 301_000,
            peer_uptime_established_epoch: None,
            pfx_rcd: 4,
            pfx_snt: 2,
            state: state.into(),
            connections_established: 0,
            connections_dropped: 0,
            desc: None,
        }
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn summary_reads_as_frr_users_expect() {
        let mut established = peer("Established");
        established.connections_established = 1;
        established.desc = Some("edge 1".into());
        let reply = BgpSummary {
            router_id: "192.0.2.11".parse().unwrap(),
            asn: Asn(64512),
            peers: [(ip("192.0.2.1"), established), (ip("2001:db8::1"), peer("Active"))].into(),
            total_peers: 2,
            rib_count: 6,
        };
        let expected = "\
BGP router identifier 192.0.2.11, local AS number 64512
RIB entries 6

Neighbor     V          AS  MsgRcvd  MsgSent   Up/Down  State/PfxRcd  PfxSnt  Desc
192.0.2.1    4  4200000000       12       10  00:05:01             4       2  edge 1
2001:db8::1  4  4200000000       12       10     never        Active       2  -

Total number of neighbors 2
";
        assert_eq!(summary(&reply), expected);
        let none = BgpSummary { peers: [].into(), total_peers: 0, ..reply };
        assert!(summary(&none).ends_with("\nNo BGP neighbors are configured.\n"));
    }

    #[test]
    fn neighbor_tells_all() {
        let mut it = BgpNeighbor {
            peer: peer("Established"),
            local_as: Asn(64512),
            port: 179,
            remote_router_id: Some("192.0.2.1".parse().unwrap()),
            local_address: Some(ip("192.0.2.11")),
            hold_time_msec: 90_000,
            keepalive_interval_msec: 30_000,
            capabilities_advertised: vec!["multiprotocol vpnv4".into(), "route refresh".into()],
            capabilities_received: vec![],
            families: vec!["vpnv4".into()],
            default_encapsulation: Some(Encap::MplsOverGre),
            dynamic: None,
            graceful_restart: Some(BgpRestart {
                local: Some(BgpRestartEnd {
                    restarting: false,
                    survives_notifications: true,
                    restart_time_msec: 120_000,
                    families: vec!["vpnv4".into()],
                    forwarding_kept: vec!["vpnv4".into()],
                    long_lived: [("vpnv4".to_owned(), 86_400_000)].into(),
                }),
                remote: None,
                routes_kept_for_msec: Some(90_000),
            }),
            prefix_limit: None,
            updates: BgpUpdateCounts {
                malformed: 1,
                last_malformed: Some("ORIGIN 7".into()),
                memberships_received: 2,
                ..Default::default()
            },
            received: BgpMessageCounts {
                opens: 1,
                updates: 7,
                keepalives: 4,
                bytes: 4096,
                ..Default::default()
            },
            sent: BgpMessageCounts { opens: 1, updates: 2, keepalives: 7, bytes: 512, ..Default::default() },
            last_error: Some("received NOTIFICATION cease/administrative reset".into()),
            last_error_bytes: Some("0604".into()),
        };
        it.peer.desc = Some("edge 1".into());
        let expected = "\
BGP neighbor is 192.0.2.1 port 179, remote AS 4200000000, local AS 64512, external link
  Description: edge 1
  Remote router ID 192.0.2.1, local address 192.0.2.11
  BGP state Established, up for 00:05:01
  Hold time 90 seconds, keepalive interval 30 seconds
  Address families in force: vpnv4
  Routes that name no encapsulation use mpls-over-gre
  Prefixes: 4 held from it, 2 advertised to it
  Capabilities advertised:
    multiprotocol vpnv4
    route refresh
  Capabilities received: none
  Graceful restart advertised: vpnv4 for 120 s, forwarding kept vpnv4, long-lived vpnv4 86400 s, survives NOTIFICATION
  Graceful restart received: not offered
  Its routes are kept for 90 s more without a session
  Message statistics:
    Type           Sent  Received
    Open              1         1
    Update            2         7
    Keepalive         7         4
    Notification      0         0
    Route refresh     0         0
    Octets          512      4096
  Route target memberships: 2 held from it, 0 advertised to it
  Updates: 1 malformed, their routes treated as withdrawn, the last: ORIGIN 7
  Connections established 0; dropped 0
  Last error: received NOTIFICATION cease/administrative reset
    caused by octets 0604
";
        assert_eq!(neighbors(&BgpNeighbors { neighbors: [(ip("192.0.2.1"), it)].into() }), expected);
        assert_eq!(neighbors(&BgpNeighbors { neighbors: [].into() }), "No BGP neighbors are configured.\n");
    }

    #[test]
    fn rtc_says_who_asks_whom() {
        let it = agent_api::RtcMembership {
            local: true,
            received_from: vec![ip("192.0.2.1"), ip("192.0.2.2")],
            advertised_to: vec![],
        };
        let reply = BgpRtc { memberships: [("64512:target:64512:100".to_owned(), it)].into() };
        let expected = "\
Membership              Imported Here  Asked For By          Asked From
64512:target:64512:100  yes            192.0.2.1, 192.0.2.2  -
";
        assert_eq!(rtc(&reply), expected);
        assert!(rtc(&BgpRtc { memberships: [].into() }).starts_with("Nobody"));
    }

    #[test]
    fn routes_print_as_rd_and_prefix() {
        let best = BgpPath {
            route: None,
            bestpath: true,
            stale: false,
            peer: "192.0.2.1".into(),
            nexthop: ip("192.0.2.7"),
            remote_label: Some(Label::new(17).unwrap()),
            loc_prf: Some(100),
            med: None,
            aspath: String::new(),
            origin: "IGP".into(),
            route_targets: vec!["target:64512:100".parse().unwrap()],
            encapsulations: vec![Encap::MplsOverUdp],
            originator_id: None,
            imported_by: vec!["smart".into()],
            age_msec: Some(301_000),
        };
        let stale = BgpPath {
            bestpath: false,
            stale: true,
            aspath: "65001 65002".into(),
            origin: "incomplete".into(),
            med: Some(5),
            encapsulations: vec![],
            ..best.clone()
        };
        let reply = BgpRoutes {
            routes: [("64512:1:10.30.0.5/32".to_owned(), vec![best, stale])].into(),
            total_prefix_counter: 1,
            total_path_counter: 2,
        };
        let expected = "\
Status codes: * valid, > best, S stale; origin codes: i IGP, e EGP, ? incomplete

    Network               Next Hop   Label  LocPrf  MED  Path           From            Age  Encapsulations  Route Targets     Imported By
*>  64512:1:10.30.0.5/32  192.0.2.7     17     100    -  i              192.0.2.1  00:05:01  mpls-over-udp   target:64512:100  smart
S*  64512:1:10.30.0.5/32  192.0.2.7     17     100    5  65001 65002 ?  192.0.2.1  00:05:01  -               target:64512:100  smart

Displayed 1 routes and 2 total paths
";
        assert_eq!(routes(&reply), expected);
        let empty = BgpRoutes { routes: [].into(), total_prefix_counter: 0, total_path_counter: 0 };
        assert_eq!(routes(&empty), "There are no such routes.\n");
    }
}
